//! The one place for an operator's channel semantics.
//!
//! A rule says, once and symmetrically, which indices of a node's axes live and die together ([`OpRule::relate`]), what
//! its output shapes are ([`OpRule::infer`]), and what else must change in the node when channels leave
//! ([`OpRule::patch`]). An operator is added in one file: one impl, one line in [`RULES`], one case of the commute test.
//! An operator without a rule pins every axis that it touches. Rules for operators of your own need no change here: see
//! [`Rules`].

pub mod activation;
pub mod attention;
pub mod build;
pub mod chain;
pub mod computed;
pub mod contrib;
pub mod conv;
pub mod cx;
pub mod deform;
pub mod einsum;
pub mod elementwise;
pub mod expect;
pub mod heads;
pub mod layer;
pub mod linear;
pub mod misc;
pub mod movement;
pub mod norm;
pub mod patch;
pub mod policy;
pub mod pool;
pub mod positions;
pub mod qlinear;
pub mod quantized;
pub mod random;
pub mod recurrent;
pub mod reduce;
pub mod regions;
pub mod relate;
pub mod reshape;
pub mod resize;
mod rules;
pub mod scatter;
pub mod select;
pub mod spectral;

pub use activation::Activation;
pub use cx::{Answer, NodeCx, Refusal};
pub use patch::Patch;
pub use policy::Policy;
pub use quantized::Storage;
pub use relate::{Loc, Relate};
pub use rules::Rules;
pub(crate) use rules::standard;

use crate::onnx::proto::NodeProto;

/// Output shapes; `None` where a shape is not known.
pub type Shapes = Vec<Option<Vec<usize>>>;

/// The channel semantics of one operator.
///
/// [`infer`](Self::infer) and [`relate`](Self::relate) are all that most operators need. What `relate` does not mention stays
/// whole, so that a rule which says too little costs channels and never correctness.
///
/// # Examples
/// An operator that sums pairs of neighbouring channels, `y[i] = x[2i] + x[2i+1]`: both leave together with what they make.
/// ```
/// use onnx_prune::ops::{Answer, NodeCx, OpRule, Relate, Shapes, relate::{In, Out}};
///
/// struct Pairs;
///
/// impl OpRule for Pairs {
///     fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
///         let mut shape = cx.shape(0)?.to_vec();
///         match shape.get_mut(1) {
///             Some(channels) if channels.is_multiple_of(2) => *channels /= 2,
///             _ => return Err("expected an even number of channels".into()),
///         }
///         Ok(vec![Some(shape)])
///     }
///
///     fn relate(&self, r: &mut Relate) -> Answer<()> {
///         let channels = r.size(In(0, 1))?;
///         r.tie_map(In(0, 1), Out(0, 1), (0..channels).map(|i| (i, i / 2)))
///     }
/// }
///
/// # use onnx_prune::ops::Rules;
/// assert!(Rules::default().with("com.example:Pairs", Pairs).is_ok());
/// ```
pub trait OpRule: Send + Sync {
    /// Output shapes under one assignment of the dynamic dimensions.
    ///
    /// # Errors
    /// A [`Refusal`] when the shapes cannot be told; the outputs are then unknown and the node pins.
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes>;

    /// States which indices live and die together. An axis that the rule does not mention is pinned.
    ///
    /// # Errors
    /// A [`Refusal`] pins all axes of the node with its reason.
    fn relate(&self, r: &mut Relate) -> Answer<()>;

    /// Changes what the node must say when channels leave: attributes, and constants that count channels.
    ///
    /// # Errors
    /// A [`Refusal`] stops the rewrite before a file is written.
    fn patch(&self, _p: &mut Patch) -> Answer<()> {
        Ok(())
    }

    /// Input slots that hold layer weights: a constant that several nodes read there is really shared, not deduplicated.
    fn weight_slots(&self) -> &[usize] {
        &[]
    }

    /// Input slots that hold sizes, which [`OpRule::patch`] keeps right when channels leave.
    fn size_slots(&self) -> &[usize] {
        &[]
    }

    /// Number of convolution groups over which the second axis of the weight in `slot` runs.
    fn fold(&self, _cx: &NodeCx, _slot: usize) -> usize {
        1
    }

    /// How the integers in `slot`, of this rank, stand for real numbers; `None` where they stand for themselves.
    fn storage(&self, _node: &NodeProto, _slot: usize, _rank: usize) -> Option<Storage> {
        None
    }
}

