//! Concatenation, selection and padding.

use super::matrix::Matrix;
use super::{Back, Gradient};
use crate::onnx::tensor;
use crate::ops::cx::norm_axis;
use crate::ops::select::{Pad as PadRule, slice_spec};
use crate::ops::{Answer, NodeCx};
use crate::refuse;
use crate::train::tape::{Tape, Var, int};

/// `Concat`.
pub struct Concat;
/// `Split`.
pub struct Split;
/// `Slice`.
pub struct Slice;
/// `Gather`, with constant indices.
pub struct Gather;
/// `GatherND`, with constant indices.
pub struct GatherNd;
/// `Pad`.
pub struct Pad;
/// `Trilu`.
pub struct Trilu;

impl Gradient for Concat {
    fn backward(&self, b: &mut Back) -> Answer<()> {
        let dy = b.dy()?;
        let axis = b.cx.axis(1, b.t.dims(dy).len())?;
        let mut at = 0;
        for slot in 0..b.cx.n_inputs() {
            let n = b.cx.shape(slot)?[axis];
            if b.wants(slot) {
                let part = b.t.slice(dy, &[(axis, at, n, 1)])?;
                b.give(slot, part)?;
            }
            at += n;
        }
        Ok(())
    }
}

impl Gradient for Split {
    fn backward(&self, b: &mut Back) -> Answer<()> {
        let xd = b.cx.shape(0)?.to_vec();
        let axis = b.cx.axis(0, xd.len())?;
        let mut all = Vec::new();
        let mut at = 0;
        for o in 0..b.cx.n_outputs() {
            match b.dy_of(o) {
                Some(dy) => {
                    at += b.t.dims(dy)[axis];
                    all.push(dy);
                }
                None => {
                    // Of an output that nothing reads; its size need not be known.
                    let rest: usize = (o + 1..b.cx.n_outputs())
                        .map(|o| b.cx.out_shape(o).ok().and_then(|d| d.get(axis).copied()))
                        .sum::<Option<usize>>()
                        .unwrap_or(0);
                    let n = b.cx.out_shape(o).map_or(xd[axis].saturating_sub(at + rest), |d| d[axis]);
                    let mut dims = xd.clone();
                    dims[axis] = n;
                    let zero = b.t.scalar(0.0)?;
                    all.push(b.t.expand(zero, &dims)?);
                    at += n;
                }
            }
        }
        let dx = b.t.concat(&all, axis)?;
        b.give(0, dx)
    }
}

/// Puts elements at every `step`-th place of a longer axis, from `from` on, with zeros between.
fn placed(t: &mut Tape, x: Var, axis: usize, from: usize, step: usize, size: usize) -> Answer<Var> {
    let dims = t.dims(x).to_vec();
    let n = dims[axis];
    let mut v = x;
    let mut len = n;
    if step > 1 && n > 1 {
        let mut wide = dims.clone();
        wide.insert(axis + 1, 1);
        v = t.reshape(v, &wide)?;
        let mut pads = vec![(0, 0); wide.len()];
        pads[axis + 1] = (0, step - 1);
        v = t.pad(v, &pads, 0.0)?;
        let mut flat = dims.clone();
        flat[axis] = n * step;
        v = t.reshape(v, &flat)?;
        len = (n - 1) * step + 1;
        v = t.slice(v, &[(axis, 0, len, 1)])?;
    }
    let mut pads = vec![(0, 0); dims.len()];
    pads[axis] = (from, size.saturating_sub(from + len));
    t.pad(v, &pads, 0.0)
}

impl Gradient for Slice {
    fn backward(&self, b: &mut Back) -> Answer<()> {
        let mut dx = b.dy()?;
        let xd = b.cx.shape(0)?.to_vec();
        for s in slice_spec(&b.cx)? {
            if s.count == 0 {
                let zero = b.t.scalar(0.0)?;
                dx = b.t.expand(zero, &xd)?;
                return b.give(0, dx);
            }
            let mut from = s.start;
            let step = s.step.unsigned_abs() as usize;
            if s.step < 0 {
                dx = b.t.flip(dx, s.axis)?;
                from -= (s.count - 1) * step;
            }
            dx = placed(b.t, dx, s.axis, from, step, xd[s.axis])?;
        }
        b.give(0, dx)
    }
}

/// Integers that the model holds or that analysis computed.
fn indices(cx: &NodeCx, slot: usize) -> Answer<Vec<i64>> {
    if let Some(v) = cx.ints(slot) {
        return Ok(v);
    }
    let held = cx.graph.input(cx.id, slot).and_then(|v| cx.graph.constant(v));
    match held.and_then(|t| tensor::to_i64(t).ok()) {
        Some(v) => Ok(v),
        None => refuse!("its indices are computed at run time"),
    }
}

