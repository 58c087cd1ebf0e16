//! One training step as one graph: loss, gradients, update.
//!
//! Trained tensors enter as two vectors, one of those that weight decay applies to and one of the rest, and leave as two
//! vectors; the state of the optimiser and the running statistics of batch normalisations go along. A second graph computes
//! the same losses without training.

mod sparse;

use super::differentiate::{Forward, Parameter, backward, forward, prefixed};
use super::fixed::value_info;
use super::grad::BatchNorms;
use super::loss::{self, Losses, Term};
use super::optimizer::{Rates, Update};
use super::pairs::Pair;
use super::sparsity::{self, Gated, Slices, Sparse};
use super::tape::{Tape, Var};
use crate::canon::Analysis;
use crate::error::{Error, Result};
use crate::graph::{Graph, Origin, ValueId};
use crate::onnx::Model;
use crate::onnx::proto::{GraphProto, ModelProto, TensorProto, ValueInfoProto, tensor_proto::DataType};
use crate::onnx::tensor;
use crate::ops::{Answer, Refusal};
use crate::rewrite::Names;
use crate::runtime::{Array, Data, input_specs};
use std::collections::{HashMap, HashSet};

/// Names of what enters and leaves.
pub mod names {
    /// The learning rate.
    pub const LR: &str = "train/in/lr";
    /// See [`Update::corrections`](super::Update::corrections).
    pub const CORRECTIONS: [&str; 2] = ["train/in/c1", "train/in/c2"];
    /// Wanted probabilities of `ce`.
    pub const WANTED: &str = "train/in/wanted";
    /// Running statistics, as state.
    pub const STATISTICS: &str = "train/in/statistics";
    /// The loss.
    pub const LOSS: &str = "train/out/loss";
    /// Length of the gradient of all trained tensors, before it is clipped.
    pub const GRADIENT: &str = "train/out/gradient";
    /// The student's logits.
    pub const LOGITS: &str = "train/out/logits";
    /// The teacher's.
    pub const TEACHER_LOGITS: &str = "train/out/teacher_logits";
    /// Length of all decaying tensors as one vector, before the step.
    pub const WEIGHT: &str = "train/out/weight";
    /// Gates of channels: parameters that learn, or 0 and 1.
    pub const GATES: &str = "train/in/gates";
    /// Noise of gates that learn.
    pub const GATE_NOISE: &str = "train/in/gate/noise";
    /// Learning rate of gates.
    pub const GATE_LR: &str = "train/in/gate/lr";
    /// As [`CORRECTIONS`], of gates.
    pub const GATE_CORRECTIONS: [&str; 2] = ["train/in/gate/c1", "train/in/gate/c2"];
    /// The penalty of sparse training, before the step.
    pub const PENALTY: &str = "train/out/penalty";
    /// Sums of squares of the slices that channels are ranked by.
    pub const SLICES: &str = "train/out/slices";

    /// State `k` of gates that learn.
    pub fn gate_state(k: usize) -> String {
        format!("{GATES}/s{k}")
    }

    /// A trained vector: 0 decays, 1 does not.
    pub fn weights(vector: usize) -> String {
        format!("train/in/w{vector}")
    }

    /// Whether a state input is part of the model, and not only of the optimiser.
    pub fn is_model(input: &str) -> bool {
        input == STATISTICS || (0..2).any(|v| input == weights(v))
    }

    /// A vector's state `k`.
    pub fn state(vector: usize, k: usize) -> String {
        format!("train/in/w{vector}/s{k}")
    }

    /// What a state input becomes.
    pub fn next(input: &str) -> String {
        input.replacen("train/in/", "train/out/", 1)
    }

    /// A term of the loss, unweighted.
    pub fn term(name: &str) -> String {
        format!("train/out/term/{name}")
    }
}

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

/// The teacher's names.
const TEACHER: &str = "teacher/";

/// The two vectors, and the trained tensors by value.
type Live = ([Option<Var>; 2], HashMap<ValueId, Var>);

/// A graph in the making.
struct Making<'a> {
    t: Tape,
    inputs: Vec<ValueInfoProto>,
    outputs: Vec<ValueInfoProto>,
    spec: &'a Spec<'a>,
}

impl<'a> Making<'a> {
    fn new(spec: &'a Spec<'a>) -> Self {
        let t = Tape::new(Names::new(spec.student), spec.student.opset, DataType::Float);
        Making { t, inputs: Vec::new(), outputs: Vec::new(), spec }
    }

    fn input(&mut self, name: &str, dims: &[usize]) -> Var {
        self.inputs.push(value_info(name, DataType::Float as i32, Some(dims)));
        self.t.existing(name, dims)
    }

    fn output(&mut self, v: Var, name: &str) {
        self.t.named(v, name);
        self.outputs.push(ValueInfoProto { name: Some(name.into()), ..ValueInfoProto::default() });
    }

