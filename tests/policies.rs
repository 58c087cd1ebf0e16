//! What is done only on request or after a choice: whole groups, products of activations, approximate normalisation.

mod build;
mod common;

use build::run::{ok, with_net};
use common::{A, Build, check_with};
use onnx_prune::graph::Graph;
use onnx_prune::onnx::proto::{TensorProto, type_proto};
use onnx_prune::onnx::{Model, save, tensor};
use onnx_prune::ops::Policy;
use onnx_prune::plan::Budget;
use onnx_prune::prune::{Grouped, Options, Pruned, analyse, analyse_with, prune};
use onnx_prune::recover::Recover;
use onnx_prune::runtime;
use std::collections::BTreeSet;

const CASES: u64 = if cfg!(debug_assertions) { 20 } else { 120 };

/// Conv → grouped Conv → Relu → Conv; returns the name of the grouped one.
fn grouped(b: &mut Build) -> String {
    let (g, i, o) = (b.r(3, 5), b.r(2, 3), b.r(1, 3));
    let x = b.channels(&[2, g * i, 5, 5], 1);
    let w = b.w(&[g * o, i, 3, 3]);
    let y = b.op("Conv", &[&x, &w], &[("group", A::I(g as i64)), ("pads", A::L(vec![1; 4]))]);
    let name = b.g.node.last().and_then(|n| n.name.clone()).unwrap();
    let y = b.op("Relu", &[&y], &[]);
    b.sink(&y, 1);
    name
}

#[test]
fn whole_groups_leave() {
    let mut fewer = 0;
    for seed in 0..CASES {
        let mut b = Build::new(seed);
        let policy = Policy { whole_groups: BTreeSet::from([grouped(&mut b)]), ..Policy::default() };
        let model = b.model();
        let done = check_with(&model, seed, &policy).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        assert_eq!(done.skipped, None, "seed {seed}");
        fewer += u64::from(done.removed > 0);
    }
    assert!(fewer > CASES / 2, "{fewer} of {CASES}");
}

#[test]
fn the_better_of_equal_counts_and_whole_groups_is_taken() {
    let (mut whole, mut equal) = (0, 0);
    for seed in 0..CASES {
        let mut b = Build::new(seed);
        grouped(&mut b);
        let model = b.model();
        let kept = |grouped: Grouped| {
            let o = Options { budget: Budget::Ratio(0.4), recover: Recover::None, grouped, ..Options::default() };
            let done = prune(&model, &o, &|_| {}).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
            // A stored plan gives the same model again.
            let plan = Options { plan: Some(done.plan.clone()), recover: Recover::None, ..Options::default() };
            let again = prune(&model, &plan, &|_| {}).unwrap();
            assert_eq!(again.model.unwrap().to_bytes().unwrap(), done.model.unwrap().to_bytes().unwrap());
            !done.plan.policy.whole_groups.is_empty()
        };
        assert!(!kept(Grouped::Equal));
        assert!(kept(Grouped::Whole));
        if kept(Grouped::Auto) { whole += 1 } else { equal += 1 }
    }
    assert!(whole > 0 && equal > 0, "whole groups {whole} times, equal counts {equal} times");
}

/// Softmax(q·k)·v with one head.
fn attention(b: &mut Build) {
    let (n, c, d) = (b.r(3, 4), b.r(3, 4), b.r(4, 6));
    let x = b.input(&[2, n, c]);
    let [q, k, v] = [d, d, b.r(4, 6)].map(|m| {
        let w = b.w(&[c, m]);
        b.op("MatMul", &[&x, &w], &[])
    });
    let k = b.op("Transpose", &[&k], &[("perm", A::L(vec![0, 2, 1]))]);
    let a = b.op("MatMul", &[&q, &k], &[]);
    b.opset = b.opset.max(13);
    let a = b.op("Softmax", &[&a], &[("axis", A::I(-1))]);
    let y = b.op("MatMul", &[&a, &v], &[]);
    b.sink(&y, 2);
}

#[test]
fn query_key_dimensions_leave_on_request_only() {
    for seed in 0..CASES {
        let mut b = Build::new(seed);
        attention(&mut b);
        let model = b.model();
        let prunable = |policy: &Policy| {
            let done = check_with(&model, seed, policy).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
            assert_eq!(done.skipped, None, "seed {seed}");
            done.prunable
        };
        let (without, with) = (prunable(&Policy::default()), prunable(&Policy { products: true, ..Policy::default() }));
        assert!(with >= without + 4, "seed {seed}: {without} → {with}");
    }
}

/// A normalisation over the last axis, in one of the forms that exporters write.
fn norm(b: &mut Build, form: usize, x: &str, c: usize) -> String {
    b.opset = 17;
    let gamma = b.pos(&[c]);
    let reduce = |b: &mut Build, op: &str, x: &str| b.op(op, &[x], &[("axes", A::L(vec![-1])), ("keepdims", A::I(1))]);
    match form {
        0 => {
            let beta = b.w(&[c]);
            b.op("LayerNormalization", &[x, &gamma, &beta], &[])
        }
        1 => {
            // Decomposed LayerNorm.
            let mean = reduce(b, "ReduceMean", x);
            let centred = b.op("Sub", &[x, &mean], &[]);
            let squares = b.op("Mul", &[&centred, &centred], &[]);
            let var = reduce(b, "ReduceMean", &squares);
            let root = b.op("Sqrt", &[&var], &[]);
            let y = b.op("Div", &[&centred, &root], &[]);
            b.op("Mul", &[&y, &gamma], &[])
        }
        2 => {
            let length = reduce(b, "ReduceL2", x);
            b.op("Div", &[x, &length], &[])
        }
        3 => b.op("LpNormalization", &[x], &[("p", A::I(2))]),
        _ => {
            // Global response: norms over positions, divided by their mean over channels.
            let norms = b.op("ReduceL2", &[x], &[("axes", A::L(vec![1])), ("keepdims", A::I(1))]);
            let mean = reduce(b, "ReduceMean", &norms);
            let share = b.op("Div", &[&norms, &mean], &[]);
            b.op("Mul", &[x, &share], &[])
        }
    }
}

