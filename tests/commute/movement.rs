//! Operators that move axes, repeat them, divide and merge them, or resample positions.

use crate::Expect::{self, Carries, Pins};
use crate::Gen;
use crate::common::{A, Build};
use crate::norms::sizes;
use onnx_prune::onnx::proto::tensor_proto::DataType;

/// Operators and their generators.
pub const CASES: &[(&[&str], Gen)] = &[
    (&["Transpose"], transpose),
    (&["Squeeze"], squeeze),
    (&["Unsqueeze"], unsqueeze),
    (&["Expand"], expand),
    (&["Tile"], tile),
    (&["DepthToSpace"], depth_to_space),
    (&["SpaceToDepth"], space_to_depth),
    (&["Reshape"], reshape),
    (&["Flatten"], flatten),
    (&["Resize"], resize),
    (&["Upsample"], upsample),
];

fn transpose(b: &mut Build, op: &str) -> Expect {
    let dims = sizes(b, 2, 5);
    let rank = dims.len();
    let x = b.channels(&dims, 1);
    let (perm, attrs) = if b.one_in(4) {
        ((0..rank).rev().collect(), vec![])
    } else {
        let p = b.perm(rank);
        (p.clone(), vec![("perm", A::list(&p))])
    };
    let y = b.op(op, &[&x], &attrs);
    b.sink(&y, perm.iter().position(|&p| p == 1).unwrap_or(0));
    Carries
}

/// An operator whose axes are an attribute before opset 13 and an input from then on.
fn with_axes(b: &mut Build, op: &str, x: &str, axes: &[i64]) -> String {
    if b.opset < 13 {
        return b.op(op, &[x], &[("axes", A::L(axes.to_vec()))]);
    }
    let axes = b.ints(axes);
    b.op(op, &[x, &axes], &[])
}

fn squeeze(b: &mut Build, op: &str) -> Expect {
    b.opset = b.pick(&[7, 11, 13]);
    let mut dims = vec![2, b.r(3, 6), 1, b.r(2, 3), 1];
    dims.truncate(b.r(3, 5));
    let rank = dims.len();
    let x = b.channels(&dims, 1);
    let mut axes: Vec<i64> = vec![2];
    if rank == 5 && b.coin() {
        axes.push(if b.opset >= 11 && b.coin() { -1 } else { 4 });
    }
    let y = if b.one_in(3) { b.op(op, &[&x], &[]) } else { with_axes(b, op, &x, &axes) };
    b.sink(&y, 1);
    Carries
}

fn unsqueeze(b: &mut Build, op: &str) -> Expect {
    b.opset = b.pick(&[7, 11, 13]);
    let dims = sizes(b, 2, 3);
    let x = b.channels(&dims, 1);
    let rank = dims.len();
    let total = rank + b.r(1, 2);
    let mut axes = b.perm(total);
    axes.truncate(total - rank);
    let ch = (0..total).filter(|a| !axes.contains(a)).nth(1).unwrap_or(1);
    let negative = b.opset >= 11 && b.coin();
    let axes: Vec<i64> = axes.iter().map(|&a| if negative { a as i64 - total as i64 } else { a as i64 }).collect();
    let y = with_axes(b, op, &x, &axes);
    b.sink(&y, ch);
    Carries
}

fn expand(b: &mut Build, op: &str) -> Expect {
    let (c, h, w) = (b.r(3, 6), b.r(2, 4), b.r(2, 4));
    let x = b.channels(&[2, c, 1, w], 1);
    match b.r(0, 3) {
        0 => {
            // A gate of one channel spread over the channels of another tensor.
            let y = b.channels(&[2, c, h, w], 1);
            let one = b.channels(&[2, 1, h, w], 1);
            let to = b.sizes(&[1, c, 1, 1]);
            let z = b.op(op, &[&one, &to], &[]);
            let z = b.op("Mul", &[&y, &z], &[]);
            b.sink(&z, 1);
            b.sink(&x, 1);
        }
        1 => {
            let one = b.w(&[1, 1, 1]);
            let to = b.sizes(&[c, 1, w]);
            let z = b.op(op, &[&one, &to], &[]);
            let z = b.op("Mul", &[&x, &z], &[]);
            b.sink(&z, 1);
        }
        2 => {
            let y = b.channels(&[2, c, h, w], 1);
            let shape = b.op("Shape", &[&y], &[]);
            let z = b.op(op, &[&x, &shape], &[]);
            let z = b.op("Add", &[&y, &z], &[]);
            b.sink(&z, 1);
        }
        _ => {
            let first = b.pick(&[1, c]);
            let mut to = vec![first, h, w];
            if b.coin() {
                to.insert(0, 1);
            }
            let to = b.sizes(&to);
            let y = b.op(op, &[&x, &to], &[]);
            b.sink(&y, 1);
        }
    }
    Carries
}

