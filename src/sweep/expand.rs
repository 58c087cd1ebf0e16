//! From a [`Spec`] to rows and tasks.

use super::inputs::{self, Content, Known};
use super::{Argument, Flags, Input, ModelEntry, Row, SWEEP_SCHEMA_VERSION, Spec, Stage, Sweep, Task};
use crate::data::config;
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::path::Path;

/// Samples in a part of a measurement, where the spec says nothing: fewer are measured in one go.
pub const SHARD_SAMPLES: usize = 5000;
/// What a process takes beside its model and data, and how often it holds a model in memory; on the safe side, until the
/// first task of the kind has shown what it takes.
const PROCESS: u64 = 200 << 20;
const COPIES: u64 = 8;

/// What the program knows of itself.
pub struct Environment<'a> {
    /// Name and version.
    pub tool: String,
    /// The runtime that every task is to use, as `--runtime` takes it.
    pub runtime: String,
    /// Digests that were computed before; those computed now are added.
    pub known: &'a mut Known,
    /// Whether a flag of a stage names a file or folder that is read.
    pub reads: &'a dyn Fn(Stage, &str) -> bool,
    /// The number of samples that `diff` with these arguments reads.
    pub samples: &'a dyn Fn(&ModelEntry, &Flags) -> Result<usize>,
    /// The folder that paths in flags are relative to.
    pub dir: &'a Path,
}

/// Every combination, and every task once.
///
/// # Errors
/// When an input cannot be read, a flag has a value that no command line can have, or flags are given that a sweep gives itself.
pub fn expand(spec: &Spec, environment: &mut Environment<'_>) -> Result<Sweep> {
    let mut making = Making {
        environment,
        spec,
        sweep: Sweep { rows: Vec::new(), tasks: Vec::new(), contents: BTreeMap::new(), notes: Vec::new() },
        index: BTreeMap::new(),
    };
    for model in &spec.model {
        making.model(model)?;
    }
    Ok(making.sweep)
}

struct Making<'a, 'b> {
    environment: &'a mut Environment<'b>,
    spec: &'a Spec,
    sweep: Sweep,
    index: BTreeMap<String, usize>,
}

/// A model whose files are known.
struct Subject<'a> {
    entry: &'a ModelEntry,
    model: String,
    data: Option<String>,
    test: Option<String>,
    /// Samples to measure on.
    samples: usize,
}

/// A command line in the making.
struct Line {
    stage: Stage,
    arguments: Vec<Argument>,
    inputs: BTreeMap<String, Input>,
    outputs: Vec<String>,
}

impl Line {
    fn new(stage: Stage, command: &[&str]) -> Self {
        let arguments = command.iter().map(|&c| Argument::Text(c.to_owned())).collect();
        Self { stage, arguments, inputs: BTreeMap::new(), outputs: Vec::new() }
    }

    fn text(&mut self, text: impl Into<String>) {
        self.arguments.push(Argument::Text(text.into()));
    }

    fn flag(&mut self, name: &str, value: impl std::fmt::Display) {
        self.text(format!("--{name}={value}"));
    }

    fn input(&mut self, name: &str, from: Input) {
        self.arguments.push(Argument::Input(name.to_owned()));
        self.inputs.insert(name.to_owned(), from);
    }

    fn output(&mut self, flag: &str, name: &str) {
        self.text(flag);
        self.arguments.push(Argument::Output(name.to_owned()));
        self.outputs.push(name.to_owned());
    }
}

/// A list of the grid with its default.
fn or<T: Clone>(list: &[T], default: T) -> Vec<T> {
    if list.is_empty() { vec![default] } else { list.to_vec() }
}

/// What leaves the choice to the tool.
const DEFAULT: &str = "default";

