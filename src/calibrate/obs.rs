//! Optimal brain surgeon on channel groups: what each removal costs, and how the weights that stay make up for it.
//!
//! With `H = E[x xᵀ]` of a layer's (im2col) input, removing the columns `c` of `W` and adjusting all others costs
//! `tr(W_c ([H⁻¹]_cc)⁻¹ W_cᵀ)` of mean squared output error, and the adjusted weights are
//! `W − W_c ([H⁻¹]_cc)⁻¹ [H⁻¹]_{c,:}` (Hassibi and Stork 1993, for blocks as in Kurtić et al. 2022). Repeated for the
//! cheapest channel again and again, the running cost is the group's *error curve*.

use super::moments::{Moments, inverse};
use rayon::prelude::*;
use std::collections::BTreeMap;

/// A channel: `(group, channel)`.
pub type Key = (usize, usize);

/// One convolution group of one layer as a quadratic function of its weights.
#[derive(Clone, Debug)]
pub struct Surrogate {
    d: usize,
    m: usize,
    /// `Wᵀ`, `[d][m]`.
    wt: Vec<f64>,
    /// `H⁻¹`, `[d][d]`.
    inv: Vec<f64>,
    /// Weight of each output's squared error.
    scale: Vec<f64>,
    gone: Vec<bool>,
    /// The columns of each channel.
    blocks: BTreeMap<Key, Vec<usize>>,
    /// Costs are divided by this: the variance of the outputs.
    energy: f64,
}

impl Surrogate {
    /// From the second moments of the input, weights `[m][d]` (the last column the bias), and the columns of each channel.
    /// `scale` is what follows multiplies the outputs with. `damping` is in shares of the mean diagonal. `None` when nothing can be told: no rows, a constant output, a singular matrix.
    pub fn new(
        moments: &Moments,
        weights: &[f64],
        scale: &[f64],
        damping: f64,
        blocks: BTreeMap<Key, Vec<usize>>,
    ) -> Option<Surrogate> {
        let (d, m) = (moments.d, scale.len());
        if moments.rows == 0 || weights.len() != d * m {
            return None;
        }
        let mut wt = vec![0.0; d * m];
        for k in 0..m {
            for j in 0..d {
                wt[j * m + k] = weights[k * d + j];
            }
        }
        let scale: Vec<f64> = scale.iter().map(|s| s * s).collect();
        let energy = energy(moments, &wt, &scale);
        let inv = inverse(&moments.damped(damping * moments.mean_diagonal()))?;
        (energy > 0.0 && energy.is_finite()).then_some(Surrogate {
            d,
            m,
            wt,
            inv,
            scale,
            gone: vec![false; d],
            blocks,
            energy,
        })
    }

    fn row(&self, j: usize) -> &[f64] {
        &self.wt[j * self.m..(j + 1) * self.m]
    }

    /// Whether the layer reads the channel.
    pub fn reads(&self, key: Key) -> bool {
        self.blocks.contains_key(&key)
    }

    /// `([H⁻¹]_cc)⁻¹` and the columns.
    fn block(&self, key: Key) -> Option<(&[usize], Vec<f64>)> {
        let c = self.blocks.get(&key)?;
        let s: Vec<f64> = c.iter().flat_map(|&i| c.iter().map(move |&j| self.inv[i * self.d + j])).collect();
        Some((c, small_inverse(s, c.len())?))
    }

    /// The share of the output's variance that removing the channel costs now.
    pub fn cost(&self, key: Key) -> f64 {
        let Some((c, k)) = self.block(key) else { return 0.0 };
        let mut sum = 0.0;
        for (a, &i) in c.iter().enumerate() {
            for (b, &j) in c.iter().enumerate() {
                sum += k[a * c.len() + b] * dot(self.row(i), self.row(j), &self.scale);
            }
        }
        sum.max(0.0) / self.energy
    }

