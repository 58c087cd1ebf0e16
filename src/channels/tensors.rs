//! One tensor per set of readers: un-shares deduplicated constants, keeps tied weights tied.

use super::model::{Axis, AxisId, Tensor, TensorId};
use crate::canon::{Analysis, fold::constant_source, fold::identity_input};
use crate::graph::{NodeId, ValueId};
use crate::onnx::proto::NodeProto;
use crate::onnx::tensor;
use crate::ops::{self, Refusal};
use std::collections::{BTreeMap, HashMap};

/// Longer axes are not tracked.
pub const MAX_AXIS: usize = 1 << 20;

/// Tensors and axes of a graph, and which tensor each slot sees.
#[derive(Debug, Default)]
pub struct Tensors {
    /// All tensors.
    pub tensors: Vec<Tensor>,
    /// All tracked axes.
    pub axes: Vec<Axis>,
    /// Per node and input slot.
    pub inputs: Vec<Vec<Option<TensorId>>>,
    /// Per node and output slot.
    pub outputs: Vec<Vec<Option<TensorId>>>,
    /// The tensor of each value that is not a constant, and of constants without readers `None`.
    pub by_value: HashMap<ValueId, TensorId>,
    /// Constants that must stay whole, with the reason.
    pub whole: Vec<(TensorId, Option<NodeId>, String)>,
    /// Per node: it only passes a constant on.
    pub alias: Vec<bool>,
    /// Per value: computed from constants alone (a weight behind `Transpose`, `DequantizeLinear`, …).
    pub derived: Vec<bool>,
}

/// A reader of a constant: the value it names, the node, the slot, and the number of convolution groups there.
#[derive(Clone, Copy, Debug)]
struct Reader {
    value: ValueId,
    node: NodeId,
    slot: usize,
    fold: usize,
    weight: bool,
}

/// Builds the tensors of a graph.
pub fn build(a: &Analysis) -> Tensors {
    let g = a.graph;
    let mut out = Tensors {
        inputs: g.nodes.iter().map(|n| vec![None; n.inputs.len()]).collect(),
        outputs: g.nodes.iter().map(|n| vec![None; n.outputs.len()]).collect(),
        alias: vec![false; g.nodes.len()],
        derived: derived(a),
        ..Tensors::default()
    };
    let folds = folds(a, &out.derived);
    let mut constants: BTreeMap<ValueId, Vec<Reader>> = BTreeMap::new();
    let mut exposed: HashMap<ValueId, (Option<NodeId>, String)> = HashMap::new();
    for (i, value) in g.values.iter().enumerate() {
        let v = ValueId(i as u32);
        let Some(source) = constant_source(g, v) else {
            let t = out.push(a, v, None, value.name.clone(), value.readers.clone(), folds[i]);
            out.by_value.insert(v, t);
            continue;
        };
        let readers = constants.entry(source).or_default();
        for &(node, slot) in &value.readers {
            if identity_input(g, node) == Some(v) {
                out.alias[node.0 as usize] = true;
                continue;
            }
            let rule = g.rule(node);
            let whole = a.policy.whole_groups.contains(&g.name(node));
            let fold = if whole { 1 } else { fold_at(a, &folds, node, slot) };
            let weight = rule.is_some_and(|r| r.weight_slots().contains(&slot));
            readers.push(Reader { value: v, node, slot, fold, weight });
        }
        if value.is_output {
            let graph = if value.end_of.is_some() { "subgraph" } else { "graph" };
            exposed.insert(source, (value.end_of, format!("{graph} output {:?}", value.name)));
        } else if let Some(n) = value.captured_by {
            exposed.insert(source, (Some(n), "a subgraph reads it".into()));
        }
    }
    let mut names: HashMap<&str, usize> = HashMap::new();
    for n in &g.proto.node {
        *names.entry(n.name()).or_default() += 1;
    }
    for (source, readers) in constants {
        for (key, members) in partition(a, source, &readers, &names, exposed.contains_key(&source)) {
            let Some(first) = members.first() else { continue };
            let slots: Vec<_> = members.iter().map(|r| (r.node, r.slot)).collect();
            let t = out.push(a, first.value, Some(source), key, slots.clone(), first.fold);
            let proto = g.constant(source);
            if let Some((node, why)) = exposed.get(&source) {
                out.whole.push((t, *node, why.clone()));
            } else if members.iter().any(|r| r.fold != first.fold) {
                out.whole.push((t, None, "it is shared by convolutions with different groups".into()));
            } else if proto.is_none_or(|p| !tensor::can_cut(p.data_type())) {
                out.whole.push((t, None, "its element type cannot be cut".into()));
            } else if first.fold > 1 && proto.is_none_or(|p| tensor::elem_size(p.data_type()).is_none()) {
                out.whole.push((t, None, "its elements share bytes across convolution groups".into()));
            }
            for (node, slot) in slots {
                out.inputs[node.0 as usize][slot] = Some(t);
            }
        }
    }
    for (i, node) in g.nodes.iter().enumerate() {
        for (slot, v) in node.inputs.iter().enumerate() {
            if let Some(t) = v.and_then(|v| out.by_value.get(&v)) {
                out.inputs[i][slot] = Some(*t);
            }
        }
        for (slot, v) in node.outputs.iter().enumerate() {
            out.outputs[i][slot] = v.and_then(|v| out.by_value.get(&v)).copied();
        }
    }
    out
}

