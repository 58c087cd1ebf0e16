//! Which runtime is used, and which could be.

use super::Runtime;
use crate::error::{Error, Result};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The runtime that a user asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RuntimeChoice {
    /// ONNX Runtime where its library is found, since it is two to three times as fast; else tract.
    #[default]
    Auto,
    /// The embedded runtime.
    Tract,
    /// ONNX Runtime.
    Ort,
}

/// The runtime of that choice. `ort_lib` is ONNX Runtime's library, or the folder that it is in; without it the library is
/// looked for.
///
/// # Errors
/// [`Error::NoRuntime`] when the runtime cannot be used here. `Auto` takes what there is, except that a library that
/// was named (by `ort_lib` or `ORT_DYLIB_PATH`) has to work.
pub fn choose(choice: RuntimeChoice, ort_lib: Option<&Path>) -> Result<Arc<dyn Runtime>> {
    match choice {
        RuntimeChoice::Tract => tract(),
        RuntimeChoice::Ort => ort(ort_lib),
        RuntimeChoice::Auto => match ort(ort_lib) {
            Ok(found) => Ok(found),
            Err(problem) if named(ort_lib) => Err(problem),
            Err(problem) => tract().map_err(|_| problem),
        },
    }
}

#[cfg(feature = "tract")]
fn tract() -> Result<Arc<dyn Runtime>> {
    Ok(Arc::new(super::tract::Tract))
}

#[cfg(not(feature = "tract"))]
fn tract() -> Result<Arc<dyn Runtime>> {
    Err(left_out("tract", "tract"))
}

#[cfg(feature = "ort")]
fn ort(path: Option<&Path>) -> Result<Arc<dyn Runtime>> {
    Ok(Arc::new(super::ort::Ort::new(path)?))
}

#[cfg(not(feature = "ort"))]
fn ort(_: Option<&Path>) -> Result<Arc<dyn Runtime>> {
    Err(left_out("onnxruntime", "ort"))
}

#[cfg(any(not(feature = "tract"), not(feature = "ort")))]
fn left_out(runtime: &'static str, feature: &str) -> Error {
    let message = format!("it was left out of this build, which lacks the Cargo feature `{feature}`");
    Error::NoRuntime { runtime, message }
}

/// Whether the user has named a library.
fn named(ort_lib: Option<&Path>) -> bool {
    #[cfg(feature = "ort")]
    if std::env::var_os(super::discover::VARIABLE).is_some_and(|value| !value.is_empty()) {
        return true;
    }
    ort_lib.is_some()
}

/// What can be said of one runtime.
#[derive(Clone, Debug, Serialize)]
pub struct RuntimeInfo {
    /// Its name.
    pub name: &'static str,
    /// The version, where it can be used.
    pub version: Option<String>,
    /// The library's file, where it has one.
    pub library: Option<PathBuf>,
    /// Where it comes from, in words.
    pub place: Option<String>,
    /// Why it cannot be used.
    pub problem: Option<String>,
}

/// All runtimes, those that cannot be used here too.
pub fn list(ort_lib: Option<&Path>) -> Vec<RuntimeInfo> {
    let mut tract = info("tract", tract());
    if tract.problem.is_none() {
        tract.place = Some("embedded".to_owned());
    }
    #[cfg(feature = "ort")]
    let onnxruntime = match super::ort::Ort::new(ort_lib) {
        Ok(found) => RuntimeInfo {
            library: Some(found.path().to_owned()),
            place: Some(found.place().to_owned()),
            ..info("onnxruntime", Ok(Arc::new(found)))
        },
        Err(problem) => info("onnxruntime", Err(problem)),
    };
    #[cfg(not(feature = "ort"))]
    let onnxruntime = info("onnxruntime", ort(ort_lib));
    vec![tract, onnxruntime]
}

fn info(name: &'static str, runtime: Result<Arc<dyn Runtime>>) -> RuntimeInfo {
    let (version, problem) = match runtime {
        Ok(runtime) => (Some(runtime.version()), None),
        // The name stands beside it.
        Err(Error::NoRuntime { message, .. }) => (None, Some(message)),
        Err(other) => (None, Some(other.to_string())),
    };
    RuntimeInfo { name, version, library: None, place: None, problem }
}
