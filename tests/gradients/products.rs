//! Products of matrices, and transposed convolutions.

use super::{Case, Gen};
use crate::common::{A, Build};
use crate::layers::weight;

pub const CASES: &[(&[&str], Gen)] = &[(&["Gemm"], gemm), (&["MatMul"], matmul), (&["ConvTranspose"], conv_transpose)];

fn gemm(b: &mut Build, op: &str) -> Case {
    let (ta, tb) = (b.coin(), b.coin());
    let x = b.input(if ta { &[3, 2] } else { &[2, 3] });
    let w = weight(b, if tb { &[4, 3] } else { &[3, 4] });
    let dims = b.pick(&[vec![4], vec![1, 4], vec![2, 4], vec![2, 1], vec![1], vec![]]);
    let c = weight(b, &dims);
    let mut attrs = vec![("transA", A::I(i64::from(ta))), ("transB", A::I(i64::from(tb)))];
    if b.coin() {
        attrs.push(("alpha", A::F(0.5)));
    }
    let with_c = b.coin();
    if with_c && b.coin() {
        attrs.push(("beta", A::F(-1.5)));
    }
    let inputs: &[&str] = if with_c { &[&x, &w, &c] } else { &[&x, &w] };
    let y = b.op(op, inputs, &attrs);
    b.output(&y);
    if with_c { Case::of(&[&w, &c]) } else { Case::of(&[&w]) }
}

fn matmul(b: &mut Build, op: &str) -> Case {
    let (one, two) = b.pick(&[
        (vec![2, 3], vec![3, 4]),
        (vec![2, 5, 3], vec![3, 4]),
        (vec![2, 2, 5, 3], vec![3, 4]),
        (vec![2, 5, 3], vec![2, 3, 4]),
        (vec![2, 1, 5, 3], vec![3, 3, 4]),
        (vec![5, 3], vec![2, 3, 4]),
    ]);
    let (x, w) = (b.input(&one), weight(b, &two));
    let y = b.op(op, &[&x, &w], &[]);
    b.output(&y);
    Case::of(&[&w])
}

fn conv_transpose(b: &mut Build, op: &str) -> Case {
    let rank = b.pick(&[1, 2, 2, 2]);
    let (g, i, o) = match b.r(0, 2) {
        0 => (1, b.r(1, 4), b.r(1, 4)),
        1 => (b.r(2, 3), 1, b.r(1, 2)),
        _ => (2, 2, b.r(1, 3)),
    };
    let kernel: Vec<usize> = (0..rank).map(|_| b.r(1, 4)).collect();
    let strides: Vec<usize> = (0..rank).map(|_| b.r(1, 3)).collect();
    let dilations: Vec<usize> = (0..rank).map(|_| b.r(1, 2)).collect();
    let size: Vec<usize> = (0..rank).map(|_| b.r(3, 5)).collect();
    let x = b.input(&[&[2, g * i], size.as_slice()].concat());
    let w = weight(b, &[&[g * i, o], kernel.as_slice()].concat());
    let mut attrs = vec![("group", A::I(g as i64)), ("strides", A::list(&strides)), ("dilations", A::list(&dilations))];
    let extent: Vec<usize> = (0..rank).map(|a| (kernel[a] - 1) * dilations[a] + 1).collect();
    match b.r(0, 3) {
        0 => {
            let pads: Vec<usize> = (0..2 * rank).map(|i| b.r(0, (extent[i % rank] - 1).min(2))).collect();
            attrs.push(("pads", A::list(&pads)));
        }
        1 => {
            let more: Vec<usize> = strides.iter().map(|&s| b.r(0, s - 1)).collect();
            attrs.push(("output_padding", A::list(&more)));
        }
        2 if extent.iter().zip(&strides).all(|(e, s)| e > s) => {
            attrs.push(("auto_pad", A::S(b.pick(&["SAME_UPPER", "SAME_LOWER"]))));
        }
        _ => {}
    }
    let bias = weight(b, &[g * o]);
    let with_bias = b.coin();
    let inputs: Vec<&str> = if with_bias { vec![&x, &w, &bias] } else { vec![&x, &w] };
    let y = b.op(op, &inputs, &attrs);
    b.output(&y);
    if with_bias { Case::of(&[&w, &bias]) } else { Case::of(&[&w]) }
}
