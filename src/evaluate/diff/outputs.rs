//! Outputs against outputs, without labels.

use super::super::counts::Spread;
use super::super::exact;
use super::super::metric::{MOST_PSNR, Metric, Scores, Where, cosine};
use super::classes::Classes;
use super::observe::Samples;
use crate::runtime::Array;
use crate::runtime::walk::Feed;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Worst samples that are told.
const WORST: usize = 20;
/// Probabilities that the pruned model gives are not taken to be smaller, so that the divergence stays finite.
const LEAST: f64 = 1e-12;
/// Sums of probabilities may be off by this much.
const ROUNDING: f64 = 1e-3;

/// How one graph output differs. Means are over samples.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct OutputDiff {
    /// Its name.
    pub name: String,
    /// Its sizes in the original, in the first batch.
    pub shape: Vec<usize>,
    /// Its sizes in the pruned model, where they are others.
    pub shape_pruned: Option<Vec<usize>>,
    /// Batches in which both have the same sizes; only they are compared.
    pub batches: usize,
    /// The first axis counts samples; else each batch is taken as one sample.
    pub per_sample: bool,
    /// Share of elements that are exactly equal.
    pub equal: f64,
    /// Mean cosine of the angle between a sample's outputs and the original's.
    pub cosine: f64,
    /// Kullback–Leibler divergence; only of the output that has the classes.
    pub kl: Option<Kl>,
    /// Mean squared difference.
    pub mse: f64,
    /// [`mse`](Self::mse) over the variance of the original's elements; `null` when they are all the same.
    pub relative_mse: Option<f64>,
    /// Peak signal-to-noise ratio in dB, the peak being the original's range; 100 for equal outputs.
    pub psnr: f64,
    /// Largest absolute difference of any element.
    pub max_delta: f64,
    /// The root mean squared difference of a sample, in the output's unit: its distribution over samples.
    pub error: Quantiles,
}

/// Mean over samples and positions of Σ p·ln(p/q), p by the original and q by the pruned model, in nats.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Kl {
    /// The divergence.
    pub mean: f64,
    /// The scores are no probabilities in the model, so their softmax was taken.
    pub softmax: bool,
}

/// Quantiles, interpolated linearly between ranks (Hyndman and Fan's type 7, as NumPy does).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
#[allow(missing_docs)]
pub struct Quantiles {
    pub min: f64,
    pub q25: f64,
    pub median: f64,
    pub q75: f64,
    pub q90: f64,
    pub q99: f64,
    pub max: f64,
}

impl Quantiles {
    fn of(values: &[f64]) -> Quantiles {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |q: f64| {
            let place = q * sorted.len().saturating_sub(1) as f64;
            let low = sorted.get(place.floor() as usize).copied().unwrap_or(f64::NAN);
            let high = sorted.get(place.ceil() as usize).copied().unwrap_or(low);
            if low == high { low } else { low + (high - low) * place.fract() }
        };
        Quantiles {
            min: at(0.0),
            q25: at(0.25),
            median: at(0.5),
            q75: at(0.75),
            q90: at(0.9),
            q99: at(0.99),
            max: at(1.0),
        }
    }
}

/// A sample whose outputs differ much.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Worst {
    /// Its position in the data, from 0.
    pub sample: usize,
    /// What it is called there.
    pub name: String,
    /// Square root of the mean over floating-point outputs of the sample's mean squared difference over the variance of the
    /// original's output.
    pub error: f64,
    /// The right class, where there are labels.
    pub label: Option<i64>,
    /// The original's class, where an output has classes.
    pub original: Option<usize>,
    /// The pruned model's.
    pub pruned: Option<usize>,
}

/// One output, counted batch by batch.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(super) struct OutputTally {
    /// Its name, sizes in the first batch of all, classes and kind: the same whatever is counted here.
    head: Head,
    /// The pruned model's sizes, where they are others for the first time.
    shape_pruned: Option<Vec<usize>>,
    /// Batches that are compared.
    batches: usize,
    /// Batches of other sizes.
    skipped: usize,
    per_sample: bool,
    elements: u64,
    equal: u64,
    /// Elements that are not finite in either model, unless equal.
    odd: u64,
    /// Elements that are no number in both, which counts as equal.
    nan: u64,
    /// Mean squared difference of each sample.
    #[serde(with = "exact::list")]
    #[schemars(with = "Vec<exact::Exact>")]
    mse: Vec<f64>,
    /// Cosine of each sample.
    #[serde(with = "exact::list")]
    #[schemars(with = "Vec<exact::Exact>")]
    cosine: Vec<f64>,
    /// Divergence of each sample with the scores as they are.
    #[serde(with = "exact::list")]
    #[schemars(with = "Vec<exact::Exact>")]
    kl_plain: Vec<f64>,
    /// The same of their softmax.
    #[serde(with = "exact::list")]
    #[schemars(with = "Vec<exact::Exact>")]
    kl_softmax: Vec<f64>,
    /// All scores so far are probabilities.
    probabilities: bool,
    /// Largest absolute difference; no number once one is none.
    #[serde(with = "exact::one")]
    #[schemars(with = "exact::Exact")]
    max_delta: f64,
    /// Of the original's finite elements.
    spread: Spread,
}

