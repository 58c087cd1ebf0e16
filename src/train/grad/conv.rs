//! Convolutions in any number of dimensions, grouped and depthwise.

use super::{Back, Gradient, Kind};
use crate::ops::conv::{Window, group};
use crate::ops::{Answer, NodeCx};
use crate::refuse;
use crate::train::tape::{Tape, Var, int, ints};

/// `Conv`.
pub struct Conv;

/// A convolution's sizes, and where its window stands.
pub(super) struct Shape {
    pub kernel: Vec<usize>,
    pub strides: Vec<usize>,
    pub dilations: Vec<usize>,
    /// Zeros before and after each spatial axis, `auto_pad` resolved.
    pub pads: Vec<(usize, usize)>,
    pub group: usize,
}

impl Shape {
    /// Of a window of this kernel over an input, given both spatial extents.
    pub fn read(cx: &NodeCx, kernel: &[usize], input: &[usize], output: &[usize]) -> Answer<Self> {
        let w = Window::read(cx, kernel)?;
        let pads = match w.pads {
            Some(pads) => pads,
            None => {
                let lower = cx.string("auto_pad") == Some("SAME_LOWER");
                let all = input.iter().zip(output).enumerate().map(|(i, (&size, &out))| {
                    let span = (out - 1) * w.strides[i] + (w.kernel[i] - 1) * w.dilations[i] + 1;
                    let total = span.saturating_sub(size);
                    let (small, large) = (total / 2, total - total / 2);
                    if lower { (large, small) } else { (small, large) }
                });
                all.collect()
            }
        };
        Ok(Shape { kernel: w.kernel, strides: w.strides, dilations: w.dilations, pads, group: group(cx)? })
    }

    /// How far the window reaches along an axis.
    pub fn extent(&self, axis: usize) -> usize {
        (self.kernel[axis] - 1) * self.dilations[axis] + 1
    }

    /// Every position of the window's taps, the last axis fastest.
    pub fn taps(&self) -> Vec<Vec<usize>> {
        let mut all = vec![vec![]];
        for &k in &self.kernel {
            all =
                all.into_iter().flat_map(|t: Vec<usize>| (0..k).map(move |i| [t.as_slice(), &[i]].concat())).collect();
        }
        all
    }

    /// What one tap sees of the padded input `[N, C, …]`: `[N, C, output…]`.
    pub fn seen(&self, t: &mut Tape, padded: Var, tap: &[usize], output: &[usize]) -> Answer<Var> {
        let parts: Vec<_> =
            tap.iter().enumerate().map(|(i, &k)| (i + 2, k * self.dilations[i], output[i], self.strides[i])).collect();
        t.slice(padded, &parts)
    }

    /// The input with its padding, and without what no window reaches.
    pub fn padded(&self, t: &mut Tape, x: Var, value: f64) -> Answer<Var> {
        let pads: Vec<_> = [(0, 0); 2].into_iter().chain(self.pads.iter().copied()).collect();
        t.pad(x, &pads, value)
    }

    /// The convolution itself, `out` being its extents.
    pub fn convolve(&self, t: &mut Tape, x: Var, w: Var, out: &[usize]) -> Var {
        let pads: Vec<i64> = self.pads.iter().map(|p| p.0 as i64).chain(self.pads.iter().map(|p| p.1 as i64)).collect();
        let mut attributes = self.attributes();
        attributes.push(ints("pads", &pads));
        t.node("Conv", &[x, w], attributes, out.to_vec())
    }

    fn attributes(&self) -> Vec<crate::onnx::proto::AttributeProto> {
        let list = |v: &[usize]| v.iter().map(|&x| x as i64).collect::<Vec<_>>();
        vec![
            ints("dilations", &list(&self.dilations)),
            ints("strides", &list(&self.strides)),
            int("group", self.group as i64),
        ]
    }
}

/// The sizes behind the first two.
pub(super) fn spatial(dims: &[usize]) -> &[usize] {
    dims.get(2..).unwrap_or_default()
}

impl Gradient for Conv {
    fn parameters(&self, _cx: &NodeCx) -> Vec<(usize, Kind)> {
        vec![(1, Kind::Weight), (2, Kind::Bias)]
    }

