//! `onnx-prune calibrate MODEL --data D`: statistics for later pruning runs.

use super::Common;
use super::data::{DataArgs, NO_DATA};
use super::progress::Progress;
use super::prune::{in_file, load};
use super::report::{self, Form, ReportFile};
use super::runtime::RuntimeArgs;
use super::shard::{self, ShardArgs};
use clap::{Args, ValueHint};
use onnx_prune::calibrate::statistics::statistics;
use onnx_prune::data::Dataset;
use onnx_prune::error::Error;
use onnx_prune::evaluate::shard::{Part, Shard};
use onnx_prune::runtime::choose;
use std::path::PathBuf;

/// Takes statistics of what layers read.
#[derive(Debug, Args)]
pub struct CalibrateArgs {
    /// The ONNX model
    #[arg(value_name = "MODEL", value_hint = ValueHint::FilePath)]
    model: PathBuf,
    /// Write the statistics to FILE.json, for --statistics of a pruning run; with --shard, for `onnx-prune merge`
    #[arg(long, value_name = "FILE.json", value_parser = ReportFile::any, value_hint = ValueHint::FilePath, required = true,
          help_heading = "Output")]
    report: Vec<ReportFile>,
    /// Seed of the draw of --samples
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Data")]
    seed: u64,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    shard: ShardArgs,
    #[command(flatten)]
    runtime: RuntimeArgs,
    #[command(flatten)]
    common: Common,
}

/// Runs the command.
pub fn run(args: &CalibrateArgs) -> anyhow::Result<()> {
    args.common.start()?;
    let shard = args.shard.shard.unwrap_or(Shard::WHOLE);
    if args.report.iter().any(|r| r.form() != Form::Json) {
        return Err(Error::Usage("--report: statistics are JSON; give a FILE.json".into()).into());
    }
    let Some((path, options)) = args.data.resolve(&args.model, args.seed)? else {
        return Err(Error::Usage(format!("no data: {NO_DATA}")).into());
    };
    let progress = Progress::new(args.common.quiet);
    progress.stage("load");
    let model = load(&args.model)?;
    report::probe(&args.report, &[("the model", &args.model), ("the data", &path)])?;
    progress.stage("data");
    let data = Dataset::open(&path, &model, &options).map_err(|e| in_file(e, &path))?;
    let runtime = choose(args.runtime.runtime.into(), args.runtime.ort_lib.as_deref())?;
    let found = statistics(&model, &data, &runtime, shard, &|stage| progress.stage(stage));
    let found = found.map_err(|e| in_file(e, &args.model))?;
    let said = format!("statistics of {} tensors on {} of {} samples", found.tensors(), found.samples(), data.len());
    let part = Part::statistics(shard, &model, &data, &*runtime, found);
    drop(progress);
    shard::put(&part, &args.report, args.common.quiet, None, &said)
}
