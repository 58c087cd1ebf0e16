//! What a training run tells: how it was set, and what came of each epoch.

use crate::evaluate::metric::Metric;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;

/// Version of the JSON form; it grows when a field changes its meaning or goes away.
pub const TRAIN_SCHEMA_VERSION: u32 = 1;

/// A training run. Reads back what it writes, so that a run can be taken up again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct History {
    /// Version of this form, [`TRAIN_SCHEMA_VERSION`].
    #[schemars(extend("const" = TRAIN_SCHEMA_VERSION))]
    pub schema_version: u32,
    /// Name and version of the tool.
    pub tool: String,
    /// The model's file, as it was given.
    pub model: String,
    /// The file of the model whose outputs were learnt from.
    pub teacher: Option<String>,
    /// The file that the trained model was written to; absent when none was.
    pub written: Option<String>,
    /// The runtime and device that computed.
    pub runtime: String,
    /// The options of the run, by name, in words.
    pub options: BTreeMap<String, String>,
    /// What was trained.
    pub trained: Vec<Trained>,
    /// Samples that were trained on.
    pub samples: usize,
    /// Samples that were held back and only measured.
    pub held_back: usize,
    /// Samples in a batch.
    pub batch: usize,
    /// Optimiser steps in an epoch.
    pub steps_per_epoch: usize,
    /// The model on the held-back samples before the first step.
    pub before: Option<Held>,
    /// What came of each epoch, in order.
    pub epochs: Vec<Epoch>,
    /// The epoch whose parameters were kept; 0 for those from before the first step.
    pub best_epoch: Option<usize>,
    /// Why the run ended before the last epoch that was asked for, if it did.
    pub stopped: Option<Stop>,
    /// Things the user should know.
    pub notes: Vec<String>,
    /// Seconds that it took in all.
    #[serde(deserialize_with = "number")]
    pub seconds: f64,
}

/// Parameters of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Trained {
    /// What they are, such as `weights of Conv`.
    pub kind: String,
    /// How many tensors.
    pub tensors: usize,
    /// How many elements in all of them.
    pub elements: u64,
}

/// One epoch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Epoch {
    /// Its number, from 1.
    pub epoch: usize,
    /// Optimiser steps by its end, since the beginning of the run.
    pub step: usize,
    /// Learning rate of its last step.
    #[serde(deserialize_with = "number")]
    pub lr: f64,
    /// The loss that was minimised, the mean over its steps.
    #[serde(deserialize_with = "number")]
    pub loss: f64,
    /// Each term of the loss, by name, the mean over its steps.
    #[serde(deserialize_with = "numbers")]
    pub terms: BTreeMap<String, f64>,
    /// Euclidean norm of the gradient over all parameters, the mean over its steps, before it is clipped.
    #[serde(deserialize_with = "number")]
    pub gradient_norm: f64,
    /// Euclidean norm of all trained parameters at its end.
    #[serde(deserialize_with = "number")]
    pub weight_norm: f64,
    /// The model on the held-back samples at its end.
    pub held: Option<Held>,
    /// How far channels have become removable, where the run aims at that.
    pub sparsity: Option<SparsityState>,
    /// Seconds that it took.
    #[serde(deserialize_with = "number")]
    pub seconds: f64,
}

/// A measurement on held-back samples.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Held {
    /// The loss without penalties.
    #[serde(deserialize_with = "number")]
    pub loss: f64,
    /// The figure of quality.
    pub metric: Option<f64>,
    /// Which figure it is, such as `top1`.
    pub metric_name: Option<String>,
}

/// How far channels have become removable.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SparsityState {
    /// Share of the prunable channels whose score is so low that they can go.
    #[serde(deserialize_with = "number")]
    pub removable_share: f64,
    /// Ends of the bins, ascending, one more than there are bins: the decimal logarithm of a channel's score relative to the
    /// largest, so 0 is the largest. The first bin has all that are lower too.
    pub edges: Vec<f64>,
    /// Channels in each bin.
    pub histogram: Vec<u64>,
    /// Value of the penalty that makes them so, as it enters the loss.
    #[serde(deserialize_with = "number")]
    pub penalty: f64,
}

/// Why a run ended early.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Stop {
    /// What kind of end it is.
    pub reason: StopReason,
    /// For people: after which epoch, or which tensor is not finite.
    pub words: String,
}

/// Kinds of early ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum StopReason {
    /// The held-back figure did not get better any more.
    NoProgress,
    /// The loss or a parameter is not a finite number.
    Diverged,
    /// The user, or a limit on time, ended it.
    Interrupted,
}

