//! The batches that training draws from its data.
//!
//! What a batch holds depends on the seed, the epoch and the step alone: not on threads, and not on what was drawn before, so
//! that a run that is taken up again sees what it would have seen.

use super::augment::{Augment, Draw, Frame, beta, mix};
use crate::data::{DEFAULT_BATCH, Dataset};
use crate::error::{Error, Result};
use crate::onnx::tensor::type_name;
use crate::runtime::walk::Feed;
use crate::runtime::{Array, Data, Noise};
use rayon::prelude::*;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// How batches are drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchOptions {
    /// Samples in a batch. A model may fix it.
    pub batch: usize,
    /// Seed of the order and of all that chance does.
    pub seed: u64,
    /// What chance does to the samples.
    pub augment: Augment,
    /// Bytes of prepared samples that may be kept; where they do not suffice, samples are prepared anew each time.
    pub memory: usize,
}

impl Default for BatchOptions {
    fn default() -> Self {
        Self { batch: DEFAULT_BATCH, seed: 0, augment: Augment::default(), memory: 2 << 30 }
    }
}

/// One batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// All model inputs, in the model's order.
    pub feed: Feed,
    /// Which samples of the data these are.
    pub samples: Vec<usize>,
    /// How the inputs were mixed, if they were.
    pub mix: Option<Mix>,
}

/// How the inputs of a batch were mixed: `share · x + (1 − share) · x'`. Labels have to be mixed alike.
#[derive(Clone, Debug, PartialEq)]
pub struct Mix {
    /// For each sample, the position in the batch of the sample that was mixed in; it may be its own.
    pub partner: Vec<usize>,
    /// From 0 to 1, the same for the whole batch.
    pub share: f32,
}

/// See the [module](self). Cheap to clone.
#[derive(Clone, Debug)]
pub struct Batches {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// In batches of the size that is drawn.
    data: Dataset,
    options: BatchOptions,
    inputs: Vec<Input>,
    /// All samples of each input, in the inputs' order, where they are kept.
    kept: Option<Vec<Array>>,
    /// The order of the last epoch that was asked for.
    last: Mutex<Option<(usize, Arc<[usize]>)>>,
}

/// A model input.
#[derive(Debug)]
struct Input {
    name: String,
    /// Of a batch.
    dims: Vec<usize>,
    /// How it lies, where it is an image.
    frame: Option<Frame>,
}

impl Input {
    /// Values of a sample; `None` for an input without samples.
    fn size(&self) -> Option<usize> {
        self.dims.get(1..).filter(|_| !self.dims.is_empty()).map(|d| d.iter().product())
    }
}

