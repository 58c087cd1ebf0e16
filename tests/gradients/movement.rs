//! What moves, picks, repeats or resamples elements.

use super::{Case, Gen};
use crate::common::{A, Build};
use onnx_prune::onnx::tensor;

pub const CASES: &[(&[&str], Gen)] = &[
    (&["Reshape", "Flatten", "Squeeze", "Unsqueeze"], reshape),
    (&["Transpose"], transpose),
    (&["Expand", "Tile"], repeat),
    (&["DepthToSpace", "SpaceToDepth"], blocks),
    (&["Concat"], concat),
    (&["Split"], split),
    (&["Slice"], slice),
    (&["Gather"], gather),
    (&["GatherND"], gather_nd),
    (&["Pad"], pad),
    (&["Trilu"], trilu),
    (&["Resize"], resize),
    (&["Upsample"], upsample),
];

/// Squares what an operator made, so that a wrong place would show.
fn end(b: &mut Build, y: &str) -> Case {
    let y = b.op("Mul", &[y, y], &[]);
    b.output(&y);
    Case::of(&[])
}

fn reshape(b: &mut Build, op: &str) -> Case {
    let x = b.input(&[2, 1, 3, 4]);
    let y = match op {
        "Flatten" => {
            let axis = b.pick(&[0, 1, 2, -1]);
            b.op(op, &[&x], &[("axis", A::I(axis))])
        }
        "Reshape" => {
            let to = b.pick(&[vec![0, -1], vec![6, 4], vec![3, 2, 1, 4]]);
            let to = b.ints(&to);
            b.op(op, &[&x, &to], &[])
        }
        _ => {
            let axes = if op == "Squeeze" { vec![1] } else { vec![0, -1] };
            if b.opset < 13 {
                b.op(op, &[&x], &[("axes", A::L(axes))])
            } else {
                let axes = b.ints(&axes);
                b.op(op, &[&x, &axes], &[])
            }
        }
    };
    end(b, &y)
}

fn transpose(b: &mut Build, op: &str) -> Case {
    let x = b.input(&[2, 3, 4, 2]);
    let perm = b.perm(4);
    let y = if b.coin() { b.op(op, &[&x], &[("perm", A::list(&perm))]) } else { b.op(op, &[&x], &[]) };
    end(b, &y)
}

fn repeat(b: &mut Build, op: &str) -> Case {
    let x = b.input(&[2, 1, 3]);
    let by = if op == "Tile" {
        b.pick(&[vec![1, 2, 3], vec![2, 1, 1], vec![1, 3, 1]])
    } else {
        b.pick(&[vec![2, 4, 3], vec![4, 1], vec![5, 2, 4, 3], vec![1]])
    };
    let by = b.ints(&by);
    let y = b.op(op, &[&x, &by], &[]);
    end(b, &y)
}

fn blocks(b: &mut Build, op: &str) -> Case {
    let x = b.input(if op == "DepthToSpace" { &[2, 8, 3, 2] } else { &[2, 2, 4, 6] });
    let mut attrs = vec![("blocksize", A::I(2))];
    if op == "DepthToSpace" && b.coin() {
        attrs.push(("mode", A::S("CRD")));
    }
    let y = b.op(op, &[&x], &attrs);
    end(b, &y)
}

fn concat(b: &mut Build, op: &str) -> Case {
    let (x, v) = (b.input(&[2, 3, 4]), b.input(&[2, 2, 4]));
    let w = b.w(&[2, 1, 4]);
    let axis = b.pick(&[1, -2]);
    let y = b.op(op, &[&x, &w, &v, &x], &[("axis", A::I(axis))]);
    end(b, &y)
}

fn split(b: &mut Build, op: &str) -> Case {
    let x = b.input(&[2, 6, 4]);
    let sizes = b.pick(&[vec![2, 2, 2], vec![1, 3, 2]]);
    let parts = if b.opset < 13 {
        b.op_n(op, &[&x], &[("axis", A::I(1)), ("split", A::L(sizes))], 3)
    } else {
        let sizes = b.ints(&sizes);
        b.op_n(op, &[&x, &sizes], &[("axis", A::I(1))], 3)
    };
    // One of them is not read.
    let twice = b.op("Concat", &[&parts[2], &parts[0], &parts[2]], &[("axis", A::I(1))]);
    end(b, &twice)
}

