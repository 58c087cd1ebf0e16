//! Operators with inputs and attributes that make no sense: a refusal, never a panic or a hang.

use crate::Gen;
use crate::common::build::info;
use crate::common::check::prune_at_random;
use crate::common::{A, Build};
use onnx_prune::onnx::proto::tensor_proto::DataType;
use onnx_prune::onnx::tensor;
use rayon::prelude::*;

const SIZES: [i64; 10] = [1, 2, 2, 3, 4, 4, 6, 12, 1 << 31, 1 << 40];
const NUMBERS: [i64; 14] = [0, 1, 1, 2, 2, 3, 4, -1, -2, 100, 1 << 31, (1 << 62) - 1, i64::MAX, i64::MIN];
const EQUATIONS: [&str; 8] = ["ij,jk->ik", "...i,i->...", "ii->i", "i,j", "a,b,c->", "->", "...", "i...j,j->i...,"];

/// Integer attributes, by what they are called.
const INTS: [&str; 26] = [
    "axis",
    "group",
    "hidden_size",
    "layout",
    "num_heads",
    "q_num_heads",
    "kv_num_heads",
    "batch_dims",
    "k",
    "offset_group",
    "time_axis",
    "batch_axis",
    "keepdims",
    "output_height",
    "output_width",
    "sample_size",
    "blocksize",
    "onesided",
    "inverse",
    "num_outputs",
    "block_size",
    "start",
    "end",
    "upper",
    "linear_before_reset",
    "to",
];
const LISTS: [&str; 12] = [
    "axes",
    "perm",
    "pads",
    "kernel_shape",
    "strides",
    "dilations",
    "output_shape",
    "output_padding",
    "split",
    "pooled_shape",
    "shape",
    "starts",
];

fn input(b: &mut Build) -> String {
    match b.r(0, 5) {
        0 => String::new(),
        1 => {
            let v: Vec<i64> = (0..b.r(0, 4)).map(|_| b.pick(&NUMBERS)).collect();
            b.init(tensor::from_i64("", &[v.len()], &v))
        }
        2 => {
            let v = b.pick(&NUMBERS);
            b.int(v)
        }
        3 => {
            let dims: Vec<usize> = (0..b.r(0, 4)).map(|_| b.r(0, 4)).collect();
            let n = dims.iter().product();
            let v = b.floats(n, 1);
            b.f(&dims, &v)
        }
        _ => {
            let dims: Vec<i64> = (0..b.r(0, 5)).map(|_| b.pick(&SIZES)).collect();
            b.input_of(DataType::Float, &dims)
        }
    }
}

/// A node with random inputs and attributes.
fn nonsense(b: &mut Build, op: &str) {
    b.opset = b.pick(&[7, 11, 13, 18, 20, 24]);
    let mut inputs: Vec<String> = (0..b.r(0, 6)).map(|_| input(b)).collect();
    if b.coin() {
        // Something that could lose channels.
        let rank = b.r(2, 4);
        let x = b.channels(&[&[2, 4], &[3, 4][..rank - 2]].concat(), 1);
        inputs.insert(0, x);
    }
    if b.one_in(4)
        && let Some(x) = inputs.first().cloned()
    {
        inputs.extend([x.clone(), x]);
    }
    let mut attrs: Vec<(&str, A)> = vec![("equation", A::S(b.pick(&EQUATIONS)))];
    for name in INTS {
        if b.one_in(4) {
            attrs.push((name, A::I(b.pick(&NUMBERS))));
        }
    }
    for name in LISTS {
        if b.one_in(4) {
            let v = (0..b.r(0, 5)).map(|_| b.pick(&NUMBERS)).collect();
            attrs.push((name, A::L(v)));
        }
    }
    attrs.push(("direction", A::S(b.pick(&["forward", "bidirectional", "up"]))));
    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    let outputs = b.r(1, 4);
    let y = b.op_n(op, &inputs, &attrs, outputs);
    b.op_n("Relu", &[&y[0]], &[], 1);
}

/// A sound model whose node of interest, or an input of the graph, is spoilt.
fn spoilt(b: &mut Build, op: &str, case: Gen) {
    case(b, op);
    // Cases of other domains are named `domain:Op`.
    let kind = op.rsplit(':').next().unwrap_or(op);
    for _ in 0..b.r(1, 2) {
        let at: Vec<usize> = (0..b.g.node.len()).filter(|&i| b.g.node[i].op_type() == kind).collect();
        let at = b.pick(&at);
        let (number, size, other) = (b.pick(&NUMBERS), b.pick(&SIZES), b.pick(&b.g.node.clone()).output[0].clone());
        let (kind, which) = (b.r(0, 4), b.r(0, 9));
        let node = &mut b.g.node[at];
        let (inputs, attributes) = (node.input.len().max(1), node.attribute.len().max(1));
        match kind {
            0 => {
                if let Some(i) = node.input.get_mut(which % inputs) {
                    *i = if which % 2 == 0 { String::new() } else { other };
                }
            }
            1 => node.input.truncate(which % inputs),
            2 | 3 => {
                if let Some(a) = node.attribute.get_mut(which % attributes) {
                    match a.ints.len() {
                        0 => a.i = Some(number),
                        n if which == 9 => a.ints.truncate(n - 1),
                        n => a.ints[which % n] = number,
                    }
                }
            }
            _ => {
                let i = which % b.g.input.len().max(1);
                if let Some(name) = b.g.input.get(i).map(|v| v.name().to_owned()) {
                    let dims: Vec<i64> = (0..b.r(0, 5)).map(|_| size).collect();
                    b.g.input[i] = info(&name, DataType::Float, &dims);
                }
            }
        }
    }
}

/// Builds and prunes many models; only a panic is a failure.
fn survives(names: &[(&str, Gen)], draws: u64, build: impl Fn(&mut Build, &str, Gen) + Sync) {
    names.par_iter().for_each(|&(op, case)| {
        for seed in 0..draws {
            let mut b = Build::new(seed);
            build(&mut b, op, case);
            let model = b.model();
            if let Err(panic) =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| prune_at_random(&model, seed).err()))
            {
                let what = panic.downcast_ref::<String>().cloned();
                panic!("{op}, seed {seed}: {what:?}");
            }
        }
    });
}

#[test]
fn nonsense_is_refused() {
    survives(&crate::cases(), if cfg!(debug_assertions) { 60 } else { 150 }, |b, op, _| nonsense(b, op));
}

#[test]
fn what_is_spoilt_is_refused() {
    survives(&crate::cases(), if cfg!(debug_assertions) { 40 } else { 150 }, spoilt);
}
