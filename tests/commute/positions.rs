//! Operators that work by position: sorting, reversing, one-hot, matrices, selection, cropping.

use crate::Expect::{self, Carries, Pins};
use crate::Gen;
use crate::common::{A, Build};
use crate::must_not::held;
use onnx_prune::onnx::proto::tensor_proto::DataType;
use onnx_prune::onnx::tensor;

/// Operators and their generators.
pub const CASES: &[(&[&str], Gen)] = &[
    (&["TopK"], top_k),
    (&["ReverseSequence"], reverse),
    (&["OneHot"], one_hot),
    (&["Trilu"], trilu),
    (&["EyeLike"], eye_like),
    (&["Det"], det),
    (&["Compress"], compress),
    (&["NonZero", "Unique"], found),
    (&["NonMaxSuppression"], suppression),
    (&["CenterCropPad"], center),
    (&["CumProd"], running),
    (&["BitCast"], bit_cast),
    (&["SwiGLU"], gated),
];

fn top_k(b: &mut Build, op: &str) -> Expect {
    b.opset = b.pick(&[9, 10, 11, 13]);
    let (c, t) = (b.r(3, 6), b.r(3, 5));
    let x = b.channels(&[2, c, t], 1);
    let on_channels = b.one_in(4);
    let mut attrs = vec![("axis", A::I(if on_channels { 1 } else { 2 }))];
    if b.opset >= 11 && b.coin() {
        attrs.push(("largest", A::I(0)));
    }
    let y = if b.opset < 10 {
        attrs.push(("k", A::I(2)));
        b.op_n(op, &[&x], &attrs, 2)
    } else {
        let k = b.ints(&[2]);
        b.op_n(op, &[&x, &k], &attrs, 2)
    };
    b.sink(&y[0], 1);
    if !on_channels && b.coin() {
        let i = b.cast(&y[1], DataType::Float);
        b.sink(&i, 1);
    }
    if on_channels { Pins } else { Carries }
}

fn reverse(b: &mut Build, op: &str) -> Expect {
    b.dynamic = false;
    let (c, t) = (b.r(3, 6), b.r(3, 5));
    let steps_first = b.coin();
    let pinned = b.one_in(4);
    let dims = if steps_first { [t, 2, c] } else { [2, t, c] };
    let x = b.channels(&dims, if pinned { usize::from(!steps_first) } else { 2 });
    let lengths = b.init(tensor::from_i64("", &[2], &[t as i64, 2]));
    let (time, batch) = if steps_first { (0, 1) } else { (1, 0) };
    let y = b.op(op, &[&x, &lengths], &[("time_axis", A::I(time)), ("batch_axis", A::I(batch))]);
    b.sink(&y, if pinned { usize::from(!steps_first) } else { 2 });
    if pinned { Pins } else { Carries }
}

fn one_hot(b: &mut Build, op: &str) -> Expect {
    let (c, t) = (b.r(3, 6), b.r(2, 4));
    let x = b.channels(&[2, c, t], 1);
    let classes = b.op("ArgMax", &[&x], &[("axis", A::I(2)), ("keepdims", A::I(0))]);
    let (depth, values) = (b.int(t as i64), b.f(&[2], &[-0.25, 0.75]));
    let axis = b.pick(&[-1, 0, 1, 2]);
    let y = b.op(op, &[&classes, &depth, &values], &[("axis", A::I(axis))]);
    b.sink(&y, if matches!(axis, 0 | 1) { 2 } else { 1 });
    Carries
}

fn trilu(b: &mut Build, op: &str) -> Expect {
    b.opset = 14;
    let (c, t) = (b.r(3, 6), b.r(2, 4));
    let on_channels = b.one_in(4);
    let x = if on_channels { b.channels(&[2, t, c], 2) } else { b.channels(&[2, c, t, 3], 1) };
    let k = b.int(1);
    let inputs: &[&str] = if b.coin() { &[&x, &k] } else { &[&x] };
    let attrs = if b.coin() { vec![("upper", A::I(0))] } else { vec![] };
    let y = b.op(op, inputs, &attrs);
    b.sink(&y, if on_channels { 2 } else { 1 });
    if on_channels { Pins } else { Carries }
}

fn eye_like(b: &mut Build, op: &str) -> Expect {
    let c = b.r(3, 6);
    let x = b.channels(&[2, c], 1);
    let e = b.op(op, &[&x], &[("dtype", A::I(DataType::Float as i64))]);
    let y = b.op("Add", &[&x, &e], &[]);
    b.sink(&y, 1);
    Pins
}

fn det(b: &mut Build, op: &str) -> Expect {
    let c = b.r(3, 6);
    let x = b.channels(&[2, c, 3, 3], 1);
    let y = b.op(op, &[&x], &[]);
    b.sink(&y, 1);
    Carries
}