    /// Removes the channel and adjusts what stays.
    pub fn remove(&mut self, key: Key) {
        let Some((c, k)) = self.block(key) else { return };
        let (c, n, d, m) = (c.to_vec(), c.len(), self.d, self.m);
        // K·W_c [n][m] and K·H⁻¹[c,:] [n][d].
        let times = |from: &[f64], width: usize| {
            let mut out = vec![0.0; n * width];
            for a in 0..n {
                for (b, &j) in c.iter().enumerate() {
                    let f = k[a * n + b];
                    let row = &from[j * width..(j + 1) * width];
                    out[a * width..(a + 1) * width].iter_mut().zip(row).for_each(|(o, v)| *o += f * v);
                }
            }
            out
        };
        let (kw, kh) = (times(&self.wt, m), times(&self.inv, d));
        let gone = &self.gone;
        self.wt.par_chunks_mut(m.max(1)).zip(self.inv.par_chunks_mut(d)).enumerate().for_each(|(i, (w, h))| {
            if gone[i] {
                return;
            }
            // H⁻¹ is symmetric: its column c at row i is its row i at c.
            let at: Vec<f64> = c.iter().map(|&j| h[j]).collect();
            for (a, f) in at.iter().enumerate().filter(|(_, f)| **f != 0.0) {
                w.iter_mut().zip(&kw[a * m..(a + 1) * m]).for_each(|(w, v)| *w -= f * v);
                h.iter_mut().zip(&kh[a * d..(a + 1) * d]).for_each(|(h, v)| *h -= f * v);
            }
        });
        for &j in &c {
            self.gone[j] = true;
            self.wt[j * m..(j + 1) * m].fill(0.0);
            self.inv[j * d..(j + 1) * d].fill(0.0);
        }
        self.inv.par_chunks_mut(d).for_each(|h| c.iter().for_each(|&j| h[j] = 0.0));
        self.blocks.remove(&key);
    }

    /// The weights now, `[m][d]`.
    pub fn weights(&self) -> Vec<f64> {
        let mut w = vec![0.0; self.d * self.m];
        for j in 0..self.d {
            for k in 0..self.m {
                w[k * self.d + j] = self.wt[j * self.m + k];
            }
        }
        w
    }
}

fn dot(a: &[f64], b: &[f64], scale: &[f64]) -> f64 {
    a.iter().zip(b).zip(scale).map(|((a, b), s)| a * b * s).sum()
}

/// `Σ_k scale_k · Var(w_k · x)`.
fn energy(h: &Moments, wt: &[f64], scale: &[f64]) -> f64 {
    let (d, m) = (h.d, scale.len());
    let rows = (0..d).into_par_iter().map(|i| {
        let mut sum = 0.0;
        for j in 0..d {
            // The mean's part is left out: row and column of the ones are the means.
            let covariance = h.second(i, j) - h.second(i, d - 1) * h.second(j, d - 1);
            sum += covariance * dot(&wt[i * m..(i + 1) * m], &wt[j * m..(j + 1) * m], scale);
        }
        sum
    });
    // Summed in order: the same on any number of threads.
    rows.collect::<Vec<f64>>().into_iter().sum()
}

/// The inverse of a small symmetric matrix, by Gauss–Jordan elimination; `None` when it is not positive definite.
fn small_inverse(mut a: Vec<f64>, n: usize) -> Option<Vec<f64>> {
    if n == 1 {
        let v = *a.first()?;
        return (v > 0.0).then(|| vec![1.0 / v]);
    }
    let mut out = vec![0.0; n * n];
    (0..n).for_each(|i| out[i * n + i] = 1.0);
    for p in 0..n {
        let pivot = a[p * n + p];
        if !(pivot > 0.0 && pivot.is_finite()) {
            return None;
        }
        for j in 0..n {
            a[p * n + j] /= pivot;
            out[p * n + j] /= pivot;
        }
        for i in (0..n).filter(|&i| i != p) {
            let f = a[i * n + p];
            for j in 0..n {
                a[i * n + j] -= f * a[p * n + j];
                out[i * n + j] -= f * out[p * n + j];
            }
        }
    }
    Some(out)
}

