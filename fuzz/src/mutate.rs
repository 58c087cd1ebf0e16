//! Changes to a model, one for each record of a script.

use crate::script::{Bytes, RECORD};
use onnx_prune::onnx::proto::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto, attribute_proto::AttributeType, tensor_shape_proto::Dimension,
    tensor_shape_proto::dimension::Value as DimValue, type_proto,
};
use onnx_prune::onnx::tensor;
use onnx_prune::ops::RULES;
use std::sync::OnceLock;

/// Most elements that an initializer is filled to.
const MOST: usize = 1 << 14;

/// Attribute names that any rule looks at.
const ATTRIBUTES: &[&str] = &[
    "axis",
    "axes",
    "perm",
    "group",
    "pads",
    "strides",
    "dilations",
    "kernel_shape",
    "auto_pad",
    "transA",
    "transB",
    "alpha",
    "beta",
    "split",
    "num_outputs",
    "keepdims",
    "noop_with_empty_axes",
    "allowzero",
    "mode",
    "blocksize",
    "epsilon",
    "num_groups",
    "starts",
    "ends",
    "steps",
    "output_shape",
    "output_padding",
    "ceil_mode",
    "count_include_pad",
    "exclusive",
    "reverse",
    "to",
    "value_int",
    "value_ints",
    "scales",
    "sizes",
    "size",
    "fmod",
    "direction",
    "equation",
    "batch_dims",
    "start",
    "end",
    "training_mode",
    "spatial",
    "value",
    "broadcast",
    "coordinate_transformation_mode",
    "p",
    "select_last_index",
    "shape",
    "block_size",
    "stash_type",
];

fn operators() -> &'static [&'static str] {
    static ALL: OnceLock<Vec<&'static str>> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut all: Vec<&str> = RULES.iter().flat_map(|(names, _)| names.iter().copied()).collect();
        all.extend(["Loop", "If", "Einsum", "TopK", "NonZero", "LSTM", "Nothing", "OneHot", "Scan"]);
        all.extend(["Constant", "ConstantOfShape", "Range", "Shape", "Size", "Where", "Identity", "Mod", "Div"]);
        all
    })
}

/// Applies the records.
pub fn apply(model: &mut ModelProto, records: &[u8]) {
    for record in records.chunks(RECORD).take(64) {
        let mut b = Bytes(record);
        one(model, &mut b);
    }
}

fn one(model: &mut ModelProto, b: &mut Bytes) {
    let kind = b.u8() % 34;
    match kind {
        0 => {
            let version = [7, 8, 9, 10, 11, 12, 13, 14, 17, 18, 19, 20, 21, 23, 28, 6, 29, 0][b.of(18)];
            if let Some(set) = model.opset_import.first_mut() {
                set.version = Some(version);
            }
            return;
        }
        1 => return model.ir_version = Some([3, 8, 2, 1, 10][b.of(5)]),
        2 => {
            let name = operators()[b.of_many(operators().len())];
            let function = FunctionProto { name: Some(name.to_owned()), ..Default::default() };
            return model.functions.push(function);
        }
        _ => {}
    }
    let Some(g) = &mut model.graph else { return };
    match kind {
        3..=10 => node(g, kind, b),
        11..=16 => edges(g, kind, b),
        17..=22 => initializer(g, kind, b),
        23..=26 => interface(g, kind, b),
        _ => structure(g, kind, b),
    }
}

/// Every name that something produces.
pub fn names(g: &GraphProto) -> Vec<String> {
    let made = g.node.iter().flat_map(|n| n.output.iter().cloned());
    let mut all: Vec<String> = g.input.iter().map(|v| v.name().to_owned()).collect();
    all.extend(g.initializer.iter().map(|t| t.name().to_owned()));
    all.extend(made);
    all.retain(|n| !n.is_empty());
    all
}

fn name(g: &GraphProto, b: &mut Bytes) -> String {
    let all = names(g);
    let at = b.of_many(all.len());
    all.get(at).cloned().unwrap_or_default()
}

fn fresh(g: &GraphProto, stem: &str) -> String {
    let taken = names(g);
    (0..).map(|k| format!("{stem}{k}")).find(|n| !taken.contains(n)).unwrap_or_default()
}

