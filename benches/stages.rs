//! Each stage of a run on a network of 100 MB, the whole run without verification, and what copying the file costs; and
//! that tracing takes time in proportion to the graph.
//!
//! ```text
//! cargo bench --bench stages            # everything, about a minute
//! cargo bench --bench stages whole      # one stage
//! ```
//!
//! The network has the layers of a ResNet-50 (`nets`). Before the stages, the binary itself prunes it once (`--no-verify`) and its peak memory is printed;
//! `/usr/bin/time -v target/release/onnx-prune NET --ratio 0.4 --no-verify` tells the same.

mod nets;

use divan::{Bencher, black_box};
use nets::{chain, resnet50};
use onnx_prune::channels::weights::Weights;
use onnx_prune::graph::Graph;
use onnx_prune::onnx::{self, Model, SaveOptions};
use onnx_prune::plan::{self, Budget, Limits};
use onnx_prune::prune::{DEFAULT_CRITERION, FALLBACK_CRITERION, Options, Traced, analyse, prune};
use onnx_prune::recover::Recover;
use onnx_prune::rewrite;
use onnx_prune::score::{self, Aggregate, Criteria, Normalize, ScoreContext, Scores};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use tempfile::TempDir;

const RATIO: f64 = 0.4;

/// The 100 MB network as a file, made once.
struct File {
    dir: TempDir,
    bytes: u64,
}

impl File {
    fn get() -> &'static File {
        static FILE: OnceLock<File> = OnceLock::new();
        FILE.get_or_init(|| {
            // Beside the build, not in /tmp, which may be memory.
            let dir = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary directory");
            let model = Model::from_proto(resnet50(64), "net.onnx");
            let bytes = onnx::save(&model, &dir.path().join("net.onnx"), &SaveOptions::default()).expect("a file");
            File { dir, bytes }
        })
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("net.onnx")
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("out.onnx")
    }

    fn load(&self) -> Model {
        onnx::load(&self.path()).expect("the network")
    }
}

fn megabytes() -> divan::counter::BytesCount {
    divan::counter::BytesCount::new(File::get().bytes)
}

// ---------------------------------------------------------------- the stages

#[divan::bench(sample_count = 10)]
fn copy(b: Bencher) {
    let file = File::get();
    b.counter(megabytes()).bench_local(|| fs::copy(file.path(), file.out()));
}

#[divan::bench(sample_count = 20)]
fn parse(b: Bencher) {
    let file = File::get();
    b.counter(megabytes()).bench_local(|| file.load());
}

#[divan::bench(sample_count = 20)]
fn graph_and_trace(b: Bencher) {
    let model = File::get().load();
    b.bench_local(|| {
        let graph = Graph::new(&model).expect("a graph");
        analyse(&graph).expect("a trace").trace.channels.groups.len()
    });
}

fn scores(graph: &Graph, t: &Traced) -> Scores {
    let weights = Weights { graph, channels: &t.trace.channels, removed: &[] };
    let cx = ScoreContext {
        channels: &t.trace.channels,
        params: &weights,
        seed: 0,
        activations: None,
        criteria: &Criteria::STANDARD,
    };
    let [spec, fallback] = [DEFAULT_CRITERION, FALLBACK_CRITERION].map(|s| s.parse().expect("a criterion"));
    score::score_all(&cx, &spec, &fallback, Aggregate::default(), Normalize::default()).expect("scores")
}

#[divan::bench(sample_count = 10)]
fn score(b: Bencher) {
    let model = File::get().load();
    let graph = Graph::new(&model).expect("a graph");
    let t = analyse(&graph).expect("a trace");
    b.bench_local(|| scores(&graph, &t));
}

#[divan::bench(sample_count = 20)]
fn decide(b: Bencher) {
    let model = File::get().load();
    let graph = Graph::new(&model).expect("a graph");
    let t = analyse(&graph).expect("a trace");
    let scores = scores(&graph, &t).values;
    b.bench_local(|| plan::decide(&t.trace.channels, &scores, &Budget::Ratio(RATIO), None, &Limits::default()).is_ok());
}

