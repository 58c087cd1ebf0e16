//! Criteria against naive calculations on hand-made traces.

use super::*;
use crate::channels::{Axis, AxisId, BatchNorm, Channel, Role, Site, Tensor};
use crate::graph::{NodeId, ValueId};
use crate::ops::Activation;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use std::collections::HashMap;

static STANDARD: Criteria = Criteria::STANDARD;

/// A trace under construction, and its parameters.
#[derive(Default)]
struct Bench {
    channels: Channels,
    params: HashMap<TensorId, (Vec<usize>, Vec<f32>)>,
}

impl ParamReader for Bench {
    fn dims(&self, tensor: TensorId) -> &[usize] {
        self.params.get(&tensor).map_or(&[], |(dims, _)| dims)
    }

    fn values(&self, tensor: TensorId) -> Result<Cow<'_, [f32]>> {
        let values = self.params.get(&tensor).map(|(_, values)| Cow::Borrowed(values.as_slice()));
        values.ok_or_else(|| Error::Internal("no such tensor".into()))
    }
}

impl Bench {
    fn tensor(&mut self, key: &str, dims: &[usize], values: Vec<f32>) -> TensorId {
        assert_eq!(dims.iter().product::<usize>(), values.len());
        let id = TensorId(self.channels.tensors.len() as u32);
        self.channels.tensors.push(Tensor {
            value: ValueId(id.0),
            source: Some(ValueId(id.0)),
            key: key.to_owned(),
            readers: vec![],
            dims: dims.to_vec(),
            axes: vec![None; dims.len()],
            elem_type: 1,
        });
        self.params.insert(id, (dims.to_vec(), values));
        id
    }

    fn axis(&mut self, tensor: TensorId, axis: usize, fold: usize) -> AxisId {
        let len = self.params[&tensor].0[axis] * fold;
        self.channels.axes.push(Axis { tensor, axis, len, fold });
        AxisId(self.channels.axes.len() as u32 - 1)
    }

    /// A group of `n` channels; on each axis, a channel has `per` consecutive indices.
    fn group(&mut self, name: &str, n: usize, axes: &[(AxisId, u32)], roles: &[(Role, AxisId)], bns: Vec<BatchNorm>) {
        let channel = |c: u32| {
            let mut members: Vec<_> =
                axes.iter().flat_map(|&(axis, per)| (c * per..(c + 1) * per).map(move |i| (axis, i))).collect();
            members.sort_unstable();
            Channel { members }
        };
        self.channels.groups.push(Group {
            name: name.to_owned(),
            layers: vec![],
            channels: (0..n as u32).map(channel).collect(),
            axes: axes.to_vec(),
            sites: roles.iter().map(|&(role, axis)| Site { role, node: NodeId(axis.0), axis }).collect(),
            batch_norms: bns,
        });
    }

    fn batch_norm(&mut self, params: [&[f32]; 4], activation: Activation, producer: Option<AxisId>) -> BatchNorm {
        let [scale, shift, mean, var] = [0, 1, 2, 3].map(|i| {
            let key = format!("bn{}.{}", self.channels.tensors.len(), ["scale", "shift", "mean", "var"][i]);
            self.tensor(&key, &[params[i].len()], params[i].to_vec())
        });
        let axis = self.axis(scale, 0, 1);
        BatchNorm { node: NodeId(99), scale, shift, mean, var, epsilon: 1e-3, axis, activation, producer }
    }

    fn cx(&self, seed: u64) -> ScoreContext<'_> {
        ScoreContext { channels: &self.channels, params: self, seed, activations: None, criteria: &STANDARD }
    }

    fn score(&self, name: &str, aggregate: Aggregate) -> Option<Vec<f64>> {
        Criteria::STANDARD.get(name).unwrap().score(&self.cx(1), &self.channels.groups[0], aggregate).unwrap()
    }

    fn all(&self, spec: &str, normalize: Normalize) -> Result<Scores> {
        score_all(&self.cx(1), &spec.parse()?, &"l2".parse()?, Aggregate::Mean, normalize)
    }
}

fn noise(seed: u64, n: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| rng.next_u32() as f32 / u32::MAX as f32 * 2.0 - 1.0).collect()
}

fn close(got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len());
    for (g, w) in got.iter().zip(want) {
        assert!((g - w).abs() <= 1e-6 * w.abs().max(1e-3), "{got:?} instead of {want:?}");
    }
}

fn over_mean(values: &[f64]) -> Vec<f64> {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    values.iter().map(|x| x / mean).collect()
}

