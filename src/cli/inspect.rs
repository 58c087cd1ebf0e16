//! `onnx-prune inspect MODEL...`: what is in a model and what can go.

use super::progress::Progress;
use super::prune::{in_file, load};
use super::{Common, colour};
use clap::{Args, ValueEnum, ValueHint};
use onnx_prune::error::Error;
use onnx_prune::inspect::{inspect, summary, why};
use onnx_prune::report::{dot, inspect_terminal, json, summary_terminal, terminal, why_terminal};
use std::path::PathBuf;

/// How the result is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Tables
    Table,
    /// JSON with every detail
    Json,
    /// Graphviz: one digraph a model, one colour a channel group, grey where channels are held back
    Dot,
}

/// Inspects models.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// The ONNX models; with --summary also folders of them
    #[arg(required = true, value_name = "MODEL", value_hint = ValueHint::FilePath)]
    models: Vec<PathBuf>,
    /// How the result is printed
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
    /// One line a model: prune each in memory to --target-macs, compare with the masked original, write nothing
    #[arg(long)]
    summary: bool,
    /// With --summary: the share of the multiply-accumulates that stays
    #[arg(long, value_name = "F", default_value_t = 0.6, requires = "summary")]
    target_macs: f64,
    /// Follow the channels of one node: what ties them together, what pins them and on which way
    #[arg(long, value_name = "NODE", conflicts_with = "summary")]
    why: Option<String>,
    #[command(flatten)]
    common: Common,
}

/// Runs the command.
pub fn run(args: &InspectArgs) -> anyhow::Result<()> {
    args.common.start()?;
    if args.summary {
        return run_summary(args);
    }
    if let Some(node) = &args.why {
        return run_why(args, node);
    }
    let progress = Progress::new(args.common.quiet);
    let mut inspections = Vec::new();
    for path in &args.models {
        progress.stage(&path.display().to_string());
        let model = load(path)?;
        inspections.push(inspect([&model]).map_err(|e| in_file(e, path))?);
    }
    drop(progress);
    let Some(all) = inspections.into_iter().reduce(|mut all, mut one| {
        all.models.append(&mut one.models);
        all
    }) else {
        return Ok(());
    };
    let text = match args.format {
        Format::Table => colour::table(&inspect_terminal::inspect(&all, terminal::width())),
        Format::Json => json::to_string(&all)?,
        Format::Dot => all.models.iter().map(dot::digraph).collect(),
    };
    if !args.common.quiet {
        super::print(&text)?;
    }
    Ok(())
}

fn run_why(args: &InspectArgs, node: &str) -> anyhow::Result<()> {
    let mut text = String::new();
    for path in &args.models {
        let found = why::explain(&load(path)?, node).map_err(|e| in_file(e, path))?;
        text += &match args.format {
            Format::Table => colour::table(&why_terminal::why(&found, terminal::width())),
            Format::Json => json::to_string(&found)?,
            Format::Dot => {
                return Err(Error::Usage("--why is text or JSON; a graph is drawn without --why".into()).into());
            }
        };
    }
    if !args.common.quiet {
        super::print(&text)?;
    }
    Ok(())
}

fn run_summary(args: &InspectArgs) -> anyhow::Result<()> {
    if args.format == Format::Dot {
        return Err(Error::Usage("--summary is a table or JSON; a graph is drawn without --summary".into()).into());
    }
    let options = summary::options(args.target_macs);
    options.budget.check()?;
    let files = summary::files(&args.models)?;
    let progress = Progress::new(args.common.quiet);
    let all = summary::summarise_all(&files, &options, &|path| progress.stage(path));
    drop(progress);
    let text = match args.format {
        Format::Json => json::to_string(&all)?,
        _ => colour::table(&summary_terminal::summary(&all, terminal::width())),
    };
    if !args.common.quiet {
        super::print(&text)?;
    }
    summary::verdict(&all)?;
    Ok(())
}
