//! Operators of `com.microsoft` that ONNX Runtime's optimiser writes in place of several standard ones.

use super::cx::{Answer, NodeCx, broadcast};
use super::norm::STATISTIC;
use super::patch::Patch;
use super::relate::{In, Out, Relate};
use super::{OpRule, Shapes, conv, linear};
use crate::channels::model::Role;
use crate::refuse;

pub(super) const FUSED_CONV: &[&str] = &["com.microsoft:FusedConv"];
pub(super) const FUSED_GEMM: &[&str] = &["com.microsoft:FusedGemm"];
pub(super) const FUSED_MATMUL: &[&str] = &["com.microsoft:FusedMatMul", "com.microsoft:TransposeMatMul"];
pub(super) const UNARY: &[&str] = &["com.microsoft:Gelu", "com.microsoft:QuickGelu"];
pub(super) const BIAS_GELU: &[&str] = &["com.microsoft:BiasGelu", "com.microsoft:FastGelu"];
pub(super) const BIAS_SOFTMAX: &[&str] = &["com.microsoft:BiasSoftmax"];
/// The simplified one is written to the default domain too.
pub(super) const LAYER_NORM: &[&str] =
    &["SimplifiedLayerNormalization", "com.microsoft:LayerNormalization", "com.microsoft:SimplifiedLayerNormalization"];
pub(super) const SKIP_LAYER_NORM: &[&str] =
    &["com.microsoft:SkipLayerNormalization", "com.microsoft:SkipSimplifiedLayerNormalization"];
pub(super) const EMBED_LAYER_NORM: &[&str] = &["com.microsoft:EmbedLayerNormalization"];
pub(super) const BLOCKED_MATMUL: &[&str] = &["com.microsoft:MatMulNBits"];
pub(super) const BLOCKED_LAYOUT: &[&str] = &[
    "com.microsoft.nchwc:Conv",
    "com.microsoft.nchwc:MaxPool",
    "com.microsoft.nchwc:AveragePool",
    "com.microsoft.nchwc:GlobalMaxPool",
    "com.microsoft.nchwc:GlobalAveragePool",
    "com.microsoft.nchwc:Upsample",
    "com.microsoft.nchwc:ReorderInput",
    "com.microsoft.nchwc:ReorderOutput",
];

/// `Conv`, plus an optional tensor of the output's shape, through an activation.
pub struct FusedConv;
/// `Gemm` through an activation.
pub struct FusedGemm;
/// `α · A' · B'`, with either operand's last two axes exchanged.
pub struct FusedMatMul;
/// GELU of the input plus an optional bias on the last axis.
pub struct BiasGelu;
/// Softmax of the input plus a mask.
pub struct BiasSoftmax;
/// Layer normalisation of a sum.
pub struct SkipLayerNorm;
/// Sum of embeddings, layer-normalised.
pub struct EmbedLayerNorm;
/// A matrix product with packed weights of a few bits.
pub struct BlockedMatMul;
/// Operators whose channels lie in blocks of the processor's vector length.
pub struct BlockedLayout;

impl OpRule for FusedConv {
    fn weight_slots(&self) -> &'static [usize] {
        conv::Conv.weight_slots()
    }

    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let shapes = conv::Conv.infer(cx)?;
        if cx.has(3) && shapes.first() != Some(&Some(cx.shape(3)?.to_vec())) {
            refuse!("a summand of shape {:?} for an output of shape {:?}", cx.shape(3)?, shapes.first());
        }
        Ok(shapes)
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        conv::Conv.relate(r)?;
        if r.cx.has(3) {
            for a in 0..r.cx.rank(3)? {
                r.tie(In(3, a), Out(0, a))?;
            }
            r.site(Role::Bias, 3, 1);
        }
        Ok(())
    }

    fn patch(&self, p: &mut Patch) -> Answer<()> {
        conv::Conv.patch(p)
    }

    fn fold(&self, cx: &NodeCx, slot: usize) -> usize {
        conv::Conv.fold(cx, slot)
    }
}

impl OpRule for FusedGemm {
    fn weight_slots(&self) -> &'static [usize] {
        linear::Gemm.weight_slots()
    }

    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        linear::Gemm.infer(cx)
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        linear::Gemm.relate(r)
    }
}

/// Axes of (rows, summed) in A and (summed, columns) in B.
fn matmul_axes(cx: &NodeCx) -> Answer<((usize, usize), (usize, usize))> {
    let (p, q) = (cx.rank(0)?, cx.rank(1)?);
    if p < 2 || q < 2 {
        refuse!("operands of rank {p} and {q}");
    }
    if cx.int("transBatchA", 0) != 0 || cx.int("transBatchB", 0) != 0 {
        refuse!("its batch axes are transposed, which is not followed");
    }
    let a = if cx.int("transA", 0) != 0 { (p - 1, p - 2) } else { (p - 2, p - 1) };
    let b = if cx.int("transB", 0) != 0 { (q - 1, q - 2) } else { (q - 2, q - 1) };
    Ok((a, b))
}

