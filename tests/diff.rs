//! `onnx-prune diff`: what it says of two models, as a user meets it.
#![cfg(feature = "tract")]

mod build;

use build::run::{files, fixture, names, ok, refused, run, with_net};
use onnx_prune::onnx::proto::{ModelProto, tensor_shape_proto::dimension::Value, type_proto};
use onnx_prune::onnx::{Model, SaveOptions, load, save, tensor};
use serde_json::Value as Json;
use std::fs;
use tempfile::TempDir;

/// `net.onnx`, `small.onnx` pruned from it, `d.npz` with labels, and `onnx-prune.toml`; the runtime is always tract.
fn pruned() -> TempDir {
    let dir = with_net();
    fs::copy(fixture("fashion_test.npz"), dir.path().join("d.npz")).unwrap();
    fs::copy(fixture("onnx-prune.toml"), dir.path().join("onnx-prune.toml")).unwrap();
    ok(&dir, "net.onnx --target-macs 0.7 -o small.onnx");
    dir
}

fn json(dir: &TempDir, args: &str) -> Json {
    let ran = run(dir, &format!("diff --runtime tract --format json {args}"));
    assert!(ran.code < 2, "{args}: {}", ran.err);
    serde_json::from_str(&ran.out).unwrap()
}

fn number(j: &Json, path: &str) -> f64 {
    j.pointer(path).unwrap_or_else(|| panic!("no {path}")).as_f64().unwrap_or_else(|| panic!("{path} is no number"))
}

/// The model with its content changed.
fn change(dir: &TempDir, from: &str, to: &str, how: impl FnOnce(&mut ModelProto)) {
    let model = load(&dir.path().join(from)).unwrap();
    let mut proto = model.proto.clone();
    how(&mut proto);
    let changed: Model = model.derive(proto);
    save(&changed, &dir.path().join(to), &SaveOptions::default()).unwrap();
}

fn shape(v: &mut onnx_prune::onnx::proto::ValueInfoProto) -> &mut onnx_prune::onnx::proto::TensorShapeProto {
    match v.r#type.as_mut().unwrap().value.as_mut().unwrap() {
        type_proto::Value::TensorType(t) => t.shape.as_mut().unwrap(),
        _ => panic!(),
    }
}

