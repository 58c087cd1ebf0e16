//! Layers of integer arithmetic: their shapes. Their weights are read through scales and zero points, so that a stored
//! zero need not be one, and the scale of `DynamicQuantizeLinear` is a statistic of the whole tensor: all is pinned.

use super::conv::{Window, group};
use super::cx::{Answer, NodeCx, broadcast};
use super::relate::Relate;
use super::{OpRule, Shapes};
use crate::refuse;

pub(super) const INTEGER_CONV: &[&str] = &["ConvInteger", "QLinearConv"];
pub(super) const INTEGER_MATMUL: &[&str] = &["MatMulInteger", "QLinearMatMul"];
pub(super) const DYNAMIC_QUANTIZE: &[&str] = &["DynamicQuantizeLinear"];

/// `ConvInteger`, `QLinearConv`.
pub struct IntegerConv;
/// `MatMulInteger`, `QLinearMatMul`.
pub struct IntegerMatMul;
/// `DynamicQuantizeLinear`.
pub struct DynamicQuantize;

const REASON: &str = "a layer of integer arithmetic";

impl OpRule for IntegerConv {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let (x, w) = (cx.shape(0)?, cx.shape(if cx.node.op_type() == "QLinearConv" { 3 } else { 1 })?);
        let g = group(cx)?;
        if x.len() < 3 || w.len() != x.len() || w[1].checked_mul(g) != Some(x[1]) || w[0] % g != 0 {
            refuse!("weight {w:?} does not fit input {x:?} in {g} group(s)");
        }
        let win = Window::read(cx, &w[2..])?;
        let mut out = vec![x[0], w[0]];
        for i in 0..x.len() - 2 {
            out.push(win.output(i, x[i + 2], false)?);
        }
        Ok(vec![Some(out)])
    }

    fn relate(&self, _: &mut Relate) -> Answer<()> {
        refuse!("{REASON}")
    }
}

impl OpRule for IntegerMatMul {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let (a, b) = (cx.shape(0)?, cx.shape(if cx.node.op_type() == "QLinearMatMul" { 3 } else { 1 })?);
        let ([x @ .., m, k], [y @ .., l, n]) = (a, b) else { refuse!("operands of shape {a:?} and {b:?}") };
        if k != l {
            refuse!("operands {a:?} and {b:?} do not fit");
        }
        let mut out = broadcast(&[x, y])?;
        out.extend([*m, *n]);
        Ok(vec![Some(out)])
    }

    fn relate(&self, _: &mut Relate) -> Answer<()> {
        refuse!("{REASON}")
    }
}

impl OpRule for DynamicQuantize {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        Ok(vec![Some(cx.shape(0)?.to_vec()), Some(vec![]), Some(vec![])])
    }

    fn relate(&self, _: &mut Relate) -> Answer<()> {
        refuse!("its scale is a statistic of the whole tensor")
    }
}
