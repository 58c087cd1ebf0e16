//! Quantised models without the rounding of their activations.
//!
//! A sum that differs in its last bit, as sums of fewer terms may, can fall on the other side of a rounding step and then
//! differ by a whole quantum. Where twin and pruned model differ, this tells such a step from a mistake.

use crate::graph::is_default_domain;
use crate::onnx::Model;
use crate::onnx::proto::{GraphProto, ModelProto, NodeProto, TensorProto};
use std::collections::HashMap;

/// The model with every `QuantizeLinear` that only a `DequantizeLinear` of the same scale and zero point follows taken for
/// the identity, and that one too; `None` where there is no such pair.
pub fn unrounded(model: &Model) -> Option<Model> {
    let mut proto: ModelProto = model.proto.clone();
    let graph = proto.graph.as_mut()?;
    let pairs = pairs(graph);
    for &i in &pairs {
        let node = &mut graph.node[i];
        node.op_type = Some("Identity".into());
        node.domain = None;
        node.input.truncate(1);
        node.attribute.clear();
    }
    graph.value_info.clear();
    (!pairs.is_empty()).then(|| model.derive(proto))
}

/// Whether a model rounds to quantised values anywhere.
pub fn rounds(model: &Model) -> bool {
    let nodes = model.proto.graph.iter().flat_map(|g| &g.node);
    nodes.into_iter().any(|n| n.op_type().contains("Quantize") || n.op_type().starts_with("QLinear"))
}

/// Indices of the nodes of all pairs.
fn pairs(graph: &GraphProto) -> Vec<usize> {
    let subgraphs = graph.node.iter().flat_map(|n| &n.attribute).any(|a| a.g.is_some() || !a.graphs.is_empty());
    if subgraphs {
        return Vec::new();
    }
    let constants: HashMap<&str, &TensorProto> = graph.initializer.iter().map(|t| (t.name(), t)).collect();
    let mut readers: HashMap<&str, Vec<usize>> = HashMap::new();
    for (i, n) in graph.node.iter().enumerate() {
        n.input.iter().for_each(|name| readers.entry(name).or_default().push(i));
    }
    let is =
        |n: &NodeProto, op: &str| n.op_type() == op && (is_default_domain(n.domain()) || n.domain() == "com.microsoft");
    let mut out = Vec::new();
    for (i, q) in graph.node.iter().enumerate().filter(|(_, n)| is(n, "QuantizeLinear")) {
        let Some(name) = q.output.first().filter(|o| graph.output.iter().all(|v| v.name() != o.as_str())) else {
            continue;
        };
        let after = readers.get(name.as_str()).map_or(&[][..], Vec::as_slice);
        let undone = |&d: &usize| {
            let d = &graph.node[d];
            is(d, "DequantizeLinear") && d.input.first() == Some(name) && same_grid(&constants, q, d)
        };
        if !after.is_empty() && after.iter().all(undone) {
            out.push(i);
            out.extend(after);
        }
    }
    out.sort_unstable();
    out.dedup();
    out
}

/// Whether two nodes have the same scale, zero point and axis.
fn same_grid(constants: &HashMap<&str, &TensorProto>, q: &NodeProto, d: &NodeProto) -> bool {
    let unnamed = |n: &str| constants.get(n).map(|t| TensorProto { name: None, doc_string: None, ..(*t).clone() });
    let same = |s: usize| {
        let (a, b) = (q.input.get(s).map_or("", String::as_str), d.input.get(s).map_or("", String::as_str));
        a == b || (unnamed(a).is_some() && unnamed(a) == unnamed(b))
    };
    let number = |n: &NodeProto, name: &str| n.attribute.iter().find(|a| a.name() == name).and_then(|a| a.i);
    same(1) && same(2) && ["axis", "block_size"].iter().all(|a| number(q, a) == number(d, a))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::tensor;

    fn node(op: &str, input: &[&str], output: &str) -> NodeProto {
        let input = input.iter().map(|s| (*s).to_owned()).collect();
        NodeProto { op_type: Some(op.into()), input, output: vec![output.into()], ..NodeProto::default() }
    }

    fn operators(node: Vec<NodeProto>) -> Option<Vec<String>> {
        let initializer = [("s", 0.1), ("t", 0.1), ("u", 0.2)].map(|(n, v)| tensor::from_f32(n, &[], &[v])).to_vec();
        let graph = GraphProto { node, initializer, ..GraphProto::default() };
        let proto = ModelProto { graph: Some(graph), ..ModelProto::default() };
        let model = unrounded(&Model::from_proto(proto, "test.onnx"))?;
        Some(model.proto.graph?.node.iter().map(|n| n.op_type().to_owned()).collect())
    }

    #[test]
    fn only_a_pair_that_undoes_itself_is_left_out() {
        let q = node("QuantizeLinear", &["x", "s"], "q");
        // The same scale under another name.
        let same = vec![q.clone(), node("DequantizeLinear", &["q", "t"], "y")];
        assert_eq!(operators(same).unwrap(), ["Identity", "Identity"]);
        assert_eq!(operators(vec![q.clone(), node("DequantizeLinear", &["q", "u"], "y")]), None);
        // Another reader sees the integers.
        let read = vec![q.clone(), node("DequantizeLinear", &["q", "s"], "y"), node("MaxPool", &["q"], "z")];
        assert_eq!(operators(read), None);
        assert_eq!(operators(vec![q]), None);
    }
}
