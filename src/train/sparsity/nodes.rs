//! Penalties, their steps, and gates, as nodes.

use super::slices::{Part, Sliced, Slices};
use super::{Kind, Sparsity};
use crate::graph::ValueId;
use crate::ops::Answer;
use crate::train::optimizer::{Optimizer, Update};
use crate::train::step::Layout;
use crate::train::tape::{Tape, Var};
use std::collections::BTreeMap;

/// `b`, `g` and `ζ` of the hard-concrete gates.
pub(super) const STRETCH: (f64, f64, f64) = (2.0 / 3.0, -0.1, 1.1);

/// Keeps quotients finite where a norm is zero; far below every norm that is not.
const TINY: f64 = 1e-20;

/// Sums over all but one axis: a value per index, unfolded.
fn reduce(t: &mut Tape, x: Var, a: &Sliced) -> Answer<Var> {
    if a.fold == 1 {
        let others: Vec<usize> = (0..a.dims.len()).filter(|&d| d != a.axis).collect();
        let sum = t.sum(x, &others, false)?;
        return t.reshape(sum, &[a.len()]);
    }
    let rows = a.dims.first().copied().unwrap_or(1);
    let stored = a.dims.get(1).copied().unwrap_or(1);
    let inner: usize = a.dims.iter().skip(2).product();
    let blocks = t.reshape(x, &[a.fold, rows / a.fold, stored, inner])?;
    let sum = t.sum(blocks, &[1, 3], false)?;
    t.reshape(sum, &[a.len()])
}

/// The sums over places of a vector, per channel.
fn per_channel(t: &mut Tape, vector: Var, places: &[Vec<usize>]) -> Answer<Var> {
    let most = places.iter().map(Vec::len).max().unwrap_or(0).max(1);
    let n = t.numel(vector);
    let mut indices = Vec::with_capacity(places.len() * most);
    for p in places {
        // Channels with fewer places take a zero at the end.
        indices.extend(p.iter().copied().chain(std::iter::repeat(n)).take(most));
    }
    let zero = t.constant(&[1], &[0.0])?;
    let padded = t.concat(&[vector, zero], 0)?;
    let all = t.gather(padded, &indices, 0)?;
    let all = t.reshape(all, &[places.len(), most])?;
    t.sum(all, &[1], false)
}

/// A value per channel, laid along an axis of a tensor; `other` where there is no channel.
fn along(t: &mut Tape, values: Var, a: &Sliced, other: f64) -> Answer<Var> {
    let n = t.numel(values);
    let rest = t.constant(&[1], &[other])?;
    let padded = t.concat(&[values, rest], 0)?;
    let (dims, index) = a.along();
    let channel: Vec<usize> = index.iter().map(|&i| a.channel.get(i).copied().flatten().unwrap_or(n)).collect();
    let laid = t.gather(padded, &channel, 0)?;
    t.reshape(laid, &dims)
}

/// Sums of squares (or of magnitudes) of the slices on some axes, one axis after the other.
fn sums(
    t: &mut Tape,
    slices: &Slices,
    tensors: &BTreeMap<usize, Var>,
    squares: bool,
    with: &dyn Fn(&Sliced) -> bool,
) -> Answer<Var> {
    let mut sizes: BTreeMap<usize, Var> = BTreeMap::new();
    let mut parts = Vec::new();
    for a in slices.axes.iter().filter(|a| with(a)) {
        let Some(&w) = tensors.get(&a.parameter) else { return Err("a tensor with channels is missing".into()) };
        let size = match sizes.get(&a.parameter) {
            Some(&size) => size,
            None if squares => t.square(w)?,
            None => t.unary("Abs", w),
        };
        sizes.insert(a.parameter, size);
        parts.push(reduce(t, size, a)?);
    }
    t.concat(&parts, 0)
}

