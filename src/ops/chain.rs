//! What follows a value: the activation of a Conv→BN→Act chain.

use super::Activation;
use crate::canon::Analysis;
use crate::graph::{Graph, NodeId, Origin, ValueId, is_default_domain};
use crate::onnx::proto::NodeProto;
use crate::ops::cx::NodeCx;

/// The activation that a node applies to its first input, if it is one.
pub fn of_node(cx: &NodeCx) -> Option<Activation> {
    if !is_default_domain(cx.node.domain()) {
        return None;
    }
    let bound = |slot: usize, name: &str, default: f64| {
        if cx.has(slot) {
            cx.val(slot).and_then(|v| v.data.first().copied())
        } else {
            Some(cx.float(name, default as f32))
        }
    };
    Some(match cx.node.op_type() {
        "Relu" => Activation::Relu,
        "LeakyRelu" => Activation::LeakyRelu(cx.float("alpha", 0.01)),
        "Clip" => Activation::Clip(bound(1, "min", f64::from(f32::MIN))?, bound(2, "max", f64::from(f32::MAX))?),
        "Sigmoid" => Activation::Sigmoid,
        "HardSigmoid" => Activation::HardSigmoid { alpha: cx.float("alpha", 0.2), beta: cx.float("beta", 0.5) },
        "HardSwish" => Activation::HardSwish,
        "Tanh" => Activation::Tanh,
        "Gelu" if cx.string("approximate").unwrap_or("none") == "none" => Activation::Gelu,
        "Elu" => Activation::Elu(cx.float("alpha", 1.0)),
        "Softplus" => Activation::Softplus,
        "Mish" => Activation::Mish,
        "Identity" | "Dropout" => Activation::Identity,
        _ => return None,
    })
}

/// Whether a node is a convolution or a matrix product: the head of a chain.
pub fn is_layer(node: &NodeProto) -> bool {
    let domain = if is_default_domain(node.domain()) { "" } else { node.domain() };
    matches!(
        (domain, node.op_type()),
        ("", "Conv" | "ConvTranspose" | "Gemm" | "MatMul")
            | ("", "QLinearConv" | "QLinearMatMul" | "ConvInteger" | "MatMulInteger")
            | ("com.microsoft", "FusedConv" | "FusedGemm" | "FusedMatMul" | "QLinearConv" | "QGemm")
    )
}

/// The value that decides what an output says: what stands before a final softmax or sigmoid, which is flat where the network is
/// sure and would hide how near it came to another answer.
pub fn before_squashing(g: &Graph, output: ValueId) -> ValueId {
    let mut v = output;
    // Exporters end in a few copies at most.
    for _ in 0..8 {
        let Origin::Node(n, 0) = g.value(v).origin else { break };
        let node = g.node(n);
        let Some(input) = g.input(n, 0).filter(|_| is_default_domain(node.domain())) else { break };
        match node.op_type() {
            "Identity" => v = input,
            // What a graph input says needs no network.
            "Softmax" | "LogSoftmax" | "Sigmoid" if matches!(g.value(input).origin, Origin::Node(..)) => return input,
            _ => break,
        }
    }
    output
}

/// Whether a node is a batch normalization.
pub fn is_batch_norm(node: &NodeProto) -> bool {
    is_default_domain(node.domain()) && node.op_type() == "BatchNormalization"
}

/// The nodes and the activation that follow a value at once: one activation node, `x·Sigmoid(x)`, or none.
pub fn activation_nodes(a: &Analysis, value: ValueId) -> (Activation, Vec<NodeId>) {
    let g = a.graph;
    let v = g.value(value);
    if let [(node, 0)] = v.readers.as_slice()
        && !v.is_output
        && let Some(act) = of_node(&a.cx(*node, 0, &[]))
    {
        return (act, vec![*node]);
    }
    if let [(p, _), (q, _)] = v.readers.as_slice()
        && !v.is_output
    {
        for (gate, product) in [(*p, *q), (*q, *p)] {
            let silu = g.node(gate).op_type() == "Sigmoid"
                && g.node(product).op_type() == "Mul"
                && g.output(gate, 0).is_some_and(|s| (0..2).any(|i| g.input(product, i) == Some(s)));
            if silu {
                return (Activation::Silu, vec![gate, product]);
            }
        }
    }
    let linear = !v.is_output
        && v.readers.iter().all(|(n, _)| {
            matches!(
                g.node(*n).op_type(),
                "Conv" | "ConvTranspose" | "Gemm" | "Add" | "Concat" | "AveragePool" | "GlobalAveragePool" | "MaxPool"
            )
        });
    (if linear { Activation::Identity } else { Activation::Unknown }, Vec::new())
}

/// The activation that follows a value.
pub fn activation_after(a: &Analysis, value: ValueId) -> Activation {
    activation_nodes(a, value).0
}

/// Follows an axis of a value back to the constant that it comes from, through operators that move or convert it:
/// `(node, slot, axis)` of the input slot that reads the constant.
pub fn weight_source(cx: &NodeCx, mut value: ValueId, mut axis: usize) -> Option<(NodeId, usize, usize)> {
    let g = cx.graph;
    loop {
        let crate::graph::Origin::Node(id, 0) = g.value(value).origin else { return None };
        let at = NodeCx { id, node: g.node(id), overrides: &[], ..*cx };
        match (is_default_domain(at.node.domain()), at.node.op_type()) {
            (true, "Transpose") => axis = *super::movement::permutation(&at).ok()?.get(axis)?,
            (true, "Identity" | "Cast" | "Clip") | (_, "QuantizeLinear" | "DequantizeLinear") => {}
            _ => return None,
        }
        value = g.input(id, 0)?;
        if crate::canon::fold::constant_source(g, value).is_some() {
            return Some((id, 0, axis));
        }
    }
}
