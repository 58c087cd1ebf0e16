//! Criteria from data, accuracy as the budget, and sensitivity.
#![cfg(feature = "tract")]

mod build;

use build::run::{Ran, files, fixture, names, ok, refused, run};
use build::{in_memory, info, model, node};
use onnx_prune::calibrate::Calibration;
use onnx_prune::onnx::{Model, tensor};
use onnx_prune::plan::{AxisRemoval, Budget, RoundTo};
use onnx_prune::prune::{Options, prune};
use onnx_prune::recover::Recover;
use onnx_prune::runtime::walk::Feed;
use onnx_prune::runtime::{RuntimeChoice, choose, embedded, random_inputs};
use serde_json::Value;
use std::sync::Arc;
use tempfile::TempDir;

const DATA: &str = "fashion_test.npz";

/// A directory with a fixture as `net.onnx` and its images.
fn place(fixture_name: &str) -> TempDir {
    let dir = TempDir::new().unwrap();
    std::fs::copy(fixture(fixture_name), dir.path().join("net.onnx")).unwrap();
    std::fs::copy(fixture(DATA), dir.path().join(DATA)).unwrap();
    std::fs::copy(fixture("onnx-prune.toml"), dir.path().join("onnx-prune.toml")).unwrap();
    dir
}

/// Zeros as NumPy stores them.
fn npy(dims: &[usize]) -> Vec<u8> {
    let shape = dims.iter().map(|d| format!("{d}, ")).collect::<String>();
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape}), }}");
    while (header.len() + 11) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend((header.len() as u16).to_le_bytes());
    file.extend(header.into_bytes());
    file.extend(vec![0; 4 * dims.iter().product::<usize>()]);
    file
}

fn json(dir: &TempDir, name: &str) -> Value {
    serde_json::from_slice(&files(dir)[name]).unwrap()
}

/// Ten hidden channels after a ReLU, and the same network that ends there.
fn hidden() -> (Model, Model) {
    let w = |name: &str, dims: &[usize], shift: f32| {
        let n: usize = dims.iter().product();
        let values: Vec<f32> = (0..n).map(|i| ((i * i * 7 + i * 3) as f32 * 0.37 + shift).sin()).collect();
        tensor::from_f32(name, dims, &values)
    };
    let weights = || vec![w("w.1", &[10, 3, 3, 3], 0.0), w("b.1", &[10], 0.8), w("w.2", &[4, 10, 1, 1], 2.0)];
    let first = || vec![node("Conv", "first", &["x", "w.1", "b.1"], &["h"]), node("Relu", "relu", &["h"], &["a"])];
    let mut nodes = first();
    nodes.push(node("Conv", "second", &["a", "w.2"], &["y"]));
    let x = || vec![info("x", &[-1, 3, 8, 8])];
    let whole = model(nodes, weights(), x(), vec![info("y", &[-1, 4, 6, 6])]);
    let cut = model(first(), weights(), x(), vec![info("a", &[-1, 10, 6, 6])]);
    (in_memory(whole), in_memory(cut))
}

