//! What analysis needs to know before channels can be traced: shapes, folded shape arithmetic, channel shuffles.
//!
//! Dynamic dimensions are handled by computing everything twice, under two assignments of concrete sizes (two
//! [`Lane`]s). A size that is the same in both is fixed; one that differs is dynamic and never cut.

pub mod fold;
pub mod shuffle;
pub mod val;

use crate::graph::{Body, Graph, NodeId, Origin, ValueId, attribute, is_default_domain};
use crate::onnx::proto::{TypeProto, tensor_shape_proto::dimension::Value as DimValue, type_proto::Value as TypeValue};
use crate::onnx::tensor;
use crate::ops::cx::{Lane, NodeCx, Override, RUN_TIME};
use crate::ops::{Policy, Refusal, Shapes};
use std::collections::HashMap;
use std::sync::Arc;

/// Longer axes are not followed.
const MAX_SIZE: usize = 1 << 40;

/// A graph with everything that could be told about its values.
pub struct Analysis<'m> {
    /// The graph.
    pub graph: &'m Graph<'m>,
    /// Version of the default operator set.
    pub opset: i64,
    /// Facts under the two assignments.
    pub lanes: [Lane; 2],
    /// Per node: why its output shapes are not known.
    pub refusals: Vec<Option<Refusal>>,
    /// What the trace may do beyond the default.
    pub policy: Policy,
    /// Channel shuffles: three nodes that together permute one axis.
    pub shuffles: Vec<shuffle::Shuffle>,
}

/// Concrete sizes for dynamic dimensions, by `dim_param` or by position.
struct Assignment {
    lane: usize,
    named: HashMap<String, usize>,
}

impl Assignment {
    /// A batch of 2 or 3; positions of 224, or 320 and 384: multiples of what networks stride by, told apart by lane.
    fn size(&mut self, name: &str, axis: usize, rank: usize) -> usize {
        if let Some(&n) = self.named.get(name) {
            return n;
        }
        let n = match (axis, rank, self.lane) {
            (0, 2.., 0) => 2,
            (0, 2.., _) => 3,
            (_, 3.., 0) => 224,
            (_, 3.., _) => 320 + 64 * (axis % 2),
            (_, _, 0) => 64,
            _ => 96,
        };
        if !name.is_empty() {
            self.named.insert(name.to_owned(), n);
        }
        n
    }

    fn shape(&mut self, ty: &TypeProto) -> Option<Vec<usize>> {
        let Some(TypeValue::TensorType(t)) = &ty.value else { return None };
        let dims = &t.shape.as_ref()?.dim;
        dims.iter()
            .enumerate()
            .map(|(a, d)| match &d.value {
                Some(DimValue::DimValue(n)) if *n > 0 => usize::try_from(*n).ok().filter(|&n| n <= MAX_SIZE),
                Some(DimValue::DimParam(p)) => Some(self.size(p, a, dims.len())),
                _ => Some(self.size("", a, dims.len())),
            })
            .collect()
    }

    /// The shape of a `value_info` entry, only where every dimension is a number or an assigned name.
    fn known(&self, ty: &TypeProto) -> Option<Vec<usize>> {
        let Some(TypeValue::TensorType(t)) = &ty.value else { return None };
        t.shape
            .as_ref()?
            .dim
            .iter()
            .map(|d| match &d.value {
                Some(DimValue::DimValue(n)) if *n >= 0 => usize::try_from(*n).ok().filter(|&n| n <= MAX_SIZE),
                Some(DimValue::DimParam(p)) => self.named.get(p).copied(),
                _ => None,
            })
            .collect()
    }
}

/// Computes shapes and folds shape arithmetic.
pub fn analyse<'m>(graph: &'m Graph<'m>) -> Analysis<'m> {
    analyse_with(graph, Policy::default())
}

