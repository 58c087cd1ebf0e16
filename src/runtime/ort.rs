//! ONNX Runtime. Its library is found and loaded when the program runs.
//!
//! The library and its environment are one per process and stay until it ends.

use super::carry::Carry;
use super::discover::{self, Here, Place};
use super::ort_bound::OrtBound;
use super::ort_carry::OrtCarry;
use super::ort_values::{to_array, to_value};
use super::walk::Feed;
use super::{Array, Bound, Device, Placement, Profile, ProviderInfo, Runtime, Session};
use crate::error::{Error, Result};
use crate::onnx::Model;
use ort::LoadDynamicError;
use ort::environment::Environment;
use ort::ep::cuda::ConvAlgorithmSearch;
use ort::ep::{self, ExecutionProvider, ExecutionProviderDispatch};
use ort::logging::LogLevel;
use ort::session;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

const NAME: &str = "onnxruntime";
/// How to get the library.
pub const INSTALL: &str = "pip install onnxruntime";
/// The library's messages may quote whole types.
const MAX_MESSAGE_CHARS: usize = 800;

/// The library of this process.
struct Library {
    environment: Environment,
    path: PathBuf,
    place: String,
    version: String,
}

static LIBRARY: OnceLock<Library> = OnceLock::new();
/// Why no library was found: looking takes a while.
static MISSING: OnceLock<String> = OnceLock::new();
static LOADING: Mutex<()> = Mutex::new(());

/// ONNX Runtime.
///
/// By default a session computes on one thread of the processor, so that its results are always the same.
#[derive(Clone)]
pub struct Ort {
    library: &'static Library,
    threads: usize,
    spinning: bool,
    device: Device,
    allow_fallback: bool,
    search: bool,
}

impl Ort {
    /// ONNX Runtime from the library at `path` (or in the folder `path`), or else from the first that is found: the variable
    /// `ORT_DYLIB_PATH`, beside the executable, in the Python environment around it, in `VIRTUAL_ENV`, `CONDA_PREFIX`, among
    /// the packages of `python3`, on the system's library path.
    ///
    /// # Errors
    /// [`Error::NoRuntime`] that says where was looked, or what is wrong with the library. A process can use one library only.
    pub fn new(path: Option<&Path>) -> Result<Self> {
        let library = library(path)?;
        Ok(Self { library, threads: 1, spinning: false, device: Device::Cpu, allow_fallback: false, search: true })
    }

    /// The same with so many threads for a session; 0 leaves the number to ONNX Runtime, which takes one for each core.
    #[must_use]
    pub fn with_threads(self, threads: usize) -> Self {
        Self { threads, ..self }
    }

    /// The same with threads that spin while they wait for work, until the run ends.
    #[must_use]
    pub fn with_spinning(self, spinning: bool) -> Self {
        Self { spinning, ..self }
    }

    /// The same with or without a search for each convolution's fastest algorithm on CUDA, see
    /// [`RuntimeOptions::search`](super::RuntimeOptions::search).
    #[must_use]
    pub fn with_search(self, search: bool) -> Self {
        Self { search, ..self }
    }

    /// The same on a device. Without `allow_fallback`, sessions fail when the device cannot be used, and when no node runs on it.
    ///
    /// # Errors
    /// [`Error::NoRuntime`] when the library does not have what serves the device, without `allow_fallback`.
    pub fn with_device(self, device: &Device, allow_fallback: bool) -> Result<Self> {
        if !is_available(device) && !allow_fallback {
            let devices = self.providers().into_iter().filter(|p| p.available).map(|p| p.device);
            let message = format!(
                "--device {device} needs {}, which the library {} was built without (it has: {}); install one that has \
                 it: {}; or give --allow-fallback",
                device.provider(),
                self.library.path.display(),
                devices.collect::<Vec<_>>().join(", "),
                device.install()
            );
            return Err(Error::NoRuntime { runtime: NAME, message });
        }
        Ok(Self { device: device.clone(), allow_fallback, ..self })
    }

