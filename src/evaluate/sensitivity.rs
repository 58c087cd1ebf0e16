//! How sensitive a network is: what changes when one channel group at a time loses a share of its channels.

use super::quality::{Measured, Quality};
use super::shard::Shard;
use super::shard::sensitivity::{Beside, SensitivityPart};
use crate::calibrate::obs::Key;
use crate::calibrate::survey::{Probe, Surveyor};
use crate::calibrate::{Calibration, sites};
use crate::error::{Error, Result};
use crate::flat::flatten;
use crate::graph::Graph;
use crate::onnx::Model;
use crate::onnx::proto::TensorProto;
use crate::plan;
use crate::prune::{self, Options, Traced, analyse_with, same_groups};
use crate::rewrite;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Version of the report's schema.
pub const SCHEMA_VERSION: u32 = 1;
/// Shares that are removed when nothing else is asked for.
pub const SHARES: [f64; 5] = [0.1, 0.25, 0.5, 0.75, 0.9];

/// What is removed, and whether it is repaired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, clap::ValueEnum, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Removal {
    /// The channels that cost the least, the layers that read them adjusted (optimal brain surgeon)
    #[default]
    Obs,
    /// The channels that the criterion ranks lowest, nothing adjusted
    Plain,
}

/// One group with some of its channels gone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Point {
    /// The share that was to go.
    pub share: f64,
    /// Channels removed.
    pub removed: usize,
    /// Multiply-accumulates of the whole model that this saves, as a share.
    pub macs_saved: f64,
    /// Parameters of the whole model that this saves, as a share.
    pub params_saved: f64,
    /// Mean squared change of the outputs over their variance.
    pub change: f64,
    /// The figure of quality, where it was measured.
    pub score: Option<f64>,
    /// How much worse than the original, in points.
    pub drop: Option<f64>,
}

/// The curve of one unit: a group, or groups that lose the same number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GroupCurve {
    /// Names of the channel groups.
    pub groups: Vec<String>,
    /// Layers that share the channels.
    pub layers: Vec<String>,
    /// Channels in all.
    pub channels: usize,
    /// Ascending by share; empty where no layer with weights of its own reads the channels.
    pub points: Vec<Point>,
}

/// The result.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct SensitivityReport {
    /// Version of this form, [`SCHEMA_VERSION`].
    #[schemars(extend("const" = SCHEMA_VERSION))]
    pub schema_version: u32,
    /// Name and version of the tool.
    pub tool: String,
    /// The model's file.
    pub model: String,
    /// How channels were removed.
    pub removal: Removal,
    /// Samples that statistics were taken of.
    pub calibration_samples: usize,
    /// The figure of quality.
    pub metric: Option<String>,
    /// Samples that it was measured on.
    pub samples: Option<usize>,
    /// The original's figure.
    pub original: Option<f64>,
    /// One curve per unit, in graph order.
    pub groups: Vec<GroupCurve>,
}

/// What is asked.
pub struct Request<'a> {
    /// Limits, criterion and seed of a pruning run; its budget does not matter.
    pub options: &'a Options,
    /// Statistics and changes.
    pub calibration: &'a Calibration,
    /// A figure of quality to measure as well.
    pub quality: Option<&'a Quality>,
    /// Shares of each group's channels, ascending.
    pub shares: &'a [f64],
    /// How they go.
    pub removal: Removal,
}

/// Measures every unit that may lose channels. `done`: curves of an earlier, interrupted run with the same request, which are
/// taken over; `each` is told of every new one.
///
/// # Errors
/// When the model cannot be run or measured, or `each` fails.
pub fn sensitivity(
    model: &Model,
    request: &Request,
    done: &[GroupCurve],
    each: &mut dyn FnMut(&GroupCurve) -> Result<()>,
    progress: &dyn Fn(&str),
) -> Result<SensitivityReport> {
    measure(model, request, Shard::WHOLE, done, each, progress)?.finish()
}

