//! Figures for the quality of outputs: against labels, or against what the original model gives.
//!
//! All are means over samples (the first axis of an output), except [`Metric::Iou`], which is counted over all positions of
//! all samples, and [`Metric::Psnr`], which is a function of the mean squared error over all of them.

use super::counts::Counts;
use crate::error::{Error, Result};
use crate::runtime::Array;
use crate::runtime::walk::Feed;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A figure of quality.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Metric {
    /// Share of samples whose label has the highest score
    Top1,
    /// Share of samples whose label is among the five highest scores
    Top5,
    /// Share of positions where the highest score is that of the same class as in the original
    Agreement,
    /// Mean cosine of the angle between a sample's outputs and the original's
    Cosine,
    /// Mean squared difference to the original's outputs
    Mse,
    /// Peak signal-to-noise ratio to the original's outputs, in dB; equal outputs count as 100
    Psnr,
    /// Mean over classes of intersection over union of the positions given to a class by this model and the original
    Iou,
}

/// Equal outputs have this [`Metric::Psnr`], in dB.
pub const MOST_PSNR: f64 = 100.0;

/// A single score beyond this is a yes.
const YES: f64 = 0.5;

impl Metric {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Top1 => "top1",
            Metric::Top5 => "top5",
            Metric::Agreement => "agreement",
            Metric::Cosine => "cosine",
            Metric::Mse => "mse",
            Metric::Psnr => "psnr",
            Metric::Iou => "iou",
        }
    }

    /// Whether it needs to know the right class of each sample.
    pub fn needs_labels(self) -> bool {
        matches!(self, Metric::Top1 | Metric::Top5)
    }

    /// Whether it looks at scores of classes.
    pub fn needs_classes(self) -> bool {
        matches!(self, Metric::Top1 | Metric::Top5 | Metric::Agreement | Metric::Iou)
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where metrics look.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Where {
    /// The output; without it all floating-point outputs (of metrics over classes: the first that has classes).
    pub output: Option<String>,
    /// The axis with one score a class; without it the last of two or three axes, and axis 1 of more.
    pub class_axis: Option<usize>,
}

impl Where {
    /// The outputs that a metric looks at.
    ///
    /// # Errors
    /// When there is none, with what there is.
    pub(super) fn outputs<'a>(&self, metric: Metric, feed: &'a Feed) -> Result<Vec<&'a (String, Array)>> {
        let names = || feed.iter().map(|(n, a)| format!("{n:?} {:?}", a.dims)).collect::<Vec<_>>().join(", ");
        if let Some(name) = &self.output {
            let found = feed.iter().find(|(n, _)| n == name);
            let missing = || Error::Usage(format!("the model has no output {name:?}; its outputs: {}", names()));
            return found.map(|f| vec![f]).ok_or_else(missing);
        }
        let mut fit: Vec<&(String, Array)> = feed.iter().filter(|(_, a)| !a.data.is_integer()).collect();
        if metric.needs_classes() {
            fit.retain(|(_, a)| self.axis(&a.dims).is_some());
            fit.truncate(1);
        }
        if fit.is_empty() {
            let what = if metric.needs_classes() { "with scores of classes" } else { "of floating-point numbers" };
            return Err(Error::Usage(format!(
                "metric {metric} needs an output {what}, but the model's outputs are {}; choose another --metric, or measure \
                 with --eval-command",
                names()
            )));
        }
        Ok(fit)
    }

    /// The axis of classes in an output of these sizes.
    pub(super) fn axis(&self, dims: &[usize]) -> Option<usize> {
        let axis = self.class_axis.unwrap_or(match dims.len() {
            2 | 3 => dims.len() - 1,
            _ => 1,
        });
        (dims.len() >= 2 && (1..dims.len()).contains(&axis)).then_some(axis)
    }
}

/// One metric, counted batch by batch.
#[derive(Clone, Debug)]
pub struct Tally {
    metric: Metric,
    place: Where,
    /// Samples before the first that is counted here, for messages.
    before: usize,
    counts: Counts,
}

impl Tally {
    /// Nothing counted yet.
    pub fn new(metric: Metric, place: Where) -> Tally {
        Tally { metric, place, before: 0, counts: Counts::default() }
    }

    /// The first sample that is counted is number `before` of all.
    #[must_use]
    pub fn after(self, before: usize) -> Tally {
        Tally { before, ..self }
    }

    /// With what was counted elsewhere.
    #[must_use]
    pub fn counted(self, counts: Counts) -> Tally {
        Tally { counts, ..self }
    }

    /// What was counted.
    pub fn into_counts(self) -> Counts {
        self.counts
    }

