//! The sole writer of a pruned model: cuts constants along their atoms and lets every operator patch its obligations.
//!
//! It never decides what to remove. While it writes, it follows every shape through the new graph and compares it with
//! the old shape less the removed indices; a difference is an error before a file exists.

mod constants;
mod edit;
mod mask;
mod walk;

pub use mask::mask;

use crate::canon::{Analysis, shuffle::Shuffle};
use crate::channels::{AxisId, Tensor, TensorId, Trace};
use crate::error::{Error, Result};
use crate::flat::unflatten;
use crate::graph::{NodeId, ValueId};
use crate::onnx::Model;
use crate::onnx::proto::{
    NodeProto, TensorProto, ValueInfoProto, tensor_shape_proto::dimension::Value as DimValue, type_proto,
};
use crate::onnx::tensor;
use crate::ops::{Loc, build};
use edit::{Edited, Editor};
use std::collections::HashMap;
use std::sync::Arc;

/// Writes the model without the removed indices.
///
/// `removed[axis]` lists, for every tracked axis of the trace, the indices that leave, ascending. Nothing removed gives
/// back an equal model. A [flattened](crate::flat) model comes back with its subgraphs and functions.
///
/// # Errors
/// [`Error::Internal`] when an operator's obligation cannot be met or a shape comes out differently than planned.
pub fn rewrite(a: &Analysis, trace: &Trace, removed: &[Vec<usize>]) -> Result<Model> {
    let cut = Cut { a, trace, removed };
    let mut ed = Editor::new(a);
    constants::cut_all(&cut, &mut ed)?;
    walk::patch_nodes(&cut, &mut ed)?;
    nested(finish(&cut, ed.finish(a))?)
}

/// The model with its subgraphs and functions again.
fn nested(mut model: Model) -> Result<Model> {
    match model.scopes.take() {
        None => Ok(model),
        Some(scopes) => {
            let flat = std::mem::take(&mut model.proto);
            Ok(model.derive(unflatten(flat, &scopes)?))
        }
    }
}

/// Corrects declared shapes. What was flat is still flat.
fn finish(cut: &Cut, Edited { mut proto, came }: Edited) -> Result<Model> {
    if let Some(g) = &mut proto.graph {
        let inside: Vec<ValueId> = cut
            .a
            .shuffles
            .iter()
            .filter(|s| cut.shuffles(s))
            .flat_map(|s| s.nodes[..2].iter().filter_map(|&n| cut.a.graph.output(n, 0)))
            .collect();
        g.value_info.retain(|v| cut.a.graph.find(v.name()).is_none_or(|id| !inside.contains(&id)));
        for info in g.value_info.iter_mut().chain(&mut g.input) {
            cut.shrink_info(info);
        }
    }
    let scopes = match (&cut.a.graph.model.scopes, &proto.graph) {
        (Some(scopes), Some(after)) => Some(Arc::new(scopes.settle(cut.a.graph.proto, after, &came)?)),
        _ => None,
    };
    Ok(cut.a.graph.model.derive(proto).scoped(scopes))
}

/// Edits to constants of a model that keeps all its channels (repairs).
pub struct Edit<'a> {
    cut: Cut<'a>,
    ed: Editor,
}

impl<'a> Edit<'a> {
    /// Starts from the model as it is.
    pub fn new(a: &'a Analysis<'a>, trace: &'a Trace) -> Self {
        Edit { cut: Cut { a, trace, removed: &[] }, ed: Editor::new(a) }
    }

    /// Gives a constant new data, for all readers of the tensor and for them alone.
    pub fn replace(&mut self, t: TensorId, new: TensorProto) {
        let t = self.cut.trace.channels.tensor(t);
        constants::place(&self.cut, &mut self.ed, t, new);
    }

    /// Adds a constant and gives it to an input slot of a node.
    pub fn add_input(&mut self, node: crate::graph::NodeId, slot: usize, t: TensorProto, wish: &str) {
        let name = self.ed.add(t, wish);
        self.ed.set_input(node, slot, &name);
    }

    /// Multiplies an output of a node with a number.
    ///
    /// # Errors
    /// When the number cannot be written in the element type of `like`.
    pub fn scale_output(&mut self, node: NodeId, slot: usize, factor: f64, like: &TensorProto) -> Result<()> {
        let g = self.cut.a.graph;
        let Some(value) = g.output(node, slot) else { return Ok(()) };
        let scalar = tensor::from_f64_like(like, &[], &[factor])?;
        let scalar = self.ed.add(scalar, &format!("{}.share", g.value(value).name));
        let plain = self.ed.names.fresh(&format!("{}.plain", g.value(value).name));
        let Some(output) = self.ed.rename_output(node, slot, &plain) else { return Ok(()) };
        let name = self.ed.names.fresh(&format!("{}.rescale", g.name(node)));
        self.ed.insert_after_first(node, NodeProto { name: Some(name), ..build::mul(plain, scalar, output) });
        Ok(())
    }

    /// The edited model; flat if the analysed one was.
    ///
    /// # Errors
    /// [`Error::Internal`] when a subgraph has lost its node.
    pub fn finish(self) -> Result<Model> {
        let edited = self.ed.finish(self.cut.a);
        finish(&self.cut, edited)
    }
}

