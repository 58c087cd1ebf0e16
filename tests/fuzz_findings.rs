//! What the fuzzers found, and files that are made to hurt. Each test names what went wrong before.

mod build;
mod common;
#[path = "fuzz/hostile.rs"]
mod hostile;

use common::build::info;
use common::{A, Build, check, dump};
use onnx_prune::graph::Graph;
use onnx_prune::inspect::inspect;
use onnx_prune::onnx::proto::{TensorProto, tensor_proto::DataType};
use onnx_prune::onnx::{Model, tensor};
use onnx_prune::prune;

/// Something leaves, for several seeds, and the result is what its twin is.
fn carries(name: &str, make: impl Fn(&mut Build)) {
    let mut removed = 0;
    for seed in 0..8 {
        let mut b = Build::new(seed);
        make(&mut b);
        let model = b.model();
        removed += check(&model, seed)
            .unwrap_or_else(|e| {
                dump(&name.replace(' ', "-"), &model, seed);
                panic!("{name} (seed {seed}): {e}")
            })
            .removed;
    }
    assert!(removed > 0, "{name}: nothing left");
}

/// Nothing may leave.
fn holds(name: &str, make: impl Fn(&mut Build)) {
    for seed in 0..4 {
        let mut b = Build::new(seed);
        make(&mut b);
        let c = check(&b.model(), seed).unwrap_or_else(|e| panic!("{name} (seed {seed}): {e}"));
        assert_eq!(c.prunable, 0, "{name}: channels are prunable");
    }
}

/// The renumbered indices lost their shape: a table or a scalar became a vector.
#[test]
fn gathers_with_index_tables() {
    for dims in [vec![4, 1], vec![2, 2], vec![1]] {
        carries("table", |b| {
            b.opset = 13;
            let x = b.channels(&[2, 9, 3, 3], 1);
            let n: usize = dims.iter().product();
            let at = b.init(tensor::from_i64("", &dims, &[8, 6, 3, 5][..n]));
            let y = b.op("Gather", &[&x, &at], &[("axis", A::I(1))]);
            b.output(&y);
        });
    }
    carries("scalar", |b| {
        b.opset = 13;
        let x = b.channels(&[2, 9, 3, 3], 1);
        let at = b.init(tensor::from_i64("", &[], &[8]));
        let y = b.op("Gather", &[&x, &at], &[("axis", A::I(1))]);
        b.output(&y);
    });
}

/// Sizes as an attribute where the operator set wants an input were left as they were.
#[test]
fn split_with_the_sizes_of_another_operator_set() {
    let split = |b: &mut Build, both: bool| {
        b.opset = 18;
        let x = b.channels(&[2, 8, 3, 3], 1);
        let mut inputs = vec![x];
        if both {
            inputs.push(b.init(tensor::from_i64("", &[2], &[4, 4])));
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let ys = b.op_n("Split", &inputs, &[("axis", A::I(1)), ("split", A::L(vec![3, 5]))], 2);
        if both {
            // Its sizes are not known, so nothing can be built upon it.
            b.g.output.push(info(&ys[0], DataType::Float, &[-1; 4]));
        } else {
            ys.iter().for_each(|y| b.sink(y, 1));
        }
    };
    let mut smaller = 0;
    for seed in 0..8 {
        let mut b = Build::new(seed);
        split(&mut b, false);
        // No runtime need accept this file, but the sizes must follow.
        let model = b.model();
        let bytes = check::prune_at_random(&model, seed).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        smaller += usize::from(bytes.len() < model.to_bytes().unwrap().len());
    }
    assert!(smaller > 0);
    // Which of the two is meant is anybody's guess.
    let mut b = Build::new(1);
    split(&mut b, true);
    let model = b.model();
    let graph = Graph::new(&model).unwrap();
    let t = prune::analyse(&graph).unwrap();
    assert!(t.trace.channels.groups.is_empty());
    assert!(t.trace.channels.pins.iter().any(|p| p.op == "Split" && p.reason.contains("given twice")));
}

/// The statistics lost channels that the plan kept.
#[test]
fn layer_normalization_with_statistics() {
    carries("statistics", |b| {
        b.opset = 17;
        let x = b.channels(&[2, 6, 3, 4], 1);
        let (scale, shift) = (b.w(&[3, 4]), b.w(&[3, 4]));
        let ys = b.op_n("LayerNormalization", &[&x, &scale, &shift], &[("axis", A::I(2))], 3);
        ys.iter().for_each(|y| b.sink(y, 1));
    });
}

/// Without a list of axes, an axis that was left with one index went too.
#[test]
fn a_squeeze_that_drops_nothing() {
    for opset in [11, 13] {
        holds("squeeze", |b| {
            b.opset = opset;
            b.dynamic = false;
            let x = b.channels(&[2, 2, 3, 3], 1);
            let y = b.op("Squeeze", &[&x], &[]);
            b.sink(&y, 1);
        });
        // To one runtime an empty list is none, to another it is all.
        holds("squeeze of an empty list", |b| {
            b.opset = 11;
            b.dynamic = false;
            let x = b.channels(&[2, 4, 3, 1], 1);
            let y = b.op("Squeeze", &[&x], &[("axes", A::L(vec![]))]);
            b.g.output.push(common::build::info(&y, onnx_prune::onnx::proto::tensor_proto::DataType::Float, &[]));
        });
    }
}

/// The sum of the parameter counts overflowed.
#[test]
fn parameters_beyond_counting() {
    let huge = |name: &str| TensorProto { dims: vec![1, i64::MAX], ..tensor::from_f32(name, &[1], &[1.0]) };
    let mut proto = build::plain();
    proto.graph.as_mut().unwrap().initializer.extend(["h.1", "h.2", "h.3"].map(huge));
    let model = Model::from_proto(proto, "huge.onnx");
    assert_eq!(inspect([&model]).unwrap().models[0].params, u64::MAX);
}

/// Target sizes as an attribute were read, but never written.
#[test]
fn reshape_to_an_attribute() {
    holds("reshape", |b| {
        b.opset = 13;
        b.dynamic = false;
        let x = b.channels(&[2, 8, 3, 3], 1);
        let y = b.op("Reshape", &[&x], &[("shape", A::L(vec![2, 8, 9]))]);
        b.g.output.push(common::build::info(&y, onnx_prune::onnx::proto::tensor_proto::DataType::Float, &[2, 8, 9]));
    });
}

/// A shuffled constant lost no channels when what came out of the shuffle did.
#[test]
fn a_shuffle_of_a_constant() {
    carries("shuffle of a constant", |b| {
        b.dynamic = false;
        let c = b.w(&[2, 8, 3, 3]);
        let sizes = [b.ints(&[2, 2, 4, 3, 3]), b.ints(&[2, 8, 3, 3])];
        let split = b.op("Reshape", &[&c, &sizes[0]], &[]);
        let swapped = b.op("Transpose", &[&split], &[("perm", A::L(vec![0, 2, 1, 3, 4]))]);
        let shuffled = b.op("Reshape", &[&swapped, &sizes[1]], &[]);
        let x = b.channels(&[2, 8, 3, 3], 1);
        // A second reader of the constant, so that each has its own.
        let y = b.op("Add", &[&x, &shuffled], &[]);
        let z = b.op("Mul", &[&x, &c], &[]);
        b.sink(&y, 1);
        b.sink(&z, 1);
    });
}
