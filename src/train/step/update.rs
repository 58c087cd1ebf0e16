//! The end of a step: the gradient is clipped, and moves the trained vectors.

use super::making::Making;
use super::names;
use crate::ops::Answer;
use crate::train::optimizer::{Decay, Rates};
use crate::train::sparsity::{self, Slices};
use crate::train::tape::Var;

/// Clips the gradient and updates both vectors; the loss with the part that decay adds.
pub(super) fn update(
    m: &mut Making,
    vectors: [Option<Var>; 2],
    gradients: [Option<Var>; 2],
    slices: Option<&Slices>,
    mut loss: Var,
) -> Answer<Var> {
    let spec = m.spec;
    let mut squares = Vec::new();
    for g in gradients.iter().flatten() {
        let s = m.t.square(*g)?;
        squares.push(m.t.total(s)?);
    }
    let sum = m.t.sum_of(&squares)?;
    let length = m.t.unary("Sqrt", sum);
    m.output(length, names::GRADIENT);
    let shorten = match spec.update.clip {
        Some(most) => {
            // min(1, most / length).
            let least = m.t.scalar(most)?;
            let longer = m.t.binary("Max", length, least)?;
            Some(m.t.div(least, longer)?)
        }
        None => None,
    };
    let rates = Rates { lr: m.input(names::LR, &[]), corrections: names::CORRECTIONS.map(|name| m.input(name, &[])) };
    let mut new = [None; 2];
    for v in 0..2 {
        let (Some(w), Some(mut g)) = (vectors[v], gradients[v]) else { continue };
        let n = [spec.layout.sizes[v]];
        if let Some(factor) = shorten {
            g = m.t.mul(g, factor)?;
        }
        let states: Vec<Var> = (0..spec.update.states()).map(|k| m.input(&names::state(v, k), &n)).collect();
        let stepped = spec.update.write(&mut m.t, w, g, &states, rates, v == 0)?;
        if v == 0 {
            let s = m.t.square(w)?;
            let s = m.t.total(s)?;
            if spec.update.weight_decay > 0.0 && spec.update.decay == Decay::L2 {
                let part = m.t.scale(s, spec.update.weight_decay / 2.0)?;
                loss = m.t.add(loss, part)?;
            }
            let length = m.t.unary("Sqrt", s);
            m.output(length, names::WEIGHT);
        }
        new[v] = Some(stepped.w);
        for (k, s) in stepped.states.into_iter().enumerate() {
            m.output(s, &names::next(&names::state(v, k)));
        }
    }
    if let (Some(sparse), Some(slices)) = (&spec.sparse, slices) {
        new = sparsity::proximal(&mut m.t, sparse.what, slices, &spec.layout, new, rates.lr, &spec.update)?;
    }
    for (v, w) in new.into_iter().enumerate() {
        if let Some(w) = w {
            m.output(w, &names::next(&names::weights(v)));
        }
    }
    Ok(loss)
}
