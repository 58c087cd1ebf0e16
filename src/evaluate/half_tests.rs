use super::*;
use crate::runtime::{Array, Data, RuntimeChoice, choose, input_specs, max_rel_diff, random_inputs};
use std::path::Path;

fn load(path: &str) -> Model {
    crate::onnx::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The largest relative difference of the outputs in both precisions, where there is ONNX Runtime.
fn difference(model: &Model, batch: usize, extent: usize) -> Option<f64> {
    let ort = choose(RuntimeChoice::Ort, None).inspect_err(|e| println!("SKIPPED: {e}")).ok()?;
    let half = to_half(model).unwrap();
    assert_eq!(
        input_specs(model).iter().map(|s| (&s.name, s.elem_type)).collect::<Vec<_>>(),
        input_specs(&half).iter().map(|s| (&s.name, s.elem_type)).collect::<Vec<_>>()
    );
    let feed = random_inputs(model, 5, &|_, axis| if axis == 0 { batch } else { extent }).unwrap();
    let [a, b] = [model, &half].map(|m| ort.load(m).unwrap().run(&feed).unwrap());
    let mut worst: f64 = 0.0;
    for ((name, x), (other, y)) in a.iter().zip(&b) {
        assert_eq!((name, std::mem::discriminant(&x.data)), (other, std::mem::discriminant(&y.data)));
        worst = worst.max(max_rel_diff(y, x).unwrap().unwrap());
    }
    Some(worst)
}

#[test]
fn fixtures_compute_nearly_the_same() {
    for name in ["residual.bn", "residual.folded", "concat.bn", "depthwise.folded", "squeeze_excite.bn", "shuffle.bn"] {
        let model = load(&format!("fixtures/{name}.onnx"));
        let half = to_half(&model).unwrap();
        let graph = half.proto.graph.as_ref().unwrap();
        assert!(graph.initializer.iter().all(|t| t.data_type() != FLOAT), "{name}");
        let Some(worst) = difference(&model, 3, 28) else { return };
        println!("{name}: {worst:.1e}");
        // Half precision rounds to 5e-4, and it has rounded: the arithmetic is another.
        assert!(worst > 1e-6 && worst < 1e-2, "{name}: {worst}");
    }
}

/// The models in the folder `ONNX_PRUNE_MODELS`.
#[test]
fn other_models_compute_nearly_the_same() {
    let Some(folder) = std::env::var_os("ONNX_PRUNE_MODELS") else {
        println!("SKIPPED: ONNX_PRUNE_MODELS is not set");
        return;
    };
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "onnx") {
            continue;
        }
        let model = crate::onnx::load(&path).unwrap();
        match to_half(&model) {
            Err(e) => println!("{e}"),
            Ok(_) => {
                let Some(worst) = difference(&model, 1, 64) else { return };
                println!("{}: {worst:.1e}", path.display());
                assert!(worst < 5e-2, "{}: {worst}", path.display());
            }
        }
    }
}

#[test]
fn numbers_stay_finite_and_other_than_zero() {
    assert_eq!(to_f16(1e9), f16::MAX);
    assert_eq!(to_f16(-1e9), f16::MIN);
    assert_eq!(to_f16(1e-12), f16::MIN_POSITIVE_SUBNORMAL);
    assert_eq!(to_f16(-1e-12), -f16::MIN_POSITIVE_SUBNORMAL);
    assert_eq!(to_f16(0.0).to_bits(), 0);
    assert_eq!(to_f16(f32::INFINITY), f16::INFINITY);
    assert!(to_f16(f32::NAN).is_nan());
    assert_eq!(to_f16(0.1), f16::from_f32(0.1));
}

fn node(op: &str, input: &[&str], output: &str, attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        op_type: Some(op.into()),
        name: Some(output.into()),
        input: input.iter().map(ToString::to_string).collect(),
        output: vec![output.into()],
        attribute,
        ..NodeProto::default()
    }
}

fn value(name: &str, kind: i32) -> ValueInfoProto {
    let tensor = type_proto::Tensor { elem_type: Some(kind), shape: None };
    let r#type = Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() });
    ValueInfoProto { name: Some(name.into()), r#type, ..ValueInfoProto::default() }
}

fn model(node: Vec<NodeProto>, initializer: Vec<TensorProto>, outputs: &[&str]) -> Model {
    let mut input = value("x", FLOAT);
    if let Some(type_proto::Value::TensorType(t)) = &mut input.r#type.as_mut().unwrap().value {
        let dim = |n| crate::onnx::proto::tensor_shape_proto::Dimension {
            value: Some(crate::onnx::proto::tensor_shape_proto::dimension::Value::DimValue(n)),
            ..Default::default()
        };
        t.shape = Some(crate::onnx::proto::TensorShapeProto { dim: [1, 1, 4, 4].map(dim).into() });
    }
    let graph = GraphProto {
        name: Some("g".into()),
        node,
        initializer,
        input: vec![input],
        output: outputs.iter().map(|o| value(o, FLOAT)).collect(),
        ..GraphProto::default()
    };
    let set = crate::onnx::proto::OperatorSetIdProto { domain: None, version: Some(17) };
    let proto =
        ModelProto { ir_version: Some(8), opset_import: vec![set], graph: Some(graph), ..ModelProto::default() };
    Model::from_proto(proto, "made.onnx")
}

