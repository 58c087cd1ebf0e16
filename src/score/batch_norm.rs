//! Criteria that read a batch normalization: what is known about a channel's values without any data.
//!
//! A group with several batch normalizations puts their raw values together by [`Aggregate`]; a group without one is
//! left to other criteria.

use super::slices::{AxisNorms, misfit, norms_of, per_channel, sum_on};
use super::{Aggregate, Criterion, ScoreContext, finite};
use crate::channels::{AxisId, BatchNorm, Channel, Group, Role, TensorId};
use crate::error::{Error, Result};
use crate::ops::Activation;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// A number per channel of each batch normalization.
pub struct Statistic {
    name: &'static str,
    about: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Scale,
    Variance,
    Mean,
    Activation,
    Folded,
}

/// `|γ|`: Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", 2017.
pub static SCALE: Statistic =
    Statistic { name: "bn-scale", about: "|scale| of the batch normalization (network slimming)", kind: Kind::Scale };

/// Running variance: a channel that hardly varies says little about its input.
pub static VARIANCE: Statistic = Statistic {
    name: "bn-variance",
    about: "running variance of the channel before the batch normalization",
    kind: Kind::Variance,
};

/// `|running mean|`.
pub static MEAN: Statistic = Statistic {
    name: "bn-mean",
    about: "|running mean| of the channel before the batch normalization",
    kind: Kind::Mean,
};

/// `E[f(z)²]` for `z ~ N(β, γ²)` and the activation `f` that follows (identity where it is not known): the power that
/// the channel sends on. For ReLU `(β²+γ²)Φ(β/|γ|) + β|γ|φ(β/|γ|)`.
pub static ACTIVATION: Statistic = Statistic {
    name: "bn-activation",
    about: "expected square of the activation after the batch normalization",
    kind: Kind::Activation,
};

/// `|γ|/√(σ²+ε) · ‖w‖`: the norm of the filter once the batch normalization is folded into it. `‖w‖` counts as 1 where
/// the layer before the batch normalization is not known.
pub static FOLDED: Statistic = Statistic {
    name: "bn-folded",
    about: "norm of the filter with the batch normalization folded into it",
    kind: Kind::Folded,
};

impl Criterion for Statistic {
    fn name(&self) -> &'static str {
        self.name
    }

    fn about(&self) -> &'static str {
        self.about
    }

    fn score(&self, cx: &ScoreContext<'_>, group: &Group, aggregate: Aggregate) -> Result<Option<Vec<f64>>> {
        let producers = match self.kind {
            Kind::Folded => norms_of(cx, group.batch_norms.iter().filter_map(|bn| bn.producer))?,
            _ => BTreeMap::new(),
        };
        let all: Result<Vec<_>> = group
            .batch_norms
            .iter()
            .map(|bn| match self.kind {
                Kind::Scale => magnitudes(cx, group, bn, bn.scale),
                Kind::Mean => magnitudes(cx, group, bn, bn.mean),
                Kind::Variance => magnitudes(cx, group, bn, bn.var),
                Kind::Activation => {
                    let powers: Vec<f64> = moments(cx, bn)?.into_iter().map(|(_, power)| power).collect();
                    per_channel(cx, group, bn.axis, &powers)
                }
                Kind::Folded => folded(cx, group, bn, &producers),
            })
            .collect();
        Ok(aggregate.combine(&all?))
    }

    fn needs_batch_norm(&self) -> bool {
        true
    }
}

/// `output-error`: what the next layers' outputs lose when the channel goes and its mean is absorbed into their bias.
///
/// `Var[f(z)] · Σ_consumers ‖W[:,j]‖²` with `z ~ N(β, γ²)` and `Var = E[f(z)²] − E[f(z)]²`. A channel with
/// several indices counts the mean of their variances.
pub struct OutputError;

