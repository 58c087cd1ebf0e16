//! Batches for training with models that fix theirs, as exporters do unless they are asked not to.

use super::fixed::fix;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::onnx::Model;
use crate::runtime::walk::Feed;
use crate::runtime::{Array, Runtime, input_specs};

/// Largest accepted difference between samples that run together and the same ones run as the model fixes it, relative to the
/// output's largest value: other kernels make some, a sample that sees another one more.
const TOLERANCE: f64 = 1e-2;

/// The data in batches of `batch`, or of what the model fixes where that model, or one that fixes the same, does not compute the
/// same with more samples at once. Two of the fixed batches, run as one and one by one, tell. What came of it is noted.
///
/// # Errors
/// When the data cannot be read, or a model does not run as it is; [`Error::Train`] for a teacher that fixes a batch of its own.
pub fn widen(
    models: &[&Model],
    data: &Dataset,
    batch: usize,
    runtime: &dyn Runtime,
    notes: &mut Vec<String>,
) -> Result<Dataset> {
    for model in models {
        let Some(own) = fixed(model).filter(|&own| own != batch) else { continue };
        let Err(why) = same(model, own, data, runtime)? else { continue };
        let message = format!("the model fixes the batch to {own}, so a batch of {batch} cannot be had: {why}");
        if data.fixed() != Some(own) {
            return Err(Error::Train { path: model.path.clone(), message });
        }
        notes.push(format!("{}: {message}; export it with a free batch axis", model.path.display()));
        // A model that fixes another one has to take this one.
        return widen(models, data, own, runtime, notes);
    }
    if let Some(own) = data.fixed().filter(|&own| own != batch) {
        notes.push(format!(
            "the model fixes the batch to {own}; it was trained in batches of {batch}, with which it computes the same, and is \
             written as it was"
        ));
    }
    Ok(data.clone().freed(batch))
}

/// The batch that the model fixes.
fn fixed(model: &Model) -> Option<usize> {
    input_specs(model).iter().find_map(|s| *s.dims.first()?)
}

/// Whether the model computes the same with two of its batches at once; else why not.
fn same(model: &Model, own: usize, data: &Dataset, runtime: &dyn Runtime) -> Result<std::result::Result<(), String>> {
    if data.len() < 2 * own {
        return Ok(Err("there are too few samples to try it".into()));
    }
    let single = data.clone().freed(own);
    let mut session = runtime.load(model)?;
    let apart = [session.run(&named(model, &single.batch(0)?))?, session.run(&named(model, &single.batch(1)?))?];
    let together = together(model, &data.clone().freed(2 * own).batch(0)?, &apart, runtime);
    Ok(together.map_err(|why| format!("it does not compute the same with {} samples at once ({why})", 2 * own)))
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
        let one_by_one: Vec<f64> = parts.iter().flat_map(|p| p.to_f64()).collect();
        let largest = one_by_one.iter().fold(0.0, |max: f64, p| max.max(p.abs()));
        // Also false of what is no number.
        let near = |(w, p): (f64, &f64)| (w - p).abs() <= TOLERANCE * largest;
        if !whole.to_f64().into_iter().zip(&one_by_one).all(near) {
            return Err(format!("output {name:?} has other values"));
        }
    }
    Ok(())
}
