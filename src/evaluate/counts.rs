//! What is counted of outputs, batch by batch, in forms that join: the counts of one stretch of batches and those of the next give
//! the counts of both, to the last bit, wherever the cut is. A run over all samples and the merge of its parts
//! ([`shard`](super::shard)) are therefore the same additions in the same order.
//!
//! Whole numbers, least and largest values and sets are joined as they are. Figures of samples are lists. Sums of floating-point
//! numbers are kept a batch at a time and added in the order of batches in the end.

use super::exact;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Range and moments of finite numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Spread {
    /// The least; infinite where there is none.
    #[serde(with = "exact::one")]
    #[schemars(with = "exact::Exact")]
    least: f64,
    /// The largest.
    #[serde(with = "exact::one")]
    #[schemars(with = "exact::Exact")]
    most: f64,
    /// A batch at a time: number, sum and sum of squares.
    #[serde(with = "exact::rows")]
    #[schemars(with = "Vec<[exact::Exact; 3]>")]
    parts: Vec<[f64; 3]>,
}

impl Default for Spread {
    fn default() -> Self {
        Spread { least: f64::INFINITY, most: f64::NEG_INFINITY, parts: Vec::new() }
    }
}

impl Spread {
    /// Counts a batch; what is not finite is passed over.
    pub fn add(&mut self, batch: &[f64]) {
        let mut part = [0.0; 3];
        for &v in batch.iter().filter(|v| v.is_finite()) {
            self.least = self.least.min(v);
            self.most = self.most.max(v);
            part = [part[0] + 1.0, part[1] + v, part[2] + v * v];
        }
        self.parts.push(part);
    }

    /// Goes on with what comes after.
    pub fn join(&mut self, after: Spread) {
        self.least = self.least.min(after.least);
        self.most = self.most.max(after.most);
        self.parts.extend(after.parts);
    }

    /// The largest less the least.
    pub fn range(&self) -> f64 {
        self.most - self.least
    }

    /// Mean square less the squared mean; below 0 only by rounding, NaN of nothing.
    pub fn variance(&self) -> f64 {
        let add = |[n, sum, squares]: [f64; 3], part: &[f64; 3]| [n + part[0], sum + part[1], squares + part[2]];
        let [n, sum, squares] = self.parts.iter().fold([0.0; 3], add);
        squares / n - (sum / n) * (sum / n)
    }
}

/// What one metric counts for one model (see [`Tally`](super::metric::Tally)).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Counts {
    /// Per sample; of `psnr` the squared error, of `iou` the agreement.
    #[serde(with = "exact::list")]
    #[schemars(with = "Vec<exact::Exact>")]
    pub samples: Vec<f64>,
    /// Per class: positions that both give to it, and that at least one does.
    pub classes: Vec<(u64, u64)>,
    /// Of the original's outputs.
    pub spread: Spread,
    /// The class axis has one score only, which is a yes or a no.
    pub single: bool,
    /// Classes that the original gives; two are enough to know.
    pub answers: BTreeSet<usize>,
}

impl Counts {
    /// Two are enough to know that there are several.
    const ENOUGH: usize = 2;

    /// Counts a position whose class is `x` by the original.
    pub fn answer(&mut self, x: Option<usize>) {
        if self.answers.len() < Self::ENOUGH {
            self.answers.extend(x);
        }
    }

    /// Counts a position by the classes that both models give it.
    pub fn class(&mut self, x: Option<usize>, y: Option<usize>) {
        let most = x.max(y).map_or(0, |m| m + 1);
        if self.classes.len() < most {
            self.classes.resize(most, (0, 0));
        }
        for c in [x, y.filter(|_| x != y)].into_iter().flatten() {
            if let Some((both, any)) = self.classes.get_mut(c) {
                *both += u64::from(x == y);
                *any += 1;
            }
        }
    }

    /// Goes on with what comes after.
    pub fn join(&mut self, after: Counts) {
        if !after.samples.is_empty() {
            self.single = after.single;
        }
        self.samples.extend(after.samples);
        if self.classes.len() < after.classes.len() {
            self.classes.resize(after.classes.len(), (0, 0));
        }
        for (sum, more) in self.classes.iter_mut().zip(&after.classes) {
            *sum = (sum.0.saturating_add(more.0), sum.1.saturating_add(more.1));
        }
        self.spread.join(after.spread);
        for class in after.answers {
            self.answer(Some(class));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wherever_the_cut_is_sums_are_the_same() {
        let batch = |k: usize| (0..7).map(|i| ((k * 7 + i) as f64 * 0.37).sin() * 1e3).collect::<Vec<_>>();
        let of = |range: std::ops::Range<usize>| {
            let mut c = Counts::default();
            for k in range {
                c.spread.add(&batch(k));
                c.samples.extend(batch(k));
                c.class(Some(k % 3), Some(k % 2));
                c.answer(Some(k));
            }
            c
        };
        let whole = of(0..9);
        for cut in 0..=9 {
            let mut first = of(0..cut);
            first.join(of(cut..9));
            assert_eq!(first.spread.variance().to_bits(), whole.spread.variance().to_bits());
            assert_eq!((&first.samples, &first.classes), (&whole.samples, &whole.classes));
            assert_eq!((first.spread.range(), first.answers.len()), (whole.spread.range(), 2));
        }
        assert!(Spread::default().variance().is_nan());
    }
}
