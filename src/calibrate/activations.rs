//! What channels carry on calibration data, where layers read them: mean, mean square and share of zeros.
//!
//! Sums over a batch are added as ever, sums over batches without rounding ([`ExactSum`]), so that [`Statistics`] of parts of the data
//! join to exactly those of the whole.

use super::Calibration;
use super::exact_sum::ExactSum;
use super::sites::{Site, sites};
use crate::channels::{AxisId, Channel};
use crate::error::{Error, Result};
use crate::ops::layer::Form;
use crate::prune::Traced;
use crate::runtime::walk::Walker;
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Batches that go through the network together. They stay together wherever the data is divided: what a runtime computes may depend, in
/// its last bits, on the stretches that the network is cut into, and those on the memory that a group takes.
pub const TOGETHER: usize = 16;

/// One index of an axis over all samples and positions.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Seen {
    /// Sum of the values.
    pub sum: f64,
    /// Sum of their squares.
    pub squares: f64,
    /// How many are zero.
    pub zeros: f64,
    /// How many there are.
    pub n: f64,
}

/// The same before sums are rounded.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
struct Gathered {
    sum: ExactSum,
    squares: ExactSum,
    zeros: u64,
    n: u64,
}

impl Gathered {
    /// Adds the values of one batch.
    fn add<'a>(&mut self, values: impl Iterator<Item = &'a f64>) {
        let (mut sum, mut squares) = (0.0, 0.0);
        for &x in values {
            sum += x;
            squares += x * x;
            self.zeros += u64::from(x == 0.0);
            self.n += 1;
        }
        self.sum.add(sum);
        self.squares.add(squares);
    }

    fn join(&mut self, other: Gathered) {
        self.sum.join(other.sum);
        self.squares.join(other.squares);
        self.zeros = self.zeros.saturating_add(other.zeros);
        self.n = self.n.saturating_add(other.n);
    }

    fn settle(&mut self) {
        self.sum.settle();
        self.squares.settle();
    }

    fn seen(&self) -> Seen {
        Seen { sum: self.sum.value(), squares: self.squares.value(), zeros: self.zeros as f64, n: self.n as f64 }
    }
}

/// One tensor that a layer reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
struct Read {
    tensor: String,
    /// Its channels are along the last axis; else along axis 1.
    last: bool,
    /// Channel by channel; empty where no sample has been seen.
    channels: Vec<Gathered>,
}

impl Read {
    fn join(&mut self, other: Read) -> Result<()> {
        if self.channels.is_empty() {
            self.channels = other.channels;
        } else if !other.channels.is_empty() {
            if self.channels.len() != other.channels.len() {
                let (a, b) = (self.channels.len(), other.channels.len());
                return Err(Error::Usage(format!(
                    "tensor {:?} has {a} channels in one part and {b} here",
                    self.tensor
                )));
            }
            self.channels.iter_mut().zip(other.channels).for_each(|(a, b)| a.join(b));
        }
        Ok(())
    }
}

/// What all layers with a weight of their own read on some samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Statistics {
    /// The samples seen.
    samples: usize,
    /// In the order of the network.
    reads: Vec<Read>,
}

impl Statistics {
    /// Runs the model over some of the data's groups of [`TOGETHER`] batches. `groups`: of those in `cal`.
    ///
    /// # Errors
    /// When the runtime cannot run the model.
    pub fn gather(t: &Traced, cal: &Calibration, groups: Range<usize>) -> Result<Statistics> {
        let mut known = BTreeSet::new();
        let mut reads: Vec<Read> = Vec::new();
        for site in sites(t) {
            let (tensor, last) = (t.analysis.graph.value(site.x).name.clone(), along_last(&site));
            if known.insert((tensor.clone(), last)) {
                reads.push(Read { tensor, last, channels: Vec::new() });
            }
        }
        let mut samples = 0;
        for group in groups {
            let batches = (group * TOGETHER).min(cal.batches.len())..((group + 1) * TOGETHER).min(cal.batches.len());
            samples += batches.clone().map(|b| cal.samples_in(b)).sum::<usize>();
            let feeds = cal.batches.get(batches).unwrap_or_default().to_vec();
            let mut walker = Walker::new(&*cal.runtime, t.analysis.graph.model, feeds, cal.memory)?;
            for read in &mut reads {
                let name = read.tensor.clone();
                walker.advance(&[name], &mut |_, arrays| {
                    if let Some(x) = arrays.first() {
                        look(read, &x.dims, &x.to_f64());
                    }
                    Ok(())
                })?;
            }
        }
        reads.iter_mut().flat_map(|r| &mut r.channels).for_each(Gathered::settle);
        Ok(Statistics { samples, reads })
    }

