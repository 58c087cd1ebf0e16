//! Control flow and model-local functions: pruned inside, written back as they were.

mod common;
#[path = "formats/kit.rs"]
mod kit;
#[path = "scopes/models.rs"]
mod models;
#[path = "random/mod.rs"]
mod random;
#[path = "scopes/strange.rs"]
mod strange;
#[path = "scopes/wrapped.rs"]
mod wrapped;

use kit::{find, node_named, only_cut};
use models::all;
use onnx_prune::inspect::inspect;
use onnx_prune::onnx::proto::{GraphProto, ModelProto, NodeProto};
use onnx_prune::onnx::{self, Model, SaveOptions};
use onnx_prune::plan::Budget;
use onnx_prune::prune::{Options, Pruned, prune};
use onnx_prune::recover::Recover;
use onnx_prune::runtime;
use regex::Regex;

/// The embedded runtime has no Loop, and cannot tell the parts of an If in an If apart.
fn runs(name: &str) -> bool {
    !matches!(name, "looped" | "nested") && runtime::embedded().is_some()
}

fn run(model: &Model, options: &Options) -> Pruned {
    prune(model, options, &|_| ()).unwrap()
}

fn graph(model: &Model) -> &GraphProto {
    model.proto.graph.as_ref().unwrap()
}

fn inside<'a>(node: &'a NodeProto, attribute: &str) -> &'a GraphProto {
    node.attribute.iter().find(|a| a.name() == attribute).unwrap().g.as_ref().unwrap()
}

fn ops(g: &GraphProto) -> Vec<&str> {
    g.node.iter().map(|n| n.op_type()).collect()
}

fn dims(g: &GraphProto, name: &str) -> Vec<i64> {
    g.initializer.iter().find(|t| t.name() == name).unwrap().dims.clone()
}

/// At random, in numbers and in structure. `ONNX_PRUNE_DUMP_ALL` writes the models for another runtime.
#[test]
fn every_model_equals_its_twin() {
    for (name, model) in all() {
        let mut removed = 0;
        for seed in 0..12 {
            let done = common::check(&model, seed).unwrap_or_else(|e| {
                common::dump(name, &model, seed);
                panic!("{name}, seed {seed}: {e}")
            });
            if std::env::var_os("ONNX_PRUNE_DUMP_ALL").is_some() {
                common::dump(&format!("{name}.{seed}"), &model, seed);
            }
            removed += done.removed;
            assert_eq!(done.skipped.is_none(), runs(name), "{name}: {:?}", done.skipped);
        }
        assert!(removed > 20, "{name}: {removed}");
    }
}

#[test]
fn nothing_removed_is_nothing_changed() {
    for (name, model) in all() {
        for recover in [Recover::None, Recover::Bias] {
            let options = Options { recover, verify: false, ..only_cut(0.0) };
            let out = run(&model, &options).model.unwrap();
            assert!(out.proto == model.proto, "{name}: {:#?}", graph(&out).node);
        }
    }
}

/// With everything that a user gets who asks for nothing.
#[test]
fn the_whole_pipeline() {
    for (name, model) in all() {
        for recover in [Recover::None, Recover::Constant, Recover::Bias] {
            let options = Options { budget: Budget::Ratio(0.4), recover, ..Options::default() };
            let p = run(&model, &options);
            assert!(p.report.channels_removed > 0, "{name}");
            let verify = &p.report.verify;
            assert_eq!(verify.max_rel_diff.is_some(), runs(name), "{name}: {verify:?}");
            let again = run(&model, &Options { plan: Some(with_hash(&model, &p)), ..options.clone() });
            assert!(again.model.unwrap().proto == p.model.unwrap().proto, "{name}: the plan gives another model");
        }
    }
}

fn with_hash(model: &Model, p: &Pruned) -> onnx_prune::plan::PlanFile {
    onnx_prune::plan::PlanFile { model_sha256: model.sha256(), ..p.plan.clone() }
}

