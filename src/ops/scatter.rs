//! Reading and writing at computed positions: the axes that the positions do not run over carry channels.

use super::cx::{Answer, NodeCx};
use super::relate::{In, Loc, Out, Relate};
use super::{OpRule, Shapes};
use crate::refuse;

pub(super) const GATHER_ELEMENTS: &[&str] = &["GatherElements"];
pub(super) const GATHER_ND: &[&str] = &["GatherND"];
pub(super) const SCATTER_ELEMENTS: &[&str] = &["ScatterElements", "Scatter"];
pub(super) const SCATTER_ND: &[&str] = &["ScatterND"];
pub(super) const TENSOR_SCATTER: &[&str] = &["TensorScatter"];

/// One position along an axis per element of the output.
pub struct GatherElements;
/// Slices at index tuples.
pub struct GatherNd;
/// One position along an axis per written element. `Scatter` is its older name.
pub struct ScatterElements;
/// Writes slices at index tuples.
pub struct ScatterNd;
/// Writes into a cache from a position on, one per sample.
pub struct TensorScatter;

const READ: &str = "it is read at positions that are computed elsewhere";
const WRITTEN: &str = "it is written at positions that are computed elsewhere";

/// Ties these axes with each other when all have one size, else pins them.
fn tie_or_pin(r: &mut Relate, locs: &[Loc], reason: &str) -> Answer<()> {
    let Some((&first, rest)) = locs.split_first() else { return Ok(()) };
    let n = r.size(first)?;
    let mut equal = true;
    for &loc in rest {
        equal &= r.size(loc)? == n && r.fixed(loc) == r.fixed(first);
    }
    for &loc in locs {
        if !equal {
            r.pin(loc, reason);
        } else if loc != first {
            r.tie(loc, first)?;
        }
    }
    Ok(())
}

impl OpRule for GatherElements {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let (x, ids) = (cx.shape(0)?, cx.shape(1)?);
        if x.len() != ids.len() {
            refuse!("data {x:?} and indices {ids:?} differ in rank");
        }
        cx.axis(0, x.len())?;
        Ok(vec![Some(ids.to_vec())])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        let rank = r.cx.rank(0)?;
        let axis = r.cx.axis(0, rank)?;
        for a in 0..rank {
            if a == axis {
                r.pin(In(0, a), READ);
                r.tie(In(1, a), Out(0, a))?;
            } else {
                tie_or_pin(r, &[In(0, a), In(1, a), Out(0, a)], "only the first indices of this axis are read")?;
            }
        }
        Ok(())
    }
}

impl GatherNd {
    /// `(batch dimensions, length of an index tuple)`.
    fn spec(cx: &NodeCx) -> Answer<(usize, usize)> {
        let (x, ids) = (cx.shape(0)?, cx.shape(1)?);
        let b = usize::try_from(cx.int("batch_dims", 0)).map_err(|_| "batch_dims is negative")?;
        let Some(&m) = ids.last() else { refuse!("indices without an axis") };
        if b >= ids.len() || b > x.len() || m > x.len() - b || x[..b] != ids[..b] {
            refuse!("indices {ids:?} do not fit data {x:?} with {b} batch dimension(s)");
        }
        Ok((b, m))
    }
}

impl OpRule for GatherNd {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let (b, m) = Self::spec(cx)?;
        let (x, ids) = (cx.shape(0)?, cx.shape(1)?);
        let mut out = ids[..ids.len() - 1].to_vec();
        out.extend(&x[b + m..]);
        Ok(vec![Some(out)])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        let (b, m) = Self::spec(&r.cx)?;
        let (n, q) = (r.cx.rank(0)?, r.cx.rank(1)?);
        for a in 0..n {
            if a < b {
                r.tie(In(0, a), Out(0, a))?;
            } else if a < b + m {
                r.pin(In(0, a), READ);
            } else {
                r.tie(In(0, a), Out(0, q - 1 + a - b - m))?;
            }
        }
        for a in 0..q - 1 {
            r.tie(In(1, a), Out(0, a))?;
        }
        r.pin(In(1, q - 1), "an index tuple");
        Ok(())
    }
}

impl OpRule for ScatterElements {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let (x, ids, new) = (cx.shape(0)?, cx.shape(1)?, cx.shape(2)?);
        if x.len() != ids.len() || ids != new {
            refuse!("data {x:?}, indices {ids:?} and updates {new:?} do not fit");
        }
        cx.axis(0, x.len())?;
        Ok(vec![Some(x.to_vec())])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        let rank = r.cx.rank(0)?;
        let axis = r.cx.axis(0, rank)?;
        for a in 0..rank {
            let all = [In(0, a), In(1, a), In(2, a), Out(0, a)];
            if a == axis {
                all.iter().for_each(|&l| r.pin(l, WRITTEN));
            } else {
                tie_or_pin(r, &all, "only the first indices of this axis are written")?;
            }
        }
        Ok(())
    }
}

impl ScatterNd {
    /// Length of an index tuple.
    fn tuple(cx: &NodeCx) -> Answer<usize> {
        let (x, ids, new) = (cx.shape(0)?, cx.shape(1)?, cx.shape(2)?);
        let Some((&m, places)) = ids.split_last() else { refuse!("indices without an axis") };
        if m > x.len() || new.len() != places.len() + x.len() - m || *new != [places, &x[m..]].concat() {
            refuse!("data {x:?}, indices {ids:?} and updates {new:?} do not fit");
        }
        Ok(m)
    }
}

impl OpRule for ScatterNd {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        Self::tuple(cx)?;
        Ok(vec![Some(cx.shape(0)?.to_vec())])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        let m = Self::tuple(&r.cx)?;
        let (n, q) = (r.cx.rank(0)?, r.cx.rank(1)?);
        for a in 0..n {
            if a < m {
                r.pin(In(0, a), WRITTEN);
                r.pin(Out(0, a), WRITTEN);
            } else {
                r.tie(In(0, a), Out(0, a))?;
                r.tie(In(2, q - 1 + a - m), Out(0, a))?;
            }
        }
        // An update that left would leave the old value behind.
        for a in 0..q {
            r.pin(In(1, a), WRITTEN);
        }
        for a in 0..q - 1 {
            r.pin(In(2, a), WRITTEN);
        }
        Ok(())
    }
}

impl TensorScatter {
    fn axis(cx: &NodeCx) -> Answer<usize> {
        let (x, new) = (cx.shape(0)?, cx.shape(1)?);
        let axis = cx.axis(-2, x.len())?;
        let fits = |(a, (d, n)): (usize, (&usize, &usize))| a == axis || d == n;
        if axis == 0 || x.len() != new.len() || !x.iter().zip(new).enumerate().all(fits) {
            refuse!("an update {new:?} of a cache {x:?} along axis {axis}");
        }
        Ok(axis)
    }
}

impl OpRule for TensorScatter {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        Self::axis(cx)?;
        Ok(vec![Some(cx.shape(0)?.to_vec())])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        let axis = Self::axis(&r.cx)?;
        for a in 0..r.cx.rank(0)? {
            for loc in [In(0, a), In(1, a)] {
                if a == axis {
                    r.pin(loc, WRITTEN);
                    r.pin(Out(0, a), WRITTEN);
                } else {
                    r.tie(loc, Out(0, a))?;
                }
            }
        }
        if r.cx.has(2) {
            r.tie(In(2, 0), Out(0, 0))?;
        }
        Ok(())
    }
}
