//! The run of a pruning command: decide, measure, judge, write.

use super::super::check::step_summary;
use super::super::colour;
use super::super::data::NO_DATA;
use super::super::interrupt::Writing;
use super::super::limits::Held;
use super::super::output::{self, Staged};
use super::super::progress::Progress;
use super::super::report::{self, Form, LAYER_SAMPLES};
use super::super::speed::{self, Prepared};
use super::super::train::training_runtime;
use super::{PruneArgs, in_file, load};
use onnx_prune::data::Dataset;
use onnx_prune::error::Error;
use onnx_prune::evaluate::check::{Measured, judge};
use onnx_prune::evaluate::quality::Quality;
use onnx_prune::evaluate::shard::Part;
use onnx_prune::onnx::{self, Model, SaveOptions, saved};
use onnx_prune::plan::RoundTo;
use onnx_prune::prune::latency::reach;
use onnx_prune::prune::{Pruned, prune, search};
use onnx_prune::report::html::{self, Page, Provenance};
use onnx_prune::report::{PruneReport, json, prune_text, terminal};
use onnx_prune::runtime::Device;
use onnx_prune::train::rounds;
use onnx_prune::train::run::Event;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// Runs the command.
pub fn run(args: &PruneArgs) -> anyhow::Result<()> {
    let start = Instant::now();
    args.common.start()?;
    let mut options = args.options()?;
    let held = args.limits.held(args.quality.max_drop)?;
    refuse_idle(args, &held)?;
    let progress = Progress::new(args.common.quiet);
    progress.stage("load");
    let model = load(args.model())?;
    let out = args.out();
    args.check_outputs(out.as_deref(), &model)?;
    held.check(&model)?;
    let timed = held.needs_times() || args.speed.asked() || args.budget.target_latency.is_some();
    let speed = if timed { Some(args.speed.prepare(args.at(), std::slice::from_ref(&model))?) } else { None };
    options.statistics = args.statistics.as_ref().map(|p| Part::read_statistics(p, &model)).transpose()?.map(Arc::new);
    progress.stage("data");
    let how = &args.quality.how;
    let device = Some(&args.device).filter(|d| d.device != Device::Cpu);
    let means = how.open(held.needs_accuracy(), &args.data, &args.runtime, device, &model, args.seed)?;
    if means.quality.is_none() && device.is_some() && !timed && matches!(args.round_to, RoundTo::Multiple(_)) {
        let why = "--device says where models are measured, and what --round-to auto suits: nothing is measured, and channels are \
                   rounded to a given number. Give a limit such as --min-speedup or --max-drop, or --metric";
        return Err(Error::Usage(why.into()).into());
    }
    if args.finetune.is_some() && means.fit.is_none() {
        return Err(Error::Usage(format!("--finetune trains on data: {NO_DATA}")).into());
    }
    options.calibration = means.calibration;
    // What is measured has to be made, even where it is not kept.
    options.dry_run &= means.quality.is_none() && speed.is_none() && !held.any();
    options.recover = args.recover(options.plan.as_ref(), options.calibration.is_some())?;
    let loaded = start.elapsed();
    let mut pruned = match (args.finetune, &means.fit) {
        (Some(epochs), Some(data)) => trained(args, &model, &options, data, means.quality.as_ref(), epochs, &progress)?,
        _ => decide(args, &model, &options, means.quality.as_ref(), speed.as_ref(), &progress)?,
    };
    let found = pruned.model.is_some() || options.dry_run;
    if found {
        measure(args, &held, &model, &mut pruned, means.quality.as_ref(), speed.as_ref(), &progress)?;
    } else {
        pruned.report.nothing_held();
    }
    let failed = pruned.report.passed == Some(false);
    if args.dry_run || failed {
        // Nothing that is not good enough lies where a good model is looked for.
        pruned.model = None;
    }
    let pictures = match (&means.quality, &pruned.report.comparison) {
        (Some(Quality::Data(on)), Some(diff)) if args.form.has(Form::Html) => html::thumbnails(diff, on.data())?,
        _ => Vec::new(),
    };
    let out = out.filter(|_| pruned.model.is_some());
    pruned.report.timings_ms.insert("load".into(), loaded.as_secs_f64() * 1e3);
    progress.stage("write");
    write(args, out.as_deref(), &mut pruned, found, &pictures, start)?;
    let report = &pruned.report;
    if !report.gates.is_empty() {
        step_summary(&prune_text::markdown(report))?;
    }
    drop(progress);
    if !args.common.quiet {
        let table = || match &report.accuracy {
            Some(accuracy) if !found => colour::table(&terminal::accuracy(accuracy, terminal::width())),
            _ => colour::table(&terminal::prune(report, terminal::width())),
        };
        super::super::print(&args.form.printed().map_or_else(|| Ok(table()), |form| text(report, form, &pictures))?)?;
        warn(report);
    }
    if failed { Err(Error::Check(broken(report, args.dry_run)).into()) } else { Ok(()) }
}

