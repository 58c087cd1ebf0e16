//! What a run found and did. These structs know no format; each format is one file.

pub mod bench_terminal;
pub mod bench_text;
pub mod check_text;
pub mod data_terminal;
pub mod diff_markdown;
pub mod diff_terminal;
mod diff_view;
pub mod dot;
pub mod html;
pub mod inspect_terminal;
pub mod json;
pub mod pins;
pub mod prune_text;
mod rounds_text;
pub mod runtimes_terminal;
pub mod schema;
pub mod sensitivity_plot;
pub mod sensitivity_text;
pub mod summary_terminal;
pub mod sweep_text;
pub mod terminal;
pub mod text;
pub mod train_plot;
pub mod train_text;
pub mod why_terminal;

use crate::channels::Pin;
use crate::evaluate::bench::{BenchReport, in_words};
use crate::evaluate::check::{CheckReport, Gate, drop_gate};
use crate::evaluate::diff::{Diff, Models};
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::BTreeMap;

/// Version of the JSON report's schema; it grows when a field changes its meaning or goes away.
pub const SCHEMA_VERSION: u32 = 1;

/// Size figures of one model.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ModelFigures {
    /// The file.
    pub path: String,
    /// Version of the default operator set.
    pub opset: i64,
    /// Elements of all floating-point constants with at least one axis.
    pub params: u64,
    /// Multiply-accumulates of Conv, ConvTranspose, Gemm and MatMul, for one sample (dynamic positions: 224).
    pub macs: u64,
    /// Size on disk, external data included. Of the pruned model: 0 when it was not written.
    pub bytes: u64,
}

/// What happened to one channel group.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct GroupReport {
    /// The group's name: its first producing layer.
    pub id: String,
    /// Names of all layers that share the channels.
    pub layers: Vec<String>,
    /// Channels before.
    pub channels_before: usize,
    /// Channels after.
    pub channels_after: usize,
    /// Why this count.
    pub reason: String,
    /// The criterion that ranked its channels.
    pub criterion: String,
}

/// How the scores of all channels are spread, and which of them went.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct ScoreHistogram {
    /// Ends of the bins, ascending, one more than there are bins. A bin has its lower end; the last one reaches to the largest
    /// score, however far that is.
    pub edges: Vec<f64>,
    /// Channels in each bin that stay.
    pub kept: Vec<u64>,
    /// Channels in each bin that went.
    pub removed: Vec<u64>,
    /// The largest score among as many of the lowest as went: where the scores alone would have cut.
    pub cut: Option<f64>,
    /// Channels that went although their score is above the cut: coupled layers, rounding and limits made others stay.
    pub beyond: u64,
}

/// The comparison of the pruned model with its masked twin.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct VerifyReport {
    /// The runtime that computed both, or `none`.
    pub runtime: String,
    /// `max|a−b| / max(1, max|b|)` over all outputs; absent when numbers were not compared.
    pub max_rel_diff: Option<f64>,
    /// Why numbers were not compared, or how.
    pub note: String,
}

/// What `--recover` did.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct RecoverReport {
    /// The mode.
    pub mode: String,
    /// Removed channels whose value was the same for every input and position, folded exactly.
    pub constant_channels: usize,
    /// Removed channels whose expected value was folded into their consumers.
    pub expected_channels: usize,
    /// Removed channels without a known expectation, or whose consumer takes no bias.
    pub skipped_channels: usize,
    /// What reconstruction did to each layer, in the order of the network.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<LayerRepair>,
}

/// One layer's reconstruction, on samples that were held back.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct LayerRepair {
    /// The node.
    pub layer: String,
    /// Mean squared error of its output before, in shares of the output's variance.
    pub before: f64,
    /// The same after; equal when the layer did not profit and was left alone.
    pub after: f64,
}

/// The measured quality of the pruned model.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct AccuracyReport {
    /// What was measured.
    pub metric: String,
    /// On how many samples, where that is known.
    pub samples: Option<usize>,
    /// The original's figure.
    pub original: f64,
    /// The pruned model's figure.
    pub pruned: f64,
    /// How much worse it is, in points.
    pub drop: f64,
    /// The most that was allowed.
    pub limit: Option<f64>,
    /// Whether it was kept.
    pub passed: Option<bool>,
    /// The search for the smallest model that keeps it, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub trail: Vec<Probe>,
}

/// One try of a search.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Probe {
    /// The share that was to stay.
    pub share: f64,
    /// Multiply-accumulates of the result.
    pub macs: u64,
    /// Its parameters.
    pub params: u64,
    /// Its figure.
    pub score: f64,
    /// How much worse than the original, in points.
    pub drop: f64,
    /// Whether that was allowed.
    pub passed: bool,
}

