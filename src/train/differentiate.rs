//! A model's nodes on the tape, forward and backward.

use super::grad::{Back, BatchNorms, Fore, Kind, Saved, gradient};
use super::tape::{Tape, Var};
use crate::canon::Analysis;
use crate::error::{Error, Result};
use crate::flat::captured_names;
use crate::graph::{NodeId, Origin, ValueId};
use crate::onnx::proto::NodeProto;
use crate::onnx::tensor;
use crate::ops::Refusal;
use regex::Regex;
use std::collections::{BTreeMap, HashMap};

/// A constant of the model that can be trained.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// The initializer.
    pub value: ValueId,
    /// Its name.
    pub name: String,
    /// Its shape.
    pub dims: Vec<usize>,
    /// What it is.
    pub kind: Kind,
}

impl Parameter {
    /// The number of elements.
    pub fn numel(&self) -> usize {
        self.dims.iter().product()
    }
}

/// Operators behind which an exporter leaves a weight: the tensor in front, in another shape or standardised, is what trains.
const BEFORE_WEIGHTS: &[&str] = &[
    "Identity",
    "Transpose",
    "Reshape",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
    "Expand",
    "Cast",
    "Pad",
    "Slice",
    "BatchNormalization",
    "InstanceNormalization",
    "Add",
    "Sub",
    "Mul",
    "Div",
];

/// The initializer that a weight is made of: itself, or what a few operators that read nothing but constants make it of.
fn made_of(a: &Analysis, stored: &[bool], value: ValueId) -> Option<ValueId> {
    let mut v = value;
    while stored[v.0 as usize] {
        let node = match a.graph.value(v).origin {
            Origin::Initializer(_) => return Some(v),
            Origin::Node(n, 0) => n,
            _ => return None,
        };
        if !BEFORE_WEIGHTS.contains(&a.graph.node(node).op_type()) {
            return None;
        }
        // The larger of two: statistics and gains are small.
        let size = |v: &ValueId| a.lanes[0].shapes[v.0 as usize].as_ref().map_or(0, |d| d.iter().product::<usize>());
        let inputs = &a.graph.nodes[node.0 as usize].inputs;
        let arithmetic = matches!(a.graph.node(node).op_type(), "Add" | "Sub" | "Mul" | "Div");
        let from =
            if arithmetic { inputs.iter().flatten().rev().max_by_key(|v| size(v)) } else { inputs.first()?.as_ref() };
        v = *from?;
    }
    None
}

/// Per value: whether it is an initializer, or computed from nothing else.
fn stored(a: &Analysis) -> Vec<bool> {
    let held = |v: &crate::graph::Value| matches!(v.origin, Origin::Initializer(_));
    let mut all: Vec<bool> = a.graph.values.iter().map(held).collect();
    for &id in &a.graph.order {
        let node = &a.graph.nodes[id.0 as usize];
        let of_constants = node.inputs.iter().flatten().all(|v| all[v.0 as usize]);
        node.outputs.iter().flatten().for_each(|v| all[v.0 as usize] = of_constants);
    }
    all
}

/// The constants that layers train, in graph order. `freeze`: names of nodes and tensors that stay as they are.
///
/// A constant beside something computed (`Add`, `Mul`) counts when what is computed depends on a trained tensor: what comes
/// before the first layer prepares the input.
pub fn parameters(a: &Analysis, freeze: &[Regex]) -> Vec<Parameter> {
    let mut found: BTreeMap<ValueId, Parameter> = BTreeMap::new();
    let mut order = Vec::new();
    let stored = stored(a);
    let mut depends = vec![false; a.graph.values.len()];
    for &id in &a.graph.order {
        let cx = a.cx(id, 0, &[]);
        let node = a.graph.node(id);
        let rule = gradient(node);
        let computed = a.graph.nodes[id.0 as usize].inputs.iter().flatten().any(|v| depends[v.0 as usize]);
        let mut trains = computed;
        let frozen = freeze.iter().any(|r| r.is_match(&a.graph.name(id)));
        for (slot, kind) in rule.map(|r| r.parameters(&cx)).unwrap_or_default() {
            let Some(value) = a.graph.input(id, slot).and_then(|v| made_of(a, &stored, v)) else { continue };
            let info = a.graph.value(value);
            let Origin::Initializer(i) = info.origin else { continue };
            let Some(t) = a.graph.proto.initializer.get(i) else { continue };
            let beside = matches!(node.op_type(), "Add" | "Sum" | "Sub" | "Mul" | "Div");
            let stays = frozen || freeze.iter().any(|r| r.is_match(&info.name)) || (beside && !computed);
            let Some(dims) = tensor::dims(t).ok().filter(|_| tensor::is_float(t.data_type()) && !stays) else {
                continue;
            };
            if let std::collections::btree_map::Entry::Vacant(place) = found.entry(value) {
                place.insert(Parameter { value, name: info.name.clone(), dims, kind });
                order.push(value);
            }
            depends[value.0 as usize] = true;
            trains = true;
        }
        if trains {
            for v in a.graph.nodes[id.0 as usize].outputs.iter().flatten() {
                depends[v.0 as usize] = true;
            }
        }
    }
    order.into_iter().filter_map(|v| found.remove(&v)).collect()
}

/// A model's forward part on a tape.
pub struct Forward {
    /// Every value whose shape is known.
    pub vars: HashMap<ValueId, Var>,
    /// Stored tensors that follow, and their new values.
    pub follows: Vec<(Var, Var)>,
    saved: Saved,
    /// Per value: a trained tensor goes into it.
    depends: Vec<bool>,
    batch_norms: BatchNorms,
}

