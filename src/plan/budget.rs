//! Budgets, and the search for the number of bundles that each unit loses.
//!
//! Everything is a function of one cut (a score for the global scope, a share for the local one): the counts that the cut
//! asks for, rounded to the allowed levels, priced by a [`Measure`]. The price falls as the cut rises, so bisection finds
//! the two neighbouring cuts around the target, and single rounding steps then repair what rounding left open.

use super::cost::{Measure, Meter};
use super::rounding::{bracket, nearest};
use super::units::{UnitPlan, key};
use super::{Budget, Costs, Scope};
use crate::channels::Channels;

/// A target counts as missed when it is off by more than this share of the original.
pub(super) const TOLERANCE: f64 = 0.02;
/// The repair of a cost target is content with this share of the original.
pub(super) const CLOSE: f64 = 0.0025;
/// With more movable units than this, pairs of steps are not tried (single ones come near enough).
const PAIRS: usize = 64;
/// With at most this many levels in all, pairs of moves to any level are tried.
const SMALL: usize = 256;

/// Where the search ended.
pub(super) struct Outcome {
    /// Position in `levels` per unit.
    pub(super) level: Vec<usize>,
    /// The number of bundles per unit that the final cut asks for, before rounding.
    pub(super) wanted: Vec<f64>,
    /// What should stay, in the unit of the measure.
    pub(super) target: Option<f64>,
    /// The figure that the budget speaks of.
    pub(super) measure: Measure,
}

impl Outcome {
    /// What stays at these numbers of removed bundles per unit.
    pub(super) fn value(&self, units: &[UnitPlan], bundles: impl Fn(&UnitPlan, usize) -> usize) -> f64 {
        let mut meter = Meter::new(&self.measure);
        for (u, unit) in units.iter().enumerate() {
            let k = bundles(unit, u);
            unit.shares.iter().for_each(|s| meter.shift(s.group, f64::from(s.taken[k])));
        }
        meter.total()
    }
}

/// Finds the levels that come nearest to the budget.
pub(super) fn search(ch: &Channels, units: &[UnitPlan], budget: &Budget, costs: Costs, scope: Scope) -> Outcome {
    let measure = Measure::of(ch, budget, costs);
    let before = Meter::new(&measure).total();
    let search = Search::new(units, &measure, before);
    let (target, found) = match *budget {
        Budget::Threshold(t) => (None, search.point(&Cut::Score { below: key(t), equal: usize::MAX })),
        Budget::Ratio(0.0) => (Some(before), search.point(&Cut::Share(0.0))),
        Budget::TargetMacs(1.0) | Budget::TargetParams(1.0) | Budget::TargetLatency(1.0) => {
            (Some(before), search.point(&Cut::Share(0.0)))
        }
        Budget::Ratio(r) if scope == Scope::Local => {
            let at = search.point(&Cut::Share(r));
            let ideal = units.iter().zip(&at.wanted).map(|(u, k)| k * u.cells.len() as f64).sum::<f64>();
            let bounds = search.brackets(&at, &at);
            (Some(before * (1.0 - r)), search.repaired(at, before - ideal, 0.5, Some(&bounds)))
        }
        Budget::Ratio(r) => {
            let target = before * (1.0 - r);
            (Some(target), search.aim(target, scope, 0.5, 0.5))
        }
        Budget::TargetMacs(s) | Budget::TargetParams(s) | Budget::TargetLatency(s) => {
            (Some(before * s), search.aim(before * s, scope, CLOSE * before, TOLERANCE * before))
        }
    };
    Outcome { level: found.level, wanted: found.wanted, target, measure }
}

/// What decides how many bundles of each unit are asked for.
enum Cut {
    /// All with a lower score, and the first `equal` (by unit, then rank) of those that have just this one.
    Score { below: u64, equal: usize },
    /// This share of each unit.
    Share(f64),
}

pub(super) struct Point {
    pub(super) level: Vec<usize>,
    pub(super) wanted: Vec<f64>,
    pub(super) value: f64,
}

/// One step of one unit.
#[derive(Clone, Copy)]
pub(super) struct Step {
    unit: usize,
    to: usize,
    /// How much the figure rises.
    pub(super) change: f64,
}

pub(super) struct Search<'a> {
    units: &'a [UnitPlan],
    measure: &'a Measure,
    /// `[unit]`: the items of the measure that depend on it.
    items: Vec<Vec<usize>>,
    /// Differences below this are noise.
    pub(super) noise: f64,
}