/// A latency that was asked for, and what came of it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct LatencyReport {
    /// As asked: a share, or milliseconds.
    pub target: String,
    /// The share of the original's time that was to stay.
    pub target_ratio: f64,
    /// The share that stays: the ratio of the medians.
    pub ratio: f64,
    /// Lower end of its 95 % interval.
    pub low: f64,
    /// Upper end of its 95 % interval.
    pub high: f64,
    /// Median milliseconds of one run of the original.
    pub original_ms: f64,
    /// Median milliseconds of one run of the pruned model.
    pub pruned_ms: f64,
    /// Whether the ratio is within 5 % of the target's.
    pub reached: bool,
    /// Whether the pruned model is slower than the original.
    pub slower: bool,
    /// The runtime's name.
    pub runtime: String,
    /// The runtime's version.
    pub runtime_version: String,
    /// The device.
    pub device: String,
    /// Threads; 0 is one for each core.
    pub threads: usize,
    /// Samples in one run.
    pub batch: usize,
    /// Layer shapes that were timed in this run; others were known from earlier runs.
    pub layers_measured: usize,
    /// The models that were made and measured on the way.
    pub trail: Vec<LatencyProbe>,
}

impl LatencyReport {
    /// For people.
    pub fn words(&self) -> String {
        let tries: Vec<String> = self.trail.iter().map(|p| format!("{:.3}", p.ratio)).collect();
        let from = match self.layers_measured {
            0 => "from remembered times of layers".to_owned(),
            n => format!("from times of {}", text::plural(n, "layer shape")),
        };
        format!(
            "{:.3} of the original's time [{:.3}, {:.3}]: {:.3} → {:.3} ms, batch {}, {}, {} {} on {}; {from}; measured on the \
             way: {}",
            self.ratio,
            self.low,
            self.high,
            self.original_ms,
            self.pruned_ms,
            self.batch,
            in_words(self.threads),
            self.runtime,
            self.runtime_version,
            self.device,
            tries.join(", ")
        )
    }
}

/// One try on the way to a latency.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct LatencyProbe {
    /// The share of the time, as the layers' times add up, that was aimed at.
    pub aim: f64,
    /// The share that the decision comes to in this way.
    pub predicted: f64,
    /// The share that was measured: the ratio of the lower quartiles, which a busy machine disturbs the least.
    pub ratio: f64,
    /// Multiply-accumulates of the result.
    pub macs: u64,
}

/// The result of a pruning run.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct PruneReport {
    /// Version of this form, [`SCHEMA_VERSION`].
    #[schemars(extend("const" = SCHEMA_VERSION))]
    pub schema_version: u32,
    /// Name and version of the tool.
    pub tool: String,
    /// The model as it was.
    pub original: ModelFigures,
    /// The model as it is.
    pub pruned: ModelFigures,
    /// The budget as asked, in words.
    pub budget: String,
    /// The number asked for, in the budget's unit.
    pub ratio_requested: f64,
    /// The number reached, in the budget's unit.
    pub ratio_reached: f64,
    /// Set when the budget was missed: by how much, and what limits it.
    pub missed: Option<String>,
    /// Prunable channels in all.
    pub channels_prunable: usize,
    /// Channels removed.
    pub channels_removed: usize,
    /// Criterion as asked (or chosen).
    pub criterion: String,
    /// Things the user should know.
    pub notes: Vec<String>,
    /// Statistics over channels that lost some (`--norm approximate`): the result is not exact.
    pub approximated: Vec<String>,
    /// One entry per channel group.
    pub groups: Vec<GroupReport>,
    /// The scores that ranked the channels, each from the round that it was last scored in. Absent where channels are not
    /// ranked by comparable scores: with error curves from data, and with a stored plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scores: Option<ScoreHistogram>,
    /// Parameter axes that were held back.
    pub pins: Vec<Pin>,
    /// The repair.
    pub recover: RecoverReport,
    /// The check.
    pub verify: VerifyReport,
    /// The measured quality, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<AccuracyReport>,
    /// What each round of pruning and training came to, where there was training.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rounds: Vec<crate::train::rounds::Round>,
    /// The measured time, where it was the budget.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_target: Option<LatencyReport>,
    /// Both files with their hashes, where the run was held to limits; of the pruned one, as it was or would be written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub models: Option<Models>,
    /// What had to hold.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gates: Vec<Gate>,
    /// All limits are kept; absent without limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passed: Option<bool>,
    /// The accepted run that it was compared with, as it was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baseline: Option<String>,
    /// The whole comparison on the samples that measured, where accuracy was measured on data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comparison: Option<Diff>,
    /// The measured times of the original and the pruned model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency: Option<BenchReport>,
    /// Milliseconds per stage, in order of name.
    pub timings_ms: BTreeMap<String, f64>,
}

impl PruneReport {
    /// Takes over what came of limits, and what it rests on. Without a limit nothing has passed.
    pub fn held(&mut self, check: CheckReport) {
        let any = !check.gates.is_empty();
        self.models = Some(check.models).filter(|_| any);
        self.passed = any.then_some(check.passed);
        self.gates = check.gates;
        self.baseline = check.baseline;
        self.comparison = check.accuracy;
        self.latency = check.latency;
        self.notes.extend(check.notes);
    }

    /// There is nothing that keeps the limit on accuracy.
    pub fn nothing_held(&mut self) {
        self.gates = self.accuracy.iter().filter_map(drop_gate).collect();
        self.passed = Some(false);
    }
}
