//! Operators that move or repeat elements.

use super::{Back, Gradient};
use crate::ops::Answer;
use crate::ops::movement::permutation;
use crate::refuse;
use crate::train::tape::{Tape, Var};

/// `Reshape`, `Flatten`, `Squeeze`, `Unsqueeze`: the elements stay in order.
pub struct Reshape;
/// `Transpose`.
pub struct Transpose;
/// `Expand`.
pub struct Expand;
/// `Tile`.
pub struct Tile;
/// `DepthToSpace`.
pub struct DepthToSpace;
/// `SpaceToDepth`.
pub struct SpaceToDepth;

impl Gradient for Reshape {
    fn backward(&self, b: &mut Back) -> Answer<()> {
        let dy = b.dy()?;
        let dims = b.cx.shape(0)?.to_vec();
        let dx = b.t.reshape(dy, &dims)?;
        b.give(0, dx)
    }
}

impl Gradient for Transpose {
    fn backward(&self, b: &mut Back) -> Answer<()> {
        let dy = b.dy()?;
        let perm = permutation(&b.cx)?;
        let mut back = vec![0; perm.len()];
        perm.iter().enumerate().for_each(|(o, &i)| back[i] = o);
        let dx = b.t.transpose(dy, &back)?;
        b.give(0, dx)
    }
}

impl Gradient for Expand {
    fn backward(&self, b: &mut Back) -> Answer<()> {
        let dy = b.dy()?;
        b.give(0, dy)
    }
}

impl Gradient for Tile {
    fn backward(&self, b: &mut Back) -> Answer<()> {
        let dy = b.dy()?;
        let (xd, yd) = (b.cx.shape(0)?.to_vec(), b.t.dims(dy).to_vec());
        let mut apart = Vec::new();
        let mut axes = Vec::new();
        for (&x, &y) in xd.iter().zip(&yd) {
            let times = y / x.max(1);
            if times != 1 {
                axes.push(apart.len());
                apart.push(times);
            }
            apart.push(x);
        }
        let dx = b.t.reshape(dy, &apart)?;
        let dx = b.t.sum(dx, &axes, false)?;
        let dx = b.t.reshape(dx, &xd)?;
        b.give(0, dx)
    }
}

/// Blocks of positions as channels: `[N, C, H·s, W·s]` to `[N, C·s², H, W]`, the block in front of the channels or behind.
fn to_depth(t: &mut Tape, x: Var, s: usize, behind: bool) -> Answer<Var> {
    let &[n, c, h, w] = t.dims(x) else { refuse!("an input of shape {:?}", t.dims(x)) };
    let apart = t.reshape(x, &[n, c, h / s, s, w / s, s])?;
    let perm = if behind { [0, 1, 3, 5, 2, 4] } else { [0, 3, 5, 1, 2, 4] };
    let moved = t.transpose(apart, &perm)?;
    t.reshape(moved, &[n, c * s * s, h / s, w / s])
}

fn block(b: &Back) -> Answer<usize> {
    match usize::try_from(b.cx.int("blocksize", 0)) {
        Ok(s) if s > 0 => Ok(s),
        _ => refuse!("blocksize {}", b.cx.int("blocksize", 0)),
    }
}

impl Gradient for DepthToSpace {
    fn backward(&self, b: &mut Back) -> Answer<()> {
        let (dy, s) = (b.dy()?, block(b)?);
        let dx = to_depth(b.t, dy, s, b.cx.string("mode") == Some("CRD"))?;
        b.give(0, dx)
    }
}

impl Gradient for SpaceToDepth {
    fn backward(&self, b: &mut Back) -> Answer<()> {
        let (dy, s) = (b.dy()?, block(b)?);
        let &[n, c, h, w] = b.t.dims(dy) else { refuse!("an output of shape {:?}", b.t.dims(dy)) };
        let apart = b.t.reshape(dy, &[n, s, s, c / (s * s), h, w])?;
        let moved = b.t.transpose(apart, &[0, 3, 4, 1, 5, 2])?;
        let dx = b.t.reshape(moved, &[n, c / (s * s), h * s, w * s])?;
        b.give(0, dx)
    }
}
