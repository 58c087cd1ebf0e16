//! Everything that must hold before a smaller model ships, in one verdict: `onnx-prune check`.

use super::bench::BenchReport;
use super::diff::{Diff, ModelSide, Models};
use super::gate::{self, Limit};
use crate::error::{Error, Result};
use crate::onnx::Model;
use schemars::JsonSchema;
use serde::Serialize;

/// Version of the JSON schema.
pub const CHECK_SCHEMA_VERSION: u32 = 1;

/// Shares of the original that may stay.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
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
}

/// Judges two models by their sizes and by what was measured. `speed`: the limits on time that `latency` was measured for.
///
/// # Errors
/// When a limit is about something that is not known.
pub fn judge(
    original: &Model,
    pruned: &Model,
    size: &SizeLimits,
    accuracy: Option<Diff>,
    latency: Option<BenchReport>,
    speed: &[Limit],
) -> Result<CheckReport> {
    let models = Models { original: ModelSide::of(original), pruned: ModelSide::of(pruned) };
    let mut gates = sizes(&models, size)?;
    for g in accuracy.iter().flat_map(|d| &d.gates) {
        gates.push(Gate {
            name: g.name.into(),
            limit: g.limit,
            value: g.value,
            passed: g.passed,
            inconclusive: g.inconclusive,
            words: g.words.clone(),
        });
    }
    for limit in speed {
        let report = latency.as_ref().ok_or_else(|| Error::Internal("times were not measured".into()))?;
        gates.extend(times(report, *limit));
    }
    Ok(CheckReport {
        schema_version: CHECK_SCHEMA_VERSION,
        tool: concat!("onnx-prune ", env!("CARGO_PKG_VERSION")).into(),
        models,
        passed: gates.iter().all(|g| g.passed),
        gates,
        accuracy,
        latency,
    })
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
