//! The plan: which channels go.
//!
//! Selection works on *bundles*. A unit's cells each list channels; bundle `i` is the `i`-th least important channel of
//! every cell (ties by group, then channel), its score the mean of its members, and a unit always loses a prefix of its
//! bundles, so the counts in its cells stay equal. [`decide`] finds how long each prefix is: floors and rounding
//! (`rounding.rs`, `units.rs`) say which lengths are allowed, a cost model (`cost.rs`) prices them, and a search
//! (`budget.rs`) meets the budget. The result can be stored and read back as a plan file (`file.rs`).
//!
//! Nothing here knows operators, weights or protobuf, and everything is deterministic.

mod allocate;
mod budget;
mod cost;
mod explain;
mod file;
#[cfg(test)]
mod file_tests;
mod rounding;
#[cfg(test)]
mod tests;
mod times;
mod units;

use cost::Measure;
pub use cost::{kept_len, macs, params};
pub use file::{AxisRemoval, PlanFile, PlanGroup, SCHEMA, from_file, load, parse, save, to_file};
pub use rounding::{Hardware, RoundTo};
pub use times::{LayerTime, Times};

use crate::channels::Channels;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;

/// `[group][channel]`: the importance of each channel.
pub(crate) type Scores = [Vec<f64>];

/// How much is removed.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Budget {
    /// This share of the prunable channels is removed, in `[0, 1)`. All groups count, excluded ones too.
    Ratio(f64),
    /// Channels (bundles, in coupled units) with a score of at most this are removed, so that 0 removes dead channels. The
    /// limits and rounding to the nearest apply; nothing is removed to make up for either.
    Threshold(f64),
    /// This share of the whole model's multiply-accumulates stays, in `(0, 1]`.
    TargetMacs(f64),
    /// This share of the whole model's parameter elements stays, in `(0, 1]`.
    TargetParams(f64),
    /// This share of the whole model's time stays, in `(0, 1]`, by what its layers were measured to take ([`Times`]).
    TargetLatency(f64),
}

impl Budget {
    /// Whether the figure is one that can be asked for.
    ///
    /// # Errors
    /// [`Error::Usage`] when it is not.
    pub fn check(&self) -> Result<()> {
        let problem = match *self {
            Self::Ratio(r) if !(0.0..1.0).contains(&r) => format!(
                "the ratio is the share of the channels to remove, at least 0 and below 1, not {r} (30 % is written 0.3)"
            ),
            Self::Threshold(t) if t.is_nan() => "the threshold is not a number".to_owned(),
            Self::TargetMacs(s) | Self::TargetParams(s) | Self::TargetLatency(s) if !(s > 0.0 && s <= 1.0) => {
                let what = match self {
                    Self::TargetMacs(_) => "MACs",
                    Self::TargetLatency(_) => "latency",
                    _ => "parameters",
                };
                format!(
                    "the target is the share of the {what} that stays, above 0 and at most 1, not {s} (half is written 0.5)"
                )
            }
            _ => return Ok(()),
        };
        Err(Error::Usage(problem))
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ratio(x) => write!(f, "ratio {x}"),
            Self::Threshold(x) => write!(f, "threshold {x}"),
            Self::TargetMacs(x) => write!(f, "target-macs {x}"),
            Self::TargetParams(x) => write!(f, "target-params {x}"),
            Self::TargetLatency(x) => write!(f, "target-latency {x}"),
        }
    }
}

/// Which bundles compete with each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// All of the model: the lowest scores go, wherever they are; error curves from data are weighed against each other.
    #[default]
    Global,
    /// Those of one layer: every layer loses the same share (up to rounding).
    Local,
}

