//! Attention in one node: `Attention` and `RotaryEmbedding`.
//!
//! Heads are independent of each other, and so are the channels of a head's values; those of queries and keys are
//! summed over in the scores and stay whole. In the form of rank 3, `[N,S,heads·size]`, either whole heads leave or the
//! same channels of every head's values: the trace chooses.

use super::cx::{Answer, NodeCx};
use super::patch::Patch;
use super::relate::{In, Loc, Out, Relate};
use super::{OpRule, Shapes};
use crate::refuse;

pub(super) const ATTENTION: &[&str] = &["Attention"];
pub(super) const ROTARY: &[&str] = &["RotaryEmbedding"];

/// Scaled dot-product attention.
pub struct Attention;
/// Rotary position embedding.
pub struct RotaryEmbedding;

const Q: usize = 0;
const K: usize = 1;
const V: usize = 2;
const MASK: usize = 3;
const PAST_K: usize = 4;
const PAST_V: usize = 5;
const LENGTHS: usize = 6;
const SUMMED: &str = "queries and keys are multiplied and summed over this axis";
const POSITIONS: &str = "attention runs over these positions";

/// The sizes of an attention.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Sizes {
    batch: usize,
    /// Heads of the queries, and of keys and values.
    heads: (usize, usize),
    /// Positions: queries, keys so far and now.
    queries: usize,
    past: usize,
    keys: usize,
    /// Channels per head: of queries and keys, of values.
    size: usize,
    value: usize,
    /// Rank of queries, keys and values.
    rank: usize,
}

/// `(batch, heads, positions, channels per head)` of one operand.
fn operand(cx: &NodeCx, slot: usize, heads: &str) -> Answer<[usize; 4]> {
    match *cx.shape(slot)? {
        [n, h, s, d] => Ok([n, h, s, d]),
        [n, s, all] => match usize::try_from(cx.int(heads, 0)) {
            Ok(h) if h > 0 && all % h == 0 => Ok([n, h, s, all / h]),
            _ => refuse!("{heads} of {} does not divide {all} channels", cx.int(heads, 0)),
        },
        ref other => refuse!("an operand of shape {other:?}"),
    }
}

impl Sizes {
    fn read(cx: &NodeCx) -> Answer<Self> {
        let q = operand(cx, Q, "q_num_heads")?;
        let (k, v) = (operand(cx, K, "kv_num_heads")?, operand(cx, V, "kv_num_heads")?);
        let rank = cx.rank(Q)?;
        let fit = q[0] == k[0] && k[..3] == v[..3] && q[3] == k[3] && k[1] > 0 && q[1] % k[1] == 0;
        if !fit || cx.rank(K)? != rank || cx.rank(V)? != rank {
            refuse!("queries {:?}, keys {:?} and values {:?} do not fit", cx.shape(Q)?, cx.shape(K)?, cx.shape(V)?);
        }
        let mut past = 0;
        if cx.has(PAST_K) {
            let (pk, pv) = (cx.shape(PAST_K)?, cx.shape(PAST_V)?);
            past = pk.get(2).copied().unwrap_or(0);
            if *pk != [q[0], k[1], past, k[3]] || *pv != [q[0], k[1], past, v[3]] {
                refuse!("past keys {pk:?} and values {pv:?} do not fit");
            }
        }
        Ok(Sizes { batch: q[0], heads: (q[1], k[1]), queries: q[2], past, keys: k[2], size: q[3], value: v[3], rank })
    }

    fn total(&self) -> Answer<usize> {
        Ok(self.past.checked_add(self.keys).ok_or("too many positions")?)
    }

    /// Query heads that share one head of keys and values.
    fn share(&self) -> usize {
        self.heads.0 / self.heads.1.max(1)
    }
}

/// Ties the locations that have heads on an axis of their own with the query's heads: those of the keys and values
/// serve several query heads each.
fn tie_heads(r: &mut Relate, heads: Loc, of_queries: &[Loc], of_keys: &[Loc], s: &Sizes) -> Answer<()> {
    r.free(heads);
    for &loc in of_queries {
        r.tie(loc, heads)?;
    }
    for &loc in of_keys {
        if s.heads.1 == 1 {
            // One head that all queries share.
            r.free(loc);
        } else {
            r.tie_map(heads, loc, (0..s.heads.0).map(|h| (h, h / s.share().max(1))))?;
        }
    }
    Ok(())
}

