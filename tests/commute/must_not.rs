//! What must not be pruned, though a careless rule would. Each model carries its channels but for one node; the check
//! is that nothing leaves, that the node is named, and that the model survives being rewritten.

use crate::common::build::info;
use crate::common::{A, Build, check};
use crate::selection::slice_node;
use onnx_prune::onnx::proto::{GraphProto, ModelProto, NodeProto, tensor_proto::DataType};
use onnx_prune::onnx::tensor;
use prost::Message;

/// Nothing of the model may leave, and `op` is named with a reason that contains `why`.
pub fn held(name: &str, op: &str, why: &str, build: impl Fn(&mut Build)) {
    for seed in 0..4 {
        let mut b = Build::new(seed);
        build(&mut b);
        let c = check(&b.model(), seed).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(c.prunable, 0, "{name}: channels are prunable, none must be");
        let named = c.pins.iter().any(|(by, reason)| (by == op || reason.contains(op)) && reason.contains(why));
        assert!(named, "{name}: no pin names {op} because of {why:?}: {:?}", c.pins);
    }
}

/// Whatever leaves, the result equals the twin.
pub fn sound(name: &str, build: impl Fn(&mut Build)) {
    for seed in 0..8 {
        let mut b = Build::new(seed);
        build(&mut b);
        let c = check(&b.model(), seed).unwrap_or_else(|e| panic!("{name} (seed {seed}): {e}"));
        assert!(c.skipped.is_none(), "{name}: {:?}", c.skipped);
    }
}

#[test]
fn softmax_over_the_channels() {
    held("softmax", "Softmax", "statistic", |b| {
        b.opset = 13;
        let x = b.channels(&[2, 6, 3, 3], 1);
        let y = b.op("Softmax", &[&x], &[("axis", A::I(-3))]);
        b.sink(&y, 1);
    });
    held("softmax-11 flattens", "Softmax", "statistic", |b| {
        b.opset = 11;
        let x = b.channels(&[2, 6, 3], 1);
        let y = b.op("Softmax", &[&x], &[]);
        b.sink(&y, 1);
    });
}

#[test]
fn slices_with_a_step() {
    held("step", "Slice", "step", |b| {
        b.opset = 13;
        let x = b.channels(&[2, 8, 3, 3], 1);
        let y = slice_node(b, &x, &[0], &[i64::MAX], &[1], Some(&[2]));
        b.sink(&y, 1);
    });
    held("backwards", "Slice", "step", |b| {
        b.opset = 13;
        let x = b.channels(&[2, 8, 3, 3], 1);
        let y = slice_node(b, &x, &[-1], &[i64::MIN], &[1], Some(&[-1]));
        b.sink(&y, 1);
    });
}

#[test]
fn indices_of_run_time() {
    held("run-time gather", "Gather", "run time", |b| {
        let x = b.channels(&[2, 6, 3, 3], 1);
        let ids = b.input_of(DataType::Int64, &[4]);
        let y = b.op("Gather", &[&x, &ids], &[("axis", A::I(1))]);
        b.output(&y);
    });
    held("gather elements", "GatherElements", "positions", |b| {
        b.dynamic = false;
        let x = b.channels(&[2, 6], 1);
        let ids = b.init(tensor::from_i64("", &[2, 2], &[0, 1, 5, 4]));
        let y = b.op("GatherElements", &[&x, &ids], &[("axis", A::I(1))]);
        b.g.output.push(info(&y, DataType::Float, &[2, 2]));
    });
}

#[test]
fn sizes_used_as_divisors() {
    for unnamed in [false, true] {
        held("divisor", "Softplus", "size of this axis", |b| {
            let x = b.channels(&[2, 6, 3, 3], 1);
            let s = b.op("Shape", &[&x], &[]);
            let at = b.int(1);
            let n = b.op("Gather", &[&s, &at], &[]);
            let n = b.cast(&n, DataType::Float);
            let n = b.op("Softplus", &[&n], &[]);
            let y = b.op("Div", &[&x, &n], &[]);
            b.sink(&y, 1);
            if unnamed {
                b.g.node.iter_mut().for_each(|n| n.name = None);
            }
        });
    }
}

#[test]
fn the_size_of_a_weight_used_as_a_divisor() {
    sound("the size of a weight as a divisor", |b| {
        let x = b.input(&[2, 3]);
        let (w, v) = (b.w(&[3, 8]), b.w(&[8, 2]));
        let s = b.op("Shape", &[&w], &[]);
        let at = b.int(1);
        let n = b.op("Gather", &[&s, &at], &[]);
        let n = b.cast(&n, DataType::Float);
        let y = b.op("MatMul", &[&x, &w], &[]);
        let y = b.op("Div", &[&y, &n], &[]);
        let y = b.op("MatMul", &[&y, &v], &[]);
        b.output(&y);
        if b.coin() {
            b.g.node.iter_mut().for_each(|n| n.name = None);
        }
    });
}