fn slice(b: &mut Build, op: &str) -> Case {
    let x = b.input(&[2, 7, 6]);
    let (starts, ends, axes, steps) = b.pick(&[
        (vec![1, 0], vec![6, -1], vec![1, 2], vec![1, 1]),
        (vec![1, 0], vec![7, 100], vec![-2, -1], vec![2, 3]),
        (vec![-1], vec![-100], vec![1], vec![-1]),
        (vec![5, 5], vec![0, 1], vec![1, 2], vec![-2, -3]),
    ]);
    let inputs = [b.ints(&starts), b.ints(&ends), b.ints(&axes), b.ints(&steps)];
    let y = b.op(op, &[&x, &inputs[0], &inputs[1], &inputs[2], &inputs[3]], &[]);
    end(b, &y)
}

fn gather(b: &mut Build, op: &str) -> Case {
    let x = b.input(&[2, 5, 4]);
    let (dims, ids) = b.pick(&[
        (vec![], vec![2]),
        (vec![3], vec![1, 2, 3]),
        (vec![3], vec![4, 0, -2]),
        (vec![2, 2], vec![1, 1, 0, 3]),
        (vec![5], vec![4, 3, 2, 1, 0]),
    ]);
    let (axis, ids) = match b.r(0, 1) {
        0 => (1, ids),
        _ => (-1, ids.iter().map(|i| i % 4).collect()),
    };
    let ids = b.init(tensor::from_i64("", &dims, &ids));
    let y = b.op(op, &[&x, &ids], &[("axis", A::I(axis))]);
    end(b, &y)
}

fn gather_nd(b: &mut Build, op: &str) -> Case {
    let x = b.input(&[3, 5, 2]);
    let (dims, ids) =
        b.pick(&[(vec![2, 1], vec![2, 0]), (vec![3, 2], vec![0, 1, 2, 4, 0, 1]), (vec![1, 2, 2], vec![1, 1, 2, 3])]);
    let ids = b.init(tensor::from_i64("", &dims, &ids));
    let y = b.op(op, &[&x, &ids], &[]);
    end(b, &y)
}

fn pad(b: &mut Build, op: &str) -> Case {
    let x = b.input(&[2, 3, 4, 5]);
    let mode = b.pick(&["constant", "reflect", "edge"]);
    // tract has none below 0.
    let pads: Vec<i64> = (0..8).map(|i| if i % 4 < 2 { 0 } else { b.r(0, 2) as i64 }).collect();
    let pads = b.ints(&pads);
    let y = b.op(op, &[&x, &pads], &[("mode", A::S(mode))]);
    end(b, &y)
}

fn trilu(b: &mut Build, op: &str) -> Case {
    b.opset = b.opset.max(14);
    let x = b.input(&[2, 4, 3]);
    let k = b.pick(&[-1, 0, 1]);
    let k = b.int(k);
    let upper = b.pick(&[0, 1]);
    let y = b.op(op, &[&x, &k], &[("upper", A::I(upper))]);
    end(b, &y)
}

fn resize(b: &mut Build, op: &str) -> Case {
    let x = b.input(&[2, 2, 4, 5]);
    let mode = b.pick(&["nearest", "linear", "cubic"]);
    let place = b.pick(&["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"]);
    let mut attrs = vec![("mode", A::S(mode)), ("coordinate_transformation_mode", A::S(place))];
    if mode == "nearest" {
        let round = b.pick(&["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]);
        attrs.push(("nearest_mode", A::S(round)));
    }
    if mode == "cubic" && b.coin() {
        attrs.push(("cubic_coeff_a", A::F(-0.5)));
    }
    let (roi, none) = (b.f(&[0], &[]), b.f(&[0], &[]));
    let y = if b.coin() {
        let by = b.pick(&[[1.0, 1.0, 2.0, 2.0], [1.0, 1.0, 0.5, 3.0], [1.0, 1.0, 1.5, 0.8]]);
        let by = b.f(&[4], &by);
        b.op(op, &[&x, &roi, &by], &attrs)
    } else {
        let to = b.pick(&[vec![2, 2, 8, 10], vec![2, 2, 7, 3], vec![2, 2, 4, 11]]);
        let to = b.ints(&to);
        b.op(op, &[&x, &roi, &none, &to], &attrs)
    };
    end(b, &y)
}

fn upsample(b: &mut Build, op: &str) -> Case {
    b.opset = b.pick(&[7, 9]);
    // Without a trained tensor in front, the operator would stay.
    let x = b.input(&[2, 2, 4, 5]);
    let mode = b.pick(&["nearest", "linear"]);
    let by = b.pick(&[[1.0, 1.0, 2.0, 2.0], [1.0, 1.0, 1.5, 3.0]]);
    let y = if b.opset == 7 {
        b.op(op, &[&x], &[("mode", A::S(mode)), ("scales", A::Fs(by.to_vec()))])
    } else {
        let by = b.f(&[4], &by);
        b.op(op, &[&x, &by], &[("mode", A::S(mode))])
    };
    end(b, &y)
}
