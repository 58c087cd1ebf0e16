//! The read-only petgraph view of a model: nodes, values, and edges that carry the value and its slots.

use crate::error::{Error, Result};
use crate::flat::{Scopes, captured_names};
use crate::onnx::Model;
use crate::onnx::proto::{AttributeProto, GraphProto, NodeProto, TensorProto};
use crate::ops::OpRule;
use petgraph::graph::{DiGraph, NodeIndex};
use serde::Serialize;
use std::collections::{HashMap, HashSet};

/// Index of a node in `GraphProto.node`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct NodeId(pub u32);

/// Index into [`Graph::values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct ValueId(pub u32);

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Graph input without a default: index into `GraphProto.input`.
    Input(usize),
    /// Initializer (also one that is listed among the inputs, as IR versions before 4 demand).
    Initializer(usize),
    /// Sparse initializer: known by name only.
    Sparse,
    /// Output `slot` of a node.
    Node(NodeId, usize),
}

/// A named tensor of the graph.
#[derive(Clone, Debug)]
pub struct Value {
    /// Its name in the file.
    pub name: String,
    /// Where it comes from.
    pub origin: Origin,
    /// `(node, slot)` pairs that read it.
    pub readers: Vec<(NodeId, usize)>,
    /// It is a graph output.
    pub is_output: bool,
    /// A subgraph of this node captures it by name.
    pub captured_by: Option<NodeId>,
    /// It is an input or output of a subgraph of this node.
    pub end_of: Option<NodeId>,
}

/// A subgraph that has been [lifted](crate::flat) into the graph.
#[derive(Clone, Debug)]
pub struct Body {
    /// The node that runs it.
    pub owner: NodeId,
    /// Its inputs.
    pub inputs: Vec<ValueId>,
    /// Its outputs.
    pub outputs: Vec<ValueId>,
}

/// A node with its names resolved.
#[derive(Clone, Debug)]
pub struct Node {
    /// Input values; `None` for an omitted optional input.
    pub inputs: Vec<Option<ValueId>>,
    /// Output values; `None` for an omitted optional output.
    pub outputs: Vec<Option<ValueId>>,
}

/// What an edge of the petgraph carries.
#[derive(Clone, Copy, Debug)]
pub struct Edge {
    /// The value that flows.
    pub value: ValueId,
    /// Output slot at the producer.
    pub from: usize,
    /// Input slot at the reader.
    pub to: usize,
}

/// The view. It borrows the model and changes nothing.
pub struct Graph<'m> {
    /// The model it shows.
    pub model: &'m Model,
    /// Its main graph.
    pub proto: &'m GraphProto,
    /// Nodes by [`NodeId`].
    pub nodes: Vec<Node>,
    /// Values by [`ValueId`].
    pub values: Vec<Value>,
    /// Topological order (file order where that is topological).
    pub order: Vec<NodeId>,
    /// petgraph's view: node weights are [`NodeId`]s.
    pub dag: DiGraph<NodeId, Edge>,
    /// Lifted subgraphs, those of one node in the order of its attributes.
    pub bodies: Vec<Body>,
    by_name: HashMap<&'m str, ValueId>,
}

impl<'m> Graph<'m> {
    /// Builds the view.
    ///
    /// # Errors
    /// [`Error::Graph`] for duplicate producers, names that nothing produces, and cycles.
    pub fn new(model: &'m Model) -> Result<Self> {
        let fail = |message: String| Error::Graph { path: model.path.clone(), message };
        let proto = model.proto.graph.as_ref().ok_or_else(|| fail("the model has no graph".into()))?;
        let mut g = Graph {
            model,
            proto,
            nodes: Vec::with_capacity(proto.node.len()),
            values: Vec::new(),
            order: Vec::with_capacity(proto.node.len()),
            dag: DiGraph::with_capacity(proto.node.len(), proto.node.len() * 2),
            bodies: Vec::new(),
            by_name: HashMap::with_capacity(proto.node.len() + proto.initializer.len()),
        };
        g.declare_values().map_err(fail)?;
        g.connect().map_err(fail)?;
        if let Some(scopes) = &model.scopes {
            g.enclose(scopes);
        }
        g.sort().map_err(fail)?;
        Ok(g)
    }

