//! Models with all extents fixed, as training graphs want them.

use crate::error::{Error, Result};
use crate::flat::flatten;
use crate::onnx::Model;
use crate::onnx::proto::{
    ModelProto, NodeProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto,
    attribute_proto::AttributeType,
    tensor_proto::DataType,
    tensor_shape_proto::{Dimension, dimension},
    type_proto,
};
use crate::onnx::{tensor, visit};

/// A flat copy of the model in which the inputs have these extents and `Constant` nodes are initializers. With `double` every
/// `float32` becomes a `float64`, which is for tests: few runtimes have all operators for it.
///
/// # Errors
/// [`Error::Train`] for a model with subgraphs, and for float types other than `float32`.
pub fn fix(model: &Model, inputs: &[(String, Vec<usize>)], double: bool) -> Result<Model> {
    let flat = flatten(model)?;
    let fail = |message: String| Error::Train { path: model.path.clone(), message };
    let mut proto: ModelProto = flat.proto.clone();
    let graph = proto.graph.as_mut().ok_or_else(|| fail("the model has no graph".into()))?;
    let bodies = |n: &NodeProto| n.attribute.iter().any(|a| a.g.is_some() || !a.graphs.is_empty());
    if let Some(n) = graph.node.iter().find(|n| bodies(n)) {
        let message = format!("{} node {:?} has subgraphs, and those cannot be trained", n.op_type(), n.name());
        return Err(fail(message));
    }
    for input in &mut graph.input {
        let Some((_, dims)) = inputs.iter().find(|(name, _)| name == input.name()) else { continue };
        let elem = elem_type(input).unwrap_or(DataType::Float as i32);
        *input = value_info(input.name(), elem, Some(dims));
    }
    graph.value_info.clear();
    // What the file says of its outputs may name open extents.
    for output in &mut graph.output {
        *output = ValueInfoProto { name: output.name.clone(), ..ValueInfoProto::default() };
    }
    let mut kept = Vec::with_capacity(graph.node.len());
    for node in std::mem::take(&mut graph.node) {
        match constant(&node) {
            Some(t) => graph.initializer.push(t),
            None => kept.push(node),
        }
    }
    graph.node = kept;
    let other = graph.initializer.iter().find(|t| {
        tensor::is_float(t.data_type())
            && !matches!(DataType::try_from(t.data_type()), Ok(DataType::Float | DataType::Double))
    });
    if let Some(t) = other {
        let kind = tensor::type_name(t.data_type());
        return Err(fail(format!("initializer {:?} is of type {kind}; only float32 models can be trained", t.name())));
    }
    if double {
        widen(&mut proto)?;
    }
    Ok(flat.derive(proto).scoped(None))
}

/// The tensor of a `Constant` node, under the name of its output.
fn constant(node: &NodeProto) -> Option<TensorProto> {
    let (true, [name], [a]) = (node.op_type() == "Constant", node.output.as_slice(), node.attribute.as_slice()) else {
        return None;
    };
    let float = |dims: &[usize], v: &[f32]| tensor::from_f32(name, dims, v);
    match a.name() {
        "value" => a.t.clone().map(|t| TensorProto { name: Some(name.clone()), ..t }),
        "value_float" => Some(float(&[], &[a.f?])),
        "value_floats" => Some(float(&[a.floats.len()], &a.floats)),
        "value_int" => Some(tensor::from_i64(name, &[], &[a.i?])),
        "value_ints" => Some(tensor::from_i64(name, &[a.ints.len()], &a.ints)),
        _ => None,
    }
}

fn elem_type(v: &ValueInfoProto) -> Option<i32> {
    match v.r#type.as_ref()?.value.as_ref()? {
        type_proto::Value::TensorType(t) => t.elem_type,
        _ => None,
    }
}

/// The declaration of a tensor; without extents the runtime tells them.
pub fn value_info(name: &str, elem: i32, dims: Option<&[usize]>) -> ValueInfoProto {
    let dim = |&d: &usize| Dimension { value: Some(dimension::Value::DimValue(d as i64)), ..Dimension::default() };
    let shape = dims.map(|dims| TensorShapeProto { dim: dims.iter().map(dim).collect() });
    let value = Some(type_proto::Value::TensorType(type_proto::Tensor { elem_type: Some(elem), shape }));
    let r#type = Some(TypeProto { value, ..TypeProto::default() });
    ValueInfoProto { name: Some(name.into()), r#type, ..ValueInfoProto::default() }
}

/// Every `float32` as `float64`.
fn widen(proto: &mut ModelProto) -> Result<()> {
    const FLOAT: i32 = DataType::Float as i32;
    const DOUBLE: i32 = DataType::Double as i32;
    visit::tensors_mut(proto, &mut |t| {
        if t.data_type() == FLOAT {
            let like = TensorProto { data_type: Some(DOUBLE), name: t.name.clone(), ..TensorProto::default() };
            *t = tensor::from_f64_like(&like, &tensor::dims(t)?, &tensor::to_f64(t)?)?;
        }
        Ok(())
    })?;
    let Some(graph) = &mut proto.graph else { return Ok(()) };
    for v in &mut graph.input {
        if elem_type(v) == Some(FLOAT)
            && let Some(type_proto::Value::TensorType(t)) = v.r#type.as_mut().and_then(|t| t.value.as_mut())
        {
            t.elem_type = Some(DOUBLE);
        }
    }
    for a in graph.node.iter_mut().flat_map(|n| &mut n.attribute) {
        let is_type = a.r#type == Some(AttributeType::Int as i32) && matches!(a.name(), "to" | "dtype");
        if is_type && a.i == Some(i64::from(FLOAT)) {
            a.i = Some(i64::from(DOUBLE));
        }
    }
    Ok(())
}
