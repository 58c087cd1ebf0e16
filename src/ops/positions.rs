//! Operators that work along one or two axes by position: these axes stay whole, the others carry channels.

use super::cx::{Answer, NodeCx, RUN_TIME, norm_axis};
use super::relate::{In, Loc, Out, Relate};
use super::{OpRule, Shapes};
use crate::refuse;

pub(super) const TOP_K: &[&str] = &["TopK"];
pub(super) const REVERSE: &[&str] = &["ReverseSequence"];
pub(super) const ONE_HOT: &[&str] = &["OneHot"];
pub(super) const MATRIX: &[&str] = &["Trilu", "EyeLike", "Det"];
pub(super) const COMPRESS: &[&str] = &["Compress"];
pub(super) const FOUND: &[&str] = &["NonZero", "NonMaxSuppression", "Unique"];
pub(super) const CENTER: &[&str] = &["CenterCropPad"];

/// The largest or smallest along an axis.
pub struct TopK;
/// Reverses the first elements of each sequence.
pub struct ReverseSequence;
/// Adds an axis of classes.
pub struct OneHot;
/// `Trilu`, `EyeLike`, `Det`: the last two axes are a matrix.
pub struct Matrix;
/// Selects by a condition along an axis.
pub struct Compress;
/// `NonZero`, `NonMaxSuppression`, `Unique`: how much they find is known when they have run.
pub struct Found;
/// Crops or pads around the centre.
pub struct CenterCropPad;

/// Ties every axis of input 0 with the same axis of output `o`, but pins these.
fn tie_but(r: &mut Relate, o: usize, pinned: &[usize], reason: &str) -> Answer<()> {
    for a in 0..r.cx.rank(0)? {
        if pinned.contains(&a) {
            r.pin(In(0, a), reason);
            r.pin(Out(o, a), reason);
        } else {
            r.tie(In(0, a), Out(o, a))?;
        }
    }
    Ok(())
}

/// One size among the inputs.
fn scalar(cx: &NodeCx, slot: usize, what: &str) -> Answer<usize> {
    let v = cx.need_ints(slot, what)?;
    let Some(n) = v.first().and_then(|&n| usize::try_from(n).ok()) else { refuse!("its {what} is {v:?}") };
    Ok(n)
}

impl OpRule for TopK {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let mut out = cx.shape(0)?.to_vec();
        let axis = cx.axis(-1, out.len())?;
        out[axis] = if cx.has(1) {
            scalar(cx, 1, "number of elements")?
        } else {
            usize::try_from(cx.int("k", -1)).map_err(|_| "its number of elements is missing")?
        };
        Ok(vec![Some(out); cx.n_outputs().max(1)])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        let axis = r.cx.axis(-1, r.cx.rank(0)?)?;
        for o in 0..r.cx.n_outputs() {
            if r.cx.graph.output(r.cx.id, o).is_some() {
                tie_but(r, o, &[axis], "it sorts along this axis")?;
            }
        }
        Ok(())
    }
}

impl ReverseSequence {
    /// `(axis of the steps, axis of the batch)`.
    fn axes(cx: &NodeCx) -> Answer<(usize, usize)> {
        let rank = cx.rank(0)?;
        let (time, batch) = (norm_axis(cx.int("time_axis", 0), rank)?, norm_axis(cx.int("batch_axis", 1), rank)?);
        if time == batch {
            refuse!("steps and batch on one axis");
        }
        Ok((time, batch))
    }
}

impl OpRule for ReverseSequence {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        Self::axes(cx)?;
        Ok(vec![Some(cx.shape(0)?.to_vec())])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        let (time, batch) = Self::axes(&r.cx)?;
        tie_but(r, 0, &[time], "it reverses sequences along this axis")?;
        r.tie(In(1, 0), In(0, batch))
    }
}

impl OneHot {
    fn axis(cx: &NodeCx) -> Answer<usize> {
        cx.axis(-1, cx.rank(0)? + 1)
    }
}

impl OpRule for OneHot {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let axis = Self::axis(cx)?;
        let mut out = cx.shape(0)?.to_vec();
        out.insert(axis, scalar(cx, 1, "depth")?);
        Ok(vec![Some(out)])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        let axis = Self::axis(&r.cx)?;
        for a in 0..r.cx.rank(0)? {
            r.tie(In(0, a), Out(0, a + usize::from(a >= axis)))?;
        }
        r.pin(Out(0, axis), "one index per class");
        Ok(())
    }
}

