//! Arrays and the tensors of the format.

use super::{Array, Data};
use crate::onnx::proto::{TensorProto, tensor_proto::DataType};
use crate::onnx::tensor;
use bytes::Bytes;
use half::f16;

impl Data {
    /// The elements' `TensorProto.DataType`.
    pub fn elem_type(&self) -> i32 {
        let data_type = match self {
            Self::F32(_) => DataType::Float,
            Self::F64(_) => DataType::Double,
            Self::F16(_) => DataType::Float16,
            Self::I64(_) => DataType::Int64,
            Self::I32(_) => DataType::Int32,
            Self::U8(_) => DataType::Uint8,
            Self::I8(_) => DataType::Int8,
            Self::Bool(_) => DataType::Bool,
        };
        data_type as i32
    }
}

impl Array {
    /// Bytes that the elements take.
    pub fn bytes(&self) -> usize {
        self.data.len() * self.data.width()
    }

    /// The elements of a constant; `None` where [`Data`] lacks their type.
    ///
    /// # Errors
    /// When the tensor is malformed.
    pub fn from_tensor(t: &TensorProto) -> Result<Option<Self>, crate::onnx::OnnxError> {
        let data_type = DataType::try_from(t.data_type()).unwrap_or(DataType::Undefined);
        if tensor::elem_size(t.data_type()).is_none() {
            return Ok(None);
        }
        let raw = tensor::raw_le(t)?;
        let data = match data_type {
            DataType::Float => Data::F32(decode(&raw, f32::from_le_bytes)),
            DataType::Double => Data::F64(decode(&raw, f64::from_le_bytes)),
            DataType::Float16 => Data::F16(decode(&raw, f16::from_le_bytes)),
            DataType::Int64 => Data::I64(decode(&raw, i64::from_le_bytes)),
            DataType::Int32 => Data::I32(decode(&raw, i32::from_le_bytes)),
            DataType::Uint8 => Data::U8(raw.to_vec()),
            DataType::Int8 => Data::I8(decode(&raw, i8::from_le_bytes)),
            DataType::Bool => Data::Bool(raw.iter().map(|&b| b != 0).collect()),
            _ => return Ok(None),
        };
        Ok(Some(Self { dims: tensor::dims(t)?, data }))
    }

    /// A constant of that name with these elements.
    pub fn to_tensor(&self, name: &str) -> TensorProto {
        let raw = match &self.data {
            Data::F32(v) => encode(v, f32::to_le_bytes),
            Data::F64(v) => encode(v, f64::to_le_bytes),
            Data::F16(v) => encode(v, f16::to_le_bytes),
            Data::I64(v) => encode(v, i64::to_le_bytes),
            Data::I32(v) => encode(v, i32::to_le_bytes),
            Data::U8(v) => v.clone().into(),
            Data::I8(v) => encode(v, i8::to_le_bytes),
            Data::Bool(v) => encode(v, |b| [u8::from(b)]),
        };
        TensorProto {
            name: Some(name.to_owned()),
            dims: self.dims.iter().map(|&d| i64::try_from(d).unwrap_or(i64::MAX)).collect(),
            data_type: Some(self.data.elem_type()),
            raw_data: Some(raw),
            ..TensorProto::default()
        }
    }
}

fn decode<T, const N: usize>(raw: &[u8], from: fn([u8; N]) -> T) -> Vec<T> {
    let (elements, _) = raw.as_chunks::<N>();
    elements.iter().map(|&element| from(element)).collect()
}

fn encode<T: Copy, const N: usize>(values: &[T], to: fn(T) -> [u8; N]) -> Bytes {
    values.iter().flat_map(|&value| to(value)).collect::<Vec<u8>>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_types_survive_as_constants() {
        let all = [
            Data::F32(vec![1.5, -2.0]),
            Data::F64(vec![1.5, f64::MIN]),
            Data::F16(vec![f16::ONE, f16::from_f32(0.5)]),
            Data::I64(vec![i64::MIN, 7]),
            Data::I32(vec![i32::MAX, -7]),
            Data::U8(vec![0, 255]),
            Data::I8(vec![-128, 127]),
            Data::Bool(vec![true, false]),
        ];
        for data in all {
            let array = Array { dims: vec![1, 2], data };
            let tensor = array.to_tensor("t");
            assert_eq!((tensor.name(), array.bytes()), ("t", 2 * array.data.width()));
            assert_eq!(Array::from_tensor(&tensor).unwrap(), Some(array));
        }
    }

    #[test]
    fn other_types_are_none_and_broken_ones_errors() {
        let mut t = tensor::from_f32("t", &[2], &[1.0, 2.0]);
        t.data_type = Some(DataType::Bfloat16 as i32);
        t.dims = vec![4];
        assert_eq!(Array::from_tensor(&t).unwrap(), None);
        t.data_type = Some(DataType::String as i32);
        assert_eq!(Array::from_tensor(&t).unwrap(), None);
        t.data_type = Some(DataType::Float as i32);
        assert!(Array::from_tensor(&t).is_err());
    }
}
