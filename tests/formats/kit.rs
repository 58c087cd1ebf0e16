//! Models made in the test, and what is asked of every pruned one.
#![allow(dead_code)] // Every test binary uses a part.

use onnx_prune::graph::Graph;
use onnx_prune::onnx::proto::attribute_proto::AttributeType;
use onnx_prune::onnx::proto::tensor_shape_proto::{Dimension, dimension};
use onnx_prune::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto, type_proto,
};
use onnx_prune::onnx::{self, Model, tensor};
use onnx_prune::plan::{self, AxisRemoval, Budget, PlanFile, RoundTo};
use onnx_prune::prune::{Options, Pruned, analyse, prune};
use onnx_prune::recover::Recover;
use onnx_prune::runtime::{self, Array};
use onnx_prune::{rewrite, verify};
use std::path::Path;

/// A fixture of the repository.
pub fn fixture(name: &str) -> Model {
    onnx::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)).unwrap()
}

/// `"N 3 H 8"`: numbers are fixed, anything else is the name of a dynamic dimension.
pub fn info(name: &str, dims: &str, elem_type: i32) -> ValueInfoProto {
    let dim = |d: &str| match d.parse() {
        Ok(n) => dimension::Value::DimValue(n),
        Err(_) => dimension::Value::DimParam(d.into()),
    };
    let dim = dims.split_whitespace().map(|d| Dimension { denotation: None, value: Some(dim(d)) }).collect();
    let tensor = type_proto::Tensor { elem_type: Some(elem_type), shape: Some(TensorShapeProto { dim }) };
    ValueInfoProto {
        name: Some(name.into()),
        r#type: Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() }),
        ..Default::default()
    }
}

/// The other way: dimensions as they are declared.
pub fn declared(info: &ValueInfoProto) -> String {
    let Some(type_proto::Value::TensorType(t)) = info.r#type.as_ref().and_then(|t| t.value.as_ref()) else {
        return "?".into();
    };
    let dims = t.shape.iter().flat_map(|s| &s.dim).map(|d| match &d.value {
        Some(dimension::Value::DimValue(n)) => n.to_string(),
        Some(dimension::Value::DimParam(p)) => p.clone(),
        None => "?".into(),
    });
    dims.collect::<Vec<_>>().join(" ")
}

/// Names are separated by spaces; `-` leaves a slot out.
pub fn op(op: &str, name: &str, inputs: &str, outputs: &str) -> NodeProto {
    let names = |s: &str| s.split_whitespace().map(|n| if n == "-" { String::new() } else { n.into() }).collect();
    NodeProto {
        op_type: Some(op.into()),
        name: (!name.is_empty()).then(|| name.into()),
        input: names(inputs),
        output: names(outputs),
        ..Default::default()
    }
}

/// Attributes, one after the other.
pub trait With: Sized {
    fn attr(self, a: AttributeProto, name: &str, kind: AttributeType) -> Self;
    fn int(self, name: &str, i: i64) -> Self {
        self.attr(AttributeProto { i: Some(i), ..Default::default() }, name, AttributeType::Int)
    }
    fn ints(self, name: &str, v: &[i64]) -> Self {
        self.attr(AttributeProto { ints: v.to_vec(), ..Default::default() }, name, AttributeType::Ints)
    }
    fn float(self, name: &str, f: f32) -> Self {
        self.attr(AttributeProto { f: Some(f), ..Default::default() }, name, AttributeType::Float)
    }
    fn floats(self, name: &str, v: &[f32]) -> Self {
        self.attr(AttributeProto { floats: v.to_vec(), ..Default::default() }, name, AttributeType::Floats)
    }
    fn text(self, name: &str, s: &str) -> Self {
        self.attr(AttributeProto { s: Some(s.into()), ..Default::default() }, name, AttributeType::String)
    }
    fn tensor(self, name: &str, t: TensorProto) -> Self {
        self.attr(AttributeProto { t: Some(t), ..Default::default() }, name, AttributeType::Tensor)
    }
}

impl With for NodeProto {
    fn attr(mut self, a: AttributeProto, name: &str, kind: AttributeType) -> Self {
        self.attribute.push(AttributeProto { name: Some(name.into()), r#type: Some(kind as i32), ..a });
        self
    }
}

/// `n` values around zero that depend on the name alone.
pub fn noise(name: &str, n: usize) -> Vec<f32> {
    let mut state =
        name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z >> 40) as f32 / (1u32 << 24) as f32 - 0.5
    };
    (0..n).map(|_| next()).collect()
}

