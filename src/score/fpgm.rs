//! Redundancy: a filter near the geometric median of its layer is one that the others can replace.

use super::slices::layout_of;
use super::{Aggregate, Criterion, Normalize, ScoreContext, finite};
use crate::channels::{AxisId, Group, Role};
use crate::error::{Error, Result};
use rayon::prelude::*;
use std::borrow::Cow;

/// `fpgm`: He et al., "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks Acceleration", 2019.
///
/// `Σ_k ‖w_j − w_k‖` over the filters of the group, for each layer that makes the channels; several layers are divided
/// by their mean and put together by [`Aggregate`].
pub struct Fpgm;

impl Criterion for Fpgm {
    fn name(&self) -> &'static str {
        "fpgm"
    }

    fn about(&self) -> &'static str {
        "distance of the filter to the layer's other filters (geometric median)"
    }

    fn score(&self, cx: &ScoreContext<'_>, group: &Group, aggregate: Aggregate) -> Result<Option<Vec<f64>>> {
        let mut axes: Vec<_> = group.sites.iter().filter(|s| s.role == Role::Producer).map(|s| s.axis).collect();
        axes.sort_unstable();
        axes.dedup();
        let mut sites = Vec::with_capacity(axes.len());
        for axis in axes {
            let mut site = layer(cx, group, axis)?;
            Normalize::Mean.apply(&mut site);
            sites.push(site);
        }
        Ok(aggregate.combine(&sites))
    }

    fn needs_batch_norm(&self) -> bool {
        false
    }
}

/// Sums of distances among the group's filters on one axis.
fn layer(cx: &ScoreContext<'_>, group: &Group, axis: AxisId) -> Result<Vec<f64>> {
    let tensor = cx.channels.axis(axis).tensor;
    let layout = layout_of(cx, axis)?;
    let values = cx.params.values(tensor)?;
    let filters: Option<Vec<Cow<'_, [f32]>>> = group
        .channels
        .iter()
        .map(|channel| {
            let mut runs = Vec::new();
            for index in channel.on(axis) {
                runs.extend(layout.runs(&values, index)?);
            }
            Some(if let &[run] = runs.as_slice() { Cow::Borrowed(run) } else { Cow::Owned(runs.concat()) })
        })
        .collect();
    let filters = filters.filter(|all| all.windows(2).all(|pair| pair[0].len() == pair[1].len())).ok_or_else(|| {
        let key = &cx.channels.tensor(tensor).key;
        Error::Internal(format!("the channels of {:?} do not fit axis {:?} of {key:?}", group.name, layout))
    })?;
    let rows: Vec<&[f32]> = filters.iter().map(AsRef::as_ref).collect();
    let sums = distance_sums(&rows);
    finite(cx, tensor, &sums)?;
    Ok(sums)
}

/// Rows of a tile; two tiles of [`DEPTH`] columns fit the first-level cache.
const TILE: usize = 32;
/// Columns whose squares are summed in f32 before they go to f64.
const DEPTH: usize = 128;

/// `Σ_k ‖row_j − row_k‖` for each row. All rows have the same length.
///
/// Squared distances are summed as differences, in register blocks, not through the Gram matrix (`‖a‖² + ‖b‖² − 2ab`):
/// near-equal filters, which are what this criterion looks for, do not cancel out, nothing is copied, and 2048 × 1024
/// take 0.15 to 0.25 s on one core where the products alone take 0.13 s.
pub(super) fn distance_sums(rows: &[&[f32]]) -> Vec<f64> {
    let tiles: Vec<&[&[f32]]> = rows.chunks(TILE).collect();
    // Each task takes one tile against itself and all before it, and returns its share for all rows so far.
    let shares: Vec<Vec<f64>> = (0..tiles.len())
        .into_par_iter()
        .map(|i| {
            let mut share = vec![0.0; i * TILE + tiles[i].len()];
            let mut squares = [[0.0; TILE]; TILE];
            for (k, other) in tiles[..=i].iter().enumerate() {
                tile_squares(tiles[i], other, &mut squares);
                for (a, squares) in squares.iter().enumerate().take(tiles[i].len()) {
                    let end = if i == k { a } else { other.len() };
                    for (b, square) in squares.iter().enumerate().take(end) {
                        let distance = square.sqrt();
                        share[i * TILE + a] += distance;
                        share[k * TILE + b] += distance;
                    }
                }
            }
            share
        })
        .collect();
    let mut sums = vec![0.0; rows.len()];
    for share in shares {
        sums.iter_mut().zip(share).for_each(|(sum, x)| *sum += x);
    }
    sums
}

/// Squared distances between the rows of two tiles.
fn tile_squares(left: &[&[f32]], right: &[&[f32]], squares: &mut [[f64; TILE]; TILE]) {
    *squares = [[0.0; TILE]; TILE];
    let length = left.first().map_or(0, |row| row.len());
    for from in (0..length).step_by(DEPTH) {
        let columns = from..(from + DEPTH).min(length);
        for i in (0..left.len()).step_by(2) {
            // At the edge of a tile the last row stands in for the ones that are not there, and is written over itself.
            let at_left = [i, (i + 1).min(left.len() - 1)];
            let a = at_left.map(|row| &left[row][columns.clone()]);
            for k in (0..right.len()).step_by(4) {
                let at_right = [k, k + 1, k + 2, k + 3].map(|row| row.min(right.len() - 1));
                let sums = block(a, at_right.map(|row| &right[row][columns.clone()]));
                for (x, sums) in sums.iter().enumerate().filter(|(x, _)| i + x < left.len()) {
                    for (y, &sum) in sums.iter().enumerate().filter(|(y, _)| k + y < right.len()) {
                        squares[i + x][k + y] += f64::from(sum);
                    }
                }
            }
        }
    }
}

/// Squared distances of 2 × 4 short rows of equal length, in eight accumulators of four lanes.
fn block(a: [&[f32]; 2], b: [&[f32]; 4]) -> [[f32; 4]; 2] {
    let chunks = a[0].len() / 4;
    let wide_a = a.map(|row| &row.as_chunks::<4>().0[..chunks]);
    let wide_b = b.map(|row| &row.as_chunks::<4>().0[..chunks]);
    let mut lanes = [[[0.0f32; 4]; 4]; 2];
    for c in 0..chunks {
        for (lanes, a) in lanes.iter_mut().zip(wide_a) {
            for (lanes, b) in lanes.iter_mut().zip(wide_b) {
                for lane in 0..4 {
                    let difference = a[c][lane] - b[c][lane];
                    lanes[lane] += difference * difference;
                }
            }
        }
    }
    let mut sums = lanes.map(|row| row.map(|lanes| lanes.iter().sum::<f32>()));
    for c in chunks * 4..a[0].len() {
        for (sums, a) in sums.iter_mut().zip(a) {
            for (sum, b) in sums.iter_mut().zip(b) {
                *sum += (a[c] - b[c]).powi(2);
            }
        }
    }
    sums
}
