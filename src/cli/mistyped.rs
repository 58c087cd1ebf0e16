//! A first word that is neither a file nor a command, but near one.

use clap::Command;
use clap::error::ErrorKind;
use onnx_prune::error::meant;
use std::path::Path;

/// The command, if its first word may be what it is read as. A word that is no command is a model; where there is no such
/// file, a misspelt command would be told as a missing file, or as too many of them.
///
/// # Errors
/// The command that may be meant.
pub fn check(mut command: Command) -> Result<Command, clap::Error> {
    let Some(word) = std::env::args_os().nth(1).and_then(|w| w.into_string().ok()) else { return Ok(command) };
    let names: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
    if word.starts_with('-') || names.contains(&word.as_str()) || Path::new(&word).exists() {
        return Ok(command);
    }
    let near = meant(&word, names.iter().copied());
    if near.is_empty() {
        return Ok(command);
    }
    let text = format!("{word:?} is neither a command nor a file{near}");
    Err(command.error(ErrorKind::InvalidSubcommand, text))
}