/// The elements of a slice, the slow way: `(dims, values, axis, fold, index)`.
fn naive_slice(dims: &[usize], values: &[f32], axis: usize, fold: usize, index: usize) -> Vec<f32> {
    let stored = dims[axis];
    let inner: usize = dims[axis + 1..].iter().product();
    let first: usize = dims[1..].iter().product();
    let at = |flat: usize| flat / inner % stored;
    let block = |flat: usize| if fold == 1 { 0 } else { flat / first / (dims[0] / fold) };
    (0..values.len()).filter(|&flat| block(flat) * stored + at(flat) == index).map(|flat| values[flat]).collect()
}

const SHAPES: [(&[usize], usize, usize); 7] = [
    (&[6, 4, 3, 3], 0, 1),
    (&[6, 4, 3, 3], 1, 1),
    (&[6, 4, 3, 3], 1, 3),
    (&[6, 4], 1, 2),
    (&[5, 7], 1, 1),
    (&[9], 0, 1),
    (&[2, 3, 5, 1, 4], 2, 1),
];

#[test]
fn slices_and_norms_equal_the_slow_way() {
    for (dims, axis, fold) in SHAPES {
        let values = noise(3, dims.iter().product());
        let layout = slices::Layout::new(dims, axis, fold).unwrap();
        let norms = slices::AxisNorms::new(layout, &values).unwrap();
        assert_eq!(layout.len(), dims[axis] * fold);
        for index in 0..layout.len() {
            let slice = naive_slice(dims, &values, axis, fold, index);
            let runs: Vec<f32> = layout.runs(&values, index).unwrap().flatten().copied().collect();
            assert_eq!(runs, slice, "{dims:?} axis {axis} fold {fold} index {index}");
            let l1: f64 = slice.iter().map(|&w| f64::from(w.abs())).sum();
            let squared: f64 = slice.iter().map(|&w| f64::from(w).powi(2)).sum();
            close(&[norms.l1[index], norms.squared[index]], &[l1, squared]);
        }
        assert!(layout.runs(&values, layout.len()).is_none());
        assert!(slices::AxisNorms::new(layout, &values[1..]).is_none());
    }
    for (dims, axis, fold) in [(&[4, 2][..], 2, 1), (&[4, 2], 1, 3), (&[4, 2], 0, 2), (&[4, 2], 1, 0), (&[], 0, 1)] {
        assert!(slices::Layout::new(dims, axis, fold).is_none(), "{dims:?} {axis} {fold}");
    }
    let empty = slices::Layout::new(&[0, 3], 1, 1).unwrap();
    assert_eq!(slices::AxisNorms::new(empty, &[]).unwrap().l1, [0.0; 3]);
}

/// Conv [4,3,3,3] → BN → ReLU → grouped Conv [6,2,1,1] in 2 groups, and a Flatten → Gemm [5, 8] with 2 indices a
/// channel.
fn small() -> Bench {
    let mut b = Bench::default();
    let made = b.tensor("conv.weight", &[4, 3, 3, 3], noise(1, 108));
    let read = b.tensor("next.weight", &[6, 2, 1, 1], noise(2, 12));
    let gemm = b.tensor("fc.weight", &[5, 8], noise(4, 40));
    let bias = b.tensor("conv.bias", &[4], noise(5, 4));
    let (made, read, gemm, bias) = (b.axis(made, 0, 1), b.axis(read, 1, 2), b.axis(gemm, 1, 1), b.axis(bias, 0, 1));
    let bn = b.batch_norm(
        [&[0.5, -1.5, 0.25, 1.0], &[0.1, -0.4, 2.0, 0.0], &[-1.0, 0.5, 0.0, 2.0], &[1.0, 4.0, 0.25, 0.5]],
        Activation::Relu,
        Some(made),
    );
    let axes = [(made, 1), (read, 1), (gemm, 2), (bias, 1), (bn.axis, 1)];
    let sites = [(Role::Producer, made), (Role::Consumer, read), (Role::Consumer, gemm), (Role::Bias, bias)];
    b.group("conv", 4, &axes, &sites, vec![bn]);
    b
}