fn node(g: &mut GraphProto, kind: u8, b: &mut Bytes) {
    let at = b.of_many(g.node.len());
    let Some(node) = g.node.get_mut(at) else { return };
    let slot = b.u8();
    let which = usize::from(slot) % node.attribute.len().max(1);
    match kind {
        3..=5 => {
            let Some(a) = node.attribute.get_mut(which) else { return };
            if let Some(i) = &mut a.i {
                *i = b.number();
            } else if a.f.is_some() {
                a.f = Some([0.0, 1.0, -1.0, f32::NAN, f32::INFINITY, 1e30, 0.5, 1e-30][b.of(8)]);
            } else if a.s.is_some() {
                let words =
                    ["SAME_UPPER", "SAME_LOWER", "VALID", "CRD", "DCR", "linear", "nearest", "", "reflect", "constant"];
                a.s = Some(words[b.of(words.len())].as_bytes().to_vec());
            } else {
                list(&mut a.ints, b);
            }
        }
        6 => {
            let name = ATTRIBUTES[usize::from(slot) % ATTRIBUTES.len()];
            node.attribute.retain(|a| a.name() != name);
            let mut a = AttributeProto { name: Some(name.to_owned()), ..Default::default() };
            if b.coin() {
                a.i = Some(b.number());
                a.r#type = Some(AttributeType::Int as i32);
            } else {
                a.ints = (0..b.of(4)).map(|_| b.number()).collect();
                a.r#type = Some(AttributeType::Ints as i32);
            }
            node.attribute.push(a);
        }
        7 if which < node.attribute.len() => {
            node.attribute.remove(which);
        }
        8 => node.op_type = Some(operators()[b.of_many(operators().len())].to_owned()),
        9 => {
            let domain = ["", "ai.onnx", "com.microsoft", "x"][usize::from(slot) % 4];
            node.domain = Some(domain.to_owned());
        }
        10 => match slot % 4 {
            0 => node.name = None,
            1 => node.name = Some("same".into()),
            2 => node.name = node.input.first().cloned(),
            _ => node.name = Some("é\u{0}/\n\u{1F980}".repeat(9)),
        },
        _ => {}
    }
}

fn list(ints: &mut Vec<i64>, b: &mut Bytes) {
    let (how, at) = (b.u8(), b.of(ints.len()));
    match how % 8 {
        0 => ints.push(b.number()),
        1 => drop(ints.pop()),
        2 => ints.clear(),
        3 if !ints.is_empty() => ints.swap(at, 0),
        4 if !ints.is_empty() => ints.insert(at, ints[at]),
        _ => {
            if let Some(i) = ints.get_mut(at) {
                *i = b.number();
            }
        }
    }
}

fn edges(g: &mut GraphProto, kind: u8, b: &mut Bytes) {
    let at = b.of_many(g.node.len());
    let slot = usize::from(b.u8());
    let to = name(g, b);
    let Some(node) = g.node.get_mut(at) else { return };
    let inputs = node.input.len().max(1);
    match kind {
        11 | 12 => {
            if let Some(input) = node.input.get_mut(slot % inputs) {
                *input = to;
            }
        }
        13 => match slot % 3 {
            0 => drop(node.input.pop()),
            1 => drop(node.output.pop()),
            _ => {
                if let Some(input) = node.input.get_mut(slot / 3 % inputs) {
                    input.clear();
                }
            }
        },
        14 => {
            if slot % 2 == 0 {
                node.input.push(to);
            } else {
                let made = fresh(g, "extra");
                g.node[at].output.push(made);
            }
        }
        15 => {
            // Everybody who read one value reads another.
            let Some(from) = node.input.get(slot % inputs).cloned() else { return };
            for n in &mut g.node {
                n.input.iter_mut().filter(|i| **i == from).for_each(|i| i.clone_from(&to));
            }
        }
        _ => {
            if !node.input.is_empty() {
                let other = slot / 4 % inputs;
                node.input.swap(slot % inputs, other);
            }
        }
    }
}

