//! How a rule speaks: ties, pins, and what the layer costs.

use super::Policy;
use super::cx::{Answer, NodeCx, Refusal};
use crate::channels::atoms::{Atoms, PinId};
use crate::channels::model::{Axis, AxisId, Cost, MacTerm, Role, Site, Tensor, TensorId};
use crate::refuse;
use std::collections::BTreeSet;

/// An axis of one of the node's tensors: `(slot, axis)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loc {
    /// Of an input.
    In(usize, usize),
    /// Of an output.
    Out(usize, usize),
}
pub use Loc::{In, Out};

/// A weight axis that sums over channels: where the oracle puts its zeros.
#[derive(Clone, Copy, Debug)]
pub struct Contraction {
    /// The layer.
    pub node: crate::graph::NodeId,
    /// Input slot of the weight (or of the second activation).
    pub slot: usize,
    /// The contracted axis.
    pub axis: AxisId,
}

/// The same number of indices must stay in each of `blocks` equal parts of an axis.
#[derive(Clone, Copy, Debug)]
pub struct Cardinality {
    /// The layer that demands it.
    pub node: crate::graph::NodeId,
    /// The axis.
    pub axis: AxisId,
    /// Number of equal parts.
    pub blocks: usize,
}

/// How a statistic over channels is put right when some of them leave. `C` channels, `S` of them kept, `e` the kept share
/// of the energy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// A normalisation with a scale parameter in this slot: the scale times `√(C·e/S)`.
    Scale(usize),
    /// A mean of squares: its output times `S/(C·e)`.
    MeanSquare,
    /// A mean of magnitudes: its output times `S/(C·a)`, `a` the kept share of the magnitudes.
    MeanMagnitude,
    /// A root of a sum of squares: its output times `1/√e`.
    Norm,
    /// An output divided by the root of the sum of squares: times `√e`.
    Normalised,
    /// Nothing to put right: a mean that is subtracted, or a window over neighbouring channels.
    Nothing,
}

/// A statistic over channels that may lose some of them, which is an approximation.
#[derive(Clone, Copy, Debug)]
pub struct Approximation {
    /// The node that computes the statistic.
    pub node: crate::graph::NodeId,
    /// The axis that it runs over.
    pub axis: AxisId,
    /// What is done about it.
    pub repair: Repair,
}

/// An output axis that keeps only some of what the node computes: its channels may leave although the node must compute
/// all of them, because their statistic runs over all. The rewriter selects what stays behind the node.
#[derive(Clone, Copy, Debug)]
pub struct Selection {
    /// The node.
    pub node: crate::graph::NodeId,
    /// Output slot.
    pub slot: usize,
    /// The axis of that output.
    pub axis: AxisId,
}

/// Batch-normalization parameters, as found by the rule: input slots of γ, β, mean, variance.
#[derive(Clone, Debug)]
pub struct NormSite {
    /// The node.
    pub node: crate::graph::NodeId,
    /// γ, β, running mean, running variance.
    pub params: [TensorId; 4],
    /// ε.
    pub epsilon: f64,
    /// Axis 0 of γ.
    pub axis: AxisId,
}

/// Facts that rules state beside the relation itself.
#[derive(Debug, Default)]
pub struct Facts {
    /// Parameter axes and their roles.
    pub sites: Vec<Site>,
    /// MACs.
    pub macs: Vec<MacTerm>,
    /// Where the oracle masks.
    pub contractions: Vec<Contraction>,
    /// Equal-count constraints.
    pub cardinalities: Vec<Cardinality>,
    /// Batch normalizations.
    pub norms: Vec<NormSite>,
    /// Statistics over channels that may lose some.
    pub approximations: Vec<Approximation>,
    /// Grouped convolutions.
    pub grouped: Vec<crate::graph::NodeId>,
    /// Outputs behind which the rewriter may select.
    pub selections: Vec<Selection>,
}

impl Facts {
    /// Lengths, to take back what a rule stated before it refused.
    pub(crate) fn lens(&self) -> [usize; 8] {
        [
            self.sites.len(),
            self.macs.len(),
            self.contractions.len(),
            self.cardinalities.len(),
            self.norms.len(),
            self.selections.len(),
            self.grouped.len(),
            self.approximations.len(),
        ]
    }

    /// Takes back everything stated since [`Facts::lens`].
    pub(crate) fn truncate(&mut self, to: [usize; 8]) {
        self.sites.truncate(to[0]);
        self.macs.truncate(to[1]);
        self.contractions.truncate(to[2]);
        self.cardinalities.truncate(to[3]);
        self.norms.truncate(to[4]);
        self.selections.truncate(to[5]);
        self.grouped.truncate(to[6]);
        self.approximations.truncate(to[7]);
    }
}

