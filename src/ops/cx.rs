//! What an operator rule may know about its node: attributes, input shapes, and integer inputs that analysis could fold.

use crate::canon::val::Val;
use crate::graph::{Graph, NodeId, attribute};
use crate::onnx::proto::NodeProto;
use std::sync::Arc;

/// Why a rule does not apply to a node. Never an error of the program: the node's axes are pinned with this reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(pub String);

impl<T: Into<String>> From<T> for Refusal {
    fn from(s: T) -> Self {
        Refusal(s.into())
    }
}

/// `Err(Refusal)` with a formatted reason.
#[macro_export]
#[doc(hidden)]
macro_rules! refuse {
    ($($t:tt)*) => { return Err($crate::ops::Refusal(format!($($t)*))) };
}

/// Part of every refusal over a value that only a runtime knows.
pub const RUN_TIME: &str = "computed at run time";

/// A rule's answer.
pub type Answer<T> = Result<T, Refusal>;

/// Everything that is known about values under one assignment of the dynamic dimensions.
#[derive(Clone, Debug, Default)]
pub struct Lane {
    /// Shape per value.
    pub shapes: Vec<Option<Vec<usize>>>,
    /// Folded contents of small tensors per value.
    pub vals: Vec<Option<Arc<Val>>>,
}

/// A slot that reads something else than the original graph's value (while a rewritten node is checked).
#[derive(Clone, Debug)]
pub struct Override {
    /// Input slot.
    pub slot: usize,
    /// Its shape.
    pub shape: Option<Vec<usize>>,
    /// Its contents, when known.
    pub val: Option<Arc<Val>>,
}

/// One node under one assignment.
#[derive(Clone, Copy)]
pub struct NodeCx<'a> {
    /// The original graph.
    pub graph: &'a Graph<'a>,
    /// The node.
    pub id: NodeId,
    /// Its protobuf: the original's, or the patched copy.
    pub node: &'a NodeProto,
    /// Version of the default operator set.
    pub opset: i64,
    /// Known facts.
    pub lane: &'a Lane,
    /// Slots that differ from the original graph.
    pub overrides: &'a [Override],
}

impl<'a> NodeCx<'a> {
    /// Number of input slots.
    pub fn n_inputs(&self) -> usize {
        self.node.input.len()
    }

    /// Number of output slots.
    pub fn n_outputs(&self) -> usize {
        self.node.output.len()
    }

    /// Whether the input is given.
    pub fn has(&self, slot: usize) -> bool {
        self.node.input.get(slot).is_some_and(|n| !n.is_empty())
    }

