//! The last accepted run, as a limit for the next one: `--baseline`.
//!
//! A baseline is the JSON report of `check`, or of a pruning run that was held to limits. Each figure that it has becomes a limit:
//!
//! * sizes (`baseline-macs`, `baseline-params`, `baseline-size`) may not grow; they have no noise;
//! * accuracy (`baseline-accuracy`): the drop of the baseline's primary metric may grow by [`Tolerance::drop`] points. The drop is
//!   against the same original, so that other samples do as little harm as they can;
//! * latency (`baseline-ratio`): the ratio to the original's time may exceed the upper end of the baseline's 95 % interval by the
//!   share [`Tolerance::slowdown`]. Times themselves are never compared: they belong to a machine and its moment.
//!
//! What the baseline has and the new run has not is an error; what only the new run has is told in a note.

mod read;

pub use read::{load, parse};

use super::check::{Gate, Measured};
use super::significance::Interval;
use crate::error::{Error, Result};
use crate::onnx::Model;
use crate::report::AccuracyReport;
use read::{ANEW, Named, Row, Sides, Times};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How much worse than the baseline is still noise.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Tolerance {
    /// Points that the primary metric may drop further. On the same samples the same model has the same figure; another runtime
    /// or picture decoder moved some 0.2 to 0.4 points of 500 samples.
    pub drop: f64,
    /// Share by which the ratio may exceed the upper end of the baseline's interval. Two loads of one file differ by up to
    /// [`SAME`](super::bench::SAME), and a ratio has two loads in each of the runs.
    pub slowdown: f64,
}

impl Default for Tolerance {
    /// Half a point, a twentieth.
    fn default() -> Self {
        Self { drop: 0.5, slowdown: 0.05 }
    }
}

/// Accuracy of a run.
#[derive(Clone, Debug, PartialEq)]
struct Figure {
    metric: String,
    samples: Option<usize>,
    original: f64,
    pruned: f64,
    drop: f64,
    interval: Option<Interval>,
}

/// A run that was accepted.
#[derive(Clone, Debug)]
pub struct Baseline {
    name: String,
    /// The whole report.
    text: String,
    tool: String,
    sides: Sides,
    figure: Option<Figure>,
    data: Option<(String, Named)>,
    times: Option<(Times, Row)>,
    tolerance: Tolerance,
}

/// The figure of a metric in the new run.
fn now(measured: &Measured, metric: &str) -> Option<Figure> {
    if let Some(d) = &measured.accuracy {
        let s = d.accuracy.get(metric)?;
        return Some(Figure {
            metric: metric.into(),
            samples: Some(d.samples),
            original: s.original,
            pruned: s.pruned,
            drop: s.drop,
            interval: s.drop_interval,
        });
    }
    let a: &AccuracyReport = measured.figure.as_ref().filter(|a| a.metric == metric)?;
    Some(Figure {
        metric: a.metric.clone(),
        samples: a.samples,
        original: a.original,
        pruned: a.pruned,
        drop: a.drop,
        interval: None,
    })
}

/// A number of points with a word for its sign.
fn more(points: f64) -> String {
    match points {
        p if p < -0.005 => format!("{:.2} points less", -p),
        p if p < 0.005 => "the same".into(),
        p => format!("{p:.2} points more"),
    }
}

impl Baseline {
    /// The metric that a new run has to measure on data.
    pub fn metric(&self) -> Option<&str> {
        self.figure.as_ref().map(|f| f.metric.as_str())
    }

    /// Whether a new run has to measure times.
    pub fn has_times(&self) -> bool {
        self.times.is_some()
    }

    /// The file, as it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The whole report.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// How much worse is still noise.
    pub fn tolerance(&self) -> Tolerance {
        self.tolerance
    }

    /// Whether it is about the same original.
    ///
    /// # Errors
    /// [`Error::Usage`] when it is not.
    pub fn fits(&self, original: &Model) -> Result<()> {
        let (theirs, ours) = (&self.sides.original, original.sha256());
        if theirs.sha256 == ours {
            return Ok(());
        }
        let short = |hash: &str| hash.chars().take(12).collect::<String>();
        Err(Error::Usage(format!(
            "--baseline {}: it is about another original, {} (SHA-256 {}…), than {} ({}…); {ANEW}",
            self.name,
            theirs.path,
            short(&theirs.sha256),
            original.path.display(),
            short(&ours)
        )))
    }

    /// The limits, and what else should be known.
    ///
    /// # Errors
    /// [`Error::Usage`] when the new run lacks what the baseline has.
    pub fn judge(&self, measured: &Measured) -> Result<(Vec<Gate>, Vec<String>)> {
        let mut notes = Vec::new();
        let mut gates = self.sizes(measured, &mut notes);
        gates.extend(self.accuracy(measured, &mut notes)?);
        gates.extend(self.latency(measured, &mut notes)?);
        let tool = concat!("onnx-prune ", env!("CARGO_PKG_VERSION"));
        if self.tool != tool {
            notes.push(format!("{} was made by {}, this run by {tool}", self.name, self.tool));
        }
        Ok((gates, notes))
    }

