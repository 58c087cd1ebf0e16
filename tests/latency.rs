//! `--target-latency` with the real binary. Times differ from run to run, so that no figure is tested, only what must hold
//! whatever they are.

mod build;

use build::run::{files, fixture, names, ok, refused, run, with_net};
use onnx_prune::runtime::{RuntimeChoice, choose};
use serde_json::Value;
use std::fs;
use tempfile::TempDir;

const QUICK: &str = "--runs 12 --latency-cache cache";

fn json(dir: &TempDir, name: &str) -> Value {
    serde_json::from_slice(&files(dir)[name]).unwrap()
}

/// What holds of every report.
fn consistent(report: &Value) {
    let target = &report["latency_target"];
    let of = |name: &str| target[name].as_f64().unwrap();
    assert!(of("ratio") > 0.0 && of("low") <= of("ratio") && of("ratio") <= of("high"), "{target}");
    let near = (of("ratio") / of("target_ratio") - 1.0).abs() <= 0.05;
    assert_eq!(target["reached"].as_bool(), Some(near), "{target}");
    assert_eq!(report["missed"].is_null(), near, "{report}");
    assert_eq!(report["ratio_reached"].as_f64(), Some(of("ratio")));
    let trail = target["trail"].as_array().unwrap();
    assert!(!trail.is_empty() && trail.iter().all(|p| p["ratio"].as_f64().unwrap() > 0.0), "{target}");
    // The times in the report are those of the written model.
    assert_eq!(report["latency"]["rows"][1]["comparison"]["ratio"].as_f64(), Some(of("ratio")));
}

fn on(runtime: &str) {
    let dir = with_net();
    let args = format!("net.onnx --target-latency 0.6 {QUICK} --runtime {runtime}");
    let said = ok(&dir, &format!("{args} --report a.json --report a.html -o a.onnx"));
    assert!(said.contains("target-latency 0.6") && said.contains("Latency "), "{said}");
    let first = json(&dir, "a.json");
    consistent(&first);
    assert!(first["latency_target"]["layers_measured"].as_u64().unwrap() > 5);
    assert!(first["pruned"]["macs"].as_u64() < first["original"]["macs"].as_u64());
    let page = String::from_utf8(files(&dir)["a.html"].clone()).unwrap();
    assert!(page.contains("by the layers’ times") || page.contains("by the layers&#39; times"), "no tries on the page");

    // What was measured is remembered.
    let kept = fs::read_dir(dir.path().join("cache")).unwrap().count();
    assert_eq!(kept, 1);
    let out = ok(&dir, &format!("{args} --json -o b.onnx"));
    let second: Value = serde_json::from_str(&out).unwrap();
    consistent(&second);
    assert_eq!(second["latency_target"]["layers_measured"].as_u64(), Some(0));
    // The written model is as good as any other: it can be looked at, and pruned again.
    ok(&dir, "inspect a.onnx b.onnx");
}

#[test]
fn layers_are_timed_and_remembered_on_tract() {
    on("tract");
}

#[test]
fn layers_are_timed_and_remembered_on_onnx_runtime() {
    match choose(RuntimeChoice::Ort, None) {
        Ok(_) => on("ort"),
        Err(e) => println!("SKIPPED: {e}"),
    }
}

#[test]
fn all_kinds_of_layers_can_be_timed() {
    // Depthwise, grouped, squeeze-and-excite, concatenated: a shape that does not fit together would be an error.
    for name in ["depthwise.bn", "shuffle.bn", "squeeze_excite.folded", "concat.folded"] {
        let dir = TempDir::new().unwrap();
        fs::copy(fixture(&format!("{name}.onnx")), dir.path().join("net.onnx")).unwrap();
        let args = "net.onnx --target-latency 0.7 --runs 10 --latency-cache off --runtime tract --dry-run --json";
        let report: Value = serde_json::from_str(&ok(&dir, args)).unwrap();
        consistent(&report);
        assert!(report["latency_target"]["layers_measured"].as_u64().unwrap() > 5, "{name}");
        assert_eq!(names(&dir), ["net.onnx"], "{name}");
    }
}

#[test]
fn data_and_limits_go_with_it() {
    let dir = with_net();
    for name in ["fashion_test.npz", "onnx-prune.toml"] {
        fs::copy(fixture(name), dir.path().join(name)).unwrap();
    }
    let args = format!("net.onnx --target-latency 0.6 {QUICK} --runtime tract --data fashion_test.npz --samples 64");
    let report: Value = serde_json::from_str(&ok(&dir, &format!("{args} --max-drop 90 --json"))).unwrap();
    consistent(&report);
    assert_eq!(report["recover"]["mode"], "reconstruct");
    assert_eq!(report["passed"], true);
    fs::remove_file(dir.path().join("net.pruned.onnx")).unwrap();
    let ran = run(&dir, &format!("{args} --max-drop 90 --min-speedup 1000 --report b.json"));
    assert!(ran.code == 1 && ran.err.contains("--min-speedup 1000"), "{}", ran.err);
    assert!(!names(&dir).contains(&"net.pruned.onnx".to_owned()));
    consistent(&json(&dir, "b.json"));
}

#[test]
fn wrong_targets_are_refused() {
    let dir = with_net();
    for wrong in ["0", "-1", "1.5", "5s", "ms", "nan"] {
        let ran = run(&dir, &format!("net.onnx --target-latency {wrong}"));
        assert!(ran.code == 2 && ran.err.contains("--target-latency"), "{wrong}: {}", ran.err);
    }
    for (args, word) in [
        ("--target-latency 0.5 --ratio 0.3", "--ratio"),
        ("--ratio 0.3 --latency-cache x", "--target-latency"),
        ("--target-latency 0.5 --plan p.json", "--plan"),
    ] {
        let ran = run(&dir, &format!("net.onnx {args}"));
        assert!(ran.code == 2 && ran.err.contains(word), "{args}: {}", ran.err);
    }
    refused(&dir, &format!("net.onnx --target-latency 1000000ms --runtime tract {QUICK}"), &["1000000ms", "already"]);
    refused(
        &dir,
        "net.onnx --target-latency 0.5 --runtime ort --ort-lib nothing.so",
        &["nothing.so", "pip install onnxruntime"],
    );
    refused(&dir, "net.onnx --target-latency 0.5 --runtime tract --device cuda", &["processor only"]);
}
