//! Deformable convolution: a convolution whose taps are moved by an input.

use super::conv::{Conv, Window, group, spatial};
use super::cx::{Answer, NodeCx};
use super::relate::{In, Out, Relate};
use super::{OpRule, Patch, Shapes};
use crate::channels::model::Role;
use crate::refuse;

pub(super) const DEFORM_CONV: &[&str] = &["DeformConv"];

/// `DeformConv`: `X[N,C,…]`, `W[M,C/group,…]`, `offset[N,offset_group·taps·n,…]`, `B[M]`, `mask[N,offset_group·taps,…]`.
pub struct DeformConv;

const OFFSET: usize = 2;
const BIAS: usize = 3;
const MASK: usize = 4;

/// Number of parts of the input channels that have offsets of their own.
fn offset_groups(cx: &NodeCx) -> Answer<usize> {
    match usize::try_from(cx.int("offset_group", 1)) {
        Ok(g) if g > 0 => Ok(g),
        _ => refuse!("offset_group is {}", cx.int("offset_group", 1)),
    }
}

impl OpRule for DeformConv {
    fn weight_slots(&self) -> &'static [usize] {
        &[1]
    }

    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let (x, w, offset) = (cx.shape(0)?, cx.shape(1)?, cx.shape(OFFSET)?);
        if x.len() < 3 || w.len() != x.len() || offset.len() != x.len() {
            refuse!("input {x:?}, weight {w:?} and offset {offset:?} differ in rank");
        }
        let (g, parts) = (group(cx)?, offset_groups(cx)?);
        if w[1].checked_mul(g) != Some(x[1]) || w[0] % g != 0 || x[1] % parts != 0 {
            refuse!("weight {w:?} does not fit {} input channels in {g} group(s), {parts} with offsets", x[1]);
        }
        let win = Window::read(cx, &w[2..])?;
        let mut out = vec![x[0], w[0]];
        for i in 0..x.len() - 2 {
            out.push(win.output(i, x[i + 2], false)?);
        }
        Ok(vec![Some(out)])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        const SLIDES: &str = "a convolution slides over this axis";
        let (x, w) = (r.cx.shape(0)?, r.cx.shape(1)?);
        let (g, out) = (group(&r.cx)?, r.cx.out_shape(0)?);
        let taps = spatial(w) * spatial(out);
        for a in 2..x.len() {
            for loc in [In(0, a), In(1, a), In(OFFSET, a), Out(0, a)] {
                r.pin(loc, SLIDES);
            }
        }
        r.tie(In(0, 0), Out(0, 0))?;
        for slot in [OFFSET, MASK] {
            if r.cx.has(slot) {
                r.tie(In(slot, 0), Out(0, 0))?;
                r.pin(In(slot, 1), "one offset or factor per tap of the kernel");
                for a in 2..r.cx.rank(slot)? {
                    r.pin(In(slot, a), SLIDES);
                }
            }
        }
        r.tie(In(1, 0), Out(0, 1))?;
        r.site(Role::Producer, 1, 0);
        if r.cx.has(BIAS) {
            r.tie(In(BIAS, 0), Out(0, 1))?;
            r.site(Role::Bias, BIAS, 0);
        }
        if offset_groups(&r.cx)? != 1 {
            r.pin(In(0, 1), "parts of these channels have offsets of their own");
        }
        if g == 1 {
            if r.is_weight(1) {
                r.contract(1, 1);
            } else {
                r.pin(In(1, 1), "the convolution's weight is computed from the input");
            }
            r.tie(In(0, 1), In(1, 1))?;
            r.macs(taps, &[Out(0, 0), Out(0, 1), In(0, 1)])
        } else if w[1] == 1 {
            let m = w[0] / g;
            r.tie_map(In(0, 1), Out(0, 1), (0..w[0]).map(|o| (o / m.max(1), o)))?;
            r.macs(taps, &[Out(0, 0), Out(0, 1)])
        } else {
            // The outputs of a group would have to leave in equal numbers, too.
            for loc in [In(0, 1), In(1, 1), Out(0, 1)] {
                r.pin(loc, "the groups of a deformable convolution");
            }
            r.macs(taps / g as f64, &[Out(0, 0), Out(0, 1), In(0, 1)])
        }
    }

    fn patch(&self, p: &mut Patch) -> Answer<()> {
        Conv.patch(p)
    }
}
