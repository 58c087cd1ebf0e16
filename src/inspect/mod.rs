//! What can be told about a model without changing it: operators, sizes, chains, channel groups and pins.
//!
//! [`Inspection`] is the result of `onnx-prune inspect`. As JSON it has exactly the fields below, in this order;
//! [`INSPECT_SCHEMA_VERSION`] grows when a field changes its meaning or goes away. [`ModelInspection::graph`] is for drawing
//! only and not part of the JSON.

pub mod summary;
pub mod why;

use crate::channels::{AxisId, Channels, Pin, Role};
use crate::error::Result;
use crate::flat::flatten;
use crate::graph::{Graph, NodeId, Origin, ValueId, is_default_domain};
use crate::onnx::Model;
use crate::onnx::proto::{TypeProto, ValueInfoProto, tensor_shape_proto::dimension::Value as Dim, type_proto};
use crate::onnx::tensor;
use crate::ops::{Activation, chain};
use crate::plan;
use crate::prune::{Traced, analyse, count_params};
use crate::report::pins::{PinSummary, summarise};
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Version of the inspection's JSON schema.
pub const INSPECT_SCHEMA_VERSION: u32 = 1;

/// One model or several.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Inspection {
    /// Version of this form, [`INSPECT_SCHEMA_VERSION`].
    #[schemars(extend("const" = INSPECT_SCHEMA_VERSION))]
    pub schema_version: u32,
    /// Name and version of the tool.
    pub tool: String,
    /// In the order asked for.
    pub models: Vec<ModelInspection>,
}

/// One model.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ModelInspection {
    /// The file.
    pub path: String,
    /// Size on disk, external data included.
    pub bytes: u64,
    /// Version of the file format.
    pub ir_version: i64,
    /// Version of the default operator set.
    pub opset: i64,
    /// Other operator sets and their versions.
    pub domains: BTreeMap<String, i64>,
    /// Name and version of the exporter, where the file tells.
    pub producer: String,
    /// Graph inputs without a default.
    pub inputs: Vec<Interface>,
    /// Graph outputs.
    pub outputs: Vec<Interface>,
    /// Elements of all floating-point constants with at least one axis.
    pub params: u64,
    /// Multiply-accumulates of Conv, ConvTranspose, Gemm and MatMul, for one sample (dynamic positions: 224).
    pub macs: u64,
    /// Share of [`macs`](Self::macs) in layers that a removal can make cheaper: at least one axis is in a group.
    pub prunable_macs: f64,
    /// Channels in all groups.
    pub prunable_channels: usize,
    /// Nodes by operator, with those of subgraphs, and a function's nodes in place of each of its calls; operators of other
    /// domains as `domain:Op`.
    pub ops: BTreeMap<String, usize>,
    /// How often each kind of chain occurs, such as `Conv→BN→Relu`.
    pub chain_kinds: BTreeMap<String, usize>,
    /// Every layer with what follows it at once.
    pub chains: Vec<Chain>,
    /// Channels that can go, grouped.
    pub groups: Vec<GroupInspection>,
    /// What holds the other channels back, by node and reason.
    pub pinned_by: Vec<PinSummary>,
    /// Every parameter axis that is held back.
    pub pins: Vec<Pin>,
    /// Nodes and edges.
    #[serde(skip)]
    pub graph: Drawing,
}

/// A graph input or output.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Element type and dimensions as declared: `FLOAT[N, 3, 224, 224]`.
    pub r#type: String,
}

/// A layer and what follows it at once.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Chain {
    /// `Conv→BN→Relu`.
    pub kind: String,
    /// The Conv, ConvTranspose, Gemm or MatMul.
    pub layer: String,
    /// The batch normalization.
    pub batch_norm: Option<String>,
    /// The nodes that make up the activation (`Sigmoid` and `Mul` for SiLU); empty without one.
    pub activation: Vec<String>,
}

/// A channel group.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct GroupInspection {
    /// Its name: the first producing layer.
    pub id: String,
    /// Channels.
    pub channels: usize,
    /// Names of all layers that share the channels.
    pub layers: Vec<String>,
    /// Number of batch normalizations among them.
    pub batch_norms: usize,
    /// The parameter axes that a removal cuts.
    pub sites: Vec<SiteInspection>,
    /// Cells of its cardinality unit: above 1, the same number of channels goes from each (grouped convolution).
    pub cells: usize,
}

/// A parameter axis of a group.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct SiteInspection {
    /// The layer.
    pub layer: String,
    /// What the axis does there.
    pub role: Role,
    /// The parameter.
    pub tensor: String,
    /// The axis.
    pub axis: usize,
}

/// The graph as it is drawn.
#[derive(Clone, Debug, Default)]
pub struct Drawing {
    /// Inputs, nodes and outputs.
    pub nodes: Vec<DrawnNode>,
    /// Activations that flow between them.
    pub edges: Vec<DrawnEdge>,
}

/// What a drawn node stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drawn {
    /// A graph input or output.
    Interface,
    /// A node.
    Node,
}

