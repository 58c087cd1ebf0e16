//! The expected value of a channel, from batch-normalization parameters: `z ~ N(β, γ²)` after BN.
//!
//! A [`Moment`] with `exact` set is a constant: the same for every input and every position. Anything that cannot be told
//! is `None`.

use crate::channels::{AxisId, Channel, Channels, TensorId, Trace};
use crate::graph::{NodeId, Origin, ValueId};
use crate::onnx::{proto::TensorProto, tensor};
use crate::ops::Activation;
use crate::ops::expect::{self, Passage};
use crate::prune::Traced;
use std::collections::HashMap;

/// Mean and variance of one channel over inputs and positions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moment {
    /// Mean.
    pub mean: f64,
    /// Variance.
    pub var: f64,
    /// The value is `mean` always and everywhere.
    pub exact: bool,
}

impl Moment {
    fn constant(mean: f64) -> Self {
        Moment { mean, var: 0.0, exact: true }
    }
}

/// The moment behind an element-wise function.
fn through(act: Activation, m: Moment) -> Option<Moment> {
    if m.exact {
        return act.apply(m.mean).map(Moment::constant);
    }
    let (mean, second) = act.moments(m.mean, m.var.sqrt())?;
    Some(Moment { mean, var: (second - mean * mean).max(0.0), exact: false })
}

/// Which rows (indices of axis 0) of a weight are all zero.
fn zero_rows(t: &TensorProto) -> Vec<bool> {
    let (Ok(raw), Some(size)) = (tensor::raw_le(t), tensor::elem_size(t.data_type())) else { return Vec::new() };
    let rows = t.dims.first().map_or(0, |&d| d.max(0) as usize);
    if !tensor::is_float(t.data_type()) || rows == 0 || raw.len() % (rows * size) != 0 {
        return Vec::new();
    }
    // ±0 in every IEEE format: all bits but the sign are zero.
    let zero = |e: &[u8]| e.iter().rev().enumerate().all(|(i, &b)| if i == 0 { b & 0x7f == 0 } else { b == 0 });
    raw.chunks(raw.len() / rows).map(|row| row.chunks(size).all(zero)).collect()
}

/// Computes moments on demand.
pub struct Moments<'a> {
    t: &'a Traced<'a>,
    memo: HashMap<(ValueId, usize, usize), Option<Moment>>,
    data: HashMap<ValueId, Option<Vec<f64>>>,
    silent: HashMap<TensorId, Vec<bool>>,
}

/// How far back a chain is followed.
const DEPTH: usize = 64;

impl<'a> Moments<'a> {
    /// For a traced model.
    pub fn new(t: &'a Traced<'a>) -> Self {
        Moments { t, memo: HashMap::new(), data: HashMap::new(), silent: HashMap::new() }
    }

