//! From a [`Model`] to a file: streamed, deterministic and all or nothing.

use std::borrow::Cow;
use std::ffi::OsString;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use prost::Message;
use tempfile::NamedTempFile;

use super::Model;
use super::error::OnnxError;
use super::external::{inline, is_external, is_unloaded, refer};
use super::proto::{ModelProto, TensorProto};
use super::stream::Plan;
use super::tensor::{elem_size, numel, raw_le};
use super::visit::{tensors, tensors_mut};

/// Each tensor begins at a multiple of this in the data file.
const ALIGN: u64 = 64;
/// Initializers smaller than this stay in the model file even when all others leave it.
const MIN_EXTERNAL: usize = 1024;
const BUFFER: usize = 1 << 18;

/// How a model is written.
#[derive(Debug, Clone, Copy, Default)]
pub struct SaveOptions {
    /// Put the weights into a file `<name>.data` beside the model, even if they were not in one before. Models that do
    /// not fit into 2 GiB are always written so.
    pub external: bool,
}

/// Writes the model to `out` and returns the bytes written, those of a data file included. A file that is there already
/// is replaced at the end, in one step; on an error it is as it was, and no new file is left.
pub fn save(model: &Model, out: &Path, opts: &SaveOptions) -> Result<u64, OnnxError> {
    let bytes = save_limited(model, out, opts, i32::MAX as usize)?;
    let nodes = model.proto.graph.as_ref().map_or(0, |g| g.node.len());
    tracing::info!(path = %out.display(), bytes, nodes, "model saved");
    Ok(bytes)
}

fn save_limited(model: &Model, out: &Path, opts: &SaveOptions, limit: usize) -> Result<u64, OnnxError> {
    model.check_whole()?;
    check_target(out)?;
    let mut marked = Vec::new();
    tensors(&model.proto, &mut |t| {
        if is_unloaded(t)? {
            return Err(OnnxError::tensor(t, "its external data has not been loaded"));
        }
        if is_external(t) {
            marked.push(t.raw_data.as_ref().map_or(0, bytes::Bytes::len));
        }
        Ok(())
    })?;
    let in_one_file = model.proto.encoded_len().saturating_sub(marked.iter().sum());
    let all = opts.external || in_one_file > limit;
    if marked.is_empty() && !all {
        let initializers = initializers(&model.proto).iter().map(Cow::Borrowed).collect::<Vec<_>>();
        let (file, bytes) = write_model(&model.proto, &initializers, out, limit)?;
        persist(file, out)?;
        return Ok(bytes);
    }

    let mut data = DataFile::create(out)?;
    let mut moved = Vec::new();
    let mut marked_here = 0;
    for tensor in initializers(&model.proto) {
        marked_here += usize::from(is_external(tensor));
        moved.push(data.take(tensor, all)?);
    }
    // Tensors elsewhere that were external are rare; only then is the rest of the message copied.
    let mut rest = Cow::Borrowed(&model.proto);
    if marked_here < marked.len() {
        let rest = rest.to_mut();
        if let Some(graph) = &mut rest.graph {
            graph.initializer.clear();
        }
        tensors_mut(rest, &mut |t| {
            if let Cow::Owned(new) = data.take(t, false)? {
                *t = new;
            }
            Ok(())
        })?;
    }
    let (file, bytes) = write_model(&rest, &moved, out, limit)?;
    let data_bytes = data.at;
    if data_bytes == 0 {
        persist(file, out)?;
        return Ok(bytes);
    }
    let (data, data_path) = data.finish()?;
    let fresh = !data_path.exists();
    persist(data, &data_path)?;
    persist(file, out).inspect_err(|_| {
        if fresh {
            // The error that is reported is the first one.
            let _ = fs::remove_file(&data_path);
        }
    })?;
    Ok(bytes + data_bytes)
}

fn initializers(proto: &ModelProto) -> &[TensorProto] {
    proto.graph.as_ref().map_or(&[], |graph| &graph.initializer)
}

/// Refuses to rename over anything but a regular file: `/dev/null` must survive.
fn check_target(out: &Path) -> Result<(), OnnxError> {
    match fs::metadata(out) {
        Ok(meta) if meta.is_file() => Ok(()),
        Ok(meta) => {
            let found = if meta.is_dir() { "a directory" } else { "a device or pipe" };
            Err(OnnxError::NotAFile { path: out.to_owned(), found })
        }
        Err(_) if out.file_name().is_some() => Ok(()),
        Err(e) => Err(OnnxError::io("write to", out, e)),
    }
}