#[test]
fn criteria_from_activations_equal_their_figures() {
    let (m, cut) = hidden();
    let feeds: Vec<Feed> = (0..4).map(|k| random_inputs(&m, k, &|_, _| 5).unwrap()).collect();
    let mut values = vec![Vec::new(); 10];
    let mut session = embedded().unwrap().load(&cut).unwrap();
    for feed in &feeds {
        let out = session.run(feed).unwrap();
        for (i, v) in out[0].1.to_f64().chunks(36).enumerate() {
            values[i % 10].extend_from_slice(v);
        }
    }
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    type Figure = Box<dyn Fn(&[f64]) -> f64>;
    let figures: [(&str, Figure); 4] = [
        ("act-mean", Box::new(move |v| mean(v))),
        ("act-rms", Box::new(move |v| mean(&v.iter().map(|x| x * x).collect::<Vec<_>>()).sqrt())),
        ("act-variance", Box::new(move |v| mean(&v.iter().map(|x| (x - mean(v)).powi(2)).collect::<Vec<_>>()))),
        ("apoz", Box::new(move |v| mean(&v.iter().map(|x| f64::from(u8::from(*x != 0.0))).collect::<Vec<_>>()))),
    ];
    let runtime = choose(RuntimeChoice::Tract, None).unwrap();
    let mut seen = Vec::new();
    for (name, figure) in figures {
        let mut order: Vec<(f64, usize)> = values.iter().enumerate().map(|(i, v)| (figure(v), i)).collect();
        order.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut lowest: Vec<usize> = order[..4].iter().map(|o| o.1).collect();
        lowest.sort_unstable();
        let o = Options {
            budget: Budget::Ratio(0.4),
            criterion: Some(name.parse().unwrap()),
            recover: Recover::None,
            round_to: RoundTo::Multiple(1),
            steps: 2,
            calibration: Some(Arc::new(Calibration::new(feeds.clone(), runtime.clone()))),
            ..Options::default()
        };
        let done = prune(&m, &o, &|_| ()).unwrap();
        assert_eq!(done.plan.tensors["w.1"]["0"], AxisRemoval::Flat(lowest.clone()), "{name}");
        seen.push(lowest);
    }
    seen.dedup();
    assert!(seen.len() > 1, "the criteria cannot be told apart here");
}

#[test]
fn every_way_to_decide_from_data_keeps_its_budget() {
    let dir = place("residual.folded.onnx");
    for criterion in ["obs", "obs-local", "sensitivity", "apoz", "act-rms=0.5,l2"] {
        let args =
            format!("net.onnx --target-macs 0.6 --criterion {criterion} --data {DATA} --samples 64 --runtime tract");
        ok(&dir, &format!("{args} --report r.json -o out.onnx --recover bias"));
        let report = json(&dir, "r.json");
        let share = report["pruned"]["macs"].as_f64().unwrap() / report["original"]["macs"].as_f64().unwrap();
        assert!((share - 0.6).abs() < 0.02, "{criterion}: {share}");
        let used = report["groups"][1]["criterion"].as_str().unwrap();
        assert_eq!(used, criterion, "{report}");
        refused(&dir, &format!("net.onnx --ratio 0.4 --criterion {criterion}"), &["--data"]);
    }
    for criterion in ["obs,l2", "sensitivity=2,apoz"] {
        let args = format!("net.onnx --ratio 0.3 --criterion {criterion} --data {DATA} --samples 64 --runtime tract");
        refused(&dir, &args, &["no other criterion"]);
    }
    let args = format!("net.onnx --threshold 0.3 --criterion obs --data {DATA} --samples 64 --runtime tract");
    refused(&dir, &args, &["--threshold"]);
}

/// One set of samples serves several models and budgets: what was found for one is not taken for another.
#[test]
fn a_survey_is_of_one_model_and_its_samples() {
    let m = onnx_prune::onnx::load(&fixture("residual.folded.onnx")).unwrap();
    let mut other = m.clone();
    for (i, t) in other.proto.graph.as_mut().unwrap().initializer.iter_mut().enumerate() {
        let Ok(values) = tensor::to_f64(t) else { continue };
        if !tensor::is_float(t.data_type()) || values.len() < 100 {
            continue;
        }
        let n = values.len();
        let turned: Vec<f64> = (0..n).map(|k| values[(k + n / 3 + i) % n]).collect();
        let name = t.name.clone();
        *t = tensor::from_f64_like(t, &tensor::dims(t).unwrap(), &turned).unwrap();
        t.name = name;
    }
    let other = in_memory(other.proto);
    let feeds = |m: &Model, seed: u64| -> Vec<Feed> {
        (0..4).map(|k| random_inputs(m, seed + k, &|_, _| 8).unwrap()).collect()
    };
    let fresh = |seed: u64| Arc::new(Calibration::new(feeds(&m, seed), choose(RuntimeChoice::Tract, None).unwrap()));
    let decided = |m: &Model, calibration: Arc<Calibration>, share: f64| {
        let budget = Budget::TargetMacs(share);
        let o = Options { budget, calibration: Some(calibration), dry_run: true, ..Options::default() };
        prune(m, &o, &|_| ()).unwrap().plan.tensors
    };
    let shared = fresh(0);
    let first = decided(&m, shared.clone(), 0.5);
    assert_eq!(decided(&other, shared.clone(), 0.5), decided(&other, fresh(0), 0.5));
    assert_ne!(decided(&other, shared.clone(), 0.5), first);
    assert_eq!(decided(&m, shared.clone(), 0.7), decided(&m, fresh(0), 0.7));
    // Other samples in the same object.
    let mut changed = (*shared).clone();
    changed.batches = fresh(9).batches.clone();
    assert_eq!(decided(&m, Arc::new(changed), 0.5), decided(&m, fresh(9), 0.5));
}