/// Per channel, `‖w_c‖` and `√n_c`.
fn norms(t: &mut Tape, slices: &Slices, tensors: &BTreeMap<usize, Var>) -> Answer<(Var, Vec<f64>)> {
    let counted = |a: &Sliced| a.counts;
    let sums = sums(t, slices, tensors, true, &counted)?;
    let squares = per_channel(t, sums, &slices.places(&counted).0)?;
    let sizes = slices.elements().into_iter().map(|n| (n as f64).sqrt()).collect();
    Ok((t.unary("Sqrt", squares), sizes))
}

fn is_scale(a: &Sliced) -> bool {
    a.part == Part::Scale
}

/// Whether the slices on an axis are those that `dynamic` ranks channels by.
pub(super) fn is_weight(a: &Sliced) -> bool {
    a.counts && matches!(a.part, Part::Makes | Part::Reads)
}

/// The value of a penalty, before the step. `tensors`: the trained ones by their index in the layout.
pub fn penalised(
    t: &mut Tape,
    what: Sparsity,
    slices: &Slices,
    tensors: &BTreeMap<usize, Var>,
    gated: Option<&Gated>,
) -> Answer<Option<Var>> {
    let sum = match what.kind {
        Kind::BnL1 => {
            let sums = sums(t, slices, tensors, false, &is_scale)?;
            let each = per_channel(t, sums, &slices.places(&is_scale).0)?;
            t.total(each)?
        }
        Kind::GroupLasso => {
            let (norms, sizes) = norms(t, slices, tensors)?;
            let sizes = t.constant(&[sizes.len()], &sizes)?;
            let each = t.mul(norms, sizes)?;
            t.total(each)?
        }
        Kind::L0 => {
            let Some(open) = gated.and_then(|g| g.open) else { return Ok(None) };
            t.mean(open, &[0], false)?
        }
        Kind::Dynamic => return Ok(None),
    };
    t.scale(sum, what.value).map(Some)
}

/// Sums of squares of all weight slices, which `dynamic` ranks channels by.
pub fn weights(t: &mut Tape, slices: &Slices, tensors: &BTreeMap<usize, Var>) -> Answer<Var> {
    sums(t, slices, tensors, true, &is_weight)
}

/// What a vector's tensors are after the step of a penalty that follows the optimiser's.
pub fn proximal(
    t: &mut Tape,
    what: Sparsity,
    slices: &Slices,
    layout: &Layout,
    vectors: [Option<Var>; 2],
    lr: Var,
    update: &Update,
) -> Answer<[Option<Var>; 2]> {
    if what.kind.has_gates() {
        return Ok(vectors);
    }
    let mut tensors = cut(t, slices, layout, vectors)?;
    let long = match update.optimizer {
        Optimizer::Sgd => 1.0 / (1.0 - update.momentum),
        Optimizer::Adamw => 1.0,
    };
    let step = t.scale(lr, long * what.value)?;
    if what.kind == Kind::BnL1 {
        thinner_scales(t, slices, &mut tensors, step)?;
    } else {
        let (norms, sizes) = norms(t, slices, &tensors)?;
        let sizes = t.constant(&[sizes.len()], &sizes)?;
        let less = t.mul(sizes, step)?;
        let factor = shrink(t, norms, less)?;
        for a in slices.axes.iter().filter(|a| a.counts) {
            let laid = along(t, factor, a, 1.0)?;
            if let Some(w) = tensors.get_mut(&a.parameter) {
                *w = t.mul(*w, laid)?;
            }
        }
    }
    let mut new = vectors;
    for (v, slot) in new.iter_mut().enumerate() {
        let Some(vector) = *slot else { continue };
        *slot = Some(joined(t, layout, v, vector, &tensors)?);
    }
    Ok(new)
}

/// `max(0, 1 − less / size)`.
fn shrink(t: &mut Tape, size: Var, less: Var) -> Answer<Var> {
    let size = t.add_scalar(size, TINY)?;
    let part = t.div(less, size)?;
    let part = t.neg(part);
    let left = t.add_scalar(part, 1.0)?;
    Ok(t.unary("Relu", left))
}

