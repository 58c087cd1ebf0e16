//! Pruning in rounds, each followed by training: score, cut, repair, train, with the original as the teacher throughout.
//!
//! Each round keeps the same share of what the one before left, so that `K` rounds come to the budget: for a share `F` of the
//! multiply-accumulates or parameters, round `i` aims at `F^(i/K)` of the original's; for a ratio `R` of the channels,
//! `1 − R` takes the place of `F`.

use super::run::{Event, Options as TrainOptions, train};
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::onnx::Model;
use crate::plan::Budget;
use crate::prune::kept::{Kept, kept, then};
use crate::prune::{Options, Pruned, prune};
use crate::report::GroupReport;
use crate::runtime::Runtime;
use schemars::JsonSchema;
use serde::Serialize;

/// One round.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Round {
    /// Counted from 1.
    pub round: usize,
    /// The budget that it aimed at, of the original.
    pub aim: f64,
    /// Multiply-accumulates for one sample after it.
    pub macs: u64,
    /// Parameters after it.
    pub params: u64,
    /// Epochs trained.
    pub epochs: usize,
    /// Loss on held-back samples after the cut and the repair, before training.
    pub loss_before: Option<f64>,
    /// The same after training.
    pub loss_after: Option<f64>,
    /// Score on held-back samples (a share), before training.
    pub score_before: Option<f64>,
    /// The same after training.
    pub score_after: Option<f64>,
    /// What the score is: `top1` with labels, else `agreement` with the original.
    pub metric: Option<String>,
    /// Seconds of training.
    pub seconds: f64,
}

/// What training in rounds works with.
pub struct Means<'a> {
    /// Samples to train on.
    pub data: &'a Dataset,
    /// Runs the training graphs.
    pub runtime: &'a dyn Runtime,
    /// How each round trains.
    pub train: &'a TrainOptions,
    /// Rounds.
    pub rounds: usize,
}

