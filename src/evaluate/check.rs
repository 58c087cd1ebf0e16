//! Everything that must hold before a smaller model ships, in one verdict: `onnx-prune check`, and the limits of a pruning run.

use super::baseline::Baseline;
use super::bench::BenchReport;
use super::diff::{self, Diff, ModelSide, Models};
use super::gate::{self, Limit};
use crate::error::{Error, Result};
use crate::onnx::Model;
use crate::report::AccuracyReport;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Version of the JSON schema.
pub const CHECK_SCHEMA_VERSION: u32 = 1;

/// Shares of the original that may stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SizeLimits {
    /// Of the multiply-accumulates.
    pub macs: Option<f64>,
    /// Of the parameters.
    pub params: Option<f64>,
    /// Of the bytes on disk.
    pub size: Option<f64>,
}

impl SizeLimits {
    /// Whether there is one.
    pub fn any(&self) -> bool {
        self.macs.or(self.params).or(self.size).is_some()
    }
}

/// What must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    /// On data.
    pub accuracy: diff::Limits,
    /// On measured times.
    pub speed: Vec<Limit>,
    /// On sizes.
    pub size: SizeLimits,
}

impl Limits {
    /// Whether there is one.
    pub fn any(&self) -> bool {
        self.accuracy != diff::Limits::default() || !self.speed.is_empty() || self.size.any()
    }
}

/// What is known of two models.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Their sizes.
    pub models: Models,
    /// The comparison on data, which judged its own limits.
    pub accuracy: Option<Diff>,
    /// The one figure that stands for accuracy where there is no comparison, as by a command of the user's.
    pub figure: Option<AccuracyReport>,
    /// The measured times.
    pub latency: Option<BenchReport>,
}

impl Measured {
    /// The sizes of both; nothing is measured yet.
    pub fn sizes(original: &Model, pruned: &Model) -> Self {
        let models = Models { original: ModelSide::of(original), pruned: ModelSide::of(pruned) };
        Self { models, accuracy: None, figure: None, latency: None }
    }
}

/// One limit, and whether it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Gate {
    /// As on the command line, without dashes.
    pub name: String,
    /// The limit.
    pub limit: f64,
    /// The figure, in the limit's unit.
    pub value: f64,
    /// Judged by the figure alone.
    pub passed: bool,
    /// The figure's interval has the limit in it: another run might judge otherwise.
    pub inconclusive: bool,
    /// All of it in words.
    pub words: String,
}

/// The verdict, and what it rests on.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct CheckReport {
    /// Version of this form, [`CHECK_SCHEMA_VERSION`].
    #[schemars(extend("const" = CHECK_SCHEMA_VERSION))]
    pub schema_version: u32,
    /// Name and version of the tool.
    pub tool: String,
    /// Both files.
    pub models: Models,
    /// All limits are kept.
    pub passed: bool,
    /// What had to hold.
    pub gates: Vec<Gate>,
    /// The comparison on data, where a limit is about it.
    pub accuracy: Option<Diff>,
    /// The measured times, where a limit is about them.
    pub latency: Option<BenchReport>,
    /// The accepted run that it was compared with, as it was given.
    pub baseline: Option<String>,
    /// Things the user should know.
    pub notes: Vec<String>,
}

/// Judges two models by their sizes and by what was measured.
///
/// # Errors
/// When a limit is about something that is not known.
pub fn judge(measured: Measured, limits: &Limits, baseline: Option<&Baseline>) -> Result<CheckReport> {
    let mut gates = gates(&measured, limits)?;
    let mut notes: Vec<String> = measured.latency.iter().flat_map(gate::slower).collect();
    if let Some(baseline) = baseline {
        let (more, told) = baseline.judge(&measured)?;
        gates.extend(more);
        notes.extend(told);
    }
    Ok(CheckReport {
        schema_version: CHECK_SCHEMA_VERSION,
        tool: concat!("onnx-prune ", env!("CARGO_PKG_VERSION")).into(),
        models: measured.models,
        passed: gates.iter().all(|g| g.passed),
        gates,
        accuracy: measured.accuracy,
        latency: measured.latency,
        baseline: baseline.map(|b| b.name().to_owned()),
        notes,
    })
}

