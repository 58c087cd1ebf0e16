use super::super::bench::{BenchModel, BenchRow, Comparison, Verdict};
use super::*;

fn measured(ratio: f64, low: f64, high: f64) -> Measured {
    let side = |path: &str, n: u64| ModelSide {
        path: path.into(),
        sha256: String::new(),
        bytes: 10 * n,
        params: 5 * n,
        macs: Some(100 * n),
    };
    let model = |path: &str| BenchModel { path: path.into(), bytes: 1 };
    let comparison = Some(Comparison { ratio, low, high, verdict: Verdict::NoDifference });
    let rows = vec![BenchRow::default(), BenchRow { model: 1, batch: 1, comparison, ..BenchRow::default() }];
    let latency = BenchReport { models: vec![model("a.onnx"), model("b.onnx")], rows, ..BenchReport::default() };
    Measured {
        models: Models { original: side("a.onnx", 100), pruned: side("b.onnx", 60) },
        accuracy: None,
        figure: None,
        latency: Some(latency),
    }
}

/// A model against itself at exactly its own speed cannot be told.
#[test]
fn noise_around_a_limit_is_inconclusive() {
    let limits = Limits { speed: vec![Limit::MaxRatio(1.0), Limit::MinSpeedup(1.0)], ..Limits::default() };
    for (ratio, passed) in [(0.99, true), (1.01, false)] {
        let report = judge(measured(ratio, 0.95, 1.05), &limits, None).unwrap();
        assert!(report.passed == passed && report.gates.len() == 2 && report.notes.is_empty());
        for g in &report.gates {
            assert!(g.inconclusive && g.passed == passed && g.words.contains("inconclusive"), "{g:?}");
        }
        assert_eq!(report.verdict().is_ok(), passed);
    }
    let report = judge(measured(0.8, 0.7, 0.9), &limits, None).unwrap();
    assert!(report.passed && report.gates.iter().all(|g| !g.inconclusive && !g.words.contains("inconclusive")));
}

#[test]
fn what_is_slower_is_told_whatever_the_limits() {
    let limits = Limits { speed: vec![Limit::MaxRatio(9.0)], ..Limits::default() };
    let report = judge(measured(1.3, 1.2, 1.4), &limits, None).unwrap();
    assert!(report.passed && report.notes.len() == 1 && report.notes[0].contains("SLOWER"), "{:?}", report.notes);
    let report = judge(measured(1.3, 1.2, 1.4), &Limits::default(), None).unwrap();
    assert!(report.gates.is_empty() && report.notes[0].contains("b.onnx"));
}

#[test]
fn each_broken_limit_is_a_line() {
    let size = SizeLimits { macs: Some(0.5), params: Some(0.6), size: Some(0.5) };
    let limits = Limits { size, ..Limits::default() };
    let report = judge(measured(1.0, 0.9, 1.1), &limits, None).unwrap();
    let error = report.verdict().unwrap_err().to_string();
    let lines: Vec<&str> = error.lines().collect();
    assert!(lines.len() == 2 && lines[0].contains("--max-macs 0.5") && lines[1].contains("--max-size 0.5"), "{error}");
    let unknown = Measured { latency: None, ..measured(1.0, 0.9, 1.1) };
    let limits = Limits { speed: vec![Limit::MaxRatio(9.0)], ..Limits::default() };
    assert!(judge(unknown, &limits, None).is_err());
}

#[test]
fn one_figure_has_a_limit_too() {
    let figure = |drop: f64, trail: Vec<crate::report::Probe>| AccuracyReport {
        metric: "top1".into(),
        samples: None,
        original: 0.9,
        pruned: 0.9 - drop / 100.0,
        drop,
        limit: Some(1.0),
        passed: Some(drop <= 1.0),
        trail,
    };
    let of = |figure: AccuracyReport| {
        let measured = Measured { figure: Some(figure), ..measured(1.0, 0.9, 1.1) };
        judge(measured, &Limits::default(), None).unwrap().gates.remove(0)
    };
    assert!(of(figure(0.5, Vec::new())).passed && !of(figure(1.5, Vec::new())).passed);
    let probe = crate::report::Probe { share: 0.97, macs: 1, params: 1, score: 0.8, drop: 9.0, passed: false };
    let gate = of(figure(9.0, vec![probe]));
    assert!(gate.words.starts_with("even with 97 % left top1 drops by more than --max-drop 1"), "{}", gate.words);
}