impl Batches {
    /// Prepares all samples, if they may be kept, and checks that they can be what the options ask for.
    ///
    /// # Errors
    /// [`Error::Usage`] when there are fewer samples than a batch has, or when the options ask for what the inputs do not
    /// permit; [`Error::Data`] when a sample cannot be read or has another size than the first.
    pub fn new(data: &Dataset, options: &BatchOptions) -> Result<Self> {
        if options.batch == 0 {
            return Err(Error::Usage("--batch: expected at least 1, not 0".into()));
        }
        let data = data.clone().batched(options.batch);
        let batch = data.batch_size();
        if data.len() < batch {
            let path = data.path().display();
            let why = format!("{} samples to train on do not fill a batch of {batch}; lower --batch", data.len());
            return Err(Error::Usage(format!("{path}: {why}")));
        }
        let first = data.batch(0)?;
        let augment = &options.augment;
        let input = |(at, (name, array)): (usize, &(String, Array))| {
            let float = matches!(array.data, Data::F32(_));
            let frame = Frame::of(&array.dims, data.channels_last(at)).filter(|_| float);
            Input { name: name.clone(), dims: array.dims.clone(), frame }
        };
        let inputs: Vec<Input> = first.iter().enumerate().map(input).collect();
        check(augment, &inputs, &first)?;
        let bytes = |(input, (_, array)): (&Input, &(String, Array))| match input.size() {
            Some(size) => size.saturating_mul(array.data.width()).saturating_mul(data.len()),
            None => array.bytes(),
        };
        let needed = inputs.iter().zip(&first).map(bytes).fold(0, usize::saturating_add);
        let options = options.clone();
        let mut inner = Inner { data, options, inputs, kept: None, last: Mutex::new(None) };
        if needed <= inner.options.memory {
            inner.kept = Some(inner.all()?);
        }
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Samples in a batch.
    pub fn batch_size(&self) -> usize {
        self.inner.data.batch_size()
    }

    /// Batches in an epoch. What does not fill a batch is left out; as the order differs, it is another rest each time.
    pub fn steps(&self) -> usize {
        self.inner.data.len() / self.batch_size().max(1)
    }

    /// The number of samples.
    pub fn len(&self) -> usize {
        self.inner.data.len()
    }

    /// Whether there are none, which [`new`](Self::new) does not permit.
    pub fn is_empty(&self) -> bool {
        self.inner.data.is_empty()
    }

    /// The class of each sample of the data, where it has labels.
    pub fn labels(&self) -> Option<&[i64]> {
        self.inner.data.labels()
    }

    /// The extents of each input in a batch.
    pub fn extents(&self) -> Vec<(String, Vec<usize>)> {
        self.inner.inputs.iter().map(|i| (i.name.clone(), i.dims.clone())).collect()
    }

    /// Whether prepared samples are kept.
    pub fn kept(&self) -> bool {
        self.inner.kept.is_some()
    }

    /// The samples in the order of an epoch: a permutation that depends on the seed and the epoch alone.
    pub fn order(&self, epoch: usize) -> Vec<usize> {
        self.inner.order(epoch).to_vec()
    }

    /// A batch of an epoch.
    ///
    /// # Errors
    /// [`Error::Usage`] beyond the last step; [`Error::Data`] when a sample cannot be read.
    pub fn batch(&self, epoch: usize, step: usize) -> Result<Batch> {
        let (steps, n) = (self.steps(), self.batch_size());
        if step >= steps {
            return Err(Error::Usage(format!("there is no step {step} in an epoch of {steps}")));
        }
        let order = self.inner.order(epoch);
        let samples = order.get(step * n..(step + 1) * n).unwrap_or_default().to_vec();
        self.inner.batch(epoch, step, samples)
    }

    /// The batches from a step on, epoch after epoch without an end, of which a thread prepares the next while one is used.
    ///
    /// After an error there is nothing more. Dropping it stops the thread. Not for a thread of rayon's pool, which the other
    /// one needs for its work.
    pub fn ahead(&self, (epoch, step): (usize, usize)) -> Ahead {
        // One that waits, and one that is being made.
        let (sender, receiver) = sync_channel(1);
        let batches = self.clone();
        let work = move || {
            let (mut epoch, mut step) = (epoch, step);
            loop {
                let batch = batches.batch(epoch, step);
                let failed = batch.is_err();
                // Nobody listens any more.
                if sender.send(batch).is_err() || failed {
                    return;
                }
                (epoch, step) = if step + 1 < batches.steps() { (epoch, step + 1) } else { (epoch + 1, 0) };
            }
        };
        Ahead { receiver: Some(receiver), thread: Some(std::thread::spawn(work)) }
    }
}

/// Batches that are prepared before they are asked for, see [`Batches::ahead`].
#[derive(Debug)]
pub struct Ahead {
    /// None once it is dropped, which ends the thread.
    receiver: Option<Receiver<Result<Batch>>>,
    thread: Option<JoinHandle<()>>,
}

impl Iterator for Ahead {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        self.receiver.as_ref()?.recv().ok()
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.receiver = None;
        // What went wrong there has been said, or nobody asked for it.
        self.thread.take().map(JoinHandle::join);
    }
}