/// The same for some of the units alone, which are dealt out in turn. Every part takes all samples' statistics of all layers, so
/// that its curves rest on the same numbers as those of one run.
///
/// # Errors
/// As [`sensitivity`].
pub fn measure(
    model: &Model,
    request: &Request,
    shard: Shard,
    done: &[GroupCurve],
    each: &mut dyn FnMut(&GroupCurve) -> Result<()>,
    progress: &dyn Fn(&str),
) -> Result<SensitivityPart> {
    if let Some(s) = request.shares.iter().find(|s| !(**s > 0.0 && **s < 1.0)) {
        return Err(Error::Usage(format!("shares to remove lie between 0 and 1, not {s}")));
    }
    progress("trace");
    let flat = flatten(model)?;
    let graph = Graph::new(&flat)?;
    let t = analyse_with(&graph, &request.options.policy)?;
    let prepared = sites::prepare(&t)?;
    let graph = Graph::new(&prepared)?;
    let ready = analyse_with(&graph, &t.analysis.policy)?;
    same_groups(&t.trace.channels, &ready.trace.channels)?;
    let plan = Removals::new(&ready, request)?;
    let ch = &ready.trace.channels;
    let names = |u: usize| plan.groups(u).iter().map(|&g| ch.groups[g].name.clone()).collect::<Vec<_>>();
    let known: BTreeMap<&[String], &GroupCurve> = done.iter().map(|c| (c.groups.as_slice(), c)).collect();
    let movable: Vec<usize> = (0..ch.units.len()).filter(|&u| !plan.at[u].is_empty()).collect();
    let mine: Vec<(usize, usize)> = movable.iter().copied().enumerate().filter(|(i, _)| shard.deals(*i)).collect();
    let left = mine.iter().any(|&(_, u)| !known.contains_key(&*names(u)));
    let (fit, held) = request.calibration.split();
    let mut surveyor = None;
    if request.removal == Removal::Obs && left {
        progress("survey");
        // Of all units, whatever is left: where the network is cut into stretches decides the last bits.
        surveyor = Some(Surveyor::new(&ready, &fit, &movable.iter().copied().collect())?);
    }
    let probe = Probe::new(&ready, &held)?;
    let mut groups = Vec::new();
    for &(i, u) in &mine {
        let name = names(u);
        if let Some(curve) = known.get(name.as_slice()) {
            groups.push((i, (*curve).clone()));
            continue;
        }
        progress(&format!("group {} of {}", i + 1, movable.len()));
        let points = match &surveyor {
            Some(s) => plan.repaired(u, s, &probe)?,
            None => plan.plain(u, &probe)?,
        };
        let mut layers = BTreeSet::new();
        plan.groups(u).iter().for_each(|&g| layers.extend(ch.groups[g].layers.iter().copied()));
        let curve = GroupCurve {
            layers: layers.into_iter().map(|n| ready.analysis.graph.label(n)).collect(),
            channels: plan.groups(u).iter().map(|&g| ch.groups[g].channels.len()).sum(),
            groups: name,
            points,
        };
        each(&curve)?;
        groups.push((i, curve));
    }
    let quality = request.quality;
    let beside = Beside {
        model: model.path.display().to_string(),
        removal: request.removal,
        calibration_samples: request.calibration.samples(),
        metric: quality.map(Quality::name),
        samples: quality.and_then(Quality::samples),
        original: quality.map(Quality::original),
    };
    Ok(SensitivityPart::new(beside, movable.len(), groups))
}

/// What each unit loses.
struct Removals<'a> {
    t: &'a Traced<'a>,
    request: &'a Request<'a>,
    /// Per unit: the shares and the numbers of bundles.
    at: Vec<Vec<(f64, usize)>>,
    /// Per unit and cell: its channels, the first to go first.
    order: Vec<Vec<Vec<Key>>>,
    macs: f64,
    params: f64,
}

