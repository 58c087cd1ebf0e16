//! The trained model: the file's own graph with new values in its constants.

use super::step::{Graphs, Layout, names};
use crate::error::{Error, Result};
use crate::flat::unflatten;
use crate::graph::is_default_domain;
use crate::onnx::Model;
use crate::onnx::proto::{ModelProto, TensorProto};
use crate::onnx::tensor;
use crate::runtime::Data;
use crate::runtime::walk::Feed;
use std::collections::{BTreeMap, HashMap};

/// A flat copy in which no two batch normalisations share their running statistics: exporters store equal ones once, but in
/// training they go different ways.
///
/// # Errors
/// When the model has no graph.
pub fn unshared(flat: &Model) -> Result<Model> {
    let mut proto: ModelProto = flat.proto.clone();
    let Some(graph) = &mut proto.graph else {
        return Err(Error::Graph { path: flat.path.clone(), message: "the model has no graph".into() });
    };
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut copies: Vec<TensorProto> = Vec::new();
    for node in &mut graph.node {
        if node.op_type() != "BatchNormalization" || !is_default_domain(node.domain()) {
            continue;
        }
        for slot in [3, 4] {
            let Some(name) = node.input.get_mut(slot) else { continue };
            let n = seen.entry(name.clone()).or_default();
            *n += 1;
            if *n > 1
                && let Some(t) = graph.initializer.iter().find(|t| t.name() == name)
            {
                let copy = format!("{name}/{n}");
                copies.push(TensorProto { name: Some(copy.clone()), ..t.clone() });
                *name = copy;
            }
        }
    }
    if copies.is_empty() {
        return Ok(flat.derive(proto).scoped(flat.scopes.clone()));
    }
    graph.initializer.extend(copies);
    // Where everything belongs in a nested model is known for the names that it had.
    if flat.scopes.is_some() {
        return Ok(flat.derive(flat.proto.clone()).scoped(flat.scopes.clone()));
    }
    Ok(flat.derive(proto))
}

/// Puts the state's values in the place of the constants that were trained.
///
/// # Errors
/// [`Error::Internal`] when a value is not finite or does not fit.
pub fn model(flat: &Model, layout: &Layout, graphs: &Graphs, state: &Feed) -> Result<Model> {
    let vector = |name: &str| state.iter().find(|(n, _)| n == name).map(|(_, a)| a);
    let mut new: BTreeMap<&str, (String, usize, usize)> = BTreeMap::new();
    for v in 0..2 {
        for (p, at) in layout.of(v) {
            new.insert(&p.name, (names::weights(v), at, p.numel()));
        }
    }
    for (name, at, n) in &graphs.statistics {
        new.insert(name, (names::STATISTICS.to_owned(), *at, *n));
    }
    let values = |(name, at, n): &(String, usize, usize)| -> Result<Vec<f64>> {
        let part = match vector(name).map(|a| &a.data) {
            Some(Data::F32(v)) => v.get(*at..at + n),
            _ => None,
        };
        let part = part.ok_or_else(|| Error::Internal(format!("the state {name:?} is too short")))?;
        if part.iter().any(|x| !x.is_finite()) {
            return Err(Error::Internal(format!("the state {name:?} holds values that are not finite")));
        }
        Ok(part.iter().map(|&x| f64::from(x)).collect())
    };
    let mut proto: ModelProto = flat.proto.clone();
    let Some(graph) = &mut proto.graph else {
        return Err(Error::Graph { path: flat.path.clone(), message: "the model has no graph".into() });
    };
    let mut left = new.len();
    for t in &mut graph.initializer {
        if let Some(place) = new.get(t.name()) {
            *t = replaced(t, &values(place)?)?;
            left -= 1;
        }
    }
    for node in &mut graph.node {
        let Some(place) = node.output.first().and_then(|o| new.get(o.as_str())) else { continue };
        if let Some(t) = node.attribute.iter_mut().filter(|a| a.name() == "value").find_map(|a| a.t.as_mut()) {
            *t = replaced(t, &values(place)?)?;
            left -= 1;
        }
    }
    if left > 0 {
        return Err(Error::Internal(format!("{left} trained tensors have no constant in the model")));
    }
    match &flat.scopes {
        Some(scopes) => Ok(flat.derive(unflatten(proto, scopes)?)),
        None => Ok(flat.derive(proto)),
    }
}

fn replaced(t: &TensorProto, values: &[f64]) -> Result<TensorProto> {
    let dims = tensor::dims(t)?;
    let new = tensor::from_f64_like(t, &dims, values)?;
    Ok(TensorProto { name: t.name.clone(), ..new })
}
