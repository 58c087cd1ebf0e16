//! Typed views on [`TensorProto`], whichever of its fields holds the elements. Bytes are little-endian on every machine.

use bytes::Bytes;
use half::{bf16, f16};

use super::error::OnnxError;
pub use super::external::is_external;
use super::proto::TensorProto;
use super::proto::tensor_proto::DataType;
pub use super::select::{select, select_many};

/// The extents. A scalar has none.
pub fn dims(t: &TensorProto) -> Result<Vec<usize>, OnnxError> {
    let dims = t
        .dims
        .iter()
        .map(|&d| {
            usize::try_from(d).map_err(|_| OnnxError::tensor(t, format!("the shape {:?} has a bad extent {d}", t.dims)))
        })
        .collect::<Result<Vec<_>, _>>()?;
    if product(&dims).is_none() {
        return Err(OnnxError::tensor(t, format!("the shape {dims:?} has more elements than can be counted")));
    }
    Ok(dims)
}

/// The number of elements.
pub fn numel(t: &TensorProto) -> Result<usize, OnnxError> {
    Ok(product(&dims(t)?).unwrap_or(0))
}

fn product(dims: &[usize]) -> Option<usize> {
    if dims.contains(&0) {
        return Some(0);
    }
    dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d))
}

/// Bytes of one element; `None` for strings, unknown types and those of less than a byte.
pub fn elem_size(data_type: i32) -> Option<usize> {
    use DataType::*;
    match DataType::try_from(data_type).ok()? {
        Uint8 | Int8 | Bool | Float8e4m3fn | Float8e4m3fnuz | Float8e5m2 | Float8e5m2fnuz | Float8e8m0 => Some(1),
        Uint16 | Int16 | Float16 | Bfloat16 => Some(2),
        Float | Int32 | Uint32 => Some(4),
        Double | Int64 | Uint64 | Complex64 => Some(8),
        Complex128 => Some(16),
        Undefined | String | Uint4 | Int4 | Float4e2m1 | Uint2 | Int2 | Float6e2m3 | Float6e3m2 => None,
    }
}

/// Bytes that so many elements take, packed types included; `None` where the format does not tell.
pub(super) fn packed_size(data_type: i32, numel: usize) -> Option<usize> {
    use DataType::*;
    match DataType::try_from(data_type).ok()? {
        Uint4 | Int4 | Float4e2m1 => Some(numel.div_ceil(2)),
        Uint2 | Int2 => Some(numel.div_ceil(4)),
        _ => elem_size(data_type)?.checked_mul(numel),
    }
}

/// Whether two elements share a byte.
fn is_nibbles(data_type: i32) -> bool {
    use DataType::*;
    matches!(DataType::try_from(data_type), Ok(Int4 | Uint4 | Float4e2m1))
}

/// Whether [`select`] can take elements out: they have whole bytes, or half ones.
pub fn can_cut(data_type: i32) -> bool {
    elem_size(data_type).is_some() || is_nibbles(data_type)
}

/// A tensor of bytes with the bits of one element each, of a tensor whose elements share bytes; `None` for any other.
pub(super) fn unpacked(t: &TensorProto) -> Result<Option<TensorProto>, OnnxError> {
    if !is_nibbles(t.data_type()) {
        return Ok(None);
    }
    let n = numel(t)?;
    let packed: Vec<u8> = match &t.raw_data {
        Some(raw) if !raw.is_empty() => raw.to_vec(),
        _ if is_external(t) => return Err(OnnxError::tensor(t, "its external data has not been loaded")),
        _ => t.int32_data.iter().map(|&v| v as u8).collect(),
    };
    if packed.len() != n.div_ceil(2) {
        return Err(OnnxError::tensor(t, format!("{} bytes for {n} elements of half a byte", packed.len())));
    }
    let mut bytes: Vec<u8> = packed.iter().flat_map(|b| [b & 0xf, b >> 4]).collect();
    bytes.truncate(n);
    let like = TensorProto { data_type: Some(DataType::Uint8.into()), ..Default::default() };
    Ok(Some(replace(&like, &dims(t)?, bytes.into())))
}

/// The tensor `like` with these elements, of half a byte each.
pub(super) fn packed(like: &TensorProto, bytes: &TensorProto) -> Result<TensorProto, OnnxError> {
    let raw = raw_le(bytes)?;
    let halves = raw.chunks(2).map(|pair| pair.iter().rev().fold(0, |byte, half| byte << 4 | half & 0xf));
    Ok(replace(like, &dims(bytes)?, halves.collect::<Vec<u8>>().into()))
}