/// A weight whose layer keeps magnitudes roughly as they are.
pub fn weight(name: &str, dims: &[usize]) -> TensorProto {
    let scale = 3.0 / (dims.iter().skip(1).product::<usize>() as f32).sqrt();
    let values: Vec<f32> = noise(name, dims.iter().product()).iter().map(|x| x * scale).collect();
    tensor::from_f32(name, dims, &values)
}

/// A model under construction.
pub struct Net(pub ModelProto);

impl Net {
    pub fn new(ir: i64, opset: i64) -> Self {
        Net(ModelProto {
            ir_version: Some(ir),
            opset_import: vec![OperatorSetIdProto { domain: None, version: Some(opset) }],
            graph: Some(GraphProto { name: Some("g".into()), ..Default::default() }),
            ..Default::default()
        })
    }

    pub fn graph(&mut self) -> &mut GraphProto {
        self.0.graph.as_mut().unwrap()
    }

    pub fn input(mut self, name: &str, dims: &str) -> Self {
        self.graph().input.push(info(name, dims, 1));
        self
    }

    pub fn output(mut self, name: &str, dims: &str) -> Self {
        self.graph().output.push(info(name, dims, 1));
        self
    }

    pub fn info(mut self, name: &str, dims: &str) -> Self {
        self.graph().value_info.push(info(name, dims, 1));
        self
    }

    pub fn constant(mut self, t: TensorProto) -> Self {
        self.graph().initializer.push(t);
        self
    }

    pub fn w(self, name: &str, dims: &[usize]) -> Self {
        self.constant(weight(name, dims))
    }

    pub fn i64(self, name: &str, values: &[i64]) -> Self {
        self.constant(tensor::from_i64(name, &[values.len()], values))
    }

    pub fn add(mut self, node: NodeProto) -> Self {
        self.graph().node.push(node);
        self
    }

    /// A convolution with a new weight `<name>.w`; the output is `<name>.y`.
    pub fn conv(self, name: &str, x: &str, [o, i, k]: [usize; 3], pad: i64) -> Self {
        let inputs = format!("{x} {name}.w");
        let node = op("Conv", name, &inputs, &format!("{name}.y")).ints("pads", &[pad; 4]);
        self.w(&format!("{name}.w"), &[o, i, k, k]).add(node)
    }

    /// The four parameters of a batch normalization, as `<name>.scale` and so on.
    pub fn bn_parameters(mut self, name: &str, c: usize) -> Self {
        for (part, at, spread) in [("scale", 1.0, 1.0), ("shift", 0.0, 1.0), ("mean", 0.0, 1.0), ("var", 1.0, 1.0)] {
            let name = format!("{name}.{part}");
            let values: Vec<f32> = noise(&name, c).iter().map(|x| at + spread * x).collect();
            self = self.constant(tensor::from_f32(&name, &[c], &values));
        }
        self
    }

    pub fn bn(self, name: &str, x: &str, c: usize) -> Self {
        self.bn_parameters(name, c).add(bn_node(name, name, x))
    }

    pub fn relu(self, name: &str, x: &str) -> Self {
        self.add(op("Relu", name, x, &format!("{name}.y")))
    }

    pub fn model(self) -> Model {
        Model::from_proto(self.0, "made/in/test.onnx")
    }
}

/// A BatchNormalization that reads the parameters `<from>.scale` and so on.
pub fn bn_node(name: &str, from: &str, x: &str) -> NodeProto {
    let inputs = format!("{x} {from}.scale {from}.shift {from}.mean {from}.var");
    op("BatchNormalization", name, &inputs, &format!("{name}.y")).float("epsilon", 1e-5)
}

/// Remove this share, exactly, and do nothing else.
pub fn only_cut(ratio: f64) -> Options {
    Options {
        budget: Budget::Ratio(ratio),
        recover: Recover::None,
        round_to: RoundTo::Multiple(1),
        ..Options::default()
    }
}