/// What the first batch of all says of an output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(super) struct Head {
    pub name: String,
    shape: Vec<usize>,
    /// Where its classes are.
    axis: Option<usize>,
    integer: bool,
}

/// The larger of two differences; once one is no number it stays so.
fn larger(so_far: f64, next: f64) -> f64 {
    if next > so_far || next.is_nan() {
        return if so_far.is_nan() { so_far } else { next };
    }
    so_far
}

impl OutputTally {
    /// One for each output.
    pub fn all(batch: &Feed, place: &Where) -> Vec<OutputTally> {
        let classes = place.outputs(Metric::Agreement, batch).ok().and_then(|o| o.first().map(|(n, _)| n.clone()));
        let one = |(name, a): &(String, Array)| OutputTally {
            head: Head {
                name: name.clone(),
                shape: a.dims.clone(),
                axis: place.axis(&a.dims).filter(|_| classes.as_ref() == Some(name)),
                integer: a.data.is_integer(),
            },
            shape_pruned: None,
            batches: 0,
            skipped: 0,
            per_sample: true,
            elements: 0,
            equal: 0,
            odd: 0,
            nan: 0,
            mse: Vec::new(),
            cosine: Vec::new(),
            kl_plain: Vec::new(),
            kl_softmax: Vec::new(),
            probabilities: true,
            max_delta: 0.0,
            spread: Spread::default(),
        };
        batch.iter().map(one).collect()
    }

    pub fn add(&mut self, original: &Feed, pruned: &Feed, samples: usize) {
        let find = |feed: &'_ Feed| feed.iter().position(|(n, _)| *n == self.head.name);
        let a = find(original).and_then(|i| original.get(i));
        let b = find(pruned).and_then(|i| pruned.get(i));
        let (Some((_, a)), Some((_, b))) = (a, b) else { return };
        if a.dims != b.dims {
            self.skipped += 1;
            self.shape_pruned.get_or_insert_with(|| b.dims.clone());
            return;
        }
        self.batches += 1;
        // A batch of one is that sample, whatever its axes count.
        let rows = samples == 1 || a.dims.first() == Some(&samples);
        self.per_sample &= rows;
        let parts = if rows { samples } else { 1 };
        if let Some(axis) = self.head.axis {
            self.divergence(&Scores::new(a, axis), &Scores::new(b, axis));
        }
        let (x, y) = (a.to_f64(), b.to_f64());
        self.spread.add(&x);
        let per = (x.len() / parts.max(1)).max(1);
        for (x, y) in x.chunks(per).zip(y.chunks(per)) {
            let mut sum = 0.0;
            for (&x, &y) in x.iter().zip(y) {
                let nan = x.is_nan() && y.is_nan();
                let same = nan || x == y;
                self.nan += u64::from(nan);
                self.elements += 1;
                self.equal += u64::from(same);
                self.odd += u64::from(!same && !(x - y).is_finite());
                let delta = if same { 0.0 } else { (x - y).abs() };
                sum += delta * delta;
                self.max_delta = larger(self.max_delta, delta);
            }
            self.mse.push(sum / x.len().max(1) as f64);
            self.cosine.push(cosine(x, y));
        }
    }

    /// The divergence of each sample, both ways to read scores.
    fn divergence(&mut self, a: &Scores, b: &Scores) {
        if a.classes < 2 {
            return;
        }
        let mut p = vec![0.0; a.classes];
        let mut q = vec![0.0; a.classes];
        for s in 0..a.samples {
            let (mut plain, mut soft) = (0.0, 0.0);
            for at in 0..a.positions {
                p.iter_mut().enumerate().for_each(|(c, p)| *p = a.at(s, at, c));
                q.iter_mut().enumerate().for_each(|(c, q)| *q = b.at(s, at, c));
                self.probabilities &= are_probabilities(&p) && are_probabilities(&q);
                if self.probabilities {
                    let term = |(&p, &q): (&f64, &f64)| if p > 0.0 { p * (p / q.max(LEAST)).ln() } else { 0.0 };
                    plain += p.iter().zip(&q).map(term).sum::<f64>();
                }
                soft += of_softmax(&p, &q);
            }
            let n = a.positions.max(1) as f64;
            self.kl_plain.push(plain / n);
            self.kl_softmax.push(soft / n);
        }
    }

    fn variance(&self) -> f64 {
        self.spread.variance().max(0.0)
    }

    /// What is the same for every stretch of batches.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Batches that were compared.
    pub fn compared(&self) -> usize {
        self.batches
    }

