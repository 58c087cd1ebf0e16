//! Walks the graph once, lets every operator's rule speak, and settles what was left to choose.
//!
//! A choice is a reshape that may keep either of several axes apart: heads, or the channels within each head. What pins
//! leave no choice about is settled first; the others are tried out, and what frees most MACs stays.

use super::atoms::Atoms;
use super::model::{AxisId, Channels, Role, Tensor, TensorId};
use super::tensors::{self, Tensors};
use super::{groups, units};
use crate::canon::{Analysis, fold::constant_source};
use crate::error::{Error, Result};
use crate::graph::{NodeId, Origin, ValueId};
use crate::ops::Refusal;
use crate::ops::norm::STATISTIC;
use crate::ops::relate::{Approximation, Contraction, Facts, In, Loc, Out, Relate, Selection};
use std::collections::{BTreeSet, HashSet};

/// The trace's result, and what the rewriter needs besides.
pub struct Trace {
    /// Tensors, groups, pins and costs.
    pub channels: Channels,
    /// Which tensor each slot sees.
    pub tensors: Tensors,
    /// Where the oracle puts its zeros.
    pub contractions: Vec<Contraction>,
    /// Statistics over channels that may lose some (only under a policy that allows it).
    pub approximations: Vec<Approximation>,
    /// Outputs of which the rewriter keeps a part.
    pub selections: Vec<Selection>,
    /// Per node: it only passes a constant on, or is inside a channel shuffle.
    pub skip: Vec<bool>,
}

/// With more open choices than this, each is taken by its own channels alone.
const MAX_WEIGHED: usize = 256;

struct Tracer<'a> {
    a: &'a Analysis<'a>,
    t: Tensors,
    atoms: Atoms,
    facts: Facts,
}

/// A node whose relation waits for a choice between alternatives.
struct Waiting {
    node: NodeId,
    live: Vec<Vec<Loc>>,
}

/// Traces the channels of a graph.
///
/// # Errors
/// [`Error::Usage`] when the graph has more than 2^28 channel indices.
pub fn trace(a: &Analysis) -> Result<Trace> {
    let Settled { t, mut atoms, facts, skip } = settled(a)?;
    let mut channels = groups::build(a, &t, &mut atoms, &facts);
    units::build(a, &mut channels, &facts);
    Ok(Trace {
        channels,
        tensors: t,
        contractions: facts.contractions,
        approximations: facts.approximations,
        selections: facts.selections,
        skip,
    })
}

/// The union-find once every rule has spoken and every choice is made.
pub(super) struct Settled {
    pub t: Tensors,
    pub atoms: Atoms,
    pub facts: Facts,
    pub skip: Vec<bool>,
}

pub(super) fn settled(a: &Analysis) -> Result<Settled> {
    let t = tensors::build(a);
    let atoms = Atoms::new(t.axes.iter().map(|x| x.len)).ok_or_else(|| Error::Usage(tensors::too_large().0))?;
    let mut tracer = Tracer { a, t, atoms, facts: Facts::default() };
    tracer.pin_ends();
    let mut skip = tracer.t.alias.clone();
    for s in &a.shuffles {
        for n in s.nodes {
            skip[n.0 as usize] = true;
        }
    }
    tracer.relate_shuffles();
    let mut waiting = Vec::new();
    for &id in &a.graph.order {
        if !skip[id.0 as usize] {
            waiting.extend(tracer.relate(id, None));
        }
        tracer.pin_sizes_used_as_data(id);
    }
    // Before the choices: what looks free only because it could be selected would blur their worth.
    tracer.pin_copies();
    tracer.settle(waiting);
    let Tracer { t, atoms, facts, .. } = tracer;
    Ok(Settled { t, atoms, facts, skip })
}

