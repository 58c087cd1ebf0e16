//! The times of a model's layers over the channel counts that the plan may choose.

use super::Traced;
use crate::channels::{AxisId, Channels, Tensor};
use crate::error::Result;
use crate::evaluate::layer_times::{LayerShape, LayerTimer};
use crate::graph::NodeId;
use crate::onnx::proto::{AttributeProto, tensor_proto::DataType};
use crate::ops;
use crate::ops::layer::{Form, layer};
use crate::plan::{LayerTime, Times};
use crate::runtime::Array;
use std::collections::HashMap;

/// Shares of what may go at which a layer is measured: with one axis, and with two of its own.
const ONE: [f64; 6] = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0];
const TWO: [f64; 5] = [0.0, 0.25, 0.5, 0.75, 1.0];

/// Measures all layers with constant float32 weights whose channels can go. `levels`: per unit the numbers of bundles that it
/// may lose; `whole_ms`: what the whole model takes, for the rest.
///
/// # Errors
/// When the runtime cannot run a layer.
pub(super) fn table(
    t: &Traced,
    levels: &[Vec<usize>],
    timer: &mut LayerTimer,
    feed: &[(String, Array)],
    whole_ms: f64,
    progress: &dyn Fn(&str),
) -> Result<Times> {
    let table = Table::new(t, levels, feed);
    let mut times = Times::default();
    let mut known = 0.0;
    let nodes: Vec<NodeId> = t.trace.channels.macs.iter().map(|m| m.node).collect();
    for (i, &node) in nodes.iter().enumerate() {
        let Some(layer) = table.layer(node) else { continue };
        progress(&format!("time of layer {} of {}", i + 1, nodes.len()));
        let lens = layer.lens(&table);
        let mut ms = Vec::new();
        for point in points(&lens, layer.tied()) {
            ms.push(timer.ms(&layer.shape(&point))?);
        }
        let axes: Vec<AxisId> = layer.axes();
        let lens: Vec<Vec<usize>> = if layer.tied() { lens.into_iter().take(1).collect() } else { lens };
        let time = LayerTime { axes, lens, ms };
        // The whole layer has the greatest lengths.
        known += time.ms.last().copied().unwrap_or(0.0);
        times.layers.push(time);
    }
    times.rest_ms = (whole_ms - known).max(0.0);
    Ok(times)
}

/// All combinations, the last axis running fastest; or, tied, the lengths side by side.
fn points(lens: &[Vec<usize>], tied: bool) -> Vec<Vec<usize>> {
    match lens {
        [a, b] if tied => a.iter().zip(b).map(|(&x, &y)| vec![x, y]).collect(),
        [a, b] => a.iter().flat_map(|&x| b.iter().map(move |&y| vec![x, y])).collect(),
        _ => lens.iter().flatten().map(|&x| vec![x]).collect(),
    }
}

/// By axis, from the input of the highest rank: the analysis chooses extents that a model leaves open, the inputs have others.
fn open(t: &Traced, feed: &[(String, Array)]) -> Vec<(usize, usize)> {
    let known = feed.iter().filter_map(|(name, array)| {
        let assigned = t.analysis.dims(t.analysis.graph.find(name)?)?;
        (assigned.len() == array.dims.len()).then_some((assigned, array))
    });
    let Some((assigned, array)) = known.max_by_key(|(dims, _)| dims.len()) else { return Vec::new() };
    assigned.iter().zip(&array.dims).map(|(&(of, _), &by)| (by, of.max(1))).collect()
}

struct Table<'a> {
    t: &'a Traced<'a>,
    ch: &'a Channels,
    /// `[axis]`: the groups that shrink it, and by how much per channel.
    groups_of: HashMap<AxisId, Vec<(usize, usize)>>,
    /// `[group]`: how many of its channels may go, ascending from 0.
    losses: Vec<Vec<usize>>,
    activations: HashMap<u32, usize>,
    /// `[axis]`: what an open extent of the analysis is multiplied by, and divided by, to be that of the inputs.
    open: Vec<(usize, usize)>,
}

/// One side of a layer.
struct Side {
    /// Absent where nothing can go.
    axis: Option<AxisId>,
    len: usize,
}

struct Layer {
    op: String,
    opset: i64,
    attributes: Vec<AttributeProto>,
    input: Vec<usize>,
    /// Position of the channels in the input.
    at: usize,
    weight: Vec<usize>,
    bias: bool,
    seen: ops::layer::Layer,
    /// Groups go as a whole; else each of them loses as many.
    whole_groups: bool,
    read: Side,
    made: Side,
    /// The same channels on both sides.
    same: bool,
}

