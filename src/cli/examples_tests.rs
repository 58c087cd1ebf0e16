//! Every line of every help text's examples can be read.

use super::Cli;
use clap::{Command, CommandFactory, Parser};

const PROGRAM: &str = "onnx-prune ";

/// The lines with commands in a help text, without what is said about them.
fn examples(command: &Command) -> Vec<String> {
    let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let after = text.split_once("Examples:\n").map(|(_, after)| after.to_owned()).unwrap_or_default();
    let lines = after.lines().take_while(|l| !l.is_empty()).map(str::trim_start);
    lines.map(|l| l.split("  ").next().unwrap_or_default().to_owned()).collect()
}

/// Words as a shell splits them; only single quotes are used.
fn words(line: &str) -> Vec<String> {
    let mut out = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '\'' => quoted = !quoted,
            ' ' if !quoted => out.push(String::new()),
            c => out.last_mut().unwrap().push(c),
        }
    }
    assert!(!quoted, "{line}");
    out
}

#[test]
fn every_example_can_be_read() {
    let main = Cli::command();
    let mut all = examples(&main);
    assert!(all.len() > 15, "{all:?}");
    for sub in main.get_subcommands().filter(|s| !s.is_hide_set()) {
        let own = examples(sub);
        assert!(!own.is_empty(), "`onnx-prune {} --help` has no examples", sub.get_name());
        let begin = format!("{PROGRAM}{}", sub.get_name());
        assert!(own.iter().all(|l| l.starts_with(&begin)), "{own:?}");
        assert!(
            all.iter().any(|l| l.starts_with(&begin)) || sub.get_name() == "man",
            "{begin} is not in the main help"
        );
        all.extend(own);
    }
    for line in &all {
        assert!(line.starts_with(PROGRAM), "{line:?}");
        if let Err(e) = Cli::try_parse_from(words(line)) {
            panic!("{line}: {e}");
        }
    }
    assert!(Cli::try_parse_from(words("onnx-prune model.onnx --ratoi 0.4")).is_err());
}
