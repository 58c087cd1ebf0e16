//! From the state of a run to the model that it means.

use super::output;
use super::sparsity::{self, Gates, SparsityState};
use super::step::{Graphs, Layout};
use crate::error::Result;
use crate::onnx::Model;
use crate::runtime::walk::Feed;

/// What turns a state into a model.
pub struct InUse<'a> {
    /// The model in training.
    pub flat: &'a Model,
    /// Where its tensors lie in the state.
    pub layout: &'a Layout,
    /// The training graphs.
    pub graphs: &'a Graphs,
    /// Of sparse training.
    pub gates: Option<Gates<'a>>,
}

impl InUse<'_> {
    /// A state with which channels are closed.
    pub fn complete(&self, state: Feed, closed: &[usize]) -> Feed {
        match &self.gates {
            Some(gates) => gates.complete(state, closed),
            None => state,
        }
    }

    /// The state with gates folded in.
    ///
    /// # Errors
    /// When it does not fit.
    pub fn state(&self, state: &Feed) -> Result<Feed> {
        self.gates.as_ref().map_or_else(|| Ok(state.clone()), |g| g.folded(state, self.layout))
    }

    /// The model with a folded state's values.
    ///
    /// # Errors
    /// When a value is not finite or does not fit.
    pub fn model(&self, folded: &Feed) -> Result<Model> {
        output::model(self.flat, self.layout, self.graphs, folded)
    }

    /// How far channels have become removable, in sparse training.
    ///
    /// # Errors
    /// When the model cannot be scored.
    pub fn sparsity(&self, folded: &Feed, penalty: f64) -> Result<Option<SparsityState>> {
        self.gates.as_ref().map(|_| sparsity::measure(&self.model(folded)?, penalty)).transpose()
    }
}
