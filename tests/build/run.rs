//! The binary in a directory of its own.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// A directory with `residual.bn.onnx` as `net.onnx`.
pub fn with_net() -> TempDir {
    let dir = TempDir::new().unwrap();
    fs::copy(fixture("residual.bn.onnx"), dir.path().join("net.onnx")).unwrap();
    dir
}

pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

/// Runs in `dir`; the arguments are split at spaces.
pub fn run(dir: &TempDir, args: &str) -> Ran {
    let output = Command::new(env!("CARGO_BIN_EXE_onnx-prune"))
        .current_dir(dir)
        .env_remove("COLUMNS")
        .args(args.split_whitespace())
        .output()
        .unwrap();
    Ran {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs, expects success, returns stdout.
pub fn ok(dir: &TempDir, args: &str) -> String {
    let ran = run(dir, args);
    assert_eq!(ran.code, 0, "{args}: {}", ran.err);
    ran.out
}

/// Every file below the directory with its content.
pub fn files(dir: &TempDir) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(|e| e.unwrap());
    let files = entries.filter(|e| e.file_type().unwrap().is_file());
    files.map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap())).collect()
}

pub fn names(dir: &TempDir) -> Vec<String> {
    files(dir).into_keys().collect()
}

/// Runs, expects exit code 2, one `error:` line that names all of `words`, and a directory as it was.
pub fn refused(dir: &TempDir, args: &str, words: &[&str]) {
    let before = files(dir);
    let ran = run(dir, args);
    assert_eq!(ran.code, 2, "{args}: {}{}", ran.out, ran.err);
    assert_eq!(ran.out, "", "{args}");
    let errors: Vec<&str> = ran.err.lines().filter(|l| l.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{args}: {}", ran.err);
    for word in words {
        assert!(errors[0].contains(word), "{args}: {word:?} is not in {}", ran.err);
    }
    assert!(!ran.err.contains("panicked") && !ran.err.contains("backtrace"), "{args}: {}", ran.err);
    assert!(before == files(dir), "{args}: files changed: {:?}", names(dir));
}
