//! All runtimes compute the same, whole models and parts of them. What is not installed is skipped, and said.

mod common;
#[path = "random/mod.rs"]
mod random;

use common::{between, env, seeded};
use onnx_prune::error::Result;
use onnx_prune::onnx::proto::{NodeProto, TensorProto, ValueInfoProto};
use onnx_prune::onnx::{Model, load, tensor};
use onnx_prune::runtime::walk::{Feed, Walker};
use onnx_prune::runtime::{Array, Runtime, RuntimeChoice, choose, max_rel_diff, random_inputs};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Every runtime that works here.
fn runtimes() -> Vec<Arc<dyn Runtime>> {
    let choices = [RuntimeChoice::Tract, RuntimeChoice::Ort].into_iter();
    choices.filter_map(|choice| choose(choice, None).inspect_err(|e| println!("SKIPPED: {e}")).ok()).collect()
}

/// The fixtures, and the models in the folder `ONNX_PRUNE_MODELS`.
fn models() -> Vec<PathBuf> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let more = std::env::var_os("ONNX_PRUNE_MODELS").map(PathBuf::from);
    if more.is_none() {
        println!("SKIPPED: no models but the fixtures, since ONNX_PRUNE_MODELS is not set");
    }
    let files = [fixtures].into_iter().chain(more).flat_map(|folder| std::fs::read_dir(folder).unwrap());
    let mut files: Vec<PathBuf> = files.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "onnx") && !path.ends_with(".pruned.onnx"));
    files.sort();
    files
}

/// Inputs of one batch; positions as large as the model declares, or small.
fn inputs(model: &Model, seed: u64, batch: usize) -> Feed {
    random_inputs(model, seed, &|_, axis| if axis == 0 { batch } else { 64 }).unwrap()
}

#[test]
fn runtimes_agree_on_whole_models() {
    let runtimes = runtimes();
    for path in models() {
        let model = load(&path).unwrap();
        let inputs = inputs(&model, 3, 2);
        let mut results: Vec<(&str, Feed)> = Vec::new();
        for runtime in &runtimes {
            match runtime.load(&model).and_then(|mut session| session.run(&inputs)) {
                Ok(result) => results.push((runtime.name(), result)),
                Err(e) => println!("SKIPPED: {}: {e}", path.display()),
            }
        }
        let [(_, a), (_, b)] = results.as_slice() else { continue };
        assert!(a.iter().map(|(name, _)| name).eq(b.iter().map(|(name, _)| name)));
        for ((name, a), (_, b)) in a.iter().zip(b) {
            let difference = max_rel_diff(a, b).unwrap().unwrap();
            println!("{} {name}: {difference:.1e}", path.display());
            assert!(difference < 1e-4, "{} {name}: {difference}", path.display());
        }
    }
}

/// The outputs of all nodes that are tensors of types that runtimes return.
fn outputs(model: &Model) -> Vec<String> {
    let nodes: Vec<&NodeProto> = model.proto.graph.iter().flat_map(|g| &g.node).collect();
    nodes.iter().flat_map(|n| &n.output).filter(|v| !v.is_empty()).cloned().collect()
}

/// The model with other outputs.
fn tap(model: &Model, names: &[String]) -> Model {
    let mut proto = model.proto.clone();
    let output = |n: &String| ValueInfoProto { name: Some(n.clone()), ..Default::default() };
    proto.graph.as_mut().unwrap().output = names.iter().map(output).collect();
    model.derive(proto)
}

/// Every value of every batch, from one run of the whole model; `None` where the runtime cannot do that.
fn tapped(runtime: &dyn Runtime, model: &Model, batches: &[Feed]) -> Option<Vec<BTreeMap<String, Array>>> {
    let mut session = runtime.load(&tap(model, &outputs(model))).ok()?;
    batches.iter().map(|batch| Some(session.run(batch).ok()?.into_iter().collect())).collect()
}

/// Relative to the largest magnitude.
fn close(a: &Array, b: &Array) -> bool {
    a == b || max_rel_diff(a, b).unwrap().is_none_or(|d| d <= 1e-5)
}

/// Walks to each of `stops` in turn and compares with `expected`.
fn walk(walker: &mut Walker, stops: &[Vec<String>], expected: &[BTreeMap<String, Array>]) -> Result<()> {
    for stop in stops {
        let mut batches = 0;
        walker.advance(stop, &mut |batch, values| {
            assert_eq!(batch, batches);
            batches += 1;
            assert_eq!(values.len(), stop.len(), "{stop:?}");
            for (name, array) in stop.iter().zip(&values) {
                assert!(close(array, &expected[batch][name]), "{name} of batch {batch}");
            }
            Ok(())
        })?;
        assert_eq!(batches, expected.len());
    }
    Ok(())
}

/// Each value by itself, random jumps, and several values at a time.
fn routes(all: &[String], seed: u64) -> Vec<Vec<Vec<String>>> {
    let mut rng = seeded(seed);
    let single = all.iter().map(|name| vec![name.clone()]).collect();
    let mut jumps = Vec::new();
    let mut at = between(&mut rng, 0, 3);
    while let Some(name) = all.get(at) {
        jumps.push(vec![name.clone()]);
        at += between(&mut rng, 1, 6);
    }
    let mut groups: Vec<Vec<String>> = all.chunks(4).map(<[String]>::to_vec).collect();
    groups.iter_mut().for_each(|group| group.reverse());
    vec![single, jumps, groups]
}

fn shared(batches: &[Feed]) -> Vec<Arc<Feed>> {
    batches.iter().cloned().map(Arc::new).collect()
}

