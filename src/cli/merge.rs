//! `onnx-prune merge PART...`: the report of a whole from its parts.

use super::Common;
use super::output::{self, Staged};
use super::progress::Progress;
use super::report::{self, Form, ReportFile};
use super::{check, diff, sensitivity};
use clap::{Args, ValueEnum, ValueHint};
use onnx_prune::error::Error;
use onnx_prune::evaluate::shard::{Merged, Part, merge};
use std::path::{Path, PathBuf};

/// How the result is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Tables
    Table,
    /// JSON with every detail
    Json,
    /// Markdown (of diff and check)
    Markdown,
    /// JUnit XML, a test case for each limit (of check)
    Junit,
    /// One line a point (of sensitivity)
    Csv,
}

/// Puts the parts of a measurement together.
#[derive(Debug, Args)]
pub struct MergeArgs {
    /// Files that diff, check, sensitivity or calibrate wrote with --shard I/N: all N of them
    #[arg(value_name = "PART", required = true, value_hint = ValueHint::FilePath)]
    parts: Vec<PathBuf>,
    /// Write the report to FILE.json, FILE.md or FILE.html, of check also FILE.xml (JUnit), of sensitivity FILE.json or FILE.csv,
    /// of calibrate FILE.json
    /// (repeatable)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Output")]
    report: Vec<PathBuf>,
    /// Draw the curves of sensitivity (SVG)
    #[arg(long, value_name = "FILE.svg", value_hint = ValueHint::FilePath, help_heading = "Output")]
    plot: Option<PathBuf>,
    /// How the result is printed
    #[arg(long, value_enum, default_value = "table", help_heading = "Output")]
    format: Format,
    /// The same as --format json; nothing else goes to the standard output
    #[arg(long, conflicts_with = "format", help_heading = "Output")]
    json: bool,
    #[command(flatten)]
    common: Common,
}

impl MergeArgs {
    fn check_outputs(&self) -> anyhow::Result<()> {
        let report = self.report.iter().map(|p| ("the report", p.as_path()));
        let written: Vec<(&str, &Path)> = report.chain(self.plot.iter().map(|p| ("the plot", p.as_path()))).collect();
        let read: Vec<(&str, &Path)> = self.parts.iter().map(|p| ("a part", p.as_path())).collect();
        output::check_distinct(&written, &read)?;
        written.iter().try_for_each(|(_, p)| output::probe(p))
    }

    /// The forms that fit the command that made the parts.
    fn reports(&self, form: impl Fn(&str) -> Result<ReportFile, String>) -> anyhow::Result<Vec<ReportFile>> {
        let one = |path: &PathBuf| {
            let named = |why: String| Error::Usage(format!("--report {}: {why}", path.display()));
            form(&path.to_string_lossy()).map_err(named)
        };
        Ok(self.report.iter().map(one).collect::<Result<_, _>>()?)
    }

    fn format(&self) -> Format {
        if self.json { Format::Json } else { self.format }
    }

    /// The form that is printed; `None` for tables.
    fn printed(&self, of: &str) -> anyhow::Result<Option<Form>> {
        match self.format() {
            Format::Table => Ok(None),
            Format::Json => Ok(Some(Form::Json)),
            Format::Markdown => Ok(Some(Form::Markdown)),
            Format::Junit if of == "check" => Ok(Some(Form::Junit)),
            other => Err(no_form(other, of)),
        }
    }

    /// Fails unless the names of all reports end in one of these.
    fn ends(&self, known: &[&str]) -> anyhow::Result<()> {
        let fits = |p: &Path| match p.extension() {
            Some(end) => known.iter().any(|k| end.eq_ignore_ascii_case(k)),
            None => output::is_device(p),
        };
        match self.report.iter().find(|p| !fits(p)) {
            Some(p) => {
                let names: Vec<String> = known.iter().map(|k| format!("FILE.{k}")).collect();
                let (path, names) = (p.display(), names.join(", "));
                Err(Error::Usage(format!("--report {path}: the name's end says the format: expected one of {names}"))
                    .into())
            }
            None => Ok(()),
        }
    }

    fn no_plot(&self, of: &str) -> anyhow::Result<()> {
        match &self.plot {
            Some(_) => {
                Err(Error::Usage(format!("--plot draws the curves of sensitivity, and these are parts of {of}")).into())
            }
            None => Ok(()),
        }
    }

    fn say(&self, text: &str) -> anyhow::Result<()> {
        if !self.common.quiet {
            super::print(text)?;
        }
        Ok(())
    }
}

fn no_form(format: Format, of: &str) -> anyhow::Error {
    let name = format.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default();
    Error::Usage(format!("--format {name}: the parts are of {of}, which has no such form; leave it out for tables"))
        .into()
}

/// Runs the command.
pub fn run(args: &MergeArgs) -> anyhow::Result<()> {
    args.common.start()?;
    let progress = Progress::new(args.common.quiet);
    progress.stage("read");
    let read = |path: &PathBuf| Ok((path.display().to_string(), Part::read(path)?));
    let parts = args.parts.iter().map(read).collect::<Result<Vec<_>, Error>>()?;
    args.check_outputs()?;
    progress.stage("merge");
    match merge(parts)? {
        Merged::Diff(diff) => {
            args.no_plot("diff")?;
            let (reports, printed) = (args.reports(ReportFile::document)?, args.printed("diff")?);
            let staged = report::stage(&reports, |form| diff::written(&diff, form, &[]))?;
            staged.into_iter().try_for_each(Staged::publish)?;
            drop(progress);
            args.say(&diff::printed(&diff, printed)?)?;
            diff.verdict()?;
        }
        Merged::Check(report) => {
            args.no_plot("check")?;
            let (reports, printed) = (args.reports(ReportFile::any)?, args.printed("check")?);
            let staged = report::stage(&reports, |form| check::text(&report, form, &[]))?;
            staged.into_iter().try_for_each(Staged::publish)?;
            check::summary(&report)?;
            drop(progress);
            args.say(&check::printed(&report, printed, &[])?)?;
            report.verdict()?;
        }
        Merged::Sensitivity(report) => {
            let format = match args.format() {
                Format::Table => sensitivity::Format::Table,
                Format::Json => sensitivity::Format::Json,
                Format::Csv => sensitivity::Format::Csv,
                other => return Err(no_form(other, "sensitivity")),
            };
            args.ends(&["json", "csv"])?;
            sensitivity::write(&report, args.report.iter(), args.plot.as_deref())?;
            drop(progress);
            args.say(&sensitivity::text(&report, format)?)?;
        }
        Merged::Statistics(whole) => {
            args.no_plot("calibrate")?;
            args.ends(&["json"])?;
            let text = whole.to_json()?;
            let staged = args.report.iter().map(|path| Staged::new(path, text.clone()));
            staged.collect::<anyhow::Result<Vec<_>>>()?.into_iter().try_for_each(Staged::publish)?;
            drop(progress);
            match args.format() {
                Format::Table => args.say(&format!("{} parts of statistics merged\n", args.parts.len()))?,
                Format::Json => args.say(&text)?,
                other => return Err(no_form(other, "calibrate")),
            }
        }
    }
    Ok(())
}
