//! From nested to flat.

use super::functions::{self, Functions};
use super::names::{Bound, Env, Taken, adapt_attributes, dangling, join, resolve, resolved};
use super::{Kind, Local, MAIN, MAX_DEPTH, MAX_NODES, Scope, ScopeId, Scopes, Spot};
use crate::error::{Error, Result};
use crate::graph::is_default_domain;
use crate::onnx::Model;
use crate::onnx::proto::{
    AttributeProto, GraphProto, NodeProto, OperatorSetIdProto, SparseTensorProto, TensorProto, ValueInfoProto,
};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Operators that run their bodies and do nothing else with them.
const OWNERS: [&str; 4] = ["If", "Loop", "Scan", "SequenceMap"];

/// The flat graph and how it came about.
pub(super) fn lift<'m>(
    model: &'m Model,
    graph: &'m GraphProto,
    functions: &mut Functions<'m>,
) -> Result<(GraphProto, Scopes)> {
    let called = functions::reachable(functions, graph);
    let mut taken = Taken::default();
    taken.graph(graph);
    let scopes = Scopes {
        scopes: vec![Scope { parent: MAIN, kind: Kind::Main }],
        main_outputs: graph.output.len(),
        called,
        taken: taken.values.iter().chain(&taken.nodes).cloned().collect(),
        ..Scopes::default()
    };
    let flat = GraphProto { node: Vec::new(), ..frame(graph, true) };
    let names = definitions(graph).map(|n| (n, n.to_owned())).collect();
    let env = Env { names, outer: None };
    let mut walk = Lift { model, functions, taken, flat, scopes, left: MAX_NODES, imports: BTreeMap::new() };
    walk.nodes(&graph.node, At { env: &env, scope: MAIN, prefix: "", bound: None, depth: 0, restore: true })?;
    let Lift { flat, mut scopes, imports, .. } = walk;
    let known: HashSet<&str> = model.proto.opset_import.iter().map(|o| functions::domain(o.domain())).collect();
    let new = imports.into_iter().filter(|(d, _)| !known.contains(d));
    scopes.imports = new.map(|(d, v)| OperatorSetIdProto { domain: Some(d.to_owned()), version: Some(v) }).collect();
    Ok((flat, scopes))
}

/// A graph without its nodes; without its constants and declarations too unless they are asked for.
fn frame(g: &GraphProto, constants: bool) -> GraphProto {
    GraphProto {
        node: Vec::new(),
        name: g.name.clone(),
        initializer: if constants { g.initializer.clone() } else { Vec::new() },
        sparse_initializer: if constants { g.sparse_initializer.clone() } else { Vec::new() },
        doc_string: g.doc_string.clone(),
        input: g.input.clone(),
        output: g.output.clone(),
        value_info: if constants { g.value_info.clone() } else { Vec::new() },
        quantization_annotation: g.quantization_annotation.clone(),
        metadata_props: g.metadata_props.clone(),
    }
}

fn sparse_name(t: &SparseTensorProto) -> &str {
    t.values.as_ref().map_or("", |t| t.name())
}

/// Every name that a graph itself defines.
fn definitions(g: &GraphProto) -> impl Iterator<Item = &str> {
    let outputs = g.node.iter().flat_map(|n| &n.output).map(String::as_str);
    let constants = g.initializer.iter().map(|t| t.name()).chain(g.sparse_initializer.iter().map(sparse_name));
    g.input.iter().map(|v| v.name()).chain(constants).chain(outputs).filter(|n| !n.is_empty())
}

/// Where the walk is.
#[derive(Clone, Copy)]
struct At<'e, 'm> {
    env: &'e Env<'e, 'm>,
    scope: ScopeId,
    /// Begins every name here.
    prefix: &'e str,
    /// Attributes of the call that is being inlined.
    bound: Option<&'e Bound<'m>>,
    depth: usize,
    /// No call is around: names go back to what they were.
    restore: bool,
}