/// What a unit's channels cost, one bundle after the other.
#[derive(Clone, Debug)]
pub struct Curve {
    /// Per cell: its channels, the first to go first.
    pub order: Vec<Vec<Key>>,
    /// `[k]`: the error when `k` bundles are gone, from 0 to the length of the shortest cell.
    pub error: Vec<f64>,
}

/// Removes channels until one is left in the shortest cell; `at` is told when a number of bundles has gone.
///
/// Costs of all channels are taken anew after every 1/32 of what is left; what the curve says of each removal is its cost
/// at that moment.
pub fn curve(surrogates: &mut [Surrogate], cells: &[Vec<Key>], at: &mut dyn FnMut(usize, &[Surrogate])) -> Curve {
    let bundles = cells.iter().map(Vec::len).min().unwrap_or(0);
    let mut left: Vec<Vec<Key>> = cells.to_vec();
    let mut order: Vec<Vec<Key>> = vec![Vec::new(); cells.len()];
    let mut error = vec![0.0];
    let total = |s: &[Surrogate], key: Key| s.iter().map(|s| s.cost(key)).sum::<f64>();
    let mut gone = 0;
    while gone + 1 < bundles {
        let step = ((bundles - gone) / 32).max(1).min(bundles - 1 - gone);
        let ranked: Vec<Vec<Key>> = left
            .iter()
            .map(|cell| {
                let mut costs: Vec<(f64, Key)> = cell.par_iter().map(|&k| (total(surrogates, k), k)).collect();
                costs.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
                costs.into_iter().map(|c| c.1).take(step).collect()
            })
            .collect();
        for i in 0..step {
            let mut sum = 0.0;
            for (c, keys) in ranked.iter().enumerate() {
                let Some(&key) = keys.get(i) else { continue };
                sum += total(surrogates, key);
                surrogates.iter_mut().for_each(|s| s.remove(key));
                order[c].push(key);
            }
            gone += 1;
            error.push(error.last().copied().unwrap_or(0.0) + sum);
            at(gone, surrogates);
        }
        for (cell, keys) in left.iter_mut().zip(&ranked) {
            cell.retain(|k| !keys.contains(k));
        }
    }
    // The last ones never go, but have a place.
    for (order, left) in order.iter_mut().zip(left) {
        order.extend(left);
    }
    Curve { order, error }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(i: usize) -> f64 {
        (((i * 2654435761) % 100_003) as f64 / 50_001.5) - 1.0
    }

    /// Correlated rows of `d - 1` values and a one.
    fn moments(d: usize, n: usize) -> (Moments, Vec<f32>) {
        let x: Vec<f32> = (0..n * d)
            .map(|i| match i % d {
                j if j == d - 1 => 1.0,
                j => (noise(i) + 0.6 * noise(i / d * 3 + j / 2) + 0.3 * j as f64 / d as f64) as f32,
            })
            .collect();
        let mut m = Moments::new(d, 0);
        m.add(&x, &[]);
        (m, x)
    }

    fn surrogate(d: usize, m: usize, block: usize) -> (Surrogate, Moments, Vec<f64>) {
        let (h, _) = moments(d, 4000);
        let w: Vec<f64> = (0..d * m).map(|i| noise(i + 77)).collect();
        let blocks = (0..(d - 1) / block).map(|c| ((0, c), (c * block..(c + 1) * block).collect::<Vec<_>>())).collect();
        (Surrogate::new(&h, &w, &vec![1.0; m], 0.0, blocks).unwrap(), h, w)
    }

    /// The least error that any weights without some columns have, straight from the normal equations.
    fn brute_force(h: &Moments, w: &[f64], m: usize, without: &[usize]) -> f64 {
        let d = h.d;
        let keep: Vec<usize> = (0..d).filter(|j| !without.contains(j)).collect();
        let a = faer::Mat::from_fn(keep.len(), keep.len(), |i, j| h.second(keep[i], keep[j]));
        let inv = inverse(&a).unwrap();
        let mut sum = 0.0;
        for k in 0..m {
            let w = &w[k * d..(k + 1) * d];
            // min |w·x − v·x_keep|² = wᵀHw − bᵀA⁻¹b, b = H_keep w.
            let b: Vec<f64> = keep.iter().map(|&i| (0..d).map(|j| h.second(i, j) * w[j]).sum()).collect();
            let whole: f64 =
                (0..d).flat_map(|i| (0..d).map(move |j| (i, j))).map(|(i, j)| w[i] * w[j] * h.second(i, j)).sum();
            let n = keep.len();
            let part: f64 =
                (0..n).flat_map(|i| (0..n).map(move |j| (i, j))).map(|(i, j)| b[i] * b[j] * inv[i * n + j]).sum();
            sum += whole - part;
        }
        sum
    }

    #[test]
    fn costs_are_the_least_errors() {
        for block in [1, 3] {
            let (mut s, h, w) = surrogate(13, 4, block);
            let mut gone = Vec::new();
            let mut running = 0.0;
            for c in [2, 0, 3] {
                running += s.cost((0, c));
                s.remove((0, c));
                gone.extend(c * block..(c + 1) * block);
                let least = brute_force(&h, &w, 4, &gone);
                assert!((running * s.energy - least).abs() < 1e-6 * least, "{block}: {} {least}", running * s.energy);
            }
            let now = s.weights();
            // The adjusted weights have just that error, and none where columns are gone.
            let mut error = 0.0;
            for k in 0..4 {
                let v: Vec<f64> = (0..13).map(|j| now[k * 13 + j] - w[k * 13 + j]).collect();
                assert!(gone.iter().all(|&j| now[k * 13 + j] == 0.0));
                error += (0..13)
                    .flat_map(|i| (0..13).map(move |j| (i, j)))
                    .map(|(i, j)| v[i] * v[j] * h.second(i, j))
                    .sum::<f64>();
            }
            assert!((error - running * s.energy).abs() < 1e-6 * error);
        }
    }

    #[test]
    fn the_cheapest_goes_first_and_the_curve_rises() {
        let (s, h, w) = surrogate(13, 4, 1);
        let cells = vec![(0..12).map(|c| (0, c)).collect::<Vec<_>>()];
        let mut told = Vec::new();
        let curve = curve(&mut [s.clone()], &cells, &mut |k, _| told.push(k));
        assert_eq!(told, (1..12).collect::<Vec<_>>());
        assert_eq!(curve.error.len(), 12);
        assert!(curve.error.windows(2).all(|p| p[0] <= p[1]));
        let best = (0..12).min_by(|&a, &b| brute_force(&h, &w, 4, &[a]).total_cmp(&brute_force(&h, &w, 4, &[b])));
        assert_eq!(curve.order[0][0], (0, best.unwrap()));
        let mut all = curve.order[0].clone();
        all.sort_unstable();
        assert_eq!(all, cells[0]);
    }

    #[test]
    fn cells_lose_the_same_number() {
        let (s, ..) = surrogate(13, 4, 1);
        let cells = vec![(0..5).map(|c| (0, c)).collect::<Vec<_>>(), (5..12).map(|c| (0, c)).collect()];
        let curve = curve(&mut [s], &cells, &mut |_, _| ());
        assert_eq!(curve.error.len(), 5);
        assert!(curve.order[0][..4].iter().all(|k| k.1 < 5) && curve.order[1][..4].iter().all(|k| k.1 >= 5));
        assert_eq!((curve.order[0].len(), curve.order[1].len()), (5, 7));
    }
}
