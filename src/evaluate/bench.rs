//! How fast models are, one against the other.
//!
//! All models are loaded in one process and run in turn, A B A B …, on the same inputs: what disturbs the machine disturbs
//! all of them. A time is that of one [`Session::compute`]: from arrays in memory to
//! computed outputs, which ONNX Runtime does not copy out. tract does, and starts a thread for each run, which takes some tens
//! of microseconds and brings the ratio of very quick models closer to 1. On a device with memory of its own, inputs and outputs
//! stay there, and copies are measured by themselves, see [`super::bound`].

use super::advice::{Series, advise};
use super::bound::{Copies, measure_bound};
use super::gate::GateOutcome;
use super::machine::Machine;
use super::stats;
use crate::error::{Error, Result};
use crate::onnx::Model;
use crate::report::SCHEMA_VERSION;
use crate::runtime::walk::Feed;
use crate::runtime::{OpTime, Runtime, Session};
use schemars::JsonSchema;
use serde::Serialize;
use std::sync::Arc;
use std::time::Instant;

/// Measures time.
pub trait Clock {
    /// Seconds since a fixed moment.
    fn seconds(&mut self) -> f64;
}

/// The machine's monotonic clock.
pub struct SystemClock(Instant);

impl Default for SystemClock {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock for SystemClock {
    fn seconds(&mut self) -> f64 {
        self.0.elapsed().as_secs_f64()
    }
}

/// How long is measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Effort {
    /// Seconds for each model before it counts; each model runs at least [`WARMUP_ROUNDS`] times.
    pub warmup_s: f64,
    /// So many runs of each model; without it as many as `min_time_s` takes.
    pub runs: Option<usize>,
    /// Seconds for each model on average, and at least [`MIN_RUNS`] runs.
    pub min_time_s: f64,
}

/// The least that warms up.
pub const WARMUP_ROUNDS: usize = 2;
/// The fewest runs where their number is not given.
pub const MIN_RUNS: usize = 10;
/// More are never made, unless asked for.
pub const MAX_RUNS: usize = 100_000;
/// Two loads of one and the same model may differ by so much, because of where their memory happens to lie.
pub const SAME: f64 = 0.02;
/// Runs of a profile.
const PROFILE_RUNS: usize = 20;

/// What was measured, in milliseconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rounds {
    /// The very first run of each model.
    pub first_ms: Vec<f64>,
    /// Seconds that the warm-up took, all models together.
    pub warmup_s: f64,
    /// Runs of each model in the warm-up.
    pub warmup_rounds: usize,
    /// For each model the time of each round.
    pub ms: Vec<Vec<f64>>,
}

/// Runs all sessions in turn, each with its model's name. Round `k` runs each of them on feed `k`, beginning anew after the
/// last.
///
/// # Errors
/// When a run fails, with the model's name, or when there is nothing to feed.
pub fn measure(
    sessions: &mut [(String, Box<dyn Session>)],
    feeds: &[Feed],
    effort: &Effort,
    clock: &mut dyn Clock,
) -> Result<Rounds> {
    let fed = feeds.len().max(1);
    rounds(sessions.len(), effort, clock, &mut |i, k| {
        let feed = feeds.get(k % fed);
        let feed = feed.ok_or_else(|| Error::Usage("there are no inputs to run the models on".into()))?;
        let Some((name, session)) = sessions.get_mut(i) else { return Ok(()) };
        session.compute(feed).map_err(|e| of_model(e, name))
    })
}