    /// The number of samples.
    pub fn samples(&self) -> usize {
        self.samples
    }

    /// The number of tensors.
    pub fn tensors(&self) -> usize {
        self.reads.len()
    }

    /// Takes what was seen on other samples.
    ///
    /// # Errors
    /// [`Error::Usage`] when that is about other tensors.
    pub fn join(&mut self, other: Statistics) -> Result<()> {
        let names = |s: &Statistics| s.reads.iter().map(|r| (r.tensor.clone(), r.last)).collect::<Vec<_>>();
        if names(self) != names(&other) {
            return Err(Error::Usage("it has statistics of other tensors; make the part again".into()));
        }
        self.samples = self.samples.saturating_add(other.samples);
        self.reads.iter_mut().zip(other.reads).try_for_each(|(a, b)| a.join(b))
    }
}

/// Whether the channels that a layer reads are along the last axis.
fn along_last(site: &Site) -> bool {
    matches!(site.layer.form, Form::Product { .. })
}

impl Seen {
    /// Of several indices together.
    fn join(mut self, other: &Seen) -> Seen {
        self.sum += other.sum;
        self.squares += other.squares;
        self.zeros += other.zeros;
        self.n += other.n;
        self
    }

    /// The mean.
    pub fn mean(&self) -> f64 {
        self.sum / self.n
    }

    /// The root of the mean square.
    pub fn rms(&self) -> f64 {
        (self.squares / self.n).sqrt()
    }

    /// The variance.
    pub fn variance(&self) -> f64 {
        (self.squares / self.n - self.mean() * self.mean()).max(0.0)
    }

    /// The average percentage of zeros (Hu et al., "Network Trimming", 2016), as a share.
    pub fn apoz(&self) -> f64 {
        self.zeros / self.n
    }
}

/// Per channel axis of a tensor that a layer reads: its indices.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Activations {
    axes: BTreeMap<AxisId, Vec<Seen>>,
}

impl Activations {
    /// Runs the model over the data and looks at the input of every layer with a weight of its own.
    ///
    /// # Errors
    /// When the runtime cannot run the model.
    pub fn new(t: &Traced, cal: &Calibration) -> Result<Activations> {
        Activations::of(t, &Statistics::gather(t, cal, 0..cal.batches.len().div_ceil(TOGETHER))?)
    }

    /// The same from what was gathered before.
    ///
    /// # Errors
    /// [`Error::Usage`] when a layer reads a tensor that there are no statistics of.
    pub fn of(t: &Traced, statistics: &Statistics) -> Result<Activations> {
        let by_name: BTreeMap<(&str, bool), &Read> =
            statistics.reads.iter().map(|r| ((r.tensor.as_str(), r.last), r)).collect();
        let mut axes: BTreeMap<AxisId, Vec<Seen>> = BTreeMap::new();
        for site in sites(t) {
            let Some(axis) = site.inputs else { continue };
            if axes.contains_key(&axis) {
                continue;
            }
            let name = &t.analysis.graph.value(site.x).name;
            let read = by_name.get(&(name.as_str(), along_last(&site))).ok_or_else(|| {
                Error::Usage(format!(
                    "there are no statistics of tensor {name:?}: they were taken of the model as it is, without what changes its                      graph, such as --fold-weights; give --data instead"
                ))
            })?;
            let len = t.trace.channels.axis(axis).len;
            let fits = read.channels.len() == len;
            axes.insert(
                axis,
                if fits { read.channels.iter().map(Gathered::seen).collect() } else { vec![Seen::default(); len] },
            );
        }
        Ok(Activations { axes })
    }

    /// A channel on an axis, if that was seen.
    pub fn on(&self, axis: AxisId, channel: &Channel) -> Option<Seen> {
        let seen = self.axes.get(&axis)?;
        let all = channel.on(axis).filter_map(|i| seen.get(i)).fold(Seen::default(), Seen::join);
        (all.n > 0.0).then_some(all)
    }
}

/// Adds one batch.
fn look(read: &mut Read, dims: &[usize], x: &[f64]) {
    let at = if read.last { dims.len().saturating_sub(1) } else { 1 };
    let (channels, inner) = (dims.get(at).copied().unwrap_or(0), dims.iter().skip(at + 1).product::<usize>());
    if read.channels.is_empty() {
        read.channels = vec![Gathered::default(); channels];
    }
    if channels != read.channels.len() || channels == 0 || inner == 0 {
        return;
    }
    read.channels.par_iter_mut().enumerate().for_each(|(c, g)| {
        let blocks = x.chunks_exact(channels * inner).filter_map(|b| b.get(c * inner..(c + 1) * inner));
        g.add(blocks.flatten());
    });
}
