//! A run's state in a file, to go on from after a stop.
//!
//! The format is safetensors: one tensor for each vector of the state (and of the best state so far, behind `best/`), and in
//! the metadata a fingerprint of model, data and options, and the run's progress as JSON.

use crate::error::{Error, Result};
use crate::runtime::walk::Feed;
use crate::runtime::{Array, Data};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Serialize, de::DeserializeOwned};
use std::io::Write;
use std::path::Path;

/// Behind this lies the best state.
const BEST: &str = "best/";

fn bad(path: &Path, message: impl ToString) -> Error {
    Error::Data { path: path.to_owned(), message: message.to_string() }
}

/// What a file holds.
pub struct Checkpoint<P> {
    /// Of the model, the data and the options.
    pub fingerprint: String,
    /// How far it came.
    pub progress: P,
    /// The state by the names of the step graph's inputs.
    pub state: Feed,
    /// The best state so far.
    pub best: Option<Feed>,
}

impl<P: Serialize + DeserializeOwned> Checkpoint<P> {
    /// Writes the file, or leaves the old one as it was.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut bytes: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
        let best = self.best.iter().flatten().map(|(n, a)| (format!("{BEST}{n}"), a));
        for (name, array) in self.state.iter().map(|(n, a)| (n.clone(), a)).chain(best) {
            let Data::F32(values) = &array.data else {
                return Err(Error::Internal(format!("state {name:?} is not float32")));
            };
            bytes.push((name, array.dims.clone(), values.iter().flat_map(|v| v.to_le_bytes()).collect()));
        }
        let mut views = Vec::new();
        for (name, dims, raw) in &bytes {
            let view = TensorView::new(Dtype::F32, dims.clone(), raw).map_err(|e| bad(path, e))?;
            views.push((name.as_str(), view));
        }
        let progress = serde_json::to_string(&self.progress).map_err(|e| bad(path, e))?;
        let meta = [("fingerprint".to_owned(), self.fingerprint.clone()), ("progress".to_owned(), progress)];
        let file = safetensors::serialize(views, Some(meta.into_iter().collect())).map_err(|e| bad(path, e))?;
        let folder = match path.parent() {
            Some(p) if !p.as_os_str().is_empty() => p,
            _ => Path::new("."),
        };
        let mut staged = tempfile::NamedTempFile::new_in(folder).map_err(|e| bad(path, e))?;
        staged.write_all(&file).map_err(|e| bad(path, e))?;
        staged.persist(path).map_err(|e| bad(path, e.error))?;
        Ok(())
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::Data`] when it cannot be read, or is no checkpoint.
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| bad(path, e))?;
        let no = |e: &dyn std::fmt::Display| bad(path, format!("this is no checkpoint of onnx-prune train: {e}"));
        let (_, meta) = SafeTensors::read_metadata(&bytes).map_err(|e| no(&e))?;
        let meta = meta.metadata().clone().unwrap_or_default();
        let word = |key: &str| meta.get(key).cloned().ok_or_else(|| no(&format!("no {key}")));
        let progress = serde_json::from_str(&word("progress")?).map_err(|e| no(&e))?;
        let fingerprint = word("fingerprint")?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|e| no(&e))?;
        let (mut state, mut best) = (Feed::new(), Feed::new());
        let mut names: Vec<String> = tensors.names().into_iter().map(ToString::to_string).collect();
        names.sort_unstable();
        for name in names {
            let view = tensors.tensor(&name).map_err(|e| no(&e))?;
            if view.dtype() != Dtype::F32 {
                return Err(no(&format!("{name:?} is not float32")));
            }
            let values = view.data().chunks_exact(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect();
            let array = Array { dims: view.shape().to_vec(), data: Data::F32(values) };
            match name.strip_prefix(BEST) {
                Some(name) => best.push((name.to_owned(), array)),
                None => state.push((name, array)),
            }
        }
        let best = (!best.is_empty()).then_some(best);
        Ok(Checkpoint { fingerprint, progress, state, best })
    }
}
