//! Accuracy as the budget: the smallest model that is still good enough.

use super::{Options, Pruned, prune};
use crate::error::{Error, Result};
use crate::evaluate::quality::Quality;
use crate::onnx::Model;
use crate::plan::Budget;
use crate::report::{AccuracyReport, Probe};
use serde::{Deserialize, Serialize};

/// What is to be small.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Minimise {
    /// Multiply-accumulates.
    #[default]
    Macs,
    /// Parameters.
    Params,
}

impl Minimise {
    fn budget(self, share: f64) -> Budget {
        match self {
            Minimise::Macs => Budget::TargetMacs(share),
            Minimise::Params => Budget::TargetParams(share),
        }
    }
}

/// Shares that stay, tried one after the other until one fails.
const DOWN: [f64; 6] = [0.7, 0.5, 0.35, 0.25, 0.15, 0.08];
/// Shares tried after the first of these failed, until one passes.
const UP: [f64; 3] = [0.85, 0.93, 0.97];
/// The search ends when it has found the share this exactly.
const CLOSE: f64 = 0.01;
/// Most of the tries between two shares.
const MOST: usize = 8;

/// Measures a pruned model and compares with a limit, in points (see [`Metric`](crate::evaluate::metric::Metric)).
///
/// # Errors
/// When it cannot be measured.
pub fn judge(pruned: &Pruned, quality: &Quality, limit: Option<f64>) -> Result<AccuracyReport> {
    let model = pruned.model.as_ref().ok_or_else(|| Error::Internal("there is no pruned model to measure".into()))?;
    let measured = quality.measure(model)?;
    Ok(AccuracyReport {
        metric: quality.name(),
        samples: quality.samples(),
        original: quality.original(),
        pruned: measured.score,
        drop: measured.drop,
        limit,
        passed: limit.map(|l| measured.drop <= l),
        trail: Vec::new(),
    })
}

/// A share of the original that was tried.
struct Tried {
    share: f64,
    drop: f64,
}

struct Search<'a> {
    model: &'a Model,
    options: Options,
    quality: &'a Quality,
    limit: f64,
    by: Minimise,
    trail: Vec<Probe>,
    best: Option<(Tried, Pruned, AccuracyReport)>,
    /// The largest share that failed.
    failed: Option<Tried>,
    /// The failed try with the largest share, without its model.
    nearest: Option<Pruned>,
    /// No smaller model can be had.
    floor: bool,
}

impl Search<'_> {
    /// Prunes to a share and measures; whether it is good enough.
    fn probe(&mut self, share: f64, progress: &dyn Fn(&str)) -> Result<bool> {
        let told = |stage: &str| progress(&format!("{:.0} %: {stage}", share * 100.0));
        let options = Options { budget: self.by.budget(share), ..self.options.clone() };
        let mut pruned = prune(self.model, &options, &told)?;
        told("measure");
        let accuracy = judge(&pruned, self.quality, Some(self.limit))?;
        // Trials of the first decision serve all: they would take most of the time.
        self.options.bend = self.options.bend.or(pruned.bend);
        let passed = accuracy.passed == Some(true);
        let figures = &pruned.report.pruned;
        self.trail.push(Probe {
            share,
            macs: figures.macs,
            params: figures.params,
            score: accuracy.pruned,
            drop: accuracy.drop,
            passed,
        });
        let tried = Tried { share, drop: accuracy.drop };
        if passed {
            // What the limits do not permit is no target any more.
            self.floor = pruned.report.missed.take().is_some();
            self.best = Some((tried, pruned, accuracy));
        } else {
            if self.failed.as_ref().is_none_or(|f| f.share < share) {
                self.nearest = Some(Pruned { model: None, ..pruned });
            }
            self.failed = Some(tried);
        }
        Ok(passed)
    }

    fn run(&mut self, progress: &dyn Fn(&str)) -> Result<()> {
        for share in DOWN {
            if !self.probe(share, progress)? || self.floor {
                break;
            }
        }
        for share in UP {
            if self.best.is_some() || self.probe(share, progress)? {
                break;
            }
        }
        for _ in 0..MOST {
            let (Some((good, ..)), Some(bad)) = (&self.best, &self.failed) else { break };
            let width = good.share - bad.share;
            if width <= CLOSE {
                break;
            }
            // Where a straight line meets the limit, but never close to an end: drops are noisy.
            let line = (bad.drop - self.limit) / (bad.drop - good.drop);
            let at = if line.is_finite() { line.clamp(0.25, 0.75) } else { 0.5 };
            let share = bad.share + at * width;
            self.probe((share * 1000.0).round() / 1000.0, progress)?;
        }
        Ok(())
    }
}

/// Finds the smallest model whose figure drops by at most `limit` points. When even the least removal drops further, the result
/// has no model, and its report is that of the last try. `accuracy` in the report has the trail either way.
///
/// Brackets the share that stays, then narrows it down to a hundredth. Statistics of the data are taken once.
///
/// # Errors
/// As [`prune`], and when a model cannot be measured.
pub fn smallest(
    model: &Model,
    options: &Options,
    quality: &Quality,
    limit: f64,
    by: Minimise,
    progress: &dyn Fn(&str),
) -> Result<Pruned> {
    if !(limit.is_finite() && limit >= 0.0) {
        return Err(Error::Usage(format!("--max-drop must be a number of points of at least 0, not {limit}")));
    }
    let options = Options { dry_run: false, plan: None, ..options.clone() };
    let mut search = Search {
        model,
        options,
        quality,
        limit,
        by,
        trail: Vec::new(),
        best: None,
        failed: None,
        nearest: None,
        floor: false,
    };
    search.run(progress)?;
    let (trail, what) = (search.trail, if by == Minimise::Macs { "MACs" } else { "parameters" });
    let wanted = format!("fewest {what} within {limit} points of {}", quality.name());
    let (mut pruned, accuracy) = match (search.best, search.nearest) {
        (Some((tried, mut pruned, accuracy)), _) => {
            pruned.report.budget = format!("{wanted}: target {}", tried.share);
            (pruned, accuracy)
        }
        (None, Some(mut pruned)) => {
            let last = trail.last();
            pruned.report.budget = format!("{wanted}: none was found");
            let accuracy = AccuracyReport {
                metric: quality.name(),
                samples: quality.samples(),
                original: quality.original(),
                pruned: last.map_or(f64::NAN, |p| p.score),
                drop: last.map_or(f64::NAN, |p| p.drop),
                limit: Some(limit),
                passed: Some(false),
                trail: Vec::new(),
            };
            (pruned, accuracy)
        }
        (None, None) => return Err(Error::Internal("the search tried nothing".into())),
    };
    pruned.report.accuracy = Some(AccuracyReport { trail, ..accuracy });
    Ok(pruned)
}