/// Prunes and checks what holds for every pruned model. With `ONNX_PRUNE_DUMP=DIR` the model, what became of it and the
/// plan are written there, for `.ci/check_fixtures.py`.
pub fn pruned(model: &Model, options: &Options) -> Pruned {
    let p = prune(model, options, &|_| ()).unwrap();
    dump(model, &p);
    let out = p.model.as_ref().unwrap();
    check_shapes(out);
    if options.recover == Recover::None {
        check_cut(model, out, &p.plan);
    }
    p
}

/// Like [`pruned`] with [`only_cut`]; tract must have run both models, and something must be gone.
pub fn proven(model: &Model, ratio: f64) -> Pruned {
    let p = pruned(model, &only_cut(ratio));
    let v = &p.report.verify;
    assert!(v.max_rel_diff.is_some_and(|d| d <= verify::TOLERANCE), "{v:?}");
    let off = (p.report.ratio_reached - ratio).abs();
    assert!(off < 0.08, "{} of {ratio} {:?} {:#?}", p.report.ratio_reached, p.report.missed, p.report.pins);
    p
}

fn dump(model: &Model, p: &Pruned) {
    let Some(dir) = std::env::var_os("ONNX_PRUNE_DUMP") else { return };
    let dir = std::path::PathBuf::from(dir);
    let test = std::thread::current().name().unwrap_or("main").replace("::", ".");
    let n = (0..).find(|n| !dir.join(format!("{test}.{n}.json")).exists()).unwrap();
    plan::save(dir.join(format!("{test}.{n}.json")), &p.plan).unwrap();
    std::fs::write(dir.join(format!("{test}.{n}.onnx")), model.to_bytes().unwrap()).unwrap();
    std::fs::write(dir.join(format!("{test}.{n}.cut")), p.model.as_ref().unwrap().to_bytes().unwrap()).unwrap();
}

/// Every declared shape agrees with what the operators make of the inputs.
pub fn check_shapes(model: &Model) {
    let graph = Graph::new(model).unwrap();
    let t = analyse(&graph).unwrap();
    let g = model.proto.graph.as_ref().unwrap();
    for info in g.value_info.iter().chain(&g.output).chain(&g.input) {
        let v = graph.find(info.name()).unwrap_or_else(|| panic!("value_info of {:?}, which is gone", info.name()));
        let Some(known) = t.analysis.dims(v) else { continue };
        let said = declared(info);
        let said: Vec<&str> = said.split_whitespace().collect();
        assert_eq!(said.len(), known.len(), "{:?}", info.name());
        for (said, (n, fixed)) in said.iter().zip(known) {
            if let Ok(said) = said.parse::<usize>() {
                assert!(fixed && said == n, "{:?} is declared {:?}, its shape is {n}", info.name(), declared(info));
            }
        }
    }
}

/// The tensor that an initializer or a `Constant` node of this name holds.
pub fn find<'a>(model: &'a Model, name: &str) -> Option<&'a TensorProto> {
    let g = model.proto.graph.as_ref().unwrap();
    let made = || g.node.iter().find(|n| n.op_type() == "Constant" && n.output.iter().any(|o| o == name));
    g.initializer.iter().find(|t| t.name() == name).or_else(|| made()?.attribute.first()?.t.as_ref())
}

/// The same, through Identity nodes.
pub fn resolve<'a>(model: &'a Model, name: &str) -> &'a TensorProto {
    let g = model.proto.graph.as_ref().unwrap();
    let mut name = name;
    while let Some(n) = g.node.iter().find(|n| n.op_type() == "Identity" && n.output[0] == name) {
        name = &n.input[0];
    }
    find(model, name).unwrap_or_else(|| panic!("no tensor {name:?}"))
}

pub fn node_named<'a>(model: &'a Model, name: &str) -> &'a NodeProto {
    model.proto.graph.as_ref().unwrap().node.iter().find(|n| n.name() == name).unwrap()
}

