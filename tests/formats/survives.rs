//! What pruning has no business with comes back as it was.

use crate::kit::{Net, declared, find, fixture, info, node_named, only_cut, op, proven, pruned, weight};
use onnx_prune::onnx::proto::{
    FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, SparseTensorProto, StringStringEntryProto,
    TensorAnnotation, TrainingInfoProto,
};
use onnx_prune::onnx::{Model, tensor};
use onnx_prune::plan::Budget;
use onnx_prune::prune::{Options, prune};

fn pair(key: &str, value: &str) -> StringStringEntryProto {
    StringStringEntryProto { key: Some(key.into()), value: Some(value.into()) }
}

/// A network with everything that a file may say besides: two free convolutions, one that a custom node holds back.
fn decorated() -> ModelProto {
    let custom = NodeProto { domain: Some("com.example".into()), ..op("Frob", "frob", "c.y frob.w", "f.y") };
    let mut net = Net::new(10, 18)
        .input("x", "N 3 H W")
        .conv("a", "x", [8, 3, 3], 1)
        .relu("ra", "a.y")
        .conv("b", "ra.y", [8, 8, 3], 1)
        .relu("rb", "b.y")
        .conv("c", "rb.y", [6, 8, 1], 0)
        .w("frob.w", &[6, 5])
        .add(custom)
        .add(NodeProto { domain: Some("com.example".into()), ..op("Count", "count", "sparse", "s.y") })
        .conv("d", "rb.y", [6, 8, 1], 0)
        .add(op("Relu", "last", "d.y", "y"))
        .output("y", "N 6 H W")
        .info("a.y", "N 8 H W")
        .info("rb.y", "N 8 H W")
        .info("c.y", "N 6 H W")
        .info("f.y", "anything 7");
    let g = net.graph();
    g.output.push(info("f.y", "N Frobs", 1));
    g.output.push(info("s.y", "2", 7));
    g.doc_string = Some("graph".into());
    g.metadata_props = vec![pair("g", "1")];
    g.node[0].doc_string = Some("first convolution".into());
    g.node[0].metadata_props = vec![pair("pkg.torch.onnx.stack_trace", "line 1\nline 2")];
    g.initializer[0].doc_string = Some("its weight".into());
    g.initializer[0].metadata_props = vec![pair("w", "2")];
    g.input[0].doc_string = Some("image".into());
    g.value_info[0].metadata_props = vec![pair("v", "3")];
    g.quantization_annotation = vec![TensorAnnotation {
        tensor_name: Some("a.y".into()),
        quant_parameter_tensor_names: vec![pair("SCALE_TENSOR", "q.scale")],
    }];
    g.sparse_initializer = vec![SparseTensorProto {
        values: Some(tensor::from_f32("sparse", &[2], &[1.0, 2.0])),
        indices: Some(tensor::from_i64("", &[2], &[1, 5])),
        dims: vec![2, 4],
    }];
    let mut model = net.0;
    model.producer_name = Some("somebody".into());
    model.producer_version = Some("1.2".into());
    model.domain = Some("org.example".into());
    model.model_version = Some(77);
    model.doc_string = Some("model".into());
    model.metadata_props = vec![pair("author", "me"), pair("", "empty key")];
    model.opset_import.push(OperatorSetIdProto { domain: Some("com.example".into()), version: Some(3) });
    model.functions = vec![FunctionProto {
        name: Some("NeverCalled".into()),
        domain: Some("com.example".into()),
        input: vec!["a".into(), "b".into()],
        output: vec!["c".into()],
        node: vec![op("Identity", "", "a", "c")],
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(18) }],
        ..Default::default()
    }];
    model.training_info = vec![TrainingInfoProto {
        initialization: Some(GraphProto { initializer: vec![weight("seed", &[3])], ..Default::default() }),
        update_binding: vec![pair("a.w", "a.w.new")],
        ..Default::default()
    }];
    model
}

/// A graph without what a cut may change.
fn frame(g: &GraphProto) -> GraphProto {
    GraphProto { node: vec![], initializer: vec![], value_info: vec![], ..g.clone() }
}

