//! clap arguments → library options; one file a command, no logic.

mod bench;
mod calibrate;
mod check;
mod colour;
mod data;
mod diff;
mod examples;
#[cfg(test)]
mod examples_tests;
mod inspect;
mod interrupt;
mod latency;
mod limits;
mod log;
mod merge;
mod mistyped;
mod output;
mod parse;
mod progress;
mod prune;
mod quality;
mod report;
mod runtime;
mod runtimes;
mod sensitivity;
mod shard;
mod shell;
mod speed;
mod sweep;
mod train;

pub use colour::error;

use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use colour::Color;
use std::io::{self, Write};

/// Removes whole channels from a trained ONNX network: a smaller, faster model that provably computes what the original
/// computes with those channels zeroed.
#[derive(Debug, Parser)]
#[command(
    version,
    override_usage = "onnx-prune [OPTIONS] <BUDGET> MODEL\n       onnx-prune inspect [OPTIONS] MODEL...\n       onnx-prune data [OPTIONS] MODEL\n       onnx-prune train [OPTIONS] MODEL\n       onnx-prune sensitivity [OPTIONS] MODEL\n       onnx-prune diff [OPTIONS] ORIGINAL PRUNED\n       onnx-prune bench [OPTIONS] MODEL...\n       onnx-prune check [OPTIONS] ORIGINAL PRUNED\n       onnx-prune calibrate [OPTIONS] --report FILE.json MODEL\n       onnx-prune merge [OPTIONS] PART...\n       onnx-prune sweep [OPTIONS] SWEEP\n       onnx-prune runtimes [OPTIONS]\n       onnx-prune completions SHELL\n       onnx-prune man [DIR]",
    after_help = examples::MAIN,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    max_term_width = 110
)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    prune: prune::PruneArgs,
    /// Say on the standard error what is done: files, stages with their times, what was chosen and why; -vv with details
    // Of every command, so that none has to pass it on.
    #[arg(short, long, action = ArgAction::Count, global = true, help_heading = "General")]
    verbose: u8,
    /// When tables and messages are in colour
    #[arg(long, value_enum, value_name = "WHEN", default_value_t, global = true, help_heading = "General")]
    color: Color,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show operators, sizes, channel groups and what holds channels back, for one model or several side by side
    #[command(after_help = examples::INSPECT)]
    Inspect(inspect::InspectArgs),
    /// Show data as a model would get it: samples, shapes, values after preprocessing, labels
    #[command(after_help = examples::DATA)]
    Data(data::DataCommand),
    /// Measure what changes when one channel group at a time loses a share of its channels
    #[command(after_help = examples::SENSITIVITY)]
    Sensitivity(Box<sensitivity::SensitivityArgs>),
    /// Compare a pruned model with the original on data: accuracy, outputs, layers, and whether a drop is noise
    #[command(after_help = examples::DIFF)]
    Diff(Box<diff::DiffCommand>),
    /// Judge a smaller model by limits on accuracy, speed and size: the gate of a pipeline
    #[command(after_help = examples::CHECK)]
    Check(Box<check::CheckArgs>),
    /// Train a model file: with a teacher, with labels, on any runtime
    #[command(after_help = examples::TRAIN)]
    Train(Box<train::TrainCommand>),
    /// Measure how fast models run, one against the other
    #[command(after_help = examples::BENCH)]
    Bench(bench::BenchArgs),
    /// Take statistics of what layers read, for the criteria act-… of later pruning runs
    #[command(after_help = examples::CALIBRATE)]
    Calibrate(Box<calibrate::CalibrateArgs>),
    /// Put the parts of a diff, check, sensitivity or calibrate together that were measured with --shard
    #[command(after_help = examples::MERGE)]
    Merge(merge::MergeArgs),
    /// Run every combination of models, budgets, criteria, repairs and seeds, here or on a cluster
    #[command(after_help = examples::SWEEP)]
    Sweep(Box<sweep::SweepArgs>),
    /// Show what can run models here, and where it was found
    #[command(after_help = examples::RUNTIMES)]
    Runtimes(runtimes::RuntimesArgs),
    /// Print a completion script for a shell
    #[command(after_help = examples::COMPLETIONS)]
    Completions(shell::CompletionsArgs),
    /// Print the manual page, or write one for each command
    #[command(after_help = examples::MAN)]
    Man(shell::ManArgs),
}

/// What every command takes.
#[derive(Debug, Args)]
pub struct Common {
    /// Print nothing but errors
    #[arg(short, long, conflicts_with = "verbose", help_heading = "General")]
    quiet: bool,
    /// Threads to use [default: one per core]; the result does not depend on it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..), help_heading = "General")]
    threads: Option<u16>,
}

impl Common {
    fn start(&self) -> anyhow::Result<()> {
        interrupt::install()?;
        if let Some(n) = self.threads {
            rayon::ThreadPoolBuilder::new().num_threads(n.into()).build_global()?;
        }
        Ok(())
    }
}

impl Cli {
    /// Reads the arguments.
    ///
    /// # Errors
    /// Help, version, and arguments that cannot be read, in clap's words.
    pub fn read() -> Result<Self, clap::Error> {
        let color = Color::of_arguments();
        color.apply();
        let command = mistyped::check(Self::command().color(color.into()))?;
        Self::from_arg_matches_mut(&mut command.try_get_matches()?)
    }

    /// Runs the command.
    pub fn run(self) -> anyhow::Result<()> {
        log::start(self.verbose)?;
        let done = match self.command {
            Some(Command::Inspect(args)) => inspect::run(&args),
            Some(Command::Data(args)) => data::run(&args),
            Some(Command::Sensitivity(args)) => sensitivity::run(&args),
            Some(Command::Diff(args)) => diff::run(&args),
            Some(Command::Check(args)) => check::run(&args),
            Some(Command::Train(args)) => train::run(&args),
            Some(Command::Bench(args)) => bench::run(&args),
            Some(Command::Calibrate(args)) => calibrate::run(&args),
            Some(Command::Merge(args)) => merge::run(&args),
            Some(Command::Sweep(args)) => sweep::run(&args),
            Some(Command::Runtimes(args)) => runtimes::run(&args),
            Some(Command::Completions(args)) => shell::completions(&args, Self::command()),
            Some(Command::Man(args)) => shell::man(&args, Self::command()),
            None => prune::run(&self.prune),
        };
        interrupt::settle();
        done
    }
}

/// Prints to stdout. A reader that has seen enough (`| head`) is not an error.
fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}
