//! `onnx-prune inspect MODEL...`: what is in a model and what can go.

use super::Common;
use super::progress::Progress;
use super::prune::{in_file, load};
use clap::{Args, ValueEnum, ValueHint};
use onnx_prune::inspect::inspect;
use onnx_prune::report::{dot, inspect_terminal, json, terminal};
use std::path::PathBuf;

/// How the result is printed.
#[derive(Clone, Copy, Debug, ValueEnum)]
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
    /// The ONNX models
    #[arg(required = true, value_name = "MODEL", value_hint = ValueHint::FilePath)]
    models: Vec<PathBuf>,
    /// How the result is printed
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
    #[command(flatten)]
    common: Common,
}

/// Runs the command.
pub fn run(args: &InspectArgs) -> anyhow::Result<()> {
    args.common.start()?;
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
        Format::Table => inspect_terminal::inspect(&all, terminal::width()),
        Format::Json => json::to_string(&all)?,
        Format::Dot => all.models.iter().map(dot::digraph).collect(),
    };
    if !args.common.quiet {
        super::print(&text)?;
    }
    Ok(())
}
