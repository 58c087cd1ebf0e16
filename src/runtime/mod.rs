//! Running models: what a runtime has to offer, inputs to feed it, and a measure for comparing what comes out.
//!
//! With the `tract` feature (on by default) a runtime is built in, see [`embedded`]; without it there is none and models
//! can only be checked structurally. With the `ort` feature (on by default) [`choose`] finds ONNX Runtime, where it is
//! installed. [`walk`] runs a model part by part.

mod array;
mod carry;
mod choice;
mod device;
#[cfg(feature = "ort")]
mod discover;
#[cfg(feature = "ort")]
pub mod ort;
#[cfg(feature = "ort")]
mod ort_bound;
#[cfg(feature = "ort")]
mod ort_carry;
#[cfg(feature = "ort")]
mod ort_values;
mod profile;
#[cfg(feature = "tract")]
mod tract;
pub mod walk;

pub use carry::{Carry, carry};
pub use choice::{RuntimeChoice, RuntimeInfo, RuntimeOptions, choose, choose_with, list};
pub use device::{DEVICES, Device, ProviderInfo};
pub use profile::{OpTime, Placement, Profile};

use crate::error::{Error, Result};
use crate::onnx::Model;
use crate::onnx::proto::{TensorShapeProto, tensor_proto::DataType, tensor_shape_proto::dimension, type_proto};
use half::f16;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use sha2::{Digest, Sha256};
use std::collections::HashSet;

/// The elements of an [`Array`] in row-major order.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Data {
    F32(Vec<f32>),
    F64(Vec<f64>),
    F16(Vec<f16>),
    I64(Vec<i64>),
    I32(Vec<i32>),
    U8(Vec<u8>),
    I8(Vec<i8>),
    Bool(Vec<bool>),
}

impl Data {
    /// The number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(v) => v.len(),
            Self::F64(v) => v.len(),
            Self::F16(v) => v.len(),
            Self::I64(v) => v.len(),
            Self::I32(v) => v.len(),
            Self::U8(v) => v.len(),
            Self::I8(v) => v.len(),
            Self::Bool(v) => v.len(),
        }
    }

    /// Bytes of one element.
    pub fn width(&self) -> usize {
        match self {
            Self::F64(_) | Self::I64(_) => 8,
            Self::F32(_) | Self::I32(_) => 4,
            Self::F16(_) => 2,
            Self::U8(_) | Self::I8(_) | Self::Bool(_) => 1,
        }
    }

    /// Whether the elements are integers or booleans.
    pub fn is_integer(&self) -> bool {
        !matches!(self, Self::F32(_) | Self::F64(_) | Self::F16(_))
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A dense tensor for feeding a runtime and for reading what it returns.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// The extents; none for a scalar.
    pub dims: Vec<usize>,
    /// As many elements as the product of `dims`.
    pub data: Data,
}

impl Array {
    /// The elements as `f64`, `true` as 1. Integers beyond 2^53 are rounded.
    pub fn to_f64(&self) -> Vec<f64> {
        match &self.data {
            Data::F32(v) => v.iter().map(|&x| f64::from(x)).collect(),
            Data::F64(v) => v.clone(),
            Data::F16(v) => v.iter().map(|x| x.to_f64()).collect(),
            Data::I64(v) => v.iter().map(|&x| x as f64).collect(),
            Data::I32(v) => v.iter().map(|&x| f64::from(x)).collect(),
            Data::U8(v) => v.iter().map(|&x| f64::from(x)).collect(),
            Data::I8(v) => v.iter().map(|&x| f64::from(x)).collect(),
            Data::Bool(v) => v.iter().map(|&x| f64::from(u8::from(x))).collect(),
        }
    }
}

/// A model that was loaded into a runtime.
pub trait Session: Send {
    /// Runs the model on inputs given by name, each graph input once, in any order. Shapes may differ from call to call as
    /// far as the model permits. Returns all graph outputs under their ONNX names, in graph order.
    fn run(&mut self, inputs: &[(String, Array)]) -> Result<Vec<(String, Array)>>;

    /// The same work, without handing out the results: what is timed.
    fn compute(&mut self, inputs: &[(String, Array)]) -> Result<()> {
        self.run(inputs).map(drop)
    }

