//! Files from before opset 13: initializers among the graph's inputs, and attributes for what are inputs today.

use crate::kit::{Net, With, bn_node, declared, find, node_named, only_cut, op, proven, pruned};
use onnx_prune::onnx::Model;
use onnx_prune::onnx::proto::{ModelProto, ValueInfoProto, type_proto};
use onnx_prune::prune::Options;
use onnx_prune::recover::Recover;

/// Lists every initializer among the graph's inputs, as IR version 3 demands.
fn list_initializers(net: Net) -> Model {
    let mut proto: ModelProto = net.0;
    let g = proto.graph.as_mut().unwrap();
    for t in &g.initializer {
        let dims: Vec<String> = t.dims.iter().map(ToString::to_string).collect();
        g.input.push(crate::kit::info(t.name(), &dims.join(" "), t.data_type()));
    }
    Model::from_proto(proto, "old.onnx")
}

/// Every listed initializer has the shape of its tensor.
fn check_inputs(before: &Model, after: &Model) {
    let (g, h) = (before.proto.graph.as_ref().unwrap(), after.proto.graph.as_ref().unwrap());
    let types = |v: &ValueInfoProto| match v.r#type.as_ref().and_then(|t| t.value.as_ref()) {
        Some(type_proto::Value::TensorType(t)) => t.elem_type(),
        _ => 0,
    };
    assert_eq!(g.input[0], h.input[0]);
    for v in &h.input[1..] {
        let t = find(after, v.name()).unwrap_or_else(|| panic!("{} is an input without a value", v.name()));
        let dims: Vec<String> = t.dims.iter().map(ToString::to_string).collect();
        assert_eq!((declared(v), types(v)), (dims.join(" "), t.data_type()), "{}", v.name());
    }
    for t in &h.initializer {
        assert!(h.input.iter().any(|v| v.name() == t.name()), "initializer {} is not listed", t.name());
    }
}

fn body(opset: i64, upsample: bool) -> Net {
    let mut batch_norm = bn_node("n", "n", "a.y").float("momentum", 0.9);
    if opset < 9 {
        batch_norm = batch_norm.int("spatial", 1);
    }
    let mut net = Net::new(3, opset)
        .input("x", "N 3 8 8")
        .conv("a", "x", [8, 3, 3], 1)
        .bn_parameters("n", 8)
        .add(batch_norm)
        .relu("r", "n.y")
        .add(op("Clip", "clip", "r.y", "clip.y").float("min", 0.0).float("max", 6.0));
    net = if !upsample {
        net.add(op("Relu", "up", "clip.y", "up.y"))
    } else if opset == 7 {
        net.add(op("Upsample", "up", "clip.y", "up.y").text("mode", "nearest").floats("scales", &[1.0, 1.0, 2.0, 2.0]))
    } else {
        let scales = onnx_prune::onnx::tensor::from_f32("up.scales", &[4], &[1.0, 1.0, 2.0, 2.0]);
        net.constant(scales).add(op("Upsample", "up", "clip.y up.scales", "up.y").text("mode", "nearest"))
    };
    net.add(op("Dropout", "drop", "up.y", "drop.y").float("ratio", 0.5))
        .add(op("MaxPool", "pool", "drop.y", "pool.y").ints("kernel_shape", &[2, 2]).ints("strides", &[2, 2]))
        .conv("b", "pool.y", [6, 8, 3], 1)
        .add(op("GlobalAveragePool", "avg", "b.y", "avg.y"))
        .i64("flat", &[-1, 6])
        .add(op("Reshape", "flatten", "avg.y flat", "flatten.y"))
        .w("fc.w", &[5, 6])
        .w("fc.b", &[5])
        .add(op("Gemm", "fc", "flatten.y fc.w fc.b", "y").int("transB", 1))
        .output("y", "N 5")
}

#[test]
fn initializers_are_inputs() {
    for opset in [7, 9] {
        let model = list_initializers(body(opset, true));
        let p = pruned(&model, &only_cut(0.4));
        // tract has no Upsample.
        assert!(p.report.verify.note.contains("Upsample"), "{:?}", p.report.verify);
        let out = p.model.unwrap();
        check_inputs(&model, &out);
        assert!(find(&out, "a.w").unwrap().dims[0] < 8 && find(&out, "b.w").unwrap().dims[0] < 6);
        let model = list_initializers(body(opset, false));
        check_inputs(&model, &proven(&model, 0.4).model.unwrap());
    }
}