impl<'a> Table<'a> {
    fn new(t: &'a Traced<'a>, levels: &[Vec<usize>], feed: &[(String, Array)]) -> Self {
        let ch = &t.trace.channels;
        let mut groups_of: HashMap<AxisId, Vec<(usize, usize)>> = HashMap::new();
        for (g, group) in ch.groups.iter().enumerate() {
            for &(axis, mult) in &group.axes {
                groups_of.entry(axis).or_default().push((g, mult as usize));
            }
        }
        let mut losses = vec![vec![0]; ch.groups.len()];
        for (unit, levels) in ch.units.iter().zip(levels) {
            let mut of: HashMap<usize, f64> = HashMap::new();
            for cell in &unit.cells {
                for &(g, _) in cell {
                    *of.entry(g).or_default() += 1.0 / cell.len() as f64;
                }
            }
            for (g, share) in of {
                if let Some(slot) = losses.get_mut(g) {
                    *slot = levels.iter().map(|&k| (k as f64 * share).round() as usize).collect();
                }
            }
        }
        let activations = ch.tensors.iter().enumerate().filter(|(_, t)| t.source.is_none());
        let activations = activations.map(|(i, t)| (t.value.0, i)).collect();
        let open = open(t, feed);
        Self { t, ch, groups_of, losses, activations, open }
    }

    fn side(&self, tensor: &Tensor, at: usize) -> Option<Side> {
        let axis = tensor.axes.get(at).copied().flatten().filter(|a| self.groups_of.contains_key(a));
        Some(Side { axis, len: *tensor.dims.get(at)? })
    }

    /// `None` for what is not measured: it counts in the rest.
    fn layer(&self, node: NodeId) -> Option<Layer> {
        let graph = self.t.analysis.graph;
        let proto = graph.node(node);
        let activation = |v| self.activations.get(&v).and_then(|&i| self.ch.tensors.get(i));
        let x = activation(graph.input(node, 0)?.0)?;
        let y = activation(graph.output(node, 0)?.0)?;
        let w = self.ch.tensors.iter().find(|t| t.source.is_some() && t.readers.contains(&(node, 1)))?;
        let float = DataType::Float as i32;
        if w.elem_type != float || graph.constant(graph.input(node, 1)?).is_none() {
            return None;
        }
        let seen = layer(&self.t.analysis.cx(node, 0, &[]))?;
        let last = |t: &Tensor| t.dims.len().checked_sub(1);
        let (at, out) = match seen.form {
            Form::Product { .. } => (last(x)?, last(y)?),
            Form::Conv(_) | Form::ConvTranspose(_) => (1, 1),
        };
        let (read, made) = (self.side(x, at)?, self.side(y, out)?);
        if read.axis.is_none() && made.axis.is_none() {
            return None;
        }
        let of = |s: &Side| s.axis.and_then(|a| self.groups_of.get(&a)).cloned();
        let mut input = x.dims.clone();
        let assigned = self.t.analysis.dims(graph.input(node, 0)?).unwrap_or_default();
        for ((size, (_, fixed)), (by, of)) in input.iter_mut().zip(assigned).zip(&self.open) {
            if !fixed {
                *size = (*size * by / of).max(1);
            }
        }
        let folded = w.axes.get(1).copied().flatten().filter(|a| self.groups_of.contains_key(a)).is_some();
        Some(Layer {
            whole_groups: seen.groups > 1 && (seen.depthwise() || !folded),
            op: graph.op(node),
            seen,
            opset: self.t.analysis.opset,
            attributes: proto.attribute.iter().filter(|a| a.name() != "group").cloned().collect(),
            bias: graph.input(node, 2).is_some(),
            weight: w.dims.clone(),
            same: read.axis.is_some() && of(&read) == of(&made) && read.len == made.len,
            input,
            at,
            read,
            made,
        })
    }
}

impl Layer {
    /// Both sides shrink together.
    fn tied(&self) -> bool {
        self.same
    }

    fn axes(&self) -> Vec<AxisId> {
        let both = [self.read.axis, self.made.axis];
        both.into_iter().flatten().take(if self.same { 1 } else { 2 }).collect()
    }

    /// Per axis that can shrink: the lengths to measure, ascending.
    fn lens(&self, table: &Table) -> Vec<Vec<usize>> {
        let sides: Vec<(&Side, AxisId)> =
            [&self.read, &self.made].into_iter().filter_map(|s| Some((s, s.axis?))).collect();
        let shares = if sides.len() == 2 && !self.same { &TWO[..] } else { &ONE[..] };
        let of = |(side, axis): (&Side, AxisId)| {
            let groups = table.groups_of.get(&axis).map(Vec::as_slice).unwrap_or_default();
            let len = |share: f64| {
                let gone = |&(g, mult): &(usize, usize)| {
                    let losses = table.losses.get(g).map(Vec::as_slice).unwrap_or_default();
                    let most = losses.last().copied().unwrap_or(0) as f64;
                    let near = losses.iter().min_by(|a, b| {
                        let off = |k: usize| (k as f64 - share * most).abs();
                        off(**a).total_cmp(&off(**b))
                    });
                    mult * near.copied().unwrap_or(0)
                };
                side.len.saturating_sub(groups.iter().map(gone).sum()).max(1)
            };
            let mut lens: Vec<usize> = shares.iter().map(|&s| len(s)).collect();
            lens.sort_unstable();
            lens.dedup();
            lens
        };
        sides.into_iter().map(of).collect()
    }

