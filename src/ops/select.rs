//! Concatenation and selection: Concat, Split, Slice, Gather, Pad.

use super::cx::{Answer, NodeCx, norm_axes, norm_axis};
use super::patch::Patch;
use super::relate::{In, Out, Relate};
use super::{OpRule, Shapes};
use crate::refuse;

pub(super) const CONCAT: &[&str] = &["Concat"];
pub(super) const SPLIT: &[&str] = &["Split"];
pub(super) const SLICE: &[&str] = &["Slice"];
pub(super) const GATHER: &[&str] = &["Gather"];
pub(super) const PAD: &[&str] = &["Pad"];

/// Joins along one axis.
pub struct Concat;
/// Cuts along one axis.
pub struct Split;
/// Ranges along axes.
pub struct Slice;
/// Indices along one axis.
pub struct Gather;
/// Constant or other padding.
pub struct Pad;

/// Ties every axis of input `s` with output `o` except one.
fn tie_others(r: &mut Relate, s: usize, o: usize, except: usize) -> Answer<()> {
    for a in (0..r.cx.rank(s)?).filter(|&a| a != except) {
        r.tie(In(s, a), Out(o, a))?;
    }
    Ok(())
}

impl OpRule for Concat {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let mut out = cx.shape(0)?.to_vec();
        let axis = cx.axis(1, out.len())?;
        for s in 1..cx.n_inputs() {
            let d = cx.shape(s)?;
            if d.len() != out.len() || d.iter().zip(&out).enumerate().any(|(a, (x, y))| a != axis && x != y) {
                refuse!("inputs {:?} and {d:?} do not fit along axis {axis}", cx.shape(0)?);
            }
            out[axis] = out[axis].checked_add(d[axis]).ok_or("axis overflows")?;
        }
        Ok(vec![Some(out)])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        let axis = r.cx.axis(1, r.cx.rank(0)?)?;
        let mut at = 0;
        let fixed = (0..r.cx.n_inputs()).all(|s| r.fixed(In(s, axis)));
        for s in 0..r.cx.n_inputs() {
            let n = r.size(In(s, axis))?;
            tie_others(r, s, 0, axis)?;
            if !fixed {
                r.pin(In(s, axis), "it is joined with parts of dynamic size");
                r.pin(Out(0, axis), "it is joined with parts of dynamic size");
            } else if n == 1 && r.axis_id(Out(0, axis)).is_some() {
                // A tensor of one channel cannot lose it.
                r.pin_index(Out(0, axis), at, "it comes from a tensor with a single channel");
            } else if n > 0 {
                r.tie_span(In(s, axis), 0, Out(0, axis), at, n)?;
            }
            at += n;
        }
        Ok(())
    }
}

impl Split {
    /// Sizes of the parts.
    fn sizes(cx: &NodeCx) -> Answer<(usize, Vec<usize>)> {
        let x = cx.shape(0)?;
        let axis = cx.axis(0, x.len())?;
        let parts = cx.n_outputs();
        let sizes: Vec<usize> = match cx.list_or_input("split", 1)? {
            Some(v) if !v.is_empty() => {
                v.iter().map(|&n| usize::try_from(n)).collect::<Result<_, _>>().map_err(|_| "a negative part")?
            }
            _ => {
                let chunk = x[axis].div_ceil(parts.max(1));
                (0..parts).map(|i| chunk.min(x[axis].saturating_sub(i * chunk))).collect()
            }
        };
        if sizes.len() != parts || sizes.iter().sum::<usize>() != x[axis] {
            refuse!("parts {sizes:?} do not add up to {} in {parts} outputs", x[axis]);
        }
        Ok((axis, sizes))
    }
}

