//! Prints the model, the request and the channels of a pipeline input (`--model`: a model input), then runs it.

use onnx_prune::graph::Graph;
use onnx_prune::prune::{Options, analyse};
use onnx_prune_fuzz::{invariants, request};

fn main() {
    let is_model = std::env::args().any(|a| a == "--model");
    for path in std::env::args().skip(1).filter(|a| a != "--model") {
        let data = std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        let (model, options) = if is_model {
            match onnx_prune::onnx::from_bytes(data, "m.onnx") {
                Ok(model) => (model, Options { verify: false, ..Options::default() }),
                Err(e) => {
                    println!("{e}");
                    continue;
                }
            }
        } else {
            request(&data)
        };
        println!("{path}: {options:?}");
        let g = model.proto.graph.clone().unwrap_or_default();
        println!("opset {}", model.opset());
        g.input.iter().for_each(|v| println!("input {} {:?}", v.name(), v.r#type));
        for t in &g.initializer {
            println!(
                "initializer {:?} {:?} type {} of {:?} bytes",
                t.name(),
                t.dims,
                t.data_type(),
                t.raw_data.as_ref().map(|r| r.len())
            );
        }
        for n in &g.node {
            let show = |a: &onnx_prune::onnx::proto::AttributeProto| {
                let t = a.t.as_ref().map(|t| (t.dims.clone(), t.data_type()));
                format!("{}={:?}{:?}{:?}{:?}", a.name(), a.i, a.ints, a.s.as_deref().map(String::from_utf8_lossy), t)
            };
            let attributes: Vec<String> = n.attribute.iter().map(show).collect();
            println!("{:?} {}:{} {:?} -> {:?} {attributes:?}", n.name(), n.domain(), n.op_type(), n.input, n.output);
        }
        g.output.iter().for_each(|v| println!("output {}", v.name()));
        if let Ok(graph) = Graph::new(&model) {
            match analyse(&graph) {
                Ok(t) => {
                    for x in &t.trace.channels.tensors {
                        let axes: Vec<_> = x.axes.iter().map(|a| a.map(|a| t.trace.channels.axis(a).fold)).collect();
                        println!("tensor {:?} {:?} tracked {axes:?}", x.key, x.dims);
                    }
                    for x in &t.trace.channels.groups {
                        println!(
                            "group {:?} of {}: {:?}",
                            x.name,
                            x.channels.len(),
                            x.axes
                                .iter()
                                .map(|(a, _)| (
                                    t.trace.channels.tensor_of(*a).key.clone(),
                                    t.trace.channels.axis(*a).axis
                                ))
                                .collect::<Vec<_>>()
                        );
                    }
                    t.trace.channels.pins.iter().for_each(|p| println!("pin {p:?}"));
                    println!("contradiction {:?}", t.analysis.contradiction());
                }
                Err(e) => println!("{e}"),
            }
        }
        invariants::look(&model);
        invariants::run(&model, &options);
        println!("passed");
    }
}
