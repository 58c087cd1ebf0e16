//! Models with all extents fixed, as training graphs want them.

use crate::canon;
use crate::error::{Error, Result};
use crate::flat::flatten;
use crate::graph::{Graph, NodeId, Origin, ValueId, is_default_domain};
use crate::onnx::Model;
use crate::onnx::proto::{
    ModelProto, NodeProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto,
    attribute_proto::AttributeType,
    tensor_proto::DataType,
    tensor_shape_proto::{Dimension, dimension},
    type_proto,
};
use crate::onnx::{tensor, visit};
use crate::runtime::input_specs;
use std::collections::{HashMap, HashSet};

/// A flat copy of the model in which the inputs have these extents and `Constant` nodes are initializers. A batch other than the
/// one that the model fixes also goes where nodes name that one. With `double` every
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
    let batch = input_specs(model).iter().find_map(|s| {
        let (_, dims) = inputs.iter().find(|(name, _)| *name == s.name)?;
        Some(((*s.dims.first()?)?, *dims.first()?)).filter(|(own, asked)| own != asked)
    });
    let sizes = batch.map(|(old, new)| rebatched(&flat, old, new)).transpose()?.unwrap_or_default();
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
    for node in &mut graph.node {
        let Some(made) = node.output.first().filter(|o| !o.is_empty()) else { continue };
        let Some((slot, sizes)) = sizes.get(made) else { continue };
        let name = format!("{made}/batch");
        graph.initializer.push(tensor::from_i64(&name, &[sizes.len()], sizes));
        if let Some(input) = node.input.get_mut(*slot) {
            *input = name;
        }
    }
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

/// What takes the place of sizes that name the batch, by the node's first output: (slot, sizes). Exporters write it into `Reshape`,
/// `Expand`, the sizes of `Resize`, and constants that samples are joined with. It may stand elsewhere too: whether the model
/// computes the same is for [`widen`](super::widen::widen) to try.
fn rebatched(flat: &Model, old: usize, new: usize) -> Result<HashMap<String, (usize, Vec<i64>)>> {
    let graph = Graph::new(flat)?;
    let a = canon::analyse(&graph);
    let mut of_samples: HashSet<ValueId> = HashSet::new();
    let inputs = graph.values.iter().enumerate().filter(|(_, v)| matches!(v.origin, Origin::Input(_)));
    of_samples.extend(inputs.map(|(i, _)| ValueId(i as u32)));
    let mut joined: HashSet<ValueId> = HashSet::new();
    let mut all = HashMap::new();
    let mut put = |id: NodeId, slot: usize| {
        let sizes = a.cx(id, 0, &[]).ints(slot).filter(|s| s.first() == Some(&(old as i64)));
        if let (Some(mut sizes), Some(made)) = (sizes, graph.node(id).output.first()) {
            sizes.iter_mut().take(1).for_each(|first| *first = new as i64);
            all.insert(made.clone(), (slot, sizes));
        }
    };
    for &id in &graph.order {
        let Some(entry) = graph.nodes.get(id.0 as usize) else { continue };
        let (node, ins) = (graph.node(id), || entry.inputs.iter().flatten().copied());
        if ins().any(|v| of_samples.contains(&v)) {
            of_samples.extend(entry.outputs.iter().flatten());
        }
        let batched = |v: ValueId| {
            let shape = a.lanes.first().and_then(|l| l.shapes.get(v.0 as usize)).and_then(Option::as_ref);
            of_samples.contains(&v) && shape.and_then(|d| d.first()) == Some(&old)
        };
        if ins().any(batched) {
            joined.extend(ins());
        }
        let slot = match node.op_type() {
            _ if !is_default_domain(node.domain()) || !ins().next().is_some_and(batched) => continue,
            "Reshape" | "Expand" => 1,
            "Resize" => 3,
            _ => continue,
        };
        put(id, slot);
    }
    for v in joined {
        let Origin::Node(id, 0) = graph.value(v).origin else { continue };
        let node = graph.node(id);
        if is_default_domain(node.domain()) && node.op_type() == "ConstantOfShape" {
            put(id, 0);
        }
    }
    Ok(all)
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