/// Round `k` is `compute(i, k)` for each model `i`.
pub(super) fn rounds(
    models: usize,
    effort: &Effort,
    clock: &mut dyn Clock,
    compute: &mut dyn FnMut(usize, usize) -> Result<()>,
) -> Result<Rounds> {
    let mut done = Rounds { ms: vec![Vec::new(); models], ..Rounds::default() };
    let mut round = |k: usize, clock: &mut dyn Clock| -> Result<Vec<f64>> {
        let time = |i| {
            let begin = clock.seconds();
            compute(i, k)?;
            Ok((clock.seconds() - begin) * 1e3)
        };
        (0..models).map(time).collect()
    };
    let begin = clock.seconds();
    while done.warmup_rounds < WARMUP_ROUNDS || done.warmup_s < effort.warmup_s * models as f64 {
        let times = round(done.warmup_rounds, clock)?;
        if done.warmup_rounds == 0 {
            done.first_ms = times;
        }
        done.warmup_rounds += 1;
        done.warmup_s = clock.seconds() - begin;
    }
    let begin = clock.seconds();
    for k in 0.. {
        let enough = match effort.runs {
            Some(runs) => k >= runs,
            None => k >= MAX_RUNS || k >= MIN_RUNS && clock.seconds() - begin >= effort.min_time_s * models as f64,
        };
        if enough {
            break;
        }
        for (all, time) in done.ms.iter_mut().zip(round(k, clock)?) {
            all.push(time);
        }
    }
    Ok(done)
}

/// A model among those that are compared.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct BenchModel {
    /// The file.
    pub path: String,
    /// Bytes on disk, external data included.
    pub bytes: u64,
}

/// A model against the first one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Comparison {
    /// The median divided by the first model's; below 1 is faster.
    pub ratio: f64,
    /// Lower end of the 95 % bootstrap interval of the ratio.
    pub low: f64,
    /// Upper end of the 95 % bootstrap interval of the ratio.
    pub high: f64,
    /// In a word.
    pub verdict: Verdict,
}

/// What a comparison comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The whole interval is below 1, and the ratio by more than [`SAME`].
    Faster,
    /// The whole interval is above 1, and the ratio by more than [`SAME`].
    Slower,
    /// Anything else.
    NoDifference,
}

impl Verdict {
    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Self::Faster => "faster",
            Self::Slower => "slower",
            Self::NoDifference => "no difference within noise",
        }
    }
}

impl Comparison {
    /// Of times measured in the same rounds, with a seeded interval. `None` when there is nothing to compare.
    pub fn of(ms: &[f64], reference: &[f64], seed: u64) -> Option<Self> {
        let stats::Interval { ratio, low, high } = stats::ratio(ms, reference, seed)?;
        let verdict = match () {
            () if high < 1.0 && ratio < 1.0 - SAME => Verdict::Faster,
            () if low > 1.0 && ratio > 1.0 + SAME => Verdict::Slower,
            () => Verdict::NoDifference,
        };
        Some(Self { ratio, low, high, verdict })
    }
}

/// One model with one batch on one number of threads.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct BenchRow {
    /// Index in [`BenchReport::models`].
    pub model: usize,
    /// Samples in one run.
    pub batch: usize,
    /// Threads; 0 is one for each core, as the runtime counts them.
    pub threads: usize,
    /// Seconds of warm-up, all models together.
    pub warmup_s: f64,
    /// Runs in the warm-up.
    pub warmup_runs: usize,
    /// Runs that count.
    pub runs: usize,
    /// The median time of one run, in milliseconds.
    pub median_ms: f64,
    /// 25 % of the runs took no longer, in milliseconds.
    pub p25_ms: f64,
    /// 75 % of the runs took no longer, in milliseconds.
    pub p75_ms: f64,
    /// 90 % of the runs took no longer, in milliseconds.
    pub p90_ms: f64,
    /// 99 % of the runs took no longer, in milliseconds.
    pub p99_ms: f64,
    /// The quickest run, in milliseconds.
    pub min_ms: f64,
    /// The mean, in milliseconds.
    pub mean_ms: f64,
    /// The sample's standard deviation, in milliseconds.
    pub std_ms: f64,
    /// Samples a second at the median.
    pub samples_per_s: f64,
    /// Milliseconds from a model in memory to a session, measured once.
    pub load_ms: f64,
    /// Milliseconds of the first run with this batch, before the warm-up.
    pub first_ms: f64,
    /// Bytes by which the resident set grew at its largest while the model ran, from before it was loaded, in a process of its
    /// own (see [`super::memory`]); absent where the system does not tell.
    pub memory_bytes: Option<u64>,
    /// The share of the nodes that run on the device that was asked for, from 0 to 1.
    pub device_share: f64,
    /// Copies between the processor and the device, which the times leave out; absent where inputs are not kept on a device.
    pub copies: Option<Copies>,
    /// Runs far from the median.
    pub outliers: usize,
    /// Against the first model, for every other one.
    pub comparison: Option<Comparison>,
}

