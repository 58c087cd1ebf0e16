//! The gradient of each operator, written as nodes.
//!
//! A rule says once how the gradient of a loss with respect to a node's outputs becomes that with respect to its inputs
//! ([`Gradient::backward`]); where training computes something else than inference, also what ([`Gradient::forward`]). An
//! operator is added in one file: one impl, one line in [`GRADIENTS`], one case of the test against central differences.
//! An operator without a rule on the way from a trained tensor to the loss is an error that names it.

mod activation;
mod conv;
mod conv_transpose;
mod elementwise;
mod layer_norm;
mod linear;
mod matrix;
mod norm;
mod pool;
mod reduce;
mod resize;
mod select;
mod shape;

use super::tape::{Tape, Var};
use crate::graph::{NodeId, is_default_domain};
use crate::onnx::proto::NodeProto;
use crate::ops::{Answer, NodeCx};
use crate::refuse;
use activation::Unary;
use std::collections::HashMap;
use std::sync::OnceLock;

/// How one operator is differentiated.
pub trait Gradient: Sync {
    /// Writes the gradients with respect to the inputs that [want](Back::wants) one, and [gives](Back::give) them.
    ///
    /// # Errors
    /// A [`Refusal`](crate::ops::Refusal) for a form that has no rule; it is shown with the node's name.
    fn backward(&self, b: &mut Back) -> Answer<()>;

    /// Writes what takes the node's place while training; `false` leaves the node as it is. Outputs are
    /// [named](Fore::output) as the node's.
    ///
    /// # Errors
    /// As [`backward`](Self::backward).
    fn forward(&self, f: &mut Fore) -> Answer<bool> {
        let _ = f;
        Ok(false)
    }

    /// Whether the outputs do not change with the inputs, or only in jumps.
    fn is_constant(&self) -> bool {
        false
    }

    /// Input slots whose constants are trained, see [`Kind`].
    fn parameters(&self, cx: &NodeCx) -> Vec<(usize, Kind)> {
        let _ = cx;
        Vec::new()
    }
}

/// What a trained tensor is, which decides whether weight decay applies to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A layer's weight.
    Weight,
    /// What is added.
    Bias,
    /// Scale or shift of a normalisation, or another factor for each channel.
    Norm,
}

/// How batch normalisations train.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BatchNorms {
    /// Statistics of the batch; the stored ones follow
    #[default]
    Batch,
    /// The stored statistics, which stay as they are
    Frozen,
}

/// What a rule leaves for its own backward part: vars by node.
pub type Saved = HashMap<NodeId, Vec<Var>>;

/// A node on the way forward.
pub struct Fore<'a, 't> {
    /// Attributes and shapes.
    pub cx: NodeCx<'a>,
    /// Where nodes go.
    pub t: &'t mut Tape,
    /// How batch normalisations train.
    pub batch_norms: BatchNorms,
    /// Some input depends on a trained tensor, or a parameter of the node is trained itself.
    pub trained: bool,
    /// Per value: whether it depends on a trained tensor.
    pub(super) depends: &'t [bool],
    pub(super) vars: &'t HashMap<crate::graph::ValueId, Var>,
    pub(super) saved: &'t mut Saved,
    /// New values of tensors that are not trained but follow: (tensor, value).
    pub(super) follows: &'t mut Vec<(Var, Var)>,
}

impl Fore<'_, '_> {
    /// The input in a slot.
    ///
    /// # Errors
    /// When it is omitted or its shape is not known.
    pub fn x(&self, slot: usize) -> Answer<Var> {
        input(&self.cx, self.vars, slot)
    }

    /// Whether the input in a slot depends on a trained tensor.
    pub fn moves(&self, slot: usize) -> bool {
        let value = self.cx.graph.input(self.cx.id, slot);
        value.and_then(|v| self.depends.get(v.0 as usize)).copied().unwrap_or(false)
    }

    /// Makes a value the node's output.
    pub fn output(&mut self, slot: usize, v: Var) {
        if let Some(name) = self.cx.node.output.get(slot).filter(|n| !n.is_empty()) {
            let name = name.clone();
            self.t.named(v, &name);
        }
    }

    /// Keeps values for [`Back::saved`].
    pub fn save(&mut self, vars: Vec<Var>) {
        self.saved.insert(self.cx.id, vars);
    }

