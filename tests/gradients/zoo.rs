//! Whole models: all fixtures, and the models of a folder in `ONNX_PRUNE_MODELS`, can be differentiated.

use onnx_prune::canon;
use onnx_prune::graph::Graph;
use onnx_prune::onnx::load;
use onnx_prune::runtime::input_specs;
use onnx_prune::train::differentiate::parameters;
use onnx_prune::train::fixed::fix;
use onnx_prune::train::grad::BatchNorms;
use onnx_prune::train::vjp::vjp;
use std::path::{Path, PathBuf};

fn models(folder: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut all: Vec<PathBuf> = files.map(|f| f.unwrap().path()).collect();
    all.retain(|f| f.extension().is_some_and(|e| e == "onnx"));
    all.sort();
    all
}

/// The number of parameters that have a gradient, of all that the model holds.
fn differentiated(path: &Path) -> Result<(usize, usize), String> {
    let text = |e: onnx_prune::error::Error| e.to_string();
    let model = load(path).map_err(|e| e.to_string())?;
    let size = |axis| if axis == 0 { 2 } else { 96 };
    let extents = |dims: &[Option<usize>]| dims.iter().enumerate().map(|(a, d)| d.unwrap_or(size(a))).collect();
    let specs = input_specs(&model);
    let inputs: Vec<(String, Vec<usize>)> = specs.iter().map(|s| (s.name.clone(), extents(&s.dims))).collect();
    let fixed = fix(&model, &inputs, false).map_err(text)?;
    let graph = Graph::new(&fixed).map_err(text)?;
    let a = canon::analyse(&graph);
    let found = parameters(&a, &[]);
    let trained = found.iter().map(|p| p.numel()).sum();
    let names: Vec<String> = found.into_iter().map(|p| p.name).collect();
    for batch_norms in [BatchNorms::Batch, BatchNorms::Frozen] {
        vjp(&model, &inputs, &names, batch_norms, false).map_err(text)?;
    }
    let float = |t: &&onnx_prune::onnx::proto::TensorProto| onnx_prune::onnx::tensor::is_float(t.data_type());
    let all = fixed.proto.graph.iter().flat_map(|g| &g.initializer).filter(float);
    let all = all.map(|t| t.dims.iter().product::<i64>() as usize).sum();
    Ok((trained, all))
}

#[test]
fn whole_models_can_be_differentiated() {
    let mut all = models(&Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures"));
    assert!(all.len() > 4);
    match std::env::var_os("ONNX_PRUNE_MODELS") {
        Some(folder) => all.extend(models(Path::new(&folder))),
        None => println!("SKIPPED: more models, for want of a folder in ONNX_PRUNE_MODELS"),
    }
    let mut failed = Vec::new();
    for path in &all {
        match differentiated(path) {
            Ok((trained, all)) => println!("{}: {trained} of {all} numbers train", path.display()),
            Err(e) => failed.push(format!("{}: {e}", path.display())),
        }
    }
    assert!(failed.is_empty(), "{} of {} models:\n{}", failed.len(), all.len(), failed.join("\n"));
}
