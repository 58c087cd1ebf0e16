//! Sources of values: shapes, constants, ranges.

use super::cx::{Answer, NodeCx};
use super::patch::Patch;
use super::relate::{In, Out, Relate};
use super::{OpRule, Shapes};
use crate::graph::attribute;
use crate::onnx::tensor;
use crate::refuse;

pub(super) const SHAPE: &[&str] = &["Shape", "Size"];
pub(super) const CONSTANT: &[&str] = &["Constant"];
pub(super) const CONSTANT_OF_SHAPE: &[&str] = &["ConstantOfShape"];
pub(super) const RANGE: &[&str] = &["Range"];

/// `Shape` and `Size` read sizes, not channels. Where the numbers go is followed by the folding of shape arithmetic;
/// where they end up as data, the trace pins the axes that they came from.
pub struct Shape;
/// A constant of the file.
pub struct Constant;
/// A filled tensor of a computed shape.
pub struct ConstantOfShape;
/// An arithmetic progression.
pub struct Range;

impl OpRule for Shape {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        if cx.node.op_type() == "Size" {
            return Ok(vec![Some(vec![])]);
        }
        let r = cx.rank(0)? as i64;
        let clamp = |v: i64| if v < 0 { (v + r).clamp(0, r) } else { v.min(r) };
        let n = clamp(cx.int("end", i64::MAX)) - clamp(cx.int("start", 0));
        Ok(vec![Some(vec![n.max(0) as usize])])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        for a in 0..r.cx.rank(0)? {
            r.free(In(0, a));
        }
        Ok(())
    }
}

impl OpRule for Constant {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let shape = if let Some(t) = attribute(cx.node, "value").and_then(|a| a.t.as_ref()) {
            tensor::dims(t).map_err(|e| e.to_string())?
        } else if let Some(a) = attribute(cx.node, "value_ints") {
            vec![a.ints.len()]
        } else if let Some(a) = attribute(cx.node, "value_floats") {
            vec![a.floats.len()]
        } else if attribute(cx.node, "value_int").or(attribute(cx.node, "value_float")).is_some() {
            vec![]
        } else {
            refuse!("a constant that holds no dense tensor of numbers");
        };
        Ok(vec![Some(shape)])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        // Its readers say what ties it; a constant without a tensor (value_floats, …) cannot be cut.
        let cuttable = attribute(r.cx.node, "value").is_some();
        for a in 0..r.cx.out_shape(0)?.len() {
            if cuttable {
                r.free(Out(0, a));
            } else {
                r.pin(Out(0, a), "a constant that holds no tensor cannot be cut");
            }
        }
        Ok(())
    }
}

impl OpRule for ConstantOfShape {
    fn size_slots(&self) -> &'static [usize] {
        &[0]
    }

    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let dims = cx.need_ints(0, "sizes")?;
        let dims: Result<Vec<usize>, _> = dims.into_iter().map(usize::try_from).collect();
        Ok(vec![Some(dims.map_err(|_| "a negative size")?)])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        for a in 0..r.cx.out_shape(0)?.len() {
            r.free(Out(0, a));
        }
        Ok(())
    }

    fn patch(&self, p: &mut Patch) -> Answer<()> {
        let out = p.cx.out_shape(0)?;
        let new: Vec<Option<i64>> = (0..out.len())
            .map(|a| {
                let gone = p.removed(Out(0, a)).len();
                (gone > 0).then(|| (out[a] - gone) as i64)
            })
            .collect();
        if new.iter().any(Option::is_some) {
            p.require(0, new);
        }
        Ok(())
    }
}

impl OpRule for Range {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let one = |s| cx.val(s).and_then(|v| v.data.first().copied());
        let (Some(a), Some(b), Some(d)) = (one(0), one(1), one(2)) else {
            refuse!("its bounds are computed at run time")
        };
        let n = ((b - a) / d).ceil().max(0.0);
        if !(n.is_finite() && n < 1e9) {
            refuse!("{n} elements");
        }
        Ok(vec![Some(vec![n as usize])])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        r.pin(Out(0, 0), "a range counts its own positions");
        Ok(())
    }
}