#[test]
fn branches_keep_their_names_and_places() {
    let model = models::if_own(true);
    let p = run(&model, &only_cut(0.5));
    let out = p.model.unwrap();
    let (was, is) = (node_named(&model, "choose"), node_named(&out, "choose"));
    for (branch, middle) in [("then_branch", 12), ("else_branch", 10)] {
        let (was, is) = (inside(was, branch), inside(is, branch));
        assert_eq!((&was.node, &was.input, &was.output), (&is.node, &is.input, &is.output));
        let kept = dims(is, "w1")[0];
        assert!(kept < middle, "{branch}: {kept}");
        assert_eq!((dims(is, "b1"), dims(is, "w2")[1]), (vec![kept], kept));
        let said: Vec<String> = is.value_info.iter().map(kit::declared).collect();
        assert_eq!(said, [format!("1 {kept} 6 6"), format!("1 {kept} H W")]);
    }
    // Shapes that both branches agree on are known behind the If.
    assert!(find(&out, "last.w").unwrap().dims[0] < 6);
    // Both branches read this one.
    assert_eq!(find(&out, "mid.w").unwrap().dims[0], 8);
    assert_eq!(graph(&out).input, graph(&model).input);
}

#[test]
fn names_tell_the_way() {
    let found = inspect([&models::if_own(true), &models::functions(), &models::nested()]).unwrap();
    let ids = |k: usize| found.models[k].groups.iter().map(|g| g.id.as_str()).collect::<Vec<_>>();
    assert_eq!(ids(0), ["first", "choose/then_branch/c1", "choose/else_branch/c1", "last"]);
    let tensors: Vec<&str> = found.models[0].groups[1].sites.iter().map(|s| s.tensor.as_str()).collect();
    assert_eq!(tensors, ["choose/then_branch/w1", "choose/then_branch/b1", "choose/then_branch/w2"]);
    assert_eq!(found.models[0].inputs.len(), 1);
    assert_eq!(found.models[0].outputs.len(), 1);
    let pin = found.models[0].pins.iter().find(|p| p.layer == "mid" && p.axis == 0).unwrap();
    assert_eq!((pin.node.as_str(), pin.reason.as_str()), ("choose", "a subgraph reads it"));
    let pin = found.models[0].pins.iter().find(|p| p.layer == "choose/then_branch/c2" && p.axis == 0).unwrap();
    let reason = "subgraph output \"choose/then_branch/out\"";
    assert_eq!((pin.node.as_str(), pin.op.as_str(), pin.reason.as_str()), ("choose", "If", reason));
    assert_eq!(ids(1), ["first", "mid", "one/c1", "two/c1", "three/c1", "three/c2", "four/c1"]);
    assert_eq!(found.models[1].ops.get("Conv"), Some(&10));
    assert_eq!(found.models[1].ops.get("LeakyRelu"), Some(&2));
    let deep = ids(2);
    assert!(deep.contains(&"one/outer/then_branch/inner/else_branch/c1"), "{deep:?}");
    assert!(found.models[2].graph.edges.iter().all(|e| e.from != e.to));
}

/// A call stays a call while the function still says what it does: cut arguments are no reason to inline it.
#[test]
fn untouched_calls_stay() {
    let model = models::functions();
    let options = Options { only: vec![Regex::new("^(one|three)/t2$").unwrap()], ..only_cut(0.5) };
    let out = run(&model, &options).model.unwrap();
    let g = graph(&out);
    // "one" gets smaller weights as arguments, "three" has them inside.
    let was = graph(&model);
    for name in ["one", "two", "four"] {
        assert_eq!(g.node.iter().find(|n| n.name() == name), was.node.iter().find(|n| n.name() == name));
    }
    assert!(find(&out, "a1").unwrap().dims[0] < 12 && find(&out, "b1").unwrap().dims[0] == 12);
    let inlined: Vec<&str> = g.node.iter().map(|n| n.name()).filter(|n| n.starts_with("three")).collect();
    assert_eq!(inlined, ["three/Constant#0", "three/Constant#1", "three/c1", "three/act", "three/c2"]);
    assert_eq!(out.proto.functions, model.proto.functions);
    // The function is not needed once both of its calls have changed.
    let out = run(&model, &only_cut(0.5)).model.unwrap();
    let left: Vec<&str> = out.proto.functions.iter().map(|f| f.name()).collect();
    assert_eq!(left, ["Block", "Act"]);
    unique(&out.proto);
}

