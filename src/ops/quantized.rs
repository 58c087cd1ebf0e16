//! Layers that compute with quantised weights: `scale · (q − zero)`.
//!
//! The oracle's zero of such a weight is its zero point. It is written into the weight, so both must be constants.

use super::cx::{Answer, NodeCx, broadcast, norm_axis};
use super::patch::Patch;
use super::relate::{In, Out, Relate};
use super::{OpRule, Shapes, conv};
use crate::canon::fold::constant_source;
use crate::channels::model::{Role, Tensor};
use crate::graph::{Graph, NodeId, ValueId};
use crate::onnx::proto::NodeProto;
use crate::onnx::tensor;
use crate::refuse;

pub(super) const DYNAMIC: &[&str] = &["DynamicQuantizeLinear"];
pub(super) const QLINEAR_CONV: &[&str] = &["QLinearConv", "com.microsoft:QLinearConv"];
pub(super) const CONV_INTEGER: &[&str] = &["ConvInteger"];
pub(super) const QLINEAR_MATMUL: &[&str] = &["QLinearMatMul"];
pub(super) const MATMUL_INTEGER: &[&str] = &["MatMulInteger"];
pub(super) const MATMUL_TO_FLOAT: &[&str] = &["com.microsoft:MatMulIntegerToFloat"];
pub(super) const DYNAMIC_MATMUL: &[&str] = &["com.microsoft:DynamicQuantizeMatMul"];
pub(super) const QGEMM: &[&str] = &["com.microsoft:QGemm"];

const DYNAMIC_SCALE: &str = "the quantisation scale is a statistic over the whole tensor, computed at run time; removing an index would change it";

/// Where an operator reads how the integers of an input stand for real numbers: `scale · (q − zero)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Storage {
    /// Input slot of the scale.
    pub scale: Option<usize>,
    /// Input slot of the zero point; none, or an empty slot, is 0.
    pub zero: Option<usize>,
    /// Axis of the integers that a scale or zero point of more than one element runs along.
    pub axis: usize,
}

/// The grid of a quantised constant.
#[derive(Clone, Debug, PartialEq)]
pub struct Grid {
    /// One scale, or one for each index of [`Grid::axis`].
    pub scale: Vec<f32>,
    /// One zero point, or one for each index of [`Grid::axis`].
    pub zero: Vec<i64>,
    /// The axis that they run along.
    pub axis: usize,
}

impl Grid {
    /// The scale and the zero point of an element of a tensor of these sizes, by its position.
    pub fn at(&self, dims: &[usize], position: usize) -> (f32, i64) {
        let inner: usize = dims.iter().skip(self.axis + 1).product();
        let index = position / inner.max(1) % dims.get(self.axis).copied().unwrap_or(1).max(1);
        let scale = self.scale.get(index).or(self.scale.first());
        let zero = self.zero.get(index).or(self.zero.first());
        (scale.copied().unwrap_or(1.0), zero.copied().unwrap_or(0))
    }
}

/// Where a reader finds the grid of the integers in its slot.
fn storage_at(graph: &Graph, (node, slot): (NodeId, usize), rank: usize) -> Option<Storage> {
    graph.rule(node)?.storage(graph.node(node), slot, rank)
}

/// The constant behind an optional slot, as its source; `Some(None)` where nothing is given.
fn source(graph: &Graph, node: NodeId, slot: Option<usize>) -> Option<Option<ValueId>> {
    match slot.and_then(|s| graph.input(node, s)) {
        None => Some(None),
        Some(v) => constant_source(graph, v).map(Some),
    }
}

/// The grid of a constant's integers, as its first reader sees it; `None` where they stand for themselves, or where the
/// grid is not a constant per tensor or per index of one axis.
pub fn grid(graph: &Graph, t: &Tensor) -> Option<Grid> {
    let &(node, slot) = t.readers.first()?;
    let at = storage_at(graph, (node, slot), t.dims.len())?;
    let n = *t.dims.get(at.axis).unwrap_or(&1);
    let one = |slot: Option<usize>| -> Option<Option<&crate::onnx::proto::TensorProto>> {
        let Some(v) = source(graph, node, slot)? else { return Some(None) };
        let proto = graph.constant(v)?;
        let len = tensor::numel(proto).ok()?;
        (len == 1 || (len == n && proto.dims.iter().filter(|&&d| d != 1).count() < 2)).then_some(Some(proto))
    };
    let zero = match one(at.zero)? {
        Some(t) => tensor::to_f32(t).ok()?.into_iter().map(|z| z as i64).collect(),
        None => vec![0],
    };
    // The scale only weighs channels; without it they still compare within a tensor.
    let scale = one(at.scale).flatten().and_then(|t| tensor::to_f32(t).ok()).unwrap_or_else(|| vec![1.0]);
    Some(Grid { scale, zero, axis: at.axis })
}