    /// Goes on with what comes after.
    pub fn join(&mut self, after: OutputTally) {
        self.shape_pruned = self.shape_pruned.take().or(after.shape_pruned);
        self.batches += after.batches;
        self.skipped += after.skipped;
        self.per_sample &= after.per_sample;
        self.elements += after.elements;
        self.equal += after.equal;
        self.odd += after.odd;
        self.nan += after.nan;
        self.mse.extend(after.mse);
        self.cosine.extend(after.cosine);
        self.kl_plain.extend(after.kl_plain);
        self.kl_softmax.extend(after.kl_softmax);
        self.probabilities &= after.probabilities;
        self.max_delta = larger(self.max_delta, after.max_delta);
        self.spread.join(after.spread);
    }

    pub fn is_identical(&self) -> bool {
        self.skipped == 0 && self.equal == self.elements
    }

    pub fn note(&self) -> Option<String> {
        let (name, a) = (&self.head.name, &self.head.shape);
        if let Some(b) = &self.shape_pruned {
            return Some(format!(
                "output {name:?} has other sizes in the pruned model in {} of {} batches (such as {a:?} and {b:?}), which are \
                 left out",
                self.skipped,
                self.skipped + self.batches
            ));
        }
        let (odd, nan) = (self.odd, self.nan);
        if odd == 0 && nan > 0 {
            return Some(format!("output {name:?}: {nan} elements are no numbers in both models, and count as equal"));
        }
        (odd > 0).then(|| {
            format!("output {name:?}: {odd} elements differ and are not finite in one of the models, so means are not either")
        })
    }

    pub fn finish(&self) -> OutputDiff {
        let mse = mean(&self.mse);
        let range = self.spread.range();
        let psnr = if mse > 0.0 { (10.0 * (range * range / mse).log10()).min(MOST_PSNR) } else { MOST_PSNR };
        let variance = self.variance();
        let kl = if self.probabilities { &self.kl_plain } else { &self.kl_softmax };
        let errors: Vec<f64> = self.mse.iter().map(|x| x.sqrt()).collect();
        OutputDiff {
            name: self.head.name.clone(),
            shape: self.head.shape.clone(),
            shape_pruned: self.shape_pruned.clone(),
            batches: self.batches,
            per_sample: self.per_sample,
            equal: self.equal as f64 / self.elements as f64,
            cosine: mean(&self.cosine),
            kl: (!kl.is_empty()).then(|| Kl { mean: mean(kl), softmax: !self.probabilities }),
            mse,
            relative_mse: (variance > 0.0).then(|| mse / variance),
            psnr: if mse.is_nan() { f64::NAN } else { psnr },
            max_delta: self.max_delta,
            error: Quantiles::of(&errors),
        }
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn are_probabilities(p: &[f64]) -> bool {
    p.iter().all(|x| (0.0..=1.0 + ROUNDING).contains(x)) && (p.iter().sum::<f64>() - 1.0).abs() < ROUNDING
}

/// The divergence of the softmax of two lists of scores.
fn of_softmax(a: &[f64], b: &[f64]) -> f64 {
    let log_sum = |v: &[f64]| {
        let most = v.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        most + v.iter().map(|x| (x - most).exp()).sum::<f64>().ln()
    };
    let (x, y) = (log_sum(a), log_sum(b));
    let term = |(&a, &b): (&f64, &f64)| {
        let p = (a - x).exp();
        if p == 0.0 { 0.0 } else { p * ((a - x) - (b - y).max(f64::MIN_POSITIVE.ln())) }
    };
    a.iter().zip(b).map(term).sum::<f64>()
}

/// The samples with the largest errors, those with differences only.
pub(super) fn worst(
    tallies: &[OutputTally],
    data: &Samples,
    classes: Option<&Classes>,
    labels: Option<&[i64]>,
) -> Vec<Worst> {
    let fit = |t: &&OutputTally| t.per_sample && !t.head.integer && t.mse.len() == data.len() && t.variance() > 0.0;
    let tallies: Vec<&OutputTally> = tallies.iter().filter(fit).collect();
    let relative = |s: usize| {
        let all = tallies.iter().filter_map(|t| t.mse.get(s).map(|e| e / t.variance()));
        (all.sum::<f64>() / tallies.len() as f64).sqrt()
    };
    let mut errors: Vec<(usize, f64)> = (0..data.len()).map(|s| (s, relative(s))).collect();
    // What is no number is worse than any.
    errors.retain(|(_, e)| !tallies.is_empty() && (*e > 0.0 || e.is_nan()));
    errors.sort_by(|a, b| b.1.is_nan().cmp(&a.1.is_nan()).then(b.1.total_cmp(&a.1)).then(a.0.cmp(&b.0)));
    let one = |(sample, error): (usize, f64)| {
        let taken = classes.and_then(|c| c.taken.get(sample));
        Worst {
            sample,
            name: data.name(sample),
            error,
            label: labels.and_then(|l| l.get(sample).copied()),
            original: taken.and_then(|t| t.0),
            pruned: taken.and_then(|t| t.1),
        }
    };
    errors.into_iter().take(WORST).map(one).collect()
}

#[cfg(test)]
#[path = "outputs_tests.rs"]
mod tests;
