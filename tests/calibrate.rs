//! Calibration data: walking through models, decisions and repairs from it, and what comes of them.
#![cfg(feature = "tract")]

mod build;

use build::run::{files, fixture, ok, refused};
use build::{in_memory, info, model, node};
use onnx_prune::calibrate::Calibration;
use onnx_prune::data::{DataOptions, Dataset, Preprocess};
use onnx_prune::onnx::{self, Model, tensor};
use onnx_prune::plan::{Budget, RoundTo, Scope};
use onnx_prune::prune::{Options, prune};
use onnx_prune::recover::Recover;
use onnx_prune::runtime::walk::Feed;
use onnx_prune::runtime::{self, Array, Data, RuntimeChoice, choose, embedded, random_inputs};
use std::sync::Arc;
use tempfile::TempDir;

const DATA: &str = "fashion_test.npz";

/// The test images as the fixtures want them.
fn images(m: &Model) -> Dataset {
    let preprocess = Preprocess { mean: Some(vec![0.2860]), std: Some(vec![0.3530]), ..Preprocess::default() };
    Dataset::open(&fixture(DATA), m, &DataOptions { preprocess, ..DataOptions::default() }).unwrap()
}

fn batches(m: &Model, n: usize, size: usize) -> Vec<Feed> {
    (0..n).map(|k| random_inputs(m, k as u64, &|_, _| size).unwrap()).collect()
}

fn near(a: &Array, b: &Array, what: &str) {
    assert_eq!(a.dims, b.dims, "{what}");
    let difference = runtime::max_rel_diff(a, b).unwrap();
    assert!(difference.is_some_and(|d| d < 1e-4), "{what}: {difference:?}");
}

fn options(feeds: Vec<Feed>, budget: Budget, recover: Recover) -> Options {
    Options {
        budget,
        recover,
        round_to: RoundTo::Multiple(1),
        calibration: Some(Arc::new(Calibration::new(feeds, choose(RuntimeChoice::Tract, None).unwrap()))),
        ..Options::default()
    }
}

fn outputs(m: &Model, feed: &Feed) -> Feed {
    embedded().unwrap().load(m).unwrap().run(feed).unwrap()
}

/// Two layers without anything between them, the hidden one wider than its input: any channels as many as the input carry
/// everything, and the second layer's weights can make up for the others completely.
#[test]
fn what_others_know_is_recovered() {
    let w = |name: &str, dims: &[usize]| {
        let n: usize = dims.iter().product();
        let values: Vec<f32> = (0..n).map(|i| ((i * i * 7 + i * 3 + name.len()) as f32 * 0.37).sin()).collect();
        tensor::from_f32(name, dims, &values)
    };
    let proto = model(
        vec![node("Conv", "first", &["x", "w.1", "b.1"], &["h"]), node("Conv", "second", &["h", "w.2"], &["y"])],
        vec![w("w.1", &[8, 3, 1, 1]), w("b.1", &[8]), w("w.2", &[2, 8, 1, 1])],
        vec![info("x", &[-1, 3, 6, 6])],
        vec![info("y", &[-1, 2, 6, 6])],
    );
    let m = in_memory(proto);
    let o = options(batches(&m, 8, 8), Budget::Ratio(0.4), Recover::Reconstruct);
    let done = prune(&m, &o, &|_| ()).unwrap();
    assert_eq!(done.report.channels_removed, 3);
    let small = done.model.unwrap();
    let fresh = random_inputs(&m, 99, &|_, _| 4).unwrap();
    let (a, b) = (outputs(&small, &fresh), outputs(&m, &fresh));
    let difference = runtime::max_rel_diff(&a[0].1, &b[0].1).unwrap().unwrap();
    assert!(difference < 0.02, "{difference}");
    let layer = &done.report.recover.layers[0];
    assert!(layer.after < 1e-4 && layer.before > 0.01, "{layer:?}");
    // Without the repair it is far off.
    let plain = prune(&m, &Options { recover: Recover::None, ..o }, &|_| ()).unwrap().model.unwrap();
    let worse = runtime::max_rel_diff(&outputs(&plain, &fresh)[0].1, &b[0].1).unwrap().unwrap();
    assert!(worse > 10.0 * difference, "{worse} {difference}");
}

/// A budget that removes nothing changes nothing, and no layer is touched.
#[test]
fn nothing_to_do_is_nothing_done() {
    let m = onnx::load(&fixture("residual.bn.onnx")).unwrap();
    let o = options(batches(&m, 4, 8), Budget::Ratio(0.0), Recover::Reconstruct);
    let done = prune(&m, &o, &|_| ()).unwrap();
    assert_eq!(done.report.channels_removed, 0);
    assert!(done.report.recover.layers.is_empty());
    let fresh = random_inputs(&m, 5, &|_, _| 4).unwrap();
    near(&outputs(&done.model.unwrap(), &fresh)[0].1, &outputs(&m, &fresh)[0].1, "ratio 0");
}

