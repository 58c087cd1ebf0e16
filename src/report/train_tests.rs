use super::*;
use crate::train::history::{SparsityState, Stop, StopReason};

/// A run as it might be: a loss of two terms that falls, a figure that rises, channels whose scores part.
pub(crate) fn run(epochs: usize, sparse: bool) -> History {
    let held = |loss: f64, top1: f64| Held { loss, metric: Some(top1), metric_name: Some("top1".into()) };
    let epoch = |i: usize| {
        let t = i as f64 / epochs as f64;
        let wave = (i as f64 * 1.7).sin() * 0.02;
        let (label, match_) = (0.35 + 1.6 * (-4.0 * t).exp() + wave, 0.12 + 0.9 * (-3.0 * t).exp());
        let penalty = if sparse { 0.25 * (1.0 - 0.7 * t) } else { 0.0 };
        let mut terms = vec![("label".to_owned(), label), ("teacher".to_owned(), match_)];
        terms.extend(sparse.then(|| ("penalty".to_owned(), penalty)));
        // A hill that moves down, and one that stays.
        let hill = |x: f64, at: f64, width: f64| (-((x - at) / width).powi(2)).exp();
        let edges: Vec<f64> = (0..=24).map(|k| -6.0 + 0.25 * f64::from(k)).collect();
        let histogram = edges.iter().take(24).map(|e| {
            let x = e + 0.125;
            (60.0 * t * hill(x, -0.8 - 4.0 * t, 0.5) + (90.0 - 50.0 * t) * hill(x, -0.4, 0.35)).round() as u64
        });
        let sparsity = sparse.then(|| SparsityState {
            removable_share: 0.45 * (t * t),
            histogram: histogram.collect(),
            edges: edges.clone(),
            penalty,
        });
        Epoch {
            epoch: i,
            step: 56 * i,
            lr: 0.05 * (1.0 + (std::f64::consts::PI * t).cos()) / 2.0,
            loss: label + match_ + penalty,
            terms: terms.into_iter().collect(),
            gradient_norm: 2.0 * (-t).exp(),
            weight_norm: 21.3 - t,
            held: Some(held(0.5 + 1.2 * (-4.0 * t).exp() + 2.0 * wave, 0.905 - 0.3 * (-4.0 * t).exp() + wave / 2.0)),
            sparsity,
            seconds: 4.7,
        }
    };
    let kind = |kind: &str, tensors, elements| Trained { kind: kind.into(), tensors, elements };
    let options = [("lr", "0.05"), ("schedule", "cosine"), ("optimiser", "sgd"), ("augment", "flip,crop=2")];
    History {
        schema_version: 1,
        tool: "onnx-prune 0.1.0".into(),
        model: "net.pruned.onnx".into(),
        teacher: Some("net.onnx".into()),
        written: Some("net.trained.onnx".into()),
        runtime: "ONNX Runtime 1.32.0 on cpu".into(),
        options: options.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        trained: vec![kind("weights of Conv", 9, 11_232), kind("BatchNormalization scales and biases", 18, 448)],
        samples: 1800,
        held_back: 200,
        batch: 32,
        steps_per_epoch: 56,
        before: Some(held(1.9, 0.585)),
        epochs: (1..=epochs).map(epoch).collect(),
        best_epoch: Some(epochs.saturating_sub(1).max(1)),
        stopped: None,
        notes: vec!["the last 8 samples of an epoch do not fill a batch".into()],
        seconds: 4.9 * epochs as f64,
    }
}

#[test]
fn a_run_is_told_in_full() {
    let text = terminal(&run(12, true), 100);
    let said = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for words in [
        "net.pruned.onnx → net.trained.onnx",
        "Teacher net.onnx",
        "11.7 k elements in 27 tensors: 9 weights of Conv (11.2 k)",
        "1800 samples, 56 steps of 32 samples an epoch; 200 more samples held back and only measured",
        "epoch 11 of 12 kept: top1 58.50 % → ",
        "% of the prunable channels can go",
        "augment flip,crop=2, lr 0.05",
        "58.80 s, 4.70 s an epoch; ONNX Runtime 1.32.0 on cpu",
        "Note the last 8 samples",
    ] {
        assert!(said.contains(words), "{words}\n{text}");
    }
    let kept: Vec<&str> = text.lines().filter(|l| l.ends_with("kept")).collect();
    assert!(kept.len() == 1 && kept[0].trim_start().starts_with("11 "), "{text}");
    for width in [60, 80, 100, 140] {
        let text = terminal(&run(12, true), width);
        assert!(text.lines().all(|l| l.chars().count() <= usize::from(width)), "{width}:\n{text}");
    }
}

#[test]
fn long_runs_are_thinned_out_and_keep_what_counts() {
    let mut h = run(200, false);
    h.best_epoch = Some(158);
    let text = terminal(&h, 100);
    let numbers: Vec<&str> = text.lines().filter_map(|l| l.split_whitespace().next()).collect();
    assert!(["1", "6", "158", "196", "200"].iter().all(|n| numbers.contains(n)) && !numbers.contains(&"2"), "{text}");
    assert!(text.contains("… one epoch in 5 (--report FILE.json lists all)"), "{text}");
    assert_eq!(markdown(&h).lines().filter(|l| l.starts_with("| ")).count(), 201);
}

#[test]
fn what_was_not_measured_is_not_told() {
    let mut h = History { before: None, best_epoch: None, ..run(3, false) };
    h.epochs.iter_mut().for_each(|e| e.held = None);
    h.epochs[2].loss = f64::NAN;
    let words = "the loss is not finite in step 140: gradient of \"/conv1/W\"".to_owned();
    h.stopped = Some(Stop { reason: StopReason::Diverged, words });
    let text = terminal(&h, 100);
    assert!(!text.contains("held back\n") && !text.contains("top1") && !text.contains("removable"), "{text}");
    assert!(
        text.contains("→ NaN on what was trained on") && text.contains("Stopped      the loss is not finite"),
        "{text}"
    );
    assert!(terminal(&History::default(), 80).contains("(nothing written)"));
    assert!(markdown(&History { model: "a|b".into(), ..h }).contains("# a\\|b → net.trained.onnx"));
}

#[test]
fn times_and_rates_are_short() {
    let texts = [0.0123, 12.4, 59.4, 61.0, 3599.4, 7620.0, f64::NAN].map(duration);
    assert_eq!(texts, ["12 ms", "12.40 s", "59.40 s", "1 min 01 s", "59 min 59 s", "2 h 07 min", "–"]);
    assert_eq!([0.1, 0.05, 0.0, 1.25e-4, 1.0].map(rate), ["0.1", "0.05", "0", "1.25e-4", "1"]);
}
