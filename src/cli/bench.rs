//! `onnx-prune bench MODEL...`: how fast models are.

use super::colour;
use super::data::DataArgs;
use super::output::{self, Staged};
use super::parse;
use super::progress::Progress;
use super::prune::{in_file, load};
use super::runtime::{DeviceArgs, RuntimeArgs};
use anyhow::Context;
use clap::{Args, ValueEnum, ValueHint};
use onnx_prune::data::{DataOptions, Dataset};
use onnx_prune::error::{Error, Result};
use onnx_prune::evaluate::bench::{BenchOptions, BenchReport, Effort, SystemClock, bench};
use onnx_prune::evaluate::gate::{self, Limit};
use onnx_prune::evaluate::half::to_half;
use onnx_prune::evaluate::{inputs, memory};
use onnx_prune::onnx::Model;
use onnx_prune::report::{bench_terminal, bench_text, json, terminal};
use onnx_prune::runtime::walk::Feed;
use onnx_prune::runtime::{Device, InputSpec, RuntimeOptions, choose_with};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Batches of real data that are kept in memory; runs take them in turn.
const FEEDS: usize = 16;

/// How the result is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Tables
    Table,
    /// JSON with every figure
    Json,
    /// One line a model, batch and number of threads
    Csv,
    /// Tables for a README or an issue
    Markdown,
}

/// Whether inputs stay on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Binding {
    /// Where the device has memory of its own
    Auto,
    /// Always
    On,
    /// Never
    Off,
}

/// What models compute with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Precision {
    /// The models as they are
    Fp32,
    /// Half precision
    Fp16,
}

/// Measures models.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// The ONNX models; the others are compared with the first
    #[arg(required = true, value_name = "MODEL", value_hint = ValueHint::FilePath)]
    models: Vec<PathBuf>,
    /// Numbers of threads, as in 1,4; 0 is one for each core [default: 0, and 1 for tract]
    #[arg(long, value_name = "N", value_delimiter = ',', help_heading = "Measuring")]
    threads: Vec<usize>,
    /// Run each model N times
    #[arg(long, value_name = "N", value_parser = parse::at_least_one, conflicts_with = "min_time", help_heading = "Measuring")]
    runs: Option<usize>,
    /// Measure for S seconds a model and batch, and at least 10 runs
    #[arg(long, value_name = "S", default_value_t = 3.0, value_parser = seconds, help_heading = "Measuring")]
    min_time: f64,
    /// Run for S seconds a model before it counts
    #[arg(long, value_name = "S", default_value_t = 0.5, value_parser = seconds, help_heading = "Measuring")]
    warmup: f64,
    /// Extent of axes, other than that of the batch, that the model leaves open (random inputs)
    #[arg(long, value_name = "N", default_value_t = 224, value_parser = parse::at_least_one, help_heading = "Measuring")]
    extent: usize,
    /// Seed of random inputs, of the draw of --samples, and of intervals
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Measuring")]
    seed: u64,
    /// Keep inputs and outputs in the memory of the device (I/O binding), so that times have no copies in them, and measure the
    /// copies by themselves; auto does so with cuda and tensorrt (ONNX Runtime)
    #[arg(long, value_enum, value_name = "WHEN", default_value = "auto", help_heading = "Measuring")]
    io_binding: Binding,
    /// fp16: convert the models to half precision in memory first. Inputs and outputs stay as they are, as do scales of Resize
    /// and of quantisation. Of use on devices that compute with it; the processor converts back
    #[arg(long, value_enum, value_name = "TYPE", default_value = "fp32", help_heading = "Measuring")]
    precision: Precision,
    /// Also show the time of each operator (ONNX Runtime)
    #[arg(long, help_heading = "Measuring")]
    profile: bool,
    /// Do not measure memory, for which each model runs once more in a process of its own
    #[arg(long, help_heading = "Measuring")]
    no_memory: bool,
    /// Fail when a model takes longer than R times the first one's median
    #[arg(long, value_name = "R", value_parser = parse::positive, help_heading = "Limits")]
    max_ratio: Option<f64>,
    /// Fail when a model is not at least F times as fast as the first one
    #[arg(long, value_name = "F", value_parser = parse::positive, help_heading = "Limits")]
    min_speedup: Option<f64>,
    /// How the result is printed
    #[arg(long, value_enum, default_value = "table", help_heading = "Output")]
    format: Format,
    /// The same as --format json; nothing else goes to the standard output
    #[arg(long, conflicts_with = "format", help_heading = "Output")]
    json: bool,
    /// Write the result to a file: .json with every figure, .csv or .md
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Output")]
    report: Option<PathBuf>,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    runtime: RuntimeArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Print nothing but errors
    #[arg(short, long, conflicts_with = "verbose", help_heading = "General")]
    quiet: bool,
    /// Print the memory that the model takes, and nothing else: what this command starts itself
    #[arg(long, hide = true)]
    only_memory: bool,
}

