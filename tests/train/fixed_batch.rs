//! Models that fix their batch, as exporters write them: trained in larger ones where that computes the same.

use super::build::run::ok;
use super::build::{info, ints, node};
use super::{load, net, place, values};
use onnx_prune::onnx::proto::{ModelProto, NodeProto};
use onnx_prune::onnx::tensor::from_i64;
use prost::Message;
use serde_json::Value;
use tempfile::TempDir;

const RUN: &str = "--data x.npy --batch 8 --epochs 2 --runtime tract --hold-back 0.25";

/// One sample at a time, which the last node says too.
fn one_by_one(between: Option<NodeProto>) -> ModelProto {
    let mut proto = net();
    let graph = proto.graph.as_mut().unwrap();
    graph.input = vec![info("x", &[1, 2, 5, 5])];
    graph.output = vec![info("y", &[1, 3])];
    graph.node.pop();
    graph.node.push(node("Reshape", "f", &["b.p", "shape"], &["y"]));
    graph.initializer.push(from_i64("shape", &[2], &[1, 3]));
    if let Some(mean) = between {
        let conv = graph.node.iter_mut().find(|n| n.name() == "b").unwrap();
        conv.input[0] = "a.q".into();
        graph.node.insert(3, mean);
        graph.node.insert(4, node("Add", "q", &["a.r", "a.m"], &["a.q"]));
    }
    proto
}

fn put(dir: &TempDir, name: &str, proto: &ModelProto) {
    std::fs::write(dir.path().join(name), proto.encode_to_vec()).unwrap();
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
    put(&dir, "fixed.onnx", &one_by_one(None));
    for teacher in ["teacher.onnx", "fixed.onnx"] {
        ok(&dir, &format!("train small.onnx --teacher {teacher} {RUN} -o free.out.onnx"));
        ok(&dir, &format!("train fixed.onnx --teacher {teacher} {RUN} -o out.onnx --report h.json"));
        let (free, fixed, before) = (load(&dir, "free.out.onnx"), load(&dir, "out.onnx"), load(&dir, "fixed.onnx"));
        let (free, mut found) = (values(&free), values(&fixed));
        found.remove("shape");
        assert_eq!(free, found, "{teacher}");
        assert_eq!((&fixed.node, &fixed.input, &fixed.output), (&before.node, &before.input, &before.output));
        let (batch, steps, notes) = history(&dir);
        assert_eq!((batch, steps), (8, 3), "{teacher}");
        assert!(notes.contains("the model fixes the batch to 1; it was trained in batches of 8"), "{notes}");
    }
}

/// Where samples see each other, one stays alone.
#[test]
fn a_batch_that_counts_stays() {
    let dir = place("residual.bn.onnx");
    let mean = ints(node("ReduceMean", "m", &["a.r"], &["a.m"]), "axes", &[0]);
    put(&dir, "fixed.onnx", &one_by_one(Some(mean)));
    ok(&dir, &format!("train fixed.onnx --teacher fixed.onnx --loss mse=1 {RUN} -o out.onnx --report h.json"));
    let (batch, _, notes) = history(&dir);
    assert_eq!(batch, 1);
    assert!(notes.contains("so a batch of 8 cannot be had"), "{notes}");
    assert!(notes.contains("has other values"), "{notes}");
}
