//! What the models take each sample for.

use super::super::metric::{Metric, Scores, Where};
use super::observe::Samples;
use crate::runtime::Array;
use crate::runtime::walk::Feed;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Top-1 of one class.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct ClassScore {
    /// The label.
    pub class: i64,
    /// Samples with it.
    pub samples: u64,
    /// Share that the original has right.
    pub original: f64,
    /// Share that the pruned model has right.
    pub pruned: f64,
    /// `pruned − original`.
    pub difference: f64,
    /// Samples that only the pruned model has right.
    pub fixed: u64,
    /// Samples that only the original has right.
    pub broken: u64,
}

/// A mistake, and how often both models make it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Confusion {
    /// The right class.
    pub label: i64,
    /// The class that it is taken for.
    pub taken_for: usize,
    /// Samples of the original.
    pub original: u64,
    /// Samples of the pruned model.
    pub pruned: u64,
    /// `pruned − original`.
    pub change: i64,
}

/// A sample that the models take for different things.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Changed {
    /// Its position in the data, from 0.
    pub sample: usize,
    /// What it is called there.
    pub name: String,
    /// The right class, where there are labels.
    pub label: Option<i64>,
    /// The original's class; none when no score is a number.
    pub original: Option<usize>,
    /// The pruned model's.
    pub pruned: Option<usize>,
}

/// The class of each sample.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(super) struct Classes {
    /// The output that tells.
    output: String,
    axis: usize,
    /// The number of classes.
    pub count: usize,
    /// By the original and by the pruned model.
    pub taken: Vec<(Option<usize>, Option<usize>)>,
}

/// The output that is taken to have the classes, and their axis.
pub(super) fn taken<'a>(place: &Where, batch: &'a Feed) -> Option<(&'a str, &'a Array, usize)> {
    let (name, a) = place.outputs(Metric::Agreement, batch).ok()?.first().copied()?;
    Some((name, a, place.axis(&a.dims)?))
}

/// What to know of an output with several positions a sample.
pub(super) fn over_positions(place: &Where, batch: &Feed) -> Option<String> {
    let (name, a, axis) = taken(place, batch)?;
    let classes = a.dims.get(axis)?;
    Some(format!(
        "agreement is counted over all positions: output {name:?} {:?} is taken to have {classes} classes along axis {axis}; \
         --metric-output and --class-axis say otherwise",
        a.dims
    ))
}

impl Classes {
    /// Where an output has one class a sample; `samples` are in the batch.
    pub fn find(place: &Where, batch: &Feed, samples: usize) -> Option<Classes> {
        let (name, a, axis) = taken(place, batch)?;
        let scores = Scores::new(a, axis);
        (scores.positions == 1 && scores.samples == samples).then(|| Classes {
            output: name.to_owned(),
            axis,
            // One score is a yes or a no.
            count: scores.classes.max(2),
            taken: Vec::new(),
        })
    }

    /// Goes on with what comes after. Both are of the same output.
    pub fn join(&mut self, after: Classes) {
        self.taken.extend(after.taken);
    }

    /// Whether both are about the same output.
    pub fn alike(&self, other: &Classes) -> bool {
        (&self.output, self.axis, self.count) == (&other.output, other.axis, other.count)
    }

    pub fn add(&mut self, original: &Feed, pruned: &Feed) {
        let find = |feed: &Feed| feed.iter().find(|(n, _)| *n == self.output).map(|(_, a)| Scores::new(a, self.axis));
        let (Some(a), Some(b)) = (find(original), find(pruned)) else { return };
        self.taken.extend((0..a.samples).map(|s| (a.best(s, 0), b.best(s, 0))));
    }

    /// Per class: samples, right by the original, right by the pruned model, fixed, broken.
    pub fn per_class(&self, labels: &[i64]) -> Vec<ClassScore> {
        let mut counts: BTreeMap<i64, [u64; 5]> = BTreeMap::new();
        for (&label, &(a, b)) in labels.iter().zip(&self.taken) {
            let right = |class: Option<usize>| class.is_some_and(|c| i64::try_from(c) == Ok(label));
            let (a, b) = (right(a), right(b));
            let row = [true, a, b, b && !a, a && !b];
            let counts = counts.entry(label).or_default();
            counts.iter_mut().zip(row).for_each(|(n, x)| *n += u64::from(x));
        }
        let score = |(class, [samples, a, b, fixed, broken]): (i64, [u64; 5])| {
            let share = |n: u64| n as f64 / samples as f64;
            let difference = (b as f64 - a as f64) / samples as f64;
            ClassScore { class, samples, original: share(a), pruned: share(b), difference, fixed, broken }
        };
        counts.into_iter().map(score).collect()
    }

    pub fn confusions(&self, labels: &[i64]) -> Vec<Confusion> {
        let mut counts: BTreeMap<(i64, usize), (u64, u64)> = BTreeMap::new();
        for (&label, &(a, b)) in labels.iter().zip(&self.taken) {
            for (class, first) in [(a, true), (b, false)] {
                let Some(class) = class.filter(|&c| i64::try_from(c) != Ok(label)) else { continue };
                let n = counts.entry((label, class)).or_default();
                *(if first { &mut n.0 } else { &mut n.1 }) += 1;
            }
        }
        let all = counts.into_iter().map(|((label, taken_for), (original, pruned))| Confusion {
            label,
            taken_for,
            original,
            pruned,
            change: pruned as i64 - original as i64,
        });
        let mut all: Vec<Confusion> = all.filter(|c| c.change != 0).collect();
        // Stable: equal changes stay in order of classes.
        all.sort_by_key(|c| std::cmp::Reverse(c.change.unsigned_abs()));
        all
    }

    pub fn changed(&self, data: &Samples, labels: Option<&[i64]>) -> Vec<Changed> {
        let changed = self.taken.iter().enumerate().filter(|(_, (a, b))| a != b);
        let one = |(sample, &(original, pruned)): (usize, &(Option<usize>, Option<usize>))| Changed {
            sample,
            name: data.name(sample),
            label: labels.and_then(|l| l.get(sample).copied()),
            original,
            pruned,
        };
        changed.map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_and_mistakes_are_counted() {
        let taken = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 2), (1, 1)].map(|(a, b)| (Some(a), Some(b))).to_vec();
        let c = Classes { output: "y".into(), axis: 1, count: 3, taken };
        let labels = [0, 0, 0, 1, 1, 2];
        let per = c.per_class(&labels);
        assert_eq!(
            per.iter().map(|p| (p.class, p.samples, p.fixed, p.broken)).collect::<Vec<_>>(),
            [(0, 3, 1, 1), (1, 2, 0, 0), (2, 1, 0, 0)]
        );
        assert_eq!((per[0].original, per[0].pruned, per[0].difference), (2.0 / 3.0, 2.0 / 3.0, 0.0));
        // 0 is taken for 1 once by each, 1 for 2 by both, 2 for 1 by both: nothing changed in numbers.
        assert_eq!(c.confusions(&labels), []);
        let more = c.confusions(&[0, 0, 1, 1, 1, 2]);
        let rows: Vec<_> = more.iter().map(|m| (m.label, m.taken_for, m.original, m.pruned, m.change)).collect();
        assert_eq!(rows, [(0, 1, 0, 1, 1), (1, 0, 0, 1, 1)]);
    }
}
