//! What may go from each unit, and in which order.

use super::rounding::{self, Share};
use super::{Limits, Scores};
use crate::channels::{Channels, Unit};
use crate::error::{Error, Result};
use rayon::prelude::*;
use std::collections::BTreeMap;

/// A unit ready for the search.
pub(super) struct UnitPlan {
    /// `(group, channel)` of each cell, least important first.
    pub(super) cells: Vec<Vec<(usize, usize)>>,
    /// Its groups, ascending.
    pub(super) shares: Vec<Share>,
    /// Score of bundle `i` (the mean of its members), ascending, up to `hard_max`.
    pub(super) scores: Vec<f64>,
    /// Bundles that can go at all: something is left in every cell and group.
    pub(super) hard_max: usize,
    /// Bundles that the limits let go.
    pub(super) kmax: usize,
    /// Allowed numbers of removed bundles, ascending from 0.
    pub(super) levels: Vec<usize>,
    /// Position in `levels` when the user fixed it.
    pub(super) fixed: Option<usize>,
    /// The user excluded one of its groups.
    pub(super) excluded: bool,
}

impl UnitPlan {
    /// The number of bundles (a fraction) that makes up `share` of the unit's channels, within the limits.
    pub(super) fn bundles(&self, share: f64) -> f64 {
        let channels: usize = self.cells.iter().map(Vec::len).sum();
        (share * channels as f64 / self.cells.len().max(1) as f64).min(self.kmax as f64)
    }

    /// How many bundles have a score of at most `score` (below it when `strict`), within the limits.
    pub(super) fn ranked_below(&self, score: u64, strict: bool) -> usize {
        self.scores[..self.kmax].partition_point(|&s| key(s) < score || !strict && key(s) == score)
    }

    /// The search may move it.
    pub(super) fn free(&self) -> bool {
        self.fixed.is_none() && self.levels.len() > 1
    }
}

/// Maps a score to an integer of the same order; the two zeros are one.
pub(super) fn key(score: f64) -> u64 {
    let bits = (score + 0.0).to_bits();
    if bits >> 63 == 1 { !bits } else { bits | 1 << 63 }
}

/// Prepares every unit; checks scores and limits against the model.
pub(super) fn build(ch: &Channels, scores: &Scores, limits: &Limits) -> Result<Vec<UnitPlan>> {
    check_scores(ch, scores)?;
    let (excluded, fixed) = check_groups(ch, limits)?;
    let mut seen: Vec<Vec<bool>> = ch.groups.iter().map(|g| vec![false; g.channels.len()]).collect();
    for &(group, channel) in ch.units.iter().flat_map(|u| u.cells.iter().flatten()) {
        let slot = seen.get_mut(group).and_then(|g| g.get_mut(channel));
        let slot = slot.ok_or_else(|| Error::Internal(format!("a unit names channel {channel} of group {group}")))?;
        if std::mem::replace(slot, true) {
            return Err(Error::Internal(format!(
                "channel {channel} of group {:?} is in two cells",
                ch.groups[group].name
            )));
        }
    }
    let units = ch.units.par_iter().map(|unit| one(ch, unit, scores, limits, &excluded, &fixed));
    units.collect::<Vec<_>>().into_iter().collect() // in order, so that the first error is always the same one
}

fn check_scores(ch: &Channels, scores: &Scores) -> Result<()> {
    if scores.len() != ch.groups.len() || scores.iter().zip(&ch.groups).any(|(s, g)| s.len() != g.channels.len()) {
        return Err(Error::Internal("the scores do not match the groups of the model".to_owned()));
    }
    for (group, list) in ch.groups.iter().zip(scores) {
        if let Some(channel) = list.iter().position(|s| s.is_nan() || *s == f64::NEG_INFINITY) {
            return Err(Error::Usage(format!(
                "the score of channel {channel} of group {:?} is {}: its weights or the calibration data hold values that \
                 are not finite; exclude the group or use another criterion",
                group.name, list[channel]
            )));
        }
    }
    Ok(())
}