#[test]
fn everything_else() {
    let before = decorated();
    let p = pruned(&Model::from_proto(before.clone(), "m.onnx"), &only_cut(0.4));
    assert!(p.report.verify.max_rel_diff.is_none(), "tract knows com.example: {:?}", p.report.verify);
    assert_eq!((p.report.channels_prunable, p.report.channels_removed), (16, 6));
    let out = p.model.unwrap();
    let strip = |m: &ModelProto| ModelProto { graph: m.graph.as_ref().map(frame), ..m.clone() };
    assert_eq!(strip(&before), strip(&out.proto));
    let (g, h) = (before.graph.as_ref().unwrap(), out.proto.graph.as_ref().unwrap());
    assert_eq!(g.node, h.node, "no node needed a change");
    assert_eq!(g.initializer.len(), h.initializer.len());
    for (a, b) in g.initializer.iter().zip(&h.initializer) {
        assert_eq!((a.name(), a.doc_string(), &a.metadata_props), (b.name(), b.doc_string(), &b.metadata_props));
    }
    // The custom node's tensors, bit for bit; c's outputs feed it and stay.
    assert_eq!(find(&out, "frob.w"), g.initializer.iter().find(|t| t.name() == "frob.w"));
    assert_eq!(find(&out, "c.w").unwrap().dims[0], 6);
    assert!(p.report.pins.iter().any(|p| p.layer == "c" && p.node == "frob" && p.op == "com.example:Frob"));
    // Declared shapes: corrected where they changed, otherwise untouched.
    assert_eq!(g.value_info.len(), h.value_info.len());
    let kept = |name: &str| find(&out, name).unwrap().dims[0];
    let said = |name: &str| declared(h.value_info.iter().find(|v| v.name() == name).unwrap());
    assert_eq!(said("a.y"), format!("N {} H W", kept("a.w")));
    assert_eq!(said("rb.y"), format!("N {} H W", kept("b.w")));
    assert_eq!((said("c.y"), said("f.y")), ("N 6 H W".into(), "anything 7".into()));
    assert_eq!(h.value_info[0].metadata_props, g.value_info[0].metadata_props);
}

/// The same through a file.
#[test]
fn everything_else_in_the_file() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("m.onnx");
    std::fs::write(&path, prost::Message::encode_to_vec(&decorated())).unwrap();
    let model = onnx_prune::onnx::load(&path).unwrap();
    let out = pruned(&model, &only_cut(0.4)).model.unwrap();
    let written = dir.path().join("out.onnx");
    onnx_prune::onnx::save(&out, &written, &Default::default()).unwrap();
    assert_eq!(onnx_prune::onnx::load(&written).unwrap().proto, out.proto);
}

/// Whatever the budget is called, nothing removed is nothing changed.
#[test]
fn an_empty_plan_changes_nothing() {
    let fixtures = ["residual", "concat", "depthwise", "squeeze_excite", "shuffle"];
    let fixtures = fixtures.iter().flat_map(|f| [format!("{f}.bn.onnx"), format!("{f}.folded.onnx")]);
    let mut models: Vec<Model> = fixtures.map(|f| fixture(&f)).collect();
    models.push(Model::from_proto(decorated(), "m.onnx"));
    for model in &models {
        for recover in [onnx_prune::recover::Recover::None, onnx_prune::recover::Recover::Bias] {
            for budget in [Budget::Ratio(0.0), Budget::TargetMacs(1.0), Budget::Threshold(-1.0)] {
                let options = Options { budget, recover, verify: false, ..only_cut(0.0) };
                let p = prune(model, &options, &|_| ()).unwrap();
                assert!(p.model.unwrap().proto == model.proto, "{}: {budget}", model.path.display());
                assert!(p.plan.tensors.is_empty());
            }
        }
    }
}

/// Names of nodes, of values and of the tensors that stay.
#[test]
fn names() {
    for name in ["residual.bn.onnx", "depthwise.folded.onnx", "squeeze_excite.bn.onnx"] {
        let model = fixture(name);
        let out = proven(&model, 0.4).model.unwrap();
        let (g, h) = (model.proto.graph.as_ref().unwrap(), out.proto.graph.as_ref().unwrap());
        assert_eq!((&g.input, &g.output), (&h.input, &h.output));
        let compute = |g: &GraphProto| -> Vec<(String, String, Vec<String>)> {
            let real = g.node.iter().filter(|n| !matches!(n.op_type(), "Constant" | "Identity"));
            real.map(|n| (n.op_type().into(), n.name().into(), n.output.clone())).collect()
        };
        assert_eq!(compute(g), compute(h), "{name}");
        let before: Vec<&str> = g.initializer.iter().map(|t| t.name()).collect();
        let after: Vec<&str> = h.initializer.iter().map(|t| t.name()).filter(|n| before.contains(n)).collect();
        assert!(after.len() * 10 >= before.len() * 8, "{name}: {} of {} names", after.len(), before.len());
        assert!(before.iter().filter(|n| after.contains(n)).eq(after.iter()), "{name}: another order");
    }
}

/// Only the number that became wrong is corrected, a symbol beside it stays.
#[test]
fn a_declaration_with_a_symbol() {
    let model = Net::new(8, 17)
        .input("x", "1 3 8 8")
        .conv("a", "x", [8, 3, 1], 0)
        .relu("r", "a.y")
        .conv("b", "r.y", [4, 8, 1], 0)
        .info("r.y", "1 8 H 8")
        .add(op("Relu", "last", "b.y", "y"))
        .output("y", "1 4 8 8")
        .model();
    let out = proven(&model, 0.5).model.unwrap();
    assert_eq!(declared(&out.proto.graph.as_ref().unwrap().value_info[0]), "1 4 H 8");
    assert_eq!(node_named(&out, "r"), node_named(&model, "r"));
}