    /// Keeps inputs where the model computes, and leaves outputs there, so that runs copy neither.
    ///
    /// # Errors
    /// When the runtime cannot do that, or the device has no room.
    fn bind(&mut self, feeds: &[walk::Feed]) -> Result<Box<dyn Bound + '_>> {
        let _ = feeds;
        Err(Error::Usage(
            "this runtime cannot keep inputs on a device (I/O binding); ONNX Runtime can (--runtime ort)".into(),
        ))
    }

    /// Whether [`carry`](Self::carry) keeps state where the model computes.
    fn keeps_state(&self) -> bool {
        false
    }

    /// See [`carry`](carry()), which also serves sessions that cannot do this.
    ///
    /// # Errors
    /// When the session cannot do that.
    fn carry(&mut self, state: walk::Feed, pairs: Vec<(String, String)>) -> Result<Box<dyn Carry + '_>> {
        let _ = (state, pairs);
        Err(Error::Usage("this runtime keeps no state on a device".into()))
    }

    /// Where the nodes ran, after the first run on a device other than the processor.
    fn placement(&self) -> Option<&Placement> {
        None
    }
}

/// A session with inputs and outputs in the memory of what it computes on, see [`Session::bind`].
pub trait Bound {
    /// Computes on one of the feeds, and waits until the device is done.
    fn compute(&mut self, feed: usize) -> Result<()>;
    /// Copies a feed from the processor's memory to where it is bound, and waits.
    fn upload(&mut self, feed: usize) -> Result<()>;
    /// Copies the outputs of the last run to the processor's memory, and waits. The first call also takes the memory.
    fn download(&mut self) -> Result<()>;
    /// What was copied last, under the ONNX names, in graph order.
    fn downloaded(&self) -> Result<walk::Feed>;
}

/// Something that runs ONNX models.
pub trait Runtime: Send + Sync {
    /// A short name for messages and reports.
    fn name(&self) -> &'static str;
    /// The version, as the runtime writes it.
    fn version(&self) -> String;
    /// Loads a model. What is wrong with it may show only when the session runs.
    fn load(&self, model: &Model) -> Result<Box<dyn Session>>;

    /// What each node does in `runs` runs, after one that does not count.
    ///
    /// # Errors
    /// When the model does not run, or the runtime does not tell.
    fn profile(&self, model: &Model, inputs: &[(String, Array)], runs: usize) -> Result<Profile> {
        let _ = (model, inputs, runs);
        Err(Error::Usage(format!(
            "{} does not tell the time of each operator; use ONNX Runtime with --runtime ort",
            self.name()
        )))
    }
}

/// The runtime in this build, if it has one: tract with the `tract` feature.
pub fn embedded() -> Option<&'static dyn Runtime> {
    #[cfg(feature = "tract")]
    return Some(&tract::Tract);
    #[cfg(not(feature = "tract"))]
    return None;
}

/// What a model says about one of its inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputSpec {
    /// The name of the graph input.
    pub name: String,
    /// The extents, `None` where the model leaves them open. Empty for a scalar, and where no shape is declared at all.
    pub dims: Vec<Option<usize>>,
    /// A `TensorProto.DataType`; 0 (undefined) for an input that is not a tensor.
    pub elem_type: i32,
}

/// The graph inputs a caller has to provide, which are those without an initializer, in graph order.
pub fn input_specs(model: &Model) -> Vec<InputSpec> {
    declared_inputs(model).into_iter().map(|(spec, _)| spec).collect()
}

/// The inputs, each with whether its shape is declared.
fn declared_inputs(model: &Model) -> Vec<(InputSpec, bool)> {
    let Some(graph) = &model.proto.graph else { return Vec::new() };
    let dense = graph.initializer.iter().map(|t| t.name());
    let sparse = graph.sparse_initializer.iter().filter_map(|t| t.values.as_ref()).map(|t| t.name());
    let initialized: HashSet<&str> = dense.chain(sparse).collect();
    let mut inputs = Vec::new();
    for input in graph.input.iter().filter(|input| !initialized.contains(input.name())) {
        let (elem_type, shape) = match input.r#type.as_ref().and_then(|t| t.value.as_ref()) {
            Some(type_proto::Value::TensorType(tensor)) => (tensor.elem_type(), tensor.shape.as_ref()),
            _ => (0, None),
        };
        let spec = InputSpec { name: input.name().to_owned(), dims: shape.map(extents).unwrap_or_default(), elem_type };
        inputs.push((spec, shape.is_some()));
    }
    inputs
}

/// Some exporters write -1 where they mean an open extent.
fn extents(shape: &TensorShapeProto) -> Vec<Option<usize>> {
    let extent = |dim: &crate::onnx::proto::tensor_shape_proto::Dimension| match &dim.value {
        Some(dimension::Value::DimValue(n)) => usize::try_from(*n).ok(),
        _ => None,
    };
    shape.dim.iter().map(extent).collect()
}

