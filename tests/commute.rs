//! Every operator commutes with the removal of channels: the operator on cut inputs equals the cut of the operator on
//! masked inputs. An operator in [`RULES`] without a case here fails the first test.

#[path = "commute/attention.rs"]
mod attention;
#[path = "commute/bias.rs"]
mod bias;
mod common;
#[path = "commute/contrib.rs"]
mod contrib;
#[path = "commute/einsum.rs"]
mod einsum;
#[path = "commute/hostile.rs"]
mod hostile;
#[path = "commute/layers.rs"]
mod layers;
#[path = "commute/movement.rs"]
mod movement;
#[path = "commute/must_not.rs"]
mod must_not;
#[path = "commute/nonsense.rs"]
mod nonsense;
#[path = "commute/norms.rs"]
mod norms;
#[path = "commute/pointwise.rs"]
mod pointwise;
#[path = "commute/positions.rs"]
mod positions;
#[path = "commute/quantized.rs"]
mod quantized;
#[path = "commute/recurrent.rs"]
mod recurrent;
#[path = "commute/regions.rs"]
mod regions;
#[path = "commute/scattering.rs"]
mod scattering;
#[path = "commute/selection.rs"]
mod selection;
#[path = "commute/sources.rs"]
mod sources;

use common::{Build, check, dump, env};
use onnx_prune::ops::RULES;
use rayon::prelude::*;
use std::collections::BTreeSet;

/// What a draw must come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The operator passes channels on: some can be removed.
    Carries,
    /// The operator holds all channels back and says why.
    Pins,
}
use Expect::Carries;

/// Builds a model around an operator of the given name.
pub type Gen = fn(&mut Build, &str) -> Expect;

/// Operators that the embedded runtime never runs, with its reason; their structure is checked all the same.
const NEVER_RUN: &[(&str, &str)] = &[
    ("LpPool", "tract: Unimplemented(LpPool) ToTypedTranslator: Operator can not be made a TypedOp"),
    ("Upsample", "tract: Unimplemented(Upsample) ToTypedTranslator: Operator can not be made a TypedOp"),
    ("Attention", "tract: Unimplemented(Attention) ToTypedTranslator: Operator can not be made a TypedOp"),
    ("DeformConv", "tract: Unimplemented(DeformConv) ToTypedTranslator: Operator can not be made a TypedOp"),
    ("TensorScatter", "tract: Unimplemented(TensorScatter) ToTypedTranslator: Operator can not be made a TypedOp"),
    ("ReverseSequence", "tract: Unimplemented(ReverseSequence) ToTypedTranslator: Operator can not be made a TypedOp"),
    ("Det", "tract: Unimplemented(Det) ToTypedTranslator: Operator can not be made a TypedOp"),
    ("Unique", "tract: Unimplemented(Unique) ToTypedTranslator: Operator can not be made a TypedOp"),
    ("CenterCropPad", "tract: Unimplemented(CenterCropPad) ToTypedTranslator: Operator can not be made a TypedOp"),
    ("CumProd", "tract: Unimplemented(CumProd) ToTypedTranslator: Operator can not be made a TypedOp"),
    ("BitCast", "tract: Unimplemented(BitCast) ToTypedTranslator: Operator can not be made a TypedOp"),
    ("SwiGLU", "tract: Unimplemented(SwiGLU) ToTypedTranslator: Operator can not be made a TypedOp"),
    ("RoiAlign", "tract: Unimplemented(RoiAlign) ToTypedTranslator: Operator can not be made a TypedOp"),
    ("MaxRoiPool", "tract: Unimplemented(MaxRoiPool) ToTypedTranslator: Operator can not be made a TypedOp"),
    ("AffineGrid", "tract: Unimplemented(AffineGrid) ToTypedTranslator: Operator can not be made a TypedOp"),
    ("Col2Im", "tract: Unimplemented(Col2Im) ToTypedTranslator: Operator can not be made a TypedOp"),
    ("MaxUnpool", "tract: Unimplemented(MaxUnpool) ToTypedTranslator: Operator can not be made a TypedOp"),
    ("Bernoulli", "tract: Unimplemented(Bernoulli) ToTypedTranslator: Operator can not be made a TypedOp"),
    ("Compress", "tract: Compress ToTypedTranslator: Node can not be typed"),
    ("RandomNormalLike", "tract: expected attribute 'shape'"),
    ("RandomUniformLike", "tract: expected attribute 'shape'"),
    ("com.microsoft:QLinearConv", "tract has it with the channels second, where it is the standard operator"),
    ("com.microsoft:QGemm", NOT_IN_TRACT),
    ("com.microsoft:MatMulIntegerToFloat", NOT_IN_TRACT),
    ("com.microsoft:DynamicQuantizeMatMul", NOT_IN_TRACT),
    ("com.microsoft:QLinearAdd", NOT_IN_TRACT),
    ("com.microsoft:QLinearMul", NOT_IN_TRACT),
    ("com.microsoft:QLinearWhere", NOT_IN_TRACT),
    ("com.microsoft:QLinearLeakyRelu", NOT_IN_TRACT),
    ("com.microsoft:QLinearSigmoid", NOT_IN_TRACT),
    ("com.microsoft:QLinearGlobalAveragePool", NOT_IN_TRACT),
    ("com.microsoft:QLinearAveragePool", NOT_IN_TRACT),
    ("com.microsoft:NhwcMaxPool", NOT_IN_TRACT),
    ("com.microsoft:QLinearConcat", NOT_IN_TRACT),
    ("com.microsoft:QLinearSoftmax", NOT_IN_TRACT),
    ("com.microsoft:FusedConv", NOT_IN_TRACT),
    ("com.microsoft:FusedGemm", NOT_IN_TRACT),
    ("com.microsoft:FusedMatMul", NOT_IN_TRACT),
    ("com.microsoft:TransposeMatMul", NOT_IN_TRACT),
    ("com.microsoft:BiasSoftmax", NOT_IN_TRACT),
    ("com.microsoft:LayerNormalization", NOT_IN_TRACT),
    ("com.microsoft:SimplifiedLayerNormalization", NOT_IN_TRACT),
    ("com.microsoft:SkipSimplifiedLayerNormalization", NOT_IN_TRACT),
    ("com.microsoft:EmbedLayerNormalization", NOT_IN_TRACT),
    ("com.microsoft:Attention", NOT_IN_TRACT),
    ("com.microsoft:MultiHeadAttention", NOT_IN_TRACT),
    ("com.microsoft.nchwc:Conv", NOT_IN_TRACT),
    ("com.microsoft.nchwc:MaxPool", NOT_IN_TRACT),
    ("com.microsoft.nchwc:AveragePool", NOT_IN_TRACT),
    ("com.microsoft.nchwc:GlobalMaxPool", NOT_IN_TRACT),
    ("com.microsoft.nchwc:GlobalAveragePool", NOT_IN_TRACT),
    ("com.microsoft.nchwc:Upsample", NOT_IN_TRACT),
    ("com.microsoft.nchwc:ReorderInput", NOT_IN_TRACT),
    ("com.microsoft.nchwc:ReorderOutput", NOT_IN_TRACT),
];

