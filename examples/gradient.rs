//! Writes the gradient of a model as a model of its own: for factors `r` of each output, that of `Σ r · y` with respect to all
//! parameters and inputs.
//!
//! ```text
//! cargo run --release --example gradient -- MODEL OUT.onnx [--batch N] [--size S] [--batch-norms frozen|batch]
//! ```
//!
//! Beside the model's own inputs, OUT.onnx has one for each factor (`train/seed/OUTPUT`) and one for each parameter, under its
//! name; it gives the outputs of the model, and `train/gradient/TENSOR` for each parameter and floating-point input.
#![allow(clippy::print_stdout)]

use anyhow::{Result, ensure};
use clap::Parser;
use onnx_prune::canon;
use onnx_prune::graph::Graph;
use onnx_prune::onnx::proto::tensor_proto::DataType;
use onnx_prune::onnx::{SaveOptions, load, save};
use onnx_prune::runtime::input_specs;
use onnx_prune::train::differentiate::parameters;
use onnx_prune::train::fixed::fix;
use onnx_prune::train::grad::BatchNorms;
use onnx_prune::train::vjp::vjp;
use std::path::PathBuf;

#[derive(Parser)]
struct Arguments {
    /// The model
    model: PathBuf,
    /// Where the model of its gradient goes
    out: PathBuf,
    /// The first extent of inputs that leave it open
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Other extents that inputs leave open
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// The statistics of batch normalisations
    #[arg(long, value_enum, default_value = "batch")]
    batch_norms: BatchNorms,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let model = load(&arguments.model)?;
    let specs = input_specs(&model);
    let open = |axis| if axis == 0 { arguments.batch } else { arguments.size };
    let extents = |dims: &[Option<usize>]| dims.iter().enumerate().map(|(a, d)| d.unwrap_or(open(a))).collect();
    let inputs: Vec<(String, Vec<usize>)> = specs.iter().map(|s| (s.name.clone(), extents(&s.dims))).collect();
    let fixed = fix(&model, &inputs, false)?;
    let graph = Graph::new(&fixed)?;
    let analysis = canon::analyse(&graph);
    let mut wrt: Vec<String> = parameters(&analysis, &[]).into_iter().map(|p| p.name).collect();
    ensure!(!wrt.is_empty(), "{} has no parameters that train", arguments.model.display());
    let number = wrt.len();
    wrt.extend(specs.iter().filter(|s| s.elem_type == DataType::Float as i32).map(|s| s.name.clone()));
    let made = vjp(&model, &inputs, &wrt, arguments.batch_norms, false)?;
    save(&made, &arguments.out, &SaveOptions::default())?;
    println!("{}: gradients of {number} parameters and of the inputs", arguments.out.display());
    Ok(())
}
