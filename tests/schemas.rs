//! The files in `schemas/`: as the structs are now, and what the tool writes is as they say.

mod build;

use build::run::{files, fixture, ok, run, with_net};
use onnx_prune::report::schema::{Document, documents};
use onnx_prune::train::history::{
    Epoch, Held, History, SparsityState, Stop, StopReason, TRAIN_SCHEMA_VERSION, Trained,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Set, the files are written anew instead of compared.
const UPDATE: &str = "UPDATE_SCHEMAS";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas")
}

#[test]
fn the_files_are_what_the_structs_say() {
    let update = std::env::var_os(UPDATE).is_some_and(|v| !v.is_empty());
    let wanted: BTreeMap<String, String> = documents()
        .into_iter()
        .map(|Document { name, schema }| {
            (format!("{name}.schema.json"), serde_json::to_string_pretty(&schema).unwrap() + "\n")
        })
        .collect();
    if update {
        fs::create_dir_all(folder()).unwrap();
        for (name, text) in &wanted {
            fs::write(folder().join(name), text).unwrap();
        }
    }
    let there = fs::read_dir(folder()).map(|d| d.map(|e| e.unwrap().file_name().into_string().unwrap()).collect());
    let there: Vec<String> = there.unwrap_or_default();
    let mut stale: Vec<String> = wanted
        .iter()
        // A checkout may have other ends of lines.
        .filter(|(name, text)| {
            fs::read_to_string(folder().join(name)).ok().map(|t| t.replace("\r\n", "\n")).as_ref() != Some(text)
        })
        .map(|(name, _)| format!("schemas/{name} is not what the structs say"))
        .collect();
    stale.extend(
        there.iter().filter(|n| !wanted.contains_key(*n)).map(|n| format!("schemas/{n} belongs to no document")),
    );
    assert!(
        stale.is_empty(),
        "{}\nwrite them anew with: {UPDATE}=1 cargo test --release --test schemas\nand look at `git diff schemas/`: a key that \
         went away or means something else needs a new schema version",
        stale.join("\n")
    );
}

/// The schema in the file, with every object closed: a key that it does not name is an error.
fn strict(name: &str) -> Value {
    fn close(value: &mut Value) {
        match value {
            Value::Object(map) => {
                map.values_mut().for_each(close);
                if map.get("properties").is_some_and(Value::is_object) && map.get("type") == Some(&json!("object")) {
                    map.insert("additionalProperties".into(), json!(false));
                }
            }
            Value::Array(list) => list.iter_mut().for_each(close),
            _ => {}
        }
    }
    let mut schema: Value =
        serde_json::from_slice(&fs::read(folder().join(format!("{name}.schema.json"))).unwrap()).unwrap();
    close(&mut schema);
    schema
}

/// What is wrong, a line each.
fn errors(schema: &Value, document: &Value) -> Vec<String> {
    let (mut schemas, mut compiler) = (boon::Schemas::new(), boon::Compiler::new());
    compiler.add_resource("schema.json", schema.clone()).unwrap();
    let index = compiler.compile("schema.json", &mut schemas).unwrap_or_else(|e| panic!("no schema: {e:#}"));
    let Err(error) = schemas.validate(document, index) else { return Vec::new() };
    format!("{error:#}").lines().map(str::to_owned).collect()
}

/// Checks a document; then that the schema is not one that takes anything, by changing each key of the document.
fn holds(name: &str, document: &Value) {
    let schema = strict(name);
    assert_eq!(errors(&schema, document), Vec::<String>::new(), "{name}");
    let title = schema["title"].as_str().unwrap();
    if let Some(version) = document.get("schema_version").or(document.get("schema")) {
        assert!(title.ends_with(&format!("schema version {version}")), "{title}");
    }
    let published: Value =
        serde_json::from_slice(&fs::read(folder().join(format!("{name}.schema.json"))).unwrap()).unwrap();
    let Value::Object(keys) = (if document.is_array() { &document[0] } else { document }) else { panic!("{document}") };
    let with = |change: &dyn Fn(&mut serde_json::Map<String, Value>)| {
        let mut changed = document.clone();
        let object = if changed.is_array() { &mut changed[0] } else { &mut changed };
        change(object.as_object_mut().unwrap());
        changed
    };
    for key in keys.keys() {
        let wrong = with(&|o| _ = o.insert(key.clone(), json!({ "no": ["such", "thing"] })));
        let open = matches!(keys[key], Value::Object(_));
        assert!(!errors(if open { &schema } else { &published }, &wrong).is_empty(), "{name}: {key} takes anything");
    }
    let more = with(&|o| _ = o.insert("something_new".into(), json!(1)));
    assert!(!errors(&schema, &more).is_empty(), "{name}: keys that it does not name");
    // For readers that check, a new key is no reason to fail.
    assert!(errors(&published, &more).is_empty(), "{name}: a key that a later version may add");
    for key in published.get("required").and_then(Value::as_array).into_iter().flatten() {
        let less = with(&|o| _ = o.remove(key.as_str().unwrap()));
        assert!(!errors(&published, &less).is_empty(), "{name}: without {key}");
    }
    if keys.contains_key("schema_version") {
        let later = with(&|o| _ = o.insert("schema_version".into(), json!(99)));
        assert!(!errors(&published, &later).is_empty(), "{name}: another schema version");
    }
}

