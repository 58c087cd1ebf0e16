//! Every gradient rule against central differences in `float64`. An operator in [`GRADIENTS`] without a case here fails the
//! first test.
#![cfg(feature = "tract")]

mod common;
#[path = "gradients/harness.rs"]
mod harness;
#[path = "gradients/layers.rs"]
mod layers;

use common::{Build, env};
use onnx_prune::train::grad::{BatchNorms, GRADIENTS};
use rayon::prelude::*;
use std::collections::BTreeSet;

/// A model around an operator: names of the initializers to differentiate by, beside all inputs; and how batch
/// normalisations train.
#[allow(missing_docs)]
pub struct Case {
    pub initializers: Vec<String>,
    pub batch_norms: BatchNorms,
}

impl Case {
    /// With the stored statistics.
    pub fn of(initializers: &[&str]) -> Self {
        let initializers = initializers.iter().map(|s| (*s).to_owned()).collect();
        Case { initializers, batch_norms: BatchNorms::Frozen }
    }
}

/// Builds a model around an operator of the given name, output declared.
pub type Gen = fn(&mut Build, &str) -> Case;

fn cases() -> Vec<(&'static [&'static str], Gen)> {
    [layers::CASES].concat()
}

#[test]
fn every_rule_has_a_case() {
    let covered: BTreeSet<&str> = cases().iter().flat_map(|(names, _)| names.iter().copied()).collect();
    let missing: Vec<&str> = GRADIENTS
        .iter()
        .filter(|(_, rule)| !rule.is_constant())
        .flat_map(|(names, _)| names.iter().copied())
        .filter(|n| !covered.contains(n))
        .collect();
    assert!(missing.is_empty(), "no case for {missing:?}");
}

#[test]
fn rules_agree_with_central_differences() {
    let draws = env("DRAWS").unwrap_or(12);
    let all: Vec<(&str, Gen)> =
        cases().iter().flat_map(|(names, make)| names.iter().map(move |&n| (n, *make))).collect();
    let failures: Vec<String> = all
        .par_iter()
        .flat_map_iter(|&(name, make)| {
            (0..draws).filter_map(move |seed| {
                let mut b = Build::new(seed);
                b.dynamic = false;
                let case = make(&mut b, name);
                let initializers: Vec<&str> = case.initializers.iter().map(String::as_str).collect();
                let failed = harness::check(&b, &initializers, case.batch_norms, &|_, _| None).err()?;
                Some(format!("{name}, seed {seed}, operator set {}: {failed}\n{:?}", b.opset, b.g.node))
            })
        })
        .collect();
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures[..failures.len().min(5)].join("\n"));
}
