//! How good a model is on data, how far a pruned one is from the original, and how long both take.

pub mod advice;
pub mod baseline;
pub mod bench;
pub mod bound;
pub mod check;
pub mod counts;
pub mod diff;
pub mod exact;
pub mod gate;
pub mod half;
pub mod inputs;
pub mod layer_times;
pub mod machine;
pub mod memory;
pub mod metric;
pub mod quality;
pub mod sensitivity;
pub mod shard;
pub mod significance;
pub mod stats;
