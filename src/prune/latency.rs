//! Latency as the budget: layers are timed where the model is to run, channels go where they save most time per error, and the
//! result is measured and the aim corrected.

use super::layer_table::table;
use super::{Options, Pruned, Traced, prune};
use crate::error::{Error, Result};
use crate::evaluate::bench::{BenchReport, Comparison, Effort, SAME, SystemClock, Verdict, measure};
use crate::evaluate::bound::measure_bound;
use crate::evaluate::layer_times::{LayerTimer, QUANTILE};
use crate::evaluate::stats;
use crate::onnx::Model;
use crate::plan::{Budget, Times};
use crate::recover::Recover;
use crate::report::{LatencyProbe, LatencyReport, PruneReport};
use crate::runtime::Runtime;
use crate::runtime::walk::Feed;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LatencyTarget {
    /// The share of the original's time that stays, in `(0, 1]`.
    Share(f64),
    /// Milliseconds.
    Ms(f64),
}

impl FromStr for LatencyTarget {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let s = s.trim();
        let (number, of): (&str, fn(f64) -> Self) = match s.strip_suffix("ms") {
            Some(number) => (number, Self::Ms),
            None => (s, Self::Share),
        };
        let value = number.trim().parse::<f64>().ok().filter(|x| x.is_finite() && *x > 0.0);
        match value.map(of) {
            Some(Self::Share(share)) if share > 1.0 => Err(format!(
                "{share} is more than the original takes; half its time is written 0.5, five milliseconds 5ms"
            )),
            Some(target) => Ok(target),
            None => Err("expected the share of the time that stays, such as 0.5, or milliseconds, such as 5ms".into()),
        }
    }
}

impl fmt::Display for LatencyTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Share(x) => write!(f, "{x}"),
            Self::Ms(x) => write!(f, "{x}ms"),
        }
    }
}

/// Where and on what time is measured.
pub struct Stopwatch {
    /// Runs whole models.
    pub runtime: Arc<dyn Runtime>,
    /// Times layers on the same runtime, device and threads.
    pub timer: Mutex<LayerTimer>,
    /// What models run on; every input has `batch` samples.
    pub feeds: Vec<Feed>,
    /// Samples in one run.
    pub batch: usize,
    /// How long whole models are measured in the end; tries take a third of it.
    pub effort: Effort,
    /// Seed of the intervals.
    pub seed: u64,
    /// Milliseconds of the original when nothing disturbs it, once they are known.
    pub original_ms: Mutex<Option<f64>>,
}

impl fmt::Debug for Stopwatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stopwatch").field("runtime", &self.runtime.name()).field("batch", &self.batch).finish()
    }
}

/// The result is as asked when its share is at most this far from it, in shares of it.
pub const TOLERANCE: f64 = 0.05;
/// The search is content with this.
const CLOSE: f64 = 0.015;
/// Models that are made and measured on the way.
const TRIES: usize = 6;

impl Stopwatch {
    /// Milliseconds of each model, run in turn.
    fn time(&self, models: &[&Model], effort: &Effort) -> Result<Vec<Vec<f64>>> {
        let load = |m: &&Model| Ok((m.path.display().to_string(), self.runtime.load(m)?));
        let mut sessions = models.iter().map(load).collect::<Result<Vec<_>>>()?;
        let bound = self.timer.lock().unwrap_or_else(PoisonError::into_inner).place().has_memory();
        let mut clock = SystemClock::default();
        let rounds = if bound {
            measure_bound(&mut sessions, &self.feeds, effort, &mut clock)?.0
        } else {
            measure(&mut sessions, &self.feeds, effort, &mut clock)?
        };
        Ok(rounds.ms)
    }

    /// What stays of the original's time when nothing disturbs either model.
    fn ratio(&self, original: &Model, pruned: &Model, effort: &Effort) -> Result<f64> {
        let ms = self.time(&[original, pruned], effort)?;
        match ms.as_slice() {
            [a, b] => Ok(stats::quantile(b, QUANTILE) / stats::quantile(a, QUANTILE)),
            _ => Err(Error::Internal("nothing was measured".into())),
        }
    }

    /// The times of the layers of a model whose units may lose these numbers of bundles.
    pub(super) fn times(&self, t: &Traced, levels: &[Vec<usize>], progress: &dyn Fn(&str)) -> Result<Times> {
        let whole = self.original_ms.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or(0.0);
        let mut timer = self.timer.lock().unwrap_or_else(PoisonError::into_inner);
        table(t, levels, &mut timer, self.feeds.first().map(Vec::as_slice).unwrap_or_default(), whole, progress)
    }
}

