//! Where the time of a run with data goes, stage by stage, and how much of it is the runtime's.
//!
//! ```text
//! cargo bench --bench calibration                                   # a fixture, both runtimes that are here
//! cargo bench --bench calibration -- MODEL DATA SAMPLES SHARE [MEAN STD [SCALE]]
//! ```
//!
//! `SHARE` is the share of the multiply-accumulates that stays; `MEAN` and `STD` are lists as on the command line (without them
//! `onnx-prune.toml` beside the model counts). Times are of one run each; the time in the runtime is added up over threads, so that
//! it can be more than the whole.

use onnx_prune::calibrate::Calibration;
use onnx_prune::data::{Dataset, config};
use onnx_prune::error::Result;
use onnx_prune::onnx::{self, Model};
use onnx_prune::plan::Budget;
use onnx_prune::prune::{Options, prune};
use onnx_prune::recover::Recover;
use onnx_prune::runtime::{Array, Runtime, RuntimeChoice, Session, choose};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// Passes everything on and counts the time inside.
struct Timed {
    inner: Arc<dyn Runtime>,
    spent: Arc<AtomicU64>,
}

struct TimedSession {
    inner: Box<dyn Session>,
    spent: Arc<AtomicU64>,
}

fn timed<T>(spent: &AtomicU64, f: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let out = f();
    spent.fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
    out
}

impl Runtime for Timed {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn version(&self) -> String {
        self.inner.version()
    }

    fn load(&self, model: &Model) -> Result<Box<dyn Session>> {
        let inner = timed(&self.spent, || self.inner.load(model))?;
        Ok(Box::new(TimedSession { inner, spent: self.spent.clone() }))
    }
}

impl Session for TimedSession {
    fn run(&mut self, inputs: &[(String, Array)]) -> Result<Vec<(String, Array)>> {
        timed(&self.spent, || self.inner.run(inputs))
    }
}

/// Highest resident memory of this process in MB (Linux only).
fn peak() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<f64>().ok()? * 1024.0 / 1e6)
}

struct Job {
    model: PathBuf,
    data: PathBuf,
    samples: usize,
    share: f64,
    rest: Vec<String>,
}

impl Job {
    fn numbers(&self, at: usize) -> Option<Vec<f64>> {
        self.rest.get(at).map(|t| t.split(',').map(|x| x.parse().expect("a number")).collect())
    }

    fn run(&self, runtime: Arc<dyn Runtime>) {
        let name = runtime.name();
        let model = onnx::load(&self.model).expect("a model");
        let mut options =
            config::beside(&self.model).expect("a readable onnx-prune.toml").unwrap_or_default().data.options();
        options.samples = Some(self.samples);
        options.batch = Some(self.samples.div_ceil(8).min(32));
        options.preprocess.mean = self.numbers(0).or(options.preprocess.mean);
        options.preprocess.std = self.numbers(1).or(options.preprocess.std);
        options.preprocess.scale = self.numbers(2).map(|s| s[0]).or(options.preprocess.scale);
        let data = Dataset::open(&self.data, &model, &options).expect("data");
        let feeds: Vec<_> = (0..data.batches()).map(|k| data.batch(k).expect("a batch")).collect();
        let spent = Arc::new(AtomicU64::new(0));
        let runtime: Arc<dyn Runtime> = Arc::new(Timed { inner: runtime, spent: spent.clone() });

        let mut session = runtime.load(&model).expect("a session");
        let start = Instant::now();
        feeds.iter().for_each(|f| drop(session.run(f).expect("outputs")));
        let forward = start.elapsed().as_secs_f64() * 1e3;
        drop(session);

        spent.store(0, Ordering::Relaxed);
        // What the runtime had taken when each stage began, and the stage that it then counts for.
        let shares: Mutex<(String, u64, BTreeMap<String, f64>)> = Mutex::new((String::new(), 0, BTreeMap::new()));
        let switch = |next: &str| {
            let now = spent.load(Ordering::Relaxed);
            let mut s = shares.lock().expect("no panic");
            let (stage, before) = (std::mem::take(&mut s.0), s.1);
            *s.2.entry(stage).or_default() += (now - before) as f64 / 1e6;
            // As the report names them.
            let next = match next {
                "error curves" | "measured effects" => "survey",
                other if other.starts_with("repair") => "recover",
                other => other,
            };
            (s.0, s.1) = (next.into(), now);
        };
        let options = Options {
            budget: Budget::TargetMacs(self.share),
            recover: Recover::Reconstruct,
            calibration: Some(Arc::new(Calibration::new(feeds, runtime))),
            ..Options::default()
        };
        let start = Instant::now();
        let done = prune(&model, &options, &switch).expect("a pruned model");
        let total = start.elapsed().as_secs_f64() * 1e3;
        switch("");
        let layers = done.report.recover.layers.len();
        let inside = shares.into_inner().expect("no panic").2;
        println!("\n{} on {name}, {} samples, {} of the MACs", self.model.display(), self.samples, self.share);
        println!("forward pass over all samples {forward:8.0} ms");
        println!("{:<12}{:>10}{:>14}{:>18}", "stage", "ms", "in runtime", "forward passes");
        for stage in ["survey", "plan", "trials", "recover", "verify"] {
            let ms = done.report.timings_ms.get(stage).copied().unwrap_or(0.0);
            let within = inside.get(stage).copied().unwrap_or(0.0);
            println!("{stage:<12}{ms:>10.0}{:>12.0} %{:>18.1}", 100.0 * within / ms.max(1e-9), ms / forward);
        }
        let recover = done.report.timings_ms.get("recover").copied().unwrap_or(0.0);
        println!("{:<12}{total:>10.0}", "total");
        println!("{layers} layers repaired, {:.2} forward passes' time each", recover / forward / layers.max(1) as f64);
        if let Some(mb) = peak() {
            println!("peak memory so far {mb:.0} MB");
        }
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let fixture = |name: &str| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name);
    let job = match args.as_slice() {
        [model, data, samples, share, rest @ ..] => Job {
            model: model.into(),
            data: data.into(),
            samples: samples.parse().expect("SAMPLES is a number"),
            share: share.parse().expect("SHARE is a number"),
            rest: rest.to_vec(),
        },
        // Listing and filters of other benches.
        [first, ..] if !first.starts_with("--") => panic!("expected MODEL DATA SAMPLES SHARE [MEAN STD [SCALE]]"),
        _ => Job {
            model: fixture("residual.folded.onnx"),
            data: fixture("fashion_test.npz"),
            samples: 200,
            share: 0.5,
            rest: Vec::new(),
        },
    };
    for choice in [RuntimeChoice::Tract, RuntimeChoice::Ort] {
        match choose(choice, None) {
            Ok(runtime) => job.run(runtime),
            Err(e) => println!("\nnot measured: {e}"),
        }
    }
}
