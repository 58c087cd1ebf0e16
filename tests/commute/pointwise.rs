//! Element-wise operators.

use crate::Expect::{self, Carries};
use crate::Gen;
use crate::common::{A, Build};
use crate::norms::sizes;
use onnx_prune::onnx::proto::tensor_proto::DataType;

/// Operators and their generators.
pub const CASES: &[(&[&str], Gen)] = &[
    (
        &[
            "Relu",
            "LeakyRelu",
            "Elu",
            "Selu",
            "Celu",
            "ThresholdedRelu",
            "Sigmoid",
            "HardSigmoid",
            "HardSwish",
            "Swish",
            "Mish",
            "Tanh",
            "Softplus",
            "Softsign",
            "Gelu",
            "Erf",
            "Exp",
            "Log",
            "Sqrt",
            "Reciprocal",
            "Neg",
            "Abs",
            "Sign",
            "Floor",
            "Ceil",
            "Round",
            "Sin",
            "Cos",
            "Tan",
            "Asin",
            "Acos",
            "Atan",
            "Sinh",
            "Cosh",
            "Asinh",
            "Acosh",
            "Atanh",
            "Not",
            "BitwiseNot",
            "IsNaN",
            "IsInf",
            "Cast",
            "CastLike",
            "Identity",
            "Clip",
            "Shrink",
        ],
        unary,
    ),
    (&["Dropout"], dropout),
    (&["Add", "Sub", "Mul", "Div", "Pow", "Mod", "PRelu"], binary),
    (&["Sum", "Mean", "Max", "Min"], several),
    (&["Where"], choose),
    (&["Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual"], comparison),
    (&["And", "Or", "Xor"], logical),
    (&["BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor"], bits),
    (&["QuantizeLinear", "DequantizeLinear"], quantize),
];

/// A channel tensor with the channels at 1, or last.
fn place(b: &mut Build) -> (String, Vec<usize>, usize) {
    let mut dims = sizes(b, 2, 4);
    let mut ch = 1;
    if dims.len() > 2 && b.one_in(4) {
        ch = dims.len() - 1;
        dims.swap(1, ch);
    }
    (b.channels(&dims, ch), dims, ch)
}

fn unary(b: &mut Build, op: &str) -> Expect {
    b.opset = match op {
        "Gelu" => 20,
        "Swish" => 24,
        "Mish" | "BitwiseNot" => 18,
        "HardSwish" | "CastLike" => 15,
        "Celu" => b.pick(&[12, 13]),
        _ => b.pick(&[11, 13, 17]),
    };
    let (mut x, _, ch) = place(b);
    match op {
        "Log" | "Sqrt" | "Reciprocal" | "Acosh" => {
            let one = b.f(&[], &[1.1]);
            x = b.op("Abs", &[&x], &[]);
            x = b.op("Add", &[&x, &one], &[]);
        }
        "Asin" | "Acos" | "Atanh" => {
            let part = b.f(&[1], &[0.9]);
            x = b.op("Tanh", &[&x], &[]);
            x = b.op("Mul", &[&x, &part], &[]);
        }
        "Tan" => x = b.op("Tanh", &[&x], &[]),
        "Not" => x = b.cast(&x, DataType::Bool),
        "BitwiseNot" => x = b.cast(&x, DataType::Int32),
        _ => {}
    }
    let mut attrs = vec![];
    let mut inputs = vec![x];
    match op {
        "LeakyRelu" | "Elu" | "Celu" | "ThresholdedRelu" if b.coin() => attrs.push(("alpha", A::F(0.3))),
        "HardSigmoid" if b.coin() => attrs.extend([("alpha", A::F(0.3)), ("beta", A::F(0.4))]),
        "Gelu" if b.coin() => attrs.push(("approximate", A::S("tanh"))),
        "Shrink" => attrs.extend([("bias", A::F(0.2)), ("lambd", A::F(0.4))]),
        "IsInf" => attrs.push(("detect_negative", A::I(1))),
        "Cast" => attrs.push(("to", A::I(b.pick(&[DataType::Int32, DataType::Double, DataType::Bool]) as i64))),
        "CastLike" => {
            let like = b.int(1);
            inputs.push(like);
        }
        "Clip" if b.one_in(3) => {
            b.opset = 10;
            attrs.extend([("min", A::F(-0.5)), ("max", A::F(0.9))]);
        }
        "Clip" => {
            let low = b.f(&[], &[-0.5]);
            inputs.push(if b.coin() { low } else { String::new() });
            if b.coin() {
                let high = b.f(&[], &[0.7]);
                inputs.push(high);
            }
        }
        _ => {}
    }
    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    let y = b.op(op, &inputs, &attrs);
    let y = b.cast(&y, DataType::Float);
    b.sink(&y, ch);
    Carries
}

