//! Results by key.
//!
//! ```text
//! STORE/contents/SHA256    what an input is and where it lies
//! STORE/hashes.json        digests of files, by path, size and time
//! STORE/tasks/KEY.json     a task
//! STORE/results/KEY/       finished.json, report.json, log.txt and what the task wrote; complete, or not there
//! STORE/failures/KEY.json  why the last attempt failed
//! STORE/locks/KEY          locked while a process works on the task
//! STORE/objects/SHA256/    inputs that were brought here from elsewhere
//! ```

use super::inputs::{Content, Known, bad, digest};
use super::{Sweep, Task};
use crate::error::{Error, Result};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// The file in a result that says how it came about.
pub const FINISHED: &str = "finished.json";

/// A folder of results.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    /// Inputs that this process has looked at. Only then are they checked: a folder may have a million files.
    looked: Mutex<BTreeMap<String, Arc<Content>>>,
}

/// A task that is done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Finished {
    /// The task's key.
    pub key: String,
    /// Seconds that it took.
    pub seconds: f64,
    /// The most bytes that it had in memory; `null` where the system does not tell.
    pub peak_memory: Option<u64>,
    /// Where it ran.
    pub host: String,
    /// What it wrote, by name.
    pub outputs: BTreeMap<String, Produced>,
}

/// A file that a task wrote.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Produced {
    /// Its content.
    pub sha256: String,
    /// Its size.
    pub bytes: u64,
}

/// An attempt that failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Failure {
    /// The task's key.
    pub key: String,
    /// The exit code; `null` where a signal ended the process or it did not start.
    pub exit_code: Option<i32>,
    /// The end of what it said.
    pub message: String,
    /// The command, as a shell takes it.
    pub command: String,
}

/// What a try to begin a task comes to.
pub enum Attempt {
    /// It is this process's turn.
    Yours(Lock),
    /// The result is there.
    Done(Box<Finished>),
    /// Another process works on it.
    Taken,
}

