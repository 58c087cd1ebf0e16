//! What layers see on calibration data, and what follows from it: how much each removal costs, and where.

pub mod activations;
pub mod exact_sum;
pub mod moments;
pub mod obs;
pub mod rows;
pub mod sites;
pub mod statistics;
pub mod survey;

use crate::error::Result;
use crate::runtime::walk::Feed;
use crate::runtime::{Array, Runtime};
use sha2::{Digest, Sha256};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use survey::Survey;

/// A survey, and what it was made for: a key, and the samples.
type Known = (String, Vec<Arc<Feed>>, Arc<Survey>);

/// Calibration data, and how much effort goes into it.
#[derive(Clone)]
pub struct Calibration {
    /// Inputs, batch by batch.
    pub batches: Vec<Arc<Feed>>,
    /// Runs the model.
    pub runtime: Arc<dyn Runtime>,
    /// Bytes of intermediate tensors that may be kept between layers, for each of two walks.
    pub memory: usize,
    /// Rows (output positions) that a layer's statistics are taken of, in all.
    pub rows: usize,
    /// Samples that measure a group's effect on the outputs.
    pub probes: usize,
    /// Seed of the draw of positions.
    pub seed: u64,
    /// The last survey, and what it was made for.
    last: Arc<Mutex<Option<Known>>>,
}

impl Calibration {
    /// With the default effort.
    pub fn new(batches: Vec<Feed>, runtime: Arc<dyn Runtime>) -> Self {
        let batches = batches.into_iter().map(Arc::new).collect();
        Calibration { batches, runtime, memory: 2 << 30, rows: 1 << 16, probes: 64, seed: 0, last: Arc::default() }
    }

    /// The same with another seed.
    #[must_use]
    pub fn seeded(self, seed: u64) -> Self {
        Calibration { seed, ..self }
    }

    /// Samples in a batch: the first axis of its first input.
    pub fn samples_in(&self, batch: usize) -> usize {
        let first = |f: &Arc<Feed>| f.first().map(|(_, a): &(String, Array)| a.dims.first().copied().unwrap_or(1));
        self.batches.get(batch).and_then(first).unwrap_or(0)
    }

    /// All samples.
    pub fn samples(&self) -> usize {
        (0..self.batches.len()).map(|b| self.samples_in(b)).sum()
    }

    /// The samples that statistics are taken of, and those that only measure: at most [`probes`](Self::probes) and a quarter
    /// of all, whole batches. What a statistic was fitted to says too little of its worth.
    pub fn split(&self) -> (Calibration, Calibration) {
        let most = self.probes.min(self.samples() / 4);
        let mut from = self.batches.len();
        let mut n = 0;
        while from > 1 && n < most {
            from -= 1;
            n += self.samples_in(from);
        }
        let (fit, held) = self.batches.split_at(from);
        // With a single batch there is nothing to hold back.
        let held = if held.is_empty() { fit } else { held };
        let part = |batches: &[Arc<Feed>]| Calibration { batches: batches.to_vec(), ..self.clone() };
        (part(fit), part(held))
    }

    /// About `samples` of the first samples, with less effort: for trials.
    pub fn part(&self, samples: usize) -> Calibration {
        let mut to = 0;
        let mut n = 0;
        while to < self.batches.len() && n < samples {
            n += self.samples_in(to);
            to += 1;
        }
        let batches = self.batches.get(..to).unwrap_or_default().to_vec();
        Calibration { batches, rows: self.rows / 4, ..self.clone() }
    }

    /// The survey for `key`: the last one, if it was for the same, else what `make` finds. Runs with several budgets share it.
    pub(crate) fn surveyed(&self, key: String, make: impl FnOnce() -> Result<Survey>) -> Result<Arc<Survey>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = |batches: &[Arc<Feed>]| {
            batches.len() == self.batches.len() && batches.iter().zip(&self.batches).all(|(a, b)| Arc::ptr_eq(a, b))
        };
        let key = format!("{key} {} {} {} {}", self.runtime.name(), self.rows, self.probes, self.seed);
        if let Some((known, batches, found)) = last.as_ref()
            && *known == key
            && mine(batches)
        {
            return Ok(found.clone());
        }
        let found = Arc::new(make()?);
        *last = Some((key, self.batches.clone(), found.clone()));
        Ok(found)
    }

    /// A SHA-256 in hexadecimal of all inputs: names, shapes and values.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for (name, array) in self.batches.iter().flat_map(|b| b.iter()) {
            hash.update(format!("{name:?} {:?}", array.dims));
            array.to_f64().iter().for_each(|v| hash.update(v.to_le_bytes()));
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Rows per sample.
    pub fn quota(&self) -> usize {
        (self.rows / self.samples().max(1)).max(1)
    }
}

impl fmt::Debug for Calibration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Calibration").field("samples", &self.samples()).finish_non_exhaustive()
    }
}

/// A seed for each layer.
pub(crate) fn seed_of(seed: u64, node: u32) -> u64 {
    seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (u64::from(node) << 20)
}