fn normed(seed: u64, form: usize) -> Model {
    let mut b = Build::new(seed);
    let (n, c) = (b.r(4, 6), b.r(64, 96));
    let x = b.input(&[2, n, 5]);
    let w = b.w(&[5, c]);
    let x = b.op("MatMul", &[&x, &w], &[]);
    let y = norm(&mut b, form, &x, c);
    b.sink(&y, 2);
    b.model()
}

#[test]
fn normalised_channels_leave_only_on_request_and_rescaled() {
    let policy = Policy { approximate_norm: true, ..Policy::default() };
    for form in 0..5 {
        let (mut near, mut plain) = (0.0, 0.0);
        for seed in 0..CASES / 10 {
            let model = normed(seed, form);
            let graph = Graph::new(&model).unwrap();
            assert_eq!(analyse(&graph).unwrap().trace.channels.groups.len(), 0, "form {form}");
            assert_eq!(analyse_with(&graph, &policy).unwrap().trace.channels.groups.len(), 1, "form {form}");
            check_with(&model, seed, &policy).unwrap_or_else(|e| panic!("form {form} seed {seed}: {e}"));
            // The channels that make least: what stays keeps most of the statistic.
            let o = Options {
                budget: Budget::Ratio(0.5),
                criterion: Some("l2".parse().unwrap()),
                recover: Recover::None,
                policy: policy.clone(),
                ..Options::default()
            };
            let done = prune(&model, &o, &|_| {}).unwrap_or_else(|e| panic!("form {form} seed {seed}: {e}"));
            assert_eq!(done.report.approximated.len(), if form == 1 { 2 } else { 1 }, "{:?}", done.report.approximated);
            let (a, b) = distances(&model, &done);
            near += a;
            plain += b;
        }
        if cfg!(feature = "tract") {
            assert!(near < plain, "form {form}: with the repair {near}, without {plain}");
        }
    }
}

/// How far the kept channels of the normalised tensor are from the original's, with and without the repair.
fn distances(model: &Model, done: &Pruned) -> (f64, f64) {
    let Some(rt) = runtime::embedded() else { return (0.0, 0.0) };
    let pruned = done.model.as_ref().unwrap();
    let removed: BTreeSet<usize> = done.plan.groups[0].removed.iter().copied().collect();
    let inputs = runtime::random_inputs(model, 7, &|_, _| 2).unwrap();
    let run = |m: &Model| rt.load(&watched(m)).unwrap().run(&inputs).unwrap().remove(0).1;
    let whole = run(model);
    let c = *whole.dims.last().unwrap();
    let values = whole.to_f64().into_iter().enumerate();
    let kept: Vec<f64> = values.filter(|(i, _)| !removed.contains(&(i % c))).map(|(_, v)| v).collect();
    let far = |m: &Model| kept.iter().zip(run(m).to_f64()).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
    (far(pruned), far(&unrepaired(model, pruned, &removed)))
}

/// The tensor that the last layer reads as the output.
fn watched(m: &Model) -> Model {
    let mut proto = m.proto.clone();
    let g = proto.graph.as_mut().unwrap();
    let last = g.node.pop().unwrap();
    assert_eq!(last.op_type(), "MatMul");
    g.output[0].name = Some(last.input[0].clone());
    let anything = type_proto::Tensor { elem_type: Some(1), shape: None };
    g.output[0].r#type.as_mut().unwrap().value = Some(type_proto::Value::TensorType(anything));
    m.derive(proto)
}

/// The pruned model with shares of one, and scale parameters as they were.
fn unrepaired(original: &Model, pruned: &Model, removed: &BTreeSet<usize>) -> Model {
    let before = &original.proto.graph.as_ref().unwrap().initializer;
    let mut proto = pruned.proto.clone();
    let g = proto.graph.as_mut().unwrap();
    let scales: Vec<String> =
        g.node.iter().filter(|n| n.op_type() == "LayerNormalization").map(|n| n.input[1].clone()).collect();
    for t in &mut g.initializer {
        let new = if t.name().ends_with(".share") {
            tensor::from_f64_like(t, &[], &[1.0]).unwrap()
        } else if scales.iter().any(|s| s == t.name()) {
            let old = tensor::to_f64(before.iter().find(|o| o.name() == t.name()).unwrap()).unwrap();
            let kept: Vec<f64> = (0..old.len()).filter(|i| !removed.contains(i)).map(|i| old[i]).collect();
            tensor::from_f64_like(t, &[kept.len()], &kept).unwrap()
        } else {
            continue;
        };
        *t = TensorProto { name: t.name.clone(), ..new };
    }
    pruned.derive(proto)
}

#[test]
fn the_report_says_that_it_is_not_exact() {
    let dir = with_net();
    let model = normed(3, 0);
    save(&model, &dir.path().join("n.onnx"), &Default::default()).unwrap();
    let out = ok(&dir, "n.onnx --ratio 0.5 --norm approximate --round-to 1 -o m.onnx --report r.json");
    assert!(out.contains("Not exact") && out.contains("NOT EXACT"), "{out}");
    let json: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(dir.path().join("r.json")).unwrap()).unwrap();
    assert_eq!(json["approximated"].as_array().unwrap().len(), 1);
    let out = ok(&dir, "n.onnx --ratio 0.5 -o k.onnx");
    assert!(!out.contains("Not exact"), "{out}");
}
