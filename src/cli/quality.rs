//! Data that decides and repairs, data that measures, and what is measured.

use super::data::DataArgs;
use super::limits::GATE;
use super::prune::in_file;
use super::runtime::{DeviceArgs, RuntimeArgs};
use clap::{Args, ValueHint};
use onnx_prune::calibrate::Calibration;
use onnx_prune::data::{DEFAULT_BATCH, DataOptions, Dataset};
use onnx_prune::error::Error;
use onnx_prune::evaluate::metric::{Metric, Where};
use onnx_prune::evaluate::quality::{ByCommand, OnData, Quality};
use onnx_prune::onnx::Model;
use onnx_prune::prune::search::Minimise;
use onnx_prune::runtime::{Runtime, choose, choose_with};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Samples that are drawn when `--samples` does not say.
const SAMPLES: usize = 512;
/// Fewer batches than this are made smaller.
const BATCHES: usize = 8;
/// Samples that are measured on when `--eval-samples` does not say.
const MEASURED: usize = 2000;

/// How accuracy is measured.
#[derive(Clone, Debug, Args)]
pub struct MetricArgs {
    /// Measure this on the data that did not calibrate [default where accuracy is measured: top1 with labels, else agreement]
    #[arg(long, value_enum, value_name = "METRIC", help_heading = "Accuracy")]
    metric: Option<Metric>,
    /// The output that is measured [default: all of floating point; the first with classes]
    #[arg(long, value_name = "NAME", help_heading = "Accuracy")]
    metric_output: Option<String>,
    /// The axis of its classes [default: the last of two or three, else 1]
    #[arg(long, value_name = "N", help_heading = "Accuracy")]
    class_axis: Option<usize>,
    /// Measure with a command instead: {model} stands for the file, the last number that it prints is the score (higher is
    /// better, and drops are in its unit)
    #[arg(long, value_name = "CMD", conflicts_with_all = ["metric", "metric_output", "class_axis"], help_heading = "Accuracy")]
    eval_command: Option<String>,
    /// Measure on this data, prepared as that of --data [default: what --data has beyond the calibration samples]
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath, conflicts_with = "eval_command", help_heading = "Accuracy")]
    eval_data: Option<PathBuf>,
    /// Measure on at most N samples [default: 2000]
    #[arg(long, value_name = "N", conflicts_with = "eval_command", help_heading = "Accuracy")]
    eval_samples: Option<usize>,
}

/// What the accuracy is, and how much of it may go.
#[derive(Clone, Debug, Args)]
pub struct QualityArgs {
    /// With a budget: fail (exit code 1, no model) when accuracy drops by more points. Without one: find the smallest model
    /// that does not
    #[arg(long, value_name = "POINTS", allow_negative_numbers = true, help_heading = GATE)]
    pub max_drop: Option<f64>,
    /// What the search without a budget makes small
    #[arg(long, value_enum, value_name = "WHAT", default_value_t, requires = "max_drop", help_heading = "Accuracy")]
    pub minimise: Minimise,
    #[command(flatten)]
    pub how: MetricArgs,
}

/// What a run works with.
#[derive(Default)]
pub struct Means {
    /// Decides and repairs.
    pub calibration: Option<Arc<Calibration>>,
    /// Measures.
    pub quality: Option<Quality>,
    /// All that may be trained on: what calibrates, and where nothing of the same source measures, the rest of it.
    pub fit: Option<Dataset>,
}

