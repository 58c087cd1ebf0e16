//! `onnx-prune check ORIGINAL PRUNED`: may the smaller model ship?

use super::Common;
use super::data::{DataArgs, NO_DATA};
use super::output::Staged;
use super::parse;
use super::progress::Progress;
use super::prune::{in_file, load};
use super::report::{self, Form, ReportFile};
use super::runtime::{DeviceArgs, RuntimeArgs};
use anyhow::Context;
use clap::{Args, ValueEnum, ValueHint};
use onnx_prune::data::{DataOptions, Dataset};
use onnx_prune::error::Error;
use onnx_prune::evaluate::bench::{BenchOptions, BenchReport, Effort, SystemClock, bench};
use onnx_prune::evaluate::check::{CheckReport, SizeLimits, judge};
use onnx_prune::evaluate::diff::{self, Diff, Limits, compare, stricter};
use onnx_prune::evaluate::gate::Limit;
use onnx_prune::evaluate::inputs;
use onnx_prune::evaluate::metric::{Metric, Where};
use onnx_prune::onnx::Model;
use onnx_prune::report::html::{self, Page, Provenance};
use onnx_prune::report::{check_text, json, terminal};
use onnx_prune::runtime::{RuntimeOptions, choose_with};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Where GitHub shows what a step has to say.
const STEP_SUMMARY: &str = "GITHUB_STEP_SUMMARY";

/// How the result is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Tables
    Table,
    /// JSON with every detail
    Json,
    /// Markdown
    Markdown,
    /// JUnit XML, a test case for each limit
    Junit,
}

/// Judges a smaller model by limits.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit code 1 when a limit is broken. With GITHUB_STEP_SUMMARY set, the Markdown report is added there."
)]
pub struct CheckArgs {
    /// The model to compare with
    #[arg(value_name = "ORIGINAL", value_hint = ValueHint::FilePath)]
    original: PathBuf,
    /// The model to judge, with the same inputs and outputs
    #[arg(value_name = "PRUNED", value_hint = ValueHint::FilePath)]
    pruned: PathBuf,

    /// The primary metric is at most P points worse on --data
    #[arg(long, value_name = "P", allow_negative_numbers = true, help_heading = "Limits (at least one)")]
    max_drop: Option<f64>,
    /// At least share A, from 0 to 1, is given to the same class on --data
    #[arg(long, value_name = "A", allow_negative_numbers = true, help_heading = "Limits (at least one)")]
    min_agreement: Option<f64>,
    /// It is at least F times as fast
    #[arg(long, value_name = "F", value_parser = parse::positive, help_heading = "Limits (at least one)")]
    min_speedup: Option<f64>,
    /// It takes at most R times as long
    #[arg(long, value_name = "R", value_parser = parse::positive, help_heading = "Limits (at least one)")]
    max_ratio: Option<f64>,
    /// At most this share of the multiply-accumulates is left
    #[arg(long, value_name = "F", value_parser = parse::positive, help_heading = "Limits (at least one)")]
    max_macs: Option<f64>,
    /// At most this share of the parameters is left
    #[arg(long, value_name = "F", value_parser = parse::positive, help_heading = "Limits (at least one)")]
    max_params: Option<f64>,
    /// At most this share of the file's size is left
    #[arg(long, value_name = "F", value_parser = parse::positive, help_heading = "Limits (at least one)")]
    max_size: Option<f64>,

    /// The primary metric [default: top1 with labels, else agreement]
    #[arg(long, value_enum, value_name = "NAME", help_heading = "Accuracy")]
    metric: Option<Metric>,
    /// The output that metrics look at [default: all floating-point ones, for classes the first that has some]
    #[arg(long, value_name = "NAME", help_heading = "Accuracy")]
    metric_output: Option<String>,
    /// The axis with one score a class, from 0 [default: the last of two or three axes, axis 1 of more]
    #[arg(long, value_name = "AXIS", help_heading = "Accuracy")]
    class_axis: Option<usize>,
    /// Samples for the comparison layer by layer; 0 turns it off
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Accuracy")]
    layer_samples: usize,

