//! Follows an edit of the flat graph: where every node belongs now, and which calls are no longer what they were.

use super::{Kind, MAIN, ScopeId, Scopes, Spot};
use crate::error::{Error, Result};
use crate::onnx::proto::{GraphProto, NodeProto, TensorProto, ValueInfoProto};
use std::collections::{HashMap, HashSet};

/// Where a node of an edited graph comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Came {
    /// It is this node, perhaps changed.
    From(usize),
    /// It was put before or behind this node, for its sake.
    Beside(usize),
}

impl Scopes {
    /// The scopes of `after`, which an edit made of `before`.
    ///
    /// # Errors
    /// [`Error::Internal`] when a node with a body is gone.
    pub fn settle(&self, before: &GraphProto, after: &GraphProto, came: &[Came]) -> Result<Scopes> {
        if self.nodes.len() != before.node.len() || came.len() != after.node.len() {
            return Err(Error::Internal("the nodes of a flat graph have been miscounted".into()));
        }
        let mut out = self.clone();
        out.nodes.clear();
        let mut now: Vec<Option<usize>> = vec![None; before.node.len()];
        let mut touched: HashSet<ScopeId> = HashSet::new();
        for (k, c) in came.iter().enumerate() {
            match *c {
                Came::From(i) => {
                    now[i] = Some(k);
                    out.nodes.push(self.nodes[i].clone());
                }
                Came::Beside(i) => {
                    let scope = self.nodes[i].scope;
                    touched.insert(scope);
                    out.nodes.push(Spot { scope, name: None, attribute: None });
                }
            }
        }
        let arguments = self.changed_nodes(before, after, &now, &mut touched);
        self.changed_constants(before, after, &mut touched);
        self.changed_declarations(before, after, &mut touched);
        for scope in &mut out.scopes {
            if let Kind::Body { owner, .. } = &mut scope.kind {
                let at = now.get(*owner).copied().flatten();
                *owner = at.ok_or_else(|| Error::Internal("a node with a body has been dropped".into()))?;
            }
        }
        out.touch(touched);
        for (id, new) in arguments {
            if let Kind::Call { node, .. } = &mut out.scopes[id].kind {
                node.input.iter_mut().filter_map(|i| new.get(i.as_str()).map(|to| (i, to))).for_each(|(i, to)| {
                    (*to).clone_into(i);
                });
            }
        }
        out.missing_arguments(after);
        Ok(out)
    }

    /// Nodes inside calls that are gone or changed. An argument that all nodes of a call read under the same new name is no
    /// change: the call passes the new one. Returns what calls pass now, old name to new.
    fn changed_nodes<'g>(
        &self,
        before: &'g GraphProto,
        after: &'g GraphProto,
        now: &[Option<usize>],
        touched: &mut HashSet<ScopeId>,
    ) -> HashMap<ScopeId, HashMap<&'g str, &'g str>> {
        let mut passed: HashMap<ScopeId, HashMap<&str, &str>> = HashMap::new();
        let arguments: HashMap<ScopeId, HashSet<&str>> = self
            .scopes
            .iter()
            .enumerate()
            .filter_map(|(id, s)| match &s.kind {
                Kind::Call { node, .. } => Some((id, node.input.iter().map(String::as_str).collect())),
                _ => None,
            })
            .collect();
        for (i, was) in before.node.iter().enumerate() {
            let mut id = self.nodes[i].scope;
            if !self.in_call(id) {
                continue;
            }
            let is = now[i].map(|k| &after.node[k]).filter(|is| same_but_inputs(was, is));
            while id != MAIN {
                if let Some(arguments) = arguments.get(&id) {
                    let new = passed.entry(id).or_default();
                    let mut fits = |(a, b): (&'g String, &'g String)| {
                        if a.is_empty() || !arguments.contains(a.as_str()) {
                            return a == b;
                        }
                        let outside = !self.values.get(b).is_some_and(|l| self.is_inside(l.scope, id));
                        outside && *new.entry(a).or_insert(b) == b
                    };
                    if !is.is_some_and(|is| was.input.iter().zip(&is.input).all(&mut fits)) {
                        touched.insert(id);
                    }
                }
                id = self.scopes[id].parent;
            }
        }
        passed
    }

    /// Whether a scope is `outer` or in it.
    fn is_inside(&self, mut scope: ScopeId, outer: ScopeId) -> bool {
        // Inner scopes come later.
        while scope > outer {
            scope = self.scopes[scope].parent;
        }
        scope == outer
    }

    /// Marks the calls around these scopes.
    fn touch(&mut self, scopes: impl IntoIterator<Item = ScopeId>) {
        for mut id in scopes {
            while id != MAIN {
                if let Kind::Call { touched, .. } = &mut self.scopes[id].kind {
                    *touched = true;
                }
                id = self.scopes[id].parent;
            }
        }
    }

    /// Constants of bodies inside calls.
    fn changed_constants(&self, before: &GraphProto, after: &GraphProto, touched: &mut HashSet<ScopeId>) {
        let in_call = |t: &&TensorProto| self.values.get(t.name()).is_some_and(|l| self.in_call(l.scope));
        let now: HashMap<&str, &TensorProto> =
            after.initializer.iter().filter(in_call).map(|t| (t.name(), t)).collect();
        for t in before.initializer.iter().filter(in_call) {
            if now.get(t.name()) != Some(&t) {
                touched.insert(self.values[t.name()].scope);
            }
        }
    }

    /// Declared shapes inside calls, which a function states for all its calls.
    fn changed_declarations(&self, before: &GraphProto, after: &GraphProto, touched: &mut HashSet<ScopeId>) {
        let in_call = |v: &&ValueInfoProto| self.values.get(v.name()).is_some_and(|l| self.in_call(l.scope));
        let now: HashMap<&str, &ValueInfoProto> =
            after.value_info.iter().filter(in_call).map(|v| (v.name(), v)).collect();
        for v in before.value_info.iter().filter(in_call) {
            if now.get(v.name()) != Some(&v) {
                touched.insert(self.values[v.name()].scope);
            }
        }
    }

    /// A call also reads arguments that its function does not use; where one is gone, the call cannot stay.
    fn missing_arguments(&mut self, after: &GraphProto) {
        let sparse = after.sparse_initializer.iter().filter_map(|t| t.values.as_ref());
        let constants = after.initializer.iter().chain(sparse).map(|t| t.name());
        let mut known: HashSet<&str> = after.input.iter().map(|v| v.name()).chain(constants).collect();
        known.extend(after.node.iter().flat_map(|n| &n.output).map(String::as_str));
        let lacks = |kind: &Kind| match kind {
            Kind::Call { node, .. } => node.input.iter().any(|i| !i.is_empty() && !known.contains(i.as_str())),
            _ => false,
        };
        let lost: Vec<ScopeId> = (0..self.scopes.len()).filter(|&id| lacks(&self.scopes[id].kind)).collect();
        self.touch(lost);
    }
}

/// Whether nothing but the names of what a node reads has changed.
fn same_but_inputs(a: &NodeProto, b: &NodeProto) -> bool {
    let NodeProto {
        input,
        output,
        name,
        op_type,
        domain,
        overload,
        attribute,
        doc_string,
        metadata_props,
        device_configurations,
    } = a;
    input.len() == b.input.len()
        && (output, name, op_type, domain) == (&b.output, &b.name, &b.op_type, &b.domain)
        && (overload, attribute, doc_string) == (&b.overload, &b.attribute, &b.doc_string)
        && (metadata_props, device_configurations) == (&b.metadata_props, &b.device_configurations)
}
