//! A model with its arithmetic in half precision, in memory, for timing.
//!
//! Every FLOAT becomes FLOAT16: weights, constants, and all values between. The interface stays as it is: inputs are cast at the
//! beginning, outputs at the end, so that both precisions are fed alike. What ONNX defines for FLOAT only stays FLOAT, with casts
//! around it ([`SINGLE`]): the scales of Resize and Upsample, which are no tensors of the network but numbers about its shapes;
//! the scales of (de)quantisation and of quantised layers, where FLOAT16 came late (opset 19 and 21); the boxes and thresholds of
//! NonMaxSuppression; float arguments of Range. FLOAT16 ends at ±65504: finite weights beyond are set to that, and weights too
//! small become the smallest number other than zero, since some are divided by; batch normalizations first get variances of 1. A network whose *values* overflow gives
//! infinities; it is not rescaled. DOUBLE and BFLOAT16 are left alone.

use crate::error::{Error, Result};
use crate::onnx::proto::attribute_proto::AttributeType;
use crate::onnx::proto::tensor_proto::DataType;
use crate::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto, type_proto,
};
use crate::onnx::{Model, tensor};
use half::f16;
use std::collections::{HashMap, HashSet};

const FLOAT: i32 = DataType::Float as i32;
const HALF: i32 = DataType::Float16 as i32;

/// Operators with arguments that are FLOAT only: the slots of such inputs, and of such outputs.
pub const SINGLE: [(&str, &[usize], &[usize]); 8] = [
    ("Resize", &[2], &[]),
    ("Upsample", &[1], &[]),
    ("QuantizeLinear", &[0, 1], &[]),
    ("DequantizeLinear", &[1], &[0]),
    ("DynamicQuantizeLinear", &[0], &[1]),
    ("QLinearConv", &[1, 4, 6], &[]),
    ("QLinearMatMul", &[1, 4, 7], &[]),
    ("NonMaxSuppression", &[0, 1, 3, 4], &[]),
];

/// Operators whose element type is an attribute, which is FLOAT where it is absent.
const TYPED: [(&str, &str); 5] = [
    ("RandomNormal", "dtype"),
    ("RandomUniform", "dtype"),
    ("EyeLike", "dtype"),
    ("HannWindow", "output_datatype"),
    ("HammingWindow", "output_datatype"),
];

/// The model in half precision.
///
/// # Errors
/// When it has functions, sparse weights or operators of other domains, whose types are not known here, or a weight cannot be read.
pub fn to_half(model: &Model) -> Result<Model> {
    let refuse =
        |what: String| Error::Usage(format!("{}: --precision fp16 does not cover {what}", model.path.display()));
    let mut proto: ModelProto = model.proto.clone();
    if let Some(f) = proto.functions.first() {
        return Err(refuse(format!("functions, such as {:?}", f.name())));
    }
    // Weights that are no inputs came with version 4.
    proto.ir_version = proto.ir_version.map(|v| v.max(4));
    let mut casts = Casts { refuse: &refuse, opset: model.opset(), made: 0, taken: HashSet::new() };
    if let Some(graph) = proto.graph.as_mut() {
        casts.interface(graph)?;
    }
    Ok(model.derive(proto))
}

struct Casts<'a> {
    refuse: &'a dyn Fn(String) -> Error,
    opset: i64,
    made: usize,
    /// All names of values and nodes.
    taken: HashSet<String>,
}

/// What a name is known to stand for, by constants; the innermost graph counts.
type Constants = HashMap<String, TensorProto>;

