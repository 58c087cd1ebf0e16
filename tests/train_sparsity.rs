//! Sparse training on small networks: what each kind does to channels, in numbers.
#![cfg(feature = "tract")]

mod build;

use build::run::run;
use build::{info, ints, model, node, weight};
use onnx_prune::data::{DataOptions, Dataset};
use onnx_prune::onnx::Model;
use onnx_prune::onnx::proto::ModelProto;
use onnx_prune::onnx::tensor::{self, from_f32};
use onnx_prune::runtime::{RuntimeChoice, choose};
use onnx_prune::train::grad::BatchNorms;
use onnx_prune::train::run::{Event, Options, Trained, train};
use onnx_prune::train::schedule::{Course, Schedule};
use onnx_prune::train::sparsity::{REMOVABLE, measure};
use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;
use tempfile::TempDir;

const MOMENTUM: f64 = 0.9;

/// `x[N,3,6,6] → Conv a → BN → Relu → Conv b → BN, + shortcut Conv s of Relu's → Relu → Conv d → y[N,4,6,6]`: the channels of
/// b and s are coupled. `norms`: with the batch normalisations.
fn net(norms: bool) -> ModelProto {
    let mut weights = vec![
        weight("a.w", &[8, 3, 3, 3]),
        weight("b.w", &[6, 8, 3, 3]),
        weight("s.w", &[6, 8, 1, 1]),
        weight("d.w", &[4, 6, 1, 1]),
    ];
    let pads = |n| ints(n, "pads", &[1, 1, 1, 1]);
    let mut nodes = Vec::new();
    let mut layer = |name: &str, x: &str, n: usize, padded: bool| {
        let (w, y, z) = (format!("{name}.w"), format!("{name}.c"), format!("{name}.y"));
        if !norms {
            let bias = format!("{name}.bias");
            weights.push(weight(&bias, &[n]));
            let conv = node("Conv", name, &[x, &w, &bias], &[&z]);
            nodes.push(if padded { pads(conv) } else { conv });
            return;
        }
        let conv = node("Conv", name, &[x, &w], &[&y]);
        nodes.push(if padded { pads(conv) } else { conv });
        let parts = ["g", "beta", "mean", "var"].map(|p| format!("{name}.{p}"));
        let names: Vec<&str> = std::iter::once(y.as_str()).chain(parts.iter().map(String::as_str)).collect();
        nodes.push(node("BatchNormalization", &format!("{name}.bn"), &names, &[&z]));
        let spread: Vec<f32> = (0..n).map(|i| 0.3 + 0.1 * i as f32).collect();
        weights.push(from_f32(&parts[0], &[n], &spread));
        weights.push(weight(&parts[1], &[n]));
        weights.push(weight(&parts[2], &[n]));
        weights.push(from_f32(&parts[3], &[n], &vec![1.0; n]));
    };
    layer("a", "x", 8, true);
    layer("b", "a.r", 6, true);
    layer("s", "a.r", 6, false);
    nodes.insert(if norms { 2 } else { 1 }, node("Relu", "a.relu", &["a.y"], &["a.r"]));
    nodes.push(node("Add", "add", &["b.y", "s.y"], &["sum"]));
    nodes.push(node("Relu", "relu", &["sum"], &["sum.r"]));
    nodes.push(node("Conv", "d", &["sum.r", "d.w"], &["y"]));
    model(nodes, weights, vec![info("x", &[-1, 3, 6, 6])], vec![info("y", &[-1, 4, 6, 6])])
}

struct Bench {
    dir: TempDir,
    model: Model,
    data: Dataset,
}

