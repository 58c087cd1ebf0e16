//! What a run is to do.

use crate::train::augment::Augment;
use crate::train::grad::BatchNorms;
use crate::train::loss::Losses;
use crate::train::optimizer::Update;
use crate::train::pairs::Kept;
use crate::train::schedule::Schedule;
use crate::train::sparsity::Sparsity;
use regex::Regex;
use std::path::PathBuf;
use std::time::Duration;

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