impl OpRule for Matrix {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let x = cx.shape(0)?;
        let Some(outer) = x.len().checked_sub(2) else { refuse!("a matrix of shape {x:?}") };
        Ok(vec![Some(if cx.node.op_type() == "Det" { x[..outer].to_vec() } else { x.to_vec() })])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        const REASON: &str = "the positions of a matrix";
        let rank = r.cx.rank(0)?;
        let det = r.cx.node.op_type() == "Det";
        for a in 0..rank {
            if a + 2 < rank {
                r.tie(In(0, a), Out(0, a))?;
            } else {
                r.pin(In(0, a), REASON);
                if !det {
                    r.pin(Out(0, a), REASON);
                }
            }
        }
        Ok(())
    }
}

impl OpRule for Compress {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let Some(condition) = cx.val(1) else { refuse!("what it selects is {RUN_TIME}") };
        let x = cx.shape(0)?;
        let count = |limit: usize| condition.data.iter().take(limit).filter(|&&v| v != 0.0).count();
        if cx.list("axis").is_none() {
            let n = super::cx::product(x)?;
            return Ok(vec![Some(vec![count(n)])]);
        }
        let axis = cx.axis(0, x.len())?;
        let mut out = x.to_vec();
        out[axis] = count(x[axis]);
        Ok(vec![Some(out)])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        if r.cx.list("axis").is_none() {
            refuse!("it selects among the elements of all axes");
        }
        let axis = r.cx.axis(0, r.cx.rank(0)?)?;
        r.pin(In(1, 0), "a condition per position");
        tie_but(r, 0, &[axis], "it selects along this axis")
    }
}

impl OpRule for Found {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let Some(x) = cx.val(0).filter(|_| cx.node.op_type() == "NonZero") else {
            refuse!("how much it finds is {RUN_TIME}")
        };
        Ok(vec![Some(vec![x.dims.len(), x.data.iter().filter(|&&v| v != 0.0).count()])])
    }

    fn relate(&self, _: &mut Relate) -> Answer<()> {
        refuse!("what it finds depends on all elements")
    }
}

impl CenterCropPad {
    /// `(axis, target size)` in the order of the size input.
    fn targets(cx: &NodeCx) -> Answer<Vec<(usize, usize)>> {
        let rank = cx.rank(0)?;
        let to = cx.need_ints(1, "target sizes")?;
        let axes = match cx.list("axes") {
            Some(a) => super::cx::norm_axes(&a, rank)?,
            None => (0..rank).collect(),
        };
        if axes.len() != to.len() {
            refuse!("{} target sizes for {} axes", to.len(), axes.len());
        }
        let pair = |(a, n): (usize, i64)| usize::try_from(n).map(|n| (a, n)).map_err(|_| "a negative size".into());
        axes.into_iter().zip(to).map(pair).collect()
    }
}

impl OpRule for CenterCropPad {
    fn size_slots(&self) -> &'static [usize] {
        &[1]
    }

    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let mut out = cx.shape(0)?.to_vec();
        for (a, n) in Self::targets(cx)? {
            out[a] = n;
        }
        Ok(vec![Some(out)])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        let same = |cx: &NodeCx| -> Answer<Vec<bool>> {
            Ok(cx.shape(0)?.iter().zip(cx.out_shape(0)?).map(|(x, y)| x == y).collect())
        };
        let (a, b) = (same(&r.cx)?, same(&r.other)?);
        let moved: Vec<usize> = (0..a.len()).filter(|&i| !a[i] || b.get(i) != Some(&true)).collect();
        tie_but(r, 0, &moved, "it is cropped or padded around its centre")
    }

    fn patch(&self, p: &mut super::Patch) -> Answer<()> {
        let targets = Self::targets(&p.cx)?;
        let new: Vec<Option<i64>> = targets
            .iter()
            .map(|&(a, n)| {
                let gone = p.removed(Loc::Out(0, a)).len();
                (gone > 0).then(|| (n - gone) as i64)
            })
            .collect();
        if new.iter().any(Option::is_some) {
            p.require(1, new);
        }
        Ok(())
    }
}