/// The step of `bn-l1`.
fn thinner_scales(t: &mut Tape, slices: &Slices, tensors: &mut BTreeMap<usize, Var>, step: Var) -> Answer<()> {
    let ones = t.constant(&[slices.channels], &vec![1.0; slices.channels])?;
    let all = t.mul(ones, step)?;
    shrink_each(t, slices, tensors, Part::Scale, all)?;
    let sums = sums(t, slices, tensors, false, &is_scale)?;
    let scales = per_channel(t, sums, &slices.places(&is_scale).0)?;
    let alive = t.above(scales, 0.0)?;
    let dead = t.sub(ones, alive)?;
    let dead = t.mul(dead, step)?;
    shrink_each(t, slices, tensors, Part::Shift, dead)
}

/// Soft thresholds of one part, given per channel.
fn shrink_each(t: &mut Tape, slices: &Slices, tensors: &mut BTreeMap<usize, Var>, part: Part, less: Var) -> Answer<()> {
    for a in slices.axes.iter().filter(|a| a.part == part) {
        let less = along(t, less, a, 0.0)?;
        if let Some(w) = tensors.get_mut(&a.parameter) {
            let size = t.unary("Abs", *w);
            let factor = shrink(t, size, less)?;
            *w = t.mul(*w, factor)?;
        }
    }
    Ok(())
}

/// The tensors with channels, cut out of the vectors.
fn cut(t: &mut Tape, slices: &Slices, layout: &Layout, vectors: [Option<Var>; 2]) -> Answer<BTreeMap<usize, Var>> {
    let mut tensors = BTreeMap::new();
    for a in &slices.axes {
        let Some(&(v, at)) = layout.places.get(a.parameter) else { continue };
        let Some(vector) = vectors.get(v).copied().flatten().filter(|_| !tensors.contains_key(&a.parameter)) else {
            continue;
        };
        let part = t.slice(vector, &[(0, at, a.dims.iter().product(), 1)])?;
        tensors.insert(a.parameter, t.reshape(part, &a.dims)?);
    }
    Ok(tensors)
}

/// A vector with other values for some tensors.
fn joined(t: &mut Tape, layout: &Layout, v: usize, vector: Var, tensors: &BTreeMap<usize, Var>) -> Answer<Var> {
    let mut parts = Vec::new();
    let mut from = 0;
    let mut at = 0;
    let of = layout.parameters.iter().zip(&layout.places).enumerate().filter(|(_, (_, place))| place.0 == v);
    for (p, (parameter, _)) in of {
        let n = parameter.numel();
        if let Some(&new) = tensors.get(&p) {
            // What lies between stays in one piece.
            if at > from {
                parts.push(t.slice(vector, &[(0, from, at - from, 1)])?);
            }
            parts.push(t.reshape(new, &[n])?);
            from = at + n;
        }
        at += n;
    }
    if parts.is_empty() {
        return Ok(vector);
    }
    if at > from {
        parts.push(t.slice(vector, &[(0, from, at - from, 1)])?);
    }
    t.concat(&parts, 0)
}

/// Gates in a training graph.
pub struct Gated {
    /// Per channel: what is multiplied in.
    z: Var,
    /// `dz/da`, where gates learn.
    slope: Option<Var>,
    /// The probability that each is open, where gates learn.
    open: Option<Var>,
    /// Its derivative.
    open_slope: Option<Var>,
    /// Per tensor: as it is without gates.
    whole: BTreeMap<usize, Var>,
    /// Per axis: the gates along it.
    laid: BTreeMap<usize, Var>,
}

