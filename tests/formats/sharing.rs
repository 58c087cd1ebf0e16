//! One tensor, several readers: taken apart where they must differ, together where the sharing is meant.

use crate::kit::{Net, With, bn_node, find, node_named, only_cut, op, proven, pruned, resolve, weight};
use onnx_prune::onnx::proto::{NodeProto, TensorProto};
use onnx_prune::onnx::tensor;
use onnx_prune::prune::Pruned;

/// A tensor as a node's output.
fn constant(t: TensorProto) -> NodeProto {
    let name = t.name().to_owned();
    op("Constant", "", "", &name).tensor("value", TensorProto { name: None, ..t })
}

fn dims(p: &Pruned, name: &str) -> Vec<i64> {
    resolve(p.model.as_ref().unwrap(), name).dims.clone()
}

/// As Paddle writes it: weights from Constant nodes, no node has a name.
#[test]
fn weights_of_constant_nodes() {
    let model = Net::new(7, 13)
        .input("x", "N 3 8 8")
        .add(constant(weight("a.w", &[8, 3, 3, 3])))
        .add(op("Conv", "", "x a.w", "a.y").ints("pads", &[1; 4]))
        .add(constant(weight("a.b", &[1, 8, 1, 1])))
        .add(op("Add", "", "a.y a.b", "add.y"))
        .add(op("Relu", "", "add.y", "r.y"))
        .add(constant(weight("b.w", &[6, 8, 1, 1])))
        .add(op("Conv", "", "r.y b.w", "b.y"))
        .add(constant(tensor::from_i64("shape", &[2], &[0, 6 * 64])))
        .add(op("Reshape", "", "b.y shape", "flat"))
        .add(constant(weight("fc.w", &[6 * 64, 5])))
        .add(op("MatMul", "", "flat fc.w", "y"))
        .output("y", "N 5")
        .model();
    let p = proven(&model, 0.4);
    let out = p.model.as_ref().unwrap();
    let (g, h) = (model.proto.graph.as_ref().unwrap(), out.proto.graph.as_ref().unwrap());
    assert!(h.initializer.is_empty());
    assert_eq!(g.node.len(), h.node.len());
    for (a, b) in g.node.iter().zip(&h.node) {
        assert_eq!((&a.name, &a.input, &a.output, a.op_type()), (&b.name, &b.input, &b.output, b.op_type()));
    }
    let (a, b) = (dims(&p, "a.w")[0], dims(&p, "b.w")[0]);
    assert!(a < 8 && b < 6);
    assert_eq!((dims(&p, "a.b"), dims(&p, "b.w")), (vec![1, a, 1, 1], vec![b, a, 1, 1]));
    assert_eq!((dims(&p, "fc.w"), tensor::to_i64(resolve(out, "shape")).unwrap()), (vec![b * 64, 5], vec![0, b * 64]));
}

/// Two layers in a row whose batch normalizations have equal parameters, kept once and read through Identity.
#[test]
fn deduplicated_parameters_behind_identity() {
    let mut net = Net::new(8, 17)
        .input("x", "N 3 8 8")
        .conv("a", "x", [8, 3, 3], 1)
        .bn("n", "a.y", 8)
        .relu("ra", "n.y")
        .conv("b", "ra.y", [8, 8, 3], 1);
    for part in ["scale", "shift", "mean", "var"] {
        net = net.add(op("Identity", &format!("id.{part}"), &format!("n.{part}"), &format!("m.{part}")));
    }
    let model = net
        .add(bn_node("m", "m", "b.y"))
        .relu("rb", "m.y")
        .conv("c", "rb.y", [5, 8, 1], 0)
        .add(op("Relu", "last", "c.y", "y"))
        .output("y", "N 5 8 8")
        .model();
    let p = proven(&model, 0.4);
    let out = p.model.as_ref().unwrap();
    let (a, b) = (dims(&p, "a.w")[0], dims(&p, "b.w")[0]);
    for slot in 1..5 {
        let read = |node: &str| resolve(out, &node_named(out, node).input[slot]).dims.clone();
        assert_eq!((read("n"), read("m")), (vec![a], vec![b]), "slot {slot}");
    }
    let ga = &p.report.groups;
    assert_eq!(ga.iter().map(|g| g.channels_before).collect::<Vec<_>>(), [8, 8], "two groups of their own");
}

/// One bias tensor for three convolutions: those that lose different channels get their own.
#[test]
fn a_bias_that_is_only_equal() {
    let conv = |name: &str, x: &str| {
        op("Conv", name, &format!("{x} {name}.w zeros"), &format!("{name}.y")).ints("pads", &[1; 4])
    };
    let model = Net::new(8, 17)
        .input("x", "N 3 8 8")
        .w("a.w", &[8, 3, 3, 3])
        .w("b.w", &[8, 8, 3, 3])
        .w("c.w", &[8, 8, 3, 3])
        .constant(tensor::from_f32("zeros", &[8], &[0.5, 0., 0.25, 0., -0.5, 0., 0., 1.]))
        .add(conv("a", "x"))
        .relu("ra", "a.y")
        .add(conv("b", "ra.y"))
        .relu("rb", "b.y")
        .add(conv("c", "rb.y"))
        .add(op("Relu", "last", "c.y", "y"))
        .output("y", "N 8 8 8")
        .model();
    let p = proven(&model, 0.4);
    let out = p.model.as_ref().unwrap();
    for node in ["a", "b", "c"] {
        let n = node_named(out, node);
        assert_eq!(find(out, &n.input[2]).unwrap().dims, vec![find(out, &n.input[1]).unwrap().dims[0]], "{node}");
    }
    // The last layer is held back by the graph output and still reads the original.
    assert_eq!(node_named(out, "c").input[2], "zeros");
    assert_eq!(find(out, "zeros"), find(&model, "zeros"));
    assert!(p.plan.tensors.contains_key("zeros@a") && p.plan.tensors.contains_key("zeros@b"));
}

