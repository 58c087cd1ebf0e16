//! Second moments of rows, and least squares over them.
//!
//! Products of a batch are taken in `f32`, in tiles of a fixed size, and summed in `f64`: the result does not depend on the
//! number of threads.

use faer::linalg::matmul::matmul;
use faer::linalg::solvers::Solve;
use faer::{Accum, Mat, MatMut, MatRef, Par, Side};
use rayon::prelude::*;

/// Columns of one tile.
const TILE: usize = 128;

/// `Σ x xᵀ`, `Σ x yᵀ` and `Σ y²` over rows; the last of `x` is always 1.
#[derive(Clone, Debug)]
pub struct Moments {
    /// Length of `x`.
    pub d: usize,
    /// Length of `y`.
    pub m: usize,
    /// `[d][d]`; the upper triangle.
    gram: Vec<f64>,
    /// `[m][d]`.
    cross: Vec<f64>,
    /// `[m]`.
    energy: Vec<f64>,
    /// Rows.
    pub rows: usize,
}

impl Moments {
    /// Of no rows.
    pub fn new(d: usize, m: usize) -> Self {
        Moments { d, m, gram: vec![0.0; d * d], cross: vec![0.0; d * m], energy: vec![0.0; m], rows: 0 }
    }

    /// Bytes that [`new`](Self::new) takes.
    pub fn bytes(d: usize, m: usize) -> usize {
        8 * (d * d + d * m + m)
    }

    /// Adds rows: `x` is `[n][d]`, `y` is `[n][m]`, row-major.
    pub fn add(&mut self, x: &[f32], y: &[f32]) {
        let (d, m) = (self.d, self.m);
        let n = x.len().checked_div(d).unwrap_or(0);
        if n == 0 || x.len() != n * d || y.len() != n * m {
            return;
        }
        self.rows += n;
        let xs = MatRef::from_row_major_slice(x, n, d);
        self.gram.par_chunks_mut(TILE * d).enumerate().for_each(|(tile, gram)| {
            let (from, to) = (tile * TILE, ((tile + 1) * TILE).min(d));
            let rows = xs.subcols(from, to - from).transpose();
            add_product(rows, xs.subcols(from, d - from), |i, j, v| gram[i * d + from + j] += v);
        });
        self.add_targets(x, y, n);
    }

    fn add_targets(&mut self, x: &[f32], y: &[f32], n: usize) {
        let (d, m) = (self.d, self.m);
        if m == 0 {
            return;
        }
        let (xs, ys) = (MatRef::from_row_major_slice(x, n, d), MatRef::from_row_major_slice(y, n, m));
        self.cross.par_chunks_mut(TILE * d).enumerate().for_each(|(tile, cross)| {
            let (from, to) = (tile * TILE, ((tile + 1) * TILE).min(m));
            add_product(ys.subcols(from, to - from).transpose(), xs, |i, j, v| cross[i * d + j] += v);
        });
        for row in y.chunks_exact(m) {
            self.energy.iter_mut().zip(row).for_each(|(e, &v)| *e += f64::from(v) * f64::from(v));
        }
    }

    /// The same rows with other targets, `y` as in [`add`](Self::add).
    pub fn retarget(&mut self, x: &[f32], y: &[f32]) {
        self.cross.fill(0.0);
        self.energy.fill(0.0);
        // In parts, as sums of float32 products should stay short.
        let (rows, d, m) = (1 << 13, self.d, self.m);
        for (x, y) in x.chunks(rows * d).zip(y.chunks(rows * m)) {
            self.add_targets(x, y, x.len() / d);
        }
    }

    /// Adds the rows of another.
    pub fn merge(&mut self, other: &Moments) {
        let all = [(&mut self.gram, &other.gram), (&mut self.cross, &other.cross), (&mut self.energy, &other.energy)];
        for (a, b) in all {
            a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
        }
        self.rows += other.rows;
    }

    /// `E[x_i x_j]`.
    pub fn second(&self, i: usize, j: usize) -> f64 {
        self.gram[i.min(j) * self.d + i.max(j)] / self.rows.max(1) as f64
    }