    fn trace(&self) -> &'a Trace {
        &self.t.trace
    }

    fn channels(&self) -> &'a Channels {
        &self.t.trace.channels
    }

    fn channel(&self, key: (usize, usize)) -> Option<&'a Channel> {
        self.channels().groups.get(key.0)?.channels.get(key.1)
    }

    /// The moment of channel `(group, channel)` on a value.
    pub fn of(&mut self, value: ValueId, key: (usize, usize)) -> Option<Moment> {
        self.at(value, key, DEPTH)
    }

    fn at(&mut self, value: ValueId, key: (usize, usize), depth: usize) -> Option<Moment> {
        let k = (value, key.0, key.1);
        if let Some(&m) = self.memo.get(&k) {
            return m;
        }
        let m = if depth == 0 { None } else { self.compute(value, key, depth - 1) };
        self.memo.insert(k, m);
        m
    }

    /// The value of a per-channel constant in an input slot, when the channel has exactly one index there (or the constant
    /// is a scalar).
    fn parameter(&mut self, node: NodeId, slot: usize, key: (usize, usize)) -> Option<f64> {
        let channels = self.channels();
        let id = (*self.trace().tensors.inputs[node.0 as usize].get(slot)?)?;
        let t = channels.tensor(id);
        let index = t.axes.iter().flatten().next().and_then(|&axis| self.only(key, axis));
        let data = self.constant(t.source?)?;
        if data.len() == 1 {
            return data.first().copied();
        }
        // All other axes have size 1, so an index is a position.
        let mut tracked = t.axes.iter().flatten();
        let axis = *tracked.next()?;
        if tracked.next().is_some() || t.dims.iter().product::<usize>() != channels.axis(axis).len {
            return None;
        }
        data.get(index?).copied()
    }

    fn constant(&mut self, source: ValueId) -> Option<&[f64]> {
        let graph = self.t.analysis.graph;
        // Per-channel parameters only: a whole weight is never one.
        let small = |p: &&TensorProto| tensor::numel(p).is_ok_and(|n| n <= 1 << 16);
        let read = || graph.constant(source).filter(small).and_then(|p| tensor::to_f64(p).ok());
        self.data.entry(source).or_insert_with(read).as_deref()
    }

    /// The channel's index on an axis, when it has exactly one.
    fn only(&self, key: (usize, usize), axis: AxisId) -> Option<usize> {
        let mut on = self.channel(key)?.on(axis);
        let first = on.next()?;
        on.next().is_none().then_some(first)
    }

    /// Whether the channel has at most one index on every axis of a value.
    fn carries(&self, value: ValueId, key: (usize, usize)) -> bool {
        let Some(t) = self.trace().tensors.by_value.get(&value) else { return false };
        let axes = &self.channels().tensor(*t).axes;
        axes.iter().flatten().any(|&x| self.only(key, x).is_some())
    }

    fn compute(&mut self, value: ValueId, key: (usize, usize), depth: usize) -> Option<Moment> {
        let g = self.t.analysis.graph;
        let Origin::Node(node, 0) = g.value(value).origin else { return None };
        let x = g.input(node, 0);
        match expect::passage(&self.t.analysis.cx(node, 0, &[])) {
            Passage::BatchNorm { epsilon } => {
                let [gamma, beta, mean, var] = [1, 2, 3, 4].map(|s| self.parameter(node, s, key));
                let (gamma, beta) = (gamma?, beta?);
                if gamma == 0.0 {
                    return Some(Moment::constant(beta));
                }
                if let Some(m) = self.at(x?, key, depth).filter(|m| m.exact) {
                    let s = gamma / (var? + epsilon).sqrt();
                    return Some(Moment::constant((m.mean - mean?) * s + beta));
                }
                Some(Moment { mean: beta, var: gamma * gamma, exact: false })
            }
            Passage::Conv => self.silent_conv(node, key),
            Passage::Sum(signs) => self.sum(node, &signs, key, depth),
            Passage::Product => self.product(node, key, depth),
            // Zeros in the padding mix into an average.
            Passage::Average { padded } => {
                let x = x.filter(|&x| self.carries(x, key))?;
                self.at(x, key, depth).filter(|m| !(m.exact && padded))
            }
            // A maximum has another mean than its inputs.
            Passage::Maximum => self.at(x?, key, depth).filter(|m| m.exact),
            Passage::Move => {
                let x = x.filter(|&x| self.carries(x, key))?;
                self.at(x, key, depth)
            }
            Passage::Join => {
                let slots = g.nodes[node.0 as usize].inputs.iter().flatten();
                let mut from = slots.filter(|&&v| self.carries(v, key));
                let only = *from.next()?;
                if from.next().is_some() { None } else { self.at(only, key, depth) }
            }
            Passage::Gate => self.at(x?, key, depth).and_then(|m| through(Activation::Sigmoid, m)),
            Passage::Apply(act) => self.at(x?, key, depth).and_then(|m| through(act, m)),
            Passage::Opaque => None,
        }
    }

    /// A convolution whose weights for this channel are all zero gives its bias.
    fn silent_conv(&mut self, node: NodeId, key: (usize, usize)) -> Option<Moment> {
        let channels = self.channels();
        let id = (*self.trace().tensors.inputs[node.0 as usize].get(1)?)?;
        let t = channels.tensor(id);
        let row = self.only(key, (*t.axes.first()?)?)?;
        if !self.silent.contains_key(&id) {
            let rows = self.t.analysis.graph.constant(t.source?).map(zero_rows).unwrap_or_default();
            self.silent.insert(id, rows);
            self.t.analysis.graph.model.release_pages();
        }
        if self.silent.get(&id)?.get(row) != Some(&true) {
            return None;
        }
        let bias = if self.t.analysis.cx(node, 0, &[]).has(2) { self.parameter(node, 2, key)? } else { 0.0 };
        Some(Moment::constant(bias))
    }

    /// Sums of channels and per-channel constants; independent terms.
    fn sum(&mut self, node: NodeId, signs: &[f64], key: (usize, usize), depth: usize) -> Option<Moment> {
        let mut total = Moment::constant(0.0);
        for (slot, sign) in signs.iter().enumerate() {
            let m = match self.parameter(node, slot, key) {
                Some(c) => Moment::constant(c),
                None => self.at(self.t.analysis.graph.input(node, slot)?, key, depth)?,
            };
            total.mean += sign * m.mean;
            total.var += m.var;
            total.exact &= m.exact;
        }
        Some(total)
    }

    /// A channel times a constant, or `x·σ(x)`.
    fn product(&mut self, node: NodeId, key: (usize, usize), depth: usize) -> Option<Moment> {
        let g = self.t.analysis.graph;
        let (a, b) = (g.input(node, 0)?, g.input(node, 1)?);
        for (x, gate) in [(a, b), (b, a)] {
            if let Origin::Node(n, 0) = g.value(gate).origin
                && g.input(n, 0) == Some(x)
                && expect::passage(&self.t.analysis.cx(n, 0, &[])) == Passage::Gate
            {
                return self.at(x, key, depth).and_then(|m| through(Activation::Silu, m));
            }
        }
        for (slot, x) in [(1, a), (0, b)] {
            if let Some(c) = self.parameter(node, slot, key) {
                let m = self.at(x, key, depth)?;
                return Some(Moment { mean: m.mean * c, var: m.var * c * c, exact: m.exact });
            }
        }
        // Other products need the joint distribution.
        let (p, q) = (self.at(a, key, depth)?, self.at(b, key, depth)?);
        (p.exact && q.exact).then(|| Moment::constant(p.mean * q.mean))
    }
}