/// Values of the types that weights are only stored in: floats of 8 bits and less, integers of 4. Patterns that stand for no
/// number read as large ones.
fn narrow(t: &TensorProto) -> Result<Option<Vec<f32>>, OnnxError> {
    use DataType::*;
    // Bits of exponent and of mantissa, and the exponent's bias.
    let minifloat = |exponent: u32, mantissa: u32, bias: i32| {
        move |b: u8| {
            let size = 1 << mantissa;
            let (m, e) = (i32::from(b) & (size - 1), (i32::from(b) >> mantissa) & ((1 << exponent) - 1));
            let sign = if b >> (exponent + mantissa) & 1 == 1 { -1.0 } else { 1.0 };
            let (m, e) = if e == 0 { (m, 1) } else { (m + size, e) };
            sign * m as f32 * ((e - bias - mantissa as i32) as f32).exp2()
        }
    };
    let decode = |bytes: &[u8], f: &dyn Fn(u8) -> f32| Ok(Some(bytes.iter().map(|&b| f(b)).collect()));
    let halves = || unpacked(t)?.map_or_else(|| raw_le(t), |wide| raw_le(&wide));
    match DataType::try_from(t.data_type()) {
        Ok(Float8e4m3fn) => decode(&raw_le(t)?, &minifloat(4, 3, 7)),
        Ok(Float8e4m3fnuz) => decode(&raw_le(t)?, &minifloat(4, 3, 8)),
        Ok(Float8e5m2) => decode(&raw_le(t)?, &minifloat(5, 2, 15)),
        Ok(Float8e5m2fnuz) => decode(&raw_le(t)?, &minifloat(5, 2, 16)),
        Ok(Float4e2m1) => decode(&halves()?, &minifloat(2, 1, 1)),
        Ok(Uint4) => decode(&halves()?, &|b| f32::from(b)),
        Ok(Int4) => decode(&halves()?, &|b| f32::from((b << 4) as i8 >> 4)),
        _ => Ok(None),
    }
}

/// Whether the type is one that weights are computed in: FLOAT, FLOAT16, BFLOAT16 or DOUBLE.
pub fn is_float(data_type: i32) -> bool {
    use DataType::*;
    matches!(DataType::try_from(data_type), Ok(Float | Float16 | Bfloat16 | Double))
}

/// Whether the type is one that weights are stored in: a float, or what a float is quantised to. (32-bit integers are biases
/// of quantised layers, but indices and sizes as well.)
pub fn is_parameter(data_type: i32) -> bool {
    use DataType::*;
    is_float(data_type)
        || !matches!(
            DataType::try_from(data_type).unwrap_or(Undefined),
            Undefined | String | Bool | Int32 | Uint32 | Int64 | Uint64 | Complex64 | Complex128
        )
}

/// The type's name as the format spells it, for messages.
pub fn type_name(data_type: i32) -> String {
    match DataType::try_from(data_type) {
        Ok(known) => known.as_str_name().to_owned(),
        Err(_) => format!("unknown type {data_type}"),
    }
}

/// The elements as little-endian bytes: shared with the tensor where it has raw data, converted otherwise.
pub fn raw_le(t: &TensorProto) -> Result<Bytes, OnnxError> {
    let numel = numel(t)?;
    let size = elem_size(t.data_type()).ok_or_else(|| {
        OnnxError::tensor(t, format!("elements of type {} are not whole bytes", type_name(t.data_type())))
    })?;
    let expected = numel
        .checked_mul(size)
        .ok_or_else(|| OnnxError::tensor(t, format!("the shape {:?} has more bytes than can be counted", t.dims)))?;
    if t.segment.is_some() {
        return Err(OnnxError::tensor(t, "is stored in segments, which no runtime supports"));
    }
    let bytes = match &t.raw_data {
        Some(raw) if !raw.is_empty() => raw.clone(),
        None if expected > 0 && is_external(t) => {
            return Err(OnnxError::tensor(t, "its external data has not been loaded"));
        }
        _ => typed_bytes(t)?,
    };
    if bytes.len() == expected {
        Ok(bytes)
    } else {
        Err(OnnxError::tensor(
            t,
            format!(
                "shape {:?} of {} takes {expected} bytes, but the data has {}",
                t.dims,
                type_name(t.data_type()),
                bytes.len()
            ),
        ))
    }
}

fn concat<const N: usize>(items: impl ExactSizeIterator<Item = [u8; N]>) -> Bytes {
    let mut out = Vec::with_capacity(items.len().saturating_mul(N));
    items.for_each(|item| out.extend_from_slice(&item));
    out.into()
}

