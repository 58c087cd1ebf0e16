//! Limits that the user sets.

use super::super::metric::Metric;
use super::super::significance::Interval;
use super::Score;
use crate::error::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What must hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Limits {
    /// The primary metric is at most so many points worse.
    pub max_drop: Option<f64>,
    /// At least this share of samples (or positions) is given to the same class.
    pub min_agreement: Option<f64>,
}

impl Limits {
    /// # Errors
    /// When a limit makes no sense.
    pub fn check(&self) -> Result<()> {
        if let Some(x) = self.max_drop.filter(|x| !(x.is_finite() && *x >= 0.0)) {
            return Err(Error::Usage(format!("--max-drop: expected points of at least 0, such as 1.5, not {x}")));
        }
        if let Some(x) = self.min_agreement.filter(|x| !(0.0..=1.0).contains(x)) {
            return Err(Error::Usage(format!("--min-agreement: expected a share from 0 to 1, such as 0.95, not {x}")));
        }
        Ok(())
    }
}

/// One limit, and whether it is kept.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Gate {
    /// `max-drop` or `min-agreement`.
    pub name: &'static str,
    /// What it is about.
    pub metric: Metric,
    /// The limit.
    pub limit: f64,
    /// The figure.
    pub value: f64,
    /// Where the figure may really lie.
    pub interval: Option<Interval>,
    /// Judged by the figure alone. A figure that is no number does not pass.
    pub passed: bool,
    /// The interval has the limit in it: other samples might lead to another judgement.
    pub inconclusive: bool,
    /// All of it in words.
    pub words: String,
}

/// Judges all limits.
///
/// # Errors
/// When a limit is about a figure that could not be measured, or (`hollow`) says nothing.
pub(super) fn judge(
    limits: &Limits,
    primary: Option<Metric>,
    accuracy: &BTreeMap<&'static str, Score>,
    hollow: &BTreeMap<Metric, String>,
) -> Result<Vec<Gate>> {
    let find = |metric: Metric, flag: &str| {
        if let Some(why) = hollow.get(&metric) {
            return Err(Error::Usage(format!("{flag}: {why}")));
        }
        let missing = || Error::Usage(format!("{flag}: {metric} cannot be measured here; choose another --metric"));
        accuracy.get(metric.name()).ok_or_else(missing)
    };
    let mut gates = Vec::new();
    if let Some(limit) = limits.max_drop {
        let none = || Error::Usage("--max-drop: no metric fits the outputs of these models".into());
        let primary = primary.ok_or_else(none)?;
        let s = find(primary, "--max-drop")?;
        gates.push(gate("max-drop", primary, limit, s.drop, s.drop_interval, s.drop <= limit));
    }
    if let Some(limit) = limits.min_agreement {
        let s = find(Metric::Agreement, "--min-agreement")?;
        let interval = s.interval.map(|i| i.shifted(s.original));
        gates.push(gate("min-agreement", Metric::Agreement, limit, s.pruned, interval, s.pruned >= limit));
    }
    Ok(gates)
}

fn gate(name: &'static str, metric: Metric, limit: f64, value: f64, interval: Option<Interval>, passed: bool) -> Gate {
    let inconclusive = interval.is_some_and(|i| i.has(limit));
    let drop = name == "max-drop";
    let number = |x: f64| if drop { format!("{x:.2}") } else { format!("{x:.4}") };
    let mut words = match (drop, metric) {
        (false, _) => format!("{metric} is {}", number(value)),
        (true, Metric::Psnr) => format!("psnr is {} dB below that of equal outputs", number(value)),
        (true, Metric::Mse) => format!("mse is {} hundredths of the variance of the original's outputs", number(value)),
        // Rounded to nothing, it has no sign.
        (true, _) if value < -0.005 => format!("{metric} rose by {} points", number(-value)),
        (true, _) if value < 0.005 => format!("{metric} dropped by {} points", number(0.0)),
        (true, _) => format!("{metric} dropped by {} points", number(value)),
    };
    words += match (passed, drop) {
        (true, true) => ", within",
        (false, true) => ", more than",
        (true, false) => ", at least",
        (false, false) => ", less than",
    };
    words += &format!(" --{name} {limit}");
    if let Some(i) = interval.filter(|_| inconclusive) {
        words +=
            &format!(", but inconclusive: the 95 % interval {} to {} contains the limit", number(i.0), number(i.1));
    }
    Gate { name, metric, limit, value, interval, passed, inconclusive, words }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figure_decides_and_the_interval_warns() {
        let g = gate("max-drop", Metric::Top1, 1.0, 1.3, Some(Interval(0.2, 2.4)), false);
        assert_eq!(
            g.words,
            "top1 dropped by 1.30 points, more than --max-drop 1, but inconclusive: the 95 % interval 0.20 to 2.40 contains the \
             limit"
        );
        let g = gate("min-agreement", Metric::Agreement, 0.9, 0.95, Some(Interval(0.92, 0.97)), true);
        assert_eq!((g.words.as_str(), g.inconclusive), ("agreement is 0.9500, at least --min-agreement 0.9", false));
        assert!(Limits { max_drop: Some(-1.0), ..Limits::default() }.check().is_err());
        assert!(Limits { min_agreement: Some(95.0), ..Limits::default() }.check().is_err());
        assert!(Limits { max_drop: Some(f64::NAN), ..Limits::default() }.check().is_err());
    }
}
