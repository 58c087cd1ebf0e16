//! What gates are fed, when they close, and how they are folded into the weights.

use super::nodes::{STRETCH, is_weight};
use super::slices::{Part, Slices};
use super::{Kind, Sparse};
use crate::error::{Error, Result};
use crate::plan::{self, Budget, Limits, RoundTo};
use crate::runtime::walk::Feed;
use crate::runtime::{Array, Data, Noise};
use crate::train::optimizer::{Optimizer, Update};
use crate::train::step::{Layout, names};

/// What gates of `l0` begin with: open in use, and with a probability of 99 % in training.
const OPEN: f32 = 3.0;

/// The highest learning rate of gates. With Adam it is about the most that a gate moves in one step, and from open to closed
/// it is a way of six.
const RATE: f64 = 0.03;

/// The share of all steps in which `dynamic` closes channels.
const CLOSING: f64 = 0.75;

/// At most so many steps lie between two choices of what is closed, and at least so many choices in all.
const EVERY: (u64, u64) = (16, 50);

/// How gates learn: Adam without decay.
pub fn update() -> Update {
    Update { optimizer: Optimizer::Adamw, ..Update::default() }
}

fn vector(values: Vec<f32>) -> Array {
    Array { dims: vec![values.len()], data: Data::F32(values) }
}

/// What learning gates begin with, as state.
pub fn begin(slices: &Slices) -> Feed {
    let n = slices.channels;
    let mut state = vec![(names::GATES.to_owned(), vector(vec![OPEN; n]))];
    state.extend((0..update().states()).map(|k| (names::gate_state(k), vector(vec![0.0; n]))));
    state
}

/// The gates of a run, on the host.
pub struct Gates<'a> {
    sparse: Sparse<'a>,
    slices: &'a Slices,
    seed: u64,
    /// Steps in all.
    steps: u64,
}

impl<'a> Gates<'a> {
    /// For a run of so many steps; nothing without gates.
    pub fn new(sparse: Sparse<'a>, slices: &'a Slices, seed: u64, steps: u64) -> Self {
        Gates { sparse, slices, seed, steps }
    }

    /// What a step is fed. `pace`: the learning rate relative to the highest.
    pub fn feed(&self, step: u64, pace: f64, closed: &[usize]) -> Feed {
        let scalar = |x: f32| Array { dims: Vec::new(), data: Data::F32(vec![x]) };
        match self.sparse.what.kind {
            Kind::BnL1 | Kind::GroupLasso => Feed::new(),
            Kind::L0 => {
                let mut noise = Noise::new(self.seed, &format!("gates of step {step}"));
                let mut logit = || {
                    let u = noise.uniform().clamp(1e-6, 1.0 - 1e-6);
                    (libm::log(u) - libm::log(1.0 - u)) as f32
                };
                let noise = (0..self.slices.channels).map(|_| logit()).collect();
                let [c1, c2] = update().corrections(step + 1);
                vec![
                    (names::GATE_NOISE.into(), vector(noise)),
                    (names::GATE_LR.into(), scalar((RATE * pace) as f32)),
                    (names::GATE_CORRECTIONS[0].into(), scalar(c1)),
                    (names::GATE_CORRECTIONS[1].into(), scalar(c2)),
                ]
            }
            Kind::Dynamic => vec![(names::GATES.into(), self.mask(closed))],
        }
    }

    fn mask(&self, closed: &[usize]) -> Array {
        let mut open = vec![1.0; self.slices.channels];
        for &c in closed {
            if let Some(o) = open.get_mut(c) {
                *o = 0.0;
            }
        }
        vector(open)
    }

    /// Which channels `dynamic` closes after so many steps, when it is time to choose anew.
    ///
    /// # Errors
    /// When the step's outputs do not fit.
    pub fn closed(&self, done: u64, told: &Feed) -> Result<Option<Vec<usize>>> {
        let end = (CLOSING * self.steps as f64).ceil().max(1.0);
        let every = EVERY.0.min(self.steps / EVERY.1).max(1);
        let last = done as f64 >= end;
        let due = done.is_multiple_of(every) || done as f64 == end;
        if self.sparse.what.kind != Kind::Dynamic || !due || (last && done as f64 > end) {
            return Ok(None);
        }
        let share = self.sparse.what.value * (1.0 - (1.0 - done as f64 / end).max(0.0).powi(3));
        let squares = told.iter().find(|(n, _)| n == names::SLICES).map(|(_, a)| a.to_f64());
        let squares = squares.ok_or_else(|| Error::Internal("the step tells no norms of slices".into()))?;
        let ch = &self.sparse.traced.trace.channels;
        let scores = self.scores(&squares);
        let inside = |g: &usize| self.slices.groups.iter().any(|(own, _)| own == g);
        let exclude = (0..ch.groups.len()).filter(|g| !inside(g)).collect();
        let limits = Limits { round_to: RoundTo::Multiple(1), exclude, ..Limits::default() };
        let decision = plan::decide(ch, &scores, &Budget::Ratio(share), None, &limits)?;
        let mut closed = Vec::new();
        for (g, first) in &self.slices.groups {
            closed.extend(decision.removed.get(*g).into_iter().flatten().map(|c| first + c));
        }
        Ok(Some(closed))
    }

