//! Pooling over windows and over everything.

use super::conv::{Shape, spatial};
use super::{Back, Gradient};
use crate::ops::Answer;
use crate::refuse;
use crate::train::tape::{Tape, Var, int};

/// `MaxPool`.
pub struct MaxPool;
/// `AveragePool`.
pub struct AveragePool;
/// `GlobalAveragePool`.
pub struct GlobalAveragePool;
/// `GlobalMaxPool`.
pub struct GlobalMaxPool;

/// The window, with as much padding behind as the last window needs (`ceil_mode`).
fn window(b: &Back, xd: &[usize], yd: &[usize]) -> Answer<Shape> {
    let kernel = vec![1; spatial(xd).len()];
    let mut s = Shape::read(&b.cx, &kernel, spatial(xd), spatial(yd))?;
    for i in 0..s.kernel.len() {
        let reach = (yd[i + 2].max(1) - 1) * s.strides[i] + s.extent(i);
        s.pads[i].1 = reach.saturating_sub(xd[i + 2] + s.pads[i].0);
    }
    Ok(s)
}

/// Adds up what stands at the taps of a window along one axis, each at `position · stride + offset`: `size` results.
fn spread(t: &mut Tape, taps: &[(isize, Var)], axis: usize, stride: usize, size: usize) -> Answer<Var> {
    let Some(&(_, first)) = taps.first() else { refuse!("a window without taps") };
    let dims = t.dims(first).to_vec();
    let (rank, n) = (dims.len(), dims[axis]);
    let long = size.div_ceil(stride);
    let mut phases: Vec<Option<Var>> = vec![None; stride];
    for &(offset, v) in taps {
        let (skip, phase) = (offset.div_euclid(stride as isize), offset.rem_euclid(stride as isize));
        // Element i goes to i + skip of this phase.
        let low = usize::try_from(-skip).unwrap_or(0);
        let high = usize::try_from(long as isize - skip).unwrap_or(0).min(n);
        if low >= high {
            continue;
        }
        let kept = t.slice(v, &[(axis, low, high - low, 1)])?;
        let mut pads = vec![(0, 0); rank];
        let front = (low as isize + skip) as usize;
        pads[axis] = (front, long - front - (high - low));
        let placed = t.pad(kept, &pads, 0.0)?;
        let phase = &mut phases[phase as usize];
        *phase = Some(match *phase {
            Some(sum) => t.add(sum, placed)?,
            None => placed,
        });
    }
    let mut one = dims.clone();
    one[axis] = long;
    if let [Some(only)] = phases.as_slice() {
        return Ok(*only);
    }
    // Every phase in turn: stacked in front, then moved behind the axis.
    let stacked_dims = [&[1], one.as_slice()].concat();
    let mut all = Vec::with_capacity(stride);
    for phase in phases {
        all.push(match phase {
            Some(v) => t.reshape(v, &stacked_dims)?,
            None => {
                let zero = t.scalar(0.0)?;
                t.expand(zero, &stacked_dims)?
            }
        });
    }
    let stacked = t.concat(&all, 0)?;
    let mut perm: Vec<usize> = (1..=rank).collect();
    perm.insert(axis + 1, 0);
    let moved = t.transpose(stacked, &perm)?;
    let mut out = dims;
    out[axis] = long * stride;
    let flat = t.reshape(moved, &out)?;
    t.slice(flat, &[(axis, 0, size, 1)])
}

/// [`spread`] along all spatial axes, the last one first. `taps`: in the order of [`Shape::taps`].
fn spread_all(t: &mut Tape, s: &Shape, taps: Vec<Var>, xd: &[usize]) -> Answer<Var> {
    let mut level = taps;
    for i in (0..s.kernel.len()).rev() {
        let offsets: Vec<isize> =
            (0..s.kernel[i]).map(|k| (k * s.dilations[i]) as isize - s.pads[i].0 as isize).collect();
        let mut next = Vec::new();
        for group in level.chunks(s.kernel[i]) {
            let taps: Vec<(isize, Var)> = offsets.iter().copied().zip(group.iter().copied()).collect();
            next.push(spread(t, &taps, i + 2, s.strides[i], xd[i + 2])?);
        }
        level = next;
    }
    match level.as_slice() {
        &[one] => Ok(one),
        _ => refuse!("a window without taps"),
    }
}