/// Prunes and trains. The report of the result is about the original: its figures, its groups.
///
/// # Errors
/// As [`prune`] and [`train`]; [`Error::Usage`] for a budget that does not divide into rounds;
/// [`Error::Check`] when training diverges.
pub fn prune_and_train(
    model: &Model,
    options: &Options,
    means: &Means,
    progress: &dyn Fn(&str),
    watch: &mut dyn FnMut(&Event),
) -> Result<Pruned> {
    let (of, whole): (fn(f64) -> Budget, f64) = match options.budget {
        Budget::Ratio(r) => (|kept| Budget::Ratio(1.0 - kept), 1.0 - r),
        Budget::TargetMacs(f) => (Budget::TargetMacs, f),
        Budget::TargetParams(f) => (Budget::TargetParams, f),
        Budget::Threshold(_) | Budget::TargetLatency(_) => {
            return Err(Error::Usage(format!(
                "--finetune divides the budget into rounds, which {} does not; give --ratio, --target-macs or --target-params",
                options.budget
            )));
        }
    };
    if options.plan.is_some() || options.dry_run {
        return Err(Error::Usage(
            "--finetune decides anew in each round, so it takes no stored plan and no dry run".into(),
        ));
    }
    let mut now: Option<Model> = None;
    let mut first: Option<Pruned> = None;
    let mut rounds = Vec::new();
    let mut left_of = Kept::new();
    let mut last_groups: Vec<GroupReport> = Vec::new();
    for i in 1..=means.rounds {
        let aim = libm::pow(whole, i as f64 / means.rounds as f64);
        let from = now.as_ref().unwrap_or(model);
        // What earlier rounds took beyond their aim, by rounding, counts.
        let left = match (&options.budget, rounds.last(), &first) {
            (Budget::TargetMacs(_), Some(Round { macs, .. }), Some(f)) => share(*macs, f.report.original.macs),
            (Budget::TargetParams(_), Some(Round { params, .. }), Some(f)) => share(*params, f.report.original.params),
            (Budget::Ratio(_), Some(_), Some(f)) => channels_left(&f.report.groups, &last_groups),
            _ => 1.0,
        };
        let budget = of((aim / left).min(1.0));
        let before = first.as_ref().map(|f| f.report.groups.as_slice()).unwrap_or_default();
        let whole = before.iter().map(|g| (g.id.clone(), g.channels_before)).collect();
        let round = Options { budget, whole, ..options.clone() };
        let told = |stage: &str| progress(&format!("round {i} of {}: {stage}", means.rounds));
        let mut pruned = prune(from, &round, &told)?;
        let cut = pruned.model.take().ok_or_else(|| Error::Internal("pruning gave no model".into()))?;
        if means.train.matched.is_some() {
            left_of = then(&left_of, &kept(from, &pruned.plan)?)?;
        }
        let with = TrainOptions { kept: left_of.clone(), ..means.train.clone() };
        told("training");
        let trained = train(&cut, Some(model), means.data, means.runtime, &with, watch)?;
        if let Some(why) = trained.diverged() {
            return Err(Error::Check(format!(
                "round {i}: the training diverged at {why}; no model was written; try a lower --lr, --warmup or --clip"
            )));
        }
        let h = &trained.history;
        // Where nothing got better, it is what it was.
        let after = h.kept().map_or(h.before.as_ref(), |e| e.held.as_ref());
        rounds.push(Round {
            round: i,
            aim: if matches!(options.budget, Budget::Ratio(_)) { 1.0 - aim } else { aim },
            macs: pruned.report.pruned.macs,
            params: pruned.report.pruned.params,
            epochs: h.epochs.len(),
            loss_before: h.before.as_ref().map(|b| b.loss),
            score_before: h.before.as_ref().and_then(|b| b.metric),
            loss_after: after.map(|a| a.loss),
            score_after: after.and_then(|a| a.metric),
            metric: h.metric().map(str::to_owned),
            seconds: h.seconds,
        });
        last_groups.clone_from(&pruned.report.groups);
        now = Some(trained.model);
        match &mut first {
            None => first = Some(pruned),
            Some(all) => join(all, pruned),
        }
    }
    let mut all = first.ok_or_else(|| Error::Usage("--steps: expected at least one round".into()))?;
    let report = &mut all.report;
    report.budget = options.budget.to_string();
    report.ratio_requested = match options.budget {
        Budget::Ratio(x) | Budget::TargetMacs(x) | Budget::TargetParams(x) => x,
        Budget::Threshold(x) | Budget::TargetLatency(x) => x,
    };
    report.ratio_reached = match options.budget {
        Budget::TargetMacs(_) => share(report.pruned.macs, report.original.macs),
        Budget::TargetParams(_) => share(report.pruned.params, report.original.params),
        _ => report.channels_removed as f64 / report.channels_prunable.max(1) as f64,
    };
    report.rounds = rounds;
    all.model = now;
    Ok(all)
}

fn share(part: u64, of: u64) -> f64 {
    part as f64 / of.max(1) as f64
}

/// The share of the first report's channels that is left.
fn channels_left(first: &[GroupReport], last: &[GroupReport]) -> f64 {
    let before: usize = first.iter().map(|g| g.channels_before).sum();
    let after: usize = last.iter().map(|g| g.channels_after).sum();
    after as f64 / before.max(1) as f64
}

/// A later round's report in the first one's place: the original stays what it was.
fn join(all: &mut Pruned, later: Pruned) {
    let (old, new) = (&mut all.report, later.report);
    for g in &mut old.groups {
        // A group that a later round no longer knows has lost what could go.
        if let Some(n) = new.groups.iter().find(|n| n.id == g.id) {
            g.channels_after = n.channels_after;
            g.reason.clone_from(&n.reason);
        }
    }
    old.channels_removed = old.groups.iter().map(|g| g.channels_before.saturating_sub(g.channels_after)).sum();
    old.pruned = new.pruned;
    old.missed = new.missed;
    old.verify = new.verify;
    old.recover = new.recover;
    // Scores of different rounds are not of the same weights.
    old.scores = None;
    for note in new.notes {
        if !old.notes.contains(&note) {
            old.notes.push(note);
        }
    }
    for (stage, ms) in new.timings_ms {
        *old.timings_ms.entry(stage).or_default() += ms;
    }
}
