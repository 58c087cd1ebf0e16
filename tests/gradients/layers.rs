//! Convolutions, normalisations and arithmetic.

use super::{Case, Draw, Gen};
use crate::common::{A, Build};
use onnx_prune::train::grad::BatchNorms;

pub const CASES: &[(&[&str], Gen)] = &[
    (&["Conv"], conv),
    (&["BatchNormalization"], batch_norm),
    (&["Add", "Sum", "Sub", "Mul", "Div"], arithmetic),
    (&["Min", "Max", "Mean"], of_many),
    (&["Pow"], power),
    (&["Where"], select),
];

/// A float initializer that is never a `Constant` node.
pub fn weight(b: &mut Build, dims: &[usize]) -> String {
    let n: usize = dims.iter().product();
    let v = b.floats(n, 1);
    b.f(dims, &v)
}

fn conv(b: &mut Build, op: &str) -> Case {
    let rank = b.pick(&[1, 2, 2, 2, 3]);
    let (g, i, o) = match b.r(0, 3) {
        0 => (1, b.r(1, 4), b.r(1, 4)),
        1 => (b.r(2, 3), 1, b.r(1, 2)),
        2 => (2, 2, b.r(1, 3)),
        _ => (1, 3, 12),
    };
    let kernel: Vec<usize> = (0..rank).map(|_| b.r(1, 3)).collect();
    let dilations: Vec<usize> = (0..rank).map(|_| b.r(1, 2)).collect();
    let strides: Vec<usize> = if b.coin() { vec![1; rank] } else { (0..rank).map(|_| b.r(1, 3)).collect() };
    let size: Vec<usize> = (0..rank).map(|_| b.r(5, 7)).collect();
    let x = b.input(&[&[2, g * i], size.as_slice()].concat());
    let w = weight(b, &[&[g * o, i], kernel.as_slice()].concat());
    let mut attrs = vec![("group", A::I(g as i64)), ("strides", A::list(&strides)), ("dilations", A::list(&dilations))];
    match b.r(0, 3) {
        0 => attrs.push(("auto_pad", A::S(b.pick(&["SAME_UPPER", "SAME_LOWER"])))),
        1 => attrs.push(("pads", A::list(&(0..2 * rank).map(|_| b.r(0, 3)).collect::<Vec<_>>()))),
        2 => attrs.push(("pads", A::list(&vec![1; 2 * rank]))),
        _ => {}
    }
    // What tract refuses: SAME with dilations.
    if attrs.iter().any(|(k, _)| *k == "auto_pad") {
        attrs.retain(|(k, _)| *k != "dilations");
    }
    let bias = weight(b, &[g * o]);
    let with_bias = b.coin();
    let inputs: Vec<&str> = if with_bias { vec![&x, &w, &bias] } else { vec![&x, &w] };
    let y = b.op(op, &inputs, &attrs);
    b.output(&y);
    if with_bias { Case::of(&[&w, &bias]) } else { Case::of(&[&w]) }
}

fn batch_norm(b: &mut Build, op: &str) -> Case {
    let c = b.r(1, 3);
    let dims = b.pick(&[vec![3, c, 4, 3], vec![4, c], vec![2, c, 5]]);
    let x = b.input(&dims);
    let (g, s, m, v) = (weight(b, &[c]), weight(b, &[c]), weight(b, &[c]), b.pos(&[c]));
    let y = b.op(op, &[&x, &g, &s, &m, &v], &[("epsilon", A::F(1e-3))]);
    b.output(&y);
    let batch_norms = b.pick(&[BatchNorms::Batch, BatchNorms::Frozen]);
    Case { batch_norms, ..Case::of(&[&g, &s]) }
}

fn arithmetic(b: &mut Build, op: &str) -> Case {
    let (one, two) = b.pick(&[
        (vec![2, 3, 4], vec![2, 3, 4]),
        (vec![2, 3, 4], vec![3, 1]),
        (vec![4], vec![2, 3, 4]),
        (vec![2, 1, 4], vec![2, 3, 1]),
        (vec![2, 3], vec![]),
    ]);
    let x = b.input(&one);
    let w = weight(b, &two);
    let y = b.op(op, &[&x, &w], &[]);
    b.output(&y);
    Case::of(&[&w])
}

fn of_many(b: &mut Build, op: &str) -> Case {
    let x = b.input(&[2, 3, 4]);
    let dims = b.pick(&[vec![2, 3, 4], vec![3, 1], vec![]]);
    let w = weight(b, &dims);
    let y = match b.r(0, 2) {
        0 => b.op(op, &[&x], &[]),
        1 => b.op(op, &[&x, &w], &[]),
        _ => {
            let v = b.input(&[3, 4]);
            b.op(op, &[&x, &w, &v], &[])
        }
    };
    b.output(&y);
    if b.g.node[0].input.contains(&w) { Case::of(&[&w]) } else { Case::of(&[]) }
}

fn power(b: &mut Build, op: &str) -> Case {
    let x = b.input(&[2, 3, 4]);
    let p = b.pick(&[2.0, 3.0, 0.5, -1.0, 1.7]);
    let (w, trained) = match b.r(0, 2) {
        0 => (b.f(&[], &[p]), false),
        1 => (weight(b, &[4]), false),
        _ => (weight(b, &[3, 1]), true),
    };
    let y = b.op(op, &[&x, &w], &[]);
    b.output(&y);
    Case { initializers: if trained { vec![w] } else { vec![] }, ..Case::drawn(Draw::Positive) }
}

fn select(b: &mut Build, op: &str) -> Case {
    let x = b.input(&[2, 3, 4]);
    let w = weight(b, &[4]);
    let zero = b.f(&[], &[0.0]);
    let on = b.op("Greater", &[&x, &zero], &[]);
    let y = if b.coin() { b.op(op, &[&on, &x, &w], &[]) } else { b.op(op, &[&on, &w, &x], &[]) };
    b.output(&y);
    Case { draw: Draw::Away(&[0.0]), ..Case::of(&[&w]) }
}
