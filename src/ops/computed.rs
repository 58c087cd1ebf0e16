//! Weights that the model computes from its own constants, such as standardised ones.
//!
//! Their statistic runs over the input channels, so that none could leave. Computed once, they are weights like others.

use super::build;
use super::chain::{is_batch_norm, weight_source};
use super::norm::batch_statistics;
use crate::canon::Analysis;
use crate::graph::{NodeId, Origin, ValueId};
use crate::onnx::proto::{NodeProto, TensorProto};
use crate::onnx::tensor;
use std::collections::BTreeSet;

/// Operators that keep integer weights integer: what they compute must stay computed.
const QUANTIZED: &[&str] = &["DequantizeLinear", "QuantizeLinear", "DynamicQuantizeLinear"];

/// Values in weight slots that depend on constants alone, through more than a move or a cast.
pub fn computed_weights(a: &Analysis, derived: &[bool]) -> BTreeSet<ValueId> {
    let g = a.graph;
    let mut found = BTreeSet::new();
    for &id in &g.order {
        let Some(rule) = g.rule(id) else { continue };
        for &slot in rule.weight_slots() {
            let Some(v) = g.input(id, slot) else { continue };
            let plain = g.constant(v).is_some() || weight_source(&a.cx(id, 0, &[]), v, 0).is_some();
            let known = a.lanes[0].shapes[v.0 as usize].is_some();
            if derived.get(v.0 as usize) == Some(&true) && !plain && known && !quantized(a, v) {
                found.insert(v);
            }
        }
    }
    found
}

/// The nodes that a value is computed by, in graph order.
pub fn behind(a: &Analysis, values: &BTreeSet<ValueId>) -> Vec<NodeId> {
    let g = a.graph;
    let mut nodes = BTreeSet::new();
    let mut open: Vec<ValueId> = values.iter().copied().collect();
    while let Some(v) = open.pop() {
        if let Origin::Node(n, _) = g.value(v).origin
            && nodes.insert(n)
        {
            open.extend(g.nodes[n.0 as usize].inputs.iter().flatten());
        }
    }
    g.order.iter().copied().filter(|n| nodes.contains(n)).collect()
}

fn quantized(a: &Analysis, v: ValueId) -> bool {
    behind(a, &BTreeSet::from([v])).iter().any(|&n| QUANTIZED.contains(&a.graph.node(n).op_type()))
}

/// A node as a runtime can run it that knows batch normalization only with constant statistics: in single steps,
/// `γ·(x − mean) / √(variance + ε) + β`, the statistics being those given or, in training mode, those of `x` over all axes
/// but 1. New constants are added to `constants`.
///
/// `None` when the node cannot be written so.
pub fn single_steps(
    a: &Analysis,
    id: NodeId,
    like: &TensorProto,
    constants: &mut Vec<TensorProto>,
) -> Option<Vec<NodeProto>> {
    let g = a.graph;
    let cx = a.cx(id, 0, &[]);
    let node = g.node(id);
    if !is_batch_norm(node) {
        return Some(vec![node.clone()]);
    }
    let used = |o: usize| g.output(id, o).is_some_and(|v| !g.value(v).readers.is_empty() || g.value(v).is_output);
    if (1..cx.n_outputs()).any(used) {
        return None;
    }
    let rank = cx.rank(0).ok()?;
    let channels = *cx.shape(0).ok()?.get(1)?;
    let input = |s: usize| node.input.get(s).cloned();
    let out = node.output.first()?.clone();
    let name = |part: &str| format!("{out}.{part}");
    let mut shape = vec![1i64; rank];
    *shape.get_mut(1)? = channels as i64;
    constants.push(tensor::from_i64(&name("shape"), &[rank], &shape));
    let epsilon = tensor::from_f64_like(like, &[], &[cx.float("epsilon", 1e-5)]).ok()?;
    constants.push(TensorProto { name: Some(name("epsilon")), ..epsilon });
    let op = |op: &str, p: String, q: String, to: &str| build::node(op, vec![p, q], name(to));
    let mut steps = Vec::new();
    if batch_statistics(&cx) {
        let axes: Vec<i64> = (0..rank as i64).filter(|&i| i != 1).collect();
        let as_input = (a.opset >= 18).then(|| name("axes"));
        if let Some(n) = &as_input {
            constants.push(tensor::from_i64(n, &[axes.len()], &axes));
        }
        let mean = |from: String, to: &str| build::reduce_mean(from, &axes, as_input.clone(), name(to));
        steps.push(mean(input(0)?, "mean"));
        steps.push(op("Sub", input(0)?, name("mean"), "centred"));
        steps.push(op("Mul", name("centred"), name("centred"), "squares"));
        steps.push(mean(name("squares"), "variance"));
    } else {
        steps.push(op("Reshape", input(3)?, name("shape"), "mean"));
        steps.push(op("Reshape", input(4)?, name("shape"), "variance"));
        steps.push(op("Sub", input(0)?, name("mean"), "centred"));
    }
    steps.push(op("Add", name("variance"), name("epsilon"), "stable"));
    steps.push(build::node("Sqrt", vec![name("stable")], name("deviation")));
    steps.push(op("Div", name("centred"), name("deviation"), "normal"));
    steps.push(op("Reshape", input(1)?, name("shape"), "scale"));
    steps.push(op("Reshape", input(2)?, name("shape"), "shift"));
    steps.push(op("Mul", name("normal"), name("scale"), "scaled"));
    steps.push(build::node("Add", vec![name("scaled"), name("shift")], out.clone()));
    Some(steps)
}
