//! The pipeline: bytes → Model → canon → Graph → trace → Groups → Scores → Plan → rewrite → recover → verify → Report.

mod calibrated;
mod decide;
mod figures;
pub mod fold_weights;
mod grouped;
pub mod kept;
pub mod latency;
mod layer_table;
pub mod search;

pub(crate) use calibrated::{first, ranked};
pub use figures::count_params;
pub use grouped::Grouped;

use crate::calibrate::activations::Statistics;
use crate::calibrate::{Calibration, sites};
use crate::canon::{self, Analysis};
use crate::channels::{Channels, Trace, trace};
use crate::error::{Error, Result};
use crate::flat::flatten;
use crate::graph::{Graph, NodeId, ValueId};
use crate::onnx::{Model, tensor};
use crate::ops::Policy;
use crate::plan::{self, Budget, PlanFile, RoundTo, Scope};
use crate::recover::{self, Recover};
use crate::report::{PruneReport, RecoverReport, VerifyReport};
use crate::rewrite;
use crate::score::{Aggregate, Criteria, CriterionSpec, Normalize, Scores};
use crate::verify;
use regex::Regex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

/// Everything that a pruning run can be told.
#[derive(Clone, Debug)]
pub struct Options {
    /// How much goes.
    pub budget: Budget,
    /// How channels are ranked; `None` takes the default.
    pub criterion: Option<CriterionSpec>,
    /// The criteria that names in [`criterion`](Self::criterion) stand for.
    pub criteria: Criteria,
    /// How the coupled layers of a group add up.
    pub aggregate: Aggregate,
    /// How groups are made comparable.
    pub normalize: Normalize,
    /// One ranking over all groups, or each group by itself.
    pub scope: Scope,
    /// No group keeps fewer channels.
    pub min_channels: usize,
    /// No group loses a larger share.
    pub max_layer_ratio: f64,
    /// Multiple that kept counts are rounded to.
    pub round_to: RoundTo,
    /// By name of a group that lost channels before: how many it had. Rounding goes by that.
    pub whole: BTreeMap<String, usize>,
    /// Groups with a node or tensor name that matches one of these stay whole.
    pub exclude: Vec<Regex>,
    /// When not empty: only groups that match one of these are pruned.
    pub only: Vec<Regex>,
    /// Fixed ratios for matching groups.
    pub layer_ratio: Vec<(Regex, f64)>,
    /// Rounds: each removes a part of the budget and scores what is left anew (a threshold takes one round).
    pub steps: usize,
    /// What is done for accuracy without data.
    pub recover: Recover,
    /// Whether the result is compared with its masked twin.
    pub verify: bool,
    /// Seed of everything random.
    pub seed: u64,
    /// What the trace may do beyond the default ([`Policy::whole_groups`] follows from [`grouped`](Self::grouped)).
    pub policy: Policy,
    /// What grouped convolutions lose.
    pub grouped: Grouped,
    /// Applies this plan instead of deciding.
    pub plan: Option<PlanFile>,
    /// Stop after the decision.
    pub dry_run: bool,
    /// Put the model's SHA-256 into the plan. Reading and hashing a large file takes longer than pruning it, so a caller
    /// that does not keep the plan leaves it out.
    pub hash: bool,
    /// Calibration data. It decides what goes unless a criterion is named, and is what [`Recover::Reconstruct`] works with.
    pub calibration: Option<Arc<Calibration>>,
    /// What channels carry on data, taken before, for the criteria that look at it; [`calibration`](Self::calibration) is not asked then.
    pub statistics: Option<Arc<Statistics>>,
    /// The power that error curves are bent by; without it trials choose one. See [`Pruned::bend`].
    pub bend: Option<f64>,
    /// What [`Budget::TargetLatency`] is measured with; see [`latency::reach`].
    pub latency: Option<Arc<latency::Stopwatch>>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            budget: Budget::Ratio(0.3),
            criterion: None,
            criteria: Criteria::default(),
            aggregate: Aggregate::default(),
            normalize: Normalize::default(),
            scope: Scope::default(),
            min_channels: 1,
            max_layer_ratio: 0.9,
            round_to: RoundTo::default(),
            whole: BTreeMap::new(),
            exclude: Vec::new(),
            only: Vec::new(),
            layer_ratio: Vec::new(),
            steps: 3,
            recover: Recover::default(),
            verify: true,
            seed: 0,
            policy: Policy::default(),
            grouped: Grouped::default(),
            plan: None,
            dry_run: false,
            hash: true,
            calibration: None,
            statistics: None,
            bend: None,
            latency: None,
        }
    }
}

