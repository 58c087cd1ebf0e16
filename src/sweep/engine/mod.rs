//! Queues of clusters, which run the same tasks: no scheduler of our own.
//!
//! [`slurm`] and [`kubernetes`] write one array or indexed job; its member `i` of `n` runs this program with `--worker i/n`,
//! which works on the rows `i, i + n, …` in the store that all members share. What several rows need is made by the member that
//! comes first. [`ray`] gives a running Ray cluster one task at a time, each after those that it needs.

pub mod kubernetes;
pub mod ray;
pub mod slurm;

use std::path::PathBuf;

/// What every member of a job runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// The program, as it is called on the machines of the cluster.
    pub program: PathBuf,
    /// The SWEEP.toml.
    pub spec: PathBuf,
    /// The store.
    pub store: PathBuf,
    /// Members.
    pub workers: usize,
    /// Cores of a member.
    pub cores: usize,
    /// Bytes of memory of a member.
    pub memory: u64,
    /// Graphics cards of a member.
    pub gpus: usize,
    /// A name for it.
    pub name: String,
}

impl Job {
    /// The command of a member; `index` is what stands for its number, from 1.
    fn command(&self, index: &str) -> String {
        let quoted = |p: &PathBuf| format!("'{}'", p.to_string_lossy().replace('\'', r"'\''"));
        format!(
            "{} sweep {} --store {} --worker \"{index}/{}\"",
            quoted(&self.program),
            quoted(&self.spec),
            quoted(&self.store),
            self.workers
        )
    }

    /// Memory in whole mebibytes, rounded up.
    fn mebibytes(&self) -> u64 {
        self.memory.div_ceil(1 << 20)
    }
}