    /// The mean of the diagonal of `E[x xᵀ]`, without the ones.
    pub fn mean_diagonal(&self) -> f64 {
        let n = self.d.saturating_sub(1).max(1);
        (0..n.min(self.d)).map(|i| self.second(i, i)).sum::<f64>() / n as f64
    }

    /// `E[x xᵀ] + damping · I`, without damping of the last column.
    pub fn damped(&self, damping: f64) -> Mat<f64> {
        let last = self.d.saturating_sub(1);
        Mat::from_fn(self.d, self.d, |i, j| {
            let ridge = if i == j && i != last { damping } else { 0.0 };
            // A tiny ridge keeps a constant column apart from the ones.
            self.second(i, j) + ridge + if i == j { 1e-12 } else { 0.0 }
        })
    }

    /// The weights `[m][d]` that come nearest to `y`, pulled towards `prior` with strength `damping`:
    /// `(Y Xᵀ + λ W₀)(X Xᵀ + λ I)⁻¹`; the weight of the ones with strength `hold`. `None` when the system is singular.
    pub fn solve(&self, prior: &[f64], damping: f64, hold: f64) -> Option<Vec<f64>> {
        let (d, m, last) = (self.d, self.m, self.d.checked_sub(1)?);
        let n = self.rows.max(1) as f64;
        let mut a = self.damped(damping);
        a[(last, last)] += hold;
        let rhs = Mat::from_fn(d, m, |j, k| {
            let strength = if j == last { hold } else { damping };
            self.cross[k * d + j] / n + strength * prior[k * d + j]
        });
        let solution = a.llt(Side::Lower).ok()?.solve(&rhs);
        let mut w = Vec::with_capacity(m * d);
        for k in 0..m {
            w.extend((0..d).map(|j| solution[(j, k)]));
        }
        w.iter().all(|v| v.is_finite()).then_some(w)
    }

    /// Mean squared error of the weights `[m][d]`, per output.
    pub fn errors(&self, w: &[f64]) -> Vec<f64> {
        let (d, n) = (self.d, self.rows.max(1) as f64);
        let rows = w.par_chunks(d.max(1)).enumerate().map(|(k, w)| {
            let mut quadratic = 0.0;
            for i in 0..d {
                if w[i] == 0.0 {
                    continue;
                }
                let row = &self.gram[i * d..(i + 1) * d];
                let above: f64 = row[i + 1..].iter().zip(&w[i + 1..]).map(|(g, w)| g * w).sum();
                quadratic += w[i] * (row[i] * w[i] + 2.0 * above);
            }
            let linear: f64 = self.cross[k * d..(k + 1) * d].iter().zip(w).map(|(c, w)| c * w).sum();
            ((quadratic - 2.0 * linear + self.energy[k]) / n).max(0.0)
        });
        rows.collect()
    }

    /// The weights `[m][d]` scaled and shifted, each output by itself, so that it has the mean of `y` and, with `scaled`, its
    /// variance: batch normalization re-estimated, for layers without one too. Without `shifted` the constant part stays.
    pub fn matched(&self, w: &[f64], scaled: bool, shifted: bool) -> Vec<f64> {
        /// A nearly constant output is not blown up.
        const MOST: f64 = 4.0;
        let (d, n) = (self.d, self.rows.max(1) as f64);
        let Some(last) = d.checked_sub(1) else { return Vec::new() };
        let variances = self.variances();
        let mut out = w.to_vec();
        out.par_chunks_mut(d).enumerate().for_each(|(k, w)| {
            let mean: f64 = (0..d).map(|i| w[i] * self.second(i, last)).sum();
            let mut square = 0.0;
            for i in (0..d).filter(|&i| w[i] != 0.0) {
                let row = &self.gram[i * d..(i + 1) * d];
                let above: f64 = row[i + 1..].iter().zip(&w[i + 1..]).map(|(g, w)| g * w).sum();
                square += w[i] * (row[i] * w[i] + 2.0 * above) / n;
            }
            let variance = square - mean * mean;
            let factor = (variances[k] / variance).sqrt();
            let factor =
                if scaled && variance > 0.0 && factor.is_finite() { factor.clamp(1.0 / MOST, MOST) } else { 1.0 };
            w[..last].iter_mut().for_each(|v| *v *= factor);
            if shifted {
                let rest = mean - w[last];
                w[last] = self.cross[k * d + last] / n - factor * rest;
            }
        });
        out
    }

