//! Reshape and Flatten: segments of equal product.
//!
//! Within a segment, one axis may stay alive: merging `[A,B] → [A·B]` repeats its atoms, splitting does the same the
//! other way round. Which one is a choice that the trace makes when it knows what else is pinned. Where several axes
//! become several others, blocks of the leading ones may leave.

use super::cx::{Answer, NodeCx, product};
use super::patch::Patch;
use super::relate::{In, Loc, Out, Relate};
use super::{OpRule, Shapes};
use crate::refuse;
use std::ops::Range;

pub(super) const RESHAPE: &[&str] = &["Reshape"];
pub(super) const FLATTEN: &[&str] = &["Flatten"];

/// `Reshape` to a shape with `0` (copy) and `-1` (rest).
pub struct Reshape;
/// `Flatten` to two axes.
pub struct Flatten;

/// Input axes and output axes of equal product.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Segment {
    from: Range<usize>,
    to: Range<usize>,
}

/// Cuts two shapes into the finest segments of equal product that hold under every assignment (one per lane).
/// `None` when they do not line up in the same way.
fn segments(from: &[&[usize]], to: &[&[usize]]) -> Option<Vec<Segment>> {
    let (n, m) = (from[0].len(), to[0].len());
    let lanes = from.len();
    if from.iter().any(|s| s.len() != n) || to.iter().any(|s| s.len() != m) {
        return None;
    }
    let mut out = Vec::new();
    let (mut i, mut j) = (0, 0);
    while i < n || j < m {
        let (i0, j0) = (i, j);
        let mut p = vec![1u128; lanes];
        let mut q = vec![1u128; lanes];
        let take = |acc: &mut [u128], shapes: &[&[usize]], k: usize| -> Option<()> {
            for (a, s) in acc.iter_mut().zip(shapes) {
                *a = a.checked_mul(s[k] as u128)?;
            }
            Some(())
        };
        if i < n {
            take(&mut p, from, i)?;
            i += 1;
        }
        if j < m && (i > i0 || i == n) {
            // A lone 1 on one side closes its own segment.
            let ones_left = i > i0 && p.iter().all(|&x| x == 1);
            let one_right = to.iter().all(|s| s[j] == 1);
            if !ones_left || one_right {
                take(&mut q, to, j)?;
                j += 1;
            }
        }
        while p != q {
            let less = p.iter().zip(&q).all(|(a, b)| a <= b);
            let more = p.iter().zip(&q).all(|(a, b)| a >= b);
            if less && i < n {
                take(&mut p, from, i)?;
                i += 1;
            } else if more && j < m {
                take(&mut q, to, j)?;
                j += 1;
            } else {
                return None;
            }
        }
        out.push(Segment { from: i0..i, to: j0..j });
    }
    Some(out)
}

/// Relation between the many axes of one side and the single axis of the other.
fn tie_merged(r: &mut Relate, many: &[Loc], sizes: &[usize], one: Loc, live: Loc) -> Answer<()> {
    let Some(pos) = many.iter().position(|&l| l == live) else { refuse!("no live axis") };
    let inner: usize = sizes[pos + 1..].iter().product();
    let d = sizes[pos].max(1);
    let total = product(sizes)?;
    for &l in many.iter().filter(|&&l| l != live) {
        r.pin(l, "it is merged with another axis whose channels are kept apart");
    }
    r.tie_map(live, one, (0..total).map(|k| ((k / inner) % d, k)))
}

