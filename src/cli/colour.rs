//! Colours of tables and messages: only where somebody looks at them (`--color`, `NO_COLOR`, `CLICOLOR_FORCE`, `TERM`).

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use clap::ValueEnum;
use std::io;

/// When there are colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set; everywhere when CLICOLOR_FORCE is
    #[default]
    Auto,
    /// Everywhere
    Always,
    /// Nowhere
    Never,
}

impl Color {
    /// From now on, for all that this process prints.
    pub fn apply(self) {
        match self {
            // What the environment says.
            Self::Auto => {}
            Self::Always => ColorChoice::Always.write_global(),
            Self::Never => ColorChoice::Never.write_global(),
        }
    }

    /// What the arguments say, for messages about arguments that cannot be read.
    pub fn of_arguments() -> Self {
        let given = std::env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned());
        let mut given: Vec<String> = given.take_while(|a| a != "--").collect();
        given.push(String::new());
        let mut values = given.windows(2).rev().filter_map(|pair| match pair {
            [flag, value] if flag == "--color" => Some(value.as_str()),
            [flag, ..] => flag.strip_prefix("--color="),
            _ => None,
        });
        values.next().and_then(|v| Self::from_str(v, false).ok()).unwrap_or_default()
    }
}

impl From<Color> for clap::ColorChoice {
    fn from(color: Color) -> Self {
        match color {
            Color::Auto => Self::Auto,
            Color::Always => Self::Always,
            Color::Never => Self::Never,
        }
    }
}

const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default().bold();
const DOUBTFUL: Style = AnsiColor::Yellow.on_default();
const NAME: Style = Style::new().bold();
const RULE: Style = Style::new().dimmed();

/// A message on the standard error, its first word in colour.
pub fn error(text: &str) {
    anstream::eprintln!("{BAD}error:{BAD:#} {text}");
}

/// The same of something that is no failure.
pub fn warning(text: &str) {
    anstream::eprintln!("{DOUBTFUL}warning:{DOUBTFUL:#} {text}");
}

/// A table of the terminal, in colour if the standard output shows any. Without its escapes it is the same text.
pub fn table(text: &str) -> String {
    if AutoStream::choice(&io::stdout()) == ColorChoice::Never { text.to_owned() } else { paint(text) }
}

/// Words that are a verdict where they fill a cell.
const CELLS: &[(&str, Style)] = &[
    ("kept", GOOD),
    ("kept?", DOUBTFUL),
    ("broken", BAD),
    ("broken?", DOUBTFUL),
    ("within", GOOD),
    ("too much", BAD),
    ("FAILED", BAD),
    ("not read", BAD),
    ("not compared", DOUBTFUL),
];

/// Beginnings of sentences that are a verdict, where they follow a name or a colon.
const SENTENCES: &[(&str, Style)] = &[
    ("passed: ", GOOD),
    ("FAILED: ", BAD),
    ("kept: ", GOOD),
    ("NOT KEPT: ", BAD),
    ("MISSED: ", BAD),
    ("faster (", GOOD),
    ("slower (", BAD),
    ("outputs equal ", GOOD),
    ("numbers were not compared", DOUBTFUL),
    ("NOT EXACT", DOUBTFUL),
];

/// Names of fields that ask for attention.
const NOTES: &[&str] = &["Note", "Advice", "Not exact"];

fn paint(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let mut out = String::with_capacity(text.len() * 5 / 4);
    // Rows of the table of what holds channels back.
    let mut pins = false;
    for (i, line) in lines.iter().enumerate() {
        let header = lines.get(i + 1).is_some_and(|next| is_rule(next));
        pins = !line.is_empty() && (pins || header && line.starts_with("held back by"));
        out += &match () {
            () if is_rule(line) => styled(RULE, line),
            () if header => styled(NAME, line),
            () if pins => first_cell(line),
            () => named(line),
        };
        out.push('\n');
    }
    if !text.ends_with('\n') {
        out.pop();
    }
    out
}

