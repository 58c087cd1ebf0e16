//! Where in the network the difference arises: tensors of the same name, compared in the network's order.

use super::of_model;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::flat::captured_names;
use crate::onnx::Model;
use crate::onnx::proto::NodeProto;
use crate::runtime::walk::{Feed, Walker};
use crate::runtime::{Array, Runtime};
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Samples that go through the network together, unless a batch has more.
const TOGETHER: usize = 32;
/// Bytes that each model may keep of what was computed.
const MEMORY: usize = 512 << 20;

/// The comparison layer by layer.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Layers {
    /// Samples it was done on, spread evenly over all.
    pub samples: usize,
    /// Tensors of the same name and shape.
    pub compared: usize,
    /// Tensors of the same name with another shape, mostly for want of channels: they cannot be compared.
    pub other_shape: usize,
    /// Tensors of the same name that the runtime does not hand out, or that hold integers.
    pub left_out: usize,
    /// Tensors that only the original has.
    pub only_original: usize,
    /// Tensors that only the pruned model has.
    pub only_pruned: usize,
    /// The compared ones, in the original's order.
    pub tensors: Vec<LayerDiff>,
}

/// One tensor.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct LayerDiff {
    /// Its name.
    pub tensor: String,
    /// The node that makes it.
    pub node: String,
    /// The node's operator.
    pub op: String,
    /// Its sizes in the first batch.
    pub shape: Vec<usize>,
    /// Mean squared difference.
    pub mse: f64,
    /// [`mse`](Self::mse) over the variance of the original's elements; `null` for one that is the same everywhere, and
    /// where elements are not finite.
    pub error: Option<f64>,
    /// How much [`error`](Self::error) grew since the nearest compared tensors before, of which the largest counts; inputs
    /// have none.
    pub growth: Option<f64>,
}

/// Sums over all batches.
#[derive(Clone, Debug, Default)]
struct Sums {
    shape: Vec<usize>,
    n: f64,
    squares: f64,
    /// Mean and sum of squared deviations of the original's elements.
    mean: f64,
    deviations: f64,
}

/// What became of a tensor.
enum Seen {
    Sums(Sums),
    OtherShape,
    LeftOut,
}

impl Sums {
    fn add(&mut self, a: &Array, b: &Array) {
        if self.shape.is_empty() {
            self.shape.clone_from(&a.dims);
        }
        let (a, b) = (a.to_f64(), b.to_f64());
        let n = a.len() as f64;
        if n == 0.0 {
            return;
        }
        let apart = |(a, b): (&f64, &f64)| if a == b { 0.0 } else { (a - b) * (a - b) };
        self.squares += a.iter().zip(&b).map(apart).sum::<f64>();
        // Chan, Golub and LeVeque's way to join two variances.
        let mean = a.iter().sum::<f64>() / n;
        let deviations: f64 = a.iter().map(|x| (x - mean) * (x - mean)).sum();
        let (total, delta) = (self.n + n, mean - self.mean);
        self.deviations += deviations + delta * delta * self.n * n / total;
        self.mean += delta * n / total;
        self.n = total;
    }

    fn mse(&self) -> f64 {
        self.squares / self.n
    }

    fn error(&self) -> Option<f64> {
        let error = self.squares / self.deviations;
        error.is_finite().then_some(error)
    }
}

/// Names of all tensors that nodes make, in order.
fn made(model: &Model) -> Vec<(&NodeProto, &String)> {
    let nodes = model.proto.graph.iter().flat_map(|g| &g.node);
    nodes.flat_map(|n| n.output.iter().filter(|o| !o.is_empty()).map(move |o| (n, o))).collect()
}

/// So many samples, spread evenly, so that data in order of classes is not taken from the first class alone.
fn spread(data: &Dataset, n: usize) -> Result<Dataset> {
    let pick = |n: usize| {
        let n = n.min(data.len());
        let samples: Vec<usize> = (0..n).map(|i| i * data.len() / n.max(1)).collect();
        data.select(&samples)
    };
    // A batch that the model fixes is not made smaller.
    pick(n).or_else(|_| pick(data.batch_size()))
}

