//! How important each channel of a group is.
//!
//! A [`Criterion`] reads parameters through [`ParamReader`] and the traced [`Channels`]; it knows neither protobuf nor
//! operators. [`score_all`] runs one criterion or a weighted combination over all groups and makes the groups
//! comparable. Low scores go first.

mod activation;
mod batch_norm;
mod criteria;
mod fpgm;
mod norm;
mod random;
pub mod slices;
mod spec;
#[cfg(test)]
mod tests;

pub use criteria::Criteria;
pub use spec::{Aggregate, CriterionSpec, Normalize};

use crate::calibrate::activations::Activations;
use crate::channels::{Channels, Group, TensorId};
use crate::error::{Error, Result};
use rayon::prelude::*;
use std::borrow::Cow;

/// Where parameter values come from.
pub trait ParamReader: Sync {
    /// The stored dimensions.
    fn dims(&self, tensor: TensorId) -> &[usize];

    /// The values, row-major in the stored dimensions (axis 1 of a grouped convolution's weight stays folded).
    ///
    /// # Errors
    /// When the data cannot be read as floating-point numbers.
    fn values(&self, tensor: TensorId) -> Result<Cow<'_, [f32]>>;
}

/// What a criterion may look at.
#[derive(Clone, Copy)]
pub struct ScoreContext<'a> {
    /// The trace.
    pub channels: &'a Channels,
    /// Parameter values.
    pub params: &'a dyn ParamReader,
    /// Seed of everything random.
    pub seed: u64,
    /// What channels carry on calibration data, where a criterion asks for it.
    pub activations: Option<&'a Activations>,
    /// The criteria that names stand for.
    pub criteria: &'a Criteria,
}

/// A way to tell important channels from unimportant ones.
///
/// One of your own is added with [`Criteria::with`], where there is an example that needs no weights. `examples/extend.rs` has one that reads
/// them through [`ScoreContext::params`].
pub trait Criterion: Send + Sync {
    /// Its name on the command line.
    fn name(&self) -> &str;

    /// One line for the help text.
    fn about(&self) -> &str;

    /// The importance (≥ 0) of each channel, `None` when the criterion does not apply to this group.
    ///
    /// # Errors
    /// When a parameter cannot be read or is not finite.
    fn score(&self, cx: &ScoreContext<'_>, group: &Group, aggregate: Aggregate) -> Result<Option<Vec<f64>>>;

    /// Whether it only applies to groups with a batch normalization.
    fn needs_batch_norm(&self) -> bool {
        false
    }

    /// Whether it needs calibration data.
    fn needs_data(&self) -> bool {
        false
    }
}

/// All criteria, in the order of the help text.
pub static CRITERIA: &[&dyn Criterion] = &[
    &batch_norm::SCALE,
    &batch_norm::VARIANCE,
    &batch_norm::MEAN,
    &batch_norm::ACTIVATION,
    &batch_norm::FOLDED,
    &batch_norm::OutputError,
    &norm::L1,
    &norm::L2,
    &fpgm::Fpgm,
    &activation::MEAN,
    &activation::RMS,
    &activation::VARIANCE,
    &activation::APOZ,
    &activation::OBS,
    &activation::OBS_LOCAL,
    &activation::SENSITIVITY,
    &random::Random,
];

/// The result of [`score_all`].
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// `values[group][channel]`: finite, normalised, ready for a global ranking.
    pub values: Vec<Vec<f64>>,
    /// Per group, the criteria that were actually used (a [`CriterionSpec`]).
    pub used: Vec<String>,
    /// Groups where a batch-normalization criterion that was asked for did not apply.
    pub fallback_groups: usize,
}

/// Scores every channel of every group.
///
/// In a combination each part is normalised first (by its mean under [`Normalize::None`]), then the weighted mean is
/// taken over the parts that apply to the group. Where none applies, `fallback` takes the place of `spec`. The result
/// depends neither on the number of threads nor on the order of the groups.
///
/// # Errors
/// [`Error::Usage`] for an unknown criterion, for a parameter with values that are not finite (naming the tensor), and
/// for a group to which nothing applies.
pub fn score_all(
    cx: &ScoreContext<'_>,
    spec: &CriterionSpec,
    fallback: &CriterionSpec,
    aggregate: Aggregate,
    normalize: Normalize,
) -> Result<Scores> {
    // Collected before the first error is looked for, so that it is always the same one.
    let groups: Vec<Result<_>> = cx
        .channels
        .groups
        .par_iter()
        .map(|group| {
            let (scored, missed) = combination(cx, group, spec, aggregate, normalize)?;
            let scored = match scored {
                Some(scored) => Some(scored),
                None => combination(cx, group, fallback, aggregate, normalize)?.0,
            };
            let (values, used) = scored.ok_or_else(|| {
                Error::Usage(format!(
                    "neither criterion {spec} nor the fallback {fallback} applies to {:?}; random always does",
                    group.name
                ))
            })?;
            Ok((values, used, missed))
        })
        .collect();
    let mut scores = Scores { values: Vec::new(), used: Vec::new(), fallback_groups: 0 };
    for group in groups {
        let (values, used, missed) = group?;
        scores.values.push(values);
        scores.used.push(used);
        scores.fallback_groups += usize::from(missed);
    }
    Ok(scores)
}

/// A group's scores and the criteria they are made of.
type Scored = (Vec<f64>, String);

/// The scores if any part applies, and whether a batch-normalization part did not.
fn combination(
    cx: &ScoreContext<'_>,
    group: &Group,
    spec: &CriterionSpec,
    aggregate: Aggregate,
    normalize: Normalize,
) -> Result<(Option<Scored>, bool)> {
    let normalize = match normalize {
        Normalize::None if spec.parts.len() > 1 => Normalize::Mean,
        other => other,
    };
    let mut total = vec![0.0; group.channels.len()];
    let mut used = CriterionSpec { parts: Vec::new() };
    let mut missed = false;
    for (name, weight) in &spec.parts {
        let criterion = cx.criteria.get(name)?;
        let Some(mut values) = criterion.score(cx, group, aggregate)? else {
            missed |= criterion.needs_batch_norm();
            continue;
        };
        normalize.apply(&mut values);
        if values.len() != total.len() || values.iter().any(|x| !x.is_finite()) {
            return Err(Error::Usage(format!("criterion {name} gives {:?} no finite scores", group.name)));
        }
        // A single part stays as it is, to the last bit.
        let weight = if spec.parts.len() == 1 { 1.0 } else { *weight };
        total.iter_mut().zip(&values).for_each(|(total, x)| *total += weight * x);
        used.parts.push((name.clone(), weight));
    }
    let weights: f64 = used.parts.iter().map(|(_, weight)| weight).sum();
    total.iter_mut().for_each(|x| *x /= weights);
    if let [(_, weight)] = used.parts.as_mut_slice() {
        *weight = 1.0;
    }
    Ok(((!used.parts.is_empty()).then(|| (total, used.to_string())), missed))
}

/// Refuses sums over a parameter that are not finite.
fn finite(cx: &ScoreContext<'_>, tensor: TensorId, sums: &[f64]) -> Result<()> {
    if sums.iter().all(|x| x.is_finite()) {
        return Ok(());
    }
    let key = &cx.channels.tensor(tensor).key;
    Err(Error::Usage(format!("parameter {key:?} holds values that are not finite; channels cannot be ranked by them")))
}
