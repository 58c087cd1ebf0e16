//! Normalisations.

use super::{Back, BatchNorms, Fore, Gradient, Kind};
use crate::graph::Origin;
use crate::onnx::proto::tensor_proto::DataType;
use crate::ops::{Answer, NodeCx};
use crate::refuse;
use crate::train::tape::{Tape, Var};

/// `BatchNormalization`: with the statistics of the batch, or with the stored ones.
pub struct BatchNormalization;

/// All axes but that of the channels.
fn others(rank: usize) -> Vec<usize> {
    (0..rank).filter(|&a| a != 1).collect()
}

/// A value for each channel in a shape that broadcasts.
fn wide(t: &mut Tape, v: Var, rank: usize) -> Answer<Var> {
    let mut dims = vec![1; rank];
    if let Some(d) = dims.get_mut(1) {
        *d = t.numel(v);
    }
    t.reshape(v, &dims)
}

/// `1 / √(v + ε)`.
pub(super) fn inverse_deviation(t: &mut Tape, variance: Var, epsilon: f64) -> Answer<Var> {
    let v = t.add_scalar(variance, epsilon)?;
    let s = t.unary("Sqrt", v);
    Ok(t.unary("Reciprocal", s))
}

/// The mean of squares over axes, kept as size 1.
pub(super) fn mean_square(t: &mut Tape, x: Var, axes: &[usize]) -> Answer<Var> {
    if t.elem() == DataType::Double as i32 {
        // tract takes a mean of squares in float32, which tests against differences would see.
        let minus = t.neg(x);
        let squares = t.mul(x, minus)?;
        let mean = t.mean(squares, axes, true)?;
        return Ok(t.neg(mean));
    }
    let squares = t.square(x)?;
    t.mean(squares, axes, true)
}

/// Whether the statistics are those of the batch. In a model that stands in training mode itself they always are.
fn of_batch(cx: &NodeCx, how: BatchNorms) -> bool {
    how == BatchNorms::Batch || cx.int("training_mode", 0) != 0
}

/// Whether an input is a constant, or a copy of one.
fn is_stored(cx: &NodeCx, slot: usize) -> bool {
    let mut value = cx.graph.input(cx.id, slot);
    while let Some(v) = value {
        match cx.graph.value(v).origin {
            Origin::Node(id, 0) if cx.graph.node(id).op_type() == "Identity" => value = cx.graph.input(id, 0),
            Origin::Initializer(_) => return true,
            _ => return false,
        }
    }
    false
}

impl Gradient for BatchNormalization {
    fn parameters(&self, _cx: &NodeCx) -> Vec<(usize, Kind)> {
        vec![(1, Kind::Norm), (2, Kind::Norm)]
    }

