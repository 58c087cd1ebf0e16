//! The layers that statistics are taken of and that can be repaired.

use crate::channels::{AxisId, TensorId};
use crate::error::{Error, Result};
use crate::graph::{Graph, NodeId, Origin, ValueId};
use crate::onnx::proto::TensorProto;
use crate::onnx::{Model, tensor};
use crate::ops::Activation;
use crate::ops::chain::activation_after;
use crate::ops::expect::{self, Onward};
use crate::ops::layer::{Layer, layer};
use crate::prune::Traced;
use crate::recover::bias::{Target, target};
use crate::rewrite::Edit;

/// A layer with a constant weight of its own.
#[derive(Clone, Debug)]
pub struct Site {
    /// The node.
    pub node: NodeId,
    /// Its arithmetic.
    pub layer: Layer,
    /// What it reads.
    pub x: ValueId,
    /// What it makes.
    pub y: ValueId,
    /// The weight.
    pub weight: TensorId,
    /// Where its constant part goes, if anywhere.
    pub bias: Option<Target>,
    /// The channel axis of the input, where it is tracked.
    pub inputs: Option<AxisId>,
    /// The channel axis of the output.
    pub outputs: Option<AxisId>,
}

/// What follows a layer's output, channel by channel.
#[derive(Clone, Debug)]
pub struct After {
    /// Per output channel: the factor up to the end of the chain.
    pub scale: Vec<f64>,
    /// The other operand of the addition that ends the chain, as large as the layer's output.
    pub other: Option<ValueId>,
    /// The end of the chain (of the addition, where there is one).
    pub end: ValueId,
    /// The next function leaves only values between these apart (ReLU and clips).
    pub bounds: Option<(f64, f64)>,
}

/// All layers, in graph order.
pub fn sites(t: &Traced) -> Vec<Site> {
    let g = t.analysis.graph;
    g.order.iter().filter_map(|&n| site(t, n)).collect()
}

fn site(t: &Traced, node: NodeId) -> Option<Site> {
    let g = t.analysis.graph;
    let cx = t.analysis.cx(node, 0, &[]);
    let layer = layer(&cx)?;
    let weight = (*t.trace.tensors.inputs[node.0 as usize].get(1)?)?;
    let w = t.trace.channels.tensor(weight);
    let proto = g.constant(w.source?)?;
    // Tied weights serve several layers at once.
    if w.readers.len() != 1
        || !tensor::is_float(proto.data_type())
        || w.dims.iter().product::<usize>() != layer.elements()
    {
        return None;
    }
    let (x, y) = (g.input(node, 0)?, g.output(node, 0)?);
    let (from_start, product) = (1, matches!(layer.form, crate::ops::layer::Form::Product { .. }));
    let channel_axis = |v: ValueId| {
        let tensor = t.trace.channels.tensor(*t.trace.tensors.by_value.get(&v)?);
        let at = if product { tensor.axes.len().checked_sub(1)? } else { from_start };
        tensor.axes.get(at).copied().flatten()
    };
    let bias = expect::linear(&cx).and_then(|linear| target(t, node, &linear));
    Some(Site { node, x, y, weight, bias, inputs: channel_axis(x), outputs: channel_axis(y), layer })
}

/// The indices of an axis that stay.
pub fn kept(removed: &[Vec<usize>], axis: Option<AxisId>, len: usize) -> Vec<usize> {
    let gone = axis.and_then(|a| removed.get(a.0 as usize)).map_or(&[][..], Vec::as_slice);
    (0..len).filter(|i| gone.binary_search(i).is_err()).collect()
}

