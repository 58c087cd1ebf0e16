//! Attention of `com.microsoft`: heads do not see each other until a later layer contracts them, so that a head may leave
//! whole.

use super::cx::{Answer, NodeCx};
use super::patch::Patch;
use super::relate::{In, Loc, Out, Relate};
use super::{OpRule, Shapes};
use crate::channels::model::Role;
use crate::refuse;

pub(super) const ATTENTION: &[&str] = &["com.microsoft:Attention"];
pub(super) const MULTI_HEAD: &[&str] = &["com.microsoft:MultiHeadAttention"];

const POSITIONS: &str = "attention mixes the positions along this axis";

/// `X[B,S,D] · W[D, Q+K+V] + bias`, attended.
pub struct Attention;
/// Attention over given queries, keys and values.
pub struct MultiHead;

/// Number of heads and the widths of all queries, keys and values together.
struct Heads {
    n: usize,
    widths: [usize; 3],
}

impl Heads {
    fn new(cx: &NodeCx, widths: [usize; 3]) -> Answer<Self> {
        let n = usize::try_from(cx.int("num_heads", 0)).unwrap_or(0);
        if n == 0 || widths.iter().any(|w| w % n != 0) || widths[0] != widths[1] {
            refuse!("{} heads for widths {widths:?}", cx.int("num_heads", 0));
        }
        Ok(Heads { n, widths })
    }

    /// The widths in `W[D, Q+K+V]`.
    fn packed(cx: &NodeCx) -> Answer<Self> {
        let &[_, all] = cx.shape(1)? else { refuse!("a weight of shape {:?}", cx.shape(1)?) };
        let given = cx.list("qkv_hidden_sizes").filter(|l| !l.is_empty());
        let widths = match given {
            None if all % 3 == 0 => [all / 3; 3],
            None => refuse!("{all} columns do not divide into queries, keys and values"),
            Some(l) => {
                let l: Vec<usize> = l.iter().map(|&w| usize::try_from(w).unwrap_or(usize::MAX)).collect();
                let &[q, k, v] = l.as_slice() else { refuse!("qkv_hidden_sizes with {} entries", l.len()) };
                if q.checked_add(k).and_then(|s| s.checked_add(v)) != Some(all) {
                    refuse!("qkv_hidden_sizes {l:?} for {all} columns");
                }
                [q, k, v]
            }
        };
        Self::new(cx, widths)
    }

    /// Ties the columns of each head, of width `self.widths[part]` from `from` on, to the head's first index on `to`.
    fn tie(&self, r: &mut Relate, loc: Loc, from: usize, part: usize, to: (Loc, usize)) -> Answer<()> {
        let (width, first) = (self.widths[part] / self.n, self.widths[to.1] / self.n);
        r.tie_map(loc, to.0, (0..self.widths[part]).map(|i| (from + i, i / width.max(1) * first)))
    }

    /// A mask that differs from head to head.
    fn tie_mask(&self, r: &mut Relate, slot: usize, to: (Loc, usize)) -> Answer<()> {
        if r.cx.has(slot) && r.cx.shape(slot)?.get(1) == Some(&self.n) && r.cx.rank(slot)? == 4 {
            let width = self.widths[to.1] / self.n;
            r.tie_map(In(slot, 1), to.0, (0..self.n).map(|h| (h, h * width)))?;
        }
        Ok(())
    }

    /// Products of queries with keys, and of the result with values.
    fn macs(&self, r: &mut Relate, keys: Loc, out: usize) -> Answer<()> {
        let factor = 1.0 + self.widths[0] as f64 / self.widths[2].max(1) as f64;
        let keys = r.size(keys)? as f64;
        r.macs(keys * factor, &[Out(0, 0), Out(0, 1), Out(0, out)])
    }
}

/// Earlier keys and values, or those given out for later: their layout is not followed.
fn no_past(cx: &NodeCx, inputs: std::ops::Range<usize>) -> Answer<()> {
    let later = (1..cx.n_outputs()).any(|o| cx.graph.output(cx.id, o).is_some());
    if later || inputs.into_iter().any(|s| cx.has(s)) {
        refuse!("attention with a cache of keys and values");
    }
    Ok(())
}

