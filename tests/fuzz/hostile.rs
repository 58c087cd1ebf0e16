//! Sizes, depths and counts that no honest file has. Every one must come back soon, with an answer or a clear error.

use crate::build::{self, info, int, node, weight};
use onnx_prune::error::{Error, Result};
use onnx_prune::graph::Graph;
use onnx_prune::inspect::inspect;
use onnx_prune::onnx::proto::{ModelProto, StringStringEntryProto, TensorProto};
use onnx_prune::onnx::{self, Model, OnnxError, tensor};
use onnx_prune::prune::{self, Options, Pruned};
use prost::Message;
use std::time::{Duration, Instant};

/// What a debug build on a busy machine may take for any of these.
const LONG: Duration = Duration::from_secs(120);

fn pruned(proto: ModelProto) -> Result<Pruned> {
    let model = Model::from_proto(proto, "hostile.onnx");
    inspect([&model])?;
    prune::prune(&model, &Options::default(), &|_| ())
}

/// An answer, or an error that blames the file.
fn survives(name: &str, proto: ModelProto) {
    let start = Instant::now();
    match pruned(proto) {
        Ok(_) | Err(Error::Onnx(_) | Error::Usage(_) | Error::Graph { .. }) => {}
        Err(e) => panic!("{name}: {e}"),
    }
    assert!(start.elapsed() < LONG, "{name} took {:?}", start.elapsed());
}

fn graph(m: &mut ModelProto) -> &mut onnx::proto::GraphProto {
    m.graph.as_mut().expect("a graph")
}

#[test]
fn sizes_near_the_end_of_numbers() {
    for n in [
        i64::MAX,
        i64::MAX - 1,
        1 << 62,
        (1 << 62) + 1,
        1 << 53,
        1 << 40,
        (1 << 40) + 1,
        1 << 32,
        1 << 31,
        -1,
        i64::MIN,
    ] {
        for axis in 0..4 {
            let mut dims = [1, 3, 8, 8];
            dims[axis] = n;
            let mut m = build::plain();
            graph(&mut m).input = vec![info("x", &dims)];
            survives("an input", m);
            for which in 0..2 {
                let mut m = build::plain();
                graph(&mut m).initializer[which].dims[axis] = n;
                survives("a weight", m);
            }
            let mut m = build::plain();
            graph(&mut m).value_info.push(info("a.y", &dims));
            survives("a declared shape", m);
        }
        let middle = |op: &str| node(op, "m", &["a.y"], &["m.y"]);
        let list = |op: &str, name: &str, k: usize| build::ints(middle(op), name, &vec![n; k]);
        for (name, k) in [("kernel_shape", 2), ("strides", 2), ("pads", 4), ("dilations", 2)] {
            survives(name, build::between(vec![list("MaxPool", name, k)], vec![]));
            survives(name, build::between(vec![list("Conv", name, k)], vec![]));
        }
        for op in ["Softmax", "Flatten", "Concat", "Split", "Gather", "ArgMax", "LayerNormalization", "CumSum"] {
            survives(op, build::between(vec![int(middle(op), "axis", n)], vec![]));
        }
        for (op, name) in
            [("DepthToSpace", "blocksize"), ("SpaceToDepth", "blocksize"), ("Conv", "group"), ("LRN", "size")]
        {
            let mut node = int(middle(op), name, n);
            node.input.push("m.w".into());
            survives(name, build::between(vec![node], vec![weight("m.w", &[8, 8, 1, 1])]));
        }
        let by_input = [
            ("Reshape", 2),
            ("Reshape", 5),
            ("Expand", 4),
            ("Tile", 4),
            ("Pad", 8),
            ("Gather", 1),
            ("Unsqueeze", 1),
            ("Split", 1),
        ];
        for (op, k) in by_input {
            let mut node = middle(op);
            node.input.push("m.n".into());
            for position in 0..k {
                let mut values = vec![i64::from(op != "Pad"); k];
                values[position] = n;
                survives(op, build::between(vec![node.clone()], vec![tensor::from_i64("m.n", &[k], &values)]));
            }
            survives(op, build::between(vec![node], vec![tensor::from_i64("m.n", &[k], &vec![n; k])]));
        }
        let mut slice = middle("Slice");
        slice.input.extend(["s", "e", "ax", "st"].map(str::to_owned));
        for (s, e, step) in [(n, i64::MAX, 1), (0, n, 1), (0, 8, n), (n, n, n), (-1, i64::MIN, n)] {
            let v = |name: &str, x: i64| tensor::from_i64(name, &[1], &[x]);
            let weights = vec![v("s", s), v("e", e), v("ax", 1), v("st", step)];
            survives("Slice", build::between(vec![slice.clone()], weights));
        }
    }
}

#[test]
fn a_million_nodes_in_a_chain() {
    let n = if cfg!(debug_assertions) { 100_000 } else { 1_000_000 };
    let name = |k: usize| if k == n { "m.y".to_owned() } else { format!("c{k}") };
    let chain = (1..=n).map(|k| {
        let from = if k == 1 { "a.y".to_owned() } else { name(k - 1) };
        node("Relu", "", &[&from], &[&name(k)])
    });
    let model = Model::from_proto(build::between(chain.collect(), vec![]), "chain.onnx");
    let start = Instant::now();
    let options = Options { verify: false, ..Options::default() };
    let done = prune::prune(&model, &options, &|_| ()).unwrap();
    assert!(done.report.channels_removed > 0);
    assert!(start.elapsed() < LONG, "{:?}", start.elapsed());
}

/// A message field of `inner`.
fn field(tag: u8, inner: &[u8]) -> Vec<u8> {
    let mut out = vec![tag << 3 | 2];
    prost::encoding::encode_varint(inner.len() as u64, &mut out);
    out.extend(inner);
    out
}

