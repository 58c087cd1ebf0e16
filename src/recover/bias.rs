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
use crate::ops::relate::Contraction;
use crate::plan;
use crate::prune::Traced;
use crate::report::RecoverReport;
use crate::rewrite::Edit;
use std::collections::BTreeMap;

/// Where a consumer's constant part can be put.
enum Target {
    /// An existing constant: add the difference.
    Add(NodeId, usize),
    /// A running mean: subtract it.
    Subtract(NodeId, usize),
    /// A bias input that does not exist yet.
    New(NodeId, usize),
}

/// Folds removed channels into their consumers. Returns the whole model with edited biases.
///
/// # Errors
/// When a weight cannot be read.
pub fn absorb(t: &Traced, removed: &[Vec<usize>], mode: Recover) -> Result<(Model, RecoverReport)> {
    let mut edit = Edit::new(&t.analysis, &t.trace);
    let mut moments = Moments::new(t);
    let mut kinds: BTreeMap<(usize, usize), Kind> = BTreeMap::new();
    // Differences per target tensor: a tensor may serve several consumers.
    let mut deltas: BTreeMap<(NodeId, usize, bool), Vec<f64>> = BTreeMap::new();
    let ch = &t.trace.channels;
    let axes = plan::removed_indices(ch, removed);
    for c in &t.trace.contractions {
        if axes.get(c.axis.0 as usize).is_none_or(Vec::is_empty) {
            continue;
        }
        let Some((other, weight)) = operands(t, c) else { continue };
        let Some(target) = target(t, c) else {
            mark(ch, removed, c, &mut kinds, Kind::Skipped);
            continue;
        };
        let proto = source(t.analysis.graph, &t.trace, weight)?;
        let energy = Layer::read(t, c, weight, proto)?;
        let mut delta = vec![0.0; energy.outputs];
        for (g, gone) in removed.iter().enumerate() {
            if gone.is_empty() || !ch.groups[g].axes.iter().any(|&(x, _)| x == c.axis) {
                continue;
            }
            for &k in gone {
                let moment = moments.of(other, (g, k)).filter(|m| m.exact || mode == Recover::Bias);
                let kind = kinds.entry((g, k)).or_insert(Kind::Constant);
                match moment {
                    None => *kind = Kind::Skipped,
                    Some(m) => {
                        if !m.exact && *kind == Kind::Constant {
                            *kind = Kind::Expected;
                        }
                        for i in ch.groups[g].channels[k].on(c.axis) {
                            energy.add(i, m.mean, &mut delta);
                        }
                    }
                }
            }
        }
        if delta.iter().all(|&d| d == 0.0) {
            continue;
        }
        let (node, slot, new) = match target {
            Target::Add(n, s) => (n, s, false),
            Target::New(n, s) => (n, s, true),
            Target::Subtract(n, s) => {
                delta.iter_mut().for_each(|d| *d = -*d);
                (n, s, false)
            }
        };
        let sum = deltas.entry((node, slot, new)).or_insert_with(|| vec![0.0; delta.len()]);
        sum.iter_mut().zip(&delta).for_each(|(a, b)| *a += b);
    }
    for ((node, slot, new), delta) in deltas {
        apply(t, &mut edit, node, slot, new, &delta)?;
    }
    let count = |k: Kind| kinds.values().filter(|&&x| x == k).count();
    let report = RecoverReport {
        mode: mode.name().into(),
        constant_channels: count(Kind::Constant),
        expected_channels: count(Kind::Expected),
        skipped_channels: count(Kind::Skipped),
    };
    Ok((edit.finish(), report))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Constant,
    Expected,
    Skipped,
}

fn mark(
    ch: &crate::channels::Channels,
    removed: &[Vec<usize>],
    c: &Contraction,
    kinds: &mut BTreeMap<(usize, usize), Kind>,
    kind: Kind,
) {
    for (g, gone) in removed.iter().enumerate() {
        if ch.groups[g].axes.iter().any(|&(x, _)| x == c.axis) {
            kinds.extend(gone.iter().map(|&k| ((g, k), kind)));
        }
    }
}

fn source<'m>(g: &Graph<'m>, trace: &Trace, id: TensorId) -> Result<&'m TensorProto> {
    let t = trace.channels.tensor(id);
    t.source.and_then(|s| g.constant(s)).ok_or_else(|| Error::Internal(format!("{:?} holds no parameters", t.key)))
}

/// The value that the weight meets, and the weight, when the weight is a constant.
fn operands(t: &Traced, c: &Contraction) -> Option<(ValueId, TensorId)> {
    let weight = (*t.trace.tensors.inputs[c.node.0 as usize].get(c.slot)?)?;
    t.trace.channels.tensor(weight).source?;
    let other = t.analysis.graph.input(c.node, 1 - c.slot.min(1))?;
    Some((other, weight))
}

/// The constant in a slot, when it is one vector (all other sizes 1) of floats.
fn vector(t: &Traced, node: NodeId, slot: usize, len: usize) -> bool {
    let id = t.trace.tensors.inputs[node.0 as usize].get(slot).copied().flatten();
    id.map(|id| t.trace.channels.tensor(id)).is_some_and(|x| {
        x.source.is_some() && tensor::is_float(x.elem_type) && x.dims.iter().product::<usize>() == len && x.readers.len() == 1
    })
}