    /// Samples in one run that is timed [default: 1, or what the model fixes]
    #[arg(long, value_name = "N", value_parser = parse::at_least_one, help_heading = "Speed")]
    bench_batch: Option<usize>,
    /// Threads while timing; 0 is one for each core [default: 0, and 1 for tract]
    #[arg(long, value_name = "N", help_heading = "Speed")]
    bench_threads: Option<usize>,
    /// Time each model N times
    #[arg(long, value_name = "N", value_parser = parse::at_least_one, conflicts_with = "min_time", help_heading = "Speed")]
    runs: Option<usize>,
    /// Time each model for S seconds, and at least 10 runs
    #[arg(long, value_name = "S", default_value_t = 3.0, value_parser = parse::positive, help_heading = "Speed")]
    min_time: f64,
    /// Extent of axes, other than that of the batch, that the model leaves open
    #[arg(long, value_name = "N", default_value_t = 224, value_parser = parse::at_least_one, help_heading = "Speed")]
    extent: usize,

    /// Write the report to FILE.json, FILE.md, FILE.html or FILE.xml (JUnit) (repeatable)
    #[arg(long, value_name = "FILE", value_parser = ReportFile::any, value_hint = ValueHint::FilePath, help_heading = "Output")]
    report: Vec<ReportFile>,
    /// How the result is printed
    #[arg(long, value_enum, default_value = "table", help_heading = "Output")]
    format: Format,
    /// Seed of all that is drawn
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "General")]
    seed: u64,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    runtime: RuntimeArgs,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    common: Common,
}

impl CheckArgs {
    fn accuracy_limits(&self) -> Limits {
        Limits { max_drop: self.max_drop, min_agreement: self.min_agreement }
    }

    fn speed_limits(&self) -> Vec<Limit> {
        [self.max_ratio.map(Limit::MaxRatio), self.min_speedup.map(Limit::MinSpeedup)].into_iter().flatten().collect()
    }

    fn size_limits(&self) -> SizeLimits {
        SizeLimits { macs: self.max_macs, params: self.max_params, size: self.max_size }
    }

    /// Everything about the reports that can be known before the work.
    fn check_outputs(&self) -> anyhow::Result<()> {
        let read = [("the original model", self.original.as_path()), ("the pruned model", self.pruned.as_path())];
        report::probe(&self.report, &read)
    }

    fn accuracy(&self, original: &Model, pruned: &Model, progress: &Progress) -> anyhow::Result<(Diff, Dataset)> {
        let Some((path, options)) = self.data.resolve(&self.original, self.seed)? else {
            return Err(Error::Usage(format!("--max-drop and --min-agreement need data: {NO_DATA}")).into());
        };
        progress.stage("data");
        let data = Dataset::open(&path, stricter(original, pruned), &options).map_err(|e| in_file(e, &path))?;
        let runtime = choose_with(&self.runtime.on(&self.device))?;
        let options = diff::Options {
            metrics: self.metric.into_iter().collect(),
            place: Where { output: self.metric_output.clone(), class_axis: self.class_axis },
            layer_samples: self.layer_samples,
            limits: self.accuracy_limits(),
        };
        let diff = compare(original, pruned, &data, &*runtime, &options, &|stage| progress.stage(stage))?;
        Ok((diff, data))
    }

    fn on(&self, threads: usize) -> RuntimeOptions {
        RuntimeOptions { threads, spinning: true, ..self.runtime.on(&self.device) }
    }

