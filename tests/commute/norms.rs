//! Normalisation, pooling, reduction.

use crate::Expect::{self, Carries, Pins};
use crate::Gen;
use crate::common::{A, Build};
use crate::layers::window;
use onnx_prune::onnx::proto::tensor_proto::DataType;

/// Operators and their generators.
pub const CASES: &[(&[&str], Gen)] = &[
    (&["BatchNormalization"], batch_norm),
    (&["InstanceNormalization"], instance_norm),
    (&["LayerNormalization", "RMSNormalization"], layer_norm),
    (&["GroupNormalization"], group_norm),
    (&["Softmax", "LogSoftmax", "Hardmax", "LpNormalization"], axis_norm),
    (&["MeanVarianceNormalization"], mean_variance),
    (&["LRN"], lrn),
    (&["MaxPool", "AveragePool", "LpPool"], pool),
    (&["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"], global_pool),
    (
        &[
            "ReduceMean",
            "ReduceSum",
            "ReduceMax",
            "ReduceMin",
            "ReduceProd",
            "ReduceL1",
            "ReduceL2",
            "ReduceLogSum",
            "ReduceLogSumExp",
            "ReduceSumSquare",
        ],
        reduce,
    ),
    (&["ArgMax", "ArgMin"], arg),
    (&["CumSum"], cumsum),
];

/// Sizes `[2, channels, …]` of a rank in this range.
pub fn sizes(b: &mut Build, low: usize, high: usize) -> Vec<usize> {
    let rank = b.r(low, high);
    let mut dims = vec![2, b.r(3, 7)];
    dims.extend((2..rank).map(|_| b.r(2, 5)));
    dims
}

fn batch_norm(b: &mut Build, op: &str) -> Expect {
    b.opset = b.pick(&[7, 9, 14, 15]);
    let dims = sizes(b, 2, 5);
    let x = b.channels(&dims, 1);
    let [gamma, beta, mean] = [0; 3].map(|_| b.w(&[dims[1]]));
    let var = b.pos(&[dims[1]]);
    let mut attrs = vec![];
    if b.coin() {
        attrs.push(("epsilon", A::F(1e-3)));
    }
    if b.coin() && b.opset == 7 {
        attrs.push(("spatial", A::I(1)));
    }
    if b.coin() && b.opset >= 14 {
        attrs.push(("training_mode", A::I(0)));
    }
    let y = b.op(op, &[&x, &gamma, &beta, &mean, &var], &attrs);
    b.sink(&y, 1);
    Carries
}

fn instance_norm(b: &mut Build, op: &str) -> Expect {
    let dims = sizes(b, 3, 5);
    let x = b.channels(&dims, 1);
    let (scale, bias) = (b.w(&[dims[1]]), b.w(&[dims[1]]));
    let y = b.op(op, &[&x, &scale, &bias], &[("epsilon", A::F(1e-2))]);
    b.sink(&y, 1);
    Carries
}

fn layer_norm(b: &mut Build, op: &str) -> Expect {
    b.opset = if op == "RMSNormalization" { 23 } else { 17 };
    let dims = sizes(b, 2, 4);
    let rank = dims.len();
    let x = b.channels(&dims, 1);
    let axis = b.r(1, rank - 1);
    if axis == 1 && b.coin() {
        return gated_norm(b, op, &dims);
    }
    let (scale, bias) = (b.w(&dims[axis..]), b.w(&dims[axis..]));
    let given = if b.coin() { axis as i64 } else { axis as i64 - rank as i64 };
    let inputs: &[&str] = if b.coin() && op == "LayerNormalization" { &[&x, &scale, &bias] } else { &[&x, &scale] };
    let y = b.op(op, inputs, &[("axis", A::I(given)), ("epsilon", A::F(1e-2))]);
    b.sink(&y, 1);
    if axis == 1 { Pins } else { Carries }
}

/// A gate of normalised channels: what it multiplies may leave, and the gate's channels are taken out behind the statistic.
fn gated_norm(b: &mut Build, op: &str, dims: &[usize]) -> Expect {
    let (x, gate) = (b.channels(dims, 1), b.channels(dims, 1));
    let (scale, bias) = (b.w(&dims[1..]), b.w(&dims[1..]));
    let inputs: &[&str] = if op == "LayerNormalization" { &[&gate, &scale, &bias] } else { &[&gate, &scale] };
    let normed = b.op(op, inputs, &[("axis", A::I(1)), ("epsilon", A::F(1e-2))]);
    let y = b.op("Mul", &[&x, &normed], &[]);
    b.sink(&y, 1);
    Carries
}

fn group_norm(b: &mut Build, op: &str) -> Expect {
    b.opset = b.pick(&[18, 21]);
    let (groups, per) = (b.r(1, 4), b.r(1, 3));
    let (groups, per) = if groups * per == 1 { (2, 2) } else { (groups, per) };
    let x = b.channels(&[2, groups * per, 3, 3], 1);
    let n = if b.opset == 18 { groups } else { groups * per };
    let (scale, bias) = (b.w(&[n]), b.w(&[n]));
    let y = b.op(op, &[&x, &scale, &bias], &[("num_groups", A::I(groups as i64))]);
    b.sink(&y, 1);
    if groups == 1 { Pins } else { Carries }
}