/// Every operator that has a rule. The order does not matter; names are unique, and those of other domains than the
/// default one begin with the domain: `com.microsoft:FusedConv`.
pub static RULES: &[(&[&str], &dyn OpRule)] = &[
    (conv::CONV, &conv::Conv),
    (conv::CONV_TRANSPOSE, &conv::ConvTranspose),
    (linear::GEMM, &linear::Gemm),
    (linear::MATMUL, &linear::MatMul),
    (norm::BATCH_NORM, &norm::BatchNormalization),
    (norm::INSTANCE_NORM, &norm::InstanceNormalization),
    (norm::LAYER_NORM, &norm::LayerNormalization),
    (norm::GROUP_NORM, &norm::GroupNormalization),
    (norm::AXIS_NORM, &norm::AxisNormalization),
    (norm::LRN, &norm::Lrn),
    (elementwise::UNARY, &elementwise::Unary),
    (elementwise::DROPOUT, &elementwise::Dropout),
    (elementwise::BROADCAST, &elementwise::Broadcast),
    (elementwise::QUANTIZE, &elementwise::Quantize),
    (pool::POOL, &pool::Pool),
    (pool::GLOBAL_POOL, &pool::GlobalPool),
    (reduce::REDUCE, &reduce::Reduce),
    (reduce::ARG, &reduce::Arg),
    (reduce::CUMSUM, &reduce::CumSum),
    (select::CONCAT, &select::Concat),
    (select::SPLIT, &select::Split),
    (select::SLICE, &select::Slice),
    (select::GATHER, &select::Gather),
    (select::PAD, &select::Pad),
    (movement::TRANSPOSE, &movement::Transpose),
    (movement::SQUEEZE, &movement::Squeeze),
    (movement::UNSQUEEZE, &movement::Unsqueeze),
    (movement::EXPAND, &movement::Expand),
    (movement::TILE, &movement::Tile),
    (movement::DEPTH_TO_SPACE, &movement::DepthToSpace),
    (movement::SPACE_TO_DEPTH, &movement::SpaceToDepth),
    (reshape::RESHAPE, &reshape::Reshape),
    (reshape::FLATTEN, &reshape::Flatten),
    (resize::RESIZE, &resize::Resize),
    (resize::UPSAMPLE, &resize::Upsample),
    (misc::SHAPE, &misc::Shape),
    (misc::CONSTANT, &misc::Constant),
    (misc::CONSTANT_OF_SHAPE, &misc::ConstantOfShape),
    (misc::RANGE, &misc::Range),
    (recurrent::RECURRENT, &recurrent::Recurrent),
    (attention::ATTENTION, &attention::Attention),
    (attention::ROTARY, &attention::RotaryEmbedding),
    (einsum::EINSUM, &einsum::Einsum),
    (deform::DEFORM_CONV, &deform::DeformConv),
    (scatter::GATHER_ELEMENTS, &scatter::GatherElements),
    (scatter::GATHER_ND, &scatter::GatherNd),
    (scatter::SCATTER_ELEMENTS, &scatter::ScatterElements),
    (scatter::SCATTER_ND, &scatter::ScatterNd),
    (scatter::TENSOR_SCATTER, &scatter::TensorScatter),
    (positions::TOP_K, &positions::TopK),
    (positions::REVERSE, &positions::ReverseSequence),
    (positions::ONE_HOT, &positions::OneHot),
    (positions::MATRIX, &positions::Matrix),
    (positions::COMPRESS, &positions::Compress),
    (positions::FOUND, &positions::Found),
    (positions::CENTER, &positions::CenterCropPad),
    (regions::ROI, &regions::Roi),
    (regions::GRID_SAMPLE, &regions::GridSample),
    (regions::AFFINE_GRID, &regions::AffineGrid),
    (regions::COL2IM, &regions::Col2Im),
    (regions::MAX_UNPOOL, &regions::MaxUnpool),
    (random::RANDOM, &random::Random),
    (random::RANDOM_LIKE, &random::RandomLike),
    (spectral::DFT, &spectral::Dft),
    (spectral::STFT, &spectral::Stft),
    (spectral::WINDOW, &spectral::SpectralWindow),
    (quantized::DYNAMIC, &quantized::DynamicQuantize),
    (quantized::QLINEAR_CONV, &quantized::QuantConv { integer: false }),
    (quantized::CONV_INTEGER, &quantized::QuantConv { integer: true }),
    (quantized::QLINEAR_MATMUL, &quantized::QuantMatMul(quantized::QLINEAR_MATMUL_SLOTS)),
    (quantized::MATMUL_INTEGER, &quantized::QuantMatMul(quantized::MATMUL_INTEGER_SLOTS)),
    (quantized::MATMUL_TO_FLOAT, &quantized::QuantMatMul(quantized::MATMUL_TO_FLOAT_SLOTS)),
    (quantized::DYNAMIC_MATMUL, &quantized::QuantMatMul(quantized::DYNAMIC_MATMUL_SLOTS)),
    (quantized::QGEMM, &quantized::QuantMatMul(quantized::QGEMM_SLOTS)),
    (qlinear::POINTWISE, &qlinear::Pointwise),
    (qlinear::POOL, &qlinear::QuantPool),
    (qlinear::CONCAT, &qlinear::QuantConcat),
    (qlinear::SOFTMAX, &qlinear::QuantSoftmax),
    (contrib::FUSED_CONV, &contrib::FusedConv),
    (contrib::FUSED_GEMM, &contrib::FusedGemm),
    (contrib::FUSED_MATMUL, &contrib::FusedMatMul),
    (contrib::UNARY, &elementwise::Unary),
    (contrib::BIAS_GELU, &contrib::BiasGelu),
    (contrib::BIAS_SOFTMAX, &contrib::BiasSoftmax),
    (contrib::LAYER_NORM, &norm::LayerNormalization),
    (contrib::SKIP_LAYER_NORM, &contrib::SkipLayerNorm),
    (contrib::EMBED_LAYER_NORM, &contrib::EmbedLayerNorm),
    (contrib::BLOCKED_MATMUL, &contrib::BlockedMatMul),
    (contrib::BLOCKED_LAYOUT, &contrib::BlockedLayout),
    (heads::ATTENTION, &heads::Attention),
    (heads::MULTI_HEAD, &heads::MultiHead),
];
