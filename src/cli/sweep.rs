//! `onnx-prune sweep SWEEP.toml`.

mod engines;
mod spec;

use super::interrupt::Writing;
use super::{Common, colour, parse};
use clap::{Args, ValueEnum, ValueHint};
use engines::{KubernetesArgs, RayArgs, SlurmArgs};
use onnx_prune::error::Error;
use onnx_prune::report::html::{self, Page, Provenance};
use onnx_prune::report::text::plural;
use onnx_prune::report::{json, sweep_text, terminal};
use onnx_prune::sweep::collect::{Table, collect};
use onnx_prune::sweep::execute::{Outcome, Runner, stopped};
use onnx_prune::sweep::local::{self, Event, Ran, Resources};
use onnx_prune::sweep::{Store, Sweep, Task};
use std::path::{Path, PathBuf};

/// Who runs the tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Engine {
    /// This machine, all cores
    Local,
    /// A Ray cluster
    Ray,
    /// Slurm: an array job is printed, or submitted with --submit
    Slurm,
    /// Kubernetes: an indexed Job is printed, or submitted with --submit
    #[value(name = "k8s")]
    Kubernetes,
}

/// Runs every combination of models, budgets, criteria, repairs and seeds.
#[derive(Debug, Args)]
pub struct SweepArgs {
    /// What is combined: a TOML file, see the documentation
    #[arg(value_name = "SWEEP", value_hint = ValueHint::FilePath, required_unless_present = "task")]
    spec: Option<PathBuf>,
    /// Where results are kept by content; what is there is not run again [default: <stem>.sweep beside SWEEP]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, help_heading = "Output")]
    store: Option<PathBuf>,
    /// Print the table as JSON; nothing else goes to the standard output
    #[arg(long, help_heading = "Output")]
    json: bool,
    /// Print the tasks and run nothing
    #[arg(long, help_heading = "Output")]
    dry_run: bool,
    /// Who runs the tasks
    #[arg(long, value_enum, default_value = "local", help_heading = "Engine")]
    engine: Engine,
    /// Tasks at once on this machine [default: one per core]
    #[arg(long, value_name = "N", value_parser = parse::at_least_one, help_heading = "Engine")]
    jobs: Option<usize>,
    /// Memory for tasks on this machine, in GiB; on a cluster, for each member [default: what is free, 4 on a cluster]
    #[arg(long, value_name = "GIB", value_parser = parse::positive, help_heading = "Engine")]
    memory: Option<f64>,
    /// Work as member I of N: on the rows I, I + N and so on
    #[arg(long, value_name = "I/N", value_parser = worker, help_heading = "Engine")]
    worker: Option<Worker>,
    /// Run one task that the store knows, and nothing else
    #[arg(long, value_name = "KEY", requires = "store", conflicts_with_all = ["spec", "worker", "dry_run"], help_heading = "Engine")]
    task: Option<String>,
    /// Submit the job with sbatch or kubectl in place of printing it
    #[arg(long, help_heading = "Engine")]
    submit: bool,
    #[command(flatten)]
    cluster: engines::ClusterArgs,
    #[command(flatten)]
    ray: RayArgs,
    #[command(flatten)]
    slurm: SlurmArgs,
    #[command(flatten)]
    kubernetes: KubernetesArgs,
    #[command(flatten)]
    common: Common,
}

/// One of several.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Worker(usize, usize);

fn worker(text: &str) -> Result<Worker, String> {
    let parts = text.split_once('/').and_then(|(i, n)| Some(Worker(i.trim().parse().ok()?, n.trim().parse().ok()?)));
    parts
        .filter(|Worker(i, n)| (1..=*n).contains(i))
        .ok_or_else(|| "expected I/N with I from 1 to N, as in 3/16".into())
}

impl SweepArgs {
    fn spec(&self) -> &Path {
        self.spec.as_deref().unwrap_or(Path::new(""))
    }

    fn store(&self) -> PathBuf {
        self.store.clone().unwrap_or_else(|| self.spec().with_extension("sweep"))
    }

    fn runner(&self, at_once: usize) -> anyhow::Result<Runner> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = self.common.threads.map_or((cores / at_once).max(1), usize::from);
        Ok(Runner { program: std::env::current_exe()?, threads })
    }

    fn resources(&self) -> Resources {
        let here = Resources::here();
        let memory = self.memory.map(|gib| (gib * f64::from(1 << 30)) as u64).or(here.memory);
        Resources { jobs: self.jobs.unwrap_or(here.jobs), memory }
    }
}

/// Runs the command.
pub fn run(args: &SweepArgs) -> anyhow::Result<()> {
    args.common.start()?;
    // A signal ends the tasks first.
    let _writing = Writing::begin();
    if let Some(key) = &args.task {
        return one(args, key);
    }
    engines::refuse_idle(args)?;
    let store = Store::open(&args.store())?;
    let mut known = store.known();
    let sweep = spec::expand(args.spec(), &mut known)?;
    if args.dry_run {
        return planned(args, &store, &sweep);
    }
    store.keep(&sweep, &known)?;
    let tasks = match args.worker {
        Some(Worker(i, n)) => sweep.behind((i - 1..sweep.rows.len()).step_by(n)),
        None => sweep.tasks.iter().collect(),
    };
    let ran = match args.engine {
        Engine::Local => on_this_machine(args, &store, &tasks)?,
        Engine::Ray => engines::ray(args, &store, &tasks)?,
        Engine::Slurm => return engines::slurm(args, &store, &sweep),
        Engine::Kubernetes => return engines::kubernetes(args, &store, &sweep),
    };
    if args.worker.is_none() && !stopped() {
        finish(args, &store, &sweep)?;
    }
    told(&ran)
}

