//! Networks that the benches are run on.

use onnx_prune::onnx::proto::attribute_proto::AttributeType;
use onnx_prune::onnx::proto::tensor_shape_proto::{Dimension, dimension::Value};
use onnx_prune::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorShapeProto, TypeProto, ValueInfoProto,
    type_proto,
};
use onnx_prune::onnx::{Model, tensor};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

fn info(name: &str, dims: &[i64]) -> ValueInfoProto {
    let dim = dims.iter().map(|&d| Dimension { denotation: None, value: Some(Value::DimValue(d)) }).collect();
    let tensor = type_proto::Tensor { elem_type: Some(1), shape: Some(TensorShapeProto { dim }) };
    ValueInfoProto {
        name: Some(name.into()),
        r#type: Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() }),
        ..Default::default()
    }
}

struct Net {
    graph: GraphProto,
    rng: ChaCha8Rng,
}

impl Net {
    fn new() -> Self {
        Net { graph: GraphProto::default(), rng: ChaCha8Rng::seed_from_u64(50) }
    }

    fn constant(&mut self, name: &str, dims: &[usize], at: f32, spread: f32) {
        let mut next = || at + spread * ((self.rng.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0);
        let values: Vec<f32> = (0..dims.iter().product()).map(|_| next()).collect();
        self.graph.initializer.push(tensor::from_f32(name, dims, &values));
    }

    /// Adds a node; its first output has its name.
    fn node(&mut self, op: &str, name: &str, inputs: &[&str], ints: &[(&str, &[i64])]) -> String {
        let attribute = ints.iter().map(|(name, v)| AttributeProto {
            name: Some((*name).into()),
            r#type: Some(AttributeType::Ints as i32),
            ints: v.to_vec(),
            ..Default::default()
        });
        self.graph.node.push(NodeProto {
            op_type: Some(op.into()),
            name: Some(name.into()),
            input: inputs.iter().map(|s| (*s).into()).collect(),
            output: vec![name.into()],
            attribute: attribute.collect(),
            ..Default::default()
        });
        name.into()
    }

    /// Conv → BatchNormalization.
    fn conv(&mut self, name: &str, x: &str, [o, i, k]: [usize; 3], stride: i64) -> String {
        let (w, pad) = (format!("{name}.weight"), k as i64 / 2);
        self.constant(&w, &[o, i, k, k], 0.0, (3.0 / (i * k * k) as f32).sqrt());
        self.node("Conv", &format!("{name}.conv"), &[x, &w], &[("pads", &[pad; 4]), ("strides", &[stride; 2])]);
        let parameters = ["scale", "shift", "mean", "var"].map(|p| format!("{name}.{p}"));
        for (p, (at, spread)) in parameters.iter().zip([(0.6, 0.5), (0.0, 0.5), (0.0, 0.3), (1.0, 0.5)]) {
            self.constant(p, &[o], at, spread);
        }
        let [scale, shift, mean, var] = parameters;
        self.node("BatchNormalization", name, &[&format!("{name}.conv"), &scale, &shift, &mean, &var], &[])
    }

    fn relu(&mut self, x: &str) -> String {
        self.node("Relu", &format!("{x}.relu"), &[x], &[])
    }

    fn finish(mut self, input: &[i64], output: (&str, &[i64])) -> ModelProto {
        self.graph.input.push(info("input", input));
        self.graph.output.push(info(output.0, output.1));
        ModelProto {
            ir_version: Some(8),
            opset_import: vec![OperatorSetIdProto { domain: None, version: Some(17) }],
            graph: Some(self.graph),
            ..Default::default()
        }
    }
}

/// The layers of a ResNet-50 (bottleneck blocks 3-4-6-3, batch normalizations kept, 1000 classes) with random weights. A `width`
/// of 64 is the original's, of 100 MB; half of it has a quarter of the weights.
pub fn resnet50(width: usize) -> ModelProto {
    let mut n = Net::new();
    let mut x = n.conv("stem", "input", [width, 3, 7], 2);
    x = n.relu(&x);
    x = n.node("MaxPool", "pool", &[&x], &[("kernel_shape", &[3; 2]), ("strides", &[2; 2]), ("pads", &[1; 4])]);
    let mut channels = width;
    for (stage, blocks) in [3, 4, 6, 3].into_iter().enumerate() {
        let (inner, outer) = (width << stage, width << (stage + 2));
        for block in 0..blocks {
            let name = |part: &str| format!("layer{}.{block}.{part}", stage + 1);
            let stride = if block == 0 && stage > 0 { 2 } else { 1 };
            let mut y = n.conv(&name("1"), &x, [inner, channels, 1], 1);
            y = n.relu(&y);
            y = n.conv(&name("2"), &y, [inner, inner, 3], stride);
            y = n.relu(&y);
            y = n.conv(&name("3"), &y, [outer, inner, 1], 1);
            if block == 0 {
                x = n.conv(&name("down"), &x, [outer, channels, 1], stride);
            }
            let sum = n.node("Add", &name("add"), &[&y, &x], &[]);
            x = n.relu(&sum);
            channels = outer;
        }
    }
    x = n.node("GlobalAveragePool", "gap", &[&x], &[]);
    x = n.node("Flatten", "flatten", &[&x], &[]);
    n.constant("fc.weight", &[channels, 1000], 0.0, 0.03);
    n.constant("fc.bias", &[1000], 0.0, 0.1);
    n.node("Gemm", "logits", &[&x, "fc.weight", "fc.bias"], &[]);
    n.finish(&[1, 3, 224, 224], ("logits", &[1, 1000]))
}

/// Conv, BatchNormalization, Relu and residual additions, `nodes` in all.
pub fn chain(nodes: usize) -> Model {
    let mut n = Net::new();
    let mut x = n.conv("first", "input", [16, 3, 3], 1);
    let mut k = 0;
    while n.graph.node.len() + 5 <= nodes {
        let y = n.conv(&format!("block{k}"), &x, [16, 16, 3], 1);
        let y = n.relu(&y);
        x = if k % 4 == 3 { n.node("Add", &format!("add{k}"), &[&x, &y], &[]) } else { y };
        k += 1;
    }
    n.conv("last", &x, [4, 16, 1], 1);
    Model::from_proto(n.finish(&[1, 3, 16, 16], ("last", &[1, 4, 16, 16])), "chain.onnx")
}
