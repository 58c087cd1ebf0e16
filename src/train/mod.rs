//! Training a model file: no framework, only ONNX graphs.
//!
//! Differentiation is graph rewriting. [`differentiate`] writes a model's nodes and, behind them, the gradient of a loss, one
//! [rule](grad) for each operator; the optimiser's update follows in the same graph, which a [runtime](crate::runtime) then
//! runs step by step.

pub mod augment;
pub mod batches;
pub mod differentiate;
pub mod fixed;
pub mod grad;
pub mod history;
pub mod tape;
pub mod vjp;
