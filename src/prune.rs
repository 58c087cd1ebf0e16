//! The pipeline: bytes → Model → canon → Graph → trace → Groups → Scores → Plan → rewrite → recover → verify → Report.

use crate::canon::{self, Analysis};
use crate::channels::{Channels, Trace, trace, weights::Weights};
use crate::error::{Error, Result};
use crate::graph::{Graph, NodeId, ValueId};
use crate::onnx::{Model, tensor};
use crate::ops;
use crate::plan::{self, Budget, Decision, Limits, PlanFile, Reached, RoundTo, Scope};
use crate::recover::{self, Recover};
use crate::report::{GroupReport, ModelFigures, PruneReport, RecoverReport, SCHEMA_VERSION, VerifyReport};
use crate::rewrite;
use crate::score::{self, Aggregate, CriterionSpec, Normalize, ScoreContext, Scores};
use crate::verify;
use regex::Regex;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// Everything that a pruning run can be told.
#[derive(Clone, Debug)]
pub struct Options {
    /// How much goes.
    pub budget: Budget,
    /// How channels are ranked; `None` takes the default.
    pub criterion: Option<CriterionSpec>,
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
    /// Applies this plan instead of deciding.
    pub plan: Option<PlanFile>,
    /// Stop after the decision.
    pub dry_run: bool,
    /// Put the model's SHA-256 into the plan. Reading and hashing a large file takes longer than pruning it, so a caller
    /// that does not keep the plan leaves it out.
    pub hash: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            budget: Budget::Ratio(0.3),
            criterion: None,
            aggregate: Aggregate::default(),
            normalize: Normalize::default(),
            scope: Scope::default(),
            min_channels: 1,
            max_layer_ratio: 0.9,
            round_to: RoundTo::Auto,
            exclude: Vec::new(),
            only: Vec::new(),
            layer_ratio: Vec::new(),
            steps: 3,
            recover: Recover::default(),
            verify: true,
            seed: 0,
            plan: None,
            dry_run: false,
            hash: true,
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

/// Analyses a graph.
///
/// # Errors
/// When the graph is too large, or its operator set is not supported.
pub fn analyse<'m>(graph: &'m Graph<'m>) -> Result<Traced<'m>> {
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
    let analysis = canon::analyse(graph);
    let trace = trace(&analysis)?;
    Ok(Traced { analysis, trace })
}

/// Milliseconds per stage.
#[derive(Default)]
struct Clock(BTreeMap<String, f64>);

impl Clock {
    fn time<T>(&mut self, stage: &str, f: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let out = f();
        *self.0.entry(stage.to_owned()).or_default() += start.elapsed().as_secs_f64() * 1e3;
        out
    }
}

/// Prunes a model. `progress` is told the name of each stage as it begins.
///
/// # Errors
/// See [`Error`]; nothing is written by this function.
pub fn prune(model: &Model, options: &Options, progress: &dyn Fn(&str)) -> Result<Pruned> {
    let mut clock = Clock::default();
    progress("trace");
    let graph = clock.time("graph", || Graph::new(model))?;
    let t = clock.time("trace", || analyse(&graph))?;
    check_weights(&graph, &t.trace.channels)?;
    let mut notes = Vec::new();
    progress("score");
    let (decision, scores) = match &options.plan {
        Some(file) => {
            if file.model_sha256 != model.sha256() {
                return Err(Error::Plan(format!(
                    "it was made for a model with SHA-256 {}, {} has {}; make a new plan with --save-plan",
                    file.model_sha256,
                    model.path.display(),
                    model.sha256()
                )));
            }
            (from_plan(&t.trace.channels, file)?, None)
        }
        None => decide(&graph, &t.trace.channels, options, &mut clock, &mut notes)?,
    };
    let removed = plan::removed_indices(&t.trace.channels, &decision.removed);
    let recover = options.recover;
    let sha = if options.hash { model.sha256() } else { String::new() };
    model.release_pages();
    let file = plan::to_file(
        &t.trace.channels,
        &decision.removed,
        &sha,
        options.recover.name(),
        &options.plan.as_ref().map_or_else(|| options.budget.to_string(), |p| p.budget.clone()),
    );
    let mut report = new_report(model, &t, options, &decision, scores.as_ref(), notes);
    if options.dry_run {
        report.timings_ms = clock.0;
        return Ok(Pruned { model: None, plan: file, report });
    }
    progress("rewrite");
    let out = if recover == Recover::None {
        let pruned = clock.time("rewrite", || rewrite::rewrite(&t.analysis, &t.trace, &removed))?;
        check(&t, &removed, &pruned, options, &mut clock, progress).map(|v| (pruned, RecoverReport::default(), v))
    } else {
        let (repaired, done) = clock.time("recover", || recover::bias::absorb(&t, &decision.removed, recover))?;
        model.release_pages();
        let graph = Graph::new(&repaired)?;
        let t2 = analyse(&graph)?;
        same_groups(&t.trace.channels, &t2.trace.channels)?;
        let removed = plan::removed_indices(&t2.trace.channels, &decision.removed);
        let pruned = clock.time("rewrite", || rewrite::rewrite(&t2.analysis, &t2.trace, &removed))?;
        check(&t2, &removed, &pruned, options, &mut clock, progress).map(|v| (pruned, done, v))
    };
    let (mut pruned, recovered, verified) = out?;
    verify::check_interface(model, &pruned)?;
    pruned.path.clone_from(&model.path);
    report.recover = RecoverReport { mode: options.recover.name().into(), ..recovered };
    report.verify = verified;
    report.pruned.params = count_params(&pruned);
    report.timings_ms = clock.0;
    Ok(Pruned { model: Some(pruned), plan: file, report })
}

fn check(
    t: &Traced,
    removed: &[Vec<usize>],
    pruned: &Model,
    options: &Options,
    clock: &mut Clock,
    progress: &dyn Fn(&str),
) -> Result<VerifyReport> {
    if !options.verify {
        return Ok(VerifyReport {
            runtime: "none".into(),
            max_rel_diff: None,
            note: "not asked for (--no-verify)".into(),
        });
    }
    progress("verify");
    clock.time("verify", || {
        let twin = rewrite::mask(&t.analysis, &t.trace, removed)?;
        verify::compare(&twin, pruned, options.seed)
    })
}

/// The repair adds biases; it must not change what is a channel.
fn same_groups(a: &Channels, b: &Channels) -> Result<()> {
    let shape = |c: &Channels| c.groups.iter().map(|g| (g.name.clone(), g.channels.len())).collect::<Vec<_>>();
    if shape(a) != shape(b) {
        return Err(Error::Internal("the repaired model has other channel groups than the original".into()));
    }
    Ok(())
}

/// Every tensor holds what its shape says, and no layer weight is NaN or infinite: every score and every comparison would
/// be meaningless.
fn check_weights(graph: &Graph, ch: &Channels) -> Result<()> {
    let weight_slot = |n: NodeId, slot: usize| {
        let node = graph.node(n);
        ops::rule(node.domain(), node.op_type()).is_some_and(|r| r.weight_slots().contains(&slot))
    };
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

fn matches(graph: &Graph, ch: &Channels, group: usize, re: &Regex) -> bool {
    let g = &ch.groups[group];
    re.is_match(&g.name)
        || g.layers.iter().any(|&n| re.is_match(&graph.name(n)))
        || g.axes.iter().any(|&(a, _)| re.is_match(&graph.value(ch.tensor_of(a).value).name))
}

fn limits(graph: &Graph, ch: &Channels, o: &Options) -> Result<Limits> {
    let all = 0..ch.groups.len();
    let any = |g: usize, list: &[Regex]| list.iter().any(|r| matches(graph, ch, g, r));
    for r in o.exclude.iter().chain(&o.only).chain(o.layer_ratio.iter().map(|(r, _)| r)) {
        if !all.clone().any(|g| matches(graph, ch, g, r)) {
            return Err(Error::Usage(format!(
                "no prunable channel group has a node or tensor name that matches {:?}; `onnx-prune inspect` lists them",
                r.as_str()
            )));
        }
    }
    let exclude: Vec<usize> =
        all.clone().filter(|&g| any(g, &o.exclude) || (!o.only.is_empty() && !any(g, &o.only))).collect();
    let layer_ratio = all
        .filter(|g| !exclude.contains(g))
        .filter_map(|g| o.layer_ratio.iter().rev().find(|(r, _)| matches(graph, ch, g, r)).map(|(_, x)| (g, *x)))
        .collect();
    Ok(Limits {
        scope: o.scope,
        min_channels: o.min_channels,
        max_layer_ratio: o.max_layer_ratio,
        round_to: o.round_to,
        exclude,
        layer_ratio,
    })
}

/// The budget of round `k` of `n`.
fn partial(budget: Budget, k: usize, n: usize) -> Budget {
    if k == n {
        return budget;
    }
    let part = k as f64 / n as f64;
    match budget {
        Budget::Ratio(r) => Budget::Ratio(r * part),
        Budget::TargetMacs(f) => Budget::TargetMacs(1.0 - (1.0 - f) * part),
        Budget::TargetParams(f) => Budget::TargetParams(1.0 - (1.0 - f) * part),
        Budget::Threshold(t) => Budget::Threshold(t),
    }
}

fn decide(
    graph: &Graph,
    ch: &Channels,
    o: &Options,
    clock: &mut Clock,
    notes: &mut Vec<String>,
) -> Result<(Decision, Option<Scores>)> {
    if o.steps == 0 {
        return Err(Error::Usage("--steps must be at least 1".into()));
    }
    o.budget.check()?;
    let fallback: CriterionSpec = FALLBACK_CRITERION.parse()?;
    let spec = match &o.criterion {
        Some(s) => s.clone(),
        None => DEFAULT_CRITERION.parse()?,
    };
    let limits = limits(graph, ch, o)?;
    let mut gone: Vec<Vec<usize>> = vec![Vec::new(); ch.groups.len()];
    let mut last = None;
    // A threshold is a statement about the scores of the model as it is.
    let steps = if matches!(o.budget, Budget::Threshold(_)) { 1 } else { o.steps };
    for k in 1..=steps {
        let scores = clock.time("score", || rescore(graph, ch, o, &spec, &fallback, &gone))?;
        let decision =
            clock.time("plan", || plan::decide(ch, &scores.values, &partial(o.budget, k, steps), &limits))?;
        gone.clone_from(&decision.removed);
        last = Some((decision, scores));
    }
    let (decision, scores) = last.ok_or_else(|| Error::Usage("--steps must be at least 1".into()))?;
    if o.criterion.is_some() && scores.fallback_groups > 0 {
        notes.push(format!(
            "{} of {} channel groups have no BatchNormalization for `--criterion {spec}` (folded away, or never there); they \
             were ranked by `{FALLBACK_CRITERION}`. Ask for `--criterion {FALLBACK_CRITERION}` to rank all groups alike.",
            scores.fallback_groups,
            ch.groups.len()
        ));
    }
    Ok((decision, Some(scores)))
}

/// Scores with the channels of earlier rounds gone; those come first in every ranking.
fn rescore(
    graph: &Graph,
    ch: &Channels,
    o: &Options,
    spec: &CriterionSpec,
    fallback: &CriterionSpec,
    gone: &[Vec<usize>],
) -> Result<Scores> {
    let removed = plan::removed_indices(ch, gone);
    let weights = Weights { graph, channels: ch, removed: &removed };
    if gone.iter().all(Vec::is_empty) {
        let cx = ScoreContext { channels: ch, params: &weights, seed: o.seed };
        return score::score_all(&cx, spec, fallback, o.aggregate, o.normalize);
    }
    let mut left = ch.clone();
    for (g, gone) in left.groups.iter_mut().zip(gone) {
        let mut k = 0;
        g.channels.retain(|_| {
            k += 1;
            gone.binary_search(&(k - 1)).is_err()
        });
    }
    let cx = ScoreContext { channels: &left, params: &weights, seed: o.seed };
    let mut scores = score::score_all(&cx, spec, fallback, o.aggregate, o.normalize)?;
    for ((values, gone), g) in scores.values.iter_mut().zip(gone).zip(&ch.groups) {
        let mut kept = std::mem::take(values).into_iter();
        *values = (0..g.channels.len())
            .map(|c| if gone.binary_search(&c).is_ok() { -1e300 } else { kept.next().unwrap_or(0.0) })
            .collect();
    }
    Ok(scores)
}

fn from_plan(ch: &Channels, file: &PlanFile) -> Result<Decision> {
    let removed = plan::from_file(ch, file)?;
    let counts: Vec<usize> = removed.iter().map(Vec::len).collect();
    let prunable: usize = ch.groups.iter().map(|g| g.channels.len()).sum();
    let gone: usize = counts.iter().sum();
    Ok(Decision {
        reasons: removed.iter().map(|r| if r.is_empty() { String::new() } else { "from the plan".into() }).collect(),
        reached: Reached {
            channels_removed: gone,
            channels_prunable: prunable,
            macs_before: plan::macs(ch, &[]),
            macs_after: plan::macs(ch, &counts),
            params_before: plan::params(ch, &[]),
            params_after: plan::params(ch, &counts),
            requested: format!("plan ({})", file.budget),
            value: gone as f64 / (prunable.max(1)) as f64,
            missed: None,
        },
        removed,
    })
}

/// Elements of all floating-point constants with at least one axis, as the file holds them.
pub fn count_params(model: &Model) -> u64 {
    let Some(g) = &model.proto.graph else { return 0 };
    let attrs = g.node.iter().flat_map(|n| &n.attribute).filter_map(|a| a.t.as_ref());
    g.initializer
        .iter()
        .chain(attrs)
        .filter(|t| tensor::is_float(t.data_type()) && !t.dims.is_empty())
        .filter_map(|t| tensor::numel(t).ok())
        .map(|n| n as u64)
        .sum()
}

fn requested(budget: &Budget) -> f64 {
    match *budget {
        Budget::Ratio(x) | Budget::Threshold(x) | Budget::TargetMacs(x) | Budget::TargetParams(x) => x,
    }
}

fn new_report(
    model: &Model,
    t: &Traced,
    o: &Options,
    d: &Decision,
    scores: Option<&Scores>,
    notes: Vec<String>,
) -> PruneReport {
    let ch = &t.trace.channels;
    let graph = t.analysis.graph;
    let groups = ch
        .groups
        .iter()
        .enumerate()
        .map(|(i, g)| GroupReport {
            id: g.name.clone(),
            layers: g.layers.iter().map(|&n| graph.name(n)).collect(),
            channels_before: g.channels.len(),
            channels_after: g.channels.len() - d.removed.get(i).map_or(0, Vec::len),
            reason: d.reasons.get(i).cloned().unwrap_or_default(),
            criterion: scores.and_then(|s| s.used.get(i).cloned()).unwrap_or_default(),
        })
        .collect();
    let path = model.path.display().to_string();
    PruneReport {
        schema_version: SCHEMA_VERSION,
        tool: concat!("onnx-prune ", env!("CARGO_PKG_VERSION")).into(),
        original: ModelFigures {
            path,
            opset: model.opset(),
            params: count_params(model),
            macs: d.reached.macs_before.round() as u64,
            bytes: model.bytes_on_disk,
        },
        pruned: ModelFigures {
            path: String::new(),
            opset: model.opset(),
            params: d.reached.params_after.round() as u64,
            macs: d.reached.macs_after.round() as u64,
            bytes: 0,
        },
        budget: d.reached.requested.clone(),
        ratio_requested: if o.plan.is_some() { d.reached.value } else { requested(&o.budget) },
        ratio_reached: d.reached.value,
        missed: d.reached.missed.clone(),
        channels_prunable: d.reached.channels_prunable,
        channels_removed: d.reached.channels_removed,
        criterion: o.criterion.as_ref().map_or_else(
            || format!("{DEFAULT_CRITERION} (default; {FALLBACK_CRITERION} where there is no BatchNormalization)"),
            ToString::to_string,
        ),
        notes,
        groups,
        pins: ch.pins.clone(),
        recover: RecoverReport { mode: o.recover.name().into(), ..RecoverReport::default() },
        verify: VerifyReport { runtime: "none".into(), max_rel_diff: None, note: "dry run".into() },
        timings_ms: BTreeMap::new(),
    }
}
