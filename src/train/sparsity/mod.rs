//! Training that drives whole channels to nothing, so that pruning them costs little.
//!
//! All kinds work on the channels that the analysis of the model finds: a channel is all coupled slices of it, and what is
//! pinned is left alone. With the learning rate `η`, the step length `s` (`η`, or `η/(1 − μ)` where `sgd` has momentum `μ`,
//! since it takes so many times the gradient in the long run) and the strength `λ`:
//!
//! * `bn-l1` adds `λ · Σ|γ|` over the scales of batch normalisations of prunable channels (Liu et al., "Learning Efficient
//!   Convolutional Networks through Network Slimming", 2017). After each step of the optimiser
//!   `γ ← sign(γ) · max(|γ| − s·λ, 0)`, the exact step of this term, which reaches zero and stays there. A channel whose `γ`
//!   is zero sends on a constant; its `β` then goes to zero at the same pace.
//! * `group-lasso` adds `λ · Σ_c √n_c · ‖w_c‖`, with `w_c` all trained slices of channel `c` in all coupled layers and `n_c`
//!   their number of elements (Yuan and Lin, "Model selection and estimation in regression with grouped variables", 2006).
//!   After each step `w_c ← w_c · max(0, 1 − s·λ·√n_c / ‖w_c‖)`. An element that belongs to two channels, as one between two
//!   layers' channels does, gets both factors; one that a channel has on two axes counts twice in its norm.
//! * `l0` adds `λ` times the expected share of open channels. Each channel has a gate with a parameter `a`; in training
//!   `z = clip(σ((ln u − ln(1 − u) + a)/b)·(ζ − g) + g, 0, 1)` with `u` uniform noise, `b = 2/3`, `g = −0.1`, `ζ = 1.1`, which is
//!   open with probability `σ(a − b·ln(−g/ζ))`, and in use `z = clip(σ(a)·(ζ − g) + g, 0, 1)` (Louizos et al., "Learning Sparse
//!   Neural Networks through L0 Regularization", 2018). All channels count alike.
//! * `dynamic` closes the channels with the smallest norms until a share `R` is closed: `R·(1 − (1 − t/T)³)` at step `t`, where
//!   `T` is three quarters of all steps (Zhu and Gupta, "To prune, or not to prune", 2018). Gradients go straight through to the
//!   weights behind a closed channel, so that it can open again.
//!
//! Gates stand at the weights that read a channel, where a zero is as good as removing it. When the model is written they are
//! multiplied into these weights, and all slices of a closed channel become zero: the file has the nodes that it had.

pub mod cut;
mod gates;
mod nodes;
mod score;
mod slices;

pub use crate::train::history::SparsityState;
pub(super) use gates::{Gates, begin, update};
pub(super) use nodes::{Gated, gradient_of_gates, penalised, proximal, weights};
pub use score::{REMOVABLE, measure};
pub(super) use slices::Slices;

use crate::prune::Traced;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// How channels are driven to nothing; see the [module](self).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A penalty on the scales of batch normalisations.
    BnL1,
    /// A penalty on the norms of whole channels.
    GroupLasso,
    /// Gates that learn to close.
    L0,
    /// A growing share of channels is closed, and may open again.
    Dynamic,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 4] = [Kind::BnL1, Kind::GroupLasso, Kind::L0, Kind::Dynamic];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Kind::BnL1 => "bn-l1",
            Kind::GroupLasso => "group-lasso",
            Kind::L0 => "l0",
            Kind::Dynamic => "dynamic",
        }
    }

    /// Whether channels have gates.
    pub fn has_gates(self) -> bool {
        matches!(self, Kind::L0 | Kind::Dynamic)
    }
}

/// A kind and how strong it is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sparsity {
    /// The kind.
    pub kind: Kind,
    /// `λ`; the target share `R` of `dynamic`.
    pub value: f64,
}

impl FromStr for Sparsity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = "expected KIND=VALUE with bn-l1, group-lasso or l0 and a strength, or dynamic and a share, as in bn-l1=0.01";
        let (name, value) = text.split_once('=').ok_or(form)?;
        let kind = Kind::ALL.into_iter().find(|k| k.name() == name.trim());
        let kind = kind.ok_or_else(|| format!("there is no {:?}; {form}", name.trim()))?;
        let value = value.trim().parse::<f64>().ok().filter(|v| *v > 0.0 && v.is_finite());
        match (kind, value) {
            (Kind::Dynamic, Some(v)) if v >= 1.0 => Err(format!("dynamic={v}: the share must be below 1")),
            (_, Some(value)) => Ok(Sparsity { kind, value }),
            (Kind::Dynamic, None) => Err("the share of dynamic must be a number above 0 and below 1".into()),
            (_, None) => Err(format!("the strength of {} must be a number above 0", kind.name())),
        }
    }
}

impl fmt::Display for Sparsity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.kind.name(), self.value)
    }
}

/// What a training run is told: the kind, and the channels of the model that is trained.
#[derive(Clone, Copy)]
pub struct Sparse<'a> {
    /// Kind and strength.
    pub what: Sparsity,
    /// The flat model's channels.
    pub traced: &'a Traced<'a>,
}
