//! Parameter values for the criteria, read from the file's tensors; removed indices read as zero, and quantised weights as
//! the real numbers that they stand for.

use super::model::{Channels, TensorId};
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::onnx::tensor;
use crate::ops::quantized;
use crate::score::ParamReader;
use std::borrow::Cow;

/// Elements of a tensor whose mapped pages are let go once it has been read.
const LARGE: usize = 1 << 18;

/// Reads parameters, as they are or as they would be with some indices removed.
pub struct Weights<'a> {
    /// The graph that holds them.
    pub graph: &'a Graph<'a>,
    /// The trace.
    pub channels: &'a Channels,
    /// Per axis: indices that read as zero.
    pub removed: &'a [Vec<usize>],
}

impl ParamReader for Weights<'_> {
    fn dims(&self, t: TensorId) -> &[usize] {
        &self.channels.tensor(t).dims
    }

    fn values(&self, id: TensorId) -> Result<Cow<'_, [f32]>> {
        let t = self.channels.tensor(id);
        let proto = t
            .source
            .and_then(|s| self.graph.constant(s))
            .ok_or_else(|| Error::Internal(format!("{:?} holds no parameters", t.key)))?;
        let mut values = tensor::to_f32(proto)?;
        if values.len() > LARGE {
            self.graph.model.release_pages();
        }
        if !tensor::is_float(t.elem_type)
            && let Some(grid) = quantized::grid(self.graph, t)
        {
            for (k, v) in values.iter_mut().enumerate() {
                let (scale, zero) = grid.at(&t.dims, k);
                *v = (*v - zero as f32) * scale;
            }
        }
        for (a, axis) in t.axes.iter().enumerate() {
            let Some(axis) = *axis else { continue };
            let Some(gone) = self.removed.get(axis.0 as usize).filter(|g| !g.is_empty()) else { continue };
            let fold = self.channels.axis(axis).fold;
            let inner: usize = t.dims[a + 1..].iter().product();
            let stored = t.dims[a];
            let outer: usize = t.dims[..a].iter().product();
            let rows = outer / fold.max(1);
            for &i in gone {
                let (group, local) = if fold > 1 { (i / stored, i % stored) } else { (0, i) };
                let span = if fold > 1 { group * rows..(group + 1) * rows } else { 0..outer };
                for o in span {
                    let at = (o * stored + local) * inner;
                    if let Some(s) = values.get_mut(at..at + inner) {
                        s.fill(0.0);
                    }
                }
            }
        }
        Ok(Cow::Owned(values))
    }
}
