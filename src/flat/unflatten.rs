//! From flat to nested.

use super::functions::{self, Functions};
use super::{Kind, Local, MAIN, ScopeId, Scopes};
use crate::error::{Error, Result};
use crate::onnx::proto::{GraphProto, ModelProto, NodeProto, TensorProto};
use std::collections::{HashMap, HashSet};

/// Puts nodes, constants and declarations back where they belong. `scopes` must have settled.
///
/// # Errors
/// [`Error::Internal`] when the graph is not the one that the scopes describe.
pub(crate) fn unflatten(mut proto: ModelProto, scopes: &Scopes) -> Result<ModelProto> {
    let broken = || Error::Internal("a flat graph could not be put back".into());
    let flat = proto.graph.take().ok_or_else(broken)?;
    if flat.node.len() != scopes.nodes.len() {
        return Err(broken());
    }
    let before_ir_4 = proto.ir_version() < 4;
    let mut back = Back::new(scopes, &flat, before_ir_4);
    let GraphProto { node, initializer, sparse_initializer, input, output, value_info, .. } = flat;
    for (k, n) in node.into_iter().enumerate() {
        back.node(k, n);
    }
    for t in initializer {
        if let Some(frame) = back.place(t.name()) {
            let name = scopes.original(t.name.as_deref());
            back.graphs[frame].initializer.push(TensorProto { name, ..t });
        }
    }
    for mut t in sparse_initializer {
        let Some(frame) = back.place(t.values.as_ref().map_or("", |v| v.name())) else { continue };
        if let Some(values) = &mut t.values {
            values.name = scopes.original(values.name.as_deref());
        }
        back.graphs[frame].sparse_initializer.push(t);
    }
    for mut v in value_info {
        if let Some(frame) = back.place(v.name()) {
            v.name = scopes.original(v.name.as_deref());
            back.graphs[frame].value_info.push(v);
        }
    }
    let of_bodies: HashSet<&str> = scopes.inputs.iter().map(|(name, _)| name.as_str()).collect();
    let main = &mut back.graphs[MAIN];
    main.input = input.into_iter().filter(|v| !of_bodies.contains(v.name())).collect();
    main.output = output.into_iter().take(scopes.main_outputs).collect();
    let used = back.imports(&Functions::new(&proto));
    let graph = back.assemble().ok_or_else(broken)?;
    proto.opset_import.retain(|o| !scopes.imports.contains(o) || used.contains(functions::domain(o.domain())));
    let functions = Functions::new(&proto);
    let now = functions::reachable(&functions, &graph);
    let gone = |f: usize| scopes.called.contains(&f) && !now.contains(&f);
    let mut k = 0;
    proto.functions.retain(|_| {
        k += 1;
        !gone(k - 1)
    });
    proto.graph = Some(graph);
    Ok(proto)
}

/// The nested graphs while they fill.
struct Back<'s> {
    scopes: &'s Scopes,
    /// By scope; calls have none.
    graphs: Vec<GraphProto>,
    /// By scope: the outermost call around it that becomes a call again.
    folded: Vec<Option<ScopeId>>,
    /// Calls that have been written.
    written: HashSet<ScopeId>,
    /// By node of the flat graph: where it was put.
    at: Vec<Option<(ScopeId, usize)>>,
    /// New constants that only one body reads.
    added: HashMap<String, ScopeId>,
}

impl<'s> Back<'s> {
    fn new(scopes: &'s Scopes, flat: &GraphProto, before_ir_4: bool) -> Self {
        let mut folded: Vec<Option<ScopeId>> = Vec::new();
        let mut graphs = Vec::new();
        for (id, s) in scopes.scopes.iter().enumerate() {
            let outer = if id == MAIN { None } else { folded[s.parent] };
            let own = matches!(s.kind, Kind::Call { touched: false, .. }).then_some(id);
            folded.push(outer.or(own));
            graphs.push(match &s.kind {
                Kind::Main => GraphProto {
                    name: flat.name.clone(),
                    doc_string: flat.doc_string.clone(),
                    quantization_annotation: flat.quantization_annotation.clone(),
                    metadata_props: flat.metadata_props.clone(),
                    ..GraphProto::default()
                },
                Kind::Body { frame, .. } => scopes.frame_of(id, frame),
                Kind::Call { .. } => GraphProto::default(),
            });
        }
        // Before IR version 4 a constant is an input as well, and a body's inputs are given.
        let added = if before_ir_4 { HashMap::new() } else { homes(scopes, flat, &folded) };
        Back { scopes, graphs, folded, written: HashSet::new(), at: vec![None; flat.node.len()], added }
    }

