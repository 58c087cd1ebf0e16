//! A layer's inputs and outputs on some data as the rows of matrices.
//!
//! One row is one output position of one sample: what the kernel reads there (*im2col*), or what comes out. Of a large
//! feature map only some positions are taken, drawn by a seed, the same for the input's side and the output's.

use crate::error::{Error, Result};
use crate::ops::layer::{Form, Layer};
use crate::runtime::{Array, Data};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use std::borrow::Cow;
use std::ops::Range;

/// Some of the output positions of a layer in one batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Picked {
    /// Row numbers, ascending: `sample · positions + position`.
    pub rows: Vec<usize>,
    /// Positions per sample.
    pub positions: usize,
}

impl Picked {
    /// Draws at most `quota` positions of each sample, without repeats.
    pub fn draw(samples: usize, positions: usize, quota: usize, seed: u64) -> Picked {
        let mut rows = Vec::with_capacity(samples * quota.min(positions));
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for s in 0..samples {
            if positions <= quota {
                rows.extend(s * positions..(s + 1) * positions);
                continue;
            }
            // One position of each of `quota` equal stretches: spread over the map, no two alike.
            for q in 0..quota {
                let (from, to) = (q * positions / quota, (q + 1) * positions / quota);
                let offset = (rng.next_u64() % (to - from).max(1) as u64) as usize;
                rows.push(s * positions + from + offset);
            }
        }
        Picked { rows, positions }
    }

    /// The range of rows (of the matrix) that belong to each sample.
    pub fn of_sample(&self, sample: usize) -> Range<usize> {
        let at = |s: usize| self.rows.partition_point(|&r| r < s * self.positions);
        at(sample)..at(sample + 1)
    }
}

/// Output positions per sample, given the output's sizes and the number of samples in the batch.
pub fn positions(layer: &Layer, output: &[usize], samples: usize) -> Option<usize> {
    let all: usize = match layer.form {
        Form::Product { .. } => output.split_last()?.1.iter().product(),
        _ => output.first()? * output.get(2..)?.iter().product::<usize>(),
    };
    (samples > 0 && all.is_multiple_of(samples)).then(|| all / samples)
}

/// The elements as `f32`.
pub fn floats(a: &Array) -> Cow<'_, [f32]> {
    match &a.data {
        Data::F32(v) => Cow::Borrowed(v),
        _ => Cow::Owned(a.to_f64().into_iter().map(|v| v as f32).collect()),
    }
}

fn misfit(what: &str, dims: &[usize]) -> Error {
    Error::Internal(format!("a layer's {what} of shape {dims:?} does not fit its weight"))
}

/// What the kernel reads: `[rows][channels · taps + 1]`, row-major, the last column ones. `channels` are input channels
/// of the whole layer, those of one group next to each other.
///
/// # Errors
/// [`Error::Internal`] when the sizes do not fit the layer.
pub fn inputs(layer: &Layer, x: &Array, output: &[usize], picked: &Picked, channels: &[usize]) -> Result<Vec<f32>> {
    let values = floats(x);
    let d = channels.len() * layer.taps + 1;
    let mut out = vec![1.0f32; picked.rows.len() * d];
    let all = layer.groups * layer.inputs;
    if channels.iter().any(|&c| c >= all) || values.len() != x.dims.iter().product::<usize>() {
        return Err(misfit("input", &x.dims));
    }
    let (slide, transposed) = match &layer.form {
        Form::Product { .. } => {
            if x.dims.last() != Some(&all) {
                return Err(misfit("input", &x.dims));
            }
            for (row, &r) in out.chunks_exact_mut(d).zip(&picked.rows) {
                let from = values.get(r * all..(r + 1) * all).ok_or_else(|| misfit("input", &x.dims))?;
                for (v, &c) in row.iter_mut().zip(channels) {
                    *v = from[c];
                }
            }
            return Ok(out);
        }
        Form::Conv(s) => (s, false),
        Form::ConvTranspose(s) => (s, true),
    };
    let (Some(size), Some(map)) = (x.dims.get(2..), output.get(2..)) else { return Err(misfit("input", &x.dims)) };
    if x.dims.get(1) != Some(&all) || size.len() != slide.kernel.len() || map.len() != size.len() {
        return Err(misfit("input", &x.dims));
    }
    let area: usize = size.iter().product();
    let per: usize = map.iter().product();
    let begin: Vec<usize> = (0..size.len()).map(|i| slide.begin(i, size[i], map[i])).collect();
    // Where each tap reads, per row; the same for all channels.
    let mut reads: Vec<Option<usize>> = vec![None; layer.taps];
    for (row, &r) in out.chunks_exact_mut(d).zip(&picked.rows) {
        let (sample, mut p) = (r / per.max(1), r % per.max(1));
        let mut position = vec![0; map.len()];
        for i in (0..map.len()).rev() {
            position[i] = p % map[i];
            p /= map[i];
        }
        for (tap, read) in reads.iter_mut().enumerate() {
            let mut t = tap;
            let (mut offset, mut stride) = (Some(0), 1);
            for i in (0..map.len()).rev() {
                let k = slide.kernel[i];
                let at = slide.reads(i, position[i], t % k, begin[i], size[i], transposed);
                offset = offset.zip(at).map(|(o, at)| o + at * stride);
                stride *= size[i];
                t /= k;
            }
            *read = offset;
        }
        for (block, &c) in row.chunks_exact_mut(layer.taps).zip(channels) {
            let from = (sample * all + c) * area;
            for (v, read) in block.iter_mut().zip(&reads) {
                *v = read.and_then(|o| values.get(from + o)).copied().unwrap_or(0.0);
            }
        }
    }
    Ok(out)
}