/// The same with nodes that nobody can name: no plan could tell the readers apart, so they stay together, and are right.
#[test]
fn unnamed_nodes_that_share_a_bias() {
    let conv = |w: &str, x: &str, y: &str| op("Conv", "", &format!("{x} {w} bias"), y).ints("pads", &[1; 4]);
    let model = Net::new(8, 17)
        .input("x", "N 3 8 8")
        .w("a.w", &[8, 3, 3, 3])
        .w("b.w", &[8, 8, 3, 3])
        .w("bias", &[8])
        .add(conv("a.w", "x", "a.y"))
        .add(op("Relu", "", "a.y", "ra.y"))
        .add(conv("b.w", "ra.y", "b.y"))
        .add(op("Relu", "", "b.y", "rb.y"))
        .conv("c", "rb.y", [5, 8, 1], 0)
        .add(op("Relu", "", "c.y", "y"))
        .output("y", "N 5 8 8")
        .model();
    let p = proven(&model, 0.5);
    let a = dims(&p, "a.w")[0];
    assert_eq!((dims(&p, "b.w"), dims(&p, "bias")), (vec![a, a, 3, 3], vec![a]));
    assert_eq!(p.report.groups.len(), 1);
    assert_eq!(p.model.unwrap().proto.graph.unwrap().initializer.len(), 4);
}

/// A weight that two convolutions really share (a recurrent block) ties their channels and stays one tensor.
#[test]
fn a_tied_weight_stays_tied() {
    let tied = |name: &str, x: &str| {
        op("Conv", name, &format!("{x} tied.w tied.b"), &format!("{name}.y")).ints("pads", &[1; 4])
    };
    let model = Net::new(8, 17)
        .input("x", "N 3 8 8")
        .conv("a", "x", [8, 3, 3], 1)
        .relu("ra", "a.y")
        .w("tied.w", &[8, 8, 3, 3])
        .w("tied.b", &[8])
        .add(tied("t1", "ra.y"))
        .relu("r1", "t1.y")
        .add(tied("t2", "r1.y"))
        .relu("r2", "t2.y")
        .conv("c", "r2.y", [5, 8, 1], 0)
        .add(op("Relu", "last", "c.y", "y"))
        .output("y", "N 5 8 8")
        .model();
    let p = proven(&model, 0.5);
    let out = p.model.as_ref().unwrap();
    assert_eq!((dims(&p, "a.w")[0], dims(&p, "tied.w"), dims(&p, "c.w")), (4, vec![4, 4, 3, 3], vec![5, 4, 1, 1]));
    for n in ["t1", "t2"] {
        assert_eq!(node_named(out, n).input[1], "tied.w", "{n}");
    }
    let names: Vec<&str> = out.proto.graph.as_ref().unwrap().initializer.iter().map(|t| t.name()).collect();
    assert_eq!(names.iter().filter(|n| n.starts_with("tied.w")).count(), 1, "{names:?}");
    assert_eq!(p.report.groups.len(), 1);
}

/// A tied weight between independent branches couples both groups.
#[test]
fn a_siamese_pair() {
    let model = Net::new(8, 17)
        .input("x", "N 3 8 8")
        .input("z", "N 3 8 8")
        .w("w", &[8, 3, 3, 3])
        .add(op("Conv", "left", "x w", "left.y").ints("pads", &[1; 4]))
        .add(op("Conv", "right", "z w", "right.y").ints("pads", &[1; 4]))
        .relu("rl", "left.y")
        .relu("rr", "right.y")
        .conv("a", "rl.y", [5, 8, 1], 0)
        .conv("b", "rr.y", [5, 8, 1], 0)
        .add(op("Sub", "last", "a.y b.y", "y"))
        .output("y", "N 5 8 8")
        .model();
    let p = proven(&model, 0.5);
    assert_eq!((dims(&p, "w")[0], dims(&p, "a.w")[1], dims(&p, "b.w")[1]), (4, 4, 4));
    assert_eq!(p.plan.tensors["a.w"]["1"], p.plan.tensors["b.w"]["1"]);
}

/// A weight that is also a graph output stays whole.
#[test]
fn an_exposed_weight() {
    let mut net = Net::new(8, 17)
        .input("x", "N 3 8 8")
        .conv("a", "x", [8, 3, 3], 1)
        .relu("ra", "a.y")
        .conv("b", "ra.y", [6, 8, 3], 1)
        .relu("rb", "b.y")
        .conv("c", "rb.y", [5, 6, 1], 0)
        .add(op("Relu", "last", "c.y", "y"))
        .output("y", "N 5 8 8");
    net.graph().output.push(crate::kit::info("a.w", "8 3 3 3", 1));
    let model = net.model();
    let p = pruned(&model, &only_cut(0.5));
    let out = p.model.as_ref().unwrap();
    assert_eq!(find(out, "a.w"), find(&model, "a.w"));
    assert_eq!(find(out, "b.w").unwrap().dims, [3, 8, 3, 3]);
    assert!(
        p.report.pins.iter().any(|p| p.tensor == "a.w" && p.reason.contains("graph output")),
        "{:?}",
        p.report.pins
    );
}
