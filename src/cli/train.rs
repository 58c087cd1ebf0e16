//! `onnx-prune train MODEL --data D`: from the flags to [`Options`], and what comes out.

use super::data::{DataArgs, NO_DATA};
use super::interrupt::Writing;
use super::output::{self, Staged};
use super::parse;
use super::progress::Progress;
use super::prune::{external_files, in_file, load};
use super::report::{self, Form, ReportFile};
use super::runtime::{DeviceArgs, RuntimeArgs};
use super::{Common, colour};
use clap::{Args, ValueEnum, ValueHint};
use onnx_prune::data::{DataOptions, Dataset};
use onnx_prune::error::Error;
use onnx_prune::onnx::{self, Model, SaveOptions};
use onnx_prune::plan::{self, Budget};
use onnx_prune::prune::kept::kept;
use onnx_prune::recover::Recover;
use onnx_prune::report::html::{self, Page, Provenance};
use onnx_prune::report::{json, terminal, train_plot, train_text};
use onnx_prune::runtime::{Device, Runtime, RuntimeOptions, choose_with};
use onnx_prune::train::augment::Augment;
use onnx_prune::train::grad::BatchNorms;
use onnx_prune::train::history::{History, Stop, StopReason};
use onnx_prune::train::loss::Losses;
use onnx_prune::train::optimizer::{Decay, Optimizer, Update};
use onnx_prune::train::pairs::Kept;
use onnx_prune::train::run::{Event, Options, Trained, train};
use onnx_prune::train::schedule::{Course, Schedule};
use onnx_prune::train::sparsity::{Sparsity, cut};
use regex::Regex;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How a model is trained.
#[derive(Clone, Debug, Args)]
pub struct TrainArgs {
    /// Highest learning rate [default: 0.01 for sgd, 0.001 for adamw]
    #[arg(long, value_name = "R", value_parser = parse::positive, help_heading = "Training")]
    pub lr: Option<f64>,
    /// How the learning rate goes on: cosine (to 0 at the end), constant, or step=EPOCHS:FACTOR
    #[arg(long, value_name = "COURSE", default_value_t, help_heading = "Training")]
    pub schedule: Course,
    /// Epochs over which the learning rate rises in a straight line, fractions too
    #[arg(long, value_name = "EPOCHS", default_value_t = 1.0, value_parser = parse::not_negative, help_heading = "Training")]
    pub warmup: f64,
    /// How gradients become steps
    #[arg(long, value_enum, value_name = "NAME", default_value_t, help_heading = "Training")]
    pub optimizer: Optimizer,
    /// Momentum of sgd, β₁ of adamw
    #[arg(long, value_name = "M", default_value_t = 0.9, value_parser = parse::below_one, help_heading = "Training")]
    pub momentum: f64,
    /// The gradient of all trained tensors together is made no longer than this
    #[arg(long, value_name = "N", value_parser = parse::positive, help_heading = "Training")]
    pub clip: Option<f64>,
    /// Weight decay λ, of layer weights only: λ/2·‖w‖² in the loss with sgd, λ·lr·w off the weights with adamw
    #[arg(long, value_name = "L", default_value_t = 0.0, value_parser = parse::not_negative, help_heading = "Training")]
    pub weight_decay: f64,
    /// The form of weight decay, whatever the optimizer
    #[arg(long, value_enum, value_name = "FORM", help_heading = "Training")]
    pub decay: Option<Decay>,
    /// Tensors with a matching name do not decay (repeatable); biases and parameters of normalisations never do
    #[arg(long, value_name = "REGEX", value_parser = parse::regex, help_heading = "Training")]
    pub no_decay: Vec<Regex>,
    /// Nodes and tensors with a matching name stay as they are (repeatable)
    #[arg(long, value_name = "REGEX", value_parser = parse::regex, help_heading = "Training")]
    pub freeze: Vec<Regex>,
    /// Whether batch normalisations take the statistics of each batch, or keep the stored ones
    #[arg(long, value_enum, value_name = "HOW", default_value_t, help_heading = "Training")]
    pub batch_norm: BatchNorms,
    /// What chance does to samples: flip, crop=PIXELS, jitter=STRENGTH, mixup=ALPHA, in a list; or none
    #[arg(long, value_name = "LIST", default_value = "none", help_heading = "Training")]
    pub augment: Augment,