impl Attention {
    /// Axes that are the same for every rank of the operands; `(of queries, of keys)`: where heads are an axis.
    fn relate_common(r: &mut Relate, s: &Sizes) -> Answer<(Vec<Loc>, Vec<Loc>)> {
        let given = |o: usize| r.cx.graph.output(r.cx.id, o).is_some();
        let (y, present_k, present_v, scores) = (given(0), given(1), given(2), given(3));
        let at = s.rank - 2;
        let (mut of_queries, mut of_keys) = (Vec::new(), Vec::new());
        for slot in [Q, K, V] {
            r.pin(In(slot, at), POSITIONS);
            r.tie(In(slot, 0), In(Q, 0))?;
        }
        if y {
            r.pin(Out(0, at), POSITIONS);
            r.tie(Out(0, 0), In(Q, 0))?;
        }
        let mut caches = Vec::new();
        if r.cx.has(PAST_K) {
            caches.extend([(In as fn(usize, usize) -> Loc, PAST_K, false), (In, PAST_V, true)]);
        }
        caches.extend(present_k.then_some((Out as fn(usize, usize) -> Loc, 1, false)));
        caches.extend(present_v.then_some((Out as fn(usize, usize) -> Loc, 2, true)));
        for (side, slot, value) in caches {
            r.tie(side(slot, 0), In(Q, 0))?;
            of_keys.push(side(slot, 1));
            r.pin(side(slot, 2), POSITIONS);
            if !value {
                r.pin(side(slot, 3), SUMMED);
            }
        }
        if scores {
            r.tie(Out(3, 0), In(Q, 0))?;
            of_queries.push(Out(3, 1));
            r.pin(Out(3, 2), POSITIONS);
            r.pin(Out(3, 3), POSITIONS);
        }
        if r.cx.has(MASK) {
            let mask = r.cx.shape(MASK)?;
            // Aligned like a broadcast; an axis of size 1 is read for every index.
            for (a, &d) in mask.iter().enumerate() {
                match (mask.len() - a, d) {
                    (_, 1) => r.free(In(MASK, a)),
                    (4, _) => r.tie(In(MASK, a), In(Q, 0))?,
                    (3, _) => of_queries.push(In(MASK, a)),
                    _ => r.pin(In(MASK, a), POSITIONS),
                }
            }
        }
        if r.cx.has(LENGTHS) {
            r.tie(In(LENGTHS, 0), In(Q, 0))?;
        }
        Ok((of_queries, of_keys))
    }

    /// Where the values' channels have an axis of their own.
    fn value_caches(r: &Relate) -> Vec<Loc> {
        let past = r.cx.has(PAST_V).then_some(In(PAST_V, 3));
        past.into_iter().chain(r.cx.graph.output(r.cx.id, 2).map(|_| Out(2, 3))).collect()
    }

    /// Operands `[N,heads,S,size]`.
    fn relate_separate(r: &mut Relate, s: &Sizes) -> Answer<()> {
        let (mut of_queries, mut of_keys) = Self::relate_common(r, s)?;
        of_keys.extend([In(K, 1), In(V, 1)]);
        r.pin(In(Q, 3), SUMMED);
        r.pin(In(K, 3), SUMMED);
        let mut values = Self::value_caches(r);
        if r.cx.graph.output(r.cx.id, 0).is_some() {
            of_queries.push(Out(0, 1));
            values.push(Out(0, 3));
        }
        r.free(In(V, 3));
        for loc in values {
            r.tie(loc, In(V, 3))?;
        }
        tie_heads(r, In(Q, 1), &of_queries, &of_keys, s)
    }

    /// Operands `[N,S,heads·size]`: whole heads leave, or the same channels of all heads' values.
    fn relate_merged(r: &mut Relate, s: &Sizes) -> Answer<()> {
        let output = r.cx.graph.output(r.cx.id, 0).is_some();
        let y: &[Loc] = if output { &[Out(0, 2)] } else { &[] };
        let by_head = [&[In(Q, 2), In(K, 2), In(V, 2)], y].concat();
        let by_channel = [&[In(V, 2)], y].concat();
        let Some(choice) = r.choose(vec![by_head, by_channel]) else { return Ok(()) };
        let (of_queries, of_keys) = Self::relate_common(r, s)?;
        let values = Self::value_caches(r);
        // The first channel of a query head stands for the head, or the first head's channels for those of all heads.
        if choice == 1 || s.heads.1 == 1 {
            let hub = In(V, 2);
            r.tie_map(hub, hub, (0..s.heads.1 * s.value).map(|k| (k, k % s.value.max(1))))?;
            if output {
                r.tie_map(hub, Out(0, 2), (0..s.heads.0 * s.value).map(|k| (k % s.value.max(1), k)))?;
            }
            for loc in values {
                r.tie_span(hub, 0, loc, 0, s.value)?;
            }
            let reason = "the same channels of every head leave, or whole heads";
            for loc in [&[In(Q, 2), In(K, 2)], of_queries.as_slice(), &of_keys].concat() {
                r.pin(loc, reason);
            }
            return Ok(());
        }
        let (hub, share) = (In(Q, 2), s.share().max(1));
        let (q, v) = (s.size.max(1), s.value.max(1));
        r.tie_map(hub, hub, (0..s.heads.0 * s.size).map(|k| (k, k / q * q)))?;
        r.tie_map(hub, In(K, 2), (0..s.heads.0 * s.size).map(|k| (k / q * q, k / q / share * q + k % q)))?;
        r.tie_map(hub, In(V, 2), (0..s.heads.0 * s.value).map(|k| (k / v * q, k / v / share * v + k % v)))?;
        if output {
            r.tie_map(hub, Out(0, 2), (0..s.heads.0 * s.value).map(|k| (k / v * q, k)))?;
        }
        for loc in of_queries {
            r.tie_map(hub, loc, (0..s.heads.0).map(|h| (h * q, h)))?;
        }
        for loc in of_keys {
            r.tie_map(hub, loc, (0..s.heads.0).map(|h| (h * q, h / share)))?;
        }
        for loc in values {
            r.pin(loc, "the same channels of every head leave, or whole heads");
        }
        Ok(())
    }
}

