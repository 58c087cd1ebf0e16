//! Metrics of both models, their intervals, and what the difference is worth.

use super::super::counts::Counts;
use super::super::metric::{Metric, Tally};
use super::super::significance::{CONFIDENCE, Interval, McNemar, Pairs, normal, wilson};
use super::Options;
use super::classes::{Classes, over_positions, taken};
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::runtime::walk::Feed;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// With so many classes or fewer, the right one is always among the best five.
const FIVE: usize = 5;

/// One metric.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Score {
    /// The original's figure: of shares from 0 to 1. Where the metric compares with the original, what equal outputs get.
    pub original: f64,
    /// The pruned model's.
    pub pruned: f64,
    /// `pruned − original`.
    pub difference: f64,
    /// Where the difference may really lie.
    pub interval: Option<Interval>,
    /// How the interval was computed: `newcombe` of pairs of right and wrong, `wilson` of agreement where a sample agrees
    /// wholly or not at all, `normal` of means over samples; see [`significance`](crate::evaluate::significance).
    pub interval_method: Option<&'static str>,
    /// How much worse, in points (see [`Tally::drop`]).
    pub drop: f64,
    /// The interval of [`drop`](Self::drop).
    pub drop_interval: Option<Interval>,
    /// Of metrics with labels: samples by which model is right.
    pub pairs: Option<Pairs>,
    /// Of metrics with labels: McNemar's test.
    pub mcnemar: Option<McNemar>,
    /// Of metrics with labels: what the test says.
    pub verdict: Option<Verdict>,
}

/// What a difference between shares of right answers is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Every sample is as right or wrong as before.
    NoChange,
    /// McNemar's p-value is at least 5 %: the difference can be chance.
    WithinNoise,
    /// The pruned model is worse.
    Worse,
    /// The pruned model is better.
    Better,
}

impl Verdict {
    fn of(pairs: &Pairs, test: &McNemar) -> Verdict {
        match test.p_value {
            _ if pairs.fixed + pairs.broken == 0 => Verdict::NoChange,
            p if p >= 1.0 - CONFIDENCE => Verdict::WithinNoise,
            _ if pairs.broken > pairs.fixed => Verdict::Worse,
            _ => Verdict::Better,
        }
    }
}

/// Metrics point to a way out that pruning has and this comparison has not.
fn here(e: Error) -> Error {
    const ELSEWHERE: [&str; 2] = [", or measure with --eval-command", "; measure with --eval-command"];
    match e {
        Error::Usage(text) => Error::Usage(ELSEWHERE.iter().fold(text, |text, hint| text.replace(hint, ""))),
        e => e,
    }
}

/// A metric that is counted for both models.
pub(super) struct Counted {
    pub metric: Metric,
    /// By the user: what does not fit is an error then.
    asked: bool,
    original: Tally,
    pruned: Tally,
    /// Why it is left out.
    failed: Option<String>,
}

/// The same as a part of a run keeps it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(super) struct Stored {
    metric: Metric,
    /// What the original gives, counted as the pruned model's is.
    original: Counts,
    pruned: Counts,
    /// Why it is left out, from there on.
    failed: Option<String>,
}

impl Stored {
    /// Goes on with what comes after; the metrics are the same.
    pub fn join(&mut self, after: Stored) {
        if self.failed.is_none() {
            self.original.join(after.original);
            self.pruned.join(after.pruned);
            self.failed = after.failed;
        }
    }

    /// Whether both count the same.
    pub fn alike(&self, other: &Stored) -> bool {
        self.metric == other.metric
    }
}

impl Counted {
    /// Nothing counted yet; `before` is the number of samples before the first that will be.
    fn new(metric: Metric, asked: bool, options: &Options, before: usize) -> Counted {
        let tally = || Tally::new(metric, options.place.clone()).after(before);
        Counted { metric, asked, original: tally(), pruned: tally(), failed: None }
    }

    /// As it was when it was stored.
    pub fn restored(stored: Stored, options: &Options) -> Counted {
        let Stored { metric, original, pruned, failed } = stored;
        let tally = |counts: Counts| Tally::new(metric, options.place.clone()).counted(counts);
        let (original, pruned) = (tally(original), tally(pruned));
        Counted { metric, asked: options.metrics.contains(&metric), original, pruned, failed }
    }

    /// For keeping.
    pub fn stored(self) -> Stored {
        let (original, pruned) = (self.original.into_counts(), self.pruned.into_counts());
        Stored { metric: self.metric, original, pruned, failed: self.failed }
    }