    /// What is made small, with weights: kl=1,cosine=0.5. ce compares with labels; kl, mse, l1 and cosine with the teacher
    /// [default: kl with a teacher of classes, mse with another teacher, ce with labels alone]
    #[arg(long, value_name = "LIST", help_heading = "Losses")]
    pub loss: Option<Losses>,
    /// Temperature of kl, which softens both sides
    #[arg(long, value_name = "T", default_value_t = 4.0, value_parser = parse::positive, help_heading = "Losses")]
    pub temperature: f64,
    /// Label smoothing of ce: this share of what is wanted is spread over all classes
    #[arg(long, value_name = "E", default_value_t = 0.0, value_parser = parse::below_one, help_heading = "Losses")]
    pub label_smoothing: f64,
    /// The cosine loss is S · (1 − cos): S sets how hard it pulls, against other terms and against noise
    #[arg(long, value_name = "S", default_value_t = 1.0, value_parser = parse::positive, help_heading = "Losses")]
    pub loss_scale: f64,
    /// mse, l1 and cosine compare tensors in between, those with a matching name, in place of the outputs
    #[arg(long = "match", value_name = "REGEX", value_parser = parse::regex, help_heading = "Losses")]
    pub matched: Option<Regex>,

    /// Drive whole channels to nothing while training: bn-l1=L (a penalty on the scales of batch normalisations),
    /// group-lasso=L (on whole channels), l0=L (gates that learn to close) or dynamic=R (a growing share of channels is
    /// closed, up to R). The last state is kept
    #[arg(long, value_name = "KIND=VALUE", conflicts_with = "patience", help_heading = "Sparsity")]
    pub sparsity: Option<Sparsity>,

    /// Share of the samples that is held back to judge by: the best state is kept. 0 holds none back and keeps the last
    #[arg(long, value_name = "SHARE", default_value_t = 0.1, value_parser = parse::below_one, help_heading = "Judgement")]
    pub hold_back: f64,
    /// Stop after N epochs without a lower loss on held-back samples
    #[arg(long, value_name = "N", value_parser = parse::at_least_one, help_heading = "Judgement")]
    pub patience: Option<usize>,
}

impl TrainArgs {
    /// A flag that was given, for commands that train only when asked to.
    pub fn given(&self) -> Option<&'static str> {
        let usual = (self.schedule, self.optimizer, self.batch_norm, self.augment)
            == (Course::default(), Optimizer::default(), BatchNorms::default(), Augment::default());
        let flags = [
            ("lr", self.lr.is_some()),
            ("clip", self.clip.is_some()),
            ("weight-decay", self.weight_decay > 0.0),
            ("decay", self.decay.is_some()),
            ("no-decay", !self.no_decay.is_empty()),
            ("freeze", !self.freeze.is_empty()),
            ("loss", self.loss.is_some()),
            ("match", self.matched.is_some()),
            ("patience", self.patience.is_some()),
            ("schedule, --optimizer, --batch-norm or --augment", !usual),
        ];
        flags.into_iter().find_map(|(name, given)| given.then_some(name))
    }

    /// The library's options.
    pub fn options(&self, epochs: usize, batch: Option<usize>, seed: u64) -> Options {
        let (lr, decay) = match self.optimizer {
            Optimizer::Sgd => (0.01, Decay::L2),
            Optimizer::Adamw => (0.001, Decay::Decoupled),
        };
        let update = Update {
            optimizer: self.optimizer,
            momentum: self.momentum,
            weight_decay: self.weight_decay,
            decay: self.decay.unwrap_or(decay),
            clip: self.clip,
            ..Update::default()
        };
        Options {
            epochs,
            batch: batch.unwrap_or(BATCH),
            schedule: Schedule { lr: self.lr.unwrap_or(lr), course: self.schedule, warmup: self.warmup },
            update,
            losses: self.loss.clone(),
            temperature: self.temperature,
            smoothing: self.label_smoothing,
            loss_scale: self.loss_scale,
            matched: self.matched.clone(),
            kept: Kept::new(),
            augment: self.augment,
            batch_norms: self.batch_norm,
            freeze: self.freeze.clone(),
            no_decay: self.no_decay.clone(),
            hold_back: self.hold_back,
            patience: self.patience,
            seed,
            checkpoint: None,
            sparsity: self.sparsity,
        }
    }
}

