//! Every form that an ONNX file can have: element types, external data, old versions, shared and typed tensors, and
//! everything in it that pruning must not touch.
#![cfg(feature = "tract")]

mod constants;
mod external;
mod kit;
mod old;
mod sharing;
mod survives;
mod types;
mod whole;