    fn forward(&self, f: &mut Fore) -> Answer<bool> {
        if !f.trained {
            return Ok(false);
        }
        let (x, gamma, beta) = (f.x(0)?, f.x(1)?, f.x(2)?);
        let (rank, c) = (f.t.dims(x).len(), f.t.numel(gamma));
        if rank < 2 || f.t.dims(x).get(1) != Some(&c) {
            refuse!("{c} scales for an input of shape {:?}", f.t.dims(x));
        }
        let by_batch = of_batch(&f.cx, f.batch_norms);
        if (3..5).any(|slot| f.moves(slot) || (by_batch && !is_stored(&f.cx, slot))) {
            refuse!(
                "its mean and variance are computed by other nodes (weight standardisation, say), and training takes those that \
                 are stored; `onnx-prune MODEL --fold-weights --ratio 0` computes such weights once"
            );
        }
        let (g, b) = (wide(f.t, gamma, rank)?, wide(f.t, beta, rank)?);
        if !by_batch {
            // A factor and a shift for each channel. The operator itself would do, but not every runtime takes one whose
            // parameters are no constants.
            let (mean, variance) = (f.x(3)?, f.x(4)?);
            let (mean, variance) = (wide(f.t, mean, rank)?, wide(f.t, variance, rank)?);
            let inverse = inverse_deviation(f.t, variance, f.cx.float("epsilon", 1e-5))?;
            let factor = f.t.mul(g, inverse)?;
            let moved = f.t.mul(mean, factor)?;
            let shift = f.t.sub(b, moved)?;
            let scaled = f.t.mul(x, factor)?;
            let y = f.t.add(scaled, shift)?;
            f.output(0, y);
            return Ok(true);
        }
        let axes = others(rank);
        let mean = f.t.mean(x, &axes, true)?;
        let centred = f.t.sub(x, mean)?;
        let variance = mean_square(f.t, centred, &axes)?;
        let inverse = inverse_deviation(f.t, variance, f.cx.float("epsilon", 1e-5))?;
        let hat = f.t.mul(centred, inverse)?;
        let scaled = f.t.mul(hat, g)?;
        let y = f.t.add(scaled, b)?;
        f.output(0, y);
        f.save(vec![hat, inverse]);
        // The stored statistics: `momentum · old + (1 − momentum) · batch`, the batch's variance over its whole size, as the
        // format says.
        let momentum = f.cx.float("momentum", 0.9);
        for (slot, new) in [(3, mean), (4, variance)] {
            let old = f.x(slot)?;
            let new = f.t.reshape(new, &[c])?;
            let new = f.t.scale(new, 1.0 - momentum)?;
            let kept = f.t.scale(old, momentum)?;
            let next = f.t.add(kept, new)?;
            f.follow(old, next);
        }
        Ok(true)
    }

    fn backward(&self, b: &mut Back) -> Answer<()> {
        let (dy, x, gamma) = (b.dy()?, b.x(0)?, b.x(1)?);
        let rank = b.t.dims(x).len();
        let axes = others(rank);
        let g = wide(b.t, gamma, rank)?;
        let saved = b.saved().first().copied().zip(b.saved().get(1).copied());
        let (hat, inverse) = match saved {
            Some(kept) => kept,
            None => {
                let (mean, variance) = (b.x(3)?, b.x(4)?);
                let (mean, variance) = (wide(b.t, mean, rank)?, wide(b.t, variance, rank)?);
                let inverse = inverse_deviation(b.t, variance, b.cx.float("epsilon", 1e-5))?;
                if !b.wants(1) {
                    (x, inverse)
                } else {
                    let centred = b.t.sub(x, mean)?;
                    (b.t.mul(centred, inverse)?, inverse)
                }
            }
        };
        let batch = saved.is_some();
        let mut sums = None;
        if batch || b.wants(1) || b.wants(2) {
            let along = b.t.mul(dy, hat)?;
            let d_gamma = b.t.sum(along, &axes, true)?;
            let d_beta = b.t.sum(dy, &axes, true)?;
            let c = b.t.numel(gamma);
            let flat = b.t.reshape(d_gamma, &[c])?;
            b.give(1, flat)?;
            let flat = b.t.reshape(d_beta, &[c])?;
            b.give(2, flat)?;
            sums = Some((d_gamma, d_beta));
        }
        if !b.wants(0) {
            return Ok(());
        }
        let factor = b.t.mul(g, inverse)?;
        let dx = match sums.filter(|_| batch) {
            // γ/σ · (dy − mean(dy) − x̂ · mean(dy · x̂)), regrouped so that few passes go over the whole tensor.
            Some((d_gamma, d_beta)) => {
                let n = (b.t.numel(x) / b.t.numel(gamma).max(1)).max(1) as f64;
                let d_gamma = b.t.scale(d_gamma, 1.0 / n)?;
                let d_beta = b.t.scale(d_beta, 1.0 / n)?;
                let part = b.t.mul(hat, d_gamma)?;
                let rest = b.t.sub(dy, part)?;
                let rest = b.t.sub(rest, d_beta)?;
                b.t.mul(rest, factor)?
            }
            None => b.t.mul(dy, factor)?,
        };
        b.give(0, dx)
    }
}
