//! Small models, made by hand through the protobuf messages.
#![allow(dead_code)] // Every test binary uses a part.

pub mod run;

use onnx_prune::onnx::Model;
use onnx_prune::onnx::proto::attribute_proto::AttributeType;
use onnx_prune::onnx::proto::tensor_shape_proto::{Dimension, dimension};
use onnx_prune::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto, type_proto,
};
use onnx_prune::onnx::tensor;

/// A float input or output; -1 is a dynamic dimension.
pub fn info(name: &str, dims: &[i64]) -> ValueInfoProto {
    let dim =
        dims.iter().map(|&d| Dimension { denotation: None, value: (d >= 0).then_some(dimension::Value::DimValue(d)) });
    let tensor = type_proto::Tensor { elem_type: Some(1), shape: Some(TensorShapeProto { dim: dim.collect() }) };
    ValueInfoProto {
        name: Some(name.into()),
        r#type: Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() }),
        ..Default::default()
    }
}

pub fn node(op: &str, name: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    NodeProto {
        op_type: Some(op.into()),
        name: Some(name.into()),
        input: inputs.iter().map(|s| (*s).to_owned()).collect(),
        output: outputs.iter().map(|s| (*s).to_owned()).collect(),
        ..Default::default()
    }
}

pub fn ints(mut node: NodeProto, name: &str, values: &[i64]) -> NodeProto {
    node.attribute.push(AttributeProto {
        name: Some(name.into()),
        r#type: Some(AttributeType::Ints.into()),
        ints: values.to_vec(),
        ..Default::default()
    });
    node
}

pub fn int(mut node: NodeProto, name: &str, value: i64) -> NodeProto {
    node.attribute.push(AttributeProto {
        name: Some(name.into()),
        r#type: Some(AttributeType::Int.into()),
        i: Some(value),
        ..Default::default()
    });
    node
}

/// Distinct, small values.
pub fn weight(name: &str, dims: &[usize]) -> TensorProto {
    let n: usize = dims.iter().product();
    let values: Vec<f32> = (0..n).map(|i| ((i * 37 + name.len()) % 101) as f32 / 101.0 - 0.45).collect();
    tensor::from_f32(name, dims, &values)
}

/// A model of opset 18.
pub fn model(
    nodes: Vec<NodeProto>,
    weights: Vec<TensorProto>,
    inputs: Vec<ValueInfoProto>,
    outputs: Vec<ValueInfoProto>,
) -> ModelProto {
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { version: Some(18), ..Default::default() }],
        graph: Some(GraphProto {
            name: Some("g".into()),
            node: nodes,
            initializer: weights,
            input: inputs,
            output: outputs,
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// `x[1,3,8,8] → Conv a (8 channels) → middle: a.y → m.y → Conv b (4 channels) → y`.
pub fn between(middle: Vec<NodeProto>, mut weights: Vec<TensorProto>) -> ModelProto {
    let mut nodes = vec![node("Conv", "a", &["x", "a.w"], &["a.y"])];
    nodes.extend(middle);
    nodes.push(node("Conv", "b", &["m.y", "b.w"], &["y"]));
    weights.extend([weight("a.w", &[8, 3, 1, 1]), weight("b.w", &[4, 8, 1, 1])]);
    model(nodes, weights, vec![info("x", &[1, 3, 8, 8])], vec![info("y", &[1, 4, 8, 8])])
}

/// With one Relu in between: everything but the output is prunable.
pub fn plain() -> ModelProto {
    between(vec![node("Relu", "r", &["a.y"], &["m.y"])], vec![])
}

pub fn in_memory(proto: ModelProto) -> Model {
    Model::from_proto(proto, "test.onnx")
}
