//! Names in the flat graph: which are taken, what a name means where, and renaming inside bodies that are not lifted.

use crate::onnx::proto::{AttributeProto, GraphProto, NodeProto};
use std::collections::{HashMap, HashSet};

/// What names mean in a graph; outer graphs are asked after it.
pub(super) struct Env<'e, 'm> {
    pub names: HashMap<&'m str, String>,
    pub outer: Option<&'e Env<'e, 'm>>,
}

impl Env<'_, '_> {
    /// The name in the flat graph.
    pub fn find(&self, name: &str) -> Option<&str> {
        let mut env = Some(self);
        while let Some(e) = env {
            if let Some(flat) = e.names.get(name) {
                return Some(flat);
            }
            env = e.outer;
        }
        None
    }
}

/// Values of a call's attributes, by name.
pub(super) type Bound<'m> = HashMap<&'m str, &'m AttributeProto>;

/// An attribute with its reference resolved; `None` when the call leaves it out.
pub(super) fn resolve<'m>(a: &'m AttributeProto, bound: Option<&Bound<'m>>) -> Option<&'m AttributeProto> {
    match bound {
        Some(bound) if !a.ref_attr_name().is_empty() => bound.get(a.ref_attr_name()).copied(),
        _ => Some(a),
    }
}

/// The attribute as it stands after [`resolve`].
pub(super) fn resolved(a: &AttributeProto, bound: Option<&Bound>) -> Option<AttributeProto> {
    match bound {
        Some(bound) if !a.ref_attr_name().is_empty() => {
            let value = *bound.get(a.ref_attr_name())?;
            Some(AttributeProto { name: a.name.clone(), ref_attr_name: None, ..value.clone() })
        }
        _ => Some(a.clone()),
    }
}

/// Names in use. Values and nodes are apart: many exporters name a node like its output.
#[derive(Default)]
pub(super) struct Taken {
    pub values: HashSet<String>,
    pub nodes: HashSet<String>,
    /// The last number tried behind a name.
    last: HashMap<String, usize>,
}

impl Taken {
    /// Everything that a graph and its bodies name.
    pub fn graph(&mut self, g: &GraphProto) {
        let infos = g.input.iter().chain(&g.output).chain(&g.value_info).map(|v| v.name());
        let sparse = g.sparse_initializer.iter().filter_map(|t| t.values.as_ref());
        let tensors = g.initializer.iter().chain(sparse).map(|t| t.name());
        self.values.extend(infos.chain(tensors).map(str::to_owned));
        self.nodes(&g.node);
    }

    pub fn nodes(&mut self, nodes: &[NodeProto]) {
        for n in nodes {
            self.nodes.insert(n.name().to_owned());
            self.values.extend(n.input.iter().chain(&n.output).cloned());
            n.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs)).for_each(|g| self.graph(g));
        }
    }

    pub fn value(&mut self, wish: String) -> String {
        fresh(&mut self.values, &mut self.last, wish)
    }

    pub fn node(&mut self, wish: String) -> String {
        fresh(&mut self.nodes, &mut self.last, wish)
    }
}

fn fresh(taken: &mut HashSet<String>, last: &mut HashMap<String, usize>, wish: String) -> String {
    if taken.insert(wish.clone()) {
        return wish;
    }
    let k = last.entry(wish.clone()).or_insert(1);
    loop {
        *k += 1;
        let name = format!("{wish}_{k}");
        if taken.insert(name.clone()) {
            return name;
        }
    }
}

/// `prefix` and a name, which may have a leading slash of its own.
pub(super) fn join(prefix: &str, name: &str) -> String {
    format!("{prefix}{}", name.trim_start_matches('/'))
}

/// Renames what a body reads of the graphs around it, and resolves references to a call's attributes.
pub(super) fn adapt(g: &mut GraphProto, env: &Env, bound: Option<&Bound>) {
    let mut own: HashSet<String> = g.input.iter().map(|v| v.name().to_owned()).collect();
    own.extend(g.initializer.iter().map(|t| t.name().to_owned()));
    own.extend(g.sparse_initializer.iter().filter_map(|t| t.values.as_ref()).map(|t| t.name().to_owned()));
    own.extend(g.node.iter().flat_map(|n| n.output.iter().cloned()));
    let rename = |name: &mut String, own: &HashSet<String>| {
        if !own.contains(name.as_str())
            && let Some(flat) = env.find(name)
        {
            flat.clone_into(name);
        }
    };
    // A name of this body hides the same name outside from the bodies in it.
    let inner = Env { names: own.iter().map(|n| (n.as_str(), n.clone())).collect(), outer: Some(env) };
    for n in &mut g.node {
        n.input.iter_mut().for_each(|i| rename(i, &own));
        adapt_attributes(n, &inner, bound);
    }
    for o in &mut g.output {
        let mut name = o.name().to_owned();
        rename(&mut name, &own);
        if name != o.name() {
            o.name = Some(name);
        }
    }
}

/// [`adapt`] for all attributes of a node.
pub(super) fn adapt_attributes(n: &mut NodeProto, env: &Env, bound: Option<&Bound>) {
    if bound.is_some() {
        let old = std::mem::take(&mut n.attribute);
        n.attribute = old.iter().filter_map(|a| resolved(a, bound)).collect();
    }
    for a in &mut n.attribute {
        a.g.iter_mut().chain(&mut a.graphs).for_each(|g| adapt(g, env, bound));
    }
}

/// What the node's bodies read and nothing around them defines.
pub(super) fn dangling<'n>(n: &'n NodeProto, env: &Env) -> Option<&'n str> {
    captured_names(n).into_iter().find(|name| env.find(name).is_none())
}

/// Outer names that the node's subgraphs read.
pub(crate) fn captured_names(node: &NodeProto) -> Vec<&str> {
    let mut free = Vec::new();
    for a in &node.attribute {
        for g in a.g.iter().chain(&a.graphs) {
            free_names(g, &mut free);
        }
    }
    let mut seen = HashSet::new();
    free.retain(|n| seen.insert(*n));
    free
}

fn free_names<'a>(g: &'a GraphProto, free: &mut Vec<&'a str>) {
    let mut bound: HashSet<&str> = g.input.iter().map(|v| v.name()).collect();
    bound.extend(g.initializer.iter().map(|t| t.name()));
    bound.extend(g.sparse_initializer.iter().filter_map(|t| t.values.as_ref()).map(|t| t.name()));
    let mut inner = Vec::new();
    for n in &g.node {
        inner.extend(n.input.iter().map(String::as_str));
        inner.extend(captured_names(n));
    }
    for n in &g.node {
        bound.extend(n.output.iter().map(String::as_str));
    }
    inner.extend(g.output.iter().map(|v| v.name()));
    free.extend(inner.into_iter().filter(|n| !n.is_empty() && !bound.contains(n)));
}
