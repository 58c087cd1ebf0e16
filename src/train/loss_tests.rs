//! Every loss: its value against the formula, its gradient against central differences, in `float64`.

use super::*;
use crate::canon;
use crate::graph::Graph;
use crate::onnx::Model;
use crate::onnx::proto::{GraphProto, ModelProto, OperatorSetIdProto, ValueInfoProto, tensor_proto::DataType};
use crate::rewrite::Names;
use crate::runtime::{Array, Data, Session, embedded};
use crate::train::fixed::value_info;

type Make<'a> = &'a dyn Fn(&mut Tape, Var, Var) -> Answer<Term>;

/// A loss of `s` beside `t`.
struct Bench {
    session: Box<dyn Session>,
    dims: Vec<usize>,
}

impl Bench {
    fn new(dims: &[usize], make: Make) -> Self {
        let inputs = ["s", "t"].map(|n| value_info(n, DataType::Double as i32, Some(dims)));
        let opset = OperatorSetIdProto { version: Some(18), ..Default::default() };
        let graph = GraphProto { name: Some("g".into()), input: inputs.into(), ..Default::default() };
        let proto =
            ModelProto { ir_version: Some(8), opset_import: vec![opset], graph: Some(graph), ..Default::default() };
        let model = Model::from_proto(proto, "loss.onnx");
        let graph = Graph::new(&model).unwrap();
        let mut t = Tape::new(Names::new(&canon::analyse(&graph)), 18, DataType::Double);
        let (s, w) = (t.existing("s", dims), t.existing("t", dims));
        let term = make(&mut t, s, w).unwrap();
        assert_eq!((t.dims(term.value), t.dims(term.gradient)), (&[][..], dims));
        t.named(term.value, "value");
        t.named(term.gradient, "gradient");
        let (node, initializer) = t.finish();
        let output =
            ["value", "gradient"].map(|n| ValueInfoProto { name: Some(n.into()), ..Default::default() }).into();
        let made = GraphProto { node, initializer, output, ..graph.proto.clone() };
        let proto = ModelProto { graph: Some(made), ..model.proto.clone() };
        let session = embedded().unwrap().load(&Model::from_proto(proto, "loss.onnx")).unwrap();
        Bench { session, dims: dims.to_vec() }
    }

    fn at(&mut self, s: &[f64], t: &[f64]) -> (f64, Vec<f64>) {
        let array = |v: &[f64]| Array { dims: self.dims.clone(), data: Data::F64(v.to_vec()) };
        let out = self.session.run(&[("s".into(), array(s)), ("t".into(), array(t))]).unwrap();
        (out[0].1.to_f64()[0], out[1].1.to_f64())
    }

    fn check(&mut self, name: &str, s: &[f64], t: &[f64], wanted: f64) -> Vec<f64> {
        const STEP: f64 = 1e-5;
        let (value, gradient) = self.at(s, t);
        assert!((value - wanted).abs() <= 1e-10 * wanted.abs().max(1.0), "{name}: {value} is not {wanted}");
        let scale = gradient.iter().fold(0.0f64, |m, g| m.max(g.abs()));
        assert!(scale > 1e-3 * value.abs(), "{name}: a gradient of {scale}");
        for i in 0..s.len() {
            let mut moved = |h: f64| {
                let mut s = s.to_vec();
                s[i] += h;
                self.at(&s, t).0
            };
            let measured = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
            assert!((measured - gradient[i]).abs() <= 1e-7 * scale.max(1.0), "{name} {i}: {measured}, {}", gradient[i]);
        }
        gradient
    }
}

fn numbers(n: usize, by: usize) -> Vec<f64> {
    (0..n).map(|i| ((i * by + by) % 97) as f64 / 24.0 - 2.0).collect()
}

/// `(softmax(z / T), log softmax(z / T))` over axis 1, element by element.
fn softened(dims: &[usize], z: &[f64], temperature: f64) -> Vec<(f64, f64)> {
    let inner: usize = dims[2..].iter().product();
    let c = dims[1];
    let of = |i: usize| {
        let (sample, at) = (i / (c * inner), i % inner);
        let sum: f64 = (0..c).map(|k| (z[(sample * c + k) * inner + at] / temperature).exp()).sum();
        let log = z[i] / temperature - sum.ln();
        (log.exp(), log)
    };
    (0..z.len()).map(of).collect()
}

#[test]
fn losses_are_their_formulas_and_gradients_their_differences() {
    for dims in [vec![4, 5], vec![3, 4, 2, 2]] {
        let n: usize = dims.iter().product();
        let rows = (n / dims[1]) as f64;
        let (s, t) = (numbers(n, 37), numbers(n, 61));
        let wanted: Vec<f64> = softened(&dims, &t, 1.0).iter().map(|p| p.0).collect();
        let logs = softened(&dims, &s, 1.0);
        let ce: f64 = wanted.iter().zip(&logs).map(|(q, (_, log))| -q * log).sum::<f64>() / rows;
        Bench::new(&dims, &cross_entropy).check("ce", &s, &wanted, ce);
        for temperature in [1.0, 4.0] {
            let (a, b) = (softened(&dims, &s, temperature), softened(&dims, &t, temperature));
            let sum: f64 = a.iter().zip(&b).map(|((_, ls), (pt, lt))| pt * (lt - ls)).sum();
            let mut bench = Bench::new(&dims, &|tape, s, t| kl(tape, s, t, temperature));
            bench.check("kl", &s, &t, temperature * temperature * sum / rows);
            let (same, still) = bench.at(&s, &s);
            assert!(same.abs() < 1e-12 && still.iter().all(|g| g.abs() < 1e-12));
        }
        let mean = |f: &dyn Fn(f64) -> f64| s.iter().zip(&t).map(|(s, t)| f(s - t)).sum::<f64>() / n as f64;
        Bench::new(&dims, &mse).check("mse", &s, &t, mean(&|d| d * d));
        Bench::new(&dims, &l1).check("l1", &s, &t, mean(&f64::abs));
    }
}

#[test]
fn the_scale_of_cosine_is_a_factor() {
    let dims = [3, 4, 2, 2];
    let (s, t) = (numbers(48, 37), numbers(48, 61));
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let one = |(a, b): (&[f64], &[f64])| 1.0 - dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
    let off = s.chunks(16).zip(t.chunks(16)).map(one).sum::<f64>() / 3.0;
    let gradient = |scale: f64| {
        let name = format!("cosine, scale {scale}");
        Bench::new(&dims, &|tape, s, t| cosine(tape, s, t, scale)).check(&name, &s, &t, scale * off)
    };
    let plain = gradient(1.0);
    for scale in [0.25, 1024.0] {
        // To the bit for powers of two.
        let scaled: Vec<f64> = plain.iter().map(|g| scale * g).collect();
        assert_eq!(gradient(scale), scaled);
    }
    for (a, b) in gradient(10.0).iter().zip(&plain) {
        assert!((a - 10.0 * b).abs() <= 1e-14 * b.abs(), "{a} is not 10 · {b}");
    }
    // Length does not count, and a sample of zeros is at rest.
    let mut bench = Bench::new(&dims, &|tape, s, t| cosine(tape, s, t, 1.0));
    let longer: Vec<f64> = s.iter().map(|x| 3.0 * x).collect();
    assert!((bench.at(&longer, &t).0 - off).abs() < 1e-10);
    let (value, still) = bench.at(&[0.0; 48], &t);
    assert!((value - 1.0).abs() < 1e-12 && still.iter().all(|g| g.is_finite()));
}
