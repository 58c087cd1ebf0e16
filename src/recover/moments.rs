//! The expected value of a channel, from batch-normalization parameters: `z ~ N(β, γ²)` after BN.
//!
//! A [`Moment`] with `exact` set is a constant: the same for every input and every position. Anything that cannot be told
//! is `None`.

use crate::channels::{AxisId, Channel, Channels, Trace};
use crate::graph::{NodeId, Origin, ValueId, is_default_domain};
use crate::onnx::tensor;
use crate::ops::chain;
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

/// Computes moments on demand.
pub struct Moments<'a> {
    t: &'a Traced<'a>,
    memo: HashMap<(ValueId, usize, usize), Option<Moment>>,
    data: HashMap<ValueId, Option<Vec<f64>>>,
}

/// How far back a chain is followed.
const DEPTH: usize = 64;

impl<'a> Moments<'a> {
    /// For a traced model.
    pub fn new(t: &'a Traced<'a>) -> Self {
        Moments { t, memo: HashMap::new(), data: HashMap::new() }
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
        let read = || graph.constant(source).and_then(|p| tensor::to_f64(p).ok());
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
        let proto = g.node(node);
        if !is_default_domain(proto.domain()) {
            return None;
        }
        let x = g.input(node, 0);
        let cx = self.t.analysis.cx(node, 0, &[]);
        match proto.op_type() {
            "BatchNormalization" => {
                if cx.int("training_mode", 0) != 0 {
                    return None;
                }
                let [gamma, beta, mean, var] = [1, 2, 3, 4].map(|s| self.parameter(node, s, key));
                let (gamma, beta) = (gamma?, beta?);
                if gamma == 0.0 {
                    return Some(Moment::constant(beta));
                }
                if let Some(m) = self.at(x?, key, depth).filter(|m| m.exact) {
                    let s = gamma / (var? + cx.float("epsilon", 1e-5)).sqrt();
                    return Some(Moment::constant((m.mean - mean?) * s + beta));
                }
                Some(Moment { mean: beta, var: gamma * gamma, exact: false })
            }
            "Conv" => self.silent_conv(node, key),
            "Add" | "Sub" | "Sum" => self.sum(node, key, depth),
            "Mul" => self.product(node, key, depth),
            "AveragePool" | "MaxPool" => {
                let m = self.at(x?, key, depth)?;
                // Padding mixes zeros into an average; a maximum has another mean than its inputs.
                let padded = cx.list("pads").is_some_and(|p| p.iter().any(|&v| v != 0)) || cx.string("auto_pad").is_some();
                let max = proto.op_type() == "MaxPool";
                (m.exact && (max || !padded) || !m.exact && !max).then_some(m)
            }
            "GlobalAveragePool" | "Resize" | "Upsample" => self.at(x?, key, depth),
            "ReduceMean" => self.carries(x?, key).then(|| self.at(x?, key, depth)).flatten(),
            "Transpose" | "Flatten" | "Reshape" | "Squeeze" | "Unsqueeze" => {
                let x = x.filter(|&x| self.carries(x, key))?;
                self.at(x, key, depth)
            }
            "Concat" => {
                let mut from = (0..proto.input.len()).filter_map(|s| g.input(node, s)).filter(|&v| self.carries(v, key));
                let only = from.next()?;
                if from.next().is_some() { None } else { self.at(only, key, depth) }
            }
            _ => {
                let act = chain::of_node(&cx)?;
                let m = self.at(x?, key, depth)?;
                if m.exact {
                    return act.apply(m.mean).map(Moment::constant);
                }
                let (mean, second) = act.moments(m.mean, m.var.sqrt())?;
                Some(Moment { mean, var: (second - mean * mean).max(0.0), exact: false })
            }
        }
    }

    /// A convolution whose weights for this channel are all zero gives its bias.
    fn silent_conv(&mut self, node: NodeId, key: (usize, usize)) -> Option<Moment> {
        let id = (*self.trace().tensors.inputs[node.0 as usize].get(1)?)?;
        let t = self.channels().tensor(id);
        let row = self.only(key, (*t.axes.first()?)?)?;
        let data = self.constant(t.source?)?;
        let inner: usize = t.dims.iter().skip(1).product();
        if data.get(row * inner..(row + 1) * inner)?.iter().any(|&w| w != 0.0) {
            return None;
        }
        let bias = if self.t.analysis.cx(node, 0, &[]).has(2) { self.parameter(node, 2, key)? } else { 0.0 };
        Some(Moment::constant(bias))
    }

    /// Sums of channels and per-channel constants; independent terms.
    fn sum(&mut self, node: NodeId, key: (usize, usize), depth: usize) -> Option<Moment> {
        let g = self.t.analysis.graph;
        let mut total = Moment::constant(0.0);
        for slot in 0..g.node(node).input.len() {
            let sign = if slot > 0 && g.node(node).op_type() == "Sub" { -1.0 } else { 1.0 };
            let m = match self.parameter(node, slot, key) {
                Some(c) => Moment::constant(c),
                None => self.at(g.input(node, slot)?, key, depth)?,
            };
            total.mean += sign * m.mean;
            total.var += m.var;
            total.exact &= m.exact;
        }
        Some(total)
    }

    /// A channel times a constant, or `x·Sigmoid(x)`.
    fn product(&mut self, node: NodeId, key: (usize, usize), depth: usize) -> Option<Moment> {
        let g = self.t.analysis.graph;
        let (a, b) = (g.input(node, 0)?, g.input(node, 1)?);
        for (x, gate) in [(a, b), (b, a)] {
            if let Origin::Node(n, 0) = g.value(gate).origin
                && g.node(n).op_type() == "Sigmoid"
                && g.input(n, 0) == Some(x)
            {
                let m = self.at(x, key, depth)?;
                let act = crate::ops::Activation::Silu;
                if m.exact {
                    return act.apply(m.mean).map(Moment::constant);
                }
                let (mean, second) = act.moments(m.mean, m.var.sqrt())?;
                return Some(Moment { mean, var: (second - mean * mean).max(0.0), exact: false });
            }
        }
        for (slot, x) in [(1, a), (0, b)] {
            if let Some(c) = self.parameter(node, slot, key) {
                let m = self.at(x, key, depth)?;
                return Some(Moment { mean: m.mean * c, var: m.var * c * c, exact: m.exact });
            }
        }
        // A zero annihilates whatever it meets; other products need the joint distribution.
        let (p, q) = (self.at(a, key, depth)?, self.at(b, key, depth)?);
        (p.exact && q.exact).then(|| Moment::constant(p.mean * q.mean))
    }
}
