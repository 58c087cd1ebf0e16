//! The loop: batches in, steps, judgement on held-back samples, checkpoints, and the model that comes out.

mod options;
mod steps;

pub use options::Options;

use super::batches::{BatchOptions, Batches};
use super::differentiate::{Parameter, parameters};
use super::fixed::fix;
use super::grad::Kind;
use super::held::Held;
use super::history::{Epoch, History, StopReason, TRAIN_SCHEMA_VERSION, Trained as Parts};
use super::in_use::InUse;
use super::loss::Losses;
use super::output;
use super::pairs;
use super::proof::prove;
use super::sparsity::{Gates, Sparse};
use super::step::{Layout, Spec, build};
use super::targets::Targets;
use super::widen::widen;
use crate::canon;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::flat::flatten;
use crate::graph::Graph;
use crate::onnx::Model;
use crate::prune::analyse;
use crate::runtime::{Runtime, input_specs};
use sha2::{Digest, Sha256};
use steps::Run;

/// What is told while it runs.
#[derive(Debug)]
pub enum Event<'a> {
    /// Work that comes before or after the steps.
    Stage(&'a str),
    /// A step is done: how many, of how many, and the loss.
    Step(u64, u64, f64),
    /// An epoch is done.
    Epoch(&'a Epoch),
}

/// What a run came to.
pub struct Trained {
    /// The trained model.
    pub model: Model,
    /// Everything else. Names of files, the runtime and the options are the caller's to fill in.
    pub history: History,
}

impl Trained {
    /// Why numbers went wrong, if they did.
    pub fn diverged(&self) -> Option<&str> {
        let stop = self.history.stopped.as_ref().filter(|s| s.reason == StopReason::Diverged);
        stop.map(|s| s.words.as_str())
    }
}

/// The batch that the data gives, for which a model is fixed.
fn extents(model: &Model, batches: &Batches) -> Vec<(String, Vec<usize>)> {
    let own = input_specs(model);
    let all = batches.extents();
    own.iter()
        .enumerate()
        .filter_map(|(i, s)| {
            let dims = all.iter().find(|(n, _)| *n == s.name).or_else(|| all.get(i)).map(|(_, d)| d.clone())?;
            Some((s.name.clone(), dims))
        })
        .collect()
}

/// Of so many batches one may be held back, whatever the share.
const FEW: usize = 4;

/// Trains a model. `watch` is told what happens.
///
/// # Errors
/// [`Error::Train`] when the model cannot be trained so, [`Error::Usage`] when the options do not fit model and data.
pub fn train(
    model: &Model,
    teacher: Option<&Model>,
    data: &Dataset,
    runtime: &dyn Runtime,
    options: &Options,
    watch: &mut dyn FnMut(&Event),
) -> Result<Trained> {
    watch(&Event::Stage("data"));
    let o = options;
    let mut notes = data.notes().to_vec();
    let models: Vec<&Model> = std::iter::once(model).chain(teacher).collect();
    let whole = widen(&models, data, o.batch, runtime, &mut notes)?;
    let batch = whole.batch_size();
    // Whole batches; at least one where there are a few, so that little data is judged by too.
    let few = if o.hold_back > 0.0 && whole.len() >= FEW * batch { batch } else { 0 };
    let held_back = ((o.hold_back * whole.len() as f64).round() as usize / batch * batch).max(few);
    let (held, fit) = match held_back {
        0 => (None, whole),
        n if n + batch > whole.len() => (None, whole),
        n => {
            let (held, fit) = whole.divide(n, o.seed)?;
            (Some(held), fit)
        }
    };
    let drawn = BatchOptions { batch, seed: o.seed, augment: o.augment, ..BatchOptions::default() };
    let batches = Batches::new(&fit, &drawn)?;
    watch(&Event::Stage("training graph"));
    let ready = {
        let flat = flatten(model)?;
        output::unshared(&flat)?
    };
    let student = fix(&ready, &extents(model, &batches), false)?;
    let graph = Graph::new(&student)?;
    let a = canon::analyse(&graph);
    let fixed_teacher = teacher.map(|t| fix(t, &extents(t, &batches), false)).transpose()?;
    let teacher_graph = fixed_teacher.as_ref().map(Graph::new).transpose()?;
    let ta = teacher_graph.as_ref().map(|g| canon::analyse(g));
    let classes = pairs::classes(&a);
    // Scores of classes, one for each sample; with more axes they may be anything (boxes, masks).
    let one_of = classes.is_some_and(|v| a.lanes[0].shapes[v.0 as usize].as_ref().is_some_and(|d| d.len() == 2));
    let losses = match &o.losses {
        Some(l) => l.clone(),
        None => usual_losses(teacher.is_some(), one_of, data.labels().is_some())?,
    };
    if losses.0.iter().any(|(k, _)| k.needs_teacher()) && ta.is_none() {
        return Err(Error::Usage(format!(
            "the loss {losses} compares with a teacher; give one with --teacher ORIGINAL"
        )));
    }
    let pairs = match &ta {
        Some(ta) => pairs::pairs(&a, ta, &losses, o.matched.as_ref(), &o.kept)?,
        None => Vec::new(),
    };
    let found = parameters(&a, &o.freeze);
    if found.is_empty() {
        let message = "nothing is left to train: no layer has a float32 weight that --freeze does not hold".into();
        return Err(Error::Train { path: model.path.clone(), message });
    }
    let plain = Graph::new(&ready)?;
    let traced = o.sparsity.map(|_| analyse(&plain)).transpose()?;
    let sparse = o.sparsity.zip(traced.as_ref()).map(|(what, traced)| Sparse { what, traced });
    let decays = |p: &Parameter| p.kind == Kind::Weight && !o.no_decay.iter().any(|r| r.is_match(&p.name));
    let mut spec = Spec {
        student: &a,
        teacher: ta.as_ref(),
        layout: Layout::new(found, &decays),
        pairs: &pairs,
        classes,
        losses: &losses,
        temperature: o.temperature,
        loss_scale: o.loss_scale,
        update: o.update,
        batch_norms: o.batch_norms,
        sparse,
    };
    let graphs = build(&mut spec)?;
    let ce = losses.0.iter().any(|(k, _)| *k == super::loss::Kind::Ce);
    let logits = classes.filter(|_| ce).and_then(|v| a.lanes[0].shapes[v.0 as usize].clone());
    let targets = Targets { logits, smoothing: o.smoothing };
    watch(&Event::Stage("loading the training graph"));
    let mut session = runtime.load(&graphs.step)?;
    let judge = match &held {
        Some(h) => Some(Held::new(&graphs, h, &targets, runtime)?),
        None => None,
    };
    let fingerprint = fingerprint(model, teacher, data, o, &losses)?;
    let steps = batches.steps() as u64 * o.epochs as u64;
    let gates = sparse.zip(graphs.slices.as_ref()).map(|(s, slices)| Gates::new(s, slices, o.seed, steps));
    let in_use = InUse { flat: &ready, layout: &spec.layout, graphs: &graphs, gates };
    let proof_targets = targets.clone();
    let mut run =
        Run { o, graphs: &graphs, batches: &batches, targets, judge, runtime, fingerprint, watch, in_use: &in_use };
    let (progress, state, stopped) = run.all(session.as_mut())?;
    let folded = in_use.state(&state)?;
    let model = in_use.model(&folded)?;
    watch(&Event::Stage("proof"));
    let sample = batches.batch(0, 0)?;
    let mut feed = sample.feed;
    feed.extend(proof_targets.wanted(batches.labels(), &sample.samples, sample.mix.as_ref())?);
    // Of more samples than the model takes.
    let wide = data.fixed().is_some_and(|own| own != batch);
    let wide = wide.then(|| fix(&model, &extents(&model, &batches), false)).transpose()?;
    prove(&graphs, &folded, wide.as_ref().unwrap_or(&model), &feed, runtime)?;
    if !graphs.unreached.is_empty() {
        notes.push(format!(
            "the losses do not depend on {} tensors, which stay as they are: {}",
            graphs.unreached.len(),
            graphs.unreached.iter().take(5).cloned().collect::<Vec<_>>().join(", ")
        ));
    }
    if held.is_none() && o.hold_back > 0.0 {
        notes.push(format!(
            "{} samples are too few to hold a batch of {batch} back: the last state is kept",
            data.len()
        ));
    }
    let left = batches.len() % batch;
    if left > 0 {
        notes.push(format!("each epoch leaves out {left} samples, other ones each time, which do not fill a batch"));
    }
    let mut history = History {
        schema_version: TRAIN_SCHEMA_VERSION,
        tool: concat!("onnx-prune ", env!("CARGO_PKG_VERSION")).into(),
        trained: parts(&spec.layout.parameters),
        samples: batches.len(),
        held_back: held.map_or(0, |h| h.len()),
        batch,
        steps_per_epoch: batches.steps(),
        before: progress.before,
        best_epoch: progress.best.map(|b| b.0),
        epochs: progress.epochs,
        stopped,
        notes,
        seconds: progress.seconds,
        ..History::default()
    };
    history.options.insert("loss".into(), losses.to_string());
    Ok(Trained { model, history })
}

/// Tensors and elements of each kind.
fn parts(all: &[Parameter]) -> Vec<Parts> {
    let named =
        [(Kind::Weight, "weights"), (Kind::Bias, "biases"), (Kind::Norm, "scales and shifts of normalisations")];
    let part = |(kind, name): (Kind, &str)| {
        let of: Vec<&Parameter> = all.iter().filter(|p| p.kind == kind).collect();
        let elements = of.iter().map(|p| p.numel() as u64).sum();
        (!of.is_empty()).then(|| Parts { kind: name.into(), tensors: of.len(), elements })
    };
    named.into_iter().filter_map(part).collect()
}

/// Classes are compared as such, everything else by its values.
fn usual_losses(teacher: bool, classes: bool, labels: bool) -> Result<Losses> {
    let text = match (teacher, classes, labels) {
        (true, true, _) => "kl=1",
        (true, false, _) => "mse=1",
        (false, true, true) => "ce=1",
        (false, ..) => {
            return Err(Error::Usage(
                "nothing says what is right: give the original with --teacher, or data with labels for a classifier"
                    .into(),
            ));
        }
    };
    text.parse().map_err(Error::Internal)
}

/// What a checkpoint belongs to.
fn fingerprint(model: &Model, teacher: Option<&Model>, data: &Dataset, o: &Options, losses: &Losses) -> Result<String> {
    let mut hash = Sha256::new();
    let settings = Options { checkpoint: None, losses: Some(losses.clone()), ..o.clone() };
    hash.update(format!("{} {:?} {settings:?}", model.sha256(), teacher.map(Model::sha256)));
    hash.update(format!("{:?} {} {:?}", data.path(), data.len(), data.labels()));
    // How samples are prepared, and whether the file still is what it was.
    for (name, array) in data.batch(0)? {
        hash.update(format!("{name} {:?}", array.dims));
        array.to_f64().iter().for_each(|x| hash.update(x.to_le_bytes()));
    }
    Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect())
}