/// Random values for every input of [`input_specs`]: standard normal for floats, 0 or 1 for integers and booleans.
///
/// `size_of(input, axis)` is asked for each extent the model leaves open. The values depend on the seed and the name of the
/// input alone, on every platform, and a longer array begins with the values of a shorter one.
pub fn random_inputs(model: &Model, seed: u64, size_of: &dyn Fn(&str, usize) -> usize) -> Result<Vec<(String, Array)>> {
    let mut inputs = Vec::new();
    for (InputSpec { name, dims, elem_type }, shaped) in declared_inputs(model) {
        if !shaped {
            return Err(Error::Usage(format!("input {name:?} has no declared shape, so no random values can be made")));
        }
        let dims: Vec<usize> =
            dims.iter().enumerate().map(|(axis, dim)| dim.unwrap_or_else(|| size_of(&name, axis))).collect();
        let len = dims.iter().try_fold(1usize, |len, &dim| len.checked_mul(dim)).filter(|&n| n <= MOST_RANDOM);
        let Some(len) = len else {
            return Err(Error::Usage(format!("input {name:?} of shape {dims:?} is too large")));
        };
        let mut noise = Noise::new(seed, &name);
        let data = match DataType::try_from(elem_type) {
            Ok(DataType::Float) => Data::F32((0..len).map(|_| noise.normal() as f32).collect()),
            Ok(DataType::Double) => Data::F64((0..len).map(|_| noise.normal()).collect()),
            Ok(DataType::Float16) => Data::F16((0..len).map(|_| f16::from_f64(noise.normal())).collect()),
            Ok(DataType::Int64) => Data::I64((0..len).map(|_| i64::from(noise.coin())).collect()),
            Ok(DataType::Int32) => Data::I32((0..len).map(|_| i32::from(noise.coin())).collect()),
            Ok(DataType::Uint8) => Data::U8((0..len).map(|_| u8::from(noise.coin())).collect()),
            Ok(DataType::Int8) => Data::I8((0..len).map(|_| i8::from(noise.coin())).collect()),
            Ok(DataType::Bool) => Data::Bool((0..len).map(|_| noise.coin()).collect()),
            other => {
                let kind = other.map_or_else(|_| elem_type.to_string(), |t| t.as_str_name().to_owned());
                let message = format!("input {name:?} has element type {kind}, for which no random values can be made");
                return Err(Error::Usage(message));
            }
        };
        inputs.push((name, Array { dims, data }));
    }
    Ok(inputs)
}

/// Most elements of one random input: 1 GiB of float32.
const MOST_RANDOM: usize = 1 << 28;

/// A stream of random values.
pub(crate) struct Noise {
    rng: ChaCha8Rng,
    /// The second value of the last Box–Muller pair.
    spare: Option<f64>,
}

impl Noise {
    /// Depends on the seed and the name alone.
    pub(crate) fn new(seed: u64, name: &str) -> Self {
        let key = Sha256::new().chain_update(seed.to_le_bytes()).chain_update(name).finalize();
        Self { rng: ChaCha8Rng::from_seed(key.into()), spare: None }
    }

