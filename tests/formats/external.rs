//! Weights in a file beside the model: written there again, and never read from anywhere else.

use crate::kit::{fixture, only_cut, pruned};
use onnx_prune::onnx::proto::tensor_proto::DataLocation;
use onnx_prune::onnx::proto::{ModelProto, StringStringEntryProto};
use onnx_prune::onnx::{self, SaveOptions, tensor};
use prost::Message;
use std::fs;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// `dir/in/net.onnx` with its data beside it.
fn external(dir: &TempDir) -> std::path::PathBuf {
    let path = dir.path().join("in/net.onnx");
    fs::create_dir(dir.path().join("in")).unwrap();
    onnx::save(&fixture("residual.bn.onnx"), &path, &SaveOptions { external: true }).unwrap();
    path
}

fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn locations(proto: &ModelProto) -> Vec<&str> {
    let entries = proto.graph.as_ref().unwrap().initializer.iter().flat_map(|t| &t.external_data);
    let mut all: Vec<&str> = entries.filter(|e| e.key() == "location").map(StringStringEntryProto::value).collect();
    all.dedup();
    all
}

#[test]
fn stays_external_beside_the_output() {
    let dir = TempDir::new().unwrap();
    let path = external(&dir);
    let (model, inline) = (onnx::load(&path).unwrap(), fixture("residual.bn.onnx"));
    assert!(model.was_external);
    let (a, b) = (pruned(&model, &only_cut(0.4)), pruned(&inline, &only_cut(0.4)));
    assert_eq!((&a.plan.tensors, a.report.verify.max_rel_diff), (&b.plan.tensors, b.report.verify.max_rel_diff));
    let (a, b) = (a.model.unwrap(), b.model.unwrap());
    let out = dir.path().join("cut.onnx");
    onnx::save(&a, &out, &SaveOptions::default()).unwrap();
    assert_eq!(files(dir.path()), ["cut.onnx", "cut.onnx.data", "in"]);
    let raw = ModelProto::decode(&*fs::read(&out).unwrap()).unwrap();
    assert_eq!(locations(&raw), ["cut.onnx.data"]);
    // What was large and external stays so, cut or not.
    for t in raw.graph.as_ref().unwrap().initializer.iter().filter(|t| tensor::numel(t).unwrap() >= 512) {
        assert!(tensor::is_external(t) && t.raw_data.is_none(), "{}", t.name());
    }
    let again = onnx::load(&out).unwrap();
    assert!(again.to_bytes().unwrap() == b.to_bytes().unwrap(), "inline and external differ");
    let size = |name: &str| fs::metadata(dir.path().join(name)).unwrap().len();
    assert!(size("cut.onnx.data") < size("in/net.onnx.data") / 2);
}

/// The binary refuses the model and leaves everything as it was.
fn refused(dir: &TempDir, location: &str, words: &str) {
    let path = dir.path().join("in/net.onnx");
    let mut proto = ModelProto::decode(&*fs::read(&path).unwrap()).unwrap();
    let entries = proto.graph.as_mut().unwrap().initializer.iter_mut().flat_map(|t| &mut t.external_data);
    entries.filter(|e| e.key() == "location").for_each(|e| e.value = Some(location.into()));
    let bad = dir.path().join("in/bad.onnx");
    fs::write(&bad, proto.encode_to_vec()).unwrap();
    let before = files(&dir.path().join("in"));
    let ran = Command::new(env!("CARGO_BIN_EXE_onnx-prune")).arg(&bad).args(["--ratio", "0.4"]).output().unwrap();
    let err = String::from_utf8(ran.stderr).unwrap();
    assert_eq!(ran.status.code(), Some(2), "{location}: {err}");
    assert!(err.starts_with("error: ") && err.contains("bad.onnx") && err.contains(words), "{location}: {err}");
    assert_eq!(before, files(&dir.path().join("in")), "{location}");
}

#[test]
fn no_other_directory_is_read() {
    let dir = TempDir::new().unwrap();
    let data = external(&dir).with_file_name("net.onnx.data");
    let outside = dir.path().join("outside.data");
    fs::copy(&data, &outside).unwrap();
    refused(&dir, "../outside.data", "leaves the model's directory");
    refused(&dir, "sub/../../outside.data", "leaves the model's directory");
    refused(&dir, outside.to_str().unwrap(), "absolute");
    refused(&dir, "C:\\outside.data", "backslash");
    refused(&dir, "gone.data", "no file");
    refused(&dir, "", "does not name the file");
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(&outside, dir.path().join("in/link.data")).unwrap();
        refused(&dir, "link.data", "leads out of the model's directory");
        std::os::unix::fs::symlink(dir.path(), dir.path().join("in/up")).unwrap();
        refused(&dir, "up/outside.data", "leads out of the model's directory");
    }
}

/// A tensor of the graph that is not marked stays in the model file.
#[test]
fn only_marked_tensors_move() {
    let dir = TempDir::new().unwrap();
    let model = onnx::load(&external(&dir)).unwrap();
    let mut proto = model.proto.clone();
    let first = proto.graph.as_mut().unwrap().initializer.iter_mut().find(|t| tensor::is_external(t)).unwrap();
    first.data_location = Some(DataLocation::Default as i32);
    first.external_data.clear();
    let name = first.name().to_owned();
    let p = pruned(&onnx::Model::from_proto(proto, dir.path().join("in/net.onnx")), &only_cut(0.4));
    let out = dir.path().join("cut.onnx");
    onnx::save(p.model.as_ref().unwrap(), &out, &SaveOptions::default()).unwrap();
    let raw = ModelProto::decode(&*fs::read(&out).unwrap()).unwrap();
    let kept = raw.graph.as_ref().unwrap().initializer.iter().find(|t| t.name() == name).unwrap();
    assert!(!tensor::is_external(kept) && kept.raw_data.is_some());
}