#[test]
fn with_labels_everything_is_counted() {
    let dir = pruned();
    let j = json(&dir, "net.onnx small.onnx --data d.npz --metric top1 --metric iou");
    assert_eq!((&j["schema_version"], &j["samples"], &j["labels"]), (&1.into(), &500.into(), &true.into()));
    assert_eq!(
        (&j["primary"], &j["runtime"]["name"], &j["identical"]),
        (&"top1".into(), &"tract".into(), &false.into())
    );
    // The accuracy that fixtures/README.md tells, and that fixtures/accuracy.py measures in ONNX Runtime.
    assert_eq!(number(&j, "/accuracy/top1/original"), 0.902);
    let lost = number(&j, "/accuracy/top1/original") - number(&j, "/accuracy/top1/pruned");
    assert!((number(&j, "/accuracy/top1/difference") + lost).abs() < 1e-12);
    assert!((number(&j, "/accuracy/top1/drop") - 100.0 * lost).abs() < 1e-9);
    let (low, high) = (number(&j, "/accuracy/top1/interval/0"), number(&j, "/accuracy/top1/interval/1"));
    assert!(low < -lost && -lost < high && high - low < 0.1);
    let pairs = |key: &str| number(&j, &format!("/accuracy/top1/pairs/{key}"));
    assert_eq!(pairs("both") + pairs("broken") + pairs("fixed") + pairs("neither"), 500.0);
    assert!((pairs("broken") - pairs("fixed") - 500.0 * lost).abs() < 1e-9);
    for metric in ["top1", "top5", "agreement", "cosine", "mse", "psnr", "iou"] {
        number(&j, &format!("/accuracy/{metric}/pruned"));
    }
    // Classes add up to the whole, as do samples that changed.
    let classes = j["per_class"].as_array().unwrap();
    let sum = |key: &str| classes.iter().map(|c| c[key].as_f64().unwrap()).sum::<f64>();
    assert_eq!(
        (classes.len(), sum("samples"), sum("fixed"), sum("broken")),
        (10, 500.0, pairs("fixed"), pairs("broken"))
    );
    let changed = j["changed"].as_array().unwrap();
    assert!((1.0 - changed.len() as f64 / 500.0 - number(&j, "/accuracy/agreement/pruned")).abs() < 1e-12);
    assert!(changed.iter().all(|c| c["original"] != c["pruned"] && c["label"].is_i64()));
    let confusions: i64 = j["confusions"].as_array().unwrap().iter().map(|c| c["change"].as_i64().unwrap()).sum();
    assert!((confusions as f64 - 500.0 * lost).abs() < 1e-9);
    assert_eq!(j["iou_per_class"].as_array().unwrap().len(), 10);
    // Outputs, samples, layers.
    assert_eq!(j["outputs"][0]["name"], "logits");
    assert!((number(&j, "/outputs/0/mse") - number(&j, "/accuracy/mse/pruned")).abs() < 1e-9);
    assert_eq!(j["outputs"][0]["kl"]["softmax"], true);
    assert_eq!(j["worst"].as_array().unwrap().len(), 20);
    assert!(number(&j, "/worst/0/error") >= number(&j, "/worst/1/error"));
    assert_eq!((number(&j, "/layers/samples"), j["gates"].as_array().unwrap().len()), (64.0, 0));
    assert!(number(&j, "/layers/compared") > 5.0 && number(&j, "/layers/other_shape") > 5.0);
    for side in ["original", "pruned"] {
        assert_eq!(j["models"][side]["sha256"].as_str().unwrap().len(), 64);
    }
    assert!(number(&j, "/models/pruned/macs") < 0.71 * number(&j, "/models/original/macs"));
    // Nothing depends on threads.
    assert_eq!(j, json(&dir, "net.onnx small.onnx --data d.npz --metric top1 --metric iou --threads 1"));

    let text = ok(&dir, "diff net.onnx small.onnx --data d.npz --runtime tract");
    for word in ["top1 *", "more than noise", "McNemar", "KL", "Layers", "tensors of the same name", "broken", "2.21 M"]
    {
        assert!(text.contains(word), "{word}:\n{text}");
    }
    assert!(text.lines().all(|l| l.chars().count() <= 100), "{text}");
}