/// The gradient of picking `ids` along an axis; an index that is picked several times gets the sum.
fn picked(t: &mut Tape, dy: Var, axis: usize, ids: &[usize], size: usize) -> Answer<Var> {
    let consecutive = ids.windows(2).all(|w| w[1] == w[0] + 1);
    match ids.first() {
        Some(&from) if consecutive => placed(t, dy, axis, from, 1, size),
        Some(_) => {
            let mut sorted: Vec<(usize, usize)> = ids.iter().copied().zip(0..).collect();
            sorted.sort_unstable();
            if sorted.windows(2).any(|w| w[0].0 == w[1].0) {
                return Matrix::picking(size, ids)?.transposed().along(t, dy, axis);
            }
            // Each index once: every place of the input is one of the output, or the zero behind them.
            let mut from = vec![ids.len(); size];
            sorted.iter().filter(|p| p.0 < size).for_each(|&(i, k)| from[i] = k);
            let mut pads = vec![(0, 0); t.dims(dy).len()];
            pads[axis] = (0, usize::from(ids.len() < size));
            let padded = t.pad(dy, &pads, 0.0)?;
            t.gather(padded, &from, axis)
        }
        None => {
            let mut dims = t.dims(dy).to_vec();
            dims[axis] = size;
            let zero = t.scalar(0.0)?;
            t.expand(zero, &dims)
        }
    }
}

impl Gradient for Gather {
    fn backward(&self, b: &mut Back) -> Answer<()> {
        let dy = b.dy()?;
        let xd = b.cx.shape(0)?.to_vec();
        let axis = b.cx.axis(0, xd.len())?;
        let ids: Vec<usize> = indices(&b.cx, 1)?.into_iter().map(|i| norm_axis(i, xd[axis])).collect::<Answer<_>>()?;
        let mut flat = xd.clone();
        flat[axis] = ids.len();
        let dy = b.t.reshape(dy, &flat)?;
        let dx = picked(b.t, dy, axis, &ids, xd[axis])?;
        b.give(0, dx)
    }
}

impl Gradient for GatherNd {
    fn backward(&self, b: &mut Back) -> Answer<()> {
        let dy = b.dy()?;
        let (xd, id) = (b.cx.shape(0)?.to_vec(), b.cx.shape(1)?.to_vec());
        if b.cx.int("batch_dims", 0) != 0 {
            refuse!("it has batch dimensions");
        }
        let m = id.last().copied().unwrap_or(0);
        if m == 0 || m > xd.len() {
            refuse!("index tuples of length {m} for rank {}", xd.len());
        }
        let all = indices(&b.cx, 1)?;
        let mut ids = Vec::with_capacity(all.len() / m);
        for tuple in all.chunks(m) {
            let mut at = 0;
            for (&i, &d) in tuple.iter().zip(&xd) {
                at = at * d + norm_axis(i, d)?;
            }
            ids.push(at);
        }
        let (size, rest): (usize, usize) = (xd[..m].iter().product(), xd[m..].iter().product());
        let dy = b.t.reshape(dy, &[ids.len(), rest])?;
        let dx = picked(b.t, dy, 0, &ids, size)?;
        let dx = b.t.reshape(dx, &xd)?;
        b.give(0, dx)
    }
}

/// Where a padded place takes its value from.
fn source(mode: &str, place: i64, size: i64) -> Answer<usize> {
    let i = match mode {
        "edge" => place.clamp(0, size - 1),
        "wrap" => place.rem_euclid(size),
        "reflect" if size == 1 => 0,
        "reflect" => {
            let turn = place.rem_euclid(2 * (size - 1));
            turn.min(2 * (size - 1) - turn)
        }
        other => refuse!("its mode is {other:?}"),
    };
    Ok(i as usize)
}

impl Gradient for Pad {
    fn backward(&self, b: &mut Back) -> Answer<()> {
        let mut dx = b.dy()?;
        let xd = b.cx.shape(0)?.to_vec();
        let mode = b.cx.string("mode").unwrap_or("constant");
        for (axis, before, after) in PadRule::pads(&b.cx)?.1 {
            let size = xd[axis] as i64;
            if (before, after) == (0, 0) {
                continue;
            }
            if mode == "constant" {
                // What the node cut off has no gradient.
                let (low, high) = ((-before).max(0).min(size), (size + after.min(0)).max(0));
                let kept = (high - low).max(0) as usize;
                dx = b.t.slice(dx, &[(axis, before.max(0) as usize, kept, 1)])?;
                let mut pads = vec![(0, 0); xd.len()];
                pads[axis] = (low as usize, xd[axis] - low as usize - kept);
                dx = b.t.pad(dx, &pads, 0.0)?;
            } else {
                let places: Vec<usize> =
                    (-before..size + after).map(|p| source(mode, p, size)).collect::<Answer<_>>()?;
                dx = Matrix::picking(xd[axis], &places)?.transposed().along(b.t, dx, axis)?;
            }
        }
        b.give(0, dx)
    }
}

impl Gradient for Trilu {
    fn backward(&self, b: &mut Back) -> Answer<()> {
        let dy = b.dy()?;
        let dims = b.t.dims(dy).to_vec();
        let mut inputs = vec![dy];
        if b.cx.has(1) {
            inputs.push(b.x(1)?);
        }
        let upper = int("upper", b.cx.int("upper", 1));
        let dx = b.t.node("Trilu", &inputs, vec![upper], dims);
        b.give(0, dx)
    }
}