fn dropout(b: &mut Build, op: &str) -> Expect {
    b.opset = b.pick(&[7, 10, 12, 13]);
    let (x, _, ch) = place(b);
    let mask = b.one_in(3) && b.opset >= 10;
    let outputs = if mask { 2 } else { 1 };
    let y = if b.opset < 12 {
        b.op_n(op, &[&x], &[("ratio", A::F(0.4))], outputs)
    } else if b.coin() {
        let ratio = b.f(&[], &[0.4]);
        b.op_n(op, &[&x, &ratio], &[], outputs)
    } else {
        b.op_n(op, &[&x], &[], outputs)
    };
    if let Some(m) = y.get(1) {
        let m = b.cast(m, DataType::Float);
        b.sink(&m, ch);
    }
    b.sink(&y[0], ch);
    Carries
}

/// Sizes that broadcast to `dims`: some axes 1, leading ones left out; the channels kept or not.
fn broadcastable(b: &mut Build, dims: &[usize]) -> Vec<usize> {
    let mut out: Vec<usize> = dims.iter().enumerate().map(|(a, &d)| if a == 0 || b.coin() { 1 } else { d }).collect();
    while out.first() == Some(&1) && b.coin() {
        out.remove(0);
    }
    out
}

/// A partner for `x`: another channel tensor, a map of one channel, a constant of a broadcastable shape, `x` itself.
fn partner(b: &mut Build, x: &str, dims: &[usize], ch: usize, positive: bool) -> String {
    match b.r(0, 4) {
        0 if !positive => b.channels(dims, ch),
        1 if !positive && dims.len() > 2 => {
            let mut one = dims.to_vec();
            one[ch] = 1;
            b.channels(&one, ch)
        }
        2 if !positive => x.to_owned(),
        _ => {
            let d = broadcastable(b, dims);
            if positive { b.pos(&d) } else { b.w(&d) }
        }
    }
}

fn binary(b: &mut Build, op: &str) -> Expect {
    let (mut x, dims, ch) = place(b);
    let mut y = match op {
        "PRelu" => {
            let d = broadcastable(b, &dims);
            b.w(&d)
        }
        _ => partner(b, &x, &dims, ch, matches!(op, "Div" | "Pow" | "Mod")),
    };
    if op == "Pow" {
        let half = b.f(&[], &[0.5]);
        x = b.op("Abs", &[&x], &[]);
        x = b.op("Add", &[&x, &half], &[]);
    } else if op != "PRelu" && op != "Div" && b.coin() {
        std::mem::swap(&mut x, &mut y);
        if op == "Mod" {
            let half = b.f(&[], &[0.5]);
            y = b.op("Abs", &[&y], &[]);
            y = b.op("Add", &[&y, &half], &[]);
        }
    }
    let attrs: &[(&str, A)] = if op == "Mod" { &[("fmod", A::I(1))] } else { &[] };
    let z = b.op(op, &[&x, &y], attrs);
    b.sink(&z, ch);
    Carries
}

