//! What a task reads, known by its content.

use crate::error::{Error, Result};
use crate::onnx::proto::ModelProto;
use crate::onnx::{OnnxError, tensor, visit};
use prost::Message;
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A file that changed so shortly before it was read may change again without a new time.
const FRESH: Duration = Duration::from_secs(2);

/// A model with the files that belong to it, a data file, or a folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Content {
    /// SHA-256 of the list of files: for each, in order of names, its own SHA-256, two spaces, its name and a line feed.
    pub sha256: String,
    /// The file's or folder's name, below `dir`.
    pub name: String,
    /// The folder that it lies in.
    pub dir: PathBuf,
    /// Every file.
    pub files: Vec<Part>,
}

/// One file of a [`Content`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Part {
    /// Below the content's `dir`, with forward slashes.
    pub name: String,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
    /// Its size.
    pub bytes: u64,
    /// Nanoseconds from 1970 to its last change.
    pub modified: u64,
}

/// Digests that were computed before, by path. A file of the same size and time is taken to be the same.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Known(BTreeMap<PathBuf, Part>);

impl Content {
    /// Where it lies.
    pub fn path(&self) -> PathBuf {
        self.dir.join(&self.name)
    }

    /// Size of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.bytes).sum()
    }

    /// That the files are still those that were read, by size and time, else by content.
    ///
    /// # Errors
    /// Names the first file that changed.
    pub fn check(&self) -> Result<()> {
        for part in &self.files {
            let path = self.dir.join(&part.name);
            let now = state(&path)?;
            if now == (part.bytes, part.modified) {
                continue;
            }
            if digest(&path)? != part.sha256 {
                return Err(bad(&path, "changed since the sweep was planned; run the sweep again"));
            }
        }
        Ok(())
    }

    /// The same files in another folder.
    pub fn moved(&self, dir: PathBuf) -> Self {
        Self { dir, ..self.clone() }
    }
}

/// A model: its file, those that hold its tensors, and `onnx-prune.toml` beside it.
///
/// # Errors
/// When a file cannot be read or the model not be parsed.
pub fn model(path: &Path, known: &mut Known) -> Result<Content> {
    let path = absolute(path)?;
    let bytes = fs::read(&path).map_err(|e| bad(&path, format!("cannot read: {e}")))?;
    let proto = ModelProto::decode(bytes.as_slice())
        .map_err(|e| bad(&path, format!("not an ONNX model: {e}; expected a file of the ONNX format")))?;
    let (dir, name) = split(&path)?;
    let mut names = vec![name.clone()];
    visit::tensors(&proto, &mut |t| {
        if tensor::is_external(t) {
            let place = t.external_data.iter().find(|e| e.key() == "location");
            names.extend(place.map(|e| e.value().to_owned()));
        }
        Ok::<(), OnnxError>(())
    })?;
    if dir.join(crate::data::config::FILE).is_file() {
        names.push(crate::data::config::FILE.to_owned());
    }
    content(dir, name, names, known)
}

/// A data file, or a folder with all that is in it.
///
/// # Errors
/// When something cannot be read.
pub fn data(path: &Path, known: &mut Known) -> Result<Content> {
    let path = absolute(path)?;
    let (dir, name) = split(&path)?;
    let mut names = Vec::new();
    if path.is_dir() {
        walk(&path, &name, &mut names)?;
    } else {
        names.push(name.clone());
    }
    content(dir, name, names, known)
}

fn walk(dir: &Path, name: &str, names: &mut Vec<String>) -> Result<()> {
    let fail = |e: std::io::Error| bad(dir, format!("cannot list the folder: {e}"));
    for entry in fs::read_dir(dir).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        let below = format!("{name}/{}", utf8(&path, path.file_name())?);
        if path.is_dir() { walk(&path, &below, names)? } else { names.push(below) }
    }
    Ok(())
}

fn content(dir: PathBuf, name: String, mut names: Vec<String>, known: &mut Known) -> Result<Content> {
    names.sort();
    names.dedup();
    let files: Vec<Part> = names.into_par_iter().map(|n| known.part(&dir, n)).collect::<Result<_>>()?;
    let mut list = Sha256::new();
    for part in &files {
        known.0.insert(dir.join(&part.name), part.clone());
        list.update(format!("{}  {}\n", part.sha256, part.name));
    }
    Ok(Content { sha256: hex(&list.finalize()), name, dir, files })
}