    /// Counts a batch: what the original gives, what the model gives, the labels of the samples.
    ///
    /// # Errors
    /// When the outputs do not fit the metric, the labels, or each other.
    pub fn add(&mut self, original: &Feed, model: &Feed, labels: Option<&[i64]>) -> Result<()> {
        let places = self.place.outputs(self.metric, original)?;
        let mut all: Vec<f64> = Vec::new();
        let outputs = places.len() as f64;
        for (name, a) in places {
            let Some((_, b)) = model.iter().find(|(n, _)| n == name) else {
                return Err(Error::Usage(format!("the model has no output {name:?} to compare with the original's")));
            };
            if a.dims != b.dims {
                return Err(Error::Usage(format!(
                    "output {name:?} has sizes {:?} in the original and {:?} now, so metric {} has nothing to compare; measure \
                     with --eval-command",
                    a.dims, b.dims, self.metric
                )));
            }
            let n = a.dims.first().copied().unwrap_or(1);
            let values = self.one(name, a, b, n, labels)?;
            all.resize(n, 0.0);
            if values.len() != all.len() {
                return Err(Error::Usage(format!("output {name:?} has another number of samples than the others")));
            }
            all.iter_mut().zip(values).for_each(|(all, v)| *all += v / outputs);
        }
        self.counts.samples.extend(all);
        Ok(())
    }

    /// The values of the samples for one output.
    fn one(&mut self, name: &str, a: &Array, b: &Array, n: usize, labels: Option<&[i64]>) -> Result<Vec<f64>> {
        if self.metric.needs_classes() {
            let axis = self.place.axis(&a.dims).ok_or_else(|| {
                Error::Usage(format!(
                    "output {name:?} of sizes {:?} has no axis of classes; say which with --class-axis",
                    a.dims
                ))
            })?;
            return self.by_class(name, a, b, axis, labels);
        }
        let (x, y) = (a.to_f64(), b.to_f64());
        self.counts.spread.add(&x);
        let per = (x.len() / n.max(1)).max(1);
        let pair = |(x, y): (&[f64], &[f64])| match self.metric {
            Metric::Cosine => cosine(x, y),
            _ => x.iter().zip(y).map(|(x, y)| (x - y) * (x - y)).sum::<f64>() / per as f64,
        };
        Ok(x.chunks_exact(per).zip(y.chunks_exact(per)).map(pair).collect())
    }

    fn by_class(&mut self, name: &str, a: &Array, b: &Array, axis: usize, labels: Option<&[i64]>) -> Result<Vec<f64>> {
        let (first, now) = (Scores::new(a, axis), Scores::new(b, axis));
        self.counts.single = first.classes == 1;
        if self.metric.needs_labels() {
            return self.by_label(name, &now, labels);
        }
        let mut out = Vec::with_capacity(first.samples);
        for s in 0..first.samples {
            let mut same = 0;
            for p in 0..first.positions {
                let (x, y) = (first.best(s, p), now.best(s, p));
                same += usize::from(x.is_some() && x == y);
                self.counts.answer(x);
                if self.metric == Metric::Iou {
                    self.counts.class(x, y);
                }
            }
            out.push(same as f64 / first.positions.max(1) as f64);
        }
        Ok(out)
    }

    fn by_label(&self, name: &str, now: &Scores, labels: Option<&[i64]>) -> Result<Vec<f64>> {
        let labels = labels.ok_or_else(|| {
            Error::Usage(format!("metric {} needs labels, and the data has none; agreement does without", self.metric))
        })?;
        if now.positions != 1 || labels.len() != now.samples {
            return Err(Error::Usage(format!(
                "output {name:?} has {} samples with {} positions each, but there are labels of {} samples; choose another \
                 --metric, or measure with --eval-command",
                now.samples,
                now.positions,
                labels.len()
            )));
        }
        let k = if self.metric == Metric::Top5 { 5 } else { 1 };
        let mut hits = Vec::with_capacity(labels.len());
        for (s, &label) in labels.iter().enumerate() {
            let class = usize::try_from(label).ok().filter(|&c| c < now.classes.max(2)).ok_or_else(|| {
                let (sample, classes) = (self.before + self.counts.samples.len() + s, now.classes);
                Error::Usage(format!(
                    "label {label} of sample {sample}: output {name:?} has {classes} classes, from 0 on"
                ))
            })?;
            hits.push(f64::from(u8::from(now.among(s, class, k))));
        }
        Ok(hits)
    }

    /// One value per sample, in order: what the score is the mean of.
    pub fn samples(&self) -> &[f64] {
        &self.counts.samples
    }

    /// Intersection over union per class, where any position has it; of a single score, of the yes alone.
    pub fn per_class(&self) -> Vec<Option<f64>> {
        let from = usize::from(self.counts.single);
        let share = |&(both, any): &(u64, u64)| (any > 0).then(|| both as f64 / any as f64);
        self.counts.classes.iter().enumerate().map(|(c, n)| if c < from { None } else { share(n) }).collect()
    }

