use super::*;
use crate::onnx::load;
use crate::onnx::proto::GraphProto;
use crate::onnx::proto::{AttributeProto, FunctionProto, NodeProto, OperatorSetIdProto, StringStringEntryProto};
use crate::onnx::tensor::{from_f32, select, to_f32};

fn weight(name: &str, n: usize) -> TensorProto {
    from_f32(name, &[n], &(0..n).map(|v| v as f32).collect::<Vec<_>>())
}

/// A model with something in most fields.
fn model() -> Model {
    let node = NodeProto { op_type: Some("Relu".into()), output: vec!["y".into()], ..Default::default() };
    let constant = AttributeProto { t: Some(weight("c", 500)), ..Default::default() };
    let constant = NodeProto { attribute: vec![constant], op_type: Some("Constant".into()), ..Default::default() };
    let typed = TensorProto { double_data: vec![1.; 300], dims: vec![300], data_type: Some(11), ..weight("typed", 0) };
    let typed = TensorProto { raw_data: None, doc_string: Some("doc".into()), ..typed };
    let both =
        TensorProto { doc_string: Some("doc".into()), metadata_props: vec![Default::default()], ..weight("a", 700) };
    let graph = GraphProto {
        node: vec![constant, node.clone()],
        name: Some("g".into()),
        initializer: vec![both, weight("b", 3), weight("empty", 0), typed, weight("d", 1001)],
        doc_string: Some("doc".into()),
        input: vec![Default::default()],
        output: vec![Default::default()],
        value_info: vec![Default::default()],
        metadata_props: vec![Default::default()],
        ..Default::default()
    };
    let proto = ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { domain: Some("ai.onnx".into()), version: Some(17) }],
        producer_name: Some("p".into()),
        doc_string: Some("doc".into()),
        graph: Some(graph),
        metadata_props: vec![StringStringEntryProto { key: Some("k".into()), value: Some("v".into()) }],
        functions: vec![FunctionProto { node: vec![node], ..Default::default() }],
        ..Default::default()
    };
    Model::from_proto(proto, "in.onnx")
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn values(model: &Model) -> Vec<Vec<f32>> {
    let mut all = Vec::new();
    tensors(&model.proto, &mut |t| {
        all.push(to_f32(t)?);
        Ok(())
    })
    .unwrap();
    all
}

const EXTERNAL: SaveOptions = SaveOptions { external: true };

#[test]
fn one_file_is_what_prost_would_write() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("m.onnx");
    let model = model();
    let bytes = save(&model, &out, &SaveOptions::default()).unwrap();
    let written = fs::read(&out).unwrap();
    assert_eq!(bytes, written.len() as u64);
    assert_eq!(written, model.proto.encode_to_vec());
    assert_eq!(written, model.to_bytes().unwrap());
    assert_eq!(load(&out).unwrap().proto, model.proto);
    assert_eq!(names(dir.path()), ["m.onnx"]);
}

#[test]
fn external_on_request_and_again() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("m.onnx");
    let model = model();
    let bytes = save(&model, &out, &EXTERNAL).unwrap();
    assert_eq!(names(dir.path()), ["m.onnx", "m.onnx.data"]);
    let on_disk = |p: &Path| fs::metadata(p).unwrap().len();
    assert_eq!(bytes, on_disk(&out) + on_disk(&dir.path().join("m.onnx.data")));

    let loaded = load(&out).unwrap();
    assert!(loaded.was_external);
    assert_eq!(loaded.bytes_on_disk, bytes);
    assert_eq!(values(&loaded), values(&model));
    let marks: Vec<bool> = initializers(&loaded.proto).iter().map(is_external).collect();
    assert_eq!(marks, [true, false, false, true, true]);
    let offset = initializers(&loaded.proto)[4].external_data[1].value().parse::<u64>().unwrap();
    assert_eq!(offset % ALIGN, 0);
    assert_eq!(initializers(&loaded.proto)[0].metadata_props.len(), 1);

    // Over itself, while its own data file is mapped, with one weight cut down.
    let mut cut = loaded.clone();
    let tensor = &mut cut.proto.graph.as_mut().unwrap().initializer[0];
    *tensor = select(tensor, 0, &[1, 2, 3]).unwrap();
    save(&cut, &out, &SaveOptions::default()).unwrap();
    assert_eq!(values(&loaded), values(&model));
    let again = load(&out).unwrap();
    assert_eq!(values(&again), values(&cut));
    assert!(is_external(&initializers(&again.proto)[0]));
    assert_eq!(names(dir.path()), ["m.onnx", "m.onnx.data"]);

    // Without the data file, as one piece.
    let inlined = ModelProto::decode(again.to_bytes().unwrap().as_slice()).unwrap();
    assert_eq!(values(&Model::from_proto(inlined, "")), values(&cut));
}

