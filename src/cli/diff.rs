//! `onnx-prune diff ORIGINAL PRUNED --data D`: from the flags to [`Options`], and the reports that come out.

use super::data::{DataArgs, NO_DATA};
use super::output::Staged;
use super::progress::Progress;
use super::prune::{in_file, load};
use super::report::{self, Form, ReportFile};
use super::runtime::RuntimeArgs;
use super::shard::{self, ShardArgs};
use super::{Common, colour};
use clap::{Args, ValueEnum, ValueHint};
use onnx_prune::data::Dataset;
use onnx_prune::error::Error;
use onnx_prune::evaluate::diff::{Diff, Limits, Options, check, compare, observe, stricter};
use onnx_prune::evaluate::metric::{Metric, Where};
use onnx_prune::evaluate::shard::Part;
use onnx_prune::report::html::{self, Page, Provenance};
use onnx_prune::report::{diff_markdown, diff_terminal, json, terminal};
use onnx_prune::runtime::choose;
use std::path::{Path, PathBuf};

/// How the result is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Tables
    Table,
    /// JSON with every detail
    Json,
    /// Markdown
    Markdown,
}

/// Compares the accuracy and the outputs of two models.
#[derive(Debug, Args)]
pub struct DiffCommand {
    /// The model to compare with
    #[arg(value_name = "ORIGINAL", value_hint = ValueHint::FilePath)]
    original: PathBuf,
    /// The model to judge, with the same inputs and outputs
    #[arg(value_name = "PRUNED", value_hint = ValueHint::FilePath)]
    pruned: PathBuf,
    #[command(flatten)]
    data: DataArgs,
    /// Measure this too; the first one given is the primary metric (repeatable) [default: top1 with labels, else agreement;
    /// top1, top5, agreement, cosine, mse and psnr are always there where they can be]
    #[arg(long, value_enum, value_name = "NAME", help_heading = "Comparison")]
    metric: Vec<Metric>,
    /// The output that metrics look at [default: all floating-point ones, for classes the first that has some]
    #[arg(long, value_name = "NAME", help_heading = "Comparison")]
    metric_output: Option<String>,
    /// The axis with one score a class, from 0 [default: the last of two or three axes, axis 1 of more]
    #[arg(long, value_name = "AXIS", help_heading = "Comparison")]
    class_axis: Option<usize>,
    /// Samples for the comparison layer by layer; 0 turns it off
    #[arg(long, value_name = "N", default_value_t = 64, help_heading = "Comparison")]
    layer_samples: usize,
    /// Seed of the draw of --samples
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Comparison")]
    seed: u64,
    /// Fail with exit code 1 when the primary metric is more than P points worse (hundredths; psnr: dB below 100; mse:
    /// hundredths of the variance of the original's outputs)
    #[arg(long, value_name = "P", allow_negative_numbers = true, help_heading = "Limits")]
    max_drop: Option<f64>,
    /// Fail with exit code 1 when a smaller share than A, from 0 to 1, is given to the same class
    #[arg(long, value_name = "A", allow_negative_numbers = true, help_heading = "Limits")]
    min_agreement: Option<f64>,
    /// Write the report to FILE.json, FILE.md or FILE.html (repeatable)
    #[arg(long, value_name = "FILE", value_parser = ReportFile::document, value_hint = ValueHint::FilePath, help_heading = "Output")]
    report: Vec<ReportFile>,
    /// How the result is printed
    #[arg(long, value_enum, default_value = "table", help_heading = "Output")]
    format: Format,
    /// The same as --format json; nothing else goes to the standard output
    #[arg(long, conflicts_with = "format", help_heading = "Output")]
    json: bool,
    #[command(flatten)]
    shard: ShardArgs,
    #[command(flatten)]
    runtime: RuntimeArgs,
    #[command(flatten)]
    common: Common,
}

