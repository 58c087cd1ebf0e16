//! The accuracy diff of two models with the same interface: `onnx-prune diff`.
//!
//! [`compare`] runs both on the same samples, batch by batch, and keeps a few numbers a sample. [`Diff`] is its result; as JSON
//! it has exactly the fields below, in this order. [`DIFF_SCHEMA_VERSION`] grows when a field changes its meaning or goes away.
//! Numbers that are not finite are `null` in JSON.

mod classes;
mod gates;
mod interface;
mod layers;
mod outputs;
mod scores;

pub use classes::{Changed, ClassScore, Confusion};
pub use gates::{Gate, Limits};
pub use interface::{check, stricter};
pub use layers::{LayerDiff, Layers};
pub use outputs::{Kl, OutputDiff, Quantiles, Worst};
pub use scores::{Score, Verdict};

use super::metric::{Metric, Where};
use super::significance::CONFIDENCE;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::flat::flatten;
use crate::graph::Graph;
use crate::onnx::Model;
use crate::plan;
use crate::prune::{analyse, count_params};
use crate::runtime::walk::Feed;
use crate::runtime::{Runtime, Session};
use classes::Classes;
use outputs::OutputTally;
use schemars::JsonSchema;
use scores::Counted;
use serde::Serialize;
use std::collections::BTreeMap;

/// Version of the JSON schema.
pub const DIFF_SCHEMA_VERSION: u32 = 1;

/// What is compared, beside what always is.
#[derive(Clone, Debug, Default)]
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
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Models {
    /// The one that is compared with.
    pub original: ModelSide,
    /// The one that is judged.
    pub pruned: ModelSide,
}

/// One model.
#[derive(Clone, Debug, Serialize, JsonSchema)]
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
#[derive(Clone, Debug, Serialize, JsonSchema)]
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
    check(original, pruned)?;
    options.limits.check()?;
    let place = &options.place;
    if let Some(name) = &place.output {
        has_output(original, name)?;
    }
    let mut notes: Vec<String> = data.notes().to_vec();
    let (mut a, mut b) = (Running::new(original, runtime)?, Running::new(pruned, runtime)?);
    let mut counted: Vec<Counted> = Vec::new();
    let mut classes: Option<Classes> = None;
    let mut tallies: Vec<OutputTally> = Vec::new();
    let batches = data.batches();
    for k in 0..batches {
        stage(&format!("batch {} of {batches}", k + 1));
        let inputs = data.batch(k)?;
        let (x, y) = rayon::join(|| a.run(&inputs), || b.run(&inputs));
        let (x, y) = (x?, y?);
        let range = data.range(k);
        if k == 0 {
            classes = Classes::find(place, &x, range.len());
            counted = scores::choose(options, data, &x, classes.as_ref(), &mut notes)?;
            tallies = OutputTally::all(&x, place);
        }
        let labels = data.labels().and_then(|l| l.get(range.clone()));
        let place = |e: Error| Error::Usage(format!("{}: {e}", data.path().display()));
        for c in &mut counted {
            c.add(&x, &y, labels).map_err(|e| if c.metric.needs_labels() { place(e) } else { e })?;
        }
        if let Some(c) = &mut classes {
            c.add(&x, &y);
        }
        tallies.iter_mut().for_each(|t| t.add(&x, &y, range.len()));
    }
    let layers = match options.layer_samples {
        0 => None,
        n => Some(layers::layers(original, pruned, data, runtime, n, stage)?),
    };
    stage("figures");
    let outputs: Vec<OutputDiff> = tallies.iter().map(OutputTally::finish).collect();
    if !outputs.iter().any(|o| o.batches > 0) {
        return Err(nothing(original, pruned, &tallies));
    }
    notes.extend(tallies.iter().filter_map(OutputTally::note));
    let (accuracy, iou_per_class) = scores::accuracy(&counted, data.len(), &mut notes);
    let primary = scores::primary(options, &counted);
    let used = counted.iter().any(|c| c.metric == Metric::Top1 && c.is_measured());
    let labels = data.labels().filter(|_| used);
    let (per_class, confusions) = match (&classes, labels) {
        (Some(c), Some(l)) => (c.per_class(l), c.confusions(l)),
        _ => (Vec::new(), Vec::new()),
    };
    let changed = classes.as_ref().map(|c| c.changed(data, labels)).unwrap_or_default();
    let worst = outputs::worst(&tallies, data, classes.as_ref(), labels);
    let mut hollow: BTreeMap<Metric, String> = BTreeMap::new();
    hollow.extend(counted.iter().filter(|c| c.is_measured()).filter_map(|c| Some((c.metric, c.says_nothing()?))));
    notes.extend(hollow.values().cloned());
    let gates = gates::judge(&options.limits, primary, &accuracy, &hollow)?;
    Ok(Diff {
        schema_version: DIFF_SCHEMA_VERSION,
        tool: concat!("onnx-prune ", env!("CARGO_PKG_VERSION")).into(),
        models: Models { original: ModelSide::of(original), pruned: ModelSide::of(pruned) },
        data: data.path().display().to_string(),
        samples: data.len(),
        labels: labels.is_some(),
        runtime: RuntimeUsed { name: runtime.name().into(), version: runtime.version() },
        confidence: CONFIDENCE,
        primary,
        identical: tallies.iter().all(OutputTally::is_identical),
        accuracy,
        per_class,
        confusions,
        changed,
        iou_per_class,
        outputs,
        worst,
        layers,
        gates,
        notes,
    })
}

/// # Errors
/// When the model has no such output.
fn has_output(model: &Model, name: &str) -> Result<()> {
    let names: Vec<&str> = model.proto.graph.iter().flat_map(|g| &g.output).map(|o| o.name()).collect();
    let all = || names.iter().map(|n| format!("{n:?}")).collect::<Vec<_>>().join(", ");
    let missing = || Error::Usage(format!("--metric-output: there is no output {name:?}; the outputs are {}", all()));
    names.contains(&name).then_some(()).ok_or_else(missing)
}

/// No output has the same shape in both.
fn nothing(original: &Model, pruned: &Model, tallies: &[OutputTally]) -> Error {
    let why = tallies.iter().find_map(OutputTally::note).unwrap_or_else(|| "there are no outputs".into());
    Error::Usage(format!(
        "{} and {} have no outputs of the same shape to compare: {why}",
        original.path.display(),
        pruned.path.display()
    ))
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
