//! What a run over some of the samples saw, in a form that joins: [`Observed`].

use super::classes::Classes;
use super::interface::check;
use super::layers::{LayersSeen, layers};
use super::outputs::{self, OutputTally};
use super::scores::{self, Counted, Stored};
use super::{
    DIFF_SCHEMA_VERSION, Diff, Gate, ModelSide, Models, Options, OutputDiff, Running, RuntimeUsed, gates, has_output,
};
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::evaluate::metric::Metric;
use crate::evaluate::shard::Shard;
use crate::evaluate::significance::CONFIDENCE;
use crate::onnx::Model;
use crate::runtime::Runtime;
use crate::runtime::walk::Feed;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Samples that follow each other, of all that were selected.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(super) struct Samples {
    /// Where the data comes from.
    path: String,
    /// Of all.
    total: usize,
    /// Position of the first one here.
    from: usize,
    /// What they are called.
    names: Vec<String>,
    labels: Option<Vec<i64>>,
}

impl Samples {
    fn of(data: &Dataset, batches: std::ops::Range<usize>) -> Samples {
        let from = data.range(batches.start).start;
        let to = data.range(batches.end).start.max(from);
        Samples {
            path: data.path().display().to_string(),
            total: data.len(),
            from,
            names: (from..to).map(|i| data.name(i)).collect(),
            labels: data.labels().map(|l| l.get(from..to).unwrap_or_default().to_vec()),
        }
    }

    /// The number of samples.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// What a sample is called.
    pub fn name(&self, sample: usize) -> String {
        self.names.get(sample).cloned().unwrap_or_default()
    }

    fn end(&self) -> usize {
        self.from.saturating_add(self.len())
    }

    /// Goes on with those that come after.
    fn join(&mut self, after: Samples) -> Result<()> {
        let fits = after.from == self.end() && self.labels.is_some() == after.labels.is_some();
        if !fits {
            let (a, b) = (self.end(), after.from);
            return Err(Error::Usage(format!(
                "the samples of the parts do not follow each other: up to {a} and from {b}; make the parts again"
            )));
        }
        self.names.extend(after.names);
        if let (Some(all), Some(more)) = (&mut self.labels, after.labels) {
            all.extend(more);
        }
        Ok(())
    }
}

/// What a comparison saw on one part of the samples (see [`observe`]); [`join`](Self::join) puts parts together, and
/// [`finish`](Self::finish) makes the [`Diff`] of the whole.
///
/// Figures of samples, sums of batches and counts are kept as they are, so that the additions of the whole can be done in its order.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Observed {
    options: Options,
    models: Models,
    data: Samples,
    runtime: RuntimeUsed,
    /// Of the data, and of what metrics were chosen.
    notes: Vec<String>,
    counted: Vec<Stored>,
    classes: Option<Classes>,
    outputs: Vec<OutputTally>,
    layers: Option<LayersSeen>,
}

/// What the original's first batch of all decides.
struct Setup {
    counted: Vec<Counted>,
    classes: Option<Classes>,
    tallies: Vec<OutputTally>,
}

impl Setup {
    fn new(options: &Options, data: &Dataset, first: &Feed, before: usize, notes: &mut Vec<String>) -> Result<Setup> {
        let classes = Classes::find(&options.place, first, data.range(0).len());
        Ok(Setup {
            counted: scores::choose(options, data, first, classes.as_ref(), before, notes)?,
            tallies: OutputTally::all(first, &options.place),
            classes,
        })
    }
}

/// Runs both models on one part of data that was opened for the [`stricter`](super::stricter) of them. Parts are cut between
/// batches, so that every batch has the samples that it has in the whole; there may be none in a part. The original runs on the
/// first batch of all in any case: that decides how outputs are taken.
///
/// # Errors
/// When the interfaces differ, a model cannot be run, or a metric that was asked for does not fit.
pub fn observe(
    (original, pruned): (&Model, &Model),
    data: &Dataset,
    runtime: &dyn Runtime,
    options: &Options,
    shard: Shard,
    stage: &dyn Fn(&str),
) -> Result<Observed> {
    check(original, pruned)?;
    options.limits.check()?;
    if let Some(name) = &options.place.output {
        has_output(original, name)?;
    }
    let mut notes: Vec<String> = data.notes().to_vec();
    let (mut a, mut b) = (Running::new(original, runtime)?, Running::new(pruned, runtime)?);
    let batches = data.batches();
    let mine = shard.range(batches);
    let samples = Samples::of(data, mine.clone());
    let mut setup = None;
    if mine.is_empty() || mine.start > 0 {
        stage("the first batch");
        setup = Some(Setup::new(options, data, &a.run(&data.batch(0)?)?, samples.from, &mut notes)?);
    }
    for k in mine {
        stage(&format!("batch {} of {batches}", k + 1));
        let inputs = data.batch(k)?;
        let (x, y) = rayon::join(|| a.run(&inputs), || b.run(&inputs));
        let (x, y) = (x?, y?);
        let range = data.range(k);
        let s = match &mut setup {
            Some(setup) => setup,
            none => none.insert(Setup::new(options, data, &x, samples.from, &mut notes)?),
        };
        let labels = data.labels().and_then(|l| l.get(range.clone()));
        let place = |e: Error| Error::Usage(format!("{}: {e}", data.path().display()));
        for c in &mut s.counted {
            c.add(&x, &y, labels).map_err(|e| if c.metric.needs_labels() { place(e) } else { e })?;
        }
        if let Some(c) = &mut s.classes {
            c.add(&x, &y);
        }
        s.tallies.iter_mut().for_each(|t| t.add(&x, &y, range.len()));
    }
    let setup = setup.ok_or_else(|| Error::Internal("no batch was run".into()))?;
    let layers = match options.layer_samples {
        0 => None,
        n => Some(layers((original, pruned), data, runtime, n, shard, stage)?),
    };
    stage("figures");
    Ok(Observed {
        options: options.clone(),
        models: Models { original: ModelSide::of(original), pruned: ModelSide::of(pruned) },
        data: samples,
        runtime: RuntimeUsed { name: runtime.name().into(), version: runtime.version() },
        notes,
        counted: setup.counted.into_iter().map(Counted::stored).collect(),
        classes: setup.classes,
        outputs: setup.tallies,
        layers,
    })
}

