//! The accuracy diff of two models with the same interface: `onnx-prune diff`.
//!
//! [`compare`] runs both on the same samples, batch by batch, and keeps a few numbers a sample. That is two steps, [`observe`] and
//! [`Observed::finish`], so that the first can be done in parts. [`Diff`] is the result; as JSON
//! it has exactly the fields below, in this order. [`DIFF_SCHEMA_VERSION`] grows when a field changes its meaning or goes away.
//! Numbers that are not finite are `null` in JSON.

mod classes;
mod gates;
mod interface;
mod layers;
mod observe;
mod outputs;
mod scores;

pub use classes::{Changed, ClassScore, Confusion};
pub use gates::{Gate, Limits};
pub use interface::{check, stricter};
pub use layers::{LayerDiff, Layers};
pub use observe::{Observed, observe};
pub use outputs::{Kl, OutputDiff, Quantiles, Worst};
pub use scores::{Score, Verdict};

use super::metric::{Metric, Where};
use super::shard::Shard;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::flat::flatten;
use crate::graph::Graph;
use crate::onnx::Model;
use crate::plan;
use crate::prune::{analyse, count_params};
use crate::runtime::walk::Feed;
use crate::runtime::{Runtime, Session};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of the JSON schema.
pub const DIFF_SCHEMA_VERSION: u32 = 1;

/// What is compared, beside what always is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Options {
    /// Metrics asked for. The first is the primary one; without any it is top-1 with labels, else agreement.
    pub metrics: Vec<Metric>,
    /// Where metrics look.
    pub place: Where,
    /// Samples for the comparison layer by layer; none for 0.
    pub layer_samples: usize,
    /// What must hold.
    pub limits: Limits,
}

/// How two models differ.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Diff {
    /// Version of this form, [`DIFF_SCHEMA_VERSION`].
    #[schemars(extend("const" = DIFF_SCHEMA_VERSION))]
    pub schema_version: u32,
    /// Name and version of the tool.
    pub tool: String,
    /// Both files.
    pub models: Models,
    /// Where the data comes from.
    pub data: String,
    /// The number of samples.
    pub samples: usize,
    /// Whether labels were used.
    pub labels: bool,
    /// What ran both models.
    pub runtime: RuntimeUsed,
    /// What the intervals cover, as a share of all cases.
    pub confidence: f64,
    /// The metric that `--max-drop` is about; none when no metric fits the outputs.
    pub primary: Option<Metric>,
    /// Every sample has exactly the same outputs.
    pub identical: bool,
    /// Figures by the name of their metric.
    pub accuracy: BTreeMap<&'static str, Score>,
    /// With labels: top-1 by class, in order of classes; only classes with samples.
    pub per_class: Vec<ClassScore>,
    /// With labels: mistakes that became more or less frequent, the largest changes first.
    pub confusions: Vec<Confusion>,
    /// Samples that are given to another class, in order of samples.
    pub changed: Vec<Changed>,
    /// With the metric `iou`: intersection over union by class; `null` for a class that neither model gives.
    pub iou_per_class: Vec<Option<f64>>,
    /// Each graph output.
    pub outputs: Vec<OutputDiff>,
    /// The samples whose outputs differ most, the worst first.
    pub worst: Vec<Worst>,
    /// The comparison layer by layer.
    pub layers: Option<Layers>,
    /// What had to hold.
    pub gates: Vec<Gate>,
    /// Things the user should know.
    pub notes: Vec<String>,
}

/// Both models.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Models {
    /// The one that is compared with.
    pub original: ModelSide,
    /// The one that is judged.
    pub pruned: ModelSide,
}

/// One model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelSide {
    /// The file.
    pub path: String,
    /// Of the main file, without external data.
    pub sha256: String,
    /// Size on disk, external data included.
    pub bytes: u64,
    /// Elements of all floating-point constants with at least one axis.
    pub params: u64,
    /// Multiply-accumulates of Conv, ConvTranspose, Gemm and MatMul for one sample (dynamic positions: 224), where the graph
    /// can be analysed.
    pub macs: Option<u64>,
}

/// What ran the models.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RuntimeUsed {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

impl ModelSide {
    pub(super) fn of(model: &Model) -> ModelSide {
        let macs = || {
            let flat = flatten(model).ok()?;
            let graph = Graph::new(&flat).ok()?;
            let macs = plan::macs(&analyse(&graph).ok()?.trace.channels, &[]);
            Some(macs.round() as u64)
        };
        ModelSide {
            path: model.path.display().to_string(),
            sha256: model.sha256(),
            bytes: model.bytes_on_disk,
            params: count_params(model),
            macs: macs(),
        }
    }
}

/// A model that is running.
struct Running<'m> {
    model: &'m Model,
    session: Box<dyn Session>,
}

impl<'m> Running<'m> {
    fn new(model: &'m Model, runtime: &dyn Runtime) -> Result<Running<'m>> {
        let session = runtime.load(model).map_err(|e| of_model(e, model))?;
        Ok(Running { model, session })
    }

    fn run(&mut self, inputs: &Feed) -> Result<Feed> {
        self.session.run(inputs).map_err(|e| of_model(e, self.model))
    }
}

/// With two models, an error has to say which.
fn of_model(e: Error, model: &Model) -> Error {
    match e {
        Error::Runtime { runtime, message } => {
            Error::Runtime { runtime, message: format!("{}: {message}", model.path.display()) }
        }
        e => e,
    }
}

/// Compares two models on data that was opened for [`stricter`] of them. `stage` hears what is going on.
///
/// # Errors
/// When the interfaces differ, a model cannot be run, a metric that was asked for does not fit, or the models have nothing to
/// compare. A limit that is not kept is no error here; see [`Diff::verdict`].
pub fn compare(
    original: &Model,
    pruned: &Model,
    data: &Dataset,
    runtime: &dyn Runtime,
    options: &Options,
    stage: &dyn Fn(&str),
) -> Result<Diff> {
    observe((original, pruned), data, runtime, options, Shard::WHOLE, stage)?.finish()
}

/// # Errors
/// When the model has no such output.
fn has_output(model: &Model, name: &str) -> Result<()> {
    let names: Vec<&str> = model.proto.graph.iter().flat_map(|g| &g.output).map(|o| o.name()).collect();
    let all = || names.iter().map(|n| format!("{n:?}")).collect::<Vec<_>>().join(", ");
    let missing = || Error::Usage(format!("--metric-output: there is no output {name:?}; the outputs are {}", all()));
    names.contains(&name).then_some(()).ok_or_else(missing)
}

impl Diff {
    /// The figure of the primary metric.
    pub fn main(&self) -> Option<&Score> {
        self.accuracy.get(self.primary?.name())
    }

    /// [`Error::Check`] with one line for each limit that is not kept.
    ///
    /// # Errors
    /// When there is one.
    pub fn verdict(&self) -> Result<()> {
        let broken: Vec<String> = self.gates.iter().filter(|g| !g.passed).map(|g| g.words.clone()).collect();
        if broken.is_empty() { Ok(()) } else { Err(Error::Check(broken.join("\n"))) }
    }
}
