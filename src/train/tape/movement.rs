//! Nodes that move elements: other shapes, orders and parts.

use super::{Tape, Var, float, int, ints};
use crate::ops::Answer;
use crate::ops::cx::broadcast;
use crate::refuse;

impl Tape {
    /// Another shape of as many elements.
    pub fn reshape(&mut self, x: Var, to: &[usize]) -> Answer<Var> {
        if self.dims(x) == to {
            return Ok(x);
        }
        if self.numel(x) != to.iter().product::<usize>() {
            refuse!("a tensor of shape {:?} does not reshape to {to:?}", self.dims(x));
        }
        let shape: Vec<i64> = to.iter().map(|&d| d as i64).collect();
        let shape = self.ints(&shape);
        Ok(self.node("Reshape", &[x, shape], vec![], to.to_vec()))
    }

    /// Repeats axes of size 1.
    pub fn expand(&mut self, x: Var, to: &[usize]) -> Answer<Var> {
        if self.dims(x) == to {
            return Ok(x);
        }
        if broadcast(&[self.dims(x), to])? != to {
            refuse!("a tensor of shape {:?} does not expand to {to:?}", self.dims(x));
        }
        if self.opset < 8 {
            // There was only a list of repeats, one for each axis.
            let own = self.dims(x).to_vec();
            let full: Vec<usize> = vec![1; to.len() - own.len()].into_iter().chain(own).collect();
            let times: Vec<i64> = full.iter().zip(to).map(|(&d, &t)| if d == t { 1 } else { t as i64 }).collect();
            let wide = self.reshape(x, &full)?;
            let times = self.ints(&times);
            return Ok(self.node("Tile", &[wide, times], vec![], to.to_vec()));
        }
        let shape: Vec<i64> = to.iter().map(|&d| d as i64).collect();
        let shape = self.ints(&shape);
        Ok(self.node("Expand", &[x, shape], vec![], to.to_vec()))
    }

    /// Axes in another order: axis `i` of the result is axis `perm[i]` of `x`.
    pub fn transpose(&mut self, x: Var, perm: &[usize]) -> Answer<Var> {
        if perm.iter().copied().eq(0..perm.len()) {
            return Ok(x);
        }
        let dims = self.dims(x);
        let out: Option<Vec<usize>> = perm.iter().map(|&p| dims.get(p).copied()).collect();
        let Some(out) = out.filter(|o| o.len() == dims.len()) else {
            refuse!("axes {perm:?} of a tensor of shape {dims:?}")
        };
        let perm: Vec<i64> = perm.iter().map(|&p| p as i64).collect();
        Ok(self.node("Transpose", &[x], vec![ints("perm", &perm)], out))
    }

    /// The last two axes swapped.
    pub fn swap_last(&mut self, x: Var) -> Answer<Var> {
        let n = self.dims(x).len();
        let Some(m) = n.checked_sub(2) else { refuse!("a matrix of shape {:?}", self.dims(x)) };
        let mut perm: Vec<usize> = (0..n).collect();
        perm.swap(m, n - 1);
        self.transpose(x, &perm)
    }

    /// Zeros (or another value) before and after each axis.
    pub fn pad(&mut self, x: Var, pads: &[(usize, usize)], value: f64) -> Answer<Var> {
        if pads.iter().all(|&p| p == (0, 0)) {
            return Ok(x);
        }
        let dims = self.dims(x);
        if dims.len() != pads.len() {
            refuse!("padding {pads:?} of a tensor of shape {dims:?}");
        }
        let out = dims.iter().zip(pads).map(|(&d, &(b, e))| d + b + e).collect();
        let list: Vec<i64> = pads.iter().map(|p| p.0 as i64).chain(pads.iter().map(|p| p.1 as i64)).collect();
        if self.opset < 11 {
            return Ok(self.node("Pad", &[x], vec![ints("pads", &list), float("value", value as f32)], out));
        }
        let pads = self.ints(&list);
        if value == 0.0 {
            return Ok(self.node("Pad", &[x, pads], vec![], out));
        }
        let value = self.scalar(value)?;
        Ok(self.node("Pad", &[x, pads, value], vec![], out))
    }

