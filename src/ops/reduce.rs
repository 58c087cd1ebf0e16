//! Reductions: over other axes they keep channels apart, over the channel axis they pin it.

use super::cx::{Answer, NodeCx, norm_axes, norm_axis};
use super::elementwise;
use super::relate::{In, Out, Relate, Repair};
use super::{OpRule, Shapes};
use crate::graph::Origin;

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
pub(super) const CUMSUM: &[&str] = &["CumSum", "CumProd"];

/// `Reduce*`.
pub struct Reduce;
/// `ArgMax`, `ArgMin`.
pub struct Arg;
/// Running sum or product along an axis.
pub struct CumSum;

pub(crate) fn reduced(cx: &NodeCx) -> Answer<Vec<usize>> {
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
        if let &[axis] = axes.as_slice()
            && r.policy.approximate_norm
            && r.cx.int("keepdims", 1) != 0
            && let Some(repair) = statistic(&r.cx, axis)
        {
            for a in (0..r.cx.rank(0)?).filter(|&a| a != axis) {
                r.tie(In(0, a), Out(0, a))?;
            }
            r.approximate(In(0, axis), repair);
            return Ok(());
        }
        relate_reduced(r, &axes)
    }
}

/// What a reduction over channels computes for a normalisation; `None` when it is none: when it does not come back, through
/// element-wise operators alone, to the channels that it was taken over.
fn statistic(cx: &NodeCx, axis: usize) -> Option<Repair> {
    if !comes_back(cx, axis) {
        return None;
    }
    let g = cx.graph;
    let from = g.input(cx.id, 0).map(|v| g.value(v).origin);
    let before = match from {
        Some(Origin::Node(n, 0)) => Some(n),
        _ => None,
    };
    let op = before.map(|n| g.node(n).op_type());
    let squares = before.is_some_and(|n| match g.node(n).op_type() {
        "Mul" => g.input(n, 0) == g.input(n, 1),
        "Pow" => g.input(n, 1).and_then(|v| cx.lane.vals[v.0 as usize].as_ref()).is_some_and(|v| v.data == [2.0]),
        _ => false,
    });
    match cx.node.op_type() {
        "ReduceMean" if squares => Some(Repair::MeanSquare),
        "ReduceMean" if matches!(op, Some("ReduceL2" | "ReduceL1" | "Abs" | "Sqrt")) => Some(Repair::MeanMagnitude),
        "ReduceMean" => Some(Repair::Nothing),
        "ReduceL2" => Some(Repair::Norm),
        _ => None,
    }
}

/// How many operators a statistic may pass on its way back.
const WAY: usize = 8;

fn comes_back(cx: &NodeCx, axis: usize) -> bool {
    let (Ok(x), Some(out)) = (cx.shape(0), cx.graph.output(cx.id, 0)) else { return false };
    let Some(&channels) = x.get(axis) else { return false };
    let g = cx.graph;
    let mut open = vec![(out, 0)];
    while let Some((v, depth)) = open.pop() {
        let value = g.value(v);
        if depth > WAY || value.is_output || value.captured_by.is_some() || value.readers.is_empty() {
            return false;
        }
        for &(n, _) in &value.readers {
            let op = g.node(n).op_type();
            let elementwise = elementwise::UNARY.contains(&op) || elementwise::BROADCAST.contains(&op);
            let (Some(y), true) = (g.output(n, 0), elementwise) else { return false };
            let other = g.nodes[n.0 as usize].inputs.iter().flatten().any(|&i| {
                let shape = cx.lane.shapes[i.0 as usize].as_ref();
                i != v && g.constant(i).is_none() && shape.is_some_and(|s| s.len() == x.len() && s[axis] == channels)
            });
            if !other {
                open.push((y, depth + 1));
            }
        }
    }
    true
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
                r.pin(In(0, a), "a running total goes along this axis");
                r.pin(Out(0, a), "a running total goes along this axis");
            } else {
                r.tie(In(0, a), Out(0, a))?;
            }
        }
        Ok(())
    }
}