/// Samples in a step, where nothing else is said.
const BATCH: usize = 64;

/// Trains a model.
#[derive(Debug, Args)]
pub struct TrainCommand {
    /// The ONNX model
    #[arg(value_name = "MODEL", value_hint = ValueHint::FilePath)]
    model: PathBuf,
    /// The model to learn from: the original, before pruning
    #[arg(long, value_name = "ORIGINAL", value_hint = ValueHint::FilePath)]
    teacher: Option<PathBuf>,
    /// Write the report to FILE.json, FILE.md or FILE.html (repeatable)
    #[arg(long, value_name = "FILE", value_parser = ReportFile::document, value_hint = ValueHint::FilePath, help_heading = "Output")]
    report: Vec<ReportFile>,
    /// Draw the run as FILE.svg
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Output")]
    plot: Option<PathBuf>,
    /// Print the result as JSON; nothing else goes to the standard output
    #[arg(long, help_heading = "Output")]
    json: bool,
    /// The plan that made MODEL of the teacher (--save-plan), so that --match can compare tensors that lost channels
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires_all = ["teacher", "matched"], help_heading = "Losses")]
    plan: Option<PathBuf>,
    /// Where the trained model goes [default: <stem>.trained.onnx beside the input]
    #[arg(short, long, value_name = "OUT", value_hint = ValueHint::FilePath, help_heading = "Output")]
    output: Option<PathBuf>,
    /// Keep the run's state in this file, and go on from it where it exists; removed at the end
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Output")]
    checkpoint: Option<PathBuf>,
    /// Seconds between two writings of the checkpoint
    #[arg(long, value_name = "S", default_value_t = 30.0, value_parser = parse::not_negative, requires = "checkpoint", help_heading = "Output")]
    checkpoint_every: f64,
    /// Passes over the data
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = parse::at_least_one, help_heading = "Training")]
    epochs: usize,
    /// Seed of the order, of what is held back, and of all that chance does
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Training")]
    seed: u64,
    #[command(flatten)]
    train: TrainArgs,
    #[command(flatten)]
    cut: CutArgs,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    runtime: RuntimeArgs,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    common: Common,
}

/// Pruning behind the training.
#[derive(Debug, Args)]
struct CutArgs {
    /// Prune the trained model, and write only what is left; exactly one budget says how much goes
    #[arg(long, requires = "cut", help_heading = "Sparsity")]
    prune_at_end: bool,
    /// Remove this share of the prunable channels, from 0 to below 1
    #[arg(long, value_name = "R", group = "cut", requires = "prune_at_end", help_heading = "Sparsity")]
    ratio: Option<f64>,
    /// Remove channels whose score is at most T, relative to the largest in their group: 0.01 for what counts as removable
    #[arg(long, value_name = "T", group = "cut", requires = "prune_at_end", help_heading = "Sparsity")]
    threshold: Option<f64>,
    /// Keep this share of the multiply-accumulates
    #[arg(long, value_name = "F", group = "cut", requires = "prune_at_end", help_heading = "Sparsity")]
    target_macs: Option<f64>,
    /// What is done for accuracy when channels go [default: reconstruct]
    #[arg(long, value_enum, value_name = "MODE", requires = "prune_at_end", help_heading = "Sparsity")]
    recover: Option<Recover>,
}

impl CutArgs {
    fn budget(&self) -> Option<Budget> {
        let ratio = self.ratio.map(Budget::Ratio);
        ratio.or(self.threshold.map(Budget::Threshold)).or(self.target_macs.map(Budget::TargetMacs))
    }
}

impl TrainCommand {
    fn out(&self) -> PathBuf {
        self.output.clone().unwrap_or_else(|| output::beside(&self.model, "trained"))
    }