/// 32 samples.
fn bench(proto: ModelProto) -> Bench {
    let dir = TempDir::new().unwrap();
    let values: Vec<f32> = (0..32 * 108).map(|i| ((i * 7919) % 1009) as f32 / 504.5 - 1.0).collect();
    let mut file = b"\x93NUMPY\x01\0".to_vec();
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (32, 3, 6, 6), }\n";
    file.extend((header.len() as u16).to_le_bytes());
    file.extend(header.as_bytes());
    file.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    let path = dir.path().join("x.npy");
    fs::write(&path, file).unwrap();
    let model = Model::from_proto(proto, "net.onnx");
    let data = Dataset::open(&path, &model, &DataOptions::default()).unwrap();
    Bench { dir, model, data }
}

fn options(sparsity: Option<&str>, epochs: usize) -> Options {
    let mut o = Options { epochs, batch: 8, hold_back: 0.0, seed: 3, ..Options::default() };
    o.schedule = Schedule { lr: 0.01, course: Course::Constant, warmup: 0.0 };
    o.update.momentum = MOMENTUM;
    o.sparsity = sparsity.map(|s| s.parse().unwrap());
    o
}

impl Bench {
    /// Learns its own outputs.
    fn train(&self, o: &Options) -> Trained {
        let runtime = choose(RuntimeChoice::Tract, None).unwrap();
        train(&self.model, Some(&self.model), &self.data, &*runtime, o, &mut |_: &Event| ()).unwrap()
    }
}

fn values(model: &Model) -> BTreeMap<String, Vec<f64>> {
    let all = &model.proto.graph.as_ref().unwrap().initializer;
    all.iter().map(|t| (t.name().to_owned(), tensor::to_f64(t).unwrap())).collect()
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 2e-6 * b.abs().max(1.0)
}

/// One step of all samples with the loss at its minimum, so that only the penalty moves anything.
fn penalty_alone(b: &Bench, sparsity: &str) -> Trained {
    let mut o = options(Some(sparsity), 1);
    (o.batch, o.batch_norms) = (32, BatchNorms::Frozen);
    b.train(&o)
}

#[test]
fn bn_l1_takes_the_same_off_every_scale() {
    let b = bench(net(true));
    let lambda = 4.2;
    let trained = penalty_alone(&b, "bn-l1=4.2");
    let (old, new) = (values(&b.model), values(&trained.model));
    let less = 0.01 / (1.0 - MOMENTUM) * lambda;
    let scales = ["a.g", "b.g", "s.g"];
    let soft = |x: f64| x.signum() * (x.abs() - less).max(0.0);
    for name in scales {
        for (was, is) in old[name].iter().zip(&new[name]) {
            assert!(close(*is, soft(*was)), "{name}: {was} became {is}");
        }
    }
    // 0.3 and 0.4 are below 0.42: their shifts follow; those of other channels do not.
    for name in ["a.beta", "b.beta", "s.beta"] {
        for (i, (was, is)) in old[name].iter().zip(&new[name]).enumerate() {
            assert!(close(*is, if i < 2 { soft(*was) } else { *was }), "{name} {i}: {was} became {is}");
        }
    }
    let moved = |n: &&String| !n.ends_with(".g") && !n.ends_with(".beta");
    assert!(old.keys().filter(moved).all(|n| old[n] == new[n]));
    let penalty: f64 = scales.iter().flat_map(|n| &old[*n]).map(|g| lambda * g.abs()).sum();
    let told = trained.history.epochs[0].sparsity.as_ref().unwrap();
    assert!((told.penalty - penalty).abs() < 1e-4 * penalty, "{} is not {penalty}", told.penalty);
    assert!((trained.history.epochs[0].loss - penalty).abs() < 1e-3 * penalty);
    // Two of a and two of b with s are nothing at all; of what is left some are little.
    assert!(told.removable_share >= 4.0 / 14.0 && told.removable_share < 0.5, "{}", told.removable_share);
    assert!(told.histogram[0] == 4 && told.histogram.iter().sum::<u64>() == 14, "{:?}", told.histogram);
}

