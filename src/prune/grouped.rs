//! Grouped convolutions lose the same count in every group, or whole groups: whichever keeps more importance.

use super::{Clock, Options, Traced, analyse_with, calibrated, check_weights, decide};
use crate::calibrate::activations::Activations;
use crate::channels::Channels;
use crate::error::Result;
use crate::graph::{Graph, NodeId};
use crate::ops::Policy;
use crate::plan::{self, Budget, Decision};
use crate::score::Scores;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap};

/// What grouped convolutions lose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grouped {
    /// Per convolution, whichever keeps more importance for the budget.
    #[default]
    Auto,
    /// The same number of channels in each group.
    Equal,
    /// Whole groups.
    Whole,
}

/// A trace with the decision made on it.
pub(super) struct Decided<'m> {
    pub traced: Traced<'m>,
    pub decision: Decision,
    pub scores: Option<Scores>,
    pub notes: Vec<String>,
    /// What a criterion from data was told.
    pub seen: Option<Activations>,
}

/// Traces and decides, under both treatments of grouped convolutions where there are any.
pub(super) fn decide_best<'m>(
    graph: &'m Graph<'m>,
    o: &Options,
    clock: &mut Clock,
    progress: &dyn Fn(&str),
) -> Result<Decided<'m>> {
    let exact = Policy { whole_groups: BTreeSet::new(), ..o.policy.clone() };
    let equal = decided(graph, o, &exact, clock, progress)?;
    let convs = equal.traced.trace.channels.grouped.clone();
    // A threshold speaks of single channels.
    if convs.is_empty() || o.grouped == Grouped::Equal || matches!(o.budget, Budget::Threshold(_)) {
        return Ok(equal);
    }
    let names = |nodes: &[NodeId]| nodes.iter().map(|&n| graph.name(n)).collect::<BTreeSet<_>>();
    let whole = decided(graph, o, &Policy { whole_groups: names(&convs), ..exact.clone() }, clock, progress)?;
    if o.grouped == Grouped::Whole {
        return Ok(whole);
    }
    let single = equal.traced.trace.channels.clone();
    let worth = Worth::new(graph, o, &single, equal.seen.as_ref(), clock)?;
    let better: Vec<NodeId> =
        convs.iter().copied().filter(|&n| worth.kept(&whole, Some(n)) > worth.kept(&equal, Some(n))).collect();
    let mut all = vec![equal, whole];
    if !better.is_empty() && better.len() < convs.len() {
        all.push(decided(graph, o, &Policy { whole_groups: names(&better), ..exact }, clock, progress)?);
    }
    // The first of equals: the same count in every group.
    let rank = |d: &Decided| (d.decision.reached.missed.is_none(), worth.kept(d, None));
    let ranks: Vec<(bool, f64)> = all.iter().map(rank).collect();
    let best = (1..all.len()).fold(0, |best, k| if ranks[k] > ranks[best] { k } else { best });
    Ok(all.swap_remove(best))
}

fn decided<'m>(
    graph: &'m Graph<'m>,
    o: &Options,
    policy: &Policy,
    clock: &mut Clock,
    progress: &dyn Fn(&str),
) -> Result<Decided<'m>> {
    let traced = clock.time("trace", || analyse_with(graph, policy))?;
    check_weights(graph, &traced.trace.channels)?;
    let seen = calibrated::activations(&traced, o, clock, progress)?;
    progress("score");
    let mut notes = Vec::new();
    let (decision, scores) = decide::decide(&traced, o, seen.as_ref(), clock, progress, &mut notes)?;
    Ok(Decided { traced, decision, scores, notes, seen })
}

/// The importance of single channels, to judge decisions on other traces by.
struct Worth<'a> {
    ch: &'a Channels,
    scores: Vec<Vec<f64>>,
    total: f64,
}

impl<'a> Worth<'a> {
    fn new(
        graph: &Graph,
        o: &Options,
        ch: &'a Channels,
        seen: Option<&Activations>,
        clock: &mut Clock,
    ) -> Result<Worth<'a>> {
        let scores = clock.time("score", || decide::fresh_scores(graph, ch, o, seen))?.values;
        let total = scores.iter().flatten().sum();
        Ok(Worth { ch, scores, total })
    }

    /// The share of the importance that stays: of all channels, or of those that a convolution reads or makes.
    fn kept(&self, d: &Decided, of: Option<NodeId>) -> f64 {
        let other = &d.traced.trace.channels;
        let removed = plan::removed_indices(other, &d.decision.removed);
        let by_key: HashMap<&str, usize> = other.tensors.iter().enumerate().map(|(i, t)| (t.key.as_str(), i)).collect();
        let gone = |axis: crate::channels::AxisId, i: usize| {
            let info = self.ch.axis(axis);
            let tensor = by_key.get(self.ch.tensor(info.tensor).key.as_str()).and_then(|&t| other.tensors.get(t));
            let there = tensor.and_then(|t| t.axes.get(info.axis).copied().flatten());
            there.and_then(|x| removed.get(x.0 as usize)).is_some_and(|r| r.binary_search(&i).is_ok())
        };
        let (mut kept, mut total) = (0.0, 0.0);
        for (g, scores) in self.ch.groups.iter().zip(&self.scores) {
            if of.is_some_and(|n| !g.layers.contains(&n)) {
                continue;
            }
            for (c, s) in g.channels.iter().zip(scores) {
                total += s;
                // The weight of a grouped convolution counts its second axis per group here and not there.
                let member = c.members.iter().find(|&&(x, _)| self.ch.axis(x).fold == 1);
                if !member.is_some_and(|&(x, i)| gone(x, i as usize)) {
                    kept += s;
                }
            }
        }
        let total = if of.is_none() { self.total } else { total };
        if total > 0.0 { kept / total } else { 1.0 }
    }
}
