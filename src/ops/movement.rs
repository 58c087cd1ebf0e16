//! Operators that move axes or repeat them.

use super::cx::{Answer, NodeCx, norm_axes, product};
use super::patch::Patch;
use super::relate::{In, Loc, Out, Relate};
use super::{OpRule, Shapes};
use crate::refuse;

pub(super) const TRANSPOSE: &[&str] = &["Transpose"];
pub(super) const SQUEEZE: &[&str] = &["Squeeze"];
pub(super) const UNSQUEEZE: &[&str] = &["Unsqueeze"];
pub(super) const EXPAND: &[&str] = &["Expand"];
pub(super) const TILE: &[&str] = &["Tile"];
pub(super) const DEPTH_TO_SPACE: &[&str] = &["DepthToSpace"];
pub(super) const SPACE_TO_DEPTH: &[&str] = &["SpaceToDepth"];

/// Permutes axes.
pub struct Transpose;
/// Drops axes of size 1.
pub struct Squeeze;
/// Inserts axes of size 1.
pub struct Unsqueeze;
/// Broadcasts to a shape.
pub struct Expand;
/// Repeats along axes.
pub struct Tile;
/// Channels to positions.
pub struct DepthToSpace;
/// Positions to channels.
pub struct SpaceToDepth;

/// The permutation of a Transpose node.
pub fn permutation(cx: &NodeCx) -> Answer<Vec<usize>> {
    let rank = cx.rank(0)?;
    match cx.list("perm") {
        Some(p) => {
            let p = norm_axes(&p, rank)?;
            if p.len() != rank {
                refuse!("perm {p:?} for rank {rank}");
            }
            Ok(p)
        }
        None => Ok((0..rank).rev().collect()),
    }
}

impl OpRule for Transpose {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let x = cx.shape(0)?;
        Ok(vec![Some(permutation(cx)?.iter().map(|&p| x[p]).collect())])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        for (o, i) in permutation(&r.cx)?.into_iter().enumerate() {
            r.tie(In(0, i), Out(0, o))?;
        }
        Ok(())
    }
}

impl Squeeze {
    fn axes(cx: &NodeCx) -> Answer<Vec<usize>> {
        let x = cx.shape(0)?;
        match cx.list_or_input("axes", 1)? {
            // To some runtimes these are none, to others all.
            Some(a) if a.is_empty() => refuse!("its list of axes is empty"),
            Some(a) => norm_axes(&a, x.len()),
            None => Ok((0..x.len()).filter(|&a| x[a] == 1).collect()),
        }
    }
}

impl OpRule for Squeeze {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let x = cx.shape(0)?;
        let axes = Self::axes(cx)?;
        if axes.iter().any(|&a| x[a] != 1) {
            refuse!("squeezes an axis of {x:?} that is not 1");
        }
        Ok(vec![Some((0..x.len()).filter(|a| !axes.contains(a)).map(|a| x[a]).collect())])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        let axes = Self::axes(&r.cx)?;
        if axes != Self::axes(&r.other)? {
            refuse!("which axes it drops depends on a dynamic size");
        }
        if axes.is_empty() {
            // No list of axes says so.
            refuse!("it drops nothing, but would drop an axis that is left with one index");
        }
        for (o, i) in (0..r.cx.rank(0)?).filter(|a| !axes.contains(a)).enumerate() {
            r.tie(In(0, i), Out(0, o))?;
        }
        Ok(())
    }

    fn patch(&self, p: &mut Patch) -> Answer<()> {
        // Without a list of axes, an axis that is left with one index would go too.
        if p.cx.list_or_input("axes", 1)?.is_none() {
            let axes = Self::axes(&p.cx)?.into_iter().map(|a| a as i64);
            if p.cx.opset < 13 {
                p.set_list("axes", axes.collect());
            } else {
                p.require(1, axes.map(Some).collect());
            }
        }
        Ok(())
    }
}

impl Unsqueeze {
    fn axes(cx: &NodeCx) -> Answer<Vec<usize>> {
        let axes = cx.list_or_input("axes", 1)?.ok_or("its axes are missing")?;
        norm_axes(&axes, cx.rank(0)? + axes.len())
    }
}

impl OpRule for Unsqueeze {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let x = cx.shape(0)?;
        let axes = Self::axes(cx)?;
        let mut rest = x.iter();
        let out =
            (0..x.len() + axes.len()).map(|a| if axes.contains(&a) { 1 } else { rest.next().copied().unwrap_or(1) });
        Ok(vec![Some(out.collect())])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        let axes = Self::axes(&r.cx)?;
        let rank = r.cx.rank(0)?;
        for (i, o) in (0..rank + axes.len()).filter(|a| !axes.contains(a)).enumerate() {
            r.tie(In(0, i), Out(0, o))?;
        }
        Ok(())
    }
}

fn sizes(cx: &NodeCx, slot: usize, what: &str) -> Answer<Vec<usize>> {
    cx.need_ints(slot, what)?
        .iter()
        .map(|&d| usize::try_from(d).map_err(|_| format!("{what} contain {d}").into()))
        .collect()
}