    /// Per group and channel: the mean over the weights that make or read the channel of the slice's norm, relative to the mean
    /// of such norms in the group. This is criterion `l2`.
    fn scores(&self, squares: &[f64]) -> Vec<Vec<f64>> {
        let ch = &self.sparse.traced.trace.channels;
        let mut scores: Vec<Vec<f64>> = ch.groups.iter().map(|g| vec![0.0; g.channels.len()]).collect();
        for &(g, first) in &self.slices.groups {
            let Some(of_group) = scores.get_mut(g) else { continue };
            let n = of_group.len();
            let (mut at, mut sites) = (0, 0.0);
            for a in self.slices.axes.iter().filter(|a| is_weight(a)) {
                let mut site = vec![0.0; n];
                for (i, c) in a.channel.iter().enumerate() {
                    let own = c.and_then(|c| c.checked_sub(first)).and_then(|c| site.get_mut(c));
                    if let Some(s) = own {
                        *s += squares.get(at + i).copied().unwrap_or(0.0);
                    }
                }
                at += a.len();
                site.iter_mut().for_each(|s| *s = s.max(0.0).sqrt());
                let mean = site.iter().sum::<f64>() / n.max(1) as f64;
                if mean > 0.0 {
                    of_group.iter_mut().zip(&site).for_each(|(all, s)| *all += s / mean);
                    sites += 1.0;
                }
            }
            of_group.iter_mut().for_each(|s| *s /= f64::max(sites, 1.0));
        }
        scores
    }

    /// A state with what else belongs to it: which channels are closed.
    pub fn complete(&self, mut state: Feed, closed: &[usize]) -> Feed {
        if self.sparse.what.kind == Kind::Dynamic {
            state.push((names::GATES.into(), self.mask(closed)));
        }
        state
    }

    /// A state whose weights have the gates multiplied in, as they are in use.
    ///
    /// # Errors
    /// When the state does not fit.
    pub fn folded(&self, state: &Feed, layout: &Layout) -> Result<Feed> {
        let found = |name: &str| state.iter().find(|(n, _)| n == name).map(|(_, a)| a.to_f64());
        let gates = match found(names::GATES).filter(|_| self.sparse.what.kind.has_gates()) {
            Some(gates) if self.sparse.what.kind == Kind::L0 => gates.into_iter().map(in_use).collect(),
            Some(mask) => mask,
            None => return Ok(state.clone()),
        };
        let mut folded = state.clone();
        for a in &self.slices.axes {
            let Some(&(v, at)) = layout.places.get(a.parameter) else { continue };
            let name = names::weights(v);
            let whole = folded.iter_mut().find(|(n, _)| *n == name).map(|(_, a)| &mut a.data);
            let n: usize = a.dims.iter().product();
            let Some(part) = (match whole {
                Some(Data::F32(values)) => values.get_mut(at..at + n),
                _ => None,
            }) else {
                return Err(Error::Internal(format!("the state {name:?} is too short")));
            };
            for (k, w) in part.iter_mut().enumerate() {
                let gate = a.channel.get(a.index(k)).copied().flatten().and_then(|c| gates.get(c));
                match gate {
                    Some(&z) if a.part == Part::Reads => *w = (f64::from(*w) * z) as f32,
                    // Nobody reads it any more.
                    Some(&z) if z == 0.0 && a.part != Part::Other => *w = 0.0,
                    _ => {}
                }
            }
        }
        Ok(folded)
    }
}

/// The gate of `l0` in use, from its parameter.
fn in_use(a: f64) -> f64 {
    let (_, low, high) = STRETCH;
    (1.0 / (1.0 + libm::exp(-a)) * (high - low) + low).clamp(0.0, 1.0)
}