    fn declare(&mut self, name: &'m str, origin: Origin) -> Result<ValueId, String> {
        let id = ValueId(self.values.len() as u32);
        if let Some(&old) = self.by_name.get(name) {
            return Err(format!(
                "tensor {name:?} is produced twice: by {} and by {}; every tensor name must have one producer",
                self.describe(self.values[old.0 as usize].origin),
                self.describe(origin)
            ));
        }
        self.by_name.insert(name, id);
        self.values.push(Value {
            name: name.to_owned(),
            origin,
            readers: Vec::new(),
            is_output: false,
            captured_by: None,
            end_of: None,
        });
        Ok(id)
    }

    fn describe(&self, origin: Origin) -> String {
        match origin {
            Origin::Input(_) => "the graph's inputs".into(),
            Origin::Initializer(_) | Origin::Sparse => "the initializers".into(),
            Origin::Node(n, _) => self.label(n),
        }
    }

    fn declare_values(&mut self) -> Result<(), String> {
        for (i, t) in self.proto.initializer.iter().enumerate() {
            self.declare(t.name(), Origin::Initializer(i))?;
        }
        for t in &self.proto.sparse_initializer {
            if let Some(values) = &t.values {
                self.declare(values.name(), Origin::Sparse)?;
            }
        }
        let mut inputs = HashSet::new();
        for (i, input) in self.proto.input.iter().enumerate() {
            if !inputs.insert(input.name()) {
                return Err(format!("graph input {:?} is listed twice", input.name()));
            }
            if !self.by_name.contains_key(input.name()) {
                self.declare(input.name(), Origin::Input(i))?;
            }
        }
        for (i, node) in self.proto.node.iter().enumerate() {
            let mut outputs = Vec::with_capacity(node.output.len());
            for (slot, name) in node.output.iter().enumerate() {
                outputs.push(if name.is_empty() {
                    None
                } else {
                    Some(self.declare(name, Origin::Node(NodeId(i as u32), slot))?)
                });
            }
            self.nodes.push(Node { inputs: Vec::with_capacity(node.input.len()), outputs });
        }
        Ok(())
    }

    fn connect(&mut self) -> Result<(), String> {
        for i in 0..self.proto.node.len() {
            self.dag.add_node(NodeId(i as u32));
        }
        for (i, node) in self.proto.node.iter().enumerate() {
            let id = NodeId(i as u32);
            for (slot, name) in node.input.iter().enumerate() {
                let value = if name.is_empty() {
                    None
                } else {
                    let v = self.by_name.get(name.as_str()).copied().ok_or_else(|| {
                        format!(
                            "{} reads tensor {name:?}, which no node, initializer or graph input produces",
                            self.label(id)
                        )
                    })?;
                    self.read(v, id, slot);
                    Some(v)
                };
                self.nodes[i].inputs.push(value);
            }
            for name in captured_names(node) {
                // Names that the subgraph does not define and the main graph does not know belong to an outer scope that a
                // main graph cannot have: dangling.
                let v = self.by_name.get(name).copied().ok_or_else(|| {
                    format!("a subgraph of {} reads tensor {name:?}, which nothing produces", self.label(id))
                })?;
                self.values[v.0 as usize].captured_by.get_or_insert(id);
                self.edge(v, id, usize::MAX);
            }
        }
        for output in &self.proto.output {
            let v = self.by_name.get(output.name()).copied().ok_or_else(|| {
                format!("graph output {:?} is produced by no node, initializer or graph input", output.name())
            })?;
            self.values[v.0 as usize].is_output = true;
        }
        Ok(())
    }

