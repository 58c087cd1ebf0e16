//! Whether two models can be fed and read alike.

use crate::error::{Error, Result};
use crate::onnx::proto::{TensorShapeProto, ValueInfoProto, tensor_shape_proto::dimension::Value, type_proto};
use crate::onnx::{Model, tensor};
use crate::runtime::{InputSpec, input_specs};

const HINT: &str = "diff compares two versions of one network, with the same inputs and outputs";

/// The same names of inputs and outputs, types of inputs, ranks, and extents of inputs where both models fix them.
///
/// # Errors
/// [`Error::Usage`] with the first difference.
pub fn check(original: &Model, pruned: &Model) -> Result<()> {
    let differ = |what: String| {
        let (a, b) = (original.path.display(), pruned.path.display());
        Error::Usage(format!("{a} and {b} have different interfaces: {what}; {HINT}"))
    };
    let (a, b) = (input_specs(original), input_specs(pruned));
    let names = |specs: &[InputSpec]| specs.iter().map(|s| s.name.clone()).collect::<Vec<_>>();
    same_names("input", &names(&a), &names(&b)).map_err(differ)?;
    for x in &a {
        if let Some(y) = b.iter().find(|y| y.name == x.name) {
            same_input(x, y).map_err(differ)?;
        }
    }
    let outputs = |m: &Model| m.proto.graph.iter().flat_map(|g| g.output.clone()).collect::<Vec<ValueInfoProto>>();
    let (a, b) = (outputs(original), outputs(pruned));
    let names = |all: &[ValueInfoProto]| all.iter().map(|v| v.name().to_owned()).collect::<Vec<_>>();
    same_names("output", &names(&a), &names(&b)).map_err(differ)?;
    for x in &a {
        let ranks = (rank(x), b.iter().find(|y| y.name() == x.name()).and_then(rank));
        // Extents of outputs are not held against each other: they are often stale, and the outputs themselves will tell.
        if let (Some(p), Some(q)) = ranks
            && p != q
        {
            return Err(differ(format!("output {:?} has {p} axes in the first and {q} in the second", x.name())));
        }
    }
    Ok(())
}

fn same_names(what: &str, a: &[String], b: &[String]) -> Result<(), String> {
    let quoted = |names: &[String]| names.iter().map(|n| format!("{n:?}")).collect::<Vec<_>>().join(", ");
    if let Some(name) = a.iter().find(|n| !b.contains(n)) {
        return Err(format!("the second has no {what} {name:?}, only {}", quoted(b)));
    }
    if let Some(name) = b.iter().find(|n| !a.contains(n)) {
        return Err(format!("the second has a further {what} {name:?}; the first has only {}", quoted(a)));
    }
    Ok(())
}

fn same_input(a: &InputSpec, b: &InputSpec) -> Result<(), String> {
    let name = &a.name;
    if a.elem_type != b.elem_type {
        let (p, q) = (tensor::type_name(a.elem_type), tensor::type_name(b.elem_type));
        return Err(format!("input {name:?} is {p} in the first and {q} in the second"));
    }
    let shown = |dims: &[Option<usize>]| {
        dims.iter().map(|d| d.map_or("?".to_owned(), |d| d.to_string())).collect::<Vec<_>>().join(", ")
    };
    let fixed = |(p, q): (&Option<usize>, &Option<usize>)| p.is_some() && q.is_some() && p != q;
    // Without a declared shape there are no extents either.
    let declared = !a.dims.is_empty() && !b.dims.is_empty();
    if declared && (a.dims.len() != b.dims.len() || a.dims.iter().zip(&b.dims).any(fixed)) {
        let (p, q) = (shown(&a.dims), shown(&b.dims));
        return Err(format!("input {name:?} has shape [{p}] in the first and [{q}] in the second"));
    }
    Ok(())
}

fn rank(v: &ValueInfoProto) -> Option<usize> {
    match v.r#type.as_ref()?.value.as_ref()? {
        type_proto::Value::TensorType(t) => t.shape.as_ref().map(|s: &TensorShapeProto| s.dim.len()),
        _ => None,
    }
}

/// The model that leaves fewer extents of its inputs open, the first of equals: data that fits it fits both.
pub fn stricter<'m>(original: &'m Model, pruned: &'m Model) -> &'m Model {
    let fixed = |m: &Model| {
        let graph = m.proto.graph.iter().flat_map(|g| &g.input);
        let shapes = graph.filter_map(|v| match v.r#type.as_ref()?.value.as_ref()? {
            type_proto::Value::TensorType(t) => t.shape.as_ref(),
            _ => None,
        });
        shapes.flat_map(|s| &s.dim).filter(|d| matches!(d.value, Some(Value::DimValue(n)) if n >= 0)).count()
    };
    if fixed(pruned) > fixed(original) { pruned } else { original }
}
