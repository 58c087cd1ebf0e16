//! How fast a smaller model is against the original: for `check` and the pruning command.

use super::colour;
use super::data::DataArgs;
use super::latency::Conditions;
use super::parse;
use super::progress::Progress;
use super::prune::in_file;
use super::runtime::{DeviceArgs, RuntimeArgs};
use clap::Args;
use onnx_prune::data::{DataOptions, Dataset};
use onnx_prune::error::{Error, Result};
use onnx_prune::evaluate::bench::{BenchOptions, BenchReport, Effort, SystemClock, bench};
use onnx_prune::evaluate::gate::slower;
use onnx_prune::evaluate::inputs;
use onnx_prune::onnx::Model;
use onnx_prune::runtime::walk::Feed;
use onnx_prune::runtime::{Device, InputSpec, RuntimeOptions, choose_with};
use std::path::{Path, PathBuf};

/// Seconds for each model when nothing is said.
const MIN_TIME: f64 = 3.0;
/// Extent of open axes when nothing is said.
const EXTENT: usize = 224;
/// Seconds before it counts.
const WARMUP: f64 = 0.5;

/// A note where the processor did a part of the work.
pub fn fallen_back(what: &str, share: f64, device: &Device) -> Option<String> {
    let percent = (share * 100.0).floor();
    let note = || format!("{what}: {percent} % of the nodes ran on {device}, the others on the processor");
    (share < 1.0).then(note)
}

/// What has to be known of times, whatever the limits.
pub fn warn(report: &BenchReport) {
    slower(report).iter().chain(&report.notes).for_each(|words| colour::warning(words));
}

/// How times are measured. Any of these has them measured, also without a limit on them.
#[derive(Debug, Args)]
pub struct SpeedArgs {
    /// Samples in one run that is timed [default: 1, or what the model fixes]
    #[arg(long, value_name = "N", value_parser = parse::at_least_one, help_heading = "Speed")]
    bench_batch: Option<usize>,
    /// Threads while timing; 0 is one for each core [default: 0, and 1 for tract]
    #[arg(long, value_name = "N", help_heading = "Speed")]
    bench_threads: Option<usize>,
    /// Time each model N times, in turn (like any option here, this has times measured also without a limit on them)
    #[arg(long, value_name = "N", value_parser = parse::at_least_one, conflicts_with = "min_time", help_heading = "Speed")]
    runs: Option<usize>,
    /// Time each model for S seconds, and at least 10 runs [default: 3]
    #[arg(long, value_name = "S", value_parser = parse::positive, help_heading = "Speed")]
    min_time: Option<f64>,
    /// Extent of axes, other than that of the batch, that the model leaves open [default: 224]
    #[arg(long, value_name = "N", value_parser = parse::at_least_one, help_heading = "Speed")]
    extent: Option<usize>,
}

/// Where and on what times are measured.
pub struct At<'a> {
    /// The model that others are compared with.
    pub original: &'a Path,
    /// What it runs on, where there is some.
    pub data: &'a DataArgs,
    /// What runs it.
    pub runtime: &'a RuntimeArgs,
    /// Where.
    pub device: &'a DeviceArgs,
    /// Of random inputs and intervals.
    pub seed: u64,
}

/// Everything about a measurement that can be known before it.
pub struct Prepared<'a> {
    args: &'a SpeedArgs,
    at: At<'a>,
    specs: Vec<InputSpec>,
    data: Option<(PathBuf, DataOptions)>,
    batch: usize,
    threads: usize,
}

impl SpeedArgs {
    /// Whether times are asked for without a limit on them.
    pub fn asked(&self) -> bool {
        let count = self.bench_batch.or(self.bench_threads).or(self.runs).or(self.extent);
        count.is_some() || self.min_time.is_some()
    }