impl OpRule for Split {
    fn size_slots(&self) -> &'static [usize] {
        &[1]
    }

    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let x = cx.shape(0)?;
        let (axis, sizes) = Self::sizes(cx)?;
        Ok(sizes
            .iter()
            .map(|&n| {
                let mut s = x.to_vec();
                s[axis] = n;
                Some(s)
            })
            .collect())
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        let (axis, sizes) = Self::sizes(&r.cx)?;
        let mut at = 0;
        for (o, n) in sizes.into_iter().enumerate() {
            if r.cx.graph.output(r.cx.id, o).is_none() {
                // An unread part keeps its size.
                for i in at..at + n {
                    r.pin_index(In(0, axis), i, "it goes to an output of Split that nothing reads");
                }
            } else {
                tie_others(r, 0, o, axis)?;
                if n == 1 && r.axis_id(In(0, axis)).is_some() {
                    r.pin_index(In(0, axis), at, "it is the only channel of a part");
                } else {
                    r.tie_span(In(0, axis), at, Out(o, axis), 0, n)?;
                }
            }
            at += n;
        }
        Ok(())
    }

    fn patch(&self, p: &mut Patch) -> Answer<()> {
        let (axis, sizes) = Self::sizes(&p.cx)?;
        if p.removed(In(0, axis)).is_empty() {
            return Ok(());
        }
        let mut at = 0;
        let mut new = Vec::new();
        for &n in &sizes {
            new.push(p.position(In(0, axis), at + n) as i64 - p.position(In(0, axis), at) as i64);
            at += n;
        }
        // In the form that the node has, or that its operator set knows.
        if p.cx.list("split").is_some() || (p.cx.opset < 13 && !p.cx.has(1)) {
            p.set_list("split", new);
        } else {
            p.require(1, new.into_iter().map(Some).collect());
            if p.cx.list("num_outputs").is_some() || p.cx.int("num_outputs", -1) >= 0 {
                p.drop_attr("num_outputs");
            }
        }
        Ok(())
    }
}

/// One sliced axis, normalised.
#[derive(Clone, Copy, Debug)]
pub struct SliceAxis {
    /// The axis.
    pub axis: usize,
    /// First index.
    pub start: usize,
    /// Number of indices.
    pub count: usize,
    /// Step.
    pub step: i64,
    /// Position among the node's `axes`.
    pub entry: usize,
}

impl SliceAxis {
    /// The selected indices.
    pub fn indices(self) -> impl Iterator<Item = usize> {
        (0..self.count).map(move |k| (self.start as i64 + k as i64 * self.step) as usize)
    }
}

/// The raw `(starts, ends)` of a Slice node.
fn slice_bounds(cx: &NodeCx) -> Answer<(Vec<i64>, Vec<i64>)> {
    let get = |name, slot| -> Answer<Vec<i64>> {
        cx.list_or_input(name, slot)?.ok_or_else(|| "its bounds are missing".into())
    };
    Ok((get("starts", 1)?, get("ends", 2)?))
}

/// The sliced axes of a Slice node.
pub fn slice_spec(cx: &NodeCx) -> Answer<Vec<SliceAxis>> {
    let x = cx.shape(0)?;
    let (starts, ends) = slice_bounds(cx)?;
    let axes = match cx.list_or_input("axes", 3)? {
        Some(a) => norm_axes(&a, x.len())?,
        None => (0..starts.len()).collect(),
    };
    let steps = if cx.has(4) { cx.need_ints(4, "steps")? } else { vec![1; starts.len()] };
    if axes.len() != starts.len() || ends.len() != starts.len() || steps.len() != starts.len() || axes.len() > x.len() {
        refuse!("starts, ends, axes and steps differ in length");
    }
    let mut out = Vec::new();
    for entry in 0..axes.len() {
        let (axis, step) = (axes[entry], steps[entry]);
        let d = x[axis] as i64;
        let wrap = |v: i64| if v < 0 { v.saturating_add(d) } else { v };
        if step == 0 {
            refuse!("a step of zero");
        }
        let (lo, hi) = if step > 0 { (0, d) } else { (0, d - 1) };
        let start = wrap(starts[entry]).clamp(lo, hi.max(lo));
        let end = if step > 0 { wrap(ends[entry]).clamp(0, d) } else { wrap(ends[entry]).clamp(-1, d - 1) };
        let span = if step > 0 { end - start } else { start - end };
        let count = if span <= 0 { 0 } else { (span as u64).div_ceil(step.unsigned_abs()) as usize };
        out.push(SliceAxis { axis, start: start as usize, count, step, entry });
    }
    Ok(out)
}

