//! tract as the embedded runtime, single-threaded.
//!
//! tract reports some of what it does not support by panicking and can recurse deeply, so all of it runs on threads of its
//! own with a large stack. Their panics become errors and print nothing.

use super::{Array, Data, Runtime, Session};
use crate::error::{Error, Result};
use crate::onnx::Model;
use anyhow::Context;
use prost::Message;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Once};
use std::thread;
use tract_onnx::pb;
use tract_onnx::prelude::*;

/// The name of the runtime and of its threads.
const NAME: &str = "tract";
const STACK_BYTES: usize = 256 << 20;
/// How many plans a session keeps. Each holds a copy of the weights, arranged for its shapes.
const PLANS: usize = 4;
/// tract's messages may quote whole nodes.
const MAX_MESSAGE_CHARS: usize = 800;

/// The embedded runtime.
pub(super) struct Tract;

impl Runtime for Tract {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> String {
        // tract does not tell; the lock file that comes with the source does.
        let mut lines = include_str!("../../Cargo.lock").lines();
        lines.find(|line| *line == "name = \"tract-onnx\"");
        let version = lines.next().and_then(|line| line.strip_prefix("version = \"")?.strip_suffix('"'));
        version.unwrap_or("unknown").to_owned()
    }

    fn load(&self, model: &Model) -> Result<Box<dyn Session>> {
        let bytes = model.to_bytes()?;
        let outputs = model.proto.graph.iter().flat_map(|graph| &graph.output).map(|o| o.name().to_owned()).collect();
        let parsed = isolated(move || {
            let mut proto = pb::ModelProto::decode(bytes.as_slice())?;
            drop(bytes);
            let functions: Vec<String> = proto.functions.iter().filter_map(|f| f.name.clone()).collect();
            proto.graph.iter_mut().try_for_each(|graph| correct(graph, &functions))?;
            // Declared shapes of inner values and outputs are hints that editing a graph makes stale, and tract would take
            // them for facts. With the inputs' shapes known it needs none of them.
            let onnx = tract_onnx::onnx().with_ignore_value_info(true).with_ignore_output_shapes(true);
            onnx.model_for_proto_model(&proto)
        })?;
        Ok(Box::new(TractSession { parsed, outputs, plans: Vec::new() }))
    }
}

/// Operators of `com.microsoft` that tract has. It looks for a name in whatever domain, so that it would take others for
/// standard operators.
const CONTRIB: &[&str] = &[
    "BiasGelu",
    "DequantizeLinear",
    "FastGelu",
    "Gelu",
    "MatMulNBits",
    "QLinearConv",
    "QuantizeLinear",
    "QuickGelu",
    "SkipLayerNormalization",
];

/// Makes up for, or refuses, what tract 0.23 reads differently from what the standard says.
fn correct(graph: &mut pb::GraphProto, functions: &[String]) -> TractResult<()> {
    for node in &mut graph.node {
        for attribute in &mut node.attribute {
            attribute.g.iter_mut().chain(&mut attribute.graphs).try_for_each(|g| correct(g, functions))?;
        }
        let known = match node.domain.as_str() {
            "" | "ai.onnx" => true,
            "com.microsoft" => CONTRIB.contains(&node.op_type.as_str()),
            _ => false,
        };
        let last = node.attribute.iter().any(|attribute| attribute.name == "channels_last" && attribute.i != 0);
        if (!known && !functions.contains(&node.op_type)) || last {
            let form = if last { " with channels last" } else { "" };
            let message = format!("{}:{} {:?}{form} is not supported", node.domain, node.op_type, node.name);
            return Err(TractError::msg(message));
        }
        let attribute = |name| node.attribute.iter().find(|attribute| attribute.name == name);
        match node.op_type.as_str() {
            // Zeros without a value are float; tract would make them double, which then fit nothing.
            "ConstantOfShape" if attribute("value").is_none() => {
                let mut zero = pb::TensorProto { dims: vec![1], float_data: vec![0.0], ..Default::default() };
                zero.data_type = pb::tensor_proto::DataType::Float as i32;
                let mut value = pb::AttributeProto { name: "value".to_owned(), t: Some(zero), ..Default::default() };
                value.r#type = pb::attribute_proto::AttributeType::Tensor as i32;
                node.attribute.push(value);
            }
            // tract would use the stored statistics.
            "BatchNormalization" if attribute("training_mode").is_some_and(|attribute| attribute.i != 0) => {
                let message = format!("BatchNormalization {:?} in training mode is not supported", node.name);
                return Err(TractError::msg(message));
            }
            _ => {}
        }
    }
    Ok(())
}