#[test]
fn recalibration_is_better_than_nothing() {
    for name in ["residual.folded.onnx", "shuffle.bn.onnx"] {
        let dir = place(name);
        let mut scores = Vec::new();
        for recover in ["none", "recalibrate"] {
            let args = "net.onnx --target-macs 0.7 --criterion l2 --metric top1 --eval-samples 250 --runtime tract";
            ok(&dir, &format!("{args} --recover {recover} --data {DATA} --samples 200 --report r.json -o out.onnx"));
            let report = json(&dir, "r.json");
            scores.push(report["accuracy"]["pruned"].as_f64().unwrap());
            let layers = report["recover"]["layers"].as_array().map_or(0, Vec::len);
            assert_eq!(layers > 0, recover == "recalibrate");
        }
        println!("{name}: {:.3} → {:.3}", scores[0], scores[1]);
        assert!(scores[1] > scores[0] + 0.05, "{name}: {scores:?}");
    }
}

#[test]
fn accuracy_is_a_budget() {
    let dir = place("residual.folded.onnx");
    let args = format!("net.onnx --max-drop 3 --data {DATA} --samples 100 --eval-samples 200 --runtime tract");
    let said = ok(&dir, &format!("{args} --report r.json -o a.onnx"));
    assert!(said.contains("within the limit of 3") && said.contains("tried"), "{said}");
    let report = json(&dir, "r.json");
    let accuracy = &report["accuracy"];
    let trail = accuracy["trail"].as_array().unwrap();
    assert!(accuracy["drop"].as_f64().unwrap() <= 3.0 && accuracy["passed"] == true, "{accuracy}");
    assert_eq!((accuracy["metric"].as_str(), accuracy["samples"].as_u64()), (Some("top1"), Some(200)));
    let shares = |passed: bool| {
        let of = trail.iter().filter(move |p| p["passed"] == passed);
        of.map(|p| p["share"].as_f64().unwrap()).collect::<Vec<_>>()
    };
    let (good, bad) = (shares(true), shares(false));
    let smallest = good.iter().copied().fold(1.0, f64::min);
    assert!(good.iter().chain(&bad).all(|s| *s <= 0.97) && !bad.is_empty(), "{accuracy}");
    // What was written is the smallest that passed, and one step further failed.
    let macs = report["pruned"]["macs"].as_u64().unwrap();
    assert!(trail.iter().any(|p| p["share"] == smallest && p["macs"] == macs), "{accuracy}");
    assert!(bad.iter().any(|s| *s < smallest && smallest - s <= 0.0101 + 1e-9), "{accuracy}");
    ok(&dir, &format!("{args} -o b.onnx --threads 1"));
    assert_eq!(files(&dir)["a.onnx"], files(&dir)["b.onnx"], "the search is not deterministic");
    // Fewer parameters are another aim.
    let said = ok(&dir, &format!("{args} -o c.onnx --minimise params"));
    assert!(said.contains("fewest parameters within 3 points"), "{said}");
}

/// Exit code 1, one line, and no model.
fn failed(dir: &TempDir, args: &str, word: &str) -> Ran {
    let ran = run(dir, args);
    assert_eq!(ran.code, 1, "{args}: {}", ran.err);
    let errors: Vec<&str> = ran.err.lines().filter(|l| l.starts_with("error: ")).collect();
    assert!(errors.len() == 1 && errors[0].contains(word), "{args}: {}", ran.err);
    assert!(!names(dir).contains(&"bad.onnx".to_owned()), "{args}");
    ran
}

