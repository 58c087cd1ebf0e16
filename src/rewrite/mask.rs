//! The masked twin: the original model with zeros at the removed indices of every contracted weight axis.

use super::constants::{place, zeroed};
use super::edit::Editor;
use super::{Cut, finish};
use crate::canon::Analysis;
use crate::channels::{TensorId, Trace};
use crate::error::Result;
use crate::onnx::Model;
use crate::onnx::proto::{TensorProto, tensor_proto::DataType};
use crate::onnx::tensor;
use crate::ops::build;
use std::collections::BTreeMap;

/// The twin that the pruned model must equal. Shapes stay as they were.
///
/// Where the contracted operand is computed at run time (a weight behind `Transpose` or `DequantizeLinear`, the product
/// of two activations), it is multiplied with a mask.
///
/// # Errors
/// When a weight cannot be read.
pub fn mask(a: &Analysis, trace: &Trace, removed: &[Vec<usize>]) -> Result<Model> {
    let cut = Cut { a, trace, removed };
    let mut ed = Editor::new(a);
    let mut zeros: BTreeMap<TensorId, TensorProto> = BTreeMap::new();
    for c in &trace.contractions {
        if cut.on(c.axis).is_empty() {
            continue;
        }
        let info = trace.channels.axis(c.axis);
        let t = trace.channels.tensor(info.tensor);
        match t.source.and_then(|s| a.graph.constant(s)) {
            Some(proto) => {
                let base = zeros.get(&info.tensor).unwrap_or(proto);
                let new = zeroed(&cut, t, base, info.axis)?;
                zeros.insert(info.tensor, new);
            }
            None => mask_operand(&cut, &mut ed, c.node, c.slot, info.axis, t.dims.len(), info.len, cut.on(c.axis)),
        }
    }
    for (id, tensor) in zeros {
        place(&cut, &mut ed, trace.channels.tensor(id), tensor);
    }
    let nothing: Vec<Vec<usize>> = vec![Vec::new(); removed.len()];
    Ok(finish(&Cut { a, trace, removed: &nothing }, ed.finish(a)))
}

#[allow(clippy::too_many_arguments)]
fn mask_operand(
    cut: &Cut,
    ed: &mut Editor,
    node: crate::graph::NodeId,
    slot: usize,
    axis: usize,
    rank: usize,
    len: usize,
    gone: &[usize],
) {
    let g = cut.a.graph;
    let Some(operand) = g.input(node, slot) else { return };
    let mut dims = vec![1; rank];
    dims[axis] = len;
    let mut keep = vec![1.0; len];
    for &i in gone {
        keep[i] = 0.0;
    }
    // The mask has the type that the model's weights have.
    let like = TensorProto {
        data_type: Some(
            g.proto
                .initializer
                .iter()
                .map(|t| t.data_type())
                .find(|&t| tensor::is_float(t))
                .unwrap_or(DataType::Float as i32),
        ),
        ..TensorProto::default()
    };
    let Ok(mask) = tensor::from_f64_like(&like, &dims, &keep) else { return };
    let mask = ed.add(mask, &format!("{}.mask", g.value(operand).name));
    let masked = ed.names.fresh(&format!("{}.masked", g.value(operand).name));
    ed.insert_before(node, build::mul(g.value(operand).name.clone(), mask, masked.clone()));
    ed.set_input(node, slot, &masked);
}