/// Relation where several axes become several others, as in `[C,H,W] → [G, C/G·H·W]`: the leading axes fall into the same
/// number of equal blocks, which leave whole.
fn tie_blocks(r: &mut Relate, from: &[usize], to: &[usize]) -> Answer<()> {
    const MIXED: &str = "a reshape mixes this axis with others";
    for (k, &a) in from.iter().enumerate() {
        if k > 0 {
            r.pin(In(0, a), MIXED);
        }
    }
    for (k, &a) in to.iter().enumerate() {
        if k > 0 {
            r.pin(Out(0, a), MIXED);
        }
    }
    let (&[a, ..], &[b, ..]) = (from, to) else { return Ok(()) };
    let (a, b) = (In(0, a), Out(0, b));
    let (n, m) = (r.size(a)?, r.size(b)?);
    let blocks = gcd(n, m);
    if blocks < 2 || r.axis_id(a).is_none() || r.axis_id(b).is_none() {
        r.pin(a, MIXED);
        r.pin(b, MIXED);
        return Ok(());
    }
    let (p, q) = (n / blocks, m / blocks);
    r.tie_map(a, b, (0..n).map(|i| (i, i / p * q)))?;
    r.tie_map(a, b, (0..m).map(|j| (j / q * p, j)))
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn relate_reshape(r: &mut Relate) -> Answer<()> {
    let (x, y) = (r.cx.shape(0)?, r.cx.out_shape(0)?);
    let (x2, y2) = (r.other.shape(0)?, r.other.out_shape(0)?);
    let Some(parts) = segments(&[x, x2], &[y, y2]) else {
        refuse!("its input {x:?} and output {y:?} do not divide into matching axes");
    };
    let mut merges = Vec::new();
    let mut blocks = Vec::new();
    let mut choices: Vec<Vec<Loc>> = vec![vec![]];
    for s in &parts {
        let from: Vec<usize> = s.from.clone().filter(|&a| x[a] != 1 || x2[a] != 1).collect();
        let to: Vec<usize> = s.to.clone().filter(|&a| y[a] != 1 || y2[a] != 1).collect();
        let (many, one): (Vec<Loc>, Loc) = match (from.as_slice(), to.as_slice()) {
            ([], _) | (_, []) => continue,
            ([i], [o]) => {
                merges.push((vec![In(0, *i)], Out(0, *o)));
                continue;
            }
            (f, [o]) => (f.iter().map(|&a| In(0, a)).collect(), Out(0, *o)),
            ([i], t) => (t.iter().map(|&a| Out(0, a)).collect(), In(0, *i)),
            (f, t) => {
                blocks.push((f.to_vec(), t.to_vec()));
                continue;
            }
        };
        let live: Vec<Loc> = many.iter().copied().filter(|&l| r.axis_id(l).is_some()).collect();
        if r.axis_id(one).is_none() || live.is_empty() {
            // Dynamic: nothing can be followed.
            for &l in many.iter().chain([&one]) {
                r.pin(l, "a reshape merges it with an axis of dynamic size");
            }
            continue;
        }
        choices = choices.into_iter().flat_map(|c| live.iter().map(move |&l| [c.clone(), vec![l]].concat())).collect();
        if choices.len() > 64 {
            refuse!("a reshape with too many alternatives");
        }
        merges.push((many, one));
    }
    // What is no choice holds at once, also while the node waits.
    for (many, one) in &merges {
        if let [only] = many.as_slice() {
            r.tie(*only, *one)?;
        }
    }
    for (from, to) in blocks {
        tie_blocks(r, &from, &to)?;
    }
    let Some(k) = r.choose(choices.clone()) else { return Ok(()) };
    let chosen = choices.get(k).cloned().unwrap_or_default();
    for (many, one) in merges.into_iter().filter(|(many, _)| many.len() > 1) {
        let sizes: Vec<usize> = many.iter().map(|&l| r.size(l)).collect::<Answer<_>>()?;
        match many.iter().find(|l| chosen.contains(l)) {
            Some(&live) => tie_merged(r, &many, &sizes, one, live)?,
            None => refuse!("no live axis"),
        }
    }
    Ok(())
}

impl OpRule for Reshape {
    fn size_slots(&self) -> &'static [usize] {
        &[1]
    }

    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let x = cx.shape(0)?;
        // The form of operator sets older than any that is read.
        if cx.list("shape").is_some() {
            refuse!("its target sizes are an attribute");
        }
        let want = cx.need_ints(1, "target sizes")?;
        let copy_zero = cx.int("allowzero", 0) == 0;
        let mut out = Vec::with_capacity(want.len());
        let mut rest = None;
        for (i, &d) in want.iter().enumerate() {
            out.push(match d {
                0 if copy_zero => *x.get(i).ok_or("a 0 copies an axis that does not exist")?,
                -1 if rest.is_none() => {
                    rest = Some(i);
                    1
                }
                d => usize::try_from(d).map_err(|_| format!("a target size of {d}"))?,
            });
        }
        let (n, m) = (product(x)?, product(&out)?);
        if let Some(i) = rest {
            if m == 0 || n % m != 0 {
                refuse!("{x:?} does not divide into {want:?}");
            }
            out[i] = n / m;
        } else if n != m {
            refuse!("{x:?} does not fit {want:?}");
        }
        Ok(vec![Some(out)])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        relate_reshape(r)
    }

    fn patch(&self, p: &mut Patch) -> Answer<()> {
        let (x, out) = (p.cx.shape(0)?, p.cx.out_shape(0)?);
        let want = p.cx.need_ints(1, "target sizes")?;
        let mut new = vec![None; want.len()];
        for (i, n) in new.iter_mut().enumerate() {
            let size = out[i] - p.removed(Out(0, i)).len();
            let touched = !p.removed(Out(0, i)).is_empty() || (i < x.len() && !p.removed(In(0, i)).is_empty());
            // -1 and 0 follow by themselves where they still mean the same.
            let copies = want[i] == 0 && i < x.len() && x[i] - p.removed(In(0, i)).len() == size;
            if touched && want[i] != -1 && !copies {
                *n = Some(size as i64);
            }
        }
        if new.iter().any(Option::is_some) {
            p.require(1, new);
        }
        Ok(())
    }
}

