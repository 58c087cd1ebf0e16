//! What cannot be flattened, and what must not be believed.

use crate::common::{between, env, seeded};
use crate::kit::{Net, info, only_cut, op, weight};
use crate::models::{self, WithGraph, body, call, constant, flag, function, with_functions};
use crate::run;
use onnx_prune::error::Error;
use onnx_prune::flat::flatten;
use onnx_prune::graph::Graph;
use onnx_prune::inspect::inspect;
use onnx_prune::onnx::Model;
use onnx_prune::onnx::proto::{FunctionProto, GraphProto, NodeProto, OperatorSetIdProto};
use onnx_prune::onnx::{SaveOptions, save};
use onnx_prune::prune::{Options, prune};
use onnx_prune::recover::Recover;

/// `x → Conv a → the node → Conv b → y`.
fn around(node: NodeProto, functions: Vec<FunctionProto>) -> Model {
    let net = Net::new(10, 18)
        .input("x", "1 3 4 4")
        .conv("a", "x", [8, 3, 1], 0)
        .add(node)
        .info("m.y", "1 8 4 4")
        .conv("b", "m.y", [8, 8, 1], 0)
        .conv("c", "b.y", [4, 8, 1], 0)
        .output("c.y", "1 4 4 4");
    with_functions(net, functions)
}

/// The call is an operator like any other without a rule, and everything is written back.
fn opaque(model: &Model) {
    let found = &inspect([model]).unwrap().models[0];
    let ids: Vec<&str> = found.groups.iter().map(|g| g.id.as_str()).collect();
    assert_eq!(ids, ["b"], "{:?}", found.pins);
    let out = run(model, &only_cut(0.5)).model.unwrap();
    assert_eq!(out.proto.functions, model.proto.functions);
    assert_eq!(out.proto.opset_import, model.proto.opset_import);
    let nodes = |m: &Model| m.proto.graph.as_ref().unwrap().node.clone();
    assert_eq!(nodes(&out), nodes(model));
}

fn relu() -> FunctionProto {
    function("F", "x", "y", vec![op("Relu", "r", "x", "y")])
}