impl Making<'_, '_> {
    fn model(&mut self, entry: &ModelEntry) -> Result<()> {
        let content = inputs::model(&entry.path, self.environment.known)?;
        let model = self.keep(content);
        let mut data = |path: Option<&Path>| -> Result<Option<String>> {
            let Some(path) = path else { return Ok(None) };
            let content = inputs::data(path, self.environment.known)?;
            Ok(Some(self.keep(content)))
        };
        let (data, test) = (data(entry.data.as_deref())?, data(entry.tested_on())?);
        let samples = match entry.tested_on() {
            Some(_) => (self.environment.samples)(entry, &self.spec.measure.diff)?,
            None => {
                let name = entry.name();
                self.sweep.notes.push(format!(
                    "{name} has no data (data or test in its [[model]]): its rows tell sizes{} and no accuracy",
                    if self.spec.measure.bench.flags().is_some() { ", times" } else { "" }
                ));
                0
            }
        };
        let known = Subject { entry, model, data, test, samples };
        let grid = &self.spec.grid;
        for (budget, value) in grid.budgets()? {
            for criterion in or(&grid.criterion, DEFAULT.to_owned()) {
                for recover in or(&grid.recover, DEFAULT.to_owned()) {
                    for epochs in or(&grid.epochs, 0) {
                        for seed in or(&grid.seed, 0) {
                            let (criterion, recover) = (criterion.clone(), recover.clone());
                            let mut row = Row {
                                model: entry.name(),
                                model_sha256: known.model.clone(),
                                budget: format!("{budget} {value}"),
                                criterion,
                                recover,
                                epochs,
                                seed,
                                tasks: BTreeMap::new(),
                            };
                            self.row(&known, &mut row, (budget, value))?;
                            self.sweep.rows.push(row);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn keep(&mut self, content: Content) -> String {
        let sha256 = content.sha256.clone();
        self.sweep.contents.entry(sha256.clone()).or_insert(content);
        sha256
    }

    fn row(&mut self, known: &Subject, row: &mut Row, (budget, value): (&str, f64)) -> Result<()> {
        let model = || Input::Content(known.model.clone());

        let mut plan = Line::new(Stage::Plan, &[]);
        plan.input("model", model());
        plan.flag(budget, value);
        if row.criterion != DEFAULT {
            plan.flag("criterion", &row.criterion);
        }
        self.flags(&mut plan, &self.spec.plan)?;
        self.data(&mut plan, known, known.data.as_deref())?;
        // Only where something is drawn, so that decisions that do not depend on it coincide.
        if known.data.is_some() || row.criterion.contains("random") {
            plan.flag("seed", row.seed);
        }
        plan.output("--save-plan", "plan.json");
        plan.text("--dry-run");
        let plan = self.task(known, row, plan)?;

        let mut prune = Line::new(Stage::Prune, &[]);
        prune.input("model", model());
        prune.text("--plan");
        prune.input("plan", Input::Made(plan, "plan.json".into()));
        if row.recover != DEFAULT {
            prune.flag("recover", &row.recover);
        }
        self.flags(&mut prune, &self.spec.prune)?;
        let repaired_on = known.data.as_deref().filter(|_| !matches!(row.recover.as_str(), "none" | "bias"));
        self.data(&mut prune, known, repaired_on)?;
        if repaired_on.is_some() {
            prune.flag("seed", row.seed);
        }
        prune.output("-o", "pruned.onnx");
        let mut small = Input::Made(self.task(known, row, prune)?, "pruned.onnx".into());

        if row.epochs > 0 {
            let Some(data) = &known.data else {
                return Err(Error::Usage(format!(
                    "{}: the grid has epochs, and training needs data: give its [[model]] data, or leave epochs out",
                    row.model
                )));
            };
            // It is looked for beside the model that is trained, which lies in the store.
            let files = self.sweep.contents.get(&known.model).map_or(&[][..], |c| &c.files);
            if files.iter().any(|f| f.name == config::FILE) {
                return Err(Error::Usage(format!(
                    "{}: the grid has epochs, and training after the cut would not see the {} beside the model: say what it                      says in prepare of its [[model]], and move it away",
                    row.model,
                    config::FILE
                )));
            }
            let mut train = Line::new(Stage::Train, &["train"]);
            train.input("pruned", small);
            train.text("--teacher");
            train.input("model", model());
            train.flag("epochs", row.epochs);
            train.flag("seed", row.seed);
            self.flags(&mut train, &self.spec.train)?;
            self.data(&mut train, known, Some(data))?;
            train.output("-o", "trained.onnx");
            small = Input::Made(self.task(known, row, train)?, "trained.onnx".into());
        }
        if let Some(test) = &known.test {
            self.measured(known, row, &small, test)?;
        }
        if let Some(flags) = self.spec.measure.bench.flags() {
            let mut bench = Line::new(Stage::Bench, &["bench"]);
            bench.input("model", model());
            bench.input("small", small);
            self.flags(&mut bench, &flags)?;
            bench.text("--no-data");
            self.task(known, row, bench)?;
        }
        Ok(())
    }

    /// In one go, or in parts that are joined.
    fn measured(&mut self, known: &Subject, row: &mut Row, small: &Input, test: &str) -> Result<()> {
        let shard = self.spec.measure.shard_samples.unwrap_or(SHARD_SAMPLES);
        let parts = known.samples.div_ceil(shard).max(1);
        if parts == 1 {
            let diff = self.diff(Stage::Diff, known, small, test)?;
            return self.task(known, row, diff).map(drop);
        }
        let mut merge = Line::new(Stage::Diff, &["merge"]);
        for i in 1..=parts {
            let mut part = self.diff(Stage::Part, known, small, test)?;
            part.flag("shard", format_args!("{i}/{parts}"));
            let key = self.task(known, row, part)?;
            merge.input(&format!("part-{i:05}"), Input::Made(key, super::execute::REPORT.into()));
        }
        // Parts stand behind the task that joins them.
        row.tasks.remove(&Stage::Part);
        self.task(known, row, merge).map(drop)
    }

    fn diff(&mut self, stage: Stage, known: &Subject, small: &Input, test: &str) -> Result<Line> {
        let mut diff = Line::new(stage, &["diff"]);
        diff.input("model", Input::Content(known.model.clone()));
        diff.input("small", small.clone());
        self.flags(&mut diff, &self.spec.measure.diff)?;
        self.data(&mut diff, known, Some(test))?;
        Ok(diff)
    }

    /// Flags of the spec, files among them as inputs.
    fn flags(&mut self, line: &mut Line, flags: &Flags) -> Result<()> {
        let given = flags.given().map_err(|name| {
            Error::Usage(format!("{name}: expected a number, a text, true or a list of these, as a flag takes them"))
        })?;
        for (name, value) in given {
            if GIVEN.contains(&name.as_str()) {
                return Err(Error::Usage(format!(
                    "--{name} is given by the sweep itself; leave it out of [{}]",
                    line.stage.name()
                )));
            }
            match value {
                None => line.text(format!("--{name}")),
                Some(value) if (self.environment.reads)(line.stage, &name) => {
                    let content = inputs::data(&self.environment.dir.join(value), self.environment.known)?;
                    let sha256 = self.keep(content);
                    line.text(format!("--{name}"));
                    line.input(&format!("{name}-{}", line.inputs.len()), Input::Content(sha256));
                }
                Some(value) => line.flag(&name, value),
            }
        }
        Ok(())
    }

    fn data(&mut self, line: &mut Line, known: &Subject, sha256: Option<&str>) -> Result<()> {
        match sha256 {
            Some(sha256) => {
                self.flags(line, &known.entry.prepare)?;
                line.text("--data");
                line.input("data", Input::Content(sha256.to_owned()));
            }
            None => line.text("--no-data"),
        }
        Ok(())
    }

    /// The task, once; its key.
    fn task(&mut self, known: &Subject, row: &mut Row, mut line: Line) -> Result<String> {
        line.text("--json");
        // Joining parts runs no model.
        let joins = line.arguments.first() == Some(&Argument::Text("merge".into()));
        if !joins && !line.arguments.iter().any(|a| matches!(a, Argument::Text(text) if text.starts_with("--runtime")))
        {
            let runtime = self.environment.runtime.clone();
            line.flag("runtime", runtime);
        }
        let size = |sha256: &str| self.sweep.contents.get(sha256).map_or(0, Content::bytes);
        let data: u64 = line
            .inputs
            .values()
            .filter_map(|i| match i {
                Input::Content(sha256) if *sha256 != known.model => Some(size(sha256)),
                _ => None,
            })
            .sum();
        let task = Task {
            schema_version: SWEEP_SCHEMA_VERSION,
            key: String::new(),
            stage: line.stage,
            model: row.model.clone(),
            tool: self.environment.tool.clone(),
            arguments: line.arguments,
            inputs: line.inputs,
            outputs: line.outputs,
            exclusive: line.stage == Stage::Bench,
            memory: PROCESS + COPIES * size(&known.model) + data,
        }
        .with_key()?;
        let key = task.key.clone();
        row.tasks.insert(task.stage, key.clone());
        if !self.index.contains_key(&key) {
            self.index.insert(key.clone(), self.sweep.tasks.len());
            self.sweep.tasks.push(task);
        }
        Ok(key)
    }
}

/// What a sweep gives itself.
const GIVEN: [&str; 23] = [
    "epochs",
    "teacher",
    "data",
    "no-data",
    "output",
    "in-place",
    "report",
    "format",
    "json",
    "quiet",
    "save-plan",
    "dry-run",
    "plan",
    "ratio",
    "threshold",
    "target-macs",
    "target-params",
    "target-latency",
    "criterion",
    "recover",
    "seed",
    "shard",
    "threads",
];
