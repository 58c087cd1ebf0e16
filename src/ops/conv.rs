//! Convolutions in any number of dimensions: plain, depthwise, grouped, transposed.

use super::cx::{Answer, NodeCx};
use super::patch::Patch;
use super::relate::{In, Out, Relate, Repair};
use super::{OpRule, Shapes};
use crate::channels::model::Role;
use crate::refuse;

pub(super) const CONV: &[&str] = &["Conv"];
pub(super) const CONV_TRANSPOSE: &[&str] = &["ConvTranspose"];

/// `Conv`: `X[N,C,…]`, `W[M,C/group,…]`, `B[M]`.
pub struct Conv;
/// `ConvTranspose`: `X[N,C,…]`, `W[C,M/group,…]`, `B[M]`.
pub struct ConvTranspose;

/// A sliding window's attributes, one entry per spatial axis.
pub(crate) struct Window {
    pub kernel: Vec<usize>,
    pub strides: Vec<usize>,
    pub dilations: Vec<usize>,
    /// Begin and end padding; `None` under `auto_pad = SAME_*`.
    pub pads: Option<Vec<(usize, usize)>>,
}

fn positive(list: Option<Vec<i64>>, n: usize, default: usize, what: &str) -> Answer<Vec<usize>> {
    let Some(list) = list.filter(|l| !l.is_empty()) else { return Ok(vec![default; n]) };
    if list.len() != n {
        refuse!("{what} has {} entries, expected {n}", list.len());
    }
    let mut out = Vec::with_capacity(n);
    for v in list {
        match usize::try_from(v) {
            Ok(v) if v < 1 << 31 => out.push(v),
            _ => refuse!("{what} contains {v}"),
        }
    }
    Ok(out)
}

impl Window {
    pub fn read(cx: &NodeCx, kernel: &[usize]) -> Answer<Self> {
        let n = kernel.len();
        let kernel = match cx.list("kernel_shape") {
            Some(k) if !k.is_empty() => positive(Some(k), n, 1, "kernel_shape")?,
            _ => kernel.to_vec(),
        };
        let strides = positive(cx.list("strides"), n, 1, "strides")?;
        let dilations = positive(cx.list("dilations"), n, 1, "dilations")?;
        if strides.contains(&0) || dilations.contains(&0) || kernel.contains(&0) {
            refuse!("a stride, dilation or kernel size is zero");
        }
        let pads = match cx.string("auto_pad").unwrap_or("NOTSET") {
            "NOTSET" => {
                let p = positive(cx.list("pads"), 2 * n, 0, "pads")?;
                Some((0..n).map(|i| (p[i], p[n + i])).collect())
            }
            "VALID" => Some(vec![(0, 0); n]),
            "SAME_UPPER" | "SAME_LOWER" => None,
            other => refuse!("auto_pad {other:?} is not known"),
        };
        Ok(Window { kernel, strides, dilations, pads })
    }

    /// Output size of one spatial axis of a convolution or pooling.
    pub fn output(&self, i: usize, size: usize, ceil: bool) -> Answer<usize> {
        let Some(pads) = &self.pads else { return Ok(size.div_ceil(self.strides[i])) };
        let extent = (self.kernel[i] - 1) * self.dilations[i] + 1;
        let padded = size + pads[i].0 + pads[i].1;
        if padded < extent {
            refuse!("the window of {extent} is larger than the padded input of {padded}");
        }
        let span = padded - extent;
        let mut n = if ceil { span.div_ceil(self.strides[i]) } else { span / self.strides[i] } + 1;
        // A last window that would start in the end padding is dropped.
        if ceil && (n - 1) * self.strides[i] >= size + pads[i].0 {
            n -= 1;
        }
        Ok(n)
    }
}

pub(crate) fn group(cx: &NodeCx) -> Answer<usize> {
    match usize::try_from(cx.int("group", 1)) {
        Ok(g) if g > 0 => Ok(g),
        _ => refuse!("group is {}", cx.int("group", 1)),
    }
}

/// Pins every spatial axis of input, weight and output: positions are not channels.
fn pin_spatial(r: &mut Relate) -> Answer<()> {
    for a in 2..r.cx.rank(0)? {
        for loc in [In(0, a), In(1, a), Out(0, a)] {
            r.pin(loc, "a convolution slides over this axis");
        }
    }
    Ok(())
}