/// With data, too, every layer loses the same share where that is asked for; the data says which channels.
#[test]
fn every_layer_loses_the_same_share() {
    let m = onnx::load(&fixture("residual.bn.onnx")).unwrap();
    let o = options(batches(&m, 4, 8), Budget::Ratio(0.5), Recover::Reconstruct);
    let counts = |scope| -> Vec<(usize, usize)> {
        let done = prune(&m, &Options { scope, ..o.clone() }, &|_| ()).unwrap();
        done.report.groups.iter().map(|g| (g.channels_before, g.channels_after)).collect()
    };
    let (local, global) = (counts(Scope::Local), counts(Scope::Global));
    assert!(local.iter().all(|(before, after)| before / 2 == *after), "{local:?}");
    assert_ne!(local, global);
}

/// Top-1 on the samples from `from` on.
fn accuracy(path: &std::path::Path, from: usize) -> f64 {
    let m = onnx::load(path).unwrap();
    let data = images(&m);
    let labels = data.labels().unwrap();
    let mut session = embedded().unwrap().load(&m).unwrap();
    let (mut right, mut all) = (0, 0);
    for k in 0..data.batches() {
        let out = session.run(&data.batch(k).unwrap()).unwrap();
        let Data::F32(scores) = &out[0].1.data else { panic!() };
        for (scores, s) in scores.chunks(10).zip(data.range(k)).filter(|(_, s)| *s >= from) {
            let best = (0..10).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap();
            right += usize::from(best as i64 == labels[s]);
            all += 1;
        }
    }
    right as f64 / all as f64 * 100.0
}

/// The first 200 images without their labels keep most of what removal costs on the other 300.
#[test]
fn data_keeps_the_accuracy() {
    for (kind, least) in [("residual.folded", 84.0), ("shuffle.bn", 84.0)] {
        let dir = TempDir::new().unwrap();
        let name = format!("{kind}.onnx");
        std::fs::copy(fixture(&name), dir.path().join(&name)).unwrap();
        let m = onnx::load(&fixture(&name)).unwrap();
        let data = images(&m);
        let (first, _) = data.split(200).unwrap();
        let feeds = (0..first.batches()).map(|k| first.batch(k).unwrap()).collect();
        let o =
            Options { round_to: RoundTo::default(), ..options(feeds, Budget::TargetMacs(0.7), Recover::Reconstruct) };
        let done = prune(&m, &o, &|_| ()).unwrap();
        let out = dir.path().join("out.onnx");
        onnx::save(&done.model.unwrap(), &out, &onnx::SaveOptions::default()).unwrap();
        let plain = ok(&dir, &format!("{name} --target-macs 0.7 -o plain.onnx"));
        assert!(plain.contains("plain.onnx"));
        let (with, without) = (accuracy(&out, 200), accuracy(&dir.path().join("plain.onnx"), 200));
        println!("{kind}: {with:.1} % with data, {without:.1} % without");
        assert!(with >= least && with > without, "{kind}: {with} with data, {without} without");
    }
}

#[test]
fn the_command_takes_data_and_threads_change_nothing() {
    let dir = TempDir::new().unwrap();
    std::fs::copy(fixture("depthwise.bn.onnx"), dir.path().join("net.onnx")).unwrap();
    std::fs::copy(fixture(DATA), dir.path().join(DATA)).unwrap();
    let args = format!("net.onnx --target-macs 0.7 --data {DATA} --samples 64");
    let said = ok(&dir, &format!("{args} -o a.onnx --threads 1 --save-plan a.json --report r.json"));
    assert!(said.contains("64 samples") && said.contains("reconstruct"), "{said}");
    ok(&dir, &format!("{args} -o b.onnx --threads 3"));
    let all = files(&dir);
    assert_eq!(all["a.onnx"], all["b.onnx"], "threads change the result");
    // The plan again, with the same data.
    ok(&dir, &format!("net.onnx --plan a.json --data {DATA} --samples 64 -o c.onnx"));
    assert_eq!(all["a.onnx"], files(&dir)["c.onnx"]);
    let report: serde_json::Value = serde_json::from_slice(&all["r.json"]).unwrap();
    assert!(report["recover"]["layers"].as_array().is_some_and(|l| !l.is_empty()));
    refused(&dir, "net.onnx --plan a.json -o d.onnx", &["--data"]);
    refused(&dir, "net.onnx --ratio 0.3 --recover reconstruct -o d.onnx", &["--data"]);
    refused(&dir, "net.onnx --ratio 0.3 --data nothing.npz -o d.onnx", &["nothing.npz"]);
    refused(&dir, &format!("net.onnx --ratio 0.3 --data {DATA} --samples 0 -o d.onnx"), &["samples"]);
}