/// Fails on flags that would do nothing.
fn refuse_idle(args: &PruneArgs, held: &Held) -> anyhow::Result<()> {
    if !held.any() && args.form.has(Form::Junit) {
        let why = "JUnit XML has a test case for each limit, and there are none: give one, such as --max-drop or --min-speedup, or \
                   take another form";
        return Err(Error::Usage(why.into()).into());
    }
    if let (None, Some(flag)) = (args.finetune, args.train.given()) {
        let why = format!(
            "--{flag} says how to train, and nothing is trained: give --finetune EPOCHS, or use onnx-prune train"
        );
        return Err(Error::Usage(why).into());
    }
    if args.finetune.is_some() {
        let searched = args.budget.budget().is_none();
        for (flag, given) in [
            ("--save-plan", args.save_plan.is_some()),
            ("--dry-run", args.dry_run),
            ("a search by --max-drop alone", searched),
        ] {
            if given {
                let why = format!(
                    "--finetune decides in each round anew, from trained weights, which {flag} does not go with"
                );
                return Err(Error::Usage(why).into());
            }
        }
        if args.train.sparsity.is_some() {
            let why = "--sparsity goes before the cut: use onnx-prune train --sparsity, with --prune-at-end";
            return Err(Error::Usage(why.into()).into());
        }
    }
    if args.latency.given() && args.budget.target_latency.is_none() {
        let why =
            "--latency-cache remembers the times that --target-latency takes: without that budget no layer is timed";
        return Err(Error::Usage(why.into()).into());
    }
    if args.quality.how.by_command() && held.limits.accuracy.min_agreement.is_some() {
        let why = "--min-agreement is measured on data, and --eval-command measures instead: leave out one of them";
        return Err(Error::Usage(why.into()).into());
    }
    Ok(())
}

/// Prunes and trains in rounds.
fn trained(
    args: &PruneArgs,
    model: &Model,
    options: &onnx_prune::prune::Options,
    data: &Dataset,
    quality: Option<&Quality>,
    epochs: usize,
    progress: &Progress,
) -> anyhow::Result<Pruned> {
    let runtime = training_runtime(&args.runtime, &args.device, &args.common)?;
    let batch = args.data.batches().first().copied();
    let how = args.train.options(epochs, batch, args.seed);
    let means = rounds::Means { data, runtime: &*runtime, train: &how, rounds: args.steps };
    let told = |stage: &str| progress.stage(stage);
    let mut watch = |event: &Event| progress.training(event, epochs);
    let options = onnx_prune::prune::Options { steps: 1, ..options.clone() };
    let done = rounds::prune_and_train(model, &options, &means, &told, &mut watch);
    let mut pruned = done.map_err(|e| in_file(e, args.model()))?;
    if let Some(quality) = quality {
        progress.stage("measure");
        let judged = search::judge(&pruned, quality, args.quality.max_drop).map_err(|e| in_file(e, args.model()))?;
        pruned.report.accuracy = Some(judged);
    }
    Ok(pruned)
}

/// Prunes to the budget, or to what the limit on accuracy allows; measures the one figure of accuracy.
fn decide(
    args: &PruneArgs,
    model: &Model,
    options: &onnx_prune::prune::Options,
    quality: Option<&Quality>,
    speed: Option<&Prepared<'_>>,
    progress: &Progress,
) -> anyhow::Result<Pruned> {
    let told = |stage: &str| progress.stage(stage);
    let in_model = |e: Error| in_file(e, args.model());
    let limit = args.quality.max_drop;
    if let (Some(quality), Some(limit), None) = (quality, limit, args.budget.budget()) {
        return search::smallest(model, options, quality, limit, args.quality.minimise, &told).map_err(in_model);
    }
    let mut pruned = match (args.budget.target_latency, speed) {
        (Some(target), Some(speed)) => {
            let watch = args.latency.stopwatch(speed.conditions(model)?)?;
            reach(model, options, target, &watch, &told).map_err(in_model)?
        }
        _ => prune(model, options, &told).map_err(in_model)?,
    };
    if let Some(quality) = quality {
        progress.stage("measure");
        pruned.report.accuracy = Some(search::judge(&pruned, quality, limit).map_err(in_model)?);
    }
    Ok(pruned)
}

