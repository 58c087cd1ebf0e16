//! `onnx-prune MODEL`: from the flags to [`Options`], and the files that come out.

mod run;

pub use run::run;

use super::data::DataArgs;
use super::latency::LatencyArgs;
use super::limits::LimitArgs;
use super::output;
use super::quality::QualityArgs;
use super::report::{self, FormArgs};
use super::runtime::{DeviceArgs, RuntimeArgs};
use super::speed::{At, SpeedArgs};
use super::train::TrainArgs;
use super::{Common, parse};
use clap::{Args, ValueEnum, ValueHint};
use onnx_prune::error::Error;
use onnx_prune::onnx::{self, Model, OnnxError};
use onnx_prune::ops::Policy;
use onnx_prune::plan::{self, Budget, PlanFile, RoundTo, Scope};
use onnx_prune::prune::latency::LatencyTarget;
use onnx_prune::prune::{Grouped, Options};
use onnx_prune::recover::Recover;
use onnx_prune::score::{Aggregate, CriterionSpec, Normalize};
use regex::Regex;
use std::path::{Path, PathBuf};

/// Flags that shape a decision: without effect on a stored one.
const DECIDING: [&str; 15] = [
    "criterion",
    "statistics",
    "aggregate",
    "normalize",
    "scope",
    "min_channels",
    "max_layer_ratio",
    "round_to",
    "exclude",
    "only",
    "layer_ratio",
    "grouped",
    "norm",
    "qk_dims",
    "fold_weights",
];

const NO_BUDGET: &str = "no budget: say how much to remove with exactly one of --ratio R (share of the prunable channels that goes), \
     --threshold T (on the score), --target-macs F, --target-params F or --target-latency F (share that stays), \
     or --plan FILE (a stored decision); or how good the result must be, with --max-drop POINTS";

/// What happens to channels that a statistic runs over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Norm {
    /// They stay
    Exact,
    /// They may go; the statistic is rescaled
    Approximate,
}

/// Prunes a model.
#[derive(Debug, Args)]
pub struct PruneArgs {
    /// The ONNX model
    // Required unless a subcommand is given, which clap knows only of the whole parser.
    #[arg(required = true, value_hint = ValueHint::FilePath)]
    model: Option<PathBuf>,

    /// Where the pruned model goes [default: <stem>.pruned.onnx beside the input]
    #[arg(short, long, value_name = "OUT", value_hint = ValueHint::FilePath, help_heading = "Output")]
    output: Option<PathBuf>,
    /// Replace the input by the pruned model
    #[arg(long, conflicts_with = "output", help_heading = "Output")]
    in_place: bool,
    /// Put the weights into a file OUT.data (always done where the input has one, and above 2 GiB)
    #[arg(long, help_heading = "Output")]
    external_data: bool,
    #[command(flatten)]
    form: FormArgs,
    /// Write the decision as JSON
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Output")]
    save_plan: Option<PathBuf>,
    /// Stop after the decision; no model is written
    #[arg(long, help_heading = "Output")]
    dry_run: bool,

    #[command(flatten)]
    budget: BudgetArgs,

    #[arg(long, value_name = "SPEC", help = parse::CRITERION, long_help = parse::criteria_help(), help_heading = "Ranking")]
    criterion: Option<CriterionSpec>,
    /// Statistics that `onnx-prune calibrate` wrote for this very model, for --criterion act-mean, act-rms, act-variance or apoz without
    /// data
    #[arg(long, value_name = "FILE.json", value_hint = ValueHint::FilePath, conflicts_with = "finetune", help_heading = "Ranking")]
    statistics: Option<PathBuf>,
    /// How the coupled layers of a group add up
    #[arg(long, value_enum, value_name = "HOW", default_value_t, help_heading = "Ranking")]
    aggregate: Aggregate,
    /// How scores are scaled before groups compete
    #[arg(long, value_enum, value_name = "HOW", default_value_t, help_heading = "Ranking")]
    normalize: Normalize,
    /// One ranking over the whole model, or every layer by itself
    #[arg(long, value_enum, default_value_t, help_heading = "Ranking")]
    scope: Scope,
    /// Rounds: each removes a part of the budget and scores what is left anew; error curves from --data decide all at once, and
    /// have rounds with --finetune only
    #[arg(long, value_name = "K", default_value_t = 3, value_parser = steps, help_heading = "Ranking")]
    steps: usize,
    /// Seed of the random criterion and of the verification's input
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Ranking")]
    seed: u64,

    /// Every group keeps at least this many channels
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Limits")]
    min_channels: usize,
    /// No layer loses a larger share of its channels
    #[arg(long, value_name = "R", default_value_t = 0.9, allow_negative_numbers = true, help_heading = "Limits")]
    max_layer_ratio: f64,
    /// Kept channels are rounded to the nearest multiple of N; auto follows --device and the size of the layer, 1
    /// turns rounding off
    #[arg(long, value_name = "N|auto", default_value_t, help_heading = "Limits")]
    round_to: RoundTo,
    /// Leave groups with a matching node or tensor name alone (repeatable)
    #[arg(long, value_name = "REGEX", value_parser = parse::regex, help_heading = "Limits")]
    exclude: Vec<Regex>,
    /// Prune only groups with a matching node or tensor name (repeatable)
    #[arg(long, value_name = "REGEX", value_parser = parse::regex, help_heading = "Limits")]
    only: Vec<Regex>,
    /// Remove share R from groups with a matching node or tensor name (repeatable; the last match counts)
    #[arg(long, value_name = "REGEX=R", value_parser = parse::layer_ratio, help_heading = "Limits")]
    layer_ratio: Vec<(Regex, f64)>,

