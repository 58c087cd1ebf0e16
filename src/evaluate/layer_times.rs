//! How long single layers take on this machine: measured one by one, each as a model of its own, and remembered on disk.

use super::machine::Machine;
use super::stats;
use crate::error::{Error, Result};
use crate::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorShapeProto, TypeProto, ValueInfoProto,
    tensor_proto::DataType, tensor_shape_proto::Dimension, tensor_shape_proto::dimension, type_proto,
};
use crate::onnx::{Model, tensor};
use crate::runtime::walk::Feed;
use crate::runtime::{Array, Data, Device, Runtime};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// A layer with constant weights, by all that its time depends on. float32.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerShape {
    /// `Conv`, `ConvTranspose`, `Gemm` or `MatMul`.
    pub op: String,
    /// Its attributes.
    pub attributes: Vec<AttributeProto>,
    /// Version of the default operator set.
    pub opset: i64,
    /// What it reads.
    pub input: Vec<usize>,
    /// Its weight.
    pub weight: Vec<usize>,
    /// Elements of its bias; 0 without one.
    pub bias: usize,
}

impl LayerShape {
    /// A text that is the same for the same shape.
    pub fn key(&self) -> String {
        let dims = |d: &[usize]| d.iter().map(usize::to_string).collect::<Vec<_>>().join("x");
        let mut attributes: Vec<String> = self.attributes.iter().map(shown).collect();
        attributes.sort();
        let bias = if self.bias > 0 { " +bias" } else { "" };
        format!("{} {} on {}{bias} {}", self.op, dims(&self.weight), dims(&self.input), attributes.join(" "))
    }

    /// The layer alone, with weights that are no numbers in particular.
    pub fn model(&self) -> Model {
        let dim = |n: &usize| Dimension {
            value: Some(dimension::Value::DimValue(i64::try_from(*n).unwrap_or(i64::MAX))),
            ..Dimension::default()
        };
        let info = |name: &str, dims: Option<&[usize]>| {
            let tensor = type_proto::Tensor {
                elem_type: Some(DataType::Float as i32),
                shape: dims.map(|d| TensorShapeProto { dim: d.iter().map(dim).collect() }),
            };
            let kind = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
            ValueInfoProto { name: Some(name.into()), r#type: Some(kind), ..ValueInfoProto::default() }
        };
        let mut weights = vec![tensor::from_f32("w", &self.weight, &values(self.weight.iter().product()))];
        let mut input = vec!["x".to_owned(), "w".to_owned()];
        if self.bias > 0 {
            weights.push(tensor::from_f32("b", &[self.bias], &values(self.bias)));
            input.push("b".to_owned());
        }
        let node = NodeProto {
            op_type: Some(self.op.clone()),
            name: Some("layer".into()),
            input,
            output: vec!["y".into()],
            attribute: self.attributes.clone(),
            ..NodeProto::default()
        };
        let graph = GraphProto {
            name: Some("layer".into()),
            node: vec![node],
            initializer: weights,
            input: vec![info("x", Some(&self.input))],
            output: vec![info("y", None)],
            ..GraphProto::default()
        };
        let opset = OperatorSetIdProto { version: Some(self.opset), ..OperatorSetIdProto::default() };
        let proto = ModelProto {
            ir_version: Some(if self.opset >= 21 { 10 } else { 8 }),
            opset_import: vec![opset],
            graph: Some(graph),
            ..ModelProto::default()
        };
        Model::from_proto(proto, "a layer by itself")
    }

    fn feed(&self) -> Feed {
        let data = Data::F32(values(self.input.iter().product()));
        vec![("x".into(), Array { dims: self.input.clone(), data })]
    }
}

/// Without zeros and subnormal numbers, which take another time.
fn values(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7 + 3) % 17) as f32 / 17.0 - 0.47).collect()
}

fn shown(a: &AttributeProto) -> String {
    let ints: Vec<String> = a.ints.iter().map(i64::to_string).collect();
    let value = match () {
        () if !ints.is_empty() => ints.join(","),
        () if a.f.is_some() => a.f().to_string(),
        () if a.s.is_some() => String::from_utf8_lossy(a.s()).into_owned(),
        () => a.i().to_string(),
    };
    format!("{}={value}", a.name())
}

/// What times belong to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The runtime's name.
    pub runtime: String,
    /// The runtime's version.
    pub version: String,
    /// `cpu`, `cuda:0` and so on.
    pub device: String,
    /// Threads; 0 is one for each core.
    pub threads: usize,
    /// The processor's name.
    pub processor: String,
    /// Cores that this process may use.
    pub cores: usize,
}

impl Place {
    /// This machine.
    pub fn here(runtime: &dyn Runtime, device: &str, threads: usize) -> Self {
        let machine = Machine::here();
        Self {
            runtime: runtime.name().into(),
            version: runtime.version(),
            device: device.into(),
            threads,
            processor: machine.processor.unwrap_or_default(),
            cores: machine.cores,
        }
    }
}

