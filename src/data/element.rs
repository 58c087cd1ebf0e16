//! Elements as files hold them, and their way into what a runtime takes.

use super::preprocess::Values;
use crate::onnx::proto::tensor_proto::DataType;
use crate::runtime::Data;
use bytes::Bytes;
use half::{bf16, f16};

/// The type of an element in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub(super) enum Kind {
    Bool,
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F16,
    Bf16,
    F32,
    F64,
}

impl Kind {
    pub fn width(self) -> usize {
        match self {
            Self::Bool | Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 | Self::F16 | Self::Bf16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    pub fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::Bf16 | Self::F32 | Self::F64)
    }

    pub fn of_onnx(data_type: i32) -> Option<Self> {
        Some(match DataType::try_from(data_type).ok()? {
            DataType::Bool => Self::Bool,
            DataType::Uint8 => Self::U8,
            DataType::Int8 => Self::I8,
            DataType::Uint16 => Self::U16,
            DataType::Int16 => Self::I16,
            DataType::Uint32 => Self::U32,
            DataType::Int32 => Self::I32,
            DataType::Uint64 => Self::U64,
            DataType::Int64 => Self::I64,
            DataType::Float16 => Self::F16,
            DataType::Bfloat16 => Self::Bf16,
            DataType::Float => Self::F32,
            DataType::Double => Self::F64,
            _ => return None,
        })
    }

    /// The elements as `f64`, in order.
    pub fn floats(self, bytes: &[u8]) -> Vec<f64> {
        match self {
            Self::F16 => decode(bytes, |b| f16::from_le_bytes(b).to_f64()),
            Self::Bf16 => decode(bytes, |b| bf16::from_le_bytes(b).to_f64()),
            Self::F32 => decode(bytes, |b| f64::from(f32::from_le_bytes(b))),
            Self::F64 => decode(bytes, f64::from_le_bytes),
            Self::U8 => decode(bytes, |[b]| f64::from(b)),
            _ => self.integers(bytes).into_iter().map(|v| v as f64).collect(),
        }
    }

    /// The elements of an integer or boolean type, in order. Nothing for floats.
    pub fn integers(self, bytes: &[u8]) -> Vec<i128> {
        match self {
            Self::Bool => decode(bytes, |[b]| i128::from(b != 0)),
            Self::U8 => decode(bytes, |[b]| b.into()),
            Self::I8 => decode(bytes, |b| i8::from_le_bytes(b).into()),
            Self::U16 => decode(bytes, |b| u16::from_le_bytes(b).into()),
            Self::I16 => decode(bytes, |b| i16::from_le_bytes(b).into()),
            Self::U32 => decode(bytes, |b| u32::from_le_bytes(b).into()),
            Self::I32 => decode(bytes, |b| i32::from_le_bytes(b).into()),
            Self::U64 => decode(bytes, |b| u64::from_le_bytes(b).into()),
            Self::I64 => decode(bytes, |b| i64::from_le_bytes(b).into()),
            Self::F16 | Self::Bf16 | Self::F32 | Self::F64 => Vec::new(),
        }
    }
}

fn decode<T, const N: usize>(bytes: &[u8], f: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|&chunk| f(chunk)).collect()
}

/// An array as it lies in its file: little-endian, row-major.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub dims: Vec<usize>,
    pub kind: Kind,
    pub bytes: Bytes,
}

impl Stored {
    /// Bytes that so many elements of a kind take.
    pub fn size(dims: &[usize], kind: Kind) -> Option<usize> {
        dims.iter().try_fold(kind.width(), |n, &d| n.checked_mul(d))
    }

    /// The array, if the bytes are as many as it takes.
    pub fn new(dims: Vec<usize>, kind: Kind, bytes: Bytes) -> Result<Self, String> {
        match Self::size(&dims, kind) {
            Some(size) if size == bytes.len() => Ok(Self { dims, kind, bytes }),
            Some(size) => Err(format!("shape {dims:?} takes {size} bytes, but there are {}", bytes.len())),
            None => Err(format!("shape {dims:?} has more elements than can be counted")),
        }
    }

    /// The extents of one sample.
    pub fn sample_dims(&self) -> &[usize] {
        self.dims.get(1..).unwrap_or_default()
    }

    /// The bytes of one sample; none beyond the last.
    pub fn sample(&self, index: usize) -> &[u8] {
        let size = Self::size(self.sample_dims(), self.kind).unwrap_or(0);
        let range = index.checked_mul(size).and_then(|from| Some(from..from.checked_add(size)?));
        range.and_then(|r| self.bytes.get(r)).unwrap_or_default()
    }

