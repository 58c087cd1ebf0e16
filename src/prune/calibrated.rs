//! Decisions from calibration data: error curves, weighed by measured effects, and the cheapest way to the budget.

use super::{Clock, Options, Traced, analyse_with, decide, same_groups};
use crate::calibrate::survey::{Probe, survey};
use crate::calibrate::{Calibration, sites};
use crate::error::Result;
use crate::graph::Graph;
use crate::plan::{self, Budget, Decision};
use crate::recover::reconstruct::reconstruct;
use crate::rewrite;
use crate::score::Scores;

/// The name of this way to rank channels.
pub(super) const CRITERION: &str = "obs";

/// The calibration data, when it is to decide.
pub(super) fn applies(o: &Options) -> Option<&Calibration> {
    let speaks = o.criterion.is_none() && !matches!(o.budget, Budget::Threshold(_));
    o.calibration.as_deref().filter(|_| speaks)
}

pub(super) fn decide(
    t: &Traced,
    o: &Options,
    cal: &Calibration,
    clock: &mut Clock,
    progress: &dyn Fn(&str),
    notes: &mut Vec<String>,
) -> Result<(Decision, Option<Scores>)> {
    let prepared = sites::prepare(t)?;
    let graph = Graph::new(&prepared)?;
    let ready = analyse_with(&graph, &t.analysis.policy)?;
    let ch = &t.trace.channels;
    same_groups(ch, &ready.trace.channels)?;
    let limits = decide::limits(t.analysis.graph, ch, o)?;
    let mut scores = decide::fresh_scores(t.analysis.graph, ch, o)?;
    let levels = plan::levels(ch, &scores.values, &limits)?;
    let points = |u: usize| points(&levels[u]);
    let found = clock.time("survey", || survey(&ready, cal, &points, progress))?;
    let mut curves = Vec::with_capacity(ch.units.len());
    let mut blind = 0;
    for (u, unit) in ch.units.iter().enumerate() {
        match &found.curves[u] {
            Some(curve) => {
                // The order becomes the ranking.
                for cell in &curve.order {
                    for (rank, &(g, c)) in cell.iter().enumerate() {
                        scores.values[g][c] = rank as f64;
                        scores.used[g] = CRITERION.into();
                    }
                }
                curves.push(curve.error.clone());
            }
            None => {
                blind += usize::from(levels[u].len() > 1);
                curves.push(guess(
                    unit.cells.iter().map(|cell| cell.iter().map(|&(g, c)| scores.values[g][c]).collect()).collect(),
                ));
            }
        }
    }
    let mut tried: Vec<Decision> = Vec::new();
    for power in POWERS {
        let bent: Vec<Vec<f64>> = curves.iter().map(|c: &Vec<f64>| c.iter().map(|e| e.powf(power)).collect()).collect();
        let d = clock.time("plan", || plan::allocate(ch, &scores.values, &bent, &o.budget, &limits))?;
        if tried.iter().all(|t| t.removed != d.removed) {
            tried.push(d);
        }
    }
    let best = if tried.len() > 1 { clock.time("trials", || best_of(&ready, cal, &tried, progress))? } else { 0 };
    let decision = tried.swap_remove(best);
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
    Ok((decision, Some(scores)))
}

/// Errors of several units do not simply add up: layers behind make up for a part, most for what is large. Curves are bent
/// by these powers, and a trial tells which comes out best.
const POWERS: [f64; 4] = [1.0, 0.85, 0.7, 0.6];
/// Samples of a trial's repair.
const TRIAL: usize = 96;

/// The decision after whose repair, on a part of the data, the outputs are nearest to the original's.
fn best_of(t: &Traced, cal: &Calibration, tried: &[Decision], progress: &dyn Fn(&str)) -> Result<usize> {
    let (fit, held) = cal.split();
    let part = fit.part(TRIAL);
    let probe = Probe::new(t, &held)?;
    let mut best = (f64::INFINITY, 0);
    for (i, d) in tried.iter().enumerate() {
        progress("trials");
        let (repaired, _) = reconstruct(t, &d.removed, &part, &|_| ())?;
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

/// The levels nearest to [`POINTS`].
fn points(levels: &[usize]) -> Vec<usize> {
    let most = levels.last().copied().unwrap_or(0);
    let near = |aim: f64| {
        let distance = |k: &usize| (*k as f64 - aim * most as f64).abs();
        levels.iter().copied().filter(|&k| k > 0).min_by(|a, b| distance(a).total_cmp(&distance(b)))
    };
    let mut all: Vec<usize> = POINTS.into_iter().filter_map(near).collect();
    all.dedup();
    all
}

/// A curve from squared scores: all of a unit's channels together are worth the whole output.
fn guess(cells: Vec<Vec<f64>>) -> Vec<f64> {
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
