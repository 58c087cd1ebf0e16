//! Least-squares reconstruction: layer by layer, the weights that stay are fitted to the original network's outputs.
//!
//! Sequential and asymmetric (He et al. 2017, Luo et al. 2017): a layer's target is what the *original* network computes
//! there, its input what the network *pruned and repaired so far* computes, so that every layer also makes up for the errors
//! before it. Where a layer's output is added to a shortcut, its target takes up what the shortcut got wrong.
//!
//! `W' = (Y X_Sᵀ + λ W_S)(X_S X_Sᵀ + λ I)⁻¹`, a row of ones for the bias. λ is chosen on samples that are held back, and a
//! layer that does no better there than before stays as it is.

use super::Recover;
use super::bias::absorb;
use super::fit::{Split, Wanted, shift};
use crate::calibrate::moments::Moments;
use crate::calibrate::rows::{self, Picked};
use crate::calibrate::sites::{After, Site, constant, kept, sites};
use crate::calibrate::survey::named;
use crate::calibrate::{Calibration, seed_of};
use crate::channels::TensorId;
use crate::error::{Error, Result};
use crate::graph::{Graph, Origin, ValueId};
use crate::onnx::proto::TensorProto;
use crate::onnx::{Model, tensor};
use crate::plan;
use crate::prune::{Traced, analyse_with};
use crate::recover::bias::Target;
use crate::report::{LayerRepair, RecoverReport};
use crate::rewrite::{self, Edit};
use crate::runtime::walk::Walker;
use rayon::prelude::*;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

/// Every such sample is held back.
const HELD: usize = 5;
/// Strengths of the pull towards the present weights that are tried, in shares of the mean diagonal.
const PULLS: [f64; 5] = [1e-3, 1e-2, 1e-1, 1.0, 1e6];
/// Most rounds that adapt the targets to what an activation lets through.
const ROUNDS: usize = 8;
/// Most elements of rows that are kept for them.
const MOST_KEPT: usize = 1 << 27;
/// Holds the constant part where there is no place for one.
const FIXED: f64 = 1e9;
/// Layers with more columns are left alone: their system would take too much memory.
const MAX_COLUMNS: usize = 6144;

/// Repairs a prepared model (see [`prepare`](crate::calibrate::sites::prepare)) for the loss of the channels `gone` of each
/// group. Returns the whole model, all channels still there, with edited weights.
///
/// # Errors
/// When the runtime cannot run the model, or a weight cannot be read.
pub fn reconstruct(
    t: &Traced,
    gone: &[Vec<usize>],
    mode: Recover,
    cal: &Calibration,
    progress: &dyn Fn(&str),
) -> Result<(Model, RecoverReport)> {
    let (absorbed, mut report) = absorb(t, gone, Recover::Bias)?;
    let graph = Graph::new(&absorbed)?;
    let now = analyse_with(&graph, &t.analysis.policy)?;
    let removed = plan::removed_indices(&now.trace.channels, gone);
    let masked = rewrite::mask(&now.analysis, &now.trace, &removed)?;
    let mut original = Walker::new(&*cal.runtime, t.analysis.graph.model, cal.batches.clone(), cal.memory)?;
    let mut pruned = Walker::new(&*cal.runtime, &masked, cal.batches.clone(), cal.memory)?;
    let masked_graph = Graph::new(&masked)?;
    let masked = analyse_with(&masked_graph, &t.analysis.policy)?;
    // Nodes may have been inserted: a layer is known by the name of its output.
    let there: HashMap<&str, Site> =
        sites(&masked).into_iter().map(|s| (masked_graph.value(s.y).name.as_str(), s)).collect();
    let all = sites(t);
    let removed = plan::removed_indices(&t.trace.channels, gone);
    let touched = reached(t, &removed);
    let position: HashMap<ValueId, usize> = all.iter().enumerate().map(|(i, s)| (s.y, i)).collect();
    let mut edits: BTreeMap<String, TensorProto> = BTreeMap::new();
    for (i, site) in all.iter().enumerate() {
        // What no removal reaches is as it was.
        if !touched[site.x.0 as usize] || !touched[site.y.0 as usize] {
            continue;
        }
        let label = t.analysis.graph.label(site.node);
        progress(&format!("repair {}", i + 1));
        let Some(there) = there.get(t.analysis.graph.value(site.y).name.as_str()) else { continue };
        let mut after = site.after(t);
        if mode == Recover::Recalibrate {
            // Each layer by itself.
            after = After { other: None, end: site.y, bounds: None, ..after };
        }
        if after.other.is_some_and(|o| !settled(t, o, i, &position)) {
            // The sum is not known yet: only the layer's own output is.
            after = After { other: None, end: site.y, bounds: None, ..after };
        }
        let job = Job { t, now: &masked, site, there, removed: &removed, after, mode, cal };
        let Some(repair) = job.run(&mut original, &mut pruned)? else { continue };
        pruned.set(repair.updates.iter().cloned())?;
        edits.extend(repair.updates.into_iter().map(|u| (u.name().to_owned(), u)));
        report.layers.push(LayerRepair { layer: label, before: repair.before, after: repair.after });
    }
    let mut edit = Edit::new(&now.analysis, &now.trace);
    for site in sites(&now) {
        for id in [Some(site.weight), site.bias_tensor(&now).map(|b| b.0)].into_iter().flatten() {
            if let Some(proto) = edits.remove(constant(&now, id)?.name()) {
                edit.replace(id, proto);
            }
        }
    }
    if let Some((name, _)) = edits.pop_first() {
        return Err(Error::Internal(format!("the repaired tensor {name:?} has no place in the model")));
    }
    report.mode = mode.name().into();
    Ok((edit.finish()?, report))
}