/// A drawn node.
#[derive(Clone, Debug)]
pub struct DrawnNode {
    /// What it is.
    pub drawn: Drawn,
    /// The operator, `input` or `output`.
    pub op: String,
    /// Its name.
    pub name: String,
    /// Groups (by position) of the channels that it produces.
    pub groups: Vec<usize>,
    /// It has a parameter axis that is held back.
    pub pinned: bool,
}

/// A drawn edge, by positions in [`Drawing::nodes`].
#[derive(Clone, Debug)]
pub struct DrawnEdge {
    /// From.
    pub from: usize,
    /// To.
    pub to: usize,
    /// `?×64×?×?`, empty when the shape is not known; `?` is dynamic.
    pub shape: String,
}

/// Inspects models in the order given.
///
/// # Errors
/// When a graph is not well formed; see [`Graph::new`].
pub fn inspect<'m>(models: impl IntoIterator<Item = &'m Model>) -> Result<Inspection> {
    Ok(Inspection {
        schema_version: INSPECT_SCHEMA_VERSION,
        tool: concat!("onnx-prune ", env!("CARGO_PKG_VERSION")).into(),
        models: models.into_iter().map(one).collect::<Result<_>>()?,
    })
}

fn one(model: &Model) -> Result<ModelInspection> {
    let flat = flatten(model)?;
    let graph = Graph::new(&flat)?;
    let t = analyse(&graph)?;
    let ch = &t.trace.channels;
    let chains = chains(&t);
    let mut ops = BTreeMap::new();
    let mut chain_kinds = BTreeMap::new();
    for i in 0..graph.nodes.len() {
        *ops.entry(graph.op(NodeId(i as u32))).or_default() += 1;
    }
    for chain in &chains {
        *chain_kinds.entry(chain.kind.clone()).or_default() += 1;
    }
    let proto = &model.proto;
    let fed =
        |v: &&ValueInfoProto| graph.find(v.name()).is_some_and(|id| matches!(graph.value(id).origin, Origin::Input(_)));
    Ok(ModelInspection {
        path: model.path.display().to_string(),
        bytes: model.bytes_on_disk,
        ir_version: proto.ir_version(),
        opset: flat.opset(),
        domains: proto
            .opset_import
            .iter()
            .filter(|o| !is_default_domain(o.domain()))
            .map(|o| (o.domain().to_owned(), o.version()))
            .collect(),
        producer: format!("{} {}", proto.producer_name(), proto.producer_version()).trim().to_owned(),
        inputs: proto.graph.iter().flat_map(|g| &g.input).filter(fed).map(interface).collect(),
        outputs: proto.graph.iter().flat_map(|g| &g.output).map(interface).collect(),
        params: count_params(model),
        macs: plan::macs(ch, &[]).round() as u64,
        prunable_macs: prunable_macs(ch),
        prunable_channels: ch.groups.iter().map(|g| g.channels.len()).sum(),
        ops,
        chain_kinds,
        chains,
        groups: groups(&graph, ch),
        pinned_by: summarise(&ch.pins),
        pins: ch.pins.clone(),
        graph: drawing(&t, &proto.graph.iter().flat_map(|g| &g.output).map(|v| v.name()).collect()),
    })
}

/// Share of the MACs in nodes with an axis in a group.
fn prunable_macs(ch: &Channels) -> f64 {
    let free: BTreeSet<AxisId> = ch.groups.iter().flat_map(|g| &g.axes).map(|&(a, _)| a).collect();
    let of = |term: &crate::channels::MacTerm| {
        term.cost.axes.iter().map(|&a| ch.axis(a).len as f64).product::<f64>() * term.cost.constant
    };
    // The sum of nothing would be -0.
    let sum = |terms: &mut dyn Iterator<Item = &crate::channels::MacTerm>| terms.map(of).fold(0.0, |a, b| a + b);
    let all = sum(&mut ch.macs.iter());
    let part = sum(&mut ch.macs.iter().filter(|t| t.cost.axes.iter().any(|a| free.contains(a))));
    if all > 0.0 { part / all } else { 0.0 }
}

