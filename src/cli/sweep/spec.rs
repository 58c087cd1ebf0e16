//! From SWEEP.toml to tasks whose command lines this program takes.

use super::super::runtime::Choice;
use super::super::{Cli, Command};
use clap::{CommandFactory, Parser, ValueHint};
use onnx_prune::error::{Error, Result};
use onnx_prune::runtime::{RuntimeChoice, choose};
use onnx_prune::sweep::expand::{self, Environment};
use onnx_prune::sweep::inputs::Known;
use onnx_prune::sweep::{Argument, Flags, ModelEntry, Spec, Stage, Sweep, Task};
use std::collections::BTreeSet;
use std::path::Path;

/// Reads it, names every task, and tries each command line.
pub fn expand(path: &Path, known: &mut Known) -> anyhow::Result<Sweep> {
    let spec = Spec::load(path)?;
    let reading = |stage| match stage {
        Stage::Plan | Stage::Prune => reading(None),
        Stage::Train => reading(Some("train")),
        Stage::Part | Stage::Diff => reading(Some("diff")),
        Stage::Bench => reading(Some("bench")),
    };
    let all: Vec<(Stage, BTreeSet<String>)> =
        [Stage::Plan, Stage::Prune, Stage::Train, Stage::Part, Stage::Diff, Stage::Bench]
            .into_iter()
            .map(|s| (s, reading(s)))
            .collect();
    let reads = |stage: Stage, flag: &str| all.iter().any(|(s, names)| *s == stage && names.contains(flag));
    // What runs models here is part of what a task is: on another machine the same must be found.
    let runtime = match choose(RuntimeChoice::Auto, None)?.name() {
        "tract" => Choice::Tract,
        _ => Choice::Ort,
    };
    let mut environment = Environment {
        tool: concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")).to_owned(),
        runtime: if runtime == Choice::Tract { "tract" } else { "ort" }.to_owned(),
        known,
        reads: &reads,
        samples: &samples,
        dir: path.parent().unwrap_or(Path::new("")),
    };
    let sweep = expand::expand(&spec, &mut environment)?;
    for task in &sweep.tasks {
        parses(task).map_err(|e| Error::Data { path: path.to_owned(), message: e })?;
    }
    Ok(sweep)
}

/// Flags of a command that name something that is read. Where something goes is the sweep's business.
fn reading(command: Option<&str>) -> BTreeSet<String> {
    let whole = Cli::command();
    let of = command.and_then(|name| whole.find_subcommand(name)).unwrap_or(&whole);
    let path =
        |a: &&clap::Arg| matches!(a.get_value_hint(), ValueHint::FilePath | ValueHint::AnyPath | ValueHint::DirPath);
    of.get_arguments().filter(path).filter_map(|a| a.get_long().map(str::to_owned)).collect()
}

/// That this program takes the task's command line, with names in place of paths.
fn parses(task: &Task) -> std::result::Result<(), String> {
    let text = |a: &Argument| match a {
        Argument::Text(text) => text.clone(),
        Argument::Input(name) | Argument::Output(name) => format!("./{name}.json"),
    };
    let line: Vec<String> = std::iter::once("onnx-prune".to_owned()).chain(task.arguments.iter().map(text)).collect();
    Cli::try_parse_from(&line).map(drop).map_err(|e| {
        let text = e.to_string();
        let first = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        format!("the flags of [{}] make no command: {first} (in {})", task.stage.name(), line.join(" "))
    })
}

/// The number of samples that a comparison reads.
fn samples(model: &ModelEntry, flags: &Flags) -> Result<usize> {
    let usage = |text: String| Error::Usage(format!("{}: {text}", model.name()));
    let mut line = vec!["onnx-prune".to_owned(), "diff".to_owned()];
    let path = |p: &Path| p.to_string_lossy().into_owned();
    line.extend([path(&model.path), path(&model.path)]);
    for (name, value) in flags.given().map_err(usage)?.into_iter().chain(model.prepare.given().map_err(usage)?) {
        line.push(value.map_or_else(|| format!("--{name}"), |v| format!("--{name}={v}")));
    }
    line.push(format!("--data={}", model.tested_on().map(path).unwrap_or_default()));
    let first = |e: clap::Error| e.to_string().lines().next().unwrap_or_default().to_owned();
    match Cli::try_parse_from(&line).map_err(|e| usage(first(e)))?.command {
        Some(Command::Diff(args)) => args.count().map_err(|e| usage(format!("{e:#}"))),
        _ => Err(Error::Internal("diff is not diff".into())),
    }
}
