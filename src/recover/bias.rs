//! Bias absorption: what a removed channel contributes on average goes into its consumers' biases.
//!
//! `b_k += Σ_{j∈P} m_j Σ_xy W[k,j,x,y]`. Exact for channels that are constant, except near zero-padded borders; otherwise
//! the expectation. Where the consumer has no bias and a batch normalization follows, its running mean moves instead.
//! The edited model still has all its channels: the cut and its masked twin both start from it.

use super::Recover;
use super::moments::Moments;
use crate::channels::{TensorId, Trace};
use crate::error::{Error, Result};
use crate::graph::{Graph, NodeId, ValueId};
use crate::onnx::proto::TensorProto;
use crate::onnx::{Model, tensor};
use crate::ops::expect::{self, Behind, Linear};
use crate::ops::relate::Contraction;
use crate::prune::Traced;
use crate::report::RecoverReport;
use crate::rewrite::Edit;
use rayon::prelude::*;
use std::collections::BTreeMap;

/// Where a layer's constant part can be put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// An existing constant: add the difference.
    Add(NodeId, usize),
    /// A running mean: subtract it.
    Subtract(NodeId, usize),
    /// A bias input that does not exist yet.
    New(NodeId, usize),
}

/// One consumer's work: what its removed inputs contribute, and where that goes.
struct Job<'a> {
    c: &'a Contraction,
    layer: Linear,
    weight: TensorId,
    target: Target,
    /// `(index on the contracted axis, expected value)`.
    means: Vec<(usize, f64)>,
}

/// Folds removed channels into their consumers. Returns the whole model with edited biases.
///
/// # Errors
/// When a weight cannot be read.
pub fn absorb(t: &Traced, removed: &[Vec<usize>], mode: Recover) -> Result<(Model, RecoverReport)> {
    let mut moments = Moments::new(t);
    let mut kinds: BTreeMap<(usize, usize), Kind> = BTreeMap::new();
    let mut jobs = Vec::new();
    let ch = &t.trace.channels;
    for c in &t.trace.contractions {
        let job = job(t, c);
        let mut means = Vec::new();
        for (g, gone) in removed.iter().enumerate() {
            if gone.is_empty() || !ch.groups[g].axes.iter().any(|&(x, _)| x == c.axis) {
                continue;
            }
            for &k in gone {
                let moment = job
                    .as_ref()
                    .and_then(|(other, ..)| moments.of(*other, (g, k)))
                    .filter(|m| m.exact || mode == Recover::Bias);
                let kind = match moment {
                    None => Kind::Skipped,
                    Some(m) if m.exact => Kind::Constant,
                    Some(_) => Kind::Expected,
                };
                let worst = kinds.entry((g, k)).or_insert(kind);
                *worst = (*worst).max(kind);
                let mean = moment.map_or(0.0, |m| m.mean);
                means.extend(ch.groups[g].channels[k].on(c.axis).map(|i| (i, mean)));
            }
        }
        means.retain(|&(_, m)| m != 0.0);
        if let (Some((_, weight, layer, target)), false) = (job, means.is_empty()) {
            jobs.push(Job { c, layer, weight, target, means });
        }
    }
    let parts: Vec<Result<Vec<f64>>> = jobs.par_iter().map(|j| contribution(t, j)).collect();
    // A tensor may take what several consumers lose.
    let mut deltas: BTreeMap<(NodeId, usize, bool), Vec<f64>> = BTreeMap::new();
    for (job, part) in jobs.iter().zip(parts) {
        let part = part?;
        let (node, slot, new, sign) = match job.target {
            Target::Add(n, s) => (n, s, false, 1.0),
            Target::New(n, s) => (n, s, true, 1.0),
            Target::Subtract(n, s) => (n, s, false, -1.0),
        };
        let sum = deltas.entry((node, slot, new)).or_insert_with(|| vec![0.0; part.len()]);
        sum.iter_mut().zip(&part).for_each(|(a, b)| *a += sign * b);
    }
    let mut edit = Edit::new(&t.analysis, &t.trace);
    for ((node, slot, new), delta) in deltas {
        apply(t, &mut edit, node, slot, new, &delta)?;
    }
    let count = |k: Kind| kinds.values().filter(|&&x| x == k).count();
    let report = RecoverReport {
        mode: mode.name().into(),
        constant_channels: count(Kind::Constant),
        expected_channels: count(Kind::Expected),
        skipped_channels: count(Kind::Skipped),
        layers: Vec::new(),
    };
    Ok((edit.finish()?, report))
}

/// How well a channel is known, best first; its worst consumer counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Constant,
    Expected,
    Skipped,
}

fn source<'m>(g: &Graph<'m>, trace: &Trace, id: TensorId) -> Result<&'m TensorProto> {
    let t = trace.channels.tensor(id);
    t.source.and_then(|s| g.constant(s)).ok_or_else(|| Error::Internal(format!("{:?} holds no parameters", t.key)))
}

/// The value that a constant weight meets, the weight, its layer, and where the layer's constant part goes.
fn job(t: &Traced, c: &Contraction) -> Option<(ValueId, TensorId, Linear, Target)> {
    let weight = (*t.trace.tensors.inputs[c.node.0 as usize].get(c.slot)?)?;
    let layer = expect::linear(&t.analysis.cx(c.node, 0, &[]))?;
    let tensor = t.trace.channels.tensor(weight);
    // Matrices and kernels whose contracted axis is one of the first two.
    let known = tensor.source.is_some() && t.trace.channels.axis(c.axis).axis < 2;
    if c.slot != 1 || !known || (layer.bias.is_none() && tensor.dims.len() != 2) {
        return None;
    }
    let other = t.analysis.graph.input(c.node, 0)?;
    Some((other, weight, layer, target(t, c.node, &layer)?))
}

