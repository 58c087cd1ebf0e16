//! Which slices of which trained tensors make up each channel.

use super::{Kind, Sparse};
use crate::channels::{AxisId, Channels, Role, TensorId};
use crate::error::{Error, Result};
use crate::train::step::Layout;
use std::collections::{BTreeMap, BTreeSet};

/// An axis of a trained tensor on which channels have indices.
#[derive(Clone, Debug, PartialEq)]
pub struct Sliced {
    /// Index of the tensor in the [`Layout`].
    pub parameter: usize,
    /// The axis.
    pub axis: usize,
    /// The number of convolution groups that it runs over, see [`crate::channels::Axis::fold`].
    pub fold: usize,
    /// The tensor's shape.
    pub dims: Vec<usize>,
    /// Per index (unfolded): the channel.
    pub channel: Vec<Option<usize>>,
    /// What the slices do.
    pub part: Part,
    /// Whether the slices count in norms. On axis 1 of a depthwise weight they are those of axis 0 again.
    pub counts: bool,
}

/// What a channel's slice does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// It makes the channel.
    Makes,
    /// It reads the channel: a gate stands here.
    Reads,
    /// `γ` of a batch normalisation.
    Scale,
    /// `β` of a batch normalisation.
    Shift,
    /// A bias.
    Bias,
    /// Another parameter of the channel, as the slope of an activation. It is left as it is: it might divide.
    Other,
}

impl Sliced {
    /// The length of the axis, unfolded.
    pub fn len(&self) -> usize {
        self.channel.len()
    }

    /// Elements of one slice.
    pub fn slice(&self) -> usize {
        self.dims.iter().product::<usize>() / self.len().max(1)
    }

    /// The index (unfolded) of a position in the tensor, row-major.
    pub fn index(&self, at: usize) -> usize {
        let inner: usize = self.dims.iter().skip(self.axis + 1).product();
        let stored = self.dims.get(self.axis).copied().unwrap_or(1).max(1);
        let local = at / inner.max(1) % stored;
        let whole: usize = self.dims.iter().product();
        let block = at / (whole / self.fold.max(1)).max(1);
        if self.fold > 1 { block * stored + local } else { local }
    }

    /// The shape of what broadcasts along the axis, and for each of its elements the index.
    pub fn along(&self) -> (Vec<usize>, Vec<usize>) {
        let mut dims = vec![1; self.dims.len()];
        if let (Some(d), Some(&n)) = (dims.get_mut(self.axis), self.dims.get(self.axis)) {
            *d = n;
        }
        let stored = self.dims.get(self.axis).copied().unwrap_or(1);
        if self.fold == 1 {
            return (dims, (0..stored).collect());
        }
        let rows = self.dims.first().copied().unwrap_or(1);
        if let Some(d) = dims.first_mut() {
            *d = rows;
        }
        let per = (rows / self.fold).max(1);
        (dims, (0..rows).flat_map(|r| (0..stored).map(move |j| r / per * stored + j)).collect())
    }
}

/// The channels of a run, numbered over all groups that take part.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Slices {
    /// Groups that take part, by their index in [`Channels::groups`], with the number of their first channel.
    pub groups: Vec<(usize, usize)>,
    /// The number of channels.
    pub channels: usize,
    /// Their slices.
    pub axes: Vec<Sliced>,
}

impl Slices {
    /// Finds them.
    ///
    /// A constant that several layers read counts where all of them mean the same channels by it; else it is left out, and
    /// with it, where a gate would have to stand on it, its group.
    ///
    /// # Errors
    /// [`Error::Train`] when the model has no channel that this kind of training could drive to nothing.
    pub fn new(sparse: &Sparse, layout: &Layout) -> Result<Self> {
        let graph = sparse.traced.analysis.graph;
        let trace = &sparse.traced.trace;
        let ch = &trace.channels;
        let mut readings: BTreeMap<&str, Vec<TensorId>> = BTreeMap::new();
        for (i, t) in ch.tensors.iter().enumerate() {
            if let Some(source) = t.source {
                readings.entry(&graph.value(source).name).or_default().push(TensorId(i as u32));
            }
        }
        let reads: BTreeSet<AxisId> = trace.contractions.iter().map(|c| c.axis).collect();
        let parts = parts(ch, &reads);
        let owners = owners(ch);
        let mut axes: Vec<(Sliced, BTreeSet<usize>)> = Vec::new();
        let mut trained: BTreeSet<AxisId> = BTreeSet::new();
        for (p, parameter) in layout.parameters.iter().enumerate() {
            let Some(tensors) = readings.get(parameter.name.as_str()) else { continue };
            let mut seen: Option<Vec<(Sliced, BTreeSet<usize>)>> = None;
            let mut alike = true;
            for &t in tensors {
                let mut own = Vec::new();
                for id in ch.tensor(t).axes.iter().flatten() {
                    let (Some(owner), Some(&part)) = (owners.get(id), parts.get(id)) else { continue };
                    let axis = ch.axis(*id);
                    let channel = owner.iter().map(|o| o.map(|(g, c)| g << 32 | c)).collect();
                    let groups = owner.iter().flatten().map(|o| o.0).collect();
                    let dims = parameter.dims.clone();
                    let (axis, fold) = (axis.axis, axis.fold);
                    let counts = part != Part::Other;
                    own.push((Sliced { parameter: p, axis, fold, dims, channel, part, counts }, groups));
                }
                alike &= *seen.get_or_insert_with(|| own.clone()) == own;
            }
            if let Some(mut own) = seen.filter(|_| alike) {
                trained.extend(tensors.iter().flat_map(|t| ch.tensor(*t).axes.iter().flatten()));
                once(&mut own);
                axes.extend(own);
            }
        }
        let wanted = |part: Part| match sparse.what.kind {
            Kind::BnL1 => part == Part::Scale,
            Kind::GroupLasso => part != Part::Other,
            Kind::L0 | Kind::Dynamic => part == Part::Reads,
        };
        let found: BTreeSet<usize> =
            axes.iter().filter(|a| wanted(a.0.part)).flat_map(|a| a.1.iter().copied()).collect();
        let gated = sparse.what.kind.has_gates();
        let shut_out =
            |g: &usize| gated && ch.groups[*g].axes.iter().any(|(a, _)| reads.contains(a) && !trained.contains(a));
        let mut slices = Slices::default();
        let mut first: BTreeMap<usize, usize> = BTreeMap::new();
        for g in found.into_iter().filter(|g| !shut_out(g)) {
            first.insert(g, slices.channels);
            slices.groups.push((g, slices.channels));
            slices.channels += ch.groups[g].channels.len();
        }
        for (mut sliced, _) in axes {
            for c in &mut sliced.channel {
                *c = c.and_then(|c| first.get(&(c >> 32)).map(|f| f + (c & 0xffff_ffff)));
            }
            if sliced.channel.iter().any(Option::is_some) {
                slices.axes.push(sliced);
            }
        }
        if slices.channels == 0 {
            return Err(Error::Train { path: graph.model.path.clone(), message: nothing(sparse.what.kind).into() });
        }
        Ok(slices)
    }

