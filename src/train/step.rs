//! One training step as one graph: loss, gradients, update.
//!
//! Trained tensors enter as two vectors, one of those that weight decay applies to and one of the rest, and leave as two
//! vectors; the state of the optimiser and the running statistics of batch normalisations go along. A second graph computes
//! the same losses without training.

mod making;
pub mod names;
mod sparse;
mod update;

use super::differentiate::{Forward, Parameter, backward, forward};
use super::grad::BatchNorms;
use super::loss::Losses;
use super::optimizer::Update;
use super::pairs::Pair;
use super::sparsity::{Slices, Sparse};
use super::tape::{Tape, Var};
use crate::canon::Analysis;
use crate::error::{Error, Result};
use crate::graph::{Graph, Origin, ValueId};
use crate::onnx::{Model, tensor};
use crate::ops::Refusal;
use crate::runtime::{Array, Data, input_specs};
use making::Making;
use std::collections::{HashMap, HashSet};
use update::update;

/// Where the trained tensors lie in the vectors.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The tensors.
    pub parameters: Vec<Parameter>,
    /// Per tensor: its vector and where it begins there.
    pub places: Vec<(usize, usize)>,
    /// Lengths of the two vectors.
    pub sizes: [usize; 2],
}

impl Layout {
    /// `decays`: whether weight decay applies to a tensor.
    pub fn new(parameters: Vec<Parameter>, decays: &dyn Fn(&Parameter) -> bool) -> Self {
        let mut sizes = [0; 2];
        let mut places = Vec::with_capacity(parameters.len());
        for p in &parameters {
            let vector = usize::from(!decays(p));
            let at = &mut sizes[vector];
            places.push((vector, *at));
            *at += p.numel();
        }
        Layout { parameters, places, sizes }
    }

    /// The tensors' part of a vector, with the tensors.
    pub fn of(&self, vector: usize) -> impl Iterator<Item = (&Parameter, usize)> {
        self.parameters.iter().zip(&self.places).filter(move |(_, p)| p.0 == vector).map(|(p, at)| (p, at.1))
    }
}

/// What a step is to do.
pub struct Spec<'a> {
    /// The model in training, extents fixed.
    pub student: &'a Analysis<'a>,
    /// What it is compared with.
    pub teacher: Option<&'a Analysis<'a>>,
    /// The trained tensors.
    pub layout: Layout,
    /// What is compared.
    pub pairs: &'a [Pair],
    /// The output whose classes labels name.
    pub classes: Option<ValueId>,
    /// The losses.
    pub losses: &'a Losses,
    /// Temperature of `kl`.
    pub temperature: f64,
    /// Scale of `cosine`.
    pub loss_scale: f64,
    /// The update.
    pub update: Update,
    /// How batch normalisations train.
    pub batch_norms: BatchNorms,
    /// Which channels are driven to nothing, and how.
    pub sparse: Option<Sparse<'a>>,
}

/// The graphs, and what their state begins with.
pub struct Graphs {
    /// A training step.
    pub step: Model,
    /// Losses and outputs without training.
    pub evaluate: Model,
    /// What the state inputs begin with, by name.
    pub state: Vec<(String, Array)>,
    /// Running statistics: the initializers and where they begin in [`names::STATISTICS`].
    pub statistics: Vec<(String, usize, usize)>,
    /// The evaluation hands out the student's logits, under [`names::LOGITS`].
    pub logits: bool,
    /// The logits are one row of classes for each sample, as labels want them.
    pub by_sample: bool,
    /// And the teacher's.
    pub teacher_logits: bool,
    /// Names of the terms.
    pub terms: Vec<String>,
    /// Tensors that the loss does not depend on.
    pub unreached: Vec<String>,
    /// The channels of sparse training.
    pub(super) slices: Option<Slices>,
}

pub(super) fn internal(why: Refusal) -> Error {
    Error::Internal(format!("a training graph: {}", why.0))
}

