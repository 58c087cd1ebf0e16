//! The library's error type. Every variant names where the problem is and, where there is one, the way out.

use crate::onnx::OnnxError;
use std::path::PathBuf;

/// What can go wrong between an ONNX file and its pruned copy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Reading or writing the file failed, or a tensor in it is malformed.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    /// The graph is not a well-formed directed acyclic graph.
    #[error("{path}: invalid graph: {message}", path = path.display())]
    Graph {
        /// The model file.
        path: PathBuf,
        /// What is wrong, with node and tensor names.
        message: String,
    },
    /// The request contradicts itself or cannot be met for this model.
    #[error("{0}")]
    Usage(String),
    /// A plan file does not fit the model.
    #[error("plan does not fit the model: {0}")]
    Plan(String),
    /// Data to run a model on cannot be read or does not fit it.
    #[error("{path}: {message}", path = path.display())]
    Data {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong, with names and shapes.
        message: String,
    },
    /// The tool's own consistency checks failed; no file is written.
    #[error("internal check failed: {0}; no file was written, please report this model")]
    Internal(String),
    /// A runtime could not load or run a model.
    #[error("{runtime} could not run the model: {message}")]
    Runtime {
        /// Name of the runtime.
        runtime: &'static str,
        /// Its own words.
        message: String,
    },
    /// A runtime cannot be used here.
    #[error("{runtime} cannot be used: {message}")]
    NoRuntime {
        /// Name of the runtime.
        runtime: &'static str,
        /// Why, and what to do.
        message: String,
    },
    /// The pruned model does not compute what it must.
    #[error(
        "verification failed: output {output:?} of the pruned model differs from the masked original by {difference:.3e} \
         (relative; at most {tolerance:.0e} is accepted); no file was written, please report this model"
    )]
    Verify {
        /// The graph output.
        output: String,
        /// `max|a-b| / max(1, max|b|)`.
        difference: f64,
        /// The accepted difference.
        tolerance: f64,
    },
    /// A model cannot be trained as asked.
    #[error("{path}: {message}", path = path.display())]
    Train {
        /// The model file.
        path: PathBuf,
        /// Which node or tensor, and the way out.
        message: String,
    },
    /// A check of several models found some that fail it.
    #[error("{0}")]
    Check(String),
}

/// The library's result type.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// `; did you mean "conv1"?`, when one of the known names is near to what was found; else nothing. The first of equally near
/// ones is taken.
///
/// # Examples
/// ```
/// use onnx_prune::error::meant;
///
/// assert_eq!(meant("isnpect", ["prune", "inspect"]), "; did you mean \"inspect\"?");
/// assert_eq!(meant("model.onnx", ["prune", "inspect"]), "");
/// ```
pub fn meant<'a>(found: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let far = |name: &&str| strsim::damerau_levenshtein(found, name);
    let nearest = known.into_iter().map(|name| (far(&name), name)).min_by_key(|(far, _)| *far);
    match nearest {
        // A third of the letters may be wrong, one in any case.
        Some((far, name)) if far <= (name.chars().count() / 3).max(1) => format!("; did you mean {name:?}?"),
        _ => String::new(),
    }
}
