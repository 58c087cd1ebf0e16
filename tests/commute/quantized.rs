//! Quantised layers and tensors: weights behind `DequantizeLinear`, integer convolutions and products.

use crate::Expect::{self, Carries, Pins};
use crate::Gen;
use crate::common::{A, Build};
use crate::layers::window;
use onnx_prune::onnx::proto::tensor_proto::DataType;
use onnx_prune::onnx::tensor;

/// Operators and their generators.
pub const CASES: &[(&[&str], Gen)] = &[
    (&["DequantizeLinear", "com.microsoft:DequantizeLinear"], stored_weights),
    (&["com.microsoft:QuantizeLinear"], quantize),
    (&["DynamicQuantizeLinear"], dynamic),
    (&["QLinearConv", "com.microsoft:QLinearConv", "ConvInteger"], conv),
    (
        &[
            "QLinearMatMul",
            "MatMulInteger",
            "com.microsoft:MatMulIntegerToFloat",
            "com.microsoft:DynamicQuantizeMatMul",
            "com.microsoft:QGemm",
        ],
        matmul,
    ),
    (
        &[
            "com.microsoft:QLinearAdd",
            "com.microsoft:QLinearMul",
            "com.microsoft:QLinearWhere",
            "com.microsoft:QLinearLeakyRelu",
            "com.microsoft:QLinearSigmoid",
        ],
        pointwise,
    ),
    (
        &["com.microsoft:QLinearGlobalAveragePool", "com.microsoft:QLinearAveragePool", "com.microsoft:NhwcMaxPool"],
        pool,
    ),
    (&["com.microsoft:QLinearConcat"], concat),
    (&["com.microsoft:QLinearSoftmax"], softmax),
];

/// Eight-bit integers around a zero point: a constant, and the zero point's byte.
fn bytes(b: &mut Build, of: DataType, dims: &[usize], zero: u8) -> String {
    let n = dims.iter().product();
    let v: Vec<u8> = (0..n).map(|_| zero.wrapping_add((b.r(0, 100) as i64 - 50) as u8)).collect();
    b.raw(of, dims, v)
}

/// One of the two types, and a zero point that leaves room on both sides.
fn grid(b: &mut Build) -> (DataType, u8) {
    if b.coin() { (DataType::Uint8, 120 + b.r(0, 9) as u8) } else { (DataType::Int8, b.r(0, 9) as u8) }
}

/// A scalar scale and zero point.
fn scalar(b: &mut Build, of: DataType, zero: u8) -> (String, String) {
    let s = 0.01 * b.r(2, 5) as f32;
    (b.f(&[], &[s]), b.raw(of, &[], vec![zero]))
}

/// `n` different scales, with zero points.
fn scales(b: &mut Build, of: DataType, n: usize, zeros: Vec<u8>) -> (String, String) {
    let s: Vec<f32> = (0..n).map(|_| 0.004 + 0.001 * b.r(1, 9) as f32).collect();
    (b.f(&[n], &s), b.raw(of, &[n], zeros))
}

/// A quantised tensor with its scale and zero point.
fn quantized(b: &mut Build, x: &str, of: DataType, zero: u8) -> [String; 3] {
    let (s, z) = scalar(b, of, zero);
    [b.op("QuantizeLinear", &[x, &s, &z], &[]), s, z]
}

/// A weight of four bits, two to a byte, with a scale for each channel or for each block of them.
fn narrow_weight(b: &mut Build, op: &str, dims: &[usize], axis: usize) -> String {
    b.opset = 21;
    let n: usize = dims.iter().product();
    let of = b.pick(&[DataType::Int4, DataType::Uint4]);
    let mut v: Vec<u8> = (0..n.div_ceil(2)).map(|_| b.r(0, 255) as u8).collect();
    if n % 2 == 1
        && let Some(last) = v.last_mut()
    {
        *last &= 0xf;
    }
    let q = b.raw(of, dims, v);
    let mut attrs = vec![("axis", A::I(axis as i64))];
    let mut shape = vec![dims[axis]];
    if dims[axis].is_multiple_of(2) && b.coin() {
        attrs.push(("block_size", A::I(2)));
        shape = dims.to_vec();
        shape[axis] /= 2;
    }
    let s: Vec<f32> = (0..shape.iter().product()).map(|_| 0.05 * b.r(1, 9) as f32).collect();
    let s = b.f(&shape, &s);
    b.op(op, &[&q, &s], &attrs)
}