/// The teacher's inputs and what they are in the student: the one of the same name, or at the same place.
fn shared_inputs(spec: &Spec) -> HashMap<String, String> {
    let own = input_specs(spec.student.graph.model);
    let teacher = spec.teacher.map(|a| input_specs(a.graph.model)).unwrap_or_default();
    let pairs = teacher.iter().enumerate().filter_map(|(i, t)| {
        let same = own.iter().find(|s| s.name == t.name).or_else(|| own.get(i))?;
        Some((t.name.clone(), same.name.clone()))
    });
    pairs.collect()
}

/// Running statistics that follow: initializers in order, with their places.
fn statistics(t: &Tape, f: &Forward) -> Vec<(String, usize, usize)> {
    let mut at = 0;
    let mut all = Vec::new();
    for &(stored, _) in &f.follows {
        let n = t.numel(stored);
        all.push((t.name(stored).to_owned(), at, n));
        at += n;
    }
    all
}

/// The values of named initializers as one vector.
fn gathered<'n>(g: &Graph, parts: impl Iterator<Item = &'n str>) -> Result<Array> {
    let mut all: Vec<f32> = Vec::new();
    for name in parts {
        let t = g.find(name).and_then(|v| match g.value(v).origin {
            Origin::Initializer(i) => g.proto.initializer.get(i),
            _ => None,
        });
        let t = t.ok_or_else(|| Error::Internal(format!("there is no initializer {name:?}")))?;
        all.extend(tensor::to_f32(t)?);
    }
    Ok(Array { dims: vec![all.len()], data: Data::F32(all) })
}

/// Writes both graphs.
///
/// # Errors
/// [`Error::Train`] with the node that cannot be trained through.
pub fn build(spec: &mut Spec) -> Result<Graphs> {
    let mut unreached = Vec::new();
    loop {
        let (graphs, missed) = write(spec)?;
        if missed.is_empty() {
            return Ok(Graphs { unreached, ..graphs });
        }
        // What the loss does not depend on must not decay either.
        let decays: HashSet<ValueId> = spec.layout.of(0).map(|(p, _)| p.value).collect();
        let all = std::mem::take(&mut spec.layout.parameters);
        let (gone, kept): (Vec<_>, Vec<_>) = all.into_iter().partition(|p| missed.contains(&p.value));
        unreached.extend(names_of(&gone));
        spec.layout = Layout::new(kept, &|p| decays.contains(&p.value));
    }
}

fn names_of(all: &[Parameter]) -> Vec<String> {
    all.iter().map(|p| p.name.clone()).collect()
}