    /// The devices that the library knows of.
    pub fn providers(&self) -> Vec<ProviderInfo> {
        let info = |device: &Device| {
            let available = is_available(device);
            let install = (!available).then(|| device.install());
            ProviderInfo { device: device.kind(), provider: device.provider(), available, install }
        };
        Device::all().iter().map(info).collect()
    }

    /// The library's file.
    pub fn path(&self) -> &'static Path {
        &self.library.path
    }

    /// Where it was found, in words.
    pub fn place(&self) -> &'static str {
        &self.library.place
    }

    /// A session that writes a profile to a file of that name and more, if one is given.
    fn session(&self, bytes: &[u8], profile: Option<&Path>) -> ort::Result<session::Session> {
        let builder = session::Session::builder(&self.library.environment)?;
        let mut builder = builder.with_intra_threads(self.threads)?.with_inter_threads(1)?;
        if self.spinning {
            // Not after the run, when another session may be at work.
            builder = builder.with_config_entry("session.force_spinning_stop", "1")?;
        } else {
            // Threads that wait for work would take the cores from others.
            builder = builder.with_intra_op_spinning(false)?;
        }
        if let Some(prefix) = profile {
            builder = builder.with_profiling(prefix)?;
        }
        if matches!(self.device, Device::DirectMl(_)) {
            // It demands that.
            builder = builder.with_memory_pattern(false)?;
        }
        let providers = providers(&self.device, self.search).into_iter();
        let providers: Vec<_> = match self.allow_fallback {
            // What cannot be registered is left out, and the placement of the nodes tells.
            true if !is_available(&self.device) => Vec::new(),
            true => providers.collect(),
            false => providers.map(ExecutionProviderDispatch::error_on_failure).collect(),
        };
        if !providers.is_empty() {
            builder = builder.with_execution_providers(providers)?;
        }
        builder.commit_from_memory(bytes)
    }

    fn watched(&self, model: &Model) -> Result<OrtSession> {
        let bytes = model.to_bytes()?;
        let folder = tempfile::Builder::new().prefix("onnx-prune-").tempdir();
        let folder = folder.map_err(|e| error(format!("no folder can be made for its profile: {e}")))?;
        let session = self.session(&bytes, Some(&folder.path().join("profile"))).map_err(|e| self.refused(e))?;
        Ok(OrtSession { session, watch: Some(folder), placement: None, runtime: self.clone() })
    }
}

impl Ort {
    /// A device that is there may still miss its driver.
    fn refused(&self, cause: ort::Error) -> Error {
        if self.device == Device::Cpu {
            return failure(cause);
        }
        error(format!(
            "--device {}: {}; what it needs has to be where the system looks for libraries, and is installed with: {}",
            self.device,
            one_line(cause.message()),
            self.device.install()
        ))
    }
}

fn is_available(device: &Device) -> bool {
    let found = match device {
        Device::Cpu => Ok(true),
        Device::Cuda(_) => ep::CUDA::is_available(),
        Device::TensorRt(_) => ep::TensorRT::is_available(),
        Device::OpenVino(_) => ep::OpenVINO::is_available(),
        Device::CoreMl => ep::CoreML::is_available(),
        Device::DirectMl(_) => ep::DirectML::is_available(),
    };
    found.unwrap_or(false)
}

/// What serves the device, the best first.
fn providers(device: &Device, search: bool) -> Vec<ExecutionProviderDispatch> {
    let how = if search { ConvAlgorithmSearch::Exhaustive } else { ConvAlgorithmSearch::Heuristic };
    let cuda = |n: u16| ep::CUDA::default().with_device_id(n.into()).with_conv_algorithm_search(how).build();
    match device {
        Device::Cpu => Vec::new(),
        Device::Cuda(n) => vec![cuda(*n)],
        Device::TensorRt(n) => vec![ep::TensorRT::default().with_device_id((*n).into()).build(), cuda(*n)],
        Device::OpenVino(None) => vec![ep::OpenVINO::default().build()],
        Device::OpenVino(Some(name)) => vec![ep::OpenVINO::default().with_device_type(name).build()],
        Device::CoreMl => vec![ep::CoreML::default().build()],
        Device::DirectMl(n) => vec![ep::DirectML::default().with_device_id((*n).into()).build()],
    }
}

