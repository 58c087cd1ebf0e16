//! Training a model file: no framework, only ONNX graphs.
//!
//! Differentiation is graph rewriting. [`differentiate`] writes a model's nodes and, behind them, the gradient of a loss, one
//! [rule](grad) for each operator; the optimiser's update follows in the same graph, which a [runtime](crate::runtime) then
//! runs step by step.

pub mod augment;
pub mod batches;
mod checkpoint;
mod diagnose;
pub mod differentiate;
pub mod fixed;
pub mod grad;
mod held;
pub mod history;
mod in_use;
pub mod loss;
pub mod optimizer;
mod output;
pub mod pairs;
mod proof;
pub mod rounds;
pub mod run;
pub mod schedule;
pub mod sparsity;
pub mod step;
pub mod tape;
mod targets;
pub mod vjp;
mod widen;
