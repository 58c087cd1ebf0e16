//! Cutting a tensor down to chosen indices, the work of pruning. Bytewise, so that any element type will do.

use bytes::Bytes;

use super::error::OnnxError;
use super::proto::TensorProto;
use super::tensor::{dims, elem_size, packed, raw_le, replace, unpacked};

/// The tensor with only the indices `keep` of `axis`, in that order.
pub fn select(t: &TensorProto, axis: usize, keep: &[usize]) -> Result<TensorProto, OnnxError> {
    cut(t, &[(axis, keep)])
}

/// [`select`] on several different axes, in one pass over the data.
pub fn select_many(t: &TensorProto, axes: &[(usize, Vec<usize>)]) -> Result<TensorProto, OnnxError> {
    let axes: Vec<_> = axes.iter().map(|(axis, keep)| (*axis, keep.as_slice())).collect();
    cut(t, &axes)
}

/// One axis as the copy sees it.
struct Axis<'a> {
    extent: usize,
    /// Bytes from one index to the next.
    stride: usize,
    keep: Option<&'a [usize]>,
}

fn cut(t: &TensorProto, axes: &[(usize, &[usize])]) -> Result<TensorProto, OnnxError> {
    if let Some(bytes) = unpacked(t)? {
        return packed(t, &cut(&bytes, axes)?);
    }
    let mut shape = dims(t)?;
    let raw = raw_le(t)?;
    let size = elem_size(t.data_type()).unwrap_or(1);
    let too_large = || OnnxError::tensor(t, "the selection has more bytes than can be counted");

    let mut plan: Vec<Axis> = shape.iter().map(|&extent| Axis { extent, stride: 0, keep: None }).collect();
    for &(axis, keep) in axes {
        let rank = shape.len();
        let (Some(slot), Some(out)) = (plan.get_mut(axis), shape.get_mut(axis)) else {
            return Err(OnnxError::tensor(t, format!("has {rank} axes, none of number {axis}")));
        };
        if let Some(bad) = keep.iter().find(|&&k| k >= slot.extent) {
            return Err(OnnxError::tensor(t, format!("axis {axis} has {} indices, none of number {bad}", slot.extent)));
        }
        if slot.keep.replace(keep).is_some() {
            return Err(OnnxError::tensor(t, format!("axis {axis} is selected from twice")));
        }
        *out = keep.len();
    }
    let mut total = size;
    for &d in &shape {
        total = if d == 0 { 0 } else { total.checked_mul(d).ok_or_else(too_large)? };
        if total == 0 {
            return Ok(replace(t, &shape, Bytes::new()));
        }
    }
    // No extent is 0 from here on, so the strides are bounded by the length of the data.
    let mut stride = size;
    for axis in plan.iter_mut().rev() {
        axis.stride = stride;
        stride = stride.checked_mul(axis.extent).ok_or_else(too_large)?;
    }
    let whole =
        |axis: &Axis| axis.keep.is_none_or(|keep| keep.len() == axis.extent && keep.iter().copied().eq(0..axis.extent));
    while plan.last().is_some_and(whole) {
        plan.pop();
    }
    let Some((last, outer)) = plan.split_last() else {
        return Ok(replace(t, &shape, raw));
    };
    let keep = last.keep.unwrap_or_default();
    let mut out = vec![0; total];
    let row =
        Row { len: last.extent * last.stride, out_len: keep.len() * last.stride, copy: Copy::new(last.stride, keep) };
    copy(&raw, &mut out, outer, &row)
        .ok_or_else(|| OnnxError::tensor(t, "the data ended before the shape did (internal error)"))?;
    Ok(replace(t, &shape, out.into()))
}

/// The innermost axis that is cut, with all that lies inside it.
struct Row<'a> {
    len: usize,
    out_len: usize,
    copy: Copy<'a>,
}

/// How a row is copied.
enum Copy<'a> {
    /// Single elements or small kernels, scattered.
    Gather(&'a [usize], usize),
    /// (first byte, bytes) of each contiguous stretch.
    Runs(Vec<(usize, usize)>),
}

impl<'a> Copy<'a> {
    fn new(stride: usize, keep: &'a [usize]) -> Self {
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for &k in keep {
            match runs.last_mut() {
                Some((first, len)) if *first + *len == k * stride => *len += stride,
                _ => runs.push((k * stride, stride)),
            }
        }
        // Fixed-size copies beat calls of memcpy where the stretches are short.
        let short = runs.len().saturating_mul(48) > keep.len().saturating_mul(stride);
        if short && matches!(stride, 1 | 2 | 4 | 8 | 16 | 18 | 36) {
            Self::Gather(keep, stride)
        } else {
            Self::Runs(runs)
        }
    }