#[test]
fn branches_in_branches() {
    for levels in [20, 33, 100, 10_000] {
        // GraphProto.node, NodeProto.attribute, AttributeProto.g.
        let mut graph = Vec::new();
        for _ in 0..levels {
            let attribute = [field(1, b"then_branch"), field(6, &graph)].concat();
            graph = field(1, &[field(4, b"If"), field(5, &attribute)].concat());
        }
        let bytes = [vec![0x08, 8], field(7, &graph), field(8, &[0x10, 18])].concat();
        match onnx::from_bytes(bytes, "deep.onnx") {
            Ok(model) => {
                assert!(levels < 100, "{levels} levels were read");
                survives("nested branches", model.proto);
            }
            Err(e) => {
                assert!(levels > 20, "{levels} levels: {e}");
                let message = e.to_string();
                assert!(message.contains("deep.onnx") && message.contains("recursion limit"), "{message}");
            }
        }
    }
}

#[test]
fn tensors_that_claim_what_they_have_not() {
    for dims in [vec![1 << 62], vec![1 << 31, 1 << 31], vec![8, 1 << 59, 1, 1], vec![1 << 21; 3], vec![0, 1 << 62]] {
        for fill in [None, Some(vec![]), Some(vec![0; 12])] {
            for name in ["a.w", "other"] {
                let mut m = build::plain();
                let g = graph(&mut m);
                g.initializer.retain(|t| t.name() != name);
                let raw_data = fill.clone().map(Into::into);
                let t = TensorProto { dims: dims.clone(), raw_data, ..tensor::from_f32(name, &[0], &[]) };
                g.initializer.push(t);
                survives("an empty promise", m);
            }
        }
    }
}

#[test]
fn data_files_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.onnx");
    std::fs::create_dir(dir.path().join("in")).unwrap();
    std::fs::write(dir.path().join("in/w.bin"), [0; 96]).unwrap();
    let entry = |k: &str, v: &str| StringStringEntryProto { key: Some(k.into()), value: Some(v.into()) };
    let read = |location: &str, extra: &[(&str, &str)]| {
        let mut m = build::plain();
        let t = graph(&mut m).initializer.iter_mut().find(|t| t.name() == "a.w").unwrap();
        t.raw_data = None;
        t.data_location = Some(1);
        t.external_data = vec![entry("location", location)];
        t.external_data.extend(extra.iter().map(|(k, v)| entry(k, v)));
        std::fs::write(&path, m.encode_to_vec()).unwrap();
        onnx::load(&path)
    };
    assert!(read("in/w.bin", &[]).is_ok());
    let up = "../".repeat(20) + "etc/passwd";
    for location in [
        "/etc/passwd",
        "../m.onnx",
        "in/../../m.onnx",
        &up,
        "",
        ".",
        "in",
        "in\\w.bin",
        "C:w.bin",
        "in/w.bin\0",
        "/dev/zero",
    ] {
        let e = read(location, &[]).unwrap_err();
        assert!(matches!(&e, OnnxError::External { tensor, .. } if tensor == "a.w"), "{location:?}: {e}");
    }
    let most = u64::MAX.to_string();
    let overflow = (u64::MAX - 50).to_string();
    for extra in [
        [("offset", most.as_str()), ("length", most.as_str())],
        [("offset", "1"), ("length", most.as_str())],
        [("offset", overflow.as_str()), ("length", "96")],
        [("offset", "-1"), ("length", "96")],
        [("offset", "0"), ("length", "95")],
    ] {
        let e = read("in/w.bin", &extra).unwrap_err();
        assert!(matches!(e, OnnxError::External { .. }), "{extra:?}: {e}");
    }
    // In memory there is no folder that a file could lie in.
    let e = onnx::from_bytes(std::fs::read(&path).unwrap(), "m.onnx").unwrap_err();
    assert!(e.to_string().contains("external data"), "{e}");
}

#[test]
fn thousands_of_inputs() {
    let mut m = build::plain();
    let g = graph(&mut m);
    g.input.extend((0..20_000).map(|k| info(&format!("in{k}"), &[1, 8, 8, 8])));
    g.node.insert(2, {
        let inputs: Vec<String> = (0..20_000).map(|k| format!("in{k}")).chain(["m.y".to_owned()]).collect();
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        node("Sum", "s", &inputs, &["s.y"])
    });
    g.output.push(info("s.y", &[1, 8, 8, 8]));
    let start = Instant::now();
    let model = Model::from_proto(m, "wide.onnx");
    let graph = Graph::new(&model).unwrap();
    prune::analyse(&graph).unwrap();
    assert!(start.elapsed() < LONG, "{:?}", start.elapsed());
}

/// An axis of 2^31 is not followed, and the graph is too large where very many long ones are.
#[test]
fn axes_longer_than_any_layer() {
    let mut m = build::plain();
    let g = graph(&mut m);
    g.initializer.push(TensorProto { dims: vec![1 << 31, 8], ..tensor::from_f32("long", &[0], &[]) });
    g.node.push(node("MatMul", "l", &["long", "long"], &["l.y"]));
    g.output.push(info("l.y", &[]));
    survives("a long constant", m);

    let long = 1 << 20;
    let mut m = build::plain();
    let g = graph(&mut m);
    for k in 0..300 {
        g.input.push(info(&format!("p{k}"), &[1, 1, long]));
        g.output.push(info(&format!("p{k}"), &[1, 1, long]));
    }
    let start = Instant::now();
    let e = pruned(m).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(e.contains("2^28"), "{e:?}");
    assert!(start.elapsed() < LONG, "{:?}", start.elapsed());
}