/// What a plan is made for: shape and type of each input, in tract's order.
type Key = Vec<(Vec<usize>, DatumType)>;

/// How far tract rewrites a model before it runs. Going less far is slower, and avoids the bugs of the later steps.
#[derive(Clone, Copy)]
enum Effort {
    Optimized,
    Decluttered,
    Typed,
}

struct TractSession {
    parsed: InferenceModel,
    /// The names of the graph outputs.
    outputs: Vec<String>,
    /// The plans made so far, the latest used last.
    plans: Vec<(Key, Arc<TypedRunnableModel>)>,
}

impl Session for TractSession {
    fn run(&mut self, inputs: &[(String, Array)]) -> Result<Vec<(String, Array)>> {
        let (tensors, key) = isolated(|| self.arrange(inputs))?;
        let results = match self.plans.iter().position(|(known, _)| *known == key) {
            Some(at) => {
                let entry = self.plans.remove(at);
                let results = isolated(|| evaluate(&entry.1, &tensors));
                self.plans.push(entry);
                results?
            }
            None => {
                let (plan, results) = isolated(|| self.plan_and_run(&key, &tensors))?;
                if self.plans.len() == PLANS {
                    self.plans.remove(0);
                }
                self.plans.push((key, plan));
                results
            }
        };
        if results.len() != self.outputs.len() {
            return Err(failure(format!("{} outputs instead of {}", results.len(), self.outputs.len())));
        }
        Ok(self.outputs.iter().cloned().zip(results).collect())
    }
}

impl TractSession {
    /// The inputs as tensors in tract's order.
    fn arrange(&self, inputs: &[(String, Array)]) -> TractResult<(Vec<TValue>, Key)> {
        let names: Vec<&str> =
            self.parsed.inputs.iter().map(|outlet| self.parsed.node(outlet.node).name.as_str()).collect();
        if let Some((name, _)) = inputs.iter().find(|(name, _)| !names.contains(&name.as_str())) {
            return Err(TractError::msg(format!("the model has no input {name:?}")));
        }
        let mut tensors = Vec::new();
        let mut key = Key::new();
        for name in names {
            let Some((_, array)) = inputs.iter().find(|(given, _)| given == name) else {
                return Err(TractError::msg(format!("no value for input {name:?}")));
            };
            let tensor = to_tensor(array).with_context(|| format!("input {name:?}"))?;
            key.push((array.dims.clone(), tensor.datum_type()));
            tensors.push(tensor.into_tvalue());
        }
        Ok((tensors, key))
    }