fn tile(b: &mut Build, op: &str) -> Expect {
    let (c, w) = (b.r(3, 5), b.r(2, 4));
    let many = b.r(1, 3);
    let x = b.channels(&[2, c, 1, w], 1);
    if b.coin() {
        let to = b.sizes(&[1, many, 3, 1]);
        let y = b.op(op, &[&x, &to], &[]);
        b.sink(&y, 1);
    } else {
        let one = b.channels(&[2, 1, 1, w], 1);
        let to = b.sizes(&[1, c, 1, 1]);
        let y = b.op(op, &[&one, &to], &[]);
        let y = b.op("Add", &[&y, &x], &[]);
        b.sink(&y, 1);
    }
    Carries
}

fn depth_to_space(b: &mut Build, op: &str) -> Expect {
    let (k, c) = (2, b.r(1, 4));
    let x = b.channels(&[2, c * k * k, 3, 2], 1);
    let mut attrs = vec![("blocksize", A::I(k as i64))];
    match b.r(0, 2) {
        0 => {}
        1 => attrs.push(("mode", A::S("DCR"))),
        _ => attrs.push(("mode", A::S("CRD"))),
    }
    let y = b.op(op, &[&x], &attrs);
    b.sink(&y, 1);
    if c == 1 { Pins } else { Carries }
}

fn space_to_depth(b: &mut Build, op: &str) -> Expect {
    let c = b.r(2, 4);
    let x = b.channels(&[2, c, 4, 6], 1);
    let y = b.op(op, &[&x], &[("blocksize", A::I(2))]);
    b.sink(&y, 1);
    Carries
}

fn reshape(b: &mut Build, op: &str) -> Expect {
    let (g, m, h, w) = (b.r(2, 3), b.r(2, 4), b.r(1, 3), b.r(2, 3));
    let c = (g * m) as i64;
    let x = b.channels(&[2, g * m, h, w], 1);
    if b.one_in(4) {
        return blocks(b, op, &x, [g, m, h, w]);
    }
    let (g, m, h, w) = (g as i64, m as i64, h as i64, w as i64);
    let n = if b.dynamic || b.coin() { 0 } else { 2 };
    let choice = b.r(0, 7);
    let to: Vec<i64> = match choice {
        0 => vec![n, -1],
        1 => vec![n, c * h * w],
        2 => vec![n, g, m, h, w],
        3 => vec![n, g, -1, h, w],
        4 => vec![n, -1, h * w],
        5 => vec![n, c, h * w],
        6 => vec![n, 0, -1],
        _ => vec![if n == 0 { -1 } else { 2 }, c, 1, h, w],
    };
    let to = if b.one_in(4) && choice >= 4 {
        // Computed from the tensor's own sizes.
        let shape = b.op("Shape", &[&x], &[]);
        let ids = b.ints(&[0, 1]);
        let head = b.op("Gather", &[&shape, &ids], &[]);
        let tail = b.ints(&[-1]);
        b.op("Concat", &[&head, &tail], &[("axis", A::I(0))])
    } else {
        b.ints(&to)
    };
    let y = b.op(op, &[&x, &to], &[]);
    if matches!(choice, 2 | 3) {
        // Both halves of the divided axis are read: one of them stays whole.
        let ch = b.r(1, 2);
        b.sink(&y, ch);
    } else {
        b.sink(&y, 1);
    }
    Carries
}

/// Group normalization as exporters write it: `[N,C,H,W] → [N,G,…] → InstanceNormalization → [N,C,H,W]`.
fn blocks(b: &mut Build, op: &str, x: &str, [g, m, h, w]: [usize; 4]) -> Expect {
    let n = if b.dynamic || b.coin() { 0 } else { 2 };
    let rest = if b.coin() { -1 } else { (m * h * w) as i64 };
    let to = b.ints(&[n, g as i64, rest]);
    let back = b.ints(&[n, (g * m) as i64, h as i64, w as i64]);
    let parts = b.op(op, &[x, &to], &[]);
    let (scale, bias) = (b.pos(&[g]), b.w(&[g]));
    let normed = b.op("InstanceNormalization", &[&parts, &scale, &bias], &[]);
    let y = b.op(op, &[&normed, &back], &[]);
    b.sink(&y, 1);
    Carries
}

