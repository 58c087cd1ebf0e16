//! Error curves of all channel units from calibration data, weighed by their measured effect on the network's outputs.
//!
//! A curve from [`obs`](super::obs) says what a unit's removals do to the layers that read it, in shares of their output's
//! variance. How much such an error matters depends on where in the network it is: each unit in turn is halved and repaired
//! by itself, the network runs, and the curve is scaled so that it gives, at that point, the share of the outputs' variance
//! that changed. Curves of different units can then be added and compared.

use super::moments::Moments;
use super::obs::{Curve, Key, Surrogate, curve};
use super::rows::{self, Picked};
use super::sites::{Site, constant, sites};
use super::{Calibration, seed_of};
use crate::channels::Channels;
use crate::error::Result;
use crate::graph::ValueId;
use crate::onnx::proto::TensorProto;
use crate::onnx::{Model, tensor};
use crate::ops::chain::before_squashing;
use crate::ops::layer::{Form, Layer, Slide};
use crate::prune::Traced;
use crate::runtime::Array;
use crate::runtime::walk::{Feed, Walker};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// Larger matrices are replaced by those of single pixels.
const MAX_COLUMNS: usize = 2304;
/// Strength of the damping, in shares of the mean diagonal.
const DAMPING: f64 = 1e-2;

/// What the survey found.
#[derive(Clone, Debug)]
pub struct Survey {
    /// Per unit: the order in which its channels go, and the (weighed) error of each number of bundles; `None` where no
    /// layer that could be surveyed reads it.
    pub curves: Vec<Option<Curve>>,
    /// Names of layers whose kernels were surveyed pixel by pixel.
    pub per_pixel: Vec<String>,
    /// Per unit: the measured change of the outputs, in shares of their variance, at some numbers of bundles.
    pub effects: Vec<Vec<(usize, f64)>>,
}

/// The input of one layer that reads prunable channels.
struct Seen {
    site: Site,
    /// As it is surveyed: single pixels where the kernel is large.
    layer: Layer,
    /// Taps that a single pixel stands for.
    taps: usize,
    /// Per convolution group.
    moments: Vec<Moments>,
}

impl Seen {
    fn new(site: Site) -> Seen {
        let mut layer = site.layer.clone();
        let mut taps = 1;
        if layer.columns() >= MAX_COLUMNS && layer.taps > 1 {
            taps = layer.taps;
            let n = match &layer.form {
                Form::Conv(s) | Form::ConvTranspose(s) => s.kernel.len(),
                Form::Product { .. } => 0,
            };
            let one = Slide {
                kernel: vec![1; n],
                strides: vec![1; n],
                dilations: vec![1; n],
                before: Some(vec![0; n]),
                lower: false,
            };
            layer = Layer { taps: 1, form: Form::Conv(one), ..layer };
        }
        let moments = (0..layer.groups).map(|_| Moments::new(layer.columns() + 1, 0)).collect();
        Seen { site, layer, taps, moments }
    }

    /// The weight of one convolution group, `[outputs · taps][columns + 1]`, and the factor of each output.
    fn weights(&self, stored: &[f64], scale: &[f64], g: usize) -> (Vec<f64>, Vec<f64>) {
        let full = self.site.layer.matrix(stored, g);
        let (m, c, t) = (self.site.layer.outputs, self.site.layer.inputs, self.site.layer.taps);
        let mut w = Vec::new();
        let mut factors = Vec::new();
        for o in 0..m {
            let factor = scale.get(g * m + o).copied().unwrap_or(1.0);
            for tap in 0..self.taps {
                if self.taps == 1 {
                    w.extend_from_slice(&full[o * c * t..(o + 1) * c * t]);
                } else {
                    w.extend((0..c).map(|i| full[(o * c + i) * t + tap]));
                }
                w.push(0.0);
                factors.push(factor);
            }
        }
        (w, factors)
    }

    /// The reverse of [`weights`](Self::weights): the group's weight, and what its outputs' constant part rises by.
    fn unpack(&self, w: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let (m, c, t) = (self.site.layer.outputs, self.site.layer.inputs, self.site.layer.taps);
        let d = self.layer.columns() + 1;
        let mut full = vec![0.0; m * c * t];
        let mut bias = vec![0.0; m];
        for o in 0..m {
            for tap in 0..self.taps {
                let row = &w[(o * self.taps + tap) * d..][..d];
                bias[o] += row[d - 1];
                if self.taps == 1 {
                    full[o * c * t..(o + 1) * c * t].copy_from_slice(&row[..c * t]);
                } else {
                    (0..c).for_each(|i| full[(o * c + i) * t + tap] = row[i]);
                }
            }
        }
        (full, bias)
    }
}

