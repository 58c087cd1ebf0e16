//! `--fold-weights`: weights that the model computes from its own constants are computed once and kept as constants.
//!
//! Weight standardisation takes a statistic over a filter's input channels, so none of them could leave. The embedded
//! runtime computes the filters as they are; from then on they are cut like any others.

use super::Traced;
use crate::error::{Error, Result};
use crate::graph::ValueId;
use crate::onnx::proto::{GraphProto, ModelProto, TensorProto, ValueInfoProto};
use crate::onnx::{Model, tensor};
use crate::ops::computed::{behind, computed_weights, single_steps};
use crate::rewrite::Edit;
use crate::runtime;
use std::collections::BTreeSet;

/// How many weights of the model are computed from constants.
pub fn count(t: &Traced) -> usize {
    computed_weights(&t.analysis, &t.trace.tensors.derived).len()
}

/// The model with its computed weights as constants; `None` when it has none.
///
/// # Errors
/// [`Error::Usage`] without an embedded runtime or when it cannot compute them.
pub fn fold_weights(t: &Traced) -> Result<Option<Model>> {
    let weights = computed_weights(&t.analysis, &t.trace.tensors.derived);
    if weights.is_empty() {
        return Ok(None);
    }
    let fail = |why: String| Error::Usage(format!("--fold-weights: {why}; leave the option out to keep them computed"));
    let rt = runtime::embedded().ok_or_else(|| fail("this build has no embedded runtime".into()))?;
    let part = computation(t, &weights).ok_or_else(|| fail("the weights' computation is not understood".into()))?;
    let outputs = rt.load(&part).and_then(|mut s| s.run(&[])).map_err(|e| fail(e.to_string()))?;
    let g = t.analysis.graph;
    let mut edit = Edit::new(&t.analysis, &t.trace);
    for v in weights {
        let name = &g.value(v).name;
        let (_, array) = outputs
            .iter()
            .find(|(n, _)| n == name)
            .ok_or_else(|| fail(format!("the weight {name:?} was not computed")))?;
        let like = like(t, v);
        let values = tensor::from_f64_like(&like, &array.dims, &array.to_f64())?;
        for &(node, slot) in &g.value(v).readers {
            edit.add_input(node, slot, values.clone(), &format!("{name}.folded"));
        }
    }
    edit.finish().map(Some)
}

/// A tensor of the weight's element type: that of the first floating-point constant behind it.
fn like(t: &Traced, v: ValueId) -> TensorProto {
    let g = t.analysis.graph;
    let nodes = behind(&t.analysis, &BTreeSet::from([v]));
    let inputs = nodes.iter().flat_map(|n| g.nodes[n.0 as usize].inputs.iter().flatten());
    let constants = inputs.filter_map(|&i| g.constant(i)).map(TensorProto::data_type);
    let float = constants.into_iter().find(|&d| tensor::is_float(d)).unwrap_or(1);
    TensorProto { data_type: Some(float), ..TensorProto::default() }
}

/// A model without inputs that computes these values.
fn computation(t: &Traced, values: &BTreeSet<ValueId>) -> Option<Model> {
    let g = t.analysis.graph;
    let nodes = behind(&t.analysis, values);
    let mut graph = GraphProto { name: Some("weights".into()), ..GraphProto::default() };
    let like = values.first().map(|&v| like(t, v)).unwrap_or_default();
    let mut constants = BTreeSet::new();
    for &n in &nodes {
        let inputs = g.nodes[n.0 as usize].inputs.iter().flatten();
        constants.extend(inputs.filter(|&&v| matches!(g.value(v).origin, crate::graph::Origin::Initializer(_))));
        graph.node.extend(single_steps(&t.analysis, n, &like, &mut graph.initializer)?);
    }
    for v in constants {
        graph.initializer.push(g.constant(v)?.clone());
    }
    graph.output = values
        .iter()
        .map(|&v| ValueInfoProto { name: Some(g.value(v).name.clone()), ..ValueInfoProto::default() })
        .collect();
    let proto = ModelProto {
        ir_version: g.model.proto.ir_version,
        opset_import: g.model.proto.opset_import.clone(),
        graph: Some(graph),
        ..ModelProto::default()
    };
    Some(g.model.derive(proto))
}