/// The criterion for groups with a batch normalization when none is asked for, and for groups without.
pub const DEFAULT_CRITERION: &str = "output-error";
/// The criterion for groups to which the asked one does not apply.
pub const FALLBACK_CRITERION: &str = "l2";

/// What a run produced.
pub struct Pruned {
    /// The pruned model; `None` on a dry run.
    pub model: Option<Model>,
    /// The decision.
    pub plan: PlanFile,
    /// Everything else.
    pub report: PruneReport,
    /// The power that error curves were bent by, where there were any: errors of several groups do not simply add up.
    pub bend: Option<f64>,
}

/// A model with its graph analysed and traced.
pub struct Traced<'m> {
    /// Shapes and folded values.
    pub analysis: Analysis<'m>,
    /// Channels.
    pub trace: Trace,
}

/// Oldest and newest supported version of the default operator set.
pub const OPSETS: (i64, i64) = (7, 28);

/// Analyses a graph under the default policy.
///
/// # Errors
/// As [`analyse_with`].
pub fn analyse<'m>(graph: &'m Graph<'m>) -> Result<Traced<'m>> {
    analyse_with(graph, &Policy::default())
}

/// Analyses a graph.
///
/// # Errors
/// When the graph is too large, or its operator set is not supported.
pub fn analyse_with<'m>(graph: &'m Graph<'m>, policy: &Policy) -> Result<Traced<'m>> {
    let (opset, path) = (graph.model.opset(), graph.model.path.display());
    // A model without standard operators imports none of them: everything in it pins.
    if opset != 0 && opset < OPSETS.0 {
        return Err(Error::Usage(format!(
            "{path}: operator set {opset} is older than {}, the oldest supported (older ones broadcast differently); convert \
             the model with onnx.version_converter",
            OPSETS.0
        )));
    }
    if opset > OPSETS.1 {
        return Err(Error::Usage(format!(
            "{path}: operator set {opset} is newer than {}, the newest known; its operators may mean something else. Update \
             onnx-prune, or export with an older operator set",
            OPSETS.1
        )));
    }
    let analysis = canon::analyse_with(graph, policy.clone());
    let trace = trace(&analysis)?;
    let ch = &trace.channels;
    let channels: usize = ch.groups.iter().map(|g| g.channels.len()).sum();
    tracing::debug!(nodes = graph.nodes.len(), groups = ch.groups.len(), channels, pins = ch.pins.len(), "traced");
    for pin in &ch.pins {
        tracing::trace!(tensor = pin.tensor, axis = pin.axis, node = pin.node, reason = pin.reason, "pinned");
    }
    Ok(Traced { analysis, trace })
}

/// Milliseconds per stage.
#[derive(Default)]
struct Clock(BTreeMap<String, f64>);

impl Clock {
    fn time<T>(&mut self, stage: &str, f: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let out = tracing::info_span!("stage", name = stage).in_scope(f);
        *self.0.entry(stage.to_owned()).or_default() += start.elapsed().as_secs_f64() * 1e3;
        out
    }
}