    /// Marks what crosses the borders of lifted subgraphs.
    fn enclose(&mut self, scopes: &Scopes) {
        let (bodies, inside) = (scopes.bodies(), scopes.body_of());
        let mut from_input: HashMap<ValueId, usize> = HashMap::new();
        for (k, b) in bodies.iter().enumerate() {
            let ids = |names: &[&str]| names.iter().filter_map(|n| self.find(n)).collect::<Vec<_>>();
            let (inputs, outputs) = (ids(&b.inputs), ids(&b.outputs));
            from_input.extend(inputs.iter().map(|&v| (v, k)));
            for &v in inputs.iter().chain(&outputs) {
                self.values[v.0 as usize].end_of.get_or_insert(b.owner);
            }
            self.bodies.push(Body { owner: b.owner, inputs, outputs });
        }
        let mut reads: Vec<(ValueId, Option<usize>)> = Vec::new();
        for (node, at) in self.nodes.iter().zip(&inside) {
            reads.extend(node.inputs.iter().flatten().map(|&v| (v, *at)));
        }
        for (k, b) in self.bodies.iter().enumerate() {
            reads.extend(b.outputs.iter().map(|&v| (v, Some(k))));
        }
        for (v, mut at) in reads {
            let home = match self.value(v).origin {
                Origin::Node(n, _) => inside.get(n.0 as usize).copied().flatten(),
                _ => from_input.get(&v).copied(),
            };
            let constant = self.constant(v).is_some();
            while at != home {
                let Some(b) = at.and_then(|k| bodies.get(k)) else { break };
                // The node runs after everything that its body reads.
                self.edge(v, b.owner, usize::MAX);
                at = b.parent;
                if at == home && !constant {
                    self.values[v.0 as usize].captured_by.get_or_insert(b.owner);
                }
            }
        }
        for k in 0..self.bodies.len() {
            let Body { owner, outputs, .. } = self.bodies[k].clone();
            outputs.into_iter().for_each(|v| self.edge(v, owner, usize::MAX));
        }
    }

    fn read(&mut self, value: ValueId, node: NodeId, slot: usize) {
        self.values[value.0 as usize].readers.push((node, slot));
        self.edge(value, node, slot);
    }

    fn edge(&mut self, value: ValueId, node: NodeId, slot: usize) {
        if let Origin::Node(from, from_slot) = self.values[value.0 as usize].origin {
            self.dag.add_edge(
                NodeIndex::new(from.0 as usize),
                NodeIndex::new(node.0 as usize),
                Edge { value, from: from_slot, to: slot },
            );
        }
    }

    /// Kahn's algorithm with the lowest file index first, so that the order never depends on hashing.
    fn sort(&mut self) -> Result<(), String> {
        let n = self.nodes.len();
        let mut missing: Vec<usize> = vec![0; n];
        for e in self.dag.edge_indices() {
            if let Some((_, to)) = self.dag.edge_endpoints(e) {
                missing[to.index()] += 1;
            }
        }
        let mut ready: std::collections::BinaryHeap<std::cmp::Reverse<usize>> =
            (0..n).filter(|&i| missing[i] == 0).map(std::cmp::Reverse).collect();
        while let Some(std::cmp::Reverse(i)) = ready.pop() {
            self.order.push(NodeId(i as u32));
            for to in self.dag.neighbors(NodeIndex::new(i)) {
                missing[to.index()] -= 1;
                if missing[to.index()] == 0 {
                    ready.push(std::cmp::Reverse(to.index()));
                }
            }
        }
        if self.order.len() == n {
            return Ok(());
        }
        let on_cycle = petgraph::algo::tarjan_scc(&self.dag)
            .into_iter()
            .find(|c| c.len() > 1 || c.iter().any(|&i| self.dag.contains_edge(i, i)))
            .unwrap_or_default();
        let mut ids: Vec<usize> = on_cycle.iter().map(|i| i.index()).collect();
        ids.sort_unstable();
        let names: Vec<String> = ids.iter().take(6).map(|&i| self.label(NodeId(i as u32))).collect();
        Err(format!("the graph has a cycle through {} node(s): {}", ids.len(), names.join(", ")))
    }