impl Gradient for MaxPool {
    /// The first of equal maxima takes all: behind a `Relu` zeros are often equal.
    fn backward(&self, b: &mut Back) -> Answer<()> {
        let (dy, x, y) = (b.dy()?, b.x(0)?, b.y(0)?);
        let (xd, yd) = (b.t.dims(x).to_vec(), b.t.dims(y).to_vec());
        let s = window(b, &xd, &yd)?;
        let padded = s.padded(b.t, x, f64::from(f32::MIN))?;
        let mut rest = dy;
        let mut all = Vec::new();
        let taps = s.taps();
        for (i, tap) in taps.iter().enumerate() {
            let seen = s.seen(b.t, padded, tap, spatial(&yd))?;
            let on = b.t.equal(seen, y)?;
            let part = b.t.mul(rest, on)?;
            if i + 1 < taps.len() {
                rest = b.t.sub(rest, part)?;
            }
            all.push(part);
        }
        let dx = spread_all(b.t, &s, all, &xd)?;
        b.give(0, dx)
    }
}

impl Gradient for AveragePool {
    fn backward(&self, b: &mut Back) -> Answer<()> {
        let dy = b.dy()?;
        let (xd, yd) = (b.cx.shape(0)?.to_vec(), b.t.dims(dy).to_vec());
        let given = Shape::read(&b.cx, &vec![1; spatial(&xd).len()], spatial(&xd), spatial(&yd))?;
        let s = window(b, &xd, &yd)?;
        let include = b.cx.int("count_include_pad", 0) != 0;
        // How many elements each window counts, the product of those along the axes.
        let mut counts = vec![1.0];
        for i in 0..s.kernel.len() {
            let (size, front) = (xd[i + 2], given.pads[i].0);
            let (low, high) = if include { (0, front + size + given.pads[i].1) } else { (front, front + size) };
            let along = (0..yd[i + 2]).map(|o| {
                let inside = |k: &usize| (low..high).contains(&(o * s.strides[i] + k * s.dilations[i]));
                (0..s.kernel[i]).filter(inside).count().max(1) as f64
            });
            let along: Vec<f64> = along.collect();
            counts = counts.iter().flat_map(|c| along.iter().map(move |a| c * a)).collect();
        }
        let first = counts.first().copied().unwrap_or(1.0);
        let share = if counts.iter().all(|&c| c == first) {
            b.t.scale(dy, 1.0 / first)?
        } else {
            let dims = [&[1, 1], spatial(&yd)].concat();
            let factors: Vec<f64> = counts.iter().map(|c| 1.0 / c).collect();
            let factors = b.t.constant(&dims, &factors)?;
            b.t.mul(dy, factors)?
        };
        let mut dx = share;
        for i in (0..s.kernel.len()).rev() {
            let (k, stride, size) = (s.kernel[i], s.strides[i], xd[i + 2]);
            if k == stride && s.dilations[i] == 1 && s.pads[i] == (0, 0) && yd[i + 2] * k == size {
                dx = repeated(b.t, dx, i + 2, k)?;
                continue;
            }
            let taps: Vec<(isize, Var)> =
                (0..k).map(|k| ((k * s.dilations[i]) as isize - s.pads[i].0 as isize, dx)).collect();
            dx = spread(b.t, &taps, i + 2, stride, size)?;
        }
        b.give(0, dx)
    }
}

/// Every element of an axis `times` times.
pub(super) fn repeated(t: &mut Tape, x: Var, axis: usize, times: usize) -> Answer<Var> {
    let mut dims = t.dims(x).to_vec();
    let mut wide = dims.clone();
    wide.insert(axis + 1, 1);
    let apart = t.reshape(x, &wide)?;
    wide[axis + 1] = times;
    let more = t.expand(apart, &wide)?;
    dims[axis] *= times;
    t.reshape(more, &dims)
}

impl Gradient for GlobalAveragePool {
    fn backward(&self, b: &mut Back) -> Answer<()> {
        let dy = b.dy()?;
        let xd = b.cx.shape(0)?.to_vec();
        let n: usize = spatial(&xd).iter().product();
        let share = b.t.scale(dy, 1.0 / n.max(1) as f64)?;
        let dx = b.t.expand(share, &xd)?;
        b.give(0, dx)
    }
}

impl Gradient for GlobalMaxPool {
    /// The first of equal maxima takes all.
    fn backward(&self, b: &mut Back) -> Answer<()> {
        let (dy, x) = (b.dy()?, b.x(0)?);
        let xd = b.t.dims(x).to_vec();
        let &[n, c, ..] = xd.as_slice() else { refuse!("an input of shape {xd:?}") };
        let l: usize = spatial(&xd).iter().product();
        let flat = b.t.reshape(x, &[n, c, l])?;
        let attributes = vec![int("axis", 2), int("keepdims", 1)];
        let best = b.t.node("ArgMax", &[flat], attributes, vec![n, c, 1]);
        let positions: Vec<i64> = (0..l as i64).collect();
        let positions = b.t.ints(&positions);
        // Integers compare in every operator set.
        let on = b.t.indicator("Equal", best, positions)?;
        let dy = b.t.reshape(dy, &[n, c, 1])?;
        let dx = b.t.mul(dy, on)?;
        let dx = b.t.reshape(dx, &xd)?;
        b.give(0, dx)
    }
}
