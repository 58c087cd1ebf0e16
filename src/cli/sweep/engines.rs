//! The engines' flags, and how a run is told of.

use super::{Engine, SweepArgs};
use anyhow::Context;
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use onnx_prune::error::Error;
use onnx_prune::report::json;
use onnx_prune::sweep::engine::kubernetes::{Place, manifest};
use onnx_prune::sweep::engine::ray::{self, Line};
use onnx_prune::sweep::engine::{Job, slurm};
use onnx_prune::sweep::local::Ran;
use onnx_prune::sweep::{Store, Sweep, Task};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Members of a job, where there are more rows; the largest array of a Slurm that was not told otherwise.
const MOST_WORKERS: usize = 1000;
/// Memory of a member, in GiB.
const MEMORY: f64 = 4.0;

/// What a task or a member of a job gets.
#[derive(Debug, Args)]
pub struct ClusterArgs {
    /// Members of the Slurm or Kubernetes job [default: one per row, at most 1000]
    #[arg(long, value_name = "N", value_parser = super::parse::at_least_one, help_heading = "Cluster")]
    workers: Option<usize>,
    /// Cores of each task or member
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Cluster")]
    num_cpus: usize,
    /// Graphics cards of each task or member
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Cluster")]
    num_gpus: usize,
    /// The program on the cluster's machines [default: of slurm this one, else onnx-prune]
    #[arg(long, value_name = "PATH", help_heading = "Cluster")]
    program: Option<PathBuf>,
}

/// Ray.
#[derive(Debug, Args)]
pub struct RayArgs {
    /// The Ray cluster [default: RAY_ADDRESS, else one that is started here for this run]
    #[arg(long, value_name = "ADDRESS", help_heading = "Ray")]
    address: Option<String>,
    /// Where tasks get their inputs and leave their results, an fsspec URL such as s3://bucket/sweep [default: the
    /// store, which all nodes then have to see]
    #[arg(long, value_name = "URL", help_heading = "Ray")]
    storage: Option<String>,
    /// How often a task is tried again when its node is lost
    #[arg(long, value_name = "N", default_value_t = 3, help_heading = "Ray")]
    retries: u32,
}

/// Slurm.
#[derive(Debug, Args)]
pub struct SlurmArgs {
    /// One more line for sbatch, such as --sbatch=--partition=long (repeatable)
    #[arg(long, value_name = "OPTION", allow_hyphen_values = true, help_heading = "Slurm")]
    sbatch: Vec<String>,
}

/// Kubernetes.
#[derive(Debug, Args)]
pub struct KubernetesArgs {
    /// The container image
    #[arg(long, value_name = "IMAGE", help_heading = "Kubernetes")]
    image: Option<String>,
    /// The PersistentVolumeClaim that holds the store and everything that is read
    #[arg(long, value_name = "NAME", help_heading = "Kubernetes")]
    claim: Option<String>,
    /// Where the claim is mounted, here and in the pods
    #[arg(long, value_name = "DIR", help_heading = "Kubernetes")]
    mount: Option<PathBuf>,
    /// The namespace [default: that of the context]
    #[arg(long, value_name = "NAME", help_heading = "Kubernetes")]
    namespace: Option<String>,
}

/// Fails on flags that would do nothing.
pub fn refuse_idle(args: &SweepArgs) -> anyhow::Result<()> {
    let engine = args.engine;
    let queue = matches!(engine, Engine::Slurm | Engine::Kubernetes);
    let (c, r, k) = (&args.cluster, &args.ray, &args.kubernetes);
    let flags = [
        ("submit", args.submit, queue, "slurm or k8s"),
        ("workers", c.workers.is_some(), queue, "slurm or k8s"),
        ("program", c.program.is_some(), engine != Engine::Local, "ray, slurm or k8s"),
        ("num-gpus", c.num_gpus > 0, engine != Engine::Local, "ray, slurm or k8s"),
        ("address", r.address.is_some(), engine == Engine::Ray, "ray"),
        ("storage", r.storage.is_some(), engine == Engine::Ray, "ray"),
        ("sbatch", !args.slurm.sbatch.is_empty(), engine == Engine::Slurm, "slurm"),
        ("image", k.image.is_some(), engine == Engine::Kubernetes, "k8s"),
        ("claim", k.claim.is_some(), engine == Engine::Kubernetes, "k8s"),
        ("mount", k.mount.is_some(), engine == Engine::Kubernetes, "k8s"),
        ("namespace", k.namespace.is_some(), engine == Engine::Kubernetes, "k8s"),
        ("jobs", args.jobs.is_some(), engine == Engine::Local, "local"),
        ("worker", args.worker.is_some(), engine == Engine::Local, "local"),
    ];
    match flags.into_iter().find(|(_, given, used, _)| *given && !used) {
        Some((flag, .., engines)) => {
            Err(Error::Usage(format!("--{flag} is for --engine {engines}, and does nothing here; leave it out")).into())
        }
        None => Ok(()),
    }
}

