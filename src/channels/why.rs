//! Follows channels through the graph: what ties them together, and on which way a pin reaches them.
//!
//! The groups say *that* channels belong together; this walk over the same atoms says *through which nodes*.

use super::model::{AxisId, Role, TensorId};
use super::trace::{Settled, settled};
use crate::canon::Analysis;
use crate::error::Result;
use crate::graph::{NodeId, Origin};
use crate::onnx::tensor;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

/// What a node does with a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// A weight makes it.
    Makes,
    /// A weight sums over it.
    Reads,
    /// Several tensors with the channel meet.
    Joins,
    /// It passes.
    Carries,
}

/// A node on a channel's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The node.
    pub node: NodeId,
    /// What it does.
    pub part: Part,
}

/// What holds some indices of an axis back.
#[derive(Clone, Debug)]
pub struct Held {
    /// How many indices.
    pub indices: usize,
    /// The node that pins; `None` for graph inputs and outputs.
    pub node: Option<NodeId>,
    /// Why.
    pub reason: String,
    /// The nodes from the asked one to the one that pins, both included.
    pub path: Vec<NodeId>,
}

/// One axis of a node's parameter or output.
#[derive(Clone, Debug)]
pub struct AxisWhy {
    /// Its tensor.
    pub tensor: TensorId,
    /// The axis.
    pub axis: AxisId,
    /// How many of its indices are free.
    pub free: usize,
    /// All nodes that the first free channel passes, in graph order.
    pub steps: Vec<Step>,
    /// What holds the others, most indices first.
    pub held: Vec<Held>,
}

/// Follows the channels of a node: along its float parameters of two or more axes, or along its outputs where it has none.
///
/// # Errors
/// As [`trace`](super::trace()).
pub fn why(a: &Analysis, node: NodeId) -> Result<Vec<AxisWhy>> {
    let mut s = settled(a)?;
    let of: Vec<TensorId> = s.t.of_node(node).collect();
    let weight = |t: &TensorId| {
        let t = &s.t.tensors[t.0 as usize];
        t.source.is_some() && tensor::is_float(t.elem_type) && t.dims.iter().filter(|&&d| d > 1).count() > 1
    };
    let mut tensors: Vec<TensorId> = of.iter().copied().filter(weight).collect();
    if tensors.is_empty() {
        tensors = s.t.outputs[node.0 as usize].iter().copied().flatten().collect();
    }
    let axes = |t: &TensorId| s.t.tensors[t.0 as usize].axes.clone().into_iter().flatten();
    let mut all: Vec<(TensorId, AxisId)> = tensors.iter().flat_map(|t| axes(t).map(|x| (*t, x))).collect();
    // Of a layer's weight, the axes that hold channels; not the window of a convolution.
    let sites: BTreeSet<AxisId> = s.facts.sites.iter().filter(|x| x.node == node).map(|x| x.axis).collect();
    if all.iter().any(|(_, x)| sites.contains(x)) {
        all.retain(|(_, x)| sites.contains(x));
    }
    Ok(all.into_iter().map(|(t, x)| s.axis(a, node, t, x)).collect())
}

impl Settled {
    fn axis(&mut self, a: &Analysis, node: NodeId, tensor: TensorId, axis: AxisId) -> AxisWhy {
        let n = self.t.axes[axis.0 as usize].len;
        let mut free: Option<u32> = None;
        let mut count = 0;
        let mut reasons: Vec<(Held, u32)> = Vec::new();
        for i in 0..n {
            let root = self.atoms.find(axis, i);
            let Some(pin) = self.atoms.pinned(axis, i) else {
                count += 1;
                free.get_or_insert(root);
                continue;
            };
            match reasons.iter_mut().find(|(h, _)| h.node == pin.node && h.reason == pin.reason) {
                Some((held, _)) => held.indices += 1,
                None => {
                    let reason = pin.reason.clone();
                    reasons.push((Held { indices: 1, node: pin.node, reason, path: Vec::new() }, root));
                }
            }
        }
        reasons.sort_by_key(|(h, _)| std::cmp::Reverse(h.indices));
        let wanted: BTreeSet<u32> = reasons.iter().map(|r| r.1).chain(free).collect();
        let members = self.members(&wanted);
        let none = BTreeSet::new();
        let of = |root: u32| members.get(&root).unwrap_or(&none);
        let steps = free.map_or_else(Vec::new, |root| self.steps(a, of(root)));
        let held = reasons.into_iter().map(|(mut held, root)| {
            held.path = self.path(a, node, axis, held.node, of(root));
            held
        });
        AxisWhy { tensor, axis, free: count, steps, held: held.collect() }
    }

