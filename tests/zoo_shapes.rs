//! The shape arithmetic that exporters write around convolutions: folded or followed, never frozen.
#![cfg(feature = "tract")]

#[path = "formats/kit.rs"]
mod kit;

use kit::{Net, With, declared, difference, find, info, node_named, only_cut, op, outputs, proven, pruned, twin};
use onnx_prune::onnx::proto::NodeProto;
use onnx_prune::onnx::{Model, tensor};
use onnx_prune::prune::Pruned;
use onnx_prune::verify;

/// The pruned model equals its twin for several sizes of the dynamic dimensions.
fn for_every_size(model: &Model, p: &Pruned, sizes: &[(usize, usize)]) {
    let (twin, out) = (twin(model, &p.plan), p.model.as_ref().unwrap());
    for &(batch, size) in sizes {
        let off = difference(out, &twin, batch, size);
        assert!(off <= verify::TOLERANCE, "batch {batch}, size {size}: off by {off}");
        for ((_, a), (_, b)) in outputs(out, batch, size).iter().zip(&outputs(model, batch, size)) {
            assert_eq!(a.dims, b.dims);
        }
    }
}

fn kept(p: &Pruned, weight: &str) -> i64 {
    find(p.model.as_ref().unwrap(), weight).unwrap().dims[0]
}

fn ops<'a>(p: &'a Pruned, op: &str) -> Vec<&'a NodeProto> {
    p.model.as_ref().unwrap().proto.graph.as_ref().unwrap().node.iter().filter(|n| n.op_type() == op).collect()
}

/// As tf2onnx writes it: NHWC between Transposes, the shortcut padded with channels of zeros.
#[test]
fn nhwc_with_channel_pads() {
    let model = Net::new(7, 12)
        .input("x", "N 8 8 3")
        .add(op("Transpose", "in", "x", "x.nchw").ints("perm", &[0, 3, 1, 2]))
        .conv("a", "x.nchw", [8, 3, 3], 1)
        .add(op("Transpose", "out", "a.y", "a.nhwc").ints("perm", &[0, 2, 3, 1]))
        .w("a.b", &[8])
        .add(op("Add", "bias", "a.nhwc a.b", "bias.y"))
        .relu("ra", "bias.y")
        .add(op("Transpose", "in2", "ra.y", "ra.nchw").ints("perm", &[0, 3, 1, 2]))
        .conv("b", "ra.nchw", [12, 8, 3], 1)
        .add(op("Transpose", "out2", "b.y", "b.nhwc").ints("perm", &[0, 2, 3, 1]))
        .i64("pads", &[0, 0, 0, 2, 0, 0, 0, 2])
        .add(op("Pad", "pad", "ra.y pads", "pad.y"))
        .add(op("Add", "join", "b.nhwc pad.y", "join.y"))
        .relu("rb", "join.y")
        .i64("axes.slices", &[1, 2])
        .add(op("ReduceMean", "gap", "rb.y", "gap.y").ints("axes", &[1, 2]).int("keepdims", 0))
        .w("fc.w", &[12, 5])
        .add(op("MatMul", "fc", "gap.y fc.w", "y"))
        .output("y", "N 5")
        .model();
    let p = proven(&model, 0.4);
    let out = p.model.as_ref().unwrap();
    assert!(kept(&p, "a.w") < 8 && kept(&p, "b.w") < 12);
    let pads = tensor::to_i64(find(out, &node_named(out, "pad").input[1]).unwrap()).unwrap();
    assert_eq!(kept(&p, "a.w") + pads[3] + pads[7], kept(&p, "b.w"));
    for_every_size(&model, &p, &[(1, 8), (3, 8)]);
}

/// The zero-pad shortcut of CIFAR ResNets in PyTorch: `F.pad` whose amounts pass through ConstantOfShape, Concat, Slice and
/// Transpose at run time.
#[test]
fn pads_computed_at_run_time() {
    let model = Net::new(8, 17)
        .input("x", "N 3 H W")
        .conv("a", "x", [8, 3, 3], 1)
        .relu("ra", "a.y")
        .conv("b", "ra.y", [12, 8, 3], 1)
        .i64("amounts", &[0, 0, 0, 0, 2, 2])
        .i64("two", &[2])
        .add(op("ConstantOfShape", "zeros", "two", "zeros.y").tensor("value", tensor::from_i64("", &[1], &[0])))
        .add(op("Concat", "all", "amounts zeros.y", "all.y").int("axis", 0))
        .i64("pairs", &[-1, 2])
        .add(op("Reshape", "r1", "all.y pairs", "r1.y"))
        .i64("from", &[-1])
        .i64("to", &[-9223372036854775807])
        .i64("first", &[0])
        .i64("back", &[-1])
        .add(op("Slice", "reverse", "r1.y from to first back", "reverse.y"))
        .add(op("Transpose", "t", "reverse.y", "t.y").ints("perm", &[1, 0]))
        .add(op("Reshape", "r2", "t.y back", "r2.y"))
        .add(op("Cast", "cast", "r2.y", "cast.y").int("to", 7))
        .add(op("Pad", "pad", "ra.y cast.y", "pad.y").text("mode", "constant"))
        .add(op("Add", "join", "b.y pad.y", "join.y"))
        .relu("rb", "join.y")
        .conv("c", "rb.y", [5, 12, 1], 0)
        .add(op("Relu", "last", "c.y", "y"))
        .output("y", "N 5 H W")
        .model();
    let p = proven(&model, 0.4);
    assert!(kept(&p, "a.w") < 8 && kept(&p, "b.w") < 12);
    for_every_size(&model, &p, &[(1, 5), (2, 9)]);
}

