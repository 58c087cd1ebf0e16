//! The cost model: how long every axis stays, and what that costs, as a function of how many channels each group loses.

use super::times::{LayerTime, Times};
use super::{Budget, Costs};
use crate::channels::{AxisId, Channels, Cost};
use std::collections::BTreeMap;

/// Multiply-accumulates of the whole model (per sample) after `removed_counts[group]` channels left each group.
///
/// A missing count is 0, so `macs(ch, &[])` is the cost of the original.
pub fn macs(ch: &Channels, removed_counts: &[usize]) -> f64 {
    Measure::macs(ch).at(removed_counts)
}

/// Parameter elements of the whole model after `removed_counts[group]` channels left each group.
///
/// Instances of one deduplicated constant count once together as long as they are whole, and singly once they are cut.
pub fn params(ch: &Channels, removed_counts: &[usize]) -> f64 {
    Measure::params(ch).at(removed_counts)
}

/// Length of `axis` after `removed_counts[group]` channels left each group.
pub fn kept_len(ch: &Channels, axis: AxisId, removed_counts: &[usize]) -> usize {
    let gone: usize = ch
        .groups
        .iter()
        .zip(removed_counts)
        .filter(|&(_, &count)| count > 0)
        .flat_map(|(group, &count)| {
            group.axes.iter().filter(|&&(a, _)| a == axis).map(move |&(_, m)| m as usize * count)
        })
        .sum();
    ch.axis(axis).len.saturating_sub(gone)
}

/// One product of axis lengths.
struct Term {
    constant: f64,
    axes: Vec<usize>,
}

/// A part of a figure.
enum Item {
    /// Terms that stand for instances of one constant; every other term is alone.
    Products(Vec<Term>),
    /// A layer's time.
    Time(LayerTime),
}

impl Item {
    fn axes(&self) -> Vec<usize> {
        match self {
            Item::Products(terms) => terms.iter().flat_map(|t| t.axes.iter().copied()).collect(),
            Item::Time(layer) => layer.axes.iter().map(|a| a.0 as usize).collect(),
        }
    }
}

/// A figure that a budget can speak of, as a sum of products of axis lengths.
pub(super) struct Measure {
    /// Length of each axis in the original.
    lens: Vec<f64>,
    /// `[group]`: the axes that shrink with it and by how much per channel.
    axes_of: Vec<Vec<(usize, f64)>>,
    /// `[group]`: the items that depend on it, ascending.
    items_of: Vec<Vec<usize>>,
    items: Vec<Item>,
}

impl Measure {
    /// What a budget speaks of.
    pub(super) fn of(ch: &Channels, budget: &Budget, costs: Costs) -> Self {
        match budget {
            Budget::TargetLatency(_) => Self::times(ch, costs),
            Budget::Ratio(_) | Budget::Threshold(_) => Self::channels(ch),
            Budget::TargetMacs(_) => Self::macs(ch),
            Budget::TargetParams(_) => Self::params(ch),
        }
    }

    /// Milliseconds.
    fn times(ch: &Channels, times: Option<&Times>) -> Self {
        let Some(times) = times else { return Self::over_axes(ch, Vec::new()) };
        let mut items: Vec<Item> = times.layers.iter().map(|layer| Item::Time(layer.clone())).collect();
        items.push(Item::Products(vec![Term { constant: times.rest_ms, axes: Vec::new() }]));
        Self::over_axes(ch, items)
    }

    /// Multiply-accumulates.
    pub(super) fn macs(ch: &Channels) -> Self {
        let items = ch.macs.iter().map(|m| Item::Products(vec![term(&m.cost)])).collect();
        Self::over_axes(ch, items)
    }

    /// Parameter elements.
    pub(super) fn params(ch: &Channels) -> Self {
        let mut items: Vec<Item> = Vec::new();
        let mut of_source = BTreeMap::new();
        for p in &ch.params {
            let known = ch.tensor(p.tensor).source.map(|source| *of_source.entry(source).or_insert(items.len()));
            match known.and_then(|at| items.get_mut(at)) {
                Some(Item::Products(terms)) => terms.push(term(&p.cost)),
                _ => items.push(Item::Products(vec![term(&p.cost)])),
            }
        }
        Self::over_axes(ch, items)
    }