    fn row(&self, src: &[u8], out: &mut [u8]) -> Option<()> {
        match self {
            Self::Gather(keep, 1) => gather::<1>(src, out, keep),
            Self::Gather(keep, 2) => gather::<2>(src, out, keep),
            Self::Gather(keep, 4) => gather::<4>(src, out, keep),
            Self::Gather(keep, 8) => gather::<8>(src, out, keep),
            Self::Gather(keep, 16) => gather::<16>(src, out, keep),
            Self::Gather(keep, 18) => gather::<18>(src, out, keep),
            Self::Gather(keep, 36) => gather::<36>(src, out, keep),
            Self::Gather(..) => None,
            Self::Runs(runs) => {
                let mut rest = out;
                for &(first, len) in runs {
                    let (head, tail) = rest.split_at_mut_checked(len)?;
                    head.copy_from_slice(src.get(first..first.checked_add(len)?)?);
                    rest = tail;
                }
                Some(())
            }
        }
    }
}

fn gather<const N: usize>(src: &[u8], out: &mut [u8], keep: &[usize]) -> Option<()> {
    let src = src.as_chunks::<N>().0;
    for (to, &k) in out.as_chunks_mut::<N>().0.iter_mut().zip(keep) {
        *to = *src.get(k)?;
    }
    Some(())
}

