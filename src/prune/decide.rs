//! From a request to a decision: limits by name, rounds, stored plans.

use super::{Clock, DEFAULT_CRITERION, FALLBACK_CRITERION, Options, Traced, calibrated};
use crate::calibrate::activations::Activations;
use crate::channels::{Channels, weights::Weights};
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::plan::{self, Budget, Decision, Limits, PlanFile, Reached, Times};
use crate::score::{self, CriterionSpec, ScoreContext, Scores};
use regex::Regex;

fn matches(graph: &Graph, ch: &Channels, group: usize, re: &Regex) -> bool {
    let g = &ch.groups[group];
    re.is_match(&g.name)
        || g.layers.iter().any(|&n| re.is_match(&graph.name(n)))
        || g.axes.iter().any(|&(a, _)| re.is_match(&graph.value(ch.tensor_of(a).value).name))
}

pub(super) fn limits(graph: &Graph, ch: &Channels, o: &Options) -> Result<Limits> {
    let all = 0..ch.groups.len();
    let any = |g: usize, list: &[Regex]| list.iter().any(|r| matches(graph, ch, g, r));
    for r in o.exclude.iter().chain(&o.only).chain(o.layer_ratio.iter().map(|(r, _)| r)) {
        if !all.clone().any(|g| matches(graph, ch, g, r)) {
            return Err(Error::Usage(format!(
                "no prunable channel group has a node or tensor name that matches {:?}; `onnx-prune inspect` lists them",
                r.as_str()
            )));
        }
    }
    let exclude: Vec<usize> =
        all.clone().filter(|&g| any(g, &o.exclude) || (!o.only.is_empty() && !any(g, &o.only))).collect();
    let layer_ratio = all
        .filter(|g| !exclude.contains(g))
        .filter_map(|g| o.layer_ratio.iter().rev().find(|(r, _)| matches(graph, ch, g, r)).map(|(_, x)| (g, *x)))
        .collect();
    Ok(Limits {
        scope: o.scope,
        min_channels: o.min_channels,
        max_layer_ratio: o.max_layer_ratio,
        round_to: o.round_to,
        whole: ch.groups.iter().map(|g| o.whole.get(&g.name).copied().unwrap_or(g.channels.len())).collect(),
        exclude,
        layer_ratio,
    })
}

/// The budget of round `k` of `n`.
fn partial(budget: Budget, k: usize, n: usize) -> Budget {
    if k == n {
        return budget;
    }
    let part = k as f64 / n as f64;
    match budget {
        Budget::Ratio(r) => Budget::Ratio(r * part),
        Budget::TargetMacs(f) => Budget::TargetMacs(1.0 - (1.0 - f) * part),
        Budget::TargetParams(f) => Budget::TargetParams(1.0 - (1.0 - f) * part),
        Budget::TargetLatency(f) => Budget::TargetLatency(1.0 - (1.0 - f) * part),
        Budget::Threshold(t) => Budget::Threshold(t),
    }
}

/// What ranks single channels. Error curves take over what the default says.
fn ranking(o: &Options) -> Result<CriterionSpec> {
    match &o.criterion {
        Some(s) if calibrated::applies(o).is_none() => Ok(s.clone()),
        _ => DEFAULT_CRITERION.parse(),
    }
}

pub(super) fn decide(
    t: &Traced,
    o: &Options,
    seen: Option<&Activations>,
    clock: &mut Clock,
    progress: &dyn Fn(&str),
    notes: &mut Vec<String>,
) -> Result<(Decision, Option<Scores>)> {
    let (graph, ch) = (t.analysis.graph, &t.trace.channels);
    if o.steps == 0 {
        return Err(Error::Usage("--steps must be at least 1".into()));
    }
    o.budget.check()?;
    let fallback: CriterionSpec = FALLBACK_CRITERION.parse()?;
    let spec = ranking(o)?;
    let limits = limits(graph, ch, o)?;
    let mut gone: Vec<Vec<usize>> = vec![Vec::new(); ch.groups.len()];
    let mut last = None;
    let times = times(t, o, &limits, clock, progress)?;
    // What is gone has no score in the next round; it keeps its last one.
    let mut known: Vec<Vec<f64>> = Vec::new();
    // A threshold is a statement about the scores of the model as it is.
    let steps = if matches!(o.budget, Budget::Threshold(_)) { 1 } else { o.steps };
    for k in 1..=steps {
        let scores = clock.time("score", || rescore(graph, ch, o, seen, &spec, &fallback, &gone))?;
        let budget = partial(o.budget, k, steps);
        let decision = clock.time("plan", || plan::decide(ch, &scores.values, &budget, times.as_ref(), &limits))?;
        known = scores.values.iter().enumerate().map(|(g, values)| merged(values, gone.get(g), known.get(g))).collect();
        gone.clone_from(&decision.removed);
        last = Some((decision, scores));
    }
    let (decision, mut scores): (Decision, Scores) =
        last.ok_or_else(|| Error::Usage("--steps must be at least 1".into()))?;
    scores.values = known;
    if o.criterion.is_some() && scores.fallback_groups > 0 {
        notes.push(format!(
            "{} of {} channel groups have no BatchNormalization for `--criterion {spec}` (folded away, or never there); they \
             were ranked by `{FALLBACK_CRITERION}`. Ask for `--criterion {FALLBACK_CRITERION}` to rank all groups alike.",
            scores.fallback_groups,
            ch.groups.len()
        ));
    }
    Ok((decision, Some(scores)))
}

