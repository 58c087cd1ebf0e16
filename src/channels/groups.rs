//! From classes of atoms to channels, groups, pins and costs.

use super::atoms::Atoms;
use super::model::{AxisId, BatchNorm, Channel, Channels, Cost, Group, ParamTerm, Pin, Role, Site, TensorId};
use super::tensors::Tensors;
use crate::canon::Analysis;
use crate::graph::NodeId;
use crate::onnx::tensor;
use crate::ops::chain;
use crate::ops::relate::Facts;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Builds everything but the units.
pub fn build(a: &Analysis, t: &Tensors, atoms: &mut Atoms, facts: &Facts) -> Channels {
    let mut out = Channels {
        tensors: t.tensors.clone(),
        axes: t.axes.clone(),
        grouped: facts.grouped.clone(),
        macs: facts.macs.clone(),
        params: params(t),
        pins: pins(a, t, atoms, facts),
        ..Channels::default()
    };
    out.groups = groups(a, t, atoms, facts);
    out
}

fn is_weight(t: &Tensors, axis: AxisId) -> bool {
    let tensor = &t.tensors[t.axes[axis.0 as usize].tensor.0 as usize];
    tensor.source.is_some() && tensor::is_parameter(tensor.elem_type)
}

/// Free classes with an index of a weight, in the order of their first atom. Others (positions, batches) can be very many.
fn channels(t: &Tensors, atoms: &mut Atoms) -> Vec<Channel> {
    let mut index: HashMap<u32, Option<usize>> = HashMap::new();
    let ids = || (0..t.axes.len() as u32).map(AxisId);
    for id in ids().filter(|&id| is_weight(t, id)) {
        for i in 0..t.axes[id.0 as usize].len {
            if atoms.pinned(id, i).is_none() {
                index.insert(atoms.find(id, i), None);
            }
        }
    }
    let mut classes: Vec<Channel> = Vec::new();
    for id in ids() {
        for i in 0..t.axes[id.0 as usize].len {
            let Some(class) = index.get_mut(&atoms.find(id, i)) else { continue };
            let class = *class.get_or_insert_with(|| {
                classes.push(Channel { members: Vec::new() });
                classes.len() - 1
            });
            classes[class].members.push((id, i as u32));
        }
    }
    classes
}

fn groups(a: &Analysis, t: &Tensors, atoms: &mut Atoms, facts: &Facts) -> Vec<Group> {
    let mut by_axes: HashMap<Vec<(AxisId, u32)>, usize> = HashMap::new();
    let mut groups: Vec<Group> = Vec::new();
    for channel in channels(t, atoms) {
        let mut axes: Vec<(AxisId, u32)> = Vec::new();
        for &(axis, _) in &channel.members {
            match axes.last_mut() {
                Some((last, n)) if *last == axis => *n += 1,
                _ => axes.push((axis, 1)),
            }
        }
        let g = *by_axes.entry(axes.clone()).or_insert_with(|| {
            groups.push(Group {
                name: String::new(),
                layers: Vec::new(),
                channels: Vec::new(),
                axes,
                sites: Vec::new(),
                batch_norms: Vec::new(),
            });
            groups.len() - 1
        });
        groups[g].channels.push(channel);
    }
    // A lone channel cannot leave: its axes would lose their last index of the kind. Channels that no layer makes or
    // reads (learned tokens, tables) are not channels of the network.
    let weights: BTreeSet<AxisId> =
        facts.sites.iter().filter(|s| matches!(s.role, Role::Producer | Role::Consumer)).map(|s| s.axis).collect();
    groups.retain(|g| g.channels.len() > 1 && g.axes.iter().any(|(x, _)| weights.contains(x)));
    let place: HashMap<NodeId, usize> = a.graph.order.iter().enumerate().map(|(i, &n)| (n, i)).collect();
    let at = |n: NodeId| place.get(&n).copied().unwrap_or(usize::MAX);
    // By axis, so that the time stays linear in the graph.
    let mut sites: HashMap<AxisId, Vec<Site>> = HashMap::new();
    let mut producers: HashMap<NodeId, AxisId> = HashMap::new();
    for s in &facts.sites {
        sites.entry(s.axis).or_default().push(*s);
        if s.role == Role::Producer {
            producers.entry(s.node).or_insert(s.axis);
        }
    }
    let mut norms: HashMap<AxisId, Vec<usize>> = HashMap::new();
    for (i, n) in facts.norms.iter().enumerate() {
        norms.entry(n.axis).or_default().push(i);
    }
    for g in &mut groups {
        g.sites = g.axes.iter().filter_map(|(x, _)| sites.get(x)).flatten().copied().collect();
        g.sites.sort_by_key(|s| (at(s.node), s.axis, s.role));
        g.sites.dedup();
        let mut layers: Vec<NodeId> = g.sites.iter().map(|s| s.node).collect();
        layers.dedup();
        g.layers = layers;
        let mut mine: Vec<usize> = g.axes.iter().filter_map(|(x, _)| norms.get(x)).flatten().copied().collect();
        mine.sort_unstable();
        g.batch_norms = mine
            .into_iter()
            .map(|i| &facts.norms[i])
            .map(|n| BatchNorm {
                node: n.node,
                scale: n.params[0],
                shift: n.params[1],
                mean: n.params[2],
                var: n.params[3],
                epsilon: n.epsilon,
                axis: n.axis,
                activation: a
                    .graph
                    .output(n.node, 0)
                    .map_or(crate::ops::Activation::Unknown, |v| chain::activation_after(a, v)),
                producer: producer_axis(a, &producers, n.node),
            })
            .collect();
        let first = g.sites.iter().find(|s| s.role == Role::Producer).or(g.sites.first());
        g.name = first.map_or_else(|| "unnamed".to_owned(), |s| a.graph.name(s.node));
    }
    groups.sort_by_key(|g| g.sites.iter().map(|s| at(s.node)).min());
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for g in &mut groups {
        let n = seen.entry(g.name.clone()).or_default();
        *n += 1;
        if *n > 1 {
            g.name = format!("{}[{}]", g.name, n);
        }
    }
    groups
}

