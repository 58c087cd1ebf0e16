//! `onnx-prune check ORIGINAL PRUNED`: may the smaller model ship?

use super::data::{DataArgs, NO_DATA};
use super::limits::{GATE, Held, LimitArgs};
use super::output::Staged;
use super::progress::Progress;
use super::prune::{in_file, load};
use super::report::{self, Form, FormArgs, LAYER_SAMPLES};
use super::runtime::{DeviceArgs, RuntimeArgs};
use super::shard::{self, ShardArgs};
use super::speed::{self, At, SpeedArgs};
use super::{Common, colour};
use anyhow::Context;
use clap::{Args, ValueHint};
use onnx_prune::data::Dataset;
use onnx_prune::error::Error;
use onnx_prune::evaluate::check::{CheckReport, Measured, judge};
use onnx_prune::evaluate::diff::{self, Diff, Observed, observe, stricter};
use onnx_prune::evaluate::metric::{Metric, Where};
use onnx_prune::evaluate::shard::check::CheckPart;
use onnx_prune::evaluate::shard::{Part, Shard};
use onnx_prune::onnx::Model;
use onnx_prune::report::html::{self, Page, Provenance};
use onnx_prune::report::{check_text, json, terminal};
use onnx_prune::runtime::choose_with;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Where GitHub shows what a step has to say.
const STEP_SUMMARY: &str = "GITHUB_STEP_SUMMARY";

/// Judges a smaller model by limits.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The model to compare with
    #[arg(value_name = "ORIGINAL", value_hint = ValueHint::FilePath)]
    original: PathBuf,
    /// The model to judge, with the same inputs and outputs
    #[arg(value_name = "PRUNED", value_hint = ValueHint::FilePath)]
    pruned: PathBuf,

    /// The primary metric is at most P points worse on data
    #[arg(long, value_name = "P", allow_negative_numbers = true, help_heading = GATE)]
    max_drop: Option<f64>,
    #[command(flatten)]
    limits: LimitArgs,

    /// The primary metric [default: top1 with labels, else agreement]
    #[arg(long, value_enum, value_name = "NAME", help_heading = "Accuracy")]
    metric: Option<Metric>,
    /// The output that metrics look at [default: all floating-point ones, for classes the first that has some]
    #[arg(long, value_name = "NAME", help_heading = "Accuracy")]
    metric_output: Option<String>,
    /// The axis with one score a class, from 0 [default: the last of two or three axes, axis 1 of more]
    #[arg(long, value_name = "AXIS", help_heading = "Accuracy")]
    class_axis: Option<usize>,
    /// Samples for the comparison layer by layer; 0 turns it off [default: 64 for --report FILE.html, else 0]
    #[arg(long, value_name = "N", help_heading = "Accuracy")]
    layer_samples: Option<usize>,

    #[command(flatten)]
    speed: SpeedArgs,
    #[command(flatten)]
    form: FormArgs,
    #[command(flatten)]
    shard: ShardArgs,
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
    /// Everything about the reports that can be known before the work.
    fn check_outputs(&self) -> anyhow::Result<()> {
        let models = [("the original model", self.original.as_path()), ("the pruned model", self.pruned.as_path())];
        let read: Vec<(&str, &Path)> = models.into_iter().chain(self.limits.read()).collect();
        report::probe(&self.form.report, &read)
    }

    fn accuracy(
        &self,
        held: &Held,
        original: &Model,
        pruned: &Model,
        shard: Shard,
        progress: &Progress,
    ) -> anyhow::Result<(Observed, Dataset)> {
        let Some((path, options)) = self.data.resolve(&self.original, self.seed)? else {
            return Err(Error::Usage(format!("{} needs data: {NO_DATA}", held.on_data())).into());
        };
        progress.stage("data");
        let data = Dataset::open(&path, stricter(original, pruned), &options).map_err(|e| in_file(e, &path))?;
        let runtime = choose_with(&self.runtime.on(&self.device))?;
        let options = diff::Options {
            metrics: self.metric.into_iter().chain(held.more_metrics()).collect(),
            place: Where { output: self.metric_output.clone(), class_axis: self.class_axis },
            layer_samples: self.layer_samples.unwrap_or(if self.form.has(Form::Html) { LAYER_SAMPLES } else { 0 }),
            limits: held.limits.accuracy,
        };
        let models = (original, pruned);
        let seen = observe(models, &data, &*runtime, &options, shard, &|stage| progress.stage(stage))?;
        Ok((seen, data))
    }

    fn at(&self) -> At<'_> {
        let Self { original, data, runtime, device, seed, .. } = self;
        At { original, data, runtime, device, seed: *seed }
    }
}