fn refused(a: &Analysis, id: NodeId, why: &Refusal) -> Error {
    let message = format!(
        "{} cannot be trained through: {}; leave what comes before it as it is, with --freeze REGEX over its names",
        a.graph.label(id),
        why.0
    );
    Error::Train { path: a.graph.model.path.clone(), message }
}

fn internal(what: &Refusal) -> Error {
    Error::Internal(format!("a training graph: {}", what.0))
}

/// Writes the nodes of a model. `live` are the trained tensors, which must be on the tape under the initializers' names; the
/// other constants keep their names.
///
/// # Errors
/// [`Error::Train`] with the node that has no training form.
pub fn forward(t: &mut Tape, a: &Analysis, live: &HashMap<ValueId, Var>, batch_norms: BatchNorms) -> Result<Forward> {
    let mut f = Forward {
        vars: live.clone(),
        follows: Vec::new(),
        saved: Saved::new(),
        depends: vec![false; a.graph.values.len()],
        batch_norms,
    };
    for v in live.keys() {
        f.depends[v.0 as usize] = true;
    }
    let shapes = &a.lanes[0].shapes;
    for (i, v) in a.graph.values.iter().enumerate() {
        if let Some(dims) = &shapes[i] {
            f.vars.entry(ValueId(i as u32)).or_insert_with(|| t.existing(&v.name, dims));
        }
    }
    for &id in &a.graph.order {
        let node = a.graph.node(id);
        let entry = &a.graph.nodes[id.0 as usize];
        let depends = |v: &ValueId| f.depends[v.0 as usize];
        let captured = captured_names(node).into_iter().filter_map(|n| a.graph.find(n)).any(|v| depends(&v));
        let trained = entry.inputs.iter().flatten().any(depends) || captured;
        let rule = gradient(node);
        let replaced = match rule {
            Some(rule) => {
                let cx = a.cx(id, 0, &[]);
                let (vars, saved, follows, depends) = (&f.vars, &mut f.saved, &mut f.follows, f.depends.as_slice());
                let mut fore = Fore { cx, t, batch_norms, trained, depends, vars, saved, follows };
                rule.forward(&mut fore).map_err(|why| refused(a, id, &why))?
            }
            None => false,
        };
        if !replaced {
            t.push(node.clone());
        }
        if trained && rule.is_none_or(|r| !r.is_constant()) {
            entry.outputs.iter().flatten().for_each(|v| f.depends[v.0 as usize] = true);
        }
    }
    Ok(f)
}

/// Writes the gradient of a loss with respect to the trained tensors, given that with respect to some values. Trained tensors
/// that the loss does not depend on are missing from the result.
///
/// # Errors
/// [`Error::Train`] with the node that has no rule.
pub fn backward(
    t: &mut Tape,
    a: &Analysis,
    f: &Forward,
    live: &HashMap<ValueId, Var>,
    seeds: &[(ValueId, Var)],
) -> Result<BTreeMap<ValueId, Var>> {
    let mut gradients: BTreeMap<ValueId, Vec<Var>> = BTreeMap::new();
    for &(v, g) in seeds {
        if f.depends[v.0 as usize] {
            gradients.entry(v).or_default().push(g);
        }
    }
    let total = |t: &mut Tape, gradients: &mut BTreeMap<ValueId, Vec<Var>>, v: ValueId| match gradients.remove(&v) {
        Some(parts) => t.sum_of(&parts).map(Some).map_err(|why| internal(&why)),
        None => Ok(None),
    };
    for &id in a.graph.order.iter().rev() {
        let entry = &a.graph.nodes[id.0 as usize];
        let wants: Vec<bool> = entry.inputs.iter().map(|v| v.is_some_and(|v| f.depends[v.0 as usize])).collect();
        if !wants.contains(&true) {
            continue;
        }
        let mut dys = Vec::with_capacity(entry.outputs.len());
        for v in &entry.outputs {
            dys.push(match v {
                Some(v) => total(t, &mut gradients, *v)?,
                None => None,
            });
        }
        if dys.iter().all(Option::is_none) {
            continue;
        }
        let Some(rule) = gradient(a.graph.node(id)) else {
            return Err(refused(a, id, &Refusal("its operator has no gradient".into())));
        };
        let cx = a.cx(id, 0, &[]);
        let (vars, saved, batch_norms) = (&f.vars, &f.saved, f.batch_norms);
        let mut back = Back { cx, t, batch_norms, vars, saved, dys, wants, given: Vec::new() };
        rule.backward(&mut back).map_err(|why| refused(a, id, &why))?;
        for (slot, g) in back.given {
            if let Some(v) = entry.inputs.get(slot).copied().flatten() {
                gradients.entry(v).or_default().push(g);
            }
        }
    }
    let mut out = BTreeMap::new();
    let mut all: Vec<ValueId> = live.keys().copied().collect();
    all.sort_unstable();
    for v in all {
        if let Some(g) = total(t, &mut gradients, v)? {
            out.insert(v, g);
        }
    }
    Ok(out)
}

/// A node of another model (a teacher) with all names behind a prefix, but those of `shared` values.
pub fn prefixed(node: &NodeProto, prefix: &str, shared: &HashMap<String, String>) -> NodeProto {
    let rename = |n: &String| match shared.get(n) {
        _ if n.is_empty() => String::new(),
        Some(name) => name.clone(),
        None => format!("{prefix}{n}"),
    };
    NodeProto {
        name: node.name.as_ref().map(|n| format!("{prefix}{n}")),
        input: node.input.iter().map(rename).collect(),
        output: node.output.iter().map(rename).collect(),
        ..node.clone()
    }
}
