//! What a model would get to see: the result of `onnx-prune data`.

use super::Dataset;
use crate::error::Result;
use crate::onnx::Model;
use crate::runtime::{Array, Data};
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::BTreeMap;

/// Version of the summary's JSON schema.
pub const DATA_SCHEMA_VERSION: u32 = 1;

/// Data as a model gets it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct DataSummary {
    /// Version of this form, [`DATA_SCHEMA_VERSION`].
    #[schemars(extend("const" = DATA_SCHEMA_VERSION))]
    pub schema_version: u32,
    /// Name and version of the tool.
    pub tool: String,
    /// The model file.
    pub model: String,
    /// The data's file or folder.
    pub path: String,
    /// Samples in use.
    pub samples: usize,
    /// Samples in a batch.
    pub batch_size: usize,
    /// Batches; the last may be smaller.
    pub batches: usize,
    /// The first samples, from which the figures below are taken.
    pub measured: usize,
    /// The model's inputs.
    pub inputs: Vec<InputSummary>,
    /// Samples of each label, where there are labels.
    pub labels: Option<Vec<LabelCount>>,
    /// Things the user should know.
    pub notes: Vec<String>,
}

/// A model input.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct InputSummary {
    /// Its name.
    pub name: String,
    /// The element type it is fed with.
    pub r#type: &'static str,
    /// The shape of the first batch.
    pub shape: Vec<usize>,
    /// Figures of each channel for three axes and more, of all values otherwise.
    pub channels: Vec<ChannelSummary>,
}

/// The values of a channel, after preprocessing.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct ChannelSummary {
    /// The mean.
    pub mean: f64,
    /// The standard deviation, that of the values themselves (not an estimate from a sample).
    pub std: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

/// How often a label occurs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct LabelCount {
    /// The label.
    pub label: i64,
    /// Samples that have it.
    pub samples: usize,
}

/// Running figures.
#[derive(Clone, Copy, Debug)]
struct Moments {
    n: f64,
    mean: f64,
    /// Sum of squared distances from the mean.
    spread: f64,
    min: f64,
    max: f64,
}

impl Moments {
    const EMPTY: Self = Self { n: 0.0, mean: 0.0, spread: 0.0, min: f64::INFINITY, max: f64::NEG_INFINITY };

    fn of(values: &[f64]) -> Self {
        let n = values.len() as f64;
        let mean = if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / n };
        values.iter().fold(Self { n, mean, ..Self::EMPTY }, |m, &x| Self {
            spread: m.spread + (x - mean) * (x - mean),
            min: m.min.min(x),
            max: m.max.max(x),
            ..m
        })
    }

    fn add(&mut self, other: Self) {
        let n = self.n + other.n;
        if n > 0.0 {
            let distance = other.mean - self.mean;
            self.spread += other.spread + distance * distance * self.n * other.n / n;
            self.mean += distance * other.n / n;
            self.n = n;
        }
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }
}

