//! Cuts constants along their axes, un-sharing what must differ.

use super::{Cut, edit::Editor};
use crate::channels::{Tensor, TensorId};
use crate::error::{Error, Result};
use crate::onnx::proto::TensorProto;
use crate::onnx::tensor;
use crate::ops::quantized;
use bytes::Bytes;
use rayon::prelude::*;

/// Source bytes that are cut between two releases of mapped pages.
const BATCH_BYTES: usize = 16 << 20;

/// Cuts every constant that loses something.
pub fn cut_all(cut: &Cut, ed: &mut Editor) -> Result<()> {
    let todo: Vec<TensorId> = (0..cut.trace.channels.tensors.len() as u32)
        .map(TensorId)
        .filter(|&t| {
            let t = cut.trace.channels.tensor(t);
            t.source.is_some() && cut.touches(t)
        })
        .collect();
    // In batches, so that the mapped pages of what has been cut need not stay in memory.
    let mut rest = todo.as_slice();
    while !rest.is_empty() {
        let mut bytes = 0usize;
        let fits = rest.iter().take_while(|&&t| {
            let before = bytes;
            let size = cut.trace.channels.tensor(t).dims.iter().fold(4, |n: usize, &d| n.saturating_mul(d));
            bytes = bytes.saturating_add(size);
            before == 0 || bytes <= BATCH_BYTES
        });
        let (batch, next) = rest.split_at(fits.count().max(1));
        let done: Vec<Result<TensorProto>> =
            batch.par_iter().map(|&t| cut_tensor(cut, cut.trace.channels.tensor(t))).collect();
        for (&t, new) in batch.iter().zip(done) {
            place(cut, ed, cut.trace.channels.tensor(t), new?);
        }
        cut.a.graph.model.release_pages();
        rest = next;
    }
    Ok(())
}

/// Puts new data where all of the tensor's readers find it.
pub fn place(cut: &Cut, ed: &mut Editor, t: &Tensor, new: TensorProto) {
    let Some(source) = t.source else { return };
    let g = cut.a.graph;
    if t.key == g.value(source).name {
        ed.replaced.insert(source, new);
        return;
    }
    let reader = t.readers.first().map_or_else(String::new, |&(n, _)| g.name(n));
    let name = ed.add(new, &format!("{}.{}", g.value(source).name, reader.trim_start_matches('/')));
    for &(node, slot) in &t.readers {
        ed.set_input(node, slot, &name);
    }
}

fn kept(n: usize, gone: &[usize]) -> Vec<usize> {
    let mut gone = gone.iter().peekable();
    (0..n)
        .filter(|i| {
            if gone.peek() == Some(&i) {
                gone.next();
                false
            } else {
                true
            }
        })
        .collect()
}

fn source<'a>(cut: &Cut<'a>, t: &Tensor) -> Result<&'a TensorProto> {
    t.source
        .and_then(|s| cut.a.graph.constant(s))
        .ok_or_else(|| Error::Internal(format!("constant {:?} has no data", t.key)))
}

fn cut_tensor(cut: &Cut, t: &Tensor) -> Result<TensorProto> {
    let proto = source(cut, t)?;
    let mut plain: Vec<(usize, Vec<usize>)> = Vec::new();
    let mut folded = None;
    for (i, axis) in t.axes.iter().enumerate() {
        let Some(id) = *axis else { continue };
        let gone = cut.on(id);
        if gone.is_empty() {
            continue;
        }
        let axis = cut.trace.channels.axis(id);
        if axis.fold > 1 {
            folded = Some((axis.fold, axis.len / axis.fold, gone));
        } else {
            plain.push((i, kept(axis.len, gone)));
        }
    }
    match folded {
        None => Ok(tensor::select_many(proto, &plain)?),
        Some((groups, block, gone)) => cut_grouped(t, proto, groups, block, gone, plain),
    }
}

