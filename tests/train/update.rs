//! Steps of the optimisers against their formulas in `float64`, with gradients from the model's gradient as a model.

use super::{DIMS, net, other, samples, values, write_samples};
use onnx_prune::data::{DataOptions, Dataset};
use onnx_prune::onnx::Model;
use onnx_prune::runtime::{Array, Data, Runtime, RuntimeChoice, Session, choose, embedded};
use onnx_prune::train::fixed::fix;
use onnx_prune::train::grad::BatchNorms;
use onnx_prune::train::history::Epoch;
use onnx_prune::train::optimizer::{Decay, Optimizer, Update};
use onnx_prune::train::run::{Event, Options, Trained, train};
use onnx_prune::train::schedule::{Course, Schedule};
use onnx_prune::train::vjp::{gradient_name, seed_name, vjp};
use std::collections::BTreeMap;
use tempfile::TempDir;

type Values = BTreeMap<String, Vec<f64>>;

const TRAINED: [&str; 6] = ["a.w", "a.bias", "a.g", "a.beta", "b.w", "b.bias"];

fn array(dims: &[usize], v: &[f64]) -> Array {
    Array { dims: dims.to_vec(), data: Data::F64(v.to_vec()) }
}

/// `mse` between the model and its teacher on all samples, differentiated.
struct Bench {
    dir: TempDir,
    model: Model,
    teacher: Model,
    gradient: Box<dyn Session>,
    dims: BTreeMap<String, Vec<usize>>,
    wanted: Vec<f64>,
}

impl Bench {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        write_samples(&dir.path().join("x.npy"));
        let (model, teacher) = (Model::from_proto(net(), "net.onnx"), Model::from_proto(other(net()), "teacher.onnx"));
        let extents = [("x".to_owned(), DIMS.to_vec())];
        let wrt = TRAINED.map(str::to_owned);
        let made = vjp(&model, &extents, &wrt, BatchNorms::Frozen, true).unwrap();
        let runtime = embedded().unwrap();
        let gradient = runtime.load(&made).unwrap();
        let mut teaches = runtime.load(&fix(&teacher, &extents, true).unwrap()).unwrap();
        let wanted = teaches.run(&[Self::x()]).unwrap()[0].1.to_f64();
        let all = &model.proto.graph.as_ref().unwrap().initializer;
        let dims = all.iter().map(|t| (t.name().into(), t.dims.iter().map(|&d| d as usize).collect())).collect();
        Bench { dir, model, teacher, gradient, dims, wanted }
    }

    fn x() -> (String, Array) {
        let x: Vec<f64> = samples().into_iter().map(f64::from).collect();
        ("x".into(), array(&DIMS, &x))
    }

    /// The loss and its gradient.
    fn loss(&mut self, at: &Values) -> (f64, Values) {
        let mut feed = vec![Self::x()];
        feed.extend(TRAINED.map(|n| (n.to_owned(), array(&self.dims[n], &at[n]))));
        let n = self.wanted.len() as f64;
        let mut with = |seed: &[f64]| {
            let mut feed = feed.clone();
            feed.push((seed_name("y"), array(&[DIMS[0], 3], seed)));
            let out = self.gradient.run(&feed).unwrap();
            move |name: &str| out.iter().find(|(n, _)| n == name).unwrap().1.to_f64()
        };
        let y = with(&vec![0.0; self.wanted.len()])("y");
        let off: Vec<f64> = y.iter().zip(&self.wanted).map(|(y, t)| y - t).collect();
        let out = with(&off.iter().map(|d| 2.0 * d / n).collect::<Vec<_>>());
        let gradients = TRAINED.map(|name| (name.to_owned(), out(&gradient_name(name))));
        (off.iter().map(|d| d * d).sum::<f64>() / n, gradients.into())
    }

    /// Steps of all samples.
    fn train(&self, teacher: &Model, update: Update, lr: f64, steps: usize, set: &dyn Fn(&mut Options)) -> Trained {
        self.train_on(&*choose(RuntimeChoice::Tract, None).unwrap(), teacher, update, lr, steps, set)
    }

    fn train_on(
        &self,
        runtime: &dyn Runtime,
        teacher: &Model,
        update: Update,
        lr: f64,
        steps: usize,
        set: &dyn Fn(&mut Options),
    ) -> Trained {
        let mut o = Options {
            epochs: steps,
            batch: DIMS[0],
            schedule: Schedule { lr, course: Course::Constant, warmup: 0.0 },
            update,
            losses: Some("mse".parse().unwrap()),
            batch_norms: BatchNorms::Frozen,
            hold_back: 0.0,
            ..Options::default()
        };
        set(&mut o);
        let data = Dataset::open(&self.dir.path().join("x.npy"), &self.model, &DataOptions::default()).unwrap();
        train(&self.model, Some(teacher), &data, runtime, &o, &mut |_: &Event| ()).unwrap()
    }

    fn begin(&self) -> Values {
        values(self.model.proto.graph.as_ref().unwrap())
    }
}

