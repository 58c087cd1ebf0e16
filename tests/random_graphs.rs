//! Random whole networks: the pruned model equals its masked twin, twice the same bytes, with any number of threads.

mod common;
#[path = "random/mod.rs"]
mod random;

use common::{check_with, dump, env};
use onnx_prune::onnx::Model;
use onnx_prune::ops::Policy;
use rayon::prelude::*;
use std::collections::BTreeSet;

const GRAPHS: u64 = 3000;

/// One network in four loses whole groups, one in four also indices of products.
fn policy(model: &Model, seed: u64) -> Policy {
    let nodes = model.proto.graph.iter().flat_map(|g| &g.node);
    let convs = nodes.filter(|n| n.op_type() == "Conv").map(|n| n.name().to_owned());
    Policy {
        whole_groups: if seed % 4 == 1 { convs.collect() } else { BTreeSet::new() },
        products: seed % 4 == 2,
        ..Policy::default()
    }
}

#[test]
fn pruned_networks_equal_their_masked_twins() {
    let seeds: Vec<u64> = match env("ONNX_PRUNE_SEED") {
        Some(s) => vec![s],
        None => (0..env("ONNX_PRUNE_CASES").unwrap_or(1) * if cfg!(debug_assertions) { GRAPHS / 30 } else { GRAPHS })
            .collect(),
    };
    let done: Vec<_> = seeds
        .par_iter()
        .map(|&seed| {
            let model = random::network(seed);
            let found = check_with(&model, seed, &policy(&model, seed));
            if found.is_err() || env("ONNX_PRUNE_DUMP_ALL").is_some() {
                dump(&format!("random-{seed}"), &model, seed);
            }
            (seed, found)
        })
        .collect();
    let mut failures = Vec::new();
    let (mut prunable, mut removed, mut skipped) = (0, 0, Vec::new());
    for (seed, found) in &done {
        match found {
            Ok(c) => {
                prunable += usize::from(c.prunable > 0);
                removed += c.removed;
                skipped.extend(c.skipped.as_ref().map(|s| format!("{seed}: {s}")));
            }
            Err(e) => failures.push(format!("ONNX_PRUNE_SEED={seed}: {e}")),
        }
    }
    println!("{prunable} of {} prunable, {removed} channels removed, {} not run", done.len(), skipped.len());
    skipped.iter().take(10).for_each(|s| println!("not run: {s}"));
    assert!(failures.is_empty(), "{} of {} failed:\n{}", failures.len(), done.len(), failures.join("\n"));
    if done.len() > 20 {
        assert!(prunable * 5 >= done.len() * 4, "only {prunable} of {} networks had anything to prune", done.len());
        assert!(skipped.len() * 50 <= done.len(), "{} of {} networks were not run", skipped.len(), done.len());
    }
}

#[test]
fn the_same_bytes_every_time() {
    for seed in 0..if cfg!(debug_assertions) { 5 } else { 40 } {
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| common::check::prune_at_random(&random::network(seed), seed))
        };
        let first = run(1);
        assert_eq!(first, run(1), "seed {seed}, twice");
        assert_eq!(first, run(2), "seed {seed}, two threads");
    }
}