impl Observed {
    /// Both files.
    pub fn models(&self) -> &Models {
        &self.models
    }

    /// What was compared and how.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The number of samples in this part, and of all.
    pub fn samples(&self) -> (usize, usize) {
        (self.data.len(), self.data.total)
    }

    /// What ran the models.
    pub fn runtime(&self) -> &RuntimeUsed {
        &self.runtime
    }

    /// Goes on with the part that comes after.
    ///
    /// # Errors
    /// [`Error::Usage`] when that is not the next part of the same run.
    pub fn join(&mut self, after: Observed) -> Result<()> {
        let same = self.notes == after.notes
            && alike(&self.counted, &after.counted, Stored::alike)
            && alike(&self.outputs, &after.outputs, |a, b| a.head() == b.head())
            && alike(self.classes.as_slice(), after.classes.as_slice(), Classes::alike)
            && alike(self.layers.as_slice(), after.layers.as_slice(), LayersSeen::alike);
        if !same {
            return Err(Error::Usage(
                "the parts do not agree on what is compared: the first batch came out otherwise; make them again on equal machines"
                    .into(),
            ));
        }
        self.data.join(after.data)?;
        self.counted.iter_mut().zip(after.counted).for_each(|(a, b)| a.join(b));
        self.outputs.iter_mut().zip(after.outputs).for_each(|(a, b)| a.join(b));
        if let (Some(a), Some(b)) = (&mut self.classes, after.classes) {
            a.join(b);
        }
        if let (Some(a), Some(b)) = (&mut self.layers, after.layers) {
            a.join(b);
        }
        Ok(())
    }

    /// The comparison.
    ///
    /// # Errors
    /// When samples are missing, there is nothing to compare, or a limit is about a figure that could not be measured.
    pub fn finish(self) -> Result<Diff> {
        let Observed { options, models, data, runtime, mut notes, counted, classes, outputs: tallies, layers } = self;
        if data.from != 0 || data.len() != data.total {
            let (n, total) = (data.len(), data.total);
            return Err(Error::Usage(format!("only {n} of {total} samples were compared; merge all parts")));
        }
        let counted: Vec<Counted> = counted.into_iter().map(|c| Counted::restored(c, &options)).collect();
        if !tallies.iter().any(|o| o.compared() > 0) {
            return Err(nothing(&models, &tallies));
        }
        let outputs: Vec<OutputDiff> = tallies.iter().map(OutputTally::finish).collect();
        notes.extend(tallies.iter().filter_map(OutputTally::note));
        let (accuracy, iou_per_class) = scores::accuracy(&counted, data.len(), &mut notes);
        let primary = scores::primary(&options, &counted);
        let used = counted.iter().any(|c| c.metric == Metric::Top1 && c.is_measured());
        let labels = data.labels.as_deref().filter(|_| used);
        let (per_class, confusions) = match (&classes, labels) {
            (Some(c), Some(l)) => (c.per_class(l), c.confusions(l)),
            _ => (Vec::new(), Vec::new()),
        };
        let changed = classes.as_ref().map(|c| c.changed(&data, labels)).unwrap_or_default();
        let worst = outputs::worst(&tallies, &data, classes.as_ref(), labels);
        let mut hollow: BTreeMap<Metric, String> = BTreeMap::new();
        hollow.extend(counted.iter().filter(|c| c.is_measured()).filter_map(|c| Some((c.metric, c.says_nothing()?))));
        notes.extend(hollow.values().cloned());
        let gates: Vec<Gate> = gates::judge(&options.limits, primary, &accuracy, &hollow)?;
        Ok(Diff {
            schema_version: DIFF_SCHEMA_VERSION,
            tool: concat!("onnx-prune ", env!("CARGO_PKG_VERSION")).into(),
            models,
            samples: data.len(),
            labels: labels.is_some(),
            runtime,
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
            layers: layers.as_ref().map(LayersSeen::finish),
            gates,
            notes,
            data: data.path,
        })
    }
}

fn alike<T>(a: &[T], b: &[T], same: impl Fn(&T, &T) -> bool) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
}

/// No output has the same shape in both.
fn nothing(models: &Models, tallies: &[OutputTally]) -> Error {
    let why = tallies.iter().find_map(OutputTally::note).unwrap_or_else(|| "there are no outputs".into());
    Error::Usage(format!(
        "{} and {} have no outputs of the same shape to compare: {why}",
        models.original.path, models.pruned.path
    ))
}