#[test]
fn a_size_that_bounds_another_axis() {
    sound("a size that bounds another axis", |b| {
        b.opset = 13;
        let x = b.channels(&[2, 4, 8], 1);
        let s = b.op("Shape", &[&x], &[]);
        let (at, two) = (b.ints(&[1]), b.ints(&[2]));
        let from = b.op("Gather", &[&s, &at], &[]);
        let to = b.op("Add", &[&from, &two], &[]);
        let y = b.op("Slice", &[&x, &from, &to, &two], &[]);
        b.sink(&y, 1);
    });
}

#[test]
fn a_size_that_shapes_another_tensor() {
    sound("a size that shapes another tensor", |b| {
        let x = b.channels(&[2, 4, 6], 1);
        let z = b.input(&[2, 4, 6]);
        let s = b.op("Shape", &[&x], &[]);
        let (at, rest) = (b.ints(&[0, 1]), b.ints(&[2, 3]));
        let head = b.op("Gather", &[&s, &at], &[]);
        let to = b.op("Concat", &[&head, &rest], &[("axis", A::I(0))]);
        let z = b.op("Reshape", &[&z, &to], &[]);
        b.output(&z);
        b.sink(&x, 1);
    });
}

#[test]
fn a_size_that_shapes_another_shuffle() {
    sound("a size that shapes another tensor's shuffle", |b| {
        let x = b.channels(&[2, 4, 6], 1);
        let z = b.input(&[2, 4, 6]);
        let s = b.op("Shape", &[&x], &[]);
        let (zero, one, two, six) = (b.ints(&[0]), b.ints(&[1]), b.ints(&[2]), b.ints(&[6]));
        let batch = b.op("Gather", &[&s, &zero], &[]);
        let channels = b.op("Gather", &[&s, &one], &[]);
        let half = b.op("Div", &[&channels, &two], &[]);
        let split = b.op("Concat", &[&batch, &half, &two, &six], &[("axis", A::I(0))]);
        let whole = b.op("Concat", &[&batch, &channels, &six], &[("axis", A::I(0))]);
        let z = b.op("Reshape", &[&z, &split], &[]);
        let z = b.op("Transpose", &[&z], &[("perm", A::L(vec![0, 2, 1, 3]))]);
        let z = b.op("Reshape", &[&z, &whole], &[]);
        b.output(&z);
        b.sink(&x, 1);
    });
}

#[test]
fn scales_over_several_channels() {
    held("blocked", "QuantizeLinear", "block", |b| {
        (b.opset, b.dynamic) = (21, false);
        let x = b.channels(&[2, 6, 3], 1);
        let scale = b.f(&[2, 3, 3], &[0.05; 18]);
        let zero = b.raw(DataType::Int8, &[2, 3, 3], vec![3; 18]);
        let attrs = [("axis", A::I(1)), ("block_size", A::I(2))];
        let q = b.op("QuantizeLinear", &[&x, &scale, &zero], &attrs);
        let y = b.op("DequantizeLinear", &[&q, &scale, &zero], &attrs);
        b.sink(&y, 1);
    });
}

#[test]
fn statistics_of_training() {
    for opset in [15, 9] {
        held(&format!("training at opset {opset}"), "BatchNormalization", "", |b| {
            b.opset = opset;
            let x = b.channels(&[2, 4, 6], 2);
            let [g, s, m] = [0; 3].map(|_| b.w(&[4]));
            let v = b.pos(&[4]);
            let attrs: &[(&str, A)] = if opset > 13 { &[("training_mode", A::I(1))] } else { &[] };
            let y = b.op_n("BatchNormalization", &[&x, &g, &s, &m, &v], attrs, if opset > 13 { 3 } else { 5 });
            b.sink(&y[0], 2);
        });
    }
}

#[test]
fn positions_that_count_channels() {
    held("max pool indices", "MaxPool", "Indices", |b| {
        let x = b.channels(&[2, 6, 4, 4], 1);
        let y = b.op_n("MaxPool", &[&x], &[("kernel_shape", A::L(vec![2, 2]))], 2);
        b.sink(&y[0], 1);
        let i = b.cast(&y[1], DataType::Float);
        b.sink(&i, 1);
    });
}

#[test]
fn channels_that_a_layer_does_not_make() {
    held("dynamic channels", "MatMul", "", |b| {
        let x = b.input_of(DataType::Float, &[2, -1, 3]);
        let y = b.input_of(DataType::Float, &[2, 3, -1]);
        let z = b.op("MatMul", &[&x, &y], &[]);
        b.output(&z);
        // A layer, so that there is something to hold back.
        let w = b.w(&[3, 4]);
        let z = b.op("MatMul", &[&x, &w], &[]);
        let z = b.op("MatMul", &[&z, &y], &[]);
        b.g.output.push(info(&z, DataType::Float, &[2, -1, -1]));
    });
    held("two activations", "MatMul", "activations", |b| {
        let x = b.channels(&[2, 3, 6], 2);
        let y = b.channels(&[2, 6, 3], 1);
        let z = b.op("MatMul", &[&x, &y], &[]);
        b.output(&z);
    });
}