/// Prunes a model. `progress` is told the name of each stage as it begins.
///
/// # Errors
/// See [`Error`]; nothing is written by this function.
pub fn prune(model: &Model, options: &Options, progress: &dyn Fn(&str)) -> Result<Pruned> {
    calibrated::check_statistics(options)?;
    let mut clock = Clock::default();
    progress("trace");
    let fold = options.plan.as_ref().map_or(options.policy.fold_weights, |p| p.policy.fold_weights);
    let flat = clock.time("graph", || flatten(model))?;
    let folded = if fold {
        let graph = clock.time("graph", || Graph::new(&flat))?;
        clock.time("fold weights", || fold_weights::fold_weights(&analyse(&graph)?))?
    } else {
        None
    };
    let source = model;
    let model: &Model = folded.as_ref().unwrap_or(&flat);
    let graph = clock.time("graph", || Graph::new(model))?;
    let mut bend = None;
    let (t, decision, scores, notes) = match &options.plan {
        Some(file) => {
            if file.model_sha256 != source.sha256() {
                return Err(Error::Plan(format!(
                    "it was made for a model with SHA-256 {}, {} has {}; make a new plan with --save-plan",
                    file.model_sha256,
                    model.path.display(),
                    source.sha256()
                )));
            }
            let t = clock.time("trace", || analyse_with(&graph, &file.policy))?;
            check_weights(&graph, &t.trace.channels)?;
            let decision = decide::from_plan(&t.trace.channels, file)?;
            (t, decision, None, Vec::new())
        }
        None => {
            let mut d = grouped::decide_best(&graph, options, &mut clock, progress)?;
            if let Some(how) = calibrated::applies(options) {
                let power;
                (d.decision, d.scores, power) =
                    calibrated::decide(&d.traced, options, how, &mut clock, progress, &mut d.notes)?;
                bend = Some(power);
            }
            (d.traced, d.decision, d.scores, d.notes)
        }
    };
    let removed = plan::removed_indices(&t.trace.channels, &decision.removed);
    let sha = if options.hash { source.sha256() } else { String::new() };
    model.release_pages();
    let mut file = plan::to_file(
        &t.trace.channels,
        &decision.removed,
        &sha,
        options.recover.name(),
        &options.plan.as_ref().map_or_else(|| options.budget.to_string(), |p| p.budget.clone()),
    );
    file.policy = t.analysis.policy.clone();
    let mut report = figures::new_report(source, &t, options, &decision, scores.as_ref(), notes);
    let computed = fold_weights::count(&t);
    if computed > 0 {
        report.notes.push(format!(
            "{computed} weights are computed by the model from its constants (weight standardisation, say), which holds their \
             channels back. --fold-weights computes them once, so that these layers can be pruned too"
        ));
    }
    if options.dry_run {
        report.timings_ms = clock.0;
        return Ok(Pruned { model: None, plan: file, report, bend });
    }
    progress("rewrite");
    let out = if recover::rescale::used(&t, &removed).next().is_some() {
        report.approximated = approximated(&t, &removed);
        // Scaled first, all channels still there: the repair and the cut both start from it.
        let scaled = clock.time("recover", || recover::rescale::rescale(&t, &removed))?;
        let graph = Graph::new(&scaled)?;
        let scaled = analyse_with(&graph, &t.analysis.policy)?;
        if sizes(&scaled.trace.channels) != sizes(&t.trace.channels) {
            return Err(Error::Internal("the rescaled model has other channel groups than the original".into()));
        }
        cut(&scaled, &decision.removed, options, false, &mut clock, progress)
    } else {
        cut(&t, &decision.removed, options, true, &mut clock, progress)
    };
    let (mut pruned, recovered, verified) = out?;
    verify::check_interface(source, &pruned)?;
    pruned.path.clone_from(&model.path);
    report.recover = RecoverReport { mode: options.recover.name().into(), ..recovered };
    report.verify = verified;
    report.pruned.params = count_params(&pruned);
    report.timings_ms = clock.0;
    Ok(Pruned { model: Some(pruned), plan: file, report, bend })
}

/// The statistics that lose channels, by node name.
fn approximated(t: &Traced, removed: &[Vec<usize>]) -> Vec<String> {
    let mut names: Vec<String> = recover::rescale::used(t, removed).map(|a| t.analysis.graph.label(a.node)).collect();
    names.dedup();
    names
}

/// Repairs, cuts and compares. `exact`: the result must equal the masked original.
fn cut(
    t: &Traced,
    gone: &[Vec<usize>],
    options: &Options,
    exact: bool,
    clock: &mut Clock,
    progress: &dyn Fn(&str),
) -> Result<(Model, RecoverReport, VerifyReport)> {
    if options.recover == Recover::None {
        let removed = plan::removed_indices(&t.trace.channels, gone);
        let pruned = clock.time("rewrite", || rewrite::rewrite(&t.analysis, &t.trace, &removed))?;
        let v = check(t, &removed, &pruned, options, exact, clock, progress)?;
        return Ok((pruned, RecoverReport::default(), v));
    }
    let (repaired, done) = clock.time("recover", || repair(t, gone, options, progress))?;
    t.analysis.graph.model.release_pages();
    let graph = Graph::new(&repaired)?;
    let t2 = analyse_with(&graph, &t.analysis.policy)?;
    same_groups(&t.trace.channels, &t2.trace.channels)?;
    let removed = plan::removed_indices(&t2.trace.channels, gone);
    let pruned = clock.time("rewrite", || rewrite::rewrite(&t2.analysis, &t2.trace, &removed))?;
    let v = check(&t2, &removed, &pruned, options, exact, clock, progress)?;
    Ok((pruned, done, v))
}

