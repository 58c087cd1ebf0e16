//! Reading and writing at computed positions.

use crate::Expect::{self, Carries, Pins};
use crate::Gen;
use crate::common::{A, Build};
use crate::must_not::held;
use onnx_prune::onnx::proto::tensor_proto::DataType;
use onnx_prune::onnx::tensor;

/// Operators and their generators.
pub const CASES: &[(&[&str], Gen)] = &[
    (&["GatherElements"], gather_elements),
    (&["GatherND"], gather_nd),
    (&["ScatterElements", "Scatter"], scatter_elements),
    (&["ScatterND"], scatter_nd),
    (&["TensorScatter"], tensor_scatter),
];

/// A constant of indices below `n`, some counted from the end.
fn indices(b: &mut Build, dims: &[usize], n: usize) -> String {
    let count = dims.iter().product();
    let v: Vec<i64> = (0..count).map(|_| b.r(0, n - 1) as i64 - if b.one_in(4) { n as i64 } else { 0 }).collect();
    b.init(tensor::from_i64("", dims, &v))
}

fn gather_elements(b: &mut Build, op: &str) -> Expect {
    b.dynamic = false;
    let (c, t, k) = (b.r(3, 6), b.r(3, 5), b.r(2, 4));
    let axis = b.pick(&[1, 2, 2, 2]);
    let x = b.channels(&[2, c, t], 1);
    let mut dims = [2, c, t];
    dims[axis] = k;
    if axis == 1 {
        // The indices count channels.
        let ids = indices(b, &dims, c);
        let y = b.op(op, &[&x, &ids], &[("axis", A::I(1))]);
        b.output(&y);
        return Pins;
    }
    let y = if b.coin() {
        let ids = indices(b, &dims, t);
        let at = b.pick(&[2, -1]);
        b.op(op, &[&x, &ids], &[("axis", A::I(at))])
    } else {
        // Positions that another layer finds, channel by channel.
        let z = b.channels(&[2, c, t], 1);
        let ids = b.op("ArgMax", &[&z], &[("axis", A::I(2))]);
        b.op(op, &[&x, &ids], &[("axis", A::I(2))])
    };
    b.sink(&y, 1);
    Carries
}

fn gather_nd(b: &mut Build, op: &str) -> Expect {
    b.opset = b.pick(&[12, 13]);
    let (c, t, k) = (b.r(3, 6), b.r(3, 5), b.r(2, 4));
    b.dynamic = false;
    let (y, ch) = match b.r(0, 3) {
        // Tuples of batch and position.
        0 => {
            let x = b.channels(&[2, t, c], 2);
            let ids = indices(b, &[k, 2], 2);
            (b.op(op, &[&x, &ids], &[]), 1)
        }
        // Positions per sample.
        1 => {
            let x = b.channels(&[2, t, c], 2);
            let ids = indices(b, &[2, k, 1], t);
            (b.op(op, &[&x, &ids], &[("batch_dims", A::I(1))]), 2)
        }
        // Positions per sample and channel.
        2 => {
            let x = b.channels(&[2, c, t, 3], 1);
            let ids = indices(b, &[2, c, 1], t);
            (b.op(op, &[&x, &ids], &[("batch_dims", A::I(2))]), 1)
        }
        _ => {
            let x = b.channels(&[2, c, t], 1);
            let ids = indices(b, &[k, 2], 2);
            let y = b.op(op, &[&x, &ids], &[]);
            b.output(&y);
            return Pins;
        }
    };
    b.sink(&y, ch);
    Carries
}