/// Why the oracle cannot write zero points into the weight in this slot, if it cannot.
fn no_zero(r: &Relate, slot: usize) -> Option<&'static str> {
    let g = r.cx.graph;
    let t = r.tensor(slot).filter(|t| t.source.is_some());
    let Some(t) = t else { return Some("the quantised operand is computed at run time") };
    let at = |reader: (NodeId, usize)| {
        let s = storage_at(g, reader, t.dims.len())?;
        Some((source(g, reader.0, s.zero)?, s.axis))
    };
    let Some(first) = t.readers.first().and_then(|&x| at(x)) else {
        return Some("the zero point of the weight is computed at run time");
    };
    if t.readers.iter().any(|&x| at(x) != Some(first)) {
        return Some("layers that share the weight give it different zero points");
    }
    grid(g, t).is_none().then_some("the zero point of the weight has an unusual shape")
}

/// Scales and zero points that must not run along an axis.
pub(super) fn scalars(r: &Relate, slots: &[usize]) -> Answer<()> {
    for &s in slots {
        if r.cx.has(s) && r.cx.shape(s)?.iter().any(|&d| d != 1) {
            refuse!("quantisation parameter {s} of shape {:?}, where one value was expected", r.cx.shape(s)?);
        }
    }
    Ok(())
}

/// Scales, zero points and biases with one element, or one for each index of an axis.
fn along(r: &mut Relate, slots: &[usize], role: Role, to: super::Loc) -> Answer<()> {
    for &s in slots {
        if !r.cx.has(s) {
            continue;
        }
        let dims = r.cx.shape(s)?;
        let Some(last) = dims.len().checked_sub(1).filter(|_| dims.iter().any(|&d| d != 1)) else { continue };
        if dims[..last].iter().any(|&d| d != 1) {
            refuse!("parameter {s} of shape {dims:?}, where one value a channel was expected");
        }
        r.tie(In(s, last), to)?;
        r.site(role, s, last);
    }
    Ok(())
}

/// Scale and zero point from the smallest and the largest value of the whole tensor.
pub struct DynamicQuantize;

impl OpRule for DynamicQuantize {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        Ok(vec![Some(cx.shape(0)?.to_vec()), Some(vec![]), Some(vec![])])
    }

    fn relate(&self, _r: &mut Relate) -> Answer<()> {
        refuse!("{DYNAMIC_SCALE}")
    }
}

/// `QLinearConv` (also with channels last), or `ConvInteger`.
pub struct QuantConv {
    /// `ConvInteger`: zero points but no scales, no bias.
    pub integer: bool,
}

impl QuantConv {
    fn w(&self) -> usize {
        if self.integer { 1 } else { 3 }
    }

    /// Sizes as of a convolution with channels first: input, weight, and where the channels are.
    fn sizes<'a>(&self, cx: &NodeCx<'a>) -> Answer<(Vec<usize>, &'a [usize], usize)> {
        let (x, w) = (cx.shape(0)?, cx.shape(self.w())?);
        if x.len() < 3 || w.len() != x.len() {
            refuse!("input of rank {} and weight of rank {} do not fit", x.len(), w.len());
        }
        let at = if cx.int("channels_last", 0) != 0 { x.len() - 1 } else { 1 };
        let mut first = x.to_vec();
        first[1..=at].rotate_right(1);
        Ok((first, w, at))
    }
}