/// What a plan must keep to.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Which channels compete.
    pub scope: Scope,
    /// At least this many channels stay in each group that is touched (0 means 1).
    pub min_channels: usize,
    /// At most this share of each group's channels goes.
    pub max_layer_ratio: f64,
    /// What the kept channel counts are rounded to.
    pub round_to: RoundTo,
    /// Per group: the size that rounding goes by, where the group has lost channels before. Empty where none has.
    pub whole: Vec<usize>,
    /// Groups (by index) that stay as they are, and with them the units that they are part of.
    pub exclude: Vec<usize>,
    /// Groups (by index) that lose a share of their own, as near as the limits allow. They take no part in the ranking but
    /// count in the budget.
    pub layer_ratio: Vec<(usize, f64)>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            scope: Scope::default(),
            min_channels: 1,
            max_layer_ratio: 0.9,
            round_to: RoundTo::default(),
            whole: Vec::new(),
            exclude: Vec::new(),
            layer_ratio: Vec::new(),
        }
    }
}

impl Limits {
    /// Whether the figure is one that can be asked for.
    ///
    /// # Errors
    /// [`Error::Usage`] when it is not.
    pub fn check(&self) -> Result<()> {
        if !(0.0..=1.0).contains(&self.max_layer_ratio) {
            return Err(Error::Usage(format!(
                "the largest share to remove from one layer is between 0 and 1, not {}",
                self.max_layer_ratio
            )));
        }
        if self.round_to == RoundTo::Multiple(0) {
            return Err(Error::Usage(
                "channel counts cannot be rounded to multiples of 0 (1 turns rounding off)".to_owned(),
            ));
        }
        Ok(())
    }
}

/// What goes, and why.
#[derive(Clone, Debug)]
pub struct Decision {
    /// `[group]`: the removed channels, ascending.
    pub removed: Vec<Vec<usize>>,
    /// `[group]`: a short reason for the count.
    pub reasons: Vec<String>,
    /// The figures before and after.
    pub reached: Reached,
}

/// What a plan amounts to.
#[derive(Clone, Debug, Serialize)]
pub struct Reached {
    /// Channels removed.
    pub channels_removed: usize,
    /// Channels in all groups.
    pub channels_prunable: usize,
    /// Multiply-accumulates of the original.
    pub macs_before: f64,
    /// Multiply-accumulates that stay.
    pub macs_after: f64,
    /// Parameter elements of the original.
    pub params_before: f64,
    /// Parameter elements that stay.
    pub params_after: f64,
    /// The budget, as [`Budget`] displays it.
    pub requested: String,
    /// What was reached in the budget's own unit: the share of the channels removed, the share of the MACs or parameters
    /// that stays, or the highest removed score (the threshold itself when nothing is removed).
    pub value: f64,
    /// Set when the budget is missed by more than 2 % of the original, or nothing can be pruned: the nearest reachable
    /// value and what holds it back.
    pub missed: Option<String>,
}

/// Decides which channels go: `scores[group][channel]` is their importance, the lowest goes first.
///
/// # Errors
/// [`Error::Usage`] when budget, limits and scores contradict each other or the model.
pub fn decide(ch: &Channels, scores: &Scores, budget: &Budget, costs: Costs, limits: &Limits) -> Result<Decision> {
    budget.check()?;
    check_costs(ch, budget, costs)?;
    limits.check()?;
    let units = units::build(ch, scores, limits)?;
    let outcome = budget::search(ch, &units, budget, costs, limits.scope);
    finish(ch, &units, outcome, budget, limits)
}

/// Decides with error curves: channels go in the order of `scores`, and how many of each unit is what costs the least
/// error in all. `curves[unit][k]` is the error when `k` of its bundles are gone.
///
/// # Errors
/// As [`decide`]; also for a [`Budget::Threshold`], which speaks of scores, and a [`Budget::TargetLatency`] without
/// `costs`.
pub fn allocate(
    ch: &Channels,
    scores: &Scores,
    curves: &[Vec<f64>],
    budget: &Budget,
    costs: Costs,
    limits: &Limits,
) -> Result<Decision> {
    budget.check()?;
    limits.check()?;
    check_costs(ch, budget, costs)?;
    let mut units = units::build(ch, scores, limits)?;
    let outcome = allocate::search(ch, &mut units, curves, budget, costs)?;
    finish(ch, &units, outcome, budget, limits)
}

/// What a [`Budget::TargetLatency`] is about; other budgets need nothing.
pub type Costs<'a> = Option<&'a Times>;