impl DiffCommand {
    /// The form that is printed; `None` for tables.
    fn printed(&self) -> Option<Form> {
        match self.format {
            _ if self.json => Some(Form::Json),
            Format::Table => None,
            Format::Json => Some(Form::Json),
            Format::Markdown => Some(Form::Markdown),
        }
    }

    fn options(&self) -> Options {
        Options {
            metrics: self.metric.clone(),
            place: Where { output: self.metric_output.clone(), class_axis: self.class_axis },
            layer_samples: self.layer_samples,
            limits: Limits { max_drop: self.max_drop, min_agreement: self.min_agreement },
        }
    }

    /// The number of samples that would be compared.
    pub fn count(&self) -> anyhow::Result<usize> {
        let Some((path, options)) = self.data.resolve(&self.original, self.seed)? else {
            return Err(Error::Usage(format!("no data: {NO_DATA}")).into());
        };
        let model = load(&self.original)?;
        Ok(Dataset::open(&path, &model, &options).map_err(|e| in_file(e, &path))?.len())
    }

    /// Everything about the reports that can be known before the work.
    fn check_outputs(&self, data: &Path) -> anyhow::Result<()> {
        let read = [
            ("the original model", self.original.as_path()),
            ("the pruned model", self.pruned.as_path()),
            ("the data", data),
        ];
        report::probe(&self.report, &read)
    }
}

/// A form of the result; tables for `None`.
pub fn printed(diff: &Diff, form: Option<Form>) -> anyhow::Result<String> {
    match form {
        None => Ok(colour::table(&diff_terminal::diff(diff, terminal::width()))),
        Some(form) => written(diff, form, &[]),
    }
}

/// A form of the result.
pub fn written(diff: &Diff, form: Form, pictures: &[html::Thumbnail]) -> anyhow::Result<String> {
    match form {
        Form::Html => {
            let reproduce = Provenance::here(report::command_line());
            Ok(html::page(&Page { accuracy: Some(diff), thumbnails: pictures, reproduce, ..Page::default() })?)
        }
        Form::Markdown => Ok(diff_markdown::diff(diff)),
        _ => Ok(json::to_string(diff)?),
    }
}

/// Runs the command.
pub fn run(args: &DiffCommand) -> anyhow::Result<()> {
    args.common.start()?;
    let options = args.options();
    options.limits.check()?;
    args.shard.shard.map_or(Ok(()), |s| shard::check(s, &args.report, args.printed()))?;
    let Some((path, data_options)) = args.data.resolve(&args.original, args.seed)? else {
        return Err(Error::Usage(format!("no data: {NO_DATA}")).into());
    };
    let progress = Progress::new(args.common.quiet);
    progress.stage("load");
    let (original, pruned) = (load(&args.original)?, load(&args.pruned)?);
    args.check_outputs(&path)?;
    check(&original, &pruned)?;
    progress.stage("data");
    let data = Dataset::open(&path, stricter(&original, &pruned), &data_options).map_err(|e| in_file(e, &path))?;
    let runtime = choose(args.runtime.runtime.into(), args.runtime.ort_lib.as_deref())?;
    if let Some(shard) = args.shard.shard {
        let models = (&original, &pruned);
        let seen = observe(models, &data, &*runtime, &options, shard, &|stage| progress.stage(stage))?;
        let (n, all) = seen.samples();
        let part = Part::diff(shard, models, &data, seen);
        drop(progress);
        return shard::put(&part, &args.report, args.common.quiet, args.printed(), &format!("{n} of {all} samples"));
    }
    let diff = compare(&original, &pruned, &data, &*runtime, &options, &|stage| progress.stage(stage))?;
    let pictures = if report::has_page(&args.report) { html::thumbnails(&diff, &data)? } else { Vec::new() };
    progress.stage("write");
    report::stage(&args.report, |form| written(&diff, form, &pictures))?.into_iter().try_for_each(Staged::publish)?;
    drop(progress);
    if !args.common.quiet {
        super::print(&printed(&diff, args.printed())?)?;
    }
    // The reports are there whatever the limits say.
    diff.verdict()?;
    Ok(())
}