/// The indices that stay in each group of a grouped convolution's second weight axis.
pub(super) fn kept_per_group(groups: usize, block: usize, gone: &[usize]) -> Vec<Vec<usize>> {
    (0..groups).map(|g| (0..block).filter(|j| gone.binary_search(&(g * block + j)).is_err()).collect()).collect()
}

/// Every group keeps its own indices of axis 1; the rows of axis 0 are divided among the groups.
fn cut_grouped(
    t: &Tensor,
    proto: &TensorProto,
    groups: usize,
    block: usize,
    gone: &[usize],
    plain: Vec<(usize, Vec<usize>)>,
) -> Result<TensorProto> {
    let rows = *t.dims.first().unwrap_or(&0);
    let mut other = plain;
    let kept_rows = match other.iter().position(|(i, _)| *i == 0) {
        Some(p) => other.remove(p).1,
        None => (0..rows).collect(),
    };
    let inner = kept_per_group(groups, block, gone);
    let per = rows / groups.max(1);
    let mut data = Vec::new();
    let mut out: Option<TensorProto> = None;
    for (g, inner) in inner.iter().enumerate() {
        let mine: Vec<usize> = kept_rows.iter().copied().filter(|r| r / per.max(1) == g).collect();
        let mut axes = other.clone();
        axes.extend([(0, mine), (1, inner.clone())]);
        let part = tensor::select_many(proto, &axes)?;
        data.extend_from_slice(&tensor::raw_le(&part)?);
        match &mut out {
            None => out = Some(part),
            Some(o) if o.dims.get(1..) == part.dims.get(1..) && !o.dims.is_empty() => {
                o.dims[0] += part.dims.first().copied().unwrap_or(0);
            }
            Some(_) => {
                return Err(Error::Internal(format!(
                    "the groups of weight {:?} keep different numbers of channels",
                    t.key
                )));
            }
        }
    }
    let mut out = out.ok_or_else(|| Error::Internal(format!("weight {:?} has no groups", t.key)))?;
    out.raw_data = Some(Bytes::from(data));
    Ok(out)
}

/// The tensor with zeros at the removed indices of one axis: zero points where it is quantised.
pub(super) fn zeroed(cut: &Cut, t: &Tensor, base: &TensorProto, axis: usize) -> Result<TensorProto> {
    let Some(id) = t.axes.get(axis).copied().flatten() else { return Ok(base.clone()) };
    let info = cut.trace.channels.axis(id);
    let size = tensor::elem_size(base.data_type())
        .ok_or_else(|| Error::Internal(format!("weight {:?} has an element type that cannot be masked", t.key)))?;
    let mut raw = tensor::raw_le(base)?.to_vec();
    let dims = tensor::dims(base)?;
    let inner: usize = dims[axis + 1..].iter().product::<usize>() * size;
    let stored = dims[axis];
    let outer: usize = dims[..axis].iter().product();
    let per_group = (outer / info.fold.max(1)).max(1);
    let grid = if tensor::is_float(base.data_type()) { None } else { quantized::grid(cut.a.graph, t) };
    for &i in cut.on(id) {
        // With a fold, index `i` belongs to group `i / stored` and only that group's rows.
        let (group, local) = if info.fold > 1 { (i / stored, i % stored) } else { (0, i) };
        let rows = if info.fold > 1 { group * per_group..(group + 1) * per_group } else { 0..outer };
        for o in rows {
            let at = (o * stored + local) * inner;
            let Some(slice) = raw.get_mut(at..at + inner) else { continue };
            let Some(grid) = &grid else {
                slice.fill(0);
                continue;
            };
            for (k, element) in slice.chunks_exact_mut(size).enumerate() {
                element.copy_from_slice(&grid.at(&dims, at / size + k).1.to_le_bytes()[..size]);
            }
        }
    }
    Ok(TensorProto {
        raw_data: Some(Bytes::from(raw)),
        float_data: vec![],
        double_data: vec![],
        int32_data: vec![],
        int64_data: vec![],
        uint64_data: vec![],
        ..base.clone()
    })
}