#[test]
fn a_plain_call_is_inlined() {
    let model = around(call("F", "f", "a.y", "m.y"), vec![relu()]);
    let found = &inspect([&model]).unwrap().models[0];
    assert_eq!(found.groups.iter().map(|g| g.id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    let out = run(&model, &only_cut(0.5)).model.unwrap();
    assert_eq!(out.proto.functions, model.proto.functions);
}

/// Functions have no versions: some exporters import no domain for those that a function calls.
#[test]
fn calls_without_an_import() {
    let set = OperatorSetIdProto { domain: None, version: Some(18) };
    let outer = function("G", "x", "y", vec![call("F", "inner", "x", "t"), op("Neg", "", "t", "y")]);
    let model = around(call("G", "g", "a.y", "m.y"), vec![relu(), FunctionProto { opset_import: vec![set], ..outer }]);
    let found = &inspect([&model]).unwrap().models[0];
    assert_eq!((found.ops.get("Relu"), found.ops.get("Neg")), (Some(&1), Some(&1)));
    assert_eq!(run(&model, &only_cut(0.5)).model.unwrap().proto.functions, model.proto.functions);
}

#[test]
fn recursion() {
    let f = |name: &str, calls: &str| {
        function(name, "x", "y", vec![op("Relu", "", "x", "t"), call(calls, "again", "t", "y")])
    };
    opaque(&around(call("F", "f", "a.y", "m.y"), vec![f("F", "F")]));
    opaque(&around(call("F", "f", "a.y", "m.y"), vec![f("F", "G"), f("G", "H"), f("H", "F")]));
    // Outside of the cycle, but calling into it.
    let model = around(call("E", "f", "a.y", "m.y"), vec![f("E", "F"), f("F", "F")]);
    let found = &inspect([&model]).unwrap().models[0];
    assert_eq!((found.ops.get("net:F"), found.ops.get("Relu")), (Some(&1), Some(&1)));
    let out = run(&model, &only_cut(0.5)).model.unwrap();
    assert_eq!(out.proto.functions, model.proto.functions);
}

#[test]
fn malformed_functions_and_calls() {
    let with = |f: FunctionProto| opaque(&around(call("F", "f", "a.y", "m.y"), vec![f]));
    // Reads what it does not define; has an output that nothing makes, or that is an input; defines a name twice.
    with(function("F", "x", "y", vec![op("Add", "", "x a.w", "y")]));
    with(function("F", "x", "z", vec![op("Relu", "", "x", "y")]));
    with(function("F", "x", "x", vec![op("Relu", "", "x", "y")]));
    with(function("F", "x", "y", vec![op("Relu", "", "x", "y"), op("Neg", "", "x", "y")]));
    with(function("F", "x", "y", vec![op("Relu", "", "x", "x"), op("Neg", "", "x", "y")]));
    with(FunctionProto { overload: Some("other".into()), ..relu() });
    // Operators of another version, or of none.
    let set = |v| vec![OperatorSetIdProto { domain: Some("ai.onnx".into()), version: Some(v) }];
    with(FunctionProto { opset_import: set(13), ..relu() });
    with(FunctionProto { opset_import: vec![], ..relu() });
    // Two of one name; too many arguments.
    opaque(&around(call("F", "f", "a.y", "m.y"), vec![relu(), relu()]));
    opaque(&around(call("F", "f", "a.y a.y", "m.y"), vec![relu()]));
    opaque(&around(call("F", "f", "a.y", "m.y more"), vec![relu()]));
}

/// Twenty levels of ten calls each would be 10^20 nodes; two hundred levels of one call are too deep.
#[test]
fn explosions() {
    let level = |k: usize, width: usize| {
        let from = |i: usize| if i == 0 { "x".to_owned() } else { format!("t{i}") };
        let to = |i: usize| if i + 1 == width { "y".to_owned() } else { format!("t{}", i + 1) };
        let inner = format!("F{}", k + 1);
        function(&format!("F{k}"), "x", "y", (0..width).map(|i| call(&inner, "", &from(i), &to(i))).collect())
    };
    let last = |k: usize| FunctionProto { name: Some(format!("F{k}")), ..relu() };
    for (levels, width) in [(20, 10), (200, 1), (30_000, 1)] {
        let functions = (0..levels).map(|k| level(k, width)).chain([last(levels)]).collect();
        let start = std::time::Instant::now();
        let model = around(call("F0", "f", "a.y", "m.y"), functions);
        let flat = flatten(&model).unwrap();
        assert!(flat.proto.graph.as_ref().unwrap().node.len() < 100);
        assert!(start.elapsed().as_secs() < 120, "{levels} levels of {width}: {:?}", start.elapsed());
        assert_eq!(run(&model, &only_cut(0.5)).model.unwrap().proto.functions, model.proto.functions);
    }
}

/// Deeper than any file can be, as a library user could make it.
#[test]
fn deep_bodies() {
    let mut g = body(
        vec![op("Conv", "deep", "a.y deep.w", "t"), op("Conv", "deeper", "t deeper.w", "out")],
        vec![weight("deep.w", &[5, 8, 1, 1]), weight("deeper.w", &[8, 5, 1, 1])],
        vec![],
        vec![info("out", "1 8 4 4", 1)],
    );
    for level in 0..100 {
        let node = op("If", "", "go", "out").graph("then_branch", g.clone()).graph("else_branch", empty(level));
        g = body(vec![node], vec![], vec![], vec![info("out", "1 8 4 4", 1)]);
    }
    let choose = op("If", "if", "go", "m.y").graph("then_branch", g).graph("else_branch", empty(1000));
    let mut model = around(choose, vec![]);
    model.proto.graph.as_mut().unwrap().initializer.push(flag("go", true));
    let out = run(&model, &only_cut(0.5)).model.unwrap();
    let node = |m: &Model| m.proto.graph.as_ref().unwrap().node[1].clone();
    assert_eq!(node(&out), node(&model));
}

fn empty(level: usize) -> GraphProto {
    body(
        vec![op("Identity", "", "a.y", &format!("e{level}"))],
        vec![],
        vec![],
        vec![info(&format!("e{level}"), "1 8 4 4", 1)],
    )
}

#[test]
fn names_from_nowhere() {
    let branch = |reads: &str, gives: &str| {
        let node = op("Add", "", &format!("a.y {reads}"), "t");
        body(vec![node], vec![weight("own", &[8, 1, 1])], vec![], vec![info(gives, "1 8 4 4", 1)])
    };
    let fails = |then: GraphProto, other: GraphProto, word: &str| {
        let node = op("If", "if", "go", "m.y").graph("then_branch", then).graph("else_branch", other);
        let mut model = around(node, vec![]);
        model.proto.graph.as_mut().unwrap().initializer.push(flag("go", true));
        let message = inspect([&model]).unwrap_err().to_string();
        assert!(message.contains(word) && message.contains("invalid graph"), "{message}");
    };
    fails(branch("nowhere", "t"), branch("own", "t"), "nowhere");
    fails(branch("own", "t"), branch("own", "gone"), "gone");
    // The name that the other branch's constant has in the flat graph.
    fails(branch("own", "t"), branch("if/then_branch/own", "t"), "if/then_branch/own");
    fails(branch("own", "t"), branch("t", "t"), "cycle");
}

/// A name that hides an outer one (the standard forbids it, exporters do it) means the inner one.
#[test]
fn hiding() {
    let inner = body(
        vec![op("Conv", "a", "m.y a.w", "h"), op("Relu", "", "h", "b.y"), op("Conv", "c", "b.y b.w", "z")],
        vec![weight("a.w", &[7, 8, 1, 1]), weight("b.w", &[8, 7, 1, 1])],
        vec![],
        vec![info("z", "1 8 4 4", 1)],
    );
    let other = body(vec![op("Neg", "", "a.y", "z")], vec![], vec![], vec![info("z", "1 8 4 4", 1)]);
    let mut model = around(op("Relu", "r", "a.y", "m.y"), vec![]);
    let g = model.proto.graph.as_mut().unwrap();
    g.initializer.push(flag("go", true));
    g.node.push(op("If", "if", "go", "end").graph("then_branch", inner).graph("else_branch", other));
    g.output.push(info("end", "1 8 4 4", 1));
    for seed in 0..6 {
        let done = crate::common::check(&model, seed).unwrap();
        assert_eq!(done.prunable, 8 + 7);
    }
}

/// Every name, in graphs, bodies and functions.
fn names(model: &mut Model) -> Vec<&mut String> {
    fn of_nodes<'a>(nodes: &'a mut [NodeProto], out: &mut Vec<&'a mut String>) {
        for n in nodes {
            out.extend(n.input.iter_mut().chain(&mut n.output).chain(n.name.as_mut()).chain(n.op_type.as_mut()));
            for a in &mut n.attribute {
                out.extend(a.name.as_mut().into_iter().chain(a.ref_attr_name.as_mut()));
                a.g.iter_mut().chain(&mut a.graphs).for_each(|g| of_graph(g, out));
            }
        }
    }
    fn of_graph<'a>(g: &'a mut GraphProto, out: &mut Vec<&'a mut String>) {
        out.extend(g.initializer.iter_mut().filter_map(|t| t.name.as_mut()));
        let infos = g.input.iter_mut().chain(&mut g.output).chain(&mut g.value_info);
        out.extend(infos.filter_map(|v| v.name.as_mut()));
        of_nodes(&mut g.node, out);
    }
    let mut out = Vec::new();
    model.proto.graph.iter_mut().for_each(|g| of_graph(g, &mut out));
    for f in &mut model.proto.functions {
        out.extend(f.input.iter_mut().chain(&mut f.output).chain(f.name.as_mut()));
        of_nodes(&mut f.node, &mut out);
    }
    out
}