/// Surveys a prepared model (see [`prepare`](super::sites::prepare)). `points(unit)`: the numbers of bundles, ascending, at
/// which its effect is measured; none for units that stay whole. Curves are scaled by the effects when `weighed`.
///
/// # Errors
/// When the runtime cannot run the model.
pub fn survey(
    t: &Traced,
    cal: &Calibration,
    points: &dyn Fn(usize) -> Vec<usize>,
    weighed: bool,
    progress: &dyn Fn(&str),
) -> Result<Survey> {
    let ch = &t.trace.channels;
    let movable: BTreeSet<usize> = (0..ch.units.len()).filter(|&u| !points(u).is_empty()).collect();
    progress("survey");
    let (fit, held) = cal.split();
    let surveyor = Surveyor::new(t, &fit, &movable)?;
    progress("error curves");
    let mut out = Survey {
        curves: vec![None; ch.units.len()],
        per_pixel: surveyor.per_pixel(),
        effects: vec![Vec::new(); ch.units.len()],
    };
    let probe = if weighed { Some(Probe::new(t, &held)?) } else { None };
    for &u in &movable {
        let Some((mut curve, snapshots)) = surveyor.unit(u, &points(u))? else { continue };
        let mut measured = Vec::new();
        if let Some(probe) = &probe {
            progress("measured effects");
            for (k, tensors) in snapshots {
                measured.push((k, probe.effect(tensors)?));
            }
            scale(&mut curve.error, &measured);
        }
        out.effects[u] = measured;
        out.curves[u] = Some(curve);
    }
    Ok(out)
}

/// Second moments of what the layers read that some units' channels go to.
pub struct Surveyor<'a> {
    t: &'a Traced<'a>,
    seen: Vec<Seen>,
}

impl<'a> Surveyor<'a> {
    /// Runs a prepared model (see [`prepare`](super::sites::prepare)) over the data.
    ///
    /// # Errors
    /// When the runtime cannot run the model.
    pub fn new(t: &'a Traced<'a>, cal: &Calibration, units: &BTreeSet<usize>) -> Result<Surveyor<'a>> {
        Ok(Surveyor { t, seen: look(t, cal, units)? })
    }

    /// The curve of one unit, and the repaired weights when these numbers of its bundles are gone; `None` where no layer that
    /// could be surveyed reads it.
    ///
    /// # Errors
    /// When a weight cannot be read.
    pub fn unit(&self, u: usize, points: &[usize]) -> Result<Option<(Curve, Vec<Snapshot>)>> {
        unit_curve(self.t, &self.seen, u, points)
    }

    /// Names of layers whose kernels were surveyed pixel by pixel.
    pub fn per_pixel(&self) -> Vec<String> {
        self.seen.iter().filter(|s| s.taps > 1).map(|s| self.t.analysis.graph.label(s.site.node)).collect()
    }
}

/// Scales a curve so that it passes through what was measured; between two points the factor changes evenly.
fn scale(error: &mut [f64], measured: &[(usize, f64)]) {
    let factors: Vec<(usize, f64)> = measured
        .iter()
        .filter_map(|&(k, effect)| Some((k, effect / error.get(k).copied().filter(|&e| e > 0.0)?)))
        .filter(|(_, f)| f.is_finite() && *f > 0.0)
        .collect();
    let (Some(&first), Some(&last)) = (factors.first(), factors.last()) else { return };
    for (k, e) in error.iter_mut().enumerate() {
        let pair = factors.windows(2).find(|p| (p[0].0..=p[1].0).contains(&k));
        *e *= match pair {
            Some(p) => p[0].1 + (p[1].1 - p[0].1) * (k - p[0].0) as f64 / (p[1].0 - p[0].0).max(1) as f64,
            None if k < first.0 => first.1,
            None => last.1,
        };
    }
}

