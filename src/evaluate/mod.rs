//! How good a model is on data, how far a pruned one is from the original, and how long both take.

pub mod diff;
pub mod metric;
pub mod quality;
pub mod sensitivity;
pub mod significance;
