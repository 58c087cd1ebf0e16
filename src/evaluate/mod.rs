//! What a model is worth: how fast it is.

pub mod advice;
pub mod bench;
pub mod gate;
pub mod inputs;
pub mod machine;
pub mod memory;
pub mod stats;