fn initializer(g: &mut GraphProto, kind: u8, b: &mut Bytes) {
    let at = b.of_many(g.initializer.len());
    let Some(t) = g.initializer.get_mut(at) else { return };
    match kind {
        17 | 18 => {
            match b.u8() % 6 {
                0 => t.dims.push(1),
                1 => drop(t.dims.pop()),
                2 => t.dims.insert(0, 1),
                3 => t.dims.reverse(),
                _ => {
                    let axis = b.of(t.dims.len());
                    if let Some(d) = t.dims.get_mut(axis) {
                        *d = b.number();
                    }
                }
            }
            if kind == 17 {
                fill(t);
            }
        }
        19 => {
            t.data_type = Some([1, 7, 6, 10, 11, 16, 2, 3, 9, 8, 22, 0, 99, 14][b.of(14)]);
            if b.coin() {
                fill(t);
            }
        }
        20 | 21 => {
            // An integer's value, or the bits of a float.
            let Some(size) = tensor::elem_size(t.data_type()) else { return };
            let Ok(raw) = tensor::raw_le(t) else { return };
            let mut raw = raw.to_vec();
            let at = b.of_many(raw.len() / size) * size;
            let float = tensor::is_float(t.data_type());
            let bits = match b.u8() % 8 {
                0 if float => 0,
                1 if float && size == 4 => i64::from(f32::NAN.to_bits()),
                2 if float && size == 4 => i64::from(1e38f32.to_bits()),
                3 if float && size == 4 => i64::from((-1f32).to_bits()),
                _ => b.number(),
            };
            if let Some(to) = raw.get_mut(at..at + size.min(8)) {
                to.copy_from_slice(&bits.to_le_bytes()[..size.min(8)]);
            }
            *t = raw_tensor(t, raw);
        }
        _ => {
            // As a `Constant` node.
            let t = g.initializer.remove(at);
            let a = AttributeProto {
                name: Some("value".into()),
                r#type: Some(AttributeType::Tensor as i32),
                t: Some(t.clone()),
                ..Default::default()
            };
            let node = NodeProto {
                op_type: Some("Constant".into()),
                output: vec![t.name().to_owned()],
                attribute: vec![a],
                ..Default::default()
            };
            g.node.insert(0, node);
        }
    }
}

fn raw_tensor(like: &TensorProto, raw: Vec<u8>) -> TensorProto {
    TensorProto {
        dims: like.dims.clone(),
        data_type: like.data_type,
        name: like.name.clone(),
        raw_data: Some(raw.into()),
        ..Default::default()
    }
}

/// Gives the tensor as many bytes as its shape says, where that is not many.
fn fill(t: &mut TensorProto) {
    let Ok(n) = tensor::numel(t) else { return };
    let Some(size) = tensor::elem_size(t.data_type()).filter(|_| n <= MOST) else { return };
    let mut raw: Vec<u8> = tensor::raw_le(t).map(|r| r.to_vec()).unwrap_or_default();
    let old: Vec<u8> = t.raw_data.as_ref().filter(|r| !r.is_empty()).map_or_else(Vec::new, |r| r.to_vec());
    if raw.is_empty() {
        raw = old;
    }
    let pattern = if raw.is_empty() { vec![0, 0, 0x80, 0x3f] } else { raw.clone() };
    raw = pattern.iter().copied().cycle().take(n * size).collect();
    *t = raw_tensor(t, raw);
}

fn dims(ty: &mut ValueInfoProto) -> Option<&mut Vec<Dimension>> {
    match ty.r#type.as_mut()?.value.as_mut()? {
        type_proto::Value::TensorType(t) => t.shape.as_mut().map(|s| &mut s.dim),
        _ => None,
    }
}

fn dimension(b: &mut Bytes) -> Dimension {
    let value = match b.u8() % 4 {
        0 => Some(DimValue::DimParam(["n", "h", "w", ""][b.of(4)].to_owned())),
        1 => None,
        _ => Some(DimValue::DimValue(b.number())),
    };
    Dimension { value, ..Default::default() }
}

fn change_dims(info: &mut ValueInfoProto, b: &mut Bytes) {
    let Some(dims) = dims(info) else { return };
    let at = b.of(dims.len());
    match b.u8() % 6 {
        0 => dims.push(dimension(b)),
        1 => drop(dims.pop()),
        _ => {
            if let Some(d) = dims.get_mut(at) {
                *d = dimension(b);
            }
        }
    }
}

