//! Float16, bfloat16, float64 and typed fields in place of raw data.

use crate::kit::{Net, fixture, only_cut, op, proven, pruned, resolve};
use onnx_prune::onnx::proto::tensor_proto::DataType;
use onnx_prune::onnx::proto::{TensorProto, type_proto};
use onnx_prune::onnx::{Model, tensor, visit};

/// The model with every float in another type.
fn with_type(model: &Model, to: DataType) -> Model {
    let mut proto = model.proto.clone();
    visit::tensors_mut(&mut proto, &mut |t| {
        if t.data_type() == DataType::Float as i32 {
            let like = TensorProto { data_type: Some(to as i32), ..t.clone() };
            *t = tensor::from_f64_like(&like, &tensor::dims(t)?, &tensor::to_f64(t)?)?;
        }
        Ok(())
    })
    .unwrap();
    let g = proto.graph.as_mut().unwrap();
    for info in g.input.iter_mut().chain(&mut g.output).chain(&mut g.value_info) {
        if let Some(type_proto::Value::TensorType(t)) = info.r#type.as_mut().and_then(|t| t.value.as_mut())
            && t.elem_type == Some(DataType::Float as i32)
        {
            t.elem_type = Some(to as i32);
        }
    }
    let casts = g.node.iter_mut().filter(|n| n.op_type() == "Cast").flat_map(|n| &mut n.attribute);
    for a in casts.filter(|a| a.name() == "to" && a.i == Some(1)) {
        a.i = Some(to as i64);
    }
    Model::from_proto(proto, "typed.onnx")
}

/// Cuts both exports in the type; twin and result are compared in float32.
fn cut_in(to: DataType) {
    for name in ["residual.bn.onnx", "residual.folded.onnx"] {
        let model = with_type(&fixture(name), to);
        let p = pruned(&model, &only_cut(0.4));
        assert!((p.report.ratio_reached - 0.4).abs() < 0.02, "{name}: {:?}", p.report.missed);
        let v = &p.report.verify;
        assert!(v.max_rel_diff.is_some_and(|d| d <= onnx_prune::verify::TOLERANCE), "{v:?}");
        assert!(v.note.contains("float32"), "{v:?}");
        let out = p.model.unwrap();
        let weights = out.proto.graph.as_ref().unwrap().initializer.iter().filter(|t| tensor::is_float(t.data_type()));
        assert!(weights.inspect(|t| assert_eq!(t.data_type(), to as i32, "{}", t.name())).count() > 5);
    }
}

/// Convolutions, a batch normalization and an addition: tract computes these in any float type that it knows.
fn small() -> Model {
    Net::new(8, 17)
        .input("x", "N 3 8 8")
        .conv("a", "x", [8, 3, 3], 1)
        .bn("n", "a.y", 8)
        .relu("ra", "n.y")
        .conv("b", "ra.y", [8, 8, 3], 1)
        .add(op("Add", "join", "b.y ra.y", "join.y"))
        .relu("rb", "join.y")
        .conv("c", "rb.y", [5, 8, 1], 0)
        .add(op("Relu", "last", "c.y", "y"))
        .output("y", "N 5 8 8")
        .model()
}

#[test]
fn float16() {
    cut_in(DataType::Float16);
    let p = pruned(&with_type(&small(), DataType::Float16), &only_cut(0.5));
    let v = &p.report.verify;
    assert!(v.max_rel_diff.is_some_and(|d| d <= onnx_prune::verify::TOLERANCE), "{v:?}");
}

#[test]
fn bfloat16() {
    cut_in(DataType::Bfloat16);
    let p = pruned(&with_type(&small(), DataType::Bfloat16), &only_cut(0.5));
    let v = &p.report.verify;
    assert!(v.max_rel_diff.is_some_and(|d| d <= onnx_prune::verify::TOLERANCE), "{v:?}");
}

#[test]
fn float64() {
    cut_in(DataType::Double);
    proven(&with_type(&small(), DataType::Double), 0.5);
}

/// `float_data`, `double_data` and `int32_data` hold what raw data holds.
#[test]
fn typed_fields() {
    let raw = fixture("residual.bn.onnx");
    let mut proto = raw.proto.clone();
    visit::tensors_mut(&mut proto, &mut |t| {
        if t.data_type() == DataType::Float as i32 {
            t.float_data = tensor::to_f32(t)?;
            t.raw_data = None;
        } else if t.data_type() == DataType::Int64 as i32 {
            t.int64_data = tensor::to_i64(t)?;
            t.raw_data = None;
        }
        Ok(())
    })
    .unwrap();
    let typed = Model::from_proto(proto, "typed.onnx");
    let (a, b) = (proven(&raw, 0.4), proven(&typed, 0.4));
    assert_eq!(a.plan.tensors, b.plan.tensors);
    let (a, b) = (a.model.unwrap(), b.model.unwrap());
    for t in &b.proto.graph.as_ref().unwrap().initializer {
        let same = resolve(&a, t.name());
        assert_eq!((&t.dims, tensor::raw_le(t).unwrap()), (&same.dims, tensor::raw_le(same).unwrap()), "{}", t.name());
        let fields = [t.raw_data.is_some(), !t.float_data.is_empty(), !t.int64_data.is_empty()];
        assert!(fields.iter().filter(|f| **f).count() <= 1, "{}: two copies of the data", t.name());
    }

    let halves = with_type(&raw, DataType::Float16);
    let mut proto = halves.proto.clone();
    visit::tensors_mut(&mut proto, &mut |t| {
        if let (Some(raw), true) = (&t.raw_data, t.data_type() == DataType::Float16 as i32) {
            t.int32_data = raw.chunks(2).map(|b| i32::from(u16::from_le_bytes([b[0], b[1]]))).collect();
            t.raw_data = None;
        }
        Ok(())
    })
    .unwrap();
    let typed = Model::from_proto(proto, "typed.onnx");
    let (a, b) = (pruned(&halves, &only_cut(0.4)), pruned(&typed, &only_cut(0.4)));
    assert_eq!(a.plan.tensors, b.plan.tensors);
}
