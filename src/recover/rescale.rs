//! Statistics over channels, put right for the channels that leave (`--norm approximate`).
//!
//! A mean over fewer channels, or a sum of fewer squares, is another number; it comes near the old one when it is scaled
//! by the share that the removed channels had in it. That share is taken from the weights: the energy of a channel is the
//! sum of squares of the filters that make it (all of them, on a residual stream). Channels that no weight makes count as
//! the mean of the others. An approximation all the same: the shares differ from input to input.

use crate::channels::weights::Weights;
use crate::channels::{AxisId, Role};
use crate::error::Result;
use crate::onnx::proto::{TensorProto, tensor_proto::DataType};
use crate::onnx::{Model, tensor};
use crate::ops::relate::{Approximation, Repair};
use crate::prune::Traced;
use crate::rewrite::Edit;
use crate::score::ParamReader;
use std::collections::{BTreeMap, BTreeSet};

/// The approximations that this removal makes use of.
pub fn used<'a>(t: &'a Traced, removed: &'a [Vec<usize>]) -> impl Iterator<Item = &'a Approximation> {
    let gone = |a: &&Approximation| removed.get(a.axis.0 as usize).is_some_and(|r| !r.is_empty());
    t.trace.approximations.iter().filter(gone)
}

/// The whole model, its statistics scaled for what will leave. `removed` is per axis.
///
/// # Errors
/// When a weight cannot be read.
pub fn rescale(t: &Traced, removed: &[Vec<usize>]) -> Result<Model> {
    let mut edit = Edit::new(&t.analysis, &t.trace);
    let float = t.analysis.graph.proto.initializer.iter().map(|x| x.data_type()).find(|&d| tensor::is_float(d));
    let like = TensorProto { data_type: Some(float.unwrap_or(DataType::Float as i32)), ..TensorProto::default() };
    let energies = Energies::new(t)?;
    for a in used(t, removed) {
        let gone: BTreeSet<usize> = removed.get(a.axis.0 as usize).into_iter().flatten().copied().collect();
        let energy = energies.of(a.axis);
        let share = |x: &dyn Fn(f64) -> f64| {
            let all: f64 = energy.iter().map(|&e| x(e)).sum();
            let kept: f64 = energy.iter().enumerate().filter(|(i, _)| !gone.contains(i)).map(|(_, &e)| x(e)).sum();
            if all > 0.0 && kept > 0.0 { kept / all } else { 1.0 }
        };
        let (e, m) = (share(&|x| x), share(&f64::sqrt));
        let count = (energy.len() - gone.len()) as f64 / energy.len() as f64;
        match a.repair {
            Repair::Nothing => {}
            Repair::Scale(slot) => {
                let Some(id) = t.trace.tensors.inputs[a.node.0 as usize].get(slot).copied().flatten() else { continue };
                let old = t.trace.channels.tensor(id).source.and_then(|s| t.analysis.graph.constant(s));
                if let Some(old) = old {
                    let values: Vec<f64> = tensor::to_f64(old)?.into_iter().map(|v| v * (e / count).sqrt()).collect();
                    edit.replace(id, tensor::from_f64_like(old, &tensor::dims(old)?, &values)?);
                }
            }
            Repair::MeanSquare => edit.scale_output(a.node, 0, count / e, &like)?,
            Repair::MeanMagnitude => edit.scale_output(a.node, 0, count / m, &like)?,
            Repair::Norm => edit.scale_output(a.node, 0, 1.0 / e.sqrt(), &like)?,
            Repair::Normalised => edit.scale_output(a.node, 0, e.sqrt(), &like)?,
        }
    }
    edit.finish()
}

/// Energy per channel, from the weights that make it.
struct Energies<'a> {
    t: &'a Traced<'a>,
    /// `[group][channel]`.
    groups: Vec<Vec<f64>>,
    /// Groups that live on an axis.
    on: BTreeMap<AxisId, Vec<usize>>,
}

impl<'a> Energies<'a> {
    fn new(t: &'a Traced<'a>) -> Result<Self> {
        let ch = &t.trace.channels;
        let weights = Weights { graph: t.analysis.graph, channels: ch, removed: &[] };
        let mut on: BTreeMap<AxisId, Vec<usize>> = BTreeMap::new();
        for (g, group) in ch.groups.iter().enumerate() {
            for &(x, _) in &group.axes {
                on.entry(x).or_default().push(g);
            }
        }
        let wanted: BTreeSet<usize> =
            t.trace.approximations.iter().filter_map(|a| on.get(&a.axis)).flatten().copied().collect();
        let mut groups: Vec<Vec<f64>> = ch.groups.iter().map(|g| vec![0.0; g.channels.len()]).collect();
        for g in wanted {
            let (group, Some(energy)) = (&ch.groups[g], groups.get_mut(g)) else { continue };
            for site in group.sites.iter().filter(|s| s.role == Role::Producer) {
                let info = ch.axis(site.axis);
                let tensor = ch.tensor(info.tensor);
                if info.fold > 1 || !tensor::is_float(tensor.elem_type) {
                    continue;
                }
                let values = weights.values(info.tensor)?;
                let inner: usize = tensor.dims[info.axis + 1..].iter().product();
                let mut of = vec![0.0; info.len];
                for (k, v) in values.iter().enumerate() {
                    if let Some(e) = of.get_mut(k / inner.max(1) % info.len) {
                        *e += f64::from(*v).powi(2);
                    }
                }
                for (c, e) in group.channels.iter().zip(energy.iter_mut()) {
                    *e += c.on(site.axis).filter_map(|i| of.get(i)).sum::<f64>();
                }
            }
        }
        Ok(Energies { t, groups, on })
    }

    /// Per index of the axis.
    fn of(&self, axis: AxisId) -> Vec<f64> {
        let ch = &self.t.trace.channels;
        let mut out: Vec<Option<f64>> = vec![None; ch.axis(axis).len];
        for &g in self.on.get(&axis).into_iter().flatten() {
            for (c, &e) in ch.groups[g].channels.iter().zip(&self.groups[g]) {
                let places = c.on(axis).count().max(1) as f64;
                for i in c.on(axis) {
                    if let Some(slot) = out.get_mut(i).filter(|_| e > 0.0) {
                        *slot = Some(e / places);
                    }
                }
            }
        }
        let known: Vec<f64> = out.iter().copied().flatten().collect();
        let mean = if known.is_empty() { 1.0 } else { known.iter().sum::<f64>() / known.len() as f64 };
        out.into_iter().map(|e| e.unwrap_or(mean)).collect()
    }
}