    /// Counts a batch.
    ///
    /// # Errors
    /// When a metric that was asked for does not fit.
    pub fn add(&mut self, original: &Feed, pruned: &Feed, labels: Option<&[i64]>) -> Result<()> {
        if self.failed.is_some() {
            return Ok(());
        }
        let first = self.original.add(original, original, labels);
        match first.and_then(|()| self.pruned.add(original, pruned, labels)) {
            // A label that cannot be right is never passed over.
            Err(e) if self.asked || self.metric.needs_labels() => Err(here(e)),
            Err(e) => {
                self.failed = Some(here(e).to_string());
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Why its figure is worthless, if so.
    pub fn says_nothing(&self) -> Option<String> {
        self.original.says_nothing()
    }

    /// Whether there is a figure.
    pub fn is_measured(&self) -> bool {
        self.failed.is_none()
    }

    fn score(&self, samples: usize) -> Score {
        let (original, pruned) = (self.original.score(), self.pruned.score());
        let drop = self.pruned.drop(original);
        let mut score = Score {
            original,
            pruned,
            difference: pruned - original,
            interval: None,
            interval_method: None,
            drop,
            drop_interval: None,
            pairs: None,
            mcnemar: None,
            verdict: None,
        };
        let (a, b) = (self.original.samples(), self.pruned.samples());
        if b.len() != samples {
            // The output's first axis does not count samples, so nothing is known of their spread.
            return score;
        }
        let interval = match self.metric {
            Metric::Top1 | Metric::Top5 => {
                let pairs = Pairs::count(a, b);
                let test = pairs.mcnemar();
                score.verdict = Some(Verdict::of(&pairs, &test));
                (score.pairs, score.mcnemar) = (Some(pairs), Some(test));
                Some((pairs.interval(), "newcombe"))
            }
            Metric::Agreement if b.iter().all(|&x| x == 0.0 || x == 1.0) => {
                let same = b.iter().filter(|&&x| x == 1.0).count();
                Some((wilson(same as u64, samples as u64).shifted(-original), "wilson"))
            }
            Metric::Agreement | Metric::Cosine | Metric::Mse => {
                let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| b - a).collect();
                normal(&differences).map(|i| (i, "normal"))
            }
            // Not means over samples.
            Metric::Psnr | Metric::Iou => None,
        };
        if let Some((interval, method)) = interval {
            score.interval = Some(interval);
            score.interval_method = Some(method);
            let factor = match self.metric {
                Metric::Mse if score.pruned > 0.0 => drop / score.pruned,
                Metric::Mse => 100.0,
                _ => -100.0,
            };
            score.drop_interval = Some(interval.scaled(factor));
        }
        score
    }
}

/// The metrics: those that always are, and those asked for.
///
/// `batch` is the original's first of all; `before` samples come before the first that will be counted.
///
/// # Errors
/// When a metric that needs labels is asked for without any, or no output has the axis that the user says.
pub(super) fn choose(
    options: &Options,
    data: &Dataset,
    batch: &Feed,
    classes: Option<&Classes>,
    before: usize,
    notes: &mut Vec<String>,
) -> Result<Vec<Counted>> {
    let mut wanted: Vec<Metric> = Vec::new();
    if let Some(axis) = options.place.class_axis.filter(|_| taken(&options.place, batch).is_none()) {
        let outputs = batch.iter().map(|(n, a)| format!("{n:?} {:?}", a.dims)).collect::<Vec<_>>().join(", ");
        return Err(Error::Usage(format!(
            "--class-axis {axis}: no output has classes there; the first axis, 0, counts samples, and the outputs are {outputs}"
        )));
    }
    match (data.labels(), classes) {
        (Some(_), Some(c)) => {
            wanted.push(Metric::Top1);
            wanted.extend((c.count > FIVE).then_some(Metric::Top5));
        }
        (Some(_), None) => {
            notes.push(
                "the labels are not used: no output has one class a sample; --metric-output and --class-axis say where"
                    .into(),
            );
        }
        (None, _) => {
            if let Some(m) = options.metrics.iter().find(|m| m.needs_labels()) {
                return Err(Error::Usage(format!(
                    "metric {m} needs labels, and {} has none; agreement with the original does without",
                    data.path().display()
                )));
            }
        }
    }
    if classes.is_none() {
        notes.extend(over_positions(&options.place, batch));
    }
    wanted.extend([Metric::Agreement, Metric::Cosine, Metric::Mse, Metric::Psnr]);
    wanted.extend(&options.metrics);
    let mut all: Vec<Counted> = Vec::new();
    for metric in wanted {
        if !all.iter().any(|c| c.metric == metric) {
            all.push(Counted::new(metric, options.metrics.contains(&metric), options, before));
        }
    }
    Ok(all)
}

/// The metric that a drop is measured in; none when no metric fits the outputs.
pub(super) fn primary(options: &Options, counted: &[Counted]) -> Option<Metric> {
    let asked = options.metrics.first().copied();
    asked.or_else(|| counted.iter().find(|c| c.is_measured()).map(|c| c.metric))
}

/// All figures, and the intersections over unions if they were asked for. Notes say what was left out.
pub(super) fn accuracy(
    counted: &[Counted],
    samples: usize,
    notes: &mut Vec<String>,
) -> (BTreeMap<&'static str, Score>, Vec<Option<f64>>) {
    let mut iou = Vec::new();
    let mut all = BTreeMap::new();
    if let Some(why) =
        counted.first().and_then(|c| c.failed.as_ref()).filter(|_| !counted.iter().any(Counted::is_measured))
    {
        notes.push(format!("no metric fits: {why}"));
        return (all, iou);
    }
    for c in counted {
        match &c.failed {
            Some(why) => notes.push(format!("no {}: {why}", c.metric)),
            None => {
                all.insert(c.metric.name(), c.score(samples));
                if c.metric == Metric::Iou {
                    iou = c.pruned.per_class();
                }
            }
        }
    }
    (all, iou)
}
