//! A reshape may keep either of two axes apart: the one that frees more is taken.

mod common;

use common::{A, Build, check};
use onnx_prune::graph::Graph;
use onnx_prune::onnx::Model;
use onnx_prune::prune::analyse;
use std::collections::BTreeMap;

const HEADS: usize = 3;
const DIM: usize = 8;
const WIDTH: usize = HEADS * DIM;

/// Channels per group, by group name, of a model that prunes soundly.
fn groups(model: &Model) -> BTreeMap<String, usize> {
    for seed in 0..8 {
        let done = check(model, seed).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        assert_eq!(done.skipped, None);
    }
    let graph = Graph::new(model).unwrap();
    let t = analyse(&graph).unwrap();
    t.trace.channels.groups.iter().map(|g| (g.name.clone(), g.channels.len())).collect()
}

fn linear(b: &mut Build, x: &str, from: usize, to: usize) -> String {
    let w = b.w(&[from, to]);
    b.op("MatMul", &[x, &w], &[])
}

/// `[N, T, H·D] → [N, H, T, D]`.
fn split(b: &mut Build, x: &str) -> String {
    let to = b.sizes(&[0, 0, HEADS, DIM]);
    let y = b.op("Reshape", &[x, &to], &[]);
    b.op("Transpose", &[&y], &[("perm", A::L(vec![0, 2, 1, 3]))])
}

fn merge(b: &mut Build, x: &str) -> String {
    let y = b.op("Transpose", &[x], &[("perm", A::L(vec![0, 2, 1, 3]))]);
    let to = b.sizes(&[0, 0, WIDTH]);
    b.op("Reshape", &[&y, &to], &[])
}

fn build() -> Build {
    let mut b = Build::new(1);
    (b.opset, b.dynamic) = (17, false);
    b
}

fn attended(b: &mut Build, q: &str, k: &str, v: &str) -> String {
    let k = b.op("Transpose", &[k], &[("perm", A::L(vec![0, 1, 3, 2]))]);
    let s = b.op("MatMul", &[q, &k], &[]);
    let s = b.op("Softmax", &[&s], &[("axis", A::I(-1))]);
    b.op("MatMul", &[&s, v], &[])
}

#[test]
fn heads_leave_whole_where_queries_and_keys_meet() {
    // Values alone could lose dimensions within each head, 8 of them; but then no query or key could go.
    let mut b = build();
    let x = b.input(&[2, 5, 6]);
    let [q, k, v] = [0; 3].map(|_| {
        let y = linear(&mut b, &x, 6, WIDTH);
        split(&mut b, &y)
    });
    let y = attended(&mut b, &q, &k, &v);
    let y = merge(&mut b, &y);
    b.sink(&y, 2);
    let found = groups(&b.model());
    assert_eq!(found.values().copied().collect::<Vec<_>>(), [HEADS], "{found:?}");
}

#[test]
fn one_layer_for_queries_keys_and_values_loses_heads_too() {
    let mut b = build();
    let x = b.input(&[2, 5, 6]);
    let y = linear(&mut b, &x, 6, 3 * WIDTH);
    let to = b.sizes(&[0, 0, 3, HEADS, DIM]);
    let y = b.op("Reshape", &[&y, &to], &[]);
    let y = b.op("Transpose", &[&y], &[("perm", A::L(vec![2, 0, 3, 1, 4]))]);
    let parts = b.op_n("Split", &[&y], &[("axis", A::I(0))], 3);
    let at = b.ints(&[0]);
    let [q, k, v] = [0, 1, 2].map(|i| b.op("Squeeze", &[&parts[i], &at], &[]));
    let y = attended(&mut b, &q, &k, &v);
    let y = merge(&mut b, &y);
    b.sink(&y, 2);
    let found = groups(&b.model());
    assert_eq!(found.values().copied().collect::<Vec<_>>(), [HEADS], "{found:?}");
}

#[test]
fn dimensions_leave_where_something_holds_the_heads() {
    // A softmax over the heads: they stay, and each loses the same dimensions.
    let mut b = build();
    let x = b.input(&[2, 5, 6]);
    let y = linear(&mut b, &x, 6, WIDTH);
    let y = split(&mut b, &y);
    let y = b.op("Softmax", &[&y], &[("axis", A::I(1))]);
    let y = merge(&mut b, &y);
    b.sink(&y, 2);
    let found = groups(&b.model());
    assert_eq!(found.values().copied().collect::<Vec<_>>(), [DIM], "{found:?}");
}

#[test]
fn of_equal_worth_the_finer_channels_are_taken() {
    let mut b = build();
    let x = b.input(&[2, 5, 6]);
    let y = linear(&mut b, &x, 6, WIDTH);
    let y = split(&mut b, &y);
    let y = b.op("Relu", &[&y], &[]);
    let y = merge(&mut b, &y);
    b.sink(&y, 2);
    let found = groups(&b.model());
    assert_eq!(found.values().copied().collect::<Vec<_>>(), [DIM], "{found:?}");
}

#[test]
fn an_order_of_decisions_does_not_matter() {
    // The values' reshape comes first in the file; heads must be chosen all the same.
    let mut b = build();
    let x = b.input(&[2, 5, 6]);
    let [v, k, q] = [0; 3].map(|_| {
        let y = linear(&mut b, &x, 6, WIDTH);
        split(&mut b, &y)
    });
    let y = attended(&mut b, &q, &k, &v);
    let y = merge(&mut b, &y);
    b.sink(&y, 2);
    assert_eq!(groups(&b.model()).values().copied().collect::<Vec<_>>(), [HEADS]);
}
