//! How far channels have become removable.

use crate::channels::weights::Weights;
use crate::error::Result;
use crate::flat::flatten;
use crate::graph::Graph;
use crate::onnx::Model;
use crate::prune::{DEFAULT_CRITERION, FALLBACK_CRITERION, analyse};
use crate::score::{Aggregate, Criteria, Normalize, ScoreContext, score_all};
use crate::train::history::SparsityState;

/// A channel whose score is below this share of the largest in its group is removable.
pub const REMOVABLE: f64 = 0.01;

/// The lowest edge of the histogram, and the width of its bins, in decades.
const BINS: (f64, f64) = (-6.0, 0.5);

/// Scores all prunable channels of a model as pruning without data does, relative to the largest in each group.
///
/// # Errors
/// When the model cannot be analysed, or weights are not finite.
pub fn measure(model: &Model, penalty: f64) -> Result<SparsityState> {
    let flat = flatten(model)?;
    let graph = Graph::new(&flat)?;
    let t = analyse(&graph)?;
    let channels = &t.trace.channels;
    let params = Weights { graph: &graph, channels, removed: &[] };
    let cx = ScoreContext { channels, params: &params, seed: 0, activations: None, criteria: &Criteria::STANDARD };
    let (spec, fallback) = (DEFAULT_CRITERION.parse()?, FALLBACK_CRITERION.parse()?);
    let scores = score_all(&cx, &spec, &fallback, Aggregate::default(), Normalize::Max)?;
    let all: Vec<f64> = scores.values.into_iter().flatten().collect();
    let removable = all.iter().filter(|&&s| s < REMOVABLE).count();
    let n = (-BINS.0 / BINS.1).round() as usize;
    let mut histogram = vec![0; n];
    for s in &all {
        let bin = ((libm::log10(*s) - BINS.0) / BINS.1).floor().clamp(0.0, n as f64 - 1.0);
        if let Some(bin) = histogram.get_mut(bin as usize) {
            *bin += 1;
        }
    }
    Ok(SparsityState {
        removable_share: removable as f64 / all.len().max(1) as f64,
        edges: (0..=n).map(|i| BINS.0 + BINS.1 * i as f64).collect(),
        histogram,
        penalty,
    })
}
