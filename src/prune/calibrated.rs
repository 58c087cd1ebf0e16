//! Decisions from calibration data: error curves, weighed by measured effects, and the cheapest way to the budget.

use super::{Clock, Options, Traced, analyse_with, decide, same_groups};
use crate::calibrate::activations::Activations;
use crate::calibrate::obs::{Curve, Key};
use crate::calibrate::survey::{Probe, Survey, survey};
use crate::calibrate::{Calibration, sites};
use crate::channels::{Channels, Unit};
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::plan::{self, Budget, Decision, Scope};
use crate::recover::Recover;
use crate::recover::reconstruct::reconstruct;
use crate::rewrite;
use crate::score::Scores;

/// How error curves come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Optimal brain surgeon, weighed by measured effects.
    Obs,
    /// As it is.
    ObsLocal,
    /// Measured effects of plain removal.
    Sensitivity,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::Obs, Kind::ObsLocal, Kind::Sensitivity];

    /// The name as a criterion.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Obs => "obs",
            Kind::ObsLocal => "obs-local",
            Kind::Sensitivity => "sensitivity",
        }
    }
}

/// The calibration data, when error curves from it are to decide.
pub(super) fn applies(o: &Options) -> Option<(Kind, &Calibration)> {
    let cal = o.calibration.as_deref().filter(|_| !matches!(o.budget, Budget::Threshold(_)))?;
    let kind = match &o.criterion {
        None => Kind::Obs,
        Some(spec) => match spec.parts.as_slice() {
            [(name, _)] => Kind::ALL.into_iter().find(|k| k.name() == name)?,
            _ => return None,
        },
    };
    Some((kind, cal))
}

/// Fails where statistics are given that no criterion works from.
pub(super) fn check_statistics(o: &Options) -> Result<()> {
    let data = |name: &str| o.criteria.get(name).is_ok_and(|c| c.needs_data());
    let curve = |name: &str| Kind::ALL.iter().any(|k| k.name() == name);
    let parts = o.criterion.iter().flat_map(|c| &c.parts).map(|(name, _)| name.as_str());
    let (curves, others): (Vec<&str>, Vec<&str>) = parts.filter(|name| data(name)).partition(|name| curve(name));
    if o.statistics.is_some() && (!curves.is_empty() || others.is_empty()) {
        let asked = o.criterion.as_ref().map_or_else(|| "none is named".into(), |c| format!("{c} is asked for"));
        return Err(Error::Usage(format!(
            "--statistics serves the criteria act-mean, act-rms, act-variance and apoz, and {asked}: name one with --criterion, or \
             give --data"
        )));
    }
    Ok(())
}

/// What channels carry, when a criterion asks for it.
pub(super) fn activations(
    t: &Traced,
    o: &Options,
    clock: &mut Clock,
    progress: &dyn Fn(&str),
) -> Result<Option<Activations>> {
    let asks = o.criterion.as_ref().is_some_and(|s| s.needs_data(&o.criteria)) && applies(o).is_none();
    if let Some(statistics) = o.statistics.as_deref().filter(|_| asks) {
        return Activations::of(t, statistics).map(Some);
    }
    let Some(cal) = o.calibration.as_deref().filter(|_| asks) else { return Ok(None) };
    progress("activations");
    clock.time("survey", || Activations::new(t, cal)).map(Some)
}

/// The decision, its ranking, and the power that the curves were bent by.
pub(super) type Decided = (Decision, Option<Scores>, f64);

