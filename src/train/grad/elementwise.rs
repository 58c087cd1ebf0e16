//! Arithmetic with broadcasting, and activations.

use super::{Back, Gradient, Kind};
use crate::onnx::tensor;
use crate::ops::{Answer, NodeCx};
use crate::refuse;

/// Constants with more than one element that stand beside something computed are biases or factors of channels.
fn beside(cx: &NodeCx, kind: Kind) -> Vec<(usize, Kind)> {
    let many = |&slot: &usize| cx.shape(slot).is_ok_and(|d| d.iter().product::<usize>() > 1);
    (0..cx.n_inputs()).filter(many).map(|slot| (slot, kind)).collect()
}

/// `Add` and `Sum`.
pub struct Add;

impl Gradient for Add {
    fn backward(&self, b: &mut Back) -> Answer<()> {
        let dy = b.dy()?;
        (0..b.cx.n_inputs()).try_for_each(|slot| b.give(slot, dy))
    }

    fn parameters(&self, cx: &NodeCx) -> Vec<(usize, Kind)> {
        beside(cx, Kind::Bias)
    }
}

/// `Sub`.
pub struct Sub;

impl Gradient for Sub {
    fn backward(&self, b: &mut Back) -> Answer<()> {
        let dy = b.dy()?;
        b.give(0, dy)?;
        if b.wants(1) {
            let minus = b.t.neg(dy);
            b.give(1, minus)?;
        }
        Ok(())
    }

    fn parameters(&self, cx: &NodeCx) -> Vec<(usize, Kind)> {
        beside(cx, Kind::Bias)
    }
}

/// `Mul`.
pub struct Mul;

impl Gradient for Mul {
    fn backward(&self, b: &mut Back) -> Answer<()> {
        let dy = b.dy()?;
        for (slot, other) in [(0, 1), (1, 0)] {
            if b.wants(slot) {
                let other = b.x(other)?;
                let dx = b.t.mul(dy, other)?;
                b.give(slot, dx)?;
            }
        }
        Ok(())
    }

    fn parameters(&self, cx: &NodeCx) -> Vec<(usize, Kind)> {
        beside(cx, Kind::Norm)
    }
}

/// `Relu`.
pub struct Relu;

impl Gradient for Relu {
    fn backward(&self, b: &mut Back) -> Answer<()> {
        let (dy, y) = (b.dy()?, b.y(0)?);
        let on = b.t.above(y, 0.0)?;
        let dx = b.t.mul(dy, on)?;
        b.give(0, dx)
    }
}

/// `Div`.
pub struct Div;

impl Gradient for Div {
    fn backward(&self, b: &mut Back) -> Answer<()> {
        let (dy, divisor) = (b.dy()?, b.x(1)?);
        let da = b.t.div(dy, divisor)?;
        b.give(0, da)?;
        if b.wants(1) {
            let y = b.y(0)?;
            let along = b.t.mul(da, y)?;
            let db = b.t.neg(along);
            b.give(1, db)?;
        }
        Ok(())
    }

    fn parameters(&self, cx: &NodeCx) -> Vec<(usize, Kind)> {
        beside(cx, Kind::Norm)
    }
}

/// `Pow`.
pub struct Pow;

impl Gradient for Pow {
    fn backward(&self, b: &mut Back) -> Answer<()> {
        let (dy, x) = (b.dy()?, b.x(0)?);
        if b.wants(0) {
            let same = |v: &[f64]| v.first().copied().filter(|p| v.iter().all(|q| q == p));
            let dx = match b.cx.val(1).and_then(|v| same(&v.data)) {
                Some(2.0) => {
                    let slope = b.t.scale(x, 2.0)?;
                    b.t.mul(dy, slope)?
                }
                Some(3.0) => {
                    let square = b.t.square(x)?;
                    let slope = b.t.scale(square, 3.0)?;
                    b.t.mul(dy, slope)?
                }
                Some(0.5) => {
                    let y = b.y(0)?;
                    let half = b.t.scale(dy, 0.5)?;
                    b.t.div(half, y)?
                }
                Some(p) => {
                    let less = b.t.scalar(p - 1.0)?;
                    let power = b.t.binary("Pow", x, less)?;
                    let slope = b.t.scale(power, p)?;
                    b.t.mul(dy, slope)?
                }
                None => {
                    // Exponents may be integers.
                    let p = b.x(1)?;
                    let p = b.t.to_float(p);
                    let less = b.t.add_scalar(p, -1.0)?;
                    let power = b.t.binary("Pow", x, less)?;
                    let slope = b.t.mul(power, p)?;
                    b.t.mul(dy, slope)?
                }
            };
            b.give(0, dx)?;
        }
        if b.wants(1) {
            let y = b.y(0)?;
            let log = b.t.unary("Log", x);
            let slope = b.t.mul(y, log)?;
            let dp = b.t.mul(dy, slope)?;
            b.give(1, dp)?;
        }
        Ok(())
    }
}

/// `Min` and `Max` of any number of tensors. Those that are equally extreme share the gradient.
pub struct Extreme;

impl Gradient for Extreme {
    fn backward(&self, b: &mut Back) -> Answer<()> {
        let (dy, y) = (b.dy()?, b.y(0)?);
        let mut reached = Vec::new();
        for slot in 0..b.cx.n_inputs() {
            let x = b.x(slot)?;
            reached.push(b.t.equal(x, y)?);
        }
        let number = b.t.sum_of(&reached)?;
        let share = b.t.div(dy, number)?;
        for (slot, on) in reached.into_iter().enumerate() {
            if b.wants(slot) {
                let dx = b.t.mul(share, on)?;
                b.give(slot, dx)?;
            }
        }
        Ok(())
    }
}

/// `Mean` of any number of tensors.
pub struct Mean;

impl Gradient for Mean {
    fn backward(&self, b: &mut Back) -> Answer<()> {
        let dy = b.dy()?;
        let n = b.cx.n_inputs();
        let share = b.t.scale(dy, 1.0 / n.max(1) as f64)?;
        (0..n).try_for_each(|slot| b.give(slot, share))
    }
}

/// `Where`.
pub struct Where;

impl Gradient for Where {
    fn backward(&self, b: &mut Back) -> Answer<()> {
        let (dy, condition) = (b.dy()?, b.x(0)?);
        let on = b.t.to_float(condition);
        let first = b.t.mul(dy, on)?;
        b.give(1, first)?;
        if b.wants(2) {
            let second = b.t.sub(dy, first)?;
            b.give(2, second)?;
        }
        Ok(())
    }
}

/// `Identity`.
pub struct Identity;

impl Gradient for Identity {
    fn backward(&self, b: &mut Back) -> Answer<()> {
        let dy = b.dy()?;
        b.give(0, dy)
    }
}

/// `Cast`. What becomes an integer changes only in jumps.
pub struct Cast;

impl Gradient for Cast {
    fn backward(&self, b: &mut Back) -> Answer<()> {
        let to = b.cx.int("to", 0);
        if to == i64::from(b.t.elem()) {
            let dy = b.dy()?;
            return b.give(0, dy);
        }
        if i32::try_from(to).is_ok_and(tensor::is_float) {
            refuse!("it casts to another type of numbers");
        }
        Ok(())
    }
}
