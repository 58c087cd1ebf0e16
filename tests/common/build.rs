//! A small builder for ONNX models.

use super::{Rng, between, seeded};
use onnx_prune::canon;
use onnx_prune::graph::Graph;
use onnx_prune::onnx::Model;
use onnx_prune::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto, attribute_proto::AttributeType, tensor_proto::DataType, tensor_shape_proto, type_proto,
};
use onnx_prune::onnx::tensor;
use rand::Rng as _;

/// An attribute's value.
#[derive(Clone, Debug)]
pub enum A {
    /// An integer.
    I(i64),
    /// A float.
    F(f32),
    /// A string.
    S(&'static str),
    /// Integers.
    L(Vec<i64>),
    /// Floats.
    Fs(Vec<f32>),
    /// A tensor.
    T(TensorProto),
    /// A graph.
    G(GraphProto),
}

impl A {
    /// Integers from sizes.
    pub fn list(v: &[usize]) -> A {
        A::L(v.iter().map(|&x| x as i64).collect())
    }

    fn proto(&self, name: &str) -> AttributeProto {
        let mut a = AttributeProto { name: Some(name.into()), ..Default::default() };
        let ty = match self {
            A::I(v) => {
                a.i = Some(*v);
                AttributeType::Int
            }
            A::F(v) => {
                a.f = Some(*v);
                AttributeType::Float
            }
            A::S(v) => {
                a.s = Some(v.as_bytes().to_vec());
                AttributeType::String
            }
            A::L(v) => {
                a.ints.clone_from(v);
                AttributeType::Ints
            }
            A::Fs(v) => {
                a.floats.clone_from(v);
                AttributeType::Floats
            }
            A::T(v) => {
                a.t = Some(v.clone());
                AttributeType::Tensor
            }
            A::G(v) => {
                a.g = Some(v.clone());
                AttributeType::Graph
            }
        };
        a.r#type = Some(ty as i32);
        a
    }
}

/// A declared tensor; negative sizes are dynamic.
pub fn info(name: &str, elem: DataType, dims: &[i64]) -> ValueInfoProto {
    let dim = |(i, &d): (usize, &i64)| tensor_shape_proto::Dimension {
        value: Some(match d {
            ..0 => tensor_shape_proto::dimension::Value::DimParam(format!("d{i}")),
            _ => tensor_shape_proto::dimension::Value::DimValue(d),
        }),
        ..Default::default()
    };
    let shape = Some(TensorShapeProto { dim: dims.iter().enumerate().map(dim).collect() });
    let value = Some(type_proto::Value::TensorType(type_proto::Tensor { elem_type: Some(elem as i32), shape }));
    ValueInfoProto {
        name: Some(name.into()),
        r#type: Some(TypeProto { value, ..Default::default() }),
        ..Default::default()
    }
}

/// A model in the making.
pub struct Build {
    /// What has been built.
    pub g: GraphProto,
    /// Version of the operator set.
    pub opset: i64,
    /// Whether inputs have a dynamic batch; 2 wherever a number is needed.
    pub dynamic: bool,
    /// Randomness.
    pub rng: Rng,
    n: usize,
}

impl Build {
    /// An empty graph.
    pub fn new(seed: u64) -> Self {
        let mut rng = seeded(seed);
        let opset = [11, 13, 17, 18][between(&mut rng, 0, 3)];
        let dynamic = rng.random();
        let g = GraphProto { name: Some("test".into()), ..Default::default() };
        Build { g, opset, dynamic, rng, n: 0 }
    }

    /// Uniform in `low..=high`.
    pub fn r(&mut self, low: usize, high: usize) -> usize {
        between(&mut self.rng, low, high)
    }

    /// True half of the time.
    pub fn coin(&mut self) -> bool {
        self.rng.random()
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.r(1, n) == 1
    }