fn check_costs(ch: &Channels, budget: &Budget, costs: Costs) -> Result<()> {
    if !matches!(budget, Budget::TargetLatency(_)) {
        return Ok(());
    }
    let times = costs.ok_or_else(|| Error::Internal("a latency target without measured times".into()))?;
    let fits = |l: &LayerTime| l.is_whole() && l.axes.iter().all(|a| (a.0 as usize) < ch.axes.len());
    if !times.layers.iter().all(fits) || !times.rest_ms.is_finite() {
        return Err(Error::Internal("the measured times do not match the layers of the model".into()));
    }
    Ok(())
}

/// Per unit: the allowed numbers of removed bundles, ascending from 0, under the limits.
///
/// # Errors
/// As [`decide`].
pub fn levels(ch: &Channels, scores: &Scores, limits: &Limits) -> Result<Vec<Vec<usize>>> {
    limits.check()?;
    Ok(units::build(ch, scores, limits)?
        .into_iter()
        .map(|u| if u.fixed.is_some() { vec![0, u.levels[u.fixed.unwrap_or(0)]] } else { u.levels })
        .collect())
}

fn finish(
    ch: &Channels,
    units: &[units::UnitPlan],
    outcome: budget::Outcome,
    budget: &Budget,
    limits: &Limits,
) -> Result<Decision> {
    let mut removed: Vec<Vec<usize>> = vec![Vec::new(); ch.groups.len()];
    for (unit, &level) in units.iter().zip(&outcome.level) {
        for &(group, channel) in unit.cells.iter().flat_map(|cell| &cell[..unit.levels[level]]) {
            removed[group].push(channel);
        }
    }
    removed.iter_mut().for_each(|list| list.sort_unstable());

    let counts: Vec<usize> = removed.iter().map(Vec::len).collect();
    let (macs, params) = (Measure::macs(ch), Measure::params(ch));
    let mut reached = Reached {
        channels_removed: counts.iter().sum(),
        channels_prunable: ch.groups.iter().map(|g| g.channels.len()).sum(),
        macs_before: macs.at(&[]),
        macs_after: macs.at(&counts),
        params_before: params.at(&[]),
        params_after: params.at(&counts),
        requested: budget.to_string(),
        value: 0.0,
        missed: None,
    };
    let share = |part: f64, whole: f64, empty: f64| if whole > 0.0 { part / whole } else { empty };
    reached.value = match *budget {
        Budget::Ratio(_) => share(reached.channels_removed as f64, reached.channels_prunable as f64, 0.0),
        Budget::TargetMacs(_) => share(reached.macs_after, reached.macs_before, 1.0),
        Budget::TargetParams(_) => share(reached.params_after, reached.params_before, 1.0),
        Budget::TargetLatency(_) => {
            let at = |bundles: &dyn Fn(&units::UnitPlan, usize) -> usize| outcome.value(units, bundles);
            share(at(&|unit, u| unit.levels[outcome.level[u]]), at(&|_, _| 0), 1.0)
        }
        Budget::Threshold(t) => {
            let ends = units.iter().zip(&outcome.level);
            let highest = ends.filter_map(|(u, &l)| u.scores[..u.levels[l]].last().copied()).max_by(f64::total_cmp);
            highest.unwrap_or(t)
        }
    };
    reached.missed = explain::missed(ch, units, &outcome, budget, limits, &reached);
    let reasons = explain::reasons(ch, units, &outcome, limits);
    Ok(Decision { removed, reasons, reached })
}

/// `[axis]`: the indices that go, ascending, given the removed channels of each group.
pub fn removed_indices(ch: &Channels, removed: &[Vec<usize>]) -> Vec<Vec<usize>> {
    let mut axes: Vec<Vec<usize>> = vec![Vec::new(); ch.axes.len()];
    for (group, list) in ch.groups.iter().zip(removed) {
        for channel in list.iter().filter_map(|&c| group.channels.get(c)) {
            for &(axis, index) in &channel.members {
                axes[axis.0 as usize].push(index as usize);
            }
        }
    }
    for list in &mut axes {
        list.sort_unstable();
        list.dedup();
    }
    axes
}