/// Norms of the three weight sites of [`small`], before any scaling.
fn small_sites(power: i32) -> [Vec<f64>; 3] {
    let norm = |slice: Vec<f32>| {
        let sum: f64 = slice.iter().map(|&w| f64::from(w.abs()).powi(power)).sum();
        if power == 2 { sum.sqrt() } else { sum }
    };
    let (made, read, gemm) = (noise(1, 108), noise(2, 12), noise(4, 40));
    let fc = |i| naive_slice(&[5, 8], &gemm, 1, 1, i);
    [
        (0..4).map(|i| norm(naive_slice(&[4, 3, 3, 3], &made, 0, 1, i))).collect(),
        (0..4).map(|i| norm(naive_slice(&[6, 2, 1, 1], &read, 1, 2, i))).collect(),
        (0..4).map(|i| norm([fc(2 * i), fc(2 * i + 1)].concat())).collect(),
    ]
}

#[test]
fn norms_are_put_together_over_sites() {
    let b = small();
    for (name, power) in [("l1", 1), ("l2", 2)] {
        let sites = small_sites(power).map(|site| over_mean(&site));
        let at =
            |f: &dyn Fn([f64; 3]) -> f64| -> Vec<f64> { (0..4).map(|c| f([0, 1, 2].map(|s| sites[s][c]))).collect() };
        close(&b.score(name, Aggregate::Sum).unwrap(), &at(&|x| x.iter().sum()));
        close(&b.score(name, Aggregate::Mean).unwrap(), &at(&|x| x.iter().sum::<f64>() / 3.0));
        close(&b.score(name, Aggregate::Max).unwrap(), &at(&|x| x.iter().copied().fold(0.0, f64::max)));
    }
}

