//! What can go wrong between a file and a [`Model`](super::Model).

use std::io;
use std::path::{Path, PathBuf};

use super::proto::TensorProto;

/// An error in reading, writing or interpreting an ONNX file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OnnxError {
    /// There is no file of that name.
    #[error("{}: no such file", .path.display())]
    NotFound {
        /// The file as given.
        path: PathBuf,
    },
    /// The path names something that is not a regular file, such as a directory or a device.
    #[error("{}: expected a file, found {found}", .path.display())]
    NotAFile {
        /// The path as given.
        path: PathBuf,
        /// What it is instead.
        found: &'static str,
    },
    /// The operating system refused.
    #[error("{}: cannot {action}: {source}", .path.display())]
    Io {
        /// What was attempted, as an infinitive.
        action: &'static str,
        /// The file it was attempted on.
        path: PathBuf,
        /// The reason given.
        source: io::Error,
    },
    /// The content is not an ONNX model.
    #[error("{}: not an ONNX model{reason}", .path.display())]
    NotOnnx {
        /// The file as given.
        path: PathBuf,
        /// What was expected and found; begins with its own separator.
        reason: String,
    },
    /// A tensor's external data is missing, does not fit or may not be read.
    #[error("tensor '{tensor}': external data in '{location}': {reason}")]
    External {
        /// The tensor's name.
        tensor: String,
        /// The location as the model states it.
        location: String,
        /// What was expected and found.
        reason: String,
    },
    /// A tensor contradicts itself or is of a type that the operation does not handle.
    #[error("tensor '{tensor}': {reason}")]
    Tensor {
        /// The tensor's name.
        tensor: String,
        /// What was expected and found.
        reason: String,
    },
    /// The model was flattened for analysis and cannot be written.
    #[error("the model is flattened for analysis and does not compute what it should")]
    Flat,
    /// A single protobuf message cannot be that large.
    #[error("the model takes {bytes} bytes in one piece, more than the 2 GiB a protobuf file may have")]
    TooLarge {
        /// The encoded size.
        bytes: u64,
    },
}

impl OnnxError {
    /// An error about `tensor`.
    pub fn tensor(tensor: &TensorProto, reason: impl Into<String>) -> Self {
        Self::Tensor { tensor: display_name(tensor), reason: reason.into() }
    }

    pub(super) fn external(tensor: &TensorProto, location: &str, reason: impl Into<String>) -> Self {
        Self::External { tensor: display_name(tensor), location: location.to_owned(), reason: reason.into() }
    }

    pub(super) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }
}

fn display_name(tensor: &TensorProto) -> String {
    match tensor.name() {
        "" => "(unnamed)".to_owned(),
        name => name.to_owned(),
    }
}
