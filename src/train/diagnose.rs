//! Which tensor first held a value that is not finite.

use super::step::{Graphs, names};
use crate::error::Result;
use crate::onnx::Model;
use crate::onnx::proto::{ModelProto, ValueInfoProto};
use crate::runtime::walk::Feed;
use crate::runtime::{Data, Runtime};
use std::collections::HashSet;

/// Runs the step once more with everything handed out. In words, and empty where all was finite before the update.
///
/// # Errors
/// When the graph does not run.
pub fn first_wrong(graphs: &Graphs, runtime: &dyn Runtime, state: &Feed, feed: &Feed) -> Result<String> {
    let mut proto: ModelProto = graphs.step.proto.clone();
    let Some(graph) = &mut proto.graph else { return Ok(String::new()) };
    let given: HashSet<String> = graph.output.iter().map(|o| o.name().to_owned()).collect();
    let all: Vec<(String, String)> = graph
        .node
        .iter()
        .flat_map(|n| n.output.iter().filter(|o| !o.is_empty()).map(|o| (o.clone(), n.op_type().to_owned())))
        .collect();
    for (name, _) in all.iter().filter(|(name, _)| !given.contains(name)) {
        graph.output.push(ValueInfoProto { name: Some(name.clone()), ..ValueInfoProto::default() });
    }
    let tapped = Model::from_proto(proto, graphs.step.path.clone());
    let mut session = runtime.load(&tapped)?;
    let inputs: Feed = state.iter().chain(feed).cloned().collect();
    let outputs = session.run(&inputs)?;
    let odd = |d: &Data| match d {
        Data::F32(v) => v.iter().position(|x| !x.is_finite()),
        _ => None,
    };
    let culprit = all.iter().filter(|(name, _)| !name.starts_with("train/out/")).find_map(|(name, op)| {
        let (_, a) = outputs.iter().find(|(n, _)| n == name)?;
        odd(&a.data).map(|at| (name, op, a.to_f64().get(at).copied().unwrap_or(f64::NAN)))
    });
    let weight = state.iter().filter(|(n, _)| names::is_model(n)).find(|(_, a)| odd(&a.data).is_some());
    Ok(match (weight, culprit) {
        (Some(_), _) => "; a trained tensor itself had become so in the step before".into(),
        (None, Some((name, op, value))) if name.starts_with("train/") => {
            format!("; the first tensor to go wrong is on the way back, {op} {name:?}, with {value}")
        }
        (None, Some((name, op, value))) => {
            format!("; the first tensor to go wrong is {name:?}, made by {op}, with {value}")
        }
        (None, None) => String::new(),
    })
}