pub(super) fn decide(
    t: &Traced,
    o: &Options,
    (kind, cal): (Kind, &Calibration),
    clock: &mut Clock,
    progress: &dyn Fn(&str),
    notes: &mut Vec<String>,
) -> Result<Decided> {
    let prepared = sites::prepare(t)?;
    let graph = Graph::new(&prepared)?;
    let ready = analyse_with(&graph, &t.analysis.policy)?;
    let ch = &t.trace.channels;
    same_groups(ch, &ready.trace.channels)?;
    let limits = decide::limits(t.analysis.graph, ch, o)?;
    let mut scores = decide::fresh_scores(t.analysis.graph, ch, o, None)?;
    let levels = plan::levels(ch, &scores.values, &limits)?;
    let shares = if kind == Kind::Sensitivity { &DENSE[..] } else { &POINTS[..] };
    let points = |u: usize| points(&levels[u], shares);
    let groups: Vec<_> = ch.groups.iter().map(|g| (&g.name, g.channels.len())).collect();
    let model = t.analysis.graph.model.sha256();
    let ranked = (o.seed, o.aggregate, o.normalize);
    let key = format!("{kind:?} {model} {ranked:?} {:?} {groups:?} {levels:?}", t.analysis.policy);
    let found = clock.time("survey", || {
        cal.surveyed(key, || match kind {
            Kind::Obs => survey(&ready, cal, &points, true, progress),
            Kind::ObsLocal => survey(&ready, cal, &points, false, progress),
            Kind::Sensitivity => plain(&ready, cal, &scores, &points, progress),
        })
    })?;
    let mut curves = Vec::with_capacity(ch.units.len());
    let mut blind = 0;
    for (u, unit) in ch.units.iter().enumerate() {
        match &found.curves[u] {
            Some(curve) => {
                // The order becomes the ranking.
                for cell in &curve.order {
                    for (rank, &(g, c)) in cell.iter().enumerate() {
                        scores.values[g][c] = rank as f64;
                        scores.used[g] = kind.name().into();
                    }
                }
                curves.push(curve.error.clone());
            }
            None => {
                blind += usize::from(levels[u].len() > 1);
                curves.push(guess(unit, &scores));
            }
        }
    }
    let times = decide::times(t, o, &limits, clock, progress)?;
    let mut tried: Vec<(f64, Decision)> = Vec::new();
    // Of one layer only the order counts: curves are what layers compete by.
    let local = limits.scope == Scope::Local;
    if local {
        let d = clock.time("plan", || plan::decide(ch, &scores.values, &o.budget, times.as_ref(), &limits))?;
        tried.push((1.0, d));
    }
    for power in o.bend.map_or(POWERS.to_vec(), |b| vec![b]).into_iter().filter(|_| !local) {
        let bent: Vec<Vec<f64>> = curves.iter().map(|c: &Vec<f64>| c.iter().map(|e| e.powf(power)).collect()).collect();
        let d = clock.time("plan", || plan::allocate(ch, &scores.values, &bent, &o.budget, times.as_ref(), &limits))?;
        if tried.iter().all(|t| t.1.removed != d.removed) {
            tried.push((power, d));
        }
    }
    let best = if tried.len() > 1 { clock.time("trials", || best_of(&ready, cal, &tried, progress))? } else { 0 };
    let (power, decision) = tried.swap_remove(best);
    if blind > 0 {
        notes.push(format!("{blind} channel groups are read by no layer that calibration data can judge; they were ranked by their weights"));
    }
    if !found.per_pixel.is_empty() {
        notes.push(format!(
            "{} layers have kernels too large for whole second moments and were judged pixel by pixel: {}",
            found.per_pixel.len(),
            found.per_pixel.join(", ")
        ));
    }
    Ok((decision, Some(scores), power))
}

/// Errors of several units do not simply add up: layers behind make up for a part, most for what is large. Curves are bent
/// by these powers, and a trial tells which comes out best.
const POWERS: [f64; 4] = [1.0, 0.85, 0.7, 0.6];
/// Samples of a trial's repair.
const TRIAL: usize = 96;

/// The decision after whose repair, on a part of the data, the outputs are nearest to the original's.
fn best_of(t: &Traced, cal: &Calibration, tried: &[(f64, Decision)], progress: &dyn Fn(&str)) -> Result<usize> {
    let (fit, held) = cal.split();
    let part = fit.part(TRIAL);
    let probe = Probe::new(t, &held)?;
    let mut best = (f64::INFINITY, 0);
    for (i, (_, d)) in tried.iter().enumerate() {
        progress("trials");
        let (repaired, _) = reconstruct(t, &d.removed, Recover::Reconstruct, &part, &|_| ())?;
        let graph = Graph::new(&repaired)?;
        let whole = analyse_with(&graph, &t.analysis.policy)?;
        same_groups(&t.trace.channels, &whole.trace.channels)?;
        let removed = plan::removed_indices(&whole.trace.channels, &d.removed);
        let distance = probe.distance(&rewrite::mask(&whole.analysis, &whole.trace, &removed)?)?;
        if distance < best.0 {
            best = (distance, i);
        }
    }
    Ok(best.1)
}

/// Shares of what can go at which a unit's effect is measured.
const POINTS: [f64; 2] = [0.3, 0.65];
/// The same where nothing but the measurement makes the curve.
const DENSE: [f64; 4] = [0.15, 0.35, 0.6, 0.85];