    /// Cuts tensors out of a vector: name, start, shape.
    fn cut(&mut self, vector: Var, parts: &[(String, usize, Vec<usize>)]) -> Answer<Vec<Var>> {
        let mut all = Vec::with_capacity(parts.len());
        for (name, at, dims) in parts {
            let n = dims.iter().product();
            let part = self.t.slice(vector, &[(0, *at, n, 1)])?;
            let part = self.t.reshape(part, dims)?;
            all.push(self.t.named(part, name));
        }
        Ok(all)
    }

    /// The trained tensors, from the vectors.
    fn live(&mut self, mut gates: Option<(&mut Gated, &Slices)>) -> Answer<Live> {
        let spec = self.spec;
        let mut live = HashMap::new();
        let mut vectors = [None; 2];
        for (v, slot) in vectors.iter_mut().enumerate() {
            let n = spec.layout.sizes[v];
            if n == 0 {
                continue;
            }
            let vector = self.input(&names::weights(v), &[n]);
            *slot = Some(vector);
            for (i, (p, place)) in spec.layout.parameters.iter().zip(&spec.layout.places).enumerate() {
                if place.0 != v {
                    continue;
                }
                let part = self.t.slice(vector, &[(0, place.1, p.numel(), 1)])?;
                let mut part = self.t.reshape(part, &p.dims)?;
                if let Some((gated, slices)) = &mut gates {
                    part = gated.apply(&mut self.t, slices, i, part)?;
                }
                live.insert(p.value, self.t.named(part, &p.name));
            }
        }
        Ok((vectors, live))
    }

    /// The teacher's nodes; values by id.
    fn teacher(&mut self, shared: &HashMap<String, String>) -> HashMap<ValueId, Var> {
        let Some(a) = self.spec.teacher else { return HashMap::new() };
        let mut vars = HashMap::new();
        for (i, v) in a.graph.values.iter().enumerate() {
            let Some(dims) = &a.lanes[0].shapes[i] else { continue };
            let name = shared.get(&v.name).cloned().unwrap_or_else(|| format!("{TEACHER}{}", v.name));
            vars.insert(ValueId(i as u32), self.t.existing(&name, dims));
        }
        for &id in &a.graph.order {
            self.t.push(prefixed(a.graph.node(id), TEACHER, shared));
        }
        vars
    }

    /// The losses: each weighted term with what its gradient is of.
    fn losses(&mut self, f: &Forward, teacher: &HashMap<ValueId, Var>) -> Result<Vec<(String, f64, ValueId, Term)>> {
        let spec = self.spec;
        let missing = || Error::Internal("a loss on a tensor of unknown shape".into());
        let mut all = Vec::new();
        for &(kind, weight) in &spec.losses.0 {
            let name = kind.name().to_owned();
            if kind == loss::Kind::Ce {
                let z = spec.classes.ok_or_else(|| {
                    Error::Usage(
                        "the loss ce needs an output with classes on its second axis; the model has none".into(),
                    )
                })?;
                let logits = *f.vars.get(&z).ok_or_else(missing)?;
                let dims = self.t.dims(logits).to_vec();
                let q = self.input(names::WANTED, &dims);
                all.push((name, weight, z, loss::cross_entropy(&mut self.t, logits, q).map_err(internal)?));
                continue;
            }
            let pairs: Vec<&Pair> = spec.pairs.iter().filter(|p| p.of_classes == kind.of_classes()).collect();
            for pair in &pairs {
                let s = *f.vars.get(&pair.student).ok_or_else(missing)?;
                let mut w = *teacher.get(&pair.teacher).ok_or_else(missing)?;
                if let Some((axis, keep)) = &pair.keep {
                    w = self.t.gather(w, keep, *axis).map_err(internal)?;
                }
                let t = &mut self.t;
                let term = match kind {
                    loss::Kind::Kl => loss::kl(t, s, w, spec.temperature),
                    loss::Kind::Mse => loss::mse(t, s, w),
                    loss::Kind::L1 => loss::l1(t, s, w),
                    loss::Kind::Cosine | loss::Kind::Ce => loss::cosine(t, s, w, spec.loss_scale),
                };
                // Several tensors share the term's weight.
                all.push((name.clone(), weight / pairs.len() as f64, pair.student, term.map_err(internal)?));
            }
        }
        Ok(all)
    }

    /// Hands out the terms and their weighted sum.
    fn total(&mut self, terms: &[(String, f64, ValueId, Term)]) -> Answer<Var> {
        let mut by_name: Vec<(String, Vec<Var>, f64)> = Vec::new();
        for (name, weight, _, term) in terms {
            match by_name.iter_mut().find(|n| n.0 == *name) {
                Some(entry) => entry.1.push(term.value),
                None => by_name.push((name.clone(), vec![term.value], *weight)),
            }
        }
        let mut parts = Vec::new();
        for (name, values, weight) in by_name {
            let n = values.len() as f64;
            let sum = self.t.sum_of(&values)?;
            parts.push(self.t.scale(sum, weight)?);
            let mean = self.t.scale(sum, 1.0 / n)?;
            self.output(mean, &names::term(&name));
        }
        self.t.sum_of(&parts)
    }

