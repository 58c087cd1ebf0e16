//! `onnx-prune check`: the gate of a pipeline, with the real binary.
#![cfg(feature = "tract")]

mod build;

use build::run::{files, fixture, names, ok, refused, run, with_net};
use serde_json::Value;
use std::fs;
use tempfile::TempDir;

const DATA: &str = "--data d.npz --mean 0.2860 --std 0.3530 --runtime tract";

/// `net.onnx`, `small.onnx` with half of its multiply-accumulates, `bad.onnx` with a fifth and no repair, and data.
fn place() -> TempDir {
    let dir = with_net();
    fs::copy(fixture("fashion_test.npz"), dir.path().join("d.npz")).unwrap();
    ok(&dir, &format!("net.onnx --target-macs 0.5 --samples 200 {DATA} -o small.onnx"));
    ok(&dir, "net.onnx --target-macs 0.2 --recover none -o bad.onnx");
    dir
}

fn json(dir: &TempDir, name: &str) -> Value {
    serde_json::from_slice(&files(dir)[name]).unwrap()
}

#[test]
fn what_holds_passes_and_what_does_not_fails() {
    let dir = place();
    let all = "--max-drop 4 --min-agreement 0.85 --max-macs 0.52 --max-params 0.9 --max-size 0.9";
    let said =
        ok(&dir, &format!("check net.onnx small.onnx {all} {DATA} --report r.json --report r.md --report r.xml"));
    assert!(said.contains("passed: 5 limits kept"), "{said}");
    let report = json(&dir, "r.json");
    let gates = report["gates"].as_array().unwrap();
    assert!(report["passed"] == true && gates.len() == 5 && report["latency"].is_null());
    for g in gates {
        assert!(
            g["passed"] == true && g["value"].is_number() && g["limit"].is_number() && g["words"].is_string(),
            "{g}"
        );
    }
    let share = |side: &str| report["models"][side]["macs"].as_f64().unwrap();
    assert_eq!(gates[0]["value"].as_f64().unwrap(), share("pruned") / share("original"));
    let xml = String::from_utf8(files(&dir)["r.xml"].clone()).unwrap();
    assert!(
        xml.matches("<testcase").count() == 5 && xml.contains("failures=\"0\"") && xml.contains("name=\"max-drop 4\""),
        "{xml}"
    );
    assert!(String::from_utf8(files(&dir)["r.md"].clone()).unwrap().contains("| `max-macs` | 0.52 |"));

    let ran = run(
        &dir,
        &format!("check net.onnx bad.onnx --max-drop 4 --max-macs 0.1 {DATA} --report f.json --report f.xml"),
    );
    assert_eq!(ran.code, 1, "{}", ran.err);
    let lines: Vec<&str> = ran.err.lines().filter(|l| l.starts_with("error: ")).collect();
    assert!(
        lines.len() == 2 && lines[0].contains("--max-macs 0.1") && lines[1].contains("--max-drop 4"),
        "{}",
        ran.err
    );
    assert!(ran.out.contains("FAILED: 2 of 2 limits broken"), "{}", ran.out);
    assert_eq!(json(&dir, "f.json")["passed"], false);
    let xml = String::from_utf8(files(&dir)["f.xml"].clone()).unwrap();
    assert!(xml.contains("failures=\"2\"") && xml.contains("<failure message="), "{xml}");
}

#[test]
fn speed_is_judged_by_the_median_and_doubt_is_said() {
    let dir = place();
    let quick = "--runs 12 --runtime tract --no-data";
    let out = ok(&dir, &format!("check net.onnx small.onnx --max-ratio 100 {quick} --report r.json"));
    assert!(out.contains("kept"), "{out}");
    let gate = &json(&dir, "r.json")["gates"][0];
    assert!(gate["name"] == "max-ratio" && gate["value"].as_f64().is_some_and(|v| v > 0.0 && v < 100.0), "{gate}");
    let ran = run(&dir, &format!("check net.onnx small.onnx --min-speedup 1000 {quick} --report s.json"));
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("--min-speedup 1000"), "{}", ran.err);
    let report = json(&dir, "s.json");
    assert!(report["latency"]["rows"].as_array().is_some_and(|r| r.len() == 2) && report["accuracy"].is_null());
    // Doubt is said where the interval has the limit in it, and nowhere else: a model against itself at exactly its own speed.
    let ran = run(&dir, &format!("check net.onnx net.onnx --max-ratio 1 {quick} --json"));
    let report: Value = serde_json::from_str(&ran.out).unwrap();
    let (gate, comparison) = (&report["gates"][0], &report["latency"]["rows"][1]["comparison"]);
    let figure = |name: &str| comparison[name].as_f64().unwrap();
    assert_eq!(gate["inconclusive"], figure("low") <= 1.0 && 1.0 < figure("high"));
    assert_eq!(gate["inconclusive"], gate["words"].as_str().unwrap().contains("inconclusive"));
    assert_eq!(ran.code, i32::from(figure("ratio") > 1.0));
    // What is slower is told, although its limit is kept.
    let ran = run(&dir, &format!("check small.onnx net.onnx --max-ratio 1000 {quick} --json"));
    let report: Value = serde_json::from_str(&ran.out).unwrap();
    let slower = report["latency"]["rows"][1]["comparison"]["low"].as_f64().unwrap() > 1.0;
    assert_eq!(ran.err.contains("warning: net.onnx is SLOWER than small.onnx"), slower, "{}", ran.err);
    assert_eq!(report["notes"].as_array().unwrap().iter().any(|n| n.as_str().unwrap().contains("SLOWER")), slower);
}

#[test]
fn github_gets_a_summary() {
    let dir = place();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_onnx-prune"));
    command.current_dir(&dir).env("GITHUB_STEP_SUMMARY", "summary.md");
    let args = "check net.onnx small.onnx --max-macs 0.6 --max-params 0.9 -q";
    let output = command.args(args.split_whitespace()).output().unwrap();
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    let summary = String::from_utf8(files(&dir)["summary.md"].clone()).unwrap();
    assert!(summary.starts_with("# onnx-prune check: passed"), "{summary}");
}

#[test]
fn bad_input_is_refused() {
    let dir = place();
    fs::write(dir.path().join("broken.onnx"), b"no model").unwrap();
    fs::copy(fixture("shuffle.bn.onnx"), dir.path().join("other.onnx")).unwrap();
    refused(&dir, "check net.onnx small.onnx", &["no limit", "--max-drop"]);
    refused(&dir, "check net.onnx small.onnx --max-drop 1", &["--data"]);
    refused(&dir, "check net.onnx small.onnx --max-drop -1", &["--max-drop", "-1"]);
    refused(&dir, "check net.onnx broken.onnx --max-macs 1", &["broken.onnx"]);
    refused(&dir, "check net.onnx missing.onnx --max-macs 1", &["missing.onnx"]);
    refused(&dir, &format!("check net.onnx small.onnx --max-drop 1 --data nowhere {}", &DATA[13..]), &["nowhere"]);
    refused(&dir, "check net.onnx small.onnx --max-macs 1 --report net.onnx.json/x.json", &["x.json"]);
    refused(&dir, &format!("check net.onnx small.onnx --max-ratio 9 --bench-batch 501 {DATA}"), &["501", "500"]);
    let missing = "check net.onnx small.onnx --max-ratio 2 --no-data --runtime ort --ort-lib nothing.so";
    refused(&dir, missing, &["nothing.so"]);
    assert!(!names(&dir).iter().any(|n| n.starts_with(".onnx-prune")));
}
