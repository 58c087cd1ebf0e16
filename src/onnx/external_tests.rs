use std::fs;

use super::*;
use crate::onnx::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, SparseTensorProto};
use crate::onnx::tensor::{from_f32, to_f32};
use crate::onnx::{Model, load};
use prost::Message;

fn tensor(name: &str, entries: &[(&str, &str)]) -> TensorProto {
    let entry = |&(k, v): &(&str, &str)| StringStringEntryProto { key: Some(k.into()), value: Some(v.into()) };
    TensorProto {
        raw_data: None,
        data_location: Some(DataLocation::External.into()),
        external_data: entries.iter().map(entry).collect(),
        ..from_f32(name, &[2], &[0., 0.])
    }
}

fn model(graph: GraphProto) -> ModelProto {
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(17) }],
        graph: Some(graph),
        ..Default::default()
    }
}

fn data() -> Vec<u8> {
    [1f32, 2., 3., 4.].iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn load_in(dir: &Path, t: TensorProto) -> Result<Model, OnnxError> {
    let path = dir.join("m.onnx");
    fs::write(&path, model(GraphProto { initializer: vec![t], ..Default::default() }).encode_to_vec()).unwrap();
    load(&path)
}

#[test]
fn fills_tensors_wherever_they_are() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("sub")).unwrap();
    fs::write(dir.path().join("sub/w.bin"), data()).unwrap();
    let at = |offset| tensor("w", &[("location", "sub/w.bin"), ("offset", offset), ("length", "8")]);
    let sparse = SparseTensorProto { values: Some(at("8")), indices: Some(at("0")), dims: vec![4] };
    let body = GraphProto { initializer: vec![at("8")], sparse_initializer: vec![sparse], ..Default::default() };
    let attribute = AttributeProto { g: Some(body), t: Some(at("4")), tensors: vec![at("0")], ..Default::default() };
    let node = NodeProto { attribute: vec![attribute], ..Default::default() };
    let proto = model(GraphProto { initializer: vec![at("8")], node: vec![node], ..Default::default() });
    let path = dir.path().join("m.onnx");
    fs::write(&path, proto.encode_to_vec()).unwrap();

    let model = load(&path).unwrap();
    let mut first = Vec::new();
    crate::onnx::visit::tensors(&model.proto, &mut |t| {
        assert!(is_external(t));
        first.push(to_f32(t)?[0]);
        Ok(())
    })
    .unwrap();
    assert_eq!(first, [3., 2., 1., 3., 3., 1.]);
    assert!(model.was_external);
    assert_eq!(model.bytes_on_disk, fs::metadata(&path).unwrap().len() + 16);

    let alone = ModelProto::decode(model.to_bytes().unwrap().as_slice()).unwrap();
    crate::onnx::visit::tensors(&alone, &mut |t| {
        assert!(!is_external(t) && t.external_data.is_empty() && to_f32(t)?.len() == 2);
        Ok(())
    })
    .unwrap();
}

#[test]
fn offset_and_length_may_be_left_out() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("w.bin"), data()).unwrap();
    let model = load_in(dir.path(), tensor("w", &[("location", "./w.bin")])).unwrap();
    assert_eq!(to_f32(&model.proto.graph.unwrap().initializer[0]).unwrap(), [1., 2.]);
}

#[test]
fn refuses_locations_outside() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("model");
    fs::create_dir(&home).unwrap();
    fs::write(dir.path().join("secret"), data()).unwrap();
    let absolute = dir.path().join("secret").to_string_lossy().into_owned();
    for location in [
        "",
        "../secret",
        "a/../../secret",
        "..",
        &absolute,
        "/etc/passwd",
        "C:\\x",
        "C:x",
        "c:/x",
        "a\\b",
        "\\\\host\\x",
        "a\0b",
    ] {
        let error = load_in(&home, tensor("conv.w", &[("location", location)])).unwrap_err();
        assert!(matches!(&error, OnnxError::External { tensor, .. } if tensor == "conv.w"), "{location}: {error}");
        assert!(!error.to_string().contains("no file"), "{location}: {error}");
    }
}

#[cfg(unix)]
#[test]
fn links_may_not_lead_out() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("model");
    fs::create_dir(&home).unwrap();
    fs::write(dir.path().join("secret"), data()).unwrap();
    symlink("../secret", home.join("link")).unwrap();
    symlink("..", home.join("up")).unwrap();
    for location in ["link", "up/secret"] {
        let error = load_in(&home, tensor("w", &[("location", location)])).unwrap_err().to_string();
        assert!(error.contains("leads out of the model's directory"), "{error}");
    }
    // Within the directory a link is fine ...
    fs::write(home.join("w.bin"), data()).unwrap();
    symlink("w.bin", home.join("inside")).unwrap();
    load_in(&home, tensor("w", &[("location", "inside")])).unwrap();
    // ... and so is a cache, where model and data are both links into one other directory.
    let snapshot = dir.path().join("snapshot");
    fs::create_dir(&snapshot).unwrap();
    symlink("../model/m.onnx", snapshot.join("m.onnx")).unwrap();
    symlink("../model/w.bin", snapshot.join("inside")).unwrap();
    load(&snapshot.join("m.onnx")).unwrap();
}

#[test]
fn refuses_ranges_that_do_not_fit() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("w.bin"), data()).unwrap();
    fs::write(dir.path().join("empty"), b"").unwrap();
    let max = u64::MAX.to_string();
    for (offset, length, location, reason) in [
        ("17", "8", "w.bin", "begin at byte 17, but the file has 16 bytes"),
        ("12", "8", "w.bin", "expected 8 bytes from byte 12 on, but the file has 16 bytes"),
        ("0", "12", "w.bin", "shape [2] of FLOAT takes 8 bytes, but the model gives a length of 12"),
        ("-1", "8", "w.bin", "the offset '-1' is not a number of bytes"),
        ("0", "x", "w.bin", "the length 'x' is not a number of bytes"),
        (&max, "8", "w.bin", "begin at byte 18446744073709551615"),
        ("8", &max, "w.bin", "expected 18446744073709551615 bytes"),
        ("0", "8", "none.bin", "there is no file"),
        ("0", "8", "empty", "the file has 0 bytes"),
        ("0", "8", ".", "found a directory"),
    ] {
        let t = tensor("conv.w", &[("location", location), ("offset", offset), ("length", length)]);
        let error = load_in(dir.path(), t).unwrap_err().to_string();
        assert!(error.starts_with(&format!("tensor 'conv.w': external data in '{location}': ")), "{error}");
        assert!(error.contains(reason), "{error}");
    }
}
