//! Training end to end: what one step does, what comes out of the command, and what it refuses.
#![cfg(feature = "tract")]

mod build;
#[path = "train/command.rs"]
mod command;
#[path = "train/files.rs"]
mod files;
#[path = "train/fixed_batch.rs"]
mod fixed_batch;
#[path = "train/update.rs"]
mod update;

use build::run::fixture;
use build::{info, ints, model, node, weight};
use onnx_prune::onnx::proto::{GraphProto, ModelProto};
use onnx_prune::onnx::tensor::{self, from_f32};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// Of all inputs of [`net`] in [`samples`].
const DIMS: [usize; 4] = [32, 2, 5, 5];

/// `x[N,2,5,5] → Conv a → BN → Relu → Conv b → GlobalAveragePool → Flatten → y[N,3]`. A bias is called as its node's name says.
fn net() -> ModelProto {
    let pads = |n| ints(n, "pads", &[1, 1, 1, 1]);
    let nodes = vec![
        pads(node("Conv", "a", &["x", "a.w", "a.bias"], &["a.y"])),
        node("BatchNormalization", "a.bn", &["a.y", "a.g", "a.beta", "a.mean", "a.var"], &["a.z"]),
        node("Relu", "r", &["a.z"], &["a.r"]),
        pads(node("Conv", "b", &["a.r", "b.w", "b.bias"], &["b.y"])),
        node("GlobalAveragePool", "p", &["b.y"], &["b.p"]),
        node("Flatten", "f", &["b.p"], &["y"]),
    ];
    let weights = vec![
        weight("a.w", &[4, 2, 3, 3]),
        weight("a.bias", &[4]),
        from_f32("a.g", &[4], &[0.6, 0.8, 1.1, 1.4]),
        weight("a.beta", &[4]),
        weight("a.mean", &[4]),
        from_f32("a.var", &[4], &[0.5, 0.7, 1.0, 1.2]),
        weight("b.w", &[3, 4, 3, 3]),
        weight("b.bias", &[3]),
    ];
    model(nodes, weights, vec![info("x", &[-1, 2, 5, 5])], vec![info("y", &[-1, 3])])
}

/// The same with other values.
fn other(mut proto: ModelProto) -> ModelProto {
    for t in &mut proto.graph.as_mut().unwrap().initializer {
        let values: Vec<f32> = tensor::to_f32(t).unwrap().iter().map(|v| 0.7 * v + 0.1).collect();
        *t = from_f32(t.name(), &tensor::dims(t).unwrap(), &values);
    }
    proto
}

/// 32 samples.
fn samples() -> Vec<f32> {
    (0..DIMS.iter().product()).map(|i: usize| ((i * 7919) % 1009) as f32 / 504.5 - 1.0).collect()
}

fn write_samples(path: &Path) {
    let mut file = b"\x93NUMPY\x01\0".to_vec();
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (32, 2, 5, 5), }\n";
    file.extend((header.len() as u16).to_le_bytes());
    file.extend(header.as_bytes());
    file.extend(samples().iter().flat_map(|v| v.to_le_bytes()));
    fs::write(path, file).unwrap();
}

/// `small.onnx`, a teacher of other values `teacher.onnx` and samples `x.npy`; `net.onnx` with labelled images.
fn place(net_from: &str) -> TempDir {
    use prost::Message;
    let dir = TempDir::new().unwrap();
    let put = |name: &str, proto: ModelProto| fs::write(dir.path().join(name), proto.encode_to_vec()).unwrap();
    put("small.onnx", net());
    put("teacher.onnx", other(net()));
    write_samples(&dir.path().join("x.npy"));
    fs::copy(fixture(net_from), dir.path().join("net.onnx")).unwrap();
    fs::copy(fixture("fashion_test.npz"), dir.path().join("images.npz")).unwrap();
    dir
}

fn load(dir: &TempDir, name: &str) -> GraphProto {
    onnx_prune::onnx::load(&dir.path().join(name)).unwrap().proto.graph.clone().unwrap()
}

fn values(graph: &GraphProto) -> BTreeMap<String, Vec<f64>> {
    graph.initializer.iter().map(|t| (t.name().to_owned(), tensor::to_f64(t).unwrap())).collect()
}