/// The bytes of the typed list that belongs to the data type.
fn typed_bytes(t: &TensorProto) -> Result<Bytes, OnnxError> {
    use DataType::*;
    let fits = |low: i32, high: i32| match t.int32_data.iter().find(|v| !(low..=high).contains(v)) {
        None => Ok(()),
        Some(v) => {
            Err(OnnxError::tensor(t, format!("the value {v} is out of the range of {}", type_name(t.data_type()))))
        }
    };
    Ok(match DataType::try_from(t.data_type()).unwrap_or(Undefined) {
        Float | Complex64 => concat(t.float_data.iter().map(|v| v.to_le_bytes())),
        Double | Complex128 => concat(t.double_data.iter().map(|v| v.to_le_bytes())),
        Int64 => concat(t.int64_data.iter().map(|v| v.to_le_bytes())),
        Uint64 => concat(t.uint64_data.iter().map(|v| v.to_le_bytes())),
        Uint32 => {
            if let Some(v) = t.uint64_data.iter().find(|&&v| v > u64::from(u32::MAX)) {
                return Err(OnnxError::tensor(t, format!("the value {v} is out of the range of UINT32")));
            }
            concat(t.uint64_data.iter().map(|v| (*v as u32).to_le_bytes()))
        }
        Int32 => concat(t.int32_data.iter().map(|v| v.to_le_bytes())),
        kind @ (Uint16 | Int16 | Float16 | Bfloat16) => {
            // Bit patterns of floats may have been sign-extended.
            fits(if kind == Uint16 { 0 } else { -0x8000 }, if kind == Int16 { 0x7fff } else { 0xffff })?;
            concat(t.int32_data.iter().map(|v| (*v as u16).to_le_bytes()))
        }
        Int8 => {
            fits(-0x80, 0x7f)?;
            concat(t.int32_data.iter().map(|v| [*v as u8]))
        }
        kind => {
            fits(if matches!(kind, Uint8 | Bool) { 0 } else { -0x80 }, 0xff)?;
            concat(t.int32_data.iter().map(|v| [*v as u8]))
        }
    })
}

fn decode<T, const N: usize>(bytes: &[u8], f: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|&chunk| f(chunk)).collect()
}

fn not_a(t: &TensorProto, wanted: &str) -> OnnxError {
    OnnxError::tensor(t, format!("expected {wanted}, found elements of type {}", type_name(t.data_type())))
}

/// The elements, of any float or integer type, rounded to `f32`.
pub fn to_f32(t: &TensorProto) -> Result<Vec<f32>, OnnxError> {
    if let Some(values) = narrow(t)? {
        return Ok(values);
    }
    let raw = raw_le(t)?;
    Ok(match DataType::try_from(t.data_type()) {
        Ok(DataType::Float) => decode(&raw, f32::from_le_bytes),
        Ok(DataType::Float16) => decode(&raw, |b| f16::from_le_bytes(b).to_f32()),
        Ok(DataType::Bfloat16) => decode(&raw, |b| bf16::from_le_bytes(b).to_f32()),
        Ok(DataType::Double) => decode(&raw, |b| f64::from_le_bytes(b) as f32),
        _ => integers(t, &raw, |v| v as f32)?,
    })
}

/// The elements, of any float or integer type, as `f64`.
pub fn to_f64(t: &TensorProto) -> Result<Vec<f64>, OnnxError> {
    let raw = raw_le(t)?;
    Ok(match DataType::try_from(t.data_type()) {
        Ok(DataType::Float) => decode(&raw, |b| f64::from(f32::from_le_bytes(b))),
        Ok(DataType::Float16) => decode(&raw, |b| f16::from_le_bytes(b).to_f64()),
        Ok(DataType::Bfloat16) => decode(&raw, |b| bf16::from_le_bytes(b).to_f64()),
        Ok(DataType::Double) => decode(&raw, f64::from_le_bytes),
        _ => integers(t, &raw, |v| v as f64)?,
    })
}

/// The elements of an integer or boolean tensor.
pub fn to_i64(t: &TensorProto) -> Result<Vec<i64>, OnnxError> {
    let values = integers(t, &raw_le(t)?, i64::try_from)?;
    values
        .into_iter()
        .collect::<Result<_, _>>()
        .map_err(|_| OnnxError::tensor(t, "an unsigned value is too large for a signed 64-bit integer"))
}

fn integers<T>(t: &TensorProto, raw: &[u8], f: impl Fn(i128) -> T) -> Result<Vec<T>, OnnxError> {
    Ok(match DataType::try_from(t.data_type()) {
        Ok(DataType::Int8) => decode(raw, |b| f(i8::from_le_bytes(b).into())),
        Ok(DataType::Uint8) => decode(raw, |b| f(u8::from_le_bytes(b).into())),
        Ok(DataType::Bool) => decode(raw, |[b]| f((b != 0).into())),
        Ok(DataType::Int16) => decode(raw, |b| f(i16::from_le_bytes(b).into())),
        Ok(DataType::Uint16) => decode(raw, |b| f(u16::from_le_bytes(b).into())),
        Ok(DataType::Int32) => decode(raw, |b| f(i32::from_le_bytes(b).into())),
        Ok(DataType::Uint32) => decode(raw, |b| f(u32::from_le_bytes(b).into())),
        Ok(DataType::Int64) => decode(raw, |b| f(i64::from_le_bytes(b).into())),
        Ok(DataType::Uint64) => decode(raw, |b| f(u64::from_le_bytes(b).into())),
        _ => return Err(not_a(t, "numbers of a common type")),
    })
}