impl Place {
    /// Whether inputs and outputs can stay on the device.
    pub fn has_memory(&self) -> bool {
        self.device.parse::<Device>().is_ok_and(|d| d.has_memory())
    }
}

/// Version of the file.
const FORMAT: u32 = 1;

/// The file.
#[derive(Serialize, Deserialize)]
struct Stored {
    format: u32,
    place: Place,
    /// Milliseconds by [`LayerShape::key`].
    ms: BTreeMap<String, f64>,
}

/// Runs of one layer that count.
const RUNS: usize = 9;
/// Seconds that the runs of one layer may take when a runtime does not tell times itself.
const LONGEST: f64 = 0.1;
/// Quantile of the runs that is taken: what disturbs a machine only ever adds time.
pub const QUANTILE: f64 = 0.25;

/// Milliseconds of one run, the first two not counted.
fn timed(run: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
    let begin = Instant::now();
    let mut ms = Vec::new();
    while ms.len() < RUNS + 2 && (ms.len() < 4 || begin.elapsed().as_secs_f64() < LONGEST) {
        let start = Instant::now();
        run()?;
        ms.push(start.elapsed().as_secs_f64() * 1e3);
    }
    ms.drain(..2);
    Ok(stats::quantile(&ms, QUANTILE))
}

/// Measures layers and remembers what it has measured.
pub struct LayerTimer {
    runtime: Arc<dyn Runtime>,
    place: Place,
    file: Option<PathBuf>,
    known: BTreeMap<String, f64>,
    /// Layers that were measured and not only looked up.
    pub measured: usize,
}

impl LayerTimer {
    /// With what an earlier run has left in `folder` for the same place; a file that cannot be read is as good as none, and is
    /// replaced.
    pub fn new(runtime: Arc<dyn Runtime>, place: Place, folder: Option<&Path>) -> Self {
        let name = serde_json::to_string(&place).unwrap_or_default();
        let name: String = Sha256::digest(name).iter().take(8).map(|b| format!("{b:02x}")).collect();
        let file = folder.map(|f| f.join(format!("layers-{name}.json")));
        let stored = file.as_ref().and_then(|f| std::fs::read_to_string(f).ok());
        let stored = stored.and_then(|text| serde_json::from_str::<Stored>(&text).ok());
        let stored = stored.filter(|s| s.format == FORMAT && s.place == place);
        let known = stored.map(|s| s.ms).unwrap_or_default();
        if let Some(file) = &file {
            tracing::info!(cache = %file.display(), layers = known.len(), "times of layers that are known");
        }
        Self { runtime, place, file, known, measured: 0 }
    }

    /// Where it runs.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Milliseconds of one run of the layer.
    ///
    /// # Errors
    /// When the runtime cannot run it.
    pub fn ms(&mut self, layer: &LayerShape) -> Result<f64> {
        let key = layer.key();
        if let Some(&ms) = self.known.get(&key) {
            tracing::debug!(layer = key, ms, "time known");
            return Ok(ms);
        }
        let ms = self.measure(layer).map_err(|e| match e {
            Error::Runtime { runtime, message } => Error::Runtime { runtime, message: format!("{key}: {message}") },
            e => e,
        })?;
        tracing::debug!(layer = key, ms, "time measured");
        self.measured += 1;
        self.known.insert(key, ms);
        Ok(ms)
    }

    fn measure(&self, layer: &LayerShape) -> Result<f64> {
        let (model, feed) = (layer.model(), layer.feed());
        // On a processor the runtime's own clock leaves out what only a layer by itself has: a change of the memory's order
        // before and after. On other devices it shows when work is handed over, not when it is done.
        if self.place.device == "cpu"
            && let Ok(profile) = self.runtime.profile(&model, &feed, RUNS)
        {
            let runs = profile.runs_without(&["ReorderInput", "ReorderOutput"]);
            if !runs.is_empty() {
                return Ok(stats::quantile(&runs, QUANTILE));
            }
        }
        let mut session = self.runtime.load(&model)?;
        if self.place.has_memory() {
            // Copies to the device and back would take longer than most layers.
            let mut bound = session.bind(&[feed])?;
            return timed(&mut || bound.compute(0));
        }
        timed(&mut || session.compute(&feed))
    }

    /// Writes down what is known, for later runs.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self) -> std::io::Result<()> {
        let Some(file) = self.file.as_ref().filter(|_| self.measured > 0) else { return Ok(()) };
        let folder = file.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder)?;
        let stored = Stored { format: FORMAT, place: self.place.clone(), ms: self.known.clone() };
        let mut staged = tempfile::NamedTempFile::new_in(folder)?;
        serde_json::to_writer_pretty(&mut staged, &stored)?;
        staged.persist(file)?;
        Ok(())
    }
}

#[cfg(test)]
#[path = "layer_times_tests.rs"]
mod tests;
