//! Data to run a model on: samples from arrays, images or ONNX test data, prepared as the model wants them.
//!
//! [`Dataset::open`] takes
//!
//! * `.npz`, `.npy` and `.safetensors`: an array for each model input, of the input's name, with the samples along the first
//!   axis. A model with one input takes an array of any name. `labels` or `y` are labels.
//! * a folder of JPEG, PNG, WebP or BMP images, flat or with one folder for each class. Labels are the position of the class
//!   folder in order of names, or come from `labels.csv` (rows of `file,label`), or from the names ([`LabelsFrom`]). Rotation
//!   marks and colour profiles in the files are not followed.
//! * ONNX test data: `test_data_set_*/input_0.pb`, or one such folder.
//!
//! Values are prepared as [`Preprocess`] says and converted to the type of the model's input. Arrays stay as they are in the
//! file, and images unread, until a [`batch`](Dataset::batch) is asked for. Nothing depends on the number of threads.

mod arrays;
pub mod config;
mod digest;
mod element;
mod images;
mod load;
mod npy;
mod preprocess;
pub mod summary;
mod testdata;

pub use preprocess::{ChannelOrder, Layout, Preprocess, Preset, Size};

use crate::error::{Error, Result};
use crate::onnx::Model;
use crate::runtime::{Array, Data, InputSpec, input_specs};
use element::{Arrangement, Stored, append, prepare};
use images::{Pixels, Shape};
use load::{draw, fixed_batch, load, whole_batches};
use preprocess::Values;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Samples in a batch, where neither the model nor the user says.
pub const DEFAULT_BATCH: usize = 32;

/// Where the labels of images are, if not in the usual places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LabelsFrom {
    /// The number in front of each file name, as in 0007_cat.jpg
    Name,
}

/// Which samples are used, and how.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DataOptions {
    /// So many, drawn without replacement and kept in their order; all without it.
    pub samples: Option<usize>,
    /// Samples in a batch. A model may fix it.
    pub batch: Option<usize>,
    /// The model input that images or an array of another name go to, for models with several inputs.
    pub input: Option<String>,
    /// Where the labels of images are.
    pub labels_from: Option<LabelsFrom>,
    /// How values are prepared.
    pub preprocess: Preprocess,
    /// Seed of the draw.
    pub seed: u64,
}

/// Samples for a model. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Dataset {
    inner: Arc<Inner>,
    /// The samples' places in the source, ascending unless selected otherwise.
    chosen: Arc<[usize]>,
    /// One for each chosen sample.
    labels: Option<Arc<[i64]>>,
    batch: usize,
    /// Whether batches may be of any size, whatever the model fixes.
    free: bool,
    notes: Arc<[String]>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    feeds: Vec<Feed>,
    /// The batch that the model fixes.
    fixed: Option<usize>,
    /// Of images and test data; arrays are numbered.
    names: Vec<String>,
}

/// Where one model input comes from.
#[derive(Debug)]
struct Feed {
    spec: InputSpec,
    /// An empty vector of the type that the input wants.
    like: Data,
    source: Source,
    values: Values,
    /// What the source is called in messages.
    name: String,
}

#[derive(Debug)]
enum Source {
    /// Samples along the first axis, in the file's layout; `dims` are a sample's extents in the model's.
    Rows { stored: Stored, order: Arrangement, dims: Vec<usize> },
    /// An input without axes: the same value for each batch.
    Constant(Array),
    /// Files.
    Images { files: Vec<PathBuf>, shape: Shape, layout: Layout },
}

/// An error about a file or folder of data.
fn bad(path: &Path, message: impl ToString) -> Error {
    Error::Data { path: path.to_owned(), message: message.to_string() }
}

/// A declared shape in messages; `?` where the model leaves an extent open.
fn shown(dims: &[Option<usize>]) -> String {
    let extents: Vec<String> = dims.iter().map(|d| d.map_or_else(|| "?".to_owned(), |d| d.to_string())).collect();
    format!("[{}]", extents.join(", "))
}

fn quoted<S: AsRef<str>>(names: &[S]) -> String {
    match names {
        [] => "none".to_owned(),
        names => names.iter().map(|n| format!("{:?}", n.as_ref())).collect::<Vec<_>>().join(", "),
    }
}