    /// Every `step`-th of the indices from `from` on, `n` of them, along each of some axes: `(axis, from, n, step)`.
    pub fn slice(&mut self, x: Var, parts: &[(usize, usize, usize, usize)]) -> Answer<Var> {
        let mut out = self.dims(x).to_vec();
        for &(axis, from, n, step) in parts {
            match out.get_mut(axis) {
                Some(d) if n == 0 || from + (n - 1) * step < *d => *d = n,
                _ => refuse!("{n} indices from {from} on axis {axis} of a tensor of shape {:?}", self.dims(x)),
            }
        }
        if out == self.dims(x) {
            return Ok(x);
        }
        let starts: Vec<i64> = parts.iter().map(|p| p.1 as i64).collect();
        let ends: Vec<i64> =
            parts.iter().map(|p| (if p.2 == 0 { p.1 } else { p.1 + (p.2 - 1) * p.3 + 1 }) as i64).collect();
        let axes: Vec<i64> = parts.iter().map(|p| p.0 as i64).collect();
        let steps: Vec<i64> = parts.iter().map(|p| p.3 as i64).collect();
        if self.opset < 10 {
            // Slices had no steps.
            if steps.iter().any(|&s| s != 1) {
                return parts.iter().try_fold(x, |x, &(axis, from, n, step)| {
                    let indices: Vec<usize> = (0..n).map(|i| from + i * step).collect();
                    self.gather(x, &indices, axis)
                });
            }
            let attributes = vec![ints("starts", &starts), ints("ends", &ends), ints("axes", &axes)];
            return Ok(self.node("Slice", &[x], attributes, out));
        }
        let inputs = [x, self.ints(&starts), self.ints(&ends), self.ints(&axes), self.ints(&steps)];
        Ok(self.node("Slice", &inputs, vec![], out))
    }

    /// Tensors one after the other along an axis.
    pub fn concat(&mut self, all: &[Var], axis: usize) -> Answer<Var> {
        if let [one] = all {
            return Ok(*one);
        }
        let Some(&first) = all.first() else { refuse!("a concatenation of nothing") };
        let mut out = self.dims(first).to_vec();
        let mut total = 0;
        for &v in all {
            let d = self.dims(v);
            let same = d.len() == out.len() && (0..d.len()).all(|a| a == axis || d.get(a) == out.get(a));
            match d.get(axis) {
                Some(n) if same => total += n,
                _ => refuse!("a concatenation of shapes {out:?} and {d:?} on axis {axis}"),
            }
        }
        if let Some(d) = out.get_mut(axis) {
            *d = total;
        }
        Ok(self.node("Concat", all, vec![int("axis", axis as i64)], out))
    }

    /// The given indices along an axis.
    pub fn gather(&mut self, x: Var, indices: &[usize], axis: usize) -> Answer<Var> {
        let mut out = self.dims(x).to_vec();
        match out.get_mut(axis) {
            Some(d) if indices.iter().all(|i| i < d) => *d = indices.len(),
            _ => refuse!("indices on axis {axis} of a tensor of shape {:?}", self.dims(x)),
        }
        let list: Vec<i64> = indices.iter().map(|&i| i as i64).collect();
        let indices = self.ints(&list);
        Ok(self.node("Gather", &[x, indices], vec![int("axis", axis as i64)], out))
    }

    /// The indices of an axis in opposite order.
    pub fn flip(&mut self, x: Var, axis: usize) -> Answer<Var> {
        let n = self.dims(x).get(axis).copied().unwrap_or(0);
        if n == 1 {
            return Ok(x);
        }
        let back: Vec<usize> = (0..n).rev().collect();
        self.gather(x, &back, axis)
    }
}
