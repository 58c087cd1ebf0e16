//! No rule panics, hangs or allocates without bound, whatever its node says.

use crate::common::build::info;
use crate::common::{A, Build};
use onnx_prune::graph::Graph;
use onnx_prune::onnx::proto::tensor_proto::DataType;
use onnx_prune::onnx::tensor;
use onnx_prune::ops::RULES;
use onnx_prune::{prune, rewrite};

const SIZES: &[i64] = &[0, 1, 1, 2, 2, 3, 4, 6, -1, 1 << 40, i64::MAX];
const NUMBERS: &[i64] = &[i64::MIN, -3, -1, 0, 0, 1, 1, 2, 3, 4, 1 << 33, i64::MAX];
const INTS: &[&str] = &[
    "axis",
    "group",
    "num_heads",
    "N",
    "K",
    "bits",
    "block_size",
    "channels_last",
    "transA",
    "transB",
    "opset",
    "ceil_mode",
    "keepdims",
    "blocksize",
    "auto_pad",
    "num_outputs",
];
const LISTS: &[&str] = &["qkv_hidden_sizes", "kernel_shape", "pads", "strides", "dilations", "perm", "axes", "split"];

fn operand(b: &mut Build) -> String {
    let rank = b.r(0, 5);
    match b.r(0, 4) {
        0 => String::new(),
        1 => {
            let dims: Vec<usize> = (0..rank).map(|_| b.r(1, 4)).collect();
            b.w(&dims)
        }
        2 => {
            let dims: Vec<usize> = (0..rank).map(|_| b.r(1, 4)).collect();
            let n = dims.iter().product();
            b.raw(DataType::Int8, &dims, vec![3; n])
        }
        3 => {
            let n = b.r(0, 4);
            let v: Vec<i64> = (0..n).map(|_| b.pick(NUMBERS)).collect();
            b.init(tensor::from_i64("", &[n], &v))
        }
        _ => {
            let dims: Vec<i64> = (0..rank).map(|_| b.pick(SIZES)).collect();
            b.input_of(DataType::Float, &dims)
        }
    }
}

#[test]
fn no_rule_panics_on_nonsense() {
    let draws = if cfg!(debug_assertions) { 20 } else { 200 };
    for op in RULES.iter().flat_map(|(names, _)| names.iter()) {
        for seed in 0..draws {
            let mut b = Build::new(seed ^ op.bytes().fold(0u64, |h, c| h.wrapping_mul(31).wrapping_add(u64::from(c))));
            b.opset = b.pick(&[7, 10, 13, 17, 21, 24]);
            let n = b.r(0, 10);
            let inputs: Vec<String> = (0..n).map(|_| operand(&mut b)).collect();
            let mut attrs: Vec<(&str, A)> = Vec::new();
            for _ in 0..b.r(0, 5) {
                let value = b.pick(NUMBERS);
                let (name, list) = (b.pick(INTS), b.pick(LISTS));
                attrs.push((name, A::I(value)));
                let length = b.r(0, 6);
                let values = (0..length).map(|_| if b.coin() { 1 } else { b.pick(NUMBERS) }).collect();
                attrs.push((list, A::L(values)));
            }
            let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
            let outputs = b.r(1, 4);
            let out = b.op_n(op, &inputs, &attrs, outputs);
            // Somebody reads it, with a layer.
            let w = b.w(&[2, 3]);
            let y = b.op("MatMul", &[&out[0], &w], &[]);
            b.g.output.push(info(&y, DataType::Float, &[-1]));
            let model = b.model();
            let Ok(graph) = Graph::new(&model) else { continue };
            let Ok(t) = prune::analyse(&graph) else { continue };
            let removed = vec![Vec::new(); t.trace.channels.axes.len()];
            // An error is fine; nothing else is asked.
            let _ = rewrite::rewrite(&t.analysis, &t.trace, &removed);
            let _ = rewrite::mask(&t.analysis, &t.trace, &removed);
        }
    }
}
