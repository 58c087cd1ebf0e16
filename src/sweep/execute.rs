//! Runs one task as a process of its own.

use super::inputs::bad;
use super::store::{Attempt, Failure, Finished, Lock, Store};
use super::{Argument, Input, Task};
use crate::error::{Error, Result};
use crate::evaluate::machine::peak_of;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// What the call printed.
pub const REPORT: &str = "report.json";
/// What it said on the way.
pub const LOG: &str = "log.txt";
/// Bytes of the log that a failure repeats.
const SAID: usize = 2000;
/// The exit code of a process that a signal ended.
const INTERRUPTED: i32 = 130;
/// How long it is waited between two looks at a process: little at first, so that small tasks cost little.
const LOOK: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

/// How a task ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Its result lies in the store; `true` when it was made now.
    Done(Box<Finished>, bool),
    /// It failed, which is noted in the store.
    Failed(Box<Failure>),
    /// Another process is at it.
    Taken,
    /// A task that it needs has no result.
    Waiting(String),
}

/// How tasks are run on this machine.
#[derive(Clone, Debug)]
pub struct Runner {
    /// The program.
    pub program: PathBuf,
    /// Threads for each task.
    pub threads: usize,
}

static STOPPED: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

/// No task is begun any more, and what runs is ended. For a handler of signals.
pub fn stop() {
    STOPPED.store(true, std::sync::atomic::Ordering::SeqCst);
}

/// Whether [`stop`] was called.
pub fn stopped() -> bool {
    STOPPED.load(std::sync::atomic::Ordering::SeqCst)
}

/// The paths that the task's arguments stand for. `out` is where it writes.
///
/// # Errors
/// When an input is not known or changed.
pub fn command_line(store: &Store, task: &Task, out: &Path) -> Result<Vec<OsString>> {
    let mut paths: BTreeMap<&str, PathBuf> = BTreeMap::new();
    for (name, input) in &task.inputs {
        let path = match input {
            Input::Content(sha256) => store.content(sha256)?.path(),
            Input::Made(key, file) => store.result(key).join(file),
        };
        paths.insert(name, path);
    }
    let argument = |a: &Argument| match a {
        Argument::Text(text) => Ok(text.into()),
        Argument::Output(name) => Ok(out.join(name).into()),
        Argument::Input(name) => paths
            .get(name.as_str())
            .map(|p| p.clone().into())
            .ok_or_else(|| Error::Internal(format!("task {} reads {name:?}, which is none of its inputs", task.key))),
    };
    task.arguments.iter().map(argument).collect()
}

impl Runner {
    /// Runs the task, unless its result is there.
    ///
    /// # Errors
    /// When the store cannot be used; that the task fails is an [`Outcome`].
    pub fn run(&self, store: &Store, task: &Task) -> Result<Outcome> {
        if let Some(missing) = task.needs().find(|&key| store.finished(key).is_none()) {
            return Ok(Outcome::Waiting(missing.to_owned()));
        }
        match store.begin(&task.key)? {
            Attempt::Done(done) => Ok(Outcome::Done(done, false)),
            Attempt::Taken => Ok(Outcome::Taken),
            Attempt::Yours(lock) => self.attempt(store, task, &lock),
        }
    }

    fn attempt(&self, store: &Store, task: &Task, lock: &Lock) -> Result<Outcome> {
        let out = store.partial(lock, &task.key)?;
        let mut arguments = command_line(store, task, &out)?;
        if !task.exclusive {
            arguments.push(format!("--threads={}", self.threads).into());
        }
        let create = |name: &str| {
            let path = out.join(name);
            File::create(&path).map_err(|e| bad(&path, format!("cannot write: {e}")))
        };
        let began = Instant::now();
        let mut command = Command::new(&self.program);
        command.args(&arguments).stdin(Stdio::null()).stdout(create(REPORT)?).stderr(create(LOG)?);
        let (status, peak) = match command.spawn() {
            Ok(child) => watch(child),
            Err(e) => (Err(format!("{}: cannot be run: {e}", self.program.display())), None),
        };
        let seconds = began.elapsed().as_secs_f64();
        let missing = task.outputs.iter().find(|name| !out.join(name).is_file());
        let message = match (&status, missing) {
            (Ok(status), None) if status.success() => None,
            (Ok(status), Some(name)) if status.success() => Some(format!("it wrote no {name}")),
            (Ok(status), _) => Some(said(&out, *status)),
            (Err(message), _) => Some(message.clone()),
        };
        let Some(message) = message else {
            let host = host();
            let done = Finished { key: task.key.clone(), seconds, peak_memory: peak, host, outputs: BTreeMap::new() };
            return Ok(Outcome::Done(Box::new(store.publish(lock, done)?), true));
        };
        let exit_code = status.ok().and_then(|s| s.code());
        let failure = Failure { key: task.key.clone(), exit_code, message, command: shell(&self.program, &arguments) };
        // Ended from outside: no fault of the task.
        if !stopped() && exit_code != Some(INTERRUPTED) {
            store.failed(lock, &failure)?;
        }
        Ok(Outcome::Failed(Box::new(failure)))
    }
}

/// Waits for the end, and looks at the memory meanwhile.
fn watch(mut child: Child) -> (Result<ExitStatus, String>, Option<u64>) {
    let (mut pause, longest) = LOOK;
    let mut peak = None;
    loop {
        peak = peak.max(peak_of(child.id()));
        match child.try_wait() {
            Ok(Some(status)) => return (Ok(status), peak),
            Ok(None) => {}
            Err(e) => return (Err(format!("cannot be waited for: {e}")), peak),
        }
        if stopped() {
            // It may have ended by itself.
            let _ = child.kill();
        }
        std::thread::sleep(pause);
        pause = (2 * pause).min(longest);
    }
}

/// The end of the log, or how the process ended where that is empty.
fn said(out: &Path, status: ExitStatus) -> String {
    let log = fs::read(out.join(LOG)).unwrap_or_default();
    let tail = log.get(log.len().saturating_sub(SAID)..).unwrap_or_default();
    let text = String::from_utf8_lossy(tail).trim().to_owned();
    if text.is_empty() { format!("it ended with {status} and said nothing") } else { text }
}

/// As a shell takes it.
pub fn shell(program: &Path, arguments: &[OsString]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./,:+@%".contains(c);
    let quoted = |text: &str| {
        if !text.is_empty() && text.chars().all(plain) {
            text.to_owned()
        } else {
            format!("'{}'", text.replace('\'', r"'\''"))
        }
    };
    let all = std::iter::once(program.to_string_lossy()).chain(arguments.iter().map(|a| a.to_string_lossy()));
    all.map(|a| quoted(&a)).collect::<Vec<_>>().join(" ")
}

/// The machine's name, as far as it tells it.
fn host() -> String {
    let named = fs::read_to_string("/proc/sys/kernel/hostname").ok();
    named.or_else(|| std::env::var("COMPUTERNAME").ok()).unwrap_or_default().trim().to_owned()
}