#[test]
fn without_labels_outputs_are_compared() {
    let dir = pruned();
    // Images of noise, one of them black.
    let noise: Vec<u8> = (0..40 * 784u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let header = "{'descr': '|u1', 'fortran_order': False, 'shape': (40, 1, 28, 28), }\n";
    let npy = [b"\x93NUMPY\x01\0", (header.len() as u16).to_le_bytes().as_slice(), header.as_bytes(), &noise].concat();
    fs::write(dir.path().join("noise.npy"), npy).unwrap();
    let j = json(&dir, "net.onnx small.onnx --data noise.npy --layer-samples 0");
    assert_eq!((&j["labels"], &j["primary"], &j["layers"]), (&false.into(), &"agreement".into(), &Json::Null));
    assert!(j["accuracy"].get("top1").is_none() && j["per_class"].as_array().unwrap().is_empty());
    let (low, high) = (number(&j, "/accuracy/agreement/interval/0"), number(&j, "/accuracy/agreement/interval/1"));
    let difference = number(&j, "/accuracy/agreement/difference");
    assert!(low <= difference && difference <= high && j["accuracy"]["agreement"]["interval_method"] == "wilson");
    let q = |key: &str| number(&j, &format!("/outputs/0/error/{key}"));
    assert!(q("min") <= q("median") && q("median") <= q("q99") && q("q99") <= q("max") && q("min") > 0.0);
    refused(&dir, "diff net.onnx small.onnx --data noise.npy --metric top1", &["noise.npy", "labels", "agreement"]);
    assert!(ok(&dir, "diff net.onnx small.onnx --data noise.npy").contains("agreement with the original"));
}

#[test]
fn a_model_does_not_differ_from_itself() {
    let dir = pruned();
    let j = json(&dir, "net.onnx net.onnx --data d.npz --layer-samples 8 --max-drop 0 --metric top1 --metric mse");
    assert_eq!((&j["identical"], &j["accuracy"]["top1"]["verdict"]), (&true.into(), &"no-change".into()));
    assert_eq!((number(&j, "/outputs/0/max_delta"), number(&j, "/outputs/0/equal")), (0.0, 1.0));
    assert_eq!((number(&j, "/accuracy/psnr/pruned"), number(&j, "/accuracy/mse/pruned")), (100.0, 0.0));
    assert_eq!((number(&j, "/layers/other_shape"), number(&j, "/layers/only_original")), (0.0, 0.0));
    assert!(j["layers"]["tensors"].as_array().unwrap().iter().all(|t| t["mse"] == 0.0));
    for empty in ["confusions", "changed", "worst"] {
        assert!(j[empty].as_array().unwrap().is_empty(), "{empty}");
    }
    assert_eq!(j["gates"][0]["passed"], true);
    let text = ok(&dir, "diff net.onnx net.onnx --data d.npz --runtime tract");
    assert!(text.contains("exactly the same on all samples"), "{text}");
}

#[test]
fn small_changes_are_noise() {
    let dir = pruned();
    change(&dir, "net.onnx", "near.onnx", |proto| {
        let graph = proto.graph.as_mut().unwrap();
        let bias = graph.initializer.iter_mut().find(|t| t.name() == "4.2.bias").unwrap();
        let values: Vec<f32> =
            tensor::to_f64(bias).unwrap().iter().enumerate().map(|(i, x)| (x + 0.05 * (i % 3) as f64) as f32).collect();
        *bias = tensor::from_f32("4.2.bias", &[values.len()], &values);
    });
    let j = json(&dir, "net.onnx near.onnx --data d.npz --max-drop 0.1");
    assert_eq!(j["accuracy"]["top1"]["verdict"], "within-noise", "{}", j["accuracy"]["top1"]);
    assert_eq!(
        (&j["accuracy"]["top1"]["mcnemar"]["method"], &j["gates"][0]["inconclusive"]),
        (&"exact-binomial".into(), &true.into())
    );
    // Only the last tensor differs, and its error is all growth.
    let tensors = j["layers"]["tensors"].as_array().unwrap();
    let (last, before) = tensors.split_last().unwrap();
    assert!(before.iter().all(|t| t["mse"] == 0.0) && last["tensor"] == "logits");
    assert!(last["error"].as_f64().unwrap() > 0.0 && last["error"] == last["growth"]);
    let ran = run(&dir, "diff net.onnx near.onnx --data d.npz --runtime tract --max-drop 0.1");
    assert!(ran.out.contains("within noise") && ran.out.contains("inconclusive"), "{}", ran.out);
}

#[test]
fn limits_decide_the_exit_code_and_reports_are_written_all_the_same() {
    let dir = pruned();
    let args = "diff net.onnx small.onnx --data d.npz --runtime tract --layer-samples 0";
    assert_eq!(run(&dir, &format!("{args} --max-drop 50 --min-agreement 0.5")).code, 0);
    let ran = run(&dir, &format!("{args} --max-drop 1 --min-agreement 0.99 --report r.json --report r.md -q"));
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    let lines: Vec<&str> = ran.err.lines().collect();
    assert_eq!(lines.len(), 2, "{}", ran.err);
    assert!(lines[0].starts_with("error: top1 dropped by ") && lines[0].contains("more than --max-drop 1"));
    assert!(lines[1].starts_with("error: agreement is ") && lines[1].contains("less than --min-agreement 0.99"));
    let all = files(&dir);
    let j: Json = serde_json::from_slice(&all["r.json"]).unwrap();
    let gate = &j["gates"][0];
    assert_eq!((&gate["name"], &gate["passed"], number(gate, "/limit")), (&"max-drop".into(), &false.into(), 1.0));
    assert_eq!(number(gate, "/value"), number(&j, "/accuracy/top1/drop"));
    let text = String::from_utf8(all["r.md"].clone()).unwrap();
    assert!(text.contains("| top1 \\* | 90.20 % |") && text.contains("**Limit**: NOT KEPT"), "{text}");
    // The first metric that is asked for is the one that a drop is measured in.
    let j =
        json(&dir, "net.onnx small.onnx --data d.npz --layer-samples 0 --metric cosine --metric top1 --max-drop 99");
    assert_eq!((&j["primary"], &j["gates"][0]["metric"]), (&"cosine".into(), &"cosine".into()));
}

#[test]
fn other_interfaces_are_refused() {
    let dir = pruned();
    change(&dir, "net.onnx", "renamed.onnx", |p| {
        let g = p.graph.as_mut().unwrap();
        g.node.iter_mut().flat_map(|n| &mut n.output).filter(|o| *o == "logits").for_each(|o| *o = "scores".into());
        g.output[0].name = Some("scores".into());
    });
    change(&dir, "net.onnx", "more.onnx", |p| {
        let g = p.graph.as_mut().unwrap();
        let mut more = g.output[0].clone();
        more.name = Some(g.node[0].output[0].clone());
        g.output.push(more);
    });
    change(&dir, "net.onnx", "rank.onnx", |p| {
        let s = shape(&mut p.graph.as_mut().unwrap().output[0]);
        s.dim.push(s.dim[0].clone());
    });
    change(&dir, "net.onnx", "size.onnx", |p| {
        shape(&mut p.graph.as_mut().unwrap().input[0]).dim[2].value = Some(Value::DimValue(32));
    });
    let cases: [(&str, &[&str]); 4] = [
        ("renamed.onnx", &["no output \"logits\"", "\"scores\""]),
        ("more.onnx", &["a further output", "\"logits\""]),
        ("rank.onnx", &["output \"logits\"", "2 axes", "3 in the second"]),
        ("size.onnx", &["input \"input\"", "[?, 1, 28, 28]", "[?, 1, 32, 28]"]),
    ];
    for (file, words) in cases {
        let words: Vec<&str> = words.iter().copied().chain(["net.onnx", file, "different interfaces"]).collect();
        refused(&dir, &format!("diff net.onnx {file} --data d.npz"), &words);
    }
}

#[test]
fn a_batch_that_one_model_fixes_is_respected() {
    let dir = pruned();
    change(&dir, "small.onnx", "fixed.onnx", |p| {
        let g = p.graph.as_mut().unwrap();
        for v in g.input.iter_mut().chain(&mut g.output) {
            shape(v).dim[0].value = Some(Value::DimValue(4));
        }
    });
    let j = json(&dir, "net.onnx fixed.onnx --data d.npz --samples 21 --layer-samples 3");
    assert_eq!((number(&j, "/samples"), number(&j, "/layers/samples")), (20.0, 4.0));
}

#[test]
fn wrong_usage_is_refused_before_the_work() {
    let dir = pruned();
    let both = "diff net.onnx small.onnx";
    refused(&dir, both, &["no data", "--data"]);
    refused(&dir, &format!("{both} --data d.npz --report r.txt"), &["FILE.json", "FILE.md"]);
    refused(&dir, &format!("{both} --data d.npz --report no/r.json"), &["no/r.json"]);
    refused(&dir, &format!("{both} --data d.npz --report r.md --report ./r.md"), &["overwrite"]);
    refused(&dir, &format!("{both} --data d.npz --max-drop -1"), &["--max-drop", "at least 0"]);
    refused(&dir, &format!("{both} --data d.npz --min-agreement 95"), &["--min-agreement", "0 to 1"]);
    refused(&dir, &format!("{both} --data d.npz --metric-output x"), &["\"x\"", "\"logits\""]);
    refused(&dir, &format!("{both} --data d.npz --class-axis 2"), &["--class-axis 2", "\"logits\""]);
    refused(&dir, "diff net.onnx nothing.onnx --data d.npz", &["nothing.onnx"]);
    assert!(!names(&dir).iter().any(|n| n.starts_with("r.")));
}

#[test]
fn outputs_that_are_no_numbers_fail_a_limit() {
    let dir = pruned();
    change(&dir, "small.onnx", "odd.onnx", |p| {
        let g = p.graph.as_mut().unwrap();
        let bias = g.initializer.iter_mut().find(|t| t.name() == "4.2.bias").unwrap();
        *bias = tensor::from_f32("4.2.bias", &[10], &[f32::NAN; 10]);
    });
    let args = "net.onnx odd.onnx --data d.npz --samples 40 --metric mse --max-drop 1000000";
    let ran = run(&dir, &format!("diff --runtime tract --format json {args}"));
    assert_eq!(ran.code, 1, "{}", ran.err);
    let j: Json = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((&j["accuracy"]["mse"]["pruned"], &j["gates"][0]["passed"]), (&Json::Null, &false.into()));
    assert!(j["notes"].to_string().contains("not finite"), "{}", j["notes"]);
}
