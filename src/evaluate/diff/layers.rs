//! Where in the network the difference arises: tensors of the same name, compared in the network's order.

use super::super::exact;
use super::super::shard::Shard;
use super::of_model;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::flat::captured_names;
use crate::onnx::Model;
use crate::onnx::proto::NodeProto;
use crate::runtime::walk::{Feed, Walker};
use crate::runtime::{Array, Runtime};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
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
    n: f64,
    squares: f64,
    /// Mean and sum of squared deviations of the original's elements.
    mean: f64,
    deviations: f64,
}

/// What became of a tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Seen {
    /// It was compared.
    Compared {
        /// Its sizes in the first batch.
        shape: Vec<usize>,
        /// A batch at a time: elements, sum of squared differences, mean and sum of squared deviations of the original's.
        #[serde(with = "exact::rows")]
        #[schemars(with = "Vec<[exact::Exact; 4]>")]
        batches: Vec<[f64; 4]>,
    },
    /// Its sizes differ.
    OtherShape,
    /// It does not come out, or holds integers.
    LeftOut,
}

impl Seen {
    /// Goes on with what comes after. What is lost once is lost.
    fn join(&mut self, after: Seen) {
        if let Seen::Compared { batches, .. } = self {
            match after {
                Seen::Compared { batches: more, .. } => batches.extend(more),
                lost => *self = lost,
            }
        }
    }
}

/// A node's output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
struct Made {
    tensor: String,
    node: String,
    op: String,
    /// What the node reads, through its subgraphs too.
    reads: Vec<String>,
}

/// What a run over some of the samples saw of layers.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(super) struct LayersSeen {
    /// Of all, not of those seen here.
    samples: usize,
    /// Everything that the original's nodes make, in order.
    made: Vec<Made>,
    only_original: usize,
    only_pruned: usize,
    /// Constants that the graphs compute from constants are no layers.
    fixed: usize,
    /// By the position in `made`.
    seen: BTreeMap<usize, Seen>,
}

/// One batch of a tensor in both models: elements, squared differences, mean, squared deviations.
fn batch(a: &Array, b: &Array) -> [f64; 4] {
    let (a, b) = (a.to_f64(), b.to_f64());
    let n = a.len() as f64;
    if n == 0.0 {
        return [0.0; 4];
    }
    let apart = |(a, b): (&f64, &f64)| if a == b { 0.0 } else { (a - b) * (a - b) };
    let squares = a.iter().zip(&b).map(apart).sum::<f64>();
    let mean = a.iter().sum::<f64>() / n;
    [n, squares, mean, a.iter().map(|x| (x - mean) * (x - mean)).sum()]
}

impl Sums {
    fn of(batches: &[[f64; 4]]) -> Sums {
        let mut sums = Sums::default();
        batches.iter().filter(|b| b[0] > 0.0).for_each(|b| sums.add(*b));
        sums
    }

