//! The unit of work: one call of this program.

use super::inputs::hex;
use crate::error::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// What a task is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// The decision.
    Plan,
    /// The cut and the repair.
    Prune,
    /// Training after the cut.
    Train,
    /// A part of the comparison on data.
    Part,
    /// The comparison on data.
    Diff,
    /// Times.
    Bench,
}

impl Stage {
    /// As in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Plan => "plan",
            Stage::Prune => "prune",
            Stage::Train => "train",
            Stage::Part => "part",
            Stage::Diff => "diff",
            Stage::Bench => "bench",
        }
    }
}

/// What a call reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Input {
    /// A file or folder, by the SHA-256 of its content.
    Content(String),
    /// What another task wrote: its key, and the file's name.
    Made(String, String),
}

/// A part of the command line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Argument {
    /// As it is.
    Text(String),
    /// The path of the input with this name.
    Input(String),
    /// The path of a file that is written, by its name.
    Output(String),
}

/// One call of this program. What it prints is kept as `report.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Task {
    /// Version of this form.
    pub schema_version: u32,
    /// The digest of all that decides the result, see [`Task::with_key`].
    pub key: String,
    /// What it is for.
    pub stage: Stage,
    /// The name of the model that it is about. Not part of the key.
    pub model: String,
    /// Name and version of the program.
    pub tool: String,
    /// The command line.
    pub arguments: Vec<Argument>,
    /// What is read, by name.
    pub inputs: BTreeMap<String, Input>,
    /// Files that it writes, beside `report.json`.
    pub outputs: Vec<String>,
    /// Nothing else may run on the machine meanwhile: times are taken.
    pub exclusive: bool,
    /// Bytes of memory that it may take, by what is known before it runs; never part of the key.
    pub memory: u64,
}

/// What the key is made of.
#[derive(Serialize)]
struct Decisive<'a> {
    tool: &'a str,
    stage: Stage,
    arguments: &'a [Argument],
    inputs: &'a BTreeMap<String, Input>,
    outputs: &'a [String],
}

impl Task {
    /// With its key: SHA-256 of program, stage, arguments, inputs and outputs as JSON. Paths do not enter into it.
    ///
    /// # Errors
    /// When that JSON cannot be made.
    pub fn with_key(mut self) -> Result<Self> {
        let decisive = Decisive {
            tool: &self.tool,
            stage: self.stage,
            arguments: &self.arguments,
            inputs: &self.inputs,
            outputs: &self.outputs,
        };
        let text = serde_json::to_vec(&decisive).map_err(|e| Error::Internal(format!("a task has no key: {e}")))?;
        self.key = hex(&Sha256::digest(text));
        Ok(self)
    }

    /// Keys of the tasks whose results it reads.
    pub fn needs(&self) -> impl Iterator<Item = &str> {
        self.inputs.values().filter_map(|i| match i {
            Input::Made(task, _) => Some(task.as_str()),
            Input::Content(_) => None,
        })
    }

    /// SHA-256 of the files and folders that it reads.
    pub fn reads(&self) -> impl Iterator<Item = &str> {
        self.inputs.values().filter_map(|i| match i {
            Input::Content(sha256) => Some(sha256.as_str()),
            Input::Made(..) => None,
        })
    }

    /// What is shown of it: stage, model and the start of the key.
    pub fn label(&self) -> String {
        format!("{} {} {}", self.stage.name(), self.model, self.key.get(..12).unwrap_or_default())
    }
}
