//! Files that a command writes: checked before the long work starts, written in one step, never onto an input.

use super::interrupt::Writing;
use anyhow::{Context, bail};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// `<stem>.pruned.onnx` beside the model.
pub fn default_output(model: &Path) -> PathBuf {
    beside(model, "pruned")
}

/// `<stem>.<what>.onnx` beside the model.
pub fn beside(model: &Path, what: &str) -> PathBuf {
    let mut name = model.file_stem().unwrap_or_default().to_owned();
    name.push(format!(".{what}.onnx"));
    model.with_file_name(name)
}

/// The data file that belongs to a model written at `out`.
pub fn data_file(out: &Path) -> PathBuf {
    let mut name = out.file_name().unwrap_or_default().to_owned();
    name.push(".data");
    out.with_file_name(name)
}

/// What a path stands for, through all links.
#[derive(PartialEq, Eq)]
enum Identity {
    #[cfg(unix)]
    Inode(u64, u64),
    Path(PathBuf),
}

fn identity(path: &Path) -> Identity {
    #[cfg(unix)]
    if let Ok(meta) = fs::metadata(path) {
        use std::os::unix::fs::MetadataExt;
        return Identity::Inode(meta.dev(), meta.ino());
    }
    let whole = path.canonicalize().or_else(|_| {
        let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
        dir.canonicalize().map(|d| d.join(path.file_name().unwrap_or_default()))
    });
    Identity::Path(whole.unwrap_or_else(|_| path.to_owned()))
}

/// Whether both paths lead to the same file, also by symbolic and hard links.
pub fn same_file(a: &Path, b: &Path) -> bool {
    identity(a) == identity(b)
}

/// A device or pipe, or what stands for an open file, such as `/dev/stdout`: written to, never replaced.
pub fn is_device(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|m| !m.is_dir() && (!m.is_file() || path.starts_with("/dev")))
}

/// No file may be written twice or over something that is read. Devices, such as `/dev/null`, may.
pub fn check_distinct(written: &[(&str, &Path)], read: &[(&str, &Path)]) -> anyhow::Result<()> {
    for (i, (what, path)) in written.iter().enumerate() {
        let others = read.iter().chain(written.get(..i).unwrap_or_default());
        if let Some((other, _)) = others.filter(|_| !is_device(path)).find(|(_, p)| same_file(p, path)) {
            bail!("{}: {what} would overwrite {other}; choose another file", path.display());
        }
    }
    Ok(())
}

fn temporary(path: &Path) -> anyhow::Result<NamedTempFile> {
    let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".onnx-prune-");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // Less the process's umask: as any new file.
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    builder.tempfile_in(dir).with_context(|| format!("{}: cannot write here", path.display()))
}

/// Fails when `path` cannot be written, and leaves everything as it is.
pub fn probe(path: &Path) -> anyhow::Result<()> {
    match fs::metadata(path) {
        Ok(m) if m.is_dir() => bail!("{}: expected a file to write, found a directory", path.display()),
        Ok(_) if is_device(path) => return Ok(()),
        Ok(m) if m.permissions().readonly() => bail!("{}: the file is write-protected", path.display()),
        _ if path.file_name().is_none() => bail!("{}: expected the name of a file to write", path.display()),
        _ => {}
    }
    let _writing = Writing::begin();
    temporary(path).map(drop)
}

/// Text that waits beside its place.
pub enum Staged {
    /// A file that [`Staged::publish`] renames.
    File(NamedTempFile, PathBuf, Writing),
    /// A device or pipe cannot be replaced, only written to.
    Device(String, PathBuf),
}

impl Staged {
    /// Writes the text next to `path`; it vanishes unless it is published.
    pub fn new(path: &Path, text: String) -> anyhow::Result<Self> {
        if is_device(path) {
            return Ok(Self::Device(text, path.to_owned()));
        }
        // A link stays a link.
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let writing = Writing::begin();
        let mut file = temporary(&path)?;
        file.write_all(text.as_bytes()).with_context(|| format!("{}: cannot write", path.display()))?;
        Ok(Self::File(file, path, writing))
    }

    /// Puts it in its place.
    pub fn publish(self) -> anyhow::Result<()> {
        match self {
            Self::File(file, path, _writing) => {
                file.persist(&path).map(drop).with_context(|| format!("{}: cannot replace the file", path.display()))
            }
            Self::Device(text, path) => fs::OpenOptions::new()
                .write(true)
                .open(&path)
                .and_then(|mut f| f.write_all(text.as_bytes()))
                .with_context(|| format!("{}: cannot write", path.display())),
        }
    }
}
