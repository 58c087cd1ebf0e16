//! What the trace leaves behind: tensors, axes, channels, groups, units and cost terms.
//!
//! Everything to the right of the trace (`score`, `plan`, `rewrite`, `report`) reads these structs and nothing else;
//! none of them knows operators or protobuf.

use crate::graph::{NodeId, ValueId};
use schemars::JsonSchema;
use serde::Serialize;

/// Index into [`Channels::tensors`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct TensorId(pub u32);

/// Index into [`Channels::axes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct AxisId(pub u32);

/// One tensor as one set of readers sees it.
///
/// An activation is one tensor. A constant (initializer or `Constant` output, also behind `Identity`) is one tensor per
/// reader when its sharing is only deduplication, and one tensor for all readers when the weight is really tied.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// The value that the readers name.
    pub value: ValueId,
    /// The initializer or `Constant` output that holds the data, when this is a constant.
    pub source: Option<ValueId>,
    /// The key of this tensor in a plan: the value's name, or `name@node` for one reader among several.
    pub key: String,
    /// The `(node, input slot)` pairs that read it.
    pub readers: Vec<(NodeId, usize)>,
    /// Sizes of all axes (dynamic axes: the size in the analysis' first assignment).
    pub dims: Vec<usize>,
    /// The tracked axis of each dimension, `None` where it is dynamic, of size 1 or too long to track.
    pub axes: Vec<Option<AxisId>>,
    /// ONNX element type number.
    pub elem_type: i32,
}

/// One tracked axis of one tensor.
#[derive(Clone, Debug)]
pub struct Axis {
    /// The tensor it belongs to.
    pub tensor: TensorId,
    /// Position among the tensor's dimensions.
    pub axis: usize,
    /// Number of indices. For axis 1 of a grouped convolution's weight this is the *unfolded* length, all groups' input
    /// channels in a row: `groups × dims[1]`.
    pub len: usize,
    /// 1, or the number of convolution groups that `len` runs over.
    pub fold: usize,
}

/// What a weight axis does in its layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The output-channel axis of a weight: the slice that makes the channel.
    Producer,
    /// The contracted axis of a weight: the slice that reads the channel.
    Consumer,
    /// A bias added to the channel.
    Bias,
    /// Any other per-channel parameter (slope, scale, batch-normalization parameter, ...).
    PerChannel,
}

/// A parameter slice that belongs to each channel of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Site {
    /// What the axis does.
    pub role: Role,
    /// The layer.
    pub node: NodeId,
    /// The parameter axis; its tensor is `channels.axis(axis).tensor`.
    pub axis: AxisId,
}

/// A BatchNormalization whose channels belong to a group.
#[derive(Clone, Debug)]
pub struct BatchNorm {
    /// The node.
    pub node: NodeId,
    /// γ.
    pub scale: TensorId,
    /// β.
    pub shift: TensorId,
    /// Running mean.
    pub mean: TensorId,
    /// Running variance.
    pub var: TensorId,
    /// ε.
    pub epsilon: f64,
    /// Axis 0 of γ: the channels.
    pub axis: AxisId,
    /// The activation that follows at once, if exactly one does.
    pub activation: crate::ops::Activation,
    /// Producer weight axis (out-channels) of the convolution or linear layer that feeds it, when known.
    pub producer: Option<AxisId>,
}

/// One removable channel: the `(axis, index)` pairs that live or die together.
#[derive(Clone, Debug)]
pub struct Channel {
    /// Sorted by axis, then index.
    pub members: Vec<(AxisId, u32)>,
}

impl Channel {
    /// The indices of this channel on `axis`, ascending.
    pub fn on(&self, axis: AxisId) -> impl Iterator<Item = usize> + '_ {
        let from = self.members.partition_point(|&(a, _)| a < axis);
        self.members[from..].iter().take_while(move |&&(a, _)| a == axis).map(|&(_, i)| i as usize)
    }
}