fn length<'a>(parts: impl Iterator<Item = &'a Vec<f64>>) -> f64 {
    parts.flatten().map(|x| x * x).sum::<f64>().sqrt()
}

/// The formulas of `optimizer.rs`. What each epoch, a single step, should tell comes along: loss, gradient, weights.
fn formula(b: &mut Bench, u: &Update, lr: f64, steps: usize) -> (Values, Vec<[f64; 3]>) {
    // What enters the graph is float32.
    let lr = f64::from(lr as f32);
    let mut w = b.begin();
    let zero: Values = w.iter().map(|(n, v)| (n.clone(), vec![0.0; v.len()])).collect();
    let (mut first, mut second) = (zero.clone(), zero);
    let mut told = Vec::new();
    for k in 1..=steps as i32 {
        let (mut loss, gradients) = b.loss(&w);
        let norm = length(gradients.values());
        let factor = u.clip.map_or(1.0, |most| (most / norm).min(1.0));
        if u.decay == Decay::L2 {
            loss += u.weight_decay / 2.0 * length([&w["a.w"], &w["b.w"]].into_iter()).powi(2);
        }
        for (name, gradient) in &gradients {
            let lambda = if name.ends_with(".w") { u.weight_decay } else { 0.0 };
            for (i, g) in gradient.iter().enumerate() {
                let x = &mut w.get_mut(name).unwrap()[i];
                let (m, v) = (&mut first.get_mut(name).unwrap()[i], &mut second.get_mut(name).unwrap()[i]);
                let g = factor * g + if u.decay == Decay::L2 { lambda * *x } else { 0.0 };
                let mut step = if u.optimizer == Optimizer::Sgd {
                    *m = u.momentum * *m + g;
                    *m
                } else {
                    *m = u.momentum * *m + (1.0 - u.momentum) * g;
                    *v = u.second * *v + (1.0 - u.second) * g * g;
                    let root = (*v / (1.0 - u.second.powi(k))).sqrt();
                    *m / (1.0 - u.momentum.powi(k)) / (root + u.epsilon)
                };
                if u.decay == Decay::Decoupled {
                    step += lambda * *x;
                }
                *x -= lr * step;
            }
        }
        told.push([loss, norm, length(TRAINED.iter().map(|n| &w[*n]))]);
    }
    (w, told)
}

#[test]
fn steps_are_their_formulas() {
    steps_on(&*choose(RuntimeChoice::Tract, None).unwrap());
}

#[test]
fn steps_are_their_formulas_on_onnx_runtime() {
    match choose(RuntimeChoice::Ort, None) {
        Ok(runtime) => steps_on(&*runtime),
        Err(e) => println!("SKIPPED: {e}"),
    }
}

