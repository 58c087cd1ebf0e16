//! Sampling of regions and grids: positions move, channels stay apart.

use super::cx::{Answer, NodeCx, product};
use super::relate::{In, Loc, Out, Relate};
use super::{OpRule, Shapes};
use crate::refuse;

pub(super) const ROI: &[&str] = &["RoiAlign", "MaxRoiPool"];
pub(super) const GRID_SAMPLE: &[&str] = &["GridSample"];
pub(super) const AFFINE_GRID: &[&str] = &["AffineGrid"];
pub(super) const COL2IM: &[&str] = &["Col2Im"];
pub(super) const MAX_UNPOOL: &[&str] = &["MaxUnpool"];

const SAMPLED: &str = "it is sampled along this axis";

/// Pooling over regions of interest: `X[N,C,H,W]`, `rois[R,…]` to `Y[R,C,h,w]`.
pub struct Roi;
/// Sampling at a grid of positions: `X[N,C,…]`, `grid[N,…,r]` to `Y[N,C,…]`.
pub struct GridSample;
/// A grid of positions from affine maps.
pub struct AffineGrid;
/// Column blocks to an image: `[N, C·block, L]` to `[N, C, …]`.
pub struct Col2Im;
/// Back to the positions that a max pooling took.
pub struct MaxUnpool;

/// Pins all these axes.
fn pin_all(r: &mut Relate, locs: impl IntoIterator<Item = Loc>) {
    for loc in locs {
        r.pin(loc, SAMPLED);
    }
}

fn sizes(list: Vec<i64>, what: &str) -> Answer<Vec<usize>> {
    list.iter().map(|&d| usize::try_from(d).map_err(|_| format!("{what} of {d}").into())).collect()
}

impl OpRule for Roi {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let (x, rois) = (cx.shape(0)?, cx.shape(1)?);
        let (&[_, channels, _, _], &[regions, _]) = (x, rois) else {
            refuse!("input {x:?} and regions {rois:?}");
        };
        let window = match cx.node.op_type() {
            "MaxRoiPool" => cx.list("pooled_shape").unwrap_or_default(),
            _ => vec![cx.int("output_height", 1), cx.int("output_width", 1)],
        };
        let window = sizes(window, "an output")?;
        let [h, w] = window.as_slice() else { refuse!("an output of {window:?}") };
        Ok(vec![Some(vec![regions, channels, *h, *w])])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        r.tie(In(0, 1), Out(0, 1))?;
        pin_all(r, [In(0, 0), In(0, 2), In(0, 3), In(1, 1), Out(0, 2), Out(0, 3)]);
        r.tie(In(1, 0), Out(0, 0))?;
        if r.cx.has(2) {
            r.tie(In(2, 0), Out(0, 0))?;
        }
        Ok(())
    }
}

impl OpRule for GridSample {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let (x, grid) = (cx.shape(0)?, cx.shape(1)?);
        let n = x.len();
        if n < 3 || grid.len() != n || grid[0] != x[0] || grid[n - 1] != n - 2 {
            refuse!("input {x:?} and grid {grid:?} do not fit");
        }
        Ok(vec![Some([&x[..2], &grid[1..n - 1]].concat())])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        let n = r.cx.rank(0)?;
        r.tie(In(0, 0), Out(0, 0))?;
        r.tie(In(1, 0), Out(0, 0))?;
        r.tie(In(0, 1), Out(0, 1))?;
        pin_all(r, (2..n).flat_map(|a| [In(0, a), Out(0, a)]));
        pin_all(r, (1..n).map(|a| In(1, a)));
        Ok(())
    }
}

impl OpRule for AffineGrid {
    fn size_slots(&self) -> &'static [usize] {
        // It names the channels of the image to be sampled, which the grid does not have.
        &[1]
    }

    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let size = sizes(cx.need_ints(1, "image sizes")?, "an image")?;
        let space = match size.len() {
            4 | 5 => &size[2..],
            n => refuse!("image sizes of {n} axes"),
        };
        let theta = cx.shape(0)?;
        if *theta != [size[0], space.len(), space.len() + 1] {
            refuse!("maps of shape {theta:?} for an image of {size:?}");
        }
        Ok(vec![Some([&size[..1], space, &[space.len()]].concat())])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        pin_all(r, (0..r.cx.rank(0)?).map(|a| In(0, a)));
        pin_all(r, (0..r.cx.out_shape(0)?.len()).map(|a| Out(0, a)));
        Ok(())
    }
}

impl Col2Im {
    /// `(image sizes, number of positions in a block)`.
    fn spec(cx: &NodeCx) -> Answer<(Vec<usize>, usize)> {
        let x = cx.shape(0)?;
        let image = sizes(cx.need_ints(1, "image sizes")?, "an image")?;
        let block = product(&sizes(cx.need_ints(2, "block sizes")?, "a block")?)?;
        if x.len() != 3 || block == 0 || x[1] % block != 0 {
            refuse!("input {x:?} does not divide into blocks of {block} positions");
        }
        Ok((image, block))
    }
}

impl OpRule for Col2Im {
    fn size_slots(&self) -> &'static [usize] {
        &[1, 2]
    }

    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let (image, block) = Self::spec(cx)?;
        let x = cx.shape(0)?;
        let mut out = vec![x[0], x[1] / block];
        out.extend(image);
        Ok(vec![Some(out)])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        let (_, block) = Self::spec(&r.cx)?;
        if block != Self::spec(&r.other)?.1 {
            refuse!("its blocks depend on a dynamic size");
        }
        r.tie(In(0, 0), Out(0, 0))?;
        r.pin(In(0, 2), "the blocks of an image");
        for a in 2..r.cx.out_shape(0)?.len() {
            r.pin(Out(0, a), "the positions of an image");
        }
        let n = r.size(In(0, 1))?;
        r.tie_map(In(0, 1), Out(0, 1), (0..n).map(|k| (k, k / block)))
    }
}

impl OpRule for MaxUnpool {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let x = cx.shape(0)?;
        if x.len() < 3 {
            refuse!("input of shape {x:?}");
        }
        if cx.has(2) {
            return Ok(vec![Some(sizes(cx.need_ints(2, "output sizes")?, "an output")?)]);
        }
        let n = x.len() - 2;
        let win = super::conv::Window::read(cx, &vec![1; n])?;
        let mut out = x[..2].to_vec();
        for i in 0..n {
            let (begin, end) = win.pads.as_ref().map_or((0, 0), |p| p[i]);
            let full =
                x[i + 2].saturating_sub(1).checked_mul(win.strides[i]).and_then(|d| d.checked_add(win.kernel[i]));
            out.push(full.and_then(|d| d.checked_sub(begin + end)).ok_or("pads exceed the output")?);
        }
        Ok(vec![Some(out)])
    }

    fn relate(&self, _: &mut Relate) -> Answer<()> {
        refuse!("its indices count positions over all channels")
    }
}