#[test]
fn accuracy_is_a_gate() {
    let dir = place("residual.folded.onnx");
    let on = format!("--data {DATA} --samples 100 --eval-samples 200 --runtime tract");
    let ran = failed(
        &dir,
        &format!("net.onnx --target-macs 0.2 --max-drop 1 {on} -o bad.onnx --report r.json"),
        "more than --max-drop 1",
    );
    assert!(ran.out.contains("MORE than the limit"), "{}", ran.out);
    assert_eq!(json(&dir, "r.json")["accuracy"]["passed"], false);
    let said = ok(&dir, &format!("net.onnx --target-macs 0.9 --max-drop 5 {on} -o good.onnx"));
    assert!(said.contains("within the limit of 5"), "{said}");
    // A dry run measures too, and writes nothing.
    let dry = format!("net.onnx --dry-run {on} -o bad.onnx");
    failed(&dir, &format!("{dry} --target-macs 0.2 --max-drop 1"), "more than --max-drop 1");
    let said = ok(&dir, &format!("{dry} --target-macs 0.9 --max-drop 5"));
    assert!(said.contains("within the limit of 5") && !names(&dir).contains(&"bad.onnx".to_owned()), "{said}");
    // More than half of the samples calibrate when that is said.
    let most = format!("--data {DATA} --samples 400 --runtime tract");
    let said = ok(&dir, &format!("net.onnx --target-macs 0.9 --max-drop 9 {most} -o good.onnx"));
    assert!(said.contains("from 400 samples") && said.contains("on 100 samples"), "{said}");
    // Without labels, and other figures.
    for metric in ["agreement", "cosine", "mse", "psnr", "iou", "top5"] {
        let args = format!("net.onnx --target-macs 0.9 --metric {metric} {on} -o good.onnx --report r.json");
        ok(&dir, &args);
        let accuracy = &json(&dir, "r.json")["accuracy"];
        assert_eq!(accuracy["metric"], metric);
        assert!(accuracy["limit"].is_null() && accuracy["passed"].is_null() && accuracy["drop"].is_number());
    }
    refused(&dir, "net.onnx --max-drop 1", &["--data", "--eval-command"]);
    // One image, over and over: the answer is always the same.
    let zeros = npy(&[40, 1, 28, 28]);
    std::fs::write(dir.path().join("zeros.npy"), zeros).unwrap();
    let same = "--data zeros.npy --mean 0 --std 1 --runtime tract";
    refused(&dir, &format!("net.onnx --max-drop 1 {same}"), &["zeros.npy", "agreement says nothing here"]);
    refused(&dir, &format!("diff net.onnx good.onnx --max-drop 1 {same}"), &["agreement says nothing here"]);
    ok(&dir, &format!("diff net.onnx good.onnx --max-drop 100 --metric mse {same}"));
    refused(&dir, &format!("net.onnx --max-drop -1 {on}"), &["--max-drop", "-1"]);
    refused(
        &dir,
        &format!("net.onnx --max-drop 1 --data {DATA} --samples 500 --runtime tract"),
        &["500", "--eval-data"],
    );
    refused(&dir, &format!("net.onnx --ratio 0.3 --metric cosine --metric-output z {on}"), &["\"z\"", "logits"]);
    refused(&dir, &format!("net.onnx --ratio 0.3 --metric agreement --class-axis 4 {on}"), &["agreement", "logits"]);
}