fn steps_on(runtime: &dyn Runtime) {
    let mut b = Bench::new();
    let start = b.begin();
    let norm = length(b.loss(&start).1.values());
    // ε is so large that it counts, and that rounding does not.
    let sgd = Update { momentum: 0.0, ..Update::default() };
    let momentum = Update::default();
    let adamw = Update { optimizer: Optimizer::Adamw, epsilon: 1e-2, decay: Decay::Decoupled, ..momentum };
    let (half, twice) = (Some(0.5 * norm), Some(2.0 * norm));
    let decayed = |u: Update, decay: Decay| Update { weight_decay: 0.3, decay, ..u };
    let cases = [
        ("sgd", sgd, 0.5, 1),
        ("momentum", momentum, 0.3, 3),
        ("sgd, l2", decayed(momentum, Decay::L2), 0.3, 2),
        ("sgd, decoupled", decayed(momentum, Decay::Decoupled), 0.3, 2),
        ("sgd, clipped", Update { clip: half, ..sgd }, 0.5, 1),
        ("sgd, clipped and decayed", Update { clip: half, ..decayed(sgd, Decay::L2) }, 0.5, 1),
        ("sgd, short enough", Update { clip: twice, ..sgd }, 0.5, 1),
        ("adamw", adamw, 0.02, 3),
        ("adamw, decoupled", decayed(adamw, Decay::Decoupled), 0.02, 2),
        ("adamw, l2", decayed(adamw, Decay::L2), 0.02, 2),
    ];
    let mut ends: Vec<Values> = Vec::new();
    for (name, update, lr, steps) in cases {
        let (wanted, told) = formula(&mut b, &update, lr, steps);
        let trained = b.train_on(runtime, &b.teacher, update, lr, steps, &|_| ());
        let new = values(trained.model.proto.graph.as_ref().unwrap());
        let mut moved = 0.0f64;
        for (tensor, wanted) in &wanted {
            for (i, (w, is)) in wanted.iter().zip(&new[tensor]).enumerate() {
                assert!((w - is).abs() <= 2e-6, "{name}, {tensor} {i}: {is} is not {w}");
                moved = moved.max((w - start[tensor][i]).abs());
            }
        }
        assert!(moved > 5e-3, "{name}: all moves by {moved} at most");
        for (epoch, [loss, gradient, weights]) in trained.history.epochs.iter().zip(told) {
            let Epoch { loss: l, gradient_norm: g, weight_norm: w, .. } = epoch;
            let near = |a: f64, b: f64| (a - b).abs() <= 2e-5 * b.abs();
            assert!(
                near(*l, loss) && near(*g, gradient) && near(*w, weights),
                "{name}: {epoch:?} is not {loss} {gradient} {weights}"
            );
        }
        assert_eq!(trained.history.epochs.len(), steps);
        let short = name == "sgd, short enough";
        assert_eq!(ends.contains(&new), short, "{name}: each setting does something of its own");
        ends.push(new);
    }
}

#[test]
fn decay_leaves_biases_and_normalisations_alone() {
    let b = Bench::new();
    let start = b.begin();
    let other_weight = regex::Regex::new("^b").unwrap();
    for decay in [Decay::L2, Decay::Decoupled] {
        // The teacher is the model itself: nothing but decay moves anything.
        let update = Update { momentum: 0.0, weight_decay: 0.5, decay, ..Update::default() };
        let spared = |o: &mut Options| o.no_decay = vec![other_weight.clone()];
        let new = values(b.train(&b.model, update, 0.1, 1, &spared).model.proto.graph.as_ref().unwrap());
        for (name, old) in &start {
            if name == "a.w" {
                let near = |(o, n): (&f64, &f64)| (0.95 * o - n).abs() < 1e-6;
                assert!(old.iter().zip(&new[name]).all(near), "{decay:?}: {old:?} became {:?}", new[name]);
            } else {
                assert_eq!(&new[name], old, "{decay:?}: {name}");
            }
        }
    }
}

#[test]
fn the_scale_of_cosine_is_a_learning_rate_of_plain_sgd() {
    let b = Bench::new();
    let update = Update { momentum: 0.0, ..Update::default() };
    let with = |scale: f64, lr: f64| {
        let set = |o: &mut Options| (o.losses, o.loss_scale) = (Some("cosine".parse().unwrap()), scale);
        let trained = b.train(&b.teacher, update, lr, 3, &set);
        (values(trained.model.proto.graph.as_ref().unwrap()), trained.history.epochs[0].gradient_norm)
    };
    let ((plain, short), (scaled, long)) = (with(1.0, 0.5), with(1024.0, 0.5 / 1024.0));
    assert_eq!(plain, scaled, "to the bit for a power of two");
    assert_eq!(long, 1024.0 * short);
    assert_ne!(plain, b.begin());
}
