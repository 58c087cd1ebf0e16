//! `onnx-prune bench`: what comes out, and what it refuses. No test depends on a time.

use serde_json::Value;
use std::path::{Path, PathBuf};

const ROW: [&str; 20] = [
    "model",
    "batch",
    "threads",
    "warmup_s",
    "warmup_runs",
    "runs",
    "median_ms",
    "p90_ms",
    "p99_ms",
    "min_ms",
    "mean_ms",
    "std_ms",
    "samples_per_s",
    "load_ms",
    "first_ms",
    "memory_bytes",
    "device_share",
    "copies",
    "outliers",
    "comparison",
];

fn fixture(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name).display().to_string()
}

fn run(arguments: &[&str]) -> (i32, String, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_onnx-prune"));
    let output = command.arg("bench").args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// Three quick runs.
fn quick(models: &[&str], more: &[&str]) -> (i32, String, String) {
    let paths: Vec<String> = models.iter().map(|m| fixture(m)).collect();
    let mut arguments: Vec<&str> = paths.iter().map(String::as_str).collect();
    arguments.extend(["--runs", "3", "--warmup", "0"]);
    arguments.extend(more);
    run(&arguments)
}

/// Whether there is ONNX Runtime.
fn ort() -> bool {
    let found = onnx_prune::runtime::choose(onnx_prune::runtime::RuntimeChoice::Ort, None);
    found.inspect_err(|e| println!("SKIPPED: {e}")).is_ok()
}

const TRACT: [&str; 2] = ["--runtime", "tract"];

#[test]
#[cfg(feature = "tract")]
fn all_figures_are_there() {
    let models = ["residual.bn.onnx", "residual.folded.onnx"];
    let (code, out, err) = quick(&models, &["--batch", "1,2", "--format", "json", TRACT[0], TRACT[1]]);
    assert_eq!((code, err.as_str()), (0, ""));
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["schema_version"], 1);
    assert_eq!(report["device"], "cpu");
    assert_eq!(report["models"].as_array().unwrap().len(), 2);
    let rows = report["rows"].as_array().unwrap();
    let keys: Vec<_> = rows.iter().map(|r| (r["batch"].as_u64(), r["model"].as_u64())).collect();
    assert_eq!(keys, [(1, 0), (1, 1), (2, 0), (2, 1)].map(|(b, m)| (Some(b), Some(m))));
    for row in rows {
        for field in ROW {
            assert!(row.get(field).is_some(), "{field}");
        }
        assert_eq!((row["runs"].as_u64(), row["device_share"].as_f64()), (Some(3), Some(1.0)));
        assert!(row["median_ms"].as_f64().unwrap() >= row["min_ms"].as_f64().unwrap());
        assert_eq!(row["memory_bytes"].is_u64(), cfg!(target_os = "linux"), "{row}");
        assert_eq!(row["comparison"].is_null(), row["model"] == 0);
    }
    assert!(report["advice"][0].as_str().unwrap().contains("only 3 runs"));
}

