//! Pins by what holds: one node may hold back many layers for one reason.

use crate::channels::Pin;
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::{BTreeSet, HashMap};

/// All pins with the same node and reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PinSummary {
    /// Name of the node that pins.
    pub node: String,
    /// Its operator.
    pub op: String,
    /// Why.
    pub reason: String,
    /// The layers that it holds back, in graph order.
    pub layers: Vec<String>,
    /// One parameter axis that is held back: `tensor axis 0 (64 of 64)`.
    pub example: String,
}

/// Most layers first, then as in the graph.
pub fn summarise(pins: &[Pin]) -> Vec<PinSummary> {
    let mut index: HashMap<(&str, &str, &str), usize> = HashMap::new();
    let mut seen: Vec<BTreeSet<&str>> = Vec::new();
    let mut all: Vec<PinSummary> = Vec::new();
    for pin in pins {
        let at = *index.entry((&pin.node, &pin.op, &pin.reason)).or_insert_with(|| {
            seen.push(BTreeSet::new());
            all.push(PinSummary {
                node: pin.node.clone(),
                op: pin.op.clone(),
                reason: pin.reason.clone(),
                layers: Vec::new(),
                example: format!("{} axis {} ({} of {})", pin.tensor, pin.axis, pin.pinned, pin.len),
            });
            all.len() - 1
        });
        if let (Some(summary), Some(seen)) = (all.get_mut(at), seen.get_mut(at))
            && seen.insert(&pin.layer)
        {
            summary.layers.push(pin.layer.clone());
        }
    }
    all.sort_by_key(|s| std::cmp::Reverse(s.layers.len()));
    all
}