fn interface(v: &ValueInfoProto) -> Interface {
    Interface { name: v.name().to_owned(), r#type: v.r#type.as_ref().map_or_else(|| "?".to_owned(), type_text) }
}

fn type_text(t: &TypeProto) -> String {
    let Some(type_proto::Value::TensorType(t)) = &t.value else { return "not a tensor".into() };
    let dims = t.shape.iter().flat_map(|s| &s.dim).map(|d| match &d.value {
        Some(Dim::DimValue(n)) => n.to_string(),
        Some(Dim::DimParam(p)) if !p.is_empty() => p.clone(),
        _ => "?".to_owned(),
    });
    format!("{}[{}]", tensor::type_name(t.elem_type()), dims.collect::<Vec<_>>().join(", "))
}

fn chains(t: &Traced) -> Vec<Chain> {
    let g = t.analysis.graph;
    let layer = |n: &NodeId| chain::is_layer(g.node(*n));
    g.order.iter().copied().filter(layer).map(|n| chain_of(t, n)).collect()
}

fn chain_of(t: &Traced, layer: NodeId) -> Chain {
    let g = t.analysis.graph;
    let mut kind = g.op(layer);
    let mut end = g.output(layer, 0);
    let norm =
        end.and_then(|v| g.sole_reader(v).filter(|&n| chain::is_batch_norm(g.node(n)) && g.input(n, 0) == Some(v)));
    if let Some(n) = norm {
        kind += "→BN";
        end = g.output(n, 0);
    }
    let (activation, nodes) =
        end.map_or((Activation::Unknown, Vec::new()), |v| chain::activation_nodes(&t.analysis, v));
    if activation == Activation::Silu {
        kind += "→Silu";
    } else {
        nodes.iter().for_each(|&n| kind += &format!("→{}", g.op(n)));
    }
    Chain {
        kind,
        layer: g.name(layer),
        batch_norm: norm.map(|n| g.name(n)),
        activation: nodes.iter().map(|&n| g.name(n)).collect(),
    }
}

fn groups(graph: &Graph, ch: &Channels) -> Vec<GroupInspection> {
    let mut cells = vec![1; ch.groups.len()];
    for unit in &ch.units {
        for &(g, _) in unit.cells.iter().flatten() {
            if let Some(n) = cells.get_mut(g) {
                *n = unit.cells.len();
            }
        }
    }
    let name = |a: AxisId| {
        let t = ch.tensor_of(a);
        t.source.map_or_else(|| t.key.clone(), |s| graph.value(s).name.clone())
    };
    let groups = ch.groups.iter().zip(cells).map(|(g, cells)| GroupInspection {
        id: g.name.clone(),
        channels: g.channels.len(),
        layers: g.layers.iter().map(|&n| graph.name(n)).collect(),
        batch_norms: g.batch_norms.len(),
        sites: g
            .sites
            .iter()
            .map(|s| SiteInspection {
                layer: graph.name(s.node),
                role: s.role,
                tensor: name(s.axis),
                axis: ch.axis(s.axis).axis,
            })
            .collect(),
        cells,
    });
    groups.collect()
}

fn drawing(t: &Traced, model_outputs: &BTreeSet<&str>) -> Drawing {
    let g = t.analysis.graph;
    let ch = &t.trace.channels;
    let mut made: BTreeMap<ValueId, BTreeSet<usize>> = BTreeMap::new();
    for (i, group) in ch.groups.iter().enumerate() {
        for &(axis, _) in &group.axes {
            made.entry(ch.tensor_of(axis).value).or_default().insert(i);
        }
    }
    let groups_of =
        |v: Option<ValueId>| v.and_then(|v| made.get(&v)).into_iter().flatten().copied().collect::<Vec<_>>();
    let pinned: BTreeSet<&str> = ch.pins.iter().map(|p| p.layer.as_str()).collect();
    let mut nodes: Vec<DrawnNode> = (0..g.nodes.len())
        .map(|i| {
            let id = NodeId(i as u32);
            let name = g.name(id);
            let pinned = pinned.contains(name.as_str());
            DrawnNode { drawn: Drawn::Node, op: g.op(id), groups: groups_of(g.output(id, 0)), pinned, name }
        })
        .collect();
    let mut edges = Vec::new();
    for (i, v) in g.values.iter().enumerate() {
        let id = ValueId(i as u32);
        let shape = shape_text(t, id);
        let from = match v.origin {
            Origin::Node(n, _) => n.0 as usize,
            Origin::Input(_) => match v.end_of {
                Some(owner) => owner.0 as usize,
                None => {
                    nodes.push(interface_node("input", &v.name));
                    nodes.len() - 1
                }
            },
            // Parameters would hide the network.
            Origin::Initializer(_) | Origin::Sparse => continue,
        };
        let mut to: Vec<usize> = v.readers.iter().map(|(n, _)| n.0 as usize).collect();
        to.extend(v.captured_by.map(|n| n.0 as usize));
        if v.is_output && model_outputs.contains(v.name.as_str()) {
            nodes.push(interface_node("output", &v.name));
            to.push(nodes.len() - 1);
        }
        if v.is_output {
            // What a subgraph hands to its node.
            to.extend(v.end_of.map(|n| n.0 as usize).filter(|&n| n != from));
        }
        edges.extend(to.into_iter().map(|to| DrawnEdge { from, to, shape: shape.clone() }));
    }
    Drawing { nodes, edges }
}

fn interface_node(op: &str, name: &str) -> DrawnNode {
    DrawnNode { drawn: Drawn::Interface, op: op.into(), name: name.into(), groups: Vec::new(), pinned: false }
}

fn shape_text(t: &Traced, v: ValueId) -> String {
    let dims = t.analysis.dims(v).unwrap_or_default();
    let dims = dims.into_iter().map(|(n, fixed)| if fixed { n.to_string() } else { "?".to_owned() });
    dims.collect::<Vec<_>>().join("×")
}