impl Gated {
    /// `gates`: the parameters of `l0`, with its `noise` `ln u − ln(1 − u)`; without noise 0 and 1.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn new(t: &mut Tape, gates: Var, noise: Option<Var>) -> Answer<Self> {
        let (mut z, mut slope, mut open, mut open_slope) = (gates, None, None, None);
        if let Some(noise) = noise {
            let (b, low, high) = STRETCH;
            let sum = t.add(noise, gates)?;
            let sum = t.scale(sum, 1.0 / b)?;
            let s = t.unary("Sigmoid", sum);
            let wide = t.scale(s, high - low)?;
            let wide = t.add_scalar(wide, low)?;
            // Clipped by Relu twice: older operator sets have no Max that broadcasts.
            let above = t.unary("Relu", wide);
            let less = t.neg(above);
            let less = t.add_scalar(less, 1.0)?;
            let less = t.unary("Relu", less);
            let less = t.neg(less);
            z = t.add_scalar(less, 1.0)?;
            let (inside, below) = (t.above(wide, 0.0)?, t.below(wide, 1.0)?);
            let inside = t.mul(inside, below)?;
            let curve = logistic_slope(t, s)?;
            let curve = t.scale(curve, (high - low) / b)?;
            slope = Some(t.mul(inside, curve)?);
            let shifted = t.add_scalar(gates, -b * (-low / high).ln())?;
            let p = t.unary("Sigmoid", shifted);
            open_slope = Some(logistic_slope(t, p)?);
            open = Some(p);
        }
        Ok(Gated { z, slope, open, open_slope, whole: BTreeMap::new(), laid: BTreeMap::new() })
    }

    /// A trained tensor with the gates on it.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn apply(&mut self, t: &mut Tape, slices: &Slices, parameter: usize, w: Var) -> Answer<Var> {
        let mut product = w;
        self.whole.insert(parameter, w);
        for i in slices.gates_of(parameter) {
            let Some(a) = slices.axes.get(i) else { continue };
            let laid = along(t, self.z, a, 1.0)?;
            self.laid.insert(i, laid);
            product = t.mul(product, laid)?;
        }
        Ok(product)
    }

    /// The tensors without gates.
    pub fn whole(&self) -> &BTreeMap<usize, Var> {
        &self.whole
    }
}

/// `s·(1 − s)`.
fn logistic_slope(t: &mut Tape, s: Var) -> Answer<Var> {
    let rest = t.neg(s);
    let rest = t.add_scalar(rest, 1.0)?;
    t.mul(s, rest)
}

/// From the gradients of tensors with gates to those of the tensors, and of the gates' parameters where these learn: with
/// `v = w·z` and `G` the gradient of `v`, `G·z` and `Σ G·w`. Gates that do not learn let `G` through.
///
/// # Errors
/// When the shapes do not fit.
pub fn gradient_of_gates(
    t: &mut Tape,
    strength: f64,
    slices: &Slices,
    layout: &Layout,
    gated: &Gated,
    gradients: &mut BTreeMap<ValueId, Var>,
) -> Answer<Option<Var>> {
    let (Some(slope), Some(open_slope)) = (gated.slope, gated.open_slope) else { return Ok(None) };
    let mut parts = Vec::new();
    let reads = |a: &Sliced| a.part == Part::Reads;
    for (i, a) in slices.axes.iter().enumerate().filter(|(_, a)| reads(a)) {
        let value = layout.parameters.get(a.parameter).map(|p| p.value);
        let (Some(&g), Some(&w)) = (value.and_then(|v| gradients.get(&v)), gated.whole.get(&a.parameter)) else {
            return Err("a gate without a gradient".into());
        };
        let mut product = t.mul(g, w)?;
        for other in slices.gates_of(a.parameter).filter(|&o| o != i) {
            if let Some(&laid) = gated.laid.get(&other) {
                product = t.mul(product, laid)?;
            }
        }
        parts.push(reduce(t, product, a)?);
    }
    for p in gated.whole.keys() {
        let Some(g) = layout.parameters.get(*p).and_then(|p| gradients.get_mut(&p.value)) else { continue };
        for i in slices.gates_of(*p) {
            if let Some(&laid) = gated.laid.get(&i) {
                *g = t.mul(*g, laid)?;
            }
        }
    }
    let all = t.concat(&parts, 0)?;
    let of_loss = per_channel(t, all, &slices.places(&reads).0)?;
    let of_loss = t.mul(of_loss, slope)?;
    let of_penalty = t.scale(open_slope, strength / slices.channels.max(1) as f64)?;
    t.add(of_loss, of_penalty).map(Some)
}
