//! Statistics of what layers read, from data group by group: in parts, and of more samples than memory holds.

use super::Calibration;
use super::activations::{Statistics, TOGETHER};
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::evaluate::shard::Shard;
use crate::flat::flatten;
use crate::graph::Graph;
use crate::onnx::Model;
use crate::prune::analyse;
use crate::runtime::Runtime;
use std::sync::Arc;

/// What the criteria `act-mean`, `act-rms`, `act-variance` and `apoz` look at, on one part of the samples. Parts are cut between groups of
/// [`TOGETHER`] batches; [`Statistics::join`] puts them together, to the last bit as if they had been one.
///
/// # Errors
/// When a sample cannot be read, or the model not be run.
pub fn statistics(
    model: &Model,
    data: &Dataset,
    runtime: &Arc<dyn Runtime>,
    shard: Shard,
    stage: &dyn Fn(&str),
) -> Result<Statistics> {
    stage("trace");
    let flat = flatten(model)?;
    let graph = Graph::new(&flat)?;
    let t = analyse(&graph)?;
    let groups = data.batches().div_ceil(TOGETHER);
    let none = Calibration::new(Vec::new(), runtime.clone());
    let mut all = Statistics::gather(&t, &none, 0..0)?;
    for group in shard.range(groups) {
        stage(&format!("group {} of {groups}", group + 1));
        let batches = group * TOGETHER..((group + 1) * TOGETHER).min(data.batches());
        let batches = batches.map(|k| data.batch(k)).collect::<Result<Vec<_>, Error>>()?;
        all.join(Statistics::gather(&t, &Calibration::new(batches, runtime.clone()), 0..1)?)?;
    }
    Ok(all)
}