impl Known {
    fn part(&self, dir: &Path, name: String) -> Result<Part> {
        let path = dir.join(&name);
        let (bytes, modified) = state(&path)?;
        if let Some(part) = self.0.get(&path).filter(|p| (p.bytes, p.modified) == (bytes, modified)) {
            return Ok(Part { name, ..part.clone() });
        }
        let sha256 = digest(&path)?;
        // Too young: not to be found again by its time.
        let age = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let young = age.saturating_sub(Duration::from_nanos(modified)) < FRESH;
        Ok(Part { name, sha256, bytes, modified: if young { 0 } else { modified } })
    }
}

/// Size, and nanoseconds from 1970 to the last change.
fn state(path: &Path) -> Result<(u64, u64)> {
    let meta = fs::metadata(path).map_err(|e| bad(path, format!("cannot read: {e}")))?;
    let modified = meta.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
    Ok((meta.len(), modified.map_or(0, |t| u64::try_from(t.as_nanos()).unwrap_or(0))))
}

/// SHA-256 of a file in hexadecimal.
///
/// # Errors
/// When it cannot be read.
pub fn digest(path: &Path) -> Result<String> {
    let fail = |e: std::io::Error| bad(path, format!("cannot read: {e}"));
    let mut file = fs::File::open(path).map_err(fail)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = file.read(&mut buffer).map_err(fail)?;
        if n == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(buffer.get(..n).unwrap_or_default());
    }
}

/// In hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn absolute(path: &Path) -> Result<PathBuf> {
    // Links stay: external data is looked for beside the name that was given.
    let whole = std::path::absolute(path).map_err(|e| bad(path, format!("cannot resolve the path: {e}")))?;
    if whole.exists() { Ok(whole) } else { Err(bad(path, "there is no such file or folder")) }
}

fn split(path: &Path) -> Result<(PathBuf, String)> {
    let dir = path.parent().unwrap_or(Path::new(".")).to_owned();
    Ok((dir, utf8(path, path.file_name())?))
}

fn utf8(path: &Path, name: Option<&std::ffi::OsStr>) -> Result<String> {
    let name = name.and_then(|n| n.to_str()).map(str::to_owned);
    name.ok_or_else(|| bad(path, "a sweep needs names in UTF-8; rename it"))
}

pub(super) fn bad(path: &Path, message: impl ToString) -> Error {
    Error::Data { path: path.to_owned(), message: message.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_follows_files_and_names() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("photos");
        fs::create_dir_all(folder.join("cat")).unwrap();
        fs::write(folder.join("cat/1.png"), "one").unwrap();
        fs::write(folder.join("labels.csv"), "").unwrap();
        let mut known = Known::default();
        let first = data(&folder, &mut known).unwrap();
        assert_eq!(
            first.files.iter().map(|f| f.name.as_str()).collect::<Vec<_>>(),
            ["photos/cat/1.png", "photos/labels.csv"]
        );
        assert_eq!(first, data(&folder, &mut known).unwrap());
        first.check().unwrap();
        // At once, and of the same size.
        fs::write(folder.join("cat/1.png"), "two").unwrap();
        assert_ne!(first.sha256, data(&folder, &mut known).unwrap().sha256);
        assert!(first.check().unwrap_err().to_string().contains("changed since"));
        fs::write(folder.join("cat/1.png"), "one").unwrap();
        first.check().unwrap();
        fs::rename(folder.join("cat"), folder.join("dog")).unwrap();
        assert_ne!(first.sha256, data(&folder, &mut known).unwrap().sha256);
    }

    #[test]
    fn a_model_brings_its_data_and_settings() {
        let dir = tempfile::tempdir().unwrap();
        let model_file = dir.path().join("m.onnx");
        let original = crate::onnx::load("fixtures/residual.bn.onnx".as_ref()).unwrap();
        let options = crate::onnx::SaveOptions { external: true };
        crate::onnx::save(&original, &model_file, &options).unwrap();
        let names = |c: &Content| c.files.iter().map(|f| f.name.clone()).collect::<Vec<_>>();
        let bare = model(&model_file, &mut Known::default()).unwrap();
        assert_eq!(names(&bare), ["m.onnx", "m.onnx.data"]);
        fs::write(dir.path().join("onnx-prune.toml"), "").unwrap();
        let with = model(&model_file, &mut Known::default()).unwrap();
        assert_eq!(names(&with), ["m.onnx", "m.onnx.data", "onnx-prune.toml"]);
        assert_ne!(bare.sha256, with.sha256);
        fs::write(&model_file, "no").unwrap();
        assert!(model(&model_file, &mut Known::default()).unwrap_err().to_string().contains("not an ONNX model"));
    }
}