    /// The layer with these lengths of its axes.
    fn shape(&self, point: &[usize]) -> LayerShape {
        let mut point = point.iter().copied();
        let mut next = |side: &Side| if side.axis.is_some() { point.next().unwrap_or(side.len) } else { side.len };
        let (read, made) = (next(&self.read), next(&self.made));
        let mut input = self.input.clone();
        if let Some(n) = input.get_mut(self.at) {
            *n = read;
        }
        let mut attributes = self.attributes.clone();
        let mut groups = self.seen.groups.max(1);
        if self.whole_groups {
            groups = (read * groups / self.read.len.max(1)).max(1);
        }
        if groups > 1 {
            let group = AttributeProto {
                name: Some("group".into()),
                r#type: Some(2),
                i: i64::try_from(groups).ok(),
                ..AttributeProto::default()
            };
            attributes.push(group);
        }
        let mut weight = self.weight.clone();
        let (inputs, outputs) = match self.seen.form {
            Form::Conv(_) => (read / groups, made),
            Form::ConvTranspose(_) => (read, made / groups),
            Form::Product { .. } => (read, made),
        };
        let (of_inputs, of_outputs) = self.seen.axes();
        for (axis, n) in [(of_inputs, inputs), (of_outputs, outputs)] {
            if let Some(stored) = weight.get_mut(axis) {
                *stored = n;
            }
        }
        LayerShape {
            op: self.op.clone(),
            attributes,
            opset: self.opset,
            input,
            weight,
            bias: if self.bias { made } else { 0 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flat::flatten;
    use crate::graph::Graph;
    use crate::plan::{self, Limits};
    use std::path::Path;

    #[test]
    fn whole_layers_have_the_shapes_of_the_model() {
        let (mut layers, mut grouped) = (0, 0);
        for name in ["residual.bn", "depthwise.folded", "shuffle.folded", "squeeze_excite.bn", "concat.bn"] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/{name}.onnx"));
            let model = crate::onnx::load(&path).unwrap();
            let flat = flatten(&model).unwrap();
            let graph = Graph::new(&flat).unwrap();
            let t = super::super::analyse(&graph).unwrap();
            let ch = &t.trace.channels;
            let none: Vec<Vec<f64>> = ch.groups.iter().map(|g| vec![0.0; g.channels.len()]).collect();
            let levels = plan::levels(ch, &none, &Limits::default()).unwrap();
            let feed = crate::runtime::random_inputs(&model, 0, &|_, _| 3).unwrap();
            let table = Table::new(&t, &levels, &feed);
            for node in ch.macs.iter().map(|m| m.node) {
                let Some(layer) = table.layer(node) else { continue };
                let lens = layer.lens(&table);
                assert!(lens.iter().all(|l| l.is_sorted() && l[0] >= 1), "{name} {lens:?}");
                let all = points(&lens, layer.tied());
                let whole = layer.shape(all.last().unwrap());
                let w = graph.constant(graph.input(node, 1).unwrap()).unwrap();
                assert_eq!(whole.weight, crate::onnx::tensor::dims(w).unwrap(), "{name} {}", graph.name(node));
                assert_eq!(whole.input[0], 3);
                let group = |a: &[AttributeProto]| a.iter().find(|a| a.name() == "group").map_or(1, |a| a.i());
                assert_eq!(group(&whole.attributes), group(&graph.node(node).attribute));
                // Fewer channels, and still whole groups of them.
                for point in &all {
                    let cut = layer.shape(point);
                    assert_eq!(cut.weight[2..], whole.weight[2..]);
                    assert!(cut.weight.iter().zip(&whole.weight).all(|(a, b)| a <= b && *a > 0));
                    if cut.op == "Conv" {
                        let groups = group(&cut.attributes) as usize;
                        assert_eq!(cut.weight[1] * groups, cut.input[1], "{name} {}", cut.key());
                        assert_eq!(cut.weight[0] % groups, 0);
                    }
                }
                layers += 1;
                grouped += usize::from(group(&whole.attributes) > 1);
            }
        }
        assert!(layers > 30 && grouped > 5, "{layers} {grouped}");
    }
}