impl OpRule for Slice {
    fn size_slots(&self) -> &'static [usize] {
        &[1, 2]
    }

    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let mut out = cx.shape(0)?.to_vec();
        for s in slice_spec(cx)? {
            out[s.axis] = s.count;
        }
        Ok(vec![Some(out)])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        let spec = slice_spec(&r.cx)?;
        let other = slice_spec(&r.other)?;
        for a in 0..r.cx.rank(0)? {
            let Some(s) = spec.iter().find(|s| s.axis == a) else {
                r.tie(In(0, a), Out(0, a))?;
                continue;
            };
            let n = r.size(In(0, a))?;
            let same = other.iter().any(|o| o.axis == a && (o.start, o.count, o.step) == (s.start, s.count, s.step));
            if s.start == 0 && s.count == n && s.step == 1 {
                r.tie(In(0, a), Out(0, a))?;
            } else if s.step != 1 {
                r.pin(In(0, a), "it is sliced with a step");
                r.pin(Out(0, a), "it is sliced with a step");
            } else if !same {
                r.pin(In(0, a), "it is sliced at bounds that depend on a dynamic size");
                r.pin(Out(0, a), "it is sliced at bounds that depend on a dynamic size");
            } else if s.count <= 1 {
                for i in s.indices() {
                    r.pin_index(In(0, a), i, "a slice reads this index alone");
                }
                r.free(In(0, a));
            } else {
                r.tie_span(In(0, a), s.start, Out(0, a), 0, s.count)?;
            }
        }
        Ok(())
    }

    fn patch(&self, p: &mut Patch) -> Answer<()> {
        let (starts, ends) = slice_bounds(&p.cx)?;
        let mut new_starts: Vec<Option<i64>> = vec![None; starts.len()];
        let mut new_ends = new_starts.clone();
        let x = p.cx.shape(0)?;
        for s in slice_spec(&p.cx)? {
            let loc = In(0, s.axis);
            let whole = s.start == 0 && s.count == x[s.axis] && s.step == 1;
            if p.removed(loc).is_empty() {
                continue;
            }
            if whole {
                // Counted from the end, the start would lie before the first index; not every runtime clamps it.
                if starts[s.entry] < 0 {
                    new_starts[s.entry] = Some(0);
                }
                continue;
            }
            new_starts[s.entry] = Some(p.position(loc, s.start) as i64);
            new_ends[s.entry] = Some(p.position(loc, s.start + s.count) as i64);
        }
        if new_starts.iter().any(Option::is_some) {
            p.require_list("starts", 1, &starts, new_starts);
            p.require_list("ends", 2, &ends, new_ends);
        }
        Ok(())
    }
}

impl OpRule for Gather {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let (x, idx) = (cx.shape(0)?, cx.shape(1)?);
        let axis = cx.axis(0, x.len())?;
        let mut out = x[..axis].to_vec();
        out.extend(idx);
        out.extend(&x[axis + 1..]);
        Ok(vec![Some(out)])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        let (n, q) = (r.cx.rank(0)?, r.cx.rank(1)?);
        let axis = r.cx.axis(0, n)?;
        for a in 0..n {
            if a < axis {
                r.tie(In(0, a), Out(0, a))?;
            } else if a > axis {
                r.tie(In(0, a), Out(0, a + q - 1))?;
            }
        }
        let d = r.size(In(0, axis))?;
        let ids = match (r.cx.ints(1), r.other.ints(1)) {
            (Some(a), Some(b)) if a == b && r.fixed(In(0, axis)) => a,
            _ => {
                r.pin(In(0, axis), "it is indexed with values that are computed at run time");
                return Ok(());
            }
        };
        let ids: Vec<usize> = ids.iter().map(|&i| norm_axis(i, d)).collect::<Answer<_>>()?;
        if q == 1 && ids.len() > 1 && r.is_constant(1) {
            r.tie_map(In(0, axis), Out(0, axis), ids.iter().enumerate().map(|(k, &i)| (i, k)))?;
            r.tie(In(1, 0), Out(0, axis))?;
        } else {
            for i in ids {
                r.pin_index(In(0, axis), i, "it is read by its index");
            }
            r.free(In(0, axis));
        }
        Ok(())
    }

    fn patch(&self, p: &mut Patch) -> Answer<()> {
        let (n, q) = (p.cx.rank(0)?, p.cx.rank(1)?);
        let axis = p.cx.axis(0, n)?;
        if p.removed(In(0, axis)).is_empty() {
            return Ok(());
        }
        let d = p.cx.shape(0)?[axis];
        let Some(ids) = p.cx.ints(1) else { return Ok(()) };
        let mut new = Vec::new();
        for (k, &i) in ids.iter().enumerate() {
            let i = norm_axis(i, d)?;
            if q != 1 || p.stays(Out(0, axis), k) {
                new.push(Some(p.position(In(0, axis), i) as i64));
            }
        }
        p.require(1, new);
        Ok(())
    }
}

