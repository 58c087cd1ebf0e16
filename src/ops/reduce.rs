//! Reductions: over other axes they keep channels apart, over the channel axis they pin it.

use super::cx::{Answer, NodeCx, norm_axes, norm_axis};
use super::relate::{In, Out, Relate};
use super::{OpRule, Shapes};

pub(super) const REDUCE: &[&str] = &[
    "ReduceMean",
    "ReduceSum",
    "ReduceMax",
    "ReduceMin",
    "ReduceProd",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceSumSquare",
];
pub(super) const ARG: &[&str] = &["ArgMax", "ArgMin"];
pub(super) const CUMSUM: &[&str] = &["CumSum"];

/// `Reduce*`.
pub struct Reduce;
/// `ArgMax`, `ArgMin`.
pub struct Arg;
/// Running sum along an axis.
pub struct CumSum;

fn reduced(cx: &NodeCx) -> Answer<Vec<usize>> {
    let rank = cx.rank(0)?;
    match cx.list_or_input("axes", 1)? {
        Some(axes) if !axes.is_empty() => norm_axes(&axes, rank),
        _ if cx.int("noop_with_empty_axes", 0) != 0 => Ok(vec![]),
        _ => Ok((0..rank).collect()),
    }
}

fn shape_without(x: &[usize], axes: &[usize], keep: bool) -> Vec<usize> {
    x.iter().enumerate().filter_map(|(a, &d)| if !axes.contains(&a) { Some(d) } else { keep.then_some(1) }).collect()
}

fn relate_reduced(r: &mut Relate, axes: &[usize]) -> Answer<()> {
    let keep = r.cx.int("keepdims", 1) != 0;
    let mut o = 0;
    for a in 0..r.cx.rank(0)? {
        if axes.contains(&a) {
            r.pin(In(0, a), "a reduction runs over this axis");
            o += usize::from(keep);
        } else {
            r.tie(In(0, a), Out(0, o))?;
            o += 1;
        }
    }
    Ok(())
}

impl OpRule for Reduce {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let axes = reduced(cx)?;
        Ok(vec![Some(shape_without(cx.shape(0)?, &axes, cx.int("keepdims", 1) != 0))])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        let axes = reduced(&r.cx)?;
        relate_reduced(r, &axes)
    }
}

impl OpRule for Arg {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let axis = cx.axis(0, cx.rank(0)?)?;
        Ok(vec![Some(shape_without(cx.shape(0)?, &[axis], cx.int("keepdims", 1) != 0))])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        let axis = r.cx.axis(0, r.cx.rank(0)?)?;
        relate_reduced(r, &[axis])
    }
}

impl OpRule for CumSum {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        Ok(vec![Some(cx.shape(0)?.to_vec())])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        let axis = r.cx.need_ints(1, "axis")?;
        let axis = norm_axis(axis.first().copied().unwrap_or(0), r.cx.rank(0)?)?;
        for a in 0..r.cx.rank(0)? {
            if a == axis {
                r.pin(In(0, a), "a running sum goes along this axis");
                r.pin(Out(0, a), "a running sum goes along this axis");
            } else {
                r.tie(In(0, a), Out(0, a))?;
            }
        }
        Ok(())
    }
}