impl<'a> Removals<'a> {
    fn new(t: &'a Traced<'a>, request: &'a Request<'a>) -> Result<Removals<'a>> {
        let ch = &t.trace.channels;
        let (scores, levels) = prune::ranking_and_levels(t, request.options)?;
        let mut at = Vec::with_capacity(ch.units.len());
        let mut order = Vec::with_capacity(ch.units.len());
        for (unit, levels) in ch.units.iter().zip(levels) {
            let bundles = unit.cells.iter().map(Vec::len).min().unwrap_or(0);
            // The allowed number that is nearest; the smaller of two.
            let near = |&share: &f64| {
                let aim = share * bundles as f64;
                let distance = |k: &usize| (*k as f64 - aim).abs();
                let free = levels.iter().copied().filter(|&k| k > 0 && k < bundles);
                free.min_by(|a, b| distance(a).total_cmp(&distance(b)).then(a.cmp(b))).map(|k| (share, k))
            };
            let mut points: Vec<(f64, usize)> = request.shares.iter().filter_map(near).collect();
            points.dedup_by_key(|p| p.1);
            at.push(points);
            order.push(prune::ranked(unit, &scores));
        }
        Ok(Removals { t, request, at, order, macs: plan::macs(ch, &[]), params: plan::params(ch, &[]) })
    }

    fn groups(&self, u: usize) -> BTreeSet<usize> {
        self.t.trace.channels.units[u].cells.iter().flatten().map(|key| key.0).collect()
    }

    /// One point, all but what is measured.
    fn point(&self, u: usize, (share, k): (f64, usize), order: &[Vec<Key>]) -> (Point, Vec<Vec<usize>>) {
        let ch = &self.t.trace.channels;
        let gone = prune::first(ch, order, k);
        let counts: Vec<usize> = gone.iter().map(Vec::len).collect();
        let saved = |whole: f64, now: f64| if whole > 0.0 { 1.0 - now / whole } else { 0.0 };
        let point = Point {
            share,
            removed: self.groups(u).iter().map(|&g| counts[g]).sum(),
            macs_saved: saved(self.macs, plan::macs(ch, &counts)),
            params_saved: saved(self.params, plan::params(ch, &counts)),
            change: 0.0,
            score: None,
            drop: None,
        };
        (point, gone)
    }

    fn measured(&self, mut point: Point, model: &Model, probe: &Probe) -> Result<Point> {
        point.change = probe.distance(model)?;
        if let Some(quality) = self.request.quality {
            let Measured { score, drop } = quality.measure(model)?;
            (point.score, point.drop) = (Some(score), Some(drop));
        }
        Ok(point)
    }

    fn plain(&self, u: usize, probe: &Probe) -> Result<Vec<Point>> {
        let one = |&at: &(f64, usize)| {
            let (point, gone) = self.point(u, at, &self.order[u]);
            let removed = plan::removed_indices(&self.t.trace.channels, &gone);
            self.measured(point, &rewrite::mask(&self.t.analysis, &self.t.trace, &removed)?, probe)
        };
        self.at[u].iter().map(one).collect()
    }

    fn repaired(&self, u: usize, surveyor: &Surveyor, probe: &Probe) -> Result<Vec<Point>> {
        let numbers: Vec<usize> = self.at[u].iter().map(|p| p.1).collect();
        let Some((curve, snapshots)) = surveyor.unit(u, &numbers)? else { return Ok(Vec::new()) };
        let one = |(k, tensors): (usize, Vec<TensorProto>)| {
            let share = self.at[u].iter().find(|p| p.1 == k).map_or(0.0, |p| p.0);
            let (point, _) = self.point(u, (share, k), &curve.order);
            self.measured(point, &edited(self.t.analysis.graph.model, tensors)?, probe)
        };
        snapshots.into_iter().map(one).collect()
    }
}

/// The model with other values in some initializers.
fn edited(model: &Model, tensors: Vec<TensorProto>) -> Result<Model> {
    let mut new = model.clone();
    let initializers = new.proto.graph.as_mut().map(|g| &mut g.initializer);
    let mut by_name: BTreeMap<String, &mut TensorProto> =
        initializers.into_iter().flatten().map(|t| (t.name().to_owned(), t)).collect();
    for tensor in tensors {
        match by_name.get_mut(tensor.name()) {
            Some(slot) => **slot = tensor,
            None => return Err(Error::Internal(format!("{:?} is no initializer", tensor.name()))),
        }
    }
    drop(by_name);
    Ok(new)
}