/// What comes out: `[rows][channels]`, row-major.
///
/// # Errors
/// [`Error::Internal`] when the sizes do not fit the layer.
pub fn outputs(layer: &Layer, y: &Array, picked: &Picked, channels: &[usize]) -> Result<Vec<f32>> {
    let values = floats(y);
    let all = layer.groups * layer.outputs;
    let mut out = Vec::with_capacity(picked.rows.len() * channels.len());
    let product = matches!(layer.form, Form::Product { .. });
    let axis = if product { y.dims.len().checked_sub(1) } else { Some(1) };
    let fits = axis.and_then(|a| y.dims.get(a)) == Some(&all) && values.len() == y.dims.iter().product::<usize>();
    if !fits || channels.iter().any(|&c| c >= all) {
        return Err(misfit("output", &y.dims));
    }
    let per: usize = if product { 1 } else { y.dims[2..].iter().product() };
    for &r in &picked.rows {
        let (sample, p) = (r / per.max(1), r % per.max(1));
        let from = |c: usize| (sample * all + c) * per + p;
        for &c in channels {
            out.push(*values.get(from(c)).ok_or_else(|| misfit("output", &y.dims))?);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::layer::Slide;

    fn array(dims: &[usize]) -> Array {
        let n: usize = dims.iter().product();
        Array { dims: dims.to_vec(), data: Data::F32((0..n).map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0).collect()) }
    }

    fn conv(kernel: usize, stride: usize, dilation: usize, pad: usize, groups: usize) -> Layer {
        let slide = Slide {
            kernel: vec![kernel; 2],
            strides: vec![stride; 2],
            dilations: vec![dilation; 2],
            before: Some(vec![pad; 2]),
            lower: false,
        };
        Layer { groups, inputs: 4 / groups, outputs: 6 / groups, taps: kernel * kernel, form: Form::Conv(slide) }
    }

    /// A convolution straight from its definition.
    fn direct(x: &Array, w: &[f32], (n, o, py, px): (usize, usize, usize, usize), l: &Layer) -> f32 {
        let Form::Conv(s) = &l.form else { panic!() };
        let Data::F32(v) = &x.data else { panic!() };
        let (h, wd) = (x.dims[2], x.dims[3]);
        let g = o / l.outputs;
        let mut sum = 0.0;
        for c in 0..l.inputs {
            for ky in 0..s.kernel[0] {
                for kx in 0..s.kernel[1] {
                    let iy = (py * s.strides[0] + ky * s.dilations[0]) as i64 - s.before.as_ref().unwrap()[0] as i64;
                    let ix = (px * s.strides[1] + kx * s.dilations[1]) as i64 - s.before.as_ref().unwrap()[1] as i64;
                    if iy < 0 || ix < 0 || iy >= h as i64 || ix >= wd as i64 {
                        continue;
                    }
                    let x = v[((n * 4 + g * l.inputs + c) * h + iy as usize) * wd + ix as usize];
                    sum += x * w[(o * l.inputs + c) * l.taps + ky * s.kernel[1] + kx];
                }
            }
        }
        sum
    }

    #[test]
    fn rows_times_matrix_is_the_convolution() {
        for (kernel, stride, dilation, pad, groups) in
            [(3, 1, 1, 1, 1), (3, 2, 1, 0, 1), (2, 1, 2, 1, 2), (1, 2, 1, 0, 1)]
        {
            let l = conv(kernel, stride, dilation, pad, groups);
            let x = array(&[2, 4, 7, 6]);
            let size = |n: usize| (n + 2 * pad - (kernel - 1) * dilation - 1) / stride + 1;
            let out = [2, 6, size(7), size(6)];
            let w: Vec<f32> = (0..l.elements()).map(|i| (i as f32 * 0.7).sin()).collect();
            let wide: Vec<f64> = w.iter().map(|&v| f64::from(v)).collect();
            let positions = positions(&l, &out, 2).unwrap();
            let picked = Picked::draw(2, positions, 5, 3);
            assert_eq!(picked.rows.len(), 2 * positions.min(5));
            for g in 0..groups {
                let channels: Vec<usize> = (g * l.inputs..(g + 1) * l.inputs).collect();
                let rows = inputs(&l, &x, &out, &picked, &channels).unwrap();
                let m = l.matrix(&wide, g);
                for (row, &r) in rows.chunks(l.columns() + 1).zip(&picked.rows) {
                    assert_eq!(row.last(), Some(&1.0));
                    let (n, p) = (r / positions, r % positions);
                    for o in 0..l.outputs {
                        let got: f64 = (0..l.columns()).map(|j| f64::from(row[j]) * m[o * l.columns() + j]).sum();
                        let at = (n, g * l.outputs + o, p / out[3], p % out[3]);
                        assert!((got as f32 - direct(&x, &w, at, &l)).abs() < 1e-4, "{l:?}");
                    }
                }
                let mut back = vec![0.0; wide.len()];
                l.store(&m, g, &mut back);
                let same = (0..wide.len()).filter(|&i| back[i] == wide[i]).count();
                assert!(same >= wide.len() / groups);
            }
        }
    }

    #[test]
    fn a_transposed_convolution_reads_where_its_inputs_scatter() {
        let Form::Conv(slide) = conv(3, 2, 1, 1, 1).form else { panic!() };
        let l = Layer { groups: 1, inputs: 2, outputs: 3, taps: 9, form: Form::ConvTranspose(slide) };
        let x = array(&[1, 2, 3, 3]);
        let Data::F32(v) = &x.data else { panic!() };
        let w: Vec<f64> = (0..l.elements()).map(|i| (i as f64 * 0.3).cos()).collect();
        let out = [1, 3, 5, 5];
        let mut expected = [0.0; 75];
        for (c, iy, ix, o, ky, kx) in
            (0..2 * 9 * 3 * 9).map(|i| (i / 243, i / 81 % 3, i / 27 % 3, i / 9 % 3, i / 3 % 3, i % 3))
        {
            let (y, xx) = (iy * 2 + ky, ix * 2 + kx);
            if (1..6).contains(&y) && (1..6).contains(&xx) {
                expected[(o * 5 + y - 1) * 5 + xx - 1] +=
                    f64::from(v[(c * 3 + iy) * 3 + ix]) * w[((c * 3) + o) * 9 + ky * 3 + kx];
            }
        }
        let picked = Picked::draw(1, 25, 100, 0);
        let rows = inputs(&l, &x, &out, &picked, &[0, 1]).unwrap();
        let m = l.matrix(&w, 0);
        for (p, row) in rows.chunks(19).enumerate() {
            for o in 0..3 {
                let got: f64 = (0..18).map(|j| f64::from(row[j]) * m[o * 18 + j]).sum();
                assert!((got - expected[o * 25 + p]).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn rows_of_samples_and_outputs() {
        let l = Layer { groups: 1, inputs: 3, outputs: 2, taps: 1, form: Form::Product { rows: true } };
        let (x, y) = (array(&[2, 4, 3]), array(&[2, 4, 2]));
        assert_eq!(positions(&l, &y.dims, 2), Some(4));
        assert_eq!(positions(&l, &y.dims, 3), None);
        let picked = Picked { rows: vec![1, 3, 6], positions: 4 };
        assert_eq!((picked.of_sample(0), picked.of_sample(1)), (0..2, 2..3));
        let (Data::F32(xv), Data::F32(yv)) = (&x.data, &y.data) else { panic!() };
        assert_eq!(inputs(&l, &x, &y.dims, &picked, &[0, 2]).unwrap()[..3], [xv[3], xv[5], 1.0]);
        assert_eq!(outputs(&l, &y, &picked, &[1]).unwrap(), [yv[3], yv[7], yv[13]]);
        assert!(outputs(&l, &x, &picked, &[1]).is_err());
        assert!(inputs(&l, &y, &y.dims, &picked, &[0]).is_err());
    }
}
