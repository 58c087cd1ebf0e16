//! One page for what a run found: a file of HTML that needs nothing else, neither scripts nor a network.
//!
//! [`page`] puts a [`Page`] into `templates/report.html`. What is told is decided in `sections.rs`, `accuracy.rs` and `training.rs`, the
//! verdict in `verdict.rs`, the pictures are drawn in `plot.rs` and `training_plot.rs`, and the style is in `templates/report.css`. The template escapes all
//! text; only pictures are put in as they are, and those escape their own. The page is well-formed XML too. The same [`Page`]
//! gives the same bytes.

mod accuracy;
mod part;
mod plot;
mod sections;
mod sweep;
mod thumbs;
mod training;
mod training_plot;
mod verdict;

pub use thumbs::{Thumbnail, thumbnails};
pub(super) use training_plot::{Panel, panels};

use super::PruneReport;
use crate::error::{Error, Result};
use crate::evaluate::bench::BenchReport;
use crate::evaluate::check::CheckReport;
use crate::evaluate::diff::{Diff, Models};
use crate::evaluate::machine::Machine;
use crate::sweep::collect::Table;
use crate::train::history::History;
use askama::Template;
use part::{Block, Section};
use verdict::Verdict;

/// Everything that a page is made of. What is absent has no section.
#[derive(Default)]
pub struct Page<'a> {
    /// What it is about; without one, the names of the models.
    pub title: Option<&'a str>,
    /// A pruning run; brings its own accuracy and latency, unless they are given here.
    pub prune: Option<&'a PruneReport>,
    /// A check; brings its own accuracy and latency, unless they are given here.
    pub check: Option<&'a CheckReport>,
    /// A training run.
    pub training: Option<&'a History>,
    /// A sweep, which has a page of its own.
    pub sweep: Option<&'a Table>,
    /// A comparison on data.
    pub accuracy: Option<&'a Diff>,
    /// Measured times.
    pub latency: Option<&'a BenchReport>,
    /// Pictures of samples, see [`thumbnails`].
    pub thumbnails: &'a [Thumbnail],
    /// How it was made.
    pub reproduce: Provenance,
}

/// How to get the same again.
#[derive(Clone, Debug, Default)]
pub struct Provenance {
    /// The command and its arguments; none when a program did it.
    pub command: Vec<String>,
    /// The machine.
    pub machine: Machine,
    /// The model files; without any, those that the reports name.
    pub files: Vec<ModelFile>,
}

/// A model file.
#[derive(Clone, Debug)]
pub struct ModelFile {
    /// What it is here, such as `original`.
    pub role: String,
    /// Where it is.
    pub path: String,
    /// SHA-256 of the main file, without external data.
    pub sha256: String,
}

impl Provenance {
    /// This command on this machine. How busy the machine is is left out, so that the same run gives the same page.
    pub fn here(command: Vec<String>) -> Self {
        let machine = Machine { load: None, ..Machine::here() };
        Self { command, machine, files: Vec::new() }
    }
}

impl<'a> Page<'a> {
    fn diff(&self) -> Option<&'a Diff> {
        self.accuracy.or_else(|| self.check?.accuracy.as_ref()).or_else(|| self.prune?.comparison.as_ref())
    }

    fn bench(&self) -> Option<&'a BenchReport> {
        self.latency.or_else(|| self.check?.latency.as_ref()).or_else(|| self.prune?.latency.as_ref())
    }

    fn models(&self) -> Option<&'a Models> {
        let told = self.check.map(|c| &c.models).or_else(|| self.prune?.models.as_ref());
        told.or_else(|| self.diff().map(|d| &d.models))
    }

    /// The files, original first.
    fn paths(&self) -> Vec<&'a str> {
        if let Some(p) = self.prune {
            let written = Some(p.pruned.path.as_str()).filter(|path| !path.is_empty());
            return std::iter::once(p.original.path.as_str()).chain(written).collect();
        }
        if let Some(t) = self.training {
            return std::iter::once(t.model.as_str()).chain(t.written.as_deref()).collect();
        }
        if let Some(m) = self.models() {
            return vec![&m.original.path, &m.pruned.path];
        }
        self.bench().map(|b| b.models.iter().map(|m| m.path.as_str()).collect()).unwrap_or_default()
    }

    fn heading(&self) -> String {
        let name = |path: &str| path.rsplit(['/', '\\']).next().unwrap_or(path).to_owned();
        match self.title {
            Some(title) => title.to_owned(),
            None => self.paths().into_iter().map(name).collect::<Vec<_>>().join(" → "),
        }
    }
}

#[derive(Template)]
#[template(path = "report.html")]
struct Document {
    title: String,
    tool: &'static str,
    verdict: Verdict,
    sections: Vec<Section>,
}

/// The page.
///
/// # Errors
/// [`Error::Internal`] when a picture cannot be drawn.
pub fn page(page: &Page) -> Result<String> {
    let document = Document {
        title: page.heading(),
        tool: concat!("onnx-prune ", env!("CARGO_PKG_VERSION")),
        verdict: Verdict::of(page),
        sections: sections::all(page)?,
    };
    document.render().map_err(|e| Error::Internal(format!("the page cannot be written: {e}")))
}