fn json(dir: &TempDir, name: &str) -> Value {
    serde_json::from_slice(&files(dir)[name]).unwrap()
}

fn printed(dir: &TempDir, args: &str) -> Value {
    serde_json::from_str(&ok(dir, args)).unwrap()
}

#[test]
fn what_needs_no_data() {
    let dir = with_net();
    ok(&dir, "net.onnx --ratio 0.4 -o small.onnx --report r.json --save-plan p.json");
    holds("prune", &json(&dir, "r.json"));
    holds("plan", &json(&dir, "p.json"));
    fs::copy(fixture("shuffle.bn.onnx"), dir.path().join("shuffle.onnx")).unwrap();
    ok(&dir, "shuffle.onnx --target-macs 0.6 --dry-run --no-verify --qk-dims --report r.json --save-plan p.json");
    holds("prune", &json(&dir, "r.json"));
    holds("plan", &json(&dir, "p.json"));
    holds("inspect", &printed(&dir, "inspect net.onnx small.onnx shuffle.onnx --format json"));
    holds("inspect-why", &printed(&dir, "inspect net.onnx --why /2/body/body.1/body.1.0/Conv --format json"));
    holds("runtimes", &printed(&dir, "runtimes --format json"));
}

#[test]
#[cfg(feature = "tract")]
fn what_runs_models() {
    let dir = with_net();
    fs::write(dir.path().join("broken.onnx"), b"no model").unwrap();
    let ran = run(&dir, "inspect --summary net.onnx broken.onnx --format json");
    let summary: Value = serde_json::from_str(&ran.out).unwrap();
    assert!(summary["models"].as_array().unwrap().iter().any(|m| m["error"].is_string()), "{}", ran.out);
    holds("inspect-summary", &summary);

    fs::copy(fixture("fashion_test.npz"), dir.path().join("d.npz")).unwrap();
    let flags = "--data d.npz --mean 0.2860 --std 0.3530";
    let on = format!("{flags} --runtime tract");
    holds("data", &printed(&dir, &format!("data net.onnx {flags} --format json")));
    ok(&dir, &format!("net.onnx --max-drop 3 --samples 64 --eval-samples 64 {on} -o small.onnx --report r.json"));
    let report = json(&dir, "r.json");
    assert!(report["accuracy"]["trail"].is_array() && report["recover"]["layers"].is_array());
    holds("prune", &report);
    let few = format!("--samples 32 --eval-samples 32 --shares 0.5 --only body.1.0 {on}");
    ok(&dir, &format!("sensitivity net.onnx {few} --metric top1 --report s.json"));
    let report = json(&dir, "s.json");
    assert!(report["groups"][0]["points"][0]["score"].is_number(), "{report}");
    holds("sensitivity", &report);
    let metrics = "--metric top1 --metric iou --metric agreement";
    ok(&dir, &format!("diff net.onnx small.onnx {metrics} --max-drop 50 --layer-samples 8 {on} --report d.json"));
    let report = json(&dir, "d.json");
    assert!(report["layers"].is_object() && !report["gates"].as_array().unwrap().is_empty());
    holds("diff", &report);
    ok(&dir, &format!("diff net.onnx small.onnx {metrics} --layer-samples 8 {on} --shard 2/3 --report dp.json"));
    holds("part", &json(&dir, "dp.json"));
    ok(&dir, &format!("check net.onnx small.onnx --max-drop 50 {on} --shard 1/2 --report cp.json"));
    holds("part", &json(&dir, "cp.json"));
    ok(&dir, &format!("sensitivity net.onnx {few} --metric top1 --shard 1/2 --report sp.json"));
    holds("part", &json(&dir, "sp.json"));
    ok(&dir, &format!("calibrate net.onnx --samples 8 {on} --report sp.json"));
    holds("part", &json(&dir, "sp.json"));
    // Outputs that are equal have no finite figures everywhere.
    holds("diff", &printed(&dir, &format!("diff net.onnx net.onnx --samples 3 --layer-samples 0 {on} --format json")));
    ok(&dir, "bench net.onnx small.onnx --runs 5 --warmup 0 --max-ratio 100 --runtime tract --report b.json");
    holds("bench", &json(&dir, "b.json"));
    let limits = "--max-drop 50 --max-macs 1 --max-ratio 100 --runs 5";
    ok(&dir, &format!("check net.onnx small.onnx {limits} {on} --report c.json"));
    let report = json(&dir, "c.json");
    assert!(report["accuracy"].is_object() && report["latency"].is_object());
    holds("check", &report);
    let ran = run(&dir, "check net.onnx small.onnx --max-macs 0.01 --format json");
    assert_eq!(ran.code, 1);
    holds("check", &serde_json::from_str(&ran.out).unwrap());
}