    /// Has a stored tensor (a running statistic) take a new value after each step.
    pub fn follow(&mut self, stored: Var, value: Var) {
        self.follows.push((stored, value));
    }
}

fn input(cx: &NodeCx, vars: &HashMap<crate::graph::ValueId, Var>, slot: usize) -> Answer<Var> {
    match cx.graph.input(cx.id, slot).and_then(|v| vars.get(&v)) {
        Some(&v) => Ok(v),
        None => refuse!("input {slot} is missing, or its shape is not known"),
    }
}

/// A node on the way back.
pub struct Back<'a, 't> {
    /// Attributes and shapes.
    pub cx: NodeCx<'a>,
    /// Where nodes go.
    pub t: &'t mut Tape,
    /// How batch normalisations train.
    pub batch_norms: BatchNorms,
    pub(super) vars: &'t HashMap<crate::graph::ValueId, Var>,
    pub(super) saved: &'t Saved,
    /// The gradient of each output, `None` where the loss does not depend on it.
    pub(super) dys: Vec<Option<Var>>,
    pub(super) wants: Vec<bool>,
    pub(super) given: Vec<(usize, Var)>,
}

impl Back<'_, '_> {
    /// The input in a slot.
    ///
    /// # Errors
    /// When it is omitted or its shape is not known.
    pub fn x(&self, slot: usize) -> Answer<Var> {
        input(&self.cx, self.vars, slot)
    }

    /// The output in a slot.
    ///
    /// # Errors
    /// When it is omitted or its shape is not known.
    pub fn y(&self, slot: usize) -> Answer<Var> {
        match self.cx.graph.output(self.cx.id, slot).and_then(|v| self.vars.get(&v)) {
            Some(&v) => Ok(v),
            None => refuse!("output {slot} is missing, or its shape is not known"),
        }
    }

    /// The gradient of the only output.
    ///
    /// # Errors
    /// When there is none.
    pub fn dy(&self) -> Answer<Var> {
        self.dy_of(0).ok_or_else(|| "its first output has no gradient".into())
    }

    /// The gradient of an output; `None` where the loss does not depend on it.
    pub fn dy_of(&self, slot: usize) -> Option<Var> {
        self.dys.get(slot).copied().flatten()
    }

    /// Whether the gradient of this input is asked for.
    pub fn wants(&self, slot: usize) -> bool {
        self.wants.get(slot).copied().unwrap_or(false)
    }

    /// Hands in the gradient of an input. It is summed over what broadcasting repeated.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn give(&mut self, slot: usize, gradient: Var) -> Answer<()> {
        if self.wants(slot) {
            let dims = self.cx.shape(slot)?.to_vec();
            let gradient = self.t.sum_to(gradient, &dims)?;
            self.given.push((slot, gradient));
        }
        Ok(())
    }

    /// What [`Fore::save`] kept.
    pub fn saved(&self) -> &[Var] {
        self.saved.get(&self.cx.id).map_or(&[], Vec::as_slice)
    }
}

/// An operator whose outputs do not change with its inputs: sizes, comparisons, rounding.
struct Constant;

impl Gradient for Constant {
    fn backward(&self, _b: &mut Back) -> Answer<()> {
        Ok(())
    }

    fn is_constant(&self) -> bool {
        true
    }
}

const CONSTANT: &[&str] = &[
    "Shape",
    "Size",
    "ConstantOfShape",
    "Range",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
    "Equal",
    "Not",
    "And",
    "Or",
    "Xor",
    "Floor",
    "Ceil",
    "Round",
    "Sign",
    "ArgMax",
    "ArgMin",
    "NonZero",
    "IsNaN",
    "IsInf",
    "OneHot",
    "EyeLike",
];

