//! Batches for training with models that fix theirs, as exporters do unless they are asked not to.

use super::fixed::fix;
use crate::data::Dataset;
use crate::error::Result;
use crate::onnx::Model;
use crate::runtime::walk::Feed;
use crate::runtime::{Array, Runtime, input_specs};

/// Largest accepted difference between samples that run together and the same ones run as the model fixes it, relative to the
/// output's largest value: other kernels make some, a sample that sees another one more.
const TOLERANCE: f64 = 1e-2;

/// The data in batches of `batch`, or of what the models fix where they do not compute the same with more samples at once. Two of
/// the fixed batches, run as one and one by one, tell. What came of it is noted.
///
/// # Errors
/// When the data cannot be read, or a model does not run as it is.
pub fn widen(
    models: &[&Model],
    data: &Dataset,
    batch: usize,
    runtime: &dyn Runtime,
    notes: &mut Vec<String>,
) -> Result<Dataset> {
    let Some(own) = data.fixed().filter(|&own| own != batch) else { return Ok(data.clone().batched(batch)) };
    let fixes = |why: &str| format!("the model fixes the batch to {own}, so a batch of {batch} cannot be had: {why}");
    if data.len() < 2 * own {
        notes.push(fixes("there are too few samples to try it"));
        return Ok(data.clone());
    }
    let (single, pair) = ([data.batch(0)?, data.batch(1)?], data.clone().freed(2 * own).batch(0)?);
    for model in models {
        let apart =
            single.iter().map(|feed| runtime.load(model)?.run(&named(model, feed))).collect::<Result<Vec<_>>>()?;
        if let Err(why) = together(model, &pair, &apart, runtime) {
            notes.push(fixes(&format!(
                "{} does not compute the same with {} samples at once ({why}); export it with a free batch axis",
                model.path.display(),
                2 * own
            )));
            return Ok(data.clone());
        }
    }
    notes.push(format!(
        "the model fixes the batch to {own}; it was trained in batches of {batch}, with which it computes the same, and is written \
         as it was"
    ));
    Ok(data.clone().freed(batch))
}

/// The inputs under the model's own names: a teacher's may have others.
fn named(model: &Model, feed: &Feed) -> Feed {
    let own = input_specs(model);
    let found = |(i, (name, array)): (usize, &(String, Array))| {
        let spec = own.iter().find(|s| s.name == *name).or_else(|| own.get(i));
        (spec.map_or_else(|| name.clone(), |s| s.name.clone()), array.clone())
    };
    feed.iter().enumerate().map(found).collect()
}

/// Whether the samples' outputs are the same when they run together; else what differs.
fn together(model: &Model, pair: &Feed, apart: &[Feed], runtime: &dyn Runtime) -> std::result::Result<(), String> {
    let inputs = named(model, pair);
    let extents: Vec<_> = inputs.iter().map(|(n, a)| (n.clone(), a.dims.clone())).collect();
    let wide = fix(model, &extents, false).map_err(|e| e.to_string())?;
    let run = |wide: &Model| runtime.load(wide)?.run(&inputs);
    let all = run(&wide).map_err(|e| e.to_string())?;
    for (name, whole) in &all {
        let parts: Vec<&Array> =
            apart.iter().filter_map(|f| f.iter().find(|(n, _)| n == name)).map(|(_, a)| a).collect();
        let wanted: Vec<usize> = match parts.as_slice() {
            [first, rest @ ..] if !first.dims.is_empty() && rest.iter().all(|p| p.dims == first.dims) => {
                let samples = first.dims.first().map_or(0, |b| b * parts.len());
                std::iter::once(samples).chain(first.dims.iter().skip(1).copied()).collect()
            }
            _ => return Err(format!("output {name:?} is not one row for each sample")),
        };
        if whole.dims != wanted {
            return Err(format!("output {name:?} has shape {:?}, expected {wanted:?}", whole.dims));
        }
        // The index of one of two equal values may be another.
        if whole.data.is_integer() {
            continue;
        }
        let pairs = whole.to_f64().into_iter().zip(parts.iter().flat_map(|p| p.to_f64()));
        let (off, largest) = pairs.fold((0.0, 0.0), |(off, largest): (f64, f64), (w, p)| {
            (if (w - p).is_nan() { f64::NAN } else { off.max((w - p).abs()) }, largest.max(p.abs()))
        });
        if off.is_nan() || off > TOLERANCE * largest {
            return Err(format!("output {name:?} has other values"));
        }
    }
    Ok(())
}
