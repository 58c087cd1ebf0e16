//! From a path to a [`Model`].

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use memmap2::Mmap;
use prost::Message;

use super::Model;
use super::error::OnnxError;
use super::external::{Files, is_external};
use super::proto::ModelProto;
use super::visit::{tensors, tensors_mut};

/// Reads a model. Tensor data stays in the mapped files and is paged in when it is first looked at.
pub fn load(path: &Path) -> Result<Model, OnnxError> {
    let (source, pages) = map_shared(path)?;
    let mut proto = decode(&source, path)?;
    let mut files = Files::of(path)?;
    tensors_mut(&mut proto, &mut |t| files.fill(t))?;
    let bytes_on_disk = source.len() as u64 + files.bytes();
    let nodes = proto.graph.as_ref().map_or(0, |g| g.node.len());
    tracing::info!(path = %path.display(), bytes = bytes_on_disk, nodes, external = files.any(), "model loaded");
    Ok(Model {
        proto,
        path: path.to_owned(),
        bytes_on_disk,
        was_external: files.any(),
        source,
        pages,
        sha256: OnceLock::new(),
        scopes: None,
        rules: Default::default(),
    })
}

/// Reads a model from the bytes of its file. `path` only labels it, so a model with external data is refused.
pub fn from_bytes(bytes: impl Into<Bytes>, path: impl Into<PathBuf>) -> Result<Model, OnnxError> {
    let (source, path) = (bytes.into(), path.into());
    let proto = decode(&source, &path)?;
    tensors(&proto, &mut |t| match is_external(t) {
        true => Err(OnnxError::tensor(t, "has external data, which a model in memory cannot refer to")),
        false => Ok(()),
    })?;
    let bytes_on_disk = source.len() as u64;
    Ok(Model {
        proto,
        path,
        bytes_on_disk,
        was_external: false,
        source,
        pages: None,
        sha256: OnceLock::new(),
        scopes: None,
        rules: Default::default(),
    })
}

fn decode(source: &Bytes, path: &Path) -> Result<ModelProto, OnnxError> {
    let not_onnx = |reason: String| OnnxError::NotOnnx { path: path.to_owned(), reason };
    if source.is_empty() {
        return Err(not_onnx(": the file is empty".to_owned()));
    }
    let proto = ModelProto::decode(source.clone()).map_err(|e| {
        not_onnx(match other_format(source) {
            Some(format) => format!(": {format}"),
            None => format!(
                " (or truncated): expected a protobuf message of type ModelProto in {} bytes: {e}",
                source.len()
            ),
        })
    })?;
    match lacking(&proto) {
        None => Ok(proto),
        Some(lack) => Err(not_onnx(match other_format(source) {
            Some(format) => format!(": {format}"),
            None => format!(" (or truncated): it decodes as protobuf, but has no {lack}"),
        })),
    }
}

/// A mapped file that both the tensors and the model hold on to.
#[derive(Clone)]
pub(super) struct Pages(Arc<Mmap>);

impl AsRef<[u8]> for Pages {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Pages {
    /// Gives the resident pages back; they are read again from the file (its cache) when needed.
    #[allow(unsafe_code)]
    pub fn release(&self) {
        // SAFETY: the map is private, read-only and backed by the file, so a dropped page comes back with the same
        // content (the same assumption as for the map itself: nobody rewrites the file in place).
        #[cfg(unix)]
        let _ = unsafe { self.0.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
    }
}

/// What every model has and this message lacks.
fn lacking(proto: &ModelProto) -> Option<&'static str> {
    if proto.ir_version() <= 0 {
        Some("ir_version")
    } else if proto.graph.is_none() {
        Some("graph")
    } else if proto.opset_import.is_empty() && proto.ir_version() >= 3 {
        Some("opset_import")
    } else {
        None
    }
}

/// What the file is instead, where that is easily told.
fn other_format(bytes: &[u8]) -> Option<&'static str> {
    const KNOWN: [(usize, &[u8], &str); 10] = [
        (0, b"version https://git-lfs", "a Git LFS pointer; fetch the model itself with 'git lfs pull'"),
        (0, b"PK\x03\x04", "a ZIP archive (a PyTorch checkpoint or Keras file, perhaps); export it to ONNX first"),
        (0, b"\x80\x02", "a Python pickle (a PyTorch checkpoint, perhaps); export it to ONNX first"),
        (0, b"\x89HDF", "an HDF5 file (a Keras model, perhaps); export it to ONNX first"),
        (4, b"TFL3", "a TensorFlow Lite model"),
        (4, b"ORTM", "a model in the ORT format; use the ONNX file it was made from"),
        (0, b"\x1f\x8b", "a gzip archive; unpack it first"),
        (0, b"\x89PNG", "a PNG image"),
        (0, b"\xff\xd8\xff", "a JPEG image"),
        (0, b"GGUF", "a GGUF model"),
    ];
    let magic = KNOWN.iter().find(|(at, magic, _)| bytes.get(*at..).is_some_and(|rest| rest.starts_with(magic)));
    if let Some((_, _, name)) = magic {
        return Some(name);
    }
    let head = bytes.get(..256).unwrap_or(bytes);
    let text = |b: &u8| matches!(b, b'\t' | b'\n' | b'\r' | 0x20..=0x7e);
    head.iter().all(text).then_some("a text file")
}