#[test]
#[cfg(feature = "tract")]
fn every_form_and_file() {
    let models = ["residual.bn.onnx", "residual.folded.onnx"];
    let with = |more: &[&str]| quick(&models, &[more, &["--no-memory"], &TRACT].concat());
    let (code, out, _) = with(&["--format", "csv"]);
    assert_eq!((code, out.lines().count()), (0, 3));
    let columns: Vec<usize> = out.lines().map(|l| l.split(',').count()).collect();
    assert_eq!(columns, [24; 3]);
    let (code, out, _) = with(&["--format", "markdown"]);
    assert!(code == 0 && out.contains("| A | 1 |") && out.contains("| B | 1 |"), "{out}");
    let (code, out, _) = with(&[]);
    assert!(code == 0 && out.contains("B against A: ") && out.contains("batch 1, 1 thread"), "{out}");
    let dir = tempfile::tempdir().unwrap();
    for (name, begin) in [("a.json", "{"), ("a.csv", "model,"), ("a.md", "* A: ")] {
        let path = dir.path().join(name);
        let (code, out, err) = with(&["-q", "--report", path.to_str().unwrap()]);
        assert_eq!((code, out.as_str(), err.as_str()), (0, "", ""));
        assert!(std::fs::read_to_string(&path).unwrap().starts_with(begin), "{name}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
    let (code, _, err) = with(&["--report", dir.path().join("a.txt").to_str().unwrap()]);
    assert!(code == 2 && err.contains(".json, .csv or .md"), "{err}");
    let (code, _, err) = with(&["--report", dir.path().join("nowhere/a.md").to_str().unwrap()]);
    assert!(code == 2 && err.contains("cannot write here"), "{err}");
}

#[test]
#[cfg(feature = "tract")]
fn limits_are_gates() {
    let models = ["residual.bn.onnx", "residual.folded.onnx"];
    let with = |more: &[&str]| quick(&models, &[more, &["--no-memory", "-q"], &TRACT].concat());
    let (code, _, err) = with(&["--max-ratio", "0.000001", "--min-speedup", "0.000001"]);
    assert_eq!(code, 1, "{err}");
    let lines: Vec<&str> = err.lines().collect();
    assert!(
        lines[0].starts_with("limit: ") && lines[0].contains("--max-ratio") && lines[0].ends_with("missed"),
        "{err}"
    );
    assert_eq!(lines[1..], ["error: 1 of 2 limits missed"]);
    assert_eq!(with(&["--max-ratio", "1000000"]).0, 0);
    let (code, _, err) = quick(&models[..1], &["--max-ratio", "1"]);
    assert!(code == 2 && err.contains("at least two"), "{err}");
}

/// `y = Relu(x)` for `x` of that shape, in a file.
fn relu(dir: &Path, name: &str, dims: &[Option<i64>]) -> PathBuf {
    use onnx_prune::onnx::proto::*;
    let value = |name: &str| {
        let dim = dims.iter().map(|d| tensor_shape_proto::Dimension {
            value: d.map(tensor_shape_proto::dimension::Value::DimValue),
            ..Default::default()
        });
        let shape = Some(TensorShapeProto { dim: dim.collect() });
        let tensor = type_proto::Tensor { elem_type: Some(1), shape };
        let value = Some(type_proto::Value::TensorType(tensor));
        let r#type = Some(TypeProto { value, ..Default::default() });
        ValueInfoProto { name: Some(name.into()), r#type, ..Default::default() }
    };
    let node = NodeProto {
        op_type: Some("Relu".into()),
        input: vec!["x".into()],
        output: vec!["y".into()],
        ..Default::default()
    };
    let graph = GraphProto {
        name: Some("g".into()),
        node: vec![node],
        input: vec![value("x")],
        output: vec![value("y")],
        ..Default::default()
    };
    let opset_import = vec![OperatorSetIdProto { domain: None, version: Some(13) }];
    let proto = ModelProto { ir_version: Some(8), opset_import, graph: Some(graph), ..Default::default() };
    let path = dir.join(name);
    let model = onnx_prune::onnx::Model::from_proto(proto, path.to_str().unwrap());
    onnx_prune::onnx::save(&model, &path, &Default::default()).unwrap();
    path
}

#[test]
#[cfg(feature = "tract")]
fn inputs_have_to_agree() {
    let dir = tempfile::tempdir().unwrap();
    let small = relu(dir.path(), "small.onnx", &[None, Some(3)]);
    let fixed = relu(dir.path(), "fixed.onnx", &[Some(4), Some(3)]);
    let other = relu(dir.path(), "other.onnx", &[None, Some(5)]);
    let with = |paths: &[&PathBuf], more: &[&str]| {
        let paths = paths.iter().map(|p| p.to_str().unwrap());
        let quick = ["--runs", "3", "--warmup", "0", "--no-memory", TRACT[0], TRACT[1]];
        run(&paths.chain(quick).chain(more.iter().copied()).collect::<Vec<_>>())
    };
    let (code, _, err) = with(&[&small, &other], &[]);
    assert_eq!(code, 2);
    for part in ["small.onnx", "other.onnx", "[?, 3]", "[?, 5]"] {
        assert!(err.contains(part), "{part:?} is not in {err}");
    }
    // A batch that one model fixes is the batch of all.
    let (code, out, err) = with(&[&small, &fixed], &["--batch", "1,8"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("batch 4,") && out.contains("fixes the batch to 4, so a batch of 1, 8"), "{out}");
}

#[test]
#[cfg(feature = "tract")]
fn real_inputs_are_taken() {
    let data = fixture("fashion_test.npz");
    let more = ["--data", &data, "--samples", "20", "--batch", "5", "--no-memory", TRACT[0], TRACT[1]];
    let (code, out, err) = quick(&["residual.bn.onnx"], &more);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("fashion_test.npz") && out.contains("batch 5,"), "{out}");
    let more = ["--data", &data, "--samples", "4", "--batch", "5", TRACT[0], TRACT[1]];
    let (code, _, err) = quick(&["residual.bn.onnx"], &more);
    assert!(code == 2 && err.contains("a batch of 5 needs as many samples, and there are 4"), "{err}");
}

#[test]
#[cfg(feature = "tract")]
fn tract_says_what_it_cannot_do() {
    let with = |more: &[&str]| quick(&["residual.bn.onnx"], &[more, &TRACT].concat());
    let cases = [
        (["--threads", "2"].as_slice(), "one thread"),
        (&["--threads", "0"], "all cores"),
        (&["--profile"], "--runtime ort"),
        (&["--device", "cuda"], "processor only"),
    ];
    for (more, part) in cases {
        let (code, out, err) = with(more);
        assert!(code == 2 && err.contains(part) && out.is_empty(), "{err}");
    }
    let (code, out, _) = with(&["--device", "cuda", "--allow-fallback", "--no-memory"]);
    assert!(code == 0 && out.contains("0.0 %"), "{out}");
}

#[test]
fn flags_are_checked() {
    let cases = [
        ["--runs", "0"].as_slice(),
        &["--min-time", "-1"],
        &["--device", "gpu"],
        &["--max-ratio", "0"],
        &["--batch", "0"],
        &["--batch", "x"],
        &["--runs", "3", "--min-time", "1"],
    ];
    for more in cases {
        let path = fixture("residual.bn.onnx");
        let (code, _, err) = run(&[&[path.as_str()], more].concat());
        assert!(code == 2 && !err.is_empty(), "{more:?}: {err}");
    }
    let (code, _, err) = run(&["nowhere.onnx"]);
    assert!(code == 2 && err.contains("nowhere.onnx"), "{err}");
}

#[test]
fn missing_devices_are_errors_with_a_way_out() {
    if !ort() {
        return;
    }
    let listed = onnx_prune::runtime::list(None);
    let providers = listed.iter().find(|r| r.name == "onnxruntime").map(|r| r.providers.clone()).unwrap();
    assert!(providers.iter().any(|p| p.device == "cpu" && p.available));
    for missing in providers.iter().filter(|p| !p.available) {
        let (code, out, err) = quick(&["residual.bn.onnx"], &["--runtime", "ort", "--device", missing.device]);
        assert!(code == 2 && out.is_empty(), "{err}");
        for part in [missing.provider, missing.install.unwrap(), "--allow-fallback"] {
            assert!(err.contains(part), "{part:?} is not in {err}");
        }
        let fallback = ["--runtime", "ort", "--device", missing.device, "--allow-fallback", "--format", "json"];
        let (code, out, err) = quick(&["residual.bn.onnx"], &fallback);
        let report: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{err}"));
        assert_eq!((code, report["rows"][0]["device_share"].as_f64()), (0, Some(0.0)));
    }
}

#[test]
fn onnx_runtime_tells_the_time_of_operators() {
    if !ort() {
        return;
    }
    let models = ["residual.bn.onnx", "residual.folded.onnx"];
    let more = ["--runtime", "ort", "--profile", "--threads", "1,2", "--format", "json", "--no-memory"];
    let (code, out, err) = quick(&models, &more);
    assert_eq!((code, err.as_str()), (0, ""));
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["rows"].as_array().unwrap().len(), 4);
    let profile = report["profile"].as_array().unwrap();
    assert_eq!(profile.len(), 2);
    for model in profile {
        let operators = model["operators"].as_array().unwrap();
        let conv = operators.iter().find(|o| o["op"].as_str().unwrap().contains("Conv")).unwrap();
        assert!(conv["nodes"].as_u64().unwrap() > 1);
    }
}

#[test]
#[cfg(feature = "ort")]
fn copies_are_measured_by_themselves() {
    if !ort() {
        return;
    }
    let models = ["residual.bn.onnx", "residual.folded.onnx"];
    let on = ["--io-binding", "on", "--runtime", "ort", "--threads", "1", "--no-memory", "--batch", "2"];
    let (code, out, err) = quick(&models, &[&on[..], &["--format", "json"]].concat());
    assert_eq!((code, err.as_str()), (0, ""));
    let report: Value = serde_json::from_str(&out).unwrap();
    for row in report["rows"].as_array().unwrap() {
        assert!(row["runs"] == 3 && row["median_ms"].as_f64().unwrap() > 0.0);
        let copies = &row["copies"];
        assert!(copies["upload_ms"].as_f64().unwrap() > 0.0 && copies["download_ms"].as_f64().unwrap() > 0.0);
        // Two images of 28 × 28 and two times ten classes, four bytes each.
        assert_eq!((copies["input_bytes"].as_u64(), copies["output_bytes"].as_u64()), (Some(6272), Some(80)));
    }
    let (_, out, _) = quick(&models, &on);
    assert!(out.contains("A copies 6.27 kB in within ") && out.contains("B copies "), "{out}");
    let (_, out, _) = quick(&models, &[&on[..], &["--format", "markdown"]].concat());
    assert!(out.contains("* B copies "), "{out}");
    // Without a device of its own memory nothing is bound unless asked.
    let (_, out, _) = quick(&models, &[&on[2..], &["--format", "json"]].concat());
    let report: Value = serde_json::from_str(&out).unwrap();
    assert!(report["rows"][0]["copies"].is_null());
}

#[test]
#[cfg(feature = "tract")]
fn tract_binds_nothing() {
    let on = ["--io-binding", "on", "--runtime", "tract", "--no-memory"];
    let (code, _, err) = quick(&["residual.bn.onnx"], &on);
    assert!(code == 2 && err.contains("I/O binding") && err.contains("--runtime ort"), "{err}");
}

#[test]
#[cfg(feature = "ort")]
fn half_precision_is_measured() {
    if !ort() {
        return;
    }
    let on = ["--precision", "fp16", "--runtime", "ort", "--threads", "1"];
    let models = ["residual.bn.onnx", "residual.folded.onnx"];
    let (code, out, err) = quick(&models, &[&on[..], &["--format", "json", "--profile"]].concat());
    assert_eq!((code, err.as_str()), (0, ""));
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["precision"], "fp16");
    assert!(report["rows"][1]["median_ms"].as_f64().unwrap() > 0.0);
    assert_eq!(report["rows"][0]["memory_bytes"].is_u64(), cfg!(target_os = "linux"));
    // The casts at the interface.
    let operators = report["profile"][0]["operators"].as_array().unwrap();
    assert!(operators.iter().any(|o| o["op"] == "Cast"), "{operators:?}");
    let (_, out, _) = quick(&models, &[&on[..], &["--no-memory"]].concat());
    assert!(out.contains("on cpu, fp16"), "{out}");
}
