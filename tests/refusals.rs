//! What holds channels back, and the words for it: a pin is a result that people read.

mod build;

use build::{between, in_memory, info, int, ints, model, node, plain, weight};
use onnx_prune::graph::Graph;
use onnx_prune::onnx::proto::{GraphProto, ModelProto, OperatorSetIdProto};
use onnx_prune::onnx::tensor;
use onnx_prune::prune::analyse;

/// One line a group and one a pin.
fn told(proto: ModelProto) -> String {
    let model = in_memory(proto);
    let graph = Graph::new(&model).unwrap();
    let t = analyse(&graph).unwrap();
    let ch = &t.trace.channels;
    let mut out = String::new();
    for g in &ch.groups {
        out += &format!("free: {} channels of {}\n", g.channels.len(), g.name);
    }
    for p in &ch.pins {
        let what = format!("{} axis {}, {} of {}", p.tensor, p.axis, p.pinned, p.len);
        let node = if p.op == p.node { String::new() } else { format!("{} {}: ", p.op, p.node) };
        out += &format!("pinned: {what}, by {node}{}\n", p.reason);
    }
    out
}

#[test]
fn nothing_but_the_output() {
    insta::assert_snapshot!(told(plain()), @r#"
    free: 8 channels of a
    pinned: a.w axis 1, 3 of 3, by graph input "x"
    pinned: b.w axis 0, 4 of 4, by graph output "y"
    "#);
}

#[test]
fn softmax_over_channels() {
    let m = between(vec![int(node("Softmax", "soft", &["a.y"], &["m.y"]), "axis", 1)], vec![]);
    insta::assert_snapshot!(told(m), @r#"
    pinned: a.w axis 0, 8 of 8, by Softmax soft: the normalisation's statistic runs over this axis; removing an index would change it
    pinned: a.w axis 1, 3 of 3, by graph input "x"
    pinned: b.w axis 0, 4 of 4, by graph output "y"
    pinned: b.w axis 1, 8 of 8, by Softmax soft: the normalisation's statistic runs over this axis; removing an index would change it
    "#);
}

#[test]
fn softmax_over_positions_is_no_reason() {
    let m = between(vec![int(node("Softmax", "soft", &["a.y"], &["m.y"]), "axis", 3)], vec![]);
    insta::assert_snapshot!(told(m), @r#"
    free: 8 channels of a
    pinned: a.w axis 1, 3 of 3, by graph input "x"
    pinned: b.w axis 0, 4 of 4, by graph output "y"
    "#);
}

#[test]
fn layer_normalization_over_channels() {
    let m = between(
        vec![
            ints(node("Transpose", "last", &["a.y"], &["t.y"]), "perm", &[0, 2, 3, 1]),
            node("LayerNormalization", "norm", &["t.y", "n.w", "n.b"], &["n.y"]),
            ints(node("Transpose", "first", &["n.y"], &["m.y"]), "perm", &[0, 3, 1, 2]),
        ],
        vec![weight("n.w", &[8]), weight("n.b", &[8])],
    );
    insta::assert_snapshot!(told(m), @r#"
    pinned: a.w axis 0, 8 of 8, by LayerNormalization norm: the normalisation's statistic runs over this axis; removing an index would change it
    pinned: a.w axis 1, 3 of 3, by graph input "x"
    pinned: b.w axis 0, 4 of 4, by graph output "y"
    pinned: b.w axis 1, 8 of 8, by LayerNormalization norm: the normalisation's statistic runs over this axis; removing an index would change it
    "#);
}

#[test]
fn unknown_operator() {
    insta::assert_snapshot!(told(between(vec![node("Frobnicate", "f", &["a.y"], &["m.y"])], vec![])), @r#"
    pinned: a.w axis 0, 8 of 8, by Frobnicate f: this operator has no rule, so its axes are not followed
    pinned: a.w axis 1, 3 of 3, by graph input "x"
    pinned: b.w axis 0, 4 of 4, by Conv b: the shape of its input is not known: Frobnicate node "f": this operator has no rule, so its axes are not followed
    pinned: b.w axis 1, 8 of 8, by Conv b: the shape of its input is not known: Frobnicate node "f": this operator has no rule, so its axes are not followed
    "#);
}

#[test]
fn operator_of_another_domain() {
    let mut relu = node("Relu", "r", &["a.y"], &["m.y"]);
    relu.domain = Some("com.example".into());
    let mut m = between(vec![relu], vec![]);
    m.opset_import.push(OperatorSetIdProto { domain: Some("com.example".into()), version: Some(1) });
    insta::assert_snapshot!(told(m), @r#"
    pinned: a.w axis 0, 8 of 8, by com.example:Relu r: this operator has no rule, so its axes are not followed
    pinned: a.w axis 1, 3 of 3, by graph input "x"
    pinned: b.w axis 0, 4 of 4, by Conv b: the shape of its input is not known: com.example:Relu node "r": this operator has no rule, so its axes are not followed
    pinned: b.w axis 1, 8 of 8, by Conv b: the shape of its input is not known: com.example:Relu node "r": this operator has no rule, so its axes are not followed
    "#);
}

#[test]
fn graph_output() {
    let mut m = plain();
    m.graph.as_mut().unwrap().output.push(info("a.y", &[1, 8, 8, 8]));
    insta::assert_snapshot!(told(m), @r#"
    pinned: a.w axis 0, 8 of 8, by graph output "a.y"
    pinned: a.w axis 1, 3 of 3, by graph input "x"
    pinned: b.w axis 0, 4 of 4, by graph output "y"
    pinned: b.w axis 1, 8 of 8, by graph output "a.y"
    "#);
}

#[test]
fn graph_input() {
    let mut m = between(vec![node("Add", "add", &["a.y", "z"], &["m.y"])], vec![]);
    m.graph.as_mut().unwrap().input.push(info("z", &[1, 8, 8, 8]));
    insta::assert_snapshot!(told(m), @r#"
    pinned: a.w axis 0, 8 of 8, by graph input "z"
    pinned: a.w axis 1, 3 of 3, by graph input "x"
    pinned: b.w axis 0, 4 of 4, by graph output "y"
    pinned: b.w axis 1, 8 of 8, by graph input "z"
    "#);
}

#[test]
fn shape_used_as_data() {
    let m = between(
        vec![
            node("Shape", "shape", &["a.y"], &["s"]),
            node("Gather", "pick", &["s", "one"], &["c"]),
            int(node("Cast", "cast", &["c"], &["f"]), "to", 1),
            node("Div", "scale", &["a.y", "f"], &["m.y"]),
        ],
        vec![tensor::from_i64("one", &[], &[1])],
    );
    insta::assert_snapshot!(told(m), @r#"
    pinned: a.w axis 0, 8 of 8, by Div scale: the size of this axis is used as a value
    pinned: a.w axis 1, 3 of 3, by graph input "x"
    pinned: b.w axis 0, 4 of 4, by graph output "y"
    pinned: b.w axis 1, 8 of 8, by Div scale: the size of this axis is used as a value
    "#);
}

#[test]
fn one_norm_group() {
    let m = between(
        vec![int(node("GroupNormalization", "norm", &["a.y", "n.w", "n.b"], &["m.y"]), "num_groups", 1)],
        vec![weight("n.w", &[1]), weight("n.b", &[1])],
    );
    insta::assert_snapshot!(told(m), @r#"
    pinned: a.w axis 0, 8 of 8, by GroupNormalization norm: the normalisation's statistic runs over this axis; removing an index would change it
    pinned: a.w axis 1, 3 of 3, by graph input "x"
    pinned: b.w axis 0, 4 of 4, by graph output "y"
    pinned: b.w axis 1, 8 of 8, by GroupNormalization norm: the normalisation's statistic runs over this axis; removing an index would change it
    "#);
}

#[test]
fn mean_over_channels() {
    let reduce = node("ReduceMean", "mean", &["a.y", "one"], &["e"]);
    let m = between(
        vec![reduce, node("Sub", "center", &["a.y", "e"], &["m.y"])],
        vec![tensor::from_i64("one", &[1], &[1])],
    );
    insta::assert_snapshot!(told(m), @r#"
    pinned: a.w axis 0, 8 of 8, by ReduceMean mean: a reduction runs over this axis
    pinned: a.w axis 1, 3 of 3, by graph input "x"
    pinned: b.w axis 0, 4 of 4, by graph output "y"
    pinned: b.w axis 1, 8 of 8, by ReduceMean mean: a reduction runs over this axis
    "#);
}

#[test]
fn argmax_over_channels() {
    let arg = int(node("ArgMax", "arg", &["a.y"], &["i"]), "axis", 1);
    let m = model(
        vec![node("Conv", "a", &["x", "a.w"], &["a.y"]), arg],
        vec![weight("a.w", &[8, 3, 1, 1])],
        vec![info("x", &[1, 3, 8, 8])],
        vec![info("i", &[1, 1, 8, 8])],
    );
    insta::assert_snapshot!(told(m), @r#"
    pinned: a.w axis 0, 8 of 8, by ArgMax arg: a reduction runs over this axis
    pinned: a.w axis 1, 3 of 3, by graph input "x"
    "#);
}

#[test]
fn capture_by_a_subgraph() {
    let branch = |name: &str, from: &str| GraphProto {
        name: Some(name.into()),
        node: vec![node("Relu", "", &[from], &[name])],
        output: vec![info(name, &[1, 8, 8, 8])],
        ..Default::default()
    };
    let mut choose = node("If", "if", &["flag"], &["m.y"]);
    for (attribute, from) in [("then_branch", "a.y"), ("else_branch", "a.y")] {
        choose = int(choose, attribute, 0);
        let a = choose.attribute.last_mut().unwrap();
        a.i = None;
        a.r#type = Some(5);
        a.g = Some(branch(attribute, from));
    }
    let mut flag = tensor::from_i64("flag", &[], &[1]);
    flag.data_type = Some(9);
    flag.int64_data.clear();
    flag.raw_data = Some(vec![1].into());
    insta::assert_snapshot!(told(between(vec![choose], vec![flag])), @r#"
    pinned: a.w axis 0, 8 of 8, by If if: a subgraph reads it
    pinned: a.w axis 1, 3 of 3, by graph input "x"
    pinned: b.w axis 0, 4 of 4, by Conv b: the shape of its input is not known: If node "if": this operator has no rule, so its axes are not followed
    pinned: b.w axis 1, 8 of 8, by Conv b: the shape of its input is not known: If node "if": this operator has no rule, so its axes are not followed
    "#);
}

#[test]
fn gather_with_computed_indices() {
    let pick = int(node("Gather", "pick", &["a.y", "i"], &["m.y"]), "axis", 1);
    let mut m = between(vec![pick], vec![]);
    let mut i = info("i", &[8]);
    if let Some(onnx_prune::onnx::proto::type_proto::Value::TensorType(t)) =
        i.r#type.as_mut().and_then(|t| t.value.as_mut())
    {
        t.elem_type = Some(7);
    }
    m.graph.as_mut().unwrap().input.push(i);
    insta::assert_snapshot!(told(m), @r#"
    pinned: a.w axis 0, 8 of 8, by Gather pick: it is indexed with values that are computed at run time
    pinned: a.w axis 1, 3 of 3, by graph input "x"
    pinned: b.w axis 0, 4 of 4, by graph output "y"
    pinned: b.w axis 1, 8 of 8, by Gather pick: this operator does not carry channels along this axis
    "#);
}

#[test]
fn convolution_with_computed_weights() {
    let mut m = between(vec![node("Conv", "dyn", &["a.y", "w2"], &["m.y"])], vec![]);
    m.graph.as_mut().unwrap().input.push(info("w2", &[8, 8, 1, 1]));
    insta::assert_snapshot!(told(m), @r#"
    pinned: a.w axis 0, 8 of 8, by graph input "w2"
    pinned: a.w axis 1, 3 of 3, by graph input "x"
    pinned: b.w axis 0, 4 of 4, by graph output "y"
    pinned: b.w axis 1, 8 of 8, by graph input "w2"
    "#);
}
