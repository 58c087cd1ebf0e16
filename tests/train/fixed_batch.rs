//! Models that fix their batch, as exporters write them: trained in larger ones where that computes the same.

use super::build::run::{ok, refused};
use super::build::{info, ints, node};
use super::{load, net, place, values};
use onnx_prune::onnx::proto::{GraphProto, ModelProto, NodeProto};
use onnx_prune::onnx::tensor::{from_f32, from_i64};
use prost::Message;
use serde_json::Value;
use std::collections::BTreeMap;
use tempfile::TempDir;

const RUN: &str = "--data x.npy --batch 8 --epochs 2 --runtime tract --hold-back 0.25";

/// With nodes that make `a.q` of `a.r`, the second layer's input.
fn with(between: Vec<NodeProto>) -> ModelProto {
    let mut proto = net();
    let graph = proto.graph.as_mut().unwrap();
    graph.node.iter_mut().find(|n| n.name() == "b").unwrap().input[0] = "a.q".into();
    graph.node.splice(3..3, between);
    proto
}

/// One sample at a time, which the last node says too.
fn one_by_one(mut proto: ModelProto) -> ModelProto {
    let graph = proto.graph.as_mut().unwrap();
    graph.input = vec![info("x", &[1, 2, 5, 5])];
    graph.output = vec![info("y", &[1, 3])];
    graph.node.pop();
    graph.node.push(node("Reshape", "f", &["b.p", "shape"], &["y"]));
    graph.initializer.push(from_i64("shape", &[2], &[1, 3]));
    proto
}

fn put(dir: &TempDir, name: &str, proto: &ModelProto) {
    std::fs::write(dir.path().join(name), proto.encode_to_vec()).unwrap();
}

/// What learns.
fn trained(graph: &GraphProto) -> BTreeMap<String, Vec<f64>> {
    let mut all = values(graph);
    all.retain(|name, _| name.contains('.'));
    all
}

fn history(dir: &TempDir) -> (u64, u64, String) {
    let h: Value = serde_json::from_slice(&std::fs::read(dir.path().join("h.json")).unwrap()).unwrap();
    let n = |key: &str| h[key].as_u64().unwrap();
    (n("batch"), n("steps_per_epoch"), h["notes"].to_string())
}

/// The very weights that a model with a free batch gets, in the file that it was.
#[test]
fn a_fixed_batch_does_not_count_in_training() {
    let dir = place("residual.bn.onnx");
    put(&dir, "flat.onnx", &one_by_one(net()));
    // The same enlargement, once by factors, once by sizes that name the batch.
    let larger = |inputs: &[&str]| with(vec![node("Resize", "r2", inputs, &["a.q"])]);
    let mut by_factor = larger(&["a.r", "", "scales"]);
    by_factor.graph.as_mut().unwrap().initializer.push(from_f32("scales", &[4], &[1.0, 1.0, 2.0, 2.0]));
    put(&dir, "larger.onnx", &by_factor);
    let mut by_size = one_by_one(larger(&["a.r", "", "", "sizes"]));
    by_size.graph.as_mut().unwrap().initializer.push(from_i64("sizes", &[4], &[1, 4, 10, 10]));
    put(&dir, "larger.fixed.onnx", &by_size);
    let cases = [
        ("small.onnx", "flat.onnx", "teacher.onnx"),
        ("small.onnx", "flat.onnx", "flat.onnx"),
        ("larger.onnx", "larger.fixed.onnx", "teacher.onnx"),
    ];
    for (free, fixed, teacher) in cases {
        ok(&dir, &format!("train {free} --teacher {teacher} {RUN} -o free.out.onnx"));
        ok(&dir, &format!("train {fixed} --teacher {teacher} {RUN} -o out.onnx --report h.json"));
        let (wanted, found, before) = (load(&dir, "free.out.onnx"), load(&dir, "out.onnx"), load(&dir, fixed));
        assert_eq!(trained(&wanted), trained(&found), "{fixed}, {teacher}");
        assert_eq!((&found.node, &found.input, &found.output), (&before.node, &before.input, &before.output));
        let (batch, steps, notes) = history(&dir);
        assert_eq!((batch, steps), (8, 3), "{fixed}, {teacher}");
        assert!(notes.contains("the model fixes the batch to 1; it was trained in batches of 8"), "{notes}");
    }
}

/// Where samples see each other, one stays alone.
#[test]
fn a_batch_that_counts_stays() {
    let dir = place("residual.bn.onnx");
    let mean = ints(node("ReduceMean", "m", &["a.r"], &["a.m"]), "axes", &[0]);
    let sum = node("Add", "q", &["a.r", "a.m"], &["a.q"]);
    put(&dir, "fixed.onnx", &one_by_one(with(vec![mean, sum])));
    ok(&dir, &format!("train fixed.onnx --teacher fixed.onnx --loss mse=1 {RUN} -o out.onnx --report h.json"));
    let (batch, _, notes) = history(&dir);
    assert_eq!(batch, 1);
    assert!(notes.contains("so a batch of 8 cannot be had"), "{notes}");
    assert!(notes.contains("has other values"), "{notes}");
    // A teacher's own batch is nothing to fall back to.
    let args = format!("train small.onnx --teacher fixed.onnx --loss mse=1 {RUN} -o other.onnx");
    refused(&dir, &args, &["fixed.onnx", "so a batch of 8 cannot be had"]);
}
