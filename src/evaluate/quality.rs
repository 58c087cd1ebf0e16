//! The figure that a model reaches: on data with a [`Metric`], or as a command of the user's tells it.

use super::diff;
use super::metric::{Metric, Tally, Where};
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::onnx::{self, Model, SaveOptions};
use crate::runtime::walk::Feed;
use crate::runtime::{Runtime, Session};
use std::process::Command;
use std::sync::Arc;

/// Most bytes of the original's outputs that are kept; what is more is computed again each time.
const MOST_KEPT: usize = 1 << 30;

/// Measures models against an original.
pub enum Quality {
    /// On data.
    Data(Box<OnData>),
    /// By a command.
    Command(ByCommand),
}

/// One measurement.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// The figure.
    pub score: f64,
    /// How much worse than the original, in points (see [`Tally::drop`]; of a command, in its own unit).
    pub drop: f64,
}

impl Quality {
    /// What is measured.
    pub fn name(&self) -> String {
        match self {
            Quality::Data(d) => d.metric.to_string(),
            Quality::Command(_) => "the evaluation command".into(),
        }
    }

    /// The original's figure.
    pub fn original(&self) -> f64 {
        match self {
            Quality::Data(d) => d.score,
            Quality::Command(c) => c.score,
        }
    }

    /// The number of samples, where it is known.
    pub fn samples(&self) -> Option<usize> {
        match self {
            Quality::Data(d) => Some(d.data.len()),
            Quality::Command(_) => None,
        }
    }

    /// Measures a model.
    ///
    /// # Errors
    /// When it cannot be run, or the command fails.
    pub fn measure(&self, model: &Model) -> Result<Measured> {
        match self {
            Quality::Data(d) => d.measure(model),
            Quality::Command(c) => c.measure(model),
        }
    }
}

/// Measures on data.
pub struct OnData {
    data: Dataset,
    runtime: Arc<dyn Runtime>,
    metric: Metric,
    place: Where,
    original: Model,
    /// Its outputs, per batch; fewer than there are batches when they are too large to keep.
    outputs: Vec<Feed>,
    score: f64,
    share: f64,
}

impl OnData {
    /// The samples.
    pub fn data(&self) -> &Dataset {
        &self.data
    }

    /// Runs the original. Without a metric: top-1 where there are labels, else agreement.
    ///
    /// # Errors
    /// When the model cannot be run, or the metric does not fit its outputs or the data.
    pub fn new(
        original: &Model,
        data: Dataset,
        runtime: Arc<dyn Runtime>,
        metric: Option<Metric>,
        place: Where,
    ) -> Result<OnData> {
        let default = if data.labels().is_some() { Metric::Top1 } else { Metric::Agreement };
        let metric = metric.unwrap_or(default);
        if metric.needs_labels() && data.labels().is_none() {
            return Err(Error::Usage(format!(
                "metric {metric} needs labels, and {} has none; agreement with the original does without",
                data.path().display()
            )));
        }
        let mut on = OnData {
            data,
            runtime,
            metric,
            place,
            original: original.clone(),
            outputs: Vec::new(),
            score: 0.0,
            share: 1.0,
        };
        let mut session = on.runtime.load(&on.original)?;
        let mut tally = Tally::new(on.metric, on.place.clone());
        let (mut bytes, mut all) = (0, true);
        for k in 0..on.data.batches() {
            let out = session.run(&on.data.batch(k)?)?;
            tally.add(&out, &out, on.labels(k))?;
            bytes += out.iter().map(|(_, a)| a.bytes()).sum::<usize>();
            all &= bytes <= MOST_KEPT;
            if all {
                on.outputs.push(out);
            }
        }
        if let Some(why) = tally.says_nothing() {
            return Err(Error::Usage(format!("{}: {why}", on.data.path().display())));
        }
        on.score = tally.score();
        on.share = session.placement().map_or(1.0, |p| p.share());
        if !on.score.is_finite() {
            return Err(Error::Usage(format!(
                "{}: the original's {metric} is {}; its outputs are no finite numbers on {}",
                original.path.display(),
                on.score,
                on.data.path().display()
            )));
        }
        Ok(on)
    }

    /// The metric in use.
    pub fn metric(&self) -> Metric {
        self.metric
    }

    /// The share of the original's nodes that run on a device other than the processor, where one was asked for.
    pub fn device_share(&self) -> f64 {
        if self.runtime.name() == "tract" { 0.0 } else { self.share }
    }

