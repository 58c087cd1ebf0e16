//! One line a model: can it be pruned, how far, and is the result sound?
//!
//! A summary does not only look: it prunes each model in memory to a target, without repair, and holds the result
//! against the masked twin. Nothing is written.

use super::{INSPECT_SCHEMA_VERSION, prunable_macs};
use crate::error::{Error, Result};
use crate::flat::flatten;
use crate::graph::Graph;
use crate::onnx;
use crate::plan::Budget;
use crate::prune::{Options, analyse, prune};
use crate::recover::Recover;
use crate::report::pins::{PinSummary, summarise};
use schemars::JsonSchema;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Reasons listed per model that misses its target.
const REASONS: usize = 4;

/// All models.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Summary {
    /// Version of this form, [`INSPECT_SCHEMA_VERSION`].
    #[schemars(extend("const" = INSPECT_SCHEMA_VERSION))]
    pub schema_version: u32,
    /// Name and version of the tool.
    pub tool: String,
    /// The share of the MACs that should stay.
    pub target_macs: f64,
    /// In the order asked for.
    pub models: Vec<ModelSummary>,
}

/// One model.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct ModelSummary {
    /// The file.
    pub path: String,
    /// Nodes of the main graph.
    pub nodes: usize,
    /// Multiply-accumulates, for one sample.
    pub macs: u64,
    /// Share of the MACs in layers that a removal can make cheaper.
    pub prunable_macs: f64,
    /// Share of the MACs that stayed when the target was asked for; absent when pruning failed.
    pub reached: Option<f64>,
    /// Set when the target was missed: by how much, and what limits it.
    pub missed: Option<String>,
    /// `max|a−b| / max(1, max|b|)` between the pruned model and the masked original; absent when not compared.
    pub twin_difference: Option<f64>,
    /// Why numbers were not compared, or how.
    pub note: String,
    /// Milliseconds from the file to the plan: reading, tracing, scoring, deciding.
    pub analysis_ms: f64,
    /// Milliseconds in all, rewriting and comparing included.
    pub total_ms: f64,
    /// Why the model could not be read or pruned.
    pub error: Option<String>,
    /// Whether that is the model's fault (`true`) or a failed check of the result (`false`).
    pub bad_input: bool,
    /// What holds channels back, most layers first; only where the target was missed.
    pub pinned_by: Vec<PinSummary>,
}

/// The `.onnx` files that a list of files and folders names: files as given, folders in order of name.
///
/// # Errors
/// When a folder cannot be read or holds no `.onnx` file.
pub fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for path in paths {
        if !path.is_dir() {
            all.push(path.clone());
            continue;
        }
        let fail = |e: std::io::Error| Error::Usage(format!("folder {} cannot be read: {e}", path.display()));
        let mut found = Vec::new();
        for entry in std::fs::read_dir(path).map_err(fail)? {
            let file = entry.map_err(fail)?.path();
            if file.extension().is_some_and(|e| e.eq_ignore_ascii_case("onnx")) && file.is_file() {
                found.push(file);
            }
        }
        if found.is_empty() {
            return Err(Error::Usage(format!("folder {} holds no .onnx file", path.display())));
        }
        found.sort();
        all.append(&mut found);
    }
    Ok(all)
}

/// Summarises models one after the other. `progress` is told each path as it begins.
///
/// A model that fails is a line of the result, never an error of the summary.
pub fn summarise_all(paths: &[PathBuf], options: &Options, progress: &dyn Fn(&str)) -> Summary {
    let target = if let Budget::TargetMacs(t) = options.budget { t } else { f64::NAN };
    let models = paths.iter().map(|path| {
        progress(&path.display().to_string());
        let start = Instant::now();
        let mut row = ModelSummary { path: path.display().to_string(), ..ModelSummary::default() };
        if let Err(e) = fill(&mut row, path, options, start) {
            row.bad_input = !matches!(e, Error::Internal(_) | Error::Verify { .. });
            row.error = Some(e.to_string());
        }
        row.total_ms = start.elapsed().as_secs_f64() * 1e3;
        row
    });
    Summary {
        schema_version: INSPECT_SCHEMA_VERSION,
        tool: concat!("onnx-prune ", env!("CARGO_PKG_VERSION")).into(),
        target_macs: target,
        models: models.collect(),
    }
}

fn fill(row: &mut ModelSummary, path: &Path, options: &Options, start: Instant) -> Result<()> {
    let model = onnx::load(path)?;
    let read = start.elapsed().as_secs_f64() * 1e3;
    {
        let flat = flatten(&model)?;
        let graph = Graph::new(&flat)?;
        row.nodes = graph.nodes.len();
        row.prunable_macs = prunable_macs(&analyse(&graph)?.trace.channels);
    }
    let done = prune(&model, options, &|_| {})?;
    let r = &done.report;
    row.macs = r.original.macs;
    row.reached = (r.original.macs > 0).then(|| r.pruned.macs as f64 / r.original.macs as f64);
    row.missed.clone_from(&r.missed);
    row.twin_difference = r.verify.max_rel_diff;
    row.note.clone_from(&r.verify.note);
    let stages = ["graph", "trace", "score", "plan"];
    row.analysis_ms = read + stages.iter().filter_map(|s| r.timings_ms.get(*s)).sum::<f64>();
    if r.missed.is_some() {
        row.pinned_by = summarise(&r.pins);
        row.pinned_by.truncate(REASONS);
    }
    Ok(())
}

/// Options of a summary: a share of the MACs stays, nothing is repaired, the result is compared.
pub fn options(target_macs: f64) -> Options {
    Options { budget: Budget::TargetMacs(target_macs), recover: Recover::None, hash: false, ..Options::default() }
}

/// Whether all models passed.
///
/// # Errors
/// [`Error::Check`] when the result of one failed its checks, [`Error::Usage`] when one could not be read.
pub fn verdict(s: &Summary) -> Result<()> {
    let first = |bad: bool| s.models.iter().find(|m| m.error.is_some() && m.bad_input == bad);
    let text = |m: &ModelSummary| format!("{}: {}", m.path, m.error.clone().unwrap_or_default());
    match (first(false), first(true)) {
        (Some(m), _) => Err(Error::Check(text(m))),
        (None, Some(m)) => Err(Error::Usage(text(m))),
        (None, None) => Ok(()),
    }
}