    fn overridden(&self, slot: usize) -> Option<&'a Override> {
        self.overrides.iter().find(|o| o.slot == slot)
    }

    /// Shape of an input.
    pub fn shape(&self, slot: usize) -> Answer<&'a [usize]> {
        if let Some(o) = self.overridden(slot) {
            return o.shape.as_deref().ok_or_else(|| Refusal(format!("the shape of input {slot} is not known")));
        }
        let value = self.graph.input(self.id, slot).ok_or_else(|| Refusal(format!("input {slot} is missing")))?;
        self.lane.shapes[value.0 as usize]
            .as_deref()
            .ok_or_else(|| Refusal(format!("the shape of its input {:?} is not known", self.graph.value(value).name)))
    }

    /// Shape of an output that inference has already produced.
    pub fn out_shape(&self, slot: usize) -> Answer<&'a [usize]> {
        let value = self.graph.output(self.id, slot).ok_or_else(|| Refusal(format!("output {slot} is missing")))?;
        self.lane.shapes[value.0 as usize]
            .as_deref()
            .ok_or_else(|| Refusal("the shape of its output is not known".into()))
    }

    /// Rank of an input.
    pub fn rank(&self, slot: usize) -> Answer<usize> {
        Ok(self.shape(slot)?.len())
    }

    /// Folded contents of an input.
    pub fn val(&self, slot: usize) -> Option<&'a Val> {
        if let Some(o) = self.overridden(slot) {
            return o.val.as_deref();
        }
        let value = self.graph.input(self.id, slot)?;
        self.lane.vals[value.0 as usize].as_deref()
    }

    /// Folded contents of an input as integers; `None` when omitted or not known.
    pub fn ints(&self, slot: usize) -> Option<Vec<i64>> {
        self.val(slot).map(Val::ints)
    }

    /// Contents of an input that the rule cannot do without.
    pub fn need_ints(&self, slot: usize, what: &str) -> Answer<Vec<i64>> {
        self.ints(slot).ok_or_else(|| Refusal(format!("its {what} are {RUN_TIME} and could not be followed")))
    }

    /// Integer attribute.
    pub fn int(&self, name: &str, default: i64) -> i64 {
        attribute(self.node, name).and_then(|a| a.i).unwrap_or(default)
    }

    /// Float attribute.
    pub fn float(&self, name: &str, default: f32) -> f64 {
        f64::from(attribute(self.node, name).and_then(|a| a.f).unwrap_or(default))
    }

    /// Integer-list attribute.
    pub fn list(&self, name: &str) -> Option<Vec<i64>> {
        attribute(self.node, name).map(|a| a.ints.clone())
    }

    /// String attribute.
    pub fn string(&self, name: &str) -> Option<&'a str> {
        attribute(self.node, name).and_then(|a| a.s.as_deref()).and_then(|s| std::str::from_utf8(s).ok())
    }

    /// Axes that are an attribute in older opsets and an input in newer ones. `Ok(None)`: not given.
    pub fn list_or_input(&self, name: &str, slot: usize) -> Answer<Option<Vec<i64>>> {
        if let Some(v) = self.list(name) {
            if self.has(slot) {
                refuse!("its {name} are given twice, as an attribute and as an input");
            }
            return Ok(Some(v));
        }
        if self.has(slot) { self.need_ints(slot, name).map(Some) } else { Ok(None) }
    }

    /// Integer attribute `axis`, made non-negative for a rank.
    pub fn axis(&self, default: i64, rank: usize) -> Answer<usize> {
        norm_axis(self.int("axis", default), rank)
    }
}

/// Makes an axis non-negative.
pub fn norm_axis(axis: i64, rank: usize) -> Answer<usize> {
    let a = if axis < 0 { axis + rank as i64 } else { axis };
    if a < 0 || a >= rank as i64 {
        refuse!("axis {axis} is out of range for rank {rank}");
    }
    Ok(a as usize)
}

/// Makes axes non-negative; errs on repeats.
pub fn norm_axes(axes: &[i64], rank: usize) -> Answer<Vec<usize>> {
    let mut out = Vec::with_capacity(axes.len());
    for &a in axes {
        let a = norm_axis(a, rank)?;
        if out.contains(&a) {
            refuse!("axis {a} is given twice");
        }
        out.push(a);
    }
    Ok(out)
}

/// Product of sizes, refused when it leaves what fits in memory addressing.
pub fn product(dims: &[usize]) -> Answer<usize> {
    dims.iter().try_fold(1usize, |a, &d| a.checked_mul(d)).ok_or_else(|| Refusal("a shape's product overflows".into()))
}

/// NumPy broadcasting of shapes.
pub fn broadcast(shapes: &[&[usize]]) -> Answer<Vec<usize>> {
    let rank = shapes.iter().map(|s| s.len()).max().unwrap_or(0);
    let mut out = vec![1usize; rank];
    for s in shapes {
        for (i, &d) in s.iter().enumerate() {
            let o = &mut out[rank - s.len() + i];
            if *o == 1 {
                *o = d;
            } else if d != 1 && d != *o {
                refuse!("shapes {shapes:?} do not broadcast");
            }
        }
    }
    Ok(out)
}
