//! The bias of a convolution that is not a constant of the file.

use crate::common::Build;
use crate::common::{A, check};
use crate::must_not::{held, sound};

#[test]
fn a_bias_from_outside() {
    held("bias as a graph input", "graph input", "graph input", |b| {
        b.dynamic = false;
        let (x, w, bias) = (b.input(&[2, 3, 4, 4]), b.w(&[6, 3, 1, 1]), b.input(&[6]));
        let y = b.op("Conv", &[&x, &w, &bias], &[]);
        b.sink(&y, 1);
    });
}

/// A bias that another layer makes out of a second input.
fn made(b: &mut Build) {
    b.dynamic = false;
    let (x, z) = (b.input(&[2, 3, 4, 4]), b.input(&[1, 5]));
    let (w, v, c) = (b.w(&[6, 3, 1, 1]), b.w(&[5, 6]), b.w(&[6]));
    let bias = b.op("Gemm", &[&z, &v, &c], &[]);
    let to = b.ints(&[-1]);
    let bias = b.op("Reshape", &[&bias, &to], &[]);
    let y = b.op("Conv", &[&x, &w, &bias], &[]);
    b.sink(&y, 1);
}

#[test]
fn a_bias_that_a_layer_makes() {
    sound("bias of a layer", made);
    let mut b = Build::new(1);
    made(&mut b);
    let c = check(&b.model(), 1).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(c.prunable, 6, "{:?}", c.pins);
}

#[test]
fn a_bias_behind_an_operator() {
    sound("bias behind an operator", |b| {
        let (x, w, c) = (b.input(&[2, 3, 4, 4]), b.w(&[6, 3, 1, 1]), b.w(&[6]));
        let op = b.pick(&["Neg", "Tanh", "Identity"]);
        let bias = b.op(op, &[&c], &[]);
        let y = b.op("Conv", &[&x, &w, &bias], &[]);
        b.sink(&y, 1);
    });
    held("a bias that mixes its channels", "Softmax", "statistic", |b| {
        b.opset = 13;
        let (x, w, c) = (b.input(&[2, 3, 4, 4]), b.w(&[6, 3, 1, 1]), b.w(&[6]));
        let bias = b.op("Softmax", &[&c], &[("axis", A::I(0))]);
        let y = b.op("Conv", &[&x, &w, &bias], &[]);
        b.sink(&y, 1);
    });
}