/// One task; exit code 1 when it fails.
fn one(args: &SweepArgs, key: &str) -> anyhow::Result<()> {
    let store = Store::open(&args.store())?;
    let task = store.task(key)?;
    loop {
        match args.runner(1)?.run(&store, &task)? {
            Outcome::Done(..) => return Ok(()),
            Outcome::Failed(failure) => {
                return Err(Error::Check(format!("{}: {}", task.label(), failure.message)).into());
            }
            Outcome::Waiting(needed) => {
                return Err(Error::Usage(format!(
                    "{}: task {needed}, which it needs, has no result yet",
                    task.label()
                ))
                .into());
            }
            // Its result is as good as ours.
            Outcome::Taken => std::thread::sleep(std::time::Duration::from_millis(200)),
        }
    }
}

fn planned(args: &SweepArgs, store: &Store, sweep: &Sweep) -> anyhow::Result<()> {
    let there = sweep.tasks.iter().filter(|t| store.finished(&t.key).is_some()).count();
    if args.json {
        super::print(&json::to_string(&sweep.tasks)?)?;
    } else {
        let lines: Vec<String> = sweep.tasks.iter().map(|t| shown(store, t)).collect();
        let (n, rows) = (sweep.tasks.len(), sweep.rows.len());
        super::print(&format!("{}\n{rows} rows, {n} tasks, {there} of them done\n", lines.join("\n")))?;
    }
    Ok(())
}

/// A task and its state, on one line.
fn shown(store: &Store, task: &Task) -> String {
    let state = match (store.finished(&task.key), store.failure(&task.key)) {
        (Some(_), _) => "done",
        (None, Some(_)) => "failed",
        (None, None) => "to do",
    };
    format!("{state:<7}{}", task.label())
}

fn on_this_machine(args: &SweepArgs, store: &Store, tasks: &[&Task]) -> anyhow::Result<Ran> {
    let resources = args.resources();
    let mut lines = engines::Lines::new(args.common.quiet, tasks.len());
    let runner = args.runner(resources.jobs.min(tasks.len().max(1)))?;
    let ran = local::run(store, tasks, &runner, resources, &mut |event| match event {
        Event::Begun(label) => lines.begun(label),
        Event::Ended(label, outcome) => match outcome {
            Outcome::Done(done, true) => lines.ended(label, &format!("{:.1} s", done.seconds)),
            Outcome::Done(_, false) => lines.ended(label, "made by another process"),
            Outcome::Failed(failure) => lines.failed(label, &failure.message),
            Outcome::Taken | Outcome::Waiting(_) => {}
        },
        Event::Progress(over, _, left) => lines.progress(*over, *left),
    })?;
    Ok(ran)
}

/// Table, database and page, in the store; and what is printed.
fn finish(args: &SweepArgs, store: &Store, sweep: &Sweep) -> anyhow::Result<()> {
    let table = collect(store, sweep)?;
    let text = json::to_string(&table)?;
    store.write_bytes("results.json", text.as_bytes())?;
    store.write_bytes("results.csv", sweep_text::csv(&table).as_bytes())?;
    store.write_bytes("report.html", page(args, &table)?.as_bytes())?;
    #[cfg(feature = "sqlite")]
    {
        // A new file in one step, so that a reader never sees half of it.
        let dir = tempfile::tempdir_in(store.dir())?;
        let path = dir.path().join("results.sqlite");
        onnx_prune::sweep::database::write(&table, &path)?;
        std::fs::rename(&path, store.dir().join("results.sqlite"))?;
    }
    if args.json {
        super::print(&text)?;
    } else if !args.common.quiet {
        let mut text = colour::table(&sweep_text::table(&table, terminal::width()));
        let database = if cfg!(feature = "sqlite") { ", results.sqlite" } else { "" };
        text += &format!("\nreport.html, results.csv, results.json{database} are in {}\n", store.dir().display());
        super::print(&text)?;
    }
    Ok(())
}

fn page(args: &SweepArgs, table: &Table) -> anyhow::Result<String> {
    let title = format!("Sweep {}", args.spec().file_name().unwrap_or_default().to_string_lossy());
    let reproduce = Provenance::here(super::report::command_line());
    Ok(html::page(&Page { title: Some(&title), sweep: Some(table), reproduce, ..Page::default() })?)
}

/// Exit code 1 when something failed or was left.
fn told(ran: &Ran) -> anyhow::Result<()> {
    if ran.failed.is_empty() && ran.left.is_empty() {
        return Ok(());
    }
    let last = |text: &str| text.lines().rfind(|l| !l.trim().is_empty()).unwrap_or_default().to_owned();
    let mut lines: Vec<String> =
        ran.failed.iter().map(|(key, why)| format!("task {}: {}", key.get(..12).unwrap_or(key), last(why))).collect();
    if !ran.left.is_empty() {
        let n = plural(ran.left.len(), "task");
        lines.push(format!("{n} not run, for want of what failed; run the sweep again to go on"));
    }
    Err(Error::Check(lines.join("\n")).into())
}
