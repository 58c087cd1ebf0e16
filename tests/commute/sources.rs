//! Operators that make values: sizes, constants, ranges.

use crate::Expect::{self, Carries, Pins};
use crate::Gen;
use crate::common::{A, Build};
use onnx_prune::onnx::proto::tensor_proto::DataType;
use onnx_prune::onnx::tensor;

/// Operators and their generators.
pub const CASES: &[(&[&str], Gen)] = &[
    (&["Shape"], shape),
    (&["Size"], size),
    (&["Constant"], constant),
    (&["ConstantOfShape"], constant_of_shape),
    (&["Range"], range),
];

fn shape(b: &mut Build, op: &str) -> Expect {
    let (c, h, w) = (2 * b.r(2, 4), b.r(2, 3), b.r(2, 3));
    let x = b.channels(&[2, c, h, w], 1);
    match b.r(0, 3) {
        // [N, C·H·W] with the product computed.
        0 => {
            let s = b.op(op, &[&x], &[]);
            let (one, rest) = (b.ints(&[0]), b.ints(&[1, 2, 3]));
            let n = b.op("Gather", &[&s, &one], &[]);
            let d = b.op("Gather", &[&s, &rest], &[]);
            let d = b.op("ReduceProd", &[&d], &[("keepdims", A::I(1))]);
            let to = b.op("Concat", &[&n, &d], &[("axis", A::I(0))]);
            let y = b.op("Reshape", &[&x, &to], &[]);
            b.sink(&y, 1);
            Carries
        }
        // The first half of the channels.
        1 => {
            b.opset = 15;
            let s = b.op(op, &[&x], &[("start", A::I(1)), ("end", A::I(2))]);
            let two = b.ints(&[2]);
            let half = b.op("Div", &[&s, &two], &[]);
            let (from, axis) = (b.ints(&[0]), b.ints(&[1]));
            let y = b.op("Slice", &[&x, &from, &half, &axis], &[]);
            let z = b.op("Slice", &[&x, &half, &s, &axis], &[]);
            b.sink(&y, 1);
            b.sink(&z, 1);
            Carries
        }
        // A size as a divisor.
        2 => {
            let s = b.op(op, &[&x], &[]);
            let one = b.int(1);
            let n = b.op("Gather", &[&s, &one], &[]);
            let n = b.cast(&n, DataType::Float);
            let root = b.op("Sqrt", &[&n], &[]);
            let y = b.op("Div", &[&x, &root], &[]);
            b.sink(&y, 1);
            // The pin names the reader that makes a number of the size.
            b.op_n(op, &[&x], &[], 1);
            Carries
        }
        _ => {
            let s = b.op(op, &[&x], &[]);
            let to = b.op("Identity", &[&s], &[]);
            let y = b.op("Reshape", &[&x, &to], &[]);
            b.sink(&y, 1);
            Carries
        }
    }
}

fn size(b: &mut Build, op: &str) -> Expect {
    b.dynamic = false;
    let (c, h) = (b.r(3, 6), b.r(2, 3));
    let x = b.channels(&[1, c, h, 2], 1);
    let n = b.op(op, &[&x], &[]);
    let (one, flat) = (b.ints(&[1]), b.ints(&[-1]));
    let n = b.op("Reshape", &[&n, &flat], &[]);
    let to = b.op("Concat", &[&one, &n], &[("axis", A::I(0))]);
    let y = b.op("Reshape", &[&x, &to], &[]);
    b.sink(&y, 1);
    Carries
}

fn constant(b: &mut Build, op: &str) -> Expect {
    let c = b.r(3, 6);
    let x = b.channels(&[2, c, 3, 2], 1);
    let m = b.r(3, 5);
    let values = b.floats(m * c, c);
    let w = b.op(op, &[], &[("value", A::T(tensor::from_f32("", &[m, c, 1, 1], &values)))]);
    b.opset = b.opset.max(13);
    let list = b.one_in(4);
    let bias = b.floats(m, 1);
    let bias = if list {
        b.op(op, &[], &[("value_floats", A::Fs(bias))])
    } else {
        b.op(op, &[], &[("value", A::T(tensor::from_f32("", &[m], &bias)))])
    };
    let y = b.op("Conv", &[&x, &w, &bias], &[]);
    let slope = b.op(op, &[], &[("value_float", A::F(0.2))]);
    let y = b.op("PRelu", &[&y, &slope], &[]);
    b.sink(&y, 1);
    Carries
}

fn constant_of_shape(b: &mut Build, op: &str) -> Expect {
    let (c, h) = (b.r(3, 6), b.r(2, 3));
    let x = b.channels(&[2, c, h, 2], 1);
    let attrs = match b.coin() {
        true => vec![("value", A::T(tensor::from_f32("", &[1], &[0.3])))],
        false => vec![],
    };
    let to = match b.r(0, 2) {
        0 => b.op("Shape", &[&x], &[]),
        1 => b.sizes(&[1, c, 1, 1]),
        _ => {
            let s = b.op("Shape", &[&x], &[]);
            let (one, ids) = (b.ints(&[1]), b.ints(&[1, 2, 3]));
            let d = b.op("Gather", &[&s, &ids], &[]);
            b.op("Concat", &[&one, &d], &[("axis", A::I(0))])
        }
    };
    let z = b.op(op, &[&to], &attrs);
    let y = if b.coin() {
        b.op("Add", &[&x, &z], &[])
    } else if to.starts_with("Shape") {
        b.op("Concat", &[&z, &x], &[("axis", A::I(1))])
    } else {
        b.op("Sub", &[&z, &x], &[])
    };
    b.sink(&y, 1);
    Carries
}

fn range(b: &mut Build, op: &str) -> Expect {
    let (c, w) = (b.r(3, 6), b.r(2, 5));
    let x = b.channels(&[2, c, w], 1);
    let (zero, one) = (b.int(0), b.int(1));
    let on_channels = b.one_in(3);
    let end = if b.coin() {
        b.int(if on_channels { c } else { w } as i64)
    } else {
        let s = b.op("Shape", &[&x], &[]);
        let at = b.int(if on_channels { 1 } else { 2 });
        b.op("Gather", &[&s, &at], &[])
    };
    let p = b.op(op, &[&zero, &end, &one], &[]);
    let p = b.cast(&p, DataType::Float);
    let to = b.ints(if on_channels { &[1, -1, 1] } else { &[1, 1, -1] });
    let p = b.op("Reshape", &[&p, &to], &[]);
    let y = b.op("Add", &[&x, &p], &[]);
    b.sink(&y, 1);
    if on_channels { Pins } else { Carries }
}