    /// Row-major from column-major (Fortran's order), where the bytes are in the latter.
    pub fn row_major(self) -> Self {
        let width = self.kind.width();
        if self.dims.len() < 2 || self.bytes.is_empty() {
            return self;
        }
        // Stride of each axis in the source, in elements.
        let mut stride = 1usize;
        let strides: Vec<usize> = self
            .dims
            .iter()
            .map(|&d| {
                let s = stride;
                stride = stride.saturating_mul(d);
                s
            })
            .collect();
        let mut at = vec![0usize; self.dims.len()];
        let mut source = 0usize;
        let mut out = Vec::with_capacity(self.bytes.len());
        for _ in 0..self.bytes.len() / width {
            let from = source * width;
            out.extend_from_slice(self.bytes.get(from..from + width).unwrap_or_default());
            for ((i, &extent), &stride) in at.iter_mut().zip(&self.dims).zip(&strides).rev() {
                *i += 1;
                source += stride;
                if *i < extent {
                    break;
                }
                source -= stride * extent;
                *i = 0;
            }
        }
        Self { bytes: out.into(), ..self }
    }
}

/// How the elements of one sample are arranged: channels first or last, in the file and for the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arrangement {
    pub channels: usize,
    pub source_last: bool,
    pub target_last: bool,
}

impl Arrangement {
    /// For each element that the model wants, in order: its channel and the element's place in the file.
    fn walk(self, len: usize, reverse: bool, mut f: impl FnMut(usize, usize)) {
        let c = self.channels.max(1);
        let s = len / c;
        let mut visit = |channel: usize, position: usize| {
            let from = if reverse { c - 1 - channel } else { channel };
            f(channel, if self.source_last { position * c + from } else { from * s + position });
        };
        if self.target_last {
            (0..s).for_each(|position| (0..c).for_each(|channel| visit(channel, position)));
        } else {
            (0..c).for_each(|channel| (0..s).for_each(|position| visit(channel, position)));
        }
    }
}

/// No elements of a model's type.
pub(super) fn empty(elem_type: i32) -> Option<Data> {
    Some(match DataType::try_from(elem_type).ok()? {
        DataType::Float => Data::F32(Vec::new()),
        DataType::Double => Data::F64(Vec::new()),
        DataType::Float16 => Data::F16(Vec::new()),
        DataType::Int64 => Data::I64(Vec::new()),
        DataType::Int32 => Data::I32(Vec::new()),
        DataType::Uint8 => Data::U8(Vec::new()),
        DataType::Int8 => Data::I8(Vec::new()),
        DataType::Bool => Data::Bool(Vec::new()),
        _ => return None,
    })
}

/// Whether it holds floats.
pub(super) fn is_float(data: &Data) -> bool {
    matches!(data, Data::F32(_) | Data::F64(_) | Data::F16(_))
}

/// Appends; the types are the same.
pub(super) fn append(all: &mut Data, more: Data) {
    match (all, more) {
        (Data::F32(a), Data::F32(mut b)) => a.append(&mut b),
        (Data::F64(a), Data::F64(mut b)) => a.append(&mut b),
        (Data::F16(a), Data::F16(mut b)) => a.append(&mut b),
        (Data::I64(a), Data::I64(mut b)) => a.append(&mut b),
        (Data::I32(a), Data::I32(mut b)) => a.append(&mut b),
        (Data::U8(a), Data::U8(mut b)) => a.append(&mut b),
        (Data::I8(a), Data::I8(mut b)) => a.append(&mut b),
        (Data::Bool(a), Data::Bool(mut b)) => a.append(&mut b),
        _ => debug_assert!(false, "one input has elements of two types"),
    }
}