/// Compared with ONNX Runtime instead, from the models that `ONNX_PRUNE_DUMP_ALL` writes.
const NOT_IN_TRACT: &str = "tract has few operators of this domain";

fn cases() -> Vec<(&'static str, Gen)> {
    let families = [
        layers::CASES,
        norms::CASES,
        pointwise::CASES,
        selection::CASES,
        movement::CASES,
        sources::CASES,
        recurrent::CASES,
        attention::CASES,
        einsum::CASES,
        scattering::CASES,
        positions::CASES,
        regions::CASES,
        quantized::CASES,
        contrib::CASES,
    ];
    families.concat().iter().flat_map(|&(names, case)| names.iter().map(move |&n| (n, case))).collect()
}

#[test]
fn every_operator_has_a_case() {
    let tested: BTreeSet<&str> = cases().iter().map(|c| c.0).collect();
    let ruled: BTreeSet<&str> = RULES.iter().flat_map(|(names, _)| names.iter().copied()).collect();
    let missing: Vec<_> = ruled.difference(&tested).collect();
    assert!(missing.is_empty(), "no case in tests/commute for {missing:?}");
    let unknown: Vec<_> = tested.difference(&ruled).collect();
    assert!(unknown.is_empty(), "cases for operators without a rule: {unknown:?}");
}

#[derive(Default)]
struct Tally {
    carries: usize,
    pruned: usize,
    ran: usize,
    skipped: Vec<String>,
    failures: Vec<String>,
}

fn run(op: &str, case: Gen, draws: u64) -> Tally {
    let mut t = Tally::default();
    // Every operator draws from seeds of its own.
    let hash = op.bytes().fold(7u64, |h, b| h.wrapping_mul(131).wrapping_add(u64::from(b)));
    for k in 0..draws {
        let seed = hash.wrapping_mul(1_000_003) + k;
        if env("ONNX_PRUNE_SEED").is_some_and(|s| s != seed) {
            continue;
        }
        let mut b = Build::new(seed);
        let expect = case(&mut b, op);
        let model = b.model();
        if env("ONNX_PRUNE_DUMP_ALL").is_some() {
            dump(&format!("{op}-{seed}"), &model, seed);
        }
        let found = check(&model, seed).and_then(|c| {
            if expect == Carries {
                t.carries += 1;
                t.pruned += usize::from(c.removed > 0);
            } else if c.prunable > 0 {
                return Err(format!("{} channels are prunable, none must be", c.prunable));
            } else if !c.pins.iter().any(|(by, reason)| by == op && !reason.is_empty()) {
                return Err(format!("no pin names {op}: {:?}", c.pins));
            }
            match c.skipped {
                Some(why) => t.skipped.push(why),
                None => t.ran += 1,
            }
            Ok(())
        });
        if let Err(e) = found {
            dump(&format!("{op}-{seed}"), &model, seed);
            t.failures.push(format!("{op} (ONNX_PRUNE_SEED={seed}, opset {}): {e}", b.opset));
        }
    }
    t
}

#[test]
fn every_operator_commutes_with_removal() {
    let draws = env("ONNX_PRUNE_CASES").unwrap_or(1) * if cfg!(debug_assertions) { 6 } else { 30 };
    let only = std::env::var("ONNX_PRUNE_OP").ok();
    let list: Vec<_> = cases().into_iter().filter(|c| only.as_deref().is_none_or(|o| o == c.0)).collect();
    let done: Vec<(&str, Tally)> = list.par_iter().map(|&(op, case)| (op, run(op, case, draws))).collect();
    let mut failures = Vec::new();
    for (op, mut t) in done {
        if !t.skipped.is_empty() {
            println!("{op}: {} of {} not run, as {}", t.skipped.len(), t.skipped.len() + t.ran, t.skipped[0]);
        }
        failures.append(&mut t.failures);
        let excused = NEVER_RUN.iter().any(|n| n.0 == op);
        if excused && t.ran > 0 {
            failures.push(format!("{op} is listed as never run, but runs"));
        } else if !excused && t.ran == 0 && !t.skipped.is_empty() {
            failures.push(format!("{op} never runs: {}", t.skipped[0]));
        }
        if t.pruned * 2 < t.carries {
            failures.push(format!("{op}: only {} of {} draws removed anything", t.pruned, t.carries));
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}
