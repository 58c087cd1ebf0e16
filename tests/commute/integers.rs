//! Layers of integer arithmetic hold their channels.

use crate::Expect::{self, Pins};
use crate::Gen;
use crate::common::{A, Build};
use onnx_prune::onnx::proto::tensor_proto::DataType;

/// Operators and their generators.
pub const CASES: &[(&[&str], Gen)] = &[
    (&["ConvInteger", "QLinearConv"], conv),
    (&["MatMulInteger", "QLinearMatMul"], matmul),
    (&["DynamicQuantizeLinear"], dynamic),
];

fn weight(b: &mut Build, dims: &[usize]) -> String {
    let bytes = (0..dims.iter().product()).map(|_| (b.r(0, 200) as i64 - 100) as i8 as u8).collect();
    b.raw(DataType::Int8, dims, bytes)
}

/// The inputs of a layer over quantised channels: with all scales, or with zero points alone.
fn layer(b: &mut Build, op: &str, x: &str, w: &str, attrs: &[(&str, A)]) -> String {
    let (scale, zero) = (b.f(&[], &[0.05]), b.raw(DataType::Uint8, &[], vec![3]));
    let q = b.op("QuantizeLinear", &[x, &scale, &zero], &[]);
    if op.starts_with("QLinear") {
        let of_weight = b.raw(DataType::Int8, &[], vec![0]);
        let y = b.op(op, &[&q, &scale, &zero, w, &scale, &of_weight, &scale, &zero], attrs);
        return b.op("DequantizeLinear", &[&y, &scale, &zero], &[]);
    }
    let y = b.op(op, &[&q, w, &zero], attrs);
    b.cast(&y, DataType::Float)
}

fn conv(b: &mut Build, op: &str) -> Expect {
    let (c, m) = (b.r(2, 4), b.r(3, 5));
    let x = b.channels(&[2, c, 4, 5], 1);
    let w = weight(b, &[m, c, 2, 3]);
    let y = layer(b, op, &x, &w, &[("pads", A::L(vec![0, 1, 1, 1]))]);
    b.sink(&y, 1);
    Pins
}

fn matmul(b: &mut Build, op: &str) -> Expect {
    let (c, m) = (b.r(2, 4), b.r(3, 5));
    let x = b.channels(&[2, 3, c], 2);
    let w = weight(b, &[c, m]);
    let y = layer(b, op, &x, &w, &[]);
    b.sink(&y, 2);
    Pins
}

fn dynamic(b: &mut Build, op: &str) -> Expect {
    let c = b.r(2, 5);
    let x = b.channels(&[2, c, 3], 1);
    let y = b.op_n(op, &[&x], &[], 3);
    let (q, zero) = (b.cast(&y[0], DataType::Float), b.cast(&y[2], DataType::Float));
    let z = b.op("Sub", &[&q, &zero], &[]);
    let z = b.op("Mul", &[&z, &y[1]], &[]);
    b.sink(&z, 1);
    Pins
}