    /// Variance of each output.
    pub fn variances(&self) -> Vec<f64> {
        let (d, n) = (self.d, self.rows.max(1) as f64);
        let mean = |k: usize| d.checked_sub(1).map_or(0.0, |last| self.cross[k * d + last] / n);
        (0..self.m).map(|k| (self.energy[k] / n - mean(k) * mean(k)).max(0.0)).collect()
    }
}

/// What weights `[m][d]` make of rows `[n][d]`: `[n][m]`.
pub fn predict(w: &[f64], x: &[f32], d: usize) -> Vec<f32> {
    let (n, m) = (x.len().checked_div(d).unwrap_or(0), w.len().checked_div(d).unwrap_or(0));
    let w: Vec<f32> = w.iter().map(|&v| v as f32).collect();
    let ws = MatRef::from_row_major_slice(&w, m, d).transpose();
    let mut out = vec![0.0f32; n * m];
    out.par_chunks_mut((TILE * m).max(1)).zip(x.par_chunks((TILE * d).max(1))).for_each(|(out, x)| {
        let n = x.len() / d;
        let xs = MatRef::from_row_major_slice(x, n, d);
        matmul(MatMut::from_row_major_slice_mut(out, n, m), Accum::Replace, xs, ws, 1.0, Par::Seq);
    });
    out
}

/// Hands every element of `a · b` on.
fn add_product(a: MatRef<'_, f32>, b: MatRef<'_, f32>, mut each: impl FnMut(usize, usize, f64)) {
    let (rows, columns) = (a.nrows(), b.ncols());
    let mut out = vec![0.0f32; rows * columns];
    let to = MatMut::from_row_major_slice_mut(&mut out, rows, columns);
    matmul(to, Accum::Replace, a, b, 1.0, Par::Seq);
    for (i, row) in out.chunks_exact(columns.max(1)).enumerate() {
        for (j, &v) in row.iter().enumerate() {
            each(i, j, f64::from(v));
        }
    }
}