fn scatter_elements(b: &mut Build, op: &str) -> Expect {
    b.opset = match op {
        "Scatter" => 9,
        _ => b.pick(&[11, 13, 16, 18]),
    };
    b.dynamic = false;
    let (c, t, k) = (b.r(3, 6), b.r(3, 5), b.r(2, 3));
    let x = b.channels(&[2, c, t], 1);
    let mut attrs = vec![("axis", A::I(2))];
    if b.opset >= 16 && b.coin() {
        attrs.push(("reduction", A::S(b.pick(&["add", "mul"]))));
    }
    // Each position once: the order of writing is not specified.
    let ids: Vec<i64> =
        (0..2 * c).flat_map(|_| b.perm(t).into_iter().take(k).collect::<Vec<_>>()).map(|i| i as i64).collect();
    let partial = b.one_in(5);
    let rows = if partial { c - 1 } else { c };
    let ids = b.init(tensor::from_i64("", &[2, rows, k], &ids[..2 * rows * k]));
    let new = if b.coin() && !partial { b.channels(&[2, rows, k], 1) } else { b.w(&[2, rows, k]) };
    let y = b.op(op, &[&x, &ids, &new], &attrs);
    b.sink(&y, 1);
    if partial { Pins } else { Carries }
}

fn scatter_nd(b: &mut Build, op: &str) -> Expect {
    b.opset = b.pick(&[11, 13, 16]);
    b.dynamic = false;
    let (c, t, k) = (b.r(3, 6), b.r(3, 5), b.r(2, 3));
    let at = b.perm(t);
    let pairs: Vec<i64> = at.iter().take(k).flat_map(|&i| [1, i as i64]).collect();
    let on_channels = b.one_in(4);
    let attrs = if b.opset >= 16 && b.coin() { vec![("reduction", A::S("add"))] } else { vec![] };
    if on_channels {
        let x = b.channels(&[2, t, c], 1);
        let ids = b.init(tensor::from_i64("", &[k, 2], &pairs));
        let new = b.w(&[k, c]);
        let y = b.op(op, &[&x, &ids, &new], &attrs);
        b.sink(&y, 1);
        return Pins;
    }
    let x = b.channels(&[2, t, c], 2);
    let (ids, new) = if b.coin() {
        let new = if b.coin() { b.channels(&[k, c], 1) } else { b.w(&[k, c]) };
        (b.init(tensor::from_i64("", &[k, 2], &pairs)), new)
    } else {
        (b.init(tensor::from_i64("", &[1, 1], &[1])), b.channels(&[1, t, c], 2))
    };
    let y = b.op(op, &[&x, &ids, &new], &attrs);
    b.sink(&y, 2);
    Carries
}

fn tensor_scatter(b: &mut Build, op: &str) -> Expect {
    b.opset = 24;
    b.dynamic = false;
    let c = b.r(3, 6);
    let along = b.one_in(4);
    let x = b.channels(&[2, 4, c], 2);
    let new = if along { b.w(&[2, 4, 2]) } else { b.channels(&[2, 2, c], 2) };
    let mut inputs = vec![x.as_str(), &new];
    let ids = b.init(tensor::from_i64("", &[2], &[1, 0]));
    if b.coin() {
        inputs.push(&ids);
    }
    let mut attrs = vec![];
    if along {
        attrs.push(("axis", A::I(-1)));
    }
    if b.coin() {
        attrs.push(("mode", A::S("circular")));
    }
    let y = b.op(op, &inputs, &attrs);
    b.sink(&y, 2);
    if along { Pins } else { Carries }
}

#[test]
fn rows_that_are_written() {
    // An update that left would leave the old row behind.
    held("rows of updates", "ScatterND", "written", |b| {
        b.dynamic = false;
        let x = b.w(&[6, 3]);
        let ids = b.init(tensor::from_i64("", &[4, 1], &[0, 2, 3, 5]));
        let new = b.channels(&[4, 3], 0);
        let y = b.op("ScatterND", &[&x, &ids, &new], &[]);
        b.output(&y);
    });
    held("run-time tuples", "ScatterND", "written", |b| {
        b.dynamic = false;
        let x = b.channels(&[6, 3], 0);
        let ids = b.input_of(DataType::Int64, &[2, 1]);
        let new = b.w(&[2, 3]);
        let y = b.op("ScatterND", &[&x, &ids, &new], &[]);
        b.sink(&y, 0);
    });
}