fn outputs(t: &Traced, c: &Contraction) -> Option<usize> {
    let y = t.analysis.graph.output(c.node, 0)?;
    let dims = t.analysis.dims(y)?;
    let axis = match t.analysis.graph.node(c.node).op_type() {
        "Conv" | "ConvTranspose" | "Gemm" => 1,
        _ => dims.len().checked_sub(1)?,
    };
    dims.get(axis).filter(|d| d.1).map(|d| d.0)
}

/// Where the consumer's constant part goes.
fn target(t: &Traced, c: &Contraction) -> Option<Target> {
    let g = t.analysis.graph;
    let n = outputs(t, c)?;
    let cx = t.analysis.cx(c.node, 0, &[]);
    if c.slot != 1 {
        return None;
    }
    match g.node(c.node).op_type() {
        "Gemm" if cx.float("alpha", 1.0) != 1.0 || cx.float("beta", 1.0) != 1.0 => return None,
        "Gemm" | "Conv" | "ConvTranspose" if cx.has(2) => {
            return vector(t, c.node, 2, n).then_some(Target::Add(c.node, 2));
        }
        _ => {}
    }
    let reader = g.output(c.node, 0).and_then(|y| g.sole_reader(y));
    if let Some(r) = reader {
        let y = g.output(c.node, 0);
        match g.node(r).op_type() {
            "BatchNormalization"
                if t.analysis.cx(r, 0, &[]).int("training_mode", 0) == 0 && g.input(r, 0) == y && vector(t, r, 3, n) =>
            {
                return Some(Target::Subtract(r, 3));
            }
            "Add" => {
                let slot = usize::from(g.input(r, 0) == y);
                if vector(t, r, slot, n) && aligned(t, c, r, slot, n) {
                    return Some(Target::Add(r, slot));
                }
            }
            _ => {}
        }
    }
    match g.node(c.node).op_type() {
        "Conv" | "ConvTranspose" => Some(Target::New(c.node, 2)),
        "Gemm" if t.analysis.opset >= 11 => Some(Target::New(c.node, 2)),
        _ => None,
    }
}

/// Whether the constant addend runs along the consumer's output channels.
fn aligned(t: &Traced, c: &Contraction, add: NodeId, slot: usize, n: usize) -> bool {
    let shape = |v: Option<ValueId>| v.and_then(|v| t.analysis.dims(v));
    let (Some(y), Some(b)) = (shape(t.analysis.graph.output(c.node, 0)), shape(t.analysis.graph.input(add, slot))) else {
        return false;
    };
    let from_end = match t.analysis.graph.node(c.node).op_type() {
        "Conv" | "ConvTranspose" | "Gemm" => y.len() - 2,
        _ => 0,
    };
    b.len() > from_end && b[b.len() - 1 - from_end].0 == n
}

/// Sums of a layer's weights per (input channel, output channel).
struct Layer {
    outputs: usize,
    /// `(input index, output index) → Σ taps`, as triplets grouped by input index.
    sums: Vec<Vec<(usize, f64)>>,
}

impl Layer {
    fn read(t: &Traced, c: &Contraction, weight: TensorId, proto: &TensorProto) -> Result<Self> {
        let w = tensor::to_f64(proto)?;
        let ch = &t.trace.channels;
        let info = ch.axis(c.axis);
        let dims = &ch.tensor(weight).dims;
        let n = outputs(t, c).unwrap_or(0);
        let mut sums: Vec<Vec<(usize, f64)>> = vec![Vec::new(); info.len];
        let taps: usize = dims.iter().skip(2).product();
        let at = |i: usize, j: usize| -> f64 {
            let from = (i * dims[1] + j) * taps;
            w.get(from..from + taps).map_or(0.0, |s| s.iter().sum())
        };
        if dims.len() < 2 || info.axis > 1 || (dims.len() > 2 && t.analysis.graph.node(c.node).op_type() == "MatMul") {
            return Ok(Layer { outputs: n, sums: vec![Vec::new(); info.len] });
        }
        let cx = t.analysis.cx(c.node, 0, &[]);
        if t.analysis.graph.node(c.node).op_type() == "ConvTranspose" {
            // Each position receives kernel / stride of the taps on average.
            let share: f64 = cx.list("strides").map_or(1.0, |s| s.iter().map(|&v| v as f64).product());
            let groups = cx.int("group", 1).max(1) as usize;
            let per = dims[0] / groups;
            for (i, row) in sums.iter_mut().enumerate() {
                let g = i / per.max(1);
                row.extend((0..dims[1]).map(|o| (g * dims[1] + o, at(i, o) / share)));
            }
        } else if info.axis == 1 {
            let rows = dims[0] / info.fold.max(1);
            for (i, row) in sums.iter_mut().enumerate() {
                let (g, local) = (i / dims[1], i % dims[1]);
                row.extend((g * rows..(g + 1) * rows).map(|o| (o, at(o, local))));
            }
        } else {
            for (i, row) in sums.iter_mut().enumerate() {
                row.extend((0..dims[1]).map(|o| (o, at(i, o))));
            }
        }
        Ok(Layer { outputs: n, sums })
    }

    fn add(&self, input: usize, value: f64, delta: &mut [f64]) {
        for &(o, w) in self.sums.get(input).into_iter().flatten() {
            if let Some(d) = delta.get_mut(o) {
                *d += value * w;
            }
        }
    }
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
