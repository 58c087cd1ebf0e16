use super::super::{Data, input_specs, max_rel_diff, random_inputs};
use super::*;
use crate::onnx::load as load_model;
use crate::onnx::proto::{GraphProto, ModelProto, NodeProto, OperatorSetIdProto, ValueInfoProto};
use half::f16;

/// The runtime, where there is one.
fn runtime() -> Option<Ort> {
    let found = Ort::new(None);
    found.inspect_err(|e| println!("SKIPPED, there is no ONNX Runtime: {e}")).ok()
}

fn fixture(name: &str) -> Model {
    load_model(&Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/{name}.onnx"))).unwrap()
}

/// `y = Identity(x)` of that type, without a shape.
fn identity(array: &Array) -> Model {
    let mut input = ValueInfoProto { name: Some("x".into()), ..Default::default() };
    let tensor = crate::onnx::proto::type_proto::Tensor { elem_type: Some(array.data.elem_type()), shape: None };
    let value = Some(crate::onnx::proto::type_proto::Value::TensorType(tensor));
    input.r#type = Some(crate::onnx::proto::TypeProto { value, ..Default::default() });
    let node = NodeProto {
        op_type: Some("Identity".into()),
        input: vec!["x".into()],
        output: vec!["y".into()],
        ..Default::default()
    };
    let graph = GraphProto {
        name: Some("g".into()),
        node: vec![node],
        input: vec![input],
        output: vec![ValueInfoProto { name: Some("y".into()), ..Default::default() }],
        ..Default::default()
    };
    let set = OperatorSetIdProto { domain: None, version: Some(17) };
    let proto = ModelProto { ir_version: Some(8), opset_import: vec![set], graph: Some(graph), ..Default::default() };
    Model::from_proto(proto, "identity.onnx")
}

#[test]
fn all_types_and_shapes_pass_through() {
    let Some(runtime) = runtime() else { return };
    let all = [
        Data::F32(vec![1.5, -2.0]),
        Data::F64(vec![1.5, f64::MIN]),
        Data::F16(vec![f16::ONE, f16::from_f32(0.5)]),
        Data::I64(vec![i64::MIN, 7]),
        Data::I32(vec![i32::MAX, -7]),
        Data::U8(vec![0, 255]),
        Data::I8(vec![-128, 127]),
        Data::Bool(vec![true, false]),
    ];
    for data in all {
        let array = Array { dims: vec![2, 1], data };
        let mut session = runtime.load(&identity(&array)).unwrap();
        assert_eq!(session.run(&[("x".into(), array.clone())]).unwrap(), [("y".into(), array)]);
    }
    let mut session = runtime.load(&identity(&Array { dims: vec![], data: Data::F32(vec![]) })).unwrap();
    for (dims, data) in [(vec![], vec![3.0]), (vec![0, 4], vec![])] {
        let array = Array { dims, data: Data::F32(data) };
        assert_eq!(session.run(&[("x".into(), array.clone())]).unwrap(), [("y".into(), array)]);
    }
}

#[test]
fn results_are_the_same_every_time_and_hardly_depend_on_threads() {
    let Some(runtime) = runtime() else { return };
    let model = fixture("residual.bn");
    assert!(!input_specs(&model).is_empty());
    let inputs = random_inputs(&model, 1, &|_, _| 3).unwrap();
    let run = |threads| runtime.clone().with_threads(threads).load(&model).unwrap().run(&inputs).unwrap();
    let one = run(1);
    assert_eq!(one, run(1));
    for ((_, a), (_, b)) in run(2).iter().zip(&one) {
        assert!(max_rel_diff(a, b).unwrap().unwrap() < 1e-5);
    }
}

#[test]
fn broken_models_and_unfit_inputs_are_errors() {
    let Some(runtime) = runtime() else { return };
    let breakages: [fn(&mut GraphProto); 4] = [
        |graph| graph.node[0].op_type = Some("NoSuchOperator".into()),
        |graph| graph.output[0].name = Some("nowhere".into()),
        |graph| graph.initializer.clear(),
        |graph| graph.initializer[0].dims = vec![7, 11],
    ];
    let inputs = random_inputs(&fixture("residual.bn"), 1, &|_, _| 1).unwrap();
    for (index, breakage) in breakages.iter().enumerate() {
        let mut model = fixture("residual.bn");
        breakage(model.proto.graph.as_mut().unwrap());
        let error = runtime.load(&model).and_then(|mut session| session.run(&inputs)).unwrap_err();
        let Error::Runtime { message, .. } = error else { panic!("{index}: {error}") };
        assert!(!message.contains('\n') && message.chars().count() <= MAX_MESSAGE_CHARS + 1, "{message}");
    }
    let mut session = runtime.load(&fixture("residual.bn")).unwrap();
    assert!(session.run(&[]).is_err());
    let mut unfit = inputs.clone();
    unfit[0].1.dims[0] = 2;
    assert!(session.run(&unfit).is_err());
    unfit[0].1.dims = vec![usize::MAX, usize::MAX];
    assert!(session.run(&unfit).is_err());
    unfit[0] = ("other".into(), inputs[0].1.clone());
    assert!(session.run(&unfit).is_err());
    assert!(session.run(&inputs).is_ok());
}

#[test]
fn a_process_has_one_library() {
    let Some(runtime) = runtime() else { return };
    assert_eq!(runtime.name(), "onnxruntime");
    assert!(!runtime.version().is_empty() && !runtime.place().is_empty());
    assert_eq!(Ort::new(Some(runtime.path())).unwrap().path(), runtime.path());
    let error = Ort::new(Some(Path::new("/another.so"))).err().unwrap().to_string();
    assert!(error.contains("already uses"), "{error}");
}

#[test]
fn reasons_are_told() {
    let path = PathBuf::from("lib.so");
    let old = LoadDynamicError::BadVersion { version_str: "1.16.3".into(), path: path.clone() };
    assert_eq!(reason(&old), "is version 1.16.3; 1.17 or newer is needed");
    assert_eq!(reason(&LoadDynamicError::MissingApi { path }), "is not ONNX Runtime");
}

#[test]
fn bound_runs_give_the_same_bits() {
    let Some(ort) = runtime() else { return };
    for name in ["residual.bn", "shuffle.folded", "squeeze_excite.bn", "depthwise.folded"] {
        let model = fixture(name);
        let feeds: Vec<_> = [(1, 1), (2, 3), (3, 1)]
            .map(|(seed, batch)| random_inputs(&model, seed, &|_, axis| if axis == 0 { batch } else { 32 }).unwrap())
            .into();
        let mut session = ort.load(&model).unwrap();
        let expected: Vec<_> = feeds.iter().map(|feed| session.run(feed).unwrap()).collect();
        assert_ne!(expected[0], expected[2]);
        let mut bound = session.bind(&feeds).unwrap();
        // Each twice, since the second run takes the memory of the first.
        for k in [0, 1, 2, 1, 0, 2] {
            bound.upload(k).unwrap();
            bound.compute(k).unwrap();
            bound.download().unwrap();
            assert_eq!(bound.downloaded().unwrap(), expected[k], "{name}, feed {k}");
            bound.download().unwrap();
            assert_eq!(bound.downloaded().unwrap(), expected[k], "{name}, feed {k} again");
        }
        assert!(bound.compute(3).is_err() && bound.upload(3).is_err());
        drop(bound);
        assert_eq!(session.run(&feeds[1]).unwrap(), expected[1]);
    }
}

#[test]
fn all_types_can_be_bound() {
    let Some(ort) = runtime() else { return };
    let data = [
        Data::F32(vec![1.5, -2.0]),
        Data::F64(vec![1.5, -2.0]),
        Data::F16(vec![f16::from_f32(1.5), f16::from_f32(-2.0)]),
        Data::I64(vec![7, -8]),
        Data::I32(vec![7, -8]),
        Data::U8(vec![7, 200]),
        Data::I8(vec![7, -8]),
        Data::Bool(vec![true, false]),
    ];
    for data in data {
        let array = Array { dims: vec![2, 1], data };
        let mut session = ort.load(&identity(&array)).unwrap();
        let feed = vec![("x".to_owned(), array.clone())];
        let mut bound = session.bind(&[feed]).unwrap();
        bound.compute(0).unwrap();
        bound.download().unwrap();
        assert_eq!(bound.downloaded().unwrap(), [("y".to_owned(), array)]);
    }
    let array = Array { dims: vec![2], data: Data::F32(vec![1.0, 2.0]) };
    let mut session = ort.load(&identity(&array)).unwrap();
    assert!(session.bind(&[vec![("z".to_owned(), array)]]).is_err());
    let short = Array { dims: vec![3], data: Data::F32(vec![1.0]) };
    assert!(session.bind(&[vec![("x".to_owned(), short)]]).is_err());
}
