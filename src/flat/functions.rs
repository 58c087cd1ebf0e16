//! The functions of a model: which call means which, and which can be inlined.

use super::{MAX_DEPTH, captured_names};
use crate::graph::is_default_domain;
use crate::onnx::proto::{AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto};
use std::collections::{BTreeMap, HashMap, HashSet};

/// `(domain, name, overload)`; both spellings of the standard domain are one.
type Key<'m> = (&'m str, &'m str, &'m str);

pub(super) fn domain(d: &str) -> &str {
    if is_default_domain(d) { "" } else { d }
}

fn call_key(n: &NodeProto) -> Key<'_> {
    (domain(n.domain()), n.op_type(), n.overload())
}

/// What a function expands to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Extent {
    /// Nodes, bodies and inner calls included.
    pub size: usize,
    /// Bodies and calls inside each other.
    pub height: usize,
}

#[derive(Clone, Copy)]
enum State {
    Unknown,
    /// Being computed.
    Active,
    /// `None`: calls of it stay calls.
    Done(Option<Extent>),
}

/// All functions.
pub(super) struct Functions<'m> {
    list: &'m [FunctionProto],
    /// `None`: defined twice.
    by_key: HashMap<Key<'m>, Option<usize>>,
    state: Vec<State>,
    active: Vec<usize>,
    /// On a cycle of calls.
    recursive: HashSet<usize>,
    /// Operator sets of the model, and of functions with further ones.
    imports: BTreeMap<&'m str, i64>,
}

impl<'m> Functions<'m> {
    pub fn new(model: &'m ModelProto) -> Self {
        let mut by_key = HashMap::new();
        for (i, f) in model.functions.iter().enumerate() {
            let entry = by_key.entry((domain(f.domain()), f.name(), f.overload()));
            entry.and_modify(|known| *known = None).or_insert(Some(i));
        }
        Functions {
            list: &model.functions,
            by_key,
            state: vec![State::Unknown; model.functions.len()],
            active: Vec::new(),
            recursive: HashSet::new(),
            imports: model.opset_import.iter().map(|o| (domain(o.domain()), o.version())).collect(),
        }
    }

    pub fn get(&self, f: usize) -> &'m FunctionProto {
        &self.list[f]
    }

    /// The function that a node calls.
    pub fn find(&self, n: &NodeProto) -> Option<usize> {
        if self.list.is_empty() {
            return None;
        }
        self.by_key.get(&call_key(n)).copied().flatten()
    }

    /// Whether the name of a standard operator means a function of the model, or might.
    pub fn defines(&self, n: &NodeProto) -> bool {
        !self.list.is_empty() && self.by_key.contains_key(&call_key(n))
    }

    /// What a call of the function expands to (perhaps far too much); `None` when it has to stay a call. Time is linear in the functions' nodes.
    pub fn extent(&mut self, f: usize) -> Option<Extent> {
        self.at(f, 0)
    }

    fn at(&mut self, f: usize, depth: usize) -> Option<Extent> {
        match self.state[f] {
            State::Done(e) => return e,
            State::Active => {
                let from = self.active.iter().position(|&a| a == f).unwrap_or(0);
                self.recursive.extend(&self.active[from..]);
                return None;
            }
            State::Unknown => {}
        }
        let function = &self.list[f];
        if depth >= MAX_DEPTH || !sound(function) || !self.same_operators(function) {
            self.state[f] = State::Done(None);
            return None;
        }
        self.state[f] = State::Active;
        self.active.push(f);
        let extent = self.of_nodes(&function.node, depth + 1);
        self.active.pop();
        let extent = extent.filter(|_| !self.recursive.contains(&f));
        self.state[f] = State::Done(extent);
        extent
    }

    fn of_nodes(&mut self, nodes: &'m [NodeProto], depth: usize) -> Option<Extent> {
        let mut all = Extent::default();
        let mut add = |e: Extent, deeper: usize| {
            all.size = all.size.saturating_add(e.size);
            all.height = all.height.max(e.height + deeper);
        };
        for n in nodes {
            add(Extent { size: 1, height: 0 }, 0);
            if let Some(g) = self.find(n)
                && let Some(e) = self.at(g, depth)
            {
                add(e, 1);
            }
            for body in n.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs)) {
                if depth >= MAX_DEPTH {
                    return None;
                }
                add(self.of_nodes(&body.node, depth + 1)?, 1);
            }
        }
        Some(all)
    }

    /// Whether the function's operators are those of the model. A set that only functions import becomes the model's.
    fn same_operators(&mut self, f: &'m FunctionProto) -> bool {
        let own: HashMap<&str, i64> = f.opset_import.iter().map(|o| (domain(o.domain()), o.version())).collect();
        let mut used = HashSet::new();
        // Functions have no versions.
        domains(&f.node, &|n| self.find(n).is_none(), &mut used);
        let fits = |d: &&str| own.get(d).is_some_and(|v| self.imports.get(d).is_none_or(|m| m == v));
        if !used.iter().all(fits) {
            return false;
        }
        self.imports.extend(used.into_iter().filter_map(|d| own.get_key_value(d)).map(|(d, v)| (*d, *v)));
        true
    }
}