impl OpRule for Attention {
    fn weight_slots(&self) -> &'static [usize] {
        &[1]
    }

    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let x = cx.shape(0)?;
        let heads = Heads::packed(cx)?;
        let &[b, s, d] = x else { refuse!("an input of shape {x:?}") };
        if cx.shape(1)?[0] != d {
            refuse!("weight {:?} does not fit input {x:?}", cx.shape(1)?);
        }
        let mut out = vec![Some(vec![b, s, heads.widths[2]])];
        out.resize(cx.n_outputs().max(1), None);
        Ok(out)
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        no_past(&r.cx, 4..5)?;
        let heads = Heads::packed(&r.cx)?;
        for a in 0..2 {
            r.pin(In(0, a), POSITIONS);
            r.pin(Out(0, a), POSITIONS);
        }
        r.tie(In(0, 2), In(1, 0))?;
        if !r.is_weight(1) {
            r.pin(In(1, 0), "the weight is computed from the input");
        }
        r.contract(1, 0);
        r.site(Role::Producer, 1, 1);
        let to = (Out(0, 2), 2);
        let mut from = 0;
        for part in 0..3 {
            heads.tie(r, In(1, 1), from, part, to)?;
            if r.cx.has(2) {
                heads.tie(r, In(2, 0), from, part, to)?;
            }
            from += heads.widths[part];
        }
        heads.tie(r, Out(0, 2), 0, 2, to)?;
        if r.cx.has(2) {
            r.site(Role::Bias, 2, 0);
        }
        heads.tie_mask(r, 5, to)?;
        r.macs(1.0, &[Out(0, 0), Out(0, 1), In(0, 2), In(1, 1)])?;
        heads.macs(r, In(0, 1), 2)
    }

    fn patch(&self, p: &mut Patch) -> Answer<()> {
        let heads = Heads::packed(&p.cx)?;
        let width = heads.widths[2] / heads.n;
        let gone = p.removed(Out(0, 2)).len() / width.max(1);
        p.set_int("num_heads", (heads.n - gone) as i64);
        if p.cx.list("qkv_hidden_sizes").is_some_and(|l| !l.is_empty()) {
            let sizes = heads.widths.iter().map(|w| (w - gone * (w / heads.n)) as i64).collect();
            p.set_list("qkv_hidden_sizes", sizes);
        }
        Ok(())
    }
}

impl MultiHead {
    fn heads(cx: &NodeCx) -> Answer<Heads> {
        let shapes = [cx.shape(0)?, cx.shape(1)?, cx.shape(2)?];
        let [&[b, _, q], &[bk, s, k], &[bv, sv, v]] = shapes else {
            refuse!("queries, keys and values of shapes {shapes:?}");
        };
        if (b, b) != (bk, bv) || s != sv {
            refuse!("queries, keys and values of shapes {shapes:?}");
        }
        Heads::new(cx, [q, k, v])
    }
}

impl OpRule for MultiHead {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let heads = Self::heads(cx)?;
        let q = cx.shape(0)?;
        let mut out = vec![Some(vec![q[0], q[1], heads.widths[2]])];
        out.resize(cx.n_outputs().max(1), None);
        Ok(out)
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        no_past(&r.cx, 6..10)?;
        let heads = Self::heads(&r.cx)?;
        let to = (Out(0, 2), 2);
        let mut from = 0;
        for part in 0..3 {
            for a in 0..2 {
                r.pin(In(part, a), POSITIONS);
            }
            heads.tie(r, In(part, 2), 0, part, to)?;
            if r.cx.has(3) {
                heads.tie(r, In(3, 0), from, part, to)?;
            }
            from += heads.widths[part];
        }
        heads.tie(r, Out(0, 2), 0, 2, to)?;
        for a in 0..2 {
            r.pin(Out(0, a), POSITIONS);
        }
        if r.cx.has(3) {
            if r.cx.shape(3)? != [from] {
                refuse!("a bias of shape {:?} for {from} columns", r.cx.shape(3)?);
            }
            r.site(Role::Bias, 3, 0);
        }
        heads.tie_mask(r, 5, to)?;
        heads.macs(r, In(1, 1), 2)
    }

    fn patch(&self, p: &mut Patch) -> Answer<()> {
        let heads = Self::heads(&p.cx)?;
        let gone = p.removed(Out(0, 2)).len() / (heads.widths[2] / heads.n).max(1);
        p.set_int("num_heads", (heads.n - gone) as i64);
        Ok(())
    }
}
