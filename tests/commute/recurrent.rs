//! LSTM, GRU, RNN.

use crate::Expect::{self, Carries};
use crate::Gen;
use crate::common::{A, Build};
use crate::must_not::held;
use onnx_prune::onnx::proto::tensor_proto::DataType;
use onnx_prune::onnx::tensor;

/// Operators and their generators.
pub const CASES: &[(&[&str], Gen)] = &[(&["LSTM", "GRU", "RNN"], recurrent)];

fn gates(op: &str) -> usize {
    match op {
        "LSTM" => 4,
        "GRU" => 3,
        _ => 1,
    }
}

/// Sizes of one layer.
struct Layer {
    steps: usize,
    batch: usize,
    input: usize,
    hidden: usize,
    directions: usize,
    /// The batch comes first.
    batch_first: bool,
}

impl Layer {
    fn state(&self) -> [usize; 3] {
        let (d, n) = (self.directions, self.batch);
        if self.batch_first { [n, d, self.hidden] } else { [d, n, self.hidden] }
    }
}

/// A state: a constant, or filled to the size of the batch, as exporters write it.
fn state(b: &mut Build, x: &str, l: &Layer) -> String {
    if !b.dynamic && b.coin() {
        return b.w(&l.state());
    }
    let s = b.op("Shape", &[x], &[]);
    let at = b.ints(&[if l.batch_first { 0 } else { 1 }]);
    let n = b.op("Gather", &[&s, &at], &[]);
    let (d, h) = (b.sizes(&[l.directions]), b.sizes(&[l.hidden]));
    let parts: [&str; 3] = if l.batch_first { [&n, &d, &h] } else { [&d, &n, &h] };
    let to = b.op("Concat", &parts, &[("axis", A::I(0))]);
    b.op("ConstantOfShape", &[&to], &[("value", A::T(tensor::from_f32("", &[1], &[0.3])))])
}

/// A layer on `x`; its outputs `Y`, `Y_h` and perhaps `Y_c`.
fn layer(b: &mut Build, op: &str, x: &str, l: &Layer) -> Vec<String> {
    let (d, h, rows) = (l.directions, l.hidden, gates(op) * l.hidden);
    let mut attrs = vec![("hidden_size", A::I(h as i64))];
    attrs.push(("direction", A::S(if d == 2 { "bidirectional" } else { b.pick(&["forward", "forward", "reverse"]) })));
    if l.batch_first {
        attrs.push(("layout", A::I(1)));
    }
    if b.one_in(4) {
        attrs.push(("clip", A::F(2.0)));
    }
    if op == "GRU" && b.coin() {
        attrs.push(("linear_before_reset", A::I(1)));
    }
    if op == "LSTM" && b.one_in(4) {
        attrs.push(("input_forget", A::I(1)));
    }
    let (w, r) = (b.w(&[d, rows, l.input]), b.w(&[d, rows, h]));
    let mut inputs = vec![x.to_owned(), w, r];
    if b.coin() {
        inputs.push(b.w(&[d, 2 * rows]));
    }
    if b.coin() {
        inputs.resize(4, String::new());
        let lengths: Vec<u8> = (0..l.batch).flat_map(|i| [(l.steps - i.min(1)) as u8, 0, 0, 0]).collect();
        let given = !b.dynamic && b.one_in(3);
        inputs.push(if given { b.raw(DataType::Int32, &[l.batch], lengths) } else { String::new() });
        inputs.push(state(b, x, l));
        if op == "LSTM" && b.coin() {
            inputs.push(state(b, x, l));
        }
    }
    if op == "LSTM" && b.one_in(3) {
        inputs.resize(7, String::new());
        inputs.push(b.w(&[d, 3 * h]));
    }
    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    b.op_n(op, &inputs, &attrs, if op == "LSTM" { 3 } else { 2 })
}

fn recurrent(b: &mut Build, op: &str) -> Expect {
    b.opset = b.pick(&[9, 14, 14]);
    let mut l = Layer {
        steps: 3,
        batch: 2,
        input: b.r(3, 5),
        hidden: b.r(3, 5),
        directions: b.r(1, 2),
        batch_first: b.opset >= 14 && b.one_in(4),
    };
    let dims = if l.batch_first { [2, 3, l.input] } else { [3, 2, l.input] };
    let x = b.channels(&dims, 2);
    let y = layer(b, op, &x, &l);
    match b.r(0, 3) {
        // The usual chain: both directions side by side, then another layer.
        0 | 1 if !l.batch_first => {
            let z = b.op("Transpose", &[&y[0]], &[("perm", A::L(vec![0, 2, 1, 3]))]);
            let to = b.ints(&[0, 0, -1]);
            let z = b.op("Reshape", &[&z, &to], &[]);
            l.input = l.directions * l.hidden;
            (l.hidden, l.directions) = (b.r(2, 4), 1);
            let z = layer(b, op, &z, &l);
            b.sink(&z[1], 2);
        }
        2 => b.sink(y.last().unwrap_or(&y[0]), 2),
        _ => {
            b.sink(&y[0], 3);
            b.sink(&y[1], 2);
        }
    }
    Carries
}

#[test]
fn states_from_outside() {
    held("initial state", "graph input", "graph input", |b| {
        (b.opset, b.dynamic) = (14, false);
        let x = b.input(&[3, 2, 4]);
        let (w, r) = (b.w(&[1, 15, 4]), b.w(&[1, 15, 5]));
        let h = b.input(&[1, 2, 5]);
        let y = b.op_n("GRU", &[&x, &w, &r, "", "", &h], &[("hidden_size", A::I(5))], 2);
        b.sink(&y[1], 2);
    });
}

#[test]
fn weights_from_outside() {
    held("input weight", "RNN", "computed from the input", |b| {
        (b.opset, b.dynamic) = (14, false);
        let x = b.channels(&[3, 2, 4], 2);
        let w = b.channels(&[1, 5, 4], 2);
        let r = b.w(&[1, 5, 5]);
        let y = b.op_n("RNN", &[&x, &w, &r], &[("hidden_size", A::I(5))], 2);
        b.sink(&y[1], 2);
    });
}

#[test]
fn multiply_accumulates_of_a_layer() {
    // steps · directions · gates · hidden · (input + hidden), for one sample of a dynamic batch.
    let (steps, input, hidden) = (3, 4, 5);
    for (op, directions, batch_first) in [("LSTM", 2, false), ("GRU", 1, false), ("RNN", 2, true)] {
        let mut b = Build::new(0);
        b.opset = 14;
        let dims: [i64; 3] = if batch_first { [-1, 3, 4] } else { [3, -1, 4] };
        let x = b.input_of(DataType::Float, &dims);
        let l = Layer { steps, batch: 2, input, hidden, directions, batch_first };
        b.dynamic = true;
        let y = layer(&mut b, op, &x, &l);
        b.g.output.push(crate::common::build::info(&y[0], DataType::Float, &[-1; 4]));
        let model = b.model();
        let graph = onnx_prune::graph::Graph::new(&model).unwrap();
        let t = onnx_prune::prune::analyse(&graph).unwrap();
        let want = steps * directions * gates(op) * hidden * (input + hidden);
        assert_eq!(onnx_prune::plan::macs(&t.trace.channels, &[]), want as f64, "{op}");
    }
}