/// The domains of all nodes that count.
pub(super) fn domains<'m>(nodes: &'m [NodeProto], counts: &dyn Fn(&NodeProto) -> bool, out: &mut HashSet<&'m str>) {
    for n in nodes {
        if counts(n) {
            out.insert(domain(n.domain()));
        }
        for g in n.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs)) {
            domains(&g.node, counts, out);
        }
    }
}

/// The functions that nodes call, directly or through others, and in bodies.
pub(super) fn reachable(functions: &Functions, graph: &GraphProto) -> HashSet<usize> {
    fn calls(functions: &Functions, nodes: &[NodeProto], found: &mut Vec<usize>) {
        for n in nodes {
            // All of one key when it is defined twice.
            match functions.by_key.get(&call_key(n)) {
                Some(Some(f)) => found.push(*f),
                Some(None) => {
                    let same = |f: &FunctionProto| (domain(f.domain()), f.name(), f.overload()) == call_key(n);
                    found.extend((0..functions.list.len()).filter(|&f| same(&functions.list[f])));
                }
                None => {}
            }
            for g in n.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs)) {
                calls(functions, &g.node, found);
            }
        }
    }
    let mut all = HashSet::new();
    let mut todo = Vec::new();
    calls(functions, &graph.node, &mut todo);
    while let Some(f) = todo.pop() {
        if all.insert(f) {
            calls(functions, &functions.list[f].node, &mut todo);
        }
    }
    all
}

fn has_graph(a: &AttributeProto) -> bool {
    a.g.is_some() || !a.graphs.is_empty()
}

/// A body of which every name has one definition, and every output a node.
fn sound(f: &FunctionProto) -> bool {
    let mut defined: HashSet<&str> = HashSet::new();
    if !f.input.iter().all(|i| !i.is_empty() && defined.insert(i)) {
        return false;
    }
    let made: Vec<&str> = f.node.iter().flat_map(|n| &n.output).filter(|o| !o.is_empty()).map(String::as_str).collect();
    if !made.iter().all(|o| defined.insert(o)) {
        return false;
    }
    let made: HashSet<&str> = made.into_iter().collect();
    let mut outputs = HashSet::new();
    let reads = |n: &NodeProto| {
        n.input.iter().all(|i| i.is_empty() || defined.contains(i.as_str()))
            && captured_names(n).iter().all(|i| defined.contains(i))
    };
    f.output.iter().all(|o| made.contains(o.as_str()) && outputs.insert(o))
        && f.node.iter().all(reads)
        && !f.attribute_proto.iter().any(has_graph)
}

/// Whether a call fits its function.
pub(super) fn fits(call: &NodeProto, f: &FunctionProto) -> bool {
    call.input.len() <= f.input.len()
        && call.output.len() <= f.output.len()
        && call.output.iter().any(|o| !o.is_empty())
        && !call.attribute.iter().any(has_graph)
}
