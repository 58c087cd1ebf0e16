//! Limits of the pruning command itself, and what comes out of it, with the real binary. Times are never judged here: their
//! limits always hold or never.
#![cfg(feature = "tract")]

mod build;

use build::run::{Ran, files, fixture, names, ok, refused, run};
use onnx_prune::runtime::{RuntimeChoice, choose};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fs;
use tempfile::TempDir;

const DATA: &str = "--data fashion_test.npz --samples 100 --eval-samples 200 --runtime tract";
const QUICK: &str = "--runs 10";

/// `net.onnx` with labelled images.
fn place() -> TempDir {
    let dir = TempDir::new().unwrap();
    fs::copy(fixture("residual.folded.onnx"), dir.path().join("net.onnx")).unwrap();
    for name in ["fashion_test.npz", "onnx-prune.toml"] {
        fs::copy(fixture(name), dir.path().join(name)).unwrap();
    }
    dir
}

fn json(dir: &TempDir, name: &str) -> Value {
    serde_json::from_slice(&files(dir)[name]).unwrap()
}

fn text(dir: &TempDir, name: &str) -> String {
    String::from_utf8(files(dir)[name].clone()).unwrap()
}

fn lines<'a>(ran: &'a Ran, start: &str) -> Vec<&'a str> {
    ran.err.lines().filter(|l| l.starts_with(start)).collect()
}

fn gates(report: &Value) -> Vec<&Value> {
    report["gates"].as_array().unwrap().iter().collect()
}

/// The three reports say the same.
fn consistent(dir: &TempDir, stem: &str, passed: bool) -> Value {
    let report = json(dir, &format!("{stem}.json"));
    let (md, xml) = (text(dir, &format!("{stem}.md")), text(dir, &format!("{stem}.xml")));
    let all = gates(&report);
    assert_eq!(report["passed"], passed);
    assert_eq!(all.iter().all(|g| g["passed"] == true), passed);
    assert_eq!(xml.matches("<testcase").count(), all.len(), "{xml}");
    assert_eq!(xml.matches("<failure").count(), all.iter().filter(|g| g["passed"] == false).count(), "{xml}");
    for g in all {
        let (name, limit) = (g["name"].as_str().unwrap(), &g["limit"]);
        assert!(xml.contains(&format!("name=\"{name} {}\"", limit.as_f64().unwrap())), "{name}: {xml}");
        assert!(md.contains(&format!("| `{name}` |")), "{name}: {md}");
        assert!(g["words"].as_str().is_some_and(|w| md.contains(&w.replace('|', "\\|"))), "{g}: {md}");
    }
    assert!(md.contains(if passed { ": passed: " } else { ": FAILED: " }), "{md}");
    // Whatever was measured is told as it is.
    if let Some(row) = report["latency"]["rows"].get(1) {
        let slower = row["comparison"]["low"].as_f64().unwrap() > 1.0;
        let noted = report["notes"].as_array().unwrap().iter().any(|n| n.as_str().unwrap().contains("SLOWER"));
        assert!(slower == noted && slower == md.contains("SLOWER"), "{report}");
        let (low, high) = (&row["comparison"]["low"], &row["comparison"]["high"]);
        assert!(low.as_f64().unwrap() <= high.as_f64().unwrap());
    }
    report
}

#[test]
fn what_keeps_its_limits_is_written() {
    let dir = place();
    let limits = "--max-drop 30 --min-agreement 0.3 --min-speedup 0.001 --max-ratio 1000 --max-macs 0.7 --max-params 0.9 --max-size 0.9";
    let reports = "--report r.json --report r.md --report r.xml";
    let ran = run(&dir, &format!("net.onnx --target-macs 0.5 {limits} {QUICK} {DATA} {reports} -o small.onnx"));
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.contains("passed: 7 limits kept") && ran.out.contains("of A's time"), "{}", ran.out);
    assert!(lines(&ran, "error").is_empty());
    let report = consistent(&dir, "r", true);
    assert_eq!(gates(&report).len(), 7);
    // What was judged is what was written.
    let file = &files(&dir)["small.onnx"];
    let hash: String = Sha256::digest(file).iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(report["models"]["pruned"]["sha256"], hash);
    for figures in [&report["models"]["pruned"], &report["pruned"]] {
        assert_eq!(
            (figures["bytes"].as_u64(), figures["path"].as_str()),
            (Some(file.len() as u64), Some("small.onnx"))
        );
    }
    // The comparison is on the samples that measured, and says what the one figure says.
    let (comparison, accuracy) = (&report["comparison"], &report["accuracy"]);
    assert_eq!((&comparison["samples"], &comparison["primary"]), (&accuracy["samples"], &accuracy["metric"]));
    assert_eq!(comparison["accuracy"]["top1"]["drop"], accuracy["drop"]);
    assert_eq!(report["schema_version"], 1);
    assert!(!names(&dir).iter().any(|n| n.starts_with(".onnx-prune")));
}