    /// What grouped convolutions lose: the same count in each group, whole groups, or what keeps more importance
    #[arg(long, value_enum, value_name = "HOW", default_value_t, help_heading = "Reach")]
    grouped: Grouped,
    /// Channels under a normalisation over channels (LayerNorm, RMS, L2, GRN, ECA): exact leaves them whole; approximate
    /// lets them go and rescales the statistic for the removed share, which is no longer what the masked original computes
    #[arg(long, value_enum, value_name = "HOW", default_value = "exact", help_heading = "Reach")]
    norm: Norm,
    /// Compute once the weights that the model computes from its own constants (weight standardisation), so that their
    /// layers can be pruned
    #[arg(long, help_heading = "Reach")]
    fold_weights: bool,
    /// Also remove dimensions of query·key products (the masked original has its zeros on an activation there)
    #[arg(long, help_heading = "Reach")]
    qk_dims: bool,

    /// What is done for accuracy [default: reconstruct with data, else bias, or as stored in --plan]
    #[arg(long, value_enum, value_name = "MODE", help_heading = "Repair and check")]
    recover: Option<Recover>,
    /// Do not compare the pruned model with the masked original
    #[arg(long, help_heading = "Repair and check")]
    no_verify: bool,

    /// Train for so many epochs after each of the --steps rounds, with the original as the teacher, on all samples of --data
    /// (no labels needed). Each round cuts a part of the budget and repairs it
    #[arg(long, value_name = "EPOCHS", value_parser = parse::at_least_one, help_heading = "Repair and check")]
    finetune: Option<usize>,
    #[command(flatten)]
    train: TrainArgs,
    #[command(flatten)]
    quality: QualityArgs,
    #[command(flatten)]
    latency: LatencyArgs,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    speed: SpeedArgs,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    runtime: RuntimeArgs,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
#[group(multiple = false)]
struct BudgetArgs {
    /// Remove this share of the prunable channels, from 0 to below 1
    #[arg(long, value_name = "R", allow_negative_numbers = true, help_heading = "Budget (exactly one)")]
    ratio: Option<f64>,
    /// Remove channels with a score of at most T; 0 removes dead channels
    #[arg(long, value_name = "T", allow_negative_numbers = true, help_heading = "Budget (exactly one)")]
    threshold: Option<f64>,
    /// Keep this share of the whole model's multiply-accumulates
    #[arg(long, value_name = "F", allow_negative_numbers = true, help_heading = "Budget (exactly one)")]
    target_macs: Option<f64>,
    /// Keep this share of the whole model's parameters
    #[arg(long, value_name = "F", allow_negative_numbers = true, help_heading = "Budget (exactly one)")]
    target_params: Option<f64>,
    /// Keep this share of the time that the model takes here (or so many milliseconds: 5ms), by measured times of its layers;
    /// the result is measured, and the aim corrected
    #[arg(long, value_name = "F|Xms", allow_negative_numbers = true, help_heading = "Budget (exactly one)")]
    target_latency: Option<LatencyTarget>,
    /// Apply a decision that --save-plan wrote for this very model
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with_all = DECIDING,
          conflicts_with = "steps", help_heading = "Budget (exactly one)")]
    plan: Option<PathBuf>,
}

fn steps(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|k| (1..=1000).contains(k)).ok_or_else(|| "expected a whole number from 1 to 1000".into())
}

impl BudgetArgs {
    fn budget(&self) -> Option<Budget> {
        None.or(self.ratio.map(Budget::Ratio))
            .or(self.threshold.map(Budget::Threshold))
            .or(self.target_macs.map(Budget::TargetMacs))
            .or(self.target_params.map(Budget::TargetParams))
            // The share follows from a measurement.
            .or(self.target_latency.map(|_| Budget::TargetLatency(1.0)))
            // A stored plan does not ask for one.
            .or(self.plan.as_ref().map(|_| Budget::Ratio(0.0)))
    }
}