/// The same under a policy.
pub fn analyse_with<'m>(graph: &'m Graph<'m>, policy: Policy) -> Analysis<'m> {
    let opset = graph.model.opset();
    let (a, refused_a) = lane(graph, opset, 0);
    let (b, refused_b) = lane(graph, opset, 1);
    let refusals = refused_a.into_iter().zip(refused_b).map(|(x, y)| x.or(y)).collect();
    let mut analysis = Analysis { graph, opset, lanes: [a, b], refusals, policy, shuffles: Vec::new() };
    analysis.shuffles = shuffle::find(&analysis);
    analysis
}

fn lane(graph: &Graph, opset: i64, index: usize) -> (Lane, Vec<Option<Refusal>>) {
    let mut assign = Assignment { lane: index, named: HashMap::new() };
    let n = graph.values.len();
    let mut lane = Lane { shapes: vec![None; n], vals: vec![None; n] };
    for (i, v) in graph.values.iter().enumerate() {
        match v.origin {
            Origin::Input(k) => {
                lane.shapes[i] = graph.proto.input.get(k).and_then(|v| v.r#type.as_ref()).and_then(|t| assign.shape(t));
            }
            Origin::Initializer(k) => {
                if let Some(t) = graph.proto.initializer.get(k) {
                    lane.shapes[i] = tensor::dims(t).ok().filter(|d| d.iter().all(|&n| n <= MAX_SIZE));
                    lane.vals[i] = fold::of_tensor(t).map(Arc::new);
                }
            }
            Origin::Sparse | Origin::Node(..) => {}
        }
    }
    let infos: HashMap<&str, &TypeProto> = graph
        .proto
        .value_info
        .iter()
        .chain(&graph.proto.output)
        .filter_map(|v| Some((v.name(), v.r#type.as_ref()?)))
        .collect();
    let mut refusals = vec![None; graph.nodes.len()];
    let mut blamed: HashMap<ValueId, String> = HashMap::new();
    for &id in &graph.order {
        let cx = NodeCx { graph, id, node: graph.node(id), opset, lane: &lane, overrides: &[] };
        let (shapes, refusal) = match infer(&cx) {
            Ok(s) => (s, None),
            Err(_) if graph.bodies.iter().any(|b| b.owner == id) => {
                let why = "what enters and leaves its subgraphs stays whole";
                (vec![], Some(blame(graph, &lane, &mut blamed, id, Refusal(why.into()))))
            }
            Err(r) => (vec![], Some(blame(graph, &lane, &mut blamed, id, r))),
        };
        refusals[id.0 as usize] = refusal;
        let outputs = &graph.nodes[id.0 as usize].outputs;
        for (slot, out) in outputs.iter().enumerate() {
            let Some(v) = *out else { continue };
            let inner = || of_bodies(graph, &lane, id, slot);
            lane.shapes[v.0 as usize] = shapes.get(slot).cloned().flatten().or_else(inner).or_else(|| {
                // The file's own word, for operators without a rule.
                infos.get(graph.value(v).name.as_str()).and_then(|t| assign.known(t))
            });
        }
        let cx = NodeCx { graph, id, node: graph.node(id), opset, lane: &lane, overrides: &[] };
        for (val, out) in fold::eval(&cx).into_iter().zip(outputs) {
            if let (Some(val), &Some(v)) = (val, out) {
                lane.shapes[v.0 as usize].get_or_insert_with(|| val.dims.clone());
                lane.vals[v.0 as usize] = Some(Arc::new(val));
            }
        }
    }
    (lane, refusals)
}

/// What the lifted bodies of a node tell about its output: all branches of an `If` give the same shape; a value that a
/// `Loop` or `Scan` carries leaves the body as it entered the node.
fn of_bodies(graph: &Graph, lane: &Lane, id: NodeId, slot: usize) -> Option<Vec<usize>> {
    let mut bodies = graph.bodies.iter().filter(|b| b.owner == id);
    let shape = |v: ValueId| lane.shapes[v.0 as usize].as_ref();
    let first = bodies.next()?;
    let node = graph.node(id);
    let (carried, before, at) = match node.op_type() {
        "If" => {
            let made = shape(*first.outputs.get(slot)?)?;
            let agrees = |b: &Body| b.outputs.get(slot).and_then(|&v| shape(v)) == Some(made);
            return bodies.all(agrees).then(|| made.clone());
        }
        // The body takes and gives a condition as well; the node takes a number of turns before it.
        "Loop" => (first.inputs.len().checked_sub(2)?, 2, slot + 1),
        "Scan" => {
            let scanned = attribute(node, "num_scan_inputs").and_then(|a| a.i);
            let scanned = scanned.and_then(|n| usize::try_from(n).ok())?;
            (first.inputs.len().checked_sub(scanned)?, 0, slot)
        }
        _ => return None,
    };
    let made = shape(*first.outputs.get(at)?)?;
    let entered = shape(graph.input(id, slot.checked_add(before)?)?)?;
    (slot < carried && made == entered).then(|| made.clone())
}

/// Names the node where shapes were lost, not the one that misses them.
fn blame(graph: &Graph, lane: &Lane, blamed: &mut HashMap<ValueId, String>, id: NodeId, own: Refusal) -> Refusal {
    let node = &graph.nodes[id.0 as usize];
    let unknown = node.inputs.iter().flatten().find(|v| lane.shapes[v.0 as usize].is_none());
    let cause = unknown.and_then(|v| blamed.get(v)).cloned();
    let (cause, told) = match cause {
        Some(c) => (c.clone(), Refusal(format!("the shape of its input is not known: {c}"))),
        None => (format!("{}: {}", graph.label(id), own.0), own),
    };
    for v in node.outputs.iter().flatten() {
        blamed.insert(*v, cause.clone());
    }
    told
}

/// Output shapes of a node, or why they are not known.
pub fn infer(cx: &NodeCx) -> Result<Shapes, Refusal> {
    let domain = cx.node.domain();
    let same = |d: &str| d == domain || (is_default_domain(d) && is_default_domain(domain));
    let overridden = cx.graph.model.proto.functions.iter().any(|f| f.name() == cx.node.op_type() && same(f.domain()));
    if overridden {
        return Err(Refusal("a function of the model defines this operator".into()));
    }
    let Some(rule) = cx.graph.rule_of(cx.node) else {
        return Err(Refusal("this operator has no rule, so its axes are not followed".into()));
    };
    let shapes = rule.infer(cx)?;
    // Sizes that no tensor in memory has would only overflow later.
    match shapes.iter().flatten().flatten().find(|&&d| d > MAX_SIZE) {
        Some(d) => Err(Refusal(format!("an axis of size {d}"))),
        None => Ok(shapes),
    }
}

impl<'m> Analysis<'m> {
    /// A node whose shapes could not be told although everything it reads is known: the model contradicts itself, or uses
    /// a form that is not followed.
    pub fn contradiction(&self) -> Option<String> {
        let known = |id: &NodeId| {
            let mut inputs = self.graph.nodes[id.0 as usize].inputs.iter().flatten();
            inputs.all(|v| self.lanes.iter().all(|l| l.shapes[v.0 as usize].is_some()))
        };
        self.graph.order.iter().filter(|id| known(id)).find_map(|&id| {
            let refusal = self.refusals[id.0 as usize].as_ref()?;
            let ruled = self.graph.rule(id).is_some();
            (ruled && !refusal.0.contains(RUN_TIME)).then(|| format!("{}: {}", self.graph.label(id), refusal.0))
        })
    }

    /// A node in one lane.
    pub fn cx<'a>(&'a self, id: NodeId, lane: usize, overrides: &'a [Override]) -> NodeCx<'a>
    where
        'm: 'a,
    {
        NodeCx {
            graph: self.graph,
            id,
            node: self.graph.node(id),
            opset: self.opset,
            lane: &self.lanes[lane.min(1)],
            overrides,
        }
    }

    /// Size of each axis under the first assignment, and whether it is the same under both.
    pub fn dims(&self, value: ValueId) -> Option<Vec<(usize, bool)>> {
        let a = self.lanes[0].shapes[value.0 as usize].as_ref()?;
        let b = self.lanes[1].shapes[value.0 as usize].as_ref()?;
        (a.len() == b.len()).then(|| a.iter().zip(b).map(|(&x, &y)| (x, x == y)).collect())
    }
}
