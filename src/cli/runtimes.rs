//! `onnx-prune runtimes`: what can run models here.

use super::colour;
use super::runtime::{DeviceArgs, RuntimeArgs};
use clap::{Args, ValueEnum};
use onnx_prune::report::{json, runtimes_terminal, terminal};
use onnx_prune::runtime::{self, RuntimeOptions};

/// How the result is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A table
    Table,
    /// JSON
    Json,
}

/// Lists runtimes.
#[derive(Debug, Args)]
pub struct RuntimesArgs {
    /// How the result is printed
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
    #[command(flatten)]
    runtime: RuntimeArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Runs the command.
pub fn run(args: &RuntimesArgs) -> anyhow::Result<()> {
    let library = args.runtime.ort_lib.as_deref();
    let all = runtime::list(library);
    let text = match args.format {
        Format::Table => colour::table(&runtimes_terminal::runtimes(&all, terminal::width())),
        Format::Json => json::to_string(&all)?,
    };
    super::print(&text)?;
    // A build without any runtime is no error of the user's.
    let options = args.runtime.on(&args.device);
    let default = RuntimeOptions::default();
    if library.is_some() || options.choice != default.choice || options.device != default.device {
        runtime::choose_with(&options)?;
    }
    Ok(())
}