impl OpRule for Expand {
    fn size_slots(&self) -> &'static [usize] {
        &[1]
    }

    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let to = sizes(cx, 1, "target sizes")?;
        Ok(vec![Some(super::cx::broadcast(&[cx.shape(0)?, &to])?)])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        let (x, out) = (r.cx.shape(0)?, r.cx.out_shape(0)?);
        for o in 0..out.len() {
            r.free(Out(0, o));
            if let Some(a) = (o + x.len()).checked_sub(out.len())
                && x[a] == out[o]
            {
                r.tie(In(0, a), Out(0, o))?;
            }
        }
        Ok(())
    }

    fn patch(&self, p: &mut Patch) -> Answer<()> {
        let (out, to) = (p.cx.out_shape(0)?, sizes(&p.cx, 1, "target sizes")?);
        let mut new = vec![None; to.len()];
        for (i, n) in new.iter_mut().enumerate() {
            let o = out.len() - to.len() + i;
            let gone = p.removed(Out(0, o)).len();
            // A target of 1 takes the input's size.
            if gone > 0 && to[i] != 1 {
                *n = Some((out[o] - gone) as i64);
            }
        }
        if new.iter().any(Option::is_some) {
            p.require(1, new);
        }
        Ok(())
    }
}

impl OpRule for Tile {
    fn size_slots(&self) -> &'static [usize] {
        &[1]
    }

    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let (x, t) = (cx.shape(0)?, sizes(cx, 1, "repeats")?);
        if t.len() != x.len() {
            refuse!("{} repeats for rank {}", t.len(), x.len());
        }
        let out: Option<Vec<usize>> = x.iter().zip(&t).map(|(a, b)| a.checked_mul(*b)).collect();
        Ok(vec![Some(out.ok_or("sizes overflow")?)])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        let (x, out) = (r.cx.shape(0)?, r.cx.out_shape(0)?);
        for a in 0..x.len() {
            if x[a] == 1 && out[a] != 1 {
                r.free(Out(0, a));
            } else if out[a] != x[a] && !(r.fixed(In(0, a)) && r.fixed(Out(0, a))) {
                r.pin(In(0, a), "it is repeated a dynamic number of times");
                r.pin(Out(0, a), "it is repeated a dynamic number of times");
            } else {
                let n = x[a].max(1);
                r.tie_map(In(0, a), Out(0, a), (0..out[a]).map(|k| (k % n, k)))?;
            }
        }
        Ok(())
    }

    fn patch(&self, p: &mut Patch) -> Answer<()> {
        let (x, out) = (p.cx.shape(0)?, p.cx.out_shape(0)?);
        let mut new = vec![None; x.len()];
        for a in 0..x.len() {
            let gone = p.removed(Out(0, a)).len();
            if x[a] == 1 && gone > 0 {
                new[a] = Some((out[a] - gone) as i64);
            }
        }
        if new.iter().any(Option::is_some) {
            p.require(1, new);
        }
        Ok(())
    }
}

fn block(cx: &NodeCx) -> Answer<usize> {
    match usize::try_from(cx.int("blocksize", 0)) {
        Ok(b) if b > 0 && b < 1 << 16 => Ok(b),
        _ => refuse!("blocksize {}", cx.int("blocksize", 0)),
    }
}

/// `channel(b, c)`: index on the deep side of output channel `c` at block position `b`.
fn tie_blocks(r: &mut Relate, deep: Loc, flat: Loc, b: usize, crd: bool) -> Answer<()> {
    let c = r.size(flat)?;
    let pairs = (0..b * b).flat_map(|p| (0..c).map(move |k| (if crd { k * b * b + p } else { p * c + k }, k)));
    if c == 1 {
        // One flat channel: every deep channel belongs to it.
        r.pin(deep, "all of these channels make one output channel");
        r.free(flat);
        return Ok(());
    }
    r.tie_map(deep, flat, pairs)
}

fn pin_positions(r: &mut Relate) -> Answer<()> {
    for a in [2, 3] {
        r.pin(In(0, a), "positions and channels are exchanged");
        r.pin(Out(0, a), "positions and channels are exchanged");
    }
    r.tie(In(0, 0), Out(0, 0))
}

impl OpRule for DepthToSpace {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let (x, b) = (cx.shape(0)?, block(cx)?);
        if x.len() != 4 || x[1] % (b * b) != 0 {
            refuse!("input {x:?} does not divide into blocks of {b}");
        }
        product(&[x[2], b])?;
        product(&[x[3], b])?;
        Ok(vec![Some(vec![x[0], x[1] / (b * b), x[2] * b, x[3] * b])])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        let b = block(&r.cx)?;
        pin_positions(r)?;
        let crd = r.cx.string("mode") == Some("CRD");
        tie_blocks(r, In(0, 1), Out(0, 1), b, crd)
    }
}

impl OpRule for SpaceToDepth {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let (x, b) = (cx.shape(0)?, block(cx)?);
        if x.len() != 4 || x[2] % b != 0 || x[3] % b != 0 {
            refuse!("input {x:?} does not divide into blocks of {b}");
        }
        product(&[x[1], b, b])?;
        Ok(vec![Some(vec![x[0], x[1] * b * b, x[2] / b, x[3] / b])])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        let b = block(&r.cx)?;
        pin_positions(r)?;
        tie_blocks(r, Out(0, 1), In(0, 1), b, false)
    }
}
