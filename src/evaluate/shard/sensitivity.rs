//! A part of `onnx-prune sensitivity`.

use crate::error::{Error, Result};
use crate::evaluate::exact;
use crate::evaluate::sensitivity::{GroupCurve, Point, Removal, SCHEMA_VERSION, SensitivityReport};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A point of a curve.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct Stored {
    share: f64,
    removed: usize,
    macs_saved: f64,
    params_saved: f64,
    #[serde(with = "exact::one")]
    #[schemars(with = "exact::Exact")]
    change: f64,
    #[serde(with = "exact::maybe")]
    #[schemars(with = "Option<exact::Exact>")]
    score: Option<f64>,
    #[serde(with = "exact::maybe")]
    #[schemars(with = "Option<exact::Exact>")]
    drop: Option<f64>,
}

/// A curve, and which one of all it is.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct Curve {
    /// Its place in the report, from 0.
    place: usize,
    groups: Vec<String>,
    layers: Vec<String>,
    channels: usize,
    points: Vec<Stored>,
}

/// Some of the curves, and what the report says beside them.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SensitivityPart {
    model: String,
    removal: Removal,
    calibration_samples: usize,
    metric: Option<String>,
    samples: Option<usize>,
    #[serde(with = "exact::maybe")]
    #[schemars(with = "Option<exact::Exact>")]
    original: Option<f64>,
    /// Curves in all parts together.
    curves_in_all: usize,
    curves: Vec<Curve>,
}

/// What a report says beside its curves.
#[derive(Clone, Debug)]
pub(in crate::evaluate) struct Beside {
    pub model: String,
    pub removal: Removal,
    pub calibration_samples: usize,
    pub metric: Option<String>,
    pub samples: Option<usize>,
    pub original: Option<f64>,
}

impl SensitivityPart {
    /// Some of `all` curves, each with its place.
    pub(in crate::evaluate) fn new(beside: Beside, all: usize, curves: Vec<(usize, GroupCurve)>) -> SensitivityPart {
        let Beside { model, removal, calibration_samples, metric, samples, original } = beside;
        let curves = curves.into_iter().map(Curve::from).collect();
        SensitivityPart { model, removal, calibration_samples, metric, samples, original, curves_in_all: all, curves }
    }

    /// The number of curves in this part, and in all.
    pub fn curves(&self) -> (usize, usize) {
        (self.curves.len(), self.curves_in_all)
    }

    /// What other parts must have as well.
    pub(super) fn identity(&self) -> Vec<(String, String)> {
        let words = |x: Option<String>| x.unwrap_or_else(|| "none".into());
        vec![
            ("--removal".into(), format!("{:?}", self.removal)),
            ("samples that calibrate".into(), self.calibration_samples.to_string()),
            ("metric".into(), words(self.metric.clone())),
            ("samples that measure".into(), words(self.samples.map(|n| n.to_string()))),
            ("the original's figure".into(), words(self.original.map(|x| x.to_string()))),
            ("curves in all".into(), self.curves_in_all.to_string()),
        ]
    }

    /// Takes another part's curves.
    ///
    /// # Errors
    /// [`Error::Usage`] when they are of another run.
    pub fn join(&mut self, other: SensitivityPart) -> Result<()> {
        if self.identity() != other.identity() {
            return Err(Error::Usage("it is about another run; make the part again".into()));
        }
        self.curves.extend(other.curves);
        Ok(())
    }

    /// The report.
    ///
    /// # Errors
    /// [`Error::Usage`] unless every curve is there once.
    pub fn finish(mut self) -> Result<SensitivityReport> {
        self.curves.sort_by_key(|c| c.place);
        let all = self.curves_in_all;
        if self.curves.len() != all || self.curves.iter().enumerate().any(|(i, c)| i != c.place) {
            let n = self.curves.len();
            return Err(Error::Usage(format!(
                "the parts hold {n} of {all} curves; make the parts again, and merge all"
            )));
        }
        Ok(SensitivityReport {
            schema_version: SCHEMA_VERSION,
            tool: concat!("onnx-prune ", env!("CARGO_PKG_VERSION")).into(),
            model: self.model,
            removal: self.removal,
            calibration_samples: self.calibration_samples,
            metric: self.metric,
            samples: self.samples,
            original: self.original,
            groups: self.curves.into_iter().map(GroupCurve::from).collect(),
        })
    }
}

impl From<(usize, GroupCurve)> for Curve {
    fn from((place, c): (usize, GroupCurve)) -> Curve {
        let point = |p: Point| {
            let Point { share, removed, macs_saved, params_saved, change, score, drop } = p;
            Stored { share, removed, macs_saved, params_saved, change, score, drop }
        };
        let points = c.points.into_iter().map(point).collect();
        Curve { place, groups: c.groups, layers: c.layers, channels: c.channels, points }
    }
}

impl From<Curve> for GroupCurve {
    fn from(c: Curve) -> GroupCurve {
        let point = |p: Stored| {
            let Stored { share, removed, macs_saved, params_saved, change, score, drop } = p;
            Point { share, removed, macs_saved, params_saved, change, score, drop }
        };
        let points = c.points.into_iter().map(point).collect();
        GroupCurve { groups: c.groups, layers: c.layers, channels: c.channels, points }
    }
}