    /// Looks at runtime, device and inputs. `models` are those that are there already, the original first.
    pub fn prepare<'a>(&'a self, at: At<'a>, models: &[Model]) -> anyhow::Result<Prepared<'a>> {
        let specs = inputs::common_inputs(models)?;
        let data = at.data.without_batch().resolve(at.original, at.seed)?;
        let fixed = inputs::fixed_batch(&specs);
        if let (Some(fixed), Some(asked)) = (fixed, self.bench_batch.filter(|b| fixed != Some(*b))) {
            return Err(Error::Usage(format!("--bench-batch {asked}: the model fixes the batch to {fixed}")).into());
        }
        let batch = fixed.or(self.bench_batch).unwrap_or(1);
        let default = if choose_with(&at.options(1))?.name() == "tract" { 1 } else { 0 };
        let threads = self.bench_threads.unwrap_or(default);
        let runtime = choose_with(&at.options(threads))?;
        let prepared = Prepared { args: self, at, specs, data, batch, threads };
        if let Some(original) = models.first() {
            prepared.feeds(original, batch)?;
            if prepared.at.device.device != Device::Cpu {
                // A device that is not there shows itself only now.
                runtime.load(original).map_err(|e| in_file(e, prepared.at.original))?;
            }
        }
        Ok(prepared)
    }
}

impl At<'_> {
    fn options(&self, threads: usize) -> RuntimeOptions {
        RuntimeOptions { threads, spinning: true, ..self.runtime.on(self.device) }
    }
}

impl Prepared<'_> {
    fn feeds(&self, original: &Model, batch: usize) -> Result<Vec<Feed>> {
        let Some((path, options)) = &self.data else {
            let extent = self.args.extent.unwrap_or(EXTENT);
            return Ok(vec![inputs::random(original, &self.specs, self.at.seed, batch, extent)?]);
        };
        let data = Dataset::open(path, original, &DataOptions { batch: Some(batch), ..options.clone() })?;
        if data.len() < batch {
            let message = format!("a batch of {batch} needs as many samples, and there are {}", data.len());
            return Err(Error::Data { path: path.clone(), message });
        }
        Ok(vec![data.batch(0)?])
    }

    fn effort(&self) -> Effort {
        Effort { warmup_s: WARMUP, runs: self.args.runs, min_time_s: self.args.min_time.unwrap_or(MIN_TIME) }
    }

    /// The same for a search that measures on its way.
    pub fn conditions(&self, original: &Model) -> Result<Conditions> {
        Ok(Conditions {
            runtime: self.at.options(self.threads),
            feeds: self.feeds(original, self.batch)?,
            batch: self.batch,
            effort: self.effort(),
            seed: self.at.seed,
        })
    }

    /// Runs both models in turn.
    pub fn measure(&self, models: &[Model; 2], progress: &Progress) -> anyhow::Result<BenchReport> {
        let [original, _] = models;
        let options = BenchOptions {
            runtime: &|threads| choose_with(&self.at.options(threads)),
            threads: vec![self.threads],
            batches: vec![self.batch],
            feeds: &|batch| self.feeds(original, batch),
            // Where the processor takes over, there is no memory of the device to bind to.
            bind: self.at.device.device.has_memory() && !self.at.device.allow_fallback,
            effort: self.effort(),
            seed: self.at.seed,
            profile: false,
            memory: &|_, _, _| None,
            progress: &|stage| progress.stage(stage),
        };
        let mut report =
            bench(models, &options, &mut SystemClock::default()).map_err(|e| in_file(e, self.at.original))?;
        let device = &self.at.device.device;
        report.device = device.to_string();
        report.inputs = match &self.data {
            Some((path, _)) => format!("{}, the same for both models", path.display()),
            None => format!("random, seed {}, the same for both models", self.at.seed),
        };
        if report.runtime == "tract" && *device != Device::Cpu {
            report.rows.iter_mut().for_each(|row| row.device_share = 0.0);
        }
        let share = report.rows.iter().map(|row| row.device_share).fold(1.0, f64::min);
        report.notes.extend(fallen_back("times", share, device));
        Ok(report)
    }
}