/// A weight that depends on the input has no place for the oracle's zeros.
fn pin_runtime_weight(r: &mut Relate, axis: usize) {
    if !r.is_weight(1) {
        r.pin(In(1, axis), "the convolution's weight is computed from the input");
    }
}

pub(super) fn spatial(dims: &[usize]) -> f64 {
    dims.iter().skip(2).map(|&d| d as f64).product()
}

impl OpRule for Conv {
    fn weight_slots(&self) -> &'static [usize] {
        &[1]
    }

    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let (x, w) = (cx.shape(0)?, cx.shape(1)?);
        if x.len() < 3 || w.len() != x.len() {
            refuse!("input of rank {} and weight of rank {} do not fit", x.len(), w.len());
        }
        let g = group(cx)?;
        if w[1].checked_mul(g) != Some(x[1]) || w[0] % g != 0 {
            refuse!("weight {w:?} does not fit {} input channels in {g} group(s)", x[1]);
        }
        let win = Window::read(cx, &w[2..])?;
        let mut out = vec![x[0], w[0]];
        for i in 0..x.len() - 2 {
            out.push(win.output(i, x[i + 2], false)?);
        }
        Ok(vec![Some(out)])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        let (x, w) = (r.cx.shape(0)?, r.cx.shape(1)?);
        let (g, out) = (group(&r.cx)?, r.cx.out_shape(0)?);
        let taps = spatial(w) * spatial(out);
        if r.policy.approximate_norm && x.len() == 3 && x[..] == out[..] && w[..2] == [1, 1] && x[1] == 1 {
            // Channel attention slides a window over the channels themselves.
            r.tie(In(0, 2), Out(0, 2))?;
            r.approximate(In(0, 2), Repair::Nothing);
            r.pin(In(1, 2), "a convolution slides over this axis");
        } else {
            pin_spatial(r)?;
        }
        pin_runtime_weight(r, 1);
        r.tie(In(0, 0), Out(0, 0))?;
        r.tie(In(1, 0), Out(0, 1))?;
        r.site(Role::Producer, 1, 0);
        if r.cx.has(2) {
            r.tie(In(2, 0), Out(0, 1))?;
            r.site(Role::Bias, 2, 0);
        }
        if g == 1 {
            r.tie(In(0, 1), In(1, 1))?;
            r.contract(1, 1);
            r.macs(taps, &[Out(0, 0), Out(0, 1), In(0, 1)])
        } else if w[1] == 1 {
            let m = w[0] / g;
            r.tie_map(In(0, 1), Out(0, 1), (0..w[0]).map(|o| (o / m, o)))?;
            r.macs(taps, &[Out(0, 0), Out(0, 1)])
        } else if r.policy.whole_groups.contains(&r.cx.graph.name(r.cx.id)) {
            // All channels of a group, going in and coming out, are one.
            let (i, o) = (w[1], w[0] / g);
            r.tie_map(In(0, 1), Out(0, 1), (0..x[1]).map(|k| (k, k / i * o)))?;
            r.tie_map(In(0, 1), Out(0, 1), (0..w[0]).map(|k| (k / o * i, k)))?;
            r.pin(In(1, 1), "its groups leave whole");
            r.macs(taps * i as f64, &[Out(0, 0), Out(0, 1)])
        } else {
            if r.fold(In(1, 1)) != g {
                refuse!("the weight of a grouped convolution is computed at run time");
            }
            r.tie_span(In(0, 1), 0, In(1, 1), 0, x[1])?;
            r.contract(1, 1);
            r.equal_counts(In(0, 1), g);
            r.equal_counts(Out(0, 1), g);
            r.grouped();
            r.macs(taps / g as f64, &[Out(0, 0), Out(0, 1), In(0, 1)])
        }
    }

    fn patch(&self, p: &mut Patch) -> Answer<()> {
        let (g, w) = (group(&p.cx)?, p.cx.shape(1)?);
        let gone = p.removed(In(0, 1)).len();
        // Depthwise, or whole groups: what leaves takes its part of every list with it.
        if g > 1 && gone > 0 && p.removed(In(1, 1)).is_empty() {
            p.set_int("group", (g - gone / w[1].max(1)) as i64);
        }
        Ok(())
    }

    fn fold(&self, cx: &NodeCx, slot: usize) -> usize {
        match (slot, group(cx), cx.shape(1)) {
            (1, Ok(g), Ok(w)) if w.len() > 1 && w[1] > 1 && w[0] % g == 0 => g,
            _ => 1,
        }
    }
}