impl Runtime for Ort {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> String {
        self.library.version.clone()
    }

    fn load(&self, model: &Model) -> Result<Box<dyn Session>> {
        if self.device != Device::Cpu {
            return Ok(Box::new(self.watched(model)?));
        }
        let session = self.session(&model.to_bytes()?, None).map_err(failure)?;
        Ok(Box::new(OrtSession { session, watch: None, placement: None, runtime: self.clone() }))
    }

    fn profile(&self, model: &Model, inputs: &[(String, Array)], runs: usize) -> Result<Profile> {
        let mut session = self.watched(model)?;
        for _ in 0..runs.saturating_add(1) {
            session.start(inputs)?;
        }
        session.end_profile()
    }
}

pub(super) struct OrtSession {
    pub(super) session: session::Session,
    /// Where the first run's profile goes. Dropped after the session, which may still write there.
    watch: Option<tempfile::TempDir>,
    placement: Option<Placement>,
    runtime: Ort,
}

impl OrtSession {
    pub(super) fn device(&self) -> &Device {
        &self.runtime.device
    }

    fn start(&mut self, inputs: &[(String, Array)]) -> Result<session::SessionOutputs<'_>> {
        let mut values = Vec::new();
        for (name, array) in inputs {
            values.push((name.as_str(), to_value(name, array)?));
        }
        self.session.run(values).map_err(failure)
    }

    fn end_profile(&mut self) -> Result<Profile> {
        let file = self.session.end_profiling().map_err(failure)?;
        let text = std::fs::read_to_string(&file).map_err(|e| error(format!("its profile {file}: {e}")))?;
        Profile::parse(&text)
    }

    /// After the first run on a device: whether it is used.
    fn look(&mut self) -> Result<()> {
        let Some(_folder) = self.watch.take() else { return Ok(()) };
        let placement = self.end_profile()?.placement(self.runtime.device.provider());
        self.placement = Some(placement);
        Ok(())
    }

    /// Every time: an error is not to be got over by running again.
    pub(super) fn check(&mut self) -> Result<()> {
        self.look()?;
        match &self.placement {
            Some(p) if p.nodes > 0 && p.on_device == 0 && !self.runtime.allow_fallback => {
                let others: Vec<String> = p.by_provider.iter().map(|(name, n)| format!("{n} on {name}")).collect();
                Err(error(format!(
                    "--device {}: none of the {} nodes runs on {} ({}); choose another device, or give --allow-fallback",
                    self.runtime.device,
                    p.nodes,
                    p.provider,
                    others.join(", ")
                )))
            }
            _ => Ok(()),
        }
    }
}

impl Session for OrtSession {
    fn run(&mut self, inputs: &[(String, Array)]) -> Result<Vec<(String, Array)>> {
        let outputs = self.start(inputs)?;
        let arrays = outputs.iter().map(|(name, value)| Ok((name.to_owned(), to_array(name, &value)?)));
        let arrays = arrays.collect::<Result<_>>()?;
        drop(outputs);
        self.check()?;
        Ok(arrays)
    }

    fn compute(&mut self, inputs: &[(String, Array)]) -> Result<()> {
        drop(self.start(inputs)?);
        self.check()
    }

    fn bind(&mut self, feeds: &[Feed]) -> Result<Box<dyn Bound + '_>> {
        Ok(Box::new(OrtBound::new(self, feeds)?))
    }

    fn keeps_state(&self) -> bool {
        true
    }

    fn carry(&mut self, state: Feed, pairs: Vec<(String, String)>) -> Result<Box<dyn Carry + '_>> {
        Ok(Box::new(OrtCarry::new(self, state, pairs)?))
    }

    fn placement(&self) -> Option<&Placement> {
        self.placement.as_ref()
    }
}

