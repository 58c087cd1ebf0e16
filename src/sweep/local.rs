//! The engine of this machine: as many tasks at once as there are cores and memory for.

use super::execute::{Outcome, Runner, stopped};
use super::store::Store;
use super::{Stage, Task};
use crate::error::Result;
use crate::evaluate::machine::available_memory;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// What is added to memory that was measured.
const MARGIN: f64 = 1.15;
/// How often it is looked whether another process is done with a task.
const TAKEN: Duration = Duration::from_millis(200);

/// What the machine gives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Resources {
    /// Tasks at once.
    pub jobs: usize,
    /// Bytes for all of them; `None` for no limit. One task runs in any case.
    pub memory: Option<u64>,
}

impl Resources {
    /// A task for each core, in the memory that is free now.
    pub fn here() -> Self {
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        Self { jobs, memory: available_memory() }
    }
}

/// How the run goes on.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A task begins.
    Begun(String),
    /// A task has ended, or its result was there before.
    Ended(String, Outcome),
    /// So many of all, and seconds that the rest may take.
    Progress(usize, usize, Option<f64>),
}

/// What became of the tasks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ran {
    /// Made now.
    pub made: usize,
    /// There before, or made by another process meanwhile.
    pub found: usize,
    /// Keys of those that failed, and why.
    pub failed: BTreeMap<String, String>,
    /// Keys of those that were not begun, since what they need failed or the run was stopped.
    pub left: BTreeSet<String>,
}

