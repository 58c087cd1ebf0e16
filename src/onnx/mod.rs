//! ONNX files: reading, writing, and typed views on their tensors.
//!
//! [`load`] maps the file and decodes it without copying tensor data; external data files are mapped too, and their parts
//! appear as the tensors' `raw_data`. [`save`] streams, so that neither direction holds a second copy of the weights.
//!
//! A tensor that came from an external file keeps `data_location == EXTERNAL` as a mark (see [`tensor::is_external`]) even
//! though its bytes are in `raw_data`; [`save`] puts marked tensors into a data file again. A proto encoded by other means
//! than [`save`] or [`Model::to_bytes`] would carry both, which other readers may not accept.

mod error;
mod external;
mod load;
mod save;
mod saved;
mod select;
mod stream;
pub mod tensor;
pub mod visit;

/// The messages of `proto/onnx.proto`, as prost generates them.
#[allow(missing_docs, clippy::all)]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/onnx.rs"));
}

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use prost::Message;
use sha2::{Digest, Sha256};

use crate::flat::Scopes;
use crate::ops::Rules;
pub use error::OnnxError;
pub(crate) use load::map;
pub use load::{from_bytes, load};
pub use save::{SaveOptions, save};
pub use saved::{Saved, saved};

/// An ONNX model in memory.
#[derive(Clone)]
pub struct Model {
    /// The content. Tensors with the EXTERNAL mark have their bytes in `raw_data`.
    pub proto: proto::ModelProto,
    /// Where it was read from, as given.
    pub path: PathBuf,
    /// The size of the model file and of every data file it uses; of the encoded message if it was not read from a file.
    pub bytes_on_disk: u64,
    /// Whether any tensor came from an external data file.
    pub was_external: bool,
    /// The bytes of the main file; empty if there is none.
    source: Bytes,
    /// The mapped main file.
    pages: Option<load::Pages>,
    sha256: OnceLock<String>,
    /// How to put back what was [flattened](crate::flat).
    pub(crate) scopes: Option<Arc<Scopes>>,
    /// What its operators mean.
    rules: Rules,
}

impl Model {
    /// A model that was made in memory. `path` only labels it.
    pub fn from_proto(proto: proto::ModelProto, path: impl Into<PathBuf>) -> Self {
        let mut was_external = false;
        let walked = visit::tensors(&proto, &mut |t| {
            was_external |= tensor::is_external(t);
            Ok(())
        });
        debug_assert!(walked.is_ok());
        let bytes_on_disk = proto.encoded_len() as u64;
        Self {
            proto,
            path: path.into(),
            bytes_on_disk,
            was_external,
            source: Bytes::new(),
            pages: None,
            sha256: OnceLock::new(),
            scopes: None,
            rules: Rules::default(),
        }
    }

    /// A model with another content whose tensors may still borrow from this one's file.
    pub fn derive(&self, proto: proto::ModelProto) -> Self {
        let pages = self.pages.clone();
        let was_external = self.was_external;
        let rules = self.rules.clone();
        Self { was_external, pages, rules, ..Self::from_proto(proto, self.path.clone()) }
    }

    /// The same model, read with rules for operators of your own.
    pub fn with_rules(self, rules: Rules) -> Self {
        Self { rules, ..self }
    }

    /// What its operators are read with; the standard ones unless [`with_rules`](Self::with_rules) said otherwise.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The same as a flat model.
    pub(crate) fn scoped(self, scopes: Option<Arc<Scopes>>) -> Self {
        Self { scopes, ..self }
    }

    /// Lets go of the mapped file's pages in memory; tensor data is paged in again when it is next looked at. Keeps a run
    /// over a large model near the size of what it is working on.
    pub fn release_pages(&self) {
        if let Some(pages) = &self.pages {
            pages.release();
        }
    }

    /// The version of the standard operator set; 0 if the model does not import it.
    pub fn opset(&self) -> i64 {
        let standard = |domain: &str| matches!(domain, "" | "ai.onnx");
        match self.proto.opset_import.iter().find(|set| standard(set.domain())) {
            Some(set) => set.version(),
            // Before IR version 3 there was one operator set and nothing to import.
            None => i64::from(self.proto.ir_version() < 3),
        }
    }

    /// The SHA-256 of the main file in hexadecimal, computed on the first call. Data files do not enter into it. For a
    /// model that was not read from a file it is that of the encoded message.
    pub fn sha256(&self) -> String {
        let hash = || {
            let digest = match self.source.is_empty() {
                true => Sha256::digest(self.proto.encode_to_vec()),
                false => Sha256::digest(&self.source),
            };
            digest.iter().map(|byte| format!("{byte:02x}")).collect()
        };
        self.sha256.get_or_init(hash).clone()
    }

    /// A SHA-256 in hexadecimal of everything that the model computes with: [`sha256`](Self::sha256), and where there are data files,
    /// the bytes of all tensors as well.
    pub fn content_sha256(&self) -> String {
        let main = self.sha256();
        if !self.was_external {
            return main;
        }
        let mut hash = Sha256::new();
        hash.update(&main);
        let walked: Result<(), OnnxError> = visit::tensors(&self.proto, &mut |t| {
            hash.update(t.name());
            hash.update(t.raw_data());
            Ok(())
        });
        debug_assert!(walked.is_ok());
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// A flat model has lost its subgraphs.
    fn check_whole(&self) -> Result<(), OnnxError> {
        if self.scopes.is_some() { Err(OnnxError::Flat) } else { Ok(()) }
    }

    /// The whole model as one self-contained file, external data included. An error above 2 GiB.
    pub fn to_bytes(&self) -> Result<Vec<u8>, OnnxError> {
        self.check_whole()?;
        let mut inlined = None;
        if self.was_external {
            let mut proto = self.proto.clone();
            visit::tensors_mut(&mut proto, &mut external::inline)?;
            inlined = Some(proto);
        }
        let proto = inlined.as_ref().unwrap_or(&self.proto);
        let bytes = proto.encoded_len();
        match i32::try_from(bytes) {
            Ok(_) => Ok(proto.encode_to_vec()),
            Err(_) => Err(OnnxError::TooLarge { bytes: bytes as u64 }),
        }
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model")
            .field("path", &self.path)
            .field("bytes_on_disk", &self.bytes_on_disk)
            .field("was_external", &self.was_external)
            .finish_non_exhaustive()
    }
}
