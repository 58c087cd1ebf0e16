//! `--fold-weights`: standardised weights are computed once, and cut like others.
#![cfg(feature = "tract")]

mod common;

use common::{A, Build};
use onnx_prune::graph::Graph;
use onnx_prune::onnx::{Model, tensor};
use onnx_prune::ops::Policy;
use onnx_prune::plan::Budget;
use onnx_prune::prune::{Options, prune};
use onnx_prune::recover::Recover;
use onnx_prune::runtime;

/// Conv with standardised filters → Relu → Conv with standardised filters. `as_norm`: by a batch normalization in
/// training mode, as a framework writes it; else in single steps.
fn network(seed: u64, as_norm: bool) -> Model {
    let mut b = Build::new(seed);
    (b.opset, b.dynamic) = (17, false);
    let mut x = b.input(&[2, 3, 5, 5]);
    for (m, c) in [(8, 3), (4, 8)] {
        let w = b.w(&[m, c, 3, 3]);
        let w = standardised(&mut b, &w, [m, c], as_norm);
        x = b.op("Conv", &[&x, &w], &[]);
        if m == 8 {
            x = b.op("Relu", &[&x], &[]);
        }
    }
    b.output(&x);
    b.model()
}

fn standardised(b: &mut Build, w: &str, [m, c]: [usize; 2], as_norm: bool) -> String {
    let there = b.sizes(&[1, m, c * 9]);
    let back = b.sizes(&[m, c, 3, 3]);
    let flat = b.op("Reshape", &[w, &there], &[]);
    let y = if as_norm {
        let (one, zero) = (b.f(&[m], &vec![1.0; m]), b.f(&[m], &vec![0.0; m]));
        let attrs = [("training_mode", A::I(1)), ("epsilon", A::F(1e-3))];
        b.op_n("BatchNormalization", &[&flat, &one, &zero, &zero, &one], &attrs, 3).remove(0)
    } else {
        let axes = [("axes", A::L(vec![2]))];
        let mean = b.op("ReduceMean", &[&flat], &axes);
        let centred = b.op("Sub", &[&flat, &mean], &[]);
        let squares = b.op("Mul", &[&centred, &centred], &[]);
        let var = b.op("ReduceMean", &[&squares], &axes);
        let small = b.f(&[], &[1e-3]);
        let var = b.op("Add", &[&var, &small], &[]);
        let root = b.op("Sqrt", &[&var], &[]);
        b.op("Div", &[&centred, &root], &[])
    };
    b.op("Reshape", &[&y, &back], &[])
}

fn options(ratio: f64, fold: bool) -> Options {
    Options {
        budget: Budget::Ratio(ratio),
        recover: Recover::None,
        policy: Policy { fold_weights: fold, ..Policy::default() },
        ..Options::default()
    }
}

fn weights(m: &Model) -> Vec<f64> {
    let g = m.proto.graph.as_ref().unwrap();
    let convs = g.node.iter().filter(|n| n.op_type() == "Conv");
    let tensors = convs.map(|n| g.initializer.iter().find(|t| t.name() == n.input[1]).expect("a constant weight"));
    tensors.flat_map(|t| tensor::to_f64(t).unwrap()).collect()
}

#[test]
fn computed_weights_hold_channels_until_they_are_folded() {
    for seed in 0..10 {
        for as_norm in [false, true] {
            let model = network(seed, as_norm);
            let kept = prune(&model, &options(0.5, false), &|_| {}).unwrap();
            assert_eq!(kept.report.channels_prunable, 0);
            assert!(kept.report.notes.iter().any(|n| n.contains("--fold-weights")), "{:?}", kept.report.notes);
            let done = prune(&model, &options(0.5, true), &|_| {}).unwrap();
            assert_eq!((done.report.channels_prunable, done.report.channels_removed), (8, 4));
            assert!(done.report.verify.max_rel_diff.unwrap() < 1e-4, "{:?}", done.report.verify);
            let pruned = done.model.unwrap();
            let g = Graph::new(&pruned).unwrap();
            assert_eq!(g.nodes.len(), 3, "what computed the weights is gone");
            // A stored plan brings its folding along.
            let plan = Options { plan: Some(done.plan), recover: Recover::None, ..Options::default() };
            let again = prune(&model, &plan, &|_| {}).unwrap().model.unwrap();
            assert_eq!(again.to_bytes().unwrap(), pruned.to_bytes().unwrap());
        }
    }
}

#[test]
fn folded_weights_are_the_computed_ones() {
    let rt = runtime::embedded().unwrap();
    for seed in 0..10 {
        let model = network(seed, false);
        let folded = |m: &Model| prune(m, &options(0.0, true), &|_| {}).unwrap().model.unwrap();
        let (steps, norm) = (folded(&model), folded(&network(seed, true)));
        let inputs = runtime::random_inputs(&model, seed, &|_, _| 2).unwrap();
        let run = |m: &Model| rt.load(m).unwrap().run(&inputs).unwrap().remove(0).1;
        assert!(runtime::max_rel_diff(&run(&steps), &run(&model)).unwrap().unwrap() < 1e-5);
        let far = weights(&steps).iter().zip(weights(&norm)).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(far < 1e-5, "seed {seed}: {far}");
    }
}

#[test]
fn other_models_are_left_as_they_are() {
    let mut b = Build::new(1);
    let x = b.channels(&[2, 6, 4, 4], 1);
    b.sink(&x, 1);
    let model = b.model();
    let bytes = |fold: bool| prune(&model, &options(0.4, fold), &|_| {}).unwrap().model.unwrap().to_bytes().unwrap();
    assert_eq!(bytes(false), bytes(true));
}