/// The second moments of the inputs of all layers that read channels of the units.
fn look(t: &Traced, cal: &Calibration, units: &BTreeSet<usize>) -> Result<Vec<Seen>> {
    let ch = &t.trace.channels;
    let groups: BTreeSet<usize> =
        units.iter().flat_map(|&u| ch.units[u].cells.iter().flatten().map(|key| key.0)).collect();
    let axes: BTreeSet<_> = groups.iter().flat_map(|&g| ch.groups[g].axes.iter().map(|a| a.0)).collect();
    let reads = |s: &Site| t.trace.contractions.iter().any(|c| c.node == s.node && axes.contains(&c.axis));
    let mut seen: Vec<Seen> =
        sites(t).into_iter().filter(|s| !s.layer.depthwise() && reads(s)).map(Seen::new).collect();
    let mut walker = Walker::new(&*cal.runtime, t.analysis.graph.model, cal.batches.clone(), cal.memory)?;
    let name = |v: ValueId| t.analysis.graph.value(v).name.clone();
    for s in &mut seen {
        let (x, y) = (name(s.site.x), name(s.site.y));
        let pixel = s.taps > 1;
        let asked = if pixel { vec![x] } else { vec![x, y] };
        let quota = cal.quota();
        let seed = seed_of(cal.seed, s.site.node.0);
        walker.advance(&asked, &mut |batch, arrays: Vec<Array>| {
            let Some(x) = arrays.first() else { return Ok(()) };
            let dims = arrays.last().map_or(&x.dims, |a| &a.dims);
            let samples = cal.samples_in(batch);
            let Some(positions) = rows::positions(&s.layer, dims, samples) else { return Ok(()) };
            let picked = Picked::draw(samples, positions, quota, seed.wrapping_add(batch as u64));
            let layer = &s.layer;
            s.moments.par_iter_mut().enumerate().try_for_each(|(g, m)| {
                let channels: Vec<usize> = (g * layer.inputs..(g + 1) * layer.inputs).collect();
                m.add(&rows::inputs(layer, x, dims, &picked, &channels)?, &[]);
                Ok(())
            })
        })?;
    }
    Ok(seen)
}

/// Weights repaired for the loss of some bundles.
pub type Snapshot = (usize, Vec<TensorProto>);

/// The curve of one unit, and the repaired weights at some numbers of bundles.
fn unit_curve(t: &Traced, seen: &[Seen], u: usize, points: &[usize]) -> Result<Option<(Curve, Vec<Snapshot>)>> {
    let ch = &t.trace.channels;
    let cells = &ch.units[u].cells;
    let mut surrogates = Vec::new();
    let mut of = Vec::new();
    for (i, s) in seen.iter().enumerate() {
        let blocks = blocks(t, ch, s, cells);
        if blocks.iter().all(BTreeMap::is_empty) {
            continue;
        }
        let stored = tensor::to_f64(s.site.weight(t)?)?;
        let scale = s.site.after(t).scale;
        for (g, blocks) in blocks.into_iter().enumerate().filter(|(_, b)| !b.is_empty()) {
            let (w, factors) = s.weights(&stored, &scale, g);
            let moments = &s.moments[g];
            // With few rows the matrix is mostly noise.
            let damping = DAMPING + 0.5 * moments.d as f64 / moments.rows.max(1) as f64;
            if let Some(surrogate) = Surrogate::new(moments, &w, &factors, damping, blocks) {
                surrogates.push(surrogate);
                of.push((i, g));
            }
        }
    }
    if surrogates.is_empty() {
        return Ok(None);
    }
    let mut taken: Vec<(usize, Vec<Vec<f64>>)> = Vec::new();
    let curve = curve(&mut surrogates, cells, &mut |k, now| {
        if points.contains(&k) {
            taken.push((k, now.iter().map(Surrogate::weights).collect()));
        }
    });
    let snapshots: Result<Vec<Snapshot>> =
        taken.into_iter().map(|(k, weights)| Ok((k, tensors(t, seen, &of, weights)?))).collect();
    Ok(Some((curve, snapshots?)))
}

/// Weights of surrogates (each a convolution group of a layer seen) as tensors of the model.
fn tensors(t: &Traced, seen: &[Seen], of: &[(usize, usize)], weights: Vec<Vec<f64>>) -> Result<Vec<TensorProto>> {
    let mut by_site: BTreeMap<usize, Vec<(usize, Vec<f64>)>> = BTreeMap::new();
    for (&(i, g), w) in of.iter().zip(weights) {
        by_site.entry(i).or_default().push((g, w));
    }
    let mut tensors = Vec::new();
    for (i, parts) in by_site {
        let s = &seen[i];
        let proto = s.site.weight(t)?;
        let mut stored = tensor::to_f64(proto)?;
        let mut shift = vec![0.0; s.site.layer.groups * s.site.layer.outputs];
        for (g, w) in parts {
            let (full, bias) = s.unpack(&w);
            s.site.layer.store(&full, g, &mut stored);
            let m = s.site.layer.outputs;
            shift[g * m..(g + 1) * m].copy_from_slice(&bias);
        }
        tensors.push(named(proto, &stored)?);
        if let Some((id, sign)) = s.site.constant_part(t) {
            let proto = constant(t, id)?;
            let mut values = tensor::to_f64(proto)?;
            values.iter_mut().zip(&shift).for_each(|(v, d)| *v += sign * d);
            tensors.push(named(proto, &values)?);
        }
    }
    Ok(tensors)
}