    /// Makes the most optimized plan that works for these inputs, which only a run can tell.
    fn plan_and_run(&self, key: &Key, tensors: &[TValue]) -> TractResult<(Arc<TypedRunnableModel>, Vec<Array>)> {
        let mut model = self.parsed.clone();
        for (index, (dims, datum_type)) in key.iter().enumerate() {
            model.set_input_fact(index, InferenceFact::dt_shape(*datum_type, dims.iter()))?;
        }
        let typed = model.into_typed()?;
        let mut first_error = None;
        for effort in [Effort::Optimized, Effort::Decluttered, Effort::Typed] {
            let attempt = caught(|| {
                let model = match effort {
                    Effort::Optimized => typed.clone().into_optimized()?,
                    Effort::Decluttered => typed.clone().into_decluttered()?,
                    Effort::Typed => typed.clone(),
                };
                let plan = model.into_runnable()?;
                let results = evaluate(&plan, tensors)?;
                Ok((plan, results))
            });
            match attempt {
                Ok(done) => return Ok(done),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        Err(first_error.unwrap_or_else(|| TractError::msg("nothing to run")))
    }
}

fn evaluate(plan: &Arc<TypedRunnableModel>, tensors: &[TValue]) -> TractResult<Vec<Array>> {
    plan.run(tensors.iter().cloned().collect())?.iter().map(|value| to_array(value)).collect()
}

fn to_tensor(array: &Array) -> TractResult<Tensor> {
    let dims = &array.dims;
    if dims.iter().try_fold(1usize, |len, &dim| len.checked_mul(dim)) != Some(array.data.len()) {
        return Err(TractError::msg(format!("{} elements for shape {dims:?}", array.data.len())));
    }
    match &array.data {
        Data::F32(v) => Tensor::from_shape(dims, v),
        Data::F64(v) => Tensor::from_shape(dims, v),
        Data::F16(v) => Tensor::from_shape(dims, v),
        Data::I64(v) => Tensor::from_shape(dims, v),
        Data::I32(v) => Tensor::from_shape(dims, v),
        Data::U8(v) => Tensor::from_shape(dims, v),
        Data::I8(v) => Tensor::from_shape(dims, v),
        Data::Bool(v) => Tensor::from_shape(dims, v),
    }
}

fn to_array(tensor: &Tensor) -> TractResult<Array> {
    fn elements<T: Datum + Clone>(tensor: &Tensor) -> TractResult<Vec<T>> {
        Ok(tensor.try_as_plain_ram()?.as_slice::<T>()?.to_vec())
    }
    let data = match tensor.datum_type().unquantized() {
        DatumType::F32 => Data::F32(elements(tensor)?),
        DatumType::F64 => Data::F64(elements(tensor)?),
        DatumType::F16 => Data::F16(elements(tensor)?),
        DatumType::I64 => Data::I64(elements(tensor)?),
        DatumType::I32 => Data::I32(elements(tensor)?),
        DatumType::U8 => Data::U8(elements(tensor)?),
        DatumType::I8 => Data::I8(elements(tensor)?),
        DatumType::Bool => Data::Bool(elements(tensor)?),
        // tract's own type for what may become a dimension, int64 in the model; and the integers that `Data` lacks.
        DatumType::TDim | DatumType::I16 | DatumType::U16 | DatumType::U32 | DatumType::U64 => {
            Data::I64(elements(&*tensor.cast_to::<i64>()?)?)
        }
        other => return Err(TractError::msg(format!("an output of type {other:?} is not supported"))),
    };
    Ok(Array { dims: tensor.shape().to_vec(), data })
}

/// Does the work on a thread of its own. Panics there are errors.
fn isolated<T: Send>(work: impl FnOnce() -> TractResult<T> + Send) -> Result<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if thread::current().name() != Some(NAME) {
                report(panic);
            }
        }));
    });
    let done = thread::scope(|scope| {
        let builder = thread::Builder::new().name(NAME.to_owned()).stack_size(STACK_BYTES);
        let worker = builder.spawn_scoped(scope, || caught(work)).map_err(TractError::new)?;
        worker.join().unwrap_or_else(|panic| Err(panicked(&*panic)))
    });
    done.map_err(|error| failure(one_line(&error)))
}

fn caught<T>(work: impl FnOnce() -> TractResult<T>) -> TractResult<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(panicked(&*panic)))
}

fn panicked(panic: &(dyn Any + Send)) -> TractError {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    TractError::msg(format!("panicked: {}", text.unwrap_or("no message")))
}

fn failure(message: String) -> Error {
    Error::Runtime { runtime: NAME, message }
}

/// The chain of causes, from the outside in, without line breaks and without those the one before quotes.
fn one_line(error: &TractError) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = cause.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        if text.is_empty() || line.ends_with(&text) {
            continue;
        }
        if !line.is_empty() {
            line.push_str(": ");
        }
        line.push_str(&text);
    }
    match line.char_indices().nth(MAX_MESSAGE_CHARS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
#[path = "tract_tests.rs"]
mod tests;
