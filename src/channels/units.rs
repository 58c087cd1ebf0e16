//! Cardinality: channels of a grouped convolution leave in equal numbers from every group.

use super::model::{AxisId, Channels, Pin, Unit};
use crate::canon::Analysis;
use crate::graph::NodeId;
use crate::ops::relate::{Cardinality, Facts};
use std::collections::{BTreeMap, HashMap};

/// Per constraint: the blocks that a channel takes an index from (sorted, with repeats).
type Signature = Vec<(usize, Vec<usize>)>;

/// Divides all groups into units; a group that cannot lose equal counts becomes a pin.
pub fn build(a: &Analysis, ch: &mut Channels, facts: &Facts) {
    loop {
        let cells = cells(ch, &facts.cardinalities);
        let frozen = unbalanced(ch, &facts.cardinalities, &cells);
        if frozen.is_empty() {
            ch.units = units(&cells);
            return;
        }
        freeze(a, ch, frozen);
    }
}

/// `(group, signature) → channels` for every group.
fn cells(ch: &Channels, constraints: &[Cardinality]) -> Vec<BTreeMap<Signature, Vec<usize>>> {
    let mut on_axis: HashMap<AxisId, Vec<usize>> = HashMap::new();
    for (c, constraint) in constraints.iter().enumerate() {
        on_axis.entry(constraint.axis).or_default().push(c);
    }
    ch.groups
        .iter()
        .map(|g| {
            let mut mine: Vec<usize> = g.axes.iter().filter_map(|(x, _)| on_axis.get(x)).flatten().copied().collect();
            mine.sort_unstable();
            let mut cells: BTreeMap<Signature, Vec<usize>> = BTreeMap::new();
            for (k, channel) in g.channels.iter().enumerate() {
                let signature = mine
                    .iter()
                    .map(|&c| {
                        let block = ch.axis(constraints[c].axis).len / constraints[c].blocks.max(1);
                        let mut blocks: Vec<usize> =
                            channel.on(constraints[c].axis).map(|i| i / block.max(1)).collect();
                        blocks.sort_unstable();
                        (c, blocks)
                    })
                    .collect();
                cells.entry(signature).or_default().push(k);
            }
            cells
        })
        .collect()
}

/// Groups under a constraint whose blocks would not lose the same number when every cell loses one channel, each with
/// the layer that demands it.
fn unbalanced(
    ch: &Channels,
    constraints: &[Cardinality],
    cells: &[BTreeMap<Signature, Vec<usize>>],
) -> BTreeMap<usize, NodeId> {
    let mut loss: Vec<Vec<usize>> = constraints.iter().map(|c| vec![0; c.blocks]).collect();
    let mut touching: Vec<Vec<usize>> = vec![Vec::new(); constraints.len()];
    for (g, cells) in cells.iter().enumerate() {
        for (c, blocks) in cells.keys().flatten() {
            touching[*c].push(g);
            for &b in blocks {
                if let Some(n) = loss[*c].get_mut(b) {
                    *n += 1;
                }
            }
        }
    }
    let mut frozen = BTreeMap::new();
    for (c, constraint) in constraints.iter().enumerate() {
        let uneven = !ch.axis(constraint.axis).len.is_multiple_of(constraint.blocks.max(1));
        if uneven || loss[c].iter().any(|n| Some(n) != loss[c].first()) {
            for &g in &touching[c] {
                frozen.entry(g).or_insert(constraint.node);
            }
        }
    }
    frozen
}

fn freeze(a: &Analysis, ch: &mut Channels, frozen: BTreeMap<usize, NodeId>) {
    for (&g, &node) in &frozen {
        let group = ch.groups[g].clone();
        for site in &group.sites {
            let axis = ch.axis(site.axis);
            let tensor = ch.tensor(axis.tensor);
            ch.pins.push(Pin {
                layer: a.graph.name(site.node),
                tensor: tensor.source.map_or_else(|| tensor.key.clone(), |s| a.graph.value(s).name.clone()),
                axis: axis.axis,
                pinned: group.channels.iter().map(|c| c.on(site.axis).count()).sum(),
                len: axis.len,
                node: a.graph.name(node),
                op: a.graph.op(node),
                reason: "its groups cannot lose the same number of these channels".into(),
            });
        }
    }
    let mut i = 0;
    ch.groups.retain(|_| {
        i += 1;
        !frozen.contains_key(&(i - 1))
    });
}

/// Groups that share a constraint form one unit.
fn units(cells: &[BTreeMap<Signature, Vec<usize>>]) -> Vec<Unit> {
    let mut owner: BTreeMap<usize, usize> = BTreeMap::new();
    let mut unit_of: Vec<usize> = (0..cells.len()).collect();
    fn root(unit_of: &[usize], mut g: usize) -> usize {
        while unit_of[g] != g {
            g = unit_of[g];
        }
        g
    }
    for (g, cells) in cells.iter().enumerate() {
        for c in cells.keys().flatten().map(|(c, _)| *c) {
            let other = *owner.entry(c).or_insert(g);
            let (x, y) = (root(&unit_of, other), root(&unit_of, g));
            unit_of[x.max(y)] = x.min(y);
        }
    }
    let mut units: BTreeMap<usize, Unit> = BTreeMap::new();
    for (g, cells) in cells.iter().enumerate() {
        let unit = units.entry(root(&unit_of, g)).or_insert_with(|| Unit { cells: Vec::new() });
        unit.cells.extend(cells.values().map(|ks| ks.iter().map(|&k| (g, k)).collect::<Vec<_>>()));
    }
    units.into_values().collect()
}
