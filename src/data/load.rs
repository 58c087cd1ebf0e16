//! From a path to data that has met the model, and which of its samples are used.

use super::arrays::{self, Container};
use super::element::{Stored, is_float};
use super::images::{Folder, Shape};
use super::preprocess::Layout;
use super::{DataOptions, Feed, Source, bad, quoted, testdata};
use crate::error::{Error, Result};
use crate::runtime::InputSpec;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// The batch that the model fixes for all its inputs.
pub(super) fn fixed_batch(specs: &[InputSpec]) -> Result<Option<usize>> {
    let mut fixed: Option<(&str, usize)> = None;
    for spec in specs {
        let Some(&Some(b)) = spec.dims.first() else { continue };
        match fixed {
            Some((name, other)) if other != b => {
                return Err(Error::Usage(format!(
                    "the first axis has to be the samples, but the model fixes it to {other} for input {name:?} and to {b} \
                     for input {:?}",
                    spec.name
                )));
            }
            _ if b == 0 => return Err(Error::Usage(format!("the model's input {:?} has no elements", spec.name))),
            _ => fixed = Some((&spec.name, b)),
        }
    }
    Ok(fixed.map(|(_, b)| b))
}

/// Leaves out what does not fill a batch that the model fixes.
pub(super) fn whole_batches(
    path: &Path,
    chosen: &mut Vec<usize>,
    fixed: Option<usize>,
    notes: &mut Vec<String>,
) -> Result<()> {
    let n = chosen.len();
    if n == 0 {
        return Err(Error::Usage(format!("{}: no sample is left", path.display())));
    }
    let Some(b) = fixed else { return Ok(()) };
    let rest = n % b.max(1);
    if rest == n {
        return Err(bad(path, format!("the model fixes the batch to {b}, but there are only {n} samples")));
    }
    if rest > 0 {
        notes.push(format!("the model fixes the batch to {b}: the last {rest} of {n} samples are left out"));
        chosen.truncate(n - rest);
    }
    Ok(())
}

/// `k` of `n`, ascending. Depends on nothing but the arguments.
pub(super) fn draw(n: usize, k: usize, seed: u64) -> Vec<usize> {
    let key = Sha256::new().chain_update(seed.to_le_bytes()).chain_update("data samples").finalize();
    let mut rng = ChaCha8Rng::from_seed(key.into());
    let mut all: Vec<usize> = (0..n).collect();
    for i in 0..k.min(n) {
        let below = (n - i) as u128;
        all.swap(i, i + ((u128::from(rng.next_u64()) * below) >> 64) as usize);
    }
    all.truncate(k);
    all.sort_unstable();
    all
}

/// Data that has met the model.
#[derive(Default)]
pub(super) struct Loaded {
    pub feeds: Vec<Feed>,
    pub labels: Option<Vec<i64>>,
    pub names: Vec<String>,
    pub notes: Vec<String>,
    /// Still to be held against the number of samples.
    label_array: Option<(String, Stored)>,
}

pub(super) fn load(path: &Path, specs: &[InputSpec], options: &DataOptions) -> Result<Loaded> {
    if !path.exists() {
        return Err(bad(path, "no such file or folder"));
    }
    let sets = if path.is_dir() { testdata::find(path) } else { Vec::new() };
    if path.is_dir() && sets.is_empty() {
        return load_images(path, specs, options);
    }
    if options.labels_from.is_some() {
        return Err(bad(path, "labels come from names only for a folder of images"));
    }
    let mut loaded = Loaded::default();
    let arrays = if sets.is_empty() {
        let assigned = Container::open(path)?.assign(path, specs, options.input.as_deref())?;
        (loaded.label_array, loaded.notes) = (assigned.labels, assigned.notes);
        assigned.arrays
    } else {
        let sets = testdata::read(&sets, specs)?;
        loaded.names = sets.names;
        sets.arrays
    };
    for (spec, array) in specs.iter().zip(arrays) {
        let applies = match &options.input {
            Some(input) => *input == spec.name,
            None => specs.len() == 1 || spec.dims.len() == 4,
        };
        let options = applies.then_some(&options.preprocess);
        loaded.feeds.push(arrays::feed(path, spec, array, options, &mut loaded.notes)?);
    }
    Ok(loaded)
}