impl OpRule for QuantConv {
    fn weight_slots(&self) -> &'static [usize] {
        if self.integer { &[1] } else { &[3] }
    }

    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let (x, w, at) = self.sizes(cx)?;
        let g = conv::group(cx)?;
        if w[1].checked_mul(g) != Some(x[1]) || w[0] % g != 0 {
            refuse!("weight {w:?} does not fit {} input channels in {g} group(s)", x[1]);
        }
        let win = conv::Window::read(cx, &w[2..])?;
        let mut out = vec![x[0], w[0]];
        for i in 0..x.len() - 2 {
            out.push(win.output(i, x[i + 2], false)?);
        }
        out[1..=at].rotate_left(1);
        Ok(vec![Some(out)])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        let (x, w, at) = self.sizes(&r.cx)?;
        let (wi, g) = (self.w(), conv::group(&r.cx)?);
        let out = r.cx.out_shape(0)?;
        let mut taps: f64 = w[2..].iter().map(|&d| d as f64).product();
        for (a, &d) in out.iter().enumerate().skip(1).filter(|&(a, _)| a != at) {
            taps *= d as f64;
            r.pin(In(0, a), "a convolution slides over this axis");
            r.pin(Out(0, a), "a convolution slides over this axis");
        }
        for a in 2..w.len() {
            r.pin(In(wi, a), "a convolution slides over this axis");
        }
        r.tie(In(0, 0), Out(0, 0))?;
        r.tie(In(wi, 0), Out(0, at))?;
        r.site(Role::Producer, wi, 0);
        if self.integer {
            scalars(r, &[2])?;
            along(r, &[3], Role::PerChannel, Out(0, at))?;
        } else {
            scalars(r, &[1, 2, 6, 7])?;
            along(r, &[4, 5], Role::PerChannel, Out(0, at))?;
            if r.cx.has(8) {
                r.tie(In(8, 0), Out(0, at))?;
                r.site(Role::Bias, 8, 0);
            }
        }
        if g > 1 && w[1] == 1 {
            let m = w[0] / g;
            r.tie_map(In(0, at), Out(0, at), (0..w[0]).map(|o| (o / m, o)))?;
            return r.macs(taps, &[Out(0, 0), Out(0, at)]);
        }
        if let Some(why) = no_zero(r, wi) {
            if g > 1 {
                refuse!("{why}");
            }
            r.pin(In(wi, 1), why);
        }
        r.tie_span(In(0, at), 0, In(wi, 1), 0, x[1])?;
        r.contract(wi, 1);
        if g > 1 {
            r.equal_counts(In(0, at), g);
            r.equal_counts(Out(0, at), g);
        }
        r.macs(taps / g as f64, &[Out(0, 0), Out(0, at), In(0, at)])
    }

    fn patch(&self, p: &mut Patch) -> Answer<()> {
        let (_, w, at) = self.sizes(&p.cx)?;
        let g = conv::group(&p.cx)?;
        if g > 1 && w[1] == 1 {
            p.set_int("group", (g - p.removed(In(0, at)).len()) as i64);
        }
        Ok(())
    }

    fn fold(&self, cx: &NodeCx, slot: usize) -> usize {
        match (conv::group(cx), cx.shape(self.w())) {
            (Ok(g), Ok(w)) if slot == self.w() && w.len() > 1 && w[1] > 1 && w[0] % g == 0 => g,
            _ => 1,
        }
    }

    fn storage(&self, _node: &NodeProto, slot: usize, _rank: usize) -> Option<Storage> {
        let scale = (!self.integer).then_some(4);
        let zero = Some(if self.integer { 3 } else { 5 });
        (slot == self.w()).then_some(Storage { scale, zero, axis: 0 })
    }
}

/// Where a quantised matrix product has its operands and parameters.
#[derive(Clone, Copy, Debug)]
pub struct MatSlots {
    /// The operands.
    operands: [usize; 2],
    /// The operands' scales.
    scales: [Option<usize>; 2],
    /// The operands' zero points.
    zeros: [Option<usize>; 2],
    bias: Option<usize>,
    /// Scale and zero point of the output.
    out: &'static [usize],
    /// The first operand is quantised on the way in.
    dynamic: bool,
    weights: &'static [usize],
}

pub(super) const QLINEAR_MATMUL_SLOTS: MatSlots = MatSlots {
    operands: [0, 3],
    scales: [Some(1), Some(4)],
    zeros: [Some(2), Some(5)],
    bias: None,
    out: &[6, 7],
    dynamic: false,
    weights: &[0, 3],
};
pub(super) const MATMUL_INTEGER_SLOTS: MatSlots = MatSlots {
    operands: [0, 1],
    scales: [None, None],
    zeros: [Some(2), Some(3)],
    out: &[],
    weights: &[0, 1],
    ..QLINEAR_MATMUL_SLOTS
};
pub(super) const MATMUL_TO_FLOAT_SLOTS: MatSlots =
    MatSlots { scales: [Some(2), Some(3)], zeros: [Some(4), Some(5)], bias: Some(6), ..MATMUL_INTEGER_SLOTS };
pub(super) const DYNAMIC_MATMUL_SLOTS: MatSlots = MatSlots {
    scales: [None, Some(2)],
    zeros: [None, Some(3)],
    bias: Some(4),
    dynamic: true,
    weights: &[1],
    ..MATMUL_INTEGER_SLOTS
};
pub(super) const QGEMM_SLOTS: MatSlots = MatSlots { bias: Some(6), out: &[7, 8], ..QLINEAR_MATMUL_SLOTS };