    /// One of these.
    pub fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.r(0, of.len() - 1)].clone()
    }

    /// A random order of `0..n`.
    pub fn perm(&mut self, n: usize) -> Vec<usize> {
        let mut p: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            let j = self.r(0, i);
            p.swap(i, j);
        }
        p
    }

    fn name(&mut self, stem: &str) -> String {
        self.n += 1;
        format!("{stem}_{}", self.n)
    }

    /// A graph input; the batch is dynamic if [`Build::dynamic`] says so.
    pub fn input(&mut self, dims: &[usize]) -> String {
        let mut d: Vec<i64> = dims.iter().map(|&x| x as i64).collect();
        if self.dynamic {
            d[0] = -1;
        }
        self.input_of(DataType::Float, &d)
    }

    /// A graph input of any type; negative sizes are dynamic.
    pub fn input_of(&mut self, elem: DataType, dims: &[i64]) -> String {
        let name = self.name("in");
        self.g.input.push(info(&name, elem, dims));
        name
    }

    /// An initializer.
    pub fn init(&mut self, mut t: TensorProto) -> String {
        let name = self.name("c");
        t.name = Some(name.clone());
        self.g.initializer.push(t);
        name
    }

    /// Values away from zero, about 1/√`fan` large.
    pub fn floats(&mut self, n: usize, fan: usize) -> Vec<f32> {
        let scale = 1.0 / (fan.max(1) as f32).sqrt();
        (0..n)
            .map(|_| {
                let v: f32 = self.rng.random_range(0.3..1.5);
                if self.rng.random() { v * scale } else { -v * scale }
            })
            .collect()
    }

    /// A random float constant: an initializer, sometimes a `Constant` node.
    pub fn w(&mut self, dims: &[usize]) -> String {
        let n: usize = dims.iter().product();
        let fan = if dims.len() > 1 { n / dims[0].max(1) } else { 1 };
        let t = tensor::from_f32("", dims, &self.floats(n, fan));
        if self.one_in(8) { self.op("Constant", &[], &[("value", A::T(t))]) } else { self.init(t) }
    }

    /// A random positive float initializer.
    pub fn pos(&mut self, dims: &[usize]) -> String {
        let v: Vec<f32> = self.floats(dims.iter().product(), 1).iter().map(|x| x.abs()).collect();
        self.init(tensor::from_f32("", dims, &v))
    }

    /// A float initializer.
    pub fn f(&mut self, dims: &[usize], v: &[f32]) -> String {
        self.init(tensor::from_f32("", dims, v))
    }

    /// An integer vector, as an initializer or a `Constant` node.
    pub fn ints(&mut self, v: &[i64]) -> String {
        let t = tensor::from_i64("", &[v.len()], v);
        if self.one_in(3) { self.op("Constant", &[], &[("value", A::T(t))]) } else { self.init(t) }
    }

    /// An integer vector from sizes.
    pub fn sizes(&mut self, v: &[usize]) -> String {
        let v: Vec<i64> = v.iter().map(|&x| x as i64).collect();
        self.ints(&v)
    }

    /// An integer scalar.
    pub fn int(&mut self, v: i64) -> String {
        self.init(tensor::from_i64("", &[], &[v]))
    }

    /// Raw bytes of a small element type.
    pub fn raw(&mut self, elem: DataType, dims: &[usize], bytes: Vec<u8>) -> String {
        let dims = dims.iter().map(|&d| d as i64).collect();
        self.init(TensorProto {
            dims,
            data_type: Some(elem as i32),
            raw_data: Some(bytes.into()),
            ..Default::default()
        })
    }

    /// A node with one output.
    pub fn op(&mut self, op: &str, inputs: &[&str], attrs: &[(&str, A)]) -> String {
        self.op_n(op, inputs, attrs, 1).remove(0)
    }

    /// A node with several outputs. An operator of another domain is `domain:Operator`.
    pub fn op_n(&mut self, op: &str, inputs: &[&str], attrs: &[(&str, A)], outputs: usize) -> Vec<String> {
        let (domain, op) = op.rsplit_once(':').unwrap_or(("", op));
        let name = self.name(op);
        let out: Vec<String> = (0..outputs).map(|i| format!("{name}_o{i}")).collect();
        self.g.node.push(NodeProto {
            name: Some(name),
            op_type: Some(op.into()),
            domain: (!domain.is_empty()).then(|| domain.into()),
            input: inputs.iter().map(|s| (*s).to_owned()).collect(),
            output: out.clone(),
            attribute: attrs.iter().map(|(k, v)| v.proto(k)).collect(),
            ..Default::default()
        });
        out
    }

    /// `Cast`.
    pub fn cast(&mut self, x: &str, to: DataType) -> String {
        self.op("Cast", &[x], &[("to", A::I(to as i64))])
    }

    /// Declares a graph output. Its shape is left open.
    pub fn output(&mut self, x: &str) {
        let rank = self.shape(x).len();
        let dims: Vec<i64> = vec![-1; rank];
        let mut out = info(x, DataType::Float, &dims);
        // Every output dimension has a name of its own.
        if let Some(type_proto::Value::TensorType(t)) = out.r#type.as_mut().and_then(|t| t.value.as_mut()) {
            for (i, d) in t.shape.iter_mut().flat_map(|s| &mut s.dim).enumerate() {
                d.value = Some(tensor_shape_proto::dimension::Value::DimParam(format!("{x}_{i}")));
            }
        }
        self.g.output.push(out);
    }

    /// Sizes of a tensor, a batch that is dynamic taken as 2.
    pub fn shape(&self, x: &str) -> Vec<usize> {
        let model = self.model();
        let graph = Graph::new(&model).unwrap_or_else(|e| panic!("{e}"));
        let a = canon::analyse(&graph);
        let v = graph.find(x).unwrap_or_else(|| panic!("no tensor {x}"));
        a.lanes[0].shapes[v.0 as usize].clone().unwrap_or_else(|| {
            let why: Vec<_> =
                a.refusals.iter().zip(&self.g.node).filter_map(|(r, n)| Some((n.op_type(), r.clone()?))).collect();
            panic!("the shape of {x} is not known: {why:?}")
        })
    }

    /// The model so far.
    pub fn model(&self) -> Model {
        let mut domains: Vec<&str> = self.g.node.iter().map(|n| n.domain()).chain([""]).collect();
        domains.sort_unstable();
        domains.dedup();
        let version = |d: &str| if d.is_empty() { self.opset } else { 1 };
        let set = |d: &str| OperatorSetIdProto { domain: Some(d.into()), version: Some(version(d)) };
        let proto = ModelProto {
            ir_version: Some(8),
            opset_import: domains.into_iter().map(set).collect(),
            graph: Some(self.g.clone()),
            ..Default::default()
        };
        Model::from_proto(proto, "test.onnx")
    }

    /// A tensor of these sizes whose axis `ch` holds channels that a layer makes.
    pub fn channels(&mut self, dims: &[usize], ch: usize) -> String {
        let (rank, c) = (dims.len(), dims[ch]);
        let from = self.r(2, 3);
        if ch == 1 && rank >= 3 {
            let x = self.input(&[&[dims[0], from], &dims[2..]].concat());
            let w = self.w(&[&[c, from], vec![1; rank - 2].as_slice()].concat());
            let b = self.w(&[c]);
            return self.op("Conv", &[&x, &w, &b], &[]);
        }
        if ch == 1 && rank == 2 {
            let x = self.input(&[dims[0], from]);
            let (w, b) = (self.w(&[from, c]), self.w(&[c]));
            return self.op("Gemm", &[&x, &w, &b], &[]);
        }
        // Made on the last axis and moved where it belongs.
        let mut order: Vec<usize> = (0..rank).filter(|&a| a != ch).collect();
        let mut sizes: Vec<usize> = order.iter().map(|&a| dims[a]).collect();
        sizes.push(from);
        order.push(ch);
        let dynamic = self.dynamic;
        self.dynamic &= order[0] == 0;
        let x = self.input(&sizes);
        self.dynamic = dynamic;
        let (w, b) = (self.w(&[from, c]), self.w(&[c]));
        let y = self.op("MatMul", &[&x, &w], &[]);
        let y = self.op("Add", &[&y, &b], &[]);
        if ch == rank - 1 {
            return y;
        }
        let perm: Vec<usize> = (0..rank).map(|a| order.iter().position(|&o| o == a).unwrap_or(0)).collect();
        self.op("Transpose", &[&y], &[("perm", A::list(&perm))])
    }

    /// A layer that sums over axis `ch`, and a graph output.
    pub fn sink(&mut self, x: &str, ch: usize) {
        let dims = self.shape(x);
        let (rank, c) = (dims.len(), dims[ch]);
        let y = if ch == 1 && rank >= 3 {
            let w = self.w(&[&[2, c], vec![1; rank - 2].as_slice()].concat());
            self.op("Conv", &[x, &w], &[])
        } else if ch == 1 && rank == 2 {
            // The bias was not optional at first.
            let (w, bias) = (self.w(&[2, c]), self.w(&[2]));
            let inputs: &[&str] = if self.opset < 11 { &[x, &w, &bias] } else { &[x, &w] };
            self.op("Gemm", inputs, &[("transB", A::I(1))])
        } else {
            let mut x = x.to_owned();
            if ch != rank - 1 {
                let mut perm: Vec<usize> = (0..rank).filter(|&a| a != ch).collect();
                perm.push(ch);
                x = self.op("Transpose", &[&x], &[("perm", A::list(&perm))]);
            }
            if rank == 1 {
                let to = self.ints(&[1, -1]);
                x = self.op("Reshape", &[&x, &to], &[]);
            }
            let w = self.w(&[c, 2]);
            self.op("MatMul", &[&x, &w], &[])
        };
        self.output(&y);
    }
}