fn compress(b: &mut Build, op: &str) -> Expect {
    let (c, t) = (b.r(3, 6), b.r(3, 5));
    let x = b.channels(&[2, c, t], 1);
    let condition = b.raw(DataType::Bool, &[3], vec![1, 0, 1]);
    let on_channels = b.one_in(3);
    let axis = b.pick(if on_channels { &[1, -2] } else { &[2, -1] });
    let y = b.op(op, &[&x, &condition], &[("axis", A::I(axis))]);
    b.sink(&y, 1);
    if on_channels { Pins } else { Carries }
}

fn found(b: &mut Build, op: &str) -> Expect {
    let c = b.r(3, 6);
    let x = b.channels(&[2, c], 1);
    let y = b.op(op, &[&x], &[]);
    let y = b.cast(&y, DataType::Float);
    let y = b.op("ReduceSum", &[&y], &[("keepdims", A::I(0))]);
    b.g.output.push(crate::common::build::info(&y, DataType::Float, &[]));
    Pins
}

fn suppression(b: &mut Build, op: &str) -> Expect {
    b.dynamic = false;
    let c = b.r(3, 6);
    let boxes = b.input(&[1, 4, 4]);
    let scores = b.channels(&[1, c, 4], 1);
    let most = b.ints(&[2]);
    let y = b.op(op, &[&boxes, &scores, &most], &[]);
    b.g.output.push(crate::common::build::info(&y, DataType::Int64, &[-1, 3]));
    Pins
}

fn center(b: &mut Build, op: &str) -> Expect {
    b.opset = 18;
    let (c, t) = (b.r(3, 6), b.r(3, 5));
    let x = b.channels(&[2, c, t], 1);
    let to = [c, b.r(2, 7)];
    let moved = b.one_in(4);
    let y = match b.r(0, 2) {
        _ if moved => {
            let to = b.sizes(&[c + 1, to[1]]);
            b.op(op, &[&x, &to], &[("axes", A::L(vec![1, 2]))])
        }
        0 => {
            let to = b.sizes(&to[1..]);
            b.op(op, &[&x, &to], &[("axes", A::L(vec![-1]))])
        }
        1 => {
            let to = b.sizes(&to);
            b.op(op, &[&x, &to], &[("axes", A::L(vec![1, 2]))])
        }
        _ => {
            b.dynamic = false;
            b.g = Default::default();
            let x = b.channels(&[2, c, t], 1);
            let to = b.sizes(&[2, c, to[1]]);
            b.op(op, &[&x, &to], &[])
        }
    };
    b.sink(&y, 1);
    if moved { Pins } else { Carries }
}

fn running(b: &mut Build, op: &str) -> Expect {
    b.opset = 26;
    let (c, t) = (b.r(3, 6), b.r(2, 4));
    let x = b.channels(&[2, c, t], 1);
    let on_channels = b.one_in(4);
    let axis = b.int(if on_channels { 1 } else { 2 });
    let y = b.op(op, &[&x, &axis], &[]);
    b.sink(&y, 1);
    if on_channels { Pins } else { Carries }
}

fn bit_cast(b: &mut Build, op: &str) -> Expect {
    b.opset = 26;
    let (c, t) = (b.r(3, 6), b.r(2, 4));
    let x = b.channels(&[2, c, t], 1);
    let y = b.op(op, &[&x], &[("to", A::I(DataType::Int32 as i64))]);
    let y = b.op(op, &[&y], &[("to", A::I(DataType::Float as i64))]);
    b.sink(&y, 1);
    Carries
}

fn gated(b: &mut Build, op: &str) -> Expect {
    b.opset = 28;
    let (c, t) = (b.r(3, 6), b.r(2, 4));
    let (x, y) = (b.channels(&[2, c, t], 1), b.channels(&[2, c, t], 1));
    let y = b.op(op, &[&x, &y], &[("alpha", A::F(1.5))]);
    b.sink(&y, 1);
    Carries
}

#[test]
fn selections_that_count_elements() {
    held("compress of all elements", "Compress", "all axes", |b| {
        b.dynamic = false;
        let x = b.channels(&[2, 4], 1);
        let condition = b.raw(DataType::Bool, &[5], vec![1, 0, 1, 1, 0]);
        let y = b.op("Compress", &[&x, &condition], &[]);
        b.output(&y);
    });
    held("condition of run time", "Compress", "run time", |b| {
        b.dynamic = false;
        let x = b.channels(&[2, 4], 1);
        let condition = b.input_of(DataType::Bool, &[4]);
        let y = b.op("Compress", &[&x, &condition], &[("axis", A::I(1))]);
        b.g.output.push(crate::common::build::info(&y, DataType::Float, &[2, -1]));
    });
    held("as many as there are channels", "TopK", "size of this axis", |b| {
        b.opset = 13;
        let x = b.channels(&[2, 4, 6], 1);
        let s = b.op("Shape", &[&x], &[]);
        let at = b.ints(&[1]);
        let k = b.op("Gather", &[&s, &at], &[]);
        let y = b.op_n("TopK", &[&x, &k], &[], 2);
        b.sink(&y[0], 1);
    });
}
