//! What is linear along an axis, as a constant matrix.

use super::pool::repeated;
use crate::ops::Answer;
use crate::refuse;
use crate::train::tape::{Tape, Var};

/// Largest number of elements of such a matrix.
const LARGEST: usize = 1 << 24;

/// A matrix of constants, row after row.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    rows: usize,
    columns: usize,
    data: Vec<f64>,
}

impl Matrix {
    /// Zeros.
    ///
    /// # Errors
    /// When there are too many.
    pub fn zeros(rows: usize, columns: usize) -> Answer<Self> {
        match rows.checked_mul(columns) {
            Some(n) if n <= LARGEST => Ok(Matrix { rows, columns, data: vec![0.0; n] }),
            _ => refuse!("a matrix of {rows} × {columns} constants would be too large"),
        }
    }

    /// Adds to an element. Nothing outside.
    pub fn add(&mut self, row: usize, column: usize, v: f64) {
        if let (true, Some(e)) = (column < self.columns, self.data.get_mut(row * self.columns + column)) {
            *e += v;
        }
    }

    /// Rows that each pick one element.
    ///
    /// # Errors
    /// As [`zeros`](Self::zeros).
    pub fn picking(columns: usize, rows: &[usize]) -> Answer<Self> {
        let mut m = Self::zeros(rows.len(), columns)?;
        rows.iter().enumerate().for_each(|(r, &c)| m.add(r, c, 1.0));
        Ok(m)
    }

    /// Rows as columns.
    pub fn transposed(&self) -> Self {
        let data = (0..self.columns).flat_map(|c| (0..self.rows).map(move |r| self.data[r * self.columns + c]));
        Matrix { rows: self.columns, columns: self.rows, data: data.collect() }
    }

    /// The number of columns for each row, if every row is the sum of its own.
    fn runs(&self) -> Option<usize> {
        let n = (self.rows > 0 && self.columns.is_multiple_of(self.rows)).then(|| self.columns / self.rows)?;
        let fits = |(i, &v): (usize, &f64)| {
            let (r, c) = (i / self.columns, i % self.columns);
            v == if c / n == r { 1.0 } else { 0.0 }
        };
        (n > 0 && self.data.iter().enumerate().all(fits)).then_some(n)
    }

    /// The product of the matrix and what stands along an axis.
    ///
    /// # Errors
    /// When the sizes do not fit.
    pub fn along(&self, t: &mut Tape, x: Var, axis: usize) -> Answer<Var> {
        let dims = t.dims(x).to_vec();
        if dims.get(axis) != Some(&self.columns) {
            refuse!("a matrix of {} columns along axis {axis} of {dims:?}", self.columns);
        }
        let mut out = dims.clone();
        out[axis] = self.rows;
        let (outer, inner): (usize, usize) = (dims[..axis].iter().product(), dims[axis + 1..].iter().product());
        if let Some(n) = self.runs() {
            if n == 1 {
                return Ok(x);
            }
            let apart = t.reshape(x, &[outer, self.rows, n, inner])?;
            let sum = t.sum(apart, &[2], false)?;
            return t.reshape(sum, &out);
        }
        let turned = self.transposed();
        if let Some(n) = turned.runs() {
            return repeated(t, x, axis, n);
        }
        let product = if inner == 1 {
            let rows = t.reshape(x, &[outer, self.columns])?;
            let m = t.constant(&[self.columns, self.rows], &turned.data)?;
            t.matmul(rows, m)?
        } else {
            let apart = t.reshape(x, &[outer, self.columns, inner])?;
            let m = t.constant(&[self.rows, self.columns], &self.data)?;
            t.matmul(m, apart)?
        };
        t.reshape(product, &out)
    }
}