/// The report's form; tables for `None`.
pub fn printed(report: &CheckReport, form: Option<Form>, pictures: &[html::Thumbnail]) -> anyhow::Result<String> {
    match form {
        None => Ok(colour::table(&check_text::terminal(report, terminal::width()))),
        Some(form) => text(report, form, pictures),
    }
}

/// The report's form.
pub fn text(report: &CheckReport, form: Form, pictures: &[html::Thumbnail]) -> anyhow::Result<String> {
    Ok(match form {
        Form::Json => json::to_string(report)?,
        Form::Markdown => check_text::markdown(report),
        Form::Junit => check_text::junit(report)?,
        Form::Html => {
            let reproduce = Provenance::here(report::command_line());
            html::page(&Page { check: Some(report), thumbnails: pictures, reproduce, ..Page::default() })?
        }
    })
}

/// Runs the command.
pub fn run(args: &CheckArgs) -> anyhow::Result<()> {
    args.common.start()?;
    let held = args.limits.held(args.max_drop)?;
    if !held.any() {
        let why = "no limit: say what must hold, with --max-drop, --min-agreement, --min-speedup, --max-ratio, --max-macs, \
                   --max-params, --max-size or --baseline";
        return Err(Error::Usage(why.into()).into());
    }
    let progress = Progress::new(args.common.quiet);
    progress.stage("load");
    let models = [load(&args.original)?, load(&args.pruned)?];
    let [original, pruned] = &models;
    args.check_outputs()?;
    held.check(original)?;
    diff::check(original, pruned)?;
    if let Some(shard) = args.shard.shard {
        return part(args, shard, &held, (original, pruned), progress);
    }
    let timed = held.needs_times() || args.speed.asked();
    let speed = if timed { Some(args.speed.prepare(args.at(), &models)?) } else { None };
    let mut measured = Measured::sizes(original, pruned);
    let mut pictures = Vec::new();
    if held.needs_accuracy() {
        let (seen, data) = args.accuracy(&held, original, pruned, Shard::WHOLE, &progress)?;
        let diff: Diff = seen.finish()?;
        if args.form.has(Form::Html) {
            pictures = html::thumbnails(&diff, &data)?;
        }
        measured.accuracy = Some(diff);
    }
    measured.latency = speed.map(|s| s.measure(&models, &progress)).transpose()?;
    let report = judge(measured, &held.limits, held.baseline.as_ref())?;
    progress.stage("write");
    report::stage(&args.form.report, |form| text(&report, form, &pictures))?
        .into_iter()
        .try_for_each(Staged::publish)?;
    summary(&report)?;
    drop(progress);
    if !args.common.quiet {
        super::print(&printed(&report, args.form.printed(), &pictures)?)?;
        report.latency.iter().for_each(speed::warn);
    }
    // The reports are there whatever the limits say.
    report.verdict()?;
    Ok(())
}

/// One part of the samples.
fn part(
    args: &CheckArgs,
    shard: Shard,
    held: &Held,
    models: (&Model, &Model),
    progress: Progress,
) -> anyhow::Result<()> {
    if args.speed.asked() || held.needs_times() || !held.needs_accuracy() {
        return Err(Error::Usage(format!(
            "--shard {shard}: parts are parts of the samples, so there has to be a limit on accuracy and none on times (nor a flag              about them, nor a --baseline that has times); check those with a run of their own, without --shard"
        ))
        .into());
    }
    shard::check(shard, &args.form.report, args.form.printed())?;
    let (seen, data) = args.accuracy(held, models.0, models.1, shard, &progress)?;
    let (n, all) = seen.samples();
    let part = CheckPart::new(seen, &held.limits, held.baseline.as_ref())?;
    let part = Part::check(shard, models, &data, part);
    drop(progress);
    shard::put(&part, &args.form.report, args.common.quiet, args.form.printed(), &format!("{n} of {all} samples"))
}

/// Adds the report to the summary of a step on GitHub.
pub fn summary(report: &CheckReport) -> anyhow::Result<()> {
    step_summary(&check_text::markdown(report))
}

/// Adds to the summary of a step on GitHub.
pub fn step_summary(markdown: &str) -> anyhow::Result<()> {
    let Some(path) = std::env::var_os(STEP_SUMMARY).filter(|p| !p.is_empty()) else { return Ok(()) };
    let file = std::fs::OpenOptions::new().append(true).create(true).open(&path);
    file.and_then(|mut f| f.write_all(markdown.as_bytes()))
        .with_context(|| format!("{STEP_SUMMARY}: {}: cannot write", Path::new(&path).display()))
}