/// Per value: whether a removal changes it.
fn reached(t: &Traced, removed: &[Vec<usize>]) -> Vec<bool> {
    let g = t.analysis.graph;
    let mut touched = vec![false; g.values.len()];
    for &n in &g.order {
        let i = n.0 as usize;
        let cut = |id: &TensorId| {
            let axes = t.trace.channels.tensor(*id).axes.iter().flatten();
            axes.into_iter().any(|a| removed.get(a.0 as usize).is_some_and(|r| !r.is_empty()))
        };
        let inputs = t.trace.tensors.inputs[i].iter().flatten().any(cut);
        let before = g.nodes[i].inputs.iter().flatten().any(|v| touched[v.0 as usize]);
        if inputs || before {
            for o in g.nodes[i].outputs.iter().flatten() {
                touched[o.0 as usize] = true;
            }
        }
    }
    touched
}

/// Whether a value depends only on layers before the `i`-th: the pruned network has its final value.
fn settled(t: &Traced, value: ValueId, i: usize, position: &HashMap<ValueId, usize>) -> bool {
    let g = t.analysis.graph;
    let mut open = vec![value];
    let mut seen = vec![false; g.values.len()];
    while let Some(v) = open.pop() {
        if std::mem::replace(&mut seen[v.0 as usize], true) {
            continue;
        }
        if position.get(&v).is_some_and(|&p| p >= i) {
            return false;
        }
        if let Origin::Node(n, _) = g.value(v).origin {
            open.extend(g.nodes[n.0 as usize].inputs.iter().flatten());
        }
    }
    true
}

struct Job<'a> {
    t: &'a Traced<'a>,
    /// The masked model.
    now: &'a Traced<'a>,
    site: &'a Site,
    /// The same layer in the masked model.
    there: &'a Site,
    removed: &'a [Vec<usize>],
    after: After,
    mode: Recover,
    cal: &'a Calibration,
}

struct Repair {
    before: f64,
    after: f64,
    updates: Vec<TensorProto>,
}