/// A file in the directory of `out` that vanishes unless persisted. It gets the permissions of any new file.
fn temporary(out: &Path) -> Result<BufWriter<NamedTempFile>, OnnxError> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".onnx-prune-");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // Less the process's umask.
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    let dir = match out.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let file = builder.tempfile_in(dir).map_err(|e| OnnxError::io("create a file in the directory", dir, e))?;
    Ok(BufWriter::with_capacity(BUFFER, file))
}

fn finish(writer: BufWriter<NamedTempFile>, out: &Path) -> Result<NamedTempFile, OnnxError> {
    writer.into_inner().map_err(|e| OnnxError::io("write", out, e.into_error()))
}

fn persist(file: NamedTempFile, out: &Path) -> Result<(), OnnxError> {
    file.persist(out).map(drop).map_err(|e| OnnxError::io("replace", out, e.error))
}

/// The data file while it is being written.
struct DataFile {
    path: PathBuf,
    location: String,
    writer: BufWriter<NamedTempFile>,
    at: u64,
}

impl DataFile {
    fn create(out: &Path) -> Result<Self, OnnxError> {
        let mut name: OsString = out.file_name().unwrap_or_default().to_owned();
        name.push(".data");
        let path = out.with_file_name(&name);
        let location = name.into_string().map_err(|_| {
            let e =
                io::Error::new(io::ErrorKind::InvalidInput, "the name is not UTF-8, so the model cannot refer to it");
            OnnxError::io("write", &path, e)
        })?;
        check_target(&path)?;
        Ok(Self { writer: temporary(&path)?, path, location, at: 0 })
    }

    /// The tensor as the model file will have it, its bytes moved here if it is marked or, with `all`, large.
    fn take<'a>(&mut self, t: &'a TensorProto, all: bool) -> Result<Cow<'a, TensorProto>, OnnxError> {
        let size = elem_size(t.data_type());
        let numel = numel(t)?;
        let large = all && size.is_some_and(|size| size.saturating_mul(numel) >= MIN_EXTERNAL);
        if !large && !is_external(t) {
            return Ok(Cow::Borrowed(t));
        }
        let raw = match &t.raw_data {
            // Elements of less than a byte, as they came.
            Some(raw) if size.is_none() => raw.clone(),
            _ => raw_le(t)?,
        };
        let mut new = TensorProto {
            dims: t.dims.clone(),
            data_type: t.data_type,
            name: t.name.clone(),
            doc_string: t.doc_string.clone(),
            metadata_props: t.metadata_props.clone(),
            ..TensorProto::default()
        };
        if raw.is_empty() {
            new.raw_data = Some(raw);
            inline(&mut new)?;
            return Ok(Cow::Owned(new));
        }
        let begin = self.at.next_multiple_of(ALIGN);
        let padding = [0; ALIGN as usize];
        let padding = padding.get(..(begin - self.at) as usize).unwrap_or_default();
        let fail = |e| OnnxError::io("write", &self.path, e);
        self.writer.write_all(padding).map_err(fail)?;
        self.writer.write_all(&raw).map_err(fail)?;
        self.at = begin + raw.len() as u64;
        refer(&mut new, &self.location, begin, raw.len() as u64);
        Ok(Cow::Owned(new))
    }

    fn finish(self) -> Result<(NamedTempFile, PathBuf), OnnxError> {
        Ok((finish(self.writer, &self.path)?, self.path))
    }
}

/// Writes `proto` with these initializers in place of its own.
fn write_model(
    proto: &ModelProto,
    initializers: &[Cow<'_, TensorProto>],
    out: &Path,
    limit: usize,
) -> Result<(NamedTempFile, u64), OnnxError> {
    let plan = Plan::new(proto, initializers);
    let bytes = plan.len() as u64;
    if plan.len() > limit {
        return Err(OnnxError::TooLarge { bytes });
    }
    let mut writer = temporary(out)?;
    plan.write(&mut writer).map_err(|e| OnnxError::io("write", out, e))?;
    Ok((finish(writer, out)?, bytes))
}

#[cfg(test)]
#[path = "save_tests.rs"]
mod tests;