/// The bytes of `t` without the indices on the axes, one element at a time.
fn slice(t: &TensorProto, gone: &[(usize, AxisRemoval)]) -> (Vec<i64>, Vec<u8>) {
    let size = tensor::elem_size(t.data_type()).unwrap();
    let raw = tensor::raw_le(t).unwrap();
    let dims: Vec<usize> = t.dims.iter().map(|&d| d as usize).collect();
    let mut out = Vec::new();
    for (at, element) in raw.chunks(size).enumerate() {
        let mut rest = at;
        let mut index = vec![0; dims.len()];
        for (i, d) in dims.iter().enumerate().rev() {
            index[i] = rest % d;
            rest /= d;
        }
        let leaves = gone.iter().any(|(axis, list)| match list {
            AxisRemoval::Flat(l) => l.contains(&index[*axis]),
            AxisRemoval::Grouped(l) => l[index[0] * l.len() / dims[0]].contains(&index[*axis]),
        });
        if !leaves {
            out.extend_from_slice(element);
        }
    }
    let mut dims = t.dims.clone();
    for (axis, list) in gone {
        dims[*axis] -= match list {
            AxisRemoval::Flat(l) => l.len(),
            // A group that goes as a whole has nothing to lose in itself.
            AxisRemoval::Grouped(l) => l.iter().map(Vec::len).max().unwrap_or(0),
        } as i64;
    }
    (dims, out)
}

/// Every tensor of the plan is, byte for byte, what the original leaves; every other weight is untouched.
pub fn check_cut(original: &Model, out: &Model, plan: &PlanFile) {
    let g = original.proto.graph.as_ref().unwrap();
    for (key, axes) in &plan.tensors {
        let gone: Vec<(usize, AxisRemoval)> = axes.iter().map(|(a, l)| (a.parse().unwrap(), l.clone())).collect();
        let (name, now) = match key.split_once('@') {
            None => (key.as_str(), key.clone()),
            Some((name, node)) => {
                let slot =
                    g.node.iter().find(|n| n.name() == node).unwrap().input.iter().position(|i| i == name).unwrap();
                (name, node_named(out, node).input[slot].clone())
            }
        };
        let passed_on = g.node.iter().any(|n| n.op_type() == "Identity" && n.output[0] == name);
        // A tensor read through Identity may have a new name; its reader tells.
        let now = match g.node.iter().enumerate().find(|(_, n)| passed_on && n.input.iter().any(|i| i == name)) {
            Some((_, reader)) if !key.contains('@') => {
                let slot = reader.input.iter().position(|i| i == name).unwrap();
                let of = out.proto.graph.as_ref().unwrap().node.iter();
                of.clone().find(|n| n.output == reader.output).unwrap().input[slot].clone()
            }
            _ => now,
        };
        let (was, is) = (resolve(original, name), resolve(out, &now));
        if tensor::is_float(was.data_type()) {
            let (dims, bytes) = slice(was, &gone);
            assert_eq!(is.dims, dims, "{key}");
            assert_eq!(is.data_type(), was.data_type(), "{key}");
            assert!(tensor::raw_le(is).unwrap() == bytes, "{key}: not the original's slices");
        }
    }
    let touched = |name: &str| plan.tensors.keys().any(|k| k == name || k.starts_with(&format!("{name}@")));
    for t in g.initializer.iter().filter(|t| tensor::is_float(t.data_type()) && !touched(t.name())) {
        if let Some(is) = find(out, t.name()) {
            assert_eq!(is, t, "{} is in no plan and changed", t.name());
        }
    }
}

/// The masked original that a plan asks for.
pub fn twin(model: &Model, plan: &PlanFile) -> Model {
    let graph = Graph::new(model).unwrap();
    let t = analyse(&graph).unwrap();
    let removed = plan::from_file(&t.trace.channels, plan).unwrap();
    let removed = plan::removed_indices(&t.trace.channels, &removed);
    rewrite::mask(&t.analysis, &t.trace, &removed).unwrap()
}

/// The outputs on seeded random input; dynamic dimensions take `batch` (axis 0) and `size`.
pub fn outputs(model: &Model, batch: usize, size: usize) -> Vec<(String, Array)> {
    let inputs = runtime::random_inputs(model, 5, &|_, axis| if axis == 0 { batch } else { size }).unwrap();
    runtime::embedded().unwrap().load(model).unwrap().run(&inputs).unwrap()
}

/// Largest difference over all outputs.
pub fn difference(a: &Model, b: &Model, batch: usize, size: usize) -> f64 {
    let (a, b) = (outputs(a, batch, size), outputs(b, batch, size));
    a.iter().zip(&b).map(|((_, a), (_, b))| runtime::max_rel_diff(a, b).unwrap().unwrap()).fold(0.0, f64::max)
}
