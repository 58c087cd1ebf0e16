//! Matrix products: contracted axes tied to each other, free axes to the output.

use super::cx::{Answer, NodeCx, broadcast};
use super::relate::{In, Out, Relate};
use super::{OpRule, Shapes};
use crate::channels::model::Role;
use crate::refuse;

pub(super) const GEMM: &[&str] = &["Gemm"];
pub(super) const MATMUL: &[&str] = &["MatMul"];

/// `Gemm`: `Y = α·A'·B' + β·C`.
pub struct Gemm;
/// `MatMul` with NumPy batch broadcasting.
pub struct MatMul;

/// `(m, k)` axes of A and `(k, n)` axes of B.
fn gemm_axes(cx: &NodeCx) -> ((usize, usize), (usize, usize)) {
    let a = if cx.int("transA", 0) != 0 { (1, 0) } else { (0, 1) };
    let b = if cx.int("transB", 0) != 0 { (1, 0) } else { (0, 1) };
    (a, b)
}

/// The operand that holds the layer's weights: where the oracle puts its zeros.
fn weight_slot(r: &Relate) -> usize {
    if !r.is_weight(1) && r.is_weight(0) { 0 } else { 1 }
}

/// Without a weight there is no place for the oracle's zeros: removing an index changes the product of two activations.
fn pin_activation_product(r: &mut Relate, ka: usize, kb: usize) {
    if !r.policy.products && !r.is_weight(0) && !r.is_weight(1) {
        let reason = "both operands are activations; removing an index of the summed axis would change their product";
        r.pin(In(0, ka), reason);
        r.pin(In(1, kb), reason);
    }
}

impl OpRule for Gemm {
    fn weight_slots(&self) -> &'static [usize] {
        &[0, 1]
    }

    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let (a, b) = (cx.shape(0)?, cx.shape(1)?);
        if a.len() != 2 || b.len() != 2 {
            refuse!("operands of rank {} and {}", a.len(), b.len());
        }
        let ((m, ka), (kb, n)) = gemm_axes(cx);
        if a[ka] != b[kb] {
            refuse!("operands {a:?} and {b:?} do not fit");
        }
        if cx.has(2) && broadcast(&[cx.shape(2)?, &[a[m], b[n]]])? != [a[m], b[n]] {
            refuse!("C of shape {:?} does not broadcast to {:?}", cx.shape(2)?, [a[m], b[n]]);
        }
        Ok(vec![Some(vec![a[m], b[n]])])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        let ((m, ka), (kb, n)) = gemm_axes(&r.cx);
        r.tie(In(0, ka), In(1, kb))?;
        pin_activation_product(r, ka, kb);
        r.tie(In(0, m), Out(0, 0))?;
        r.tie(In(1, n), Out(0, 1))?;
        let w = weight_slot(r);
        r.contract(w, if w == 1 { kb } else { ka });
        r.site(Role::Producer, w, if w == 1 { n } else { m });
        if r.cx.has(2) {
            let c = r.cx.shape(2)?;
            if c.len() > 2 {
                refuse!("C of rank {}", c.len());
            }
            for (i, &d) in c.iter().enumerate() {
                let out = 2 + i - c.len();
                if d == r.size(Out(0, out))? {
                    r.tie(In(2, i), Out(0, out))?;
                    r.site(Role::Bias, 2, i);
                }
            }
        }
        r.macs(1.0, &[Out(0, 0), Out(0, 1), In(0, ka)])
    }
}

impl OpRule for MatMul {
    fn weight_slots(&self) -> &'static [usize] {
        &[0, 1]
    }

    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let (a, b) = (cx.shape(0)?, cx.shape(1)?);
        let (p, q) = (a.len(), b.len());
        if p < 2 || q < 2 {
            refuse!("operands of rank {p} and {q}");
        }
        if a[p - 1] != b[q - 2] {
            refuse!("operands {a:?} and {b:?} do not fit");
        }
        let mut out = broadcast(&[&a[..p - 2], &b[..q - 2]])?;
        out.extend([a[p - 2], b[q - 1]]);
        Ok(vec![Some(out)])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        let (p, q) = (r.cx.rank(0)?, r.cx.rank(1)?);
        relate_product(r, (p - 2, p - 1), (q - 2, q - 1))
    }
}

/// A product of matrices with NumPy batch broadcasting; `(m, k)` are the axes of the first operand's rows and of its sum,
/// `(l, n)` those of the second operand's sum and of its columns.
pub(super) fn relate_product(r: &mut Relate, (m, k): (usize, usize), (l, n): (usize, usize)) -> Answer<()> {
    let (p, q) = (r.cx.rank(0)?, r.cx.rank(1)?);
    let out = r.cx.out_shape(0)?;
    let o = out.len();
    r.tie(In(0, k), In(1, l))?;
    pin_activation_product(r, k, l);
    r.tie(In(0, m), Out(0, o - 2))?;
    r.tie(In(1, n), Out(0, o - 1))?;
    for (slot, rank) in [(0, p), (1, q)] {
        for a in 0..rank - 2 {
            let b = o - rank + a;
            if r.size(In(slot, a))? == out[b] {
                r.tie(In(slot, a), Out(0, b))?;
            }
        }
    }
    let w = weight_slot(r);
    r.contract(w, if w == 1 { l } else { k });
    r.site(Role::Producer, w, if w == 1 { n } else { m });
    let mut locs: Vec<_> = (0..o).map(|a| Out(0, a)).collect();
    locs.push(In(0, k));
    r.macs(1.0, &locs)
}