impl Held {
    /// Whether this is the better model: by the figure of quality where both have the same one, and by the loss where they
    /// have none or it is equal. Of all known figures only `mse` is better when it is lower.
    pub fn better_than(&self, other: &Held) -> bool {
        let by_loss = self.loss < other.loss;
        match (self.metric, other.metric) {
            (Some(a), Some(b)) if self.metric_name == other.metric_name && a != b => {
                if self.metric_name.as_deref() == Some(Metric::Mse.name()) { a < b } else { a > b }
            }
            _ => by_loss,
        }
    }
}

impl History {
    /// The epoch whose parameters were kept, or else the last one; `None` when none was better than the beginning.
    pub fn kept(&self) -> Option<&Epoch> {
        if self.best_epoch == Some(0) {
            return None;
        }
        let best = self.best_epoch.and_then(|best| self.epochs.iter().find(|e| e.epoch == best));
        best.or(self.epochs.last())
    }

    /// Names of all terms of the loss.
    pub fn terms(&self) -> Vec<&str> {
        let mut all: Vec<&str> = self.epochs.iter().flat_map(|e| e.terms.keys().map(String::as_str)).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The figure of quality that was measured on held-back samples.
    pub fn metric(&self) -> Option<&str> {
        let held = self.before.iter().chain(self.epochs.iter().filter_map(|e| e.held.as_ref()));
        held.filter(|h| h.metric.is_some()).find_map(|h| h.metric_name.as_deref())
    }

    /// Whether some epoch tells how far channels have become removable.
    pub fn sparse(&self) -> bool {
        self.epochs.iter().any(|e| e.sparsity.is_some())
    }

    /// All trained elements, and the tensors that hold them.
    pub fn parameters(&self) -> (u64, usize) {
        (self.trained.iter().map(|t| t.elements).sum(), self.trained.iter().map(|t| t.tensors).sum())
    }
}

/// JSON has no numbers that are not finite: `null` is one.
fn number<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(from)?.unwrap_or(f64::NAN))
}

fn numbers<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, f64>, D::Error> {
    let all = BTreeMap::<String, Option<f64>>::deserialize(from)?;
    Ok(all.into_iter().map(|(name, x)| (name, x.unwrap_or(f64::NAN))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn better_is_by_the_figure_and_then_by_the_loss() {
        let held = |loss, metric, name: &str| Held { loss, metric, metric_name: Some(name.to_owned()) };
        assert!(held(2.0, Some(0.9), "top1").better_than(&held(1.0, Some(0.8), "top1")));
        assert!(!held(2.0, Some(0.9), "mse").better_than(&held(1.0, Some(0.8), "mse")));
        assert!(held(0.9, Some(0.8), "top1").better_than(&held(1.0, Some(0.8), "top1")));
        assert!(held(0.9, None, "top1").better_than(&held(1.0, Some(0.8), "top1")));
        assert!(!held(f64::NAN, None, "top1").better_than(&held(1.0, None, "top1")));
    }

    #[test]
    fn what_is_written_is_read_back() {
        let epoch = |n: usize| Epoch {
            epoch: n,
            step: 10 * n,
            loss: 1.5,
            terms: [("label".to_owned(), 0.1 + 0.2)].into(),
            held: Some(Held { loss: 0.3, metric: Some(0.9), metric_name: Some("top1".into()) }),
            sparsity: Some(SparsityState { edges: vec![-1.0, 0.0], histogram: vec![3], ..Default::default() }),
            ..Default::default()
        };
        let stopped = Some(Stop { reason: StopReason::NoProgress, words: "no better since epoch 1".into() });
        let mut h = History { epochs: vec![epoch(1), epoch(2)], best_epoch: Some(1), stopped, ..History::default() };
        let again: History = serde_json::from_str(&serde_json::to_string(&h).unwrap()).unwrap();
        assert_eq!(again, h);
        assert_eq!(
            (h.kept().map(|e| e.epoch), h.terms(), h.metric(), h.sparse()),
            (Some(1), vec!["label"], Some("top1"), true)
        );
        // What is not finite stays so.
        h.epochs[1].loss = f64::NAN;
        h.epochs[1].terms.insert("label".into(), f64::INFINITY);
        let again: History = serde_json::from_str(&serde_json::to_string(&h).unwrap()).unwrap();
        assert!(again.epochs[1].loss.is_nan() && again.epochs[1].terms["label"].is_nan());
        assert_eq!(History { best_epoch: Some(7), ..h }.kept().map(|e| e.epoch), Some(2), "the last");
    }
}
