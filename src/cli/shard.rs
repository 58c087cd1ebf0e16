//! `--shard I/N`: a part of a measurement goes into a file, for `onnx-prune merge`.

use super::output::Staged;
use super::report::{Form, ReportFile, stage};
use clap::Args;
use onnx_prune::error::Error;
use onnx_prune::evaluate::shard::{Part, Shard};

/// What a command that can measure in parts takes.
#[derive(Clone, Copy, Debug, Args)]
pub struct ShardArgs {
    /// Measure only part I of N, from 1, and write it to --report FILE.json (or print it with --json) for `onnx-prune merge`,
    /// which makes the report of the whole from all parts; limits are judged there
    #[arg(long, value_name = "I/N", help_heading = "Parts")]
    pub shard: Option<Shard>,
}

/// What a part is written as.
pub const AS_JSON: &str =
    "a part is JSON: give --report FILE.json, or --json; `onnx-prune merge` writes the other forms";

/// A part comes out as JSON or not at all.
pub fn check(shard: Shard, report: &[ReportFile], printed: Option<Form>) -> anyhow::Result<()> {
    let other = report.iter().map(ReportFile::form).chain(printed).any(|form| form != Form::Json);
    let none = report.is_empty() && printed.is_none();
    if other || none {
        return Err(Error::Usage(format!("--shard {shard}: {AS_JSON}")).into());
    }
    Ok(())
}

/// Writes and prints a part. `what`: what it holds, for people.
pub fn put(part: &Part, report: &[ReportFile], quiet: bool, printed: Option<Form>, what: &str) -> anyhow::Result<()> {
    let text = part.to_json()?;
    stage(report, |_| Ok(text.clone()))?.into_iter().try_for_each(Staged::publish)?;
    if !quiet {
        super::print(&printed.map_or_else(|| format!("Part {}: {what}\n", part.shard), |_| text.clone()))?;
    }
    Ok(())
}