pub(super) fn error(message: String) -> Error {
    Error::Runtime { runtime: NAME, message }
}

pub(super) fn failure(cause: ort::Error) -> Error {
    error(one_line(cause.message()))
}

fn one_line(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MAX_MESSAGE_CHARS) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
        None => line,
    }
}

/// The process's library, which the first call loads.
fn library(path: Option<&Path>) -> Result<&'static Library> {
    let _one_at_a_time = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
    let refuse = |message: String| Error::NoRuntime { runtime: NAME, message };
    if let Some(loaded) = LIBRARY.get() {
        return match path {
            Some(path) if !same_library(path, &loaded.path) => Err(refuse(format!(
                "{}: this process already uses {}, and can use one library only",
                path.display(),
                loaded.path.display()
            ))),
            _ => Ok(loaded),
        };
    }
    if let (None, Some(message)) = (path, MISSING.get()) {
        return Err(refuse(message.clone()));
    }
    let mut looked = Vec::new();
    for place in discover::places(path, &Here) {
        let mut said = Vec::new();
        for library in &place.libraries {
            match load(library, &place) {
                Ok(loaded) => return Ok(LIBRARY.get_or_init(|| loaded)),
                Err(message) => said.push(message),
            }
        }
        if said.is_empty() && place.named {
            said.push("no library there".to_owned());
        }
        looked.push(if said.is_empty() { place.name } else { format!("{}: {}", place.name, said.join(", ")) });
    }
    let message = match path {
        Some(_) => format!("{}; a library is installed with: {INSTALL}", looked.join("; ")),
        None => format!("no library was found; looked at: {}; install it with: {INSTALL}", looked.join("; ")),
    };
    if path.is_none() {
        let _ = MISSING.set(message.clone());
    }
    Err(refuse(message))
}

fn same_library(path: &Path, loaded: &Path) -> bool {
    let real = |p: &Path| p.canonicalize().unwrap_or_else(|_| p.to_owned());
    let (path, loaded) = (real(path), real(loaded));
    path == loaded || loaded.parent() == Some(&path)
}

/// Loads one library. The message does not repeat the place's name.
fn load(path: &Path, place: &Place) -> Result<Library, String> {
    if path.components().count() > 1 && !path.exists() {
        return Err("there is no such file".to_owned());
    }
    let shown =
        if place.name.ends_with(&*path.to_string_lossy()) { String::new() } else { format!("{}: ", path.display()) };
    let builder = ort::init_from(path).map_err(|e| format!("{shown}{}", reason(&e)))?;
    let environment = builder.with_telemetry(false).build().map_err(|e| format!("{shown}{}", one_line(e.message())))?;
    if std::env::var_os("ORT_LOG").is_none() {
        // What goes wrong comes back as an error.
        environment.set_log_level(LogLevel::Fatal);
    }
    let version = discover::version(path).unwrap_or_else(|| "of unknown version".to_owned());
    Ok(Library { environment, path: path.to_owned(), place: place.name.clone(), version })
}

fn reason(error: &LoadDynamicError) -> String {
    match error {
        LoadDynamicError::Dlopen { error, .. } => {
            let first: &dyn std::error::Error = error;
            let causes = std::iter::successors(Some(first), |cause| cause.source());
            let causes: Vec<String> = causes.map(|cause| one_line(&cause.to_string())).collect();
            format!("cannot be loaded: {}", causes.join(": "))
        }
        LoadDynamicError::MissingApi { .. } => "is not ONNX Runtime".to_owned(),
        LoadDynamicError::InvalidVersionString => "has no readable version".to_owned(),
        LoadDynamicError::BadVersion { version_str, .. } => {
            format!("is version {version_str}; 1.{} or newer is needed", ort::MINOR_VERSION)
        }
    }
}

#[cfg(test)]
#[path = "ort_tests.rs"]
mod tests;