impl Pad {
    /// `(begin, end)` per axis of the input, and where each stands in the list.
    #[allow(clippy::type_complexity)]
    pub(crate) fn pads(cx: &NodeCx) -> Answer<(Vec<i64>, Vec<(usize, i64, i64)>)> {
        let rank = cx.rank(0)?;
        let pads = cx.list_or_input("pads", 1)?.ok_or("its pads are missing")?;
        let axes = match if cx.has(3) { Some(cx.need_ints(3, "axes")?) } else { None } {
            Some(a) => norm_axes(&a, rank)?,
            None => (0..rank).collect(),
        };
        if pads.len() != 2 * axes.len() {
            refuse!("{} pads for {} axes", pads.len(), axes.len());
        }
        let n = axes.len();
        let list = axes.iter().enumerate().map(|(i, &a)| (a, pads[i], pads[n + i])).collect();
        Ok((pads, list))
    }

    fn constant_mode(cx: &NodeCx) -> bool {
        cx.string("mode").unwrap_or("constant") == "constant"
    }
}

impl OpRule for Pad {
    fn size_slots(&self) -> &'static [usize] {
        &[1]
    }

    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let mut out = cx.shape(0)?.to_vec();
        for (a, b, e) in Self::pads(cx)?.1 {
            let n = (out[a] as i64).checked_add(b).and_then(|n| n.checked_add(e)).ok_or("pads overflow")?;
            out[a] = usize::try_from(n).map_err(|_| "pads leave a negative size")?;
        }
        Ok(vec![Some(out)])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        let pads = Self::pads(&r.cx)?.1;
        let other = Self::pads(&r.other)?.1;
        for a in 0..r.cx.rank(0)? {
            match pads.iter().find(|p| p.0 == a) {
                Some(&(_, b, e)) if b != 0 || e != 0 => {
                    let known = other.contains(&(a, b, e)) && b >= 0 && e >= 0 && Self::constant_mode(&r.cx);
                    let n = r.size(In(0, a))?;
                    if !known {
                        r.pin(In(0, a), "its padding is not constant");
                        r.pin(Out(0, a), "its padding is not constant");
                    } else if n == 1 {
                        r.pin_index(Out(0, a), b as usize, "it comes from a tensor with a single channel");
                    } else {
                        // The padded indices hold a constant: they may leave, with less padding.
                        r.tie_span(In(0, a), 0, Out(0, a), b as usize, n)?;
                    }
                }
                _ => r.tie(In(0, a), Out(0, a))?,
            }
        }
        Ok(())
    }

    fn patch(&self, p: &mut Patch) -> Answer<()> {
        let (old, pads) = Self::pads(&p.cx)?;
        let mut new: Vec<Option<i64>> = vec![None; old.len()];
        for (i, &(a, b, _)) in pads.iter().enumerate() {
            let out = p.cx.out_shape(0)?[a];
            let gone = p.removed(Out(0, a));
            if gone.is_empty() || (old[i] == 0 && old[pads.len() + i] == 0) {
                continue;
            }
            let n = p.cx.shape(0)?[a];
            let begin = p.position(Out(0, a), b as usize);
            let end = (out - gone.len()) - p.position(Out(0, a), b as usize + n);
            new[i] = Some(begin as i64);
            new[pads.len() + i] = Some(end as i64);
        }
        if new.iter().any(Option::is_some) {
            p.require_list("pads", 1, &old, new);
        }
        Ok(())
    }
}
