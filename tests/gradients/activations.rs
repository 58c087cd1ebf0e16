//! Functions of one tensor.

use super::{Case, Draw, Gen};
use crate::common::{A, Build};
use crate::layers::weight;
use onnx_prune::onnx::proto::tensor_proto::DataType;

pub const CASES: &[(&[&str], Gen)] = &[
    (&["Relu", "Sigmoid", "Tanh", "Softplus", "Softsign", "Erf", "Exp", "Neg", "Abs", "Sin", "Cos", "Identity"], plain),
    (&["Log", "Sqrt", "Reciprocal"], positive),
    (&["LeakyRelu", "Elu", "Celu", "ThresholdedRelu", "Selu", "HardSigmoid"], with_alpha),
    (&["HardSwish", "Mish", "Gelu", "Swish"], newer),
    (&["com.microsoft:Gelu", "com.microsoft:FastGelu", "com.microsoft:QuickGelu"], contributed),
    (&["PRelu"], prelu),
    (&["Clip"], clip),
    (&["Cast"], cast),
    (&["Dropout"], dropout),
];

fn plain(b: &mut Build, op: &str) -> Case {
    let x = b.input(&[2, 3, 4]);
    let y = b.op(op, &[&x], &[]);
    b.output(&y);
    Case::drawn(Draw::Away(&[0.0]))
}

fn positive(b: &mut Build, op: &str) -> Case {
    let x = b.input(&[2, 3, 4]);
    let y = b.op(op, &[&x], &[]);
    b.output(&y);
    Case::drawn(Draw::Positive)
}

fn with_alpha(b: &mut Build, op: &str) -> Case {
    if op == "Celu" {
        b.opset = b.opset.max(12);
    }
    let x = b.input(&[2, 3, 4]);
    let mut attrs = Vec::new();
    // tract forgets to multiply by the α of a Celu, and has other defaults for Selu.
    if op != "Celu" && (op == "Selu" || b.coin()) {
        attrs.push(("alpha", A::F(0.3)));
        match op {
            "Selu" => attrs.push(("gamma", A::F(1.3))),
            "HardSigmoid" => attrs.push(("beta", A::F(0.6))),
            _ => {}
        }
    }
    let y = b.op(op, &[&x], &attrs);
    b.output(&y);
    Case::drawn(Draw::Away(&[0.0, 0.3, 1.0]))
}

fn newer(b: &mut Build, op: &str) -> Case {
    b.opset = match op {
        "HardSwish" => 14,
        "Mish" => 18,
        "Gelu" => 20,
        _ => 24,
    };
    let x = b.input(&[2, 3, 4]);
    // A scale takes the values to both sides of the kinks of HardSwish.
    let four = b.f(&[], &[4.0]);
    let wide = b.op("Mul", &[&x, &four], &[]);
    let attrs: &[(&str, A)] = match op {
        "Gelu" if b.coin() => &[("approximate", A::S("tanh"))],
        _ => &[],
    };
    let y = b.op(op, &[&wide], attrs);
    b.output(&y);
    Case::drawn(Draw::Away(&[-0.75, 0.75]))
}

fn contributed(b: &mut Build, op: &str) -> Case {
    let x = b.input(&[2, 3, 4]);
    let attrs: &[(&str, A)] = match op {
        "com.microsoft:QuickGelu" if b.coin() => &[("alpha", A::F(1.2))],
        _ => &[],
    };
    let y = b.op(op, &[&x], attrs);
    b.output(&y);
    Case::of(&[])
}

fn prelu(b: &mut Build, op: &str) -> Case {
    let x = b.input(&[2, 3, 4, 2]);
    let dims = b.pick(&[vec![3, 1, 1], vec![1], vec![2], vec![2, 3, 4, 2]]);
    let w = weight(b, &dims);
    let y = b.op(op, &[&x, &w], &[]);
    b.output(&y);
    Case::of(&[&w])
}

fn clip(b: &mut Build, op: &str) -> Case {
    let x = b.input(&[2, 3, 4]);
    let y = if b.coin() {
        b.opset = 9;
        let attrs = [("min", A::F(-0.4)), ("max", A::F(0.9))];
        let attrs = b.pick(&[&attrs[..], &attrs[..1], &attrs[1..], &[]]);
        b.op(op, &[&x], attrs)
    } else {
        let (low, high) = (b.f(&[], &[-0.4]), b.f(&[], &[0.9]));
        let (low, high) = (low.as_str(), high.as_str());
        let inputs = b.pick(&[vec![&x, low, high], vec![&x, low], vec![&x, "", high]]);
        b.op(op, &inputs, &[])
    };
    b.output(&y);
    Case::drawn(Draw::Away(&[-0.4, 0.9]))
}

fn cast(b: &mut Build, op: &str) -> Case {
    let x = b.input(&[2, 3, 4]);
    let same = b.op(op, &[&x], &[("to", A::I(DataType::Float as i64))]);
    // Steps have no gradient.
    let whole = b.cast(&x, DataType::Int32);
    let whole = b.cast(&whole, DataType::Float);
    let y = b.op("Add", &[&same, &whole], &[]);
    b.output(&y);
    Case::drawn(Draw::Away(&[-1.0, 0.0, 1.0]))
}

fn dropout(b: &mut Build, op: &str) -> Case {
    let x = b.input(&[2, 3, 4]);
    let y = if b.opset < 12 {
        b.op(op, &[&x], &[("ratio", A::F(0.3))])
    } else {
        let ratio = b.f(&[], &[0.3]);
        let on = b.raw(DataType::Bool, &[], vec![1]);
        let all = [x.as_str(), &ratio, &on];
        let inputs = b.pick(&[&all[..], &all[..2], &all[..1]]);
        b.op(op, inputs, &[])
    };
    b.output(&y);
    Case::of(&[])
}