impl MetricArgs {
    /// Opens all data. With one source, what calibrates does not measure. `wanted`: accuracy is measured, whatever the flags.
    /// `device`: where it is, if not on the processor.
    pub fn open(
        &self,
        wanted: bool,
        data: &DataArgs,
        runtime: &RuntimeArgs,
        device: Option<&DeviceArgs>,
        model: &Model,
        seed: u64,
    ) -> anyhow::Result<Means> {
        let place = self.metric_output.is_some() || self.class_axis.is_some();
        let samples = self.eval_data.is_some() || self.eval_samples.is_some();
        let wanted = wanted || self.metric.is_some() || place || samples;
        let on_data = wanted && self.eval_command.is_none();
        let Some((from, options)) = data.resolve(&model.path, seed)? else {
            if on_data {
                let why = "accuracy is measured on data: give --data (and --eval-data to measure on other samples), or measure with \
                           --eval-command";
                return Err(Error::Usage(why.into()).into());
            }
            return Ok(Means { calibration: None, quality: self.command(model)?, fit: None });
        };
        let open = |path: &Path, o: &DataOptions| Dataset::open(path, model, o).map_err(|e| in_file(e, path));
        let most = options.samples.unwrap_or(SAMPLES);
        let (calibrate, measure) = if on_data && self.eval_data.is_none() {
            let all = open(&from, &DataOptions { samples: None, ..options.clone() })?;
            if options.samples.is_some_and(|n| n >= all.len()) {
                return Err(Error::Usage(format!(
                    "{} has {} samples and --samples takes all of them to calibrate: there are none left to measure on; take \
                     fewer, or give others with --eval-data",
                    from.display(),
                    all.len()
                ))
                .into());
            }
            // Half of few samples, unless told.
            let half = options.samples.map_or(all.len() / 2, |n| n);
            let (a, b) = all.divide(most.min(half).max(1), seed)?;
            (a, Some(b))
        } else {
            let measure = self.eval_data.as_ref().filter(|_| on_data);
            let measure = measure.map(|p| open(p, &DataOptions { samples: None, ..options.clone() })).transpose()?;
            (open(&from, &DataOptions { samples: Some(most), ..options.clone() })?, measure)
        };
        let fit = if measure.is_some() && self.eval_data.is_none() {
            calibrate.clone()
        } else {
            open(&from, &DataOptions { samples: None, ..options.clone() })?
        };
        // Calibration runs small parts of the model, many times.
        let measuring = device.map(|d| choose_with(&runtime.on(d))).transpose()?;
        let runtime = choose(runtime.runtime.into(), runtime.ort_lib.as_deref())?;
        let quality = match measure {
            Some(data) => Some(self.on(model, data, measuring.unwrap_or_else(|| runtime.clone()), seed)?),
            None => self.command(model)?,
        };
        let few = options.batch.is_none() && calibrate.batch_size() == DEFAULT_BATCH && calibrate.batches() < BATCHES;
        // Whole batches are held back to measure.
        let size = calibrate.len().div_ceil(BATCHES);
        let calibrate = if few { calibrate.batched(size) } else { calibrate };
        let batches = (0..calibrate.batches()).map(|k| calibrate.batch(k)).collect::<Result<Vec<_>, Error>>();
        let batches = batches.map_err(|e| in_file(e, &from))?;
        Ok(Means {
            calibration: Some(Arc::new(Calibration::new(batches, runtime).seeded(seed))),
            quality,
            fit: Some(fit),
        })
    }

    /// Whether a command measures.
    pub fn by_command(&self) -> bool {
        self.eval_command.is_some()
    }

    fn command(&self, model: &Model) -> anyhow::Result<Option<Quality>> {
        let Some(command) = &self.eval_command else { return Ok(None) };
        Ok(Some(Quality::Command(ByCommand::new(model, command)?)))
    }

    fn on(&self, model: &Model, data: Dataset, runtime: Arc<dyn Runtime>, seed: u64) -> anyhow::Result<Quality> {
        let most = self.eval_samples.unwrap_or(MEASURED);
        let data = if most < data.len() { data.divide(most, seed)?.0 } else { data };
        let place = Where { output: self.metric_output.clone(), class_axis: self.class_axis };
        Ok(Quality::Data(Box::new(OnData::new(model, data, runtime, self.metric, place)?)))
    }
}
