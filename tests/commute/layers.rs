//! Layers that make and read channels: convolutions and matrix products.

use crate::Expect::{self, Carries, Pins};
use crate::Gen;
use crate::common::{A, Build};
use onnx_prune::onnx::proto::tensor_proto::DataType;

/// Operators and their generators.
pub const CASES: &[(&[&str], Gen)] =
    &[(&["Conv"], conv), (&["ConvTranspose"], conv_transpose), (&["Gemm"], gemm), (&["MatMul"], matmul)];

/// Random window attributes for these positions, and the kernel.
pub fn window(b: &mut Build, positions: &[usize], most: usize, dilate: bool) -> (Vec<usize>, Vec<(&'static str, A)>) {
    let n = positions.len();
    let kernel: Vec<usize> = (0..n).map(|_| b.r(1, most)).collect();
    let mut attrs = vec![("kernel_shape", A::list(&kernel))];
    if b.coin() {
        let v: Vec<usize> = (0..n).map(|_| b.r(1, 2)).collect();
        attrs.push(("strides", A::list(&v)));
    }
    let auto = b.one_in(4);
    if auto {
        let how = b.pick(&["SAME_UPPER", "SAME_LOWER", "VALID"]);
        attrs.push(("auto_pad", A::S(how)));
    } else if b.coin() {
        let v: Vec<usize> = (0..2 * n).map(|i| b.r(0, kernel[i % n] - 1)).collect();
        attrs.push(("pads", A::list(&v)));
    }
    if dilate && b.one_in(3) && !auto {
        let fits = |i: usize| positions[i] > 2 * (kernel[i] - 1);
        let v: Vec<usize> = (0..n).map(|i| if fits(i) { b.r(1, 2) } else { 1 }).collect();
        attrs.push(("dilations", A::list(&v)));
    }
    (kernel, attrs)
}

fn positions(b: &mut Build) -> Vec<usize> {
    let n = b.pick(&[1, 2, 2, 3]);
    (0..n).map(|_| b.r(4, 6)).collect()
}

fn conv(b: &mut Build, _: &str) -> Expect {
    let space = positions(b);
    let g = b.pick(&[1, 1, 2, 3]);
    let c = g * b.r(2, 4);
    let (g, per) = match b.r(0, 3) {
        0 => (c, 1),
        _ => (g, c / g),
    };
    let m = if g == 1 { b.r(3, 6) } else { g * b.r(if per == 1 { 1 } else { 2 }, 3) };
    let (kernel, mut attrs) = window(b, &space, 3, true);
    let x = b.channels(&[&[2, c], space.as_slice()].concat(), 1);
    let w = b.w(&[&[m, per], kernel.as_slice()].concat());
    if b.coin() {
        attrs.retain(|a| a.0 != "kernel_shape");
    }
    if g > 1 || b.coin() {
        attrs.push(("group", A::I(g as i64)));
    }
    let bias = b.w(&[m]);
    let inputs: &[&str] = if b.coin() { &[&x, &w, &bias] } else { &[&x, &w] };
    let y = b.op("Conv", inputs, &attrs);
    b.sink(&y, 1);
    Carries
}

fn conv_transpose(b: &mut Build, _: &str) -> Expect {
    let space = positions(b);
    let kind = b.r(0, 3);
    let (c, g, per) = match kind {
        0 => {
            let c = b.r(2, 6);
            (c, c, b.r(1, 2))
        }
        1 => {
            let g = b.r(2, 3);
            (g * b.r(2, 3), g, b.r(2, 3))
        }
        _ => (b.r(2, 6), 1, b.r(2, 6)),
    };
    let (kernel, mut attrs) = window(b, &space, 3, true);
    if b.one_in(4)
        && let Some((_, A::L(s))) = attrs.iter().find(|a| a.0 == "strides").cloned()
    {
        attrs.push(("output_padding", A::L(s.iter().map(|s| s - 1).collect())));
    }
    let x = b.channels(&[&[2, c], space.as_slice()].concat(), 1);
    let w = b.w(&[&[c, per], kernel.as_slice()].concat());
    if g > 1 || b.coin() {
        attrs.push(("group", A::I(g as i64)));
    }
    let bias = b.w(&[g * per]);
    let inputs: &[&str] = if b.coin() { &[&x, &w, &bias] } else { &[&x, &w] };
    let y = b.op("ConvTranspose", inputs, &attrs);
    b.sink(&y, 1);
    Carries
}

fn gemm(b: &mut Build, _: &str) -> Expect {
    let (n, c, m) = (2, b.r(3, 6), b.r(3, 6));
    let mut attrs: Vec<(&str, A)> = Vec::new();
    if b.coin() {
        attrs.push(("alpha", A::F(0.7)));
        attrs.push(("beta", A::F(1.3)));
    }
    let left = b.one_in(3);
    let (turn_a, turn_b) = (b.coin(), b.coin());
    if turn_a {
        attrs.push(("transA", A::I(1)));
    }
    if turn_b {
        attrs.push(("transB", A::I(1)));
    }
    let sizes = |turn: bool, p: usize, q: usize| if turn { [q, p] } else { [p, q] };
    let (p, q, rows, cols);
    if left {
        // Weights [m, c] times channels [c, n].
        p = b.w(&sizes(turn_a, m, c));
        q = b.channels(&sizes(turn_b, c, n), usize::from(turn_b));
        (rows, cols) = (m, n);
    } else {
        p = b.channels(&sizes(turn_a, n, c), usize::from(!turn_a));
        q = b.w(&sizes(turn_b, c, m));
        (rows, cols) = (n, m);
    }
    let free = if left { cols } else { rows };
    let bias = match b.r(0, 5) {
        0 => Some(b.w(&[cols])),
        1 => Some(b.w(&[1, cols])),
        2 if !b.dynamic || left => Some(b.w(&[rows, 1])),
        3 if !b.dynamic && free == 2 => Some(b.w(&[rows, cols])),
        4 => Some(b.w(&[])),
        _ => None,
    };
    let mut inputs = vec![p.as_str(), q.as_str()];
    inputs.extend(bias.as_deref());
    let y = b.op("Gemm", &inputs, &attrs);
    b.sink(&y, usize::from(!left));
    Carries
}

/// A weight `[…, c, m]`, perhaps behind operators that move or convert it.
fn weight(b: &mut Build, batch: &[usize], c: usize, m: usize) -> String {
    match b.r(0, 3) {
        0 => {
            let w = b.w(&[batch, &[m, c]].concat());
            let r = batch.len();
            let perm: Vec<usize> = (0..r).chain([r + 1, r]).collect();
            b.op("Transpose", &[&w], &[("perm", A::list(&perm))])
        }
        1 if batch.is_empty() => {
            b.opset = 13;
            let bytes = (0..c * m).map(|_| (b.r(0, 200) as i64 - 100) as i8 as u8).collect();
            let w = b.raw(DataType::Int8, &[c, m], bytes);
            let per_axis = b.coin();
            let axis = b.r(0, 1);
            let n = [c, m][axis];
            let scale: Vec<f32> = (0..n).map(|_| 0.005 + b.r(1, 9) as f32 * 1e-3).collect();
            if per_axis {
                let (s, z) = (b.f(&[n], &scale), b.raw(DataType::Int8, &[n], vec![0; n]));
                b.op("DequantizeLinear", &[&w, &s, &z], &[("axis", A::I(axis as i64))])
            } else {
                let s = b.f(&[], &scale[..1]);
                b.op("DequantizeLinear", &[&w, &s], &[])
            }
        }
        _ => b.w(&[batch, &[c, m]].concat()),
    }
}

fn matmul(b: &mut Build, _: &str) -> Expect {
    let (c, m, t) = (b.r(3, 6), b.r(3, 6), b.r(2, 4));
    match b.r(0, 4) {
        // Weights on the left: [m, c] × [N, c, t].
        0 => {
            let w = weight(b, &[], m, c);
            let x = b.channels(&[2, c, t], 1);
            let y = b.op("MatMul", &[&w, &x], &[]);
            b.sink(&y, 1);
        }
        // A weight of its own per sample position: [c2, c, m], and channels that are a batch axis.
        1 => {
            let (h, x) = (b.r(2, 4), b.coin());
            let dims = [2, h, t, c];
            let w = weight(b, &[h], c, m);
            if x {
                let x = b.channels(&dims, 3);
                let y = b.op("MatMul", &[&x, &w], &[]);
                b.sink(&y, 3);
            } else {
                let x = b.channels(&dims, 1);
                let y = b.op("MatMul", &[&x, &w], &[]);
                b.sink(&y, 1);
            }
        }
        2 => {
            let x = b.channels(&[2, c], 1);
            let w = weight(b, &[], c, m);
            let y = b.op("MatMul", &[&x, &w], &[]);
            b.sink(&y, 1);
        }
        // Two activations: the summed axis stays whole.
        3 if b.one_in(2) => {
            let x = b.channels(&[2, t, c], 2);
            let y = b.channels(&[2, c, t], 1);
            let z = b.op("MatMul", &[&x, &y], &[]);
            b.output(&z);
            return Pins;
        }
        _ => {
            let rank = b.r(3, 4);
            let mut dims = vec![2, 3, t];
            dims.truncate(rank - 1);
            dims.push(c);
            let x = b.channels(&dims, rank - 1);
            let w = weight(b, &[], c, m);
            let y = b.op("MatMul", &[&x, &w], &[]);
            b.sink(&y, rank - 1);
        }
    }
    Carries
}
