//! A model as its file will be, before there is one in its place.

use super::{Model, OnnxError, SaveOptions, load, save};
use std::path::Path;
use tempfile::TempDir;

/// A model from a file of its own, which goes when this goes.
pub struct Saved {
    /// With the size and hash that it would have at its place, and labelled as if it were there.
    pub model: Model,
    _dir: TempDir,
}

/// Writes the model into a temporary folder under the name of `out`, and reads it again.
///
/// # Errors
/// When that does not work.
pub fn saved(model: &Model, out: &Path, options: &SaveOptions) -> Result<Saved, OnnxError> {
    let dir = tempfile::tempdir().map_err(|e| OnnxError::io("create a temporary folder for", out, e))?;
    // The name of a data file stands in the model, and enters into its hash.
    let path = dir.path().join(out.file_name().unwrap_or("model.onnx".as_ref()));
    save(model, &path, options)?;
    let mut model = load(&path)?;
    out.clone_into(&mut model.path);
    Ok(Saved { model, _dir: dir })
}
