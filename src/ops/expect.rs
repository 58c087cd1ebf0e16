//! How an operator passes on what is known about a channel's values, and where a layer keeps its constant part.
//!
//! Used by the repair that needs no data; the channel relation itself is each operator's [`super::OpRule`].

use super::Activation;
use super::cx::NodeCx;
use crate::graph::is_default_domain;

/// What a node does to the distribution of one channel.
#[derive(Clone, Debug, PartialEq)]
pub enum Passage {
    /// `(x − mean) · γ/√(var + ε) + β`; inputs 1 to 4 are γ, β, mean, variance.
    BatchNorm {
        /// ε.
        epsilon: f64,
    },
    /// A convolution: with weights of zero it gives its bias.
    Conv,
    /// A signed sum of its inputs.
    Sum(Vec<f64>),
    /// A product of two inputs.
    Product,
    /// `σ(x)`, which in a product with `x` makes SiLU.
    Gate,
    /// The mean over positions.
    Average {
        /// Zero padding takes part.
        padded: bool,
    },
    /// The largest of several positions.
    Maximum,
    /// The same values, elsewhere.
    Move,
    /// The same values, from one of the inputs.
    Join,
    /// An element-wise function.
    Apply(Activation),
    /// Nothing is known.
    Opaque,
}

/// What a node does to the distribution of one channel.
pub fn passage(cx: &NodeCx) -> Passage {
    if !is_default_domain(cx.node.domain()) {
        return Passage::Opaque;
    }
    match cx.node.op_type() {
        "BatchNormalization" if !super::norm::batch_statistics(cx) => {
            Passage::BatchNorm { epsilon: cx.float("epsilon", 1e-5) }
        }
        "Conv" => Passage::Conv,
        "Add" | "Sum" => Passage::Sum(vec![1.0; cx.n_inputs()]),
        "Sub" => Passage::Sum(vec![1.0, -1.0]),
        "Mul" => Passage::Product,
        "Sigmoid" => Passage::Gate,
        "AveragePool" => {
            let pads = cx.list("pads").is_some_and(|p| p.iter().any(|&v| v != 0));
            Passage::Average { padded: pads || cx.string("auto_pad").is_some_and(|a| a != "NOTSET" && a != "VALID") }
        }
        "GlobalAveragePool" | "ReduceMean" => Passage::Average { padded: false },
        "MaxPool" => Passage::Maximum,
        "Resize" | "Upsample" | "Transpose" | "Flatten" | "Reshape" | "Squeeze" | "Unsqueeze" => Passage::Move,
        "Concat" => Passage::Join,
        _ => super::chain::of_node(cx).map_or(Passage::Opaque, Passage::Apply),
    }
}

/// A layer that contracts channels with a weight in slot 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Linear {
    /// Input slot of the bias, for operators that take one.
    pub bias: Option<usize>,
    /// Position of the output channels, counted from the first axis (convolutions) or the last one.
    pub channel_axis: Option<usize>,
    /// Each output position receives this share of the kernel's taps on average (transposed convolutions).
    pub tap_share: f64,
    /// Groups along the weight's first axis (grouped transposed convolutions).
    pub input_groups: usize,
}

/// The layer that a node is, if its bias can be moved.
pub fn linear(cx: &NodeCx) -> Option<Linear> {
    if !is_default_domain(cx.node.domain()) {
        return None;
    }
    let conv = Linear { bias: Some(2), channel_axis: Some(1), tap_share: 1.0, input_groups: 1 };
    match cx.node.op_type() {
        "Conv" => Some(conv),
        "ConvTranspose" => Some(Linear {
            tap_share: 1.0 / cx.list("strides").map_or(1.0, |s| s.iter().map(|&v| v as f64).product()),
            input_groups: usize::try_from(cx.int("group", 1)).ok()?.max(1),
            ..conv
        }),
        "Gemm" => {
            let plain = cx.float("alpha", 1.0) == 1.0 && cx.float("beta", 1.0) == 1.0;
            // C became optional in opset 11.
            (plain && (cx.opset >= 11 || cx.has(2))).then_some(conv)
        }
        "MatMul" => Some(Linear { bias: None, channel_axis: None, ..conv }),
        _ => None,
    }
}

/// Where a constant can be added behind a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behind {
    /// A batch normalization on the layer's output: its running mean is subtracted.
    Mean(usize),
    /// An addition: the other operand is added.
    Addend(usize),
}

/// How a node passes a value's channels on, each by itself, when nothing else happens to them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Onward {
    /// A batch normalization: times `γ/√(var + ε)`, plus something constant.
    BatchNorm {
        /// ε.
        epsilon: f64,
    },
    /// Times the constant in this slot.
    Times(usize),
    /// Plus the value in this slot.
    Plus(usize),
    /// As it is.
    Same,
}

/// How the node passes on the value in slot `from`.
pub fn onward(cx: &NodeCx, from: usize) -> Option<Onward> {
    match (passage(cx), from) {
        (Passage::BatchNorm { epsilon }, 0) => Some(Onward::BatchNorm { epsilon }),
        (Passage::Product, 0 | 1) => Some(Onward::Times(1 - from)),
        (Passage::Sum(signs), 0 | 1) if signs == [1.0, 1.0] => Some(Onward::Plus(1 - from)),
        (Passage::Apply(Activation::Identity), 0) => Some(Onward::Same),
        _ => None,
    }
}

/// What the node behind a layer offers, when it reads the layer's output in slot `from`.
pub fn behind(cx: &NodeCx, from: usize) -> Option<Behind> {
    match (passage(cx), from) {
        (Passage::BatchNorm { .. }, 0) => Some(Behind::Mean(3)),
        (Passage::Sum(signs), 0 | 1) if signs == [1.0, 1.0] => Some(Behind::Addend(1 - from)),
        _ => None,
    }
}