impl<'a> Search<'a> {
    pub(super) fn new(units: &'a [UnitPlan], measure: &'a Measure, before: f64) -> Self {
        let items = units.iter().map(|u| measure.items_of(u.shares.iter().map(|s| s.group))).collect();
        Self { units, measure, items, noise: 1e-9 * before }
    }

    /// The items of the measure that depend on a unit.
    pub(super) fn items(&self, unit: usize) -> &[usize] {
        &self.items[unit]
    }

    /// `[item]`: the units that it depends on.
    pub(super) fn readers(&self) -> Vec<Vec<usize>> {
        let mut readers = vec![Vec::new(); self.items.iter().flatten().max().map_or(0, |last| last + 1)];
        for (unit, items) in self.items.iter().enumerate() {
            items.iter().for_each(|&item| readers[item].push(unit));
        }
        readers
    }

    /// What the cut asks for, rounded and priced.
    fn point(&self, cut: &Cut) -> Point {
        let mut equal_left = if let Cut::Score { equal, .. } = cut { *equal } else { 0 };
        let mut wanted = Vec::with_capacity(self.units.len());
        for unit in self.units {
            wanted.push(match *cut {
                _ if unit.fixed.is_some() => unit.levels[unit.fixed.unwrap_or(0)] as f64,
                Cut::Share(share) => unit.bundles(share),
                Cut::Score { below, .. } => {
                    let (low, high) = (unit.ranked_below(below, true), unit.ranked_below(below, false));
                    let equal = equal_left.min(high - low);
                    equal_left -= equal;
                    (low + equal) as f64
                }
            });
        }
        let level: Vec<usize> = self.units.iter().zip(&wanted).map(|(u, &k)| nearest(&u.levels, k)).collect();
        let value = self.meter(&level).total();
        Point { level, wanted, value }
    }

