//! Operators of `com.microsoft`. The embedded runtime has none of them.

use crate::Expect::{self, Carries, Pins};
use crate::Gen;
use crate::common::{A, Build};
use crate::layers::window;
use onnx_prune::onnx::proto::tensor_proto::DataType;

/// Operators and their generators.
pub const CASES: &[(&[&str], Gen)] = &[
    (&["com.microsoft:FusedConv"], fused_conv),
    (&["com.microsoft:FusedGemm"], fused_gemm),
    (&["com.microsoft:FusedMatMul", "com.microsoft:TransposeMatMul"], fused_matmul),
    (&["com.microsoft:Gelu", "com.microsoft:QuickGelu"], unary),
    (&["com.microsoft:BiasGelu", "com.microsoft:FastGelu"], bias_gelu),
    (&["com.microsoft:BiasSoftmax"], bias_softmax),
    (
        &[
            "SimplifiedLayerNormalization",
            "com.microsoft:LayerNormalization",
            "com.microsoft:SimplifiedLayerNormalization",
        ],
        layer_norm,
    ),
    (&["com.microsoft:SkipLayerNormalization", "com.microsoft:SkipSimplifiedLayerNormalization"], skip_layer_norm),
    (&["com.microsoft:EmbedLayerNormalization"], embed_layer_norm),
    (&["com.microsoft:MatMulNBits"], blocked_matmul),
    (
        &[
            "com.microsoft.nchwc:Conv",
            "com.microsoft.nchwc:MaxPool",
            "com.microsoft.nchwc:AveragePool",
            "com.microsoft.nchwc:GlobalMaxPool",
            "com.microsoft.nchwc:GlobalAveragePool",
            "com.microsoft.nchwc:Upsample",
            "com.microsoft.nchwc:ReorderInput",
            "com.microsoft.nchwc:ReorderOutput",
        ],
        blocked_layout,
    ),
    (&["com.microsoft:Attention"], attention),
    (&["com.microsoft:MultiHeadAttention"], multi_head),
];

fn fused_conv(b: &mut Build, op: &str) -> Expect {
    let g = b.pick(&[1, 1, 2]);
    let c = g * b.r(2, 3);
    let (g, per) = if b.one_in(4) { (c, 1) } else { (g, c / g) };
    let m = if g == 1 { b.r(3, 6) } else { g * if per == 1 { 1 } else { 2 } };
    let x = b.channels(&[2, c, 4, 5], 1);
    let (kernel, mut attrs) = window(b, &[4, 5], 3, false);
    attrs.push(("group", A::I(g as i64)));
    let (w, v) = (b.w(&[m, per, kernel[0], kernel[1]]), b.w(&[m]));
    let act = b.pick(&["Relu", "LeakyRelu", "Tanh", "Sigmoid", "Clip", "HardSigmoid"]);
    attrs.push(("activation", A::S(act)));
    match act {
        "LeakyRelu" => attrs.push(("activation_params", A::Fs(vec![0.1]))),
        "Clip" => attrs.push(("activation_params", A::Fs(vec![-0.5, 0.5]))),
        "HardSigmoid" => attrs.push(("activation_params", A::Fs(vec![0.2, 0.5]))),
        _ => {}
    }
    let y = match b.r(0, 2) {
        0 => b.op(op, &[&x, &w], &attrs),
        1 => b.op(op, &[&x, &w, &v], &attrs),
        _ => {
            // The summand has the output's shape, which a convolution alone tells.
            let plain: Vec<_> = attrs.iter().filter(|a| !a.0.starts_with("activation")).cloned().collect();
            let z = b.op("Conv", &[&x, &w], &plain);
            let dims = b.shape(&z);
            let other = b.channels(&dims, 1);
            b.op(op, &[&x, &w, &v, &other], &attrs)
        }
    };
    b.sink(&y, 1);
    Carries
}

fn fused_gemm(b: &mut Build, op: &str) -> Expect {
    let (c, m) = (b.r(3, 6), b.r(3, 6));
    let x = b.channels(&[2, c], 1);
    let turned = b.coin();
    let (w, v) = (b.w(&if turned { [m, c] } else { [c, m] }), b.w(&[m]));
    let attrs = [("transB", A::I(i64::from(turned))), ("activation", A::S("Relu")), ("alpha", A::F(0.5))];
    let y = b.op(op, &[&x, &w, &v], &attrs);
    b.sink(&y, 1);
    Carries
}

fn fused_matmul(b: &mut Build, op: &str) -> Expect {
    let (c, m) = (b.r(3, 6), b.r(3, 6));
    let (left, right) = (b.coin(), b.coin());
    let x = if left { b.channels(&[2, c, 3], 1) } else { b.channels(&[2, 3, c], 2) };
    let w = b.w(&if right { [m, c] } else { [c, m] });
    let attrs = [("transA", A::I(left.into())), ("transB", A::I(right.into())), ("alpha", A::F(0.3))];
    let y = b.op(op, &[&x, &w], &attrs);
    b.sink(&y, 2);
    Carries
}

fn unary(b: &mut Build, op: &str) -> Expect {
    let c = b.r(3, 6);
    let x = b.channels(&[2, c, 3], 1);
    let y = b.op(op, &[&x], &[]);
    b.sink(&y, 1);
    Carries
}

fn bias_gelu(b: &mut Build, op: &str) -> Expect {
    let c = b.r(3, 6);
    let x = b.channels(&[2, 3, c], 2);
    let v = b.w(&[c]);
    let inputs: &[&str] = if op.ends_with("FastGelu") && b.coin() { &[&x] } else { &[&x, &v] };
    let y = b.op(op, inputs, &[]);
    b.sink(&y, 2);
    Carries
}