    /// The options for the report.
    fn words(&self, o: &Options) -> BTreeMap<String, String> {
        let t = &self.train;
        let mut words = BTreeMap::new();
        let mut tell = |name: &str, value: String| _ = words.insert(name.to_owned(), value);
        tell("epochs", o.epochs.to_string());
        tell("lr", o.schedule.lr.to_string());
        tell("schedule", o.schedule.course.to_string());
        tell("warmup", o.schedule.warmup.to_string());
        tell("optimizer", name_of(&t.optimizer));
        tell("momentum", o.update.momentum.to_string());
        tell("weight-decay", format!("{} ({})", o.update.weight_decay, name_of(&o.update.decay)));
        tell("clip", o.update.clip.map_or("none".into(), |c| c.to_string()));
        tell("batch-norm", name_of(&t.batch_norm));
        tell("augment", o.augment.to_string());
        tell("temperature", o.temperature.to_string());
        tell("label-smoothing", o.smoothing.to_string());
        tell("loss-scale", o.loss_scale.to_string());
        tell("seed", o.seed.to_string());
        let list = |all: &[Regex]| all.iter().map(Regex::as_str).collect::<Vec<_>>().join(" ");
        if !o.freeze.is_empty() {
            tell("freeze", list(&o.freeze));
        }
        if !o.no_decay.is_empty() {
            tell("no-decay", list(&o.no_decay));
        }
        if let Some(matched) = &o.matched {
            tell("match", matched.to_string());
        }
        words
    }

    fn check_outputs(&self, data: &Path, model: &Model, teacher: Option<&Model>) -> anyhow::Result<()> {
        let out = self.out();
        let beside = output::data_file(&out);
        let external: Vec<PathBuf> = [Some(model), teacher].into_iter().flatten().flat_map(external_files).collect();
        let mut read: Vec<(&str, &Path)> = vec![("the input", &self.model), ("the data", data)];
        read.extend(self.plan.iter().map(|p| ("the plan", p.as_path())));
        read.extend(self.teacher.iter().map(|t| ("the teacher", t.as_path())));
        read.extend(external.iter().map(|p| ("a data file that is read", p.as_path())));
        let mut written: Vec<(&str, &Path)> = vec![("the trained model", &out)];
        written.extend(model.was_external.then_some(("the trained model's data", beside.as_path())));
        written.extend(self.checkpoint.iter().map(|c| ("the checkpoint", c.as_path())));
        written.extend(self.plot.iter().map(|p| ("the plot", p.as_path())));
        written.extend(report::named(&self.report));
        output::check_distinct(&written, &read)?;
        written.iter().try_for_each(|(_, path)| output::probe(path))
    }
}

/// As on the command line.
fn name_of(value: &impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned())
}

/// On all cores, or as many threads as were asked for; tract has one.
pub fn training_runtime(
    runtime: &RuntimeArgs,
    device: &DeviceArgs,
    common: &Common,
) -> Result<Arc<dyn Runtime>, Error> {
    let one = runtime.on(device);
    let many = RuntimeOptions { threads: common.threads.map_or(0, usize::from), spinning: true, search: false, ..one };
    match choose_with(&many) {
        // Without ONNX Runtime.
        Err(Error::Usage(_) | Error::NoRuntime { .. }) if device.device == Device::Cpu => {
            choose_with(&RuntimeOptions { threads: 1, ..many })
        }
        other => other,
    }
}

