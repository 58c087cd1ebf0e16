use super::super::{embedded, input_specs, max_rel_diff, random_inputs};
use super::*;
use crate::onnx::load;
use std::path::Path;

const NETWORKS: [&str; 5] = ["concat", "depthwise", "residual", "shuffle", "squeeze_excite"];

fn fixture(network: &str, variant: &str) -> Model {
    load(&Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/{network}.{variant}.onnx"))).unwrap()
}

fn inputs(model: &Model, batch: usize) -> Vec<(String, Array)> {
    random_inputs(model, 42, &|_, _| batch).unwrap()
}

#[test]
fn fixtures_run_at_any_batch_and_agree_with_their_folded_forms() {
    for network in NETWORKS {
        let models = ["bn", "folded"].map(|variant| fixture(network, variant));
        assert_eq!(input_specs(&models[0]), input_specs(&models[1]));
        let mut sessions = models.each_ref().map(|model| Tract.load(model).unwrap());
        for batch in [2, 3] {
            let inputs = inputs(&models[0], batch);
            let [plain, folded] = sessions.each_mut().map(|session| {
                let results = session.run(&inputs).unwrap();
                assert_eq!(results, session.run(&inputs).unwrap(), "{network}");
                results
            });
            for ((name, a), (other, b)) in folded.iter().zip(&plain) {
                assert_eq!(name, other);
                assert_eq!(a.dims[0], batch);
                let difference = max_rel_diff(a, b).unwrap().unwrap();
                assert!(difference < 1e-3, "{network} {name}: {difference}");
            }
        }
    }
}

#[test]
fn results_do_not_depend_on_the_other_shapes_of_the_session() {
    let model = fixture("concat", "bn");
    let mut session = Tract.load(&model).unwrap();
    let first = session.run(&inputs(&model, 1)).unwrap();
    for batch in 2..=PLANS + 1 {
        session.run(&inputs(&model, batch)).unwrap();
    }
    assert_eq!(session.run(&inputs(&model, 1)).unwrap(), first);
}

#[test]
fn stale_shapes_do_not_matter() {
    let mut model = fixture("residual", "bn");
    let expected = Tract.load(&model).unwrap().run(&inputs(&model, 2)).unwrap();
    let graph = model.proto.graph.as_mut().unwrap();
    let mut stale = graph.input[0].clone();
    stale.name = Some(graph.node[0].output[0].clone());
    graph.value_info.push(stale);
    graph.output[0].r#type = graph.input[0].r#type.clone();
    assert_eq!(Tract.load(&model).unwrap().run(&inputs(&model, 2)).unwrap(), expected);
}

#[test]
fn fills_without_a_value_are_float_zeros() {
    use crate::onnx::proto::{NodeProto, TensorProto};
    let mut model = fixture("residual", "bn");
    let expected = Tract.load(&model).unwrap().run(&inputs(&model, 1)).unwrap();
    let graph = model.proto.graph.as_mut().unwrap();
    let shape = TensorProto {
        name: Some("shape".into()),
        dims: vec![1],
        data_type: Some(7),
        int64_data: vec![1],
        ..Default::default()
    };
    graph.initializer.push(shape);
    let node = |op: &str, input: &[&str], output: &str| NodeProto {
        op_type: Some(op.into()),
        input: input.iter().map(ToString::to_string).collect(),
        output: vec![output.into()],
        ..Default::default()
    };
    let logits = graph.output[0].name().to_owned();
    graph.node.push(node("ConstantOfShape", &["shape"], "zero"));
    graph.node.push(node("Add", &[&logits, "zero"], "sum"));
    graph.output[0].name = Some("sum".into());
    let results = Tract.load(&model).unwrap().run(&inputs(&model, 1)).unwrap();
    assert_eq!((results[0].0.as_str(), &results[0].1), ("sum", &expected[0].1));
}

#[test]
fn training_mode_is_refused() {
    let mut model = fixture("residual", "bn");
    let mut nodes = model.proto.graph.as_mut().unwrap().node.iter_mut();
    let node = nodes.find(|node| node.op_type() == "BatchNormalization").unwrap();
    node.attribute.retain(|attribute| attribute.name() != "training_mode");
    node.attribute.push(crate::onnx::proto::AttributeProto {
        name: Some("training_mode".into()),
        i: Some(1),
        r#type: Some(2),
        ..Default::default()
    });
    let error = Tract.load(&model).err().unwrap().to_string();
    assert!(error.contains("training mode"), "{error}");
}

#[test]
fn broken_models_are_errors() {
    let breakages: [fn(&mut crate::onnx::proto::GraphProto); 5] = [
        |graph| graph.node.clear(),
        |graph| graph.node[0].op_type = Some("NoSuchOperator".into()),
        |graph| graph.output[0].name = Some("nowhere".into()),
        |graph| graph.initializer.clear(),
        |graph| graph.initializer[0].dims = vec![7, 11],
    ];
    for (index, breakage) in breakages.iter().enumerate() {
        let mut model = fixture("residual", "bn");
        let inputs = inputs(&model, 1);
        breakage(model.proto.graph.as_mut().unwrap());
        let error = Tract.load(&model).and_then(|mut session| session.run(&inputs)).unwrap_err();
        let Error::Runtime { message, .. } = error else { panic!("{index}: {error}") };
        assert!(!message.contains('\n') && message.chars().count() <= MAX_MESSAGE_CHARS + 1, "{message}");
    }
}

#[test]
fn unfit_inputs_are_errors() {
    let model = fixture("residual", "bn");
    let mut session = Tract.load(&model).unwrap();
    assert!(session.run(&[]).is_err());
    let mut inputs = inputs(&model, 1);
    inputs[0].1.dims[0] = 2;
    assert!(session.run(&inputs).is_err());
    inputs[0].1.dims[0] = 1;
    inputs.push(("other".into(), inputs[0].1.clone()));
    assert!(session.run(&inputs).is_err());
    inputs.pop();
    assert!(session.run(&inputs).is_ok());
}

#[test]
fn panics_become_errors() {
    let error = isolated(|| -> TractResult<()> { panic!("not {}", "implemented") }).unwrap_err();
    assert_eq!(error.to_string(), "tract could not run the model: panicked: not implemented");
}

#[test]
fn the_version_is_known() {
    let runtime = embedded().unwrap();
    assert_eq!(runtime.name(), "tract");
    assert!(runtime.version().starts_with(|c: char| c.is_ascii_digit()), "{}", runtime.version());
}
