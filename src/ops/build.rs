//! Nodes that a rewrite may insert.

use crate::onnx::proto::{AttributeProto, NodeProto, attribute_proto::AttributeType};

/// A node without attributes.
pub fn node(op: &str, input: Vec<String>, output: String) -> NodeProto {
    NodeProto { op_type: Some(op.into()), input, output: vec![output], ..NodeProto::default() }
}

/// `output = a · b`.
pub fn mul(a: String, b: String, output: String) -> NodeProto {
    node("Mul", vec![a, b], output)
}

/// `output = a + b`.
pub fn add(a: String, b: String, output: String) -> NodeProto {
    node("Add", vec![a, b], output)
}

/// `output = data[…, indices, …]` along `axis`.
pub fn gather(data: String, indices: String, output: String, axis: usize) -> NodeProto {
    let axis = AttributeProto {
        name: Some("axis".into()),
        i: Some(axis as i64),
        r#type: Some(AttributeType::Int as i32),
        ..AttributeProto::default()
    };
    NodeProto { attribute: vec![axis], ..node("Gather", vec![data, indices], output) }
}

/// Mean over axes, kept as size 1; the axes in the form of the operator set.
pub fn reduce_mean(x: String, axes: &[i64], axes_input: Option<String>, output: String) -> NodeProto {
    match axes_input {
        Some(name) => node("ReduceMean", vec![x, name], output),
        None => {
            let axes = AttributeProto {
                name: Some("axes".into()),
                ints: axes.to_vec(),
                r#type: Some(AttributeType::Ints as i32),
                ..AttributeProto::default()
            };
            NodeProto { attribute: vec![axes], ..node("ReduceMean", vec![x], output) }
        }
    }
}
