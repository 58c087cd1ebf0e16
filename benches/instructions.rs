//! The stages of a run, each once, for `ci/instructions`, which has callgrind count the instructions of each.
//!
//! ```text
//! instructions stages           # the names of the stages, in order
//! instructions nets FOLDER      # writes the networks that are made here and prints their paths
//! instructions run MODEL OUT    # every stage on one model; what is left of it is written to OUT
//! ```
//!
//! A stage is a function whose name callgrind is told: whatever else happens in the process is not counted. So it must not be inlined,
//! and what it frees at its end, it frees outside.

mod nets;

use onnx_prune::channels::Channels;
use onnx_prune::channels::weights::Weights;
use onnx_prune::graph::Graph;
use onnx_prune::onnx::{self, Model, SaveOptions};
use onnx_prune::plan::{self, Budget, Decision, Limits};
use onnx_prune::prune::{DEFAULT_CRITERION, FALLBACK_CRITERION, Traced, analyse};
use onnx_prune::rewrite;
use onnx_prune::score::{self, Aggregate, Criteria, Normalize, ScoreContext, Scores};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The functions below, without `stage_`.
const STAGES: [&str; 7] = ["parse", "trace", "score", "decide", "allocate", "rewrite", "save"];
const BUDGET: Budget = Budget::TargetMacs(0.5);

#[inline(never)]
fn stage_parse(path: &Path) -> Result<Model> {
    Ok(onnx::load(path)?)
}

#[inline(never)]
fn stage_trace<'m>(model: &'m Model, graph: &'m mut Option<Graph<'m>>) -> Result<Traced<'m>> {
    Ok(analyse(graph.insert(Graph::new(model)?))?)
}

#[inline(never)]
fn stage_score(graph: &Graph, t: &Traced) -> Result<Scores> {
    let weights = Weights { graph, channels: &t.trace.channels, removed: &[] };
    let cx = ScoreContext {
        channels: &t.trace.channels,
        params: &weights,
        seed: 0,
        activations: None,
        criteria: &Criteria::STANDARD,
    };
    let (spec, fallback) = (DEFAULT_CRITERION.parse()?, FALLBACK_CRITERION.parse()?);
    Ok(score::score_all(&cx, &spec, &fallback, Aggregate::default(), Normalize::default())?)
}

/// By scores: what a run without data does.
#[inline(never)]
fn stage_decide(ch: &Channels, scores: &Scores) -> Result<Decision> {
    Ok(plan::decide(ch, &scores.values, &BUDGET, None, &Limits::default())?)
}

/// By error curves: what a run with data does.
#[inline(never)]
fn stage_allocate(ch: &Channels, scores: &Scores, curves: &[Vec<f64>]) -> Result<Decision> {
    Ok(plan::allocate(ch, &scores.values, curves, &BUDGET, None, &Limits::default())?)
}

#[inline(never)]
fn stage_rewrite(t: &Traced, decision: &Decision) -> Result<Model> {
    let removed = plan::removed_indices(&t.trace.channels, &decision.removed);
    Ok(rewrite::rewrite(&t.analysis, &t.trace, &removed)?)
}

#[inline(never)]
fn stage_save(model: &Model, out: &Path) -> Result<u64> {
    Ok(onnx::save(model, out, &SaveOptions::default())?)
}

/// Rising curves, steeper from unit to unit in no order, in place of those that calibration would measure.
fn curves(ch: &Channels) -> Vec<Vec<f64>> {
    let steep = |u: usize| 1.0 + (u * 7 % 13) as f64;
    let curve = |(u, unit): (usize, &onnx_prune::channels::Unit)| {
        let bundles = unit.cells.first().map_or(0, Vec::len);
        (0..=bundles).map(|k| steep(u) * (k as f64 / bundles.max(1) as f64).powf(1.5)).collect()
    };
    ch.units.iter().enumerate().map(curve).collect()
}

fn run(path: &Path, out: &Path) -> Result<()> {
    // All in this thread: callgrind counts by thread, and a second one would make the counts depend on who comes first.
    rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build_global()?;
    let model = stage_parse(path)?;
    let mut graph = None;
    let t = stage_trace(&model, &mut graph)?;
    let ch = &t.trace.channels;
    let scores = stage_score(t.analysis.graph, &t)?;
    let decision = stage_decide(ch, &scores)?;
    let curves = curves(ch);
    let allocated = stage_allocate(ch, &scores, &curves)?;
    // Otherwise there would be little to count.
    if decision.reached.channels_removed == 0 || allocated.reached.channels_removed == 0 {
        return Err(
            format!("{}: expected a plan that removes channels, found one that removes none", path.display()).into()
        );
    }
    let pruned = stage_rewrite(&t, &decision)?;
    stage_save(&pruned, out)?;
    Ok(())
}

fn write(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    let nets =
        [("resnet50-half", Model::from_proto(nets::resnet50(32), "net.onnx")), ("chain-2000", nets::chain(2000))];
    for (name, net) in nets {
        let path = folder.join(name).with_extension("onnx");
        onnx::save(&net, &path, &SaveOptions::default())?;
        println!("{}", path.display());
    }
    Ok(())
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        ["stages"] => {
            STAGES.iter().for_each(|s| println!("{s}"));
            Ok(())
        }
        ["nets", folder] => write(Path::new(folder)),
        ["run", model, out] => run(Path::new(model), &PathBuf::from(out)),
        [] => {
            println!("instructions: not run; callgrind counts them: ci/instructions");
            Ok(())
        }
        _ => Err("expected stages, nets FOLDER, or run MODEL OUT".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}
