//! What is printed, to the letter.

mod build;

use build::{between, in_memory, int, node, weight};
use onnx_prune::channels::Pin;
use onnx_prune::inspect::inspect;
use onnx_prune::report::{GroupReport, ModelFigures, PruneReport, RecoverReport, VerifyReport};
use onnx_prune::report::{dot, inspect_terminal, terminal};

fn report(groups: usize) -> PruneReport {
    let figures = |path: &str, params, macs, bytes| ModelFigures { path: path.into(), opset: 17, params, macs, bytes };
    let pin = |layer: &str, node: &str, op: &str, reason: &str| Pin {
        layer: layer.into(),
        tensor: format!("{layer}.weight"),
        axis: 0,
        pinned: 64,
        len: 64,
        node: node.into(),
        op: op.into(),
        reason: reason.into(),
    };
    PruneReport {
        schema_version: 1,
        tool: "onnx-prune".into(),
        original: figures("net.onnx", 25_557_032, 4_089_184_256, 102_442_450),
        pruned: figures("net.pruned.onnx", 12_345_678, 2_000_000_000, 49_400_000),
        budget: "target-macs 0.4".into(),
        ratio_requested: 0.4,
        ratio_reached: 0.489,
        missed: Some("target-macs 0.4: the nearest reachable is 0.489 of the MACs; held back by something".into()),
        channels_prunable: 1000,
        channels_removed: 400,
        criterion: "bn-scale".into(),
        notes: vec!["something that the user should know".into()],
        approximated: vec![],
        groups: (0..groups)
            .map(|i| GroupReport {
                id: format!("/backbone/stages.{i}/a_block_with_a_long_name/conv/Conv"),
                layers: vec![format!("/stages.{i}/conv/Conv"), format!("/stages.{i}/bn/BatchNormalization")],
                channels_before: 64,
                channels_after: 40,
                reason: "ratio 0.40 → 0.38 (rounded to 8)".into(),
                criterion: if i == 0 { "l2" } else { "bn-scale" }.into(),
            })
            .collect(),
        scores: None,
        pins: vec![
            pin("head", "graph", "graph", "graph output \"logits\""),
            pin("/a/conv", "/a/softmax", "Softmax", "the statistic runs over this axis"),
            pin("/b/conv", "/a/softmax", "Softmax", "the statistic runs over this axis"),
        ],
        recover: RecoverReport {
            mode: "bias".into(),
            constant_channels: 1,
            expected_channels: 399,
            skipped_channels: 0,
            layers: Vec::new(),
        },
        verify: VerifyReport {
            runtime: "tract 0.23".into(),
            max_rel_diff: Some(1.25e-6),
            note: "outputs are equal".into(),
        },
        accuracy: None,
        rounds: Vec::new(),
        latency_target: None,
        models: None,
        gates: Vec::new(),
        passed: None,
        baseline: None,
        comparison: None,
        latency: None,
        timings_ms: [("load", 3.0), ("trace", 40.0), ("verify", 1200.0), ("total", 1243.0)]
            .map(|(k, v)| (k.to_owned(), v))
            .into(),
    }
}

#[test]
fn pruning() {
    insta::assert_snapshot!(terminal::prune(&report(2), 100));
}

#[test]
fn long_lists_are_cut() {
    let text = terminal::prune(&report(43), 100);
    assert!(text.contains("\n… and 3 more (--report FILE.json lists all)\n"), "{text}");
    assert!(text.contains("…stages.39/") && !text.contains("…stages.40/"), "{text}");
    for width in [60, 80, 100, 140] {
        let text = terminal::prune(&report(43), width);
        assert!(text.lines().all(|l| l.chars().count() <= usize::from(width)), "{width}:\n{text}");
    }
}

#[test]
fn inspecting_one_and_two() {
    let softmax = int(node("Softmax", "so\"ft", &["a.y"], &["m.y"]), "axis", 1);
    let [a, b] = [build::plain(), between(vec![softmax], vec![weight("unused", &[3])])].map(in_memory);
    let one = inspect([&a]).unwrap();
    insta::assert_snapshot!("inspecting_one", inspect_terminal::inspect(&one, 100));
    let two = inspect([&a, &b]).unwrap();
    insta::assert_snapshot!("inspecting_two", inspect_terminal::inspect(&two, 100));
    insta::assert_snapshot!("drawing", two.models.iter().map(dot::digraph).collect::<String>());
}
