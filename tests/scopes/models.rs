//! Networks with subgraphs and functions.

use crate::kit::{Net, With, info, op, weight};
use onnx_prune::onnx::proto::attribute_proto::AttributeType;
use onnx_prune::onnx::proto::type_proto::Value;
use onnx_prune::onnx::proto::{
    AttributeProto, FunctionProto, GraphProto, NodeProto, OperatorSetIdProto, TensorProto, ValueInfoProto,
};
use onnx_prune::onnx::{Model, tensor};

pub const BOOL: i32 = 9;
pub const INT: i32 = 7;

pub trait WithGraph {
    /// A subgraph.
    fn graph(self, name: &str, g: GraphProto) -> Self;
    /// An attribute that refers to one of the call.
    fn refer(self, name: &str, to: &str, kind: AttributeType) -> Self;
}

impl WithGraph for NodeProto {
    fn graph(self, name: &str, g: GraphProto) -> Self {
        self.attr(AttributeProto { g: Some(g), ..Default::default() }, name, AttributeType::Graph)
    }

    fn refer(self, name: &str, to: &str, kind: AttributeType) -> Self {
        self.attr(AttributeProto { ref_attr_name: Some(to.into()), ..Default::default() }, name, kind)
    }
}

pub fn body(
    node: Vec<NodeProto>,
    initializer: Vec<TensorProto>,
    input: Vec<ValueInfoProto>,
    output: Vec<ValueInfoProto>,
) -> GraphProto {
    GraphProto { name: Some("body".into()), node, initializer, input, output, ..Default::default() }
}

pub fn flag(name: &str, value: bool) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        data_type: Some(BOOL),
        raw_data: Some(vec![u8::from(value)].into()),
        ..Default::default()
    }
}

/// A function of the domain `net`.
pub fn function(name: &str, inputs: &str, outputs: &str, node: Vec<NodeProto>) -> FunctionProto {
    let words = |s: &str| s.split_whitespace().map(str::to_owned).collect();
    let set = |d: &str, v| OperatorSetIdProto { domain: Some(d.into()), version: Some(v) };
    FunctionProto {
        name: Some(name.into()),
        domain: Some("net".into()),
        input: words(inputs),
        output: words(outputs),
        node,
        opset_import: vec![set("", 18), set("net", 1)],
        ..Default::default()
    }
}

/// A call of a function of the domain `net`.
pub fn call(function: &str, name: &str, inputs: &str, outputs: &str) -> NodeProto {
    NodeProto { domain: Some("net".into()), ..op(function, name, inputs, outputs) }
}

pub fn with_functions(mut net: Net, functions: Vec<FunctionProto>) -> Model {
    net.0.opset_import.push(OperatorSetIdProto { domain: Some("net".into()), version: Some(1) });
    net.0.functions = functions;
    net.model()
}

pub fn constant(t: TensorProto, output: &str) -> NodeProto {
    op("Constant", "", "", output).tensor("value", TensorProto { name: None, ..t })
}

/// A convolution of 8 to 8 channels through `middle`, in the names of an exporter that restarts them in every branch.
fn branch(middle: usize, k: usize, from: &str) -> GraphProto {
    let pads = [(k / 2) as i64; 4];
    let mut g = body(
        vec![
            op("Conv", "/c1", &format!("{from} w1 b1"), "t1").ints("pads", &pads),
            op("Relu", "", "t1", "t2"),
            op("Conv", "/c2", "t2 w2", "out").ints("pads", &pads),
        ],
        vec![
            TensorProto { name: Some("w1".into()), ..weight(&format!("{middle}w1"), &[middle, 8, k, k]) },
            TensorProto { name: Some("b1".into()), ..weight(&format!("{middle}b1"), &[middle]) },
            TensorProto { name: Some("w2".into()), ..weight(&format!("{middle}w2"), &[8, middle, k, k]) },
        ],
        vec![],
        vec![info("out", "1 8 6 6", 1)],
    );
    g.value_info = vec![info("t1", &format!("1 {middle} 6 6"), 1), info("t2", &format!("1 {middle} H W"), 1)];
    g
}

fn ends(net: Net) -> Net {
    net.input("x", "1 3 6 6")
        .conv("first", "x", [8, 3, 3], 1)
        .relu("r", "first.y")
        // What is pinned by the subgraph is not what makes the rest of the network interesting.
        .conv("mid", "r.y", [8, 8, 1], 0)
}