/// The time that one operator takes in each model.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ModelProfile {
    /// Index in [`BenchReport::models`].
    pub model: usize,
    /// The largest first.
    pub operators: Vec<OpTime>,
}

/// All that was measured.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct BenchReport {
    /// Version of this form, [`SCHEMA_VERSION`].
    #[schemars(extend("const" = SCHEMA_VERSION))]
    pub schema_version: u32,
    /// Name and version of the tool.
    pub tool: String,
    /// The runtime's name.
    pub runtime: String,
    /// The runtime's version.
    pub runtime_version: String,
    /// The device that was asked for.
    pub device: String,
    /// The precision of the models' arithmetic: `fp32` as they are, or `fp16`, see [`super::half`].
    pub precision: String,
    /// The machine.
    pub machine: Machine,
    /// Where the inputs come from, in words.
    pub inputs: String,
    /// Seconds of warm-up asked for, for each model.
    pub warmup_s: f64,
    /// The files, the one that others are compared with first.
    pub models: Vec<BenchModel>,
    /// In order of threads, batch, model.
    pub rows: Vec<BenchRow>,
    /// Time by operator with the first batch and number of threads, if it was asked for.
    pub profile: Vec<ModelProfile>,
    /// Limits that were set.
    pub gates: Vec<GateOutcome>,
    /// What was done otherwise than asked, and how.
    pub notes: Vec<String>,
    /// What makes the figures doubtful.
    pub advice: Vec<String>,
}

/// What is measured.
pub struct BenchOptions<'a> {
    /// The runtime for a number of threads.
    pub runtime: &'a dyn Fn(usize) -> Result<Arc<dyn Runtime>>,
    /// Numbers of threads.
    pub threads: Vec<usize>,
    /// Batch sizes.
    pub batches: Vec<usize>,
    /// What all models run on, for a batch size.
    pub feeds: &'a dyn Fn(usize) -> Result<Vec<Feed>>,
    /// Keeps inputs and outputs where the model computes, and measures copies by themselves.
    pub bind: bool,
    /// How long.
    pub effort: Effort,
    /// Seed of the intervals.
    pub seed: u64,
    /// Whether time by operator is asked for.
    pub profile: bool,
    /// The memory of a model by index, batch and threads, see [`super::memory`].
    pub memory: &'a dyn Fn(usize, usize, usize) -> Option<u64>,
    /// Is told what comes next.
    pub progress: &'a dyn Fn(&str),
}