fn seconds(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|s| (0.0..=86_400.0).contains(s)).ok_or_else(|| "expected seconds, from 0 to 86400".into())
}

/// The inputs of a batch size.
struct Inputs<'a> {
    args: &'a BenchArgs,
    models: &'a [Model],
    specs: Vec<InputSpec>,
    data: Option<(PathBuf, DataOptions)>,
    /// In words.
    source: String,
}

impl<'a> Inputs<'a> {
    fn new(args: &'a BenchArgs, models: &'a [Model], notes: &mut Vec<String>) -> anyhow::Result<Self> {
        let specs = inputs::common_inputs(models)?;
        let first = args.models.first().map_or(Path::new(""), PathBuf::as_path);
        let data = args.data.without_batch().resolve(first, args.seed)?;
        let open = inputs::open_extents(&specs);
        let source = match &data {
            Some((path, _)) => format!("{}, the same for all models", path.display()),
            None => format!("random, seed {}, the same for all models", args.seed),
        };
        if data.is_none() && open {
            notes.push(format!(
                "axes that the model leaves open, other than the batch, have extent {} (--extent)",
                args.extent
            ));
        }
        Ok(Self { args, models, specs, data, source })
    }

    /// The batch sizes that can be had.
    fn batches(&self, notes: &mut Vec<String>) -> Vec<usize> {
        let asked = self.args.data.batches();
        match inputs::fixed_batch(&self.specs) {
            Some(fixed) => {
                let others: Vec<String> = asked.iter().filter(|&&b| b != fixed).map(ToString::to_string).collect();
                if !others.is_empty() {
                    let others = others.join(", ");
                    notes.push(format!("the model fixes the batch to {fixed}, so a batch of {others} cannot be had"));
                }
                vec![fixed]
            }
            None if asked.is_empty() => vec![1],
            None => asked.to_vec(),
        }
    }

    fn feeds(&self, batch: usize) -> Result<Vec<Feed>> {
        let model = self.models.first().ok_or_else(|| Error::Usage("no model".into()))?;
        let Some((path, options)) = &self.data else {
            let feed = inputs::random(model, &self.specs, self.args.seed, batch, self.args.extent)?;
            return Ok(vec![feed]);
        };
        let data = Dataset::open(path, model, &DataOptions { batch: Some(batch), ..options.clone() })?;
        let whole = (data.len() / batch.max(1)).min(FEEDS);
        if whole == 0 {
            let message = format!("a batch of {batch} needs as many samples, and there are {}", data.len());
            return Err(Error::Data { path: path.clone(), message });
        }
        (0..whole).map(|k| data.batch(k)).collect()
    }
}

impl BenchArgs {
    fn options(&self, threads: usize) -> RuntimeOptions {
        RuntimeOptions { threads, spinning: true, ..self.runtime.on(&self.device) }
    }

    /// Numbers of threads. Fails early when the runtime or the device cannot be used.
    fn threads(&self) -> Result<Vec<usize>> {
        if self.threads.is_empty() {
            let runtime = choose_with(&self.options(1))?;
            return Ok(vec![if runtime.name() == "tract" { 1 } else { 0 }]);
        }
        for &threads in &self.threads {
            choose_with(&self.options(threads))?;
        }
        Ok(self.threads.clone())
    }

    /// The models as they are measured.
    fn models(&self) -> anyhow::Result<Vec<Model>> {
        let one = |path: &PathBuf| {
            let model = load(path)?;
            match self.precision {
                Precision::Fp32 => Ok(model),
                Precision::Fp16 => to_half(&model).map_err(|e| in_file(e, path)),
            }
        };
        self.models.iter().map(one).collect()
    }

    fn bind(&self) -> bool {
        match self.io_binding {
            // With --allow-fallback the device may not be there.
            Binding::Auto => self.device.device.has_memory() && !self.device.allow_fallback,
            asked => asked == Binding::On,
        }
    }

    fn limits(&self) -> Result<Vec<Limit>> {
        let all = [self.max_ratio.map(Limit::MaxRatio), self.min_speedup.map(Limit::MinSpeedup)];
        let all: Vec<Limit> = all.into_iter().flatten().collect();
        if !all.is_empty() && self.models.len() < 2 {
            let why = "--max-ratio and --min-speedup compare models with the first one: give at least two";
            return Err(Error::Usage(why.into()));
        }
        Ok(all)
    }

    /// How the file is written, by its extension; whether it can be.
    fn check_report(&self) -> anyhow::Result<Option<(&Path, Format)>> {
        let Some(path) = self.report.as_deref() else { return Ok(None) };
        let format = match path.extension().and_then(|e| e.to_str()) {
            Some("json") => Format::Json,
            Some("csv") => Format::Csv,
            Some("md") => Format::Markdown,
            _ => {
                let path = path.display();
                return Err(Error::Usage(format!("{path}: expected a file ending in .json, .csv or .md")).into());
            }
        };
        let read: Vec<(&str, &Path)> = self.models.iter().map(|m| ("a model", m.as_path())).collect();
        output::check_distinct(&[("the report", path)], &read)?;
        output::probe(path)?;
        Ok(Some((path, format)))
    }

