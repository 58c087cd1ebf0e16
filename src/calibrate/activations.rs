//! What channels carry on calibration data, where layers read them: mean, mean square and share of zeros.

use super::Calibration;
use super::sites::{Site, sites};
use crate::channels::{AxisId, Channel};
use crate::error::Result;
use crate::ops::layer::Form;
use crate::prune::Traced;
use crate::runtime::walk::Walker;
use std::collections::BTreeMap;

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

impl Seen {
    fn add(&mut self, x: f64) {
        self.sum += x;
        self.squares += x * x;
        self.zeros += f64::from(u8::from(x == 0.0));
        self.n += 1.0;
    }

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
        let mut axes: BTreeMap<AxisId, Vec<Seen>> = BTreeMap::new();
        let mut walker = Walker::new(&*cal.runtime, t.analysis.graph.model, cal.batches.clone(), cal.memory)?;
        for site in sites(t) {
            let Some(axis) = site.inputs else { continue };
            if axes.contains_key(&axis) {
                continue;
            }
            let mut seen = vec![Seen::default(); t.trace.channels.axis(axis).len];
            let name = t.analysis.graph.value(site.x).name.clone();
            walker.advance(&[name], &mut |_, arrays| {
                if let Some(x) = arrays.first() {
                    look(&site, &x.dims, &x.to_f64(), &mut seen);
                }
                Ok(())
            })?;
            axes.insert(axis, seen);
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

fn look(site: &Site, dims: &[usize], x: &[f64], seen: &mut [Seen]) {
    let at = if matches!(site.layer.form, Form::Product { .. }) { dims.len().saturating_sub(1) } else { 1 };
    let (channels, inner) = (dims.get(at).copied().unwrap_or(0), dims.iter().skip(at + 1).product::<usize>().max(1));
    if channels != seen.len() {
        return;
    }
    for block in x.chunks_exact(channels * inner) {
        for (seen, values) in seen.iter_mut().zip(block.chunks_exact(inner)) {
            values.iter().for_each(|&v| seen.add(v));
        }
    }
}