#[test]
fn what_breaks_limits_is_not() {
    let dir = place();
    fs::write(dir.path().join("small.onnx"), "what was there").unwrap();
    let limits = "--max-drop 0.5 --min-speedup 1000 --max-macs 0.1 --max-size 0.99";
    let reports = "--report r.json --report r.md --report r.xml";
    let args = format!("net.onnx --target-macs 0.2 --recover none {limits} {QUICK} {DATA} {reports}");
    let ran = run(&dir, &format!("{args} -o small.onnx"));
    assert_eq!(ran.code, 1, "{}", ran.err);
    let errors = lines(&ran, "error: ");
    assert_eq!(errors.len(), 3, "{}", ran.err);
    for (line, limit) in errors.iter().zip(["--max-macs 0.1", "--max-drop 0.5", "--min-speedup 1000"]) {
        assert!(line.contains(limit) && line.ends_with("no model was written"), "{line}");
    }
    assert!(ran.out.contains("FAILED: 3 of 4 limits broken"), "{}", ran.out);
    consistent(&dir, "r", false);
    assert_eq!(text(&dir, "small.onnx"), "what was there");
    assert_eq!(
        names(&dir),
        ["fashion_test.npz", "net.onnx", "onnx-prune.toml", "r.json", "r.md", "r.xml", "small.onnx"]
    );
    // A dry run is judged too.
    let ran = run(&dir, "net.onnx --target-macs 0.5 --no-data --dry-run --max-macs 0.1");
    assert_eq!((ran.code, lines(&ran, "error: ").len()), (1, 1), "{}", ran.err);
    ok(&dir, "net.onnx --target-macs 0.5 --no-data --dry-run --max-macs 0.9 --max-size 0.9");
}

#[test]
fn standard_output_is_for_the_result_alone() {
    let dir = place();
    let args = format!("net.onnx --target-macs 0.5 --max-macs 0.6 --max-ratio 1000 {QUICK} --no-data --runtime tract");
    let ran = run(&dir, &format!("{args} --json --report r.json"));
    let printed: Value = serde_json::from_str(&ran.out).unwrap();
    assert!(ran.code == 0 && printed == json(&dir, "r.json"));
    let xml = ok(&dir, &format!("{args} --format junit"));
    assert!(xml.starts_with("<?xml") && xml.matches("<testcase").count() == 2, "{xml}");
    assert!(ok(&dir, &format!("{args} --format markdown")).starts_with("# net.onnx"));
    let ran = run(&dir, "net.onnx --target-macs 0.5 --max-macs 0.1 --no-data --json");
    assert_eq!(serde_json::from_str::<Value>(&ran.out).unwrap()["passed"], false);
    assert_eq!((ran.code, lines(&ran, "error: ").len()), (1, 1));
    for command in
        ["check net.onnx net.onnx --max-macs 1", "diff net.onnx net.onnx", "bench net.onnx --runs 2 --no-memory"]
    {
        let data = if command.starts_with("diff") { "--data fashion_test.npz" } else { "--no-data" };
        let out = ok(&dir, &format!("{command} {data} --runtime tract --json"));
        assert!(serde_json::from_str::<Value>(&out).is_ok(), "{command}: {out}");
    }
    refused(&dir, &format!("{args} --json --format table"), &["--json"]);
    // Without limits there is nothing to pass, and JUnit has nothing to say.
    let plain = "net.onnx --target-macs 0.5 --no-data";
    let report: Value = serde_json::from_str(&ok(&dir, &format!("{plain} --json"))).unwrap();
    for field in ["passed", "gates", "comparison", "latency", "models", "baseline"] {
        assert!(report.get(field).is_none(), "{field}");
    }
    refused(&dir, &format!("{plain} --report r.xml"), &["limit"]);
    refused(&dir, &format!("{plain} --format junit"), &["limit"]);
    for end in ["r.txt", "r", "r.onnx"] {
        refused(&dir, &format!("{plain} --report {end}"), &[end, "FILE.json", "FILE.md", "FILE.xml"]);
    }
    // Times are measured without a limit when it is said how.
    let report: Value = serde_json::from_str(&ok(&dir, &format!("{plain} --runtime tract {QUICK} --json"))).unwrap();
    assert!(report["latency"]["rows"][1]["comparison"]["ratio"].is_number() && report.get("passed").is_none());
}

