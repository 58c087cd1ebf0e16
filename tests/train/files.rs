//! What comes out of a run: the same graph with other values in it.

use super::build::run::ok;
use super::{load, place, values};
use onnx_prune::onnx::proto::{GraphProto, TensorProto};
use std::collections::BTreeSet;

const SHORT: &str = "--data images.npz --samples 64 --batch 16 --epochs 1 --hold-back 0 --runtime tract --loss ce";

/// Initializers that are running statistics, also behind an `Identity`.
fn statistics(g: &GraphProto) -> BTreeSet<String> {
    let norms = g.node.iter().filter(|n| n.op_type() == "BatchNormalization");
    let read = norms.flat_map(|n| n.input[3..5].to_vec());
    let source = |name: String| {
        let made = g.node.iter().find(|n| n.op_type() == "Identity" && n.output[0] == name);
        made.map_or(name, |n| n.input[0].clone())
    };
    read.map(source).collect()
}

/// Everything but values.
fn same_graph(a: &GraphProto, b: &GraphProto) {
    assert_eq!(a.node, b.node);
    assert_eq!((&a.input, &a.output, &a.value_info, &a.name), (&b.input, &b.output, &b.value_info, &b.name));
    let shape = |t: &TensorProto| (t.name.clone(), t.dims.clone(), t.data_type);
    let shapes = |g: &GraphProto| g.initializer.iter().map(shape).collect::<Vec<_>>();
    assert_eq!(shapes(a), shapes(b));
}

#[test]
fn the_graph_stays_and_statistics_follow() {
    for fixture in ["residual.bn.onnx", "residual.folded.onnx", "depthwise.bn.onnx"] {
        let dir = place(fixture);
        let old = load(&dir, "net.onnx");
        let running = statistics(&old);
        assert_eq!(running.is_empty(), fixture.contains("folded"), "{fixture}");
        for how in ["batch", "frozen"] {
            ok(&dir, &format!("train net.onnx {SHORT} --batch-norm {how} -o out.onnx"));
            let new = load(&dir, "out.onnx");
            same_graph(&old, &new);
            let (was, is) = (values(&old), values(&new));
            for (name, values) in &was {
                let changed = *values != is[name];
                if running.contains(name) {
                    assert_eq!(changed, how == "batch", "{fixture}, {how}: {name}");
                } else if values.len() > 1 && values.iter().any(|v| v.fract() != 0.0) {
                    assert!(changed, "{fixture}, {how}: {name} does not train");
                }
            }
        }
    }
}

#[test]
fn what_is_frozen_keeps_its_bytes() {
    let dir = place("residual.bn.onnx");
    let old = load(&dir, "net.onnx");
    ok(&dir, &format!("train net.onnx {SHORT} --freeze ^0\\. --freeze ^1\\.body\\.0 -o out.onnx"));
    let new = load(&dir, "out.onnx");
    let running = statistics(&old);
    let (mut frozen, mut others) = (0, 0);
    for (a, b) in old.initializer.iter().zip(&new.initializer).filter(|(a, _)| !running.contains(a.name())) {
        if a.name().starts_with("0.") || a.name().starts_with("1.body.0") {
            assert_eq!(a, b);
            frozen += 1;
        } else {
            others += usize::from(a != b);
        }
    }
    assert!(frozen >= 6 && others >= 6, "{frozen} frozen, {others} changed");
}