/// Excluded groups as flags, and the fixed ratio of each group.
fn check_groups(ch: &Channels, limits: &Limits) -> Result<(Vec<bool>, Vec<Option<f64>>)> {
    let mut excluded = vec![false; ch.groups.len()];
    let mut fixed = vec![None; ch.groups.len()];
    let unknown = |group| Error::Internal(format!("there is no group {group}"));
    for &group in &limits.exclude {
        *excluded.get_mut(group).ok_or_else(|| unknown(group))? = true;
    }
    for &(group, ratio) in &limits.layer_ratio {
        let name = &ch.groups.get(group).ok_or_else(|| unknown(group))?.name;
        if !(0.0..=1.0).contains(&ratio) {
            return Err(Error::Usage(format!("the ratio {ratio} for group {name:?} is not between 0 and 1")));
        }
        if excluded[group] {
            return Err(Error::Usage(format!(
                "group {name:?} is excluded and has a ratio of its own: drop one of the two"
            )));
        }
        if let Some(other) = fixed[group].replace(ratio).filter(|&other| other != ratio) {
            return Err(Error::Usage(format!("group {name:?} has two ratios, {other} and {ratio}: drop one of them")));
        }
    }
    Ok((excluded, fixed))
}

fn one(
    ch: &Channels,
    unit: &Unit,
    scores: &Scores,
    limits: &Limits,
    excluded: &[bool],
    fixed: &[Option<f64>],
) -> Result<UnitPlan> {
    let cells: Vec<Vec<(usize, usize)>> = unit.cells.iter().map(|cell| ordered(cell, scores)).collect();
    let shortest = cells.iter().map(Vec::len).min().unwrap_or(0);
    let shares = shares(ch, &cells, shortest, &limits.whole);
    let left = |k: usize, floor: usize| shares.iter().all(|s| s.taken[k] == 0 || s.kept(k) >= floor.max(1));
    let most = |s: &Share| (limits.max_layer_ratio * s.size as f64 + 1e-9).floor() as u32;
    let within = |k: usize| left(k, limits.min_channels) && shares.iter().all(|s| s.taken[k] <= most(s));

    let hard_max = (0..shortest).rev().find(|&k| left(k, 1)).unwrap_or(0);
    let excluded = shares.iter().any(|s| excluded[s.group]);
    let kmax = if excluded { 0 } else { (0..=hard_max).rev().find(|&k| within(k)).unwrap_or(0) };
    let levels = rounding::levels(&shares, limits.round_to, hard_max, kmax);
    let bundles = (0..hard_max).map(|i| cells.iter().map(|c| scores[c[i].0][c[i].1]).sum::<f64>() / cells.len() as f64);
    let bundles = bundles.collect();

    let mut position: Option<(usize, usize, f64)> = None; // (group, position in levels, ratio)
    for s in &shares {
        let Some(ratio) = fixed[s.group] else { continue };
        let distance = |&at: &usize| (f64::from(s.taken[levels[at]]) - ratio * s.size as f64).abs();
        let at = (0..levels.len()).min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap_or(0);
        if let Some((group, _, other)) = position.filter(|&(_, earlier, other)| earlier != at && other != ratio) {
            return Err(Error::Usage(format!(
                "groups {:?} and {:?} can only lose the same number of channels, but have the ratios {other} and {ratio}",
                ch.groups[group].name, ch.groups[s.group].name
            )));
        }
        position = position.or(Some((s.group, at, ratio)));
    }
    Ok(UnitPlan { cells, shares, scores: bundles, hard_max, kmax, levels, fixed: position.map(|p| p.1), excluded })
}

/// The cell, lowest score first, ties by group and channel.
fn ordered(cell: &[(usize, usize)], scores: &Scores) -> Vec<(usize, usize)> {
    let mut members = cell.to_vec();
    if !members.is_sorted() {
        members.sort_unstable();
    }
    // Score and position in one integer: there are up to a million channels.
    let keyed = members.iter().enumerate().map(|(i, &(g, c))| u128::from(key(scores[g][c])) << 64 | i as u128);
    let mut keyed: Vec<u128> = keyed.collect();
    keyed.sort_unstable();
    keyed.into_iter().map(|k| members[k as u64 as usize]).collect()
}

fn shares(ch: &Channels, cells: &[Vec<(usize, usize)>], shortest: usize, whole: &[usize]) -> Vec<Share> {
    let mut per_group: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
    for cell in cells {
        let mut k = 0;
        for run in cell.chunk_by(|a, b| a.0 == b.0) {
            // One look-up per run: it is nearly always the whole cell.
            let taken = per_group.entry(run[0].0).or_insert_with(|| vec![0; shortest + 1]);
            let end = (k + run.len()).min(shortest);
            taken[k.min(end) + 1..=end].iter_mut().for_each(|t| *t += 1);
            k += run.len();
        }
    }
    let finish = |(group, mut taken): (usize, Vec<u32>)| {
        let mut sum = 0;
        for t in &mut taken {
            sum += *t;
            *t = sum;
        }
        let size = ch.groups[group].channels.len();
        Share { group, size, whole: whole.get(group).copied().unwrap_or(size), taken }
    };
    per_group.into_iter().map(finish).collect()
}