/// A product of quantised matrices. Scales and zero points may run along the columns of the second operand.
pub struct QuantMatMul(pub MatSlots);

/// Position of (rows, summed) in the first operand and of (summed, columns) in the second.
type Axes = ((usize, usize), (usize, usize));

impl QuantMatMul {
    fn axes(&self, cx: &NodeCx) -> Answer<Axes> {
        let (p, q) = (cx.rank(self.0.operands[0])?, cx.rank(self.0.operands[1])?);
        if p < 2 || q < 2 {
            refuse!("operands of rank {p} and {q}");
        }
        let turned = |name: &str| cx.int(name, 0) != 0;
        if (turned("transA") || turned("transB")) && (p, q) != (2, 2) {
            refuse!("transposed operands of rank {p} and {q}");
        }
        let a = if turned("transA") { (1, 0) } else { (p - 2, p - 1) };
        let b = if turned("transB") { (1, 0) } else { (q - 2, q - 1) };
        Ok((a, b))
    }
}

impl OpRule for QuantMatMul {
    fn weight_slots(&self) -> &'static [usize] {
        self.0.weights
    }

    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let ((m, ka), (kb, n)) = self.axes(cx)?;
        let (a, b) = (cx.shape(self.0.operands[0])?, cx.shape(self.0.operands[1])?);
        if a[ka] != b[kb] {
            refuse!("operands {a:?} and {b:?} do not fit");
        }
        let mut out = broadcast(&[&a[..a.len() - 2], &b[..b.len() - 2]])?;
        out.extend([a[m], b[n]]);
        Ok(vec![Some(out)])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        let ((m, ka), (kb, n)) = self.axes(&r.cx)?;
        let MatSlots { operands: [a, b], scales, zeros, bias, out, dynamic, .. } = self.0;
        let dims = r.cx.out_shape(0)?;
        let o = dims.len();
        let given = |list: [Option<usize>; 2], which: usize| list[which].into_iter();
        scalars(r, &given(scales, 0).chain(given(zeros, 0)).chain(out.iter().copied()).collect::<Vec<_>>())?;
        let columns: Vec<usize> = given(scales, 1).chain(given(zeros, 1)).collect();
        along(r, &columns, Role::PerChannel, Out(0, o - 1))?;
        if let Some(c) = bias.filter(|&c| r.cx.has(c)) {
            if r.cx.rank(c)? == 2 && r.cx.shape(c)?[0] != 1 {
                refuse!("a bias of shape {:?}", r.cx.shape(c)?);
            }
            along(r, &[c], Role::Bias, Out(0, o - 1))?;
        }
        r.tie(In(a, ka), In(b, kb))?;
        r.tie(In(a, m), Out(0, o - 2))?;
        r.tie(In(b, n), Out(0, o - 1))?;
        for slot in [a, b] {
            let rank = r.cx.rank(slot)?;
            for axis in 0..rank - 2 {
                let to = o - rank + axis;
                if r.size(In(slot, axis))? == dims[to] {
                    r.tie(In(slot, axis), Out(0, to))?;
                }
            }
        }
        if dynamic {
            for axis in 0..r.cx.rank(a)? {
                r.pin(In(a, axis), DYNAMIC_SCALE);
            }
        }
        let left = !dynamic && !r.is_constant(b) && r.is_constant(a);
        let (w, k, free) = if left { (a, ka, m) } else { (b, kb, n) };
        if let Some(why) = no_zero(r, w) {
            r.pin(In(w, k), why);
        }
        r.contract(w, k);
        r.site(Role::Producer, w, free);
        let mut locs: Vec<_> = (0..o).map(|axis| Out(0, axis)).collect();
        locs.push(In(a, ka));
        r.macs(1.0, &locs)
    }

    fn storage(&self, node: &NodeProto, slot: usize, rank: usize) -> Option<Storage> {
        let which = self.0.operands.iter().position(|&s| s == slot).filter(|&i| i == 1 || !self.0.dynamic)?;
        let turned = which == 1 && crate::graph::attribute(node, "transB").and_then(|a| a.i).unwrap_or(0) != 0;
        // A scale of the first operand has one element; its axis does not matter.
        let axis = if turned { 0 } else { rank.checked_sub(1)? };
        Some(Storage { scale: self.0.scales[which], zero: self.0.zeros[which], axis })
    }
}

/// `QuantizeLinear` and `DequantizeLinear`: the axis that scales run along.
pub(super) fn linear_axis(node: &NodeProto, rank: usize) -> Answer<usize> {
    norm_axis(crate::graph::attribute(node, "axis").and_then(|a| a.i).unwrap_or(1), rank)
}
