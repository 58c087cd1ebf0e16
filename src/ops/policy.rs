//! What the trace may do beyond the default, exact relations.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Choices that change which channels live and die together. A stored plan carries them: it fits no other trace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Policy {
    /// Normalisations over channels may lose channels although their statistic then changes: an approximation.
    pub approximate_norm: bool,
    /// The summed axis of a product of two activations (query · key) may lose indices. The masked original then has its
    /// zeros on an activation.
    pub products: bool,
    /// Weights that the model computes from its own constants are computed once, before anything else.
    pub fold_weights: bool,
    /// Names of grouped convolutions that lose whole groups; all others lose the same count in each group.
    pub whole_groups: BTreeSet<String>,
}

impl Policy {
    /// Whether this is the default.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
