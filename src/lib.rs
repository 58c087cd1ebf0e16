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
//! [`prune::prune`] runs all of it. How to use it, from the command line first of all, is in the [`guide`].
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
//!
//! # Your own operators and criteria
//!
//! A rule for an operator of your own is an [`ops::OpRule`], put into [`ops::Rules`] and given to a model with
//! [`onnx::Model::with_rules`]; a criterion is a [`score::Criterion`], put into [`score::Criteria`] and given to a run in
//! [`prune::Options::criteria`]. Both are values and not settings of the process. `examples/extend.rs` has one of each:
//!
//! ```
//! use onnx_prune::ops::{Answer, NodeCx, OpRule, Relate, Rules, Shapes, relate::{In, Out}};
//! # use onnx_prune::error::Result;
//!
//! /// `com.example:Scale`: channels (axis 1) pass one by one.
//! struct Scale;
//!
//! impl OpRule for Scale {
//!     fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
//!         Ok(vec![Some(cx.shape(0)?.to_vec())])
//!     }
//!     fn relate(&self, r: &mut Relate) -> Answer<()> {
//!         r.tie(In(0, 1), Out(0, 1))
//!     }
//! }
//!
//! # fn main() -> Result<()> {
//! let model = onnx_prune::onnx::load("fixtures/residual.bn.onnx".as_ref())?;
//! let model = model.with_rules(Rules::default().with("com.example:Scale", Scale)?);
//! # assert_eq!(model.rules().names().collect::<Vec<_>>(), ["com.example:Scale"]);
//! # Ok(())
//! # }
//! ```
//!
//! # What is stable
//!
//! Versions follow [semantic versioning](https://semver.org); before 1.0, the second number counts as the first. A change that
//! breaks one of these raises it:
//!
//! * the command line: commands, flags, their meaning and defaults, exit codes (0 done, 1 a check or gate failed, 2 bad input or
//!   usage), which stream says what;
//! * files: the JSON that `schemas/` describes (a `schema_version` of its own grows as well; new keys may come any time), stored
//!   plans, `onnx-prune.toml`;
//! * the crate: every public item, as `cargo semver-checks` judges (`ci/semver` runs it against the last released tag).
//!
//! Not part of the promise, and free to change in any version:
//!
//! * the bytes of a pruned model and the figures in reports (a better decision for the same budget is an improvement; within one
//!   version the same input gives the same bytes);
//! * wording: tables of the terminal, messages, logs, HTML and Markdown pages, manual pages, completion scripts;
//! * new fields of the `Options` structs: build them with `..Default::default()`; new variants of enums that are marked
//!   `#[non_exhaustive]`; new methods with a default in [`ops::OpRule`], [`score::Criterion`] and
//!   [`train::grad::Gradient`];
//! * items that are hidden from this documentation.
//!
//! The oldest Rust that builds the crate stands in `Cargo.toml` (`rust-version`) and grows with the second number only. It is
//! checked in two parts rather than by a build: Clippy knows since when each part of the standard library that is used is there
//! (`incompatible_msrv`), and no dependency may ask for more (`.ci/check_msrv.py`). What only a build would find, such as syntax
//! that is newer, they do not see.

pub mod calibrate;
pub mod canon;
pub mod channels;
pub mod data;
pub mod error;
pub mod evaluate;
pub mod flat;
pub mod graph;
#[cfg(any(doc, doctest))]
pub mod guide;
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