/// Nodes of one name would be a nuisance.
fn unique(proto: &ModelProto) {
    let mut names: Vec<&str> = proto.graph.iter().flat_map(|g| &g.node).map(|n| n.name()).collect();
    names.sort_unstable();
    let all = names.len();
    names.dedup();
    assert_eq!(names.len(), all, "{names:?}");
}

/// A shuffle that loses channels becomes a Gather, where it was.
#[test]
fn new_nodes_and_constants_land_in_the_body() {
    let out = run(&models::scanned(), &only_cut(0.4)).model.unwrap();
    assert_eq!(ops(graph(&out)), ["Scan"]);
    let g = inside(&graph(&out).node[0], "body");
    assert_eq!(ops(g), ["Gemm", "Gemm", "Add", "Gather", "Tanh", "Gemm", "Identity"]);
    assert_eq!(g.node[3].name(), "merge");
    assert_eq!((g.node[3].input[0].as_str(), g.node[3].output[0].as_str()), ("t3", "s3"));
    let indices = &g.node[3].input[1];
    assert!(g.initializer.iter().any(|t| t.name() == indices), "{indices} is not in the body");
    assert_eq!(graph(&out).initializer.len(), 1);
}

/// The repair gives the last layer of the call and that of the body a bias: the call is written out, the body has one more
/// constant.
#[test]
fn repaired_inside() {
    let model = models::normed();
    let options = Options { recover: Recover::Bias, ..only_cut(0.4) };
    let p = run(&model, &options);
    assert!(p.report.recover.expected_channels > 0, "{:?}", p.report.recover);
    let out = p.model.unwrap();
    let biased = node_named(&out, "one/c2");
    assert_eq!(biased.input.len(), 3);
    assert!(find(&out, &biased.input[2]).is_some() && out.proto.functions.is_empty());
    let branch = inside(node_named(&out, "if"), "then_branch");
    let biased = branch.node.iter().find(|n| n.name() == "c2").unwrap();
    assert_eq!(dims(branch, &biased.input[2]), [8]);
    let plain = run(&model, &only_cut(0.4)).model.unwrap();
    assert_eq!(ops(graph(&plain)), ["Conv", "Relu", "Conv", "Block", "If"]);
}

/// What a body says besides comes back.
#[test]
fn everything_else_in_a_body() {
    use onnx_prune::onnx::proto::{SparseTensorProto, StringStringEntryProto, TensorAnnotation};
    use onnx_prune::onnx::tensor;
    let mut model = models::if_own(true);
    let g = model.proto.graph.as_mut().unwrap();
    let choose = g.node.iter_mut().find(|n| n.op_type() == "If").unwrap();
    let branch = choose.attribute[0].g.as_mut().unwrap();
    let pair = StringStringEntryProto { key: Some("key".into()), value: Some("value".into()) };
    branch.doc_string = Some("a branch".into());
    branch.metadata_props = vec![pair.clone()];
    branch.quantization_annotation = vec![TensorAnnotation {
        tensor_name: Some("t1".into()),
        quant_parameter_tensor_names: vec![StringStringEntryProto { key: Some("SCALE_TENSOR".into()), ..pair.clone() }],
    }];
    branch.sparse_initializer = vec![SparseTensorProto {
        values: Some(tensor::from_f32("few", &[2], &[1.0, 2.0])),
        indices: Some(tensor::from_i64("", &[2], &[1, 5])),
        dims: vec![2, 4],
    }];
    branch.value_info.push(kit::info("of.nothing", "3", 1));
    branch.node[1].metadata_props = vec![pair];
    let none = run(&model, &Options { verify: false, ..only_cut(0.0) }).model.unwrap();
    assert!(none.proto == model.proto);
    let out = run(&model, &Options { verify: false, ..only_cut(0.5) }).model.unwrap();
    let rest = |m: &Model| {
        let g = inside(node_named(m, "choose"), "then_branch");
        let value_info = g.value_info.last().cloned().into_iter().collect();
        GraphProto { initializer: vec![], value_info, ..g.clone() }
    };
    assert_eq!(rest(&out), rest(&model));
}

