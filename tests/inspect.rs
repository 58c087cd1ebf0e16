//! `inspect --summary` and `inspect --why`, as a user meets them.

mod build;

use build::run::{files, fixture, ok, refused, run, with_net};
use std::fs;

#[test]
fn a_folder_is_summarised() {
    let dir = with_net();
    fs::create_dir(dir.path().join("all")).unwrap();
    for name in ["residual.bn", "shuffle.folded", "depthwise.bn"] {
        let name = format!("{name}.onnx");
        fs::copy(fixture(&name), dir.path().join("all").join(&name)).unwrap();
    }
    fs::write(dir.path().join("all/notes.txt"), "no model").unwrap();
    let before = files(&dir);
    let table = ok(&dir, "inspect --summary all net.onnx");
    for word in ["prunable MACs", "at 0.6", "twin", "residual.bn", "shuffle.folded", "net.onnx", "4 models", "0 failed"]
    {
        assert!(table.contains(word), "{word}:\n{table}");
    }
    assert!(before == files(&dir), "a summary writes nothing");
    let json: serde_json::Value =
        serde_json::from_str(&ok(&dir, "inspect --summary all --target-macs 0.5 --format json")).unwrap();
    assert_eq!(json["target_macs"], 0.5);
    let rows = json["models"].as_array().unwrap();
    let paths: Vec<&str> = rows.iter().map(|r| r["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["all/depthwise.bn.onnx", "all/residual.bn.onnx", "all/shuffle.folded.onnx"]);
    for r in rows {
        assert!((r["reached"].as_f64().unwrap() - 0.5).abs() < 0.03, "{r:#}");
        assert!(r["prunable_macs"].as_f64().unwrap() > 0.9 && r["nodes"].as_u64().unwrap() > 10, "{r:#}");
        assert_eq!(r["error"], serde_json::Value::Null);
        if cfg!(feature = "tract") {
            assert!(r["twin_difference"].as_f64().unwrap() < 1e-4, "{r:#}");
        }
    }
}

#[test]
fn a_summary_goes_on_after_a_bad_file_and_says_so() {
    let dir = with_net();
    fs::write(dir.path().join("bad.onnx"), "this is no model").unwrap();
    let ran = run(&dir, "inspect --summary bad.onnx net.onnx");
    assert_eq!(ran.code, 2, "{}", ran.err);
    assert!(ran.out.contains("not read") && ran.out.contains("1 not read") && ran.out.contains("0.6"), "{}", ran.out);
    assert!(ran.err.contains("bad.onnx"), "{}", ran.err);
    fs::create_dir(dir.path().join("empty")).unwrap();
    refused(&dir, "inspect --summary empty", &["empty", "no .onnx file"]);
    refused(&dir, "inspect --summary net.onnx --target-macs 1.5", &["1.5"]);
    refused(&dir, "inspect --summary net.onnx --format dot", &["table or JSON"]);
}

#[test]
fn why_follows_a_channel_to_all_that_it_touches() {
    let dir = with_net();
    let text = ok(&dir, "inspect net.onnx --why /2/shortcut/shortcut.0/Conv");
    // Its output channels meet those of the residual branch.
    for word in ["makes", "reads", "joins", "/2/body/body.1/body.1.0/Conv", "/2/Add", "/3/shortcut/shortcut.0/Conv"] {
        assert!(text.contains(word), "{word}:\n{text}");
    }
    assert!(text.lines().all(|l| l.chars().count() <= 100), "{text}");
    let json: serde_json::Value =
        serde_json::from_str(&ok(&dir, "inspect net.onnx --why 4.2/Gemm --format json")).unwrap();
    assert_eq!(json["op"], "Gemm");
    let held = &json["axes"].as_array().unwrap().iter().find(|x| x["axis"] == 0).unwrap()["held"];
    assert_eq!(held[0]["reason"], "graph output \"logits\"");
}

#[test]
fn why_shows_the_way_to_a_pin() {
    let dir = with_net();
    let text = ok(&dir, "inspect net.onnx --why 4.2/Gemm");
    assert!(text.contains("held") && text.contains("10 by graph output \"logits\""), "{text}");
    refused(&dir, "inspect net.onnx --why nowhere", &["net.onnx", "nowhere", "no node"]);
    refused(&dir, "inspect net.onnx --why Relu", &["Relu", "several", "/0/0.2/Relu"]);
}