impl OpRule for Flatten {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let x = cx.shape(0)?;
        let axis = cx.int("axis", 1);
        let a = if axis < 0 { axis + x.len() as i64 } else { axis };
        if a < 0 || a > x.len() as i64 {
            refuse!("axis {axis} is out of range for rank {}", x.len());
        }
        let (l, r) = x.split_at(a as usize);
        Ok(vec![Some(vec![product(l)?, product(r)?])])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        relate_reshape(r)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seg(a: &[usize], b: &[usize]) -> Option<Vec<(Range<usize>, Range<usize>)>> {
        segments(&[a], &[b]).map(|v| v.into_iter().map(|s| (s.from, s.to)).collect())
    }

    #[test]
    fn segments_line_up() {
        assert_eq!(seg(&[2, 8, 4, 4], &[2, 128]), Some(vec![(0..1, 0..1), (1..4, 1..2)]));
        assert_eq!(seg(&[2, 12, 5], &[2, 3, 4, 5]), Some(vec![(0..1, 0..1), (1..2, 1..3), (2..3, 3..4)]));
        assert_eq!(seg(&[2, 8, 1, 1], &[2, 8]), Some(vec![(0..1, 0..1), (1..2, 1..2), (2..3, 2..2), (3..4, 2..2)]));
        assert_eq!(seg(&[6], &[4]), None);
        assert_eq!(seg(&[], &[1, 1]), Some(vec![(0..0, 0..1), (0..0, 1..2)]));
    }

    #[test]
    fn lanes_must_agree() {
        assert!(segments(&[&[2, 8, 7], &[3, 8, 9]], &[&[2, 56], &[3, 72]]).is_some());
        let mixed = segments(&[&[2, 8], &[4, 8]], &[&[4, 4], &[4, 8]]);
        assert_eq!(mixed, Some(vec![Segment { from: 0..2, to: 0..2 }]));
        assert!(segments(&[&[2, 8], &[4, 8]], &[&[4, 4], &[2, 16]]).is_none());
    }
}
