//! Pooling, reductions and normalisations.

use super::{Case, Draw, Gen};
use crate::common::{A, Build};
use crate::layers::weight;

pub const CASES: &[(&[&str], Gen)] = &[
    (&["MaxPool", "AveragePool"], pool),
    (&["GlobalAveragePool", "GlobalMaxPool"], global_pool),
    (
        &[
            "ReduceSum",
            "ReduceMean",
            "ReduceMax",
            "ReduceMin",
            "ReduceSumSquare",
            "ReduceL1",
            "ReduceL2",
            "ReduceLogSum",
            "ReduceLogSumExp",
        ],
        reduce,
    ),
    (&["Softmax", "LogSoftmax"], softmax),
    (&["LpNormalization"], lp_norm),
    (&["CumSum"], cumsum),
    (&["LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"], layer_norm),
    (&["InstanceNormalization", "GroupNormalization"], channel_norm),
];

fn pool(b: &mut Build, op: &str) -> Case {
    let rank = b.pick(&[1, 2, 2, 3]);
    let kernel: Vec<usize> = (0..rank).map(|_| b.r(1, 3)).collect();
    let strides: Vec<usize> = if b.one_in(3) { kernel.clone() } else { (0..rank).map(|_| b.r(1, 3)).collect() };
    let size: Vec<usize> = (0..rank).map(|_| b.r(5, 7)).collect();
    let x = b.input(&[&[2, 2], size.as_slice()].concat());
    let mut attrs = vec![("kernel_shape", A::list(&kernel)), ("strides", A::list(&strides))];
    let average = op == "AveragePool";
    // Dilations and ceil_mode came with operator set 10.
    let newer = if b.opset < 10 { 1 } else { 3 };
    match b.r(0, newer) {
        0 => attrs.push(("auto_pad", A::S(b.pick(&["SAME_UPPER", "SAME_LOWER"])))),
        1 => {
            let pads: Vec<usize> = (0..2 * rank).map(|i| b.r(0, kernel[i % rank] / 2)).collect();
            attrs.push(("pads", A::list(&pads)));
        }
        2 => {
            let dilations: Vec<usize> = (0..rank).map(|_| b.r(1, 2)).collect();
            if !average {
                attrs.push(("dilations", A::list(&dilations)));
            }
        }
        // What a window behind the padding counts differs between runtimes and versions.
        _ => attrs.push(("ceil_mode", A::I(1))),
    }
    if average && b.coin() {
        attrs.push(("count_include_pad", A::I(1)));
    }
    let y = b.op(op, &[&x], &attrs);
    b.output(&y);
    Case::of(&[])
}

fn global_pool(b: &mut Build, op: &str) -> Case {
    let dims = b.pick(&[vec![2, 3, 4, 3], vec![2, 3, 5]]);
    let x = b.input(&dims);
    let y = b.op(op, &[&x], &[]);
    b.output(&y);
    Case::of(&[])
}

fn reduce(b: &mut Build, op: &str) -> Case {
    let x = b.input(&[2, 3, 4]);
    let axes = b.pick(&[None, Some(vec![0]), Some(vec![-1]), Some(vec![0, 2]), Some(vec![1, -1])]);
    let mut attrs = Vec::new();
    let mut inputs = vec![x];
    if b.coin() {
        attrs.push(("keepdims", A::I(0)));
    }
    let by_input = b.opset >= if op == "ReduceSum" { 13 } else { 18 };
    match axes {
        Some(axes) if by_input => inputs.push(b.ints(&axes)),
        Some(axes) => attrs.push(("axes", A::L(axes))),
        None => {}
    }
    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    let mut y = b.op(op, &inputs, &attrs);
    if b.shape(&y).is_empty() {
        let one = b.ints(&[1]);
        y = b.op("Reshape", &[&y, &one], &[]);
    }
    b.output(&y);
    match op {
        "ReduceLogSum" => Case::drawn(Draw::Positive),
        "ReduceL1" => Case::drawn(Draw::Away(&[0.0])),
        _ => Case::of(&[]),
    }
}

fn softmax(b: &mut Build, op: &str) -> Case {
    let x = b.input(&[2, 3, 4]);
    let axis = b.pick(&[None, Some(0), Some(1), Some(-1)]);
    let attrs: Vec<(&str, A)> = axis.map(|a| ("axis", A::I(a))).into_iter().collect();
    let y = b.op(op, &[&x], &attrs);
    b.output(&y);
    Case::of(&[])
}

fn lp_norm(b: &mut Build, op: &str) -> Case {
    let x = b.input(&[2, 3, 4]);
    let (axis, p) = (b.pick(&[0, 1, -1]), b.pick(&[1, 2]));
    let y = b.op(op, &[&x], &[("axis", A::I(axis)), ("p", A::I(p))]);
    b.output(&y);
    Case::drawn(Draw::Away(&[0.0]))
}

fn cumsum(b: &mut Build, op: &str) -> Case {
    let x = b.input(&[2, 3, 4]);
    let axis = b.pick(&[0, 1, -1]);
    let axis = b.int(axis);
    let mut attrs = Vec::new();
    if b.coin() {
        attrs.push(("exclusive", A::I(1)));
    }
    if b.coin() {
        attrs.push(("reverse", A::I(1)));
    }
    let y = b.op(op, &[&x, &axis], &attrs);
    b.output(&y);
    Case::of(&[])
}

fn layer_norm(b: &mut Build, op: &str) -> Case {
    b.opset = match op {
        "RMSNormalization" => 23,
        _ => 17,
    };
    let x = b.input(&[2, 3, 4]);
    let axis = b.pick(&[1, 2, -1]);
    let dims: &[usize] = if axis == 1 { &[3, 4] } else { &[4] };
    let (scale, shift) = (weight(b, dims), weight(b, dims));
    let both = op == "LayerNormalization" && b.coin();
    let inputs: &[&str] = if both { &[&x, &scale, &shift] } else { &[&x, &scale] };
    let y = b.op(op, inputs, &[("axis", A::I(axis)), ("epsilon", A::F(1e-3))]);
    b.output(&y);
    if both { Case::of(&[&scale, &shift]) } else { Case::of(&[&scale]) }
}

fn channel_norm(b: &mut Build, op: &str) -> Case {
    let groups = b.r(1, 2);
    let c = groups * b.r(1, 3);
    let dims = b.pick(&[vec![2, c, 4, 3], vec![2, c, 5]]);
    let x = b.input(&dims);
    let mut attrs = vec![("epsilon", A::F(1e-3))];
    let mut scales = c;
    if op == "GroupNormalization" {
        b.opset = b.pick(&[18, 21]);
        attrs.push(("num_groups", A::I(groups as i64)));
        scales = if b.opset == 18 { groups } else { c };
    }
    let (scale, shift) = (weight(b, &[scales]), weight(b, &[scales]));
    let y = b.op(op, &[&x, &scale, &shift], &attrs);
    b.output(&y);
    Case::of(&[&scale, &shift])
}