/// The inverse of a symmetric positive definite matrix, row-major.
pub fn inverse(a: &Mat<f64>) -> Option<Vec<f64>> {
    let n = a.nrows();
    let inverse = a.llt(Side::Lower).ok()?.solve(Mat::<f64>::identity(n, n));
    let mut out = Vec::with_capacity(n * n);
    for i in 0..n {
        out.extend((0..n).map(|j| inverse[(i, j)]));
    }
    out.iter().all(|v| v.is_finite()).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(i: usize) -> f32 {
        ((i * 7919 + 13) % 1009) as f32 / 500.0 - 1.0
    }

    /// `n` rows of `d` values and a one, and outputs that are exact, linear and noisy.
    fn data(n: usize, d: usize, m: usize) -> (Vec<f32>, Vec<f32>) {
        let x: Vec<f32> =
            (0..n * (d + 1)).map(|i| if i % (d + 1) == d { 1.0 } else { value(i) + value(i / 3) }).collect();
        let y = (0..n * m).map(|i| {
            let row = &x[i / m * (d + 1)..][..d + 1];
            let linear: f32 = row.iter().enumerate().map(|(j, v)| v * value(j + 31 * (i % m))).sum();
            linear + 0.1 * value(i + 5)
        });
        let y = y.collect();
        (x, y)
    }

    #[test]
    fn matched_weights_have_the_targets_mean_and_variance() {
        let (x, y) = data(500, 4, 2);
        let mut moments = Moments::new(5, 2);
        moments.add(&x, &y);
        let w: Vec<f64> = (0..10).map(|i| 1.5 * f64::from(value(i * 5 + 2))).collect();
        let figures = |w: &[f64], k: usize| {
            let p: Vec<f64> =
                x.chunks(5).map(|r| r.iter().zip(&w[k * 5..]).map(|(x, w)| f64::from(*x) * w).sum::<f64>()).collect();
            let mean = p.iter().sum::<f64>() / 500.0;
            (mean, p.iter().map(|p| (p - mean) * (p - mean)).sum::<f64>() / 500.0)
        };
        let of_y = |k: usize| {
            let y: Vec<f64> = y.chunks(2).map(|r| f64::from(r[k])).collect();
            let mean = y.iter().sum::<f64>() / 500.0;
            (mean, y.iter().map(|y| (y - mean) * (y - mean)).sum::<f64>() / 500.0)
        };
        for k in 0..2 {
            let (mean, variance) = of_y(k);
            let (m, v) = figures(&moments.matched(&w, true, true), k);
            assert!((m - mean).abs() < 1e-5 && (v - variance).abs() < 1e-4, "{m} {mean} {v} {variance}");
            let (m, v) = figures(&moments.matched(&w, false, true), k);
            assert!((m - mean).abs() < 1e-5 && (v - figures(&w, k).1).abs() < 1e-4);
            let held = moments.matched(&w, true, false);
            assert!((figures(&held, k).1 - variance).abs() < 1e-4 && held[k * 5 + 4] == w[k * 5 + 4]);
        }
    }

    #[test]
    fn moments_and_errors_equal_those_of_the_rows() {
        let (x, y) = data(400, 5, 3);
        let mut whole = Moments::new(6, 3);
        whole.add(&x[..6 * 150], &y[..3 * 150]);
        let mut rest = Moments::new(6, 3);
        rest.add(&x[6 * 150..], &y[3 * 150..]);
        whole.merge(&rest);
        assert_eq!(whole.rows, 400);
        for (i, j) in [(0, 0), (1, 4), (5, 2), (5, 5)] {
            let direct: f64 = x.chunks(6).map(|r| f64::from(r[i]) * f64::from(r[j])).sum::<f64>() / 400.0;
            assert!((whole.second(i, j) - direct).abs() < 1e-5);
        }
        let w: Vec<f64> = (0..18).map(|i| f64::from(value(i * 3))).collect();
        for (k, error) in whole.errors(&w).into_iter().enumerate() {
            let direct = x.chunks(6).zip(y.chunks(3)).map(|(x, y)| {
                let p: f64 = x.iter().zip(&w[k * 6..]).map(|(&x, w)| f64::from(x) * w).sum();
                (p - f64::from(y[k])).powi(2)
            });
            assert!((error - direct.sum::<f64>() / 400.0).abs() < 1e-5);
        }
    }

    #[test]
    fn the_solution_is_the_stationary_point() {
        let (x, y) = data(300, 40, 2);
        let mut a = Moments::new(41, 2);
        a.add(&x, &y);
        let prior: Vec<f64> = (0..82).map(|i| f64::from(value(i)) * 0.5).collect();
        for damping in [0.0, 0.05] {
            let w = a.solve(&prior, damping, 0.0).unwrap();
            // The derivative of the error plus the pull vanishes, calculated from the rows in f64.
            for k in 0..2 {
                for j in 0..41 {
                    let gradient: f64 = x
                        .chunks(41)
                        .zip(y.chunks(2))
                        .map(|(x, y)| {
                            let p: f64 = x.iter().zip(&w[k * 41..]).map(|(&x, w)| f64::from(x) * w).sum();
                            (p - f64::from(y[k])) * f64::from(x[j])
                        })
                        .sum::<f64>()
                        / 300.0;
                    let pull = if j < 40 { damping * (w[k * 41 + j] - prior[k * 41 + j]) } else { 0.0 };
                    assert!((gradient + pull).abs() < 1e-5, "{damping} {k} {j}: {gradient} {pull}");
                }
            }
        }
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let (x, y) = data(200, 300, 150);
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut a = Moments::new(301, 150);
                a.add(&x, &y);
                a
            })
        };
        let (one, four) = (run(1), run(4));
        assert_eq!(one.gram, four.gram);
        assert_eq!(one.cross, four.cross);
    }

    #[test]
    fn an_inverse() {
        let (x, y) = data(100, 7, 0);
        let mut a = Moments::new(8, 0);
        a.add(&x, &y);
        let m = a.damped(0.01);
        let i = inverse(&m).unwrap();
        for r in 0..8 {
            for c in 0..8 {
                let sum: f64 = (0..8).map(|k| m[(r, k)] * i[k * 8 + c]).sum();
                assert!((sum - f64::from(u8::from(r == c))).abs() < 1e-9);
            }
        }
        assert!(inverse(&Mat::from_fn(2, 2, |_, _| -1.0)).is_none());
    }
}
