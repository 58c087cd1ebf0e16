//! Norms of a parameter's slices, one per index of an axis, in one pass over the data.

use super::{ScoreContext, finite};
use crate::channels::{AxisId, Channel, Group, TensorId};
use crate::error::{Error, Result};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// How the indices of one axis lie in a row-major tensor.
///
/// The axis may be folded (see [`crate::channels::Axis::fold`]): stored position `j` in the b-th of `fold` equal blocks
/// of dimension 0 is index `b · stored + j`.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Product of the dimensions before the axis.
    outer: usize,
    /// Stored length of the axis.
    stored: usize,
    /// Product of the dimensions after the axis.
    inner: usize,
    /// Number of blocks.
    fold: usize,
}

impl Layout {
    /// The layout of `axis`, `None` when the tensor has no such axis or dimension 0 does not divide into `fold` blocks.
    pub fn new(dims: &[usize], axis: usize, fold: usize) -> Option<Self> {
        let stored = *dims.get(axis)?;
        let layout =
            Self { outer: dims[..axis].iter().product(), stored, inner: dims[axis + 1..].iter().product(), fold };
        let divides = fold == 1 || (axis > 0 && fold > 1 && dims[0].is_multiple_of(fold));
        divides.then_some(layout)
    }

    /// Number of indices, unfolded.
    pub fn len(&self) -> usize {
        self.stored * self.fold
    }

    /// Whether there is no index.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of elements of the tensor.
    pub fn elements(&self) -> usize {
        self.outer * self.stored * self.inner
    }

    /// The contiguous runs of `values` that make up the slice at `index`, in memory order; `None` out of range.
    pub fn runs<'a>(&self, values: &'a [f32], index: usize) -> Option<impl Iterator<Item = &'a [f32]> + use<'a>> {
        let Self { outer, stored, inner, fold } = *self;
        if index >= self.len() || values.len() != self.elements() {
            return None;
        }
        let (block, at, rows) = (index / stored, index % stored, outer / fold);
        Some((block * rows..(block + 1) * rows).map(move |row| &values[(row * stored + at) * inner..][..inner]))
    }
}

/// What the slices of one axis weigh, per index.
#[derive(Clone, Debug, PartialEq)]
pub struct AxisNorms {
    /// `Σ |w|`.
    pub l1: Vec<f64>,
    /// `Σ w²`.
    pub squared: Vec<f64>,
}

impl AxisNorms {
    /// The norms of all slices; `None` when `values` is not of that layout.
    pub fn new(layout: Layout, values: &[f32]) -> Option<Self> {
        let Layout { outer, stored, inner, fold } = layout;
        let mut norms = Self { l1: vec![0.0; layout.len()], squared: vec![0.0; layout.len()] };
        if values.len() != layout.elements() {
            return None;
        }
        if values.is_empty() {
            return Some(norms);
        }
        let blocks = norms.l1.chunks_exact_mut(stored).zip(norms.squared.chunks_exact_mut(stored));
        for ((l1, squared), block) in blocks.zip(values.chunks_exact(outer / fold * stored * inner)) {
            for row in block.chunks_exact(stored * inner) {
                for ((l1, squared), run) in l1.iter_mut().zip(squared.iter_mut()).zip(row.chunks_exact(inner)) {
                    let sums = run_norms(run);
                    *l1 += sums.0;
                    *squared += sums.1;
                }
            }
        }
        Some(norms)
    }
}

/// `(Σ |w|, Σ w²)` in eight independent sums, which the compiler turns into vectors.
fn run_norms(run: &[f32]) -> (f64, f64) {
    if let &[w] = run {
        let w = f64::from(w);
        return (w.abs(), w * w);
    }
    let (chunks, rest) = run.as_chunks::<4>();
    let (mut l1, mut squared) = ([0.0f64; 4], [0.0f64; 4]);
    for chunk in chunks {
        for lane in 0..4 {
            let w = f64::from(chunk[lane]);
            l1[lane] += w.abs();
            squared[lane] += w * w;
        }
    }
    let mut sums = (l1.iter().sum::<f64>(), squared.iter().sum::<f64>());
    for &w in rest {
        let w = f64::from(w);
        sums = (sums.0 + w.abs(), sums.1 + w * w);
    }
    sums
}

/// The norms of several parameter axes, each tensor read once.
///
/// # Errors
/// [`Error::Usage`] with the tensor's key for values that are not finite.
pub fn norms_of(cx: &ScoreContext<'_>, axes: impl IntoIterator<Item = AxisId>) -> Result<BTreeMap<AxisId, AxisNorms>> {
    let mut by_tensor: BTreeMap<TensorId, Vec<AxisId>> = BTreeMap::new();
    for axis in axes {
        let axes = by_tensor.entry(cx.channels.axis(axis).tensor).or_default();
        if !axes.contains(&axis) {
            axes.push(axis);
        }
    }
    let mut all = BTreeMap::new();
    for axes in by_tensor.into_values() {
        let mut values: Option<Cow<'_, [f32]>> = None;
        for id in axes {
            let layout = layout_of(cx, id)?;
            let tensor = cx.channels.axis(id).tensor;
            let values = match &values {
                Some(values) => values,
                None => values.insert(cx.params.values(tensor)?),
            };
            let norms = AxisNorms::new(layout, values).ok_or_else(|| misfit(cx, id))?;
            finite(cx, tensor, &norms.l1)?;
            all.insert(id, norms);
        }
    }
    Ok(all)
}

/// The layout of a parameter axis in its stored tensor.
///
/// # Errors
/// [`Error::Internal`] when the axis and the stored dimensions disagree.
pub fn layout_of(cx: &ScoreContext<'_>, id: AxisId) -> Result<Layout> {
    let axis = cx.channels.axis(id);
    Layout::new(cx.params.dims(axis.tensor), axis.axis, axis.fold)
        .filter(|layout| layout.len() == axis.len)
        .ok_or_else(|| misfit(cx, id))
}

/// Sums per-index values over the indices that each channel of the group has on `axis`.
///
/// # Errors
/// [`Error::Internal`] for an index beyond the axis.
pub fn per_channel(cx: &ScoreContext<'_>, group: &Group, axis: AxisId, per_index: &[f64]) -> Result<Vec<f64>> {
    group.channels.iter().map(|channel| sum_on(cx, channel, axis, per_index)).collect()
}

/// Sums per-index values over the indices that one channel has on `axis`.
///
/// # Errors
/// [`Error::Internal`] for an index beyond the axis.
pub fn sum_on(cx: &ScoreContext<'_>, channel: &Channel, axis: AxisId, per_index: &[f64]) -> Result<f64> {
    channel.on(axis).map(|index| per_index.get(index).copied().ok_or_else(|| misfit(cx, axis))).sum()
}

/// The error for an axis that does not fit the stored tensor.
pub(super) fn misfit(cx: &ScoreContext<'_>, id: AxisId) -> Error {
    let axis = cx.channels.axis(id);
    Error::Internal(format!(
        "axis {} of parameter {:?} has {} indices (fold {}), but the stored shape is {:?}",
        axis.axis,
        cx.channels.tensor(axis.tensor).key,
        axis.len,
        axis.fold,
        cx.params.dims(axis.tensor)
    ))
}