impl Site {
    /// The weight as stored.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn weight<'m>(&self, t: &Traced<'m>) -> Result<&'m TensorProto> {
        constant(t, self.weight)
    }

    /// The constant that holds its constant part, and whether that is the layer's own bias (so that the output has it).
    pub fn bias_tensor(&self, t: &Traced) -> Option<(TensorId, bool)> {
        let (node, slot) = match self.bias? {
            Target::Add(n, s) | Target::Subtract(n, s) => (n, s),
            Target::New(..) => return None,
        };
        let id = (*t.trace.tensors.inputs[node.0 as usize].get(slot)?)?;
        Some((id, node == self.node))
    }

    /// The constant that takes what the output rises by, and the sign it takes it with.
    pub fn constant_part(&self, t: &Traced) -> Option<(TensorId, f64)> {
        let sign = if matches!(self.bias?, Target::Subtract(..)) { -1.0 } else { 1.0 };
        self.bias_tensor(t).map(|(id, _)| (id, sign))
    }

    /// What multiplies each output channel next, and the addition where that ends.
    pub fn after(&self, t: &Traced) -> After {
        let g = t.analysis.graph;
        let n = self.layer.groups * self.layer.outputs;
        let mut after = After { scale: vec![1.0; n], other: None, end: self.y, bounds: None };
        let dims = t.analysis.dims(self.y);
        let mut v = self.y;
        // Longer chains of per-channel operators do not come from an exporter.
        for _ in 0..8 {
            let Some(reader) = g.sole_reader(v) else { break };
            let Some(from) = (0..2).find(|&s| g.input(reader, s) == Some(v)) else { break };
            let Some(next) = g.output(reader, 0) else { break };
            let vector = |slot: usize| {
                let id = t.trace.tensors.inputs[reader.0 as usize].get(slot).copied().flatten()?;
                let values = tensor::to_f64(constant(t, id).ok()?).ok()?;
                (values.len() == n || values.len() == 1).then_some(values)
            };
            match expect::onward(&t.analysis.cx(reader, 0, &[]), from) {
                Some(Onward::Same) => {}
                Some(Onward::BatchNorm { epsilon }) => {
                    let (Some(gamma), Some(var)) = (vector(1), vector(4)) else { break };
                    for (k, s) in after.scale.iter_mut().enumerate() {
                        *s *= at(&gamma, k) / (at(&var, k) + epsilon).sqrt();
                    }
                }
                Some(Onward::Times(slot)) => {
                    let Some(values) = vector(slot).filter(|_| t.analysis.dims(next) == dims) else { break };
                    after.scale.iter_mut().enumerate().for_each(|(k, s)| *s *= at(&values, k));
                }
                Some(Onward::Plus(slot)) => {
                    let Some(other) = g.input(reader, slot) else { break };
                    let fixed = !t.trace.tensors.by_value.contains_key(&other);
                    if !fixed {
                        after.other = (t.analysis.dims(other) == dims).then_some(other);
                        if after.other.is_some() {
                            v = next;
                        }
                        break;
                    }
                }
                None => break,
            }
            v = next;
        }
        after.end = v;
        after.bounds = match activation_after(&t.analysis, v) {
            Activation::Relu => Some((0.0, f64::INFINITY)),
            Activation::Clip(low, high) => Some((low, high)),
            _ => None,
        };
        after
    }
}

fn at(values: &[f64], k: usize) -> f64 {
    values.get(k).or(values.first()).copied().unwrap_or(1.0)
}

/// The data of a constant tensor.
///
/// # Errors
/// [`Error::Internal`] when it has none.
pub fn constant<'m>(t: &Traced<'m>, id: TensorId) -> Result<&'m TensorProto> {
    let tensor = t.trace.channels.tensor(id);
    let proto = tensor.source.and_then(|s| t.analysis.graph.constant(s));
    proto.ok_or_else(|| Error::Internal(format!("{:?} holds no parameters", tensor.key)))
}

/// The same model with an initializer of its own for every layer's weight and constant part, biases of zero included: what
/// can be repaired then has a name and a place.
///
/// # Errors
/// When a weight cannot be read.
pub fn prepare(t: &Traced) -> Result<Model> {
    let mut edit = Edit::new(&t.analysis, &t.trace);
    for site in sites(t) {
        let name = t.analysis.graph.name(site.node);
        let name = name.trim_start_matches('/');
        let proto = site.weight(t)?;
        if !own(t.analysis.graph, t, site.weight) {
            edit.add_input(site.node, 1, proto.clone(), &format!("{name}.weight"));
        }
        match site.bias {
            Some(Target::New(node, slot)) => {
                let n = site.layer.groups * site.layer.outputs;
                let zeros = tensor::from_f64_like(proto, &[n], &vec![0.0; n])?;
                edit.add_input(node, slot, zeros, &format!("{name}.bias"));
            }
            Some(Target::Add(node, slot) | Target::Subtract(node, slot)) => {
                if let Some((id, _)) = site.bias_tensor(t)
                    && !own(t.analysis.graph, t, id)
                {
                    edit.add_input(node, slot, constant(t, id)?.clone(), &format!("{name}.constant"));
                }
            }
            None => {}
        }
    }
    edit.finish()
}

/// Whether a constant is an initializer that one slot reads directly.
fn own(g: &Graph, t: &Traced, id: TensorId) -> bool {
    let tensor = t.trace.channels.tensor(id);
    let Some(source) = tensor.source else { return false };
    let value = g.value(source);
    matches!(value.origin, Origin::Initializer(_))
        && value.readers.len() == 1
        && tensor.value == source
        && !value.is_output
}