/// Both branches have weights of their own, under the same names.
pub fn if_own(then: bool) -> Model {
    ends(Net::new(8, 18))
        .constant(flag("flag", then))
        .add(
            op("If", "choose", "flag", "chosen")
                .graph("then_branch", branch(12, 3, "mid.y"))
                .graph("else_branch", branch(10, 1, "mid.y")),
        )
        .conv("last", "chosen", [6, 8, 1], 0)
        .relu("end", "last.y")
        .conv("fc", "end.y", [2, 6, 1], 0)
        .output("fc.y", "1 2 6 6")
        .model()
}

/// The weights of the branches are in the main graph; one is read by both branches, for different purposes.
pub fn if_captured(then: bool) -> Model {
    let side = |tail: &str| {
        body(
            vec![
                op("Conv", "c1", &format!("mid.y w.{tail} shared"), "t1"),
                op("HardSwish", "act", "t1", "t2"),
                op("Conv", "c2", &format!("t2 v.{tail}"), "t3"),
                op("Add", "sum", "t3 mid.y", &format!("out.{tail}")),
            ],
            vec![],
            vec![],
            vec![info(&format!("out.{tail}"), "1 8 6 6", 1)],
        )
    };
    ends(Net::new(8, 18))
        .constant(flag("flag", then))
        .w("w.a", &[12, 8, 1, 1])
        .w("w.b", &[12, 8, 1, 1])
        .w("v.a", &[8, 12, 1, 1])
        .w("v.b", &[8, 12, 1, 1])
        .w("shared", &[12])
        .add(op("If", "", "flag", "y").graph("then_branch", side("a")).graph("else_branch", side("b")))
        .output("y", "1 8 6 6")
        .model()
}

/// A loop that carries `x` and collects what it computes.
pub fn looped() -> Model {
    let g = body(
        vec![
            op("Identity", "go", "cond", "cond.out"),
            op("Conv", "c1", "x.in w1", "t1").ints("pads", &[1; 4]),
            op("Relu", "act", "t1", "t2"),
            op("Conv", "c2", "t2 w2", "t3"),
            op("Add", "sum", "t3 x.in", "x.out"),
            op("Conv", "c3", "t2 probe", "t4"),
            op("Relu", "act3", "t4", "t5"),
            op("Conv", "c4", "t5 w4", "scanned"),
        ],
        vec![weight("w1", &[12, 8, 3, 3]), weight("w2", &[8, 12, 1, 1]), weight("w4", &[2, 6, 1, 1])],
        vec![info("i", "", INT), info("cond", "", BOOL), info("x.in", "1 8 6 6", 1)],
        vec![info("cond.out", "", BOOL), info("x.out", "1 8 6 6", 1), info("scanned", "1 2 6 6", 1)],
    );
    ends(Net::new(8, 18))
        .w("probe", &[6, 12, 1, 1])
        .constant(tensor::from_i64("turns", &[], &[3]))
        .constant(flag("flag", true))
        .add(op("Loop", "loop", "turns flag mid.y", "x.end all").graph("body", g))
        .conv("a", "x.end", [6, 8, 1], 0)
        .relu("ra", "a.y")
        .conv("b", "ra.y", [2, 6, 1], 0)
        .output("b.y", "1 2 6 6")
        .output("all", "3 1 2 6 6")
        .model()
}

/// A recurrent cell written as a Scan, with a channel shuffle in it, so that a rewrite inserts nodes.
pub fn scanned() -> Model {
    let g = body(
        vec![
            op("Gemm", "in", "x.t w1 b1", "t1"),
            op("Gemm", "back", "h w2", "t2"),
            op("Add", "sum", "t1 t2", "t3"),
            op("Reshape", "split", "t3 to.split", "s1"),
            op("Transpose", "swap", "s1", "s2").ints("perm", &[0, 2, 1]),
            op("Reshape", "merge", "s2 to.merge", "s3"),
            op("Tanh", "act", "s3", "t4"),
            op("Gemm", "out", "t4 w3", "h.out"),
            op("Identity", "keep", "h.out", "y.t"),
        ],
        vec![
            weight("w1", &[5, 16]),
            weight("b1", &[16]),
            weight("w2", &[4, 16]),
            weight("w3", &[16, 4]),
            tensor::from_i64("to.split", &[3], &[2, 4, 4]),
            tensor::from_i64("to.merge", &[2], &[2, 16]),
        ],
        vec![info("h", "2 4", 1), info("x.t", "2 5", 1)],
        vec![info("h.out", "2 4", 1), info("y.t", "2 4", 1)],
    );
    Net::new(8, 18)
        .input("x", "3 2 5")
        .constant(tensor::from_f32("h0", &[2, 4], &[0.0; 8]))
        .add(op("Scan", "scan", "h0 x", "h.end all").graph("body", g).int("num_scan_inputs", 1))
        .output("h.end", "2 4")
        .output("all", "3 2 4")
        .model()
}