/// Compares all tensors that both models have, on about `samples` samples.
///
/// # Errors
/// When a sample cannot be read, or a model has no graph. Tensors that cannot be computed are counted.
pub(super) fn layers(
    original: &Model,
    pruned: &Model,
    data: &Dataset,
    runtime: &dyn Runtime,
    samples: usize,
    stage: &dyn Fn(&str),
) -> Result<Layers> {
    let data = spread(data, samples)?;
    let (first, second) = (made(original), made(pruned));
    let others: BTreeSet<&str> = second.iter().map(|(_, v)| v.as_str()).collect();
    let names: BTreeSet<&str> = first.iter().map(|(_, v)| v.as_str()).collect();
    let common: Vec<(&NodeProto, &String)> =
        first.iter().filter(|(_, v)| others.contains(v.as_str())).copied().collect();
    let only_original = first.len() - common.len();
    let only_pruned = second.iter().filter(|(_, v)| !names.contains(v.as_str())).count();
    let mut seen: BTreeMap<&str, Seen> = BTreeMap::new();
    // Constants that the graphs compute from constants are no layers.
    let mut fixed = 0;
    let step = (TOGETHER / data.batch_size().max(1)).max(1);
    for from in (0..data.batches()).step_by(step) {
        let feeds = (from..(from + step).min(data.batches())).map(|k| Ok(Arc::new(data.batch(k)?)));
        let feeds: Vec<Arc<Feed>> = feeds.collect::<Result<_, Error>>()?;
        let mut a = Walker::new(runtime, original, feeds.clone(), MEMORY)?;
        let mut b = Walker::new(runtime, pruned, feeds, MEMORY)?;
        fixed = common.iter().filter(|(_, v)| a.is_fixed(v) || b.is_fixed(v)).count();
        for (_, name) in &common {
            let lost = matches!(seen.get(name.as_str()), Some(Seen::OtherShape | Seen::LeftOut));
            if lost || a.is_fixed(name) || b.is_fixed(name) {
                continue;
            }
            stage(&format!("layers: {name}"));
            let asked = std::slice::from_ref(*name);
            let (x, y) = rayon::join(|| values(&mut a, asked), || values(&mut b, asked));
            let result = match (x, y) {
                (Ok(x), Ok(y)) => look(seen.remove(name.as_str()), &x, &y),
                (Err(e), _) => unread(of_model(e, original))?,
                (_, Err(e)) => unread(of_model(e, pruned))?,
            };
            seen.insert(name, result);
        }
    }
    let tensors = tensors(&first, &seen);
    let count = |f: fn(&Seen) -> bool| seen.values().filter(|s| f(s)).count();
    Ok(Layers {
        samples: data.len(),
        compared: tensors.len(),
        other_shape: count(|s| matches!(s, Seen::OtherShape)),
        left_out: count(|s| matches!(s, Seen::LeftOut)) + fixed,
        only_original,
        only_pruned,
        tensors,
    })
}

/// A tensor in all batches.
fn values(walker: &mut Walker, name: &[String]) -> Result<Vec<Array>> {
    let mut all = Vec::new();
    walker.advance(name, &mut |_, values| {
        all.extend(values);
        Ok(())
    })?;
    Ok(all)
}

/// What a runtime cannot hand out, such as sequences and strings, is left out.
fn unread(e: Error) -> Result<Seen> {
    match e {
        Error::Runtime { .. } | Error::Internal(_) => Ok(Seen::LeftOut),
        e => Err(e),
    }
}

fn look(before: Option<Seen>, a: &[Array], b: &[Array]) -> Seen {
    let mut sums = match before {
        Some(Seen::Sums(sums)) => sums,
        _ => Sums::default(),
    };
    for (a, b) in a.iter().zip(b) {
        if a.data.is_integer() || b.data.is_integer() {
            return Seen::LeftOut;
        }
        if a.dims != b.dims {
            return Seen::OtherShape;
        }
        sums.add(a, b);
    }
    Seen::Sums(sums)
}

fn tensors(made: &[(&NodeProto, &String)], seen: &BTreeMap<&str, Seen>) -> Vec<LayerDiff> {
    // The largest error of the nearest compared tensors before and including each tensor.
    let mut reach: BTreeMap<&str, f64> = BTreeMap::new();
    let mut out = Vec::new();
    for (node, name) in made {
        let reads = node.input.iter().map(String::as_str).chain(captured_names(node));
        let before = reads.filter_map(|r| reach.get(r)).copied().fold(0.0, f64::max);
        let Some(Seen::Sums(sums)) = seen.get(name.as_str()) else {
            reach.insert(name, before);
            continue;
        };
        let error = sums.error();
        reach.insert(name, error.unwrap_or(before));
        out.push(LayerDiff {
            tensor: name.to_string(),
            node: node.name().to_owned(),
            op: node.op_type().to_owned(),
            shape: sums.shape.clone(),
            mse: sums.mse(),
            error,
            growth: error.map(|e| e - before),
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Data;

    fn array(values: &[f32]) -> Array {
        Array { dims: vec![values.len()], data: Data::F32(values.to_vec()) }
    }

    #[test]
    fn errors_are_shares_of_the_variance_of_all_batches() {
        let mut sums = Sums::default();
        sums.add(&array(&[1.0, 3.0]), &array(&[1.0, 4.0]));
        sums.add(&array(&[5.0]), &array(&[5.0]));
        assert!((sums.error().unwrap() - 1.0 / 8.0).abs() < 1e-12);
        assert!((sums.mse() - 1.0 / 3.0).abs() < 1e-12);
        let mut flat = Sums::default();
        flat.add(&array(&[2.0, 2.0]), &array(&[2.0, 3.0]));
        assert_eq!(flat.error(), None);
    }

    #[test]
    fn growth_is_since_the_nearest_compared_tensor() {
        let node = |name: &str, reads: &[&str], makes: &str| NodeProto {
            name: Some(name.into()),
            op_type: Some("Conv".into()),
            input: reads.iter().map(|r| r.to_string()).collect(),
            output: vec![makes.into()],
            ..NodeProto::default()
        };
        let nodes = [node("1", &["x"], "a"), node("2", &["a"], "b"), node("3", &["b", "a"], "c")];
        let made: Vec<(&NodeProto, &String)> = nodes.iter().map(|n| (n, &n.output[0])).collect();
        let sums = |squares: f64| Seen::Sums(Sums { n: 1.0, squares, deviations: 1.0, ..Sums::default() });
        let seen = BTreeMap::from([("a", sums(0.1)), ("b", Seen::OtherShape), ("c", sums(0.3))]);
        let all = tensors(&made, &seen);
        assert_eq!(all.iter().map(|t| t.tensor.as_str()).collect::<Vec<_>>(), ["a", "c"]);
        assert!((all[0].growth.unwrap() - 0.1).abs() < 1e-12 && (all[1].growth.unwrap() - 0.2).abs() < 1e-12);
    }
}