    fn add(&mut self, [n, squares, mean, deviations]: [f64; 4]) {
        self.squares += squares;
        // Chan, Golub and LeVeque's way to join two variances.
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

/// All tensors that nodes make, in order.
fn made(model: &Model) -> Vec<Made> {
    let nodes = model.proto.graph.iter().flat_map(|g| &g.node);
    let reads =
        |n: &NodeProto| n.input.iter().map(String::as_str).chain(captured_names(n)).map(str::to_owned).collect();
    let one = |n: &NodeProto, tensor: &String| Made {
        tensor: tensor.clone(),
        node: n.name().to_owned(),
        op: n.op_type().to_owned(),
        reads: reads(n),
    };
    nodes.flat_map(|n| n.output.iter().filter(|o| !o.is_empty()).map(move |o| one(n, o))).collect()
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

/// Compares all tensors that both models have, on one part of about `samples` samples.
///
/// # Errors
/// When a sample cannot be read, or a model has no graph. Tensors that cannot be computed are counted.
pub(super) fn layers(
    (original, pruned): (&Model, &Model),
    data: &Dataset,
    runtime: &dyn Runtime,
    samples: usize,
    shard: Shard,
    stage: &dyn Fn(&str),
) -> Result<LayersSeen> {
    let data = spread(data, samples)?;
    let (first, second) = (made(original), made(pruned));
    let others: BTreeSet<&str> = second.iter().map(|m| m.tensor.as_str()).collect();
    let names: BTreeSet<&str> = first.iter().map(|m| m.tensor.as_str()).collect();
    let common: Vec<(usize, &Made)> =
        first.iter().enumerate().filter(|(_, m)| others.contains(m.tensor.as_str())).collect();
    let only_original = first.len() - common.len();
    let only_pruned = second.iter().filter(|m| !names.contains(m.tensor.as_str())).count();
    let idle = |model| Walker::new(runtime, model, Vec::new(), 0);
    let (a, b) = (idle(original)?, idle(pruned)?);
    let (fixed, moving): (Vec<_>, Vec<_>) =
        common.iter().partition(|(_, m)| a.is_fixed(&m.tensor) || b.is_fixed(&m.tensor));
    let mut seen: BTreeMap<usize, Seen> = BTreeMap::new();
    // Batches that go through the network together stay together, whatever part they are in, and every tensor is asked for each
    // time: what a runtime computes may depend, in its last bits, on the stretches that the network is cut into.
    let step = (TOGETHER / data.batch_size().max(1)).max(1);
    for group in shard.range(data.batches().div_ceil(step)) {
        let batches = group * step..((group + 1) * step).min(data.batches());
        let feeds: Vec<Arc<Feed>> = batches.map(|k| Ok(Arc::new(data.batch(k)?))).collect::<Result<_, Error>>()?;
        let mut a = Walker::new(runtime, original, feeds.clone(), MEMORY)?;
        let mut b = Walker::new(runtime, pruned, feeds, MEMORY)?;
        for &(at, m) in &moving {
            stage(&format!("layers: {}", m.tensor));
            let asked = std::slice::from_ref(&m.tensor);
            let (x, y) = rayon::join(|| values(&mut a, asked), || values(&mut b, asked));
            let result = match (x, y) {
                (Ok(x), Ok(y)) => look(&x, &y),
                (Err(e), _) => unread(of_model(e, original))?,
                (_, Err(e)) => unread(of_model(e, pruned))?,
            };
            match seen.get_mut(&at) {
                Some(before) => before.join(result),
                None => _ = seen.insert(at, result),
            }
        }
    }
    let fixed = fixed.len();
    Ok(LayersSeen { samples: data.len(), only_original, only_pruned, fixed, seen, made: first })
}

impl LayersSeen {
    /// Goes on with what comes after.
    pub fn join(&mut self, after: LayersSeen) {
        for (at, more) in after.seen {
            match self.seen.get_mut(&at) {
                Some(before) => before.join(more),
                None => _ = self.seen.insert(at, more),
            }
        }
    }

    /// Whether both are about the same networks and samples.
    pub fn alike(&self, other: &LayersSeen) -> bool {
        let head = |l: &LayersSeen| (l.samples, l.only_original, l.only_pruned, l.fixed);
        head(self) == head(other) && self.made == other.made
    }

    /// The comparison.
    pub fn finish(&self) -> Layers {
        let tensors = tensors(&self.made, &self.seen);
        let count = |f: fn(&Seen) -> bool| self.seen.values().filter(|s| f(s)).count();
        Layers {
            samples: self.samples,
            compared: tensors.len(),
            other_shape: count(|s| matches!(s, Seen::OtherShape)),
            left_out: count(|s| matches!(s, Seen::LeftOut)) + self.fixed,
            only_original: self.only_original,
            only_pruned: self.only_pruned,
            tensors,
        }
    }
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

fn look(a: &[Array], b: &[Array]) -> Seen {
    let mut batches = Vec::new();
    for (a, b) in a.iter().zip(b) {
        if a.data.is_integer() || b.data.is_integer() {
            return Seen::LeftOut;
        }
        if a.dims != b.dims {
            return Seen::OtherShape;
        }
        batches.push(batch(a, b));
    }
    Seen::Compared { shape: a.first().map(|a| a.dims.clone()).unwrap_or_default(), batches }
}

fn tensors(made: &[Made], seen: &BTreeMap<usize, Seen>) -> Vec<LayerDiff> {
    // The largest error of the nearest compared tensors before and including each tensor.
    let mut reach: BTreeMap<&str, f64> = BTreeMap::new();
    let mut out = Vec::new();
    for (at, m) in made.iter().enumerate() {
        let before = m.reads.iter().filter_map(|r| reach.get(r.as_str())).copied().fold(0.0, f64::max);
        let Some(Seen::Compared { shape, batches }) = seen.get(&at) else {
            reach.insert(&m.tensor, before);
            continue;
        };
        let sums = Sums::of(batches);
        let error = sums.error();
        reach.insert(&m.tensor, error.unwrap_or(before));
        out.push(LayerDiff {
            tensor: m.tensor.clone(),
            node: m.node.clone(),
            op: m.op.clone(),
            shape: shape.clone(),
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
        let sums = Sums::of(&[
            batch(&array(&[1.0, 3.0]), &array(&[1.0, 4.0])),
            batch(&array(&[]), &array(&[])),
            batch(&array(&[5.0]), &array(&[5.0])),
        ]);
        assert!((sums.error().unwrap() - 1.0 / 8.0).abs() < 1e-12);
        assert!((sums.mse() - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!(Sums::of(&[batch(&array(&[2.0, 2.0]), &array(&[2.0, 3.0]))]).error(), None);
    }

    #[test]
    fn growth_is_since_the_nearest_compared_tensor() {
        let node = |name: &str, reads: &[&str], makes: &str| Made {
            tensor: makes.into(),
            node: name.into(),
            op: "Conv".into(),
            reads: reads.iter().map(|r| r.to_string()).collect(),
        };
        let made = [node("1", &["x"], "a"), node("2", &["a"], "b"), node("3", &["b", "a"], "c")];
        // One element with a squared deviation of 1.
        let sums = |squares: f64| Seen::Compared { shape: vec![1], batches: vec![[1.0, squares, 0.0, 1.0]] };
        let seen = BTreeMap::from([(0, sums(0.1)), (1, Seen::OtherShape), (2, sums(0.3))]);
        let all = tensors(&made, &seen);
        assert_eq!(all.iter().map(|t| t.tensor.as_str()).collect::<Vec<_>>(), ["a", "c"]);
        assert!((all[0].growth.unwrap() - 0.1).abs() < 1e-12 && (all[1].growth.unwrap() - 0.2).abs() < 1e-12);
    }

    #[test]
    fn what_is_lost_once_is_lost() {
        let compared = |x: f64| Seen::Compared { shape: vec![1], batches: vec![[1.0, x, 0.0, 1.0]] };
        let joined = |mut a: Seen, b: Seen| {
            a.join(b);
            a
        };
        assert_eq!(joined(Seen::LeftOut, compared(1.0)), Seen::LeftOut);
        assert_eq!(joined(compared(1.0), Seen::OtherShape), Seen::OtherShape);
        assert_eq!(joined(Seen::OtherShape, Seen::LeftOut), Seen::OtherShape);
        let Seen::Compared { batches, .. } = joined(compared(1.0), compared(2.0)) else { panic!() };
        assert_eq!(batches.len(), 2);
    }
}