/// Whether the inputs permit what is asked for.
fn check(augment: &Augment, inputs: &[Input], first: &Feed) -> Result<()> {
    let have = || {
        let one = |(name, a): &(String, Array)| format!("{name:?} {} {:?}", type_name(a.data.elem_type()), a.dims);
        first.iter().map(one).collect::<Vec<_>>().join(", ")
    };
    if augment.of_images() && inputs.iter().all(|i| i.frame.is_none()) {
        let images = Augment { mixup: 0.0, ..*augment };
        let why = "is for images, which are inputs of type FLOAT with four axes";
        let found = have();
        return Err(Error::Usage(format!("--augment {images} {why}; the model has none: {found}; leave it out")));
    }
    let small = inputs.iter().find(|i| i.frame.is_some_and(|f| augment.crop >= f.height.min(f.width)));
    if let Some(Input { name, frame: Some(frame), .. }) = small {
        let (h, w) = (frame.height, frame.width);
        let why = format!("shifts by less than the image's size, which is {h}x{w} for input {name:?}");
        return Err(Error::Usage(format!("--augment crop={} has to be lower: it {why}", augment.crop)));
    }
    let whole = first.iter().find(|(_, a)| !a.dims.is_empty() && a.data.is_integer());
    if let Some((name, a)) = whole.filter(|_| augment.mixup > 0.0) {
        let kind = type_name(a.data.elem_type());
        let why = format!("mixes inputs, but input {name:?} holds integers ({kind}), which cannot be mixed");
        return Err(Error::Usage(format!("--augment mixup={} {why}; leave it out", augment.mixup)));
    }
    Ok(())
}

impl Inner {
    /// All samples, as one array for each input.
    fn all(&self) -> Result<Vec<Array>> {
        /// Enough to keep all threads busy.
        const AT_ONCE: usize = 256;
        let data = self.data.clone().batched(AT_ONCE);
        let mut all: Vec<Array> = Vec::new();
        for k in 0..data.batches() {
            let feed = data.batch(k)?;
            self.same_size(&feed, data.range(k).start)?;
            if all.is_empty() {
                all = feed.into_iter().map(|(_, array)| array).collect();
                continue;
            }
            for (all, (_, more)) in all.iter_mut().zip(feed) {
                // An input without axes has no samples.
                if let (Some(n), Some(m)) = (all.dims.first_mut(), more.dims.first()) {
                    *n += m;
                    append(&mut all.data, &more.data, 0..more.data.len());
                }
            }
        }
        Ok(all)
    }

    /// The model that is trained has fixed extents.
    fn same_size(&self, feed: &Feed, sample: usize) -> Result<()> {
        for (input, (name, array)) in self.inputs.iter().zip(feed) {
            if input.dims.get(1..) != array.dims.get(1..) {
                let (has, others) = (array.dims.get(1..).unwrap_or_default(), input.dims.get(1..).unwrap_or_default());
                let message = format!(
                    "{} has shape {has:?} for input {name:?}, but others have {others:?}; for training all need the same \
                     size: use --resize and --crop",
                    self.data.name(sample)
                );
                return Err(Error::Data { path: self.data.path().to_owned(), message });
            }
        }
        Ok(())
    }

