//! The loop: batches in, steps, judgement on held-back samples, checkpoints, and the model that comes out.

use super::augment::Augment;
use super::batches::{BatchOptions, Batches};
use super::checkpoint::Checkpoint;
use super::differentiate::{Parameter, parameters};
use super::fixed::fix;
use super::grad::{BatchNorms, Kind};
use super::held::{Held, Judged};
use super::history::{Epoch, Held as HeldFigures, History, Stop, StopReason, TRAIN_SCHEMA_VERSION, Trained as Parts};
use super::in_use::InUse;
use super::loss::Losses;
use super::optimizer::Update;
use super::output;
use super::pairs::{self, Kept};
use super::schedule::Schedule;
use super::sparsity::{Gates, Sparse, Sparsity};
use super::step::{Graphs, Layout, Spec, build, names};
use super::targets::Targets;
use crate::canon;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::flat::flatten;
use crate::graph::Graph;
use crate::onnx::Model;
use crate::prune::analyse;
use crate::runtime::walk::Feed;
use crate::runtime::{Array, Carry, Data, Runtime, carry, input_specs};
use regex::Regex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What a run is to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// Passes over the data.
    pub epochs: usize,
    /// Samples in a step.
    pub batch: usize,
    /// The learning rate.
    pub schedule: Schedule,
    /// The update.
    pub update: Update,
    /// What is made small; without it, what fits teacher and labels.
    pub losses: Option<Losses>,
    /// Temperature of `kl`.
    pub temperature: f64,
    /// Label smoothing of `ce`.
    pub smoothing: f64,
    /// Scale of `cosine`.
    pub loss_scale: f64,
    /// Tensors in between that `mse`, `l1` and `cosine` compare, in place of the outputs.
    pub matched: Option<Regex>,
    /// What is left of tensors that lost channels.
    pub kept: Kept,
    /// What chance does to samples.
    pub augment: Augment,
    /// How batch normalisations train.
    pub batch_norms: BatchNorms,
    /// Nodes and tensors that stay as they are.
    pub freeze: Vec<Regex>,
    /// More tensors that weight decay does not apply to.
    pub no_decay: Vec<Regex>,
    /// Share of the samples that is held back to judge by; 0 for none.
    pub hold_back: f64,
    /// Stops after so many epochs without a better judgement.
    pub patience: Option<usize>,
    /// Seed of order, augmentation and what is held back.
    pub seed: u64,
    /// Where the state is kept, and how often at least.
    pub checkpoint: Option<(PathBuf, Duration)>,
    /// How channels are driven to nothing.
    pub sparsity: Option<Sparsity>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            epochs: 10,
            batch: 64,
            schedule: Schedule { lr: 0.01, course: Default::default(), warmup: 0.0 },
            update: Update::default(),
            losses: None,
            temperature: 4.0,
            smoothing: 0.0,
            loss_scale: 1.0,
            matched: None,
            kept: Kept::new(),
            augment: Augment::default(),
            batch_norms: BatchNorms::default(),
            freeze: Vec::new(),
            no_decay: Vec::new(),
            hold_back: 0.1,
            patience: None,
            seed: 0,
            checkpoint: None,
            sparsity: None,
        }
    }
}

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

/// How far a run came.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Progress {
    /// Steps done.
    step: u64,
    epochs: Vec<Epoch>,
    before: Option<HeldFigures>,
    /// The epoch with the best judgement, and that.
    best: Option<(usize, f64)>,
    /// Sums over the steps of the present epoch.
    sums: BTreeMap<String, f64>,
    /// Channels that are closed at present.
    closed: Vec<usize>,
    seconds: f64,
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
    let batch = data.clone().batched(o.batch).batch_size();
    let whole = data.clone().batched(batch);
    let held_back = (o.hold_back * whole.len() as f64).round() as usize / batch * batch;
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
    let losses = match &o.losses {
        Some(l) => l.clone(),
        None => usual_losses(teacher.is_some(), classes.is_some(), data.labels().is_some())?,
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
    let mut run =
        Run { o, graphs: &graphs, batches: &batches, targets, judge, runtime, fingerprint, watch, in_use: &in_use };
    let (progress, state, stopped) = run.all(session.as_mut())?;
    let model = in_use.model(&in_use.state(&state)?)?;
    let mut notes = data.notes().to_vec();
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

struct Run<'a> {
    o: &'a Options,
    graphs: &'a Graphs,
    batches: &'a Batches,
    targets: Targets,
    judge: Option<Held>,
    runtime: &'a dyn Runtime,
    fingerprint: String,
    watch: &'a mut dyn FnMut(&Event),
    in_use: &'a InUse<'a>,
}

