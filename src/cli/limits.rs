//! What a smaller model is held to: the limits of `check` and of the pruning command.

use super::parse;
use clap::Args;
use onnx_prune::evaluate::check::{Limits, SizeLimits};
use onnx_prune::evaluate::diff;
use onnx_prune::evaluate::gate::Limit;

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
}

impl LimitArgs {
    /// All of them, with the one on accuracy.
    pub fn limits(&self, max_drop: Option<f64>) -> Limits {
        let speed = [self.max_ratio.map(Limit::MaxRatio), self.min_speedup.map(Limit::MinSpeedup)];
        Limits {
            accuracy: diff::Limits { max_drop, min_agreement: self.min_agreement },
            speed: speed.into_iter().flatten().collect(),
            size: SizeLimits { macs: self.max_macs, params: self.max_params, size: self.max_size },
        }
    }
}
