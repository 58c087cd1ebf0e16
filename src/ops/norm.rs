//! Normalisations. Those whose statistic runs over an axis pin it: removing a channel would change the statistic.

use super::cx::{Answer, NodeCx, norm_axes};
use super::patch::Patch;
use super::relate::{In, Out, Relate, Repair};
use super::{OpRule, Shapes};
use crate::channels::model::Role;
use crate::refuse;

pub(super) const BATCH_NORM: &[&str] = &["BatchNormalization"];
pub(super) const INSTANCE_NORM: &[&str] = &["InstanceNormalization"];
pub(super) const LAYER_NORM: &[&str] = &["LayerNormalization", "RMSNormalization"];
pub(super) const GROUP_NORM: &[&str] = &["GroupNormalization"];
pub(super) const AXIS_NORM: &[&str] =
    &["Softmax", "LogSoftmax", "Hardmax", "LpNormalization", "MeanVarianceNormalization"];
pub(super) const LRN: &[&str] = &["LRN"];

/// Why a statistic holds the channels that it runs over.
pub const STATISTIC: &str = "the normalisation's statistic runs over this axis; removing an index would change it";

/// Per-channel affine map (inference), or statistics over all other axes (training mode).
pub struct BatchNormalization;
/// Statistics per sample and channel.
pub struct InstanceNormalization;
/// Statistics over the trailing axes.
pub struct LayerNormalization;
/// Statistics over groups of channels.
pub struct GroupNormalization;
/// Softmax and kin: statistics along named axes.
pub struct AxisNormalization;
/// Local response over neighbouring channels.
pub struct Lrn;

/// Whether a batch normalization uses the batch's own statistics: by attribute, or, before opset 14, because it gives
/// them out.
pub(super) fn batch_statistics(cx: &NodeCx) -> bool {
    let gives = (1..cx.n_outputs()).any(|o| cx.graph.output(cx.id, o).is_some());
    cx.int("training_mode", 0) != 0 || (cx.opset < 14 && gives)
}

/// Parameters are vectors with one element per channel.
fn per_channel(r: &Relate, slots: std::ops::Range<usize>, channels: usize) -> Answer<()> {
    for s in slots {
        if r.cx.shape(s)? != [channels] {
            refuse!("parameter {s} of shape {:?} for {channels} channels", r.cx.shape(s)?);
        }
    }
    Ok(())
}

impl OpRule for BatchNormalization {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let x = cx.shape(0)?;
        let channels = if x.len() < 2 { 1 } else { x[1] };
        if let Some(p) = (1..5).filter_map(|s| cx.shape(s).ok()).find(|p| *p != [channels]) {
            refuse!("parameters of shape {p:?} for {channels} channel(s)");
        }
        let mut out = vec![Some(x.to_vec())];
        out.resize(cx.n_outputs().max(1), Some(vec![channels]));
        Ok(out)
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        let x = r.cx.shape(0)?;
        if x.len() < 2 || r.cx.int("spatial", 1) != 1 {
            refuse!("input of rank {} or per-position statistics (spatial = 0)", x.len());
        }
        per_channel(r, 1..5, x[1])?;
        let training = batch_statistics(&r.cx);
        for a in (0..x.len()).filter(|&a| a != 1) {
            if training {
                r.pin(In(0, a), STATISTIC);
                r.pin(Out(0, a), STATISTIC);
            } else {
                r.tie(In(0, a), Out(0, a))?;
            }
        }
        r.tie(In(0, 1), Out(0, 1))?;
        for s in 1..5 {
            r.tie(In(s, 0), Out(0, 1))?;
            r.site(if s == 2 { Role::Bias } else { Role::PerChannel }, s, 0);
        }
        for o in 1..r.cx.n_outputs() {
            if r.cx.graph.output(r.cx.id, o).is_some() {
                r.tie(Out(o, 0), Out(0, 1))?;
            }
        }
        if !training {
            let epsilon = r.cx.float("epsilon", 1e-5);
            r.batch_norm([1, 2, 3, 4], epsilon);
        }
        Ok(())
    }
}

impl OpRule for InstanceNormalization {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        Ok(vec![Some(cx.shape(0)?.to_vec())])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        let channels = r.size(In(0, 1))?;
        per_channel(r, 1..3, channels)?;
        for a in 0..r.cx.rank(0)? {
            if a < 2 {
                r.tie(In(0, a), Out(0, a))?;
            } else {
                r.pin(In(0, a), STATISTIC);
                r.pin(Out(0, a), STATISTIC);
            }
        }
        for s in 1..3 {
            r.tie(In(s, 0), Out(0, 1))?;
            r.site(if s == 2 { Role::Bias } else { Role::PerChannel }, s, 0);
        }
        Ok(())
    }
}

/// Ties all axes of input 0 and output 0 but these, which it pins.
fn pin_axes(r: &mut Relate, pinned: &[usize], reason: &str) -> Answer<()> {
    for a in 0..r.cx.rank(0)? {
        if pinned.contains(&a) {
            r.pin(In(0, a), reason);
            r.pin(Out(0, a), reason);
        } else {
            r.tie(In(0, a), Out(0, a))?;
        }
    }
    Ok(())
}