#[test]
fn what_is_single_precision_by_definition_stays_so() {
    let branch = |scale: f32, name: &str| GraphProto {
        name: Some(name.into()),
        node: vec![node("Mul", &["q", name], &format!("{name}.y"), vec![])],
        initializer: vec![tensor::from_f32(name, &[], &[scale])],
        output: vec![value(&format!("{name}.y"), FLOAT)],
        ..GraphProto::default()
    };
    let graph = |name: &str, g: GraphProto| AttributeProto {
        name: Some(name.into()),
        r#type: Some(AttributeType::Graph as i32),
        g: Some(g),
        ..AttributeProto::default()
    };
    let zero = TensorProto { data_type: Some(DataType::Uint8 as i32), ..tensor::from_i64("zero", &[], &[0]) };
    let zero = TensorProto { raw_data: Some(vec![128u8].into()), ..zero };
    let one = TensorProto { data_type: Some(DataType::Bool as i32), raw_data: Some(vec![1u8].into()), ..zero.clone() };
    let one = TensorProto { name: Some("one".into()), ..one };
    let nodes = vec![
        node("Resize", &["x", "", "scales"], "big", vec![]),
        // The scale of the quantisation is read as a number of the network as well.
        node("QuantizeLinear", &["big", "step", "zero"], "i", vec![]),
        node("DequantizeLinear", &["i", "step", "zero"], "d", vec![]),
        node("Mul", &["d", "step"], "m", vec![]),
        node("Range", &["from", "to", "by"], "r", vec![]),
        node("Add", &["m", "r"], "q", vec![]),
        node(
            "If",
            &["one"],
            "y",
            vec![graph("then_branch", branch(2.0, "two")), graph("else_branch", branch(3.0, "three"))],
        ),
        node("Shape", &["y"], "shape", vec![]),
        node("ConstantOfShape", &["shape"], "zeros", vec![]),
        node("Cast", &["shape"], "sizes", vec![integer("to", FLOAT)]),
        node("ReduceSum", &["sizes"], "size", vec![integer("keepdims", 0)]),
        node("Add", &["zeros", "size"], "z", vec![]),
        node("Add", &["y", "z"], "out", vec![]),
    ];
    let f = |name: &str, v: f32| tensor::from_f32(name, &[], &[v]);
    let weights = vec![
        tensor::from_f32("scales", &[4], &[1.0, 1.0, 2.0, 2.0]),
        f("step", 0.05),
        zero,
        one,
        f("from", 0.0),
        f("to", 8.0),
        f("by", 1.0),
    ];
    let made = model(nodes, weights, &["y", "out"]);
    let half = to_half(&made).unwrap();
    let graph = half.proto.graph.as_ref().unwrap();
    let kind = |name: &str| graph.initializer.iter().find(|t| t.name() == name).map(TensorProto::data_type);
    let resize = graph.node.iter().find(|n| n.op_type() == "Resize").unwrap();
    assert_eq!((kind(&resize.input[2]), kind("scales"), kind("step")), (Some(FLOAT), None, Some(HALF)));
    if let Some(worst) = difference(&made, 1, 4) {
        assert!(worst < 1e-2, "{worst}");
    }
    let feed = random_inputs(&made, 5, &|_, _| 1).unwrap();
    assert!(matches!(&feed[0].1, Array { data: Data::F32(_), .. }));
}

#[test]
fn variances_may_be_of_any_size() {
    let f = |name: &str, v: [f32; 2]| tensor::from_f32(name, &[2], &v);
    let weights = vec![
        tensor::from_f32("w", &[2, 1, 1, 1], &[3e4, 1e-6]),
        f("s", [2.0, 0.5]),
        f("b", [0.1, 0.2]),
        f("m", [50.0, 0.0]),
        // Of a layer before with large values, and with very small ones.
        f("v", [9.8e7, 1e-11]),
    ];
    let small = AttributeProto {
        name: Some("epsilon".into()),
        r#type: Some(AttributeType::Float as i32),
        f: Some(1e-12),
        ..integer("", 0)
    };
    let small = AttributeProto { i: None, ..small };
    let nodes = vec![
        node("Conv", &["x", "w"], "c", vec![]),
        node("BatchNormalization", &["c", "s", "b", "m", "v"], "y", vec![small]),
    ];
    if let Some(worst) = difference(&model(nodes, weights, &["y"]), 1, 4) {
        assert!(worst < 2e-2, "{worst}");
    }
}

#[test]
fn what_is_not_known_is_refused() {
    let said = |m: Model| to_half(&m).unwrap_err().to_string();
    let mut other = model(vec![node("Gelu", &["x"], "y", vec![])], vec![], &["y"]);
    other.proto.graph.as_mut().unwrap().node[0].domain = Some("com.microsoft".into());
    assert!(said(other).contains("made.onnx: --precision fp16 does not cover the operator com.microsoft:Gelu"));
    let range = node("Range", &["x", "x", "x"], "y", vec![]);
    assert!(said(model(vec![range], vec![], &["y"])).contains("the Range \"y\""));
}
