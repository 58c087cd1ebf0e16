//! Attention in one node, and deformable convolution.

use crate::Expect::{self, Carries, Pins};
use crate::Gen;
use crate::common::{A, Build};
use onnx_prune::onnx::tensor;

/// Operators and their generators.
pub const CASES: &[(&[&str], Gen)] =
    &[(&["Attention"], attention), (&["RotaryEmbedding"], rotary), (&["DeformConv"], deform_conv)];

/// Queries, keys or values with channels on the last axis, from one layer each.
fn operand(b: &mut Build, heads: usize, positions: usize, size: usize, merged: bool, ch: usize) -> String {
    if merged { b.channels(&[2, positions, heads * size], 2) } else { b.channels(&[2, heads, positions, size], ch) }
}

fn attention(b: &mut Build, op: &str) -> Expect {
    b.opset = b.pick(&[23, 24]);
    b.dynamic = false;
    let (kv, share) = (b.r(1, 4), b.pick(&[1, 1, 2, 3]));
    let (heads, size, value, s, t) = (kv * share, 2 * b.r(1, 2), b.r(2, 4), b.r(2, 3), b.r(2, 4));
    let merged = b.coin();
    // Which axis of the operands of rank 4 holds channels.
    let by_head = b.coin();
    let ch = if by_head { 1 } else { 3 };
    // Queries from outside hold all heads: the channels of the values are left.
    let whole = merged && b.one_in(3);
    let q = if whole { b.input(&[2, s, heads * size]) } else { operand(b, heads, s, size, merged, ch) };
    let k = if by_head || merged { operand(b, kv, t, size, merged, ch) } else { b.input(&[2, kv, t, size]) };
    let v = operand(b, kv, t, value, merged, ch);
    let mut attrs = vec![];
    if merged {
        attrs.push(("q_num_heads", A::I(heads as i64)));
        attrs.push(("kv_num_heads", A::I(kv as i64)));
    }
    if b.one_in(3) {
        attrs.push(("is_causal", A::I(1)));
    }
    if b.one_in(3) {
        attrs.push(("scale", A::F(0.4)));
    }
    if b.one_in(3) {
        attrs.push(("softcap", A::F(2.0)));
    }
    let past = b.one_in(3);
    let total = if past { t + 2 } else { t };
    let mask = match b.r(0, 4) {
        0 => b.w(&[s, total]),
        1 => b.w(&[heads, s, total]),
        2 => b.w(&[2, 1, s, total]),
        3 => b.w(&[1, heads, s, total]),
        _ => String::new(),
    };
    let mut inputs = vec![q, k, v, mask];
    let outputs = if past {
        inputs.push(b.w(&[2, kv, 2, size]));
        inputs.push(b.w(&[2, kv, 2, value]));
        3
    } else {
        1
    };
    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    let y = b.op_n(op, &inputs, &attrs, outputs);
    b.sink(&y[0], if merged { 2 } else { ch });
    if past && b.coin() {
        // The cache goes out: heads and channels of the values stay.
        b.output(&y[2]);
        return Pins;
    }
    Carries
}

fn rotary(b: &mut Build, op: &str) -> Expect {
    b.opset = 23;
    b.dynamic = false;
    let (heads, half, s) = (b.r(2, 4), b.r(1, 2), b.r(2, 3));
    let size = 2 * half;
    let merged = b.coin();
    let on_size = !merged && b.one_in(3);
    let x = if merged {
        b.channels(&[2, s, heads * size], 2)
    } else {
        b.channels(&[2, heads, s, size], if on_size { 3 } else { 1 })
    };
    let positions = b.coin();
    let dims: &[usize] = if positions { &[6, half] } else { &[2, s, half] };
    let (cos, sin) = (b.w(dims), b.w(dims));
    let mut inputs = vec![x, cos, sin];
    if positions {
        let ids: Vec<i64> = (0..2 * s).map(|_| b.r(0, 5) as i64).collect();
        inputs.push(b.init(tensor::from_i64("", &[2, s], &ids)));
    }
    let mut attrs = vec![];
    if merged {
        attrs.push(("num_heads", A::I(heads as i64)));
    }
    if b.coin() {
        attrs.push(("interleaved", A::I(1)));
    }
    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    let y = b.op(op, &inputs, &attrs);
    b.sink(
        &y,
        if merged {
            2
        } else if on_size {
            3
        } else {
            1
        },
    );
    if on_size { Pins } else { Carries }
}

