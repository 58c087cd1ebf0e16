//! The command line: parse, run, exit code. Everything else is in `cli` and in the library.

mod cli;

use onnx_prune::error::Error;
use std::process::ExitCode;

/// A check of our own or a gate that the user set has failed.
const FAILED: u8 = 1;
/// Bad input or usage.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let cli = match cli::Cli::read() {
        Ok(cli) => cli,
        Err(e) => {
            // Help and version come this way too. When the terminal is gone there is nobody left to tell.
            let _ = e.print();
            return if e.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            messages(&e).iter().for_each(|m| cli::error(m));
            ExitCode::from(code(&e))
        }
    }
}

fn code(e: &anyhow::Error) -> u8 {
    match e.downcast_ref() {
        Some(Error::Verify { .. } | Error::Internal(_) | Error::Check(_)) => FAILED,
        _ => USAGE,
    }
}

/// One line; of several checks that failed, one for each.
fn messages(e: &anyhow::Error) -> Vec<String> {
    match e.downcast_ref() {
        Some(Error::Check(text)) => text.lines().map(str::to_owned).collect(),
        _ => vec![message(e)],
    }
}

/// The error and its causes on one line; a cause that the text before it already quotes is not repeated.
fn message(e: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in e.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text.lines().map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join("; ")
}
