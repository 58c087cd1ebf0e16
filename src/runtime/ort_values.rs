//! Arrays as ONNX Runtime's values, and back.

use super::ort::{error, failure};
use super::{Array, Data};
use crate::error::Result;
use half::bf16;
use ort::session::SessionInputValue;
use ort::value::{DynTensor, DynValue, PrimitiveTensorElementType, Tensor, TensorElementType, TensorRef, ValueType};
use std::fmt::Debug;

/// A view of the array.
pub(super) fn to_value<'a>(name: &str, array: &'a Array) -> Result<SessionInputValue<'a>> {
    fn view<'a, T>(dims: &'a [usize], data: &'a [T]) -> ort::Result<SessionInputValue<'a>>
    where
        T: PrimitiveTensorElementType + Debug + Clone + 'static,
    {
        Ok(TensorRef::from_array_view((dims, data))?.into())
    }
    let dims = array.dims.as_slice();
    if dims.iter().try_fold(1usize, |len, &dim| len.checked_mul(dim)) != Some(array.data.len()) {
        return Err(error(format!("input {name:?}: {} elements for shape {dims:?}", array.data.len())));
    }
    let value = match &array.data {
        Data::F32(v) => view(dims, v),
        Data::F64(v) => view(dims, v),
        Data::F16(v) => view(dims, v),
        Data::I64(v) => view(dims, v),
        Data::I32(v) => view(dims, v),
        Data::U8(v) => view(dims, v),
        Data::I8(v) => view(dims, v),
        Data::Bool(v) => view(dims, v),
    };
    value.map_err(failure)
}

/// A copy of the array.
pub(super) fn to_tensor(name: &str, array: &Array) -> Result<DynTensor> {
    fn owned<T>(dims: &[usize], data: &[T]) -> ort::Result<DynTensor>
    where
        T: PrimitiveTensorElementType + Debug + Clone + 'static,
    {
        Ok(Tensor::from_array((dims.to_vec(), data.to_vec()))?.upcast())
    }
    let dims = array.dims.as_slice();
    let value = match &array.data {
        Data::F32(v) => owned(dims, v),
        Data::F64(v) => owned(dims, v),
        Data::F16(v) => owned(dims, v),
        Data::I64(v) => owned(dims, v),
        Data::I32(v) => owned(dims, v),
        Data::U8(v) => owned(dims, v),
        Data::I8(v) => owned(dims, v),
        Data::Bool(v) => owned(dims, v),
    };
    value.map_err(|e| error(format!("input {name:?}: {e}")))
}

/// A copy of the value, which has to lie in the processor's memory.
pub(super) fn to_array(name: &str, value: &DynValue) -> Result<Array> {
    fn elements<T: PrimitiveTensorElementType + Clone>(value: &DynValue) -> ort::Result<Vec<T>> {
        Ok(value.try_extract_tensor::<T>()?.1.to_vec())
    }
    fn integers<T: PrimitiveTensorElementType + Clone>(value: &DynValue, to: fn(T) -> i64) -> ort::Result<Vec<i64>> {
        Ok(elements::<T>(value)?.into_iter().map(to).collect())
    }
    let ValueType::Tensor { ty, shape, .. } = value.dtype() else {
        return Err(error(format!("output {name:?} is no tensor")));
    };
    let data = match ty {
        TensorElementType::Float32 => elements(value).map(Data::F32),
        TensorElementType::Float64 => elements(value).map(Data::F64),
        TensorElementType::Float16 => elements(value).map(Data::F16),
        TensorElementType::Int64 => elements(value).map(Data::I64),
        TensorElementType::Int32 => elements(value).map(Data::I32),
        TensorElementType::Uint8 => elements(value).map(Data::U8),
        TensorElementType::Int8 => elements(value).map(Data::I8),
        TensorElementType::Bool => elements(value).map(Data::Bool),
        // What `Data` lacks becomes the next larger type.
        TensorElementType::Bfloat16 => {
            elements::<bf16>(value).map(|v| Data::F32(v.into_iter().map(bf16::to_f32).collect()))
        }
        TensorElementType::Int16 => integers::<i16>(value, i64::from).map(Data::I64),
        TensorElementType::Uint16 => integers::<u16>(value, i64::from).map(Data::I64),
        TensorElementType::Uint32 => integers::<u32>(value, i64::from).map(Data::I64),
        TensorElementType::Uint64 => integers::<u64>(value, |x| x as i64).map(Data::I64),
        other => return Err(error(format!("output {name:?}: type {other} is not supported"))),
    };
    let dims = shape.iter().map(|&dim| usize::try_from(dim).unwrap_or(0)).collect();
    Ok(Array { dims, data: data.map_err(failure)? })
}