/// Which values do not depend on any graph input.
fn derived(a: &Analysis) -> Vec<bool> {
    let g = a.graph;
    let mut out: Vec<bool> = (0..g.values.len()).map(|i| g.constant(ValueId(i as u32)).is_some()).collect();
    for &id in &g.order {
        let node = &g.nodes[id.0 as usize];
        let mut inputs = node.inputs.iter().flatten().peekable();
        let from_constants = inputs.peek().is_some() && inputs.all(|v| out[v.0 as usize]);
        // A size is not a weight, and a subgraph may read anything.
        let plain = g.node(id).attribute.iter().all(|x| x.g.is_none() && x.graphs.is_empty());
        if from_constants && plain {
            for v in node.outputs.iter().flatten() {
                out[v.0 as usize] = true;
            }
        }
    }
    out
}

/// Operators that leave the elements of their first input where they are, between a weight and its layer.
const IN_PLACE: &[&str] = &["Identity", "Cast", "QuantizeLinear", "DequantizeLinear", "Clip"];

fn in_place(node: &NodeProto) -> bool {
    IN_PLACE.contains(&node.op_type()) && ops::standard(node.domain(), node.op_type()).is_some()
}

/// Number of convolution groups that the second axis runs over at a reader's slot, also behind operators that convert.
fn fold_at(a: &Analysis, folds: &[usize], node: NodeId, slot: usize) -> usize {
    let proto = a.graph.node(node);
    if slot == 0
        && in_place(proto)
        && let Some(out) = a.graph.output(node, 0)
    {
        return folds[out.0 as usize];
    }
    a.graph.rule(node).map_or(1, |r| r.fold(&a.cx(node, 0, &[]), slot))
}

/// The fold of every value that is computed from constants alone: what all its readers agree on, else 1.
fn folds(a: &Analysis, derived: &[bool]) -> Vec<usize> {
    let g = a.graph;
    let mut out = vec![1; g.values.len()];
    for &id in g.order.iter().rev().filter(|&&id| in_place(g.node(id))) {
        for v in g.nodes[id.0 as usize].outputs.iter().flatten().filter(|v| derived[v.0 as usize]) {
            let value = g.value(*v);
            let mut readers = value.readers.iter().map(|&(n, slot)| fold_at(a, &out, n, slot));
            let first = readers.next().unwrap_or(1);
            if readers.all(|f| f == first) && !value.is_output && value.captured_by.is_none() {
                out[v.0 as usize] = first;
            }
        }
    }
    out
}

/// Divides the readers of a constant into those that see one tensor, each with its plan key.
fn partition(
    a: &Analysis,
    source: ValueId,
    readers: &[Reader],
    names: &HashMap<&str, usize>,
    exposed: bool,
) -> Vec<(String, Vec<Reader>)> {
    let g = a.graph;
    let name = g.value(source).name.clone();
    let tied = readers.iter().all(|r| r.weight && r.fold == readers[0].fold && g.op(r.node) == g.op(readers[0].node));
    if readers.len() < 2 || tied || exposed {
        return vec![(name, readers.to_vec())];
    }
    let mut parts: BTreeMap<String, Vec<Reader>> = BTreeMap::new();
    for r in readers {
        let read_as = g.value(r.value);
        let node_name = g.node(r.node).name();
        // The key must name this reader alone, in the words of the file.
        let key = if r.value != source && read_as.readers.len() == 1 {
            read_as.name.clone()
        } else if !node_name.is_empty() && names.get(node_name) == Some(&1) {
            format!("{}@{}", read_as.name, node_name)
        } else {
            // Unnamed nodes cannot be told apart: all readers stay together.
            return vec![(name, readers.to_vec())];
        };
        parts.entry(key).or_default().push(*r);
    }
    parts.into_iter().collect()
}

impl Tensors {
    fn push(
        &mut self,
        a: &Analysis,
        value: ValueId,
        source: Option<ValueId>,
        key: String,
        readers: Vec<(NodeId, usize)>,
        fold: usize,
    ) -> TensorId {
        let id = TensorId(self.tensors.len() as u32);
        let known = a.dims(source.unwrap_or(value));
        let mut axes = Vec::new();
        let mut dims = Vec::new();
        for (axis, &(n, fixed)) in known.iter().flatten().enumerate() {
            dims.push(n);
            let fold = if axis == 1 { fold } else { 1 };
            let len = n.saturating_mul(fold);
            axes.push((fixed && len > 1 && len <= MAX_AXIS).then(|| {
                self.axes.push(Axis { tensor: id, axis, len, fold });
                AxisId(self.axes.len() as u32 - 1)
            }));
        }
        let elem_type = source.and_then(|s| a.graph.constant(s)).map_or(0, |t| t.data_type());
        self.tensors.push(Tensor { value, source, key, readers, dims, axes, elem_type });
        id
    }

    /// Every tensor of a node, each once.
    pub fn of_node(&self, node: NodeId) -> impl Iterator<Item = TensorId> + '_ {
        let i = node.0 as usize;
        self.inputs[i].iter().chain(&self.outputs[i]).copied().flatten()
    }
}

/// A refusal for a graph that is too large to trace.
pub fn too_large() -> Refusal {
    Refusal("the graph has more than 2^28 channel indices".into())
}