fn write(spec: &Spec) -> Result<(Graphs, HashSet<ValueId>)> {
    let g = spec.student.graph;
    let data = shared_inputs(spec);
    let mut fed: HashSet<String> = names_of(&spec.layout.parameters).into_iter().collect();

    let slices = spec.sparse.as_ref().map(|s| Slices::new(s, &spec.layout)).transpose()?;
    let mut m = Making::new(spec);
    let mut gated = m.gates(slices.as_ref()).map_err(internal)?;
    let (vectors, live) = m.live(gated.as_mut().zip(slices.as_ref())).map_err(internal)?;
    let f = forward(&mut m.t, spec.student, &live, spec.batch_norms)?;
    let teacher = m.teacher(&data);
    let statistics = statistics(&m.t, &f);
    let state_size = statistics.iter().map(|s| s.2).sum::<usize>();
    fed.extend(statistics.iter().map(|s| s.0.clone()));
    let parts: Vec<_> = statistics.iter().map(|(name, at, n)| (name.clone(), *at, vec![*n])).collect();
    if state_size > 0 {
        let from = m.t.len();
        let vector = m.input(names::STATISTICS, &[state_size]);
        m.cut(vector, &parts).map_err(internal)?;
        m.t.to_front(from);
    }
    let terms = m.losses(&f, &teacher)?;
    let mut loss = m.total(&terms).map_err(internal)?;
    let mut seeds = Vec::new();
    for (_, weight, value, term) in &terms {
        seeds.push((*value, m.t.scale(term.gradient, *weight).map_err(internal)?));
    }
    let mut gradients = backward(&mut m.t, spec.student, &f, &live, &seeds)?;
    let missed: HashSet<ValueId> =
        spec.layout.parameters.iter().map(|p| p.value).filter(|v| !gradients.contains_key(v)).collect();
    let mut state = Vec::new();
    if missed.is_empty() {
        if let (Some(slices), Some(gated)) = (&slices, &gated) {
            state.extend(m.learn_gates(slices, gated, &mut gradients).map_err(internal)?);
        }
        if let Some(slices) = &slices {
            loss = m.penalty(slices, gated.as_ref(), &live, loss).map_err(internal)?;
        }
        let mut flat = [None; 2];
        for (v, slot) in flat.iter_mut().enumerate() {
            let mut parts = Vec::new();
            for (p, _) in spec.layout.of(v) {
                if let Some(&g) = gradients.get(&p.value) {
                    parts.push(m.t.reshape(g, &[p.numel()]).map_err(internal)?);
                }
            }
            if !parts.is_empty() {
                *slot = Some(m.t.concat(&parts, 0).map_err(internal)?);
            }
        }
        loss = update(&mut m, vectors, flat, slices.as_ref(), loss).map_err(internal)?;
        let new: Vec<Var> = f.follows.iter().map(|&(_, new)| new).collect();
        if state_size > 0 {
            let new = m.t.concat(&new, 0).map_err(internal)?;
            m.output(new, &names::next(names::STATISTICS));
            state.push((names::STATISTICS.to_owned(), gathered(g, statistics.iter().map(|s| s.0.as_str()))?));
        }
        for v in 0..2 {
            let n = spec.layout.sizes[v];
            if n > 0 {
                state.push((names::weights(v), gathered(g, spec.layout.of(v).map(|(p, _)| p.name.as_str()))?));
                let zeros = Array { dims: vec![n], data: Data::F32(vec![0.0; n]) };
                state.extend((0..spec.update.states()).map(|k| (names::state(v, k), zeros.clone())));
            }
        }
    }
    m.output(loss, names::LOSS);
    let mut terms_named: Vec<String> = terms.iter().map(|t| t.0.clone()).collect();
    terms_named.dedup();
    let step = m.finish(&fed);

    let mut m = Making::new(spec);
    let (_, live) = m.live(None).map_err(internal)?;
    if state_size > 0 {
        let vector = m.input(names::STATISTICS, &[state_size]);
        m.cut(vector, &parts).map_err(internal)?;
    }
    let f = forward(&mut m.t, spec.student, &live, BatchNorms::Frozen)?;
    let teacher = m.teacher(&data);
    let terms = m.losses(&f, &teacher)?;
    let loss = m.total(&terms).map_err(internal)?;
    m.output(loss, names::LOSS);
    let logits = spec.classes.and_then(|v| f.vars.get(&v)).copied();
    let taught = spec.pairs.iter().find(|p| p.of_classes && Some(p.student) == spec.classes);
    let taught = taught.map(|p| p.teacher).or_else(|| spec.teacher.and_then(super::pairs::classes));
    let taught = taught.and_then(|v| teacher.get(&v)).copied();
    let by_sample = logits.is_some_and(|v| m.t.dims(v).len() == 2);
    for (v, name) in [(logits, names::LOGITS), (taught, names::TEACHER_LOGITS)] {
        if let Some(v) = v {
            m.output(v, name);
        }
    }
    for output in &g.proto.output {
        if let Some(&v) = g.find(output.name()).and_then(|v| f.vars.get(&v)) {
            m.output(v, &names::output(output.name()));
        }
    }
    let evaluate = m.finish(&fed);
    let graphs = Graphs {
        step,
        evaluate,
        state,
        statistics,
        logits: logits.is_some(),
        by_sample,
        teacher_logits: taught.is_some(),
        terms: terms_named,
        unreached: Vec::new(),
        slices,
    };
    Ok((graphs, missed))
}
