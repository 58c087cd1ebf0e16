//! Operators on quantised tensors that keep channels apart, of `com.microsoft`.
//!
//! Their scales and zero points have one element each, so that only the tensors themselves lose anything.

use super::conv::Window;
use super::cx::{Answer, NodeCx, broadcast, norm_axis};
use super::quantized::scalars;
use super::relate::{In, Out, Relate};
use super::{OpRule, Shapes};
use crate::channels::model::Role;
use crate::refuse;

pub(super) const POINTWISE: &[&str] = &[
    "com.microsoft:QLinearAdd",
    "com.microsoft:QLinearMul",
    "com.microsoft:QLinearWhere",
    "com.microsoft:QLinearLeakyRelu",
    "com.microsoft:QLinearSigmoid",
];
pub(super) const POOL: &[&str] =
    &["com.microsoft:QLinearGlobalAveragePool", "com.microsoft:QLinearAveragePool", "com.microsoft:NhwcMaxPool"];
pub(super) const CONCAT: &[&str] = &["com.microsoft:QLinearConcat"];
pub(super) const SOFTMAX: &[&str] = &["com.microsoft:QLinearSoftmax"];

/// One or two tensors (and a condition), element by element, with broadcasting.
pub struct Pointwise;
/// Pooling, with the channels second or last.
pub struct QuantPool;
/// Joins tensors along one axis.
pub struct QuantConcat;
/// Softmax of a quantised tensor.
pub struct QuantSoftmax;

/// The slots that hold tensors; the others hold scales and zero points.
fn tensors(cx: &NodeCx) -> &'static [usize] {
    match cx.node.op_type() {
        "QLinearAdd" | "QLinearMul" => &[0, 3],
        "QLinearWhere" => &[0, 1, 4],
        _ => &[0],
    }
}

/// Slots other than these.
fn others(cx: &NodeCx, slots: &[usize]) -> Vec<usize> {
    (0..cx.n_inputs()).filter(|s| !slots.contains(s)).collect()
}

impl OpRule for Pointwise {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let shapes: Answer<Vec<&[usize]>> = tensors(cx).iter().map(|&s| cx.shape(s)).collect();
        Ok(vec![Some(broadcast(&shapes?)?)])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        let slots = tensors(&r.cx);
        scalars(r, &others(&r.cx, slots))?;
        let out = r.cx.out_shape(0)?;
        for &s in slots {
            let dims = r.cx.shape(s)?;
            for (a, &d) in dims.iter().enumerate() {
                let o = out.len() - dims.len() + a;
                if d == out[o] {
                    r.tie(In(s, a), Out(0, o))?;
                    r.site(Role::PerChannel, s, a);
                }
            }
        }
        for o in 0..out.len() {
            r.free(Out(0, o));
        }
        Ok(())
    }
}

/// Position of the channels.
fn channel_axis(cx: &NodeCx) -> Answer<usize> {
    let rank = cx.rank(0)?;
    if rank < 3 {
        refuse!("input of rank {rank}");
    }
    let last = cx.node.op_type() == "NhwcMaxPool" || cx.int("channels_last", 0) != 0;
    Ok(if last { rank - 1 } else { 1 })
}

impl OpRule for QuantPool {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let at = channel_axis(cx)?;
        let x = cx.shape(0)?;
        let mut out = x.to_vec();
        let spatial: Vec<usize> = (1..x.len()).filter(|&a| a != at).collect();
        if cx.node.op_type() == "QLinearGlobalAveragePool" {
            spatial.iter().for_each(|&a| out[a] = 1);
            return Ok(vec![Some(out)]);
        }
        let win = Window::read(cx, &vec![1; spatial.len()])?;
        for (i, &a) in spatial.iter().enumerate() {
            out[a] = win.output(i, x[a], cx.int("ceil_mode", 0) != 0)?;
        }
        Ok(vec![Some(out)])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        scalars(r, &others(&r.cx, &[0]))?;
        let at = channel_axis(&r.cx)?;
        for a in 0..r.cx.rank(0)? {
            if a == 0 || a == at {
                r.tie(In(0, a), Out(0, a))?;
            } else {
                r.pin(In(0, a), "pooling runs over this axis");
                r.pin(Out(0, a), "pooling runs over this axis");
            }
        }
        Ok(())
    }
}

/// Slots of the joined tensors: after scale and zero point of the output, each is followed by its own.
fn parts(cx: &NodeCx) -> Answer<Vec<usize>> {
    let slots: Vec<usize> = (2..cx.n_inputs()).step_by(3).collect();
    if slots.is_empty() || cx.n_inputs() % 3 != 2 {
        refuse!("{} inputs", cx.n_inputs());
    }
    Ok(slots)
}

impl OpRule for QuantConcat {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let slots = parts(cx)?;
        let mut out = cx.shape(slots[0])?.to_vec();
        let axis = cx.axis(1, out.len())?;
        for &s in &slots[1..] {
            let d = cx.shape(s)?;
            if d.len() != out.len() || d.iter().zip(&out).enumerate().any(|(a, (x, y))| a != axis && x != y) {
                refuse!("inputs {:?} and {d:?} do not fit along axis {axis}", cx.shape(slots[0])?);
            }
            out[axis] = out[axis].checked_add(d[axis]).ok_or("axis overflows")?;
        }
        Ok(vec![Some(out)])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        let slots = parts(&r.cx)?;
        scalars(r, &others(&r.cx, &slots))?;
        let rank = r.cx.rank(slots[0])?;
        let axis = r.cx.axis(1, rank)?;
        let fixed = slots.iter().all(|&s| r.fixed(In(s, axis)));
        let mut at = 0;
        for &s in &slots {
            let n = r.size(In(s, axis))?;
            for a in (0..rank).filter(|&a| a != axis) {
                r.tie(In(s, a), Out(0, a))?;
            }
            if !fixed {
                r.pin(In(s, axis), "it is joined with parts of dynamic size");
                r.pin(Out(0, axis), "it is joined with parts of dynamic size");
            } else if n == 1 && r.axis_id(Out(0, axis)).is_some() {
                r.pin_index(Out(0, axis), at, "it comes from a tensor with a single channel");
            } else if n > 0 {
                r.tie_span(In(s, axis), 0, Out(0, axis), at, n)?;
            }
            at += n;
        }
        Ok(())
    }
}

impl OpRule for QuantSoftmax {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        Ok(vec![Some(cx.shape(0)?.to_vec())])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        scalars(r, &others(&r.cx, &[0]))?;
        let rank = r.cx.rank(0)?;
        let axis = norm_axis(r.cx.int("axis", -1), rank)?;
        // Before opset 13 the axes from `axis` on are flattened and normalised together.
        let end = if r.cx.int("opset", r.cx.opset) < 13 { rank } else { axis + 1 };
        for a in 0..rank {
            if (axis..end).contains(&a) {
                r.pin(In(0, a), super::norm::STATISTIC);
                r.pin(Out(0, a), super::norm::STATISTIC);
            } else {
                r.tie(In(0, a), Out(0, a))?;
            }
        }
        Ok(())
    }
}