/// Prepares one sample. `like` says which type comes out. The error is why, without the place.
pub(super) fn prepare(
    bytes: &[u8],
    kind: Kind,
    order: Arrangement,
    values: &Values,
    like: &Data,
) -> Result<Data, String> {
    let len = bytes.len() / kind.width();
    let in_place = !values.reverse && (order.source_last == order.target_last || order.channels == 1);
    if values.is_identity() && in_place {
        // Most data is already what the model wants.
        match (kind, like) {
            (Kind::F32, Data::F32(_)) => {
                return finite(decode(bytes, f32::from_le_bytes), f32::is_finite).map(Data::F32);
            }
            (Kind::U8, Data::U8(_)) => return Ok(Data::U8(bytes.to_vec())),
            _ => {}
        }
    }
    if values.is_identity() && !kind.is_float() && !is_float(like) {
        // Not by way of floats, which have no room for every 64-bit integer.
        let source = kind.integers(bytes);
        let mut out: Vec<i128> = Vec::with_capacity(len);
        order.walk(len, values.reverse, |_, at| out.extend(source.get(at)));
        return integers(out.into_iter(), like);
    }
    let source = kind.floats(bytes);
    let mut out: Vec<f64> = Vec::with_capacity(len);
    let channels: Vec<(f64, f64)> = (0..order.channels.max(1)).map(|c| values.of_channel(c)).collect();
    order.walk(len, values.reverse, |c, at| {
        if let (Some(&x), Some(&(mean, std))) = (source.get(at), channels.get(c)) {
            out.push((x * values.scale - mean) / std);
        }
    });
    match like {
        Data::F64(_) => finite(out, f64::is_finite).map(Data::F64),
        Data::F32(_) => finite(out, f64::is_finite)
            .and_then(|v| finite(v.iter().map(|&x| x as f32).collect(), f32::is_finite))
            .map(Data::F32),
        Data::F16(_) => finite(out, f64::is_finite)
            .and_then(|v| finite(v.iter().map(|&x| f16::from_f64(x)).collect(), f16::is_finite))
            .map(Data::F16),
        _ => {
            let whole = finite(out, f64::is_finite)?;
            if let Some(x) = whole.iter().find(|x| !values.told && x.fract() != 0.0) {
                return Err(format!("the value {x} is not an integer, which the model wants"));
            }
            integers(whole.into_iter().map(|x| x.round_ties_even() as i128), like)
        }
    }
}

fn finite<T: Copy + std::fmt::Display>(values: Vec<T>, ok: impl Fn(T) -> bool) -> Result<Vec<T>, String> {
    match values.iter().position(|&x| !ok(x)) {
        None => Ok(values),
        Some(at) => Err(match values.get(at) {
            Some(x) => format!("element {at} is {x}, not a finite number of the model's type"),
            None => "a value is not finite".to_owned(),
        }),
    }
}