/// The elements of each channel: `(tensor, position)`; a's channels, then those of b and s.
fn coupled() -> Vec<Vec<(&'static str, usize)>> {
    let mut all = Vec::new();
    for c in 0..8 {
        let mut of: Vec<_> = (0..27).map(|k| ("a.w", c * 27 + k)).collect();
        of.push(("a.bias", c));
        of.extend((0..6).flat_map(|o| (0..9).map(move |k| ("b.w", (o * 8 + c) * 9 + k))));
        of.extend((0..6).map(|o| ("s.w", o * 8 + c)));
        all.push(of);
    }
    for c in 0..6 {
        let mut of: Vec<_> = (0..72).map(|k| ("b.w", c * 72 + k)).collect();
        of.extend((0..8).map(|k| ("s.w", c * 8 + k)));
        of.extend([("b.bias", c), ("s.bias", c)]);
        of.extend((0..4).map(|o| ("d.w", o * 6 + c)));
        all.push(of);
    }
    all
}

#[test]
fn group_lasso_shrinks_whole_channels_through_a_residual() {
    let b = bench(net(false));
    let lambda = 0.3;
    let trained = penalty_alone(&b, "group-lasso=0.3");
    let (old, new) = (values(&b.model), values(&trained.model));
    let mut wanted = old.clone();
    let mut penalty = 0.0;
    for channel in coupled() {
        let norm = channel.iter().map(|&(t, i)| old[t][i].powi(2)).sum::<f64>().sqrt();
        let root = (channel.len() as f64).sqrt();
        penalty += lambda * root * norm;
        let factor = (1.0 - 0.01 / (1.0 - MOMENTUM) * lambda * root / norm).max(0.0);
        assert!(factor > 0.0 && factor < 1.0, "{factor}");
        for (t, i) in channel {
            wanted.get_mut(t).unwrap()[i] *= factor;
        }
    }
    for (name, values) in &wanted {
        for (i, (w, is)) in values.iter().zip(&new[name]).enumerate() {
            assert!(close(*is, *w), "{name} {i}: {is} is not {w}");
        }
    }
    let told = trained.history.epochs[0].sparsity.as_ref().unwrap().penalty;
    assert!((told - penalty).abs() < 1e-5 * penalty, "{told} is not {penalty}");
}

#[test]
fn group_lasso_works_where_bn_l1_cannot() {
    let b = bench(net(false));
    let mut o = options(Some("bn-l1=0.1"), 1);
    let runtime = choose(RuntimeChoice::Tract, None).unwrap();
    let error = train(&b.model, Some(&b.model), &b.data, &*runtime, &o, &mut |_: &Event| ()).err().unwrap().to_string();
    assert!(error.contains("net.onnx") && error.contains("group-lasso"), "{error}");
    o.sparsity = Some("group-lasso=0.3".parse().unwrap());
    o.epochs = 30;
    let trained = b.train(&o);
    let shares: Vec<f64> =
        trained.history.epochs.iter().map(|e| e.sparsity.as_ref().unwrap().removable_share).collect();
    assert!(shares[0] == 0.0 && shares[29] >= 0.4, "{shares:?}");
    assert_eq!(measure(&trained.model, 0.0).unwrap().removable_share, shares[29], "the last state is kept");
}

#[test]
fn what_is_frozen_stays_under_a_penalty() {
    let b = bench(net(false));
    let mut o = options(Some("group-lasso=0.3"), 2);
    o.freeze = vec![regex::Regex::new("^s").unwrap()];
    let (old, new) = (values(&b.model), values(&b.train(&o).model));
    assert!(old["s.w"] == new["s.w"] && old["s.bias"] == new["s.bias"] && old["b.w"] != new["b.w"]);
    // A gate would have to stand on s.w: the channels of a keep theirs open, those of b and s have them on d.w.
    o.sparsity = Some("dynamic=0.9".parse().unwrap());
    o.epochs = 10;
    let new = values(&b.train(&o).model);
    assert!(new["a.bias"].iter().all(|v| *v != 0.0), "{:?}", new["a.bias"]);
    assert!(new["b.bias"].iter().filter(|v| **v == 0.0).count() >= 4, "{:?}", new["b.bias"]);
    assert_eq!(new["s.bias"], old["s.bias"]);
}