impl Casts<'_> {
    /// The main graph: casts where it meets its callers, halves between.
    fn interface(&mut self, graph: &mut GraphProto) -> Result<()> {
        names(graph, &mut self.taken);
        let weights: HashSet<String> = graph.initializer.iter().map(|t| t.name().to_owned()).collect();
        let mut renamed: HashMap<String, String> = HashMap::new();
        let (mut before, mut after) = (Vec::new(), Vec::new());
        for input in graph.input.iter().filter(|v| is_float(v) && !weights.contains(v.name())) {
            let inner = self.fresh(input.name());
            before.push(cast(self.fresh(input.name()), input.name(), &inner, HALF));
            renamed.insert(input.name().to_owned(), inner);
        }
        let made: HashSet<String> = graph.node.iter().flat_map(|n| n.output.iter().cloned()).collect();
        for output in graph.output.iter().filter(|v| made.contains(v.name())) {
            if !is_float(output) {
                if output.r#type.is_none() {
                    return Err((self.refuse)(format!("the output {:?}, which has no type", output.name())));
                }
                continue;
            }
            let inner = self.fresh(output.name());
            after.push(cast(self.fresh(output.name()), &inner, output.name(), FLOAT));
            renamed.insert(output.name().to_owned(), inner);
        }
        if let Some(v) = graph.output.iter().find(|v| weights.contains(v.name()) && is_float(v)) {
            return Err((self.refuse)(format!("the output {:?}, which is a weight", v.name())));
        }
        rename(graph, &renamed);
        // Old files list weights among the inputs, where they would be FLOAT.
        graph.input.retain(|v| !weights.contains(v.name()));
        let (input, output) = (graph.input.clone(), graph.output.clone());
        self.graph(graph, &Constants::new())?;
        (graph.input, graph.output) = (input, output);
        graph.node.splice(0..0, before);
        graph.node.extend(after);
        Ok(())
    }

    fn fresh(&mut self, like: &str) -> String {
        loop {
            self.made += 1;
            let name = format!("{like}.fp{}", self.made);
            if self.taken.insert(name.clone()) {
                return name;
            }
        }
    }

    /// All of a graph and its subgraphs becomes FLOAT16.
    fn graph(&mut self, graph: &mut GraphProto, outer: &Constants) -> Result<()> {
        if let Some(sparse) = graph.sparse_initializer.first() {
            let name = sparse.values.as_ref().map(TensorProto::name).unwrap_or_default();
            return Err((self.refuse)(format!("sparse weights, such as {name:?}")));
        }
        let mut constants = outer.clone();
        for t in &graph.initializer {
            constants.insert(t.name().to_owned(), t.clone());
        }
        for node in graph.node.iter().filter(|n| n.op_type() == "Constant") {
            let value = node.attribute.iter().find(|a| a.name() == "value").and_then(|a| a.t.as_ref());
            for (name, value) in node.output.iter().zip(value) {
                constants.insert(name.clone(), value.clone());
            }
        }
        let mut nodes = Vec::with_capacity(graph.node.len());
        let mut kept: Vec<TensorProto> = Vec::new();
        for mut node in std::mem::take(&mut graph.node) {
            if !matches!(node.domain(), "" | "ai.onnx") {
                let known = format!("the operator {}:{}", node.domain(), node.op_type());
                return Err((self.refuse)(known));
            }
            let (inputs, outputs) = self.single(&node, &constants)?;
            for slot in inputs {
                let Some(name) = node.input.get_mut(slot).filter(|n| !n.is_empty()) else { continue };
                let inner = self.fresh(name);
                match constants.get(name.as_str()) {
                    Some(t) if t.data_type() != FLOAT => continue,
                    // Its own copy, which stays exact.
                    Some(t) => kept.push(TensorProto { name: Some(inner.clone()), ..t.clone() }),
                    None => nodes.push(cast(self.fresh(name), name, &inner, FLOAT)),
                }
                *name = inner;
            }
            let mut after = Vec::new();
            for &slot in outputs {
                let Some(name) = node.output.get_mut(slot).filter(|n| !n.is_empty()) else { continue };
                let inner = self.fresh(name);
                after.push(cast(self.fresh(name), &inner, name, HALF));
                *name = inner;
            }
            kept.extend(self.normalised(&mut node, &constants)?);
            self.attributes(&mut node, &constants)?;
            nodes.push(node);
            nodes.extend(after);
        }
        graph.node = nodes;
        let mut used = HashSet::new();
        read(graph, &mut used);
        graph.initializer.retain(|t| used.contains(t.name()));
        for t in &mut graph.initializer {
            *t = halved(t)?;
        }
        graph.initializer.extend(kept);
        graph.input.iter_mut().chain(&mut graph.output).chain(&mut graph.value_info).for_each(retype);
        Ok(())
    }

    /// The slots of a node that stay FLOAT.
    fn single(&self, node: &NodeProto, constants: &Constants) -> Result<(Vec<usize>, &'static [usize])> {
        match node.op_type() {
            // Before opset 11 it has no `roi`.
            "Resize" if self.opset < 11 => Ok((vec![1], &[])),
            "Range" => {
                let kinds: Vec<i32> =
                    node.input.iter().filter_map(|n| constants.get(n.as_str())).map(TensorProto::data_type).collect();
                match kinds.first() {
                    Some(&FLOAT) => Ok((vec![0, 1, 2], &[0])),
                    Some(_) => Ok((Vec::new(), &[])),
                    None => Err((self.refuse)(format!("the Range {:?}, whose type is not known", node.name()))),
                }
            }
            op => {
                let found = SINGLE.iter().find(|(name, ..)| *name == op);
                Ok(found.map_or((Vec::new(), &[][..]), |(_, inputs, outputs)| (inputs.to_vec(), *outputs)))
            }
        }
    }

    /// Variances reach far beyond FLOAT16 on both sides. A batch normalization computes the same with variances of 1 and scales of
    /// `s·√(1 + ε) / √(v + ε)`.
    fn normalised(&mut self, node: &mut NodeProto, constants: &Constants) -> Result<Vec<TensorProto>> {
        let attribute = |name: &str| node.attribute.iter().find(|a| a.name() == name);
        let trained = attribute("training_mode").is_some_and(|a| a.i() != 0);
        let epsilon = attribute("epsilon").map_or(1e-5, |a| f64::from(a.f()));
        let constant = |slot: usize| node.input.get(slot).and_then(|n| constants.get(n.as_str()));
        let (Some(scale), Some(variance)) = (constant(1), constant(4)) else { return Ok(Vec::new()) };
        if node.op_type() != "BatchNormalization" || trained || [scale, variance].iter().any(|t| t.data_type() != FLOAT)
        {
            return Ok(Vec::new());
        }
        let (s, v) = (tensor::to_f64(scale)?, tensor::to_f64(variance)?);
        let scales: Vec<f32> =
            s.iter().zip(&v).map(|(s, v)| (s * ((1.0 + epsilon) / (v + epsilon)).sqrt()) as f32).collect();
        let mut made = Vec::new();
        for (slot, values) in [(1, scales), (4, vec![1.0; v.len()])] {
            if let Some(name) = node.input.get_mut(slot) {
                *name = self.fresh(name);
                made.push(halved(&tensor::from_f32(name, &[values.len()], &values))?);
            }
        }
        Ok(made)
    }

    fn attributes(&mut self, node: &mut NodeProto, constants: &Constants) -> Result<()> {
        let op = node.op_type().to_owned();
        for a in &mut node.attribute {
            match (op.as_str(), a.name()) {
                ("Cast", "to") if a.i() == i64::from(FLOAT) => a.i = Some(HALF.into()),
                ("RandomNormalLike" | "RandomUniformLike" | "Bernoulli", "dtype") if a.i() == i64::from(FLOAT) => {
                    a.i = Some(HALF.into());
                }
                ("Constant", "value_float") => {
                    let value = tensor::from_f32("", &[], &[a.f()]);
                    *a = value_of(halved(&value)?);
                }
                ("Constant", "value_floats") => {
                    let value = tensor::from_f32("", &[a.floats.len()], &a.floats);
                    *a = value_of(halved(&value)?);
                }
                ("Constant" | "ConstantOfShape", "value") => {
                    if let Some(t) = &mut a.t {
                        *t = halved(t)?;
                    }
                }
                ("Constant", "sparse_value") => {
                    return Err((self.refuse)(format!("the sparse Constant {:?}", node.output)));
                }
                _ => {}
            }
            if let Some(g) = &mut a.g {
                self.graph(g, constants)?;
            }
            a.graphs.iter_mut().try_for_each(|g| self.graph(g, constants))?;
        }
        if op == "ConstantOfShape" && node.attribute.is_empty() {
            node.attribute.push(value_of(halved(&tensor::from_f32("", &[1], &[0.0]))?));
        }
        if let Some((_, name)) = TYPED.iter().find(|(typed, _)| *typed == op) {
            match node.attribute.iter_mut().find(|a| a.name() == *name) {
                Some(a) if a.i() == i64::from(FLOAT) => a.i = Some(HALF.into()),
                // EyeLike's default is the type of its input.
                None if op != "EyeLike" => node.attribute.push(integer(name, HALF)),
                _ => {}
            }
        }
        Ok(())
    }
}

