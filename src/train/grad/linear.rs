//! Products of matrices.

use super::{Back, Gradient, Kind};
use crate::ops::{Answer, NodeCx};

/// `Gemm`: `α · A · B + β · C`, either matrix transposed or not.
pub struct Gemm;

impl Gradient for Gemm {
    fn parameters(&self, _cx: &NodeCx) -> Vec<(usize, Kind)> {
        vec![(1, Kind::Weight), (2, Kind::Bias)]
    }

    fn backward(&self, b: &mut Back) -> Answer<()> {
        let (dy, first, second) = (b.dy()?, b.x(0)?, b.x(1)?);
        let (ta, tb) = (b.cx.int("transA", 0) != 0, b.cx.int("transB", 0) != 0);
        let alpha = b.cx.float("alpha", 1.0);
        if b.wants(0) {
            let da = if ta { b.t.gemm(second, tb, dy, true) } else { b.t.gemm(dy, false, second, !tb) };
            let da = b.t.scale(da?, alpha)?;
            b.give(0, da)?;
        }
        if b.wants(1) {
            let db = if tb { b.t.gemm(dy, true, first, ta) } else { b.t.gemm(first, !ta, dy, false) };
            let db = b.t.scale(db?, alpha)?;
            b.give(1, db)?;
        }
        if b.wants(2) {
            let dims = b.cx.shape(2)?.to_vec();
            let dc = b.t.sum_to(dy, &dims)?;
            let dc = b.t.scale(dc, b.cx.float("beta", 1.0))?;
            b.give(2, dc)?;
        }
        Ok(())
    }
}

/// `MatMul`, with stacks that broadcast.
pub struct MatMul;

impl Gradient for MatMul {
    fn parameters(&self, cx: &NodeCx) -> Vec<(usize, Kind)> {
        [1, 0].into_iter().filter(|&s| cx.rank(s).is_ok_and(|r| r >= 2)).map(|s| (s, Kind::Weight)).collect()
    }

    fn backward(&self, b: &mut Back) -> Answer<()> {
        let (dy, first, second) = (b.dy()?, b.x(0)?, b.x(1)?);
        let (fd, sd) = (b.t.dims(first).to_vec(), b.t.dims(second).to_vec());
        if let (&[k, n], true) = (sd.as_slice(), fd.len() >= 2) {
            // A layer: all rows are one matrix.
            let rows = b.t.numel(first) / k.max(1);
            let dy = b.t.reshape(dy, &[rows, n])?;
            if b.wants(0) {
                let da = b.t.gemm(dy, false, second, true)?;
                let da = b.t.reshape(da, &fd)?;
                b.give(0, da)?;
            }
            if b.wants(1) {
                let rows = b.t.reshape(first, &[rows, k])?;
                let db = b.t.gemm(rows, true, dy, false)?;
                b.give(1, db)?;
            }
            return Ok(());
        }
        if b.wants(0) {
            let turned = b.t.swap_last(second)?;
            let da = b.t.matmul(dy, turned)?;
            b.give(0, da)?;
        }
        if b.wants(1) {
            let turned = b.t.swap_last(first)?;
            let db = b.t.matmul(turned, dy)?;
            b.give(1, db)?;
        }
        Ok(())
    }
}