/// Channels of zeros made with ConstantOfShape from the activation's own Shape.
#[test]
fn zeros_of_a_computed_shape() {
    let model = Net::new(8, 17)
        .input("x", "N 3 H W")
        .conv("a", "x", [8, 3, 3], 1)
        .relu("ra", "a.y")
        .conv("b", "ra.y", [12, 8, 3], 1)
        .add(op("Shape", "shape", "ra.y", "shape.y"))
        .i64("i0", &[0])
        .i64("i23", &[2, 3])
        .i64("four", &[4])
        .add(op("Gather", "n", "shape.y i0", "n.y"))
        .add(op("Gather", "hw", "shape.y i23", "hw.y"))
        .add(op("Concat", "dims", "n.y four hw.y", "dims.y").int("axis", 0))
        .add(op("ConstantOfShape", "zeros", "dims.y", "zeros.y").tensor("value", tensor::from_f32("", &[1], &[0.0])))
        .add(op("Concat", "wide", "ra.y zeros.y", "wide.y").int("axis", 1))
        .add(op("Add", "join", "b.y wide.y", "join.y"))
        .relu("rb", "join.y")
        .conv("c", "rb.y", [5, 12, 1], 0)
        .add(op("Relu", "last", "c.y", "y"))
        .output("y", "N 5 H W")
        .model();
    let p = proven(&model, 0.4);
    assert!(kept(&p, "a.w") < 8);
    for_every_size(&model, &p, &[(1, 5), (2, 9)]);
}

/// `x.view(x.size(0), -1)` and `x.view(x.size(0), C * H * W)` in all their glory.
#[test]
fn reshape_with_a_dynamic_batch() {
    for last in ["-1", "product"] {
        let mut net = Net::new(8, 17)
            .input("x", "N 3 8 8")
            .conv("a", "x", [8, 3, 3], 1)
            .relu("ra", "a.y")
            .add(op("Shape", "shape", "ra.y", "shape.y"))
            .constant(tensor::from_i64("i0", &[], &[0]))
            .constant(tensor::from_i64("i1", &[], &[1]))
            .constant(tensor::from_i64("i2", &[], &[2]))
            .i64("axes", &[0])
            .add(op("Gather", "n", "shape.y i0", "n.y"))
            .add(op("Unsqueeze", "un", "n.y axes", "un.y"));
        net = if last == "-1" {
            net.i64("rest", &[-1])
        } else {
            net.add(op("Gather", "c", "shape.y i1", "c.y"))
                .add(op("Gather", "h", "shape.y i2", "h.y"))
                .add(op("Mul", "ch", "c.y h.y", "ch.y"))
                .add(op("Mul", "chw", "ch.y h.y", "chw.y"))
                .add(op("Unsqueeze", "uchw", "chw.y axes", "rest"))
        };
        let model = net
            .add(op("Concat", "dims", "un.y rest", "dims.y").int("axis", 0))
            .add(op("Reshape", "flat", "ra.y dims.y", "flat.y"))
            .w("fc.w", &[5, 8 * 64])
            .w("fc.b", &[5])
            .add(op("Gemm", "fc", "flat.y fc.w fc.b", "y").int("transB", 1))
            .output("y", "N 5")
            .info("flat.y", "N 512")
            .model();
        let p = proven(&model, 0.5);
        assert_eq!((kept(&p, "a.w"), find(p.model.as_ref().unwrap(), "fc.w").unwrap().dims[1]), (4, 256));
        let out = p.model.as_ref().unwrap();
        assert_eq!(declared(&out.proto.graph.as_ref().unwrap().value_info[0]), "N 256");
        assert!(!ops(&p, "Shape").is_empty(), "the batch is frozen");
        for_every_size(&model, &p, &[(1, 8), (5, 8)]);
    }
}