/// A weight of which only integers are stored, perhaps as training with simulated quantisation writes it.
fn weight(b: &mut Build, op: &str, dims: &[usize], axis: usize) -> String {
    if b.one_in(4) {
        return narrow_weight(b, op, dims, axis);
    }
    let (of, zero) = grid(b);
    let n = dims[axis];
    let attr = [("axis", A::I(axis as i64))];
    let differs = b.coin();
    let zeros = (0..n).map(|i| zero.wrapping_add(if differs { i as u8 } else { 0 })).collect();
    let (s, z, attrs): (_, _, &[_]) = if b.coin() {
        let (s, z) = scales(b, of, n, zeros);
        (s, z, &attr)
    } else {
        let (s, z) = scalar(b, of, zero);
        (s, z, &[])
    };
    let q = if b.one_in(3) {
        let w = b.w(dims);
        b.op("QuantizeLinear", &[&w, &s, &z], attrs)
    } else {
        bytes(b, of, dims, zero)
    };
    b.op(op, &[&q, &s, &z], attrs)
}

/// A bias in 32 bits, with a scale for each channel.
fn bias(b: &mut Build, op: &str, n: usize) -> String {
    let v: Vec<u8> = (0..n).flat_map(|_| (b.r(0, 400) as i32 - 200).to_le_bytes()).collect();
    let q = b.raw(DataType::Int32, &[n], v);
    let s: Vec<f32> = (0..n).map(|_| 0.001 * b.r(1, 9) as f32).collect();
    let s = b.f(&[n], &s);
    b.op(op, &[&q, &s], &[("axis", A::I(0))])
}

fn stored_weights(b: &mut Build, op: &str) -> Expect {
    b.opset = b.opset.max(13);
    let (c, m) = (b.r(2, 3) * 2, b.r(2, 3) * 2);
    match b.r(0, 3) {
        0 => {
            let x = b.channels(&[2, 3, c], 2);
            let axis = b.r(0, 1);
            let w = weight(b, op, &[c, m], axis);
            let y = b.op("MatMul", &[&x, &w], &[]);
            b.sink(&y, 2);
        }
        1 => {
            let x = b.channels(&[2, c], 1);
            let axis = b.r(0, 1);
            let (w, v) = (weight(b, op, &[m, c], axis), bias(b, op, m));
            let y = b.op("Gemm", &[&x, &w, &v], &[("transB", A::I(1))]);
            b.sink(&y, 1);
        }
        _ => {
            let x = b.channels(&[2, c, 4, 4], 1);
            let g = b.pick(&[1, 2, c]);
            let m = if g == c { c } else { m };
            let (w, v) = (weight(b, op, &[m, c / g, 2, 2], 0), bias(b, op, m));
            let y = b.op("Conv", &[&x, &w, &v], &[("group", A::I(g as i64))]);
            b.sink(&y, 1);
        }
    }
    Carries
}

fn quantize(b: &mut Build, op: &str) -> Expect {
    let c = b.r(3, 6);
    let x = b.channels(&[2, c, 3], 1);
    let (of, zero) = grid(b);
    let (s, z) = scales(b, of, c, vec![zero; c]);
    let q = b.op(op, &[&x, &s, &z], &[("axis", A::I(1))]);
    b.opset = b.opset.max(13);
    let y = b.op("DequantizeLinear", &[&q, &s, &z], &[("axis", A::I(1))]);
    b.sink(&y, 1);
    Carries
}

fn dynamic(b: &mut Build, op: &str) -> Expect {
    let c = b.r(3, 6);
    let x = b.channels(&[2, c, 4, 4], 1);
    let q = b.op_n(op, &[&x], &[], 3);
    let y = b.cast(&q[0], DataType::Float);
    let y = b.op("Mul", &[&y, &q[1]], &[]);
    b.sink(&y, 1);
    Pins
}

/// To float, whatever scale it has.
fn real(b: &mut Build, y: &str, scale: Option<[&str; 2]>) -> String {
    match scale {
        Some([s, z]) => b.op("DequantizeLinear", &[y, s, z], &[]),
        None => {
            let (y, s) = (b.cast(y, DataType::Float), b.f(&[], &[0.001]));
            b.op("Mul", &[&y, &s], &[])
        }
    }
}