/// What a replacement of `t` keeps: all but the shape and the elements. The mark of external data stays, so that a
/// replaced weight goes back to the data file.
pub(super) fn replace(t: &TensorProto, dims: &[usize], raw: Bytes) -> TensorProto {
    TensorProto {
        dims: dims.iter().map(|&d| d as i64).collect(),
        data_type: t.data_type,
        name: t.name.clone(),
        doc_string: t.doc_string.clone(),
        raw_data: Some(raw),
        external_data: t.external_data.clone(),
        data_location: t.data_location,
        metadata_props: t.metadata_props.clone(),
        ..TensorProto::default()
    }
}

/// A tensor with the name, float type and documentation of `like`, and these extents and values (rounded to nearest).
pub fn from_f64_like(like: &TensorProto, dims: &[usize], values: &[f64]) -> Result<TensorProto, OnnxError> {
    if product(dims) != Some(values.len()) {
        return Err(OnnxError::tensor(like, format!("{} values do not fill the shape {dims:?}", values.len())));
    }
    let raw = match DataType::try_from(like.data_type()) {
        Ok(DataType::Float) => concat(values.iter().map(|&v| (v as f32).to_le_bytes())),
        Ok(DataType::Double) => concat(values.iter().map(|v| v.to_le_bytes())),
        Ok(DataType::Float16) => concat(values.iter().map(|&v| f16::from_f64(v).to_le_bytes())),
        Ok(DataType::Bfloat16) => concat(values.iter().map(|&v| bf16::from_f64(v).to_le_bytes())),
        _ => return Err(not_a(like, "a float type")),
    };
    Ok(replace(like, dims, raw))
}

fn new(name: &str, data_type: DataType, dims: &[usize], len: usize, raw: Bytes) -> TensorProto {
    debug_assert_eq!(product(dims), Some(len), "tensor '{name}': the values do not fill the shape");
    let like = TensorProto { name: Some(name.to_owned()), data_type: Some(data_type.into()), ..Default::default() };
    replace(&like, dims, raw)
}

/// A new INT64 tensor. The values must fill the shape.
pub fn from_i64(name: &str, dims: &[usize], values: &[i64]) -> TensorProto {
    new(name, DataType::Int64, dims, values.len(), concat(values.iter().map(|v| v.to_le_bytes())))
}

/// A new FLOAT tensor. The values must fill the shape.
pub fn from_f32(name: &str, dims: &[usize], values: &[f32]) -> TensorProto {
    new(name, DataType::Float, dims, values.len(), concat(values.iter().map(|v| v.to_le_bytes())))
}

/// Refuses a float tensor that holds a NaN or an infinity. Other types are finite.
pub fn check_finite(t: &TensorProto) -> Result<(), OnnxError> {
    if !is_float(t.data_type()) {
        return Ok(());
    }
    let raw = raw_le(t)?;
    // A float is not finite where its exponent bits are all ones.
    let at = match DataType::try_from(t.data_type()) {
        Ok(DataType::Float) => find(&raw, |b| u32::from_le_bytes(b) & 0x7f80_0000 == 0x7f80_0000),
        Ok(DataType::Double) => find(&raw, |b| u64::from_le_bytes(b) >> 52 & 0x7ff == 0x7ff),
        Ok(DataType::Float16) => find(&raw, |b| u16::from_le_bytes(b) & 0x7c00 == 0x7c00),
        _ => find(&raw, |b| u16::from_le_bytes(b) & 0x7f80 == 0x7f80),
    };
    match at {
        None => Ok(()),
        Some(index) => {
            let value = to_f64(t)?.get(index).copied().unwrap_or(f64::NAN);
            Err(OnnxError::tensor(t, format!("element {index} is {value}, not a finite number")))
        }
    }
}

/// The index of the first element that is `bad`. Whole blocks are tested without a branch.
fn find<const N: usize>(bytes: &[u8], bad: impl Fn([u8; N]) -> bool) -> Option<usize> {
    const BLOCK: usize = 1024;
    let elements = bytes.as_chunks::<N>().0;
    elements.chunks(BLOCK).enumerate().find_map(|(i, block)| {
        block
            .iter()
            .fold(false, |any, &e| any | bad(e))
            .then(|| block.iter().position(|&e| bad(e)).map(|at| i * BLOCK + at))
            .flatten()
    })
}

#[cfg(test)]
#[path = "tensor_tests.rs"]
mod tests;