/// What every kind promises of the file that comes out.
fn same_graph(b: &Bench, t: &Trained) {
    let (old, new) = (b.model.proto.graph.as_ref().unwrap(), t.model.proto.graph.as_ref().unwrap());
    assert_eq!(old.node, new.node);
    let shapes = |g: &onnx_prune::onnx::proto::GraphProto| {
        g.initializer.iter().map(|t| (t.name().to_owned(), t.dims.clone())).collect::<Vec<_>>()
    };
    assert_eq!(shapes(old), shapes(new));
}

/// Channels of a whose readers are all zero, and of b with s.
fn unread(new: &BTreeMap<String, Vec<f64>>) -> (usize, usize) {
    let zero = |c: &usize, parts: &[(&str, usize, usize)]| {
        parts.iter().all(|&(t, n, inner)| (0..new[t].len()).filter(|i| i / inner % n == *c).all(|i| new[t][i] == 0.0))
    };
    let of_a = (0..8).filter(|c| zero(c, &[("b.w", 8, 9), ("s.w", 8, 1)])).count();
    (of_a, (0..6).filter(|c| zero(c, &[("d.w", 6, 1)])).count())
}

#[test]
fn l0_gates_close_and_leave_no_trace_in_the_graph() {
    let b = bench(net(true));
    let mut o = options(Some("l0=50"), 80);
    let first = b.train(&Options { epochs: 1, batch: 32, ..o.clone() });
    let p = 1.0 / (1.0 + (-(3.0 - 2.0 / 3.0 * (0.1f64 / 1.1).ln())).exp());
    let told = first.history.epochs[0].sparsity.as_ref().unwrap().penalty;
    assert!((told - 50.0 * p).abs() < 1e-4, "{told} is not {}", 50.0 * p);
    let trained = b.train(&o);
    same_graph(&b, &trained);
    let share = trained.history.epochs.last().unwrap().sparsity.as_ref().unwrap().removable_share;
    let (of_a, of_b) = unread(&values(&trained.model));
    assert!(of_a + of_b >= 7, "{of_a} and {of_b}");
    assert!(share >= (of_a + of_b) as f64 / 14.0);
    // A weak penalty closes nothing, and the gates that are open leave the weights as they were trained.
    o.sparsity = Some("l0=1e-6".parse().unwrap());
    o.epochs = 5;
    assert_eq!(unread(&values(&b.train(&o).model)), (0, 0));
}

#[test]
fn dynamic_reaches_its_share_along_a_cubic() {
    let b = bench(net(false));
    let trained = b.train(&options(Some("dynamic=0.5"), 20));
    same_graph(&b, &trained);
    let shares: Vec<f64> =
        trained.history.epochs.iter().map(|e| e.sparsity.as_ref().unwrap().removable_share).collect();
    for (i, share) in shares.iter().enumerate() {
        let t = ((i + 1) as f64 / 15.0).min(1.0);
        let wanted = 0.5 * (1.0 - (1.0 - t).powi(3));
        // Of 14 channels.
        assert!((share - wanted).abs() <= 0.5 / 14.0 + 1e-9, "epoch {}: {share} is not {wanted}", i + 1);
    }
    let (of_a, of_b) = unread(&values(&trained.model));
    assert_eq!(of_a + of_b, 7);
    assert!(of_a < 8 && of_b < 6, "no layer is emptied");
}

