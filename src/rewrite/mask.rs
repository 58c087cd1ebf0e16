//! The masked twin: the original model with zeros (of a quantised weight: its zero points) at the removed indices of every
//! contracted weight axis.

use super::constants::{place, zeroed};
use super::edit::Editor;
use super::{Cut, finish, nested};
use crate::canon::Analysis;
use crate::channels::{TensorId, Trace};
use crate::error::{Error, Result};
use crate::graph::{Graph, Origin, ValueId, attribute};
use crate::onnx::Model;
use crate::onnx::proto::{TensorProto, tensor_proto::DataType};
use crate::onnx::tensor;
use crate::ops::build;
use crate::ops::relate::Contraction;
use std::collections::BTreeMap;

/// The twin that the pruned model must equal. Shapes stay as they were.
///
/// Where the contracted operand is computed at run time (a weight behind `Transpose` or `DequantizeLinear`, the product
/// of two activations), it is multiplied with a mask.
///
/// # Errors
/// When a weight cannot be read.
pub fn mask(a: &Analysis, trace: &Trace, removed: &[Vec<usize>]) -> Result<Model> {
    let cut = Cut { a, trace, removed };
    let mut ed = Editor::new(a);
    let mut zeros: BTreeMap<TensorId, TensorProto> = BTreeMap::new();
    for c in &trace.contractions {
        if cut.on(c.axis).is_empty() {
            continue;
        }
        let info = trace.channels.axis(c.axis);
        let t = trace.channels.tensor(info.tensor);
        match t.source.and_then(|s| a.graph.constant(s)) {
            Some(proto) => {
                let base = zeros.get(&info.tensor).unwrap_or(proto);
                let new = zeroed(&cut, t, base, info.axis)?;
                zeros.insert(info.tensor, new);
            }
            None => mask_operand(&cut, &mut ed, c, t.dims.len())?,
        }
    }
    for (id, tensor) in zeros {
        place(&cut, &mut ed, trace.channels.tensor(id), tensor);
    }
    let nothing: Vec<Vec<usize>> = vec![Vec::new(); removed.len()];
    nested(finish(&Cut { a, trace, removed: &nothing }, ed.finish(a))?)
}

/// Multiplies an operand that is computed at run time with zeros and ones.
fn mask_operand(cut: &Cut, ed: &mut Editor, c: &Contraction, rank: usize) -> Result<()> {
    let g = cut.a.graph;
    let info = cut.trace.channels.axis(c.axis);
    let operand = g
        .input(c.node, c.slot)
        .ok_or_else(|| Error::Internal(format!("{} has no operand {}", g.label(c.node), c.slot)))?;
    let whole = &cut.trace.channels.tensor(info.tensor).dims;
    let mut dims: Vec<usize> = (0..rank).map(|a| if a == info.axis { whole[a] } else { 1 }).collect();
    let gone = cut.on(c.axis);
    let mut keep: Vec<f64> = (0..info.len).map(|i| if gone.binary_search(&i).is_ok() { 0.0 } else { 1.0 }).collect();
    if info.fold > 1 {
        // Every row of a grouped convolution's weight has its group's indices.
        dims[0] = whole[0];
        let per = (whole[0] / info.fold).max(1);
        keep = keep.chunks(whole[info.axis].max(1)).flat_map(|group| group.repeat(per)).collect();
    }
    let like = TensorProto { data_type: Some(float_type(g, operand)), ..TensorProto::default() };
    let mask = tensor::from_f64_like(&like, &dims, &keep)?;
    let mask = ed.add(mask, &format!("{}.mask", g.value(operand).name));
    let masked = ed.names.fresh(&format!("{}.masked", g.value(operand).name));
    ed.insert_before(c.node, build::mul(g.value(operand).name.clone(), mask, masked.clone()));
    ed.set_input(c.node, c.slot, &masked);
    Ok(())
}

/// The float type of a value: that of the constants behind it, or the one that most models have.
fn float_type(g: &Graph, mut value: ValueId) -> i32 {
    // A chain of more operators than this does not come from an exporter.
    for _ in 0..64 {
        if let Some(t) = g.constant(value).filter(|t| tensor::is_float(t.data_type())) {
            return t.data_type();
        }
        let Origin::Node(id, _) = g.value(value).origin else { break };
        let node = g.node(id);
        let named = ["to", "output_dtype"].iter().find_map(|n| attribute(node, n).and_then(|a| a.i));
        if let Some(t) = named.and_then(|t| i32::try_from(t).ok()).filter(|&t| tensor::is_float(t)) {
            return t;
        }
        let from = if node.op_type() == "DequantizeLinear" { 1 } else { 0 };
        let Some(v) = g.input(id, from) else { break };
        value = v;
    }
    let floats = g.proto.initializer.iter().map(|t| t.data_type());
    floats.into_iter().find(|&t| tensor::is_float(t)).unwrap_or(DataType::Float as i32)
}
