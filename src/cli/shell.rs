//! `onnx-prune completions SHELL` and `onnx-prune man [DIR]`: what a shell and a manual want to know.

use super::output::{self, Staged};
use anyhow::Context;
use clap::{Args, Command, ValueHint};
use clap_complete::Shell;
use std::fs;
use std::path::PathBuf;

/// Writes a completion script.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL", value_enum)]
    shell: Shell,
}

/// Writes the manual.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// A folder for a page of each command; it is made if need be [default: the main page, to the standard output]
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    dir: Option<PathBuf>,
}

/// Prints the script.
pub fn completions(args: &CompletionsArgs, mut command: Command) -> anyhow::Result<()> {
    let mut script = Vec::new();
    let name = command.get_name().to_owned();
    clap_complete::generate(args.shell, &mut command, &name, &mut script);
    let mut script = String::from_utf8(script)?;
    if args.shell == Shell::Bash {
        // clap_complete 4.6.11 writes the hyphen of the program's name in two ways, so that no case of a command is reached.
        script = script.replace(&name.replace('-', "__subcmd__"), &name.replace('-', "__"));
    }
    super::print(&script)?;
    Ok(())
}

/// Prints the main page, or writes all pages.
pub fn man(args: &ManArgs, mut command: Command) -> anyhow::Result<()> {
    // What all commands take is in their pages too.
    command.build();
    let Some(dir) = &args.dir else {
        return Ok(super::print(&page(&command)?)?);
    };
    fs::create_dir_all(dir).with_context(|| format!("{}: the folder cannot be made", dir.display()))?;
    let mut staged = Vec::new();
    for (name, text) in pages(&command)? {
        let path = dir.join(name);
        output::probe(&path)?;
        staged.push(Staged::new(&path, text)?);
    }
    staged.into_iter().try_for_each(Staged::publish)
}

/// `(file name, text)`, the main page first.
fn pages(command: &Command) -> anyhow::Result<Vec<(String, String)>> {
    let main = command.get_name().to_owned();
    let mut all = vec![(format!("{main}.1"), page(command)?)];
    for sub in command.get_subcommands().filter(|s| !s.is_hide_set()) {
        let name = format!("{main}-{}", sub.get_name());
        let sub = sub.clone().version(env!("CARGO_PKG_VERSION"));
        all.push((format!("{name}.1"), page(&sub)?));
    }
    Ok(all)
}

/// No date: the same version gives the same bytes.
fn page(command: &Command) -> anyhow::Result<String> {
    let man = clap_mangen::Man::new(command.clone())
        .manual("onnx-prune manual")
        .source(concat!("onnx-prune ", env!("CARGO_PKG_VERSION")));
    let mut text = Vec::new();
    man.render(&mut text)?;
    Ok(String::from_utf8(text)?)
}