/// Prunes until the model takes the target's share of the time.
///
/// The first aim is the target itself, in the time that the layers take one by one; measured, a model takes a little more or
/// less, and the aim moves by as much, until the two agree to 1.5 % or nothing better is found. Only then is the result
/// repaired and verified; [`PruneReport::settle_latency`] then takes the measurement of the finished model.
///
/// # Errors
/// As [`prune`], and when a model cannot be measured.
pub fn reach(
    model: &Model,
    options: &Options,
    target: LatencyTarget,
    watch: &Arc<Stopwatch>,
    progress: &dyn Fn(&str),
) -> Result<Pruned> {
    progress("time of the original");
    let quick =
        Effort { warmup_s: watch.effort.warmup_s / 2.0, min_time_s: watch.effort.min_time_s / 3.0, ..watch.effort };
    let ms = watch.time(&[model], &quick)?;
    let ms = ms.first().map(Vec::as_slice).unwrap_or_default();
    let original = stats::median(ms);
    if !(original > 0.0 && original.is_finite()) {
        return Err(Error::Internal("the original takes no time".into()));
    }
    // Comparable with the times of single layers.
    let undisturbed = stats::quantile(ms, QUANTILE);
    *watch.original_ms.lock().unwrap_or_else(PoisonError::into_inner) = Some(undisturbed);
    let share = match target {
        LatencyTarget::Share(s) => s,
        LatencyTarget::Ms(ms) if ms >= original => {
            return Err(Error::Usage(format!(
                "--target-latency {target}: {} takes {original:.3} ms here already; nothing needs to go",
                model.path.display()
            )));
        }
        LatencyTarget::Ms(ms) => ms / original,
    };
    let mut options = Options { latency: Some(watch.clone()), plan: None, ..options.clone() };
    let mut trail: Vec<LatencyProbe> = Vec::new();
    let mut seen: Vec<Vec<usize>> = Vec::new();
    let mut aim = share;
    for _ in 0..TRIES {
        let told = |stage: &str| progress(&format!("try {}: {stage}", trail.len() + 1));
        let cheap = Options {
            budget: Budget::TargetLatency(aim),
            recover: Recover::None,
            verify: false,
            dry_run: false,
            hash: false,
            ..options.clone()
        };
        let pruned = prune(model, &cheap, &told)?;
        // Trials of the first decision serve all.
        options.bend = options.bend.or(pruned.bend);
        let kept: Vec<usize> = pruned.report.groups.iter().map(|g| g.channels_after).collect();
        let smaller = pruned.model.as_ref().ok_or_else(|| Error::Internal("there is no model to measure".into()))?;
        if seen.contains(&kept) {
            break;
        }
        seen.push(kept);
        told("measure");
        let ratio = watch.ratio(model, smaller, &quick)?;
        let predicted = pruned.report.ratio_reached;
        trail.push(LatencyProbe { aim, predicted, ratio, macs: pruned.report.pruned.macs });
        let Some(next) = corrected(&trail, share) else { break };
        aim = next;
    }
    let best = trail.iter().min_by(|a, b| (a.ratio - share).abs().total_cmp(&(b.ratio - share).abs()));
    let aim = best.map_or(share, |p| p.aim);
    let mut pruned = prune(model, &Options { budget: Budget::TargetLatency(aim), ..options.clone() }, progress)?;
    let timer = watch.timer.lock().unwrap_or_else(PoisonError::into_inner);
    let place = timer.place().clone();
    let mut report = LatencyReport {
        target: target.to_string(),
        target_ratio: share,
        ratio: f64::NAN,
        low: f64::NAN,
        high: f64::NAN,
        original_ms: original,
        pruned_ms: f64::NAN,
        reached: false,
        slower: false,
        runtime: place.runtime,
        runtime_version: place.version,
        device: place.device,
        threads: place.threads,
        batch: watch.batch,
        layers_measured: timer.measured,
        trail,
    };
    if let Err(e) = timer.save() {
        pruned.report.notes.push(format!(
            "the times of the layers could not be remembered: {e}; --latency-cache names another folder"
        ));
    }
    drop(timer);
    let r = &mut pruned.report;
    r.budget = format!("target-latency {target}");
    // Measured before the repair, which adds no work worth mentioning; until the result itself is measured.
    if let Some(&LatencyProbe { ratio, .. }) = report.trail.iter().find(|p| p.aim == aim) {
        let verdict = if ratio > 1.0 + SAME { Verdict::Slower } else { Verdict::NoDifference };
        report.settle(Comparison { ratio, low: ratio, high: ratio, verdict }, original, ratio * original);
    }
    r.ratio_requested = share;
    r.latency_target = Some(report);
    r.say_latency();
    Ok(pruned)
}

impl LatencyReport {
    fn settle(&mut self, c: Comparison, original_ms: f64, pruned_ms: f64) {
        (self.ratio, self.low, self.high) = (c.ratio, c.low, c.high);
        (self.original_ms, self.pruned_ms) = (original_ms, pruned_ms);
        self.slower = c.verdict == Verdict::Slower;
        self.reached = (c.ratio / self.target_ratio - 1.0).abs() <= TOLERANCE;
    }
}