fn bias_softmax(b: &mut Build, op: &str) -> Expect {
    let c = b.r(3, 6);
    let carries = b.coin();
    let x = b.channels(&[2, c, 3, 4], if carries { 1 } else { 3 });
    let mask = if b.coin() { b.w(&[1, 1, 1, 4]) } else { b.w(&[1, c, 3, 4]) };
    let y = b.op(op, &[&x, &mask], &[("axis", A::I(3)), ("is_inner_broadcast", A::I(0))]);
    b.sink(&y, if carries { 1 } else { 3 });
    if carries { Carries } else { Pins }
}

fn layer_norm(b: &mut Build, op: &str) -> Expect {
    let c = b.r(3, 6);
    let carries = b.coin();
    let x = b.channels(&[2, 3, c], if carries { 1 } else { 2 });
    let (g, v) = (b.pos(&[c]), b.w(&[c]));
    let inputs: &[&str] = if op.contains("Simplified") { &[&x, &g] } else { &[&x, &g, &v] };
    let y = b.op(op, inputs, &[("axis", A::I(-1))]);
    b.sink(&y, if carries { 1 } else { 2 });
    if carries { Carries } else { Pins }
}

fn skip_layer_norm(b: &mut Build, op: &str) -> Expect {
    let c = b.r(3, 6);
    let carries = b.coin();
    let at = if carries { 1 } else { 2 };
    let (x, z) = (b.channels(&[2, 4, c], at), b.channels(&[2, 4, c], at));
    let (g, v, w) = (b.pos(&[c]), b.w(&[c]), b.w(&[c]));
    let inputs: &[&str] = match (op.contains("Simplified"), b.coin()) {
        (true, false) => &[&x, &z, &g],
        (true, true) => &[&x, &z, &g, &w],
        (false, false) => &[&x, &z, &g, &v],
        (false, true) => &[&x, &z, &g, &v, &w],
    };
    let y = b.op(op, inputs, &[]);
    b.sink(&y, at);
    if carries { Carries } else { Pins }
}

fn embed_layer_norm(b: &mut Build, op: &str) -> Expect {
    b.dynamic = false;
    let h = b.r(3, 6);
    let ids = b.input_of(DataType::Int32, &[2, 3]);
    let (words, places) = (b.w(&[5, h]), b.w(&[4, h]));
    let (g, v) = (b.pos(&[h]), b.w(&[h]));
    let y = b.op_n(op, &[&ids, "", &words, &places, "", &g, &v], &[], 2);
    b.sink(&y[0], 2);
    Pins
}

fn blocked_matmul(b: &mut Build, op: &str) -> Expect {
    let x = b.channels(&[2, 3, 32], 2);
    let w = b.raw(DataType::Uint8, &[4, 1, 16], (0..64).collect());
    let s = b.f(&[4], &[0.01, 0.02, 0.03, 0.04]);
    let attrs = [("K", A::I(32)), ("N", A::I(4)), ("bits", A::I(4)), ("block_size", A::I(32))];
    let y = b.op(op, &[&x, &w, &s], &attrs);
    b.sink(&y, 2);
    Pins
}

fn blocked_layout(b: &mut Build, op: &str) -> Expect {
    let x = b.channels(&[2, 16, 4, 4], 1);
    let w = b.w(&[16, 16, 1, 1]);
    let inputs: &[&str] = if op.ends_with("nchwc:Conv") { &[&x, &w] } else { &[&x] };
    let y = b.op(op, inputs, &[]);
    b.g.output.push(crate::common::build::info(&y, DataType::Float, &[-1, -1, -1, -1]));
    Pins
}

/// Sizes of an attention: heads, and the widths of a head's queries and values.
fn sizes(b: &mut Build) -> [usize; 3] {
    let d = b.r(1, 3);
    [b.r(2, 4), d, if b.coin() { d } else { b.r(1, 3) }]
}

fn attention(b: &mut Build, op: &str) -> Expect {
    let [n, d, e] = sizes(b);
    let c = b.r(3, 6);
    let x = b.channels(&[2, 4, c], 2);
    let all = n * (2 * d + e);
    let (w, v) = (b.w(&[c, all]), b.w(&[all]));
    let mut attrs = vec![("num_heads", A::I(n as i64))];
    if d != e {
        attrs.push(("qkv_hidden_sizes", A::list(&[n * d, n * d, n * e])));
    }
    let mask = if b.coin() { b.w(&[2, n, 4, 4]) } else { b.w(&[1, 1, 4, 4]) };
    let inputs: &[&str] = if b.coin() { &[&x, &w, &v] } else { &[&x, &w, &v, "", "", &mask] };
    let y = b.op(op, inputs, &attrs);
    b.sink(&y, 2);
    Carries
}

fn multi_head(b: &mut Build, op: &str) -> Expect {
    let [n, d, e] = sizes(b);
    let [q, k, v] = [d, d, e].map(|w| b.channels(&[2, 4, n * w], 2));
    let bias = b.w(&[n * (2 * d + e)]);
    let mask = if b.coin() { b.w(&[2, n, 4, 4]) } else { b.w(&[1, 1, 4, 4]) };
    let inputs: &[&str] = match b.r(0, 2) {
        0 => &[&q, &k, &v],
        1 => &[&q, &k, &v, &bias],
        _ => &[&q, &k, &v, "", "", &mask],
    };
    let y = b.op(op, inputs, &[("num_heads", A::I(n as i64))]);
    b.sink(&y, 2);
    Carries
}