/// Runs the tasks, each after those that it needs. `tasks` are in such an order.
///
/// # Errors
/// When the store cannot be used. A task that fails is no error: the others go on.
pub fn run(
    store: &Store,
    tasks: &[&Task],
    runner: &Runner,
    resources: Resources,
    watch: &mut dyn FnMut(&Event),
) -> Result<Ran> {
    let mut pool = Pool { resources, seen: BTreeMap::new(), times: BTreeMap::new(), ran: Ran::default() };
    let mut waiting: Vec<&Task> = Vec::new();
    let mut done: BTreeSet<&str> = BTreeSet::new();
    for task in tasks {
        match store.finished(&task.key) {
            Some(finished) => {
                pool.learn(task, finished.seconds, finished.peak_memory);
                pool.ran.found += 1;
                done.insert(&task.key);
            }
            None => waiting.push(task),
        }
    }
    let all = tasks.len();
    watch(&Event::Progress(done.len(), all, None));
    let began = Instant::now();
    std::thread::scope(|scope| {
        let (send, receive) = mpsc::channel();
        let mut running: BTreeMap<&str, (&Task, u64)> = BTreeMap::new();
        let mut taken: BTreeMap<&str, Instant> = BTreeMap::new();
        loop {
            // What needs something that failed will never run.
            let lost = |t: &&Task, ran: &Ran| t.needs().any(|k| ran.failed.contains_key(k) || ran.left.contains(k));
            while let Some(i) = waiting.iter().position(|t| lost(t, &pool.ran)) {
                let task = waiting.remove(i);
                pool.ran.left.insert(task.key.clone());
            }
            while !stopped() {
                let now = Instant::now();
                let free = |t: &Task| taken.get(t.key.as_str()).is_none_or(|&when| when <= now);
                let ready = |t: &Task| t.needs().all(|k| done.contains(k)) && free(t);
                let Some(i) = pool.next(&waiting, &running, &ready) else { break };
                let task = waiting.remove(i);
                let send = send.clone();
                running.insert(&task.key, (task, pool.memory(task)));
                watch(&Event::Begun(task.label()));
                scope.spawn(move || {
                    let outcome = runner.run(store, task);
                    // Nobody listens any more only after an error of the store.
                    let _ = send.send((task, outcome));
                });
            }
            if running.is_empty() && (waiting.is_empty() || stopped()) {
                break;
            }
            let (task, outcome) = match receive.recv_timeout(TAKEN) {
                Ok(message) => message,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            running.remove(task.key.as_str());
            let outcome = outcome?;
            match &outcome {
                Outcome::Done(finished, now) => {
                    pool.learn(task, finished.seconds, finished.peak_memory);
                    *if *now { &mut pool.ran.made } else { &mut pool.ran.found } += 1;
                    done.insert(&task.key);
                }
                Outcome::Failed(failure) if stopped() => drop(failure.clone()),
                Outcome::Failed(failure) => drop(pool.ran.failed.insert(task.key.clone(), failure.message.clone())),
                Outcome::Taken | Outcome::Waiting(_) => {
                    taken.insert(&task.key, Instant::now() + TAKEN);
                    waiting.insert(0, task);
                    continue;
                }
            }
            if stopped() && matches!(outcome, Outcome::Failed(_)) {
                pool.ran.left.insert(task.key.clone());
            }
            watch(&Event::Ended(task.label(), outcome));
            let left = pool.left(&waiting, running.values().map(|r| r.0), began);
            let over = done.len() + pool.ran.failed.len() + pool.ran.left.len();
            watch(&Event::Progress(over, all, left));
        }
        Ok::<(), crate::error::Error>(())
    })?;
    pool.ran.left.extend(waiting.iter().map(|t| t.key.clone()));
    Ok(pool.ran)
}

struct Pool {
    resources: Resources,
    /// The most memory that tasks of a kind took.
    seen: BTreeMap<(Stage, String), u64>,
    /// Sum of seconds and number of tasks of a kind.
    times: BTreeMap<(Stage, String), (f64, usize)>,
    ran: Ran,
}

impl Pool {
    fn learn(&mut self, task: &Task, seconds: f64, peak: Option<u64>) {
        let kind = (task.stage, task.model.clone());
        if let Some(peak) = peak {
            let most = self.seen.entry(kind.clone()).or_default();
            *most = peak.max(*most);
        }
        let (sum, n) = self.times.entry(kind).or_default();
        *sum += seconds;
        *n += 1;
    }

    /// What it is expected to take.
    fn memory(&self, task: &Task) -> u64 {
        match self.seen.get(&(task.stage, task.model.clone())) {
            Some(&seen) => (seen as f64 * MARGIN) as u64,
            None => task.memory,
        }
    }

    /// The task to begin now: the first that is ready and has room. One that must be alone waits until nothing else runs, and
    /// comes last.
    fn next(
        &self,
        waiting: &[&Task],
        running: &BTreeMap<&str, (&Task, u64)>,
        ready: &dyn Fn(&Task) -> bool,
    ) -> Option<usize> {
        let alone = running.values().any(|(t, _)| t.exclusive);
        if alone || running.len() >= self.resources.jobs {
            return None;
        }
        let used: u64 = running.values().map(|(_, memory)| memory).sum();
        let room = |t: &Task| {
            running.is_empty() || self.resources.memory.is_none_or(|all| used.saturating_add(self.memory(t)) <= all)
        };
        let position = |exclusive: bool| waiting.iter().position(|t| t.exclusive == exclusive && ready(t) && room(t));
        let others = waiting.iter().any(|t| !t.exclusive && ready(t));
        match position(false) {
            Some(i) => Some(i),
            None if running.is_empty() && !others => position(true),
            None => None,
        }
    }

    /// Seconds for what is left, from what tasks of the same kind took; those that never ran take the mean of all.
    fn left<'t>(&self, waiting: &[&'t Task], running: impl Iterator<Item = &'t Task>, began: Instant) -> Option<f64> {
        let (sum, n) = self.times.values().fold((0.0, 0), |(s, n), (a, b)| (s + a, n + b));
        if n == 0 || began.elapsed() < Duration::from_millis(500) {
            return None;
        }
        let of = |t: &Task| match self.times.get(&(t.stage, t.model.clone())) {
            Some((sum, n)) => sum / *n as f64,
            None => sum / n as f64,
        };
        let (mut side, mut alone) = (0.0, 0.0);
        for t in waiting.iter().copied().chain(running) {
            *if t.exclusive { &mut alone } else { &mut side } += of(t);
        }
        Some(side / self.resources.jobs as f64 + alone)
    }
}
