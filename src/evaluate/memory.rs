//! How much memory a model takes.
//!
//! Measured is the resident set of the whole process: its peak while the model runs, less what it was before the model was
//! loaded. Before that, a trivial model has run, so that what the runtime sets up once is not counted. That is a fair figure
//! only in a process that has done little else, since memory that was used before is used again. Memory of a device other than
//! the processor is not seen.

use super::machine::{forget_peak, peak_resident, resident};
use crate::error::Result;
use crate::onnx::Model;
use crate::onnx::proto::{
    GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TypeProto, ValueInfoProto, tensor_proto::DataType,
    type_proto,
};
use crate::runtime::walk::Feed;
use crate::runtime::{Array, Data, Runtime};

/// Runs of the model; later ones take no more.
const RUNS: usize = 3;

/// Bytes by which the resident set grew; `None` where the system does not tell (outside Linux).
///
/// # Errors
/// When the model cannot be loaded or run.
pub fn growth(runtime: &dyn Runtime, model: &Model, feed: &Feed) -> Result<Option<u64>> {
    // What cannot be run shows with the model itself.
    let one = vec![("x".to_owned(), Array { dims: vec![1], data: Data::F32(vec![1.0]) })];
    let _ = runtime.load(&trivial()).and_then(|mut session| session.compute(&one));
    let before = resident();
    let mut session = runtime.load(model)?;
    // The file's bytes, which loading copies, are gone again.
    let from_now = forget_peak();
    for _ in 0..RUNS {
        session.compute(feed)?;
    }
    let after = if from_now { peak_resident() } else { resident() };
    Ok(before.zip(after).map(|(before, after)| after.saturating_sub(before)))
}

/// `y = Relu(x)`.
fn trivial() -> Model {
    let value = |name: &str| {
        let tensor = type_proto::Tensor { elem_type: Some(DataType::Float as i32), shape: None };
        let value = Some(type_proto::Value::TensorType(tensor));
        let r#type = Some(TypeProto { value, ..TypeProto::default() });
        ValueInfoProto { name: Some(name.to_owned()), r#type, ..ValueInfoProto::default() }
    };
    let node = NodeProto {
        op_type: Some("Relu".to_owned()),
        input: vec!["x".to_owned()],
        output: vec!["y".to_owned()],
        ..NodeProto::default()
    };
    let graph = GraphProto {
        name: Some("trivial".to_owned()),
        node: vec![node],
        input: vec![value("x")],
        output: vec![value("y")],
        ..GraphProto::default()
    };
    let set = OperatorSetIdProto { domain: None, version: Some(13) };
    let proto =
        ModelProto { ir_version: Some(7), opset_import: vec![set], graph: Some(graph), ..ModelProto::default() };
    Model::from_proto(proto, "trivial.onnx")
}