/// The whole model with what makes up for the channels that go.
fn repair(t: &Traced, gone: &[Vec<usize>], o: &Options, progress: &dyn Fn(&str)) -> Result<(Model, RecoverReport)> {
    if !o.recover.needs_data() {
        return recover::bias::absorb(t, gone, o.recover);
    }
    let cal = o.calibration.as_ref().ok_or_else(|| {
        Error::Usage(format!(
            "--recover {} needs calibration data: give --data, or choose another --recover",
            o.recover.name()
        ))
    })?;
    let prepared = sites::prepare(t)?;
    let graph = Graph::new(&prepared)?;
    let ready = analyse_with(&graph, &t.analysis.policy)?;
    same_groups(&t.trace.channels, &ready.trace.channels)?;
    recover::reconstruct::reconstruct(&ready, gone, o.recover, cal, progress)
}

fn check(
    t: &Traced,
    removed: &[Vec<usize>],
    pruned: &Model,
    options: &Options,
    exact: bool,
    clock: &mut Clock,
    progress: &dyn Fn(&str),
) -> Result<VerifyReport> {
    let own: Vec<String> = t.analysis.graph.with_added_rule().map(|n| t.analysis.graph.label(n)).collect();
    if !options.verify {
        return Ok(VerifyReport {
            runtime: "none".into(),
            max_rel_diff: None,
            note: "not asked for (--no-verify)".into(),
        });
    }
    // A rule of the caller's is a claim that only numbers confirm.
    let believed = |report: VerifyReport| match own.first() {
        Some(node) if report.max_rel_diff.is_none() => Err(Error::Usage(format!(
            "{}: {node} is read with a rule that was added, and nothing confirms what the rule says: {}. Define the operator in \
             standard ones (Rules::defined), or turn verification off and compare the models in a runtime that knows it",
            pruned.path.display(),
            report.note
        ))),
        _ => Ok(report),
    };
    // A runtime would be right to do anything with a model that contradicts itself.
    if let Some(why) = t.analysis.contradiction() {
        let note = format!("numbers were not compared: the shapes of {why}; only the structure was checked");
        return believed(VerifyReport { runtime: "none".into(), max_rel_diff: None, note });
    }
    progress("verify");
    clock.time("verify", || {
        let twin = rewrite::mask(&t.analysis, &t.trace, removed)?;
        verify::compare(&twin, pruned, options.seed, exact).and_then(believed)
    })
}

/// What a run with these options would rank channels by, and the numbers of bundles that each unit may lose.
pub(crate) fn ranking_and_levels(t: &Traced, o: &Options) -> Result<(Scores, Vec<Vec<usize>>)> {
    let ch = &t.trace.channels;
    check_weights(t.analysis.graph, ch)?;
    let mut clock = Clock::default();
    let seen = calibrated::activations(t, o, &mut clock, &|_| ())?;
    let scores = decide::fresh_scores(t.analysis.graph, ch, o, seen.as_ref())?;
    let levels = plan::levels(ch, &scores.values, &decide::limits(t.analysis.graph, ch, o)?)?;
    Ok((scores, levels))
}

/// Channels per group.
fn sizes(ch: &Channels) -> Vec<usize> {
    ch.groups.iter().map(|g| g.channels.len()).collect()
}

/// The repair adds biases; it must not change what is a channel.
pub(crate) fn same_groups(a: &Channels, b: &Channels) -> Result<()> {
    let shape = |c: &Channels| c.groups.iter().map(|g| (g.name.clone(), g.channels.len())).collect::<Vec<_>>();
    if shape(a) != shape(b) {
        return Err(Error::Internal("the repaired model has other channel groups than the original".into()));
    }
    Ok(())
}

/// Every tensor holds what its shape says, and no layer weight is NaN or infinite: every score and every comparison would
/// be meaningless.
fn check_weights(graph: &Graph, ch: &Channels) -> Result<()> {
    let weight_slot = |n: NodeId, slot: usize| graph.rule(n).is_some_and(|r| r.weight_slots().contains(&slot));
    let mut weights: BTreeSet<ValueId> = BTreeSet::new();
    for t in &ch.tensors {
        weights.extend(t.source.filter(|_| t.readers.iter().any(|&(n, slot)| weight_slot(n, slot))));
    }
    for g in &ch.groups {
        weights.extend(g.sites.iter().filter_map(|s| ch.tensor_of(s.axis).source));
    }
    for t in &graph.proto.initializer {
        if tensor::elem_size(t.data_type()).is_some() {
            tensor::raw_le(t)?;
        }
    }
    for v in weights {
        if let Some(t) = graph.constant(v) {
            tensor::check_finite(t)?;
        }
        graph.model.release_pages();
    }
    Ok(())
}
