//! Magnitude: the norm of the weights that make and read a channel.

use super::slices::{norms_of, per_channel};
use super::{Aggregate, Criterion, Normalize, ScoreContext};
use crate::channels::{AxisId, Group, Role};
use crate::error::Result;

/// `l1` or `l2`.
///
/// The norm of a channel's slice at every site that makes it (filters, as in Li et al., "Pruning Filters for Efficient
/// ConvNets", 2017) or reads it (input channels of the next layers), put together by [`Aggregate`]. Each site's norms
/// are first divided by their mean over the group, so that a 3×3 layer does not drown a 1×1 layer or a classifier.
///
/// A group that no weight makes or reads uses its other parameters: those of rank 2 and more if there are any.
pub struct Norm {
    squares: bool,
}

/// Sum of magnitudes.
pub static L1: Norm = Norm { squares: false };
/// Euclidean norm.
pub static L2: Norm = Norm { squares: true };

impl Criterion for Norm {
    fn name(&self) -> &'static str {
        if self.squares { "l2" } else { "l1" }
    }

    fn about(&self) -> &'static str {
        if self.squares {
            "Euclidean norm of the weights that make and read the channel"
        } else {
            "sum of magnitudes of the weights that make and read the channel"
        }
    }

    fn score(&self, cx: &ScoreContext<'_>, group: &Group, aggregate: Aggregate) -> Result<Option<Vec<f64>>> {
        let axes = weight_axes(cx, group);
        let norms = norms_of(cx, axes.iter().copied())?;
        let mut sites = Vec::with_capacity(axes.len());
        for axis in axes {
            let Some(norms) = norms.get(&axis) else { continue };
            let mut site = per_channel(cx, group, axis, if self.squares { &norms.squared } else { &norms.l1 })?;
            if self.squares {
                site.iter_mut().for_each(|x| *x = x.sqrt());
            }
            Normalize::Mean.apply(&mut site);
            sites.push(site);
        }
        Ok(aggregate.combine(&sites))
    }

    fn needs_batch_norm(&self) -> bool {
        false
    }
}

/// The axes that carry a channel's magnitude, each once.
fn weight_axes(cx: &ScoreContext<'_>, group: &Group) -> Vec<AxisId> {
    let select = |wanted: &dyn Fn(Role, AxisId) -> bool| {
        let mut axes: Vec<_> = group.sites.iter().filter(|s| wanted(s.role, s.axis)).map(|s| s.axis).collect();
        axes.sort_unstable();
        axes.dedup();
        axes
    };
    let weights = select(&|role, _| matches!(role, Role::Producer | Role::Consumer));
    if !weights.is_empty() {
        return weights;
    }
    let matrices = select(&|_, axis| cx.params.dims(cx.channels.axis(axis).tensor).len() >= 2);
    if matrices.is_empty() { select(&|_, _| true) } else { matrices }
}