/// What the layers take, when the budget is about time.
pub(super) fn times(
    t: &Traced,
    o: &Options,
    limits: &Limits,
    clock: &mut Clock,
    progress: &dyn Fn(&str),
) -> Result<Option<Times>> {
    if !matches!(o.budget, Budget::TargetLatency(_)) {
        return Ok(None);
    }
    let ch = &t.trace.channels;
    let watch =
        o.latency.as_ref().ok_or_else(|| Error::Usage("a latency target needs a runtime to measure on".into()))?;
    // Which channels go does not matter here, only how many.
    let any: Vec<Vec<f64>> = ch.groups.iter().map(|g| vec![0.0; g.channels.len()]).collect();
    let levels = plan::levels(ch, &any, limits)?;
    clock.time("layer times", || watch.times(t, &levels, progress)).map(Some)
}

/// A group's scores, those of channels that were gone before from earlier rounds.
fn merged(values: &[f64], gone: Option<&Vec<usize>>, before: Option<&Vec<f64>>) -> Vec<f64> {
    let mut out = values.to_vec();
    for &c in gone.into_iter().flatten() {
        if let (Some(slot), Some(old)) = (out.get_mut(c), before.and_then(|b| b.get(c))) {
            *slot = *old;
        }
    }
    out
}

/// Scores of the model as it is.
pub(super) fn fresh_scores(graph: &Graph, ch: &Channels, o: &Options, seen: Option<&Activations>) -> Result<Scores> {
    let fallback: CriterionSpec = FALLBACK_CRITERION.parse()?;
    let spec = ranking(o)?;
    rescore(graph, ch, o, seen, &spec, &fallback, &vec![Vec::new(); ch.groups.len()])
}

/// Scores with the channels of earlier rounds gone; those come first in every ranking.
fn rescore(
    graph: &Graph,
    ch: &Channels,
    o: &Options,
    seen: Option<&Activations>,
    spec: &CriterionSpec,
    fallback: &CriterionSpec,
    gone: &[Vec<usize>],
) -> Result<Scores> {
    let removed = plan::removed_indices(ch, gone);
    let weights = Weights { graph, channels: ch, removed: &removed };
    if gone.iter().all(Vec::is_empty) {
        let cx =
            ScoreContext { channels: ch, params: &weights, seed: o.seed, activations: seen, criteria: &o.criteria };
        return score::score_all(&cx, spec, fallback, o.aggregate, o.normalize);
    }
    let mut left = ch.clone();
    for (g, gone) in left.groups.iter_mut().zip(gone) {
        let mut k = 0;
        g.channels.retain(|_| {
            k += 1;
            gone.binary_search(&(k - 1)).is_err()
        });
    }
    let cx = ScoreContext { channels: &left, params: &weights, seed: o.seed, activations: seen, criteria: &o.criteria };
    let mut scores = score::score_all(&cx, spec, fallback, o.aggregate, o.normalize)?;
    for ((values, gone), g) in scores.values.iter_mut().zip(gone).zip(&ch.groups) {
        let mut kept = std::mem::take(values).into_iter();
        *values = (0..g.channels.len())
            .map(|c| if gone.binary_search(&c).is_ok() { -1e300 } else { kept.next().unwrap_or(0.0) })
            .collect();
    }
    Ok(scores)
}

pub(super) fn from_plan(ch: &Channels, file: &PlanFile) -> Result<Decision> {
    let removed = plan::from_file(ch, file)?;
    let counts: Vec<usize> = removed.iter().map(Vec::len).collect();
    let prunable: usize = ch.groups.iter().map(|g| g.channels.len()).sum();
    let gone: usize = counts.iter().sum();
    Ok(Decision {
        reasons: removed.iter().map(|r| if r.is_empty() { String::new() } else { "from the plan".into() }).collect(),
        reached: Reached {
            channels_removed: gone,
            channels_prunable: prunable,
            macs_before: plan::macs(ch, &[]),
            macs_after: plan::macs(ch, &counts),
            params_before: plan::params(ch, &[]),
            params_after: plan::params(ch, &counts),
            requested: format!("plan ({})", file.budget),
            value: gone as f64 / (prunable.max(1)) as f64,
            missed: None,
        },
        removed,
    })
}