fn deform_conv(b: &mut Build, op: &str) -> Expect {
    b.opset = b.pick(&[19, 22]);
    b.dynamic = false;
    let space = [b.r(4, 5), b.r(4, 5)];
    let depthwise = b.one_in(3);
    let c = 2 * b.r(2, 3);
    let (g, per) = if depthwise { (c, 1) } else { (1, c) };
    let m = if depthwise { c * b.r(1, 2) } else { b.r(3, 6) };
    let parts = b.pick(&[1, 1, 2]);
    let kernel: Vec<usize> = (0..2).map(|_| b.r(1, 3)).collect();
    let mut attrs = vec![("kernel_shape", A::list(&kernel))];
    if b.coin() {
        let v: Vec<usize> = (0..4).map(|i| b.r(0, kernel[i % 2] - 1)).collect();
        attrs.push(("pads", A::list(&v)));
    }
    if b.coin() {
        attrs.push(("strides", A::L(vec![2, 1])));
    }
    if g > 1 {
        attrs.push(("group", A::I(g as i64)));
    }
    if parts > 1 {
        attrs.push(("offset_group", A::I(parts as i64)));
    }
    // The positions of the result are those of a convolution.
    let x = b.channels(&[2, c, space[0], space[1]], 1);
    let probe = {
        let (nodes, init) = (b.g.node.len(), b.g.initializer.len());
        let w = b.f(&[1, c, kernel[0], kernel[1]], &vec![0.0; c * kernel[0] * kernel[1]]);
        let plain: Vec<_> = attrs.iter().filter(|a| !a.0.contains("group")).cloned().collect();
        let y = b.op("Conv", &[&x, &w], &plain);
        let shape = b.shape(&y);
        b.g.node.truncate(nodes);
        b.g.initializer.truncate(init);
        shape
    };
    let taps = kernel[0] * kernel[1];
    let offset = b.w(&[2, parts * 2 * taps, probe[2], probe[3]]);
    let (w, bias) = (b.w(&[m, per, kernel[0], kernel[1]]), b.w(&[m]));
    let mut inputs = vec![x, w, offset];
    inputs.push(if b.coin() { bias } else { String::new() });
    if b.coin() {
        inputs.push(b.pos(&[2, parts * taps, probe[2], probe[3]]));
    }
    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    let y = b.op(op, &inputs, &attrs);
    b.sink(&y, 1);
    if parts > 1 && depthwise { Pins } else { Carries }
}

#[test]
fn parts_with_offsets_of_their_own() {
    crate::must_not::held("offset groups", "DeformConv", "offsets of their own", |b| {
        (b.opset, b.dynamic) = (19, false);
        let x = b.channels(&[2, 4, 3, 3], 1);
        let (w, offset) = (b.w(&[2, 4, 1, 1]), b.w(&[2, 4, 3, 3]));
        let y = b.op("DeformConv", &[&x, &w, &offset], &[("offset_group", A::I(2))]);
        b.output(&y);
    });
    crate::must_not::held("groups", "DeformConv", "groups", |b| {
        (b.opset, b.dynamic) = (19, false);
        let x = b.channels(&[2, 4, 3, 3], 1);
        let (w, offset) = (b.w(&[4, 2, 1, 1]), b.w(&[2, 2, 3, 3]));
        let y = b.op("DeformConv", &[&x, &w, &offset], &[("group", A::I(2))]);
        b.sink(&y, 1);
    });
}

#[test]
fn queries_and_keys_stay_whole() {
    crate::must_not::held("sizes of heads", "Attention", "multiplied and summed", |b| {
        (b.opset, b.dynamic) = (23, false);
        let (q, k) = (b.channels(&[2, 3, 2, 4], 3), b.channels(&[2, 3, 5, 4], 3));
        let v = b.input(&[2, 3, 5, 4]);
        let y = b.op("Attention", &[&q, &k, &v], &[]);
        b.output(&y);
    });
}