#[test]
fn a_search_is_held_to_the_other_limits() {
    let dir = place();
    let args = format!("net.onnx --max-drop 5 {DATA}");
    let ran = run(&dir, &format!("{args} --min-speedup 1000 {QUICK} --report r.json -o small.onnx"));
    assert_eq!((ran.code, lines(&ran, "error: ").len()), (1, 1), "{}", ran.err);
    let report = json(&dir, "r.json");
    let found: Vec<(&str, bool)> =
        gates(&report).iter().map(|g| (g["name"].as_str().unwrap(), g["passed"].as_bool().unwrap())).collect();
    assert_eq!(found, [("max-drop", true), ("min-speedup", false)]);
    assert!(report["accuracy"]["trail"].as_array().is_some_and(|t| !t.is_empty()));
    assert!(!names(&dir).contains(&"small.onnx".to_owned()));
    ok(&dir, &format!("{args} --min-speedup 0.001 --max-macs 0.99 {QUICK} -o small.onnx"));
}

#[cfg(unix)]
#[test]
fn a_search_that_finds_nothing_is_reported() {
    let dir = place();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_onnx-prune"));
    // The size stands for a score: every removal drops it.
    command.current_dir(&dir).args(["net.onnx", "--no-data", "--max-drop", "1", "--eval-command", "wc -c < {model}"]);
    command.args(["--report", "r.json", "--report", "r.md", "--report", "r.xml", "--save-plan", "p.json"]);
    let out = command.output().unwrap();
    let err = String::from_utf8(out.stderr).unwrap();
    assert!(out.status.code() == Some(1) && err.contains("even with 97 % left"), "{err}");
    let report = consistent(&dir, "r", false);
    assert_eq!(report["accuracy"]["trail"].as_array().unwrap().len(), 4);
    assert!(!names(&dir).iter().any(|n| n == "p.json" || n.ends_with(".pruned.onnx")), "{:?}", names(&dir));
}

#[test]
fn bad_data_ends_before_anything_is_written() {
    let dir = place();
    fs::create_dir(dir.path().join("empty")).unwrap();
    let npy = |dims: &str, bytes: usize| {
        let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({dims}), }}");
        while (header.len() + 11) % 64 != 0 {
            header.push(' ');
        }
        header.push('\n');
        let mut file = b"\x93NUMPY\x01\x00".to_vec();
        file.extend((header.len() as u16).to_le_bytes());
        file.extend(header.into_bytes());
        file.extend((0..bytes).map(|i| if i % 4 == 3 { 0x3d } else { (i * 37 % 251) as u8 }));
        file
    };
    fs::write(dir.path().join("wide.npy"), npy("40, 3, 30, 28", 4 * 40 * 3 * 30 * 28)).unwrap();
    fs::write(dir.path().join("plain.npy"), npy("40, 1, 28, 28", 4 * 40 * 28 * 28)).unwrap();
    let with = |data: &str, more: &str| {
        format!(
            "net.onnx --target-macs 0.5 --max-drop 1 --mean 0 --std 1 --runtime tract --report r.json --data {data} {more}"
        )
    };
    refused(&dir, &with("wide.npy", ""), &["wide.npy"]);
    refused(&dir, &with("plain.npy", "--metric top1"), &["top1", "labels"]);
    refused(&dir, &with("empty", ""), &["empty"]);
    refused(&dir, &with("nowhere.npz", ""), &["nowhere.npz"]);
    refused(&dir, "net.onnx --target-macs 0.5 --min-agreement 0.9 --no-data", &["--data"]);
    refused(&dir, "net.onnx --target-macs 0.5 --min-agreement 9 --no-data", &["--min-agreement", "9"]);
    refused(&dir, "net.onnx --target-macs 0.5 --max-macs 0.5 --no-data --report no/r.json", &["no/r.json"]);
    refused(&dir, "net.onnx --target-macs 0.5 --max-macs 0.5 --no-data --report empty/../empty.json/x.md", &["x.md"]);
    let batch =
        "net.onnx --target-macs 0.5 --max-ratio 9 --runtime tract --data plain.npy --mean 0 --std 1 --bench-batch 41";
    refused(&dir, batch, &["41", "40"]);
}