/// One node's view of the union-find while its rule speaks.
pub struct Relate<'a> {
    /// The node under the first assignment of dynamic dimensions.
    pub cx: NodeCx<'a>,
    /// The node under the second one: a size that differs is dynamic.
    pub other: NodeCx<'a>,
    /// Which of a site's alternatives to take, once the trace has decided.
    pub choice: Option<usize>,
    /// What may be done beyond the default.
    pub policy: &'a Policy,
    pub(crate) alternatives: Vec<Vec<Loc>>,
    pub(crate) inputs: &'a [Option<TensorId>],
    pub(crate) all_inputs: &'a [Vec<Option<TensorId>>],
    pub(crate) outputs: &'a [Option<TensorId>],
    pub(crate) tensors: &'a [Tensor],
    pub(crate) axes: &'a [Axis],
    pub(crate) derived: &'a [bool],
    pub(crate) atoms: &'a mut Atoms,
    pub(crate) facts: &'a mut Facts,
    pub(crate) touched: BTreeSet<Loc>,
}

impl<'a> Relate<'a> {
    /// Tensor at an input slot.
    pub fn tensor(&self, slot: usize) -> Option<&'a Tensor> {
        self.inputs.get(slot).copied().flatten().map(|t| &self.tensors[t.0 as usize])
    }

    /// Whether an input is a constant of the file.
    pub fn is_constant(&self, slot: usize) -> bool {
        self.tensor(slot).is_some_and(|t| t.source.is_some())
    }

    /// Whether an input depends on constants alone: a weight, perhaps behind `Transpose` or `DequantizeLinear`.
    pub fn is_weight(&self, slot: usize) -> bool {
        self.cx.graph.input(self.cx.id, slot).is_some_and(|v| self.derived.get(v.0 as usize) == Some(&true))
    }

    /// The tracked axis at a location; `None` when its size is 1, dynamic, or the slot is empty.
    pub fn axis_id(&self, loc: Loc) -> Option<AxisId> {
        let (t, a) = match loc {
            In(s, a) => (self.inputs.get(s).copied().flatten()?, a),
            Out(s, a) => (self.outputs.get(s).copied().flatten()?, a),
        };
        self.tensors[t.0 as usize].axes.get(a).copied().flatten()
    }

    /// Size at a location under the first assignment.
    pub fn size(&self, loc: Loc) -> Answer<usize> {
        let shape = match loc {
            In(s, _) => self.cx.shape(s)?,
            Out(s, _) => self.cx.out_shape(s)?,
        };
        let (In(_, a) | Out(_, a)) = loc;
        shape.get(a).copied().ok_or_else(|| Refusal(format!("axis {a} does not exist")))
    }

    /// Whether the size at a location is the same under both assignments.
    pub fn fixed(&self, loc: Loc) -> bool {
        let get = |cx: &NodeCx| match loc {
            In(s, a) => cx.shape(s).ok().and_then(|d| d.get(a).copied()),
            Out(s, a) => cx.out_shape(s).ok().and_then(|d| d.get(a).copied()),
        };
        let (a, b) = (get(&self.cx), get(&self.other));
        a.is_some() && a == b
    }

    /// Number of convolution groups that the tracked axis runs over; 1 where there is none.
    pub fn fold(&self, loc: Loc) -> usize {
        self.axis_id(loc).map_or(1, |x| self.axes[x.0 as usize].fold)
    }

    /// The same index lives on both axes.
    ///
    /// # Errors
    /// Refused when the sizes differ.
    pub fn tie(&mut self, a: Loc, b: Loc) -> Answer<()> {
        let (n, m) = (self.size(a)?, self.size(b)?);
        if n != m {
            refuse!("axes of size {n} and {m} do not match");
        }
        let (f, g) = (self.fold(a), self.fold(b));
        if f != g {
            self.pin(a, "the groups of a convolution cannot be followed through it");
            self.pin(b, "the groups of a convolution cannot be followed through it");
            return Ok(());
        }
        self.tie_span(a, 0, b, 0, n.saturating_mul(f))
    }

    /// Ties `n` indices of `a` from `i` on with those of `b` from `j` on.
    pub fn tie_span(&mut self, a: Loc, i: usize, b: Loc, j: usize, n: usize) -> Answer<()> {
        self.tie_map(a, b, (0..n).map(|k| (i + k, j + k)))
    }

    /// Ties the given pairs of indices.
    pub fn tie_map(&mut self, a: Loc, b: Loc, pairs: impl IntoIterator<Item = (usize, usize)>) -> Answer<()> {
        self.touched.insert(a);
        self.touched.insert(b);
        match (self.axis_id(a), self.axis_id(b)) {
            (Some(x), Some(y)) => {
                let (n, m) = (self.axes[x.0 as usize].len, self.axes[y.0 as usize].len);
                for (i, j) in pairs {
                    if i >= n || j >= m {
                        refuse!("index {i} or {j} is outside its axis of {n} or {m}");
                    }
                    self.atoms.union(x, i, y, j);
                }
            }
            (None, None) => {}
            // One side cannot be followed (dynamic, of size 1, or too long): the other must stay whole.
            (Some(x), None) | (None, Some(x)) => {
                let pin = self.reason("the axis that it continues on is dynamic or cannot be followed");
                self.atoms.pin(x, pin);
            }
        }
        Ok(())
    }

    /// No index of the axis may leave, for this reason.
    pub fn pin(&mut self, loc: Loc, reason: &str) {
        self.touched.insert(loc);
        if let Some(x) = self.axis_id(loc) {
            let pin = self.reason(reason);
            self.atoms.pin(x, pin);
        }
    }

    /// One index may not leave.
    pub fn pin_index(&mut self, loc: Loc, index: usize, reason: &str) {
        self.touched.insert(loc);
        if let Some(x) = self.axis_id(loc) {
            let pin = self.reason(reason);
            self.atoms.pin_one(x, index, pin);
        }
    }

    /// The axis is tied to nothing in this node: its indices may leave as far as this node is concerned.
    pub fn free(&mut self, loc: Loc) {
        self.touched.insert(loc);
    }

    /// The node computes this output axis as a whole; what leaves is taken out behind it. Only channels that a weight
    /// makes elsewhere may leave here: dropping a mere copy would cost a node and save nothing upstream.
    pub fn select(&mut self, loc: Loc) {
        self.touched.insert(loc);
        if let (Out(slot, _), Some(axis)) = (loc, self.axis_id(loc)) {
            self.facts.selections.push(Selection { node: self.cx.id, slot, axis });
        }
    }

    /// States that the node's statistic runs over this axis and may do so over fewer channels
    /// ([`Policy::approximate_norm`]).
    pub fn approximate(&mut self, loc: Loc, repair: Repair) {
        self.touched.insert(loc);
        if let Some(axis) = self.axis_id(loc) {
            self.facts.approximations.push(Approximation { node: self.cx.id, axis, repair });
        }
    }

    /// States that the node is a grouped convolution.
    pub fn grouped(&mut self) {
        self.facts.grouped.push(self.cx.id);
    }

    fn reason(&mut self, reason: &str) -> PinId {
        self.atoms.reason(Some(self.cx.id), reason)
    }

    /// The relation depends on a choice that the trace makes later: alternative `k` keeps `live[k]` alive.
    ///
    /// Returns the choice when it has been made; `None` asks the rule to return and wait.
    pub fn choose(&mut self, live: Vec<Vec<Loc>>) -> Option<usize> {
        if live.len() == 1 {
            return Some(0);
        }
        if self.choice.is_none() {
            self.alternatives = live;
        }
        self.choice
    }

    /// States what a parameter axis does. A parameter behind operators that only move it is found all the same.
    pub fn site(&mut self, role: Role, slot: usize, axis: usize) {
        let Some(value) = self.cx.graph.input(self.cx.id, slot) else { return };
        let found = if self.is_constant(slot) {
            self.inputs.get(slot).copied().flatten().map(|t| (t, axis))
        } else {
            super::chain::weight_source(&self.cx, value, axis)
                .and_then(|(node, slot, axis)| Some(((*self.all_inputs.get(node.0 as usize)?.get(slot)?)?, axis)))
        };
        if let Some((t, axis)) = found
            && let Some(tensor) = self.tensors.get(t.0 as usize).filter(|t| t.source.is_some())
            && let Some(id) = tensor.axes.get(axis).copied().flatten()
        {
            self.facts.sites.push(Site { role, node: self.cx.id, axis: id });
        }
    }

    /// States that the node sums over this axis of the operand in `slot`.
    pub fn contract(&mut self, slot: usize, axis: usize) {
        self.site(Role::Consumer, slot, axis);
        if let Some(id) = self.axis_id(In(slot, axis)) {
            self.facts.contractions.push(Contraction { node: self.cx.id, slot, axis: id });
        }
    }

    /// The same count must stay in each of `blocks` equal parts of the axis.
    pub fn equal_counts(&mut self, loc: Loc, blocks: usize) {
        if let Some(axis) = self.axis_id(loc) {
            self.facts.cardinalities.push(Cardinality { node: self.cx.id, axis, blocks });
        }
    }

    /// States the node's multiply-accumulates: `constant` times the sizes of these axes. A dynamic leading (batch)
    /// axis counts as one sample.
    pub fn macs(&mut self, mut constant: f64, locs: &[Loc]) -> Answer<()> {
        let mut axes = Vec::new();
        for &loc in locs {
            match self.axis_id(loc) {
                Some(id) => axes.push(id),
                None if matches!(loc, In(_, 0) | Out(_, 0)) && !self.fixed(loc) => {}
                None => constant *= self.size(loc)? as f64,
            }
        }
        self.facts.macs.push(MacTerm { node: self.cx.id, cost: Cost { constant, axes } });
        Ok(())
    }

    /// States a batch normalization: slots of γ, β, mean and variance.
    pub fn batch_norm(&mut self, slots: [usize; 4], epsilon: f64) {
        let constant = |s: usize| if self.is_constant(s) { self.inputs.get(s).copied().flatten() } else { None };
        if let ([Some(g), Some(b), Some(m), Some(v)], Some(axis)) = (slots.map(constant), self.axis_id(In(slots[0], 0)))
        {
            self.facts.norms.push(NormSite { node: self.cx.id, params: [g, b, m, v], epsilon, axis });
        }
    }
}