/// The same block, called with weights as arguments, and one with its weights inside.
pub fn functions() -> Model {
    let block = function(
        "Block",
        "x w1 w2",
        "y",
        vec![
            op("Conv", "c1", "x w1", "t1").refer("pads", "pads", AttributeType::Ints),
            call("Act", "act", "t1", "t2").refer("alpha", "slope", AttributeType::Float),
            op("Conv", "c2", "t2 w2", "t3"),
            op("Add", "", "t3 x", "y"),
        ],
    );
    let act = FunctionProto {
        attribute: vec!["alpha".into()],
        ..function("Act", "x", "y", vec![op("LeakyRelu", "lr", "x", "y").refer("alpha", "alpha", AttributeType::Float)])
    };
    let slope = AttributeProto {
        name: Some("slope".into()),
        r#type: Some(AttributeType::Float as i32),
        f: Some(0.25),
        ..Default::default()
    };
    let block = FunctionProto { attribute: vec!["pads".into()], attribute_proto: vec![slope], ..block };
    let inside = function(
        "Inside",
        "x unused",
        "y",
        vec![
            constant(weight("i1", &[10, 8, 1, 1]), "w1"),
            constant(weight("i2", &[8, 10, 1, 1]), "w2"),
            op("Conv", "c1", "x w1", "t1"),
            op("Relu", "act", "t1", "t2"),
            op("Conv", "c2", "t2 w2", "y"),
        ],
    );
    let net = ends(Net::new(10, 18))
        .w("a1", &[12, 8, 3, 3])
        .w("a2", &[8, 12, 1, 1])
        .w("b1", &[12, 8, 1, 1])
        .w("b2", &[8, 12, 1, 1])
        .add(call("Block", "one", "mid.y a1 a2", "one.y").ints("pads", &[1; 4]))
        .add(call("Block", "two", "one.y b1 b2", "two.y").ints("pads", &[0; 4]).float("slope", 0.5))
        .add(call("Inside", "three", "two.y first.w", "three.y"))
        .add(call("Inside", "four", "three.y", "y"))
        .output("y", "1 8 6 6");
    with_functions(net, vec![block, act, inside])
}

/// A function whose If has an If, called twice.
pub fn nested() -> Model {
    let leaf = |k: &str| {
        body(
            vec![op("Conv", "c1", &format!("x {k}1"), "t"), op("Relu", "", "t", "u"), op("Conv", "c2", "u own", "out")],
            vec![weight("own", &[8, 9, 1, 1])],
            vec![],
            vec![info("out", "1 8 6 6", 1)],
        )
    };
    let middle = body(
        vec![op("If", "inner", "q", "out").graph("then_branch", leaf("w")).graph("else_branch", leaf("v"))],
        vec![],
        vec![],
        vec![info("out", "1 8 6 6", 1)],
    );
    let other = body(
        vec![op("Conv", "c3", "x w1", "t"), op("Conv", "c4", "t own", "out")],
        vec![weight("own", &[8, 9, 1, 1])],
        vec![],
        vec![info("out", "1 8 6 6", 1)],
    );
    let f = function(
        "Choose",
        "x p q w1 v1",
        "y",
        vec![op("If", "outer", "p", "y").graph("then_branch", middle).graph("else_branch", other)],
    );
    let net = ends(Net::new(10, 18))
        .constant(flag("yes", true))
        .constant(flag("no", false))
        .w("a", &[9, 8, 1, 1])
        .w("b", &[9, 8, 1, 1])
        .w("c", &[9, 8, 1, 1])
        .add(call("Choose", "one", "mid.y yes no a b", "one.y"))
        .add(call("Choose", "two", "one.y no no c c", "y"))
        .output("y", "1 8 6 6");
    with_functions(net, vec![f])
}

/// Calls that share a bias for different purposes: each gets its own in the end.
pub fn shared() -> Model {
    let g = body(
        vec![call("Block", "inner", "one.y c1 bias c2", "out")],
        vec![weight("c1", &[12, 8, 1, 1])],
        vec![],
        vec![info("out", "1 8 6 6", 1)],
    );
    let pass = body(vec![op("Neg", "", "one.y", "out")], vec![], vec![], vec![info("out", "1 8 6 6", 1)]);
    let side = vec![op("Conv", "c1", "x w1 b1", "t1"), op("Relu", "act", "t1", "t2"), op("Conv", "c2", "t2 w2", "y")];
    let outer = function("Outer", "x w1 b1 w2", "y", vec![call("Block", "block", "x w1 b1 w2", "y")]);
    let net = ends(Net::new(10, 18))
        .w("a1", &[12, 8, 1, 1])
        .w("a2", &[8, 12, 1, 1])
        .w("c2", &[8, 12, 1, 1])
        .w("bias", &[12])
        .constant(flag("flag", true))
        .add(call("Outer", "one", "mid.y a1 bias a2", "one.y"))
        .add(op("If", "if", "flag", "y").graph("then_branch", g).graph("else_branch", pass))
        .output("y", "1 8 6 6");
    with_functions(net, vec![function("Block", "x w1 b1 w2", "y", side), outer])
}