impl Tracer<'_> {
    fn pin_tensor(&mut self, t: TensorId, node: Option<NodeId>, reason: &str) {
        let why = self.atoms.reason(node, reason);
        for axis in self.t.tensors[t.0 as usize].axes.clone().into_iter().flatten() {
            self.atoms.pin(axis, why);
        }
    }

    /// Graph inputs and outputs, values that subgraphs capture, and constants that must stay whole.
    fn pin_ends(&mut self) {
        for (i, v) in self.a.graph.values.iter().enumerate() {
            let id = ValueId(i as u32);
            let Some(&t) = self.t.by_value.get(&id) else { continue };
            let graph = if v.end_of.is_some() { "subgraph" } else { "graph" };
            if matches!(v.origin, Origin::Input(_)) {
                self.pin_tensor(t, v.end_of, &format!("{graph} input {:?}", v.name));
            }
            if v.is_output {
                self.pin_tensor(t, v.end_of, &format!("{graph} output {:?}", v.name));
            }
            if matches!(v.origin, Origin::Sparse) {
                self.pin_tensor(t, None, "a sparse initializer");
            }
            if let Some(n) = v.captured_by {
                self.pin_tensor(t, Some(n), "a subgraph reads it");
            }
        }
        for (t, node, why) in self.t.whole.clone() {
            self.pin_tensor(t, node, &why);
        }
    }

    fn relate_shuffles(&mut self) {
        for s in &self.a.shuffles {
            let (Some(&x), Some(&y)) = (self.t.by_value.get(&s.input), self.t.by_value.get(&s.output)) else {
                continue;
            };
            let (x, y) = (self.t.tensors[x.0 as usize].axes.clone(), self.t.tensors[y.0 as usize].axes.clone());
            for (axis, (i, o)) in x.into_iter().zip(y).enumerate() {
                let (Some(i), Some(o)) = (i, o) else { continue };
                for k in 0..self.t.axes[o.0 as usize].len {
                    let from = if axis == s.axis { s.perm.get(k).copied().unwrap_or(k) } else { k };
                    self.atoms.union(i, from, o, k);
                }
            }
            // The intermediate tensors are never cut as such.
            for n in &s.nodes[..2] {
                if let Some(t) = self.a.graph.output(*n, 0).and_then(|v| self.t.by_value.get(&v)).copied() {
                    self.pin_tensor(t, Some(*n), "inside a channel shuffle");
                }
            }
        }
    }

    /// Lets a node's rule speak. Returns the node when its relation has to wait for a choice.
    fn relate(&mut self, id: NodeId, choice: Option<usize>) -> Option<Waiting> {
        let i = id.0 as usize;
        let rule = match (&self.a.refusals[i], self.a.graph.rule(id)) {
            (Some(r), _) => Err(r.clone()),
            (None, None) => Err(Refusal("this operator has no rule".into())),
            (None, Some(rule)) => Ok(rule),
        };
        let facts_before = self.facts.lens();
        let mut r = Relate {
            cx: self.a.cx(id, 0, &[]),
            other: self.a.cx(id, 1, &[]),
            choice,
            policy: &self.a.policy,
            alternatives: Vec::new(),
            inputs: &self.t.inputs[i],
            all_inputs: &self.t.inputs,
            derived: &self.t.derived,
            outputs: &self.t.outputs[i],
            tensors: &self.t.tensors,
            axes: &self.t.axes,
            atoms: &mut self.atoms,
            facts: &mut self.facts,
            touched: BTreeSet::new(),
        };
        let outcome = rule.and_then(|rule| rule.relate(&mut r));
        let (touched, live) = (std::mem::take(&mut r.touched), std::mem::take(&mut r.alternatives));
        match outcome {
            Err(Refusal(reason)) => {
                self.facts.truncate(facts_before);
                let all: Vec<TensorId> = self.t.of_node(id).collect();
                for t in all {
                    self.pin_tensor(t, Some(id), &reason);
                }
                None
            }
            Ok(()) if !live.is_empty() => Some(Waiting { node: id, live }),
            Ok(()) => {
                self.pin_untouched(id, &touched);
                None
            }
        }
    }

    /// An axis that the rule did not mention stays whole.
    fn pin_untouched(&mut self, id: NodeId, touched: &BTreeSet<Loc>) {
        let i = id.0 as usize;
        let slots = (0..self.t.inputs[i].len()).map(|s| (self.t.inputs[i][s], true, s));
        let slots = slots.chain((0..self.t.outputs[i].len()).map(|s| (self.t.outputs[i][s], false, s)));
        let mut pins: Vec<AxisId> = Vec::new();
        for (t, is_input, s) in slots {
            let Some(t) = t else { continue };
            for (a, axis) in self.t.tensors[t.0 as usize].axes.iter().enumerate() {
                let loc = if is_input { In(s, a) } else { Out(s, a) };
                if !touched.contains(&loc) {
                    pins.extend(axis);
                }
            }
        }
        if !pins.is_empty() {
            let why = self.atoms.reason(Some(id), "this operator does not carry channels along this axis");
            for p in pins {
                self.atoms.pin(p, why);
            }
        }
    }

    /// A size that ends up as data (a divisor, a graph output, an index) must not change.
    fn pin_sizes_used_as_data(&mut self, id: NodeId) {
        let g = self.a.graph;
        let node = g.node(id);
        let vals = &self.a.lanes[0].vals;
        let known = |v: &ValueId| self.a.lanes.iter().all(|l| l.vals[v.0 as usize].is_some());
        let folded = g.nodes[id.0 as usize].outputs.iter().flatten().all(known);
        let known = self.a.refusals[id.0 as usize].is_none();
        let rule = g.rule(id).filter(|_| known);
        let size_slots = rule.map_or(&[][..], |r| r.size_slots());
        let mut pins: HashSet<(ValueId, usize)> = HashSet::new();
        for slot in 0..node.input.len() {
            if let Some(val) = g.input(id, slot).and_then(|v| vals[v.0 as usize].as_ref())
                && !folded
                && !size_slots.contains(&slot)
            {
                pins.extend(val.all_deps());
            }
        }
        for v in g.nodes[id.0 as usize].outputs.iter().flatten() {
            let value = g.value(*v);
            if let Some(val) = &vals[v.0 as usize]
                && (value.is_output || value.captured_by.is_some())
            {
                pins.extend(val.all_deps());
            }
        }
        let mut pins: Vec<_> = pins.into_iter().collect();
        pins.sort_unstable();
        for (v, axis) in pins {
            // Of a constant: every tensor that holds it.
            let source = constant_source(g, v);
            let same = |t: &&Tensor| t.value == v || (source.is_some() && t.source == source);
            let axes = self.t.tensors.iter().filter(same).filter_map(|t| t.axes.get(axis).copied().flatten());
            let axes: Vec<AxisId> = axes.collect();
            let why = self.atoms.reason(Some(id), "the size of this axis is used as a value");
            for axis in axes {
                self.atoms.pin(axis, why);
            }
        }
    }

    /// What may be selected behind a statistic stays whole where no weight makes the channel elsewhere.
    fn pin_copies(&mut self) {
        if self.facts.selections.is_empty() {
            return;
        }
        let mut made: HashSet<u32> = HashSet::new();
        for site in self.facts.sites.iter().filter(|s| s.role == Role::Producer) {
            for i in 0..self.t.axes[site.axis.0 as usize].len {
                if self.atoms.pinned(site.axis, i).is_none() {
                    made.insert(self.atoms.find(site.axis, i));
                }
            }
        }
        for s in &self.facts.selections {
            let why = self.atoms.reason(Some(s.node), STATISTIC);
            for i in 0..self.t.axes[s.axis.0 as usize].len {
                if !made.contains(&self.atoms.find(s.axis, i)) {
                    self.atoms.pin_one(s.axis, i, why);
                }
            }
        }
    }

    /// Settles all choices: again and again those that pins have made already, then the first open one by its worth.
    fn settle(&mut self, mut waiting: Vec<Waiting>) {
        while !waiting.is_empty() {
            let before = waiting.len();
            let mut open = Vec::new();
            for w in waiting {
                match self.candidates(&w).as_slice() {
                    [] => _ = self.relate(w.node, Some(0)),
                    &[only] => _ = self.relate(w.node, Some(only)),
                    _ => open.push(w),
                }
            }
            if open.len() == before {
                // Weighing looks at the whole graph; beyond this many it would take longer than pruning is worth.
                let weigh = open.len() <= MAX_WEIGHED;
                let rest = open.split_off(if weigh { 1 } else { open.len() });
                for w in open {
                    let choice = if weigh { self.best(&w) } else { self.widest(&w) };
                    self.relate(w.node, Some(choice));
                }
                open = rest;
            }
            waiting = open;
        }
    }

    /// The alternatives that keep anything alive.
    fn candidates(&mut self, w: &Waiting) -> Vec<usize> {
        (0..w.live.len()).filter(|&k| self.free_on(w.node, &w.live[k]) > 0).collect()
    }

    /// The alternative with most free channels.
    fn widest(&mut self, w: &Waiting) -> usize {
        let free = |k: &usize| std::cmp::Reverse(self.free_on(w.node, &w.live[*k]));
        (0..w.live.len()).min_by_key(free).unwrap_or(0)
    }

    /// The alternative that frees most MACs; of equal ones the one with most free channels, which are the smallest.
    ///
    /// What else waits for a choice is not tied yet, so that each site is judged at its best.
    fn best(&mut self, w: &Waiting) -> usize {
        let before = self.atoms.snapshot();
        let facts = self.facts.lens();
        let mut best = (0, (-1.0, 0));
        for k in self.candidates(w) {
            self.relate(w.node, Some(k));
            let worth = (self.free_macs(), self.free_on(w.node, &w.live[k]));
            self.atoms.restore(&before);
            self.facts.truncate(facts);
            if worth > best.1 {
                best = (k, worth);
            }
        }
        best.0
    }

    /// Free indices at these places.
    fn free_on(&mut self, node: NodeId, locs: &[Loc]) -> usize {
        let i = node.0 as usize;
        let mut free = 0;
        for &loc in locs {
            let (t, axis) = match loc {
                In(s, a) => (self.t.inputs[i].get(s), a),
                Out(s, a) => (self.t.outputs[i].get(s), a),
            };
            let tensor = t.copied().flatten().and_then(|t| self.t.tensors.get(t.0 as usize));
            if let Some(id) = tensor.and_then(|t| t.axes.get(axis).copied().flatten()) {
                free += self.atoms.free_on(id);
            }
        }
        free
    }

    /// MACs that go when everything free goes.
    fn free_macs(&mut self) -> f64 {
        let mut free = 0.0;
        for term in &self.facts.macs {
            let (mut all, mut stay) = (term.cost.constant, term.cost.constant);
            for &axis in &term.cost.axes {
                let n = self.t.axes[axis.0 as usize].len;
                all *= n as f64;
                stay *= (n - self.atoms.free_on(axis)) as f64;
            }
            free += all - stay;
        }
        free
    }
}
