//! Fourier transforms and what goes with them: frequencies and positions are not channels.

use super::cx::{Answer, NodeCx, norm_axis};
use super::relate::{In, Out, Relate};
use super::{OpRule, Shapes};
use crate::refuse;

pub(super) const DFT: &[&str] = &["DFT"];
pub(super) const STFT: &[&str] = &["STFT"];
pub(super) const WINDOW: &[&str] = &["HannWindow", "HammingWindow", "BlackmanWindow", "MelWeightMatrix"];

/// Discrete Fourier transform along one axis.
pub struct Dft;
/// Discrete Fourier transform of sliding frames.
pub struct Stft;
/// Windows and filter banks of a computed size.
pub struct SpectralWindow;

/// One size among the inputs.
fn scalar(cx: &NodeCx, slot: usize, what: &str) -> Answer<usize> {
    let v = cx.need_ints(slot, what)?;
    let Some(n) = v.first().and_then(|&n| usize::try_from(n).ok()) else { refuse!("its {what} is {v:?}") };
    Ok(n)
}

impl Dft {
    /// The transformed axis: an input since opset 20.
    fn axis(cx: &NodeCx) -> Answer<usize> {
        let rank = cx.rank(0)?;
        let axis = match cx.has(2) {
            true => cx.need_ints(2, "axis")?.first().copied().unwrap_or(-2),
            false => cx.int("axis", if cx.opset < 20 { 1 } else { -2 }),
        };
        let axis = norm_axis(axis, rank)?;
        if axis + 1 == rank {
            refuse!("a transform along the axis of real and imaginary parts");
        }
        Ok(axis)
    }
}

impl OpRule for Dft {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let mut out = cx.shape(0)?.to_vec();
        let axis = Self::axis(cx)?;
        let (inverse, onesided) = (cx.int("inverse", 0) != 0, cx.int("onesided", 0) != 0);
        let n = match (cx.has(1), inverse && onesided) {
            (true, _) => scalar(cx, 1, "length")?,
            (false, true) => out[axis].saturating_sub(1).saturating_mul(2),
            (false, false) => out[axis],
        };
        out[axis] = if onesided && !inverse { n / 2 + 1 } else { n };
        if let Some(last) = out.last_mut() {
            *last = if onesided && inverse { 1 } else { 2 };
        }
        Ok(vec![Some(out)])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        let axis = Self::axis(&r.cx)?;
        let rank = r.cx.rank(0)?;
        for a in 0..rank {
            if a == axis || a + 1 == rank {
                r.pin(In(0, a), "a Fourier transform runs over this axis");
                r.pin(Out(0, a), "a Fourier transform runs over this axis");
            } else {
                r.tie(In(0, a), Out(0, a))?;
            }
        }
        Ok(())
    }
}

impl OpRule for Stft {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let x = cx.shape(0)?;
        let (&batch, &length) = match x {
            [n, l] | [n, l, _] => (n, l),
            _ => refuse!("a signal of shape {x:?}"),
        };
        let step = scalar(cx, 1, "step")?;
        let frame = match (cx.has(3), cx.has(2)) {
            (true, _) => scalar(cx, 3, "frame length")?,
            (false, true) => cx.shape(2)?.first().copied().unwrap_or(0),
            (false, false) => length,
        };
        if step == 0 {
            refuse!("a step of zero");
        }
        let frames = length.checked_sub(frame).map_or(0, |rest| rest / step + 1);
        let bins = if cx.int("onesided", 1) != 0 { frame / 2 + 1 } else { frame };
        Ok(vec![Some(vec![batch, frames, bins, 2])])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        r.tie(In(0, 0), Out(0, 0))?;
        for a in 1..r.cx.rank(0)? {
            r.pin(In(0, a), "a Fourier transform runs over this axis");
        }
        for a in 1..4 {
            r.pin(Out(0, a), "a Fourier transform runs over this axis");
        }
        Ok(())
    }
}

impl OpRule for SpectralWindow {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let n = scalar(cx, 0, "size")?;
        if cx.node.op_type() == "MelWeightMatrix" {
            return Ok(vec![Some(vec![scalar(cx, 1, "length")? / 2 + 1, n])]);
        }
        Ok(vec![Some(vec![n])])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        for a in 0..r.cx.out_shape(0)?.len() {
            r.pin(Out(0, a), "a window counts its own positions");
        }
        Ok(())
    }
}
