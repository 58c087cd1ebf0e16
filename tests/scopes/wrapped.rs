//! Random networks as a function, as the branches of an If, and both: as much is prunable as in the plain network, and the
//! pruned one equals its twin.

use crate::common::build::info;
use crate::common::{check, dump, env};
use crate::kit::op;
use crate::models::{WithGraph, flag, function};
use crate::random;
use onnx_prune::onnx::Model;
use onnx_prune::onnx::proto::tensor_proto::DataType;
use onnx_prune::onnx::proto::{FunctionProto, GraphProto, OperatorSetIdProto, ValueInfoProto};
use onnx_prune::runtime;
use rayon::prelude::*;
use std::collections::HashSet;

const GRAPHS: u64 = 400;

/// Inputs that are not constants.
fn fed(g: &GraphProto) -> Vec<ValueInfoProto> {
    let constants: HashSet<&str> = g.initializer.iter().map(|t| t.name()).collect();
    g.input.iter().filter(|v| !constants.contains(v.name())).cloned().collect()
}

/// Everything is a function; the weights are its arguments.
fn as_function(mut model: Model) -> Model {
    let opset = model.opset();
    let g = model.proto.graph.as_mut().unwrap();
    let names: Vec<&str> = g.input.iter().map(|v| v.name()).chain(g.initializer.iter().map(|t| t.name())).collect();
    let mut seen = HashSet::new();
    let names: Vec<&str> = names.into_iter().filter(|n| seen.insert(*n)).collect();
    let outputs: Vec<&str> = g.output.iter().map(|v| v.name()).collect();
    let (inputs, outputs) = (names.join(" "), outputs.join(" "));
    let set = OperatorSetIdProto { domain: Some(String::new()), version: Some(opset) };
    let nodes = std::mem::take(&mut g.node);
    let f = FunctionProto { opset_import: vec![set], ..function("Net", &inputs, &outputs, nodes) };
    g.value_info.clear();
    let mut call = op("Net", "net", &inputs, &outputs);
    call.domain = Some("net".into());
    g.node.push(call);
    model.proto.functions.push(f);
    model.proto.opset_import.push(OperatorSetIdProto { domain: Some("net".into()), version: Some(1) });
    model
}

/// Both branches are the network: one with its weights inside, one with them outside.
fn as_branches(mut model: Model, then: bool) -> Model {
    let g = model.proto.graph.as_mut().unwrap();
    let (inputs, outputs) = (fed(g), g.output.clone());
    let then_branch = GraphProto { input: vec![], ..g.clone() };
    let mut else_branch = GraphProto { initializer: vec![], ..then_branch.clone() };
    // A name is defined once, but for those in branches side by side.
    for n in &mut else_branch.node {
        n.output.iter_mut().chain(&mut n.input).for_each(|v| {
            if v.starts_with("Constant_") {
                v.push_str(".else");
            }
        });
    }
    let mut then_branch = then_branch;
    for t in &mut then_branch.initializer {
        t.name = Some(format!("{}.then", t.name()));
    }
    let own: HashSet<String> = g.initializer.iter().map(|t| t.name().to_owned()).collect();
    for v in then_branch.node.iter_mut().flat_map(|n| &mut n.input).filter(|v| own.contains(v.as_str())) {
        v.push_str(".then");
    }
    let results: Vec<String> = outputs.iter().map(|v| format!("{}.end", v.name())).collect();
    let node = op("If", "choose", "choice", &results.join(" "))
        .graph("then_branch", then_branch)
        .graph("else_branch", else_branch);
    g.initializer.push(flag("choice", then));
    g.input = inputs;
    g.value_info.clear();
    g.node = vec![node];
    g.output = results
        .iter()
        .zip(&outputs)
        .map(|(name, v)| {
            let Some(onnx_prune::onnx::proto::type_proto::Value::TensorType(t)) =
                v.r#type.as_ref().and_then(|t| t.value.as_ref())
            else {
                panic!("an output that is no tensor")
            };
            info(name, DataType::Float, &vec![-1; t.shape.as_ref().map_or(0, |s| s.dim.len())])
        })
        .collect();
    model
}

fn every(kind: &str, wrap: impl Fn(u64) -> Model + Sync, runs: bool) {
    let seeds: Vec<u64> = match env("ONNX_PRUNE_SEED") {
        Some(s) => vec![s],
        None => (0..if cfg!(debug_assertions) { GRAPHS / 20 } else { GRAPHS }).collect(),
    };
    let failures: Vec<String> = seeds
        .par_iter()
        .filter_map(|&seed| {
            let plain = check(&random::network(seed), seed).unwrap_or_else(|e| panic!("plain {seed}: {e}"));
            let model = wrap(seed);
            let found = check(&model, seed);
            if found.is_err() || env("ONNX_PRUNE_DUMP_ALL").is_some() {
                dump(&format!("{kind}-{seed}"), &model, seed);
            }
            match found {
                Err(e) => Some(format!("{seed}: {e}")),
                // Nodes without names have some in here, and constants are divided among them.
                Ok(c) if c.prunable < plain.prunable => Some(format!("{seed}: {} of {}", c.prunable, plain.prunable)),
                Ok(c) => match (&plain.skipped, c.skipped) {
                    (None, Some(e)) if runs && runtime::embedded().is_some() => Some(format!("{seed}: not run: {e}")),
                    _ => None,
                },
            }
        })
        .collect();
    assert!(failures.is_empty(), "{} of {} failed:\n{}", failures.len(), seeds.len(), failures.join("\n"));
}

#[test]
fn random_functions() {
    every("function", |seed| as_function(random::network(seed)), true);
}

#[test]
fn random_branches() {
    every("branches", |seed| as_branches(random::network(seed), seed % 2 == 0), true);
}

#[test]
fn random_branches_in_functions() {
    every("both", |seed| as_function(as_branches(random::network(seed), seed % 2 == 0)), true);
}