fn axis_norm(b: &mut Build, op: &str) -> Expect {
    b.opset = b.pick(&[11, 13]);
    let dims = sizes(b, 2, 4);
    let rank = dims.len();
    let x = b.channels(&dims, 1);
    let axis = b.r(if rank == 2 { 1 } else { 0 }, rank - 1);
    let mut attrs = vec![("axis", A::I(if b.coin() { axis as i64 } else { axis as i64 - rank as i64 }))];
    if op == "LpNormalization" {
        attrs.push(("p", A::I(b.pick(&[1, 2]))));
    }
    let y = b.op(op, &[&x], &attrs);
    b.sink(&y, 1);
    // Older softmaxes run over all axes from `axis` on.
    let flat = b.opset < 13 && op != "LpNormalization";
    if axis == 1 || (flat && axis < 1) { Pins } else { Carries }
}

fn mean_variance(b: &mut Build, op: &str) -> Expect {
    b.opset = 13;
    let dims = sizes(b, 4, 4);
    let x = b.channels(&dims, 1);
    let (attrs, expect) = match b.r(0, 2) {
        0 => (vec![], Carries),
        1 => (vec![("axes", A::L(vec![2, 3]))], Carries),
        _ => (vec![("axes", A::L(vec![1, 2, 3]))], Pins),
    };
    let y = b.op(op, &[&x], &attrs);
    b.sink(&y, 1);
    expect
}

fn lrn(b: &mut Build, op: &str) -> Expect {
    let dims = sizes(b, 4, 4);
    let x = b.channels(&dims, 1);
    let y = b.op(op, &[&x], &[("size", A::I(3))]);
    b.sink(&y, 1);
    Pins
}

fn pool(b: &mut Build, op: &str) -> Expect {
    let n = b.r(1, 3);
    let space: Vec<usize> = (0..n).map(|_| b.r(4, 6)).collect();
    let (_, mut attrs) = window(b, &space, 3, op == "MaxPool");
    if b.one_in(3) && op != "LpPool" && b.opset >= 10 && !attrs.iter().any(|a| a.0 == "auto_pad") {
        attrs.push(("ceil_mode", A::I(1)));
    }
    if op == "AveragePool" && b.coin() {
        attrs.push(("count_include_pad", A::I(1)));
    }
    if op == "LpPool" {
        attrs.push(("p", A::I(b.pick(&[1, 2]))));
    }
    let x = b.channels(&[&[2, 5], space.as_slice()].concat(), 1);
    let y = b.op(op, &[&x], &attrs);
    b.sink(&y, 1);
    Carries
}

fn global_pool(b: &mut Build, op: &str) -> Expect {
    let dims = sizes(b, 3, 5);
    let x = b.channels(&dims, 1);
    let y = b.op(op, &[&x], &[]);
    b.sink(&y, 1);
    Carries
}

fn reduce(b: &mut Build, op: &str) -> Expect {
    b.opset = b.pick(&[11, 13, 18]);
    let dims = sizes(b, 3, 4);
    let rank = dims.len();
    let mut x = b.channels(&dims, 1);
    if matches!(op, "ReduceLogSum" | "ReduceProd") {
        x = b.op("Sigmoid", &[&x], &[]);
    }
    let over_channels = b.one_in(5);
    let mut axes: Vec<usize> = (2..rank).filter(|_| b.coin()).collect();
    if axes.is_empty() {
        axes.push(rank - 1);
    }
    if over_channels {
        axes.insert(0, 1);
    }
    let keep = b.coin();
    let mut attrs = vec![];
    if !keep || b.coin() {
        attrs.push(("keepdims", A::I(i64::from(keep))));
    }
    let signed: Vec<i64> = axes.iter().map(|&a| if b.coin() { a as i64 } else { a as i64 - rank as i64 }).collect();
    let as_input = b.opset >= 18 || (op == "ReduceSum" && b.opset >= 13);
    let y = if as_input {
        let list = b.ints(&signed);
        b.op(op, &[&x, &list], &attrs)
    } else {
        attrs.push(("axes", A::L(signed)));
        b.op(op, &[&x], &attrs)
    };
    if over_channels {
        b.output(&y);
        return Pins;
    }
    b.sink(&y, 1);
    Carries
}

fn arg(b: &mut Build, op: &str) -> Expect {
    let dims = sizes(b, 3, 4);
    let rank = dims.len();
    let x = b.channels(&dims, 1);
    let axis = b.r(1, rank - 1);
    let keep = b.coin();
    let mut attrs = vec![("axis", A::I(axis as i64)), ("keepdims", A::I(i64::from(keep)))];
    if b.opset >= 12 && b.one_in(3) {
        attrs.push(("select_last_index", A::I(1)));
    }
    let y = b.op(op, &[&x], &attrs);
    let y = b.cast(&y, DataType::Float);
    if axis == 1 {
        b.output(&y);
        return Pins;
    }
    b.sink(&y, 1);
    Carries
}

fn cumsum(b: &mut Build, op: &str) -> Expect {
    let dims = sizes(b, 3, 4);
    let rank = dims.len();
    let x = b.channels(&dims, 1);
    let axis = b.r(1, rank - 1);
    let at = if b.coin() { axis as i64 } else { axis as i64 - rank as i64 };
    let at = b.int(at);
    let mut attrs = vec![];
    for name in ["exclusive", "reverse"] {
        if b.one_in(3) {
            attrs.push((name, A::I(1)));
        }
    }
    let y = b.op(op, &[&x, &at], &attrs);
    b.sink(&y, 1);
    if axis == 1 { Pins } else { Carries }
}