/// Copies what `axes` keep of `src` and returns the filled part's length.
fn copy(src: &[u8], out: &mut [u8], axes: &[Axis], row: &Row) -> Option<usize> {
    let Some((axis, inner)) = axes.split_first() else {
        row.copy.row(src.get(..row.len)?, out.get_mut(..row.out_len)?)?;
        return Some(row.out_len);
    };
    let mut done = 0;
    let mut one = |k: usize| -> Option<()> {
        done += copy(src.get(k * axis.stride..)?, out.get_mut(done..)?, inner, row)?;
        Some(())
    };
    match axis.keep {
        Some(keep) => keep.iter().try_for_each(|&k| one(k))?,
        None => (0..axis.extent).try_for_each(one)?,
    }
    Some(done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::tensor::{from_f32, from_i64, to_f32, to_i64};

    fn naive(shape: &[usize], cuts: &[(usize, Vec<usize>)]) -> Vec<i64> {
        let mut out = Vec::new();
        let total: usize = shape.iter().product();
        let keeps: Vec<Vec<usize>> = (0..shape.len())
            .map(|a| cuts.iter().find(|c| c.0 == a).map_or((0..shape[a]).collect(), |c| c.1.clone()))
            .collect();
        let kept: usize = keeps.iter().map(Vec::len).product();
        for flat in 0..kept {
            let (mut rest, mut index, mut stride) = (flat, 0, 1);
            for a in (0..shape.len()).rev() {
                index += keeps[a][rest % keeps[a].len()] * stride;
                rest /= keeps[a].len();
                stride *= shape[a];
            }
            assert!(index < total);
            out.push(index as i64);
        }
        out
    }

    #[test]
    fn agrees_with_an_element_by_element_selection() {
        let shape = [4, 5, 3, 2];
        let values: Vec<i64> = (0..120).collect();
        let t = from_i64("w", &shape, &values);
        let cases: Vec<Vec<(usize, Vec<usize>)>> = vec![
            vec![],
            vec![(0, vec![0, 1, 2, 3])],
            vec![(0, vec![3, 1])],
            vec![(1, vec![0, 1, 4])],
            vec![(3, vec![1])],
            vec![(0, vec![1, 2]), (1, vec![4, 0, 2])],
            vec![(3, vec![1, 0]), (1, vec![2]), (0, vec![0, 3])],
            vec![(2, vec![0, 2]), (0, vec![0, 0, 1])],
        ];
        for cuts in cases {
            let cut = select_many(&t, &cuts).unwrap();
            assert_eq!(to_i64(&cut).unwrap(), naive(&shape, &cuts), "{cuts:?}");
            for (axis, keep) in &cuts {
                assert_eq!(cut.dims[*axis] as usize, keep.len());
            }
        }
    }

    #[test]
    fn every_kernel_size_and_type() {
        for inner in [1, 2, 4, 9, 25] {
            let shape = [6, 8, inner];
            let values: Vec<f32> = (0..48 * inner).map(|v| v as f32).collect();
            let cuts = vec![(0, vec![0, 2, 3]), (1, vec![0, 1, 2, 5, 7])];
            let wanted: Vec<f32> = naive(&shape, &cuts).iter().map(|&i| i as f32).collect();
            let t = from_f32("w", &shape, &values);
            assert_eq!(to_f32(&select_many(&t, &cuts).unwrap()).unwrap(), wanted);
            let half: Vec<f64> = values.iter().map(|&v| f64::from(v)).collect();
            let like = TensorProto { data_type: Some(10), ..t };
            let t = crate::onnx::tensor::from_f64_like(&like, &shape, &half).unwrap();
            assert_eq!(to_f32(&select_many(&t, &cuts).unwrap()).unwrap(), wanted);
        }
    }

    #[test]
    fn elements_of_half_a_byte() {
        // 0, 1, 2 / 3, 4, 15
        let t = TensorProto {
            dims: vec![2, 3],
            data_type: Some(crate::onnx::proto::tensor_proto::DataType::Int4.into()),
            raw_data: Some(Bytes::from_static(&[0x10, 0x32, 0xf4])),
            ..TensorProto::default()
        };
        let cut = select(&t, 1, &[0, 2]).unwrap();
        assert_eq!((cut.dims.as_slice(), cut.data_type), ([2, 2].as_slice(), t.data_type));
        assert_eq!(cut.raw_data.as_deref(), Some([0x20, 0xf3].as_slice()));
        assert_eq!(to_f32(&cut).unwrap(), [0., 2., 3., -1.]);
        // An odd number of elements leaves half a byte, which is 0; the other place for packed data is the list of integers.
        let listed = TensorProto { raw_data: None, int32_data: vec![0x10, 0x32, 0xf4], ..t };
        assert_eq!(select(&listed, 0, &[1]).unwrap().raw_data.as_deref(), Some([0x43, 0x0f].as_slice()));
        let short = TensorProto { int32_data: vec![0], ..listed };
        assert!(select(&short, 0, &[1]).is_err());
    }

    #[test]
    fn a_full_selection_shares_the_bytes() {
        let t = from_f32("w", &[2, 3], &[0., 1., 2., 3., 4., 5.]);
        let cut = select(&t, 1, &[0, 1, 2]).unwrap();
        assert_eq!(cut.raw_data.as_ref().unwrap().as_ptr(), t.raw_data.as_ref().unwrap().as_ptr());
    }

    #[test]
    fn keeps_what_is_not_data() {
        let mut t = from_f32("w", &[2], &[1., 2.]);
        t.doc_string = Some("doc".into());
        t.data_location = Some(1);
        t.metadata_props = vec![Default::default()];
        let cut = select(&t, 0, &[1]).unwrap();
        assert_eq!((cut.name(), cut.doc_string()), ("w", "doc"));
        assert_eq!((cut.data_location, cut.metadata_props.len()), (Some(1), 1));
    }

    #[test]
    fn refuses_what_is_not_there() {
        let t = from_f32("conv.w", &[2, 3], &[0.; 6]);
        let message = |r: Result<TensorProto, OnnxError>| r.unwrap_err().to_string();
        assert_eq!(message(select(&t, 2, &[0])), "tensor 'conv.w': has 2 axes, none of number 2");
        assert_eq!(message(select(&t, 1, &[3])), "tensor 'conv.w': axis 1 has 3 indices, none of number 3");
        assert!(message(select_many(&t, &[(0, vec![0]), (0, vec![1])])).contains("twice"));
        let short = TensorProto { raw_data: Some(Bytes::from_static(&[0; 20])), ..t };
        assert!(message(select(&short, 0, &[0])).contains("takes 24 bytes, but the data has 20"));
    }

    #[test]
    fn nothing_left_is_an_empty_tensor_at_once() {
        let t = from_f32("w", &[3, 2], &[0.; 6]);
        assert_eq!(select(&t, 0, &[]).unwrap().dims, [0, 2]);
        let hostile = TensorProto { dims: vec![1 << 60, 0, 2], raw_data: Some(Bytes::new()), ..t };
        assert_eq!(select(&hostile, 2, &[1]).unwrap().dims, [1 << 60, 0, 1]);
    }
}