fn several(b: &mut Build, op: &str) -> Expect {
    let (x, dims, ch) = place(b);
    let n = b.r(1, 3);
    let mut inputs = vec![x.clone()];
    for _ in 1..n {
        inputs.push(partner(b, &x, &dims, ch, false));
    }
    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    let z = b.op(op, &inputs, &[]);
    b.sink(&z, ch);
    Carries
}

fn condition(b: &mut Build, x: &str) -> String {
    let zero = b.f(&[], &[0.05]);
    b.op("Greater", &[x, &zero], &[])
}

fn choose(b: &mut Build, op: &str) -> Expect {
    let (x, dims, ch) = place(b);
    let y = partner(b, &x, &dims, ch, false);
    let c = if b.coin() {
        condition(b, &x)
    } else {
        let d = broadcastable(b, &dims);
        let bytes = (0..d.iter().product()).map(|_| u8::from(b.coin())).collect();
        b.raw(DataType::Bool, &d, bytes)
    };
    let z = b.op(op, &[&c, &x, &y], &[]);
    b.sink(&z, ch);
    Carries
}

fn comparison(b: &mut Build, op: &str) -> Expect {
    b.opset = b.opset.max(13);
    let (x, dims, ch) = place(b);
    let y = partner(b, &x, &dims, ch, false);
    let z = b.op(op, &[&x, &y], &[]);
    let z = b.cast(&z, DataType::Float);
    b.sink(&z, ch);
    Carries
}

fn logical(b: &mut Build, op: &str) -> Expect {
    let (x, dims, ch) = place(b);
    let y = partner(b, &x, &dims, ch, false);
    let (p, q) = (condition(b, &x), condition(b, &y));
    let z = b.op(op, &[&p, &q], &[]);
    let z = b.cast(&z, DataType::Float);
    b.sink(&z, ch);
    Carries
}

fn bits(b: &mut Build, op: &str) -> Expect {
    b.opset = if op == "BitShift" { 13 } else { 18 };
    let to = if op == "BitShift" { DataType::Uint8 } else { DataType::Int32 };
    let (x, dims, ch) = place(b);
    let x = b.op("Abs", &[&x], &[]);
    let x = b.cast(&x, to);
    let d = broadcastable(b, &dims);
    let n: usize = d.iter().product();
    let values: Vec<u8> = (0..n).map(|_| b.r(0, 3) as u8).collect();
    let y = if to == DataType::Uint8 {
        b.raw(to, &d, values)
    } else {
        b.raw(to, &d, values.iter().flat_map(|&v| i32::from(v).to_le_bytes()).collect())
    };
    let attrs: &[(&str, A)] = if op == "BitShift" { &[("direction", A::S("LEFT"))] } else { &[] };
    let z = b.op(op, &[&x, &y], attrs);
    let z = b.cast(&z, DataType::Float);
    b.sink(&z, ch);
    Carries
}

fn quantize(b: &mut Build, _: &str) -> Expect {
    let (x, dims, ch) = place(b);
    let per_axis = b.coin();
    b.opset = if per_axis { 13 } else { b.pick(&[10, 13]) };
    let n = dims[ch];
    let to = b.pick(&[DataType::Uint8, DataType::Int8]);
    let scales: Vec<f32> = (0..n).map(|_| 0.01 * b.r(2, 9) as f32).collect();
    let (scale, zero) = if per_axis {
        (b.f(&[n], &scales), b.raw(to, &[n], (0..n as u8).collect()))
    } else {
        (b.f(&[], &scales[..1]), b.raw(to, &[], vec![3]))
    };
    let rank = dims.len() as i64;
    let mut attrs = vec![];
    if per_axis && (ch != 1 || b.coin()) {
        attrs.push(("axis", A::I(if b.coin() { ch as i64 } else { ch as i64 - rank })));
    }
    let q = b.op("QuantizeLinear", &[&x, &scale, &zero], &attrs);
    let y = b.op("DequantizeLinear", &[&q, &scale, &zero], &attrs);
    b.sink(&y, ch);
    Carries
}
