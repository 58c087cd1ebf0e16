//! What a smaller model is held to: the limits of `check` and of the pruning command.

use super::parse;
use clap::{Args, ValueHint};
use onnx_prune::error::Result;
use onnx_prune::evaluate::baseline::{self, Baseline, Tolerance};
use onnx_prune::evaluate::check::{Limits, SizeLimits};
use onnx_prune::evaluate::diff;
use onnx_prune::evaluate::gate::Limit;
use onnx_prune::evaluate::metric::Metric;
use onnx_prune::onnx::Model;
use std::path::{Path, PathBuf};

/// The part of the help that limits stand in.
pub const GATE: &str = "Gate (exit code 1 when a limit is broken)";

/// Limits, all but that on accuracy, which has a second meaning where channels are chosen.
#[derive(Debug, Args)]
pub struct LimitArgs {
    /// At least share A, from 0 to 1, is given to the same class as by the original on data
    #[arg(long, value_name = "A", allow_negative_numbers = true, help_heading = GATE)]
    min_agreement: Option<f64>,
    /// The smaller model is at least F times as fast
    #[arg(long, value_name = "F", value_parser = parse::positive, help_heading = GATE)]
    min_speedup: Option<f64>,
    /// It takes at most R times as long
    #[arg(long, value_name = "R", value_parser = parse::positive, help_heading = GATE)]
    max_ratio: Option<f64>,
    /// At most this share of the multiply-accumulates is left
    #[arg(long, value_name = "F", value_parser = parse::positive, help_heading = GATE)]
    max_macs: Option<f64>,
    /// At most this share of the parameters is left
    #[arg(long, value_name = "F", value_parser = parse::positive, help_heading = GATE)]
    max_params: Option<f64>,
    /// At most this share of the file's size is left
    #[arg(long, value_name = "F", value_parser = parse::positive, help_heading = GATE)]
    max_size: Option<f64>,
    /// No worse than the last accepted run, whose JSON report this is: every figure in it is a limit, less its noise (sizes have
    /// none; only ratios of times are compared). Given alone, it is all limits
    #[arg(long, value_name = "REPORT.json", value_hint = ValueHint::FilePath, help_heading = GATE)]
    baseline: Option<PathBuf>,
    /// The primary metric may drop P points further than in the baseline
    #[arg(long, value_name = "P", default_value_t = Tolerance::default().drop, allow_negative_numbers = true, requires = "baseline",
          help_heading = GATE)]
    baseline_drop: f64,
    /// The ratio to the original's time may exceed the upper end of the baseline's 95 % interval by the share S
    #[arg(long, value_name = "S", default_value_t = Tolerance::default().slowdown, allow_negative_numbers = true,
          requires = "baseline", help_heading = GATE)]
    baseline_slowdown: f64,
}

/// All that a model is held to.
pub struct Held {
    /// What was given.
    pub limits: Limits,
    /// The last accepted run.
    pub baseline: Option<Baseline>,
}

impl Held {
    /// Whether there is a limit.
    pub fn any(&self) -> bool {
        self.limits.any() || self.baseline.is_some()
    }

    /// The metric that the baseline has.
    pub fn baseline_metric(&self) -> Option<&str> {
        self.baseline.as_ref().and_then(Baseline::metric)
    }

    /// The same, where it is one that is only measured when it is asked for.
    pub fn more_metrics(&self) -> Option<Metric> {
        self.baseline_metric().filter(|m| *m == Metric::Iou.name()).map(|_| Metric::Iou)
    }

    /// Whether accuracy has to be measured.
    pub fn needs_accuracy(&self) -> bool {
        self.limits.accuracy != diff::Limits::default() || self.baseline_metric().is_some()
    }

    /// What accuracy has to be measured for, in words.
    pub fn on_data(&self) -> String {
        match (&self.baseline, self.baseline_metric(), self.limits.accuracy) {
            (Some(b), Some(metric), limits) if limits == diff::Limits::default() => {
                format!("the {metric} of --baseline {}", b.name())
            }
            (_, _, limits) if limits.max_drop.is_none() => "--min-agreement".into(),
            _ => "--max-drop".into(),
        }
    }

    /// Whether times have to be measured.
    pub fn needs_times(&self) -> bool {
        !self.limits.speed.is_empty() || self.baseline.as_ref().is_some_and(Baseline::has_times)
    }

    /// Fails when the baseline is about another original.
    pub fn check(&self, original: &Model) -> Result<()> {
        self.baseline.iter().try_for_each(|b| b.fits(original))
    }
}

impl LimitArgs {
    /// All of them, with the one on accuracy. Reads the baseline.
    pub fn held(&self, max_drop: Option<f64>) -> Result<Held> {
        let limits = self.limits(max_drop);
        limits.accuracy.check()?;
        let tolerance = Tolerance { drop: self.baseline_drop, slowdown: self.baseline_slowdown };
        let baseline = self.baseline.as_ref().map(|path| baseline::load(path, tolerance)).transpose()?;
        Ok(Held { limits, baseline })
    }

    /// The files that are read.
    pub fn read(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.baseline.iter().map(|p| ("the baseline", p.as_path()))
    }

    fn limits(&self, max_drop: Option<f64>) -> Limits {
        let speed = [self.max_ratio.map(Limit::MaxRatio), self.min_speedup.map(Limit::MinSpeedup)];
        Limits {
            accuracy: diff::Limits { max_drop, min_agreement: self.min_agreement },
            speed: speed.into_iter().flatten().collect(),
            size: SizeLimits { macs: self.max_macs, params: self.max_params, size: self.max_size },
        }
    }
}