struct Lift<'m, 'f> {
    model: &'m Model,
    functions: &'f mut Functions<'m>,
    taken: Taken,
    flat: GraphProto,
    scopes: Scopes,
    /// Nodes that may still be added by calls.
    left: usize,
    imports: BTreeMap<&'m str, i64>,
}

impl<'m> Lift<'m, '_> {
    fn nodes(&mut self, nodes: &'m [NodeProto], at: At<'_, 'm>) -> Result<()> {
        for (i, n) in nodes.iter().enumerate() {
            let own = if n.name().is_empty() { format!("{}#{i}", n.op_type()) } else { n.name().to_owned() };
            let name = if at.scope == MAIN { own } else { self.taken.node(join(at.prefix, &own)) };
            let named = n.name.as_deref() == Some(name.as_str());
            let restored = (at.restore && !named).then(|| n.name.clone());
            if let Some(f) = self.callee(n, at) {
                self.call(n, f, name, restored, at)?;
            } else if self.lifts(n, at) {
                self.owner(n, name, restored, at)?;
            } else {
                self.plain(n, name, restored, at)?;
            }
        }
        Ok(())
    }

    fn dangling(&self, what: &str, op: &str, node: &str, name: &str) -> Error {
        let message = format!("{what}{op} node {node:?} reads tensor {name:?}, which nothing produces");
        Error::Graph { path: self.model.path.clone(), message }
    }

    /// A node's own part, with names of the flat graph and without attributes.
    fn shell(&self, n: &NodeProto, name: String, at: At<'_, 'm>) -> Result<NodeProto> {
        let flat = |v: &String| match v.as_str() {
            "" => Some(String::new()),
            v => at.env.find(v).map(str::to_owned),
        };
        let mut input = Vec::with_capacity(n.input.len());
        for v in &n.input {
            input.push(flat(v).ok_or_else(|| self.dangling("", n.op_type(), &name, v))?);
        }
        let output = n.output.iter().map(|v| flat(v).unwrap_or_default()).collect();
        Ok(NodeProto {
            input,
            output,
            name: Some(name),
            op_type: n.op_type.clone(),
            domain: n.domain.clone(),
            overload: n.overload.clone(),
            attribute: Vec::new(),
            doc_string: n.doc_string.clone(),
            metadata_props: n.metadata_props.clone(),
            // They name tensors of the function.
            device_configurations: if at.bound.is_some() { Vec::new() } else { n.device_configurations.clone() },
        })
    }

    /// A node that stays what it is.
    fn plain(
        &mut self,
        n: &'m NodeProto,
        name: String,
        restored: Option<Option<String>>,
        at: At<'_, 'm>,
    ) -> Result<()> {
        if let Some(lost) = dangling(n, at.env) {
            return Err(self.dangling("a subgraph of ", n.op_type(), &name, lost));
        }
        let mut node = self.shell(n, name, at)?;
        node.attribute.clone_from(&n.attribute);
        adapt_attributes(&mut node, at.env, at.bound);
        let bodied = n.attribute.iter().any(|a| a.g.is_some() || !a.graphs.is_empty());
        let attribute = (bodied && at.restore && at.scope != MAIN).then(|| n.attribute.clone());
        self.scopes.nodes.push(Spot { scope: at.scope, name: restored, attribute });
        self.flat.node.push(node);
        Ok(())
    }

    /// Whether a node's bodies are lifted.
    fn lifts(&self, n: &NodeProto, at: At) -> bool {
        let mut bodies = n.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs)).peekable();
        let known = OWNERS.contains(&n.op_type()) && is_default_domain(n.domain()) && !self.functions.defines(n);
        // An input with a default is bound otherwise than by position alone.
        let simple = |g: &GraphProto| {
            let inputs: HashSet<&str> = g.input.iter().map(|v| v.name()).collect();
            !g.initializer.iter().any(|t| inputs.contains(t.name()))
                && !g.sparse_initializer.iter().any(|t| inputs.contains(sparse_name(t)))
        };
        known && bodies.peek().is_some() && at.depth < MAX_DEPTH && bodies.all(simple)
    }

    /// Lifts a node's bodies to before the node.
    fn owner(
        &mut self,
        n: &'m NodeProto,
        name: String,
        restored: Option<Option<String>>,
        at: At<'_, 'm>,
    ) -> Result<()> {
        let mut node = self.shell(n, name, at)?;
        let mut bodies = Vec::new();
        for a in &n.attribute {
            let Some(value) = resolve(a, at.bound) else { continue };
            if value.g.is_none() && value.graphs.is_empty() {
                node.attribute.extend(resolved(a, at.bound));
                continue;
            }
            let attribute = node.attribute.len();
            node.attribute.push(emptied(value));
            let prefix = format!("{}/{}", node.name(), a.name());
            let all =
                value.g.iter().map(|g| (None, g)).chain(value.graphs.iter().enumerate().map(|(k, g)| (Some(k), g)));
            for (index, g) in all {
                let scope = self.scopes.scopes.len();
                let kind = Kind::Body { owner: usize::MAX, attribute, index, frame: Box::new(frame(g, false)) };
                self.scopes.scopes.push(Scope { parent: at.scope, kind });
                bodies.push(scope);
                let prefix = index.map_or_else(|| format!("{prefix}/"), |k| format!("{prefix}[{k}]/"));
                self.body(g, At { scope, prefix: &prefix, depth: at.depth + 1, ..at })?;
            }
        }
        for scope in bodies {
            if let Kind::Body { owner, .. } = &mut self.scopes.scopes[scope].kind {
                *owner = self.flat.node.len();
            }
        }
        self.scopes.nodes.push(Spot { scope: at.scope, name: restored, attribute: None });
        self.flat.node.push(node);
        Ok(())
    }

    /// A name of a body in the flat graph.
    fn local(&mut self, name: &str, at: At) -> String {
        let flat = self.taken.value(join(at.prefix, name));
        let name = at.restore.then(|| name.to_owned());
        self.scopes.values.insert(flat.clone(), Local { scope: at.scope, name });
        flat
    }

    fn body(&mut self, g: &'m GraphProto, at: At<'_, 'm>) -> Result<()> {
        let mut names: HashMap<&'m str, String> = HashMap::new();
        for name in definitions(g) {
            if !names.contains_key(name) {
                names.insert(name, self.local(name, at));
            }
        }
        let flat = |name: &str| names.get(name).cloned();
        for v in &g.input {
            let name = flat(v.name());
            self.scopes.inputs.push((name.clone().unwrap_or_default(), at.scope));
            self.flat.input.push(ValueInfoProto { name, ..v.clone() });
        }
        self.flat.initializer.extend(g.initializer.iter().map(|t| TensorProto { name: flat(t.name()), ..t.clone() }));
        for t in &g.sparse_initializer {
            let values = t.values.as_ref().map(|v| TensorProto { name: flat(v.name()), ..v.clone() });
            self.flat.sparse_initializer.push(SparseTensorProto { values, ..t.clone() });
        }
        for v in &g.value_info {
            // One that describes nothing here only has to come back.
            let name = flat(v.name()).unwrap_or_else(|| self.local(v.name(), at));
            self.flat.value_info.push(ValueInfoProto { name: Some(name), ..v.clone() });
        }
        let env = Env { names, outer: Some(at.env) };
        self.nodes(&g.node, At { env: &env, ..at })?;
        for v in &g.output {
            let Some(name) = env.find(v.name()) else {
                let message =
                    format!("{:?} is an output of subgraph {:?}, which nothing produces", v.name(), at.prefix);
                return Err(Error::Graph { path: self.model.path.clone(), message });
            };
            self.scopes.outputs.push((name.to_owned(), at.scope));
            self.flat.output.push(ValueInfoProto { name: Some(name.to_owned()), ..v.clone() });
        }
        Ok(())
    }

    /// The function that a node calls, when the call is to be inlined here.
    fn callee(&mut self, n: &NodeProto, at: At) -> Option<usize> {
        let f = self.functions.find(n).filter(|&f| functions::fits(n, self.functions.get(f)))?;
        let extent = self.functions.extent(f)?;
        // Inside a call the caller has counted.
        let affordable = at.bound.is_some() || extent.size <= self.left;
        (affordable && at.depth + extent.height < MAX_DEPTH).then(|| {
            if at.bound.is_none() {
                self.left -= extent.size;
            }
            f
        })
    }

    fn call(
        &mut self,
        n: &'m NodeProto,
        f: usize,
        name: String,
        restored: Option<Option<String>>,
        at: At<'_, 'm>,
    ) -> Result<()> {
        let function = self.functions.get(f);
        let mut call = self.shell(n, name, at)?;
        call.device_configurations.clone_from(&n.device_configurations);
        call.attribute = n.attribute.iter().filter_map(|a| resolved(a, at.bound)).collect();
        let prefix = format!("{}/", call.name());
        let scope = self.scopes.scopes.len();
        let mut bound: Bound = function.attribute_proto.iter().map(|a| (a.name(), a)).collect();
        bound.extend(n.attribute.iter().filter_map(|a| Some((a.name(), resolve(a, at.bound)?))));
        let inner =
            At { scope, prefix: &prefix, bound: Some(&bound), depth: at.depth + 1, restore: false, env: at.env };
        let mut names: HashMap<&str, String> = HashMap::new();
        for (k, input) in function.input.iter().enumerate() {
            names.insert(input, call.input.get(k).cloned().unwrap_or_default());
        }
        for (output, given) in function.output.iter().zip(&call.output).filter(|(_, given)| !given.is_empty()) {
            names.insert(output, given.clone());
        }
        let mut own: HashSet<&str> = HashSet::new();
        for output in function.node.iter().flat_map(|n| &n.output).filter(|o| !o.is_empty()) {
            if !names.contains_key(output.as_str()) {
                names.insert(output, self.local(output, inner));
                own.insert(output);
            }
        }
        for v in function.value_info.iter().filter(|v| own.contains(v.name())) {
            self.flat.value_info.push(ValueInfoProto { name: names.get(v.name()).cloned(), ..v.clone() });
        }
        let mut used = HashSet::new();
        functions::domains(&function.node, &|_| true, &mut used);
        for d in used {
            // Calls of further functions may go without an import.
            let own = function.opset_import.iter().find(|o| functions::domain(o.domain()) == d);
            self.imports.entry(d).or_insert(own.map_or(1, |o| o.version()));
        }
        let kind = Kind::Call { node: Box::new(call), name: restored, function: f, touched: false };
        self.scopes.scopes.push(Scope { parent: at.scope, kind });
        let env = Env { names, outer: None };
        self.nodes(&function.node, At { env: &env, ..inner })
    }
}

/// An attribute whose graphs are empty.
fn emptied(a: &AttributeProto) -> AttributeProto {
    AttributeProto {
        g: a.g.as_ref().map(|_| GraphProto::default()),
        graphs: vec![GraphProto::default(); a.graphs.len()],
        name: a.name.clone(),
        ref_attr_name: a.ref_attr_name.clone(),
        doc_string: a.doc_string.clone(),
        r#type: a.r#type,
        f: a.f,
        i: a.i,
        s: a.s.clone(),
        t: a.t.clone(),
        sparse_tensor: a.sparse_tensor.clone(),
        tp: a.tp.clone(),
        floats: a.floats.clone(),
        ints: a.ints.clone(),
        strings: a.strings.clone(),
        tensors: a.tensors.clone(),
        sparse_tensors: a.sparse_tensors.clone(),
        type_protos: a.type_protos.clone(),
    }
}
