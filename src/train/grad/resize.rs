//! Resampling: linear in the input, so a constant matrix along each axis.

use super::matrix::Matrix;
use super::{Back, Fore, Gradient};
use crate::graph::attribute;
use crate::ops::cx::norm_axes;
use crate::ops::{Answer, NodeCx};
use crate::refuse;
use crate::train::tape::{Tape, Var};

/// `Resize`.
pub struct Resize;
/// `Upsample`, its predecessor.
pub struct Upsample;

/// Coordinates of the input for one axis. As runtimes do, in `float32`: the nearest of two may depend on it.
fn coordinate(cx: &NodeCx, o: usize, input: usize, output: usize, scale: f32) -> Answer<f32> {
    let (o, input_f, output_f) = (o as f32, input as f32, output as f32);
    let mode =
        if cx.opset < 11 { "asymmetric" } else { cx.string("coordinate_transformation_mode").unwrap_or("half_pixel") };
    Ok(match mode {
        "asymmetric" => o / scale,
        "half_pixel" => (o + 0.5) / scale - 0.5,
        "half_pixel_symmetric" => {
            let adjusted = output_f / (scale * input_f);
            input_f / 2.0 * (1.0 - adjusted) + (o + 0.5) / scale - 0.5
        }
        "pytorch_half_pixel" if output == 1 => 0.0,
        "pytorch_half_pixel" => (o + 0.5) / scale - 0.5,
        "align_corners" if output == 1 => 0.0,
        "align_corners" => o * (input_f - 1.0) / (output_f - 1.0),
        "tf_half_pixel_for_nn" => (o + 0.5) / scale,
        other => refuse!("its coordinates are {other:?}"),
    })
}

fn nearest(cx: &NodeCx, x: f32, scale: f32) -> Answer<f32> {
    if cx.opset < 11 {
        return Ok(if scale < 1.0 { x.ceil() } else { x.floor() });
    }
    Ok(match cx.string("nearest_mode").unwrap_or("round_prefer_floor") {
        "round_prefer_floor" => (x - 0.5).ceil(),
        "round_prefer_ceil" => (x + 0.5).floor(),
        "floor" => x.floor(),
        "ceil" => x.ceil(),
        other => refuse!("its nearest_mode is {other:?}"),
    })
}

/// Weights of the four neighbours at a distance from the second, after R. Keys, "Cubic convolution interpolation for digital
/// image processing" (1981).
fn cubic(distance: f64, a: f64) -> [f64; 4] {
    let near = |d: f64| ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0;
    let far = |d: f64| ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a;
    [far(distance + 1.0), near(distance), near(1.0 - distance), far(2.0 - distance)]
}

/// What one axis becomes.
fn matrix(cx: &NodeCx, input: usize, output: usize, scale: f32) -> Answer<Matrix> {
    let mut m = Matrix::zeros(output, input)?;
    let last = input as f32 - 1.0;
    let mode = cx.string("mode").unwrap_or("nearest");
    for o in 0..output {
        let x = coordinate(cx, o, input, output, scale)?;
        match mode {
            "nearest" => m.add(o, nearest(cx, x, scale)?.clamp(0.0, last) as usize, 1.0),
            "linear" | "bilinear" | "trilinear" => {
                let x = x.clamp(0.0, last);
                let part = f64::from(x - x.floor());
                m.add(o, x as usize, 1.0 - part);
                m.add(o, (x as usize + 1).min(input - 1), part);
            }
            "cubic" => {
                let inside = cx.int("exclude_outside", 0) != 0;
                let from = x.floor() as i64 - 1;
                let weights = cubic(f64::from(x - x.floor()), cx.float("cubic_coeff_a", -0.75));
                let taps = (from..).zip(weights).filter(|(i, _)| !inside || (0..input as i64).contains(i));
                let taps: Vec<(i64, f64)> = taps.collect();
                let total: f64 = if inside { taps.iter().map(|t| t.1).sum() } else { 1.0 };
                for (i, w) in taps {
                    m.add(o, i.clamp(0, input as i64 - 1) as usize, w / total);
                }
            }
            other => refuse!("its mode is {other:?}"),
        }
    }
    Ok(m)
}

/// The axes that change, and how.
fn matrices(cx: &NodeCx, axes: &[usize], scales: &[f64]) -> Answer<Vec<(usize, Matrix)>> {
    if cx.int("antialias", 0) != 0 {
        refuse!("it smooths before it resamples (antialias)");
    }
    let (x, y) = (cx.shape(0)?, cx.out_shape(0)?);
    let mut all = Vec::new();
    for (i, &a) in axes.iter().enumerate() {
        let scale = scales.get(i).copied().unwrap_or(y[a] as f64 / x[a].max(1) as f64);
        if x[a] == y[a] && scale == 1.0 {
            continue;
        }
        if x[a] == 0 {
            refuse!("an input of shape {x:?}");
        }
        all.push((a, matrix(cx, x[a], y[a], scale as f32)?));
    }
    Ok(all)
}

fn spread_back(t: &mut Tape, dy: Var, all: &[(usize, Matrix)]) -> Answer<Var> {
    all.iter().try_fold(dy, |v, (axis, m)| m.transposed().along(t, v, *axis))
}

impl Gradient for Resize {
    fn backward(&self, b: &mut Back) -> Answer<()> {
        let dy = b.dy()?;
        let rank = b.cx.rank(0)?;
        let axes = match b.cx.list("axes") {
            Some(a) => norm_axes(&a, rank)?,
            None => (0..rank).collect(),
        };
        let slot = if b.cx.opset < 11 { 1 } else { 2 };
        let by_sizes = b.cx.opset >= 11 && b.cx.has(3);
        let scales = match b.cx.val(slot).filter(|_| !by_sizes) {
            Some(v) => v.data.clone(),
            None => Vec::new(),
        };
        let all = matrices(&b.cx, &axes, &scales)?;
        let dx = spread_back(b.t, dy, &all)?;
        b.give(0, dx)
    }
}

impl Upsample {
    fn matrices(cx: &NodeCx) -> Answer<Vec<(usize, Matrix)>> {
        let scales: Vec<f64> = match attribute(cx.node, "scales") {
            Some(a) => a.floats.iter().map(|&v| f64::from(v)).collect(),
            None => cx.val(1).ok_or("its scales are computed at run time")?.data.clone(),
        };
        let axes: Vec<usize> = (0..cx.rank(0)?).collect();
        matrices(cx, &axes, &scales)
    }
}

impl Gradient for Upsample {
    fn forward(&self, f: &mut Fore) -> Answer<bool> {
        if !f.trained {
            return Ok(false);
        }
        // An operator that newer runtimes leave out.
        let x = f.x(0)?;
        let all = Self::matrices(&f.cx)?;
        let y = all.iter().try_fold(x, |v, (axis, m)| m.along(f.t, v, *axis))?;
        f.output(0, y);
        Ok(true)
    }

    fn backward(&self, b: &mut Back) -> Answer<()> {
        let dy = b.dy()?;
        let all = Self::matrices(&b.cx)?;
        let dx = spread_back(b.t, dy, &all)?;
        b.give(0, dx)
    }
}