#[test]
fn norms_without_weights_take_what_there_is() {
    let mut b = Bench::default();
    let table = b.tensor("table", &[2, 3], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let slope = b.tensor("slope", &[3], vec![1.0, -2.0, 3.0]);
    let (table, slope) = (b.axis(table, 1, 1), b.axis(slope, 0, 1));
    let (both, one) = ([(Role::PerChannel, slope), (Role::PerChannel, table)], [(Role::PerChannel, slope)]);
    b.group("a", 3, &[(table, 1), (slope, 1)], &both, vec![]);
    close(&b.score("l1", Aggregate::Mean).unwrap(), &over_mean(&[5.0, 7.0, 9.0]));
    b.channels.groups.clear();
    b.group("a", 3, &[(slope, 1)], &one, vec![]);
    close(&b.score("l1", Aggregate::Mean).unwrap(), &over_mean(&[1.0, 2.0, 3.0]));
    for name in ["fpgm", "bn-scale", "bn-folded", "output-error"] {
        assert_eq!(b.score(name, Aggregate::Mean), None, "{name}");
    }
    b.channels.groups[0].sites.clear();
    assert_eq!(b.score("l2", Aggregate::Mean), None);
    assert!(matches!(b.all("bn-scale", Normalize::Mean), Err(Error::Usage(m)) if m.contains("\"a\"")));
}

#[test]
fn batch_norm_criteria_equal_their_formulas() {
    let b = small();
    close(&b.score("bn-scale", Aggregate::Mean).unwrap(), &[0.5, 1.5, 0.25, 1.0]);
    close(&b.score("bn-variance", Aggregate::Mean).unwrap(), &[1.0, 4.0, 0.25, 0.5]);
    close(&b.score("bn-mean", Aggregate::Mean).unwrap(), &[1.0, 0.5, 0.0, 2.0]);
    let bn = [(0.5, 0.1, 1.0), (-1.5, -0.4, 4.0), (0.25, 2.0, 0.25), (1.0, 0.0, 0.5)]
        .map(|(g, b, v): (f32, f32, f32)| (f64::from(g), f64::from(b), f64::from(v)));
    let moments = bn.map(|(scale, shift, _)| Activation::Relu.moments(shift, scale).unwrap());
    close(&b.score("bn-activation", Aggregate::Mean).unwrap(), &moments.map(|m| m.1));
    let [made, read, gemm] = small_sites(2);
    let folded: Vec<f64> = (0..4).map(|c| bn[c].0.abs() / (bn[c].2 + 1e-3).sqrt() * made[c]).collect();
    close(&b.score("bn-folded", Aggregate::Mean).unwrap(), &folded);
    let error = |c: usize| (moments[c].1 - moments[c].0.powi(2)) * (read[c].powi(2) + gemm[c].powi(2));
    close(&b.score("output-error", Aggregate::Mean).unwrap(), &[0, 1, 2, 3].map(error));
    // z ~ N(0, 1) through ReLU: E = 1/√2π, E² = 1/2.
    assert!((moments[3].0 - 0.398_942_280_4).abs() < 1e-9 && (moments[3].1 - 0.5).abs() < 1e-12);
}

#[test]
fn several_batch_norms_are_aggregated() {
    let mut b = Bench::default();
    let bns = [[3.0, -1.0], [1.0, 2.0]].map(|scale: [f32; 2]| {
        b.batch_norm([&scale, &[1.0, 0.5], &[0.0, 0.0], &[1.0, 1.0]], Activation::Unknown, None)
    });
    b.group("a", 2, &[(bns[0].axis, 1), (bns[1].axis, 1)], &[], bns.to_vec());
    close(&b.score("bn-scale", Aggregate::Mean).unwrap(), &[2.0, 1.5]);
    close(&b.score("bn-scale", Aggregate::Max).unwrap(), &[3.0, 2.0]);
    // An unknown activation counts as none: β² + γ². A filter that is not known counts as 1.
    close(&b.score("bn-activation", Aggregate::Sum).unwrap(), &[1.0 + 9.0 + 1.0 + 1.0, 0.25 + 1.0 + 0.25 + 4.0]);
    close(&b.score("bn-folded", Aggregate::Max).unwrap(), &[3.0 / 1.001f64.sqrt(), 2.0 / 1.001f64.sqrt()]);
    assert_eq!(b.score("output-error", Aggregate::Mean), None);
}

#[test]
fn fpgm_equals_the_double_loop() {
    for (dims, axis, fold, per) in [
        (&[70, 3, 3, 3][..], 0, 1, 1),
        (&[66, 150], 0, 1, 2),
        (&[4, 5, 3], 1, 2, 1),
        (&[7, 41], 1, 1, 1),
        (&[1, 3], 0, 1, 1),
    ] {
        let mut b = Bench::default();
        let values = noise(8, dims.iter().product());
        let weight = b.tensor("w", dims, values.clone());
        let axis_id = b.axis(weight, axis, fold);
        let n = dims[axis] * fold / per;
        b.group("a", n, &[(axis_id, per as u32)], &[(Role::Producer, axis_id)], vec![]);
        let rows: Vec<Vec<f32>> = (0..n)
            .map(|c| (c * per..(c + 1) * per).flat_map(|i| naive_slice(dims, &values, axis, fold, i)).collect())
            .collect();
        let distance = |a: &[f32], b: &[f32]| {
            a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>().sqrt()
        };
        let sums: Vec<f64> = rows.iter().map(|a| rows.iter().map(|b| distance(a, b)).sum()).collect();
        let want = if n > 1 { over_mean(&sums) } else { vec![0.0] };
        close(&b.score("fpgm", Aggregate::Mean).unwrap(), &want);
    }
}

#[test]
fn random_depends_on_seed_and_name_only() {
    let mut b = small();
    let again = b.channels.groups[0].clone();
    b.channels.groups.push(Group { name: "other".into(), ..again });
    let spec = "random".parse().unwrap();
    let run = |b: &Bench, seed| score_all(&b.cx(seed), &spec, &spec, Aggregate::Mean, Normalize::None).unwrap().values;
    let first = run(&b, 7);
    assert_ne!(first[0], first[1]);
    assert_ne!(first, run(&b, 8));
    assert!(first.iter().flatten().all(|x| (0.0..1.0).contains(x)));
    b.channels.groups.reverse();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    let turned = pool.install(|| run(&b, 7));
    assert_eq!([&turned[1], &turned[0]], [&first[0], &first[1]]);
}

#[test]
fn combinations_normalise_and_leave_out_what_does_not_apply() {
    let mut b = small();
    let plain = Group { batch_norms: vec![], name: "plain".into(), ..b.channels.groups[0].clone() };
    b.channels.groups.push(plain);
    let scores = b.all("bn-scale=3,l1", Normalize::None).unwrap();
    let (scale, l1) = (over_mean(&[0.5, 1.5, 0.25, 1.0]), b.score("l1", Aggregate::Mean).unwrap());
    let both: Vec<f64> = scale.iter().zip(&l1).map(|(s, l)| (3.0 * s + l) / 4.0).collect();
    close(&scores.values[0], &both);
    close(&scores.values[1], &l1);
    assert_eq!((scores.used, scores.fallback_groups), (vec!["bn-scale=3,l1".into(), "l1".into()], 1));
    let scores = b.all("bn-folded", Normalize::Max).unwrap();
    assert_eq!((&scores.used[..], scores.fallback_groups), (&["bn-folded".to_owned(), "l2".to_owned()][..], 1));
    for values in &scores.values {
        assert_eq!(values.iter().copied().fold(0.0, f64::max), 1.0);
    }
    assert_eq!(b.all("l1", Normalize::Mean).unwrap().fallback_groups, 0);
    let raw =
        score_all(&b.cx(0), &"bn-scale=0.1".parse().unwrap(), &"l2".parse().unwrap(), Aggregate::Sum, Normalize::None);
    assert_eq!(raw.unwrap().values[0], [0.5, 1.5, 0.25, 1.0]);
}

#[test]
fn normalisation() {
    let apply = |normalize: Normalize, values: &[f64]| {
        let mut values = values.to_vec();
        normalize.apply(&mut values);
        values
    };
    assert_eq!(apply(Normalize::None, &[1.0, 3.0]), [1.0, 3.0]);
    assert_eq!(apply(Normalize::Mean, &[1.0, 3.0]), [0.5, 1.5]);
    assert_eq!(apply(Normalize::Max, &[1.0, 4.0]), [0.25, 1.0]);
    assert_eq!(apply(Normalize::Gaussian, &[1.0, 3.0]), [-1.0, 1.0]);
    for normalize in [Normalize::Mean, Normalize::Max, Normalize::Gaussian] {
        assert_eq!(apply(normalize, &[0.0, 0.0]), [0.0, 0.0]);
        assert_eq!(apply(normalize, &[]), [0.0; 0]);
        assert!(apply(normalize, &[0.1; 3]).iter().all(|x| x.is_finite()));
    }
    assert_eq!(apply(Normalize::Gaussian, &[0.1; 3]), [0.0; 3]);
}

#[test]
fn broken_parameters_are_named() {
    let usage = |b: &Bench, spec: &str, key: &str| match b.all(spec, Normalize::Mean) {
        Err(Error::Usage(message)) => assert!(message.contains(key), "{spec}: {message}"),
        other => panic!("{spec}: {other:?}"),
    };
    let broken = |key: &str, value: f32| {
        let mut b = small();
        let id = b.channels.tensors.iter().position(|t| t.key == key).unwrap();
        b.params.get_mut(&TensorId(id as u32)).unwrap().1[1] = value;
        b
    };
    for spec in ["l1", "l2", "fpgm", "bn-folded"] {
        usage(&broken("conv.weight", f32::NAN), spec, "\"conv.weight\"");
    }
    usage(&broken("fc.weight", f32::INFINITY), "output-error", "\"fc.weight\"");
    usage(&broken("bn4.scale", f32::NAN), "bn-scale", "\"bn4.scale\"");
    usage(&broken("bn5.shift", f32::NEG_INFINITY), "bn-activation", "\"bn5.shift\"");
    usage(&broken("bn7.var", -1.0), "bn-folded", "\"bn7.var\"");
    let mut b = small();
    b.channels.axes[0].len = 5;
    assert!(matches!(b.all("l2", Normalize::Mean), Err(Error::Internal(_))));
    let mut b = small();
    b.channels.groups[0].channels[0].members[0].1 = 99;
    for spec in ["l2", "fpgm"] {
        assert!(matches!(b.all(spec, Normalize::Mean), Err(Error::Internal(_))), "{spec}");
    }
}

#[test]
fn specs_parse_and_print() {
    for text in ["l2", "bn-scale=0.7,l1=0.3", "bn-scale,random=2"] {
        let spec: CriterionSpec = text.parse().unwrap();
        assert_eq!(spec.to_string(), text);
        let json = serde_json::to_string(&spec).unwrap();
        assert_eq!(json, format!("{text:?}"));
        assert_eq!(serde_json::from_str::<CriterionSpec>(&json).unwrap(), spec);
    }
    assert_eq!(" l1 = 2 , fpgm ".parse::<CriterionSpec>().unwrap().parts, [("l1".into(), 2.0), ("fpgm".into(), 1.0)]);
    for (text, says) in [
        ("", "there are: bn-scale, "),
        ("L2", "there are: bn-scale, "),
        ("l2,", "unknown criterion \"\""),
        ("l2=0", "above zero"),
        ("l2=-1", "above zero"),
        ("l2=inf", "above zero"),
        ("l2=nan", "above zero"),
        ("l2=x", "\"x\""),
        ("l2=", "above zero"),
        ("l2=1,l2=2", "twice"),
    ] {
        let message = text.parse::<CriterionSpec>().unwrap_err().to_string();
        assert!(message.contains(says), "{text}: {message}");
    }
    for criterion in CRITERIA {
        assert_eq!(Criteria::STANDARD.get(criterion.name()).map(|c| c.about()).ok(), Some(criterion.about()));
    }
}