fn gates(measured: &Measured, limits: &Limits) -> Result<Vec<Gate>> {
    let mut gates = sizes(&measured.models, &limits.size)?;
    for g in measured.accuracy.iter().flat_map(|d| &d.gates) {
        gates.push(Gate {
            name: g.name.into(),
            limit: g.limit,
            value: g.value,
            passed: g.passed,
            inconclusive: g.inconclusive,
            words: g.words.clone(),
        });
    }
    if measured.accuracy.is_none() {
        gates.extend(measured.figure.as_ref().and_then(drop_gate));
    }
    for limit in &limits.speed {
        let report = measured.latency.as_ref().ok_or_else(|| Error::Internal("times were not measured".into()))?;
        gates.extend(times(report, *limit));
    }
    Ok(gates)
}

/// The limit of the one figure.
pub(crate) fn drop_gate(a: &AccuracyReport) -> Option<Gate> {
    let limit = a.limit?;
    let passed = a.passed == Some(true);
    let relation = if passed { "within" } else { "more than" };
    let least = a.trail.iter().map(|p| p.share).fold(0.0, f64::max);
    let words = if !passed && !a.trail.is_empty() {
        format!(
            "even with {:.0} % left {} drops by more than --max-drop {limit} ({:.2} points): allow more, or give more data",
            least * 100.0,
            a.metric,
            a.drop
        )
    } else {
        format!(
            "{} dropped by {:.2} points ({:.4} → {:.4}), {relation} --max-drop {limit}",
            a.metric, a.drop, a.original, a.pruned
        )
    };
    Some(Gate { name: "max-drop".into(), limit, value: a.drop, passed, inconclusive: false, words })
}

fn sizes(models: &Models, limits: &SizeLimits) -> Result<Vec<Gate>> {
    let (a, b) = (&models.original, &models.pruned);
    let figures = [
        ("max-macs", "MACs", limits.macs, a.macs.zip(b.macs)),
        ("max-params", "parameters", limits.params, Some((a.params, b.params))),
        ("max-size", "bytes on disk", limits.size, Some((a.bytes, b.bytes))),
    ];
    let mut gates = Vec::new();
    for (name, what, limit, figures) in figures {
        let Some(limit) = limit else { continue };
        let (a, b) = figures.filter(|f| f.0 > 0).ok_or_else(|| {
            Error::Usage(format!("--{name}: the {what} of {} and {} cannot be counted", a.path, b.path))
        })?;
        let value = b as f64 / a as f64;
        let passed = value <= limit;
        let relation = if passed { "within" } else { "more than" };
        let words = format!("{value:.4} of the {what} are left ({b} of {a}), {relation} --{name} {limit}");
        gates.push(Gate { name: name.into(), limit, value, passed, inconclusive: false, words });
    }
    Ok(gates)
}

fn times(report: &BenchReport, limit: Limit) -> Vec<Gate> {
    let (name, bound) = match limit {
        Limit::MaxRatio(r) => ("max-ratio", r),
        Limit::MinSpeedup(f) => ("min-speedup", f),
    };
    let ratios = report.rows.iter().filter_map(|row| Some(row.comparison.as_ref()?.ratio));
    let gate = |(outcome, ratio): (gate::GateOutcome, f64)| Gate {
        name: name.into(),
        limit: bound,
        value: if name == "max-ratio" { ratio } else { 1.0 / ratio },
        passed: outcome.kept,
        inconclusive: outcome.inconclusive,
        words: outcome.text,
    };
    gate::check(report, &[limit]).into_iter().zip(ratios).map(gate).collect()
}

impl CheckReport {
    /// # Errors
    /// [`Error::Check`] with a line for each limit that is broken.
    pub fn verdict(&self) -> Result<()> {
        let broken: Vec<&str> = self.gates.iter().filter(|g| !g.passed).map(|g| g.words.as_str()).collect();
        if broken.is_empty() { Ok(()) } else { Err(Error::Check(broken.join("\n"))) }
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