/// Slice, Split, Squeeze, Unsqueeze, Pad and ReduceMean with attributes.
#[test]
fn attributes_instead_of_inputs() {
    for opset in [7, 9] {
        let net = Net::new(3, opset)
            .input("x", "N 3 8 8")
            .conv("a", "x", [12, 3, 3], 1)
            .relu("r", "a.y")
            .add(op("Split", "split", "r.y", "s1 s2").int("axis", 1).ints("split", &[8, 4]))
            .add(
                op("Slice", "slice", "s1", "slice.y")
                    .ints("axes", &[1, 2])
                    .ints("starts", &[2, 0])
                    .ints("ends", &[8, 9223372036854775807]),
            )
            .add(op("Concat", "cat", "slice.y s2", "cat.y").int("axis", 1))
            .add(op("Pad", "pad", "cat.y", "pad.y").ints("pads", &[0, 1, 1, 1, 0, 2, 1, 1]).text("mode", "constant"))
            .conv("b", "pad.y", [7, 13, 3], 0)
            .add(op("ReduceMean", "mean", "b.y", "mean.y").ints("axes", &[2, 3]).int("keepdims", 1))
            .add(op("Squeeze", "squeeze", "mean.y", "squeeze.y").ints("axes", &[2, 3]))
            .add(op("Unsqueeze", "unsqueeze", "squeeze.y", "unsqueeze.y").ints("axes", &[2, 3]))
            .add(op("Mul", "gate", "b.y unsqueeze.y", "gate.y"))
            .conv("c", "gate.y", [5, 7, 1], 0)
            .add(op("Relu", "last", "c.y", "y"))
            .output("y", "N 5 8 8");
        let model = list_initializers(net);
        let out = proven(&model, 0.4).model.unwrap();
        check_inputs(&model, &out);
        let a = find(&out, "a.w").unwrap().dims[0];
        let ints = |node: &str, name: &str| -> Vec<i64> {
            node_named(&out, node).attribute.iter().find(|x| x.name() == name).unwrap().ints.clone()
        };
        assert!(a < 12);
        assert_eq!(ints("split", "split").iter().sum::<i64>(), a);
    }
}

/// Split without sizes needs them once its parts differ, and has nowhere but the attribute to put them.
#[test]
fn split_into_equal_parts() {
    for (opset, ir) in [(9, 3), (11, 6)] {
        let net = Net::new(ir, opset)
            .input("x", "N 3 8 8")
            .conv("a", "x", [12, 3, 3], 1)
            .relu("r", "a.y")
            .add(op("Split", "split", "r.y", "s1 s2 s3").int("axis", 1))
            .conv("b1", "s1", [5, 4, 1], 0)
            .conv("b2", "s2", [5, 4, 1], 0)
            .conv("b3", "s3", [5, 4, 1], 0)
            .add(op("Sum", "last", "b1.y b2.y b3.y", "y"))
            .output("y", "N 5 8 8");
        let out = proven(&list_initializers(net), 0.4).model.unwrap();
        let sizes = &node_named(&out, "split").attribute.iter().find(|x| x.name() == "split").unwrap().ints;
        let kept: Vec<i64> = ["b1.w", "b2.w", "b3.w"].iter().map(|w| find(&out, w).unwrap().dims[1]).collect();
        assert_eq!(*sizes, kept);
    }
}

/// What is added, un-shared tensors and new biases, is listed like everything else: before IR version 4 an initializer
/// that is no graph input is an error.
#[test]
fn added_initializers_are_inputs_too() {
    let conv = |name: &str, x: &str| {
        op("Conv", name, &format!("{x} {name}.w zeros"), &format!("{name}.y")).ints("pads", &[1; 4])
    };
    let net = Net::new(3, 9)
        .input("x", "N 3 8 8")
        .w("a.w", &[8, 3, 3, 3])
        .w("b.w", &[8, 8, 3, 3])
        .w("zeros", &[8])
        .add(conv("a", "x"))
        .relu("ra", "a.y")
        .add(conv("b", "ra.y"))
        .bn("n", "b.y", 8)
        .relu("rb", "n.y")
        .conv("c", "rb.y", [5, 8, 1], 0)
        .add(op("Relu", "last", "c.y", "y"))
        .output("y", "N 5 8 8");
    let model = list_initializers(net);
    check_inputs(&model, &proven(&model, 0.4).model.unwrap());
    let p = pruned(&model, &Options { recover: Recover::Bias, ..only_cut(0.4) });
    assert!(p.report.recover.expected_channels > 0, "{:?}", p.report.recover);
    let out = p.model.unwrap();
    assert_eq!(node_named(&out, "c").input.len(), 3, "c should have got a bias");
    check_inputs(&model, &out);
}
