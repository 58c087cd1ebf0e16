//! Wrong flags and broken models: exit code 2, one clear error, nothing written.

mod build;

use build::run::{refused, run, with_net};
use onnx_prune::onnx::proto::{ModelProto, StringStringEntryProto};
use prost::Message;
use std::fs;
use tempfile::TempDir;

fn write(dir: &TempDir, name: &str, model: &ModelProto) {
    fs::write(dir.path().join(name), model.encode_to_vec()).unwrap();
}

#[test]
fn usage_is_checked() {
    let dir = with_net();
    let net = |flags: &str, words: &[&str]| refused(&dir, &format!("net.onnx {flags}"), words);
    net("", &["--ratio", "--threshold", "--target-macs", "--target-params", "--plan"]);
    net("--ratio 0.3 --target-macs 0.5", &["--ratio", "--target-macs"]);
    net("--ratio 0.3 --plan p.json", &["--ratio", "--plan"]);
    net("--plan p.json --criterion l1", &["--plan", "--criterion"]);
    net("--ratio 1.5", &["1.5"]);
    net("--ratio -0.1", &["-0.1"]);
    net("--ratio nan", &["ratio"]);
    net("--target-macs 0", &["target"]);
    net("--ratio 0.3 --criterion nonsense", &["nonsense", "bn-scale", "l2"]);
    net("--ratio 0.3 --criterion l1=-1", &["l1"]);
    net("--ratio 0.3 --exclude (", &["--exclude", "not a regular expression"]);
    net("--ratio 0.3 --only nothing_like_it", &["nothing_like_it"]);
    net("--ratio 0.3 --layer-ratio body", &["--layer-ratio", "REGEX=R"]);
    net("--ratio 0.3 --layer-ratio body=2", &["--layer-ratio", "below 1"]);
    net("--ratio 0.3 --round-to 0", &["--round-to"]);
    net("--ratio 0.3 --steps 0", &["--steps"]);
    net("--ratio 0.3 --threads 0", &["--threads"]);
    net("--ratio 0.3 --max-layer-ratio 2", &["2"]);
    net("--ratio 0.3 --frobnicate", &["--frobnicate"]);
    net("--ratio 0.3 -o gone/x.onnx", &["gone/x.onnx"]);
    net("--ratio 0.3 --report gone/r.json", &["gone/r.json"]);
    net("--ratio 0.3 --save-plan gone/p.json", &["gone/p.json"]);
    net("--ratio 0.3 -o .", &["directory"]);
    refused(&dir, "inspect", &["required"]);
    refused(&dir, "inspect net.onnx --format xml", &["xml"]);
    let help = run(&dir, "--help");
    assert_eq!(help.code, 0);
    for word in ["Examples:", "bn-folded", "--target-params", "inspect", "Exit codes"] {
        assert!(help.out.contains(word), "{word}");
    }
    assert_eq!(run(&dir, "").code, 2);
}

/// Both commands refuse the file with these words.
fn bad(dir: &TempDir, name: &str, words: &[&str]) {
    refused(dir, &format!("{name} --ratio 0.3 --report r.json --save-plan p.json"), words);
    refused(dir, &format!("inspect {name}"), words);
}

#[test]
fn bad_files_are_refused() {
    let dir = with_net();
    bad(&dir, "gone.onnx", &["gone.onnx", "no such file"]);
    fs::create_dir(dir.path().join("folder.onnx")).unwrap();
    bad(&dir, "folder.onnx", &["folder.onnx", "directory"]);
    for (name, content) in [("empty.onnx", &b""[..]), ("text.onnx", b"This is not a model, it is a letter.\n")] {
        fs::write(dir.path().join(name), content).unwrap();
        bad(&dir, name, &[name, "not an ONNX model"]);
    }
    let whole = fs::read(dir.path().join("net.onnx")).unwrap();
    for part in [2, 10] {
        fs::write(dir.path().join("cut.onnx"), &whole[..whole.len() * part / 11]).unwrap();
        bad(&dir, "cut.onnx", &["cut.onnx"]);
    }
}

#[test]
fn bad_graphs_are_refused() {
    let dir = TempDir::new().unwrap();
    let mut cyclic = build::plain();
    cyclic.graph.as_mut().unwrap().node[0].input[0] = "m.y".into();
    write(&dir, "cyclic.onnx", &cyclic);
    bad(&dir, "cyclic.onnx", &["cyclic.onnx", "cycle", "\"a\"", "\"r\""]);
    let mut dangling = build::plain();
    dangling.graph.as_mut().unwrap().node[0].input[0] = "nowhere".into();
    write(&dir, "dangling.onnx", &dangling);
    bad(&dir, "dangling.onnx", &["dangling.onnx", "nowhere", "\"a\""]);
    let mut twice = build::plain();
    twice.graph.as_mut().unwrap().node[1].output[0] = "a.y".into();
    write(&dir, "twice.onnx", &twice);
    bad(&dir, "twice.onnx", &["twice.onnx", "a.y", "produced twice"]);
}

#[test]
fn bad_weights_are_refused() {
    let dir = TempDir::new().unwrap();
    let edit = |f: &dyn Fn(&mut onnx_prune::onnx::proto::TensorProto)| {
        let mut m = build::plain();
        f(m.graph.as_mut().unwrap().initializer.iter_mut().find(|t| t.name() == "a.w").unwrap());
        m
    };
    let values = |t: &onnx_prune::onnx::proto::TensorProto, at: usize, x: f32| {
        let mut values = onnx_prune::onnx::tensor::to_f32(t).unwrap();
        values[at] = x;
        onnx_prune::onnx::tensor::from_f32("a.w", &[8, 3, 1, 1], &values)
    };
    for x in [f32::NAN, f32::INFINITY] {
        write(&dir, "nan.onnx", &edit(&|t| *t = values(t, 5, x)));
        refused(&dir, "nan.onnx --ratio 0.3 --report r.json", &["nan.onnx", "a.w"]);
    }
    write(&dir, "short.onnx", &edit(&|t| t.raw_data = t.raw_data.as_ref().map(|raw| raw.slice(4..))));
    refused(&dir, "short.onnx --ratio 0.3", &["short.onnx", "a.w"]);
    let external = |location: &str| {
        edit(&|t| {
            let entry = |k: &str, v: &str| StringStringEntryProto { key: Some(k.into()), value: Some(v.into()) };
            t.raw_data = None;
            t.float_data.clear();
            t.data_location = Some(1);
            t.external_data = vec![entry("location", location)];
        })
    };
    write(&dir, "lost.onnx", &external("weights.bin"));
    bad(&dir, "lost.onnx", &["lost.onnx", "a.w", "weights.bin"]);
    for location in ["../weights.bin", "a/../../weights.bin", "/etc/passwd"] {
        write(&dir, "escape.onnx", &external(location));
        bad(&dir, "escape.onnx", &["escape.onnx", "a.w", location]);
    }
}