    /// The axes that each class has an index on.
    fn members(&mut self, roots: &BTreeSet<u32>) -> HashMap<u32, BTreeSet<AxisId>> {
        let mut out: HashMap<u32, BTreeSet<AxisId>> = HashMap::new();
        for (k, x) in self.t.axes.iter().enumerate() {
            let id = AxisId(k as u32);
            for i in 0..x.len {
                let root = self.atoms.find(id, i);
                if roots.contains(&root) {
                    out.entry(root).or_default().insert(id);
                }
            }
        }
        out
    }

    /// Nodes that touch a tensor.
    fn nodes_of(&self, a: &Analysis, t: TensorId) -> Vec<NodeId> {
        let tensor = &self.t.tensors[t.0 as usize];
        let mut nodes: Vec<NodeId> = Vec::new();
        if tensor.source.is_none() {
            if let Origin::Node(n, _) = a.graph.value(tensor.value).origin {
                nodes.push(n);
            }
            // The three nodes of a channel shuffle act as one.
            nodes.extend(a.shuffles.iter().filter(|s| s.input == tensor.value).map(|s| s.nodes[2]));
        }
        nodes.extend(tensor.readers.iter().map(|r| r.0));
        nodes
    }

    /// The tensors that a node ties to each other.
    fn tied(&self, a: &Analysis, node: NodeId) -> Vec<TensorId> {
        match a.shuffles.iter().find(|s| s.nodes[2] == node) {
            Some(s) => [s.input, s.output].iter().filter_map(|v| self.t.by_value.get(v)).copied().collect(),
            None => self.t.of_node(node).collect(),
        }
    }

    fn steps(&self, a: &Analysis, members: &BTreeSet<AxisId>) -> Vec<Step> {
        let tensors: BTreeSet<TensorId> = members.iter().map(|&x| self.t.axes[x.0 as usize].tensor).collect();
        let nodes: BTreeSet<NodeId> = tensors.iter().flat_map(|&t| self.nodes_of(a, t)).collect();
        let mut roles: BTreeMap<NodeId, BTreeSet<Role>> = BTreeMap::new();
        for site in self.facts.sites.iter().filter(|s| members.contains(&s.axis)) {
            roles.entry(site.node).or_default().insert(site.role);
        }
        let place = |n: &NodeId| a.graph.order.iter().position(|x| x == n);
        let mut steps: Vec<Step> = nodes
            .into_iter()
            .map(|node| {
                let has = |r: Role| roles.get(&node).is_some_and(|set| set.contains(&r));
                let inputs = &self.t.inputs[node.0 as usize];
                let activation = |t: &&TensorId| self.t.tensors[t.0 as usize].source.is_none() && tensors.contains(*t);
                let part = match (has(Role::Producer), has(Role::Consumer)) {
                    (true, _) => Part::Makes,
                    (false, true) => Part::Reads,
                    _ if inputs.iter().flatten().filter(activation).count() > 1 => Part::Joins,
                    _ => Part::Carries,
                };
                Step { node, part }
            })
            .collect();
        steps.sort_by_key(|s| place(&s.node));
        steps
    }

    /// The shortest way from the asked axis to the node that pins (or to the graph's input or output).
    fn path(
        &self,
        a: &Analysis,
        from: NodeId,
        axis: AxisId,
        to: Option<NodeId>,
        members: &BTreeSet<AxisId>,
    ) -> Vec<NodeId> {
        if to == Some(from) {
            return vec![from];
        }
        let start = self.t.axes[axis.0 as usize].tensor;
        let mut came: HashMap<TensorId, Option<(TensorId, NodeId)>> = HashMap::from([(start, None)]);
        let mut queue = VecDeque::from([start]);
        let back = |came: &HashMap<TensorId, Option<(TensorId, NodeId)>>, mut t: TensorId, last: Option<NodeId>| {
            let mut path: Vec<NodeId> = last.into_iter().collect();
            while let Some(&Some((before, node))) = came.get(&t) {
                path.push(node);
                t = before;
            }
            path.push(from);
            path.reverse();
            path.dedup();
            path
        };
        while let Some(t) = queue.pop_front() {
            let nodes = self.nodes_of(a, t);
            let value = a.graph.value(self.t.tensors[t.0 as usize].value);
            let end = value.is_output || matches!(value.origin, Origin::Input(_));
            match to {
                Some(pin) if nodes.contains(&pin) => return back(&came, t, Some(pin)),
                None if end => return back(&came, t, None),
                _ => {}
            }
            for node in nodes {
                for next in self.tied(a, node) {
                    let axes = self.t.tensors[next.0 as usize].axes.iter().flatten();
                    if axes.clone().any(|x| members.contains(x)) && !came.contains_key(&next) {
                        came.insert(next, Some((t, node)));
                        queue.push_back(next);
                    }
                }
            }
        }
        // Tied through a size or a shared constant: no way through tensors.
        to.map_or_else(|| vec![from], |pin| vec![from, pin])
    }
}