/// What leaves, asked in different ways.
pub(crate) struct Cut<'a> {
    pub a: &'a Analysis<'a>,
    pub trace: &'a Trace,
    pub removed: &'a [Vec<usize>],
}

impl<'a> Cut<'a> {
    pub fn on(&self, axis: AxisId) -> &'a [usize] {
        self.removed.get(axis.0 as usize).map_or(&[], Vec::as_slice)
    }

    pub fn of_tensor(&self, t: &Tensor, axis: usize) -> &'a [usize] {
        t.axes.get(axis).copied().flatten().map_or(&[], |id| self.on(id))
    }

    fn of_value(&self, v: ValueId, axis: usize) -> &'a [usize] {
        let t = self.trace.tensors.by_value.get(&v);
        t.map_or(&[], |t| self.of_tensor(self.trace.channels.tensor(*t), axis))
    }

    /// Whether a channel shuffle loses channels.
    fn shuffles(&self, s: &Shuffle) -> bool {
        !self.of_value(s.output, s.axis).is_empty() || !self.of_value(s.input, s.axis).is_empty()
    }

    pub fn at(&self, node: crate::graph::NodeId, loc: Loc) -> &'a [usize] {
        let i = node.0 as usize;
        let (t, axis) = match loc {
            Loc::In(s, x) => (self.trace.tensors.inputs[i].get(s), x),
            Loc::Out(s, x) => (self.trace.tensors.outputs[i].get(s), x),
        };
        t.copied().flatten().map_or(&[], |t| self.of_tensor(self.trace.channels.tensor(t), axis))
    }

    pub fn touches(&self, t: &Tensor) -> bool {
        t.axes.iter().flatten().any(|&x| !self.on(x).is_empty())
    }

    /// Sizes after the cut, for a shape of the tensor under any assignment.
    pub fn shrink(&self, t: &Tensor, dims: &[usize]) -> Result<Vec<usize>> {
        let mut out = dims.to_vec();
        for (i, d) in out.iter_mut().enumerate() {
            let Some(id) = t.axes.get(i).copied().flatten() else { continue };
            let fold = self.trace.channels.axis(id).fold.max(1);
            let gone = self.on(id).len();
            if !gone.is_multiple_of(fold) || gone / fold >= (*d).max(1) {
                return Err(Error::Internal(format!("tensor {:?} would lose {gone} of {d} on axis {i}", t.key)));
            }
            *d -= gone / fold;
        }
        Ok(out)
    }

    /// Corrects a declared shape.
    fn shrink_info(&self, info: &mut ValueInfoProto) {
        let Some(v) = self.a.graph.find(info.name()) else { return };
        let tensor = match self.trace.tensors.by_value.get(&v) {
            Some(t) => Some(self.trace.channels.tensor(*t)),
            // A constant listed among the inputs (or annotated): the tensor that kept its name.
            None => self.trace.channels.tensors.iter().find(|t| t.source == Some(v) && t.key == info.name()),
        };
        let Some(tensor) = tensor.filter(|t| self.touches(t)) else { return };
        let Some(type_proto::Value::TensorType(ty)) = info.r#type.as_mut().and_then(|t| t.value.as_mut()) else {
            return;
        };
        let Some(shape) = &mut ty.shape else { return };
        let Ok(new) = self.shrink(tensor, &tensor.dims) else { return };
        for (i, d) in shape.dim.iter_mut().enumerate() {
            if tensor.axes.get(i).copied().flatten().is_some_and(|x| !self.on(x).is_empty())
                && let Some(&n) = new.get(i)
            {
                d.value = Some(DimValue::DimValue(n as i64));
            }
        }
    }
}

/// Names that are in use, to make new ones that are not.
pub(crate) struct Names(HashMap<String, ()>);

impl Names {
    pub fn new(a: &Analysis) -> Self {
        let g = a.graph;
        let mut all: HashMap<String, ()> = g.values.iter().map(|v| (v.name.clone(), ())).collect();
        all.extend(g.proto.node.iter().map(|n| (n.name().to_owned(), ())));
        all.extend(g.model.scopes.iter().flat_map(|s| s.taken()).map(|n| (n.clone(), ())));
        // Names inside subgraphs share the scope.
        fn inner(p: &crate::onnx::proto::NodeProto, all: &mut HashMap<String, ()>) {
            for g in p.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs)) {
                all.extend(g.input.iter().map(|v| (v.name().to_owned(), ())));
                all.extend(g.initializer.iter().map(|v| (v.name().to_owned(), ())));
                for n in &g.node {
                    all.extend(n.output.iter().map(|o| (o.clone(), ())));
                    inner(n, all);
                }
            }
        }
        for n in &g.proto.node {
            inner(n, &mut all);
        }
        Names(all)
    }

    /// `wish`, or `wish_2`, `wish_3`, …
    pub fn fresh(&mut self, wish: &str) -> String {
        let mut name = wish.to_owned();
        let mut k = 1;
        while self.0.insert(name.clone(), ()).is_some() {
            k += 1;
            name = format!("{wish}_{k}");
        }
        name
    }
}