fn conv(b: &mut Build, op: &str) -> Expect {
    let g = b.pick(&[1, 1, 2]);
    let c = g * b.r(2, 3);
    let (g, per) = if b.one_in(4) { (c, 1) } else { (g, c / g) };
    let m = if g == 1 { b.r(3, 6) } else { g * if per == 1 { 1 } else { 2 } };
    let (kernel, mut attrs) = window(b, &[4, 5], 3, true);
    attrs.push(("group", A::I(g as i64)));
    let last = op.starts_with("com.");
    let mut x = b.channels(&[2, c, 4, 5], 1);
    if last {
        attrs.push(("channels_last", A::I(1)));
        x = b.op("Transpose", &[&x], &[("perm", A::L(vec![0, 2, 3, 1]))]);
    }
    let zero = 110 + b.r(0, 9) as u8;
    let [x, xs, xz] = quantized(b, &x, DataType::Uint8, zero);
    let (of, zero) = grid(b);
    let w = bytes(b, of, &[m, per, kernel[0], kernel[1]], zero);
    let (ws, wz) = if b.coin() { scales(b, of, m, vec![zero; m]) } else { scalar(b, of, zero) };
    let y = if op == "ConvInteger" {
        let wz = if of == DataType::Int8 && b.coin() { b.raw(of, &[], vec![zero]) } else { wz };
        let y = b.op(op, &[&x, &w, &xz, &wz], &attrs);
        real(b, &y, None)
    } else {
        let (ys, yz) = scalar(b, DataType::Uint8, 100);
        let v: Vec<u8> = (0..m).flat_map(|_| (b.r(0, 4000) as i32 - 2000).to_le_bytes()).collect();
        let v = b.raw(DataType::Int32, &[m], v);
        let inputs = [&x, &xs, &xz, &w, &ws, &wz, &ys, &yz, &v].map(String::as_str);
        let given = b.r(8, 9);
        let y = b.op(op, &inputs[..given], &attrs);
        real(b, &y, Some([&ys, &yz]))
    };
    if last {
        let y = b.op("Transpose", &[&y], &[("perm", A::L(vec![0, 3, 1, 2]))]);
        b.sink(&y, 1);
    } else {
        b.sink(&y, 1);
    }
    Carries
}

fn matmul(b: &mut Build, op: &str) -> Expect {
    let (c, m) = (b.r(3, 6), b.r(3, 6));
    let rank = if op.ends_with("QGemm") { 2 } else { b.r(2, 3) };
    let x = if rank == 2 { b.channels(&[2, c], 1) } else { b.channels(&[2, 3, c], 2) };
    let turned = op.ends_with("QGemm") && b.coin();
    let (of, zero) = grid(b);
    let w = bytes(b, of, &if turned { [m, c] } else { [c, m] }, zero);
    let per_column = b.coin();
    let zeros = (0..m).map(|i| zero.wrapping_add(if op.ends_with("Gemm") { 0 } else { i as u8 })).collect();
    let (ws, wz) = if per_column { scales(b, of, m, zeros) } else { scalar(b, of, zero) };
    let v = b.w(&[m]);
    let y = if op.ends_with("DynamicQuantizeMatMul") {
        let inputs: &[&str] = if b.coin() { &[&x, &w, &ws, &wz, &v] } else { &[&x, &w, &ws, &wz] };
        b.op(op, inputs, &[])
    } else {
        let zero = 110 + b.r(0, 9) as u8;
        let [x, xs, xz] = quantized(b, &x, DataType::Uint8, zero);
        let (ys, yz) = scalar(b, DataType::Uint8, 100);
        match op.rsplit(':').next().unwrap_or(op) {
            "MatMulInteger" => {
                let y = b.op(op, &[&x, &w, &xz, &wz], &[]);
                real(b, &y, None)
            }
            "MatMulIntegerToFloat" => {
                let inputs: &[&str] =
                    if b.coin() { &[&x, &w, &xs, &ws, &xz, &wz, &v] } else { &[&x, &w, &xs, &ws, &xz, &wz] };
                b.op(op, inputs, &[])
            }
            "QGemm" => {
                let v: Vec<u8> = (0..m).flat_map(|_| (b.r(0, 4000) as i32 - 2000).to_le_bytes()).collect();
                let v = b.raw(DataType::Int32, &[m], v);
                let attrs = [("transB", A::I(i64::from(turned)))];
                let y = b.op(op, &[&x, &xs, &xz, &w, &ws, &wz, &v, &ys, &yz], &attrs);
                real(b, &y, Some([&ys, &yz]))
            }
            _ => {
                let y = b.op(op, &[&x, &xs, &xz, &w, &ws, &wz, &ys, &yz], &[]);
                real(b, &y, Some([&ys, &yz]))
            }
        }
    };
    b.sink(&y, rank - 1);
    Carries
}