impl PruneArgs {
    /// All but what needs the model: data, and the repair that follows from having some.
    fn options(&self) -> anyhow::Result<Options> {
        let searched = self.quality.max_drop.map(|_| Budget::Ratio(0.0));
        let budget = self.budget.budget().or(searched).ok_or_else(|| Error::Usage(NO_BUDGET.into()))?;
        let plan = self.budget.plan.as_ref().map(plan::load).transpose()?;
        Ok(Options {
            budget,
            criterion: self.criterion.clone(),
            criteria: Default::default(),
            aggregate: self.aggregate,
            normalize: self.normalize,
            scope: self.scope,
            min_channels: self.min_channels,
            max_layer_ratio: self.max_layer_ratio,
            round_to: self.round_to.on(self.device.device.hardware()),
            whole: Default::default(),
            exclude: self.exclude.clone(),
            only: self.only.clone(),
            layer_ratio: self.layer_ratio.clone(),
            steps: self.steps,
            policy: Policy {
                approximate_norm: self.norm == Norm::Approximate,
                products: self.qk_dims,
                fold_weights: self.fold_weights,
                ..Policy::default()
            },
            grouped: self.grouped,
            recover: Recover::default(),
            verify: !self.no_verify,
            seed: self.seed,
            plan,
            dry_run: self.dry_run,
            hash: self.save_plan.is_some(),
            calibration: None,
            statistics: None,
            bend: None,
            latency: None,
        })
    }

    fn model(&self) -> &Path {
        self.model.as_deref().unwrap_or(Path::new(""))
    }

    fn recover(&self, plan: Option<&PlanFile>, data: bool) -> anyhow::Result<Recover> {
        match (self.recover, plan.map(|p| p.recover.as_str())) {
            (Some(asked), _) if asked.needs_data() && !data => {
                let why = format!("--recover {} needs --data: samples to run the model on", asked.name());
                Err(Error::Usage(why).into())
            }
            (Some(asked), _) => Ok(asked),
            (None, None | Some("")) if data => Ok(Recover::Reconstruct),
            (None, None | Some("")) => Ok(Recover::default()),
            (None, Some(stored @ ("reconstruct" | "recalibrate"))) if !data => Err(Error::Usage(format!(
                "the plan was made for --recover {stored}, from data: give the same --data, or choose another --recover"
            ))
            .into()),
            (None, Some(stored)) => Ok(Recover::from_str(stored, false).map_err(|_| {
                Error::Plan(format!("it asks for the unknown repair {stored:?}; choose one with --recover"))
            })?),
        }
    }

    fn at(&self) -> At<'_> {
        let Self { data, runtime, device, seed, .. } = self;
        At { original: self.model(), data, runtime, device, seed: *seed }
    }

    /// Where the model goes; `None` on a dry run.
    fn out(&self) -> Option<PathBuf> {
        match (&self.output, self.dry_run, self.in_place) {
            (_, true, _) => None,
            // The file itself, not a link to it.
            (_, _, true) => Some(self.model().canonicalize().unwrap_or_else(|_| self.model().to_owned())),
            (Some(out), ..) => Some(out.clone()),
            (None, ..) => Some(output::default_output(self.model())),
        }
    }

    /// Everything about the outputs that can be known before the work.
    fn check_outputs(&self, out: Option<&Path>, model: &Model) -> anyhow::Result<()> {
        if let Some(out) = out.filter(|out| !self.in_place && output::same_file(out, self.model())) {
            let hint = "choose another -o OUT, or ask for it with --in-place";
            return Err(Error::Usage(format!("{}: the output would overwrite the input; {hint}", out.display())).into());
        }
        let data = out.map(output::data_file).filter(|_| model.was_external || self.external_data);
        let external = external_files(model);
        let mut written: Vec<(&str, &Path)> = Vec::new();
        let mut read: Vec<(&str, &Path)> = vec![("the input", self.model())];
        let own = [("the pruned model", out), ("the pruned model's data", data.as_deref())];
        let own = own.into_iter().filter_map(|(what, path)| Some((what, path?)));
        if self.in_place {
            read.extend(own)
        } else {
            written.extend(own)
        }
        written.extend(self.save_plan.iter().map(|p| ("the plan", p.as_path())));
        written.extend(report::named(&self.form.report));
        read.extend(self.budget.plan.iter().map(|p| ("the plan that is applied", p.as_path())));
        read.extend(self.limits.read());
        read.extend(self.statistics.iter().map(|p| ("the statistics", p.as_path())));
        read.extend(external.iter().map(|p| ("the input's data file", p.as_path())));
        output::check_distinct(&written, &read)?;
        written.iter().map(|(_, p)| *p).chain(out).try_for_each(output::probe)
    }
}

/// The data files that the model reads.
pub fn external_files(model: &Model) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let walked = onnx::visit::tensors(&model.proto, &mut |t| {
        let location = t.external_data.iter().find(|e| e.key() == "location");
        files.extend(location.map(|e| model.path.with_file_name(e.value())));
        Ok(())
    });
    debug_assert!(walked.is_ok());
    files.sort();
    files.dedup();
    files
}

/// Errors about a tensor do not know the file.
pub fn in_file(e: impl Into<Error>, path: &Path) -> anyhow::Error {
    let e = e.into();
    match e {
        Error::Onnx(OnnxError::Tensor { .. } | OnnxError::External { .. }) => {
            anyhow::Error::new(e).context(path.display().to_string())
        }
        e => e.into(),
    }
}

/// Loads a model; errors name the file.
pub fn load(path: &Path) -> anyhow::Result<Model> {
    onnx::load(path).map_err(|e| in_file(e, path))
}