    fn order(&self, epoch: usize) -> Arc<[usize]> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((of, order)) if *of == epoch => order.clone(),
            _ => {
                let order: Arc<[usize]> =
                    permutation(self.data.len(), &mut self.noise(&format!("order/{epoch}"))).into();
                *last = Some((epoch, order.clone()));
                order
            }
        }
    }

    fn noise(&self, what: &str) -> Noise {
        Noise::new(self.options.seed, &format!("train/{what}"))
    }

    fn batch(&self, epoch: usize, step: usize, samples: Vec<usize>) -> Result<Batch> {
        let read = match &self.kept {
            Some(_) => None,
            None => {
                let feed = self.data.select(&samples)?.batched(samples.len()).batch(0)?;
                self.same_size(&feed, samples.first().copied().unwrap_or(0))?;
                Some(feed.into_iter().map(|(_, array)| array).collect::<Vec<_>>())
            }
        };
        // Places in what was read just now, or in all that is kept.
        let places: Vec<usize> = if read.is_some() { (0..samples.len()).collect() } else { samples.clone() };
        let source = read.as_ref().or(self.kept.as_ref()).map(Vec::as_slice).unwrap_or_default();
        let augment = &self.options.augment;
        let draw = |i: usize| Draw::new(augment, &mut self.noise(&format!("augment/{epoch}/{step}/{i}")));
        let draws: Option<Vec<Draw>> = augment.of_images().then(|| (0..samples.len()).map(draw).collect());
        let mixed = (augment.mixup > 0.0).then(|| {
            let mut noise = self.noise(&format!("mixup/{epoch}/{step}"));
            let share = beta(augment.mixup, &mut noise) as f32;
            Mix { partner: permutation(samples.len(), &mut noise), share }
        });
        let mut feed = Feed::new();
        for (input, array) in self.inputs.iter().zip(source) {
            let mut data = match (input.size(), &array.data, input.frame, &draws) {
                (None, data, ..) => data.clone(),
                (Some(size), Data::F32(values), Some(frame), Some(draws)) => {
                    Data::F32(images(values, size, frame, &places, draws))
                }
                (Some(size), data, ..) => rows(data, size, &places),
            };
            if let (Some(mixed), Some(size)) = (&mixed, input.size()) {
                mix(&mut data, size, &mixed.partner, mixed.share);
            }
            feed.push((input.name.clone(), Array { dims: input.dims.clone(), data }));
        }
        Ok(Batch { feed, samples, mix: mixed })
    }
}

/// The images at these places, each as chance has it.
fn images(values: &[f32], size: usize, frame: Frame, places: &[usize], draws: &[Draw]) -> Vec<f32> {
    let mut out = vec![0.0; size * places.len()];
    let each = out.par_chunks_exact_mut(size.max(1)).zip(places).zip(draws);
    each.for_each(|((out, &at), draw)| {
        if let Some(image) = values.get(at * size..(at + 1) * size) {
            draw.apply(frame, image, out);
        }
    });
    out
}

/// The samples at these places.
fn rows(data: &Data, size: usize, places: &[usize]) -> Data {
    let mut out = match data {
        Data::F32(_) => Data::F32(Vec::with_capacity(size * places.len())),
        Data::F64(_) => Data::F64(Vec::with_capacity(size * places.len())),
        Data::F16(_) => Data::F16(Vec::with_capacity(size * places.len())),
        Data::I64(_) => Data::I64(Vec::with_capacity(size * places.len())),
        Data::I32(_) => Data::I32(Vec::with_capacity(size * places.len())),
        Data::U8(_) => Data::U8(Vec::with_capacity(size * places.len())),
        Data::I8(_) => Data::I8(Vec::with_capacity(size * places.len())),
        Data::Bool(_) => Data::Bool(Vec::with_capacity(size * places.len())),
    };
    places.iter().for_each(|&at| append(&mut out, data, at * size..(at + 1) * size));
    out
}

/// Appends part of another array of the same type.
fn append(all: &mut Data, more: &Data, range: std::ops::Range<usize>) {
    fn part<T: Copy>(all: &mut Vec<T>, more: &[T], range: std::ops::Range<usize>) {
        all.extend_from_slice(more.get(range).unwrap_or_default());
    }
    match (all, more) {
        (Data::F32(a), Data::F32(b)) => part(a, b, range),
        (Data::F64(a), Data::F64(b)) => part(a, b, range),
        (Data::F16(a), Data::F16(b)) => part(a, b, range),
        (Data::I64(a), Data::I64(b)) => part(a, b, range),
        (Data::I32(a), Data::I32(b)) => part(a, b, range),
        (Data::U8(a), Data::U8(b)) => part(a, b, range),
        (Data::I8(a), Data::I8(b)) => part(a, b, range),
        (Data::Bool(a), Data::Bool(b)) => part(a, b, range),
        _ => debug_assert!(false, "one input has elements of two types"),
    }
}

/// 0 to `n − 1` in an order by chance (Fisher and Yates).
fn permutation(n: usize, noise: &mut Noise) -> Vec<usize> {
    let mut all: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        let j = (noise.uniform() * (i + 1) as f64) as usize;
        all.swap(i, j.min(i));
    }
    all
}

#[cfg(test)]
#[path = "batches_tests.rs"]
mod tests;