    /// The memory that one model takes, from a process of its own. The child gets the flags of this process.
    fn memory(&self, model: usize, batch: usize, threads: usize) -> Option<u64> {
        if self.no_memory || !cfg!(target_os = "linux") {
            return None;
        }
        let mut child = Command::new(std::env::current_exe().ok()?);
        child.arg("bench").arg(self.models.get(model)?).arg("--only-memory");
        child.args(["--threads", &threads.to_string(), "--seed", &self.seed.to_string()]);
        child.args(["--extent", &self.extent.to_string(), "--device", &self.device.device.to_string()]);
        child.args(["--runtime", self.runtime.runtime.to_possible_value()?.get_name()]);
        child.args(self.runtime.ort_lib.iter().flat_map(|lib| ["--ort-lib".as_ref(), lib.as_os_str()]));
        if self.precision == Precision::Fp16 {
            child.args(["--precision", "fp16"]);
        }
        if self.device.allow_fallback {
            child.arg("--allow-fallback");
        }
        // What the values are does not matter here, only the shapes.
        child.args(["--no-data", "--batch", &batch.to_string()]);
        let done = child.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
        String::from_utf8_lossy(&done.stdout).trim().parse().ok()
    }
}

fn text(report: &BenchReport, format: Format) -> Result<String> {
    Ok(match format {
        Format::Table => colour::table(&bench_terminal::bench(report, terminal::width())),
        Format::Json => json::to_string(report)?,
        Format::Csv => bench_text::csv(report),
        Format::Markdown => bench_text::markdown(report),
    })
}

/// Runs the command.
pub fn run(args: &BenchArgs) -> anyhow::Result<()> {
    if args.only_memory {
        return only_memory(args);
    }
    super::interrupt::install()?;
    let limits = args.limits()?;
    if args.data.batches().contains(&0) {
        return Err(Error::Usage("--batch: expected at least 1, not 0".into()).into());
    }
    let file = args.check_report()?;
    let progress = Progress::new(args.quiet);
    progress.stage("load");
    let models = args.models()?;
    let mut notes = Vec::new();
    let inputs = Inputs::new(args, &models, &mut notes)?;
    let measurable = inputs.data.is_none() || !inputs::open_extents(&inputs.specs);
    let options = BenchOptions {
        runtime: &|threads| choose_with(&args.options(threads)),
        threads: args.threads()?,
        batches: inputs.batches(&mut notes),
        feeds: &|batch| inputs.feeds(batch),
        bind: args.bind(),
        effort: Effort { warmup_s: args.warmup, runs: args.runs, min_time_s: args.min_time },
        seed: args.seed,
        profile: args.profile,
        // The process that measures it has random inputs, whose open extents are not those of the data.
        memory: &|model, batch, threads| {
            if measurable { args.memory(model, batch, threads) } else { None }
        },
        progress: &|stage| progress.stage(stage),
    };
    let first = args.models.first().map_or(Path::new(""), PathBuf::as_path);
    let mut report = bench(&models, &options, &mut SystemClock::default()).map_err(|e| in_file(e, first))?;
    (report.device, report.inputs) = (args.device.device.to_string(), inputs.source.clone());
    if args.precision == Precision::Fp16 {
        report.precision = "fp16".to_owned();
    }
    report.notes = notes;
    if report.runtime == "tract" && args.device.device != Device::Cpu {
        report.rows.iter_mut().for_each(|row| row.device_share = 0.0);
    }
    report.gates = gate::check(&report, &limits);
    drop(progress);
    if let Some((path, format)) = file {
        Staged::new(path, text(&report, format)?)?.publish()?;
    }
    if !args.quiet {
        super::print(&text(&report, if args.json { Format::Json } else { args.format })?)?;
    }
    let missed: Vec<_> = report.gates.iter().filter(|g| !g.kept).collect();
    for gate in &missed {
        eprintln!("limit: {}", gate.text);
    }
    if missed.is_empty() {
        return Ok(());
    }
    Err(Error::Check(format!("{} of {} limits missed", missed.len(), report.gates.len())).into())
}

/// Prints a number of bytes.
fn only_memory(args: &BenchArgs) -> anyhow::Result<()> {
    let models = args.models()?;
    let inputs = Inputs::new(args, &models, &mut Vec::new())?;
    let runtime = choose_with(&args.options(args.threads.first().copied().unwrap_or(1)))?;
    let batch = inputs.batches(&mut Vec::new()).first().copied().unwrap_or(1);
    let feed = inputs.feeds(batch)?.into_iter().next().context("no inputs")?;
    let model = models.first().context("no model")?;
    if let Some(bytes) = memory::growth(&*runtime, model, &feed)? {
        super::print(&format!("{bytes}\n"))?;
    }
    Ok(())
}