fn cast(node: String, from: &str, to: &str, kind: i32) -> NodeProto {
    NodeProto {
        op_type: Some("Cast".to_owned()),
        name: Some(node),
        input: vec![from.to_owned()],
        output: vec![to.to_owned()],
        attribute: vec![integer("to", kind)],
        ..NodeProto::default()
    }
}

fn integer(name: &str, value: i32) -> AttributeProto {
    let kind = Some(AttributeType::Int as i32);
    AttributeProto { name: Some(name.to_owned()), r#type: kind, i: Some(value.into()), ..AttributeProto::default() }
}

fn value_of(t: TensorProto) -> AttributeProto {
    let kind = Some(AttributeType::Tensor as i32);
    AttributeProto { name: Some("value".to_owned()), r#type: kind, t: Some(t), ..AttributeProto::default() }
}

fn is_float(value: &ValueInfoProto) -> bool {
    let kind = value.r#type.as_ref().and_then(|t| t.value.as_ref());
    matches!(kind, Some(type_proto::Value::TensorType(t)) if t.elem_type() == FLOAT)
}

fn retype(value: &mut ValueInfoProto) {
    fn within(kind: &mut TypeProto) {
        match &mut kind.value {
            Some(type_proto::Value::TensorType(t)) if t.elem_type() == FLOAT => t.elem_type = Some(HALF),
            Some(type_proto::Value::SequenceType(s)) => {
                if let Some(inner) = &mut s.elem_type {
                    within(inner);
                }
            }
            Some(type_proto::Value::OptionalType(o)) => {
                if let Some(inner) = &mut o.elem_type {
                    within(inner);
                }
            }
            _ => {}
        }
    }
    if let Some(kind) = &mut value.r#type {
        within(kind);
    }
}

/// A FLOAT tensor as FLOAT16; others as they are.
fn halved(t: &TensorProto) -> Result<TensorProto> {
    if t.data_type() != FLOAT {
        return Ok(t.clone());
    }
    let mut raw = Vec::new();
    for x in tensor::to_f32(t)? {
        raw.extend_from_slice(&to_f16(x).to_le_bytes());
    }
    Ok(TensorProto {
        name: t.name.clone(),
        dims: t.dims.clone(),
        doc_string: t.doc_string.clone(),
        data_type: Some(HALF),
        raw_data: Some(raw.into()),
        ..TensorProto::default()
    })
}

/// The nearest; finite numbers stay finite, and those other than zero stay that.
fn to_f16(x: f32) -> f16 {
    let near = f16::from_f32(x);
    if near.is_infinite() && x.is_finite() {
        f16::MAX.copysign(near)
    } else if near.to_f32() == 0.0 && x != 0.0 {
        f16::MIN_POSITIVE_SUBNORMAL.copysign(near)
    } else {
        near
    }
}

/// All names of values and nodes, subgraphs included.
fn names(graph: &GraphProto, all: &mut HashSet<String>) {
    all.extend(graph.initializer.iter().map(|t| t.name().to_owned()));
    all.extend(graph.input.iter().map(|v| v.name().to_owned()));
    for node in &graph.node {
        all.extend(node.output.iter().cloned());
        all.insert(node.name().to_owned());
        node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs)).for_each(|g| names(g, all));
    }
}

/// All names that are read, in subgraphs too.
fn read(graph: &GraphProto, all: &mut HashSet<String>) {
    all.extend(graph.output.iter().map(|v| v.name().to_owned()));
    for node in &graph.node {
        all.extend(node.input.iter().cloned());
        node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs)).for_each(|g| read(g, all));
    }
}

/// Other names for values, in subgraphs too: a name stands for one value in all of a model.
fn rename(graph: &mut GraphProto, other: &HashMap<String, String>) {
    for node in &mut graph.node {
        for name in node.input.iter_mut().chain(&mut node.output) {
            if let Some(new) = other.get(name.as_str()) {
                name.clone_from(new);
            }
        }
        for a in &mut node.attribute {
            for g in a.g.iter_mut().chain(&mut a.graphs) {
                rename(g, other);
                for output in &mut g.output {
                    if let Some(new) = other.get(output.name()) {
                        output.name = Some(new.clone());
                    }
                }
            }
        }
    }
    for v in &mut graph.value_info {
        if let Some(new) = other.get(v.name()) {
            v.name = Some(new.clone());
        }
    }
}

#[cfg(test)]
#[path = "half_tests.rs"]
mod tests;
