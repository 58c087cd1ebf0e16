//! onnx-prune removes whole channels from a trained ONNX network.

#![allow(missing_docs)]
pub mod canon;
pub mod channels;
pub mod error;
pub mod graph;
pub mod inspect;
pub mod onnx;
pub mod ops;
pub mod plan;
pub mod prune;
pub mod recover;
pub mod report;
pub mod rewrite;
pub mod runtime;
pub mod score;
pub mod verify;
