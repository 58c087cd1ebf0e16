//! Arithmetic with broadcasting, and activations.

use super::{Back, Gradient, Kind};
use crate::ops::{Answer, NodeCx};

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