impl Dataset {
    /// Opens data for a model.
    ///
    /// # Errors
    /// [`Error::Data`] with the file, when it cannot be read or does not fit the model; [`Error::Usage`] when the options
    /// make no sense.
    pub fn open(path: &Path, model: &Model, options: &DataOptions) -> Result<Self> {
        options.preprocess.check()?;
        for (what, n) in [("samples", options.samples), ("batch", options.batch)] {
            if n == Some(0) {
                return Err(Error::Usage(format!("{what}: expected at least 1, not 0")));
            }
        }
        let specs = input_specs(model);
        let names: Vec<&str> = specs.iter().map(|s| s.name.as_str()).collect();
        if let Some(input) = options.input.as_deref().filter(|input| !names.contains(input)) {
            return Err(Error::Usage(format!("the model has no input {input:?}; its inputs: {}", quoted(&names))));
        }
        if specs.is_empty() {
            return Err(Error::Usage(format!("{}: the model has no inputs to feed", model.path.display())));
        }
        let fixed = fixed_batch(&specs)?;
        let mut loaded = load(path, &specs, options)?;
        let n = loaded.count(path)?;
        tracing::info!(path = %path.display(), samples = n, asked = options.samples, "data opened");
        let mut notes = loaded.notes;
        let mut chosen: Vec<usize> = match options.samples {
            Some(k) if k < n => draw(n, k, options.seed),
            _ => (0..n).collect(),
        };
        if let Some(k) = options.samples.filter(|&k| k > n) {
            notes.push(format!("{k} samples were asked for, but there are {n}: all are used"));
        }
        let batch = match (fixed, options.batch) {
            (Some(b), asked) => {
                let other = asked.filter(|&a| a != b);
                notes.extend(
                    other.map(|a| format!("the model fixes the batch to {b}, so a batch of {a} cannot be had")),
                );
                b
            }
            (None, asked) => asked.unwrap_or(DEFAULT_BATCH),
        };
        whole_batches(path, &mut chosen, fixed, &mut notes)?;
        let labels = loaded.labels.map(|all| chosen.iter().filter_map(|&i| all.get(i).copied()).collect());
        let inner = Inner { path: path.to_owned(), feeds: loaded.feeds, fixed, names: loaded.names };
        inner.check_finite(&chosen)?;
        if options.preprocess.scale.is_none() {
            notes.extend(inner.suspicion(&chosen));
        }
        Ok(Self { inner: Arc::new(inner), chosen: chosen.into(), labels, batch, free: false, notes: notes.into() })
    }

    /// The number of samples.
    pub fn len(&self) -> usize {
        self.chosen.len()
    }

    /// Whether there are none, which [`open`](Self::open) does not permit.
    pub fn is_empty(&self) -> bool {
        self.chosen.is_empty()
    }

    /// Samples in a batch, except that the last may have fewer: what the model fixes, or what was asked for, or
    /// [`DEFAULT_BATCH`].
    pub fn batch_size(&self) -> usize {
        self.batch
    }

    /// The number of batches.
    pub fn batches(&self) -> usize {
        self.len().div_ceil(self.batch.max(1))
    }

    /// The samples of batch `k`; none beyond the last.
    pub fn range(&self, k: usize) -> Range<usize> {
        let from = k.saturating_mul(self.batch).min(self.len());
        from..from.saturating_add(self.batch).min(self.len())
    }

    /// All model inputs for batch `k`, in the model's order, ready for [`Session::run`](crate::runtime::Session::run).
    ///
    /// # Errors
    /// [`Error::Data`] when an image cannot be read or a value cannot be converted; the first in order of samples.
    pub fn batch(&self, k: usize) -> Result<Vec<(String, Array)>> {
        let rows = self.chosen.get(self.range(k)).unwrap_or_default();
        if rows.is_empty() {
            return Err(Error::Usage(format!("there is no batch {k}, only {}", self.batches())));
        }
        self.inner.feeds.iter().map(|feed| Ok((feed.spec.name.clone(), self.inner.array(feed, rows)?))).collect()
    }

