//! Words for the user: why a group keeps what it keeps, and what holds a budget back.

use super::budget::{Outcome, TOLERANCE};
use super::rounding::nearest;
use super::units::UnitPlan;
use super::{Budget, Limits, Reached, RoundTo};
use crate::channels::Channels;

/// `[group]`: the reason for its count.
pub(super) fn reasons(ch: &Channels, units: &[UnitPlan], outcome: &Outcome, limits: &Limits) -> Vec<String> {
    let mut reasons = vec!["kept whole: not part of any unit".to_owned(); ch.groups.len()];
    for (u, unit) in units.iter().enumerate() {
        for share in &unit.shares {
            let excluded = if limits.exclude.contains(&share.group) {
                "excluded"
            } else {
                "excluded: coupled to an excluded group"
            };
            let taken = |k: usize| f64::from(share.taken[k]) / share.size as f64;
            let (level, wanted) = (outcome.level[u], outcome.wanted[u]);
            let k = unit.levels[level];
            let rounding = match limits.round_to.multiple(share.whole) {
                1 => "to whole steps".to_owned(),
                multiple => format!("to {multiple}"),
            };
            let (whole, part) = (wanted.floor() as usize, wanted.fract());
            let asked = if part > 0.0 { (1.0 - part) * taken(whole) + part * taken(whole + 1) } else { taken(whole) };
            reasons[share.group] = if unit.excluded {
                excluded.to_owned()
            } else if unit.fixed.is_some() {
                let own = limits.layer_ratio.iter().find(|(g, _)| *g == share.group).map(|&(_, r)| r);
                match own {
                    Some(own) if differ(own, taken(k)) => {
                        format!("fixed ratio {own:.2} → {:.2} (limits and rounding {rounding})", taken(k))
                    }
                    Some(own) => format!("fixed ratio {own:.2}"),
                    None => format!("ratio {:.2} (coupled to a group with a fixed ratio)", taken(k)),
                }
            } else if unit.kmax == 0 {
                format!("kept whole: {}", floor(share.size, unit, limits))
            } else if unit.levels.len() == 1 {
                format!("kept whole: no smaller count is allowed when rounding {rounding}")
            } else if k == 0 && wanted == 0.0 {
                "kept whole: every score is above the cut".to_owned()
            } else if level != nearest(&unit.levels, wanted) {
                format!("ratio {asked:.2} → {:.2} (rounded {rounding}, moved to meet the budget)", taken(k))
            } else if differ(asked, taken(k)) {
                format!("ratio {asked:.2} → {:.2} (rounded {rounding})", taken(k))
            } else if level + 1 == unit.levels.len() {
                format!("ratio {:.2}, at the floor", taken(k))
            } else {
                format!("ratio {:.2}", taken(k))
            };
        }
    }
    reasons
}

fn differ(a: f64, b: f64) -> bool {
    format!("{a:.2}") != format!("{b:.2}")
}

/// Which floor keeps a unit whole.
fn floor(size: usize, unit: &UnitPlan, limits: &Limits) -> String {
    if unit.hard_max == 0 {
        "the last channel cannot go".to_owned()
    } else if unit.shares.iter().any(|s| s.kept(1) < limits.min_channels) {
        format!("min-channels {}", limits.min_channels)
    } else {
        format!("max-layer-ratio {} of {size} channels", limits.max_layer_ratio)
    }
}

/// The nearest reachable value and what holds it back, when the budget is missed.
pub(super) fn missed(
    ch: &Channels,
    units: &[UnitPlan],
    outcome: &Outcome,
    budget: &Budget,
    limits: &Limits,
    reached: &Reached,
) -> Option<String> {
    if units.iter().all(|u| u.hard_max == 0) {
        let held =
            if ch.pins.is_empty() { String::new() } else { format!("; {} weight axes are pinned", ch.pins.len()) };
        return Some(format!("nothing is prunable in this model{held}"));
    }
    let (asked, what) = match *budget {
        Budget::Threshold(_) => return None,
        Budget::Ratio(r) => (r, "of the prunable channels removed"),
        Budget::TargetMacs(s) => (s, "of the MACs"),
        Budget::TargetParams(s) => (s, "of the parameters"),
        Budget::TargetLatency(s) => (s, "of the measured time"),
    };
    if (reached.value - asked).abs() <= TOLERANCE {
        return None;
    }
    let target = outcome.target?;
    let found = outcome.value(units, |unit, u| unit.levels[outcome.level[u]]);
    let fixed = |unit: &UnitPlan| unit.fixed.map(|at| unit.levels[at]);
    let whole = outcome.value(units, |_, _| 0);
    let slack = TOLERANCE * whole;
    let cause = if found < target {
        if outcome.value(units, |unit, _| fixed(unit).unwrap_or(0)) + slack < target {
            "the layers with a ratio of their own, which already remove more".to_owned()
        } else {
            rounding(limits)
        }
    } else {
        let bare = outcome.value(units, |unit, _| unit.hard_max);
        if bare > target + slack {
            let share = if matches!(budget, Budget::Ratio(_)) { 1.0 - bare / whole } else { bare / whole };
            format!(
                "what is pinned: one channel left in every group would give {share:.3} ({} pinned weight axes)",
                ch.pins.len()
            )
        } else if outcome.value(units, |unit, _| fixed(unit).unwrap_or(unit.kmax)) > target + slack {
            floors(units, limits)
        } else if matches!(budget, Budget::Ratio(_)) && limits.scope == super::Scope::Local {
            format!("the local scope, in which no layer makes up for another, with {}", floors(units, limits))
        } else {
            rounding(limits)
        }
    };
    Some(format!("{}: the nearest reachable is {:.3} {what}; held back by {cause}", reached.requested, reached.value))
}

fn floors(units: &[UnitPlan], limits: &Limits) -> String {
    let mut all =
        vec![format!("min-channels {}", limits.min_channels), format!("max-layer-ratio {}", limits.max_layer_ratio)];
    let groups =
        |test: &dyn Fn(&UnitPlan) -> bool| units.iter().filter(|u| test(u)).map(|u| u.shares.len()).sum::<usize>();
    for (count, what) in [(groups(&|u| u.excluded), "excluded"), (groups(&|u| u.fixed.is_some()), "with a fixed ratio")]
    {
        if count > 0 {
            all.push(format!("{count} group{} {what}", if count == 1 { "" } else { "s" }));
        }
    }
    all.join(", ")
}

fn rounding(limits: &Limits) -> String {
    match limits.round_to {
        RoundTo::Multiple(1) => "the size of the steps: no combination of counts comes nearer".to_owned(),
        round => format!("rounding (round-to {round}): no allowed combination of counts comes nearer"),
    }
}