fn integers(values: impl Iterator<Item = i128>, like: &Data) -> Result<Data, String> {
    fn all<T: TryFrom<i128>>(values: impl Iterator<Item = i128>, name: &str) -> Result<Vec<T>, String> {
        let fits = |v| T::try_from(v).map_err(|_| format!("the value {v} is out of the range of {name}"));
        values.map(fits).collect()
    }
    Ok(match like {
        Data::I64(_) => Data::I64(all(values, "INT64")?),
        Data::I32(_) => Data::I32(all(values, "INT32")?),
        Data::U8(_) => Data::U8(all(values, "UINT8")?),
        Data::I8(_) => Data::I8(all(values, "INT8")?),
        Data::Bool(_) => {
            let truth = |v| match v {
                0 => Ok(false),
                1 => Ok(true),
                v => Err(format!("the value {v} is neither 0 nor 1, and the model wants booleans")),
            };
            Data::Bool(values.map(truth).collect::<Result<_, _>>()?)
        }
        Data::F64(_) => Data::F64(values.map(|v| v as f64).collect()),
        Data::F32(_) => Data::F32(values.map(|v| v as f32).collect()),
        Data::F16(_) => Data::F16(values.map(|v| f16::from_f64(v as f64)).collect()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::preprocess::{ChannelOrder, Preprocess};

    const FLAT: Arrangement = Arrangement { channels: 1, source_last: false, target_last: false };

    #[test]
    fn arithmetic_is_that_of_the_formula() {
        // Two pixels of three channels, channels last in the file and first for the model.
        let order = Arrangement { channels: 3, source_last: true, target_last: false };
        let options = Preprocess {
            mean: Some(vec![0.5, 0.25, 0.0]),
            std: Some(vec![0.5, 1.0, 2.0]),
            scale: Some(0.5),
            ..Default::default()
        };
        let data = prepare(&[1, 2, 3, 4, 5, 6], Kind::U8, order, &options.values(true, true), &Data::F32(vec![]));
        // Channel 0: 1, 4; channel 1: 2, 5; channel 2: 3, 6.
        assert_eq!(data, Ok(Data::F32(vec![0.0, 3.0, 0.75, 2.25, 0.75, 1.5])));
        let reversed = Preprocess { channel_order: Some(ChannelOrder::Bgr), ..options };
        let data = prepare(&[1, 2, 3, 4, 5, 6], Kind::U8, order, &reversed.values(true, true), &Data::F64(vec![]));
        // The mean is in the model's order: channel 0 is now 3, 6.
        assert_eq!(data, Ok(Data::F64(vec![2.0, 5.0, 0.75, 2.25, 0.25, 1.0])));
    }

    #[test]
    fn arrangements_move_channels() {
        let none = Values::unchanged();
        let order = Arrangement { channels: 2, source_last: false, target_last: true };
        let data = prepare(&[1, 2, 3, 4, 5, 6], Kind::U8, order, &none, &Data::I32(vec![]));
        assert_eq!(data, Ok(Data::I32(vec![1, 4, 2, 5, 3, 6])));
    }

    #[test]
    fn types_are_converted_or_refused() {
        let none = Values::unchanged();
        let to = |bytes: &[u8], kind, like| prepare(bytes, kind, FLAT, &none, &like);
        let big = i64::MAX - 1;
        assert_eq!(to(&big.to_le_bytes(), Kind::I64, Data::I64(vec![])), Ok(Data::I64(vec![big])));
        assert_eq!(to(&300u16.to_le_bytes(), Kind::U16, Data::I32(vec![])), Ok(Data::I32(vec![300])));
        assert_eq!(to(&[0, 7], Kind::Bool, Data::F32(vec![])), Ok(Data::F32(vec![0.0, 1.0])));
        assert_eq!(to(&[0, 1], Kind::U8, Data::Bool(vec![])), Ok(Data::Bool(vec![false, true])));
        let half = f16::from_f32(1.5);
        assert_eq!(to(&half.to_le_bytes(), Kind::F16, Data::F64(vec![])), Ok(Data::F64(vec![1.5])));
        assert_eq!(to(&1.5f32.to_le_bytes(), Kind::F32, Data::F16(vec![])), Ok(Data::F16(vec![half])));
        let refused = |bytes: &[u8], kind, like| to(bytes, kind, like).unwrap_err();
        assert!(refused(&[2], Kind::U8, Data::Bool(vec![])).contains("2 is neither 0 nor 1"));
        assert!(
            refused(&300i32.to_le_bytes(), Kind::I32, Data::U8(vec![])).contains("300 is out of the range of UINT8")
        );
        assert!(refused(&1.5f32.to_le_bytes(), Kind::F32, Data::I64(vec![])).contains("1.5 is not an integer"));
        assert!(refused(&f32::NAN.to_le_bytes(), Kind::F32, Data::F32(vec![])).contains("element 0 is NaN"));
        assert!(refused(&1e39f64.to_le_bytes(), Kind::F64, Data::F32(vec![])).contains("inf"));
        assert!(refused(&1e5f32.to_le_bytes(), Kind::F32, Data::F16(vec![])).contains("inf"));
    }

    #[test]
    fn told_arithmetic_is_rounded_for_integers() {
        let values = Preprocess { scale: Some(0.5), ..Default::default() }.values(true, false);
        let data = prepare(&[1, 3, 4], Kind::U8, FLAT, &values, &Data::U8(vec![]));
        assert_eq!(data, Ok(Data::U8(vec![0, 2, 2])));
    }

    #[test]
    fn fortran_order_is_undone() {
        // [[[0,1],[2,3],[4,5]],[[6,7],[8,9],[10,11]]] of shape 2×3×2 in column-major order.
        let bytes: Vec<u8> = vec![0, 6, 2, 8, 4, 10, 1, 7, 3, 9, 5, 11];
        let stored = Stored::new(vec![2, 3, 2], Kind::U8, bytes.into()).unwrap().row_major();
        assert_eq!(stored.bytes.to_vec(), (0..12).collect::<Vec<u8>>());
        assert_eq!(stored.sample(1), [6, 7, 8, 9, 10, 11]);
        assert!(stored.sample(2).is_empty() && stored.sample(usize::MAX).is_empty());
    }

    #[test]
    fn sizes_must_fit() {
        assert!(Stored::new(vec![2, 2], Kind::F32, vec![0; 15].into()).unwrap_err().contains("16 bytes"));
        assert!(Stored::new(vec![usize::MAX, 2], Kind::F32, vec![].into()).unwrap_err().contains("counted"));
    }
}
