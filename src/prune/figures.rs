//! The report's figures.

use super::{DEFAULT_CRITERION, FALLBACK_CRITERION, Options, Traced};
use crate::onnx::proto::{GraphProto, NodeProto, TensorProto};
use crate::onnx::{Model, tensor};
use crate::plan::{Budget, Decision};
use crate::report::{GroupReport, ModelFigures, PruneReport, RecoverReport, SCHEMA_VERSION, VerifyReport};
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
        pins: ch.pins.clone(),
        recover: RecoverReport { mode: o.recover.name().into(), ..RecoverReport::default() },
        verify: VerifyReport { runtime: "none".into(), max_rel_diff: None, note: "dry run".into() },
        accuracy: None,
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
