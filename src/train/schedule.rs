//! The learning rate over a run.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// How the learning rate goes on after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Course {
    /// Half a cosine wave down to zero at the end (Loshchilov and Hutter, arXiv 1608.03983, without restarts).
    #[default]
    Cosine,
    /// As it is.
    Constant,
    /// Multiplied by `factor` after every `epochs` epochs.
    Step {
        /// Epochs between.
        epochs: f64,
        /// What it is multiplied with.
        factor: f64,
    },
}

impl fmt::Display for Course {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Course::Cosine => f.write_str("cosine"),
            Course::Constant => f.write_str("constant"),
            Course::Step { epochs, factor } => write!(f, "step={epochs}:{factor}"),
        }
    }
}

impl FromStr for Course {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || format!("expected cosine, constant or step=EPOCHS:FACTOR, found {text:?}");
        match text {
            "cosine" => Ok(Course::Cosine),
            "constant" => Ok(Course::Constant),
            _ => {
                let (epochs, factor) = text.strip_prefix("step=").and_then(|v| v.split_once(':')).ok_or_else(form)?;
                let number = |t: &str| t.parse::<f64>().ok().filter(|v| v.is_finite() && *v > 0.0).ok_or_else(form);
                Ok(Course::Step { epochs: number(epochs)?, factor: number(factor)? })
            }
        }
    }
}

/// The learning rate of each step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// The highest one, after the warm-up.
    pub lr: f64,
    /// How it goes on.
    pub course: Course,
    /// Epochs over which it rises in a straight line.
    pub warmup: f64,
}

impl Schedule {
    /// At a step, counted from 0, of a run of `epochs`.
    pub fn at(&self, step: u64, steps_per_epoch: usize, epochs: usize) -> f64 {
        let per = steps_per_epoch.max(1) as f64;
        let (at, rise, all) = (step as f64, self.warmup * per, epochs as f64 * per);
        if at < rise {
            return self.lr * (at + 1.0) / (rise + 1.0);
        }
        match self.course {
            Course::Constant => self.lr,
            Course::Cosine => {
                let part = ((at - rise) / (all - rise).max(1.0)).clamp(0.0, 1.0);
                self.lr * 0.5 * (1.0 + libm::cos(std::f64::consts::PI * part))
            }
            Course::Step { epochs, factor } => self.lr * libm::pow(factor, libm::floor(at / per / epochs)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rises_and_falls() {
        let s = Schedule { lr: 0.1, course: Course::Cosine, warmup: 1.0 };
        let all: Vec<f64> = (0..100).map(|k| s.at(k, 10, 10)).collect();
        assert!(all[..10].windows(2).all(|w| w[0] < w[1]), "{all:?}");
        assert!(all[10..].windows(2).all(|w| w[0] > w[1]), "{all:?}");
        assert!((all[10] - 0.1).abs() < 1e-12 && all[99] < 1e-4);
        let s = Schedule { lr: 0.1, course: "step=3:0.1".parse().unwrap(), warmup: 0.0 };
        let near = |a: f64, b: f64| (a - b).abs() < 1e-12;
        assert!(near(s.at(29, 10, 10), 0.1) && near(s.at(30, 10, 10), 0.01) && near(s.at(95, 10, 10), 1e-4));
        assert!("step=3".parse::<Course>().is_err() && "step=0:1".parse::<Course>().is_err());
        for text in ["cosine", "constant", "step=3:0.1"] {
            assert_eq!(text.parse::<Course>().unwrap().to_string(), text);
        }
    }
}