/// The constant in a slot, when it is one vector (all other sizes 1) of floats.
fn vector(t: &Traced, node: NodeId, slot: usize, len: usize) -> bool {
    let id = t.trace.tensors.inputs[node.0 as usize].get(slot).copied().flatten();
    id.map(|id| t.trace.channels.tensor(id)).is_some_and(|x| {
        x.source.is_some()
            && tensor::is_float(x.elem_type)
            && x.dims.iter().product::<usize>() == len
            && x.readers.len() == 1
    })
}

/// Position of the output channels on the layer's output, from the end, and their number.
fn outputs(t: &Traced, node: NodeId, layer: &Linear) -> Option<(usize, usize)> {
    let dims = t.analysis.dims(t.analysis.graph.output(node, 0)?)?;
    let axis = layer.channel_axis.unwrap_or(dims.len().checked_sub(1)?);
    let &(n, fixed) = dims.get(axis)?;
    fixed.then_some((dims.len() - 1 - axis, n))
}

/// Where a layer's constant part goes.
pub fn target(t: &Traced, node: NodeId, layer: &Linear) -> Option<Target> {
    let g = t.analysis.graph;
    let (from_end, n) = outputs(t, node, layer)?;
    let cx = t.analysis.cx(node, 0, &[]);
    if let Some(slot) = layer.bias.filter(|&s| cx.has(s)) {
        return vector(t, node, slot, n).then_some(Target::Add(node, slot));
    }
    let y = g.output(node, 0)?;
    if let Some(r) = g.sole_reader(y)
        && let Some(from) = (0..2).find(|&s| g.input(r, s) == Some(y))
    {
        match expect::behind(&t.analysis.cx(r, 0, &[]), from) {
            Some(Behind::Mean(slot)) if vector(t, r, slot, n) => return Some(Target::Subtract(r, slot)),
            Some(Behind::Addend(slot)) if vector(t, r, slot, n) => {
                // The addend must run along the output channels.
                let b = t.analysis.dims(g.input(r, slot)?)?;
                if b.len() > from_end && b[b.len() - 1 - from_end].0 == n {
                    return Some(Target::Add(r, slot));
                }
            }
            _ => {}
        }
    }
    layer.bias.map(|slot| Target::New(node, slot))
}

/// `Σ_j m_j Σ_taps W[k, j, …]` for every output channel `k`.
fn contribution(t: &Traced, job: &Job) -> Result<Vec<f64>> {
    let ch = &t.trace.channels;
    let w = tensor::to_f32(source(t.analysis.graph, &t.trace, job.weight)?)?;
    t.analysis.graph.model.release_pages();
    let info = ch.axis(job.c.axis);
    let dims = &ch.tensor(job.weight).dims;
    let (_, n) = outputs(t, job.c.node, &job.layer).unwrap_or_default();
    let (&[rows, columns], taps) = (dims.first_chunk::<2>().unwrap_or(&[0, 0]), dims.iter().skip(2).product::<usize>());
    let sum = |i: usize, j: usize| -> f64 {
        let from = (i * columns + j) * taps;
        w.get(from..from + taps).map_or(0.0, |s| s.iter().map(|&x| f64::from(x)).sum())
    };
    let mut delta = vec![0.0; n];
    let mut add = |o: usize, x: f64| {
        if let Some(d) = delta.get_mut(o) {
            *d += x;
        }
    };
    for &(i, m) in &job.means {
        if info.axis == 1 {
            // `W[out, in, …]`; with a fold, `i` counts through the groups' inputs.
            let per = rows / info.fold.max(1);
            let (group, local) = (i / columns.max(1), i % columns.max(1));
            for o in group * per..(group + 1) * per {
                add(o, m * sum(o, local));
            }
        } else {
            // `W[in, out, …]`; a transposed convolution's groups divide the inputs.
            let group = i / (rows / job.layer.input_groups).max(1);
            for o in 0..columns {
                add(group * columns + o, m * sum(i, o) * job.layer.tap_share);
            }
        }
    }
    Ok(delta)
}

fn apply(t: &Traced, edit: &mut Edit, node: NodeId, slot: usize, new: bool, delta: &[f64]) -> Result<()> {
    let g = t.analysis.graph;
    if new {
        let weight = (*t.trace.tensors.inputs[node.0 as usize].get(1).unwrap_or(&None))
            .ok_or_else(|| Error::Internal(format!("{} has no weight", g.label(node))))?;
        let like = source(g, &t.trace, weight)?;
        let bias = tensor::from_f64_like(like, &[delta.len()], delta)?;
        edit.add_input(node, slot, bias, &format!("{}.bias", g.name(node).trim_start_matches('/')));
        return Ok(());
    }
    let id = (*t.trace.tensors.inputs[node.0 as usize].get(slot).unwrap_or(&None))
        .ok_or_else(|| Error::Internal(format!("{} has no bias", g.label(node))))?;
    let proto = source(g, &t.trace, id)?;
    let mut values = tensor::to_f64(proto)?;
    values.iter_mut().zip(delta).for_each(|(v, d)| *v += d);
    edit.replace(id, tensor::from_f64_like(proto, &tensor::dims(proto)?, &values)?);
    Ok(())
}