/// Runs the tasks on a Ray cluster.
pub fn ray(args: &SweepArgs, store: &Store, tasks: &[&Task]) -> anyhow::Result<Ran> {
    let options = ray::Options {
        address: args.ray.address.clone(),
        storage: args.ray.storage.clone(),
        num_cpus: args.cluster.num_cpus as f64,
        num_gpus: args.cluster.num_gpus as f64,
        retries: args.ray.retries,
        program: args.cluster.program.clone(),
    };
    let mut lines = Lines::new(args.common.quiet, tasks.len());
    let label = |key: &str| tasks.iter().find(|t| t.key == key).map_or_else(|| key.to_owned(), |t| t.label());
    let ran = ray::run(store, tasks, &ray::python(), &options, &mut |line, over| {
        match line {
            Line::Connected { nodes, cpus } => lines.ended("ray", &format!("{nodes} nodes, {cpus} cores")),
            Line::Done { key, made: true } => lines.ended(&label(key), "done"),
            Line::Done { .. } | Line::Left { .. } => {}
            Line::Failed { key, message } => lines.failed(&label(key), message),
        }
        lines.progress(over, None);
    })?;
    Ok(ran)
}

fn job(args: &SweepArgs, store: &Store, sweep: &Sweep, program: PathBuf) -> anyhow::Result<Job> {
    let memory = (args.memory.unwrap_or(MEMORY) * f64::from(1 << 30)) as u64;
    Ok(Job {
        program: args.cluster.program.clone().unwrap_or(program),
        spec: std::path::absolute(args.spec())?,
        store: store.dir().to_owned(),
        workers: args.cluster.workers.unwrap_or(sweep.rows.len().clamp(1, MOST_WORKERS)),
        cores: args.cluster.num_cpus,
        memory,
        gpus: args.cluster.num_gpus,
        name: "onnx-prune-sweep".into(),
    })
}

/// Prints or submits an array job.
pub fn slurm(args: &SweepArgs, store: &Store, sweep: &Sweep) -> anyhow::Result<()> {
    let job = job(args, store, sweep, std::env::current_exe()?)?;
    let script = slurm::script(&job, &args.slurm.sbatch);
    submit(args, "sbatch", &[], &script)
}

/// Prints or submits an indexed job.
pub fn kubernetes(args: &SweepArgs, store: &Store, sweep: &Sweep) -> anyhow::Result<()> {
    let k = &args.kubernetes;
    let (Some(image), Some(claim), Some(mount)) = (&k.image, &k.claim, &k.mount) else {
        let why = "--engine k8s needs --image (a container image with onnx-prune), --claim (a PersistentVolumeClaim that holds \
                   the models, the data and the store) and --mount (the folder where that claim is mounted)";
        return Err(Error::Usage(why.into()).into());
    };
    let job = job(args, store, sweep, "onnx-prune".into())?;
    let place = Place {
        image: image.clone(),
        claim: claim.clone(),
        mount: std::path::absolute(mount)?,
        namespace: k.namespace.clone(),
    };
    let read: Vec<PathBuf> = sweep.contents.values().map(|c| c.path()).collect();
    let read: Vec<&Path> = read.iter().map(PathBuf::as_path).collect();
    let text = json::to_string(&manifest(&job, &place, &read)?)?;
    submit(args, "kubectl", &["create", "-f", "-"], &text)
}

fn submit(args: &SweepArgs, program: &str, arguments: &[&str], text: &str) -> anyhow::Result<()> {
    if !args.submit {
        return Ok(super::super::print(text)?);
    }
    let missing = || format!("{program} cannot be run; without --submit the job is printed, to be submitted elsewhere");
    let mut child = Command::new(program).args(arguments).stdin(Stdio::piped()).spawn().with_context(missing)?;
    if let Some(mut input) = child.stdin.take() {
        // When it ended before it has said why.
        let _ = input.write_all(text.as_bytes());
    }
    let status = child.wait()?;
    if status.success() { Ok(()) } else { Err(Error::Usage(format!("{program} ended with {status}")).into()) }
}

/// A line for each task that ended, and on a terminal a bar with the time left.
pub struct Lines {
    bar: ProgressBar,
    quiet: bool,
}

impl Lines {
    /// On stderr.
    pub fn new(quiet: bool, all: usize) -> Self {
        if quiet || !std::io::stderr().is_terminal() {
            return Self { bar: ProgressBar::hidden(), quiet };
        }
        let bar = ProgressBar::with_draw_target(Some(all as u64), ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{bar:24} {pos} of {len} tasks{msg} [{elapsed}] {prefix}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { bar, quiet }
    }

    /// A task begins.
    pub fn begun(&self, label: &str) {
        self.bar.set_prefix(label.to_owned());
    }

    /// A task is done.
    pub fn ended(&mut self, label: &str, words: &str) {
        self.line(format!("{label}: {words}"));
    }

    /// A task failed.
    pub fn failed(&mut self, label: &str, message: &str) {
        let last = message.lines().rfind(|l| !l.trim().is_empty()).unwrap_or_default();
        self.line(format!("{label}: failed: {last}"));
    }

    fn line(&self, text: String) {
        match (self.quiet, self.bar.is_hidden()) {
            (true, _) => {}
            (false, true) => eprintln!("{text}"),
            (false, false) => self.bar.println(text),
        }
    }

    /// So many are over, and so many seconds may be left.
    pub fn progress(&mut self, over: usize, left: Option<f64>) {
        self.bar.set_position(over as u64);
        let words = left.map(|s| format!(", about {} left", super::super::progress::time(s)));
        self.bar.set_message(words.unwrap_or_default());
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