impl OpRule for Attention {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let s = Sizes::read(cx)?;
        let total = s.total()?;
        let y = if s.rank == 3 {
            vec![s.batch, s.queries, s.heads.0.checked_mul(s.value).ok_or("too many channels")?]
        } else {
            vec![s.batch, s.heads.0, s.queries, s.value]
        };
        let all = [
            y,
            vec![s.batch, s.heads.1, total, s.size],
            vec![s.batch, s.heads.1, total, s.value],
            vec![s.batch, s.heads.0, s.queries, total],
        ];
        Ok(all.into_iter().take(cx.n_outputs().max(1)).map(Some).collect())
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        let (s, other) = (Sizes::read(&r.cx)?, Sizes::read(&r.other)?);
        if (s.heads, s.size, s.value) != (other.heads, other.size, other.value) {
            refuse!("its heads depend on a dynamic size");
        }
        if s.rank == 3 {
            Self::relate_merged(r, &s)?;
        } else {
            Self::relate_separate(r, &s)?;
        }
        if s.rank == 3 && r.choice.is_none() {
            return Ok(());
        }
        // Scores and their product with the values.
        let positions = s.queries as f64 * s.total()? as f64 * if r.fixed(In(Q, 0)) { s.batch as f64 } else { 1.0 };
        if s.rank == 3 {
            r.macs(positions, &[In(Q, 2)])?;
            r.macs(positions * s.share() as f64, &[In(V, 2)])
        } else {
            r.macs(positions, &[In(Q, 1), In(Q, 3)])?;
            r.macs(positions, &[In(Q, 1), In(V, 3)])
        }
    }

    fn patch(&self, p: &mut Patch) -> Answer<()> {
        let s = Sizes::read(&p.cx)?;
        let axis = if s.rank == 3 { 2 } else { 1 };
        let per = if s.rank == 3 { s.size.max(1) } else { 1 };
        for (slot, name, heads) in [(Q, "q_num_heads", s.heads.0), (K, "kv_num_heads", s.heads.1)] {
            let gone = p.removed(In(slot, axis)).len() / per;
            if gone > 0 && p.cx.list(name).is_some() {
                p.set_int(name, (heads - gone) as i64);
            }
        }
        Ok(())
    }
}

impl RotaryEmbedding {
    /// Heads, and channels per head.
    fn heads(cx: &NodeCx) -> Answer<(usize, usize)> {
        let [_, heads, _, size] = operand(cx, 0, "num_heads")?;
        Ok((heads, size))
    }
}

impl OpRule for RotaryEmbedding {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        Self::heads(cx)?;
        Ok(vec![Some(cx.shape(0)?.to_vec())])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        const ROTATED: &str = "pairs of these channels are rotated";
        let (heads, size) = Self::heads(&r.cx)?;
        let rank = r.cx.rank(0)?;
        r.tie(In(0, 0), Out(0, 0))?;
        for loc in [In(0, rank - 2), Out(0, rank - 2)] {
            r.pin(loc, "positions select the rotation");
        }
        if rank == 4 {
            r.pin(In(0, 3), ROTATED);
            r.pin(Out(0, 3), ROTATED);
            return r.tie(In(0, 1), Out(0, 1));
        }
        if Self::heads(&r.other)? != (heads, size) {
            refuse!("its heads depend on a dynamic size");
        }
        // Whole heads leave.
        let first = |k: usize| k / size.max(1) * size.max(1);
        r.tie_map(In(0, 2), Out(0, 2), (0..heads * size).map(|k| (k, first(k))))?;
        r.tie_map(In(0, 2), Out(0, 2), (0..heads * size).map(|k| (first(k), k)))
    }

    fn patch(&self, p: &mut Patch) -> Answer<()> {
        let (heads, size) = Self::heads(&p.cx)?;
        let rank = p.cx.rank(0)?;
        let gone = p.removed(In(0, if rank == 3 { 2 } else { 1 })).len() / if rank == 3 { size.max(1) } else { 1 };
        if gone > 0 && p.cx.list("num_heads").is_some() {
            p.set_int("num_heads", (heads - gone) as i64);
        }
        Ok(())
    }
}
