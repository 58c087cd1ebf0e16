//! The steps of a run, with judgement and checkpoints between them.

use super::{Event, Options};
use crate::error::{Error, Result};
use crate::runtime::walk::Feed;
use crate::runtime::{Array, Carry, Data, Runtime, Session, carry};
use crate::train::batches::Batches;
use crate::train::checkpoint::Checkpoint;
use crate::train::diagnose;
use crate::train::held::{Held, Judged};
use crate::train::history::{Epoch, Held as HeldFigures, Stop, StopReason};
use crate::train::in_use::InUse;
use crate::train::step::{Graphs, names};
use crate::train::targets::Targets;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Instant;

/// How far a run came.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Progress {
    /// Steps done.
    step: u64,
    pub(super) epochs: Vec<Epoch>,
    pub(super) before: Option<HeldFigures>,
    /// The epoch with the best judgement, and that.
    pub(super) best: Option<(usize, f64)>,
    /// Sums over the steps of the present epoch.
    sums: BTreeMap<String, f64>,
    /// Channels that are closed at present.
    closed: Vec<usize>,
    pub(super) seconds: f64,
}

/// A run in progress.
pub(super) struct Run<'a> {
    pub(super) o: &'a Options,
    pub(super) graphs: &'a Graphs,
    pub(super) batches: &'a Batches,
    pub(super) targets: Targets,
    pub(super) judge: Option<Held>,
    pub(super) runtime: &'a dyn Runtime,
    pub(super) fingerprint: String,
    pub(super) watch: &'a mut dyn FnMut(&Event),
    pub(super) in_use: &'a InUse<'a>,
}

fn figures(judged: &Judged, metric: Option<&str>) -> HeldFigures {
    HeldFigures { loss: judged.loss, metric: judged.score, metric_name: metric.map(str::to_owned) }
}

fn scalar(x: f32) -> Array {
    Array { dims: Vec::new(), data: Data::F32(vec![x]) }
}

impl Run<'_> {
    /// All steps. The state that the model gets comes back.
    pub(super) fn all(&mut self, session: &mut dyn Session) -> Result<(Progress, Feed, Option<Stop>)> {
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
                let culprit = diagnose::first_wrong(self.graphs, self.runtime, &state, &feed)?;
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
        // Not before the first epoch: a model that is its own teacher begins with no loss at all.
        let first = progress.epochs.first().map(|e| e.loss)?;
        let most = EXPLODED * first.max(1e-3);
        (loss > most).then(|| format!("the loss of {loss:.3e} is more than {EXPLODED:.0e} times what it was at first"))
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

/// A loss that many times as high as at first has exploded.
const EXPLODED: f64 = 1e4;
