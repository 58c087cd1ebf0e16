//! Many models, budgets, criteria, repairs and seeds: `onnx-prune sweep`.
//!
//! A [`Spec`] names them. [`expand`](expand::expand) makes a [`Sweep`] of it: one [`Row`] for each
//! combination, and the [`Task`]s that they need. A task is one call of this program with inputs that are known by their
//! content, and its [key](Task::key) is a digest of all that decides the result: the program's version, the arguments, and
//! for each input its content or the task that makes it. Stages (plan → prune → train → diff, bench) that coincide between
//! rows have the same key and are run once.
//!
//! Results lie in a [`Store`], a folder with one entry for each key, which appears in one step. So a run that
//! was stopped goes on where it was, and several processes, on one machine or on many that share the folder, may work on the same
//! sweep at once: a lock for each task keeps two from doing the same. Who runs the tasks is up to the engine: [`local`] here,
//! or the queue of a cluster that calls this program with `--task KEY` or `--worker I/N` ([`engine`]). [`collect`] makes the
//! [`Table`](collect::Table) of what is there.

pub mod collect;
#[cfg(feature = "sqlite")]
pub mod database;
pub mod engine;
pub mod execute;
pub mod expand;
pub mod inputs;
pub mod local;
pub mod pareto;
mod spec;
mod store;
mod task;

pub use spec::{Bench, Flags, Grid, Measure, ModelEntry, Spec};
pub use store::{Attempt, Failure, Finished, Lock, Produced, Store};
pub use task::{Argument, Input, Stage, Task};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of the JSON documents in a store.
pub const SWEEP_SCHEMA_VERSION: u32 = 1;

/// One combination, and the tasks that answer it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Row {
    /// The model's name in the sweep.
    pub model: String,
    /// SHA-256 of what the model's file and the files beside it that belong to it hold.
    pub model_sha256: String,
    /// The budget, as on a command line: `target-macs 0.5`.
    pub budget: String,
    /// The criterion; `default` where none is given.
    pub criterion: String,
    /// The repair; `default` where none is given.
    pub recover: String,
    /// Epochs of training after the cut; 0 for none.
    pub epochs: u64,
    /// The seed.
    pub seed: u64,
    /// Keys of the tasks by stage. The last stages answer the row; the others are on the way.
    pub tasks: BTreeMap<Stage, String>,
}

/// What a [`Spec`] comes to.
#[derive(Clone, Debug, PartialEq)]
pub struct Sweep {
    /// Every combination, in the order of the spec.
    pub rows: Vec<Row>,
    /// Every task once, those that others need first.
    pub tasks: Vec<Task>,
    /// What the inputs are and where they lie, by content.
    pub contents: BTreeMap<String, inputs::Content>,
    /// Things the user should know.
    pub notes: Vec<String>,
}

impl Sweep {
    /// The tasks that are behind these rows, in order.
    pub fn behind(&self, rows: impl Iterator<Item = usize>) -> Vec<&Task> {
        let mut wanted: std::collections::BTreeSet<&str> =
            rows.filter_map(|r| self.rows.get(r)).flat_map(|r| r.tasks.values().map(String::as_str)).collect();
        // Parts of a measurement are in no row, only behind the task that joins them.
        for task in self.tasks.iter().rev() {
            if wanted.contains(task.key.as_str()) {
                wanted.extend(task.needs());
            }
        }
        self.tasks.iter().filter(|t| wanted.contains(t.key.as_str())).collect()
    }
}
