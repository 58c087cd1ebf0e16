//! clap arguments → library options; one file a command, no logic.

mod bench;
mod check;
mod data;
mod diff;
mod inspect;
mod interrupt;
mod latency;
mod limits;
mod merge;
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
mod speed;
mod sweep;
mod train;

use clap::{Args, Parser, Subcommand};
use std::io::{self, Write};

const EXAMPLES: &str = "\
Examples:
  onnx-prune model.onnx --ratio 0.4                        remove 40 % of the prunable channels
  onnx-prune model.onnx --target-macs 0.5 -o half.onnx     keep half of the multiply-accumulates
  onnx-prune model.onnx --ratio 0.3 --exclude '^head' --layer-ratio 'layer4=0.6'
  onnx-prune model.onnx --ratio 0.4 --save-plan plan.json --dry-run
  onnx-prune model.onnx --plan plan.json                   apply a stored decision
  onnx-prune model.onnx --target-macs 0.5 --data photos/ --preprocess imagenet    decide and repair from unlabelled images
  onnx-prune inspect model.onnx model.pruned.onnx          compare two models
  onnx-prune inspect model.onnx --why /layer1/conv1/Conv   what ties a layer's channels, and what pins them
  onnx-prune inspect --summary models/                     can pruning help these models, and does it hold?
  onnx-prune data model.onnx --data photos/ --preprocess imagenet   what the model would get to see
  onnx-prune model.onnx --max-drop 1 --data val/           the smallest model that loses at most one point
  onnx-prune model.onnx --ratio 0.4 --data val/ --max-drop 1 --min-speedup 1.2 --report junit.xml   not written unless both hold
  onnx-prune model.onnx --target-latency 0.5               half of the time that it takes on this machine
  onnx-prune model.onnx --ratio 0.4 --data val/ --max-drop 1 --min-speedup 1.2 --report out.html   written only if it holds
  onnx-prune train half.onnx --teacher model.onnx --data photos/ --epochs 20   get accuracy back, no labels needed
  onnx-prune sensitivity model.onnx --data val/ --plot curves.svg   which layers can lose channels
  onnx-prune diff model.onnx half.onnx --data photos/      what pruning cost, and whether it is noise
  onnx-prune bench model.onnx model.pruned.onnx            how much faster is it here?
  onnx-prune check model.onnx half.onnx --data val/ --max-drop 1 --min-speedup 1.2 --report junit.xml
  onnx-prune diff model.onnx half.onnx --data photos/ --shard 2/8 --report 2.json   one part of eight; then onnx-prune merge *.json
  onnx-prune sweep sweep.toml                              models × budgets × criteria × repairs × seeds, and what is best
  onnx-prune runtimes                                      what can run models here

Exit codes: 0 done, 1 a check or gate failed, 2 bad input or usage.
A model that is named like a command is given as ./inspect.";

/// Removes whole channels from a trained ONNX network: a smaller, faster model that provably computes what the original
/// computes with those channels zeroed.
#[derive(Debug, Parser)]
#[command(
    version,
    override_usage = "onnx-prune [OPTIONS] <BUDGET> MODEL\n       onnx-prune inspect [OPTIONS] MODEL...\n       onnx-prune data [OPTIONS] MODEL\n       onnx-prune train [OPTIONS] MODEL\n       onnx-prune sensitivity [OPTIONS] MODEL\n       onnx-prune diff [OPTIONS] ORIGINAL PRUNED\n       onnx-prune bench [OPTIONS] MODEL...\n       onnx-prune check [OPTIONS] ORIGINAL PRUNED\n       onnx-prune merge [OPTIONS] PART...\n       onnx-prune sweep [OPTIONS] SWEEP\n       onnx-prune runtimes [OPTIONS]",
    after_help = EXAMPLES,
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
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show operators, sizes, channel groups and what holds channels back, for one model or several side by side
    Inspect(inspect::InspectArgs),
    /// Show data as a model would get it: samples, shapes, values after preprocessing, labels
    Data(data::DataCommand),
    /// Measure what changes when one channel group at a time loses a share of its channels
    Sensitivity(Box<sensitivity::SensitivityArgs>),
    /// Compare a pruned model with the original on data: accuracy, outputs, layers, and whether a drop is noise
    Diff(Box<diff::DiffCommand>),
    /// Judge a smaller model by limits on accuracy, speed and size: the gate of a pipeline
    Check(Box<check::CheckArgs>),
    /// Train a model file: with a teacher, with labels, on any runtime
    Train(Box<train::TrainCommand>),
    /// Measure how fast models run, one against the other
    Bench(bench::BenchArgs),
    /// Put the parts of a diff, check or sensitivity together that were measured with --shard
    Merge(merge::MergeArgs),
    /// Run every combination of models, budgets, criteria, repairs and seeds, here or on a cluster
    Sweep(Box<sweep::SweepArgs>),
    /// Show what can run models here, and where it was found
    Runtimes(runtimes::RuntimesArgs),
}

/// What every command takes.
#[derive(Debug, Args)]
pub struct Common {
    /// Print nothing but errors
    #[arg(short, long, help_heading = "General")]
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
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<()> {
        let done = match self.command {
            Some(Command::Inspect(args)) => inspect::run(&args),
            Some(Command::Data(args)) => data::run(&args),
            Some(Command::Sensitivity(args)) => sensitivity::run(&args),
            Some(Command::Diff(args)) => diff::run(&args),
            Some(Command::Check(args)) => check::run(&args),
            Some(Command::Train(args)) => train::run(&args),
            Some(Command::Bench(args)) => bench::run(&args),
            Some(Command::Merge(args)) => merge::run(&args),
            Some(Command::Sweep(args)) => sweep::run(&args),
            Some(Command::Runtimes(args)) => runtimes::run(&args),
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