/// A constant count of channels next to a computed batch.
#[test]
fn reshape_with_a_constant_count() {
    let model = Net::new(8, 17)
        .input("x", "N 3 H W")
        .conv("a", "x", [8, 3, 3], 1)
        .relu("ra", "a.y")
        .add(op("Shape", "shape", "ra.y", "shape.y"))
        .i64("i0", &[0])
        .add(op("Gather", "n", "shape.y i0", "n.y"))
        .i64("rest", &[8, -1])
        .add(op("Concat", "dims", "n.y rest", "dims.y").int("axis", 0))
        .add(op("Reshape", "positions", "ra.y dims.y", "positions.y"))
        .i64("last", &[-1])
        .add(op("ReduceMean", "mean", "positions.y", "mean.y").ints("axes", &[2]).int("keepdims", 0))
        .w("fc.w", &[8, 5])
        .add(op("MatMul", "fc", "mean.y fc.w", "y"))
        .output("y", "N 5")
        .model();
    let p = proven(&model, 0.5);
    assert_eq!(kept(&p, "a.w"), 4);
    for_every_size(&model, &p, &[(1, 5), (4, 7)]);
}

/// `chunk` as older PyTorch exports it: bounds of Slice from Shape, Gather, Add, Div and Mul.
#[test]
fn slices_with_computed_bounds() {
    let scalar = |name: &str, v: i64| tensor::from_i64(name, &[1], &[v]);
    let model = Net::new(8, 17)
        .input("x", "N 3 H W")
        .conv("a", "x", [16, 3, 3], 1)
        .relu("ra", "a.y")
        .add(op("Shape", "shape", "ra.y", "shape.y"))
        .constant(scalar("one", 1))
        .constant(scalar("two", 2))
        .constant(scalar("zero", 0))
        .add(op("Gather", "c", "shape.y one", "c.y"))
        .add(op("Add", "up", "c.y one", "up.y"))
        .add(op("Div", "half", "up.y two", "half.y"))
        .add(op("Mul", "m1", "half.y one", "m1.y"))
        .add(op("Mul", "m2", "half.y two", "m2.y"))
        .add(op("Slice", "s1", "ra.y zero m1.y one", "s1.y"))
        .add(op("Slice", "s2", "ra.y m1.y m2.y one", "s2.y"))
        .conv("b1", "s1.y", [5, 8, 1], 0)
        .conv("b2", "s2.y", [5, 8, 3], 1)
        .add(op("Add", "last", "b1.y b2.y", "y"))
        .output("y", "N 5 H W")
        .model();
    let p = proven(&model, 0.4);
    let out = p.model.as_ref().unwrap();
    let (b1, b2) = (find(out, "b1.w").unwrap().dims[1], find(out, "b2.w").unwrap().dims[1]);
    assert_eq!(b1 + b2, kept(&p, "a.w"));
    for_every_size(&model, &p, &[(1, 5), (2, 9)]);
}

/// Squeeze-excite gates that are spread with Expand (to a computed shape) or Tile.
#[test]
fn gates_that_are_expanded() {
    let gate = |net: Net| {
        net.input("x", "N 3 8 8")
            .conv("a", "x", [8, 3, 3], 1)
            .relu("ra", "a.y")
            .add(op("GlobalAveragePool", "gap", "ra.y", "gap.y"))
            .conv("down", "gap.y", [4, 8, 1], 0)
            .relu("rd", "down.y")
            .conv("up", "rd.y", [8, 4, 1], 0)
            .add(op("Sigmoid", "sig", "up.y", "sig.y"))
    };
    let tail = |net: Net| {
        net.add(op("Mul", "gate", "ra.y wide", "gate.y"))
            .conv("b", "gate.y", [5, 8, 1], 0)
            .add(op("Relu", "last", "b.y", "y"))
            .output("y", "N 5 8 8")
            .model()
    };
    let expand = |net: Net| {
        net.add(op("Shape", "shape", "ra.y", "shape.y")).add(op("Expand", "spread", "sig.y shape.y", "wide"))
    };
    let fixed = |net: Net| net.i64("dims", &[1, 8, 8, 8]).add(op("Expand", "spread", "sig.y dims", "wide"));
    let tile = |net: Net| net.i64("repeats", &[1, 1, 8, 8]).add(op("Tile", "spread", "sig.y repeats", "wide"));
    let variants: [&dyn Fn(Net) -> Net; 3] = [&expand, &fixed, &tile];
    for spread in variants {
        let model = tail(spread(gate(Net::new(8, 17))));
        let p = proven(&model, 0.4);
        let out = p.model.as_ref().unwrap();
        assert_eq!(find(out, "up.w").unwrap().dims[0], kept(&p, "a.w"));
        assert!(kept(&p, "a.w") < 8 && kept(&p, "down.w") < 4);
        for_every_size(&model, &p, &[(1, 8), (3, 8)]);
    }
}