/// Measures what limits and reports are about, and judges it.
fn measure(
    args: &PruneArgs,
    held: &Held,
    original: &Model,
    pruned: &mut Pruned,
    quality: Option<&Quality>,
    speed: Option<&Prepared<'_>>,
    progress: &Progress,
) -> anyhow::Result<()> {
    let compared = quality.filter(|_| held.any() || args.form.detailed());
    let Some(model) = pruned.model.as_ref().filter(|_| held.any() || speed.is_some() || compared.is_some()) else {
        return Ok(());
    };
    progress.stage("measure");
    let place = args.out().unwrap_or_else(|| output::default_output(args.model()));
    let file = saved(model, &place, &SaveOptions { external: args.external_data }).map_err(Error::from)?;
    let mut measured = Measured::sizes(original, &file.model);
    measured.figure = pruned.report.accuracy.clone();
    if let Some(Quality::Data(on)) = compared {
        let more = held.more_metrics();
        let layers = if args.form.has(Form::Html) { LAYER_SAMPLES } else { 0 };
        let told = |stage: &str| progress.stage(stage);
        measured.accuracy = Some(on.compare(&file.model, more.as_slice(), &held.limits.accuracy, layers, &told)?);
    }
    if let (Some(Quality::Data(on)), true) = (quality, args.device.device != Device::Cpu) {
        pruned.report.notes.extend(speed::fallen_back("accuracy", on.device_share(), &args.device.device));
    }
    if let Some(speed) = speed {
        let times = speed.measure(&[original.clone(), file.model.clone()], progress)?;
        pruned.report.settle_latency(&times);
        measured.latency = Some(times);
    }
    pruned.report.held(judge(measured, &held.limits, held.baseline.as_ref())?);
    Ok(())
}

fn text(report: &PruneReport, form: Form, pictures: &[html::Thumbnail]) -> anyhow::Result<String> {
    Ok(match form {
        Form::Json => json::to_string(report)?,
        Form::Markdown => prune_text::markdown(report),
        Form::Junit => prune_text::junit(report)?,
        Form::Html => {
            let reproduce = Provenance::here(report::command_line());
            html::page(&Page { prune: Some(report), thumbnails: pictures, reproduce, ..Page::default() })?
        }
    })
}

/// One line for each broken limit.
fn broken(report: &PruneReport, dry_run: bool) -> String {
    let end = if dry_run { "" } else { "; no model was written" };
    let lines = report.gates.iter().filter(|g| !g.passed).map(|g| format!("{}{end}", g.words));
    lines.collect::<Vec<_>>().join("\n")
}

/// The model first, then plan and reports; all of them or none. `found`: the plan is one.
fn write(
    args: &PruneArgs,
    out: Option<&Path>,
    pruned: &mut Pruned,
    found: bool,
    pictures: &[html::Thumbnail],
    start: Instant,
) -> anyhow::Result<()> {
    let _writing = Writing::begin();
    let plan = json::to_string(&pruned.plan)?;
    let plan = args.save_plan.as_ref().filter(|_| found).map(|p| Staged::new(p, plan)).transpose()?;
    let fresh: Vec<PathBuf> = out.map(|o| [o.to_owned(), output::data_file(o)]).into_iter().flatten().collect();
    let fresh: Vec<PathBuf> = fresh.into_iter().filter(|p| !p.exists()).collect();
    if let (Some(out), Some(model)) = (out, &pruned.model) {
        let begin = Instant::now();
        let report = &mut pruned.report;
        report.pruned.bytes =
            onnx::save(model, out, &SaveOptions { external: args.external_data }).map_err(Error::from)?;
        report.pruned.path = out.display().to_string();
        report.timings_ms.insert("save".into(), begin.elapsed().as_secs_f64() * 1e3);
    }
    pruned.report.timings_ms.insert("total".into(), start.elapsed().as_secs_f64() * 1e3);
    let rest = || {
        let reports = report::stage(&args.form.report, |form| text(&pruned.report, form, pictures))?;
        plan.into_iter().chain(reports).try_for_each(Staged::publish)
    };
    rest().inspect_err(|_| {
        for file in &fresh {
            // The error that is reported is the first one.
            let _ = std::fs::remove_file(file);
        }
    })
}

fn warn(report: &PruneReport) {
    if let Some(missed) = report.missed.as_ref().filter(|_| report.passed != Some(false) || report.models.is_some()) {
        colour::warning(&format!("budget missed: {missed}"));
    }
    report.latency.iter().for_each(speed::warn);
}