#[test]
fn marks_outside_the_initializers() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("m.onnx");
    let mut model = model();
    let attribute = &mut model.proto.graph.as_mut().unwrap().node[0].attribute[0];
    attribute.t.as_mut().unwrap().data_location = Some(1);
    // An empty tensor stays in the model file.
    model.proto.graph.as_mut().unwrap().initializer[2].data_location = Some(1);
    save(&model, &out, &SaveOptions::default()).unwrap();
    assert_eq!(fs::metadata(dir.path().join("m.onnx.data")).unwrap().len(), 2000);
    let loaded = load(&out).unwrap();
    assert_eq!(values(&loaded), values(&model));
    assert!(is_external(loaded.proto.graph.unwrap().node[0].attribute[0].t.as_ref().unwrap()));
}

#[test]
fn too_large_goes_external_or_fails() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("m.onnx");
    let model = model();
    save_limited(&model, &out, &SaveOptions::default(), 4000).unwrap();
    assert_eq!(names(dir.path()), ["m.onnx", "m.onnx.data"]);
    assert_eq!(values(&load(&out).unwrap()), values(&model));
    let other = dir.path().join("other.onnx");
    let error = save_limited(&model, &other, &SaveOptions::default(), 100).unwrap_err();
    assert!(matches!(error, OnnxError::TooLarge { .. }));
    assert_eq!(names(dir.path()), ["m.onnx", "m.onnx.data"]);
}

#[test]
fn the_same_bytes_every_time() {
    let dir = tempfile::tempdir().unwrap();
    let read = |name: &str| fs::read(dir.path().join(name)).unwrap();
    let out = dir.path().join("m.onnx");
    save(&model(), &out, &EXTERNAL).unwrap();
    let first = (read("m.onnx"), read("m.onnx.data"));
    save(&model(), &out, &EXTERNAL).unwrap();
    assert_eq!(first, (read("m.onnx"), read("m.onnx.data")));
}

#[test]
fn errors_leave_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("m.onnx");
    fs::write(&out, b"old").unwrap();
    let mut bad = model();
    let tensor = &mut bad.proto.graph.as_mut().unwrap().initializer[4];
    tensor.raw_data = Some(bytes::Bytes::from_static(b"abc"));
    tensor.data_location = Some(1);
    tensor.raw_data = None;
    let error = save(&bad, &out, &EXTERNAL).unwrap_err().to_string();
    assert_eq!(error, "tensor 'd': its external data has not been loaded");
    assert_eq!(names(dir.path()), ["m.onnx"]);
    assert_eq!(fs::read(&out).unwrap(), b"old");

    // The data file cannot be put in place.
    fs::create_dir(dir.path().join("n.onnx.data")).unwrap();
    let error = save(&model(), &dir.path().join("n.onnx"), &EXTERNAL).unwrap_err();
    assert!(matches!(error, OnnxError::NotAFile { .. }), "{error}");
    assert_eq!(names(dir.path()), ["m.onnx", "n.onnx.data"]);

    for target in [dir.path().to_owned(), dir.path().join("no/such/dir/m.onnx"), out.join("m.onnx")] {
        assert!(save(&model(), &target, &SaveOptions::default()).is_err(), "{target:?}");
    }
    assert_eq!(names(dir.path()), ["m.onnx", "n.onnx.data"]);
}

#[cfg(target_os = "linux")]
#[test]
fn devices_and_unwritable_directories() {
    assert!(matches!(save(&model(), Path::new("/dev/null"), &EXTERNAL), Err(OnnxError::NotAFile { .. })));
    let error = save(&model(), Path::new("/proc/m.onnx"), &SaveOptions::default()).unwrap_err().to_string();
    assert!(error.starts_with("/proc: cannot create a file in the directory"), "{error}");
}

#[cfg(unix)]
#[test]
fn permissions_are_those_of_any_new_file() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let mode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
    fs::write(dir.path().join("plain"), b"").unwrap();
    save(&model(), &dir.path().join("m.onnx"), &EXTERNAL).unwrap();
    assert_eq!((mode("m.onnx"), mode("m.onnx.data")), (mode("plain"), mode("plain")));
}