/// The same tensor with other values.
pub(crate) fn named(like: &TensorProto, values: &[f64]) -> Result<TensorProto> {
    let new = tensor::from_f64_like(like, &tensor::dims(like)?, values)?;
    Ok(TensorProto { name: like.name.clone(), ..new })
}

/// Per convolution group: the columns of each of the unit's channels.
fn blocks(t: &Traced, ch: &Channels, s: &Seen, cells: &[Vec<Key>]) -> Vec<BTreeMap<Key, Vec<usize>>> {
    let mut out = vec![BTreeMap::new(); s.layer.groups];
    let per = s.layer.inputs.max(1);
    for c in t.trace.contractions.iter().filter(|c| c.node == s.site.node && c.slot == 1) {
        for &key in cells.iter().flatten() {
            let Some(channel) = ch.groups.get(key.0).and_then(|g| g.channels.get(key.1)) else { continue };
            for index in channel.on(c.axis) {
                // The contracted axis of a transposed convolution, and a folded one, count through the groups.
                let (g, local) = (index / per, index % per);
                if let Some(map) = out.get_mut(g) {
                    let columns: &mut Vec<usize> = map.entry(key).or_default();
                    columns.extend(local * s.layer.taps..(local + 1) * s.layer.taps);
                }
            }
        }
    }
    out
}

/// Runs the network with some tensors changed and tells how far its outputs move.
pub struct Probe<'a> {
    t: &'a Traced<'a>,
    cal: &'a Calibration,
    /// Names of what is compared: the outputs, before a final softmax or sigmoid.
    names: Vec<String>,
    /// The original's, per batch.
    original: Vec<Feed>,
}

impl<'a> Probe<'a> {
    /// Runs the original.
    ///
    /// # Errors
    /// When the runtime cannot run the model.
    pub fn new(t: &'a Traced<'a>, cal: &'a Calibration) -> Result<Probe<'a>> {
        let g = t.analysis.graph;
        let names = g.proto.output.iter().map(|o| match g.find(o.name()) {
            Some(v) => g.value(before_squashing(g, v)).name.clone(),
            None => o.name().to_owned(),
        });
        let mut probe = Probe { t, cal, names: names.collect(), original: Vec::new() };
        probe.original = probe.run(t.analysis.graph.model, Vec::new())?;
        Ok(probe)
    }

    fn run(&self, model: &Model, tensors: Vec<TensorProto>) -> Result<Vec<Feed>> {
        let mut walker = Walker::new(&*self.cal.runtime, model, self.cal.batches.clone(), 0)?;
        walker.set(tensors)?;
        let mut all = Vec::new();
        walker.advance(&self.names, &mut |_, arrays| {
            all.push(self.names.iter().cloned().zip(arrays).collect());
            Ok(())
        })?;
        Ok(all)
    }

    /// Mean squared change of the outputs over their variance, the mean over the outputs.
    fn effect(&self, tensors: Vec<TensorProto>) -> Result<f64> {
        Ok(change(&self.original, &self.run(self.t.analysis.graph.model, tensors)?))
    }

    /// The same for another model with these inputs and outputs.
    ///
    /// # Errors
    /// When the runtime cannot run it.
    pub fn distance(&self, model: &Model) -> Result<f64> {
        Ok(change(&self.original, &self.run(model, Vec::new())?))
    }
}

/// Mean squared difference over the variance of `a`, per output; the mean of all outputs with a variance.
pub fn change(a: &[Feed], b: &[Feed]) -> f64 {
    let mut ratios = Vec::new();
    for o in 0..a.first().map_or(0, Vec::len) {
        let values = |f: &Feed| f.get(o).filter(|x| !x.1.data.is_integer()).map(|x| x.1.to_f64());
        let (mut n, mut sum, mut squares, mut moved) = (0.0, 0.0, 0.0, 0.0);
        for (a, b) in a.iter().zip(b) {
            let (Some(a), Some(b)) = (values(a), values(b)) else { continue };
            for (x, y) in a.iter().zip(&b) {
                n += 1.0;
                sum += x;
                squares += x * x;
                moved += (x - y) * (x - y);
            }
        }
        let variance = squares - sum * sum / f64::max(n, 1.0);
        if variance > 0.0 && moved.is_finite() {
            ratios.push(moved / variance);
        }
    }
    ratios.iter().sum::<f64>() / (ratios.len().max(1)) as f64
}
