//! A model's gradient as a model: what the rules are tested with.

use super::differentiate::{backward, forward};
use super::fixed::{fix, value_info};
use super::grad::BatchNorms;
use super::tape::Tape;
use crate::canon;
use crate::error::{Error, Result};
use crate::graph::{Graph, Origin, ValueId};
use crate::onnx::Model;
use crate::onnx::proto::{GraphProto, ModelProto, ValueInfoProto, tensor_proto::DataType};
use crate::rewrite::Names;
use std::collections::HashMap;

/// Name of the input that holds the factors `r` of an output.
pub fn seed_name(output: &str) -> String {
    format!("train/seed/{output}")
}

/// Name of the output that holds the gradient with respect to a tensor.
pub fn gradient_name(tensor: &str) -> String {
    format!("train/gradient/{tensor}")
}

/// A model that computes the gradient of `Σ r · y` over all outputs `y` of `model`, for factors `r` that are additional inputs
/// (see [`seed_name`]), with respect to the tensors `wrt`: inputs, or initializers, which become inputs too. Its outputs are
/// those of `model`, and one for each of `wrt` (see [`gradient_name`]). `inputs` are the extents of the model's inputs.
///
/// # Errors
/// [`Error::Train`] with the node that cannot be differentiated, and for a tensor in `wrt` that the outputs do not depend on.
pub fn vjp(
    model: &Model,
    inputs: &[(String, Vec<usize>)],
    wrt: &[String],
    batch_norms: BatchNorms,
    double: bool,
) -> Result<Model> {
    let model = fix(model, inputs, double)?;
    let elem = if double { DataType::Double } else { DataType::Float };
    let graph = Graph::new(&model)?;
    let a = canon::analyse(&graph);
    let fail = |message: String| Error::Train { path: model.path.clone(), message };
    let mut t = Tape::new(Names::new(&a), model.opset(), elem);
    let mut live = HashMap::new();
    let mut declared: Vec<ValueInfoProto> = Vec::new();
    let shape = |v: ValueId| a.lanes[0].shapes[v.0 as usize].clone();
    for name in wrt {
        let v = graph.find(name).ok_or_else(|| fail(format!("there is no tensor {name:?}")))?;
        let dims = shape(v).ok_or_else(|| fail(format!("the shape of {name:?} is not known")))?;
        if matches!(graph.value(v).origin, Origin::Initializer(_)) {
            declared.push(value_info(name, elem as i32, Some(&dims)));
        }
        live.insert(v, t.existing(name, &dims));
    }
    let f = forward(&mut t, &a, &live, batch_norms)?;
    let mut seeds = Vec::new();
    for output in &graph.proto.output {
        let Some(v) = graph.find(output.name()) else { continue };
        let dims = shape(v).ok_or_else(|| fail(format!("the shape of output {:?} is not known", output.name())))?;
        let name = seed_name(output.name());
        declared.push(value_info(&name, elem as i32, Some(&dims)));
        seeds.push((v, t.existing(&name, &dims)));
    }
    let gradients = backward(&mut t, &a, &f, &live, &seeds)?;
    let mut outputs = graph.proto.output.clone();
    for name in wrt {
        let g = graph.find(name).and_then(|v| gradients.get(&v));
        let g = g.ok_or_else(|| fail(format!("no output depends on {name:?}")))?;
        let name = gradient_name(name);
        t.named(*g, &name);
        outputs.push(ValueInfoProto { name: Some(name), ..ValueInfoProto::default() });
    }
    let (node, constants) = t.finish();
    let kept = graph.proto.initializer.iter().filter(|i| !wrt.iter().any(|w| w == i.name()));
    let initializer = kept.cloned().chain(constants).collect();
    let inputs = graph.proto.input.iter().filter(|i| !declared.iter().any(|d| d.name() == i.name()));
    let input = inputs.cloned().chain(declared.iter().cloned()).collect();
    let made = GraphProto { node, initializer, input, output: outputs, ..graph.proto.clone() };
    let proto = ModelProto { graph: Some(made), ..model.proto.clone() };
    Ok(Model::from_proto(proto, model.path.clone()))
}