    fn latency(&self, models: &[Model; 2], progress: &Progress) -> anyhow::Result<BenchReport> {
        let specs = inputs::common_inputs(models)?;
        let data = self.data.without_batch().resolve(&self.original, self.seed)?;
        let fixed = inputs::fixed_batch(&specs);
        if let (Some(fixed), Some(asked)) = (fixed, self.bench_batch.filter(|b| fixed != Some(*b))) {
            return Err(Error::Usage(format!("--bench-batch {asked}: the model fixes the batch to {fixed}")).into());
        }
        let batch = fixed.or(self.bench_batch).unwrap_or(1);
        let default = if choose_with(&self.on(1))?.name() == "tract" { 1 } else { 0 };
        let feeds = |batch: usize| {
            let Some((path, options)) = &data else {
                return Ok(vec![inputs::random(&models[0], &specs, self.seed, batch, self.extent)?]);
            };
            let data = Dataset::open(path, &models[0], &DataOptions { batch: Some(batch), ..options.clone() })?;
            if data.len() < batch {
                let message = format!("a batch of {batch} needs as many samples, and there are {}", data.len());
                return Err(Error::Data { path: path.clone(), message });
            }
            Ok(vec![data.batch(0)?])
        };
        let options = BenchOptions {
            runtime: &|threads| choose_with(&self.on(threads)),
            threads: vec![self.bench_threads.unwrap_or(default)],
            batches: vec![batch],
            feeds: &feeds,
            effort: Effort { warmup_s: 0.5, runs: self.runs, min_time_s: self.min_time },
            seed: self.seed,
            profile: false,
            memory: &|_, _, _| None,
            progress: &|stage| progress.stage(stage),
        };
        let mut report =
            bench(models, &options, &mut SystemClock::default()).map_err(|e| in_file(e, &self.original))?;
        report.device = self.device.device.to_string();
        report.inputs = match &data {
            Some((path, _)) => format!("{}, the same for both models", path.display()),
            None => format!("random, seed {}, the same for both models", self.seed),
        };
        Ok(report)
    }
}

fn text(report: &CheckReport, format: Format) -> anyhow::Result<String> {
    Ok(match format {
        Format::Table => check_text::terminal(report, terminal::width()),
        Format::Json => json::to_string(report)?,
        Format::Markdown => check_text::markdown(report),
        Format::Junit => check_text::junit(report)?,
    })
}

fn written(report: &CheckReport, form: Form, pictures: &[html::Thumbnail]) -> anyhow::Result<String> {
    match form {
        Form::Json => text(report, Format::Json),
        Form::Markdown => text(report, Format::Markdown),
        Form::Junit => text(report, Format::Junit),
        Form::Html => {
            let reproduce = Provenance::here(report::command_line());
            Ok(html::page(&Page { check: Some(report), thumbnails: pictures, reproduce, ..Page::default() })?)
        }
    }
}

/// Runs the command.
pub fn run(args: &CheckArgs) -> anyhow::Result<()> {
    args.common.start()?;
    let (accuracy, speed, size) = (args.accuracy_limits(), args.speed_limits(), args.size_limits());
    accuracy.check()?;
    if accuracy == Limits::default() && speed.is_empty() && !size.any() {
        let why = "no limit: say what must hold, with --max-drop, --min-agreement, --min-speedup, --max-ratio, --max-macs, \
                   --max-params or --max-size";
        return Err(Error::Usage(why.into()).into());
    }
    let progress = Progress::new(args.common.quiet);
    progress.stage("load");
    let models = [load(&args.original)?, load(&args.pruned)?];
    let [original, pruned] = &models;
    args.check_outputs()?;
    diff::check(original, pruned)?;
    let measured = accuracy != Limits::default();
    let measured = if measured { Some(args.accuracy(original, pruned, &progress)?) } else { None };
    let pictures = match &measured {
        Some((diff, data)) if report::has_page(&args.report) => html::thumbnails(diff, data)?,
        _ => Vec::new(),
    };
    let measured = measured.map(|m| m.0);
    let timed = if speed.is_empty() { None } else { Some(args.latency(&models, &progress)?) };
    let report = judge(original, pruned, &size, measured, timed, &speed)?;
    progress.stage("write");
    report::stage(&args.report, |form| written(&report, form, &pictures))?.into_iter().try_for_each(Staged::publish)?;
    summary(&report)?;
    drop(progress);
    if !args.common.quiet {
        super::print(&text(&report, args.format)?)?;
    }
    // The reports are there whatever the limits say.
    report.verdict()?;
    Ok(())
}

/// Adds to the summary of a step on GitHub.
fn summary(report: &CheckReport) -> anyhow::Result<()> {
    let Some(path) = std::env::var_os(STEP_SUMMARY).filter(|p| !p.is_empty()) else { return Ok(()) };
    let file = std::fs::OpenOptions::new().append(true).create(true).open(&path);
    file.and_then(|mut f| f.write_all(check_text::markdown(report).as_bytes()))
        .with_context(|| format!("{STEP_SUMMARY}: {}: cannot write", Path::new(&path).display()))
}