#[cfg(unix)]
#[test]
fn a_command_of_the_users_measures() {
    let dir = place("residual.folded.onnx");
    // The size stands for a score: it falls as channels go.
    let arg = |command: &str| {
        let mut c = std::process::Command::new(env!("CARGO_BIN_EXE_onnx-prune"));
        c.current_dir(&dir).args(["net.onnx", "--no-data", "-o", "bad.onnx", "--eval-command", command]);
        c
    };
    let out =
        arg("wc -c < {model}").args(["--max-drop", "60000", "--round-to", "1", "--report", "r.json"]).output().unwrap();
    assert!(out.status.success(), "{out:?}");
    let accuracy = &json(&dir, "r.json")["accuracy"];
    let drop = accuracy["drop"].as_f64().unwrap();
    assert!(drop <= 60000.0 && drop > 50000.0, "{accuracy}");
    assert_eq!(files(&dir)["bad.onnx"].len() as f64, accuracy["pruned"].as_f64().unwrap());
    std::fs::remove_file(dir.path().join("bad.onnx")).unwrap();
    for (command, words) in [
        ("true", "{model}"),
        ("echo no number; : {model}", "no number"),
        ("echo it broke >&2; false {model}", "it broke"),
    ] {
        let out = arg(command).args(["--ratio", "0.3"]).output().unwrap();
        let err = String::from_utf8(out.stderr).unwrap();
        assert!(out.status.code() == Some(2) && err.contains(words), "{command}: {err}");
    }
    let out = arg("wc -c < {model}").args(["--ratio", "0.5", "--max-drop", "10"]).output().unwrap();
    assert_eq!(out.status.code(), Some(1));
    assert!(!names(&dir).contains(&"bad.onnx".to_owned()));
}

#[test]
fn sensitivity_tells_which_groups_matter() {
    let dir = place("residual.folded.onnx");
    let args = format!("sensitivity net.onnx --data {DATA} --samples 64 --eval-samples 200 --runtime tract");
    let said = ok(&dir, &format!("{args} --report a.json --plot a.svg --resume notes"));
    assert!(said.contains("node_conv2d_7") && said.contains("saves"), "{said}");
    let report = json(&dir, "a.json");
    let groups = report["groups"].as_array().unwrap();
    assert_eq!(groups.len(), 6);
    for g in groups {
        let points = g["points"].as_array().unwrap();
        let of = |name: &str| points.iter().map(|p| p[name].as_f64().unwrap()).collect::<Vec<_>>();
        assert_eq!(points.len(), 5);
        for name in ["share", "removed", "macs_saved", "params_saved"] {
            assert!(of(name).windows(2).all(|p| p[0] < p[1]), "{name}: {g}");
        }
        let change = of("change");
        assert!(change[4] > 5.0 * change[0] && change[0] > 0.0, "{g}");
    }
    let svg = String::from_utf8(files(&dir)["a.svg"].clone()).unwrap();
    assert!(svg.starts_with("<svg role=\"img\"") && svg.contains("<desc>") && svg.matches("<polyline").count() >= 6);
    // Interrupted in the middle of a line: the rest is measured anew, the result is the same.
    let notes = files(&dir)["notes"].clone();
    let cut = notes.iter().enumerate().filter(|(_, b)| **b == b'\n').nth(3).unwrap().0 + 40;
    std::fs::write(dir.path().join("half"), &notes[..cut]).unwrap();
    ok(&dir, &format!("{args} --report b.json --resume half -q"));
    let all = files(&dir);
    assert!(all["a.json"] == all["b.json"] && all["half"] == notes);
    // Other notes are not overwritten.
    refused(&dir, &format!("{args} --seed 1 --resume half"), &["half", "delete it"]);
    refused(&dir, &format!("{args} --scale 0.5 --resume half"), &["half", "delete it"]);
    assert_eq!(files(&dir)["half"], notes);
    // Without a repair more changes.
    ok(&dir, &format!("{args} --removal plain --report p.csv --format csv --only conv2d_6"));
    let csv = String::from_utf8(files(&dir)["p.csv"].clone()).unwrap();
    let rows = csv.lines().filter(|l| l.starts_with("node_conv2d_6,"));
    let plain: Vec<f64> = rows.map(|l| l.split(',').rev().nth(3).unwrap().parse().unwrap()).collect();
    let repaired = groups.iter().find(|g| g["groups"][0] == "node_conv2d_6").unwrap()["points"].as_array().unwrap();
    assert_eq!(plain.len(), repaired.len());
    assert!(plain.iter().zip(repaired).all(|(p, r)| *p > r["change"].as_f64().unwrap()), "{csv}");
    refused(&dir, "sensitivity net.onnx", &["--data"]);
    refused(&dir, &format!("{args} --shares 0.5,1.5"), &["1.5"]);
    refused(&dir, &format!("{args} --only nothing_like_it"), &["nothing_like_it"]);
}
