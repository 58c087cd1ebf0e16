//! Models that fix their batch, as exporters write them: trained in larger ones where that computes the same.

use super::build::run::{ok, refused};
use super::build::{info, int, node};
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
    // Constants that samples are joined with, and shapes that nodes put together.
    let halved = |proto: ModelProto| {
        let mut proto = proto;
        let one = |name: &str, n: i64| from_i64(name, &[1], &[n]);
        proto.graph.as_mut().unwrap().initializer.extend([one("from", 0), one("to", 4), one("axis", 1)]);
        proto
    };
    let slice = || node("Slice", "halve", &["a.j", "from", "to", "axis"], &["a.q"]);
    let join = || int(node("Concat", "join", &["a.r", "zeros"], &["a.j"]), "axis", 1);
    let itself = int(node("Concat", "join", &["a.r", "a.r"], &["a.j"]), "axis", 1);
    put(&dir, "joined.onnx", &halved(with(vec![itself, slice()])));
    let zeros = node("ConstantOfShape", "fill", &["size"], &["zeros"]);
    let mut filled = one_by_one(halved(with(vec![zeros, join(), slice()])));
    let size = int(node("Concat", "together", &["one", "rest"], &["size"]), "axis", 0);
    let graph = filled.graph.as_mut().unwrap();
    graph.node.insert(0, size);
    graph.initializer.extend([from_i64("one", &[1], &[1]), from_i64("rest", &[3], &[2, 5, 5])]);
    put(&dir, "joined.fixed.onnx", &filled);
    let cases = [
        ("joined.onnx", "joined.fixed.onnx", "teacher.onnx"),
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

/// Statistics that are made of the trained weights, with the way out.
#[test]
fn computed_statistics_are_refused() {
    let dir = place("residual.bn.onnx");
    let mut proto = net();
    let graph = proto.graph.as_mut().unwrap();
    graph.node.insert(0, int(node("ReduceMean", "m", &["a.w", "axes"], &["w.mean"]), "keepdims", 0));
    graph.initializer.push(from_i64("axes", &[3], &[1, 2, 3]));
    let norm = graph.node.iter_mut().find(|n| n.name() == "a.bn").unwrap();
    norm.input[3] = "w.mean".into();
    put(&dir, "computed.onnx", &proto);
    for how in ["batch", "frozen"] {
        let args = format!("train computed.onnx --teacher teacher.onnx {RUN} --batch-norm {how} -o out.onnx");
        refused(&dir, &args, &["a.bn", "its mean and variance are computed", "--fold-weights"]);
    }
    // Of what does not move, they are as good as stored where they are kept.
    ok(
        &dir,
        &format!("train computed.onnx --teacher teacher.onnx {RUN} --batch-norm frozen --freeze ^a.w$ -o out.onnx"),
    );
}

/// Where samples see each other, one stays alone.
#[test]
fn a_batch_that_counts_stays() {
    let dir = place("residual.bn.onnx");
    let mean = node("ReduceMean", "m", &["a.r", "over"], &["a.m"]);
    let sum = node("Add", "q", &["a.r", "a.m"], &["a.q"]);
    let mut proto = one_by_one(with(vec![mean, sum]));
    proto.graph.as_mut().unwrap().initializer.push(from_i64("over", &[1], &[0]));
    put(&dir, "fixed.onnx", &proto);
    ok(&dir, &format!("train fixed.onnx --teacher fixed.onnx --loss mse=1 {RUN} -o out.onnx --report h.json"));
    let (batch, _, notes) = history(&dir);
    assert_eq!(batch, 1);
    assert!(notes.contains("so a batch of 8 cannot be had"), "{notes}");
    assert!(notes.contains("has other values"), "{notes}");
    // A teacher's own batch is nothing to fall back to.
    let args = format!("train small.onnx --teacher fixed.onnx --loss mse=1 {RUN} -o other.onnx");
    refused(&dir, &args, &["fixed.onnx", "so a batch of 8 cannot be had"]);
}
