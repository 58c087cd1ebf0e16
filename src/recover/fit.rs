//! The two sides of a layer's least squares: what it reads in the pruned network, and what it should give.

use crate::calibrate::moments::{Moments, predict};
use crate::calibrate::rows::{self, Picked};
use crate::error::Result;
use crate::ops::layer::Layer;
use crate::runtime::Array;
use std::ops::Range;

/// Moments of the samples that are fitted, and of those held back; one of each per convolution group.
pub(super) struct Split {
    pub(super) columns: Vec<usize>,
    pub(super) outputs: Vec<usize>,
    pub(super) fit: Moments,
    pub(super) held: Moments,
    /// The rows themselves, where an activation with flat parts follows.
    pub(super) rows: [Rows; 2],
}

/// Rows that are kept: of the samples that are fitted, or of those held back.
#[derive(Default)]
pub(super) struct Rows {
    pub(super) x: Vec<f32>,
    pub(super) target: Vec<f32>,
    /// What the activation sees in the original network.
    pub(super) end: Vec<f32>,
}

/// What a layer should give on one batch.
pub(super) struct Wanted {
    /// `[rows][outputs]`.
    pub(super) target: Vec<f32>,
    /// What the next activation sees, where it matters.
    pub(super) end: Vec<f32>,
    /// The output's sizes.
    pub(super) dims: Vec<usize>,
    pub(super) picked: Picked,
}

impl Split {
    pub(super) fn add(
        &mut self,
        layer: &Layer,
        x: &Array,
        wanted: &Wanted,
        outputs: &[usize],
        parts: &[(bool, Range<usize>)],
    ) -> Result<()> {
        let (d, m) = (self.fit.d, outputs.len());
        let rows = rows::inputs(layer, x, &wanted.dims, &wanted.picked, &self.columns)?;
        let at: Vec<usize> = self.outputs.iter().filter_map(|o| outputs.binary_search(o).ok()).collect();
        for held in [false, true] {
            let mut new = Rows::default();
            for (_, range) in parts.iter().filter(|p| p.0 == held) {
                new.x.extend_from_slice(&rows[range.start * d..range.end * d]);
                for r in range.clone() {
                    new.target.extend(at.iter().map(|&k| wanted.target[r * m + k]));
                    if !wanted.end.is_empty() {
                        new.end.extend(at.iter().map(|&k| wanted.end[r * m + k]));
                    }
                }
            }
            if held {
                self.held.add(&new.x, &new.target)
            } else {
                self.fit.add(&new.x, &new.target)
            }
            if !new.end.is_empty() {
                let kept = &mut self.rows[usize::from(held)];
                kept.x.append(&mut new.x);
                kept.target.append(&mut new.target);
                kept.end.append(&mut new.end);
            }
        }
        Ok(())
    }

    /// Targets under an activation that is flat outside `bounds`: where the original is in a flat part, any value there
    /// will do, so the target is the nearest of them to what `w` gives now. Also the mean squared distance, per output.
    pub(super) fn lenient(&self, held: bool, w: &[f64], scale: &[f64], bounds: (f64, f64)) -> (Vec<f32>, Vec<f64>) {
        let rows = &self.rows[usize::from(held)];
        let m = self.outputs.len();
        let mut out = predict(w, &rows.x, self.fit.d);
        let mut errors = vec![0.0; m];
        let n = out.len() / m.max(1);
        for ((p, t), u) in out.chunks_exact_mut(m).zip(rows.target.chunks_exact(m)).zip(rows.end.chunks_exact(m)) {
            for k in 0..m {
                let (a, t, u) = (scale[self.outputs[k]], f64::from(t[k]), f64::from(u[k]));
                // What the activation would see of the present output.
                let seen = a * (f64::from(p[k]) - t) + u;
                let goal = if u <= bounds.0 {
                    seen.min(bounds.0)
                } else if u >= bounds.1 {
                    seen.max(bounds.1)
                } else {
                    u
                };
                let wanted = if a == 0.0 { t } else { t + (goal - u) / a };
                errors[k] += (f64::from(p[k]) - wanted).powi(2);
                p[k] = wanted as f32;
            }
        }
        errors.iter_mut().for_each(|e| *e /= n.max(1) as f64);
        (out, errors)
    }
}

/// `target += sign · values · back`, column by column.
pub(super) fn shift(target: &mut [f32], values: &[f32], back: &[f64], sign: f64) {
    for (row, values) in target.chunks_exact_mut(back.len().max(1)).zip(values.chunks_exact(back.len().max(1))) {
        for ((t, v), b) in row.iter_mut().zip(values).zip(back) {
            *t += (sign * b * f64::from(*v)) as f32;
        }
    }
}
