//! Regions, grids, transforms, random numbers.

use crate::Expect::{self, Carries, Pins};
use crate::Gen;
use crate::common::build::info;
use crate::common::{A, Build};
use crate::must_not::held;
use onnx_prune::onnx::proto::tensor_proto::DataType;
use onnx_prune::onnx::tensor;

/// Operators and their generators.
pub const CASES: &[(&[&str], Gen)] = &[
    (&["RoiAlign", "MaxRoiPool"], roi),
    (&["GridSample"], grid_sample),
    (&["AffineGrid"], affine_grid),
    (&["Col2Im"], col2im),
    (&["MaxUnpool"], unpool),
    (&["DFT"], dft),
    (&["STFT"], stft),
    (&["HannWindow", "HammingWindow", "BlackmanWindow"], windowed),
    (&["MelWeightMatrix"], mel),
    (&["RandomNormalLike", "RandomUniformLike", "Bernoulli"], random_like),
    (&["RandomNormal", "RandomUniform"], random),
    (&["Multinomial"], multinomial),
];

fn roi(b: &mut Build, op: &str) -> Expect {
    b.opset = b.pick(&[10, 16]);
    let c = b.r(3, 6);
    let x = b.channels(&[2, c, 5, 6], 1);
    let (h, w) = (b.r(1, 2), b.r(1, 2));
    let y = if op == "RoiAlign" {
        let rois = b.f(&[3, 4], &[0.0, 0.0, 3.0, 3.0, 1.0, 1.0, 4.0, 4.0, 0.5, 0.0, 3.5, 4.0]);
        let of = b.init(tensor::from_i64("", &[3], &[0, 1, 0]));
        let mode = b.pick(&["avg", "max"]);
        let attrs = [
            ("mode", A::S(mode)),
            ("output_height", A::I(h as i64)),
            ("output_width", A::I(w as i64)),
            ("sampling_ratio", A::I(2)),
        ];
        b.op(op, &[&x, &rois, &of], &attrs)
    } else {
        let rois = b.f(&[2, 5], &[0.0, 0.0, 0.0, 3.0, 3.0, 1.0, 1.0, 1.0, 4.0, 4.0]);
        b.op(op, &[&x, &rois], &[("pooled_shape", A::list(&[h, w]))])
    };
    b.sink(&y, 1);
    Carries
}

fn grid_sample(b: &mut Build, op: &str) -> Expect {
    b.opset = b.pick(&[16, 20]);
    b.dynamic = false;
    let c = b.r(3, 6);
    let x = b.channels(&[2, c, 4, 5], 1);
    let grid = if b.coin() {
        b.w(&[2, 3, 2, 2])
    } else {
        // A grid that another layer makes.
        b.channels(&[2, 3, 3, 2], 3)
    };
    let mode = if b.opset == 16 {
        b.pick(&["bilinear", "nearest", "bicubic"])
    } else {
        b.pick(&["linear", "nearest", "cubic"])
    };
    let padding = b.pick(&["zeros", "border", "reflection"]);
    let y = b.op(op, &[&x, &grid], &[("mode", A::S(mode)), ("padding_mode", A::S(padding))]);
    b.sink(&y, 1);
    Carries
}

fn affine_grid(b: &mut Build, op: &str) -> Expect {
    b.opset = 20;
    b.dynamic = false;
    let c = b.r(3, 6);
    let x = b.channels(&[2, c, 3, 4], 1);
    let theta = b.w(&[2, 2, 3]);
    // The channels among the sizes do not matter.
    let size = if b.coin() { b.op("Shape", &[&x], &[]) } else { b.sizes(&[2, 7, 3, 4]) };
    let grid = b.op(op, &[&theta, &size], &[("align_corners", A::I(1))]);
    let y = b.op("GridSample", &[&x, &grid], &[]);
    b.sink(&y, 1);
    Carries
}

fn col2im(b: &mut Build, op: &str) -> Expect {
    b.opset = 18;
    let c = b.r(2, 4);
    let x = b.channels(&[2, c * 4, 6], 1);
    let (image, block) = (b.ints(&[3, 4]), b.ints(&[2, 2]));
    let y = b.op(op, &[&x, &image, &block], &[]);
    b.sink(&y, 1);
    Carries
}

fn unpool(b: &mut Build, op: &str) -> Expect {
    let x = b.channels(&[2, 3, 4, 4], 1);
    let window = [("kernel_shape", A::L(vec![2, 2])), ("strides", A::L(vec![2, 2]))];
    let y = b.op_n("MaxPool", &[&x], &window, 2);
    // What makes the values does not lose channels either.
    let v = b.op("Relu", &[&y[0]], &[]);
    let z = b.op(op, &[&v, &y[1]], &window);
    let other = b.channels(&[2, 3, 4, 4], 1);
    let z = b.op("Add", &[&z, &other], &[]);
    b.sink(&z, 1);
    // A reader of the layer that only this operator holds.
    let k = b.channels(&[2, 5, 2, 2], 1);
    let ids = b.init(tensor::from_i64("", &[2, 5, 2, 2], &(0..40).map(|i| 4 * i).collect::<Vec<_>>()));
    let z = b.op(op, &[&k, &ids], &window);
    b.sink(&z, 1);
    Pins
}