impl PruneReport {
    /// What a measurement of the finished model, beside the original, says of the latency that was asked for, if one was.
    pub fn settle_latency(&mut self, times: &BenchReport) {
        let Some(target) = &mut self.latency_target else { return };
        let median = |model: usize| times.rows.iter().find(|r| r.model == model).map_or(f64::NAN, |r| r.median_ms);
        let Some(c) = times.rows.iter().find_map(|r| r.comparison) else { return };
        target.settle(c, median(0), median(1));
        self.say_latency();
    }

    fn say_latency(&mut self) {
        let Some(target) = &self.latency_target else { return };
        self.ratio_reached = target.ratio;
        self.missed = (!target.reached).then(|| missed(target, self.missed.as_deref()));
    }
}

/// Comes before a reason in words.
const HELD: &str = "held back by ";

/// In words.
fn missed(r: &LatencyReport, held: Option<&str>) -> String {
    let side = if r.ratio > r.target_ratio { "more" } else { "less" };
    let held = held.and_then(|h| h.split_once(HELD)).map(|(_, why)| format!("; {HELD}{why}"));
    format!(
        "target-latency {}: measured {:.3} of the original's time [{:.3}, {:.3}], {side} than {:.3}{}",
        r.target,
        r.ratio,
        r.low,
        r.high,
        r.target_ratio,
        held.unwrap_or_default()
    )
}

/// The next aim; `None` when the last was close enough, or there is nothing more to aim at.
fn corrected(trail: &[LatencyProbe], share: f64) -> Option<f64> {
    let last = trail.last()?;
    if (last.ratio / share - 1.0).abs() <= CLOSE {
        return None;
    }
    // Nothing gone is all of the time: a point that is known without measuring.
    let known = trail.iter().map(|p| (p.predicted, p.ratio)).chain([(1.0, 1.0)]);
    // Times do not always rise with what was predicted: the bracket is one of aims, so that it narrows each time.
    let over = known.clone().filter(|p| p.1 > share).min_by(|a, b| a.0.total_cmp(&b.0));
    let below = |p: &(f64, f64)| p.1 <= share && over.is_none_or(|o| p.0 < o.0);
    let under = known.filter(below).max_by(|a, b| a.0.total_cmp(&b.0));
    let next = match (over, under) {
        (Some((x, y)), Some((u, v))) if y > v => u + (share - v) / (y - v) * (x - u),
        // As much further as it was too much.
        (Some((x, y)), None) => x * share / y,
        (None, Some((u, v))) => u * share / v,
        _ => return None,
    };
    (next.is_finite() && next > 0.0 && next < 1.0).then_some(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(aim: f64, ratio: f64) -> LatencyProbe {
        LatencyProbe { aim, predicted: aim, ratio, macs: 0 }
    }

    #[test]
    fn targets_are_shares_or_milliseconds() {
        assert_eq!("0.5".parse(), Ok(LatencyTarget::Share(0.5)));
        assert_eq!(" 12.5 ms".parse(), Ok(LatencyTarget::Ms(12.5)));
        for wrong in ["", "ms", "0", "-1", "1.5", "nan", "infms", "5s"] {
            assert!(wrong.parse::<LatencyTarget>().is_err(), "{wrong}");
        }
        assert_eq!(LatencyTarget::Ms(5.0).to_string().parse(), Ok(LatencyTarget::Ms(5.0)));
    }

    #[test]
    fn aims_close_in_on_the_target() {
        // A machine where a fifth of the time does not shrink with the layers' times.
        let machine = |predicted: f64| 0.2 + 0.8 * predicted;
        let mut trail = Vec::new();
        let mut aim = 0.5;
        for _ in 0..TRIES {
            trail.push(probe(aim, machine(aim)));
            match corrected(&trail, 0.5) {
                Some(next) => aim = next,
                None => break,
            }
        }
        assert!(trail.len() <= 4, "{trail:?}");
        assert!((trail.last().unwrap().ratio / 0.5 - 1.0).abs() <= CLOSE, "{trail:?}");
    }

    #[test]
    fn a_machine_with_steps_is_closed_in_on() {
        let machine = |aim: f64| if aim < 0.88 { 0.4 - 0.2 * (0.88 - aim) } else { 0.4 + 5.0 * (aim - 0.88) };
        let mut trail = vec![probe(0.844, 0.42), probe(0.87, machine(0.87))];
        for _ in 0..TRIES {
            let Some(aim) = corrected(&trail, 0.5) else { break };
            assert!(trail.iter().all(|p| (p.aim - aim).abs() > 1e-6), "{aim} {trail:?}");
            trail.push(probe(aim, machine(aim)));
        }
        assert!((trail.last().unwrap().ratio / 0.5 - 1.0).abs() <= CLOSE, "{trail:?}");
    }

    #[test]
    fn a_target_below_all_measured_is_aimed_at_further_down() {
        let next = corrected(&[probe(0.3, 0.6)], 0.3).unwrap();
        assert!((next - 0.15).abs() < 1e-12);
        assert_eq!(corrected(&[probe(0.3, 0.301)], 0.3), None);
    }
}