impl Job<'_> {
    fn run(&self, original: &mut Walker, pruned: &mut Walker) -> Result<Option<Repair>> {
        let (t, site, layer) = (self.t, self.site, &self.site.layer);
        let inputs = kept(self.removed, site.inputs, layer.groups * layer.inputs);
        let outputs = kept(self.removed, site.outputs, layer.groups * layer.outputs);
        let scale = self.after.scale.clone();
        let mut splits = self.splits(&inputs, &outputs);
        if splits.is_empty() || splits.iter().any(|s| s.fit.d > MAX_COLUMNS) {
            return Ok(None);
        }
        let name = |v: ValueId| t.analysis.graph.value(v).name.clone();
        let other: Vec<String> = self.after.other.map(name).into_iter().collect();
        let bounds = self
            .after
            .bounds
            .filter(|_| splits.iter().map(|s| s.fit.d).max().is_some_and(|d| d * self.cal.rows <= MOST_KEPT));
        // The other operand reaches this layer through the factors between; where they vanish it does not.
        let largest = scale.iter().fold(0.0_f64, |m, s| m.max(s.abs()));
        let back: Vec<f64> =
            outputs.iter().map(|&k| if scale[k].abs() > 1e-3 * largest { 1.0 / scale[k] } else { 0.0 }).collect();
        let mut targets: Vec<Wanted> = Vec::new();
        let seed = seed_of(self.cal.seed, site.node.0);
        let quota = self.quota(&splits);
        let mut asked = vec![name(site.y)];
        asked.extend(other.iter().cloned());
        if bounds.is_some() {
            asked.push(name(self.after.end));
        }
        let mut misfit = false;
        original.advance(&asked, &mut |batch, arrays| {
            let Some(y) = arrays.first() else { return Ok(()) };
            let samples = self.cal.samples_in(batch);
            let Some(positions) = rows::positions(layer, &y.dims, samples) else {
                misfit = true;
                return Ok(());
            };
            let picked = Picked::draw(samples, positions, quota, seed.wrapping_add(batch as u64));
            let mut target = rows::outputs(layer, y, &picked, &outputs)?;
            if let Some(o) = arrays.get(1).filter(|_| self.after.other.is_some()) {
                shift(&mut target, &rows::outputs(layer, o, &picked, &outputs)?, &back, 1.0);
            }
            let end = match arrays.last().filter(|_| bounds.is_some()) {
                Some(end) => rows::outputs(layer, end, &picked, &outputs)?,
                None => Vec::new(),
            };
            targets.push(Wanted { target, end, dims: y.dims.clone(), picked });
            Ok(())
        })?;
        if misfit {
            return Ok(None);
        }
        let mut asked = vec![name(site.x)];
        asked.extend(other);
        let mut first = 0;
        pruned.advance(&asked, &mut |batch, arrays| {
            let (Some(x), Some(wanted)) = (arrays.first(), targets.get_mut(batch)) else { return Ok(()) };
            if let Some(o) = arrays.get(1) {
                shift(&mut wanted.target, &rows::outputs(layer, o, &wanted.picked, &outputs)?, &back, -1.0);
            }
            let samples = self.cal.samples_in(batch);
            let parts: Vec<(bool, Range<usize>)> =
                (0..samples).map(|s| ((first + s) % HELD == HELD - 1, wanted.picked.of_sample(s))).collect();
            first += samples;
            let wanted: &Wanted = wanted;
            splits.par_iter_mut().try_for_each(|s| s.add(layer, x, wanted, &outputs, &parts))
        })?;
        drop(targets);
        self.solve(&mut splits, &scale, bounds)
    }

    fn splits(&self, inputs: &[usize], outputs: &[usize]) -> Vec<Split> {
        let layer = &self.site.layer;
        let of = |list: &[usize], per: usize, g: usize| -> Vec<usize> {
            list.iter().copied().filter(|&c| c / per.max(1) == g).collect()
        };
        (0..layer.groups)
            .filter_map(|g| {
                let (columns, outputs) = (of(inputs, layer.inputs, g), of(outputs, layer.outputs, g));
                let d = columns.len() * layer.taps + 1;
                (!columns.is_empty() && !outputs.is_empty()).then(|| Split {
                    fit: Moments::new(d, outputs.len()),
                    held: Moments::new(d, outputs.len()),
                    rows: Default::default(),
                    columns,
                    outputs,
                })
            })
            .collect()
    }

    /// Positions per sample: many small systems need fewer rows each.
    fn quota(&self, splits: &[Split]) -> usize {
        let widest = splits.iter().map(|s| s.fit.d).max().unwrap_or(1);
        let rows = if splits.len() > 1 { (64 * widest).max(1 << 14).min(self.cal.rows) } else { self.cal.rows };
        (rows / self.cal.samples().max(1)).max(1)
    }

    /// The constant part as the layer has it now, per output, relative to the original's output.
    fn present(&self) -> Result<Option<Vec<f64>>> {
        let Some((id, own)) = self.there.bias_tensor(self.now) else { return Ok(None) };
        let values = tensor::to_f64(constant(self.now, id)?)?;
        if own {
            return Ok(Some(values));
        }
        let Some((was, _)) = self.site.bias_tensor(self.t) else { return Ok(None) };
        let was = tensor::to_f64(constant(self.t, was)?)?;
        let sign = if matches!(self.there.bias, Some(Target::Subtract(..))) { -1.0 } else { 1.0 };
        Ok(Some(values.iter().zip(&was).map(|(v, w)| sign * (v - w)).collect()))
    }

    fn solve(&self, splits: &mut [Split], scale: &[f64], bounds: Option<(f64, f64)>) -> Result<Option<Repair>> {
        let layer = &self.site.layer;
        let proto = self.there.weight(self.now)?;
        let mut stored = tensor::to_f64(proto)?;
        let present = self.present()?;
        let mut constants = present.clone().unwrap_or_default();
        // The weights as they are, per group.
        let priors: Vec<Vec<f64>> = splits
            .iter()
            .map(|s| {
                let mut w = Vec::with_capacity(s.outputs.len() * s.fit.d);
                for &o in &s.outputs {
                    let (g, local) = (o / layer.outputs.max(1), o % layer.outputs.max(1));
                    for &c in &s.columns {
                        let c = c - g * layer.inputs;
                        w.extend(
                            (0..layer.taps).map(|tap| stored.get(layer.at(g, local, c, tap)).copied().unwrap_or(0.0)),
                        );
                    }
                    w.push(constants.get(o).copied().unwrap_or(0.0));
                }
                w
            })
            .collect();
        let total = |splits: &[Split], weights: &[Vec<f64>]| -> f64 {
            let parts = splits.iter().zip(weights).map(|(s, w)| {
                let errors = match bounds {
                    Some(bounds) => s.lenient(true, w, scale, bounds).1,
                    None => s.held.errors(w),
                };
                s.outputs.iter().zip(errors).map(|(&o, e)| scale[o] * scale[o] * e).sum::<f64>()
            });
            parts.sum()
        };
        let energy: f64 = splits
            .iter()
            .map(|s| s.fit.variances().iter().zip(&s.outputs).map(|(v, &o)| scale[o] * scale[o] * v).sum::<f64>())
            .sum();
        let enough = splits.iter().all(|s| s.held.rows > 0 && s.fit.rows > 0);
        let before = total(splits, &priors);
        let worth = energy > 0.0 && before.is_finite() && before > 1e-10 * energy;
        if !worth || !enough {
            return Ok(None);
        }
        let free = present.is_some();
        let hold = if free { 0.0 } else { FIXED };
        let fitted = |splits: &[Split], pull: f64, priors: &[Vec<f64>]| -> Option<Vec<Vec<f64>>> {
            let one = |(s, prior): (&Split, &Vec<f64>)| s.fit.solve(prior, pull * s.fit.mean_diagonal(), hold);
            splits.par_iter().zip(priors).map(one).collect()
        };
        let mut best: Option<(f64, f64, Vec<Vec<f64>>)> = None;
        let matched = |splits: &[Split], scaled: bool| -> Vec<Vec<f64>> {
            splits.par_iter().zip(&priors).map(|(s, prior)| s.fit.matched(prior, scaled, free)).collect()
        };
        let ways: Vec<f64> = if self.mode == Recover::Recalibrate { vec![1.0, 0.0] } else { PULLS.to_vec() };
        for pull in ways {
            let w = match self.mode {
                Recover::Recalibrate => Some(matched(splits, pull > 0.0)),
                _ => fitted(splits, pull, &priors),
            };
            let Some(w) = w else { continue };
            let error = total(splits, &w);
            if error.is_finite() && best.as_ref().is_none_or(|(least, ..)| error < *least) {
                best = Some((error, pull, w));
            }
        }
        let Some((mut after, pull, mut weights)) = best.filter(|b| b.0 < before) else {
            return Ok(Some(Repair { before: before / energy, after: before / energy, updates: Vec::new() }));
        };
        if let Some(bounds) = bounds {
            for _ in 0..ROUNDS {
                splits.par_iter_mut().zip(&weights).for_each(|(s, w)| {
                    let (z, _) = s.lenient(false, w, scale, bounds);
                    s.fit.retarget(&s.rows[0].x, &z);
                });
                let Some(next) = fitted(splits, pull, &weights) else { break };
                let error = total(splits, &next);
                if error.is_nan() || error >= after {
                    break;
                }
                (after, weights) = (error, next);
            }
        }
        for (s, w) in splits.iter().zip(&weights) {
            for (&o, row) in s.outputs.iter().zip(w.chunks_exact(s.fit.d)) {
                let (g, local) = (o / layer.outputs.max(1), o % layer.outputs.max(1));
                for (i, &c) in s.columns.iter().enumerate() {
                    for tap in 0..layer.taps {
                        if let Some(v) = stored.get_mut(layer.at(g, local, c - g * layer.inputs, tap)) {
                            *v = row[i * layer.taps + tap];
                        }
                    }
                }
                if let (Some(v), Some(&b)) = (constants.get_mut(o), row.last()) {
                    *v = b;
                }
            }
        }
        let mut updates = vec![named(proto, &stored)?];
        if let Some((id, own)) = self.there.bias_tensor(self.now)
            && free
        {
            let like = constant(self.now, id)?;
            if !own {
                let was = self.site.bias_tensor(self.t).map(|b| constant(self.t, b.0)).transpose()?;
                let was = was.map(tensor::to_f64).transpose()?.unwrap_or_default();
                let sign = if matches!(self.there.bias, Some(Target::Subtract(..))) { -1.0 } else { 1.0 };
                constants.iter_mut().zip(&was).for_each(|(v, w)| *v = w + sign * *v);
            }
            updates.push(named(like, &constants)?);
        }
        Ok(Some(Repair { before: before / energy, after: after / energy, updates }))
    }
}
