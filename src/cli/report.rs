//! `--report FILE`: files in the format that the end of their name says; and how a result is printed.

use super::output::{self, Staged};
use clap::{Args, ValueEnum, ValueHint};
use std::path::{Path, PathBuf};

/// Samples that the page's comparison layer by layer is made on, where nothing else is said.
pub const LAYER_SAMPLES: usize = 64;

/// How the result of a command that knows limits comes out.
#[derive(Debug, Args)]
pub struct FormArgs {
    /// Write the report to FILE.json, FILE.md, FILE.html or FILE.xml (JUnit: a test case for each limit)
    /// (repeatable)
    #[arg(long, value_name = "FILE", value_parser = ReportFile::any, value_hint = ValueHint::FilePath, help_heading = "Output")]
    pub report: Vec<ReportFile>,
    /// How the result is printed
    #[arg(long, value_enum, default_value = "table", help_heading = "Output")]
    format: Format,
    /// The same as --format json; nothing else goes to the standard output
    #[arg(long, conflicts_with = "format", help_heading = "Output")]
    json: bool,
}

/// How a result is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Tables
    Table,
    /// JSON with every detail
    Json,
    /// Markdown
    Markdown,
    /// JUnit XML, a test case for each limit
    Junit,
}

impl FormArgs {
    /// The form that is printed; `None` for tables.
    pub fn printed(&self) -> Option<Form> {
        match self.format {
            _ if self.json => Some(Form::Json),
            Format::Table => None,
            Format::Json => Some(Form::Json),
            Format::Markdown => Some(Form::Markdown),
            Format::Junit => Some(Form::Junit),
        }
    }

    /// Whether a form is written or printed.
    pub fn has(&self, form: Form) -> bool {
        self.printed() == Some(form) || self.report.iter().any(|r| r.form == form)
    }

    /// Whether something comes out that has room for every detail.
    pub fn detailed(&self) -> bool {
        self.printed().is_some() || !self.report.is_empty()
    }
}

/// A form of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// JSON with every detail
    Json,
    /// Markdown
    Markdown,
    /// JUnit XML, a test case for each limit
    Junit,
    /// A page for a browser
    Html,
}

/// A file to write.
#[derive(Clone, Debug)]
pub struct ReportFile {
    path: PathBuf,
    form: Form,
}

impl ReportFile {
    /// What the name's end says.
    pub fn form(&self) -> Form {
        self.form
    }

    /// For clap: any form.
    pub fn any(text: &str) -> Result<Self, String> {
        Self::of(text, &[Form::Json, Form::Markdown, Form::Html, Form::Junit])
    }

    /// For clap: all but JUnit, which speaks of limits.
    pub fn document(text: &str) -> Result<Self, String> {
        Self::of(text, &[Form::Json, Form::Markdown, Form::Html])
    }

    fn of(text: &str, known: &[Form]) -> Result<Self, String> {
        let path = PathBuf::from(text);
        let end = path.extension().map(|e| e.to_string_lossy().to_lowercase());
        let form = match end.as_deref() {
            Some("json") => Some(Form::Json),
            Some("md" | "markdown") => Some(Form::Markdown),
            Some("html" | "htm") => Some(Form::Html),
            Some("xml") => Some(Form::Junit),
            // `/dev/stdout` and the like have no end to tell by.
            None if output::is_device(&path) => Some(Form::Json),
            _ => None,
        };
        match form.filter(|f| known.contains(f)) {
            Some(form) => Ok(Self { path, form }),
            None => {
                let names: Vec<&str> = known.iter().map(|f| f.example()).collect();
                Err(format!("the name's end says the format: expected one of {}", names.join(", ")))
            }
        }
    }
}

impl Form {
    fn example(self) -> &'static str {
        match self {
            Form::Json => "FILE.json",
            Form::Markdown => "FILE.md",
            Form::Junit => "FILE.xml",
            Form::Html => "FILE.html",
        }
    }
}

/// Everything about the reports that can be known before the work.
pub fn probe(reports: &[ReportFile], read: &[(&str, &Path)]) -> anyhow::Result<()> {
    let written: Vec<(&str, &Path)> = named(reports).collect();
    output::check_distinct(&written, read)?;
    written.iter().try_for_each(|(_, path)| output::probe(path))
}

/// Whether a page for a browser is among them.
pub fn has_page(reports: &[ReportFile]) -> bool {
    reports.iter().any(|r| r.form == Form::Html)
}

/// The command as it was given, the program by its name alone.
pub fn command_line() -> Vec<String> {
    let given = std::env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned());
    std::iter::once(env!("CARGO_PKG_NAME").to_owned()).chain(given).collect()
}

/// The files, as [`output::check_distinct`] wants them.
pub fn named(reports: &[ReportFile]) -> impl Iterator<Item = (&str, &Path)> {
    reports.iter().map(|r| ("the report", r.path.as_path()))
}

/// All texts first, then all files: none is written when one fails.
pub fn stage(reports: &[ReportFile], text: impl Fn(Form) -> anyhow::Result<String>) -> anyhow::Result<Vec<Staged>> {
    reports.iter().map(|r| Staged::new(&r.path, text(r.form)?)).collect()
}
