//! Normalisations by the statistics of each sample.

use super::norm::{inverse_deviation, mean_square};
use super::{Back, Fore, Gradient, Kind};
use crate::ops::{Answer, NodeCx};
use crate::refuse;

/// `LayerNormalization`, `RMSNormalization`, `InstanceNormalization`, `GroupNormalization`: with the mean taken off or not,
/// over trailing axes, positions, or groups of channels.
pub struct SampleNorm;

/// Its operators.
pub const NAMES: &[&str] = &[
    "LayerNormalization",
    "RMSNormalization",
    "SimplifiedLayerNormalization",
    "InstanceNormalization",
    "GroupNormalization",
];

/// What is normalised, and in which shape.
struct Plan {
    /// Shape in which the statistics run over whole axes.
    view: Vec<usize>,
    axes: Vec<usize>,
    centred: bool,
    /// Shape of scale and shift that broadcasts to the view.
    scale: Vec<usize>,
    epsilon: f64,
}

impl Plan {
    fn read(cx: &NodeCx) -> Answer<Self> {
        let x = cx.shape(0)?.to_vec();
        let rank = x.len();
        let epsilon = cx.float("epsilon", 1e-5);
        let scale = if cx.has(1) { cx.shape(1)?.to_vec() } else { vec![] };
        Ok(match cx.node.op_type() {
            op @ ("InstanceNormalization" | "GroupNormalization") => {
                let &[n, c, ..] = x.as_slice() else { refuse!("an input of shape {x:?}") };
                if op == "InstanceNormalization" {
                    let scale = [&[c], vec![1; rank - 2].as_slice()].concat();
                    return Ok(Plan { view: x, axes: (2..rank).collect(), centred: true, scale, epsilon });
                }
                let groups = usize::try_from(cx.int("num_groups", 0)).unwrap_or(0);
                if groups == 0 || c % groups != 0 {
                    refuse!("{c} channels do not divide into {} groups", cx.int("num_groups", 0));
                }
                // One scale for each channel, or, at first, for each group.
                let each = if scale == [c] { c / groups } else { 1 };
                let view = vec![n, groups, c / groups, x[2..].iter().product()];
                Plan { view, axes: vec![2, 3], centred: true, scale: vec![groups, each, 1], epsilon }
            }
            op => {
                let from = cx.axis(-1, rank)?;
                let centred = op == "LayerNormalization";
                Plan { view: x, axes: (from..rank).collect(), centred, scale, epsilon }
            }
        })
    }
}

impl Gradient for SampleNorm {
    fn parameters(&self, _cx: &NodeCx) -> Vec<(usize, Kind)> {
        vec![(1, Kind::Norm), (2, Kind::Norm)]
    }

    fn forward(&self, f: &mut Fore) -> Answer<bool> {
        if !f.trained {
            return Ok(false);
        }
        if (1..f.cx.n_outputs()).any(|o| f.cx.graph.output(f.cx.id, o).is_some()) {
            refuse!("its statistics are read");
        }
        let p = Plan::read(&f.cx)?;
        let x = f.x(0)?;
        let dims = f.t.dims(x).to_vec();
        let mut v = f.t.reshape(x, &p.view)?;
        if p.centred {
            let mean = f.t.mean(v, &p.axes, true)?;
            v = f.t.sub(v, mean)?;
        }
        let variance = mean_square(f.t, v, &p.axes)?;
        let inverse = inverse_deviation(f.t, variance, p.epsilon)?;
        let hat = f.t.mul(v, inverse)?;
        let mut y = hat;
        if f.cx.has(1) {
            let scale = f.x(1)?;
            let scale = f.t.reshape(scale, &p.scale)?;
            y = f.t.mul(y, scale)?;
        }
        if f.cx.has(2) {
            let shift = f.x(2)?;
            let to = if f.t.dims(shift) == f.cx.shape(1)? { p.scale.clone() } else { f.t.dims(shift).to_vec() };
            let shift = f.t.reshape(shift, &to)?;
            y = f.t.add(y, shift)?;
        }
        let y = f.t.reshape(y, &dims)?;
        f.output(0, y);
        f.save(vec![hat, inverse]);
        Ok(true)
    }

    fn backward(&self, b: &mut Back) -> Answer<()> {
        let &[hat, inverse] = b.saved() else { refuse!("its forward part is missing") };
        let p = Plan::read(&b.cx)?;
        let dy = b.dy()?;
        let dy = b.t.reshape(dy, &p.view)?;
        if b.wants(2) {
            let own = b.cx.shape(2)?.to_vec();
            let to = if own == b.cx.shape(1)? { p.scale.clone() } else { own.clone() };
            let shift = b.t.sum_to(dy, &to)?;
            let shift = b.t.reshape(shift, &own)?;
            b.give(2, shift)?;
        }
        if b.wants(1) {
            let own = b.cx.shape(1)?.to_vec();
            let along = b.t.mul(dy, hat)?;
            let scale = b.t.sum_to(along, &p.scale)?;
            let scale = b.t.reshape(scale, &own)?;
            b.give(1, scale)?;
        }
        if b.wants(0) {
            let mut g = dy;
            if b.cx.has(1) {
                let scale = b.x(1)?;
                let scale = b.t.reshape(scale, &p.scale)?;
                g = b.t.mul(g, scale)?;
            }
            // (g − mean(g) − x̂ · mean(g · x̂)) / σ, without the first mean where none was taken off.
            let along = b.t.mul(g, hat)?;
            let slope = b.t.mean(along, &p.axes, true)?;
            let part = b.t.mul(hat, slope)?;
            let mut rest = b.t.sub(g, part)?;
            if p.centred {
                let mean = b.t.mean(g, &p.axes, true)?;
                rest = b.t.sub(rest, mean)?;
            }
            let dx = b.t.mul(rest, inverse)?;
            let dims = b.cx.shape(0)?.to_vec();
            let dx = b.t.reshape(dx, &dims)?;
            b.give(0, dx)?;
        }
        Ok(())
    }
}