    /// The finished model. `fed`: names that inputs or nodes provide in place of initializers.
    fn finish(self, fed: &HashSet<String>) -> Model {
        let spec = self.spec;
        let g = spec.student.graph;
        let (node, constants) = self.t.finish();
        let own = g.proto.initializer.iter().filter(|t| !fed.contains(t.name())).cloned();
        let teacher = spec.teacher.map(|a| a.graph.proto.initializer.as_slice()).unwrap_or_default();
        let teacher = teacher.iter().map(|t| TensorProto { name: Some(format!("{TEACHER}{}", t.name())), ..t.clone() });
        let initializer = own.chain(teacher).chain(constants).collect();
        let initialized: HashSet<&str> = g.proto.initializer.iter().map(|t| t.name()).collect();
        let data = g.proto.input.iter().filter(|i| !initialized.contains(i.name())).cloned();
        let input = data.chain(self.inputs).collect();
        let name = g.proto.name.clone();
        let made = GraphProto { node, initializer, input, output: self.outputs, name, ..GraphProto::default() };
        let mut imports = g.model.proto.opset_import.clone();
        for set in spec.teacher.iter().flat_map(|a| &a.graph.model.proto.opset_import) {
            if imports.iter().all(|i| i.domain() != set.domain()) {
                imports.push(set.clone());
            }
        }
        let proto = ModelProto { graph: Some(made), opset_import: imports, ..g.model.proto.clone() };
        Model::from_proto(proto, g.model.path.clone())
    }
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
    for (v, name) in [(logits, names::LOGITS), (taught, names::TEACHER_LOGITS)] {
        if let Some(v) = v {
            m.output(v, name);
        }
    }
    let evaluate = m.finish(&fed);
    let graphs = Graphs {
        step,
        evaluate,
        state,
        statistics,
        logits: logits.is_some(),
        teacher_logits: taught.is_some(),
        terms: terms_named,
        unreached: Vec::new(),
        slices,
    };
    Ok((graphs, missed))
}

/// Clips the gradient and updates both vectors; the loss with the part that decay adds.
fn update(
    m: &mut Making,
    vectors: [Option<Var>; 2],
    gradients: [Option<Var>; 2],
    slices: Option<&Slices>,
    mut loss: Var,
) -> Answer<Var> {
    let spec = m.spec;
    let mut squares = Vec::new();
    for g in gradients.iter().flatten() {
        let s = m.t.square(*g)?;
        squares.push(m.t.total(s)?);
    }
    let sum = m.t.sum_of(&squares)?;
    let length = m.t.unary("Sqrt", sum);
    m.output(length, names::GRADIENT);
    let shorten = match spec.update.clip {
        Some(most) => {
            // min(1, most / length).
            let least = m.t.scalar(most)?;
            let longer = m.t.binary("Max", length, least)?;
            Some(m.t.div(least, longer)?)
        }
        None => None,
    };
    let rates = Rates { lr: m.input(names::LR, &[]), corrections: names::CORRECTIONS.map(|name| m.input(name, &[])) };
    let mut new = [None; 2];
    for v in 0..2 {
        let (Some(w), Some(mut g)) = (vectors[v], gradients[v]) else { continue };
        let n = [spec.layout.sizes[v]];
        if let Some(factor) = shorten {
            g = m.t.mul(g, factor)?;
        }
        let states: Vec<Var> = (0..spec.update.states()).map(|k| m.input(&names::state(v, k), &n)).collect();
        let stepped = spec.update.write(&mut m.t, w, g, &states, rates, v == 0)?;
        if v == 0 {
            let s = m.t.square(w)?;
            let s = m.t.total(s)?;
            if spec.update.weight_decay > 0.0 && spec.update.decay == super::optimizer::Decay::L2 {
                let part = m.t.scale(s, spec.update.weight_decay / 2.0)?;
                loss = m.t.add(loss, part)?;
            }
            let length = m.t.unary("Sqrt", s);
            m.output(length, names::WEIGHT);
        }
        new[v] = Some(stepped.w);
        for (k, s) in stepped.states.into_iter().enumerate() {
            m.output(s, &names::next(&names::state(v, k)));
        }
    }
    if let (Some(sparse), Some(slices)) = (&spec.sparse, slices) {
        new = sparsity::proximal(&mut m.t, sparse.what, slices, &spec.layout, new, rates.lr, &spec.update)?;
    }
    for (v, w) in new.into_iter().enumerate() {
        if let Some(w) = w {
            m.output(w, &names::next(&names::weights(v)));
        }
    }
    Ok(loss)
}