#[divan::bench(sample_count = 10)]
fn rewrite_only(b: Bencher) {
    let model = File::get().load();
    let graph = Graph::new(&model).expect("a graph");
    let t = analyse(&graph).expect("a trace");
    let ch = &t.trace.channels;
    let scores = scores(&graph, &t).values;
    let decision = plan::decide(ch, &scores, &Budget::Ratio(RATIO), None, &Limits::default()).expect("a plan");
    let removed = plan::removed_indices(ch, &decision.removed);
    b.bench_local(|| rewrite::rewrite(&t.analysis, &t.trace, &removed).expect("a model"));
}

fn options(recover: Recover) -> Options {
    Options { budget: Budget::Ratio(RATIO), recover, verify: false, hash: false, ..Options::default() }
}

#[divan::bench(sample_count = 10)]
fn save(b: Bencher) {
    let file = File::get();
    let pruned = prune(&file.load(), &options(Recover::None), &|_| ()).expect("a pruned model").model.expect("a model");
    b.bench_local(|| onnx::save(&pruned, &file.out(), &SaveOptions::default()).expect("a file"));
}

fn run(file: &File, recover: Recover) -> u64 {
    let pruned = prune(&file.load(), &options(recover), &|_| ()).expect("a pruned model");
    onnx::save(&pruned.model.expect("a model"), &file.out(), &SaveOptions::default()).expect("a file")
}

/// Load, prune, write; only channels removed.
#[divan::bench(sample_count = 10)]
fn whole(b: Bencher) {
    let file = File::get();
    b.counter(megabytes()).bench_local(|| run(file, Recover::None));
}

/// The same as the command line does it by default: with the bias repair.
#[divan::bench(sample_count = 10)]
fn whole_with_repair(b: Bencher) {
    let file = File::get();
    b.counter(megabytes()).bench_local(|| run(file, Recover::Bias));
}

/// Per node, so that equal figures mean linear time.
#[divan::bench(args = [100, 1_000, 10_000], sample_count = 10)]
fn trace_of_a_chain(b: Bencher, nodes: usize) {
    let model = chain(nodes);
    b.counter(divan::counter::ItemsCount::new(nodes)).bench_local(|| {
        let graph = Graph::new(black_box(&model)).expect("a graph");
        analyse(&graph).expect("a trace").trace.channels.groups.len()
    });
}

// ---------------------------------------------------------------- memory

/// Highest resident memory of a process in MB, asked until it ends (Linux only).
fn peak(mut command: Command) -> Option<f64> {
    let mut child = command.spawn().ok()?;
    let status = format!("/proc/{}/status", child.id());
    let mut peak = None;
    while child.try_wait().ok()?.is_none() {
        let text = fs::read_to_string(Path::new(&status)).unwrap_or_default();
        let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|l| l.trim().strip_suffix(" kB")?.parse::<f64>().ok());
        peak = kilobytes.map(|k| k * 1024.0 / 1e6).or(peak);
        std::thread::sleep(std::time::Duration::from_micros(500));
    }
    peak
}

fn memory() {
    let file = File::get();
    let size = file.bytes as f64 / 1e6;
    for recover in ["none", "bias"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_onnx-prune"));
        command
            .arg(file.path())
            .args(["--ratio", "0.4", "--no-verify", "-q", "--recover", recover, "-o"])
            .arg(file.out());
        match peak(command) {
            Some(mb) => {
                println!("peak memory, --recover {recover}: {mb:.0} MB = {:.2} x the file of {size:.0} MB", mb / size)
            }
            None => println!("peak memory: not known on this system"),
        }
    }
}

fn main() {
    // Not when only listing, and not for a filter on one stage.
    if std::env::args().skip(1).all(|a| a == "--bench") {
        memory();
    }
    divan::main();
}
