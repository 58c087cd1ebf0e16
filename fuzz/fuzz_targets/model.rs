//! Any bytes as a model file: read, seen as a graph, inspected, pruned.

#![no_main]

use libfuzzer_sys::fuzz_target;
use onnx_prune::onnx;
use onnx_prune::prune::Options;
use onnx_prune_fuzz::{guard::Guard, invariants};
use std::path::PathBuf;
use std::sync::OnceLock;

#[global_allocator]
static GUARD: Guard = Guard;

/// A directory in memory with a data file that a model may refer to.
fn dir() -> &'static tempfile::TempDir {
    static DIR: OnceLock<tempfile::TempDir> = OnceLock::new();
    DIR.get_or_init(|| {
        let root = if PathBuf::from("/dev/shm").is_dir() { "/dev/shm".into() } else { std::env::temp_dir() };
        let dir = tempfile::tempdir_in(root).unwrap();
        std::fs::write(dir.path().join("d"), [0x3f; 4096]).unwrap();
        dir
    })
}

fuzz_target!(|data: &[u8]| {
    let model = if data.windows(8).any(|w| w == b"location") {
        let path = dir().path().join("m.onnx");
        std::fs::write(&path, data).unwrap();
        onnx::load(&path)
    } else {
        onnx::from_bytes(data.to_vec(), "m.onnx")
    };
    let Ok(model) = model else { return };
    invariants::look(&model);
    invariants::run(&model, &Options { verify: false, ..Options::default() });
});