/// A constant that is divided among calls is passed to them, and no call has to be written out.
#[test]
fn divided_arguments() {
    let model = models::shared();
    let out = run(&model, &only_cut(0.5)).model.unwrap();
    assert_eq!(ops(graph(&out)), ["Conv", "Relu", "Conv", "Outer", "If"]);
    assert_eq!(out.proto.functions, model.proto.functions);
    let outer = &node_named(&out, "one").input;
    let kept = find(&out, "a1").unwrap().dims[0];
    assert!(outer[1] == "a1" && outer[2] != "bias" && kept < 12);
    assert_eq!(find(&out, &outer[2]).unwrap().dims, [kept]);
    let branch = inside(node_named(&out, "if"), "then_branch");
    let inner = &branch.node[0];
    assert_eq!((inner.op_type(), inner.name(), inner.input[1].as_str()), ("Block", "inner", "c1"));
    assert_eq!(dims(branch, &inner.input[2]), [dims(branch, "c1")[0]]);
}

#[test]
fn one_branch_only() {
    let model = models::if_captured(true);
    let options = Options { only: vec![Regex::new("then_branch/c1$").unwrap()], ..only_cut(0.5) };
    let p = run(&model, &options);
    let out = p.model.unwrap();
    assert!(find(&out, "w.a").unwrap().dims[0] < 12);
    assert_eq!(find(&out, "w.b").unwrap().dims[0], 12);
    // The shared bias has been divided: each branch reads its own.
    let read = |branch: &str| {
        let bias =
            inside(graph(&out).node.iter().find(|n| n.op_type() == "If").unwrap(), branch).node[0].input[2].clone();
        let own = inside(graph(&out).node.iter().find(|n| n.op_type() == "If").unwrap(), branch);
        let all = own.initializer.iter().chain(&graph(&out).initializer);
        all.into_iter().find(|t| t.name() == bias).unwrap().dims[0]
    };
    assert_eq!((read("then_branch"), read("else_branch")), (find(&out, "w.a").unwrap().dims[0], 12));
}

/// Types are declared in bodies as well, and a body's `Cast` names one.
#[test]
fn half_precision() {
    for (name, model) in [("if_own", models::if_own(false)), ("functions", models::functions())] {
        let p = run(&models::halved(model), &only_cut(0.4));
        let verify = &p.report.verify;
        assert_eq!(verify.max_rel_diff.is_some(), runs(name), "{name}: {verify:?}");
        assert!(!runs(name) || verify.note.contains("float32"), "{name}: {verify:?}");
        let mut other = 0;
        onnx::visit::tensors(&p.model.unwrap().proto, &mut |t| {
            other += usize::from(t.data_type() == 1);
            Ok(())
        })
        .unwrap();
        assert_eq!(other, 0, "{name}");
    }
}

#[test]
fn data_files_hold_the_weights_of_bodies_too() {
    for (name, model) in all() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("m.onnx");
        onnx::save(&model, &path, &SaveOptions { external: true }).unwrap();
        let loaded = onnx::load(&path).unwrap();
        let out = run(&loaded, &only_cut(0.4)).model.unwrap();
        let written = dir.path().join("out.onnx");
        onnx::save(&out, &written, &SaveOptions::default()).unwrap();
        let plain = run(&model, &only_cut(0.4)).model.unwrap();
        let back = onnx::load(&written).unwrap();
        assert!(back.to_bytes().unwrap() == plain.to_bytes().unwrap(), "{name}");
    }
}
