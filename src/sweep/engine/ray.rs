//! A Ray cluster.
//!
//! Ray is driven from Python: the module `onnx_prune.ray_engine`, which `pip install 'onnx-prune[ray]'` brings, gets the list of
//! tasks as a line on its standard input, which stays open while results are wanted, and tells on its standard output, a line of JSON each, what became of them.

use crate::error::{Error, Result};
use crate::sweep::execute::stopped;
use crate::sweep::local::Ran;
use crate::sweep::store::Store;
use crate::sweep::{Stage, Task};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The module.
pub const MODULE: &str = "onnx_prune.ray_engine";

/// How tasks go to the cluster.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Options {
    /// The cluster's address; without one, what `RAY_ADDRESS` says, else a cluster on this machine for this run.
    pub address: Option<String>,
    /// Where tasks find their inputs and leave their results, as an fsspec URL; without one, the store is on a file system that
    /// all nodes share.
    pub storage: Option<String>,
    /// Cores of each task.
    pub num_cpus: f64,
    /// Graphics cards of each task.
    pub num_gpus: f64,
    /// How often a task whose node was lost is tried again.
    pub retries: u32,
    /// The program on the nodes; without one, that of the node's own Python environment.
    pub program: Option<PathBuf>,
}

#[derive(Serialize)]
struct Order<'a> {
    store: &'a Path,
    options: &'a Options,
    tasks: Vec<Listed<'a>>,
}

#[derive(Serialize)]
struct Listed<'a> {
    key: &'a str,
    stage: Stage,
    label: String,
    needs: BTreeSet<&'a str>,
    reads: BTreeSet<&'a str>,
    exclusive: bool,
    memory: u64,
}

/// A line that the module writes.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Line {
    /// Nodes of the cluster.
    Connected {
        /// How many.
        nodes: usize,
        /// Cores of all of them.
        cpus: f64,
    },
    /// A task is done, now (`made`) or before.
    Done {
        /// Its key.
        key: String,
        /// Whether it ran now.
        made: bool,
    },
    /// A task failed.
    Failed {
        /// Its key.
        key: String,
        /// Why.
        message: String,
    },
    /// A task that needs one that failed, or that was cancelled.
    Left {
        /// Its key.
        key: String,
    },
}

/// Runs the tasks on a cluster.
///
/// # Errors
/// When Python, the module or the cluster cannot be had. A task that fails is no error.
pub fn run(
    store: &Store,
    tasks: &[&Task],
    python: &Path,
    options: &Options,
    watch: &mut dyn FnMut(&Line, usize),
) -> Result<Ran> {
    let fail = |message: String| Error::NoRuntime { runtime: "the engine ray", message };
    let listed = tasks.iter().map(|t| Listed {
        key: &t.key,
        stage: t.stage,
        label: t.label(),
        needs: t.needs().collect(),
        reads: t.reads().collect(),
        exclusive: t.exclusive,
        memory: t.memory,
    });
    let order = Order { store: store.dir(), options, tasks: listed.collect() };
    let text = serde_json::to_string(&order).map_err(|e| Error::Internal(format!("the list of tasks: {e}")))? + "\n";
    let mut child = Command::new(python)
        .args(["-m", MODULE])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| fail(format!("{}: cannot be run: {e}; {}", python.display(), WAY_OUT)))?;
    let mut ran = Ran::default();
    let mut over = BTreeSet::new();
    let done = AtomicBool::new(false);
    let lines = child.stdout.take().map(BufReader::new).into_iter().flat_map(BufRead::lines);
    let input = child.stdin.take();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut input = input;
            if let Some(input) = &mut input {
                // When it ended at once it has said why, and its exit code tells.
                let _ = input.write_all(text.as_bytes());
            }
            // The end of its input tells it that nobody wants results any more.
            while !done.load(Ordering::SeqCst) && !stopped() {
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        for line in lines.map_while(std::result::Result::ok) {
            // Ray itself may print something.
            let Ok(line) = serde_json::from_str::<Line>(&line) else { continue };
            match &line {
                Line::Connected { .. } => {}
                Line::Done { key, made } => {
                    if over.insert(key.clone()) {
                        *if *made { &mut ran.made } else { &mut ran.found } += 1;
                    }
                }
                Line::Failed { key, message } => {
                    over.insert(key.clone());
                    ran.failed.insert(key.clone(), message.clone());
                }
                Line::Left { key } => {
                    over.insert(key.clone());
                    ran.left.insert(key.clone());
                }
            }
            watch(&line, over.len());
        }
        done.store(true, Ordering::SeqCst);
    });
    let status = child.wait().map_err(|e| fail(format!("{}: {e}", python.display())))?;
    if !status.success() {
        return Err(fail(format!(
            "{} -m {MODULE} ended with {status}; its last words are above; {WAY_OUT}",
            python.display()
        )));
    }
    ran.left.extend(tasks.iter().filter(|t| !over.contains(&t.key)).map(|t| t.key.clone()));
    Ok(ran)
}

const WAY_OUT: &str =
    "it needs Python with the package: pip install 'onnx-prune[ray]' (ONNX_PRUNE_PYTHON says which Python)";

/// The Python to use: `ONNX_PRUNE_PYTHON`, the one beside this program, that of the active environment, else `python3`.
pub fn python() -> PathBuf {
    let name = if cfg!(windows) { "python.exe" } else { "python3" };
    let given = std::env::var_os("ONNX_PRUNE_PYTHON").map(PathBuf::from);
    let beside = std::env::current_exe().ok().and_then(|p| Some(p.parent()?.join(name)));
    let folder = if cfg!(windows) { "Scripts" } else { "bin" };
    let active = std::env::var_os("VIRTUAL_ENV").map(|dir| Path::new(&dir).join(folder).join(name));
    let found = beside.into_iter().chain(active).find(|p| p.is_file());
    given.or(found).unwrap_or_else(|| name.into())
}