/// Upsampling to the size of another branch; no spatial size is known before run time, and none is written down.
#[test]
fn spatial_sizes_stay_dynamic() {
    let model = Net::new(8, 17)
        .input("x", "N 3 H W")
        .conv("a", "x", [8, 3, 3], 1)
        .relu("ra", "a.y")
        .add(op("MaxPool", "pool", "ra.y", "pool.y").ints("kernel_shape", &[2, 2]).ints("strides", &[2, 2]))
        .conv("b", "pool.y", [6, 8, 3], 1)
        .add(op("Shape", "s.b", "b.y", "s.b.y"))
        .add(op("Shape", "s.a", "ra.y", "s.a.y"))
        .i64("zero", &[0])
        .i64("two", &[2])
        .i64("four", &[4])
        .add(op("Slice", "nc", "s.b.y zero two zero", "nc.y"))
        .add(op("Slice", "hw", "s.a.y two four zero", "hw.y"))
        .add(op("Concat", "sizes", "nc.y hw.y", "sizes.y").int("axis", 0))
        .add(
            op("Resize", "up", "b.y - - sizes.y", "up.y")
                .text("mode", "nearest")
                .text("coordinate_transformation_mode", "asymmetric")
                .text("nearest_mode", "floor"),
        )
        .add(op("Concat", "cat", "up.y ra.y", "cat.y").int("axis", 1))
        .conv("c", "cat.y", [5, 14, 1], 0)
        .add(op("Relu", "last", "c.y", "y"))
        .output("y", "N 5 H W")
        .info("cat.y", "N 14 H W")
        .info("up.y", "N 6 H W")
        .model();
    let p = pruned(&model, &only_cut(0.4));
    let out = p.model.as_ref().unwrap();
    let (a, b) = (kept(&p, "a.w"), kept(&p, "b.w"));
    assert!(a < 8 && b < 6 && find(out, "c.w").unwrap().dims[1] == a + b);
    let g = out.proto.graph.as_ref().unwrap();
    let said = |name: &str| declared(g.value_info.iter().find(|v| v.name() == name).unwrap());
    assert_eq!((said("cat.y"), said("up.y")), (format!("N {} H W", a + b), format!("N {b} H W")));
    assert_eq!(g.input[0], info("x", "N 3 H W", 1));
    assert_eq!(g.output[0], info("y", "N 5 H W", 1));
    assert!(p.report.verify.max_rel_diff.is_some(), "{:?}", p.report.verify);
    for_every_size(&model, &p, &[(1, 8), (2, 12)]);
}

/// A channel shuffle with a computed batch and spatial size, twice.
#[test]
fn shuffles_with_computed_shapes() {
    let shuffle = |net: Net, n: &str, x: &str| {
        let name = |part: &str| format!("{n}.{part}");
        net.add(op("Shape", &name("shape"), x, &name("s")))
            .i64(&name("i0"), &[0])
            .i64(&name("i23"), &[2, 3])
            .i64(&name("split"), &[2, 4])
            .i64(&name("c"), &[8])
            .add(op("Gather", &name("n"), &format!("{n}.s {n}.i0"), &name("n.y")))
            .add(op("Gather", &name("hw"), &format!("{n}.s {n}.i23"), &name("hw.y")))
            .add(op("Concat", &name("d5"), &format!("{n}.n.y {n}.split {n}.hw.y"), &name("d5.y")).int("axis", 0))
            .add(op("Concat", &name("d4"), &format!("{n}.n.y {n}.c {n}.hw.y"), &name("d4.y")).int("axis", 0))
            .add(op("Reshape", &name("r1"), &format!("{x} {n}.d5.y"), &name("r1.y")))
            .add(op("Transpose", &name("t"), &name("r1.y"), &name("t.y")).ints("perm", &[0, 2, 1, 3, 4]))
            .add(op("Reshape", &name("r2"), &format!("{n}.t.y {n}.d4.y"), &name("y")))
    };
    let net = Net::new(8, 17).input("x", "N 3 H W").conv("a", "x", [8, 3, 3], 1).relu("ra", "a.y");
    let net = shuffle(net, "sh1", "ra.y").conv("b", "sh1.y", [8, 8, 3], 1).relu("rb", "b.y");
    let model = shuffle(net, "sh2", "rb.y")
        .conv("c", "sh2.y", [5, 8, 1], 0)
        .add(op("Relu", "last", "c.y", "y"))
        .output("y", "N 5 H W")
        .model();
    let p = proven(&model, 0.4);
    assert!(kept(&p, "a.w") < 8 && kept(&p, "b.w") < 8);
    assert_eq!(p.report.groups.len(), 2);
    for_every_size(&model, &p, &[(1, 5), (3, 9)]);
}