/// Measures all models. The device, precision, inputs, gates and notes of the report are the caller's to fill in.
///
/// # Errors
/// When a model cannot be loaded or run, with its file.
pub fn bench(models: &[Model], options: &BenchOptions, clock: &mut dyn Clock) -> Result<BenchReport> {
    let mut report = BenchReport {
        schema_version: SCHEMA_VERSION,
        tool: format!("onnx-prune {}", env!("CARGO_PKG_VERSION")),
        runtime: String::new(),
        runtime_version: String::new(),
        device: String::new(),
        precision: "fp32".to_owned(),
        machine: Machine::here(),
        inputs: String::new(),
        warmup_s: options.effort.warmup_s,
        models: models
            .iter()
            .map(|m| BenchModel { path: m.path.display().to_string(), bytes: m.bytes_on_disk })
            .collect(),
        rows: Vec::new(),
        profile: Vec::new(),
        gates: Vec::new(),
        notes: Vec::new(),
        advice: Vec::new(),
    };
    let mut all = Vec::new();
    for &threads in &options.threads {
        let runtime = (options.runtime)(threads)?;
        (report.runtime, report.runtime_version) = (runtime.name().to_owned(), runtime.version());
        let mut sessions = Vec::new();
        let mut load_ms = Vec::new();
        for model in models {
            (options.progress)(&format!("load {}", model.path.display()));
            let begin = clock.seconds();
            let name = model.path.display().to_string();
            let session = runtime.load(model).map_err(|e| of_model(e, &name))?;
            sessions.push((name, session));
            load_ms.push((clock.seconds() - begin) * 1e3);
        }
        for &batch in &options.batches {
            let feeds = (options.feeds)(batch)?;
            (options.progress)(&format!("measure, batch {batch}, {}", in_words(threads)));
            let (rounds, copies) = if options.bind {
                measure_bound(&mut sessions, &feeds, &options.effort, clock)?
            } else {
                (measure(&mut sessions, &feeds, &options.effort, clock)?, Vec::new())
            };
            let before = report.rows.len();
            for (i, (_, session)) in sessions.iter().enumerate() {
                let mut row = row(i, &rounds, options.seed);
                row.device_share = session.placement().map_or(1.0, |p| p.share());
                row.load_ms = load_ms.get(i).copied().unwrap_or(f64::NAN);
                row.copies = copies.get(i).copied();
                (row.batch, row.threads) = (batch, threads);
                row.samples_per_s = batch as f64 / row.median_ms * 1e3;
                report.rows.push(row);
            }
            for (row, ms) in report.rows.iter_mut().skip(before).zip(rounds.ms) {
                (options.progress)(&format!("memory, batch {batch}, {}", in_words(threads)));
                row.memory_bytes = (options.memory)(row.model, batch, threads);
                let name = report.models.get(row.model).map(|m| m.path.clone()).unwrap_or_default();
                all.push(Series { name: format!("{name}, batch {batch}, {}", in_words(threads)), ms, threads });
            }
        }
        if options.profile && report.profile.is_empty() {
            (options.progress)("profile");
            let batch = options.batches.first().copied().unwrap_or(1);
            let feed = (options.feeds)(batch)?.into_iter().next().unwrap_or_default();
            for (i, model) in models.iter().enumerate() {
                let profile = runtime.profile(model, &feed, PROFILE_RUNS)?;
                report.profile.push(ModelProfile { model: i, operators: profile.by_operator() });
            }
        }
    }
    report.advice = advise(&report.machine, &all);
    Ok(report)
}

pub(super) fn of_model(e: Error, model: &str) -> Error {
    match e {
        Error::Runtime { runtime, message } => Error::Runtime { runtime, message: format!("{model}: {message}") },
        other => other,
    }
}

/// `4 threads`.
pub fn in_words(threads: usize) -> String {
    match threads {
        0 => "a thread for each core".to_owned(),
        1 => "1 thread".to_owned(),
        n => format!("{n} threads"),
    }
}

/// The figures of one model.
fn row(i: usize, rounds: &Rounds, seed: u64) -> BenchRow {
    let ms = rounds.ms.get(i).map(Vec::as_slice).unwrap_or_default();
    let first = rounds.ms.first().map(Vec::as_slice).unwrap_or_default();
    BenchRow {
        model: i,
        batch: 1,
        threads: 0,
        warmup_s: rounds.warmup_s,
        warmup_runs: rounds.warmup_rounds,
        runs: ms.len(),
        median_ms: stats::median(ms),
        p25_ms: stats::quantile(ms, 0.25),
        p75_ms: stats::quantile(ms, 0.75),
        p90_ms: stats::quantile(ms, 0.9),
        p99_ms: stats::quantile(ms, 0.99),
        min_ms: stats::quantile(ms, 0.0),
        mean_ms: stats::mean(ms),
        std_ms: stats::standard_deviation(ms),
        samples_per_s: 0.0,
        load_ms: 0.0,
        first_ms: rounds.first_ms.get(i).copied().unwrap_or(f64::NAN),
        memory_bytes: None,
        device_share: 1.0,
        copies: None,
        outliers: stats::outliers(ms),
        comparison: if i == 0 { None } else { Comparison::of(ms, first, seed) },
    }
}

#[cfg(test)]
#[path = "bench_tests.rs"]
mod tests;
