//! Channel atoms: which indices of which axes live or die together, and what holds them.

pub mod atoms;
pub mod groups;
pub mod model;
pub mod tensors;
pub mod trace;
pub mod units;
pub mod weights;
pub mod why;

pub use model::{
    Axis, AxisId, BatchNorm, Channel, Channels, Cost, Group, MacTerm, ParamTerm, Pin, Role, Site, Tensor, TensorId,
    Unit,
};
pub use trace::{Trace, trace};