fn pointwise(b: &mut Build, op: &str) -> Expect {
    let c = b.r(3, 6);
    let dims = [2, c, 3, 3];
    let x = b.channels(&dims, 1);
    let [x, xs, xz] = quantized(b, &x, DataType::Uint8, 120);
    let (ys, yz) = scalar(b, DataType::Uint8, 110);
    let other = match b.r(0, 2) {
        0 => {
            let z = b.channels(&dims, 1);
            quantized(b, &z, DataType::Uint8, 125)
        }
        1 => {
            let (s, z) = scalar(b, DataType::Uint8, 125);
            [bytes(b, DataType::Uint8, &[c, 1, 1], 125), s, z]
        }
        _ => {
            let (s, z) = scalar(b, DataType::Uint8, 125);
            [b.raw(DataType::Uint8, &[], vec![120]), s, z]
        }
    };
    let [z, zs, zz] = other;
    let y = match op.rsplit(':').next().unwrap_or(op) {
        "QLinearAdd" | "QLinearMul" => b.op(op, &[&x, &xs, &xz, &z, &zs, &zz, &ys, &yz], &[]),
        "QLinearWhere" => {
            let which = b.raw(DataType::Bool, &[c, 1, 1], (0..c).map(|i| (i % 2) as u8).collect());
            b.op(op, &[&which, &x, &xs, &xz, &z, &zs, &zz, &ys, &yz], &[])
        }
        "QLinearLeakyRelu" => b.op(op, &[&x, &xs, &xz, &ys, &yz], &[("alpha", A::F(0.2))]),
        _ => b.op(op, &[&x, &xs, &xz, &ys, &yz], &[]),
    };
    let y = real(b, &y, Some([&ys, &yz]));
    b.sink(&y, 1);
    Carries
}

fn pool(b: &mut Build, op: &str) -> Expect {
    let c = b.r(3, 6);
    let mut x = b.channels(&[2, c, 4, 5], 1);
    let nhwc = op.ends_with("NhwcMaxPool");
    let last = nhwc || b.coin();
    if last {
        x = b.op("Transpose", &[&x], &[("perm", A::L(vec![0, 2, 3, 1]))]);
    }
    let [x, xs, xz] = quantized(b, &x, DataType::Uint8, 120);
    let (ys, yz) = scalar(b, DataType::Uint8, 110);
    let mut attrs = if op.ends_with("GlobalAveragePool") { vec![] } else { window(b, &[4, 5], 2, false).1 };
    let y = if nhwc {
        let y = b.op(op, &[&x], &attrs);
        real(b, &y, Some([&xs, &xz]))
    } else {
        attrs.push(("channels_last", A::I(i64::from(last))));
        let y = b.op(op, &[&x, &xs, &xz, &ys, &yz], &attrs);
        real(b, &y, Some([&ys, &yz]))
    };
    if last {
        let y = b.op("Transpose", &[&y], &[("perm", A::L(vec![0, 3, 1, 2]))]);
        b.sink(&y, 1);
    } else {
        b.sink(&y, 1);
    }
    Carries
}

fn concat(b: &mut Build, op: &str) -> Expect {
    let (c, d) = (b.r(2, 5), b.r(2, 5));
    let (x, z) = (b.channels(&[2, c, 3], 1), b.channels(&[2, d, 3], 1));
    let (x, z) = (quantized(b, &x, DataType::Uint8, 120), quantized(b, &z, DataType::Uint8, 99));
    let (ys, yz) = scalar(b, DataType::Uint8, 110);
    let inputs: Vec<&str> = [&ys, &yz].into_iter().chain(&x).chain(&z).map(String::as_str).collect();
    let axis = b.pick(&[1, -2]);
    let y = b.op(op, &inputs, &[("axis", A::I(axis))]);
    let y = real(b, &y, Some([&ys, &yz]));
    b.sink(&y, 1);
    Carries
}