    fn backward(&self, b: &mut Back) -> Answer<()> {
        let (dy, x, w) = (b.dy()?, b.x(0)?, b.x(1)?);
        let (xd, wd, yd) = (b.t.dims(x).to_vec(), b.t.dims(w).to_vec(), b.t.dims(dy).to_vec());
        let shape = Shape::read(&b.cx, spatial(&wd), spatial(&xd), spatial(&yd))?;
        if b.wants(2) {
            let axes: Vec<usize> = (0..yd.len()).filter(|&a| a != 1).collect();
            let db = b.t.sum(dy, &axes, false)?;
            b.give(2, db)?;
        }
        if b.wants(1) {
            let dw = of_weight(b.t, &shape, x, dy, &wd)?;
            b.give(1, dw)?;
        }
        if b.wants(0) {
            let dx = of_input(b.t, &shape, dy, w, &xd)?;
            b.give(0, dx)?;
        }
        Ok(())
    }
}

/// Spreads `dy` back over the input. With stride 1 that is a convolution with the kernel turned round, which runtimes do
/// faster than a transposed one.
fn of_input(t: &mut Tape, s: &Shape, dy: Var, w: Var, xd: &[usize]) -> Answer<Var> {
    let n = s.kernel.len();
    let yd = t.dims(dy).to_vec();
    let plain = (0..n).all(|i| s.strides[i] == 1 && s.pads[i].0 < s.extent(i) && s.pads[i].1 < s.extent(i));
    if plain {
        let w = turned(t, w, s.group)?;
        let begin = (0..n).map(|i| (s.extent(i) - 1 - s.pads[i].0) as i64);
        let end = (0..n).map(|i| (s.extent(i) - 1 - s.pads[i].1) as i64);
        let pads: Vec<i64> = begin.chain(end).collect();
        let mut attributes = s.attributes();
        attributes.push(ints("pads", &pads));
        return Ok(t.node("Conv", &[dy, w], attributes, xd.to_vec()));
    }
    // What a transposed convolution makes without padding, then cut (or filled with zeros) to the input's extents.
    let mut full = vec![yd[0], xd[1]];
    full.extend((0..n).map(|i| (yd[i + 2] - 1) * s.strides[i] + s.extent(i)));
    let mut made = t.node("ConvTranspose", &[dy, w], s.attributes(), full.clone());
    let short: Vec<(usize, usize)> = (0..n + 2)
        .map(|a| if a < 2 { (0, 0) } else { (0, (s.pads[a - 2].0 + xd[a]).saturating_sub(full[a])) })
        .collect();
    made = t.pad(made, &short, 0.0)?;
    let parts: Vec<_> = (0..n).map(|i| (i + 2, s.pads[i].0, xd[i + 2], 1)).collect();
    t.slice(made, &parts)
}

/// `W[O, I/g, …]` as `[I, O/g, …]`, its spatial axes backwards.
fn turned(t: &mut Tape, w: Var, group: usize) -> Answer<Var> {
    let d = t.dims(w).to_vec();
    let (o, i) = (d[0] / group, d[1]);
    let space = spatial(&d).to_vec();
    let mut v = t.reshape(w, &[&[group, o, i], space.as_slice()].concat())?;
    let perm: Vec<usize> = [0, 2, 1].into_iter().chain(3..d.len() + 1).collect();
    v = t.transpose(v, &perm)?;
    v = t.reshape(v, &[&[group * i, o], space.as_slice()].concat())?;
    for a in 2..d.len() {
        v = t.flip(v, a)?;
    }
    Ok(v)
}