    /// Uniform in [0, 1), 53 bits.
    pub(crate) fn uniform(&mut self) -> f64 {
        (self.rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Standard normal. Uses libm, whose results do not depend on the platform.
    pub(crate) fn normal(&mut self) -> f64 {
        if let Some(value) = self.spare.take() {
            return value;
        }
        let radius = libm::sqrt(-2.0 * libm::log(1.0 - self.uniform()));
        let (sin, cos) = libm::sincos(std::f64::consts::TAU * self.uniform());
        self.spare = Some(radius * sin);
        radius * cos
    }

    fn coin(&mut self) -> bool {
        self.rng.next_u32() & 1 == 1
    }
}

/// `max|a-b| / max(1, max|b|)` over all elements. `b` is the reference: `None` if it has a value that is not finite, since
/// nothing can be said then; infinity if only `a` has one. An error if the shapes differ.
pub fn max_rel_diff(a: &Array, b: &Array) -> Result<Option<f64>> {
    if a.dims != b.dims || a.data.len() != b.data.len() {
        return Err(Error::Usage(format!("results of shapes {:?} and {:?} cannot be compared", a.dims, b.dims)));
    }
    let (a, b) = (a.to_f64(), b.to_f64());
    if !b.iter().all(|x| x.is_finite()) {
        return Ok(None);
    }
    if !a.iter().all(|x| x.is_finite()) {
        return Ok(Some(f64::INFINITY));
    }
    let difference = a.iter().zip(&b).fold(0.0, |max: f64, (a, b)| max.max((a - b).abs()));
    let scale = b.iter().fold(1.0, |max: f64, b| max.max(b.abs()));
    Ok(Some(difference / scale))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::proto::{GraphProto, ModelProto, TensorProto, TypeProto, ValueInfoProto};

    fn input(name: &str, elem_type: DataType, dims: &[Option<i64>]) -> ValueInfoProto {
        let dims = dims.iter().map(|dim| crate::onnx::proto::tensor_shape_proto::Dimension {
            value: dim.map(dimension::Value::DimValue),
            ..Default::default()
        });
        let shape = Some(TensorShapeProto { dim: dims.collect() });
        let tensor = type_proto::Tensor { elem_type: Some(elem_type as i32), shape };
        let value = Some(type_proto::Value::TensorType(tensor));
        ValueInfoProto {
            name: Some(name.into()),
            r#type: Some(TypeProto { value, ..Default::default() }),
            ..Default::default()
        }
    }

    fn model(input: Vec<ValueInfoProto>) -> Model {
        let initializer = vec![TensorProto { name: Some("w".into()), ..Default::default() }];
        let graph = GraphProto { input, initializer, ..Default::default() };
        Model::from_proto(ModelProto { graph: Some(graph), ..Default::default() }, "test.onnx")
    }

    fn array(values: &[f32]) -> Array {
        Array { dims: vec![values.len()], data: Data::F32(values.to_vec()) }
    }

    #[test]
    fn specs_leave_out_initializers_and_resolve_only_open_extents() {
        let model = model(vec![
            input("x", DataType::Float, &[None, Some(3), Some(-1)]),
            input("w", DataType::Float, &[Some(5)]),
            input("mask", DataType::Bool, &[Some(64)]),
        ]);
        let specs = input_specs(&model);
        assert_eq!(specs.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["x", "mask"]);
        assert_eq!(specs[0].dims, [None, Some(3), None]);
        let inputs = random_inputs(&model, 7, &|name, axis| if name == "x" && axis == 0 { 2 } else { 4 }).unwrap();
        assert_eq!(inputs[0].1.dims, [2, 3, 4]);
        assert!(matches!(&inputs[1].1.data, Data::Bool(v) if v.contains(&true) && v.contains(&false)));
    }

    #[test]
    fn random_values_are_normal_seeded_and_extend_each_other() {
        let model = model(vec![input("x", DataType::Double, &[None])]);
        let draw = |seed, n| random_inputs(&model, seed, &|_, _| n).unwrap()[0].1.to_f64();
        let values = draw(1, 100_001);
        assert_eq!(values[..500], draw(1, 500));
        assert_ne!(values[..500], draw(2, 500));
        let moment = |k: i32| values.iter().map(|x| x.powi(k)).sum::<f64>() / values.len() as f64;
        assert!(moment(1).abs() < 0.02 && (moment(2) - 1.0).abs() < 0.02 && (moment(4) - 3.0).abs() < 0.15);
    }

    #[test]
    fn inputs_that_cannot_be_made_are_errors() {
        let text = random_inputs(&model(vec![input("s", DataType::String, &[Some(1)])]), 0, &|_, _| 1);
        assert!(text.unwrap_err().to_string().contains("element type STRING"));
        let mut untyped = input("u", DataType::Float, &[]);
        untyped.r#type = None;
        assert!(random_inputs(&model(vec![untyped]), 0, &|_, _| 1).is_err());
        let huge = model(vec![input("x", DataType::Float, &[None, None])]);
        assert!(random_inputs(&huge, 0, &|_, _| usize::MAX).is_err());
    }

    #[test]
    fn differences_are_relative_to_large_references_only() {
        assert_eq!(max_rel_diff(&array(&[0.5, 0.25]), &array(&[0.5, 0.5])).unwrap(), Some(0.25));
        assert_eq!(max_rel_diff(&array(&[9.0, 0.0]), &array(&[10.0, 0.0])).unwrap(), Some(0.1));
        assert_eq!(max_rel_diff(&array(&[f32::NAN]), &array(&[1.0])).unwrap(), Some(f64::INFINITY));
        assert_eq!(max_rel_diff(&array(&[1.0]), &array(&[f32::INFINITY])).unwrap(), None);
        assert_eq!(max_rel_diff(&array(&[]), &array(&[])).unwrap(), Some(0.0));
        assert!(max_rel_diff(&array(&[1.0]), &array(&[1.0, 2.0])).is_err());
    }
}