impl ConvTranspose {
    /// Depthwise with any multiplier: one input channel a group.
    fn depthwise(g: usize, w: &[usize]) -> bool {
        g > 1 && w[0] == g
    }
}

impl OpRule for ConvTranspose {
    fn weight_slots(&self) -> &'static [usize] {
        &[1]
    }

    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let (x, w) = (cx.shape(0)?, cx.shape(1)?);
        if x.len() < 3 || w.len() != x.len() || w[0] != x[1] {
            refuse!("weight {w:?} does not fit input {x:?}");
        }
        let g = group(cx)?;
        if w[0] % g != 0 {
            refuse!("{} input channels do not divide into {g} groups", w[0]);
        }
        let n = x.len() - 2;
        let win = Window::read(cx, &w[2..])?;
        let extra = positive(cx.list("output_padding"), n, 0, "output_padding")?;
        let mut out = vec![x[0], w[1].checked_mul(g).ok_or("too many channels")?];
        let wanted = cx.list("output_shape").filter(|s| !s.is_empty());
        for i in 0..n {
            let full = win.strides[i] * (x[i + 2].max(1) - 1) + extra[i] + (win.kernel[i] - 1) * win.dilations[i] + 1;
            out.push(match (&wanted, &win.pads) {
                (Some(s), _) => positive(Some(s[s.len().saturating_sub(n)..].to_vec()), n, 0, "output_shape")?[i],
                (None, Some(p)) => full.checked_sub(p[i].0 + p[i].1).ok_or("pads exceed the output")?,
                (None, None) => x[i + 2] * win.strides[i],
            });
        }
        Ok(vec![Some(out)])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        let (x, w) = (r.cx.shape(0)?, r.cx.shape(1)?);
        let g = group(&r.cx)?;
        let taps = spatial(w) * spatial(x);
        pin_spatial(r)?;
        pin_runtime_weight(r, 0);
        r.tie(In(0, 0), Out(0, 0))?;
        if r.cx.has(2) {
            r.tie(In(2, 0), Out(0, 1))?;
            r.site(Role::Bias, 2, 0);
        }
        if g == 1 {
            r.tie(In(0, 1), In(1, 0))?;
            r.tie(In(1, 1), Out(0, 1))?;
            r.contract(1, 0);
            r.site(Role::Producer, 1, 1);
            r.macs(taps, &[Out(0, 0), Out(0, 1), In(0, 1)])
        } else if Self::depthwise(g, w) {
            let m = w[1];
            r.tie(In(0, 1), In(1, 0))?;
            r.site(Role::Producer, 1, 0);
            r.pin(In(1, 1), "a channel multiplier");
            r.tie_map(In(0, 1), Out(0, 1), (0..g * m).map(|o| (o / m, o)))?;
            r.macs(taps, &[Out(0, 0), Out(0, 1)])
        } else {
            if !r.is_constant(1) || w[1] == 1 {
                refuse!(
                    "each group of this transposed convolution makes one channel, or its weight is computed at run time"
                );
            }
            r.tie(In(0, 1), In(1, 0))?;
            r.tie_span(In(1, 1), 0, Out(0, 1), 0, w[1] * g)?;
            r.contract(1, 0);
            r.site(Role::Producer, 1, 1);
            r.equal_counts(In(0, 1), g);
            r.equal_counts(Out(0, 1), g);
            r.macs(taps / g as f64, &[Out(0, 0), Out(0, 1), In(0, 1)])
        }
    }

    fn patch(&self, p: &mut Patch) -> Answer<()> {
        let (g, w) = (group(&p.cx)?, p.cx.shape(1)?);
        if Self::depthwise(g, w) {
            p.set_int("group", (g - p.removed(In(0, 1)).len()) as i64);
        }
        if let Some(s) = p.cx.list("output_shape").filter(|s| s.len() == w.len()) {
            // The long form names the channels too.
            let mut s = s;
            s[1] -= p.removed(Out(0, 1)).len() as i64;
            p.set_list("output_shape", s);
        }
        Ok(())
    }

    fn fold(&self, cx: &NodeCx, slot: usize) -> usize {
        match (slot, group(cx), cx.shape(1)) {
            (1, Ok(g), Ok(w)) if w.len() > 1 && g > 1 && w[1] > 1 && w[0] % g == 0 && !Self::depthwise(g, w) => g,
            _ => 1,
        }
    }
}