/// Runs the command.
pub fn run(args: &TrainCommand) -> anyhow::Result<()> {
    args.common.start()?;
    let Some((path, data_options)) = args.data.resolve(&args.model, args.seed)? else {
        return Err(Error::Usage(format!("no data: {NO_DATA}")).into());
    };
    let progress = Progress::new(args.common.quiet);
    progress.stage("load");
    let model = load(&args.model)?;
    let teacher = args.teacher.as_deref().map(load).transpose()?;
    args.check_outputs(&path, &model, teacher.as_ref())?;
    if args.train.patience.is_some() && args.train.hold_back == 0.0 {
        let why = "--patience waits for a better judgement on held-back samples, and --hold-back 0 holds none back";
        return Err(Error::Usage(why.into()).into());
    }
    progress.stage("data");
    args.cut.budget().map_or(Ok(()), |b| b.check())?;
    let mut options = args.train.options(args.epochs, data_options.batch, args.seed);
    let every = Duration::from_secs_f64(args.checkpoint_every);
    if let (Some(file), Some(original)) = (&args.plan, &teacher) {
        options.kept = kept(original, &plan::load(file)?)?;
    }
    options.checkpoint = args.checkpoint.clone().map(|path| (path, every));
    let data_options = DataOptions { batch: None, ..data_options };
    let data = Dataset::open(&path, &model, &data_options).map_err(|e| in_file(e, &path))?.batched(options.batch);
    let runtime = training_runtime(&args.runtime, &args.device, &args.common)?;
    let mut watch = |event: &Event| progress.training(event, args.epochs);
    let trained =
        train(&model, teacher.as_ref(), &data, &*runtime, &options, &mut watch).map_err(|e| in_file(e, &args.model))?;
    let Trained { model: made, history: mut told } = trained;
    let out = args.out();
    let useful = !told.epochs.is_empty();
    let stage = |stage: &str| progress.stage(stage);
    let pruned = match args.cut.budget().filter(|_| useful) {
        Some(budget) => {
            let recover = args.cut.recover;
            let pruned = cut::at_end(&made, &data, &runtime, budget, recover, args.seed, &stage);
            Some(pruned.map_err(|e| in_file(e, &args.model))?)
        }
        None => None,
    };
    told.model = args.model.display().to_string();
    told.teacher = args.teacher.as_ref().map(|t| t.display().to_string());
    told.written = useful.then(|| out.display().to_string());
    told.runtime = format!("{} {} on {}", runtime.name(), runtime.version(), args.device.device);
    told.options.extend(args.words(&options));
    progress.stage("write");
    {
        let _writing = Writing::begin();
        let reports = report::stage(&args.report, |form| text(&told, form))?;
        let plot = args.plot.as_ref().map(|p| Staged::new(p, train_plot::svg(&told)?)).transpose()?;
        if useful {
            let model = pruned.as_ref().and_then(|p| p.model.as_ref()).unwrap_or(&made);
            onnx::save(model, &out, &SaveOptions::default()).map_err(Error::from)?;
        }
        plot.into_iter().chain(reports).try_for_each(Staged::publish)?;
        if let Some(file) = args.checkpoint.as_ref().filter(|f| useful && f.exists()) {
            std::fs::remove_file(file)?;
        }
    }
    drop(progress);
    if !args.common.quiet {
        if args.json {
            super::print(&json::to_string(&told)?)?;
        } else {
            super::print(&colour::table(&train_text::terminal(&told, terminal::width())))?;
            match &pruned {
                Some(pruned) => {
                    let table = colour::table(&terminal::prune(&pruned.report, terminal::width()));
                    super::print(&format!("\n{table}"))?;
                }
                None if options.sparsity.is_some() && useful => {
                    let command = cut::command(&out.display().to_string());
                    super::print(&format!("\nRemove the channels that are removable now:\n  {command}\n"))?;
                }
                None => {}
            }
        }
    }
    match &told.stopped {
        Some(Stop { reason: StopReason::Diverged, words }) => {
            let end = match (useful, told.best_epoch) {
                (true, Some(best)) => format!("the best state, of epoch {best}, is in {}", out.display()),
                _ => "no model was written".to_owned(),
            };
            Err(Error::Check(format!("the training diverged at {words}; {end}; try a lower --lr, --warmup or --clip"))
                .into())
        }
        _ => Ok(()),
    }
}

fn text(history: &History, form: Form) -> anyhow::Result<String> {
    Ok(match form {
        Form::Html => {
            let reproduce = Provenance::here(report::command_line());
            html::page(&Page { training: Some(history), reproduce, ..Page::default() })?
        }
        Form::Markdown => train_text::markdown(history),
        Form::Json | Form::Junit => json::to_string(history)?,
    })
}