    /// The gated axes of a tensor, by their index in [`axes`](Self::axes).
    pub fn gates_of(&self, parameter: usize) -> impl Iterator<Item = usize> + '_ {
        let on = move |a: &Sliced| a.parameter == parameter && a.part == Part::Reads;
        self.axes.iter().enumerate().filter(move |(_, a)| on(a)).map(|(i, _)| i)
    }

    /// Per channel: the number of elements of its counted slices.
    pub fn elements(&self) -> Vec<usize> {
        let mut n = vec![0; self.channels];
        for a in self.axes.iter().filter(|a| a.counts) {
            for c in a.channel.iter().flatten() {
                if let Some(n) = n.get_mut(*c) {
                    *n += a.slice();
                }
            }
        }
        n
    }

    /// Per channel: places in one vector of all indices of all counted axes, one axis after the other; and its length.
    pub fn places(&self, with: &dyn Fn(&Sliced) -> bool) -> (Vec<Vec<usize>>, usize) {
        let mut places = vec![Vec::new(); self.channels];
        let mut at = 0;
        for a in self.axes.iter().filter(|a| with(a)) {
            for (i, c) in a.channel.iter().enumerate() {
                if let Some(p) = c.and_then(|c| places.get_mut(c)) {
                    p.push(at + i);
                }
            }
            at += a.len();
        }
        (places, at)
    }
}

fn nothing(kind: Kind) -> &'static str {
    match kind {
        Kind::BnL1 => {
            "bn-l1 works on the scales of batch normalisations, and no prunable channel has a trained one (they may have been \
             folded away); take group-lasso, which does without"
        }
        _ => {
            "sparse training finds no prunable channel with trained weights; `onnx-prune inspect --why` says what pins channels"
        }
    }
}

/// What the slices on each axis do.
fn parts(ch: &Channels, reads: &BTreeSet<AxisId>) -> BTreeMap<AxisId, Part> {
    let mut parts = BTreeMap::new();
    for g in &ch.groups {
        for s in &g.sites {
            let part = match s.role {
                Role::Producer => Part::Makes,
                Role::Consumer => Part::Reads,
                Role::Bias => Part::Bias,
                Role::PerChannel => Part::Other,
            };
            parts.insert(s.axis, part);
        }
    }
    parts.extend(reads.iter().map(|a| (*a, Part::Reads)));
    for bn in ch.groups.iter().flat_map(|g| &g.batch_norms) {
        let of = |t: TensorId| ch.tensor(t).axes.first().copied().flatten();
        parts.extend(of(bn.scale).map(|a| (a, Part::Scale)));
        parts.extend(of(bn.shift).map(|a| (a, Part::Shift)));
    }
    parts
}

/// Per axis and index: group and channel.
fn owners(ch: &Channels) -> BTreeMap<AxisId, Vec<Option<(usize, usize)>>> {
    let mut owners: BTreeMap<AxisId, Vec<Option<(usize, usize)>>> = BTreeMap::new();
    for (g, group) in ch.groups.iter().enumerate() {
        for (c, channel) in group.channels.iter().enumerate() {
            for &(axis, i) in &channel.members {
                let all = owners.entry(axis).or_insert_with(|| vec![None; ch.axis(axis).len]);
                if let Some(o) = all.get_mut(i as usize) {
                    *o = Some((g, c));
                }
            }
        }
    }
    owners
}

/// Has slices that an earlier axis of the tensor has too count only there.
fn once(own: &mut [(Sliced, BTreeSet<usize>)]) {
    let Some((first, rest)) = own.split_first_mut() else { return };
    for (other, _) in rest {
        let same = |at| first.0.channel.get(first.0.index(at)) == other.channel.get(other.index(at));
        let all: usize = other.dims.iter().product();
        other.counts &= !(other.fold > 1 && other.dims.get(other.axis) == Some(&1) && (0..all).all(same));
    }
}