fn check_walks(runtime: &dyn Runtime, model: &Model, name: &str, seed: u64) -> bool {
    let batches: Vec<Feed> = [(1, 2), (2, 3), (3, 2)].map(|(s, batch)| inputs(model, seed + s, batch)).into();
    let batches = if tapped(runtime, model, &batches).is_some() { batches } else { vec![inputs(model, seed, 2)] };
    let Some(expected) = tapped(runtime, model, &batches) else { return false };
    let all = outputs(model);
    for stops in routes(&all, seed) {
        for limit in [usize::MAX, 20_000, 0] {
            let mut walker = Walker::new(runtime, model, shared(&batches), limit).unwrap();
            walk(&mut walker, &stops, &expected).unwrap_or_else(|e| panic!("{name}, limit {limit}: {e}"));
            assert!(walker.bytes_kept() <= limit);
            if limit == usize::MAX {
                assert!(walker.nodes_run <= model.proto.graph.as_ref().unwrap().node.len(), "{name}");
            }
        }
    }
    true
}

#[test]
fn walks_through_fixtures_see_what_the_whole_model_computes() {
    for runtime in runtimes() {
        for name in ["residual.bn", "shuffle.folded", "squeeze_excite.bn", "concat.folded"] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/{name}.onnx"));
            assert!(check_walks(&*runtime, &load(&path).unwrap(), name, 5), "{name}");
        }
    }
}

#[test]
fn walks_through_random_networks_see_what_the_whole_model_computes() {
    for runtime in runtimes() {
        let seeds = 0..env("ONNX_PRUNE_CASES").unwrap_or(1) * 20;
        let walked = seeds.clone().filter(|&seed| {
            let model = random::network(seed);
            check_walks(&*runtime, &model, &format!("network {seed}"), seed)
        });
        let walked = walked.count() as u64;
        println!("{}: {walked} of {} networks", runtime.name(), seeds.end);
        assert!(walked * 2 > seeds.end);
    }
}

#[test]
fn new_weights_change_only_what_follows() {
    for runtime in runtimes() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/residual.bn.onnx");
        let model = load(&path).unwrap();
        let graph = model.proto.graph.as_ref().unwrap();
        let batches = vec![inputs(&model, 1, 2), inputs(&model, 2, 2)];
        // In the middle, a Conv other than on a shortcut.
        let convs: Vec<&NodeProto> = graph.node.iter().filter(|n| n.op_type() == "Conv").collect();
        let conv = convs[convs.len() / 2];
        let weight = graph.initializer.iter().find(|t| t.name() == conv.input[1]).unwrap();
        let halved: Vec<f64> = tensor::to_f64(weight).unwrap().iter().map(|x| x * 0.5).collect();
        let halved: TensorProto = tensor::from_f64_like(weight, &tensor::dims(weight).unwrap(), &halved).unwrap();
        let mut changed = model.clone();
        let slots = &mut changed.proto.graph.as_mut().unwrap().initializer;
        *slots.iter_mut().find(|t| t.name() == halved.name()).unwrap() = halved.clone();
        let before = tapped(&*runtime, &model, &batches).unwrap();
        let after = tapped(&*runtime, &changed, &batches).unwrap();
        let (input, last) = (conv.input[0].clone(), graph.output[0].name().to_owned());
        assert_ne!(before[0][&last], after[0][&last]);
        assert_eq!(before[0][&input], after[0][&input]);
        for limit in [usize::MAX, 0] {
            let mut walker = Walker::new(&*runtime, &model, shared(&batches), limit).unwrap();
            walk(&mut walker, &[vec![input.clone()]], &before).unwrap();
            walker.set([halved.clone()]).unwrap();
            walk(&mut walker, &[vec![conv.output[0].clone()], vec![last.clone()]], &after).unwrap();
        }
    }
}

/// The command in a process of its own, where no library is named.
fn command(arguments: &[&str]) -> (i32, String, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_onnx-prune"));
    let output = command.arg("runtimes").args(arguments).env_remove("ORT_DYLIB_PATH").output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn the_command_lists_runtimes() {
    let (code, out, err) = command(&[]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("tract") && out.contains("onnxruntime"), "{out}");
    let (code, out, _) = command(&["--format", "json"]);
    let all: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(code, 0);
    for runtime in all.as_array().unwrap() {
        assert_ne!(runtime["version"].is_null(), runtime["problem"].is_null());
    }
}

#[test]
#[cfg(feature = "ort")]
fn libraries_that_do_not_work_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("libonnxruntime.so");
    std::fs::write(&text, "no library").unwrap();
    let empty = dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let cases = [
        (dir.path().join("nowhere.so"), "there is no such file"),
        (text, "cannot be loaded"),
        (empty, "no library there"),
    ];
    for (path, reason) in cases {
        let (code, out, err) = command(&["--ort-lib", path.to_str().unwrap()]);
        assert_eq!(code, 2);
        assert!(out.contains("cannot be used"), "{out}");
        for part in [reason, "pip install onnxruntime", path.to_str().unwrap()] {
            assert!(err.contains(part), "{part:?} is not in {err}");
        }
    }
    let (code, _, err) = command(&["--runtime", "tract"]);
    assert_eq!(code == 0, cfg!(feature = "tract"), "{err}");
}

#[test]
#[cfg(not(feature = "ort"))]
fn a_build_without_the_feature_says_so() {
    let (code, _, err) = command(&["--runtime", "ort"]);
    assert_eq!(code, 2);
    assert!(err.contains("Cargo feature `ort`"), "{err}");
}
