//! Models in other float types, for comparison in `float32`.
//!
//! Half precision would drown small mistakes in its own rounding, and not every runtime has every operator in every type.
//! Twin and pruned model are converted alike, and widening a cut weight is cutting the widened one.

use crate::error::Result;
use crate::onnx::proto::tensor_proto::DataType;
use crate::onnx::proto::{GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, type_proto};
use crate::onnx::{Model, tensor, visit};

const FLOAT: i32 = DataType::Float as i32;

fn other_float(elem: i32) -> bool {
    tensor::is_float(elem) && elem != FLOAT
}

/// Whether a model holds or declares float types other than `float32`.
pub fn has_other_floats(model: &Model) -> bool {
    let mut found = false;
    let walked = visit::tensors(&model.proto, &mut |t| {
        found |= other_float(t.data_type());
        Ok(())
    });
    let declared = model.proto.graph.iter().flat_map(|g| g.input.iter().chain(&g.output));
    found || walked.is_err() || declared.filter_map(|v| v.r#type.as_ref()).any(|t| elem(t).is_some_and(other_float))
}

fn elem(ty: &TypeProto) -> Option<i32> {
    match &ty.value {
        Some(type_proto::Value::TensorType(t)) => Some(t.elem_type()),
        _ => None,
    }
}

/// The model with every float type replaced by `float32`.
///
/// # Errors
/// When a tensor cannot be read.
pub fn widen(model: &Model) -> Result<Model> {
    let mut proto: ModelProto = model.proto.clone();
    visit::tensors_mut(&mut proto, &mut |t| {
        if other_float(t.data_type()) {
            let like = TensorProto { data_type: Some(FLOAT), name: t.name.clone(), ..TensorProto::default() };
            *t = tensor::from_f64_like(&like, &tensor::dims(t)?, &tensor::to_f64(t)?)?;
        }
        Ok(())
    })?;
    if let Some(g) = &mut proto.graph {
        widen_graph(g);
    }
    Ok(model.derive(proto))
}

/// Declared types, in bodies too.
fn widen_graph(g: &mut GraphProto) {
    g.value_info.clear();
    for v in g.input.iter_mut().chain(&mut g.output) {
        if let Some(type_proto::Value::TensorType(t)) = v.r#type.as_mut().and_then(|t| t.value.as_mut())
            && other_float(t.elem_type())
        {
            t.elem_type = Some(FLOAT);
        }
    }
    g.node.iter_mut().for_each(widen_node);
}

/// Attributes that name an element type.
fn widen_node(node: &mut NodeProto) {
    for a in &mut node.attribute {
        a.g.iter_mut().chain(&mut a.graphs).for_each(widen_graph);
        let names_a_type = matches!(a.name(), "to" | "dtype" | "output_dtype");
        if names_a_type && a.i.is_some_and(|v| i32::try_from(v).is_ok_and(other_float)) {
            a.i = Some(i64::from(FLOAT));
        }
    }
}