fn interface(g: &mut GraphProto, kind: u8, b: &mut Bytes) {
    match kind {
        23 => {
            let at = b.of(g.input.len());
            if let Some(info) = g.input.get_mut(at) {
                change_dims(info, b);
            }
        }
        24 => {
            let name = name(g, b);
            if b.coin() {
                g.output.push(ValueInfoProto { name: Some(name), ..Default::default() });
            } else if let Some(at) = (!g.output.is_empty()).then(|| b.of(g.output.len())) {
                g.output[at].name = Some(name);
            }
        }
        25 => {
            let name = name(g, b);
            let shape = TensorShapeProto { dim: (0..b.of(5)).map(|_| dimension(b)).collect() };
            let ty = type_proto::Tensor { elem_type: Some(1), shape: Some(shape) };
            let r#type = Some(TypeProto { value: Some(type_proto::Value::TensorType(ty)), ..Default::default() });
            g.value_info.push(ValueInfoProto { name: Some(name), r#type, ..Default::default() });
        }
        _ => {
            // An initializer that may be fed.
            let at = b.of_many(g.initializer.len());
            let Some(t) = g.initializer.get(at) else { return };
            let dim = |&d: &i64| Dimension { value: Some(DimValue::DimValue(d)), ..Default::default() };
            let shape = TensorShapeProto { dim: t.dims.iter().map(dim).collect() };
            let ty = type_proto::Tensor { elem_type: t.data_type, shape: Some(shape) };
            let r#type = Some(TypeProto { value: Some(type_proto::Value::TensorType(ty)), ..Default::default() });
            g.input.push(ValueInfoProto { name: t.name.clone(), r#type, ..Default::default() });
        }
    }
}

fn make(op: &str, input: Vec<String>, output: String) -> NodeProto {
    NodeProto { op_type: Some(op.to_owned()), input, output: vec![output], ..Default::default() }
}

fn structure(g: &mut GraphProto, kind: u8, b: &mut Bytes) {
    let at = b.of_many(g.node.len());
    if g.node.is_empty() {
        return;
    }
    let of_node = g.node[at].output.first().cloned().unwrap_or_default();
    match kind {
        27 => {
            // Dropped; its readers read its input, or another value.
            let gone = g.node.remove(at);
            let to = if b.coin() { gone.input.first().cloned().unwrap_or_default() } else { name(g, b) };
            for n in &mut g.node {
                n.input.iter_mut().filter(|i| gone.output.contains(i)).for_each(|i| i.clone_from(&to));
            }
            g.output
                .iter_mut()
                .filter(|o| gone.output.iter().any(|x| x == o.name()))
                .for_each(|o| o.name = Some(to.clone()));
        }
        28 => {
            // Twice, the copy's results unread or exchanged for the original's in one reader.
            let mut copy = g.node[at].clone();
            for o in copy.output.iter_mut().filter(|o| !o.is_empty()) {
                *o = fresh(g, &format!("{o}.copy"));
            }
            let to = copy.output.first().cloned().unwrap_or_default();
            g.node.insert(at, copy);
            if b.coin() {
                let readers = g.node.iter_mut().filter(|n| n.input.contains(&of_node)).collect::<Vec<_>>();
                let reader = b.of(readers.len());
                if let Some(n) = readers.into_iter().nth(reader) {
                    n.input.iter_mut().filter(|i| **i == of_node).for_each(|i| i.clone_from(&to));
                }
            }
        }
        29 | 30 => {
            // A node between a value and all its readers.
            const BETWEEN: &[&str] = &[
                "Relu",
                "Identity",
                "Transpose",
                "Softmax",
                "Flatten",
                "Shape",
                "Sigmoid",
                "Dropout",
                "GlobalAveragePool",
                "ReduceMean",
                "Squeeze",
                "Not",
                "Abs",
                "DepthToSpace",
                "LRN",
                "ArgMax",
                "CumSum",
                "Size",
                "Cast",
                "Split",
            ];
            let op = BETWEEN[b.of(BETWEEN.len())];
            let made = fresh(g, "between");
            for n in &mut g.node {
                n.input.iter_mut().filter(|i| **i == of_node).for_each(|i| i.clone_from(&made));
            }
            g.node.insert(at + 1, make(op, vec![of_node], made));
        }
        31 => {
            // Two values joined, in place of one of them.
            const JOIN: &[&str] =
                &["Add", "Mul", "Concat", "MatMul", "Gemm", "Where", "Sub", "Max", "Expand", "Reshape", "Gather"];
            let op = JOIN[b.of(JOIN.len())];
            let other = name(g, b);
            let made = fresh(g, "join");
            for n in &mut g.node {
                n.input.iter_mut().filter(|i| **i == of_node).for_each(|i| i.clone_from(&made));
            }
            let mut node = make(op, vec![of_node, other], made);
            if op == "Concat" {
                let axis = [1, 0, 2, -1][b.of(4)];
                node.attribute.push(AttributeProto { name: Some("axis".into()), i: Some(axis), ..Default::default() });
            }
            g.node.insert(at + 1, node);
        }
        32 => {
            // A subgraph that reads outer values.
            let inner = make("Relu", vec![name(g, b)], "inner".into());
            let graph = GraphProto {
                node: vec![inner],
                output: vec![ValueInfoProto { name: Some("inner".into()), ..Default::default() }],
                ..Default::default()
            };
            let branch =
                |n: &str| AttributeProto { name: Some(n.into()), g: Some(graph.clone()), ..Default::default() };
            let made = fresh(g, "branch");
            let mut node = make("If", vec![of_node], made);
            node.attribute = vec![branch("then_branch"), branch("else_branch")];
            g.node.push(node);
        }
        _ => {
            let other = b.of_many(g.node.len());
            g.node.swap(at, other);
        }
    }
}
