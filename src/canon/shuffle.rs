//! Channel shuffles: Reshape → Transpose → Reshape that together permute one axis.
//!
//! Taken literally, the splitting reshapes would tie all channels of a ShuffleNet into a handful of classes. As one
//! Gather along the channel axis they tie nothing but what they move.
//!
//! Requires: fixed channel sizes; each intermediate read by the next node only. Ensures: `output[k] = input[perm[k]]`
//! along `axis`, all other axes unchanged.

use super::Analysis;
use super::fold::constant_source;
use crate::graph::{NodeId, ValueId, is_default_domain};
use crate::ops::movement::permutation;

/// Three nodes that permute one axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shuffle {
    /// Reshape, Transpose, Reshape.
    pub nodes: [NodeId; 3],
    /// What goes in.
    pub input: ValueId,
    /// What comes out.
    pub output: ValueId,
    /// The permuted axis.
    pub axis: usize,
    /// `output[k] = input[perm[k]]`.
    pub perm: Vec<usize>,
}

/// All shuffles of a graph.
pub fn find(analysis: &Analysis) -> Vec<Shuffle> {
    let g = analysis.graph;
    let is = |id: NodeId, op: &str| g.node(id).op_type() == op && is_default_domain(g.node(id).domain());
    let mut found = Vec::new();
    for &id in &g.order {
        if is(id, "Reshape")
            && let Some(split) = g.output(id, 0)
            && let Some(t) = g.sole_reader(split).filter(|&t| is(t, "Transpose"))
            && let Some(swapped) = g.output(t, 0)
            && let Some(last) = g.sole_reader(swapped).filter(|&m| is(m, "Reshape") && g.input(m, 0) == Some(swapped))
            && let (Some(input), Some(output)) = (g.input(id, 0), g.output(last, 0))
            // A constant is cut for each of its readers; taken literally, this one follows.
            && constant_source(g, input).is_none()
            && let Some((axis, perm)) = permuted(analysis, t, [input, split, swapped, output])
        {
            found.push(Shuffle { nodes: [id, t, last], input, output, axis, perm });
        }
    }
    found
}

/// The axis and permutation, when `[…, C, …] → […, g, m, …] → […, m, g, …] → […, C, …]`.
fn permuted(analysis: &Analysis, transpose: NodeId, values: [ValueId; 4]) -> Option<(usize, Vec<usize>)> {
    let perm = permutation(&analysis.cx(transpose, 0, &[])).ok()?;
    let axis = (0..perm.len()).find(|&a| perm[a] != a)?;
    let mut swap: Vec<usize> = (0..perm.len()).collect();
    swap.swap(axis, (axis + 1).min(perm.len() - 1));
    if perm != swap {
        return None;
    }
    for lane in &analysis.lanes {
        let [x, split, _, y] = values.map(|v| lane.shapes[v.0 as usize].as_ref());
        let (x, split, y) = (x?, split?, y?);
        let merged = [&split[..axis], &[split[axis] * split[axis + 1]], &split[axis + 2..]].concat();
        if x != y || *x != merged {
            return None;
        }
    }
    let split = analysis.dims(values[1])?;
    let ((g, fixed_g), (m, fixed_m)) = (split[axis], split[axis + 1]);
    if !fixed_g || !fixed_m || g.checked_mul(m)? > 1 << 20 {
        return None;
    }
    Some((axis, (0..g * m).map(|k| (k % g) * m + k / g).collect()))
}