    /// Channels that stay.
    pub(super) fn channels(ch: &Channels) -> Self {
        let ids = 0..ch.groups.len();
        Self {
            lens: ch.groups.iter().map(|g| g.channels.len() as f64).collect(),
            axes_of: ids.clone().map(|g| vec![(g, 1.0)]).collect(),
            items_of: ids.clone().map(|g| vec![g]).collect(),
            items: ids.map(|g| Item::Products(vec![Term { constant: 1.0, axes: vec![g] }])).collect(),
        }
    }

    fn over_axes(ch: &Channels, items: Vec<Item>) -> Self {
        let mut readers: Vec<Vec<usize>> = vec![Vec::new(); ch.axes.len()];
        for (i, item) in items.iter().enumerate() {
            for axis in item.axes() {
                readers[axis].push(i);
            }
        }
        let axes_of: Vec<Vec<(usize, f64)>> =
            ch.groups.iter().map(|g| g.axes.iter().map(|&(a, m)| (a.0 as usize, f64::from(m))).collect()).collect();
        let items_of = axes_of.iter().map(|axes| merged(axes.iter().map(|&(a, _)| readers[a].as_slice()))).collect();
        Self { lens: ch.axes.iter().map(|a| a.len as f64).collect(), axes_of, items_of, items }
    }

    /// The figure after `removed_counts[group]` channels left each group.
    pub(super) fn at(&self, removed_counts: &[usize]) -> f64 {
        let mut meter = Meter::new(self);
        for (group, &count) in removed_counts.iter().enumerate() {
            meter.shift(group, count as f64);
        }
        meter.total()
    }

    /// The items that depend on any of `groups`.
    pub(super) fn items_of(&self, groups: impl Iterator<Item = usize>) -> Vec<usize> {
        merged(groups.map(|g| self.items_of[g].as_slice()))
    }
}

/// Axis lengths at one point of the search; moves can be tried and taken back.
pub(super) struct Meter<'a> {
    measure: &'a Measure,
    lens: Vec<f64>,
}

impl<'a> Meter<'a> {
    /// At the original.
    pub(super) fn new(measure: &'a Measure) -> Self {
        Self { measure, lens: measure.lens.clone() }
    }

    /// Removes `count` more channels of `group` (gives them back when negative).
    pub(super) fn shift(&mut self, group: usize, count: f64) {
        for &(axis, mult) in &self.measure.axes_of[group] {
            self.lens[axis] -= mult * count;
        }
    }

    /// The whole figure.
    pub(super) fn total(&self) -> f64 {
        self.measure.items.iter().map(|item| self.item(item)).sum()
    }

    /// The part of it in some items.
    pub(super) fn part(&self, items: &[usize]) -> f64 {
        items.iter().map(|&i| self.item(&self.measure.items[i])).sum()
    }

    fn item(&self, item: &Item) -> f64 {
        let value = |t: &Term| t.axes.iter().fold(t.constant, |acc, &a| acc * self.lens[a].max(0.0));
        let terms = match item {
            Item::Products(terms) => terms,
            Item::Time(layer) => return layer.at(|axis| self.lens.get(axis).copied().unwrap_or(0.0)),
        };
        if let [only] = terms.as_slice() {
            return value(only);
        }
        let (mut cut, mut whole) = (0.0, 0.0_f64);
        for t in terms {
            if t.axes.iter().all(|&a| self.lens[a] == self.measure.lens[a]) {
                whole = whole.max(value(t));
            } else {
                cut += value(t);
            }
        }
        cut + whole
    }
}

fn term(cost: &Cost) -> Term {
    Term { constant: cost.constant, axes: cost.axes.iter().map(|a| a.0 as usize).collect() }
}

fn merged<'a>(lists: impl Iterator<Item = &'a [usize]>) -> Vec<usize> {
    let mut all: Vec<usize> = lists.flatten().copied().collect();
    all.sort_unstable();
    all.dedup();
    all
}