    /// The node's protobuf.
    pub fn node(&self, id: NodeId) -> &'m NodeProto {
        &self.proto.node[id.0 as usize]
    }

    /// The rule of the node's operator; `None`: it pins every axis that it touches.
    pub fn rule(&self, id: NodeId) -> Option<&'m dyn OpRule> {
        self.rule_of(self.node(id))
    }

    /// The rule of a node that need not be in the graph.
    pub(crate) fn rule_of(&self, node: &NodeProto) -> Option<&'m dyn OpRule> {
        self.model.rules().get(node.domain(), node.op_type())
    }

    /// Nodes that are read with a rule that was [added](crate::ops::Rules::with).
    pub(crate) fn with_added_rule(&self) -> impl Iterator<Item = NodeId> {
        let added = |n: &NodeProto| self.model.rules().added(n.domain(), n.op_type()).is_some();
        self.proto.node.iter().enumerate().filter(move |(_, n)| added(n)).map(|(i, _)| NodeId(i as u32))
    }

    /// The value.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.0 as usize]
    }

    /// The value of this name.
    pub fn find(&self, name: &str) -> Option<ValueId> {
        self.by_name.get(name).copied()
    }

    /// Input value at a slot; `None` when omitted.
    pub fn input(&self, id: NodeId, slot: usize) -> Option<ValueId> {
        self.nodes[id.0 as usize].inputs.get(slot).copied().flatten()
    }

    /// Output value at a slot; `None` when omitted.
    pub fn output(&self, id: NodeId, slot: usize) -> Option<ValueId> {
        self.nodes[id.0 as usize].outputs.get(slot).copied().flatten()
    }

    /// The one node that reads this value, when there is exactly one reader, no output and no capture.
    pub fn sole_reader(&self, id: ValueId) -> Option<NodeId> {
        let v = self.value(id);
        match v.readers.as_slice() {
            [(n, _)] if !v.is_output && v.captured_by.is_none() => Some(*n),
            _ => None,
        }
    }

    /// Operator with its domain when that is not the default: `Conv`, `com.microsoft:FusedConv`.
    pub fn op(&self, id: NodeId) -> String {
        let n = self.node(id);
        if is_default_domain(n.domain()) { n.op_type().to_owned() } else { format!("{}:{}", n.domain(), n.op_type()) }
    }

    /// The node's name, or `Op#index` for a node without one.
    pub fn name(&self, id: NodeId) -> String {
        let n = self.node(id);
        if n.name().is_empty() { format!("{}#{}", n.op_type(), id.0) } else { n.name().to_owned() }
    }

    /// For messages: `Conv node "conv1"`.
    pub fn label(&self, id: NodeId) -> String {
        format!("{} node {:?}", self.op(id), self.name(id))
    }

    /// The data of an initializer or `Constant` node's tensor.
    pub fn constant(&self, id: ValueId) -> Option<&'m TensorProto> {
        match self.value(id).origin {
            Origin::Initializer(i) => self.proto.initializer.get(i),
            Origin::Node(n, 0) => {
                let node = self.node(n);
                if !is_default_domain(node.domain()) || node.op_type() != CONSTANT {
                    return None;
                }
                attribute(node, "value").and_then(|a| a.t.as_ref())
            }
            _ => None,
        }
    }
}

const CONSTANT: &str = "Constant";

/// The standard operators' domain has two spellings.
pub fn is_default_domain(domain: &str) -> bool {
    domain.is_empty() || domain == "ai.onnx"
}

/// The attribute of this name.
pub fn attribute<'a>(node: &'a NodeProto, name: &str) -> Option<&'a AttributeProto> {
    node.attribute.iter().find(|a| a.name() == name)
}