fn flatten(b: &mut Build, op: &str) -> Expect {
    let dims = sizes(b, 2, 4);
    let x = b.channels(&dims, 1);
    let attrs = if b.coin() { vec![] } else { vec![("axis", A::I(1))] };
    let y = b.op(op, &[&x], &attrs);
    b.sink(&y, 1);
    Carries
}

fn resize(b: &mut Build, op: &str) -> Expect {
    b.opset = b.pick(&[10, 11, 13, 18]);
    let (c, h, w) = (b.r(3, 6), b.r(2, 3), b.r(2, 3));
    let x = b.channels(&[2, c, h, w], 1);
    let mode = b.pick(&["nearest", "linear"]);
    let mut attrs = vec![("mode", A::S(mode))];
    if b.opset == 10 {
        let s = b.f(&[4], &[1.0, 1.0, 2.0, 2.0]);
        let y = b.op(op, &[&x, &s], &attrs);
        b.sink(&y, 1);
        return Carries;
    }
    let how = b.pick(&["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]);
    attrs.push(("coordinate_transformation_mode", A::S(how)));
    if mode == "nearest" {
        attrs.push(("nearest_mode", A::S(b.pick(&["floor", "round_prefer_floor"]))));
    }
    let short = b.opset == 18 && b.coin();
    if short {
        attrs.push(("axes", A::L(vec![2, 3])));
    }
    // Not optional at first.
    let none = if b.opset < 13 { b.f(&[0], &[]) } else { String::new() };
    let y = match b.r(0, 2) {
        0 => {
            let s = if short { b.f(&[2], &[2.0, 2.0]) } else { b.f(&[4], &[1.0, 1.0, 2.0, 2.0]) };
            b.op(op, &[&x, &none, &s], &attrs)
        }
        1 if !short => {
            // Sizes from the tensor itself, as exporters write them.
            let shape = b.op("Shape", &[&x], &[]);
            let (from, to) = (b.ints(&[0]), b.ints(&[2]));
            let head = b.op("Slice", &[&shape, &from, &to], &[]);
            let tail = b.sizes(&[2 * h, 3 * w]);
            let sizes = b.op("Concat", &[&head, &tail], &[("axis", A::I(0))]);
            b.op(op, &[&x, &none, &none, &sizes], &attrs)
        }
        _ => {
            b.dynamic = false;
            let to = if short { vec![2 * h, 3 * w] } else { vec![2, c, 2 * h, 3 * w] };
            let to = b.sizes(&to);
            // The input has been declared already.
            for i in &mut b.g.input {
                *i = crate::common::build::info(i.name(), DataType::Float, &declared(i));
            }
            b.op(op, &[&x, &none, &none, &to], &attrs)
        }
    };
    b.sink(&y, 1);
    Carries
}

/// Declared sizes, a dynamic batch as 2.
fn declared(i: &onnx_prune::onnx::proto::ValueInfoProto) -> Vec<i64> {
    use onnx_prune::onnx::proto::{tensor_shape_proto::dimension::Value, type_proto};
    let Some(type_proto::Value::TensorType(t)) = i.r#type.as_ref().and_then(|t| t.value.as_ref()) else {
        return vec![];
    };
    let size = |d: &onnx_prune::onnx::proto::tensor_shape_proto::Dimension| match d.value {
        Some(Value::DimValue(n)) => n,
        _ => 2,
    };
    t.shape.iter().flat_map(|s| &s.dim).map(size).collect()
}

fn upsample(b: &mut Build, op: &str) -> Expect {
    b.opset = b.pick(&[7, 9]);
    let c = b.r(3, 6);
    let x = b.channels(&[2, c, 2, 3], 1);
    let mode = b.pick(&["nearest", "linear"]);
    let scales = [1.0, 1.0, 2.0, 2.0];
    let y = if b.opset == 7 {
        b.op(op, &[&x], &[("mode", A::S(mode)), ("scales", A::Fs(scales.to_vec()))])
    } else {
        let s = b.f(&[4], &scales);
        b.op(op, &[&x, &s], &[("mode", A::S(mode))])
    };
    b.sink(&y, 1);
    Carries
}