fn softmax(b: &mut Build, op: &str) -> Expect {
    let c = b.r(3, 6);
    let carries = b.coin();
    let x = b.channels(&[2, c, 3], 1);
    let [x, xs, xz] = quantized(b, &x, DataType::Uint8, 120);
    let s = b.f(&[], &[1.0 / 256.0]);
    let z = b.raw(DataType::Uint8, &[], vec![0]);
    let attrs = [("axis", A::I(if carries { 2 } else { 1 })), ("opset", A::I(13))];
    let y = b.op(op, &[&x, &xs, &xz, &s, &z], &attrs);
    let y = real(b, &y, Some([&s, &z]));
    b.sink(&y, 1);
    if carries { Carries } else { Pins }
}

/// A model must be built with these constants where a draw might not.
#[test]
fn zero_points_that_the_oracle_cannot_write() {
    use crate::common::check;
    // The zero point is an input of the graph.
    let mut b = Build::new(1);
    let x = b.channels(&[2, 4, 4, 4], 1);
    let [x, xs, xz] = quantized(&mut b, &x, DataType::Uint8, 120);
    let w = bytes(&mut b, DataType::Uint8, &[3, 4, 1, 1], 120);
    let wz = b.input_of(DataType::Uint8, &[]);
    let (s, z) = scalar(&mut b, DataType::Uint8, 100);
    let y = b.op("QLinearConv", &[&x, &xs, &xz, &w, &s, &wz, &s, &z], &[]);
    let y = real(&mut b, &y, Some([&s, &z]));
    b.output(&y);
    let c = check(&b.model(), 1).unwrap();
    assert_eq!(c.prunable, 0);
    assert!(c.pins.iter().any(|(op, why)| op == "QLinearConv" && why.contains("zero point")), "{:?}", c.pins);

    // Two layers read one weight with different zero points.
    let mut b = Build::new(2);
    let w = bytes(&mut b, DataType::Uint8, &[4, 4, 1, 1], 120);
    for zero in [120, 90] {
        let x = b.channels(&[2, 4, 4, 4], 1);
        let [x, xs, xz] = quantized(&mut b, &x, DataType::Uint8, 120);
        let (s, z) = scalar(&mut b, DataType::Uint8, zero);
        let y = b.op("QLinearConv", &[&x, &xs, &xz, &w, &s, &z, &s, &z], &[]);
        let y = real(&mut b, &y, Some([&s, &z]));
        b.output(&y);
    }
    let c = check(&b.model(), 2).unwrap();
    assert!(c.pins.iter().any(|(_, why)| why.contains("different zero points")), "{:?}", c.pins);
}

/// The score of a quantised layer is that of the numbers its integers stand for.
#[test]
fn quantized_weights_rank_as_the_numbers_they_stand_for() {
    use onnx_prune::channels::weights::Weights;
    use onnx_prune::graph::Graph;
    use onnx_prune::prune;
    use onnx_prune::score::ParamReader;
    let mut b = Build::new(3);
    (b.opset, b.dynamic) = (13, false);
    let x = b.input(&[2, 3]);
    let q = b.raw(DataType::Uint8, &[3, 4], (0..12).map(|i| 100 + 10 * i).collect());
    let (s, z) = (b.f(&[4], &[0.1, 0.2, 0.3, 0.4]), b.raw(DataType::Uint8, &[4], vec![100, 110, 120, 130]));
    let w = b.op("DequantizeLinear", &[&q, &s, &z], &[("axis", A::I(-1))]);
    let y = b.op("MatMul", &[&x, &w], &[]);
    let v = b.init(tensor::from_f32("", &[4, 2], &[1.0; 8]));
    let y = b.op("MatMul", &[&y, &v], &[]);
    b.output(&y);
    let model = b.model();
    let graph = Graph::new(&model).unwrap();
    let t = prune::analyse(&graph).unwrap();
    let channels = &t.trace.channels;
    let id = channels.tensors.iter().position(|t| t.key == q).unwrap();
    let read = Weights { graph: &graph, channels, removed: &[] };
    let values = read.values(onnx_prune::channels::TensorId(id as u32)).unwrap();
    let expected: Vec<f32> = (0..12).map(|i| ((i / 4) * 40) as f32 * 0.1 * (i % 4 + 1) as f32).collect();
    assert!(values.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5), "{values:?} {expected:?}");
}
