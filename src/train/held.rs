//! Losses and a score on samples that are held back from training.

use super::step::{Graphs, names};
use super::targets::Targets;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::runtime::walk::Feed;
use crate::runtime::{Array, Runtime, Session};

/// What samples that are not trained on say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judged {
    /// The weighted loss.
    pub loss: f64,
    /// The share of samples whose class is right (with labels) or the teacher's.
    pub score: Option<f64>,
}

/// A model in training, as it would be used.
pub struct Held {
    session: Box<dyn Session>,
    feeds: Vec<(Feed, Option<Vec<i64>>)>,
    /// What the score is called.
    pub metric: Option<&'static str>,
}

impl Held {
    /// Whole batches of the samples.
    ///
    /// # Errors
    /// When a sample cannot be read or the runtime does not load the graph.
    pub fn new(graphs: &Graphs, data: &Dataset, targets: &Targets, runtime: &dyn Runtime) -> Result<Self> {
        let session = runtime.load(&graphs.evaluate)?;
        let mut feeds = Vec::new();
        for k in 0..data.len() / data.batch_size().max(1) {
            let mut feed = data.batch(k)?;
            let samples: Vec<usize> = data.range(k).collect();
            feed.extend(targets.wanted(data.labels(), &samples, None)?);
            let labels = data
                .labels()
                .filter(|_| graphs.by_sample)
                .map(|all| samples.iter().filter_map(|&i| all.get(i).copied()).collect());
            feeds.push((feed, labels));
        }
        if feeds.is_empty() {
            return Err(Error::Usage(format!(
                "{} held-back samples do not fill a batch of {}; hold back more with --hold-back, or lower --batch",
                data.len(),
                data.batch_size()
            )));
        }
        let labelled = data.labels().is_some() && graphs.by_sample;
        let metric =
            if labelled { Some("top1") } else { (graphs.logits && graphs.teacher_logits).then_some("agreement") };
        Ok(Held { session, feeds, metric })
    }

    /// The present state's losses and score.
    ///
    /// # Errors
    /// When the graph does not run.
    pub fn judge(&mut self, state: &Feed) -> Result<Judged> {
        let (mut loss, mut right, mut all) = (0.0, 0usize, 0usize);
        for (feed, labels) in &self.feeds {
            let mut inputs: Feed = state.iter().filter(|(n, _)| names::is_model(n)).cloned().collect();
            inputs.extend(feed.iter().cloned());
            let outputs = self.session.run(&inputs)?;
            let find = |name: &str| outputs.iter().find(|(n, _)| n == name).map(|(_, a)| a);
            loss += find(names::LOSS).and_then(|a| a.to_f64().first().copied()).unwrap_or(f64::NAN);
            let (Some(_), Some(logits)) = (self.metric, find(names::LOGITS)) else { continue };
            let found = winners(logits);
            let wanted = match (labels, find(names::TEACHER_LOGITS)) {
                (Some(labels), _) => labels.clone(),
                (None, Some(teacher)) => winners(teacher),
                (None, None) => continue,
            };
            all += found.len();
            right += found.iter().zip(&wanted).filter(|(a, b)| a == b).count();
        }
        let score = (all > 0).then(|| right as f64 / all as f64);
        Ok(Judged { loss: loss / self.feeds.len() as f64, score })
    }
}

/// The class with the highest value at each position, classes on axis 1.
fn winners(a: &Array) -> Vec<i64> {
    let (Some(&n), Some(&c)) = (a.dims.first(), a.dims.get(1)) else { return Vec::new() };
    let values = a.to_f64();
    let inner: usize = a.dims.iter().skip(2).product();
    let mut out = Vec::with_capacity(n * inner);
    for i in 0..n {
        for p in 0..inner {
            let value = |k: usize| values.get((i * c + k) * inner + p).copied().unwrap_or(f64::NAN);
            // The first of equals, as argmax has it.
            let best = (0..c).fold(0, |best, k| if value(k) > value(best) { k } else { best });
            out.push(best as i64);
        }
    }
    out
}