/// The levels nearest to these shares.
fn points(levels: &[usize], shares: &[f64]) -> Vec<usize> {
    let most = levels.last().copied().unwrap_or(0);
    let near = |aim: f64| {
        let distance = |k: &usize| (*k as f64 - aim * most as f64).abs();
        levels.iter().copied().filter(|&k| k > 0).min_by(|a, b| distance(a).total_cmp(&distance(b)))
    };
    let mut all: Vec<usize> = shares.iter().copied().filter_map(near).collect();
    all.dedup();
    all
}

/// Curves of the outputs' change when a unit's least important channels go and nothing is repaired; straight lines between
/// what is measured.
fn plain(
    t: &Traced,
    cal: &Calibration,
    scores: &Scores,
    points: &dyn Fn(usize) -> Vec<usize>,
    progress: &dyn Fn(&str),
) -> Result<Survey> {
    let ch = &t.trace.channels;
    let probe = Probe::new(t, cal)?;
    let mut out =
        Survey { curves: vec![None; ch.units.len()], per_pixel: Vec::new(), effects: vec![Vec::new(); ch.units.len()] };
    for (u, unit) in ch.units.iter().enumerate() {
        let at = points(u);
        if at.is_empty() {
            continue;
        }
        progress("measured effects");
        let order = ranked(unit, scores);
        let mut measured = Vec::new();
        for k in at {
            let removed = plan::removed_indices(ch, &first(ch, &order, k));
            measured.push((k, probe.distance(&rewrite::mask(&t.analysis, &t.trace, &removed)?)?));
        }
        let bundles = unit.cells.iter().map(Vec::len).min().unwrap_or(0);
        out.curves[u] = Some(Curve { order, error: lines(&measured, bundles) });
        out.effects[u] = measured;
    }
    Ok(out)
}

/// Per cell: its channels, the least important first.
pub(crate) fn ranked(unit: &Unit, scores: &Scores) -> Vec<Vec<Key>> {
    let score = |&(g, c): &Key| scores.values.get(g).and_then(|s| s.get(c)).copied().unwrap_or(0.0);
    let mut cells = unit.cells.clone();
    cells.iter_mut().for_each(|cell| cell.sort_by(|a, b| score(a).total_cmp(&score(b)).then(a.cmp(b))));
    cells
}

/// Per group: the first `k` channels of every cell, ascending.
pub(crate) fn first(ch: &Channels, order: &[Vec<Key>], k: usize) -> Vec<Vec<usize>> {
    let mut gone = vec![Vec::new(); ch.groups.len()];
    for &(g, c) in order.iter().flat_map(|cell| cell.iter().take(k)) {
        gone[g].push(c);
    }
    gone.iter_mut().for_each(|g| g.sort_unstable());
    gone
}

/// Straight lines from nothing through the points, the last one further on; of every number up to `bundles`.
fn lines(points: &[(usize, f64)], bundles: usize) -> Vec<f64> {
    let mut from = (0, 0.0);
    let mut slope = 0.0;
    let mut rest = points.iter().peekable();
    (0..=bundles)
        .map(|k| {
            while let Some(&&(at, value)) = rest.peek()
                && at <= k
            {
                slope = (value - from.1) / (at - from.0).max(1) as f64;
                from = (at, value);
                rest.next();
            }
            let slope = rest.peek().map_or(slope, |next| (next.1 - from.1) / (next.0 - from.0).max(1) as f64);
            from.1 + slope * (k - from.0) as f64
        })
        .collect()
}

/// A curve from squared scores: all of a unit's channels together are worth the whole output.
fn guess(unit: &Unit, scores: &Scores) -> Vec<f64> {
    let score = |&(g, c): &Key| scores.values.get(g).and_then(|s| s.get(c)).copied().unwrap_or(0.0);
    let cells: Vec<Vec<f64>> = unit.cells.iter().map(|cell| cell.iter().map(score).collect()).collect();
    let total: f64 = cells.iter().flatten().map(|s| s * s).sum();
    let bundles = cells.iter().map(Vec::len).min().unwrap_or(0);
    let mut sorted = cells;
    sorted.iter_mut().for_each(|c| c.sort_by(f64::total_cmp));
    let mut sum = 0.0;
    let mut out = vec![0.0];
    for k in 0..bundles {
        sum += sorted.iter().filter_map(|c| c.get(k)).map(|s| s * s).sum::<f64>();
        out.push(if total > 0.0 { sum / total } else { 0.0 });
    }
    out
}