#[test]
fn a_run_that_is_taken_up_again_ends_with_the_same_bytes() {
    let b = bench(net(true));
    for kind in ["bn-l1=0.5", "group-lasso=0.05", "l0=5", "dynamic=0.5"] {
        let (file, kept) = (b.dir.path().join("c"), b.dir.path().join("kept"));
        let mut o = options(Some(kind), 6);
        o.checkpoint = Some((file.clone(), Duration::ZERO));
        let runtime = choose(RuntimeChoice::Tract, None).unwrap();
        // In the middle of an epoch.
        let mut copy = |e: &Event| {
            if let Event::Step(15, ..) = e {
                fs::copy(&file, &kept).unwrap();
            }
        };
        let whole = train(&b.model, Some(&b.model), &b.data, &*runtime, &o, &mut copy).unwrap();
        fs::remove_file(&file).unwrap();
        o.checkpoint = Some((kept.clone(), Duration::from_secs(1000)));
        let mut steps = 0;
        let mut count = |e: &Event| steps += usize::from(matches!(e, Event::Step(..)));
        let rest = train(&b.model, Some(&b.model), &b.data, &*runtime, &o, &mut count).unwrap();
        assert_eq!(steps, 10, "{kind}");
        assert_eq!(values(&whole.model), values(&rest.model), "{kind}");
        let sparsity = |t: &Trained| t.history.epochs.iter().map(|e| e.sparsity.clone()).collect::<Vec<_>>();
        assert_eq!(sparsity(&whole), sparsity(&rest), "{kind}");
        assert_ne!(values(&whole.model), values(&b.train(&options(None, 6)).model), "{kind} does something");
        fs::remove_file(&kept).unwrap();
    }
}

#[test]
fn the_command_hands_over_or_prunes() {
    use prost::Message;
    let b = bench(net(true));
    fs::write(b.dir.path().join("net.onnx"), b.model.proto.encode_to_vec()).unwrap();
    let base = "train net.onnx --teacher net.onnx --data x.npy --runtime tract --threads 1 --batch 8 --epochs 20 --hold-back 0 -o out.onnx";
    let ran = run(&b.dir, &format!("{base} --sparsity dynamic=0.5"));
    assert_eq!(ran.code, 0, "{}", ran.err);
    let command = ran.out.lines().last().unwrap().trim().strip_prefix("onnx-prune ").unwrap().to_owned();
    assert!(command.contains(&format!("--threshold {REMOVABLE}")), "{command}");
    let cut = run(&b.dir, &format!("{command} --recover none -o cut.onnx"));
    assert_eq!(cut.code, 0, "{}", cut.err);
    let ran = run(&b.dir, &format!("{base} --sparsity dynamic=0.5 --prune-at-end --threshold 0.01 --recover none"));
    assert_eq!(ran.code, 0, "{}", ran.err);
    let channels = |name: &str| {
        let m = onnx_prune::onnx::load(&b.dir.path().join(name)).unwrap();
        let all = m.proto.graph.as_ref().unwrap().initializer.clone();
        let of = |n: &str| all.iter().find(|t| t.name() == n).unwrap().dims[0];
        of("a.w") + of("b.w")
    };
    assert_eq!((channels("cut.onnx"), channels("out.onnx")), (7, 7));
    assert_eq!(fs::read(b.dir.path().join("cut.onnx")).unwrap(), fs::read(b.dir.path().join("out.onnx")).unwrap());
    for (flags, words) in [
        ("--sparsity l1=3", "there is no \"l1\""),
        ("--sparsity bn-l1", "KIND=VALUE"),
        ("--sparsity bn-l1=-1", "above 0"),
        ("--sparsity dynamic=1", "below 1"),
        ("--sparsity l0=1 --patience 3", "--patience"),
        ("--sparsity l0=1 --prune-at-end", "--ratio"),
        ("--sparsity l0=1 --ratio 0.5", "--prune-at-end"),
        ("--sparsity l0=1 --prune-at-end --ratio 1.5", "1.5"),
    ] {
        let ran = run(&b.dir, &format!("{base} {flags}"));
        assert!(ran.code == 2 && ran.err.contains(words), "{flags}: {} {}", ran.code, ran.err);
    }
}
