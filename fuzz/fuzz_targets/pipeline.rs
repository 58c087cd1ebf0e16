//! A valid model, changed by a script, and pruned with options that the input draws. See `script.rs` for the layout.

#![no_main]

use libfuzzer_sys::fuzz_target;
use onnx_prune_fuzz::{guard::Guard, invariants, request};

#[global_allocator]
static GUARD: Guard = Guard;

fuzz_target!(|data: &[u8]| {
    let (model, options) = request(data);
    invariants::look(&model);
    invariants::run(&model, &options);
});