impl Criterion for OutputError {
    fn name(&self) -> &'static str {
        "output-error"
    }

    fn about(&self) -> &'static str {
        "expected error of the next layers after the channel's mean is absorbed into their bias"
    }

    fn score(&self, cx: &ScoreContext<'_>, group: &Group, aggregate: Aggregate) -> Result<Option<Vec<f64>>> {
        let consumers = group.sites.iter().filter(|site| site.role == Role::Consumer).map(|site| site.axis);
        if group.batch_norms.is_empty() || consumers.clone().next().is_none() {
            return Ok(None);
        }
        let norms = norms_of(cx, consumers.clone())?;
        let mut energy = vec![0.0; group.channels.len()];
        // One summand a reader, also where readers share a weight.
        for axis in consumers {
            let Some(norms) = norms.get(&axis) else { continue };
            let site = per_channel(cx, group, axis, &norms.squared)?;
            energy.iter_mut().zip(site).for_each(|(all, x)| *all += x);
        }
        let all: Result<Vec<_>> = group
            .batch_norms
            .iter()
            .map(|bn| {
                let moments = moments(cx, bn)?;
                let variances: Vec<f64> =
                    moments.into_iter().map(|(mean, power)| (power - mean * mean).max(0.0)).collect();
                let channels = group.channels.iter().zip(&energy);
                channels
                    .map(|(channel, energy)| {
                        let indices = channel.on(bn.axis).count().max(1) as f64;
                        Ok(sum_on(cx, channel, bn.axis, &variances)? / indices * energy)
                    })
                    .collect()
            })
            .collect();
        Ok(aggregate.combine(&all?))
    }

    fn needs_batch_norm(&self) -> bool {
        true
    }
}

/// The values of one parameter of a batch normalization.
fn parameter<'a>(cx: &ScoreContext<'a>, bn: &BatchNorm, tensor: TensorId) -> Result<Cow<'a, [f32]>> {
    let values = cx.params.values(tensor)?;
    if values.len() != cx.channels.axis(bn.axis).len {
        return Err(misfit(cx, bn.axis));
    }
    if values.iter().any(|x| !x.is_finite()) {
        finite(cx, tensor, &[f64::NAN])?;
    }
    Ok(values)
}

/// `Σ |x|` of one parameter over each channel's indices.
fn magnitudes(cx: &ScoreContext<'_>, group: &Group, bn: &BatchNorm, tensor: TensorId) -> Result<Vec<f64>> {
    let magnitudes: Vec<f64> = parameter(cx, bn, tensor)?.iter().map(|&x| f64::from(x).abs()).collect();
    per_channel(cx, group, bn.axis, &magnitudes)
}

/// Per index, `(E[f(z)], E[f(z)²])`.
fn moments(cx: &ScoreContext<'_>, bn: &BatchNorm) -> Result<Vec<(f64, f64)>> {
    let (scale, shift) = (parameter(cx, bn, bn.scale)?, parameter(cx, bn, bn.shift)?);
    let moments = scale.iter().zip(shift.iter()).map(|(&scale, &shift)| {
        let (mean, std) = (f64::from(shift), f64::from(scale));
        bn.activation.moments(mean, std).or_else(|| Activation::Identity.moments(mean, std)).unwrap_or((0.0, 0.0))
    });
    Ok(moments.collect())
}

/// Per channel, the norm of the folded filters of all its indices.
fn folded(
    cx: &ScoreContext<'_>,
    group: &Group,
    bn: &BatchNorm,
    producers: &BTreeMap<AxisId, AxisNorms>,
) -> Result<Vec<f64>> {
    let (scale, variance) = (parameter(cx, bn, bn.scale)?, parameter(cx, bn, bn.var)?);
    let mut gains = Vec::with_capacity(scale.len());
    for (&scale, &variance) in scale.iter().zip(variance.iter()) {
        let spread = f64::from(variance) + bn.epsilon;
        if spread <= 0.0 {
            let key = &cx.channels.tensor(bn.var).key;
            return Err(Error::Usage(format!("variance {key:?} of a batch normalization is not above zero")));
        }
        gains.push(f64::from(scale).powi(2) / spread);
    }
    let filters = bn.producer.and_then(|axis| Some((axis, producers.get(&axis)?)));
    let square = |channel: &Channel| match filters {
        None => sum_on(cx, channel, bn.axis, &gains),
        // The layer feeds the batch normalization directly: a channel's indices on both axes correspond in order.
        Some((axis, norms)) => channel
            .on(bn.axis)
            .zip(channel.on(axis))
            .map(|(at, filter)| match (gains.get(at), norms.squared.get(filter)) {
                (Some(gain), Some(squared)) => Ok(gain * squared),
                _ => Err(misfit(cx, axis)),
            })
            .sum(),
    };
    group.channels.iter().map(|channel| Ok(square(channel)?.sqrt())).collect()
}