/// What only ONNX Runtime has: a profile by operator, I/O binding.
#[test]
#[cfg(feature = "ort")]
fn what_onnx_runtime_adds() {
    if let Err(e) = onnx_prune::runtime::ort::Ort::new(None) {
        println!("SKIPPED: {e}");
        return;
    }
    let dir = with_net();
    ok(&dir, "bench net.onnx net.onnx --runs 5 --warmup 0 --runtime ort --io-binding on --profile --report b.json");
    let report = json(&dir, "b.json");
    assert!(report["profile"][0]["operators"][0].is_object() && report["rows"][1]["copies"].is_object(), "{report}");
    holds("bench", &report);
}

/// What a training run tells, with everything that may be absent.
#[test]
fn what_training_tells() {
    let held = Some(Held { loss: 0.25, metric: Some(0.9), metric_name: Some("top1".into()) });
    let edges = vec![-1.0, -0.5, 0.0];
    let sparsity = Some(SparsityState { removable_share: 0.5, edges, histogram: vec![3, 3], penalty: 0.1 });
    let terms = [("label".to_owned(), 0.5)].into();
    let epoch =
        Epoch { epoch: 1, step: 7, lr: 0.1, loss: f64::NAN, terms, held: held.clone(), sparsity, ..Epoch::default() };
    let h = History {
        schema_version: TRAIN_SCHEMA_VERSION,
        tool: "onnx-prune".into(),
        teacher: Some("net.onnx".into()),
        written: Some("net.trained.onnx".into()),
        options: [("lr".to_owned(), "0.1".to_owned())].into(),
        trained: vec![Trained { kind: "weights of Conv".into(), tensors: 3, elements: 900 }],
        before: held,
        epochs: vec![epoch],
        best_epoch: Some(1),
        stopped: Some(Stop { reason: StopReason::NoProgress, words: "no better since epoch 1".into() }),
        notes: vec!["a note".into()],
        ..History::default()
    };
    let full = serde_json::to_value(&h).unwrap();
    assert!(full["epochs"][0]["loss"].is_null() && full["stopped"]["reason"] == "no-progress", "{full}");
    holds("train", &full);
    holds("train", &serde_json::to_value(History { schema_version: 1, ..History::default() }).unwrap());
}

#[test]
fn wrong_documents_fail() {
    let dir = with_net();
    ok(&dir, "net.onnx --ratio 0.4 -o small.onnx --report r.json --save-plan p.json");
    let (report, plan) = (json(&dir, "r.json"), json(&dir, "p.json"));
    let wrong = |name: &str, document: &Value, pointer: &str, value: Value, word: &str| {
        let mut document = document.clone();
        *document.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = value;
        let errors = errors(&strict(name), &document);
        assert!(errors.iter().any(|e| e.contains(word)), "{name} {pointer}: {errors:?}");
    };
    wrong("prune", &report, "/original/macs", json!(-1), "must be >=0");
    wrong("prune", &report, "/original/macs", json!(1.5), "want integer");
    wrong("prune", &report, "/original", json!({ "path": "a.onnx" }), "missing properties");
    wrong("prune", &report, "/groups/0/reason", Value::Null, "want string");
    wrong("prune", &report, "/verify", Value::Null, "want object");
    wrong("prune", &report, "/groups/0", json!([]), "want object");
    wrong("prune", &report, "/timings_ms/load", json!("12"), "want null or number");
    wrong("plan", &plan, "/schema", json!(2), "const");
    let tensor = plan["tensors"].as_object().unwrap().keys().next().unwrap().replace('~', "~0").replace('/', "~1");
    wrong("plan", &plan, &format!("/tensors/{tensor}"), json!({ "0": ["first"] }), "anyOf");
    wrong("plan", &plan, &format!("/tensors/{tensor}"), json!({ "0": [-1] }), "anyOf");
    // One document is not another.
    assert!(!errors(&strict("plan"), &report).is_empty() && !errors(&strict("check"), &report).is_empty());
    assert!(!errors(&strict("runtimes"), &report).is_empty());
}