#[test]
fn no_runtime_and_no_device_are_told_at_once() {
    let dir = place();
    let args = "net.onnx --target-macs 0.5 --no-data --min-speedup 0.001 --runs 10 --report r.json";
    refused(&dir, &format!("{args} --runtime ort --ort-lib nothing.so"), &["nothing.so", "pip install onnxruntime"]);
    refused(&dir, &format!("{args} --runtime tract --device cuda"), &["processor only", "cuda"]);
    refused(
        &dir,
        "net.onnx --target-macs 0.5 --round-to 8 --no-data --device cuda --allow-fallback",
        &["--device", "--min-speedup"],
    );
    // tract is the processor, and that is said.
    let ran = run(&dir, &format!("{args} --runtime tract --device cuda --allow-fallback"));
    assert!(ran.code == 0 && ran.err.contains("warning: times: 0 % of the nodes ran on cuda"), "{}", ran.err);
    let ran =
        run(&dir, &format!("net.onnx --target-macs 0.5 --max-drop 90 {DATA} --device cuda --allow-fallback --json"));
    assert!(ran.code == 0 && ran.out.contains("accuracy: 0 % of the nodes ran on cuda"), "{}", ran.err);
    if let Err(e) = choose(RuntimeChoice::Ort, None) {
        println!("SKIPPED: {e}");
        return;
    }
    let dir = place();
    let before = names(&dir);
    let ran = run(&dir, &format!("{args} --runtime ort --device cuda"));
    if ran.code == 0 {
        println!("SKIPPED: there is a graphics card here");
        return;
    }
    assert!(ran.code == 2 && ran.err.to_lowercase().contains("cuda") && ran.out.is_empty(), "{}", ran.err);
    assert_eq!(names(&dir), before);
    let ran = run(&dir, &format!("{args} --runtime ort --device cuda --allow-fallback"));
    assert!(ran.code == 0 && ran.err.contains("on the processor"), "{}", ran.err);
    assert_eq!(json(&dir, "r.json")["latency"]["device"], "cuda");
}

#[test]
fn github_gets_a_summary_of_limits() {
    let dir = place();
    let with = |more: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_onnx-prune"));
        command.current_dir(&dir).env("GITHUB_STEP_SUMMARY", "summary.md");
        command.args("net.onnx --target-macs 0.5 --no-data -q".split(' ')).args(more.split_whitespace());
        command.output().unwrap().status.code()
    };
    assert!(with("") == Some(0) && !names(&dir).contains(&"summary.md".to_owned()));
    assert_eq!((with("--max-macs 0.9"), with("--max-macs 0.1")), (Some(0), Some(1)));
    let summary = text(&dir, "summary.md");
    assert_eq!((summary.matches(": passed: ").count(), summary.matches(": FAILED: ").count()), (1, 1), "{summary}");
}

