//! Reductions over axes, and what normalises along one.

use super::{Back, Gradient};
use crate::ops::cx::{NodeCx, norm_axes, norm_axis};
use crate::ops::{Answer, reduce::reduced};
use crate::refuse;
use crate::train::tape::{Tape, Var, int};

/// `ReduceSum` and the others.
pub struct Reduce;

/// Its operators.
pub const REDUCTIONS: &[&str] = &[
    "ReduceSum",
    "ReduceMean",
    "ReduceMax",
    "ReduceMin",
    "ReduceSumSquare",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
];

/// Added to a norm that may be 0; what it divides is 0 then.
const TINY: f64 = 1e-30;

impl Gradient for Reduce {
    fn backward(&self, b: &mut Back) -> Answer<()> {
        let (dy, x) = (b.dy()?, b.x(0)?);
        let xd = b.t.dims(x).to_vec();
        let axes = reduced(&b.cx)?;
        let kept: Vec<usize> = xd.iter().enumerate().map(|(a, &d)| if axes.contains(&a) { 1 } else { d }).collect();
        let n: usize = axes.iter().map(|&a| xd[a]).product();
        let dy = b.t.reshape(dy, &kept)?;
        let y = |b: &mut Back| {
            let y = b.y(0)?;
            b.t.reshape(y, &kept)
        };
        let dx = match b.cx.node.op_type() {
            "ReduceSum" => b.t.expand(dy, &xd)?,
            "ReduceMean" => {
                let share = b.t.scale(dy, 1.0 / n.max(1) as f64)?;
                b.t.expand(share, &xd)?
            }
            "ReduceMax" | "ReduceMin" => {
                // Equal extremes share.
                let y = y(b)?;
                let on = b.t.equal(x, y)?;
                let number = b.t.sum(on, &axes, true)?;
                let share = b.t.div(dy, number)?;
                b.t.mul(on, share)?
            }
            "ReduceSumSquare" => {
                let double = b.t.scale(dy, 2.0)?;
                b.t.mul(x, double)?
            }
            "ReduceL1" => {
                let sign = b.t.sign(x)?;
                b.t.mul(sign, dy)?
            }
            "ReduceL2" => {
                let y = y(b)?;
                let y = b.t.add_scalar(y, TINY)?;
                let share = b.t.div(dy, y)?;
                b.t.mul(x, share)?
            }
            "ReduceLogSum" => {
                let sum = b.t.sum(x, &axes, true)?;
                let share = b.t.div(dy, sum)?;
                b.t.expand(share, &xd)?
            }
            "ReduceLogSumExp" => {
                let y = y(b)?;
                let below = b.t.sub(x, y)?;
                let part = b.t.unary("Exp", below);
                b.t.mul(part, dy)?
            }
            other => refuse!("{other} has no gradient"),
        };
        b.give(0, dx)
    }
}

/// `Softmax`.
pub struct Softmax;
/// `LogSoftmax`.
pub struct LogSoftmax;

/// The axes that sum to one. Before operator set 13 those were all from `axis` on.
fn normalised(cx: &NodeCx) -> Answer<Vec<usize>> {
    let rank = cx.rank(0)?;
    if cx.opset < 13 {
        let axis = cx.int("axis", 1);
        let from = if axis == rank as i64 { rank } else { norm_axis(axis, rank)? };
        return Ok((from..rank).collect());
    }
    Ok(vec![cx.axis(-1, rank)?])
}

impl Gradient for Softmax {
    fn backward(&self, b: &mut Back) -> Answer<()> {
        let (dy, y) = (b.dy()?, b.y(0)?);
        let axes = normalised(&b.cx)?;
        let along = b.t.mul(dy, y)?;
        let sum = b.t.sum(along, &axes, true)?;
        let rest = b.t.sub(dy, sum)?;
        let dx = b.t.mul(y, rest)?;
        b.give(0, dx)
    }
}

impl Gradient for LogSoftmax {
    fn backward(&self, b: &mut Back) -> Answer<()> {
        let (dy, y) = (b.dy()?, b.y(0)?);
        let axes = normalised(&b.cx)?;
        let sum = b.t.sum(dy, &axes, true)?;
        let part = b.t.unary("Exp", y);
        let part = b.t.mul(part, sum)?;
        let dx = b.t.sub(dy, part)?;
        b.give(0, dx)
    }
}

/// `LpNormalization`: `x / ‖x‖` along an axis.
pub struct LpNormalization;

impl Gradient for LpNormalization {
    fn backward(&self, b: &mut Back) -> Answer<()> {
        let (dy, x, y) = (b.dy()?, b.x(0)?, b.y(0)?);
        let axes = norm_axes(&[b.cx.int("axis", -1)], b.cx.rank(0)?)?;
        let (norm, direction) = match b.cx.int("p", 2) {
            1 => {
                let size = b.t.unary("Abs", x);
                (b.t.sum(size, &axes, true)?, b.t.sign(x)?)
            }
            2 => (root_of_squares(b.t, x, &axes)?, y),
            p => refuse!("its p is {p}"),
        };
        let along = b.t.mul(dy, y)?;
        let sum = b.t.sum(along, &axes, true)?;
        let part = b.t.mul(direction, sum)?;
        let rest = b.t.sub(dy, part)?;
        let norm = b.t.add_scalar(norm, TINY)?;
        let dx = b.t.div(rest, norm)?;
        b.give(0, dx)
    }
}

fn root_of_squares(t: &mut Tape, x: Var, axes: &[usize]) -> Answer<Var> {
    let squares = t.square(x)?;
    let sum = t.sum(squares, axes, true)?;
    Ok(t.unary("Sqrt", sum))
}

/// `CumSum`: the other way round.
pub struct CumSum;

impl Gradient for CumSum {
    fn backward(&self, b: &mut Back) -> Answer<()> {
        let (dy, axis) = (b.dy()?, b.x(1)?);
        let flag = |b: &Back, name| i64::from(b.cx.int(name, 0) != 0);
        let attributes = vec![int("exclusive", flag(b, "exclusive")), int("reverse", 1 - flag(b, "reverse"))];
        let dims = b.t.dims(dy).to_vec();
        let dx = b.t.node("CumSum", &[dy, axis], attributes, dims);
        b.give(0, dx)
    }
}
