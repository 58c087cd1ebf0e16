//! Attributes of nodes.

use crate::onnx::proto::{AttributeProto, attribute_proto::AttributeType};

/// An integer attribute.
pub fn int(name: &str, value: i64) -> AttributeProto {
    let r#type = Some(AttributeType::Int as i32);
    AttributeProto { name: Some(name.into()), i: Some(value), r#type, ..AttributeProto::default() }
}

/// A list of integers as an attribute.
pub fn ints(name: &str, values: &[i64]) -> AttributeProto {
    let r#type = Some(AttributeType::Ints as i32);
    AttributeProto { name: Some(name.into()), ints: values.to_vec(), r#type, ..AttributeProto::default() }
}

/// A number as an attribute.
pub fn float(name: &str, value: f32) -> AttributeProto {
    let r#type = Some(AttributeType::Float as i32);
    AttributeProto { name: Some(name.into()), f: Some(value), r#type, ..AttributeProto::default() }
}