/// A name taken for another somewhere: an error or a model that can be written and read again, never a panic.
#[test]
fn one_name_for_another() {
    let (mut good, mut bad) = (0, 0);
    for (k, (what, model)) in models::all().into_iter().enumerate() {
        let mut rng = seeded(k as u64);
        for round in 0..env("ONNX_PRUNE_CASES").unwrap_or(1) * if cfg!(debug_assertions) { 10 } else { 200 } {
            let mut model = model.clone();
            for _ in 0..between(&mut rng, 1, 3) {
                let mut all = names(&mut model);
                let (from, to) = (between(&mut rng, 0, all.len() - 1), between(&mut rng, 0, all.len() - 1));
                let name = if from == to { String::new() } else { all[from].clone() };
                *all[to] = name;
            }
            let options = Options { verify: false, recover: Recover::Bias, ..only_cut(0.4) };
            match prune(&model, &options, &|_| ()) {
                Ok(p) => {
                    good += 1;
                    let again = Model::from_proto(p.model.unwrap().proto, "again.onnx");
                    inspect([&again]).unwrap_or_else(|e| panic!("{what}, round {round}: {e}"));
                }
                Err(Error::Internal(why)) => panic!("{what}, round {round}: {why}"),
                Err(_) => bad += 1,
            }
        }
    }
    assert!(good > 20 && bad > 20, "{good} good, {bad} bad");
}

/// Neither written nor run by mistake.
#[test]
fn a_flat_model_stays_inside() {
    let model = models::if_own(true);
    let flat = flatten(&model).unwrap();
    assert!(Graph::new(&flat).unwrap().bodies.len() == 2);
    assert!(flat.to_bytes().is_err());
    let dir = tempfile::TempDir::new().unwrap();
    assert!(save(&flat, &dir.path().join("m.onnx"), &SaveOptions::default()).is_err());
    let plain = crate::kit::fixture("residual.bn.onnx");
    assert!(matches!(flatten(&plain).unwrap(), std::borrow::Cow::Borrowed(_)));
}

/// Only functions import the standard operators.
#[test]
fn operator_sets_of_functions_alone() {
    let f = function(
        "Net",
        "x",
        "y",
        vec![
            constant(weight("w1", &[8, 3, 1, 1]), "w1"),
            op("Conv", "c1", "x w1", "t"),
            op("Relu", "", "t", "u"),
            constant(weight("w2", &[2, 8, 1, 1]), "w2"),
            op("Conv", "c2", "u w2", "y"),
        ],
    );
    let net = Net::new(10, 18).input("x", "1 3 4 4").add(call("Net", "net", "x", "y")).output("y", "1 2 4 4");
    let mut model = with_functions(net, vec![f]);
    model.proto.opset_import.remove(0);
    let p = run(&model, &only_cut(0.5));
    assert_eq!(
        p.report.verify.max_rel_diff.is_some(),
        onnx_prune::runtime::embedded().is_some(),
        "{:?}",
        p.report.verify
    );
    let out = p.model.unwrap();
    assert!(out.proto.functions.is_empty());
    assert_eq!((out.opset(), model.opset()), (18, 0));
    assert_eq!(run(&model, &only_cut(0.0)).model.unwrap().proto, model.proto);
}