/// All rules.
pub static GRADIENTS: &[(&[&str], &dyn Gradient)] = &[
    (&["Conv"], &conv::Conv),
    (&["BatchNormalization"], &norm::BatchNormalization),
    (&["Add", "Sum"], &elementwise::Add),
    (&["Sub"], &elementwise::Sub),
    (&["Mul"], &elementwise::Mul),
    (&["Div"], &elementwise::Div),
    (&["Pow"], &elementwise::Pow),
    (&["Min", "Max"], &elementwise::Extreme),
    (&["Mean"], &elementwise::Mean),
    (&["Where"], &elementwise::Where),
    (&["Identity"], &elementwise::Identity),
    (&["Cast"], &elementwise::Cast),
    (&["Relu"], &elementwise::Relu),
    (&["ConvTranspose"], &conv_transpose::ConvTranspose),
    (&["Gemm"], &linear::Gemm),
    (&["MatMul"], &linear::MatMul),
    (&["Sigmoid"], &Unary(activation::sigmoid)),
    (&["Tanh"], &Unary(activation::tanh)),
    (&["HardSigmoid"], &Unary(activation::hard_sigmoid)),
    (&["HardSwish"], &Unary(activation::hard_swish)),
    (&["LeakyRelu"], &Unary(activation::leaky_relu)),
    (&["PRelu"], &activation::PRelu),
    (&["Elu"], &Unary(activation::elu)),
    (&["Selu"], &Unary(activation::selu)),
    (&["Celu"], &Unary(activation::celu)),
    (&["ThresholdedRelu"], &Unary(activation::thresholded_relu)),
    (&["Softplus"], &Unary(activation::softplus)),
    (&["Softsign"], &Unary(activation::softsign)),
    (&["Mish"], &Unary(activation::mish)),
    (&["Swish"], &Unary(activation::swish)),
    (&["com.microsoft:QuickGelu"], &Unary(activation::quick_gelu)),
    (&["com.microsoft:FastGelu"], &Unary(activation::fast_gelu)),
    (&["Gelu", "com.microsoft:Gelu"], &Unary(activation::gelu)),
    (&["Erf"], &Unary(activation::erf)),
    (&["Exp"], &Unary(activation::exp)),
    (&["Log"], &Unary(activation::log)),
    (&["Sqrt"], &Unary(activation::sqrt)),
    (&["Reciprocal"], &Unary(activation::reciprocal)),
    (&["Neg"], &Unary(activation::neg)),
    (&["Abs"], &Unary(activation::abs)),
    (&["Sin"], &Unary(activation::sin)),
    (&["Cos"], &Unary(activation::cos)),
    (&["Clip"], &Unary(activation::clip)),
    (&["Dropout"], &activation::Dropout),
    (&["MaxPool"], &pool::MaxPool),
    (&["AveragePool"], &pool::AveragePool),
    (&["GlobalAveragePool"], &pool::GlobalAveragePool),
    (&["GlobalMaxPool"], &pool::GlobalMaxPool),
    (reduce::REDUCTIONS, &reduce::Reduce),
    (&["Softmax"], &reduce::Softmax),
    (&["LogSoftmax"], &reduce::LogSoftmax),
    (&["LpNormalization"], &reduce::LpNormalization),
    (&["CumSum"], &reduce::CumSum),
    (layer_norm::NAMES, &layer_norm::SampleNorm),
    (&["Reshape", "Flatten", "Squeeze", "Unsqueeze"], &shape::Reshape),
    (&["Transpose"], &shape::Transpose),
    (&["Expand"], &shape::Expand),
    (&["Tile"], &shape::Tile),
    (&["DepthToSpace"], &shape::DepthToSpace),
    (&["SpaceToDepth"], &shape::SpaceToDepth),
    (&["Concat"], &select::Concat),
    (&["Split"], &select::Split),
    (&["Slice"], &select::Slice),
    (&["Gather"], &select::Gather),
    (&["GatherND"], &select::GatherNd),
    (&["Pad"], &select::Pad),
    (&["Trilu"], &select::Trilu),
    (&["Resize"], &resize::Resize),
    (&["Upsample"], &resize::Upsample),
    (CONSTANT, &Constant),
];

/// The rule of an operator.
pub fn gradient(node: &NodeProto) -> Option<&'static dyn Gradient> {
    static INDEX: OnceLock<HashMap<(&'static str, &'static str), &'static dyn Gradient>> = OnceLock::new();
    let index = INDEX.get_or_init(|| {
        let named = GRADIENTS.iter().flat_map(|&(names, rule)| names.iter().map(move |&n| (n, rule)));
        named.map(|(name, rule)| (name.rsplit_once(':').unwrap_or(("", name)), rule)).collect()
    });
    let domain = if is_default_domain(node.domain()) { "" } else { node.domain() };
    index.get(&(domain, node.op_type())).copied()
}
