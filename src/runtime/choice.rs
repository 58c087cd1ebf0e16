//! Which runtime is used, and which could be.

use super::{Device, ProviderInfo, Runtime};
use crate::error::{Error, Result};
use schemars::JsonSchema;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The runtime that a user asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RuntimeChoice {
    /// ONNX Runtime where its library is found, since it is two to three times as fast; else tract.
    #[default]
    Auto,
    /// The embedded runtime.
    Tract,
    /// ONNX Runtime.
    Ort,
}

/// Which runtime, and how it computes.
#[derive(Clone, Debug)]
pub struct RuntimeOptions {
    /// The runtime.
    pub choice: RuntimeChoice,
    /// ONNX Runtime's library, or the folder that it is in; without it the library is looked for.
    pub ort_lib: Option<PathBuf>,
    /// Threads that one session computes on; 0 takes one for each core.
    pub threads: usize,
    /// Threads spin while they wait for work within a run, as ONNX Runtime's do by default: quick, but hard on others.
    pub spinning: bool,
    /// What the model runs on.
    pub device: Device,
    /// Runs on the processor what the device cannot run, all of it if need be. Otherwise a device that does not do any of
    /// the work is an error.
    pub allow_fallback: bool,
    /// CUDA tries all algorithms for each convolution in the first run and takes the fastest, as ONNX Runtime does by default. For
    /// graphs with hundreds of convolutions that takes minutes; without it cuDNN's heuristic chooses.
    pub search: bool,
}

impl Default for RuntimeOptions {
    /// One thread on the processor.
    fn default() -> Self {
        Self {
            choice: RuntimeChoice::Auto,
            ort_lib: None,
            threads: 1,
            spinning: false,
            device: Device::Cpu,
            allow_fallback: false,
            search: true,
        }
    }
}

/// The runtime of that choice, one thread a session. `ort_lib` is ONNX Runtime's library, or the folder that it is in;
/// without it the library is looked for.
///
/// # Errors
/// As [`choose_with`].
pub fn choose(choice: RuntimeChoice, ort_lib: Option<&Path>) -> Result<Arc<dyn Runtime>> {
    choose_with(&RuntimeOptions { choice, ort_lib: ort_lib.map(Path::to_owned), ..Default::default() })
}

/// The runtime that is asked for.
///
/// # Errors
/// [`Error::NoRuntime`] when the runtime or the device cannot be used here. `Auto` takes what there is, except that a
/// library that was named (by `ort_lib` or `ORT_DYLIB_PATH`) has to work. [`Error::Usage`] when the runtime has no such
/// device or threads.
pub fn choose_with(options: &RuntimeOptions) -> Result<Arc<dyn Runtime>> {
    let chosen = chosen(options)?;
    let (name, version, device) = (chosen.name(), chosen.version(), &options.device);
    tracing::info!(asked = ?options.choice, runtime = name, version, %device, threads = options.threads, "runtime chosen");
    Ok(chosen)
}

fn chosen(options: &RuntimeOptions) -> Result<Arc<dyn Runtime>> {
    match options.choice {
        RuntimeChoice::Tract => tract(options),
        RuntimeChoice::Ort => ort(options),
        RuntimeChoice::Auto => match ort(options) {
            Ok(found) => Ok(found),
            Err(problem) if named(options.ort_lib.as_deref()) => Err(problem),
            // tract would be a silent way back to the processor.
            Err(problem) if options.device != Device::Cpu && !options.allow_fallback => Err(problem),
            Err(problem) => match tract(options) {
                Err(Error::NoRuntime { .. }) => Err(problem),
                other => {
                    tracing::info!(%problem, "ONNX Runtime is not used");
                    other
                }
            },
        },
    }
}

#[cfg(feature = "tract")]
fn tract(options: &RuntimeOptions) -> Result<Arc<dyn Runtime>> {
    if options.device != Device::Cpu && !options.allow_fallback {
        let device = &options.device;
        let message = format!(
            "tract runs on the processor only; --device {device} needs ONNX Runtime (--runtime ort), which is installed \
             with: {}",
            device.install()
        );
        return Err(Error::Usage(message));
    }
    if options.threads != 1 {
        let asked = if options.threads == 0 { "all cores".to_owned() } else { format!("{} threads", options.threads) };
        return Err(Error::Usage(format!(
            "tract computes on one thread, so it cannot use {asked}; use --threads 1, or ONNX Runtime (--runtime ort)"
        )));
    }
    Ok(Arc::new(super::tract::Tract))
}

#[cfg(not(feature = "tract"))]
fn tract(_: &RuntimeOptions) -> Result<Arc<dyn Runtime>> {
    Err(left_out("tract", "tract"))
}

#[cfg(feature = "ort")]
fn ort(options: &RuntimeOptions) -> Result<Arc<dyn Runtime>> {
    let found = super::ort::Ort::new(options.ort_lib.as_deref())?.with_threads(options.threads);
    tracing::debug!(library = %found.path().display(), place = found.place(), "ONNX Runtime found");
    let found = found
        .with_spinning(options.spinning)
        .with_search(options.search)
        .with_device(&options.device, options.allow_fallback)?;
    Ok(Arc::new(found))
}

#[cfg(not(feature = "ort"))]
fn ort(_: &RuntimeOptions) -> Result<Arc<dyn Runtime>> {
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
#[derive(Clone, Debug, Serialize, JsonSchema)]
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
    /// The devices that it may run models on, where it can be used.
    pub providers: Vec<ProviderInfo>,
}

/// All runtimes, those that cannot be used here too.
pub fn list(ort_lib: Option<&Path>) -> Vec<RuntimeInfo> {
    let mut tract = info("tract", tract(&RuntimeOptions::default()));
    if tract.problem.is_none() {
        tract.place = Some("embedded".to_owned());
    }
    #[cfg(feature = "ort")]
    let onnxruntime = match super::ort::Ort::new(ort_lib) {
        Ok(found) => RuntimeInfo {
            library: Some(found.path().to_owned()),
            place: Some(found.place().to_owned()),
            providers: found.providers(),
            ..info("onnxruntime", Ok(Arc::new(found)))
        },
        Err(problem) => info("onnxruntime", Err(problem)),
    };
    #[cfg(not(feature = "ort"))]
    let onnxruntime = {
        let _ = ort_lib;
        info("onnxruntime", ort(&RuntimeOptions::default()))
    };
    vec![tract, onnxruntime]
}

fn info(name: &'static str, runtime: Result<Arc<dyn Runtime>>) -> RuntimeInfo {
    let (version, problem) = match runtime {
        Ok(runtime) => (Some(runtime.version()), None),
        // The name stands beside it.
        Err(Error::NoRuntime { message, .. }) => (None, Some(message)),
        Err(other) => (None, Some(other.to_string())),
    };
    RuntimeInfo { name, version, library: None, place: None, problem, providers: Vec::new() }
}
