use super::super::bench::{BenchReport, Comparison, Verdict};
use super::super::diff::{ModelSide, Models};
use super::*;
use serde_json::{Value, json};

fn side(path: &str, bytes: u64) -> ModelSide {
    ModelSide { path: path.into(), sha256: format!("{path:0>64}"), bytes, params: bytes / 4, macs: Some(10 * bytes) }
}

/// A run whose figure dropped by so many points and whose ratio has that interval.
fn run(drop: f64, ratio: [f64; 3]) -> Measured {
    let [ratio, low, high] = ratio;
    let row = json!({
        "batch": 1, "threads": 1,
        "comparison": { "ratio": ratio, "low": low, "high": high }
    });
    Measured {
        models: Models { original: side("a.onnx", 1000), pruned: side("b.onnx", 600) },
        accuracy: None,
        figure: Some(AccuracyReport {
            metric: "top1".into(),
            samples: Some(500),
            original: 0.9,
            pruned: 0.9 - drop / 100.0,
            drop,
            limit: None,
            passed: None,
            trail: Vec::new(),
        }),
        latency: Some(bench(&row)),
    }
}

fn bench(row: &Value) -> BenchReport {
    let c = &row["comparison"];
    let of = |key: &str| c[key].as_f64().unwrap();
    let comparison = Comparison { ratio: of("ratio"), low: of("low"), high: of("high"), verdict: Verdict::Faster };
    let row =
        super::super::bench::BenchRow { comparison: Some(comparison), ..super::super::bench::BenchRow::default() };
    BenchReport {
        runtime: "tract".into(),
        runtime_version: "1".into(),
        device: "cpu".into(),
        rows: vec![row],
        ..BenchReport::default()
    }
}

/// The report of that run, as a pruning run writes it, with one thing changed.
fn file(measured: &Measured, change: impl Fn(&mut Value)) -> (tempfile::TempDir, std::path::PathBuf) {
    let mut report = json!({
        "schema_version": 1, "tool": "onnx-prune 0.0.1", "budget": "ratio 0.4", "passed": true,
        "models": measured.models, "accuracy": measured.figure, "latency": measured.latency,
    });
    change(&mut report);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("base.json");
    std::fs::write(&path, report.to_string()).unwrap();
    (dir, path)
}

fn baseline(measured: &Measured, change: impl Fn(&mut Value)) -> Result<Baseline> {
    let (_dir, path) = file(measured, change);
    load(&path, Tolerance::default())
}

fn outcome(then: &Measured, now: &Measured) -> Vec<(String, bool, bool)> {
    let (gates, _) = baseline(then, |_| ()).unwrap().judge(now).unwrap();
    gates.into_iter().map(|g| (g.name, g.passed, g.inconclusive)).collect()
}

#[test]
fn what_is_within_noise_passes_and_what_is_not_does_not() {
    let then = run(0.2, [0.6, 0.58, 0.62]);
    assert!(outcome(&then, &then).iter().all(|g| g.1), "a run is not worse than itself");
    let of = |now: &Measured, name: &str| {
        let all = outcome(&then, now);
        all.into_iter().find(|g| g.0 == name).map(|g| (g.1, g.2)).unwrap()
    };
    // Half a point, and not a hundredth more; better is always fine.
    assert_eq!(of(&run(0.7, [0.6, 0.5, 0.7]), "baseline-accuracy"), (true, false));
    assert_eq!(of(&run(0.71, [0.6, 0.5, 0.7]), "baseline-accuracy"), (false, false));
    assert_eq!(of(&run(-3.0, [0.6, 0.5, 0.7]), "baseline-accuracy"), (true, false));
    assert_eq!(of(&run(f64::NAN, [0.6, 0.5, 0.7]), "baseline-accuracy"), (false, false));
    // 0.62 · 1.05 = 0.651.
    assert_eq!(of(&run(0.2, [0.65, 0.64, 0.6505]), "baseline-ratio"), (true, false));
    assert_eq!(of(&run(0.2, [0.65, 0.6, 0.7]), "baseline-ratio"), (true, true));
    assert_eq!(of(&run(0.2, [0.66, 0.6, 0.7]), "baseline-ratio"), (false, true));
    assert_eq!(of(&run(0.2, [0.9, 0.8, 0.95]), "baseline-ratio"), (false, false));
    // Sizes have no noise.
    let mut now = then.clone();
    now.models.pruned = ModelSide { bytes: 601, macs: Some(5999), ..side("b.onnx", 600) };
    assert!(!of(&now, "baseline-size").0 && of(&now, "baseline-macs").0 && of(&now, "baseline-params").0);
}

#[test]
fn what_is_missing_is_never_passed_over() {
    let then = run(0.2, [0.6, 0.58, 0.62]);
    let base = baseline(&then, |_| ()).unwrap();
    assert!(base.metric() == Some("top1") && base.has_times());
    let error = |now: Measured| base.judge(&now).unwrap_err().to_string();
    assert!(error(Measured { figure: None, ..then.clone() }).contains("it has top1"));
    assert!(error(Measured { latency: None, ..then.clone() }).contains("measured none"));
    let less = baseline(&then, |r| {
        r["accuracy"] = Value::Null;
        r["latency"] = Value::Null;
        r["models"]["pruned"]["macs"] = Value::Null;
    });
    let less = less.unwrap();
    assert!(less.metric().is_none() && !less.has_times());
    let (gates, notes) = less.judge(&then).unwrap();
    assert_eq!(gates.len(), 2);
    for word in ["has no accuracy", "has no times", "MACs are not compared", "was made by onnx-prune 0.0.1"] {
        assert!(notes.iter().any(|n| n.contains(word)), "{word}: {notes:?}");
    }
}

#[test]
fn what_differs_is_told() {
    let then = run(0.2, [0.6, 0.58, 0.62]);
    let base = baseline(&then, |r| {
        r["accuracy"]["samples"] = json!(100);
        r["latency"]["runtime_version"] = json!("2");
        r["latency"]["machine"]["cores"] = json!(99);
        r["latency"]["device"] = json!("cuda:0");
        r["latency"]["rows"][0]["batch"] = json!(8);
    });
    let (_, notes) = base.unwrap().judge(&then).unwrap();
    for word in ["from 100", "tract 2", "99 cores", "cuda:0", "with batch 8"] {
        assert!(notes.iter().any(|n| n.contains(word)), "{word}: {notes:?}");
    }
}

#[test]
fn other_files_are_refused() {
    let then = run(0.2, [0.6, 0.58, 0.62]);
    let error = |change: &dyn Fn(&mut Value)| baseline(&then, change).unwrap_err().to_string();
    assert!(error(&|r| r["schema_version"] = json!(2)).contains("found 2"));
    assert!(error(&|r| r["passed"] = json!(false)).contains("its own limits"));
    assert!(error(&|r| *r = json!({ "models": [] })).contains("neither"));
    assert!(error(&|r| *r = json!(7)).contains("expected the JSON report"));
    assert!(error(&|r| r["latency"]["rows"] = json!("none")).contains("a part of the report is missing"));
    let (dir, path) = file(&then, |_| ());
    assert!(load(dir.path(), Tolerance::default()).is_err());
    assert!(load(&path, Tolerance { drop: -1.0, ..Tolerance::default() }).is_err());
    assert!(load(&path, Tolerance { slowdown: f64::NAN, ..Tolerance::default() }).is_err());
    std::fs::write(&path, "{\"passed\": tr").unwrap();
    assert!(load(&path, Tolerance::default()).unwrap_err().to_string().contains("is no JSON"));
}
