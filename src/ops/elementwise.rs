//! Element-wise operators: unary, broadcasting, quantisation.

use super::cx::{Answer, NodeCx, broadcast};
use super::quantized::{Storage, linear_axis};
use super::relate::{In, Out, Relate};
use super::{OpRule, Shapes};
use crate::channels::model::Role;
use crate::onnx::proto::NodeProto;
use crate::refuse;

pub(super) const UNARY: &[&str] = &[
    "Relu",
    "LeakyRelu",
    "Elu",
    "Selu",
    "Celu",
    "ThresholdedRelu",
    "Sigmoid",
    "HardSigmoid",
    "HardSwish",
    "Swish",
    "Mish",
    "Tanh",
    "Softplus",
    "Softsign",
    "Gelu",
    "Erf",
    "Exp",
    "Log",
    "Sqrt",
    "Reciprocal",
    "Neg",
    "Abs",
    "Sign",
    "Floor",
    "Ceil",
    "Round",
    "Sin",
    "Cos",
    "Tan",
    "Asin",
    "Acos",
    "Atan",
    "Sinh",
    "Cosh",
    "Asinh",
    "Acosh",
    "Atanh",
    "Not",
    "BitwiseNot",
    "IsNaN",
    "IsInf",
    "Cast",
    "CastLike",
    "BitCast",
    "Identity",
    "Clip",
    "Shrink",
];
pub(super) const DROPOUT: &[&str] = &["Dropout"];
pub(super) const BROADCAST: &[&str] = &[
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Pow",
    "Mod",
    "Sum",
    "Mean",
    "Max",
    "Min",
    "Where",
    "PRelu",
    "And",
    "Or",
    "Xor",
    "Equal",
    "Greater",
    "Less",
    "GreaterOrEqual",
    "LessOrEqual",
    "BitShift",
    "BitwiseAnd",
    "BitwiseOr",
    "BitwiseXor",
    "SwiGLU",
];
pub(super) const QUANTIZE: &[&str] =
    &["QuantizeLinear", "DequantizeLinear", "com.microsoft:QuantizeLinear", "com.microsoft:DequantizeLinear"];

/// One tensor in, the same shape out; further inputs are scalars.
pub struct Unary;
/// Identity at inference, with an optional mask.
pub struct Dropout;
/// NumPy broadcasting over any number of inputs.
pub struct Broadcast;
/// Scale and zero point per tensor, along one axis, or per block of one axis.
pub struct Quantize;

/// Ties every axis of input 0 with output `slot`.
fn tie_all(r: &mut Relate, slot: usize) -> Answer<()> {
    for a in 0..r.cx.rank(0)? {
        r.tie(In(0, a), Out(slot, a))?;
    }
    Ok(())
}

impl OpRule for Unary {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        Ok(vec![Some(cx.shape(0)?.to_vec())])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        tie_all(r, 0)
    }
}

impl OpRule for Dropout {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        Ok(vec![Some(cx.shape(0)?.to_vec()); cx.n_outputs().max(1)])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        for o in 0..r.cx.n_outputs() {
            if r.cx.graph.output(r.cx.id, o).is_some() {
                tie_all(r, o)?;
            }
        }
        Ok(())
    }
}

impl OpRule for Broadcast {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let shapes: Answer<Vec<&[usize]>> = (0..cx.n_inputs()).map(|s| cx.shape(s)).collect();
        Ok(vec![Some(broadcast(&shapes?)?)])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        let out = r.cx.out_shape(0)?;
        let role = if matches!(r.cx.node.op_type(), "Add" | "Sub") { Role::Bias } else { Role::PerChannel };
        for s in 0..r.cx.n_inputs() {
            let dims = r.cx.shape(s)?;
            for (a, &d) in dims.iter().enumerate() {
                let o = out.len() - dims.len() + a;
                // A size of 1 against a larger one is read for every index: it ties nothing.
                if d == out[o] {
                    r.tie(In(s, a), Out(0, o))?;
                    r.site(role, s, a);
                }
            }
        }
        for o in 0..out.len() {
            r.free(Out(0, o));
        }
        Ok(())
    }
}

impl OpRule for Quantize {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        Ok(vec![Some(cx.shape(0)?.to_vec())])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        tie_all(r, 0)?;
        let rank = r.cx.rank(0)?;
        let blocked = r.cx.int("block_size", 0) != 0;
        for s in 1..r.cx.n_inputs() {
            if !r.cx.has(s) || r.cx.shape(s)?.iter().all(|&d| d == 1) {
                continue;
            }
            let axis = linear_axis(r.cx.node, rank)?;
            if blocked {
                if r.cx.rank(s)? != rank {
                    refuse!("a blocked quantisation parameter of rank {} for {rank} axes", r.cx.rank(s)?);
                }
                for a in (0..rank).filter(|&a| a != axis) {
                    r.tie(In(s, a), In(0, a))?;
                    r.site(Role::PerChannel, s, a);
                }
                for loc in [In(s, axis), In(0, axis), Out(0, axis)] {
                    r.pin(loc, "blocked quantisation: a scale covers several indices of this axis");
                }
                continue;
            }
            if r.cx.rank(s)? != 1 {
                refuse!("a quantisation parameter of rank {}", r.cx.rank(s)?);
            }
            r.tie(In(s, 0), In(0, axis))?;
            r.site(Role::PerChannel, s, 0);
        }
        Ok(())
    }

    fn storage(&self, node: &NodeProto, slot: usize, rank: usize) -> Option<Storage> {
        // The input of `QuantizeLinear` stands for itself, and blocks have no axis.
        let dequantizes = slot == 0 && node.op_type() == "DequantizeLinear";
        let blocked = node.attribute.iter().any(|a| a.name() == "block_size" && a.i.is_some_and(|n| n != 0));
        (dequantizes && !blocked).then(|| Storage {
            scale: Some(1),
            zero: Some(2),
            axis: linear_axis(node, rank).unwrap_or(0),
        })
    }
}