#[test]
fn a_run_is_held_to_the_last_accepted_one() {
    let dir = place();
    let args = format!("net.onnx --target-macs 0.5 {DATA}");
    ok(&dir, &format!("{args} --max-drop 30 --report base.json -o a.onnx"));
    // Alone it is all limits; the same run is no worse than itself.
    let out = ok(&dir, &format!("{args} --baseline base.json --report same.json -o b.onnx"));
    assert!(out.contains("passed: 4 limits kept"), "{out}");
    let same = json(&dir, "same.json");
    let found: Vec<&str> = gates(&same).iter().map(|g| g["name"].as_str().unwrap()).collect();
    assert_eq!(found, ["baseline-macs", "baseline-params", "baseline-size", "baseline-accuracy"]);
    assert!(gates(&same).iter().all(|g| g["inconclusive"] == false) && same["baseline"] == "base.json", "{same}");
    // Larger, and worse.
    let ran = run(&dir, &format!("net.onnx --target-macs 0.9 {DATA} --baseline base.json -o c.onnx"));
    assert!(ran.code == 1 && lines(&ran, "error: ").len() >= 3 && ran.err.contains("base.json"), "{}", ran.err);
    let worse = format!("net.onnx --target-macs 0.2 --recover none {DATA} --baseline base.json -o c.onnx");
    let ran = run(&dir, &worse);
    assert!(ran.code == 1 && lines(&ran, "error: top1 dropped by").len() == 1, "{}", ran.err);
    assert!(ran.err.contains("--baseline-drop 0.5") && !names(&dir).contains(&"c.onnx".to_owned()));
    ok(&dir, &format!("{worse} --baseline-drop 100"));
    // Without data its accuracy cannot be compared, and that is no way past it.
    refused(&dir, "net.onnx --target-macs 0.5 --no-data --baseline base.json", &["--data"]);
    refused(
        &dir,
        &format!("{args} --metric cosine --baseline base.json --baseline-drop -1"),
        &["--baseline-drop", "-1"],
    );
    let ran = run(&dir, &format!("{args} --baseline-drop 1"));
    assert!(ran.code == 2 && ran.err.contains("--baseline <REPORT.json>"), "{}", ran.err);
    refused(&dir, &format!("{args} --baseline base.json --report base.json"), &["base.json", "would overwrite"]);
    // Other commands judge by the same file.
    let check = "check net.onnx a.onnx --data fashion_test.npz --runtime tract";
    let out = ok(&dir, &format!("{check} --baseline base.json --baseline-drop 9 --report check.json"));
    assert!(out.contains("top1 is from 500 samples, in base.json from 200"), "{out}");
    let times = format!("{check} --max-drop 90 --max-ratio 1000 {QUICK}");
    ok(&dir, &format!("{times} --report timed.json"));
    let out = ok(&dir, &format!("{check} --baseline timed.json --baseline-slowdown 1000 {QUICK} --json"));
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(gates(&report).last().unwrap()["name"], "baseline-ratio");
    let out = ok(&dir, &format!("{times} --baseline check.json --json"));
    assert!(out.contains("check.json has no times"), "{out}");
}

#[test]
fn a_baseline_has_to_fit() {
    let dir = place();
    fs::copy(fixture("concat.folded.onnx"), dir.path().join("other.onnx")).unwrap();
    ok(&dir, "net.onnx --target-macs 0.5 --no-data --max-macs 0.9 --report base.json -o a.onnx");
    ok(&dir, "net.onnx --target-macs 0.5 --no-data --report plain.json -o a.onnx");
    assert_eq!(run(&dir, "net.onnx --target-macs 0.5 --no-data --max-macs 0.1 --report failed.json").code, 1);
    fs::write(dir.path().join("broken.json"), "{\"passed\": tr").unwrap();
    fs::write(
        dir.path().join("new.json"),
        text(&dir, "base.json").replace("\"schema_version\": 1", "\"schema_version\": 9"),
    )
    .unwrap();
    let with = |name: &str| format!("net.onnx --target-macs 0.5 --no-data --baseline {name} -o b.onnx --report b.json");
    refused(&dir, &with("missing.json"), &["missing.json", "cannot be read", "check"]);
    refused(&dir, &with("broken.json"), &["broken.json", "is no JSON"]);
    refused(&dir, &with("plain.json"), &["plain.json", "with limits"]);
    refused(&dir, &with("new.json"), &["new.json", "schema version 1", "found 9"]);
    refused(&dir, &with("failed.json"), &["failed.json", "its own limits"]);
    refused(&dir, &with("net.onnx"), &["net.onnx"]);
    let other = "other.onnx --target-macs 0.5 --no-data --baseline base.json -o b.onnx";
    refused(&dir, other, &["base.json", "another original", "SHA-256"]);
    refused(&dir, "check other.onnx other.onnx --no-data --baseline base.json", &["base.json", "another original"]);
    ok(&dir, &with("base.json"));
}