    /// Why the figure says nothing, if so: a model that always gives one answer would do as well.
    pub fn says_nothing(&self) -> Option<String> {
        let compared = matches!(self.metric, Metric::Agreement | Metric::Iou) && !self.samples().is_empty();
        (compared && self.counts.answers.len() < 2).then(|| {
            format!(
                "{} says nothing here: the original gives the same class everywhere on this data, as a model that ignores its \
                 input would; take other data, or --metric cosine or mse",
                self.metric
            )
        })
    }

    /// The figure; `NaN` when nothing was counted.
    pub fn score(&self) -> f64 {
        let mean = self.samples().iter().sum::<f64>() / self.samples().len() as f64;
        match self.metric {
            Metric::Psnr if mean.is_finite() => {
                let range = self.counts.spread.range();
                if mean > 0.0 { (10.0 * (range * range / mean).log10()).min(MOST_PSNR) } else { MOST_PSNR }
            }
            Metric::Iou => {
                let present: Vec<f64> = self.per_class().into_iter().flatten().collect();
                // No position has any class in either.
                if present.is_empty() { mean } else { present.iter().sum::<f64>() / present.len() as f64 }
            }
            _ => mean,
        }
    }

    /// How much worse this is than the original with the figure `original`, in points: hundredths of the figure, of
    /// [`Metric::Mse`] hundredths of the variance of the original's outputs, of [`Metric::Psnr`] dB below 100.
    pub fn drop(&self, original: f64) -> f64 {
        match self.metric {
            Metric::Mse => {
                let variance = self.counts.spread.variance();
                if variance > 0.0 { 100.0 * self.score() / variance } else { self.score() }
            }
            Metric::Psnr => MOST_PSNR - self.score(),
            _ => 100.0 * (original - self.score()),
        }
    }
}

/// The cosine of the angle between two vectors; of two zeros 1, of one 0.
pub(super) fn cosine(x: &[f64], y: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let (xx, yy) = (dot(x, x), dot(y, y));
    match (xx > 0.0, yy > 0.0) {
        (false, false) => 1.0,
        (true, true) => dot(x, y) / (xx * yy).sqrt(),
        _ => 0.0,
    }
}

/// Scores of classes: `[samples][classes]` at each position.
pub struct Scores {
    values: Vec<f64>,
    /// Extent of the first axis.
    pub samples: usize,
    /// Extent of the axis of classes.
    pub classes: usize,
    /// All other axes together.
    pub positions: usize,
    /// Product of the extents between the first axis and that of the classes.
    before: usize,
    after: usize,
}

impl Scores {
    /// An output with its classes along `axis`, at least 1.
    pub fn new(a: &Array, axis: usize) -> Scores {
        let product = |d: Option<&[usize]>| d.unwrap_or_default().iter().product::<usize>();
        let (before, after) = (product(a.dims.get(1..axis)), product(a.dims.get(axis + 1..)));
        Scores {
            values: a.to_f64(),
            samples: a.dims.first().copied().unwrap_or(0),
            classes: a.dims.get(axis).copied().unwrap_or(0),
            positions: before * after,
            before,
            after,
        }
    }

    pub(super) fn at(&self, sample: usize, position: usize, class: usize) -> f64 {
        let (b, a) = (position / self.after.max(1), position % self.after.max(1));
        let i = ((sample * self.before + b) * self.classes + class) * self.after + a;
        self.values.get(i).copied().unwrap_or(f64::NAN)
    }

    /// The class with the highest score, the first of equals; of a single score 1 above one half and 0 below. `None` when no
    /// score is a number.
    pub fn best(&self, sample: usize, position: usize) -> Option<usize> {
        if self.classes == 1 {
            let v = self.at(sample, position, 0);
            return (!v.is_nan()).then(|| usize::from(v > YES));
        }
        let mut best: Option<(f64, usize)> = None;
        for c in 0..self.classes {
            let v = self.at(sample, position, c);
            if !v.is_nan() && best.is_none_or(|(b, _)| v > b) {
                best = Some((v, c));
            }
        }
        best.map(|b| b.1)
    }

    /// Whether fewer than `k` classes beat this one, at the first position; of equal scores the first counts as higher.
    pub fn among(&self, sample: usize, class: usize, k: usize) -> bool {
        if self.classes == 1 {
            return self.best(sample, 0) == Some(class);
        }
        let own = self.at(sample, 0, class);
        let beats = |c: usize| {
            let v = self.at(sample, 0, c);
            v > own || (v == own && c < class)
        };
        !own.is_nan() && (0..self.classes).filter(|&c| beats(c)).count() < k
    }
}

#[cfg(test)]
#[path = "metric_tests.rs"]
mod tests;
