//! Which nodes ran where, and for how long: what ONNX Runtime's profile of some runs says.

use crate::error::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Where the nodes of a loaded model run. Nodes are counted after the runtime has fused them: what TensorRT, OpenVINO or
/// Core ML take over as a whole is one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Placement {
    /// The provider that was asked for.
    pub provider: String,
    /// Nodes that ran.
    pub nodes: usize,
    /// Those of them on the provider that was asked for.
    pub on_device: usize,
    /// The nodes of every provider.
    pub by_provider: BTreeMap<String, usize>,
}

impl Placement {
    /// The share of the nodes that ran where they were meant to, from 0 to 1; 1 when no node ran.
    pub fn share(&self) -> f64 {
        if self.nodes == 0 { 1.0 } else { self.on_device as f64 / self.nodes as f64 }
    }
}

/// The time that all nodes of one operator take in one run.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct OpTime {
    /// The operator as the runtime runs it, after fusion.
    pub op: String,
    /// How many nodes there are.
    pub nodes: usize,
    /// Milliseconds a run, the mean.
    pub ms: f64,
}

/// What a profile says.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    events: Vec<Event>,
    /// Runs that have ended.
    runs: usize,
}

/// One node that has run once.
#[derive(Clone, Debug)]
struct Event {
    node: String,
    op: String,
    provider: String,
    microseconds: f64,
    /// The number of the run, from 0.
    run: usize,
}

/// An entry of the file.
#[derive(Deserialize)]
struct Entry {
    cat: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    dur: f64,
    #[serde(default)]
    args: serde_json::Map<String, serde_json::Value>,
}

/// Other events of a node are about fences, not about its work.
const KERNEL: &str = "_kernel_time";
/// Comes at the end of each run.
const RUN: &str = "model_run";

impl Profile {
    /// Reads ONNX Runtime's JSON.
    ///
    /// # Errors
    /// [`Error::Runtime`] when the text is something else.
    pub fn parse(text: &str) -> Result<Self> {
        let entries: Vec<Entry> = serde_json::from_str(text).map_err(|e| Error::Runtime {
            runtime: "onnxruntime",
            message: format!("its profile is not what is expected: {e}"),
        })?;
        let mut profile = Self::default();
        for e in entries {
            if e.cat == "Session" && e.name == RUN {
                profile.runs += 1;
            }
            let Some(node) = e.name.strip_suffix(KERNEL).filter(|_| e.cat == "Node") else { continue };
            let text = |key| e.args.get(key).and_then(|v| v.as_str()).unwrap_or_default();
            profile.events.push(Event {
                // Names may be empty or repeat, the index does not (within one graph).
                node: format!("{} {node}", text("node_index")),
                op: text("op_name").to_owned(),
                provider: text("provider").to_owned(),
                microseconds: e.dur,
                run: profile.runs,
            });
        }
        Ok(profile)
    }

    /// Where the nodes ran, seen from the provider that was asked for.
    pub fn placement(&self, provider: &str) -> Placement {
        let nodes: BTreeSet<(&str, &str)> = self.events.iter().map(|e| (&*e.node, &*e.provider)).collect();
        let mut by_provider: BTreeMap<String, usize> = BTreeMap::new();
        for (_, provider) in &nodes {
            *by_provider.entry((*provider).to_owned()).or_default() += 1;
        }
        let on_device = by_provider.get(provider).copied().unwrap_or(0);
        Placement { provider: provider.to_owned(), nodes: nodes.len(), on_device, by_provider }
    }

    /// Milliseconds of each run, all nodes but those of some operators together. The first run allocates and does not count, if
    /// there are others.
    pub fn runs_without(&self, operators: &[&str]) -> Vec<f64> {
        let first = usize::from(self.runs > 1);
        let mut ms = vec![0.0; self.runs.saturating_sub(first)];
        for e in self.events.iter().filter(|e| !operators.contains(&&*e.op)) {
            if let Some(sum) = e.run.checked_sub(first).and_then(|run| ms.get_mut(run)) {
                *sum += e.microseconds / 1e3;
            }
        }
        ms
    }

    /// The time of each operator, the largest first. The first run allocates and does not count, if there are others.
    pub fn by_operator(&self) -> Vec<OpTime> {
        let first = usize::from(self.runs > 1);
        let runs = self.runs.saturating_sub(first).max(1);
        let mut all: BTreeMap<&str, (BTreeSet<&str>, f64)> = BTreeMap::new();
        for e in self.events.iter().filter(|e| e.run >= first) {
            let (nodes, time) = all.entry(&e.op).or_default();
            nodes.insert(&e.node);
            *time += e.microseconds;
        }
        let each = all.into_iter().map(|(op, (nodes, time))| OpTime {
            op: op.to_owned(),
            nodes: nodes.len(),
            ms: time / 1e3 / runs as f64,
        });
        let mut times: Vec<OpTime> = each.collect();
        times.sort_by(|a, b| b.ms.total_cmp(&a.ms).then_with(|| a.op.cmp(&b.op)));
        times
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, index: u32, op: &str, provider: &str, dur: u32) -> String {
        format!(
            r#"{{"cat":"Node","pid":1,"tid":1,"dur":{dur},"ts":1,"ph":"X","name":"{name}","args":{{"op_name":"{op}","provider":"{provider}","node_index":"{index}","output_size":"1"}}}}"#
        )
    }

    #[test]
    fn nodes_are_counted_by_provider_and_timed_by_operator() {
        let end = || r#"{"cat":"Session","dur":9,"name":"model_run","args":{}}"#.to_owned();
        let entries = [
            r#"{"cat":"Session","dur":9,"name":"session_initialization","args":{}}"#.to_owned(),
            node("a_kernel_time", 0, "Conv", "XExecutionProvider", 9999),
            node("_kernel_time", 1, "Conv", "XExecutionProvider", 9999),
            node("_kernel_time", 2, "Shape", "CPUExecutionProvider", 9999),
            end(),
            node("a_fence_before", 0, "Conv", "XExecutionProvider", 100),
            node("a_kernel_time", 0, "Conv", "XExecutionProvider", 1000),
            node("_kernel_time", 1, "Conv", "XExecutionProvider", 500),
            node("_kernel_time", 2, "Shape", "CPUExecutionProvider", 2),
            end(),
            node("a_kernel_time", 0, "Conv", "XExecutionProvider", 3000),
            node("_kernel_time", 1, "Conv", "XExecutionProvider", 500),
            node("_kernel_time", 2, "Shape", "CPUExecutionProvider", 4),
            end(),
        ];
        let profile = Profile::parse(&format!("[\n{}\n]", entries.join(",\n"))).unwrap();
        let placement = profile.placement("XExecutionProvider");
        assert_eq!((placement.nodes, placement.on_device), (3, 2));
        assert!((placement.share() - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(placement.by_provider["CPUExecutionProvider"], 1);
        assert_eq!(profile.placement("YExecutionProvider").on_device, 0);
        let times = profile.by_operator();
        let conv = OpTime { op: "Conv".into(), nodes: 2, ms: 2.5 };
        assert_eq!(profile.runs_without(&["Shape"]), [1.5, 3.5]);
        assert_eq!(times, [conv, OpTime { op: "Shape".into(), nodes: 1, ms: 0.003 }]);
    }

    #[test]
    fn other_texts_are_errors() {
        assert!(Profile::parse("").is_err() && Profile::parse("{}").is_err() && Profile::parse("[{").is_err());
        assert_eq!(Profile::parse("[]").unwrap().placement("X").share(), 1.0);
    }
}