fn figures(judged: &Judged, metric: Option<&str>) -> HeldFigures {
    HeldFigures { loss: judged.loss, metric: judged.score, metric_name: metric.map(str::to_owned) }
}

fn scalar(x: f32) -> Array {
    Array { dims: Vec::new(), data: Data::F32(vec![x]) }
}

impl Run<'_> {
    /// All steps. The state that the model gets comes back.
    fn all(&mut self, session: &mut dyn crate::runtime::Session) -> Result<(Progress, Feed, Option<Stop>)> {
        let (mut progress, mut best, start) = self.begin()?;
        let inputs: Vec<(String, String)> = start.iter().map(|(n, _)| (n.clone(), names::next(n))).collect();
        let mut carried = carry(session, start, inputs)?;
        if progress.step == 0
            && let Some(judge) = &mut self.judge
        {
            let at_start = carried.state()?;
            let first = judge.judge(&at_start)?;
            progress.before = Some(figures(&first, judge.metric));
            if self.in_use.gates.is_none() && first.loss.is_finite() {
                // A run that makes nothing better leaves the model as it was.
                (progress.best, best) = (Some((0, first.loss)), Some(at_start));
            }
        }
        let per = self.batches.steps() as u64;
        let all = per * self.o.epochs as u64;
        let began = Instant::now();
        let before = progress.seconds;
        let mut saved = Instant::now();
        let mut epoch_began = Instant::now();
        let mut stopped = None;
        let place = |step: u64| ((step / per) as usize, (step % per) as usize);
        let mut ahead = self.batches.ahead(place(progress.step));
        while progress.step < all {
            let (epoch, _) = place(progress.step);
            let batch = match ahead.next() {
                Some(batch) => batch?,
                None => return Err(Error::Internal("the data ended".into())),
            };
            let lr = self.o.schedule.at(progress.step, per as usize, self.o.epochs);
            let [c1, c2] = self.o.update.corrections(progress.step + 1);
            let mut feed = batch.feed;
            feed.extend(self.targets.wanted(self.batches.labels(), &batch.samples, batch.mix.as_ref())?);
            let scalars = [(names::LR, lr as f32), (names::CORRECTIONS[0], c1), (names::CORRECTIONS[1], c2)];
            feed.extend(scalars.map(|(name, v)| (name.to_owned(), scalar(v))));
            if let Some(gates) = &self.in_use.gates {
                feed.extend(gates.feed(progress.step, lr / self.o.schedule.lr, &progress.closed));
            }
            let told = carried.step(&feed)?;
            progress.step += 1;
            let value =
                |name: &str| told.iter().find(|(n, _)| n == name).and_then(|(_, a)| a.to_f64().first().copied());
            let loss = value(names::LOSS).unwrap_or(f64::NAN);
            if let Some(why) = self.wrong(&told, loss, &progress) {
                carried.back()?;
                let state = carried.state()?;
                let culprit = super::diagnose::first_wrong(self.graphs, self.runtime, &state, &feed)?;
                let why = format!("step {}, in epoch {}: {why}{culprit}", progress.step, epoch + 1);
                stopped = Some(Stop { reason: StopReason::Diverged, words: why });
                break;
            }
            for (name, a) in &told {
                *progress.sums.entry(name.clone()).or_default() += a.to_f64().first().copied().unwrap_or(0.0);
            }
            if let Some(gates) = &self.in_use.gates
                && let Some(closed) = gates.closed(progress.step, &told)?
            {
                progress.closed = closed;
            }
            (self.watch)(&Event::Step(progress.step, all, loss));
            if progress.step % per == 0 {
                let state = self.in_use.complete(carried.state()?, &progress.closed);
                let used = self.in_use.state(&state)?;
                let mut result = self.epoch(&progress, epoch + 1, lr, length(&used));
                if let Some(judge) = &mut self.judge {
                    result.held = Some(figures(&judge.judge(&used)?, judge.metric));
                }
                let penalty = progress.sums.get(names::PENALTY).map_or(0.0, |s| s / per as f64);
                result.sparsity = self.in_use.sparsity(&used, penalty)?;
                result.seconds = epoch_began.elapsed().as_secs_f64();
                epoch_began = Instant::now();
                progress.sums.clear();
                // The lowest loss: it is finer than a score on few samples.
                let better = match (result.held.as_ref().map(|h| h.loss), progress.best) {
                    // Sparse training gives some of it away, epoch by epoch.
                    _ if self.in_use.gates.is_some() => true,
                    (None, _) | (_, None) => true,
                    (Some(loss), Some((_, least))) => loss < least || least.is_nan(),
                };
                if better {
                    progress.best = Some((epoch + 1, result.held.as_ref().map_or(result.loss, |h| h.loss)));
                    best = Some(state);
                }
                (self.watch)(&Event::Epoch(&result));
                progress.epochs.push(result);
                let since = progress.best.map_or(0, |(at, _)| epoch + 1 - at);
                if self.judge.is_some() && self.o.patience.is_some_and(|p| since >= p) && progress.step < all {
                    let words = format!(
                        "after epoch {}: the loss on held-back samples did not fall for {since} epochs",
                        epoch + 1
                    );
                    stopped = Some(Stop { reason: StopReason::NoProgress, words });
                    break;
                }
            }
            progress.seconds = before + began.elapsed().as_secs_f64();
            if let Some((_, every)) = &self.o.checkpoint
                && saved.elapsed() >= *every
            {
                self.save(&progress, carried.as_ref(), best.as_ref())?;
                saved = Instant::now();
            }
        }
        let state = match best {
            Some(best) => best,
            None => self.graphs.state.clone(),
        };
        Ok((progress, state, stopped))
    }

    /// Where the run begins: at a checkpoint, if there is one.
    fn begin(&self) -> Result<(Progress, Option<Feed>, Feed)> {
        let fresh = || Ok((Progress::default(), None, self.graphs.state.clone()));
        let Some((path, _)) = self.o.checkpoint.as_ref().filter(|(p, _)| p.exists()) else { return fresh() };
        let kept: Checkpoint<Progress> = Checkpoint::load(path)?;
        let fits = self.graphs.state.iter().all(|(n, a)| kept.state.iter().any(|(m, b)| n == m && a.dims == b.dims));
        if kept.fingerprint != self.fingerprint || !fits {
            return Err(Error::Usage(format!(
                "{}: this checkpoint is of a run with another model, other data or other options; remove it, or name another \
                 file with --checkpoint",
                path.display()
            )));
        }
        Ok((kept.progress, kept.best, kept.state))
    }

    fn save(&self, progress: &Progress, carried: &dyn Carry, best: Option<&Feed>) -> Result<()> {
        let Some((path, _)) = &self.o.checkpoint else { return Ok(()) };
        let (fingerprint, progress) = (self.fingerprint.clone(), progress.clone());
        Checkpoint { fingerprint, progress, state: carried.state()?, best: best.cloned() }.save(path)
    }

    /// What is wrong with a step, if anything.
    fn wrong(&self, told: &Feed, loss: f64, progress: &Progress) -> Option<String> {
        let odd = told.iter().find(|(_, a)| a.to_f64().iter().any(|v| !v.is_finite()));
        if let Some((name, _)) = odd {
            let what = match name.as_str() {
                names::GRADIENT => "the length of the gradient".to_owned(),
                names::WEIGHT => "the length of the weights".to_owned(),
                name => format!("the {}", name.trim_start_matches("train/out/").replace('/', " ")),
            };
            return Some(format!("{what} is not finite"));
        }
        let first = progress.epochs.first().map(|e| e.loss)?;
        let most = EXPLODED * first.max(1e-3);
        (loss > most)
            .then(|| format!("the loss of {loss:.3e} is more than {EXPLODED:.0e} times that of the first epoch"))
    }

    fn epoch(&self, progress: &Progress, epoch: usize, lr: f64, weight_norm: f64) -> Epoch {
        let n = self.batches.steps().max(1) as f64;
        let mean = |name: &str| progress.sums.get(name).map_or(f64::NAN, |s| s / n);
        Epoch {
            epoch,
            step: progress.step as usize,
            lr,
            loss: mean(names::LOSS),
            terms: self.graphs.terms.iter().map(|t| (t.clone(), mean(&names::term(t)))).collect(),
            gradient_norm: mean(names::GRADIENT),
            weight_norm,
            ..Epoch::default()
        }
    }
}

/// Euclidean norm of all trained tensors.
fn length(state: &Feed) -> f64 {
    let trained = (0..2).filter_map(|v| state.iter().find(|(n, _)| *n == names::weights(v)));
    let square = |(_, a): &(String, Array)| a.to_f64().iter().map(|x| x * x).sum::<f64>();
    libm::sqrt(trained.map(square).sum())
}

/// A loss that many times as high as the first epoch's has exploded.
const EXPLODED: f64 = 1e4;
