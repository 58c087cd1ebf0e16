//! Pruning what sparse training made removable.

use super::REMOVABLE;
use crate::calibrate::Calibration;
use crate::data::Dataset;
use crate::error::Result;
use crate::onnx::Model;
use crate::plan::{Budget, RoundTo};
use crate::prune::{Options, Pruned, prune};
use crate::recover::Recover;
use crate::runtime::Runtime;
use crate::score::Normalize;
use std::sync::Arc;

/// Samples that decide and repair, at most.
const SAMPLES: usize = 512;

/// How a pruning run is set for a model that was trained to be sparse: scores are relative to the largest in each group, as
/// those that [`measure`](super::measure) tells, and counts are not rounded, since that would take channels that are in use.
pub fn options(budget: Budget, seed: u64) -> Options {
    Options { budget, normalize: Normalize::Max, round_to: RoundTo::Multiple(1), seed, ..Options::default() }
}

/// The command that prunes such a model in the same way.
pub fn command(model: &str) -> String {
    format!("onnx-prune {model} --threshold {REMOVABLE} --normalize max --round-to 1")
}

/// Prunes a model, with some of the data to decide (but for a threshold) and to repair by. `recover`: the repair, by
/// [`Recover::Reconstruct`] where nothing is said.
///
/// # Errors
/// As [`prune`]; when a sample cannot be read.
pub fn at_end(
    model: &Model,
    data: &Dataset,
    runtime: &Arc<dyn Runtime>,
    budget: Budget,
    recover: Option<Recover>,
    seed: u64,
    progress: &dyn Fn(&str),
) -> Result<Pruned> {
    let recover = recover.unwrap_or(Recover::Reconstruct);
    let mut options = Options { recover, ..options(budget, seed) };
    if recover.needs_data() {
        let batch = data.batch_size();
        let few = if data.len() > SAMPLES { data.divide(SAMPLES, seed)?.0.batched(batch) } else { data.clone() };
        let batches = (0..few.batches()).map(|k| few.batch(k)).collect::<Result<Vec<_>>>()?;
        options.calibration = Some(Arc::new(Calibration::new(batches, runtime.clone()).seeded(seed)));
    }
    prune(model, &options, progress)
}
