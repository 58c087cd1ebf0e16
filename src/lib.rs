//! onnx-prune removes whole channels from a trained ONNX network: a smaller, faster file that computes exactly what the
//! original computes with zeros in place of the removed weights.
//!
//! The pipeline is `bytes → Model → Graph → canon → trace → Groups → Scores → Plan → recover → rewrite → verify → Report`,
//! and data moves only to the right:
//!
//! | stage | module |
//! |---|---|
//! | reading and writing ONNX | [`onnx`] |
//! | control flow and functions as one flat graph | [`flat`] |
//! | the petgraph view | [`graph`] |
//! | shapes and folded shape arithmetic | [`canon`] |
//! | what an operator ties together | [`ops`] |
//! | channels, groups, pins | [`channels`] |
//! | importance | [`score`] |
//! | the decision | [`plan`] |
//! | what layers see on data, what removals cost | [`calibrate`] |
//! | repair | [`recover`] |
//! | training, before and after the cut | [`train`] |
//! | the sole writer of a pruned model | [`rewrite`] |
//! | the proof | [`verify`], on a [`runtime`] |
//! | samples to run a model on | [`data`] |
//! | how good and how fast it is | [`evaluate`] |
//! | many runs, on one machine or many | [`sweep`] |
//! | what is told | [`report`], [`inspect`] |
//!
//! [`prune::prune`] runs all of it:
//!
//! ```
//! use onnx_prune::{onnx, plan::Budget, prune};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let model = onnx::load("fixtures/residual.bn.onnx".as_ref())?;
//! let options = prune::Options { budget: Budget::TargetMacs(0.5), ..Default::default() };
//! let pruned = prune::prune(&model, &options, &|_stage| ())?;
//! assert!(pruned.report.pruned.macs < pruned.report.original.macs);
//! # let dir = tempfile::tempdir()?;
//! # let out = dir.path().join("smaller.onnx");
//! if let Some(smaller) = &pruned.model {
//!     onnx::save(smaller, &out, &onnx::SaveOptions::default())?;
//! }
//! # Ok(())
//! # }
//! ```

pub mod calibrate;
pub mod canon;
pub mod channels;
pub mod data;
pub mod error;
pub mod evaluate;
pub mod flat;
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
pub mod sweep;
pub mod train;
pub mod verify;
