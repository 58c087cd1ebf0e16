//! The report's figures.

use super::{DEFAULT_CRITERION, FALLBACK_CRITERION, Options, Traced};
use crate::onnx::proto::{GraphProto, NodeProto, TensorProto};
use crate::onnx::{Model, tensor};
use crate::plan::{Budget, Decision, Scope};
use crate::report::{
    GroupReport, ModelFigures, PruneReport, RecoverReport, SCHEMA_VERSION, ScoreHistogram, VerifyReport,
};
use crate::score::Scores;
use std::collections::BTreeMap;

/// Elements of all floating-point or quantised constants with at least one axis, as the file holds them, subgraphs and functions
/// included.
pub fn count_params(model: &Model) -> u64 {
    fn of_nodes(nodes: &[NodeProto]) -> u64 {
        let attributes = nodes.iter().flat_map(|n| &n.attribute);
        sum(attributes.map(|a| of_tensors(&a.t).saturating_add(sum(a.g.iter().chain(&a.graphs).map(of_graph)))))
    }
    fn of_graph(g: &GraphProto) -> u64 {
        of_tensors(&g.initializer).saturating_add(of_nodes(&g.node))
    }
    fn of_tensors<'a>(tensors: impl IntoIterator<Item = &'a TensorProto>) -> u64 {
        let params = tensors.into_iter().filter(|t| tensor::is_parameter(t.data_type()) && !t.dims.is_empty());
        sum(params.filter_map(|t| tensor::numel(t).ok()).map(|n| n as u64))
    }
    fn sum(counts: impl Iterator<Item = u64>) -> u64 {
        counts.fold(0, u64::saturating_add)
    }
    let functions = sum(model.proto.functions.iter().map(|f| of_nodes(&f.node)));
    model.proto.graph.as_ref().map_or(0, of_graph).saturating_add(functions)
}

fn requested(budget: &Budget) -> f64 {
    match *budget {
        Budget::Ratio(x) | Budget::Threshold(x) | Budget::TargetMacs(x) | Budget::TargetParams(x) => x,
        Budget::TargetLatency(x) => x,
    }
}

/// Bins of the scores' histogram.
const BINS: usize = 32;
/// The bins are evenly wide up to this quantile; the last one has the rest, so that a few large scores do not push all others
/// into one bin.
const MOST: f64 = 0.97;

/// The scores of all groups together; `None` without channels. `removed`: per group, ascending.
fn histogram(scores: &[Vec<f64>], removed: &[Vec<usize>]) -> Option<ScoreHistogram> {
    let went = |g: usize, c: usize| removed.get(g).is_some_and(|r| r.binary_search(&c).is_ok());
    let each = scores.iter().enumerate().flat_map(|(g, s)| s.iter().enumerate().map(move |(c, &x)| (x, went(g, c))));
    let mut all: Vec<(f64, bool)> = each.collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (low, high) = (all.first()?.0, all.last()?.0);
    let gone = all.iter().filter(|x| x.1).count();
    let cut = gone.checked_sub(1).and_then(|k| all.get(k)).map(|x| x.0);
    let beyond = all.iter().filter(|(x, went)| *went && cut.is_some_and(|c| *x > c)).count();
    let upper = all.get((MOST * (all.len() - 1) as f64) as usize).map_or(high, |x| x.0);
    let bins = if upper > low { BINS } else { 1 };
    let width = (upper - low) / bins as f64;
    let mut edges: Vec<f64> = (0..bins).map(|k| low + width * k as f64).collect();
    edges.push(high);
    let mut h = ScoreHistogram { kept: vec![0; bins], removed: vec![0; bins], edges, cut, beyond: beyond as u64 };
    for (x, went) in all {
        let at = h.edges.partition_point(|e| *e <= x).saturating_sub(1).min(bins - 1);
        let counts = if went { &mut h.removed } else { &mut h.kept };
        if let Some(n) = counts.get_mut(at) {
            *n += 1;
        }
    }
    Some(h)
}