fn is_rule(line: &str) -> bool {
    !line.is_empty() && line.chars().all(|c| c == '─')
}

fn styled(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

/// A row of pins: who holds.
fn first_cell(line: &str) -> String {
    match line.split_once("  ") {
        Some((cell, rest)) if !cell.is_empty() => format!("{}  {rest}", styled(DOUBTFUL, cell)),
        _ => line.to_owned(),
    }
}

/// `Name         text`, a row of a table, or a sentence.
fn named(line: &str) -> String {
    let Some((name, rest)) = line.split_at_checked(13).filter(|(name, rest)| is_name(name) && !rest.starts_with(' '))
    else {
        return verdict(line);
    };
    let word = name.trim_end();
    let style = if NOTES.contains(&word) { DOUBTFUL } else { NAME };
    format!("{}{}{}", styled(style, word), " ".repeat(name.len() - word.len()), verdict(rest))
}

/// One or two words and at least a space, as [`field`](onnx_prune::report) pads them.
fn is_name(text: &str) -> bool {
    let word = text.trim_end();
    word.len() < text.len()
        && !word.contains("  ")
        && word.starts_with(|c: char| c.is_ascii_uppercase())
        && word.chars().all(|c| c.is_ascii_alphabetic() || c == ' ')
}

/// The first verdict of a line in its colour.
fn verdict(line: &str) -> String {
    for (words, style) in SENTENCES {
        let at = match line.find(words) {
            Some(0) => 0,
            Some(at) if line[..at].ends_with(": ") || line[..at].ends_with(". ") => at,
            _ => continue,
        };
        let shown = words.trim_end_matches([' ', '(', ':']);
        return format!("{}{}{}", &line[..at], styled(*style, shown), &line[at + shown.len()..]);
    }
    cells(line)
}

/// Cells are two spaces apart.
fn cells(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    loop {
        let (cell, after) = rest.split_at(rest.find("  ").unwrap_or(rest.len()));
        let style = CELLS.iter().find(|(word, _)| *word == cell.trim_start()).filter(|_| cell.len() < line.len());
        out += &style.map_or_else(|| cell.to_owned(), |(_, style)| styled(*style, cell));
        let spaces = after.len() - after.trim_start_matches(' ').len();
        out += &after[..spaces];
        rest = &after[spaces..];
        if rest.is_empty() {
            return out;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
a.onnx → b.onnx: FAILED: 1 of 2 limits broken

limit              value
─────────────────────────────────────────
max-drop     1    1.5000   broken   worse
max-macs   0.6    0.5000   kept     smaller
Note         something
Verified     outputs equal the masked original's
Budget       ratio 0.4. MISSED: it cannot be met

held back by             for example   why
──────────────────────────────────────────
graph          1 layer   kept          graph output

B against A: faster (0.7 of A's time)
kept
";

    #[test]
    fn colours_change_no_text() {
        let painted = paint(TEXT);
        assert_ne!(painted, TEXT);
        assert_eq!(anstream::adapter::strip_str(&painted).to_string(), TEXT);
        assert_eq!(paint("no newline"), "no newline");
        assert_eq!(paint(""), "");
    }

    #[test]
    fn verdicts_have_their_colours() {
        let painted = paint(TEXT);
        for (style, word) in [
            (BAD, "FAILED"),
            (BAD, "broken"),
            (GOOD, "kept"),
            (DOUBTFUL, "Note"),
            (NAME, "Verified"),
            (GOOD, "outputs equal"),
            (BAD, "MISSED"),
            (DOUBTFUL, "graph"),
            (GOOD, "faster"),
        ] {
            let expected = styled(style, word);
            assert!(painted.contains(&expected), "{word}: {painted:?}");
        }
        assert!(painted.ends_with("\nkept\n"), "a line of its own is no cell: {painted:?}");
    }
}