fn load_images(path: &Path, specs: &[InputSpec], options: &DataOptions) -> Result<Loaded> {
    let folder = Folder::open(path, options.labels_from)?;
    let names: Vec<&str> = specs.iter().map(|s| s.name.as_str()).collect();
    let spec = match specs {
        [spec] => spec,
        _ => {
            let why = "images feed one input, but the model has";
            let hint = "give arrays for all of them (.npz)";
            return Err(bad(path, format!("{why} {}: {}; {hint}", specs.len(), quoted(&names))));
        }
    };
    let mut notes = folder.notes;
    let like = arrays::wanted(path, spec)?;
    let layout = options.preprocess.layout.unwrap_or(Layout::of_input(&spec.dims));
    let shape = Shape::new(spec, layout, &options.preprocess).map_err(|why| bad(path, why))?;
    let values = options.preprocess.values(true, is_float(&like));
    values.check(shape.channels).map_err(|why| bad(path, why))?;
    notes.extend(options.preprocess.suspicion(is_float(&like)));
    let relative = |f: &PathBuf| f.strip_prefix(path).unwrap_or(f).to_string_lossy().into_owned();
    let names = folder.files.iter().map(relative).collect();
    let source = Source::Images { files: folder.files, shape, layout };
    let feed = Feed { spec: spec.clone(), like, source, values, name: "the images".into() };
    Ok(Loaded { feeds: vec![feed], labels: folder.labels, names, notes, label_array: None })
}

impl Loaded {
    /// The number of samples, the same for all inputs and for the labels.
    pub fn count(&mut self, path: &Path) -> Result<usize> {
        let mut count: Option<(&Feed, usize)> = None;
        for feed in &self.feeds {
            let n = match &feed.source {
                Source::Rows { stored, .. } => stored.dims.first().copied().unwrap_or(0),
                Source::Images { files, .. } => files.len(),
                Source::Constant(_) => continue,
            };
            match count {
                Some((first, m)) if m != n => {
                    let (a, b) = (&first.name, &feed.name);
                    return Err(bad(path, format!("{a} has {m} samples, but {b} has {n}")));
                }
                _ => count = Some((feed, n)),
            }
        }
        let Some((_, n)) = count else {
            return Err(bad(path, "no input has an axis of samples"));
        };
        if let Some(array) = self.label_array.take() {
            self.labels = Some(arrays::labels(path, array, n)?);
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_ascending_seeded_and_without_replacement() {
        let a = draw(1000, 100, 7);
        assert_eq!((a.len(), &a), (100, &draw(1000, 100, 7)));
        assert!(a.windows(2).all(|w| w[0] < w[1]) && a.iter().all(|&i| i < 1000));
        assert_ne!(a, draw(1000, 100, 8));
        assert_eq!(draw(5, 5, 0), [0, 1, 2, 3, 4]);
        // Spread over the whole range.
        assert!((300..700).contains(&(a.iter().sum::<usize>() / 100)));
    }

    #[test]
    fn fixed_batches_agree() {
        let spec =
            |name: &str, dims: &[Option<usize>]| InputSpec { name: name.into(), dims: dims.into(), elem_type: 1 };
        assert_eq!(fixed_batch(&[spec("a", &[None, Some(3)]), spec("b", &[Some(4)])]).unwrap(), Some(4));
        assert_eq!(fixed_batch(&[spec("a", &[None]), spec("s", &[])]).unwrap(), None);
        let two = fixed_batch(&[spec("a", &[Some(1), Some(3)]), spec("b", &[Some(4)])]).unwrap_err().to_string();
        assert!(two.contains("to 1 for input \"a\" and to 4 for input \"b\""), "{two}");
    }

    #[test]
    fn what_does_not_fill_a_batch_is_left_out() {
        let rest = |n: usize, fixed| {
            let (mut chosen, mut notes) = ((0..n).collect(), Vec::new());
            whole_batches("d".as_ref(), &mut chosen, fixed, &mut notes).map(|()| (chosen.len(), notes.join("")))
        };
        assert_eq!(rest(10, None).unwrap(), (10, String::new()));
        assert_eq!(rest(10, Some(5)).unwrap().0, 10);
        let (n, note) = rest(10, Some(4)).unwrap();
        assert!(n == 8 && note.contains("last 2 of 10 samples are left out"), "{note}");
        assert!(rest(3, Some(4)).unwrap_err().to_string().contains("only 3 samples"));
    }
}