/// Opens up to `first` samples and measures them.
///
/// # Errors
/// [`Error::Data`](crate::error::Error::Data) when one of them cannot be read or converted.
pub fn summarise(data: &Dataset, model: &Model, first: usize) -> Result<DataSummary> {
    let first = first.clamp(1, data.len().max(1));
    let mut inputs: Vec<InputSummary> = Vec::new();
    let mut moments: Vec<Vec<Moments>> = Vec::new();
    for k in (0..data.batches()).take_while(|&k| data.range(k).start < first) {
        let rows = first.min(data.range(k).end) - data.range(k).start;
        let batch = data.batch(k)?;
        if k == 0 {
            moments = vec![Vec::new(); batch.len()];
            let input = |(name, array): &(String, Array)| InputSummary {
                name: name.clone(),
                r#type: type_name(&array.data),
                shape: array.dims.clone(),
                channels: Vec::new(),
            };
            inputs = batch.iter().map(input).collect();
        }
        for (i, ((_, array), all)) in batch.iter().zip(&mut moments).enumerate() {
            measure(array, rows, data.channels_last(i), all);
        }
    }
    for (input, moments) in inputs.iter_mut().zip(moments) {
        let channel = |m: Moments| ChannelSummary {
            mean: m.mean,
            std: if m.n > 0.0 { (m.spread / m.n).sqrt() } else { 0.0 },
            min: m.min,
            max: m.max,
        };
        input.channels = moments.into_iter().map(channel).collect();
    }
    let counts = |labels: &[i64]| {
        let mut counts: BTreeMap<i64, usize> = BTreeMap::new();
        labels.iter().for_each(|&label| *counts.entry(label).or_default() += 1);
        counts.into_iter().map(|(label, samples)| LabelCount { label, samples }).collect()
    };
    Ok(DataSummary {
        schema_version: DATA_SCHEMA_VERSION,
        tool: concat!("onnx-prune ", env!("CARGO_PKG_VERSION")).to_owned(),
        model: model.path.display().to_string(),
        path: data.path().display().to_string(),
        samples: data.len(),
        batch_size: data.batch_size(),
        batches: data.batches(),
        measured: first,
        inputs,
        labels: data.labels().map(counts),
        notes: data.notes().to_vec(),
    })
}

fn type_name(data: &Data) -> &'static str {
    match data {
        Data::F32(_) => "FLOAT",
        Data::F64(_) => "DOUBLE",
        Data::F16(_) => "FLOAT16",
        Data::I64(_) => "INT64",
        Data::I32(_) => "INT32",
        Data::U8(_) => "UINT8",
        Data::I8(_) => "INT8",
        Data::Bool(_) => "BOOL",
    }
}

/// Adds the first rows of a batch.
fn measure(array: &Array, rows: usize, last: bool, all: &mut Vec<Moments>) {
    let values = array.to_f64();
    let batch = array.dims.first().copied().unwrap_or(1).max(1);
    let channels = match array.dims.as_slice() {
        [_, c, _, ..] if !last => *c,
        [_, _, .., c] if last && array.dims.len() > 2 => *c,
        _ => 1,
    };
    all.resize(channels, Moments::EMPTY);
    for sample in values.chunks((values.len() / batch).max(1)).take(rows) {
        let inner = (sample.len() / channels.max(1)).max(1);
        for (c, moments) in all.iter_mut().enumerate() {
            moments.add(if last && channels > 1 {
                Moments::of(&sample.iter().skip(c).step_by(channels).copied().collect::<Vec<f64>>())
            } else {
                Moments::of(sample.get(c * inner..(c + 1) * inner).unwrap_or_default())
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_those_of_all_values() {
        let values = [1.0, 2.0, 4.0, 8.0, -3.0];
        let mut m = Moments::EMPTY;
        m.add(Moments::of(&values[..2]));
        m.add(Moments::of(&[]));
        m.add(Moments::of(&values[2..]));
        assert_eq!((m.n, m.min, m.max), (5.0, -3.0, 8.0));
        // The mean is 12/5; the squares add up to 94.
        assert!((m.mean - 2.4).abs() < 1e-12 && (m.spread - (94.0 - 5.0 * 2.4 * 2.4)).abs() < 1e-12);
    }

    #[test]
    fn channels_are_where_the_layout_says() {
        let array = |dims: &[usize]| Array { dims: dims.to_vec(), data: Data::U8((0..12).collect()) };
        let means = |dims: &[usize], rows, last| {
            let mut all = Vec::new();
            measure(&array(dims), rows, last, &mut all);
            all.iter().map(|m| m.mean).collect::<Vec<f64>>()
        };
        assert_eq!(means(&[2, 3, 2], 1, false), [0.5, 2.5, 4.5]);
        assert_eq!(means(&[2, 3, 2], 2, false), [3.5, 5.5, 7.5]);
        assert_eq!(means(&[2, 2, 3], 2, true), [4.5, 5.5, 6.5]);
        assert_eq!(means(&[2, 6], 2, false), [5.5]);
        assert_eq!(means(&[12], 6, false), [2.5]);
    }
}