    pub(super) fn meter(&self, level: &[usize]) -> Meter<'a> {
        let mut meter = Meter::new(self.measure);
        for (unit, &l) in self.units.iter().zip(level).filter(|&(_, &l)| l > 0) {
            unit.shares.iter().for_each(|s| meter.shift(s.group, f64::from(s.taken[unit.levels[l]])));
        }
        meter
    }

    /// The point nearest to `target`; `close` ends the repair, beyond `far` it is tried harder.
    fn aim(&self, target: f64, scope: Scope, close: f64, far: f64) -> Point {
        let enough = |cut: &Cut| self.point(cut).value <= target + self.noise;
        let (less, more) = match scope {
            Scope::Global => {
                let at = |below, equal| Cut::Score { below, equal };
                let below = first(u64::MAX, |score| enough(&at(score, usize::MAX))).unwrap_or(u64::MAX);
                let ties: usize =
                    self.units.iter().map(|u| u.ranked_below(below, false) - u.ranked_below(below, true)).sum();
                let equal = first(ties as u64, |n| enough(&at(below, n as usize))).map_or(ties, |n| n as usize);
                (at(below, equal.saturating_sub(1)), at(below, equal))
            }
            Scope::Local => {
                let bits = first(1.0_f64.to_bits(), |bits| enough(&Cut::Share(f64::from_bits(bits))));
                let bits = bits.unwrap_or(1.0_f64.to_bits());
                (Cut::Share(f64::from_bits(bits.saturating_sub(1))), Cut::Share(f64::from_bits(bits)))
            }
        };
        let (less, more) = (self.point(&less), self.point(&more));
        let bounds = (scope == Scope::Local).then(|| self.brackets(&less, &more));
        let off = |p: &Point| (p.value - target).abs();
        let mut best = self.repaired(less, target, close, bounds.as_deref());
        let other = self.repaired(more, target, close, bounds.as_deref());
        if off(&other) + self.noise < off(&best) {
            best = other;
        }
        if off(&best) > far {
            best = self.repaired(best, target, close, None);
            for _ in 0..self.units.len() {
                if off(&best) <= far || !self.swap(&mut best, target) {
                    break;
                }
                best = self.repaired(best, target, close, None);
            }
        }
        best
    }

    /// The levels on both sides of what two cuts ask for.
    fn brackets(&self, less: &Point, more: &Point) -> Vec<(usize, usize)> {
        let sides = less.wanted.iter().zip(&more.wanted);
        self.units.iter().zip(sides).map(|(u, (&a, &b))| (bracket(&u.levels, a).0, bracket(&u.levels, b).1)).collect()
    }

    /// The step of `unit` to level `to`.
    pub(super) fn step(&self, meter: &mut Meter, unit: usize, from: usize, to: usize) -> Step {
        let before = meter.part(&self.items[unit]);
        self.shift(meter, unit, from, to);
        let change = meter.part(&self.items[unit]) - before;
        self.shift(meter, unit, to, from);
        Step { unit, to, change }
    }

    pub(super) fn shift(&self, meter: &mut Meter, unit: usize, from: usize, to: usize) {
        let u = &self.units[unit];
        for s in &u.shares {
            meter.shift(s.group, f64::from(s.taken[u.levels[to]]) - f64::from(s.taken[u.levels[from]]));
        }
    }

    /// All steps to a neighbouring level, up (remove more) or down.
    fn steps(&self, meter: &mut Meter, level: &[usize], up: bool, bounds: Option<&[(usize, usize)]>) -> Vec<Step> {
        let mut steps = Vec::new();
        for (u, unit) in self.units.iter().enumerate().filter(|(_, unit)| unit.free()) {
            let (low, high) = bounds.map_or((0, unit.levels.len() - 1), |b| b[u]);
            let from = level[u];
            if up && from < high {
                steps.push(self.step(meter, u, from, from + 1));
            } else if !up && from > low {
                steps.push(self.step(meter, u, from, from - 1));
            }
        }
        steps
    }

    /// Greedy single steps: while the target is further off than `close`, the step that brings it nearer at the lowest
    /// score per cost (when channels are given back: that saves the highest).
    pub(super) fn repaired(&self, mut p: Point, target: f64, close: f64, bounds: Option<&[(usize, usize)]>) -> Point {
        let mut meter = self.meter(&p.level);
        for _ in 0..4 * self.units.len() + 64 {
            let off = p.value - target;
            if off.abs() <= close {
                break;
            }
            let up = off > 0.0;
            let nearer = |s: &Step| (off + s.change).abs() + self.noise < off.abs();
            let price = |s: &Step| {
                let unit = &self.units[s.unit];
                let (a, b) = (unit.levels[p.level[s.unit]], unit.levels[s.to]);
                let score: f64 = unit.scores[a.min(b)..a.max(b)].iter().sum();
                let price = score * unit.cells.len() as f64 / s.change.abs();
                if up { price } else { -price }
            };
            let steps = self.steps(&mut meter, &p.level, up, bounds);
            let Some(best) = steps.into_iter().filter(nearer).min_by(|a, b| price(a).total_cmp(&price(b))) else {
                break;
            };
            self.shift(&mut meter, best.unit, p.level[best.unit], best.to);
            p.level[best.unit] = best.to;
            p.value = meter.total();
        }
        p
    }

    /// The pair of moves that comes nearest to the target, if one comes nearer: to any level in a small model, where single
    /// steps are coarse, else to neighbouring levels.
    pub(super) fn swap(&self, p: &mut Point, target: f64) -> bool {
        let free = |u: &usize| self.units[*u].free();
        let reach = match (0..self.units.len()).filter(free).map(|u| self.units[u].levels.len()).sum() {
            0..=SMALL => usize::MAX,
            _ if (0..self.units.len()).filter(free).count() <= PAIRS => 1,
            _ => return false,
        };
        let moves = |u: usize, from: usize| {
            let last = self.units[u].levels.len() - 1;
            (from.saturating_sub(reach)..=from.saturating_add(reach).min(last)).filter(move |&to| to != from)
        };
        let mut meter = self.meter(&p.level);
        let mut best: Option<(f64, [Step; 2])> = None;
        for u in (0..self.units.len()).filter(free) {
            for to in moves(u, p.level[u]) {
                let a = self.step(&mut meter, u, p.level[u], to);
                self.shift(&mut meter, u, p.level[u], to);
                for v in (u + 1..self.units.len()).filter(free) {
                    for to in moves(v, p.level[v]) {
                        let b = self.step(&mut meter, v, p.level[v], to);
                        let off = (p.value + a.change + b.change - target).abs();
                        if best.is_none_or(|(least, _)| off + self.noise < least) {
                            best = Some((off, [a, b]));
                        }
                    }
                }
                self.shift(&mut meter, u, to, p.level[u]);
            }
        }
        let Some((_, steps)) = best.filter(|b| b.0 + self.noise < (p.value - target).abs()) else { return false };
        for s in steps {
            p.level[s.unit] = s.to;
        }
        p.value = self.meter(&p.level).total();
        true
    }
}

/// The smallest `x` of `0..=max` for which `holds`, which stays true once it is.
fn first(max: u64, mut holds: impl FnMut(u64) -> bool) -> Option<u64> {
    if !holds(max) {
        return None;
    }
    let (mut low, mut high) = (0, max);
    while low < high {
        let mid = low + (high - low) / 2;
        if holds(mid) {
            high = mid;
        } else {
            low = mid + 1;
        }
    }
    Some(high)
}