/// The content of a regular file.
pub(crate) fn map(path: &Path) -> Result<Bytes, OnnxError> {
    Ok(map_shared(path)?.0)
}

fn map_shared(path: &Path) -> Result<(Bytes, Option<Pages>), OnnxError> {
    let refuse = |e: io::Error| match e.kind() {
        io::ErrorKind::NotFound => OnnxError::NotFound { path: path.to_owned() },
        _ => OnnxError::io("open the file", path, e),
    };
    // Before opening: that alone would wait for ever on a named pipe.
    let kind = std::fs::metadata(path).map_err(refuse)?;
    if !kind.is_file() {
        let found = if kind.is_dir() { "a directory" } else { "a device or pipe" };
        return Err(OnnxError::NotAFile { path: path.to_owned(), found });
    }
    let file = File::open(path).map_err(refuse)?;
    if file.metadata().map_err(refuse)?.len() == 0 {
        return Ok((Bytes::new(), None));
    }
    // SAFETY: the map is private and read-only, and only ever seen as `&[u8]`. This program never writes to a file in
    // place (`save` renames a new file over the old one, which keeps the mapped inode alive). Another program that
    // rewrites or truncates the file meanwhile is outside what any reader of mapped files can defend against.
    #[allow(unsafe_code)]
    let mapped = unsafe { Mmap::map(&file) };
    let pages = Pages(Arc::new(mapped.map_err(|e| OnnxError::io("map the file", path, e))?));
    Ok((Bytes::from_owner(pages.clone()), Some(pages)))
}

#[cfg(test)]
mod tests {
    use super::super::proto::{GraphProto, NodeProto, OperatorSetIdProto};
    use super::*;
    use crate::onnx::tensor::from_f32;

    fn small() -> ModelProto {
        ModelProto {
            ir_version: Some(8),
            opset_import: vec![OperatorSetIdProto { domain: None, version: Some(17) }],
            graph: Some(GraphProto {
                node: vec![NodeProto { op_type: Some("Relu".into()), ..Default::default() }],
                initializer: vec![from_f32("w", &[2, 2], &[1., 2., 3., 4.])],
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn load_bytes(bytes: &[u8]) -> Result<Model, OnnxError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.onnx");
        std::fs::write(&path, bytes).unwrap();
        load(&path)
    }

    fn refusal(bytes: &[u8]) -> String {
        let message = load_bytes(bytes).unwrap_err().to_string();
        assert!(message.contains("m.onnx: not an ONNX model"), "{message}");
        message
    }

    #[test]
    fn reads_what_was_written() {
        let bytes = small().encode_to_vec();
        let model = load_bytes(&bytes).unwrap();
        assert_eq!(model.proto, small());
        assert_eq!((model.opset(), model.bytes_on_disk, model.was_external), (17, bytes.len() as u64, false));
        assert_eq!(model.sha256(), Model::from_proto(small(), "x").sha256());
        assert_eq!(model.sha256().len(), 64);
    }

    #[test]
    fn every_truncation_is_an_error_or_smaller() {
        let bytes = small().encode_to_vec();
        for end in 0..bytes.len() {
            refusal(&bytes[..end]);
        }
    }

    #[test]
    fn other_files_are_named() {
        assert!(refusal(b"").contains("empty"));
        assert!(refusal(b"# A readme\n\nHello.\n").contains("a text file"));
        assert!(refusal(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR").contains("a PNG image"));
        assert!(refusal(b"version https://git-lfs.github.com/spec/v1\n").contains("git lfs pull"));
        assert!(refusal(&[0xff; 400]).contains("expected a protobuf message"));
        assert!(refusal(&ModelProto { graph: None, ..small() }.encode_to_vec()).contains("has no graph"));
        assert!(refusal(&ModelProto { ir_version: None, ..small() }.encode_to_vec()).contains("has no ir_version"));
        assert!(refusal(&ModelProto { opset_import: vec![], ..small() }.encode_to_vec()).contains("no opset_import"));
    }

    #[test]
    fn paths_that_are_not_files() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(load(dir.path()), Err(OnnxError::NotAFile { found: "a directory", .. })));
        assert!(matches!(load(&dir.path().join("no.onnx")), Err(OnnxError::NotFound { .. })));
    }

    #[test]
    fn deep_nesting_is_an_error() {
        // Graph in attribute in node in graph ..., 4,000 levels.
        let mut inner = Vec::new();
        for level in 0..4000 {
            let tag = [0x32, 0x2a, 0x0a][level % 3];
            let mut outer = vec![tag];
            prost::encoding::encode_varint(inner.len() as u64, &mut outer);
            outer.extend(inner);
            inner = outer;
        }
        let mut bytes = vec![0x08, 0x08, 0x3a];
        prost::encoding::encode_varint(inner.len() as u64, &mut bytes);
        bytes.extend(inner);
        refusal(&bytes);
    }
}
