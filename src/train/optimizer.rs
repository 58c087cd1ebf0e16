//! Updates of the trained tensors, written as nodes.
//!
//! With the gradient `g` of the loss, the learning rate `η` and the step `k = 1, 2, …`:
//!
//! * `sgd`: `b ← μ·b + g`, `w ← w − η·b` (heavy ball, as in PyTorch: the first `b` is `g`).
//! * `adamw`: `m ← β₁·m + (1 − β₁)·g`, `v ← β₂·v + (1 − β₂)·g²`, `w ← w − η · m/(1 − β₁ᵏ) / (√(v/(1 − β₂ᵏ)) + ε)`
//!   (Loshchilov and Hutter, arXiv 1711.05101).
//!
//! Weight decay `λ` has two forms. `l2` adds `λ/2 · ‖w‖²` to the loss, and so `λ·w` to the gradient before the moments;
//! `decoupled` takes `η·λ·w` off the weight beside the step. Tensors are trained as two long vectors, one that decays and
//! one that does not: the update is then a few nodes, whatever the number of tensors.

use super::tape::{Tape, Var};
use crate::ops::Answer;
use serde::{Deserialize, Serialize};

/// How gradients become steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Optimizer {
    /// Stochastic gradient descent with momentum
    #[default]
    Sgd,
    /// Adam with decoupled weight decay
    Adamw,
}

/// How weights decay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decay {
    /// λ/2 · ‖w‖² is part of the loss
    L2,
    /// η·λ·w is taken off beside the step
    Decoupled,
}

/// Settings of the update.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Update {
    /// The rule.
    pub optimizer: Optimizer,
    /// μ of `sgd`, β₁ of `adamw`.
    pub momentum: f64,
    /// β₂ of `adamw`.
    pub second: f64,
    /// ε of `adamw`.
    pub epsilon: f64,
    /// λ.
    pub weight_decay: f64,
    /// Its form.
    pub decay: Decay,
    /// The gradient of all trained tensors together is made no longer than this.
    pub clip: Option<f64>,
}

impl Default for Update {
    fn default() -> Self {
        Update {
            optimizer: Optimizer::Sgd,
            momentum: 0.9,
            second: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
            decay: Decay::L2,
            clip: None,
        }
    }
}

impl Update {
    /// Vectors of state that each trained vector has.
    pub fn states(&self) -> usize {
        match self.optimizer {
            Optimizer::Sgd => 1,
            Optimizer::Adamw => 2,
        }
    }

    /// `1 − β₁ᵏ` and `1 − β₂ᵏ` for step `k` (from 1 on), by which `adamw` divides.
    pub fn corrections(&self, k: u64) -> [f32; 2] {
        let of = |beta: f64| (1.0 - libm::pow(beta, k as f64)) as f32;
        [of(self.momentum), of(self.second)]
    }
}

/// What changes from step to step, as scalars on the tape.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// η.
    pub lr: Var,
    /// See [`Update::corrections`].
    pub corrections: [Var; 2],
}

/// A vector and its state after a step.
pub struct Stepped {
    /// The vector.
    pub w: Var,
    /// As many as [`Update::states`].
    pub states: Vec<Var>,
}

impl Update {
    /// The update of one vector. `decays`: whether weight decay applies to it.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn write(&self, t: &mut Tape, w: Var, g: Var, states: &[Var], rates: Rates, decays: bool) -> Answer<Stepped> {
        let lambda = if decays { self.weight_decay } else { 0.0 };
        let mut g = g;
        if lambda > 0.0 && self.decay == Decay::L2 {
            let pull = t.scale(w, lambda)?;
            g = t.add(g, pull)?;
        }
        let (mut step, states) = match (self.optimizer, states) {
            (Optimizer::Sgd, &[b]) => {
                let kept = t.scale(b, self.momentum)?;
                let b = t.add(kept, g)?;
                (b, vec![b])
            }
            (Optimizer::Adamw, &[m, v]) => {
                let (kept, new) = (t.scale(m, self.momentum)?, t.scale(g, 1.0 - self.momentum)?);
                let m = t.add(kept, new)?;
                let squares = t.square(g)?;
                let (kept, new) = (t.scale(v, self.second)?, t.scale(squares, 1.0 - self.second)?);
                let v = t.add(kept, new)?;
                let (top, under) = (t.div(m, rates.corrections[0])?, t.div(v, rates.corrections[1])?);
                let root = t.unary("Sqrt", under);
                let under = t.add_scalar(root, self.epsilon)?;
                (t.div(top, under)?, vec![m, v])
            }
            _ => return Err("the optimizer has another state".into()),
        };
        if lambda > 0.0 && self.decay == Decay::Decoupled {
            let pull = t.scale(w, lambda)?;
            step = t.add(step, pull)?;
        }
        let step = t.mul(step, rates.lr)?;
        Ok(Stepped { w: t.sub(w, step)?, states })
    }
}
