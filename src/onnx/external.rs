//! Tensor data outside the model file. A model is untrusted: it may only name files in its own directory.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::error::OnnxError;
use super::load::map;
use super::proto::tensor_proto::DataLocation;
use super::proto::{StringStringEntryProto, TensorProto};
use super::tensor::{numel, packed_size, type_name};

/// Whether the tensor has the mark of external data. After [`load`](super::load) its bytes are in `raw_data` all the same.
pub fn is_external(t: &TensorProto) -> bool {
    t.data_location == Some(DataLocation::External.into())
}

/// Whether the tensor still points to a file that nobody has read.
pub(super) fn is_unloaded(t: &TensorProto) -> Result<bool, OnnxError> {
    Ok(is_external(t) && t.raw_data.is_none() && numel(t)? > 0)
}

/// Takes the mark off a loaded tensor.
pub(super) fn inline(t: &mut TensorProto) -> Result<(), OnnxError> {
    if is_unloaded(t)? {
        return Err(OnnxError::tensor(t, "its external data has not been loaded"));
    }
    if is_external(t) {
        t.data_location = None;
        t.external_data.clear();
    }
    Ok(())
}

/// Replaces the bytes of a tensor by a reference to where they were written.
pub(super) fn refer(t: &mut TensorProto, location: &str, offset: u64, length: u64) {
    let entry = |key: &str, value: String| StringStringEntryProto { key: Some(key.to_owned()), value: Some(value) };
    t.raw_data = None;
    t.data_location = Some(DataLocation::External.into());
    t.external_data = vec![
        entry("location", location.to_owned()),
        entry("offset", offset.to_string()),
        entry("length", length.to_string()),
    ];
}

/// The data files of one model, each mapped once.
pub(super) struct Files {
    /// The model's directory as given.
    dir: PathBuf,
    /// Where files may really lie: that directory and, where the model itself is a link (as in download caches), the
    /// directory of its target.
    roots: Vec<PathBuf>,
    maps: HashMap<PathBuf, Bytes>,
}

impl Files {
    pub(super) fn of(model: &Path) -> Result<Self, OnnxError> {
        let dir = match model.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir.to_owned(),
            _ => PathBuf::from("."),
        };
        let resolve = |path: &Path| path.canonicalize().map_err(|e| OnnxError::io("resolve the path", path, e));
        let mut roots = vec![resolve(&dir)?];
        roots.extend(resolve(model)?.parent().map(Path::to_owned));
        Ok(Self { dir, roots, maps: HashMap::new() })
    }

    /// The size of all files in use.
    pub(super) fn bytes(&self) -> u64 {
        self.maps.values().map(|map| map.len() as u64).sum()
    }

    /// Whether any file is in use.
    pub(super) fn any(&self) -> bool {
        !self.maps.is_empty()
    }

    /// Fills `raw_data` of a tensor with the mark; leaves others alone.
    pub(super) fn fill(&mut self, t: &mut TensorProto) -> Result<(), OnnxError> {
        if !is_external(t) {
            return Ok(());
        }
        let entry = |key: &str| t.external_data.iter().find(|e| e.key() == key).map(StringStringEntryProto::value);
        let location = entry("location").unwrap_or_default();
        let fail = |reason: String| OnnxError::external(t, location, reason);
        let number = |key: &str| match entry(key) {
            None | Some("") => Ok(None),
            Some(text) => {
                text.parse::<u64>().map(Some).map_err(|_| fail(format!("the {key} '{text}' is not a number of bytes")))
            }
        };

        let numel = numel(t)?;
        let wanted = packed_size(t.data_type(), numel);
        let file = self.open(t, location)?;
        let size = file.len() as u64;
        let offset = number("offset")?.unwrap_or(0);
        let Some(rest) = size.checked_sub(offset) else {
            return Err(fail(format!("the data should begin at byte {offset}, but the file has {size} bytes")));
        };
        let length = number("length")?.or(wanted.map(|w| w as u64)).unwrap_or(rest);
        if length > rest {
            return Err(fail(format!("expected {length} bytes from byte {offset} on, but the file has {size} bytes")));
        }
        if wanted.is_some_and(|w| w as u64 != length) {
            return Err(fail(format!(
                "shape {:?} of {} takes {} bytes, but the model gives a length of {length}",
                t.dims,
                type_name(t.data_type()),
                wanted.unwrap_or_default()
            )));
        }
        // Both ends are within the file, whose length is a usize.
        let (begin, end) = (offset as usize, (offset + length) as usize);
        t.raw_data = Some(file.slice(begin..end));
        Ok(())
    }

    fn open(&mut self, t: &TensorProto, location: &str) -> Result<Bytes, OnnxError> {
        let fail = |reason: String| OnnxError::external(t, location, reason);
        if let Some(reason) = forbidden(location) {
            return Err(fail(reason.to_owned()));
        }
        let path = self.dir.join(location);
        let real = path.canonicalize().map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => fail(format!("there is no file {}", path.display())),
            _ => fail(format!("cannot open {}: {e}", path.display())),
        })?;
        if !self.roots.iter().any(|root| real.starts_with(root)) {
            return Err(fail("is a link that leads out of the model's directory; not followed".to_owned()));
        }
        if let Some(bytes) = self.maps.get(&real) {
            return Ok(bytes.clone());
        }
        let bytes = map(&real).map_err(|e| fail(e.to_string()))?;
        self.maps.insert(real, bytes.clone());
        Ok(bytes)
    }
}

/// Why a location may not be opened, on whatever system it was written for.
fn forbidden(location: &str) -> Option<&'static str> {
    let drive = |first: &str| first.len() >= 2 && first.as_bytes().get(1) == Some(&b':');
    if location.is_empty() {
        Some("the model does not name the file")
    } else if location.contains('\\') {
        Some("the location has a backslash; expected a relative path with forward slashes")
    } else if location.contains('\0') {
        Some("the location has a NUL character")
    } else if location.starts_with('/') || drive(location) || Path::new(location).is_absolute() {
        Some("the location is absolute; expected a path relative to the model")
    } else if location.split('/').any(|part| part == "..") {
        Some("the location leaves the model's directory")
    } else {
        None
    }
}

#[cfg(test)]
#[path = "external_tests.rs"]
mod tests;