    fn node(&mut self, k: usize, mut n: NodeProto) {
        let spot = &self.scopes.nodes[k];
        let mut scope = spot.scope;
        let mut name = &spot.name;
        match self.folded[scope] {
            None => {
                if let Some(attribute) = &spot.attribute {
                    n.attribute.clone_from(attribute);
                }
            }
            Some(call) if self.written.insert(call) => {
                let Kind::Call { node, name: own, .. } = &self.scopes.scopes[call].kind else { return };
                n = NodeProto::clone(node);
                scope = self.scopes.scopes[call].parent;
                name = own;
            }
            Some(_) => return,
        }
        for v in n.input.iter_mut().chain(&mut n.output) {
            if let Some(original) = self.scopes.values.get(v.as_str()).and_then(|l| l.name.as_ref()) {
                original.clone_into(v);
            }
        }
        if let Some(name) = name {
            n.name.clone_from(name);
        }
        let frame = self.scopes.frame(scope);
        self.at[k] = Some((frame, self.graphs[frame].node.len()));
        self.graphs[frame].node.push(n);
    }

    /// The graph that a constant or declaration goes to; `None` when it is inside a call.
    fn place(&self, name: &str) -> Option<ScopeId> {
        match self.scopes.values.get(name) {
            Some(local) if self.folded[local.scope].is_some() => None,
            Some(local) => Some(self.scopes.frame(local.scope)),
            None => Some(self.added.get(name).copied().unwrap_or(MAIN)),
        }
    }

    /// Domains that inlined functions use.
    fn imports(&self, functions: &Functions<'_>) -> HashSet<String> {
        let mut used = HashSet::new();
        for s in &self.scopes.scopes {
            if let Kind::Call { function, touched: true, .. } = s.kind {
                functions::domains(&functions.get(function).node, &|_| true, &mut used);
            }
        }
        used.into_iter().map(str::to_owned).collect()
    }

    /// Puts the bodies into their nodes, the innermost first.
    fn assemble(mut self) -> Option<GraphProto> {
        for id in (1..self.scopes.scopes.len()).rev() {
            let Kind::Body { owner, attribute, index, .. } = self.scopes.scopes[id].kind else { continue };
            if self.folded[id].is_some() {
                continue;
            }
            let body = std::mem::take(&mut self.graphs[id]);
            let (frame, at) = (*self.at.get(owner)?)?;
            let attribute = self.graphs[frame].node.get_mut(at)?.attribute.get_mut(attribute)?;
            let slot = match index {
                None => attribute.g.as_mut()?,
                Some(k) => attribute.graphs.get_mut(k)?,
            };
            *slot = body;
        }
        self.graphs.into_iter().next()
    }
}

/// For constants that an edit added: the innermost body that has all their readers.
fn homes(scopes: &Scopes, flat: &GraphProto, folded: &[Option<ScopeId>]) -> HashMap<String, ScopeId> {
    let new = |name: &str| !scopes.values.contains_key(name) && !scopes.taken.contains(name);
    let added: HashSet<&str> = flat.initializer.iter().map(|t| t.name()).filter(|n| new(n)).collect();
    let mut homes: HashMap<String, ScopeId> = HashMap::new();
    for (spot, node) in scopes.nodes.iter().zip(&flat.node) {
        for name in node.input.iter().filter(|i| added.contains(i.as_str())) {
            // An argument of a call belongs where the call is.
            let here = scopes.frame(folded[spot.scope].map_or(spot.scope, |call| scopes.scopes[call].parent));
            let home = homes.get(name).map_or(here, |&h| scopes.common(h, here));
            homes.insert(name.clone(), home);
        }
    }
    homes
}

impl Scopes {
    /// A body without its content. In an inlined call the flat names are the names.
    fn frame_of(&self, id: ScopeId, frame: &GraphProto) -> GraphProto {
        let mut out = frame.clone();
        if self.in_call(id) {
            let names = |all: &[(String, ScopeId)]| -> Vec<String> {
                all.iter().filter(|(_, s)| *s == id).map(|(name, _)| name.clone()).collect()
            };
            let ends = names(&self.inputs).into_iter().chain(names(&self.outputs));
            out.input.iter_mut().chain(&mut out.output).zip(ends).for_each(|(v, name)| v.name = Some(name));
            // They speak of the function's tensors.
            out.quantization_annotation.clear();
        }
        out
    }

    /// The innermost graph around two graphs.
    fn common(&self, mut a: ScopeId, mut b: ScopeId) -> ScopeId {
        while a != b {
            let later = if a > b { &mut a } else { &mut b };
            *later = self.frame(self.scopes[*later].parent);
        }
        a
    }

    /// The name in the file of a value of the flat graph.
    fn original(&self, name: Option<&str>) -> Option<String> {
        let name = name?;
        match self.values.get(name) {
            Some(Local { name: Some(original), .. }) => Some(original.clone()),
            _ => Some(name.to_owned()),
        }
    }
}
