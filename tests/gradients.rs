//! Every gradient rule against central differences in `float64`. An operator in [`GRADIENTS`] without a case here fails the
//! first test.
#![cfg(feature = "tract")]

#[path = "gradients/activations.rs"]
mod activations;
mod common;
#[path = "gradients/harness.rs"]
mod harness;
#[path = "gradients/layers.rs"]
mod layers;
#[path = "gradients/movement.rs"]
mod movement;
#[path = "gradients/products.rs"]
mod products;
#[path = "gradients/reductions.rs"]
mod reductions;
#[path = "gradients/zoo.rs"]
mod zoo;

use common::{Build, env};
use onnx_prune::train::grad::{BatchNorms, GRADIENTS};
use rayon::prelude::*;
use std::collections::BTreeSet;

/// Operators whose kernel in tract is for `float32` alone: their differences are taken there, with a coarser step.
const SINGLE: &[(&str, &str)] = &[
    ("Sigmoid", "no kernel in float64"),
    ("HardSwish", "no kernel in float64"),
    ("LeakyRelu", "no kernel in float64"),
    ("Erf", "no kernel in float64"),
    ("Gelu", "made of Erf, which has no kernel in float64"),
    ("com.microsoft:Gelu", "made of Erf, which has no kernel in float64"),
    ("com.microsoft:FastGelu", "constants of float32"),
    ("com.microsoft:QuickGelu", "made of Sigmoid, which has no kernel in float64"),
    ("Gemm", "multiplies by β in float32"),
    ("Resize", "computes in float32"),
    ("Swish", "made of Sigmoid, which has no kernel in float64"),
];

/// The values of a case's inputs.
#[derive(Clone, Copy, Debug)]
pub enum Draw {
    /// Between −1.5 and 1.5.
    Any,
    /// Likewise, but not where the function has a kink.
    Away(&'static [f64]),
    /// Above 0.
    Positive,
}

/// A model around an operator: names of the initializers to differentiate by, beside all inputs; how batch
/// normalisations train; and what the inputs hold.
#[allow(missing_docs)]
pub struct Case {
    pub initializers: Vec<String>,
    pub batch_norms: BatchNorms,
    pub draw: Draw,
}

impl Case {
    /// With the stored statistics.
    pub fn of(initializers: &[&str]) -> Self {
        let initializers = initializers.iter().map(|s| (*s).to_owned()).collect();
        Case { initializers, batch_norms: BatchNorms::Frozen, draw: Draw::Any }
    }

    /// With inputs of a kind.
    pub fn drawn(draw: Draw) -> Self {
        Case { draw, ..Case::of(&[]) }
    }
}

/// Builds a model around an operator of the given name, output declared.
pub type Gen = fn(&mut Build, &str) -> Case;

fn cases() -> Vec<(&'static [&'static str], Gen)> {
    [layers::CASES, activations::CASES, products::CASES, reductions::CASES, movement::CASES].concat()
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
            let only = std::env::var("ONLY").is_ok_and(|o| o != name);
            (0..if only { 0 } else { draws }).filter_map(move |seed| {
                let mut b = Build::new(seed);
                b.dynamic = false;
                let case = make(&mut b, name);
                let double = !SINGLE.iter().any(|&(n, _)| n == name);
                let failed = harness::check(&b, &case, double).err()?;
                Some(format!("{name}, seed {seed}, operator set {}: {failed}\n{:?}", b.opset, b.g.node))
            })
        })
        .collect();
    assert!(
        failures.is_empty(),
        "{} failures\n{}",
        failures.len(),
        failures[..failures.len().min(env("SHOW").unwrap_or(5) as usize)].join("\n")
    );
}

/// Operators that ONNX Runtime's processor has not, or has in another form than tract.
const NOT_IN_ORT: &[(&str, &str)] = &[];

/// Cases whose nodes exist in operator sets before 11 too.
const OLD: &[&str] = &[
    "Conv",
    "ConvTranspose",
    "BatchNormalization",
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Relu",
    "Sigmoid",
    "Tanh",
    "Softplus",
    "Softsign",
    "Exp",
    "Neg",
    "Abs",
    "Log",
    "Sqrt",
    "Reciprocal",
    "LeakyRelu",
    "Elu",
    "Selu",
    "HardSigmoid",
    "PRelu",
    "MatMul",
    "MaxPool",
    "AveragePool",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "ReduceSum",
    "ReduceMean",
    "ReduceMax",
    "ReduceL2",
    "Softmax",
    "Transpose",
    "Concat",
    "Split",
];

/// The nodes that rules write, in every operator set that they write them for.
#[test]
fn onnx_runtime_agrees() {
    use onnx_prune::runtime::{RuntimeChoice, choose};
    let ort = match choose(RuntimeChoice::Ort, None) {
        Ok(ort) => ort,
        Err(e) => return println!("SKIPPED: {e}"),
    };
    let draws = env("DRAWS").unwrap_or(8);
    let mut failures = Vec::new();
    for (names, make) in cases() {
        for &name in names.iter().filter(|n| !NOT_IN_ORT.iter().any(|(o, _)| o == *n)) {
            for seed in 0..draws {
                let mut b = Build::new(seed);
                b.dynamic = false;
                b.opset = match (OLD.contains(&name), seed % 2) {
                    (true, 0) => b.pick(&[7, 8, 9, 10]),
                    _ => b.pick(&[11, 13, 17, 18, 20, 21, 22]),
                };
                let case = make(&mut b, name);
                if let Err(e) = harness::agree(&b, &case, &*ort) {
                    failures.push(format!("{name}, seed {seed}, operator set {}: {e}\n{:?}", b.opset, b.g.node));
                }
            }
        }
    }
    assert!(
        failures.is_empty(),
        "{} failures\n{}",
        failures.len(),
        failures[..failures.len().min(env("SHOW").unwrap_or(5) as usize)].join("\n")
    );
}