    /// The class of each sample, where the data has labels.
    pub fn labels(&self) -> Option<&[i64]> {
        self.labels.as_deref()
    }

    /// What a sample is called: the image's file within the folder, the test data set, or its index in the arrays.
    pub fn name(&self, sample: usize) -> String {
        match self.chosen.get(sample) {
            Some(&i) => self.inner.name(i),
            None => format!("sample {sample}, which there is not"),
        }
    }

    /// What the user should know: samples that were left out, arrays that were transposed, and the like.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Whether a model input's last axis is that of its channels; else axis 1 is.
    pub(crate) fn channels_last(&self, input: usize) -> bool {
        match self.inner.feeds.get(input).map(|f| &f.source) {
            Some(Source::Rows { order, .. }) => order.target_last,
            Some(Source::Images { layout, .. }) => *layout == Layout::Nhwc,
            _ => false,
        }
    }

    /// Where the data comes from.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// A SHA-256 in hexadecimal of what is selected and how it is used: the samples' names, labels and order, the batch, the
    /// preparation of values, and the samples themselves as they are stored; of images, which are not read for this, names and sizes
    /// of the files.
    pub fn digest(&self) -> String {
        digest::digest(self)
    }

    /// These samples alone, in this order.
    ///
    /// # Errors
    /// [`Error::Usage`] when one of them does not exist, when there are none, or fewer than a batch that the model fixes.
    pub fn select(&self, samples: &[usize]) -> Result<Self> {
        let missing = |i: usize| Error::Usage(format!("there is no sample {i}, only {}", self.len()));
        let place = |&i: &usize| self.chosen.get(i).copied().ok_or_else(|| missing(i));
        let mut chosen = samples.iter().map(place).collect::<Result<Vec<usize>>>()?;
        let mut notes = self.notes.to_vec();
        whole_batches(&self.inner.path, &mut chosen, self.fixed(), &mut notes)?;
        let labels =
            self.labels.as_ref().map(|all| samples.iter().take(chosen.len()).filter_map(|&i| all.get(i).copied()));
        let labels = labels.map(|labels| labels.collect());
        Ok(Self { chosen: chosen.into(), labels, notes: notes.into(), ..self.clone() })
    }

    /// In batches of another size, unless the model fixes it.
    #[must_use]
    pub fn batched(self, batch: usize) -> Self {
        let batch = self.fixed().unwrap_or_else(|| batch.max(1));
        Self { batch, ..self }
    }

    /// The batch that the model fixes, and these batches keep to.
    pub(crate) fn fixed(&self) -> Option<usize> {
        self.inner.fixed.filter(|_| !self.free)
    }

    /// In batches of any size: for a copy of the model that takes them.
    pub(crate) fn freed(self, batch: usize) -> Self {
        Self { free: true, ..self }.batched(batch)
    }

    /// So many samples, drawn as [`DataOptions::samples`] draws them, and the rest.
    ///
    /// # Errors
    /// As [`split`](Self::split).
    pub fn divide(&self, samples: usize, seed: u64) -> Result<(Self, Self)> {
        if samples == 0 || samples >= self.len() {
            let why = format!("{} samples cannot be divided into {samples} and others", self.len());
            return Err(Error::Usage(why));
        }
        let drawn = draw(self.len(), samples, seed);
        let rest: Vec<usize> = (0..self.len()).filter(|i| drawn.binary_search(i).is_err()).collect();
        Ok((self.select(&drawn)?, self.select(&rest)?))
    }

    /// The first so many samples, and the rest.
    ///
    /// # Errors
    /// [`Error::Usage`] when one of the two would be empty, or smaller than a batch that the model fixes.
    pub fn split(&self, first: usize) -> Result<(Self, Self)> {
        if first == 0 || first >= self.len() {
            let why = format!("{} samples cannot be split into {first} and others", self.len());
            return Err(Error::Usage(why));
        }
        let all: Vec<usize> = (0..self.len()).collect();
        let (a, b) = all.split_at(first);
        Ok((self.select(a)?, self.select(b)?))
    }
}

impl Inner {
    fn name(&self, index: usize) -> String {
        self.names.get(index).cloned().unwrap_or_else(|| index.to_string())
    }