impl OpRule for FusedMatMul {
    fn weight_slots(&self) -> &'static [usize] {
        linear::MatMul.weight_slots()
    }

    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let ((m, ka), (kb, n)) = matmul_axes(cx)?;
        let (a, b) = (cx.shape(0)?, cx.shape(1)?);
        if a[ka] != b[kb] {
            refuse!("operands {a:?} and {b:?} do not fit");
        }
        let mut out = broadcast(&[&a[..a.len() - 2], &b[..b.len() - 2]])?;
        out.extend([a[m], b[n]]);
        Ok(vec![Some(out)])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        let (a, b) = matmul_axes(&r.cx)?;
        linear::relate_product(r, a, b)
    }
}

impl OpRule for BiasGelu {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        Ok(vec![Some(cx.shape(0)?.to_vec())])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        let rank = r.cx.rank(0)?;
        for a in 0..rank {
            r.tie(In(0, a), Out(0, a))?;
        }
        if r.cx.has(1) {
            let last = rank.checked_sub(1).ok_or("a bias for a scalar")?;
            if r.cx.rank(1)? != 1 {
                refuse!("a bias of shape {:?}", r.cx.shape(1)?);
            }
            r.tie(In(1, 0), Out(0, last))?;
            r.site(Role::Bias, 1, 0);
        }
        Ok(())
    }
}

impl OpRule for BiasSoftmax {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        Ok(vec![Some(cx.shape(0)?.to_vec())])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        let (x, mask) = (r.cx.shape(0)?, r.cx.shape(1)?);
        let axis = r.cx.axis(1, x.len())?;
        if mask.len() != x.len() || mask.iter().zip(x).any(|(&m, &d)| m != d && m != 1) {
            refuse!("a mask of shape {mask:?} for {x:?}");
        }
        for (a, &m) in mask.iter().enumerate() {
            if a >= axis {
                [In(0, a), In(1, a), Out(0, a)].into_iter().for_each(|loc| r.pin(loc, STATISTIC));
                continue;
            }
            r.tie(In(0, a), Out(0, a))?;
            if m == x[a] {
                r.tie(In(1, a), Out(0, a))?;
            }
        }
        Ok(())
    }
}

impl OpRule for SkipLayerNorm {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let x = cx.shape(0)?;
        let mut statistic = x.to_vec();
        *statistic.last_mut().ok_or("a scalar")? = 1;
        let (x, statistic) = (Some(x.to_vec()), Some(statistic));
        let mut out = vec![x.clone(), statistic.clone(), statistic, x];
        out.truncate(cx.n_outputs().max(1));
        Ok(out)
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        let x = r.cx.shape(0)?;
        let last = x.len().checked_sub(1).ok_or("a scalar")?;
        let skip = r.cx.shape(1)?;
        let outputs: Vec<usize> = (0..r.cx.n_outputs()).filter(|&o| r.cx.graph.output(r.cx.id, o).is_some()).collect();
        for &o in &outputs {
            for a in 0..last {
                r.tie(In(0, a), Out(o, a))?;
            }
            r.pin(Out(o, last), STATISTIC);
        }
        if skip.len() > x.len() {
            refuse!("a summand of shape {skip:?} for {x:?}");
        }
        for (a, &d) in skip.iter().enumerate() {
            let to = x.len() - skip.len() + a;
            if to < last && d == x[to] {
                r.tie(In(1, a), In(0, to))?;
            }
        }
        r.pin(In(0, last), STATISTIC);
        for s in (1..r.cx.n_inputs()).filter(|&s| r.cx.has(s)).collect::<Vec<_>>() {
            let last = r.cx.rank(s)?.checked_sub(1).ok_or("a scalar parameter")?;
            r.pin(In(s, last), STATISTIC);
        }
        Ok(())
    }
}

impl OpRule for EmbedLayerNorm {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let (ids, words) = (cx.shape(0)?, cx.shape(2)?);
        let (&[batch, length], &[_, hidden]) = (ids, words) else {
            refuse!("ids of shape {ids:?} and embeddings of shape {words:?}");
        };
        let sum = Some(vec![batch, length, hidden]);
        let mut out = vec![sum.clone(), Some(vec![batch]), sum];
        out.truncate(cx.n_outputs().max(1));
        Ok(out)
    }

    fn relate(&self, _r: &mut Relate) -> Answer<()> {
        refuse!("{STATISTIC}")
    }
}

impl OpRule for BlockedMatMul {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let mut out = cx.shape(0)?.to_vec();
        let n = usize::try_from(cx.int("N", 0)).ok().filter(|&n| n > 0);
        *out.last_mut().ok_or("a scalar")? = n.ok_or("its number of columns is not given")?;
        Ok(vec![Some(out)])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        let last = r.cx.rank(0)?.checked_sub(1).ok_or("a scalar")?;
        for a in 0..last {
            r.tie(In(0, a), Out(0, a))?;
        }
        let reason = "its weights are packed: several share a byte and a block shares a scale";
        r.pin(In(0, last), reason);
        r.pin(Out(0, last), reason);
        for s in 1..r.cx.n_inputs() {
            for a in 0..if r.cx.has(s) { r.cx.rank(s)? } else { 0 } {
                r.pin(In(s, a), reason);
            }
        }
        Ok(())
    }
}

impl OpRule for BlockedLayout {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        // The file's own word counts.
        Ok(vec![None; cx.n_outputs()])
    }

    fn relate(&self, _r: &mut Relate) -> Answer<()> {
        refuse!(
            "its channels are laid out in blocks for one processor; prune the model before hardware-specific optimisation \
             (save it at optimisation level EXTENDED or below)"
        )
    }
}