fn dft(b: &mut Build, op: &str) -> Expect {
    b.opset = b.pick(&[17, 20]);
    let (c, t) = (b.r(3, 6), b.r(4, 6));
    let x = b.channels(&[2, c, t, 1], 1);
    let on_channels = b.one_in(4);
    let (length, axis) = (b.int(4), if on_channels { 1 } else { 2 });
    let mut attrs = vec![("onesided", A::I(b.r(0, 1) as i64))];
    let length = if b.coin() { length } else { String::new() };
    let y = if b.opset < 20 {
        attrs.push(("axis", A::I(axis)));
        if length.is_empty() { b.op(op, &[&x], &attrs) } else { b.op(op, &[&x, &length], &attrs) }
    } else {
        let axis = b.int(axis);
        b.op(op, &[&x, &length, &axis], &attrs)
    };
    b.sink(&y, 1);
    if on_channels { Pins } else { Carries }
}

fn stft(b: &mut Build, op: &str) -> Expect {
    b.opset = 17;
    let c = b.r(6, 9);
    let x = b.channels(&[2, c], 1);
    let (step, window) = (b.int(2), b.pos(&[4]));
    let to = b.ints(&[0, 0, 1]);
    let x = b.op("Reshape", &[&x, &to], &[]);
    let y = b.op(op, &[&x, &step, &window], &[]);
    b.sink(&y, 2);
    Pins
}

fn windowed(b: &mut Build, op: &str) -> Expect {
    b.opset = 17;
    let (c, t) = (b.r(3, 6), b.r(3, 5));
    let x = b.channels(&[2, c, t], 1);
    let on_channels = b.one_in(4);
    let n = b.int(if on_channels { c } else { t } as i64);
    let mut window = b.op(op, &[&n], &[]);
    if on_channels {
        let to = b.ints(&[-1, 1]);
        window = b.op("Reshape", &[&window, &to], &[]);
    }
    let y = b.op("Mul", &[&x, &window], &[]);
    b.sink(&y, 1);
    if on_channels { Pins } else { Carries }
}

fn mel(b: &mut Build, op: &str) -> Expect {
    b.opset = 17;
    let c = b.r(3, 6);
    let x = b.channels(&[2, c, 5], 1);
    let (bins, length, rate) = (b.int(4), b.int(8), b.int(8000));
    let (low, high) = (b.f(&[], &[0.0]), b.f(&[], &[4000.0]));
    let m = b.op(op, &[&bins, &length, &rate, &low, &high], &[]);
    let y = b.op("MatMul", &[&x, &m], &[]);
    b.sink(&y, 1);
    Carries
}

fn random_like(b: &mut Build, op: &str) -> Expect {
    b.opset = 15;
    let c = b.r(3, 6);
    let x = b.channels(&[2, c, 3], 1);
    let p = b.op("Sigmoid", &[&x], &[]);
    let y = b.op(op, &[&p], &[]);
    b.sink(&y, 1);
    Pins
}

fn random(b: &mut Build, op: &str) -> Expect {
    let c = b.r(3, 6);
    let x = b.channels(&[2, c, 3], 1);
    let z = b.op(op, &[], &[("shape", A::list(&[1, c, 1])), ("seed", A::F(1.0))]);
    let y = b.op("Mul", &[&x, &z], &[]);
    b.sink(&y, 1);
    Pins
}

fn multinomial(b: &mut Build, op: &str) -> Expect {
    let c = b.r(3, 6);
    let x = b.channels(&[2, c], 1);
    let y = b.op(op, &[&x], &[("sample_size", A::I(3)), ("seed", A::F(1.0))]);
    b.g.output.push(info(&y, DataType::Int32, &[-1, 3]));
    Pins
}

#[test]
fn where_a_grid_looks() {
    held("coordinates", "GridSample", "sampled", |b| {
        (b.opset, b.dynamic) = (16, false);
        let x = b.input(&[2, 3, 4, 4]);
        let grid = b.channels(&[2, 3, 3, 2], 3);
        let y = b.op("GridSample", &[&x, &grid], &[]);
        b.output(&y);
    });
    held("regions", "RoiAlign", "sampled", |b| {
        (b.opset, b.dynamic) = (16, false);
        let x = b.input(&[2, 3, 4, 4]);
        let rois = b.channels(&[3, 4], 1);
        let of = b.init(tensor::from_i64("", &[3], &[0, 1, 0]));
        let y = b.op("RoiAlign", &[&x, &rois, &of], &[]);
        b.output(&y);
    });
}