    fn sizes(&self, measured: &Measured, notes: &mut Vec<String>) -> Vec<Gate> {
        let (then, now) = (&self.sides.pruned, &measured.models.pruned);
        let all = [
            ("baseline-macs", "MACs", then.macs.zip(now.macs)),
            ("baseline-params", "parameters", Some((then.params, now.params))),
            ("baseline-size", "bytes on disk", Some((then.bytes, now.bytes))),
        ];
        let mut gates = Vec::new();
        for (name, what, figures) in all {
            let Some((then, now)) = figures else {
                notes.push(format!("{what} are not compared with {}: they cannot be counted in both runs", self.name));
                continue;
            };
            let passed = now <= then;
            let relation = if passed { "no more than" } else { "more than" };
            let words = format!("{now} {what}, {relation} the {then} of {}", self.name);
            gates.push(Gate {
                name: name.into(),
                limit: then as f64,
                value: now as f64,
                passed,
                inconclusive: false,
                words,
            });
        }
        gates
    }

    fn accuracy(&self, measured: &Measured, notes: &mut Vec<String>) -> Result<Option<Gate>> {
        let Some(then) = &self.figure else {
            if measured.accuracy.is_some() || measured.figure.is_some() {
                notes.push(format!("{} has no accuracy, so that of this run is not compared with it", self.name));
            }
            return Ok(None);
        };
        let metric = &then.metric;
        let now = now(measured, metric).ok_or_else(|| {
            Error::Usage(format!(
                "--baseline {}: it has {metric}, which this run does not measure; measure it, or {ANEW}",
                self.name
            ))
        })?;
        if now.samples != then.samples {
            let count = |n: Option<usize>| n.map_or("an unknown number of".to_owned(), |n| n.to_string());
            let (a, b) = (count(now.samples), count(then.samples));
            notes.push(format!("{metric} is from {a} samples, in {} from {b}", self.name));
        }
        if let (Some(d), Some((data, runtime))) = (&measured.accuracy, &self.data) {
            if d.data != *data {
                notes.push(format!("{metric} is measured on {}, in {} on {data}", d.data, self.name));
            }
            let here = Named { name: d.runtime.name.clone(), version: d.runtime.version.clone() };
            if here != *runtime {
                notes.push(format!(
                    "{metric} is computed by {} {}, in {} by {} {}",
                    here.name, here.version, self.name, runtime.name, runtime.version
                ));
            }
        }
        let (value, limit) = (now.drop - then.drop, self.tolerance.drop);
        // 0.6 less 0.1 is more than 0.5 in binary. No number does not pass.
        let passed = value <= limit + 1e-9;
        // On the same samples another run has the same figure.
        let same = match (&measured.accuracy, &self.data) {
            (Some(d), Some((data, _))) => d.data == *data && now.samples == then.samples,
            _ => false,
        };
        let inconclusive = !same && now.interval.is_some_and(|i| i.has(then.drop + limit));
        let relation = if passed { "within" } else { "more than" };
        let doubt = if inconclusive { ", but inconclusive: the 95 % interval contains the limit" } else { "" };
        let words = format!(
            "{metric} dropped by {:.2} points ({:.4} → {:.4}), in {} by {:.2} ({:.4} → {:.4}): {}, {relation} --baseline-drop \
             {limit}{doubt}",
            now.drop,
            now.original,
            now.pruned,
            self.name,
            then.drop,
            then.original,
            then.pruned,
            more(value)
        );
        Ok(Some(Gate { name: "baseline-accuracy".into(), limit, value, passed, inconclusive, words }))
    }

    fn latency(&self, measured: &Measured, notes: &mut Vec<String>) -> Result<Option<Gate>> {
        let Some((times, row)) = &self.times else {
            if measured.latency.is_some() {
                notes.push(format!("{} has no times, so those of this run are not compared with it", self.name));
            }
            return Ok(None);
        };
        let here = measured.latency.as_ref();
        let found = here.and_then(|r| r.rows.iter().find_map(|row| Some((r, row, row.comparison?))));
        let (Some((here, now, c)), Some(then)) = (found, row.comparison) else {
            let why = "it has times, and this run measured none";
            return Err(Error::Usage(format!("--baseline {}: {why}", self.name)));
        };
        let mut differs = |what: &str, now: String, then: String| {
            if now != then {
                notes.push(format!("times are measured {what} {now}, in {} {what} {then}", self.name));
            }
        };
        let runtime = |name: &str, version: &str| format!("{name} {version}");
        differs("by", runtime(&here.runtime, &here.runtime_version), runtime(&times.runtime, &times.runtime_version));
        differs("on the device", here.device.clone(), times.device.clone());
        differs("with batch", now.batch.to_string(), row.batch.to_string());
        differs("with --bench-threads", now.threads.to_string(), row.threads.to_string());
        let machine = |processor: &Option<String>, cores: usize, system: &str| {
            format!("{}, {cores} cores, {system}", processor.as_deref().unwrap_or("an unknown processor"))
        };
        let (m, t) = (&here.machine, &times.machine);
        differs("on", machine(&m.processor, m.cores, &m.system), machine(&t.processor, t.cores, &t.system));
        let slack = self.tolerance.slowdown;
        let limit = then.high * (1.0 + slack);
        let passed = c.ratio <= limit;
        let inconclusive = c.low <= limit && limit < c.high;
        let relation = if passed { "within" } else { "more than" };
        let doubt = if inconclusive { ", but inconclusive: the interval contains the limit" } else { "" };
        let words = format!(
            "ratio to the original's time {:.3} [{:.3}, {:.3}], in {} {:.3} [{:.3}, {:.3}]: {relation} {limit:.3}, its upper end and \
             --baseline-slowdown {slack}{doubt}",
            c.ratio, c.low, c.high, self.name, then.ratio, then.low, then.high
        );
        Ok(Some(Gate { name: "baseline-ratio".into(), limit, value: c.ratio, passed, inconclusive, words }))
    }
}

#[cfg(test)]
#[path = "baseline_tests.rs"]
mod tests;
