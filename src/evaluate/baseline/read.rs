//! From a report's JSON to a [`Baseline`].

use super::{Baseline, Figure, Tolerance};
use crate::error::{Error, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// The schema of reports that can be read: that of [`check`](super::super::check) and of pruning runs.
const READ: u64 = 1;
/// The way out.
pub(super) const ANEW: &str = "make a new baseline with `onnx-prune check ORIGINAL PRUNED … --report FILE.json`";

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Sides {
    pub original: Side,
    pub pruned: Side,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Side {
    pub path: String,
    pub sha256: String,
    pub bytes: u64,
    pub params: u64,
    pub macs: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(super) struct Named {
    pub name: String,
    pub version: String,
}

#[derive(Deserialize)]
pub(super) struct Compared {
    pub data: String,
    pub samples: usize,
    pub runtime: Named,
    pub primary: Option<String>,
    pub accuracy: BTreeMap<String, Score>,
}

#[derive(Deserialize)]
pub(super) struct Score {
    pub original: Option<f64>,
    pub pruned: Option<f64>,
    pub drop: Option<f64>,
}

#[derive(Deserialize)]
pub(super) struct Accuracy {
    pub metric: String,
    pub samples: Option<usize>,
    pub original: f64,
    pub pruned: f64,
    pub drop: f64,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Times {
    pub runtime: String,
    pub runtime_version: String,
    pub device: String,
    pub machine: Machine,
    #[serde(default)]
    pub rows: Vec<Row>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(super) struct Machine {
    pub processor: Option<String>,
    pub cores: usize,
    pub system: String,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Row {
    pub batch: usize,
    pub threads: usize,
    pub comparison: Option<Ratio>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct Ratio {
    pub ratio: f64,
    pub low: f64,
    pub high: f64,
}

/// Reads a baseline.
///
/// # Errors
/// [`Error::Usage`] when it cannot be read, is no such report, or is one of a run that broke its limits.
pub fn load(path: &Path, tolerance: Tolerance) -> Result<Baseline> {
    let name = path.display().to_string();
    let refuse = |e| Error::Usage(format!("--baseline {name}: cannot be read: {e}; {ANEW}"));
    let text = std::fs::read_to_string(path).map_err(refuse)?;
    parse(&name, text, tolerance)
}

/// The same from the report's text; `name` is what the file is called.
///
/// # Errors
/// [`Error::Usage`] when it is no such report, or is one of a run that broke its limits.
pub fn parse(name: &str, text: String, tolerance: Tolerance) -> Result<Baseline> {
    let refuse = |why: String| Error::Usage(format!("--baseline {name}: {why}"));
    for (flag, x) in [("--baseline-drop", tolerance.drop), ("--baseline-slowdown", tolerance.slowdown)] {
        if !(x.is_finite() && x >= 0.0) {
            return Err(Error::Usage(format!("{flag}: expected a number of at least 0, not {x}")));
        }
    }
    let value: Value = serde_json::from_str(&text).map_err(|e| refuse(format!("is no JSON ({e}); {ANEW}")))?;
    let (Some(passed), Some(sides)) = (value.get("passed").and_then(Value::as_bool), value.get("models")) else {
        return Err(refuse(format!(
            "expected the JSON report of check, or of a pruning run with limits, and found neither `passed` nor `models`; {ANEW}"
        )));
    };
    let version = value.get("schema_version").and_then(Value::as_u64);
    if version != Some(READ) {
        let found = version.map_or("none".to_owned(), |v| v.to_string());
        return Err(refuse(format!("schema version {READ} can be read, found {found}; {ANEW}")));
    }
    if !passed {
        let broken = value.get("gates").and_then(Value::as_array).into_iter().flatten();
        let broken = broken.filter(|g| g.get("passed") == Some(&Value::Bool(false))).count();
        return Err(refuse(format!(
            "that run broke {broken} of its own limits, so it is nothing to compare with; give the report of one that passed"
        )));
    }
    // A pruning run has its comparison apart: `accuracy` there is the one figure of --max-drop.
    let of_prune = value.get("budget").is_some();
    let some = |key: &str| value.get(key).filter(|v| !v.is_null());
    let compared: Option<Compared> = part(some(if of_prune { "comparison" } else { "accuracy" }), &refuse)?;
    let single: Option<Accuracy> = part(some("accuracy").filter(|_| of_prune), &refuse)?;
    let sides: Option<Sides> = part(Some(sides), &refuse)?;
    let times: Option<Times> = part(some("latency"), &refuse)?;
    let figure = match &compared {
        Some(c) => c.figure(),
        None => single.map(|a| Figure {
            metric: a.metric,
            samples: a.samples,
            original: a.original,
            pruned: a.pruned,
            drop: a.drop,
            interval: None,
        }),
    };
    let row = |t: Times| t.rows.iter().find(|r| r.comparison.is_some()).cloned().map(|row| (t, row));
    Ok(Baseline {
        tool: value.get("tool").and_then(Value::as_str).unwrap_or_default().to_owned(),
        sides: sides.ok_or_else(|| refuse(format!("it names no models; {ANEW}")))?,
        figure,
        data: compared.map(|c| (c.data, c.runtime)),
        times: times.and_then(row),
        tolerance,
        name: name.to_owned(),
        text,
    })
}

fn part<T: DeserializeOwned>(value: Option<&Value>, refuse: &dyn Fn(String) -> Error) -> Result<Option<T>> {
    value.map(T::deserialize).transpose().map_err(|e| refuse(format!("a part of the report is missing ({e}); {ANEW}")))
}

impl Compared {
    fn figure(&self) -> Option<Figure> {
        let metric = self.primary.clone()?;
        let s = self.accuracy.get(&metric)?;
        let (original, pruned) = (s.original.unwrap_or(f64::NAN), s.pruned.unwrap_or(f64::NAN));
        Some(Figure { metric, samples: Some(self.samples), original, pruned, drop: s.drop?, interval: None })
    }
}