/// While it lives no other process begins the task, on this machine or on one that shares the folder.
pub struct Lock(#[allow(dead_code)] File);

impl Store {
    /// The store in this folder, which is made where it is missing.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(dir: &Path) -> Result<Self> {
        let dir = std::path::absolute(dir).map_err(|e| bad(dir, format!("cannot resolve the path: {e}")))?;
        let store = Self { dir, looked: Mutex::default() };
        for part in ["contents", "tasks", "results", "failures", "locks", "partial"] {
            let path = store.dir.join(part);
            fs::create_dir_all(&path).map_err(|e| bad(&path, format!("cannot make the folder: {e}")))?;
        }
        Ok(store)
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What was hashed before.
    pub fn known(&self) -> Known {
        // Only a memory: without it, files are read again.
        self.read("hashes.json").unwrap_or_default()
    }

    /// Writes down a sweep's tasks and inputs. What other sweeps wrote stays.
    ///
    /// # Errors
    /// When something cannot be written.
    pub fn keep(&self, sweep: &Sweep, known: &Known) -> Result<()> {
        for (sha256, content) in &sweep.contents {
            let name = format!("contents/{sha256}");
            if self.read::<Content>(&name).ok().as_ref() != Some(content) {
                self.write(&name, content)?;
            }
        }
        self.write("hashes.json", known)?;
        for task in &sweep.tasks {
            let name = format!("tasks/{}.json", task.key);
            if !self.dir.join(&name).exists() {
                self.write(&name, task)?;
            }
        }
        Ok(())
    }

    /// A task by its key.
    ///
    /// # Errors
    /// When there is none.
    pub fn task(&self, key: &str) -> Result<Task> {
        self.read(&format!("tasks/{key}.json"))
    }

    /// An input by its SHA-256: what was brought here, else where it was found.
    ///
    /// # Errors
    /// When it is not known, or its files changed since.
    pub fn content(&self, sha256: &str) -> Result<Arc<Content>> {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(content) = looked.get(sha256) {
            return Ok(content.clone());
        }
        let name = format!("contents/{sha256}");
        if !self.dir.join(&name).exists() {
            return Err(bad(&self.dir.join(name), "there is no such input; run the sweep with its SWEEP.toml"));
        }
        let content: Content = self.read(&name)?;
        let here = self.dir.join("objects").join(sha256);
        let content = if here.is_dir() { content.moved(here) } else { content };
        content.check()?;
        let content = Arc::new(content);
        looked.insert(sha256.to_owned(), content.clone());
        Ok(content)
    }

    /// The result of a task, where there is one.
    pub fn finished(&self, key: &str) -> Option<Finished> {
        self.read(&format!("results/{key}/{FINISHED}")).ok()
    }

    /// The folder of a task's result.
    pub fn result(&self, key: &str) -> PathBuf {
        self.dir.join("results").join(key)
    }

    /// Why the last attempt failed, where it did and nothing succeeded since.
    pub fn failure(&self, key: &str) -> Option<Failure> {
        self.read(&format!("failures/{key}.json")).ok()
    }

    /// Begins a task, if nobody else did.
    ///
    /// # Errors
    /// When the lock cannot be taken for another reason.
    pub fn begin(&self, key: &str) -> Result<Attempt> {
        if let Some(done) = self.finished(key) {
            return Ok(Attempt::Done(Box::new(done)));
        }
        let path = self.dir.join("locks").join(key);
        let fail = |e: std::io::Error| bad(&path, format!("cannot lock: {e}"));
        let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(fail)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(Attempt::Taken),
            Err(TryLockError::Error(e)) => return Err(fail(e)),
        }
        // It may have been finished between the first look and the lock.
        match self.finished(key) {
            Some(done) => Ok(Attempt::Done(Box::new(done))),
            None => Ok(Attempt::Yours(Lock(file))),
        }
    }

    /// A folder to work in. What an attempt that was cut off left there goes.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn partial(&self, _lock: &Lock, key: &str) -> Result<PathBuf> {
        let path = self.dir.join("partial").join(key);
        let fail = |e: std::io::Error| bad(&path, format!("cannot make the folder: {e}"));
        if path.exists() {
            fs::remove_dir_all(&path).map_err(fail)?;
        }
        fs::create_dir_all(&path).map_err(fail)?;
        Ok(path)
    }

    /// Puts what lies in the task's [`partial`](Self::partial) folder in its place, in one step.
    ///
    /// # Errors
    /// When a file cannot be read, written or moved.
    pub fn publish(&self, _lock: &Lock, mut done: Finished) -> Result<Finished> {
        let from = self.dir.join("partial").join(&done.key);
        let fail = |e: std::io::Error| bad(&from, format!("cannot read the folder: {e}"));
        for entry in fs::read_dir(&from).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let bytes = fs::metadata(&path).map_err(fail)?.len();
            done.outputs.insert(name, Produced { sha256: digest(&path)?, bytes });
        }
        self.write(&format!("partial/{}/{FINISHED}", done.key), &done)?;
        let to = self.result(&done.key);
        fs::rename(&from, &to).map_err(|e| bad(&to, format!("cannot move the result here: {e}")))?;
        let failure = self.dir.join("failures").join(format!("{}.json", done.key));
        // Where it never failed there is nothing to remove.
        let _ = fs::remove_file(failure);
        Ok(done)
    }

    /// Notes a failed attempt.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn failed(&self, _lock: &Lock, failure: &Failure) -> Result<()> {
        self.write(&format!("failures/{}.json", failure.key), failure)
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        let path = self.dir.join(name);
        let bytes = fs::read(&path).map_err(|e| bad(&path, format!("cannot read: {e}")))?;
        serde_json::from_slice(&bytes).map_err(|e| bad(&path, format!("expected what a sweep wrote: {e}")))
    }

    /// In one step.
    fn write(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string_pretty(value).map_err(|e| Error::Internal(format!("{name}: {e}")))?;
        self.write_bytes(name, format!("{text}\n").as_bytes())
    }

    /// A file of the store, in one step.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_bytes(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.dir.join(name);
        let fail = |e: std::io::Error| bad(&path, format!("cannot write: {e}"));
        let mut file =
            tempfile::Builder::new().prefix(".new-").tempfile_in(path.parent().unwrap_or(&self.dir)).map_err(fail)?;
        file.write_all(bytes).map_err(fail)?;
        file.persist(&path).map_err(|e| fail(e.error))?;
        Ok(())
    }
}