impl OpRule for LayerNormalization {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let x = cx.shape(0)?;
        let axis = cx.axis(-1, x.len())?;
        let mut stat = x[..axis].to_vec();
        stat.resize(x.len(), 1);
        let mut out = vec![Some(x.to_vec())];
        out.resize(cx.n_outputs().max(1), Some(stat));
        Ok(out)
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        let rank = r.cx.rank(0)?;
        let axis = r.cx.axis(-1, rank)?;
        // The statistics, one for each index of the axes before.
        for o in 1..r.cx.n_outputs() {
            let given = r.cx.graph.output(r.cx.id, o).is_some();
            for a in (0..axis).filter(|_| given) {
                r.tie(In(0, a), Out(o, a))?;
            }
        }
        // Without a scale there is nothing to repair with.
        if r.policy.approximate_norm && axis + 1 == rank && r.is_constant(1) && r.cx.rank(1)? == 1 {
            for a in 0..rank {
                r.tie(In(0, a), Out(0, a))?;
            }
            r.approximate(In(0, axis), Repair::Scale(1));
            for s in 1..3 {
                if !r.cx.has(s) {
                    continue;
                }
                r.tie(In(s, 0), Out(0, axis))?;
                r.site(if s == 2 { Role::Bias } else { Role::PerChannel }, s, 0);
            }
            return Ok(());
        }
        for a in 0..rank {
            if a < axis {
                r.tie(In(0, a), Out(0, a))?;
                continue;
            }
            r.pin(In(0, a), STATISTIC);
            r.select(Out(0, a));
        }
        for s in 1..r.cx.n_inputs() {
            if r.cx.has(s) {
                for a in 0..r.cx.rank(s)? {
                    r.pin(In(s, a), STATISTIC);
                }
            }
        }
        Ok(())
    }
}

impl OpRule for GroupNormalization {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let x = cx.shape(0)?;
        let (groups, channels) = norm_groups(cx)?;
        for s in 1..3 {
            // One scale a group until opset 20, one a channel since.
            if cx.shape(s).is_ok_and(|p| p != [channels] && p != [groups]) {
                refuse!("parameter {s} of shape {:?} for {channels} channels in {groups} groups", cx.shape(s)?);
            }
        }
        Ok(vec![Some(x.to_vec())])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        let (groups, channels) = norm_groups(&r.cx)?;
        let block = channels / groups;
        r.tie(In(0, 0), Out(0, 0))?;
        for a in 2..r.cx.rank(0)? {
            r.pin(In(0, a), STATISTIC);
            r.pin(Out(0, a), STATISTIC);
        }
        if groups == 1 && r.policy.approximate_norm && r.is_constant(1) && r.size(In(1, 0))? == channels {
            r.tie(In(0, 1), Out(0, 1))?;
            r.approximate(In(0, 1), Repair::Scale(1));
            for s in 1..3 {
                r.tie(In(s, 0), Out(0, 1))?;
                r.site(if s == 2 { Role::Bias } else { Role::PerChannel }, s, 0);
            }
            return Ok(());
        }
        if groups == 1 {
            r.pin(In(0, 1), STATISTIC);
            r.pin(Out(0, 1), STATISTIC);
        }
        // The statistic of a group runs over all its channels: they leave together.
        r.tie(In(0, 1), Out(0, 1))?;
        r.tie_map(In(0, 1), Out(0, 1), (0..channels).map(|c| (c / block * block, c)))?;
        for s in 1..3 {
            let n = r.size(In(s, 0))?;
            let per = if n == channels { 1 } else { block };
            r.tie_map(In(s, 0), Out(0, 1), (0..n).map(|i| (i, i * per)))?;
            r.site(if s == 2 { Role::Bias } else { Role::PerChannel }, s, 0);
        }
        Ok(())
    }

    fn patch(&self, p: &mut Patch) -> Answer<()> {
        let (groups, channels) = norm_groups(&p.cx)?;
        let gone = p.removed(Out(0, 1)).len();
        if gone > 0 && groups > 1 {
            p.set_int("num_groups", (groups - gone / (channels / groups)) as i64);
        }
        Ok(())
    }
}

/// `(groups, channels)` of a group normalization.
fn norm_groups(cx: &NodeCx) -> Answer<(usize, usize)> {
    let channels = *cx.shape(0)?.get(1).ok_or("an input without channels")?;
    match usize::try_from(cx.int("num_groups", 0)) {
        Ok(g) if g > 0 && channels > 0 && channels.is_multiple_of(g) => Ok((g, channels)),
        _ => refuse!("{channels} channels do not divide into {} groups", cx.int("num_groups", 0)),
    }
}

impl OpRule for AxisNormalization {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        Ok(vec![Some(cx.shape(0)?.to_vec())])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        let rank = r.cx.rank(0)?;
        if r.policy.approximate_norm && r.cx.node.op_type() == "LpNormalization" && r.cx.int("p", 2) == 2 {
            for a in 0..rank {
                r.tie(In(0, a), Out(0, a))?;
            }
            r.approximate(In(0, r.cx.axis(-1, rank)?), Repair::Normalised);
            return Ok(());
        }
        let axes = match r.cx.node.op_type() {
            "MeanVarianceNormalization" => norm_axes(&r.cx.list("axes").unwrap_or_else(|| vec![0, 2, 3]), rank)?,
            "LpNormalization" => vec![r.cx.axis(-1, rank)?],
            // Before opset 13 the axes from `axis` on are flattened and normalised together.
            _ if r.cx.opset < 13 => (r.cx.axis(1, rank)?..rank).collect(),
            _ => vec![r.cx.axis(-1, rank)?],
        };
        pin_axes(r, &axes, STATISTIC)
    }
}

impl OpRule for Lrn {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        Ok(vec![Some(cx.shape(0)?.to_vec())])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        pin_axes(r, &[1], "local response normalisation reads neighbouring channels")
    }
}