/// The out-channel axis of the layer whose output a node reads first.
fn producer_axis(a: &Analysis, producers: &HashMap<NodeId, AxisId>, node: NodeId) -> Option<AxisId> {
    let crate::graph::Origin::Node(from, 0) = a.graph.value(a.graph.input(node, 0)?).origin else { return None };
    producers.get(&from).copied()
}

/// Elements of every floating-point or quantised constant with at least one axis, one term per tensor.
fn params(t: &Tensors) -> Vec<ParamTerm> {
    let mut out = Vec::new();
    for (i, tensor) in t.tensors.iter().enumerate() {
        if tensor.source.is_none() || !tensor::is_parameter(tensor.elem_type) || tensor.dims.is_empty() {
            continue;
        }
        let mut cost = Cost { constant: 1.0, axes: Vec::new() };
        for (&d, axis) in tensor.dims.iter().zip(&tensor.axes) {
            match axis {
                Some(id) => {
                    cost.constant /= t.axes[id.0 as usize].fold as f64;
                    cost.axes.push(*id);
                }
                None => cost.constant *= d as f64,
            }
        }
        out.push(ParamTerm { tensor: TensorId(i as u32), cost });
    }
    out
}

/// Parameter axes that are held back, with the first reason.
fn pins(a: &Analysis, t: &Tensors, atoms: &mut Atoms, facts: &Facts) -> Vec<Pin> {
    let mut wanted: Vec<(AxisId, NodeId)> = facts
        .sites
        .iter()
        .filter(|s| matches!(s.role, Role::Producer | Role::Consumer))
        .map(|s| (s.axis, s.node))
        .collect();
    let known: BTreeSet<TensorId> = wanted.iter().map(|(x, _)| t.axes[x.0 as usize].tensor).collect();
    for (i, tensor) in t.tensors.iter().enumerate() {
        // Weights of operators without a rule, or behind one that refused.
        if tensor.source.is_some()
            && tensor::is_parameter(tensor.elem_type)
            && tensor.dims.iter().filter(|&&d| d > 1).count() > 1
            && !known.contains(&TensorId(i as u32))
            && let Some(&(node, _)) = tensor.readers.first()
        {
            wanted.extend(tensor.axes.iter().flatten().map(|&x| (x, node)));
        }
    }
    wanted.sort_by_key(|&(x, n)| (n, x));
    wanted.dedup();
    let mut out = Vec::new();
    for (id, layer) in wanted {
        let axis = &t.axes[id.0 as usize];
        let pinned: Vec<usize> = (0..axis.len).filter(|&i| atoms.pinned(id, i).is_some()).collect();
        let Some(why) = pinned.first().and_then(|&i| atoms.pinned(id, i)).cloned() else { continue };
        let (node, op) = match why.node {
            Some(n) => (a.graph.name(n), a.graph.op(n)),
            None => ("graph".into(), "graph".into()),
        };
        let tensor = &t.tensors[axis.tensor.0 as usize];
        out.push(Pin {
            layer: a.graph.name(layer),
            tensor: tensor.source.map_or_else(|| tensor.key.clone(), |s| a.graph.value(s).name.clone()),
            axis: axis.axis,
            pinned: pinned.len(),
            len: axis.len,
            node,
            op,
            reason: why.reason,
        });
    }
    out
}