/// A batch normalization tells what the removed channels come to: the next layer gets a bias, in a call and in a body.
pub fn normed() -> Model {
    let layers = |x: &str, bn: &str, y: &str| {
        vec![
            op("Conv", "c1", &format!("{x} w1"), "t1"),
            op("BatchNormalization", "bn", &format!("t1 {bn}"), "t2").float("epsilon", 1e-5),
            op("Relu", "act", "t2", "t3"),
            op("Conv", "c2", "t3 w2", y),
        ]
    };
    let block = function("Block", "x w1 s b m v w2", "y", layers("x", "s b m v", "y"));
    let names = "n.scale n.shift n.mean n.var";
    let weights = vec![
        TensorProto { name: Some("w1".into()), ..weight("inner1", &[12, 8, 1, 1]) },
        TensorProto { name: Some("w2".into()), ..weight("inner2", &[8, 12, 1, 1]) },
    ];
    let out = || vec![info("out", "1 8 6 6", 1)];
    let then_branch = body(layers("one.y", names, "out"), weights, vec![], out());
    let else_branch = body(vec![op("Neg", "", "one.y", "out")], vec![], vec![], out());
    let net = ends(Net::new(10, 18))
        .bn_parameters("m", 12)
        .bn_parameters("n", 12)
        .w("a1", &[12, 8, 1, 1])
        .w("a2", &[8, 12, 1, 1])
        .constant(flag("flag", true))
        .add(call("Block", "one", "mid.y a1 m.scale m.shift m.mean m.var a2", "one.y"))
        .add(op("If", "if", "flag", "y").graph("then_branch", then_branch).graph("else_branch", else_branch))
        .output("y", "1 8 6 6");
    with_functions(net, vec![block])
}

/// As before IR version 4: every constant is an input as well.
pub fn old() -> Model {
    let mut model = if_captured(true);
    model.proto.ir_version = Some(3);
    model.proto.opset_import[0].version = Some(9);
    let g = model.proto.graph.as_mut().unwrap();
    for n in g.node.iter_mut().flat_map(|n| &mut n.attribute).filter_map(|a| a.g.as_mut()).flat_map(|g| &mut g.node) {
        if n.op_type() == "HardSwish" {
            n.op_type = Some("Relu".into());
        }
    }
    for t in &g.initializer {
        let dims: Vec<String> = t.dims.iter().map(ToString::to_string).collect();
        g.input.push(info(t.name(), &dims.join(" "), t.data_type()));
    }
    model
}

/// The model in half precision.
pub fn halved(mut model: Model) -> Model {
    const HALF: i32 = 10;
    onnx_prune::onnx::visit::tensors_mut(&mut model.proto, &mut |t| {
        if t.data_type() == 1 {
            let like = TensorProto { data_type: Some(HALF), name: t.name.clone(), ..Default::default() };
            *t = tensor::from_f64_like(&like, &tensor::dims(t)?, &tensor::to_f64(t)?)?;
        }
        Ok(())
    })
    .unwrap();
    fn declare(g: &mut GraphProto) {
        for v in g.input.iter_mut().chain(&mut g.output).chain(&mut g.value_info) {
            if let Some(Value::TensorType(t)) = v.r#type.as_mut().and_then(|t| t.value.as_mut())
                && t.elem_type == Some(1)
            {
                t.elem_type = Some(HALF);
            }
        }
        g.node.iter_mut().flat_map(|n| &mut n.attribute).filter_map(|a| a.g.as_mut()).for_each(declare);
    }
    declare(model.proto.graph.as_mut().unwrap());
    model
}

/// All of them.
pub fn all() -> Vec<(&'static str, Model)> {
    vec![
        ("if_own", if_own(true)),
        ("if_own_else", if_own(false)),
        ("if_captured", if_captured(true)),
        ("if_captured_else", if_captured(false)),
        ("looped", looped()),
        ("scanned", scanned()),
        ("functions", functions()),
        ("nested", nested()),
        ("normed", normed()),
        ("old", old()),
        ("shared", shared()),
    ]
}
