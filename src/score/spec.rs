//! What the user asks for: criteria with weights, how sites are put together, how groups are made comparable.

use super::Criteria;
use crate::error::Error;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// How the scores of several sites (layers, batch normalizations) of one channel become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Aggregate {
    /// Sum over the sites.
    Sum,
    /// Mean over the sites.
    #[default]
    Mean,
    /// The largest.
    Max,
}

impl Aggregate {
    /// Element by element over vectors of equal length, `None` when there are none.
    pub fn combine(self, vectors: &[Vec<f64>]) -> Option<Vec<f64>> {
        let (first, rest) = vectors.split_first()?;
        let mut combined = first.clone();
        for vector in rest {
            for (all, &x) in combined.iter_mut().zip(vector) {
                *all = if self == Self::Max { all.max(x) } else { *all + x };
            }
        }
        if self == Self::Mean {
            combined.iter_mut().for_each(|all| *all /= vectors.len() as f64);
        }
        Some(combined)
    }
}

/// How the scores of a group are scaled before groups are ranked against each other.
///
/// Raw magnitudes say more about a layer's scale than about its channels: a global ranking of them empties whole
/// layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Normalize {
    /// Not at all.
    None,
    /// Divided by the group's mean.
    #[default]
    Mean,
    /// Divided by the group's maximum.
    Max,
    /// Minus the group's mean, divided by its standard deviation.
    Gaussian,
}

impl Normalize {
    /// Scales the scores of one group. A group whose divisor is zero keeps its zeros.
    pub fn apply(self, scores: &mut [f64]) {
        let mean = scores.iter().sum::<f64>() / scores.len().max(1) as f64;
        let (shift, divisor) = match self {
            Self::None => return,
            Self::Mean => (0.0, mean),
            Self::Max => (0.0, scores.iter().copied().fold(0.0, f64::max)),
            Self::Gaussian => {
                let variance = scores.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / scores.len().max(1) as f64;
                // Equal scores differ from their computed mean by rounding only.
                (mean, if variance.sqrt() <= 1e-12 * mean.abs() { f64::INFINITY } else { variance.sqrt() })
            }
        };
        if divisor != 0.0 {
            scores.iter_mut().for_each(|x| *x = (*x - shift) / divisor);
        }
    }
}

/// One criterion or a weighted combination, as in `bn-scale=0.7,l1=0.3` or `l2`.
///
/// A weight that is left out is 1. Only the ratio of the weights matters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CriterionSpec {
    /// Criterion names and weights.
    pub parts: Vec<(String, f64)>,
}

impl CriterionSpec {
    /// Whether a part needs calibration data.
    pub fn needs_data(&self, criteria: &Criteria) -> bool {
        self.parts.iter().any(|(name, _)| criteria.get(name).is_ok_and(|c| c.needs_data()))
    }

    /// Reads a specification whose names are those of `criteria`. ([`FromStr`] knows the standard ones only.)
    ///
    /// # Errors
    /// [`Error::Usage`] for an unknown name, one that appears twice, and a weight that is no number above zero.
    pub fn parse(text: &str, criteria: &Criteria) -> Result<Self, Error> {
        let mut parts: Vec<(String, f64)> = Vec::new();
        for part in text.split(',') {
            let (name, weight) = match part.split_once('=') {
                Some((name, weight)) => (name.trim(), weight.trim()),
                None => (part.trim(), "1"),
            };
            let name = criteria.get(name)?.name();
            let weight = weight.parse::<f64>().ok().filter(|w| w.is_finite() && *w > 0.0).ok_or_else(|| {
                Error::Usage(format!("the weight of criterion {name} must be a number above zero, not {weight:?}"))
            })?;
            if parts.iter().any(|(other, _)| other == name) {
                return Err(Error::Usage(format!("criterion {name} appears twice in {text:?}")));
            }
            parts.push((name.to_owned(), weight));
        }
        Ok(Self { parts })
    }
}

impl FromStr for CriterionSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text, &Criteria::STANDARD)
    }
}

impl fmt::Display for CriterionSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (name, weight)) in self.parts.iter().enumerate() {
            f.write_str(if i > 0 { "," } else { "" })?;
            f.write_str(name)?;
            if *weight != 1.0 {
                write!(f, "={weight}")?;
            }
        }
        Ok(())
    }
}

impl TryFrom<String> for CriterionSpec {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<CriterionSpec> for String {
    fn from(spec: CriterionSpec) -> Self {
        spec.to_string()
    }
}
