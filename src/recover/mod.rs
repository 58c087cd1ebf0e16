//! What can be done for accuracy without training.

pub mod bias;
mod fit;
pub mod moments;
pub mod reconstruct;
pub mod rescale;

use serde::{Deserialize, Serialize};

/// `--recover`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Recover {
    /// Only remove: the result equals the original with zeros at the removed weight slices.
    None,
    /// Fold removed channels that are constant into their consumers' biases.
    Constant,
    /// Also fold the expected value of every other removed channel, where batch normalization tells it.
    #[default]
    Bias,
    /// Give every layer's outputs the mean and variance that the original's have on --data (batch normalization re-estimated, for
    /// layers without one too).
    Recalibrate,
    /// Fit the weights that stay to the original network's outputs on --data, layer by layer.
    Reconstruct,
}

impl Recover {
    /// Whether it works with calibration data.
    pub fn needs_data(self) -> bool {
        matches!(self, Recover::Recalibrate | Recover::Reconstruct)
    }

    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Recover::None => "none",
            Recover::Constant => "constant",
            Recover::Bias => "bias",
            Recover::Recalibrate => "recalibrate",
            Recover::Reconstruct => "reconstruct",
        }
    }
}