    /// Floats are checked before any work begins.
    fn check_finite(&self, chosen: &[usize]) -> Result<()> {
        for feed in &self.feeds {
            let Source::Rows { stored, .. } = &feed.source else { continue };
            if !stored.kind.is_float() {
                continue;
            }
            let odd = |&i: &usize| {
                let values = stored.kind.floats(stored.sample(i));
                let at = values.iter().position(|x| !x.is_finite())?;
                Some((i, at, values.get(at).copied().unwrap_or(f64::NAN)))
            };
            if let Some((i, at, x)) = chosen.par_iter().find_map_first(odd) {
                let why = format!("{}, sample {}: element {at} is {x}, not a finite number", feed.name, self.name(i));
                return Err(bad(&self.path, why));
            }
        }
        Ok(())
    }

    /// Floats from 0 to 1 that a preset for pixels divides by 255 all the same.
    fn suspicion(&self, chosen: &[usize]) -> Option<String> {
        /// Enough to see a bright pixel.
        const LOOKED_AT: usize = 8;
        let small = |feed: &&Feed| match &feed.source {
            Source::Rows { stored, .. } if stored.kind.is_float() && feed.values.scale < 0.01 => {
                let mut values = chosen.iter().take(LOOKED_AT).flat_map(|&i| stored.kind.floats(stored.sample(i)));
                values.all(|x| x.abs() <= 1.0)
            }
            _ => false,
        };
        let feed = self.feeds.iter().find(small)?;
        Some(format!(
            "{} has values from 0 to 1, and the preset scales them by 1/255 all the same; --scale 1 turns that off",
            feed.name
        ))
    }

    /// One input for these samples.
    fn array(&self, feed: &Feed, rows: &[usize]) -> Result<Array> {
        let parts: Vec<Result<(Vec<usize>, Data)>> = match &feed.source {
            Source::Constant(array) => return Ok(array.clone()),
            Source::Rows { stored, order, dims } => rows
                .par_iter()
                .map(|&i| {
                    let data = prepare(stored.sample(i), stored.kind, *order, &feed.values, &feed.like);
                    let place = |why| bad(&self.path, format!("{}, sample {}: {why}", feed.name, self.name(i)));
                    Ok((dims.clone(), data.map_err(place)?))
                })
                .collect(),
            Source::Images { files, shape, layout } => {
                let image = |&i: &usize| match files.get(i) {
                    Some(file) => picture(file, shape, *layout, feed),
                    None => Err(bad(&self.path, format!("there is no image {i}"))),
                };
                rows.par_iter().map(image).collect()
            }
        };
        let mut data = feed.like.clone();
        let mut dims: Option<Vec<usize>> = None;
        // In order, so that the error does not depend on which thread was first.
        for (part, &i) in parts.into_iter().zip(rows) {
            let (extents, part) = part?;
            match &dims {
                Some(first) if *first != extents => {
                    let first_name = rows.first().map(|&i| self.name(i)).unwrap_or_default();
                    let why = format!(
                        "in one batch all images need the same size, but {first_name} has shape {first:?} and {} has \
                         {extents:?}; use --resize and --crop, or --batch 1",
                        self.name(i)
                    );
                    return Err(bad(&self.path, why));
                }
                Some(_) => {}
                None => dims = Some(extents),
            }
            append(&mut data, part);
        }
        let dims = [rows.len()].into_iter().chain(dims.unwrap_or_default()).collect();
        Ok(Array { dims, data })
    }
}

fn picture(file: &Path, shape: &Shape, layout: Layout, feed: &Feed) -> Result<(Vec<usize>, Data)> {
    let Pixels { width, height, bytes } = shape.read(file)?;
    let target_last = layout == Layout::Nhwc;
    let order = Arrangement { channels: shape.channels, source_last: true, target_last };
    let data = prepare(&bytes, Pixels::KIND, order, &feed.values, &feed.like).map_err(|why| bad(file, why))?;
    let c = shape.channels;
    Ok((if target_last { vec![height, width, c] } else { vec![c, height, width] }, data))
}

#[cfg(test)]
#[path = "mod_tests.rs"]
mod tests;
