//! `inspect --why NODE`: one node's channels, followed through the graph.

use super::INSPECT_SCHEMA_VERSION;
use crate::canon::Analysis;
use crate::channels::why::{AxisWhy, Part, why};
use crate::error::{Error, Result};
use crate::flat::flatten;
use crate::graph::{Graph, NodeId};
use crate::onnx::Model;
use crate::prune::{Traced, analyse};
use schemars::JsonSchema;
use serde::Serialize;

/// A node and what becomes of its channels.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Why {
    /// Version of this form, [`INSPECT_SCHEMA_VERSION`].
    #[schemars(extend("const" = INSPECT_SCHEMA_VERSION))]
    pub schema_version: u32,
    /// The file.
    pub path: String,
    /// The node.
    pub node: String,
    /// Its operator.
    pub op: String,
    /// Its parameter axes (of a node without parameters: its output axes).
    pub axes: Vec<WhyAxis>,
}

/// One axis.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct WhyAxis {
    /// The tensor.
    pub tensor: String,
    /// The axis.
    pub axis: usize,
    /// Its length (of a grouped convolution's weight: over all groups).
    pub len: usize,
    /// How many of its indices can go.
    pub free: usize,
    /// The groups that they belong to, and how many channels each has.
    pub groups: Vec<(String, usize)>,
    /// Every node that the first of them passes, in graph order.
    pub passes: Vec<WhyStep>,
    /// What holds the others.
    pub held: Vec<WhyHeld>,
}

/// A node on the way.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct WhyStep {
    /// The node.
    pub node: String,
    /// Its operator.
    pub op: String,
    /// `makes`, `reads`, `joins` or `carries`.
    pub part: &'static str,
}

/// What holds indices back.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct WhyHeld {
    /// How many indices.
    pub indices: usize,
    /// The node that pins, or `graph`.
    pub node: String,
    /// Its operator.
    pub op: String,
    /// Why.
    pub reason: String,
    /// The way there: operators and nodes, both ends included.
    pub path: Vec<(String, String)>,
}

/// Follows the channels of the node with this name.
///
/// # Errors
/// [`Error::Usage`] when no node has the name (near ones are suggested), and as [`analyse`].
pub fn explain(model: &Model, name: &str) -> Result<Why> {
    let flat = flatten(model)?;
    let graph = Graph::new(&flat)?;
    let t = analyse(&graph)?;
    let node = find(&graph, name)?;
    let axes = why(&t.analysis, node)?;
    Ok(Why {
        schema_version: INSPECT_SCHEMA_VERSION,
        path: model.path.display().to_string(),
        node: graph.name(node),
        op: graph.op(node),
        axes: axes.into_iter().map(|x| axis(&t, x)).collect(),
    })
}

/// By name, else by the only name that ends like this, else by an output's name.
fn find(graph: &Graph, name: &str) -> Result<NodeId> {
    let all = || graph.order.iter().copied();
    if let Some(n) = all().find(|&n| graph.name(n) == name) {
        return Ok(n);
    }
    if let Some(crate::graph::Origin::Node(n, _)) = graph.find(name).map(|v| graph.value(v).origin) {
        return Ok(n);
    }
    let like: Vec<NodeId> = all().filter(|&n| graph.name(n).contains(name)).collect();
    match like.as_slice() {
        [only] => Ok(*only),
        [] => Err(Error::Usage(format!(
            "{}: no node is named {name:?}; `onnx-prune inspect --format json` lists the layers",
            graph.model.path.display()
        ))),
        many => {
            let names: Vec<String> = many.iter().take(8).map(|&n| format!("{:?}", graph.name(n))).collect();
            let more = if many.len() > 8 { format!(" and {} more", many.len() - 8) } else { String::new() };
            Err(Error::Usage(format!(
                "{}: {name:?} is the name of no node and part of several: {}{more}",
                graph.model.path.display(),
                names.join(", ")
            )))
        }
    }
}

fn label(a: &Analysis, n: NodeId) -> (String, String) {
    (a.graph.op(n), a.graph.name(n))
}

fn axis(t: &Traced, x: AxisWhy) -> WhyAxis {
    let (a, ch) = (&t.analysis, &t.trace.channels);
    let tensor = ch.tensor(x.tensor);
    let groups = ch.groups.iter().filter(|g| g.axes.iter().any(|&(id, _)| id == x.axis));
    let held = x.held.into_iter().map(|h| {
        let (op, node) = h.node.map_or_else(|| ("graph".into(), "graph".into()), |n| label(a, n));
        WhyHeld {
            indices: h.indices,
            node,
            op,
            reason: h.reason,
            path: h.path.into_iter().map(|n| label(a, n)).collect(),
        }
    });
    WhyAxis {
        tensor: tensor.source.map_or_else(|| tensor.key.clone(), |s| a.graph.value(s).name.clone()),
        axis: ch.axis(x.axis).axis,
        len: ch.axis(x.axis).len,
        free: x.free,
        groups: groups.map(|g| (g.name.clone(), g.channels.len())).collect(),
        passes: x
            .steps
            .iter()
            .map(|s| {
                let (op, node) = label(a, s.node);
                let part = match s.part {
                    Part::Makes => "makes",
                    Part::Reads => "reads",
                    Part::Joins => "joins",
                    Part::Carries => "carries",
                };
                WhyStep { node, op, part }
            })
            .collect(),
        held: held.collect(),
    }
}