    /// Everything that can be said about a pruned model on the same samples, with this metric as the primary one. `more`: metrics
    /// beside those that are always there. `layer_samples`: as many for the comparison layer by layer, none turns it off.
    ///
    /// # Errors
    /// As [`diff::compare`].
    pub fn compare(
        &self,
        pruned: &Model,
        more: &[Metric],
        limits: &diff::Limits,
        layer_samples: usize,
        stage: &dyn Fn(&str),
    ) -> Result<diff::Diff> {
        let metrics = std::iter::once(self.metric).chain(more.iter().copied()).collect();
        let options = diff::Options { metrics, place: self.place.clone(), layer_samples, limits: *limits };
        diff::compare(&self.original, pruned, &self.data, &*self.runtime, &options, stage)
    }

    fn labels(&self, batch: usize) -> Option<&[i64]> {
        self.data.labels().and_then(|l| l.get(self.data.range(batch)))
    }

    fn measure(&self, model: &Model) -> Result<Measured> {
        let mut session = self.runtime.load(model)?;
        let mut original: Option<Box<dyn Session>> = None;
        let mut tally = Tally::new(self.metric, self.place.clone());
        for k in 0..self.data.batches() {
            let inputs = self.data.batch(k)?;
            let now = session.run(&inputs)?;
            match self.outputs.get(k) {
                Some(kept) => tally.add(kept, &now, self.labels(k))?,
                None => {
                    let original = match &mut original {
                        Some(o) => o,
                        none => none.insert(self.runtime.load(&self.original)?),
                    };
                    tally.add(&original.run(&inputs)?, &now, self.labels(k))?;
                }
            }
        }
        Ok(Measured { score: tally.score(), drop: tally.drop(self.score) })
    }
}

/// Measures by running a command of the user's.
pub struct ByCommand {
    command: String,
    score: f64,
}

/// What stands for the model's file in a command.
pub const PLACE: &str = "{model}";

impl ByCommand {
    /// `command` is given to the shell with every [`PLACE`] replaced by the path of a model. The last number that it prints is
    /// the score; higher is better.
    ///
    /// # Errors
    /// When it names no model, fails, or prints no number.
    pub fn new(original: &Model, command: &str) -> Result<ByCommand> {
        if !command.contains(PLACE) {
            return Err(Error::Usage(format!(
                "the evaluation command {command:?} does not say where the model goes: write {PLACE} there"
            )));
        }
        let mut by = ByCommand { command: command.into(), score: 0.0 };
        by.score = by.run(original)?;
        Ok(by)
    }

    fn measure(&self, model: &Model) -> Result<Measured> {
        let score = self.run(model)?;
        Ok(Measured { score, drop: self.score - score })
    }

    fn run(&self, model: &Model) -> Result<f64> {
        let trouble = |what: String| Error::Usage(format!("the evaluation command {:?} {what}", self.command));
        let dir = tempfile::tempdir().map_err(|e| trouble(format!("needs a temporary folder: {e}")))?;
        let path = dir.path().join("model.onnx");
        onnx::save(model, &path, &SaveOptions::default())?;
        let line = self.command.replace(PLACE, &path.display().to_string());
        let (shell, flag) = if cfg!(windows) { ("cmd", "/C") } else { ("sh", "-c") };
        let out = Command::new(shell).arg(flag).arg(&line).output().map_err(|e| trouble(format!("cannot run: {e}")))?;
        let text = String::from_utf8_lossy(&out.stdout);
        if !out.status.success() {
            let errors = String::from_utf8_lossy(&out.stderr);
            let last = errors.lines().chain(text.lines()).rfind(|l| !l.trim().is_empty()).unwrap_or("no message");
            return Err(trouble(format!("failed ({}): {last}", out.status)));
        }
        last_number(&text).ok_or_else(|| {
            let last = text.lines().rfind(|l| !l.trim().is_empty()).unwrap_or("nothing");
            trouble(format!("printed no number to take as the score; its last line is {last:?}"))
        })
    }
}

/// The last finite number in a text.
fn last_number(text: &str) -> Option<f64> {
    let cut = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+'));
    let number = |word: &str| word.trim_end_matches('.').parse::<f64>().ok().filter(|x| x.is_finite());
    text.split(cut).rev().find_map(number)
}

#[cfg(test)]
mod tests {
    use super::last_number;

    #[test]
    fn the_last_number_counts() {
        assert_eq!(last_number("epoch 3\nmAP: 0.512, loss=1e-3\n"), Some(1e-3));
        assert_eq!(last_number("top-1 = 87.5%.\n"), Some(87.5));
        assert_eq!(last_number("accuracy 0.9.\ndone\n"), Some(0.9));
        assert_eq!(last_number("score -4"), Some(-4.0));
        assert_eq!(last_number("nan inf none"), None);
    }
}