#[test]
fn what_a_subgraph_reads() {
    held("captured activation", "If", "subgraph", |b| {
        b.dynamic = false;
        let x = b.input(&[2, 3, 4, 4]);
        let (w, bias, yes) = (b.w(&[6, 3, 1, 1]), b.w(&[6]), b.raw(DataType::Bool, &[], vec![1]));
        let y = b.op("Conv", &[&x, &w, &bias], &[]);
        let branch = |name: &str, op: &str| GraphProto {
            name: Some(name.into()),
            node: vec![NodeProto {
                op_type: Some(op.into()),
                input: vec![y.clone()],
                output: vec![format!("{name}_out")],
                ..Default::default()
            }],
            output: vec![info(&format!("{name}_out"), DataType::Float, &[2, 6, 4, 4])],
            ..Default::default()
        };
        let branches = [("then_branch", A::G(branch("yes", "Neg"))), ("else_branch", A::G(branch("no", "Abs")))];
        let z = b.op("If", &[&yes], &branches);
        b.g.output.push(info(&z, DataType::Float, &[2, 6, 4, 4]));
        b.sink(&y, 1);
    });
}

#[test]
fn operators_from_before_broadcasting() {
    // `Add` and `PRelu` aligned their second operand with the channels, `Reshape` had its sizes in an attribute, and
    // `BatchNormalization` trained unless told otherwise: nothing of that is followed.
    let mut b = Build::new(0);
    (b.opset, b.dynamic) = (6, false);
    let (x, w) = (b.input(&[2, 3, 4, 4]), b.w(&[4, 3, 1, 1]));
    let (c, v) = (b.w(&[4]), b.w(&[2, 4, 1, 1]));
    let y = b.op("Conv", &[&x, &w], &[]);
    let y = b.op("Add", &[&y, &c], &[("broadcast", A::I(1)), ("axis", A::I(1))]);
    let y = b.op("Conv", &[&y, &v], &[]);
    b.g.output.push(info(&y, DataType::Float, &[2, 2, 4, 4]));
    assert!(check(&b.model(), 0).is_err_and(|e| e.contains("operator set")));
}

#[test]
fn resampled_channels() {
    // A scale that leaves the number of channels as it is may still move them.
    sound("scale of 1.1", |b| {
        b.opset = 13;
        let x = b.channels(&[2, 8, 3, 3], 1);
        let s = b.f(&[4], &[1.0, 1.1, 2.0, 2.0]);
        let y = b.op(
            "Resize",
            &[&x, "", &s],
            &[
                ("mode", A::S("nearest")),
                ("coordinate_transformation_mode", A::S("asymmetric")),
                ("nearest_mode", A::S("floor")),
            ],
        );
        b.sink(&y, 1);
    });
}

#[test]
fn a_single_channel_left_is_not_squeezed() {
    sound("squeeze without axes", |b| {
        b.opset = 13;
        let x = b.channels(&[2, 2, 1, 3], 1);
        let y = b.op("Squeeze", &[&x], &[]);
        b.sink(&y, 1);
    });
}

#[test]
fn bounds_of_32_bits() {
    // All of a slice's bounds have one type.
    for seed in 0..4 {
        let mut b = Build::new(seed);
        b.opset = 13;
        let x = b.channels(&[2, 8, 3, 3], 1);
        let s = b.op("Shape", &[&x], &[]);
        let at = b.ints(&[1]);
        let n = b.op("Gather", &[&s, &at], &[]);
        let n = b.cast(&n, DataType::Int32);
        let [zero, one, two] = [0, 1, 2].map(|v| b.raw(DataType::Int32, &[1], vec![v, 0, 0, 0]));
        let half = b.op("Div", &[&n, &two], &[]);
        let y = b.op("Slice", &[&x, &zero, &half, &one], &[]);
        let z = b.op("Slice", &[&x, &half, &n, &one], &[]);
        b.sink(&y, 1);
        b.sink(&z, 1);
        let c = check(&b.model(), seed).unwrap_or_else(|e| panic!("{e}"));
        let pruned = ModelProto::decode(c.bytes.as_slice()).unwrap().graph.unwrap();
        for slice in pruned.node.iter().filter(|n| n.op_type() == "Slice") {
            for t in pruned.initializer.iter().filter(|t| slice.input[1..].iter().any(|i| i == t.name())) {
                assert_eq!(t.data_type(), DataType::Int32 as i32, "{} of {}", t.name(), slice.name());
            }
        }
    }
}
