//! A budget spent where it costs the least: error curves instead of scores.
//!
//! From the whole model on, the move (any number of bundles of one unit) that saves most per error is made until the target
//! is met: steepest descent along the lower convex hulls of the curves, priced by what the move saves at that moment.
//! Then pairs of moves that keep the figure and lower the error are tried until none does.

use super::budget::{CLOSE, Outcome, Point, Search, TOLERANCE};
use super::cost::{Measure, Meter};
use super::units::UnitPlan;
use super::{Budget, Costs};
use crate::channels::Channels;
use crate::error::{Error, Result};

/// How many levels ahead a move may reach.
const REACH: usize = 16;

/// Finds the levels with the least error at the budget. Takes over the curves as the units' scores.
pub(super) fn search(
    ch: &Channels,
    units: &mut [UnitPlan],
    curves: &[Vec<f64>],
    budget: &Budget,
    costs: Costs,
) -> Result<Outcome> {
    if curves.len() != units.len() || curves.iter().flatten().any(|e| !e.is_finite()) {
        return Err(Error::Internal("the error curves do not match the units of the model".into()));
    }
    let curves: Vec<Vec<f64>> = units.iter().zip(curves).map(|(u, c)| rising(c, u.hard_max)).collect();
    for (unit, curve) in units.iter_mut().zip(&curves) {
        let cells = unit.cells.len().max(1) as f64;
        unit.scores = curve.windows(2).map(|p| (p[1] - p[0]) / cells).collect();
    }
    let units: &[UnitPlan] = units;
    let measure = Measure::of(ch, budget, costs);
    let before = Meter::new(&measure).total();
    let target = match *budget {
        Budget::Ratio(r) => before * (1.0 - r),
        Budget::TargetMacs(s) | Budget::TargetParams(s) | Budget::TargetLatency(s) => before * s,
        Budget::Threshold(_) => {
            return Err(Error::Usage(
                "--threshold speaks of a criterion's scores; with --data give a share, or name a criterion with --criterion"
                    .into(),
            ));
        }
    };
    let search = Search::new(units, &measure, before);
    let close = if matches!(budget, Budget::Ratio(_)) { 0.5 } else { CLOSE * before };
    let mut point = descend(&search, units, &curves, target, before);
    point = search.repaired(point, target, close, None);
    exchange(&search, units, &curves, &mut point, target, close);
    for _ in 0..units.len() {
        if (point.value - target).abs() <= TOLERANCE * before || !search.swap(&mut point, target) {
            break;
        }
        point = search.repaired(point, target, close, None);
    }
    point.wanted = units.iter().zip(&point.level).map(|(u, &l)| u.levels[l] as f64).collect();
    Ok(Outcome { level: point.level, wanted: point.wanted, target: Some(target), measure })
}

/// The curve up to `most` bundles, never falling.
fn rising(curve: &[f64], most: usize) -> Vec<f64> {
    let mut top = 0.0_f64;
    let last = curve.last().copied().unwrap_or(0.0);
    (0..=most)
        .map(|k| {
            top = top.max(curve.get(k).copied().unwrap_or(last));
            top
        })
        .collect()
}

fn error(unit: &UnitPlan, curve: &[f64], level: usize) -> f64 {
    unit.levels.get(level).and_then(|&k| curve.get(k)).copied().unwrap_or(f64::INFINITY)
}

/// The best moves one after the other until the figure is at most `target`.
fn descend(search: &Search, units: &[UnitPlan], curves: &[Vec<f64>], target: f64, before: f64) -> Point {
    let mut level: Vec<usize> = units.iter().map(|u| u.fixed.unwrap_or(0)).collect();
    let mut meter = search.meter(&level);
    let mut value = meter.total();
    // What each unit's moves save; known until something that its items depend on is moved.
    let mut savings: Vec<Option<Vec<f64>>> = vec![None; units.len()];
    let readers = search.readers();
    while value > target + search.noise {
        let mut best: Option<(f64, usize, usize)> = None;
        for (u, unit) in units.iter().enumerate().filter(|(_, unit)| unit.free()) {
            let now = error(unit, &curves[u], level[u]);
            let ahead = level[u] + 1..unit.levels.len().min(level[u] + 1 + REACH);
            let savings = savings[u].get_or_insert_with(|| {
                ahead.clone().map(|to| -search.step(&mut meter, u, level[u], to).change).collect()
            });
            for (to, &saved) in ahead.zip(savings.iter()) {
                // A move that overshoots saves only what is asked for.
                let useful = saved.min(value - target);
                if saved <= 1e-12 * before {
                    continue;
                }
                let price = (error(unit, &curves[u], to) - now) / useful;
                if best.is_none_or(|(least, ..)| price < least) {
                    best = Some((price, u, to));
                }
            }
        }
        let Some((_, u, to)) = best else { break };
        search.shift(&mut meter, u, level[u], to);
        level[u] = to;
        value = meter.total();
        savings[u] = None;
        for &v in search.items(u).iter().flat_map(|&item| &readers[item]) {
            savings[v] = None;
        }
    }
    Point { wanted: Vec::new(), level, value }
}

/// Pairs of moves, one back and one on, that lower the error and leave the figure as close to the target as it is, or close
/// enough.
fn exchange(search: &Search, units: &[UnitPlan], curves: &[Vec<f64>], p: &mut Point, target: f64, close: f64) {
    let free: Vec<usize> = (0..units.len()).filter(|&u| units[u].free()).collect();
    let allowed = close.max((p.value - target).abs()) + search.noise;
    let mut meter = search.meter(&p.level);
    // Each exchange lowers the error; the number bounds the time.
    for _ in 0..8 * free.len() {
        let mut best: Option<(f64, [(usize, usize); 2])> = None;
        for &u in &free {
            let from = p.level[u];
            for back in from.saturating_sub(REACH / 4)..from {
                let gain = error(&units[u], &curves[u], from) - error(&units[u], &curves[u], back);
                if gain <= 0.0 {
                    continue;
                }
                let up = search.step(&mut meter, u, from, back).change;
                search.shift(&mut meter, u, from, back);
                for &v in free.iter().filter(|&&v| v != u) {
                    let at = p.level[v];
                    for on in at + 1..units[v].levels.len().min(at + 1 + REACH / 4) {
                        let loss = error(&units[v], &curves[v], on) - error(&units[v], &curves[v], at);
                        if loss >= gain * (1.0 - 1e-9) {
                            break;
                        }
                        let value = p.value + up + search.step(&mut meter, v, at, on).change;
                        let better = best.as_ref().is_none_or(|(most, _)| gain - loss > *most);
                        if better && (value - target).abs() <= allowed {
                            best = Some((gain - loss, [(u, back), (v, on)]));
                        }
                    }
                }
                search.shift(&mut meter, u, back, from);
            }
        }
        let Some((_, moves)) = best else { break };
        for (u, to) in moves {
            search.shift(&mut meter, u, p.level[u], to);
            p.level[u] = to;
        }
        p.value = meter.total();
    }
}