pub(super) fn new_report(
    model: &Model,
    t: &Traced,
    o: &Options,
    d: &Decision,
    scores: Option<&Scores>,
    notes: Vec<String>,
) -> PruneReport {
    let ch = &t.trace.channels;
    let graph = t.analysis.graph;
    let groups = ch
        .groups
        .iter()
        .enumerate()
        .map(|(i, g)| GroupReport {
            id: g.name.clone(),
            layers: g.layers.iter().map(|&n| graph.name(n)).collect(),
            channels_before: g.channels.len(),
            channels_after: g.channels.len() - d.removed.get(i).map_or(0, Vec::len),
            reason: d.reasons.get(i).cloned().unwrap_or_default(),
            criterion: scores.and_then(|s| s.used.get(i).cloned()).unwrap_or_default(),
        })
        .collect();
    let path = model.path.display().to_string();
    PruneReport {
        schema_version: SCHEMA_VERSION,
        tool: concat!("onnx-prune ", env!("CARGO_PKG_VERSION")).into(),
        original: ModelFigures {
            path,
            opset: t.analysis.opset,
            params: count_params(model),
            macs: d.reached.macs_before.round() as u64,
            bytes: model.bytes_on_disk,
        },
        pruned: ModelFigures {
            path: String::new(),
            opset: t.analysis.opset,
            params: d.reached.params_after.round() as u64,
            macs: d.reached.macs_after.round() as u64,
            bytes: 0,
        },
        budget: d.reached.requested.clone(),
        ratio_requested: if o.plan.is_some() { d.reached.value } else { requested(&o.budget) },
        ratio_reached: d.reached.value,
        missed: d.reached.missed.clone(),
        channels_prunable: d.reached.channels_prunable,
        channels_removed: d.reached.channels_removed,
        criterion: match (&o.criterion, super::calibrated::applies(o)) {
            (Some(c), _) => c.to_string(),
            // One share for all: only the order within a layer comes from the data.
            (None, Some((kind, cal))) if o.scope == Scope::Local => {
                format!(
                    "{} (default with data: an order of each layer's channels from {} samples)",
                    kind.name(),
                    cal.samples()
                )
            }
            (None, Some((kind, cal))) => format!(
                "{} (default with data: error curves from {} samples, weighed by their measured effect)",
                kind.name(),
                cal.samples()
            ),
            (None, None) => {
                format!("{DEFAULT_CRITERION} (default; {FALLBACK_CRITERION} where there is no BatchNormalization)")
            }
        },
        notes,
        approximated: Vec::new(),
        groups,
        // With error curves the scores are places in a group's own order.
        scores: scores
            .filter(|_| super::calibrated::applies(o).is_none())
            .and_then(|s| histogram(&s.values, &d.removed)),
        pins: ch.pins.clone(),
        recover: RecoverReport { mode: o.recover.name().into(), ..RecoverReport::default() },
        verify: VerifyReport { runtime: "none".into(), max_rel_diff: None, note: "dry run".into() },
        accuracy: None,
        rounds: Vec::new(),
        latency_target: None,
        models: None,
        gates: Vec::new(),
        passed: None,
        baseline: None,
        comparison: None,
        latency: None,
        timings_ms: BTreeMap::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_channel_is_in_one_bin() {
        let scores = vec![(0..50).map(f64::from).collect::<Vec<_>>(), vec![1e6, 3.5, 3.5]];
        let removed = vec![vec![0, 1, 2, 40], vec![1]];
        let h = histogram(&scores, &removed).unwrap();
        assert_eq!((h.edges.len(), h.kept.len(), h.removed.len()), (BINS + 1, BINS, BINS));
        assert_eq!((h.kept.iter().sum::<u64>(), h.removed.iter().sum::<u64>()), (48, 5));
        assert!(h.edges.is_sorted() && h.edges[BINS] == 1e6);
        // Five went; the five lowest are 0, 1, 2, 3 and 3.5.
        assert_eq!((h.cut, h.beyond), (Some(3.5), 1));
        assert_eq!(histogram(&[], &[]), None);
        let same = histogram(&[vec![2.0; 4]], &[vec![]]).unwrap();
        assert_eq!((same.edges, same.kept, same.cut), (vec![2.0, 2.0], vec![4], None));
    }
}