/// Channels with the same set of `(tensor, axis)`: the unit of ratios and rounding.
#[derive(Clone, Debug)]
pub struct Group {
    /// Name of the first layer that makes the channels (unique among groups).
    pub name: String,
    /// All layers (nodes with a parameter axis in the group), in graph order.
    pub layers: Vec<NodeId>,
    /// The channels, ordered by their first member.
    pub channels: Vec<Channel>,
    /// Every axis that the channels live on, and how many of its indices one channel takes.
    pub axes: Vec<(AxisId, u32)>,
    /// Parameter axes with their roles.
    pub sites: Vec<Site>,
    /// Batch normalizations of these channels.
    pub batch_norms: Vec<BatchNorm>,
}

/// Groups whose removals are coupled by cardinality (the same count in each group of a grouped convolution).
///
/// A plan removes the same number of channels from each cell. A group without constraints is a unit of one cell.
#[derive(Clone, Debug)]
pub struct Unit {
    /// `cells[i]` lists `(group, channel)`.
    pub cells: Vec<Vec<(usize, usize)>>,
}

/// Why some indices of an axis cannot be removed.
#[derive(Clone, Debug, Serialize, PartialEq, Eq, JsonSchema)]
pub struct Pin {
    /// Name of the layer that is held back.
    pub layer: String,
    /// The parameter tensor whose axis is held back.
    pub tensor: String,
    /// Its axis.
    pub axis: usize,
    /// How many of its indices are pinned.
    pub pinned: usize,
    /// Length of the axis.
    pub len: usize,
    /// Name of the node (or graph input / output) that pins it.
    pub node: String,
    /// That node's operator.
    pub op: String,
    /// Why.
    pub reason: String,
}

/// `constant × Π kept(axis)`: MACs of a node, or elements of a parameter.
#[derive(Clone, Debug)]
pub struct Cost {
    /// Product of everything that no removal changes (may be a fraction for grouped convolutions).
    pub constant: f64,
    /// Tracked axes that multiply it.
    pub axes: Vec<AxisId>,
}

/// MACs of one node (per sample).
#[derive(Clone, Debug)]
pub struct MacTerm {
    /// The node.
    pub node: NodeId,
    /// Its multiply-accumulates.
    pub cost: Cost,
}

/// Elements of one parameter tensor.
#[derive(Clone, Debug)]
pub struct ParamTerm {
    /// The parameter.
    pub tensor: TensorId,
    /// Its number of elements.
    pub cost: Cost,
}

/// The result of the trace.
#[derive(Clone, Debug, Default)]
pub struct Channels {
    /// Tensor instances.
    pub tensors: Vec<Tensor>,
    /// Tracked axes.
    pub axes: Vec<Axis>,
    /// Removable channels, grouped.
    pub groups: Vec<Group>,
    /// Cardinality units; every group appears in exactly one.
    pub units: Vec<Unit>,
    /// Parameter axes that are held back, wholly or in part.
    pub pins: Vec<Pin>,
    /// Grouped convolutions (not depthwise, not transposed): they can lose equal counts or whole groups.
    pub grouped: Vec<NodeId>,
    /// MACs per node.
    pub macs: Vec<MacTerm>,
    /// Elements per parameter tensor (floating-point or quantised constants of rank ≥ 1): one term per tensor, also where several read
    /// the same source; whole tensors of one source count once.
    pub params: Vec<ParamTerm>,
}

impl Channels {
    /// The axis.
    pub fn axis(&self, id: AxisId) -> &Axis {
        &self.axes[id.0 as usize]
    }

    /// The tensor.
    pub fn tensor(&self, id: TensorId) -> &Tensor {
        &self.tensors[id.0 as usize]
    }

    /// The tensor that an axis belongs to.
    pub fn tensor_of(&self, id: AxisId) -> &Tensor {
        self.tensor(self.axis(id).tensor)
    }
}
