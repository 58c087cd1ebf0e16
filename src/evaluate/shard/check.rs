//! A part of `onnx-prune check`.

use super::same_file;
use crate::error::{Error, Result};
use crate::evaluate::baseline::{self, Baseline, Tolerance};
use crate::evaluate::check::{CheckReport, Limits, Measured, SizeLimits, judge};
use crate::evaluate::diff::{Models, Observed};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The report that the whole is compared with.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct Accepted {
    name: String,
    /// The whole report.
    text: String,
    tolerance: Tolerance,
}

/// What a part knows: the sizes of the models, the limits, and what the comparison saw. Nothing is judged yet.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct CheckPart {
    models: Models,
    size: SizeLimits,
    baseline: Option<Accepted>,
    accuracy: Observed,
}

impl CheckPart {
    /// What was seen, and what the whole will be held to.
    ///
    /// # Errors
    /// [`Error::Usage`] when there is a limit on times: they belong to one machine and cannot be put together.
    pub fn new(accuracy: Observed, limits: &Limits, baseline: Option<&Baseline>) -> Result<CheckPart> {
        if !limits.speed.is_empty() || baseline.is_some_and(Baseline::has_times) {
            return Err(Error::Usage(
                "--shard: times are not measured in parts; check the limits on them (and a --baseline that has times) with a run of \
                 their own, without --shard"
                    .into(),
            ));
        }
        let accepted =
            |b: &Baseline| Accepted { name: b.name().into(), text: b.text().into(), tolerance: b.tolerance() };
        Ok(CheckPart {
            models: accuracy.models().clone(),
            size: limits.size,
            baseline: baseline.map(accepted),
            accuracy,
        })
    }

    /// What the comparison saw.
    pub fn accuracy(&self) -> &Observed {
        &self.accuracy
    }

    /// What other parts must have as well, beside what the comparison has.
    pub(super) fn identity(&self) -> Vec<(String, String)> {
        let limit = |x: Option<f64>| x.map_or("none".into(), |x: f64| x.to_string());
        let (baseline, tolerance) = match &self.baseline {
            Some(a) => (super::sha256(a.text.as_bytes()), format!("{} and {}", a.tolerance.drop, a.tolerance.slowdown)),
            None => ("none".into(), "none".into()),
        };
        vec![
            ("--max-macs".into(), limit(self.size.macs)),
            ("--max-params".into(), limit(self.size.params)),
            ("--max-size".into(), limit(self.size.size)),
            ("--baseline".into(), baseline),
            ("--baseline-drop and --baseline-slowdown".into(), tolerance),
        ]
    }

    /// Goes on with the part that comes after.
    ///
    /// # Errors
    /// [`Error::Usage`] when that is not the next part of the same run.
    pub fn join(&mut self, after: CheckPart) -> Result<()> {
        let (a, b) = (&self.models, &after.models);
        if !same_file(&a.original, &b.original) || !same_file(&a.pruned, &b.pruned) {
            return Err(Error::Usage("it is about other models; make the part again".into()));
        }
        self.accuracy.join(after.accuracy)
    }

    /// The verdict on the whole.
    ///
    /// # Errors
    /// Where the whole run would fail; not when a limit is broken.
    pub fn finish(self) -> Result<CheckReport> {
        let limits = Limits { accuracy: self.accuracy.options().limits, speed: Vec::new(), size: self.size };
        let read = |a: Accepted| baseline::parse(&a.name, a.text, a.tolerance);
        let baseline = self.baseline.map(read).transpose()?;
        let measured =
            Measured { models: self.models, accuracy: Some(self.accuracy.finish()?), figure: None, latency: None };
        judge(measured, &limits, baseline.as_ref())
    }
}
