//! ONNX Runtime on the CPU. Its library is found and loaded when the program runs.
//!
//! The library and its environment are one per process and stay until it ends.

use super::discover::{self, Here, Place};
use super::{Array, Data, Runtime, Session};
use crate::error::{Error, Result};
use crate::onnx::Model;
use half::bf16;
use ort::LoadDynamicError;
use ort::environment::Environment;
use ort::logging::LogLevel;
use ort::session::{self, SessionInputValue};
use ort::value::{DynValue, PrimitiveTensorElementType, TensorElementType, TensorRef, ValueType};
use std::fmt::Debug;
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

/// ONNX Runtime on the CPU.
///
/// By default a session computes on one thread, so that its results are always the same.
#[derive(Clone, Copy)]
pub struct Ort {
    library: &'static Library,
    threads: usize,
}

impl Ort {
    /// ONNX Runtime from the library at `path` (or in the folder `path`), or else from the first that is found: the variable
    /// `ORT_DYLIB_PATH`, beside the executable, in the Python environment around it, in `VIRTUAL_ENV`, `CONDA_PREFIX`, among
    /// the packages of `python3`, on the system's library path.
    ///
    /// # Errors
    /// [`Error::NoRuntime`] that says where was looked, or what is wrong with the library. A process can use one library only.
    pub fn new(path: Option<&Path>) -> Result<Self> {
        Ok(Self { library: library(path)?, threads: 1 })
    }

    /// The same with so many threads for a session; 0 leaves the number to ONNX Runtime.
    #[must_use]
    pub fn with_threads(self, threads: usize) -> Self {
        Self { threads, ..self }
    }

    /// The library's file.
    pub fn path(&self) -> &'static Path {
        &self.library.path
    }

    /// Where it was found, in words.
    pub fn place(&self) -> &'static str {
        &self.library.place
    }

    fn session(&self, bytes: &[u8]) -> ort::Result<session::Session> {
        let builder = session::Session::builder(&self.library.environment)?;
        let builder = builder.with_intra_threads(self.threads)?.with_inter_threads(1)?;
        // Threads that wait for work would take the cores from others.
        builder.with_intra_op_spinning(false)?.commit_from_memory(bytes)
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
        let bytes = model.to_bytes()?;
        Ok(Box::new(OrtSession(self.session(&bytes).map_err(failure)?)))
    }
}

struct OrtSession(session::Session);

impl Session for OrtSession {
    fn run(&mut self, inputs: &[(String, Array)]) -> Result<Vec<(String, Array)>> {
        let mut values = Vec::new();
        for (name, array) in inputs {
            values.push((name.as_str(), to_value(name, array)?));
        }
        let outputs = self.0.run(values).map_err(failure)?;
        outputs.iter().map(|(name, value)| Ok((name.to_owned(), to_array(name, &value)?))).collect()
    }
}

fn to_value<'a>(name: &str, array: &'a Array) -> Result<SessionInputValue<'a>> {
    fn view<'a, T>(dims: &'a [usize], data: &'a [T]) -> ort::Result<SessionInputValue<'a>>
    where
        T: PrimitiveTensorElementType + Debug + Clone + 'static,
    {
        Ok(TensorRef::from_array_view((dims, data))?.into())
    }
    let dims = array.dims.as_slice();
    if dims.iter().try_fold(1usize, |len, &dim| len.checked_mul(dim)) != Some(array.data.len()) {
        return Err(error(format!("input {name:?}: {} elements for shape {dims:?}", array.data.len())));
    }
    let value = match &array.data {
        Data::F32(v) => view(dims, v),
        Data::F64(v) => view(dims, v),
        Data::F16(v) => view(dims, v),
        Data::I64(v) => view(dims, v),
        Data::I32(v) => view(dims, v),
        Data::U8(v) => view(dims, v),
        Data::I8(v) => view(dims, v),
        Data::Bool(v) => view(dims, v),
    };
    value.map_err(failure)
}

fn to_array(name: &str, value: &DynValue) -> Result<Array> {
    fn elements<T: PrimitiveTensorElementType + Clone>(value: &DynValue) -> ort::Result<Vec<T>> {
        Ok(value.try_extract_tensor::<T>()?.1.to_vec())
    }
    fn integers<T: PrimitiveTensorElementType + Clone>(value: &DynValue, to: fn(T) -> i64) -> ort::Result<Vec<i64>> {
        Ok(elements::<T>(value)?.into_iter().map(to).collect())
    }
    let ValueType::Tensor { ty, shape, .. } = value.dtype() else {
        return Err(error(format!("output {name:?} is no tensor")));
    };
    let data = match ty {
        TensorElementType::Float32 => elements(value).map(Data::F32),
        TensorElementType::Float64 => elements(value).map(Data::F64),
        TensorElementType::Float16 => elements(value).map(Data::F16),
        TensorElementType::Int64 => elements(value).map(Data::I64),
        TensorElementType::Int32 => elements(value).map(Data::I32),
        TensorElementType::Uint8 => elements(value).map(Data::U8),
        TensorElementType::Int8 => elements(value).map(Data::I8),
        TensorElementType::Bool => elements(value).map(Data::Bool),
        // What `Data` lacks becomes the next larger type.
        TensorElementType::Bfloat16 => {
            elements::<bf16>(value).map(|v| Data::F32(v.into_iter().map(bf16::to_f32).collect()))
        }
        TensorElementType::Int16 => integers::<i16>(value, i64::from).map(Data::I64),
        TensorElementType::Uint16 => integers::<u16>(value, i64::from).map(Data::I64),
        TensorElementType::Uint32 => integers::<u32>(value, i64::from).map(Data::I64),
        TensorElementType::Uint64 => integers::<u64>(value, |x| x as i64).map(Data::I64),
        other => return Err(error(format!("output {name:?}: type {other} is not supported"))),
    };
    let dims = shape.iter().map(|&dim| usize::try_from(dim).unwrap_or(0)).collect();
    Ok(Array { dims, data: data.map_err(failure)? })
}

fn error(message: String) -> Error {
    Error::Runtime { runtime: NAME, message }
}

fn failure(cause: ort::Error) -> Error {
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