/// `dW[o, i, k] = Σ_{n, l} dy[n, o, l] · x[n, i, k + l]` as products of matrices: a convolution over swapped axes is several
/// times slower on a processor.
pub(super) fn of_weight(t: &mut Tape, s: &Shape, x: Var, dy: Var, wd: &[usize]) -> Answer<Var> {
    let yd = t.dims(dy).to_vec();
    let (n, g) = (yd[0], s.group);
    let (o, i) = (wd[0] / g, wd[1]);
    let space = spatial(&yd).to_vec();
    let l: usize = space.iter().product();
    let padded = s.padded(t, x, 0.0)?;
    let taps = s.taps();
    if i == 1 && g > 1 {
        return depthwise(t, s, padded, dy, wd, &space);
    }
    if g == 1 && s.kernel.len() == 2 && s.strides == [1, 1] && taps.len() > 1 && o < l {
        return by_rows_and_columns(t, s, x, dy, wd);
    }
    // [N, g, K·i, L]: the taps one after the other within each group.
    let mut cols = Vec::with_capacity(taps.len());
    for tap in &taps {
        let seen = s.seen(t, padded, tap, &space)?;
        cols.push(t.reshape(seen, &[n, g, i, l])?);
    }
    let cols = t.concat(&cols, 2)?;
    let dy = t.reshape(dy, &[n, g, o, l])?;
    let k = taps.len();
    let sum = if o < l {
        // Small products, one for each sample.
        let cols = t.swap_last(cols)?;
        let each = t.matmul(dy, cols)?;
        t.sum(each, &[0], false)?
    } else {
        // One long product: what it makes for each sample would be larger than what it reads.
        let cols = t.transpose(cols, &[1, 0, 3, 2])?;
        let cols = t.reshape(cols, &[g, n * l, k * i])?;
        let dy = t.transpose(dy, &[1, 2, 0, 3])?;
        let dy = t.reshape(dy, &[g, o, n * l])?;
        t.matmul(dy, cols)?
    };
    let sum = t.reshape(sum, &[g * o, k, i])?;
    let sum = t.transpose(sum, &[0, 2, 1])?;
    t.reshape(sum, wd)
}

/// The shifts along rows go into `x`, those along columns into `dy`: copies for `kh + kw` taps in place of `kh · kw`.
fn by_rows_and_columns(t: &mut Tape, s: &Shape, x: Var, dy: Var, wd: &[usize]) -> Answer<Var> {
    let (xd, yd) = (t.dims(x).to_vec(), t.dims(dy).to_vec());
    let (&[kh, kw], &[dh, dw]) = (s.kernel.as_slice(), s.dilations.as_slice()) else {
        refuse!("no two-dimensional kernel")
    };
    let (n, o, i) = (yd[0], wd[0], wd[1]);
    let (oh, ow) = (yd[2], yd[3]);
    let padded = s.padded(t, x, 0.0)?;
    let rows = xd[2] + s.pads[0].0 + s.pads[0].1;
    let mut seen = Vec::with_capacity(kw);
    for j in 0..kw {
        seen.push(t.slice(padded, &[(3, j * dw, ow, 1)])?);
    }
    let seen = t.concat(&seen, 1)?;
    let seen = t.reshape(seen, &[n, kw * i, rows * ow])?;
    // Row r of the padded input meets row r − j·dh of dy.
    let most = (kh - 1) * dh;
    let filled = t.pad(dy, &[(0, 0), (0, 0), (most, rows - oh), (0, 0)], 0.0)?;
    let mut shifted = Vec::with_capacity(kh);
    for j in 0..kh {
        shifted.push(t.slice(filled, &[(2, most - j * dh, rows, 1)])?);
    }
    let shifted = t.concat(&shifted, 1)?;
    let shifted = t.reshape(shifted, &[n, kh * o, rows * ow])?;
    let seen = t.swap_last(seen)?;
    let each = t.matmul(shifted, seen)?;
    let sum = t.sum(each, &[0], false)?;
    let sum = t.reshape(sum, &[kh, o, kw, i])?;
    t.transpose(sum, &[1, 3, 0, 2])
}

/// One input channel in each group: element-wise products, summed.
fn depthwise(t: &mut Tape, s: &Shape, padded: Var, dy: Var, wd: &[usize], space: &[usize]) -> Answer<Var> {
    let yd = t.dims(dy).to_vec();
    let (n, g) = (yd[0], s.group);
    let m = wd[0] / g;
    let l: usize = space.iter().product();
    let dy = if m == 1 { dy } else { t.reshape(dy, &[n, g, m, l])? };
    let axes: Vec<usize> = if m == 1 { (0..yd.len()).filter(|&a| a != 1).collect() } else { vec![0, 3] };
    let mut all = Vec::new();
    for tap in s.taps() {
        let mut seen = s.seen(t, padded, &tap, space)?;
        if m > 1 {
            seen = t.reshape(seen, &[n, g, 1, l])?;
        }
        let product = t.mul(dy, seen)?;
        let sum = t.sum(product, &axes, false)?;
        all.push(t.reshape(sum, &[wd[0], 1])?);
    }
    let all = t.concat(&all, 1)?;
    t.reshape(all, wd)
}
