//! The oracle: a pruned model computes what its masked twin computes.

use super::{Rng, between, sample, seeded};
use onnx_prune::channels::Channels;
use onnx_prune::flat::{self, flatten};
use onnx_prune::graph::Graph;
use onnx_prune::onnx::proto::{ValueInfoProto, tensor_shape_proto, type_proto};
use onnx_prune::onnx::{Model, SaveOptions, load, save};
use onnx_prune::ops::Policy;
use onnx_prune::{plan, prune, rewrite, runtime, verify};

/// Largest accepted difference.
pub const TOLERANCE: f64 = 1e-4;

/// For every unit, a number of random channels from each of its cells; all cells keep at least one.
pub fn random_removal(ch: &Channels, rng: &mut Rng) -> Vec<Vec<usize>> {
    let mut gone: Vec<Vec<usize>> = vec![Vec::new(); ch.groups.len()];
    for unit in &ch.units {
        let most = unit.cells.iter().map(Vec::len).min().unwrap_or(1) - 1;
        let k = between(rng, 0, most).max(between(rng, 0, most.min(1)));
        for cell in &unit.cells {
            for i in sample(rng, cell.len(), k) {
                let (group, channel) = cell[i];
                gone[group].push(channel);
            }
        }
    }
    gone.iter_mut().for_each(|g| g.sort_unstable());
    gone
}

/// What a check found.
#[derive(Debug, Default)]
pub struct Checked {
    /// Channels that could leave.
    pub prunable: usize,
    /// Channels that left.
    pub removed: usize,
    /// Pins: operator and reason.
    pub pins: Vec<(String, String)>,
    /// Why numbers were not compared.
    pub skipped: Option<String>,
    /// The pruned model as bytes.
    pub bytes: Vec<u8>,
}

/// Prunes at random and compares with the twin, in numbers and in structure.
pub fn check(model: &Model, seed: u64) -> Result<Checked, String> {
    check_with(model, seed, &Policy::default())
}

/// The same under a policy.
pub fn check_with(model: &Model, seed: u64, policy: &Policy) -> Result<Checked, String> {
    let flat = flatten(model).map_err(|e| e.to_string())?;
    let graph = Graph::new(&flat).map_err(|e| e.to_string())?;
    let t = prune::analyse_with(&graph, policy).map_err(|e| e.to_string())?;
    let ch = &t.trace.channels;
    let gone = random_removal(ch, &mut seeded(seed));
    let removed = plan::removed_indices(ch, &gone);
    let pruned = rewrite::rewrite(&t.analysis, &t.trace, &removed).map_err(|e| format!("rewrite: {e}"))?;
    let twin = rewrite::mask(&t.analysis, &t.trace, &removed).map_err(|e| format!("mask: {e}"))?;
    verify::check_interface(model, &pruned).map_err(|e| format!("interface: {e}"))?;
    let pruned = reload(&pruned)?;
    structure(&t, &removed, &pruned)?;
    let mut out = Checked {
        prunable: ch.groups.iter().map(|g| g.channels.len()).sum(),
        removed: gone.iter().map(Vec::len).sum(),
        pins: ch.pins.iter().map(|p| (p.op.clone(), p.reason.clone())).collect(),
        skipped: None,
        bytes: pruned.to_bytes().map_err(|e| e.to_string())?,
    };
    if !policy.approximate_norm {
        out.skipped = compare(&twin, &pruned, seed)?;
    }
    Ok(out)
}

fn reload(model: &Model) -> Result<Model, String> {
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let path = dir.path().join("pruned.onnx");
    save(model, &path, &SaveOptions::default()).map_err(|e| format!("save: {e}"))?;
    let back = load(&path).map_err(|e| format!("load: {e}"))?;
    if back.to_bytes().ok() != model.to_bytes().ok() {
        return Err("the model reads back otherwise than it was written".into());
    }
    Ok(back)
}

/// Every tensor has lost what the plan said, no more and no less.
fn structure(t: &prune::Traced, removed: &[Vec<usize>], pruned: &Model) -> Result<(), String> {
    let flat = flatten(pruned).map_err(|e| format!("pruned: {e}"))?;
    let graph = Graph::new(&flat).map_err(|e| format!("pruned: {e}"))?;
    let again = prune::analyse(&graph).map_err(|e| format!("pruned: {e}"))?;
    let (a, ch) = (&t.analysis, &t.trace.channels);
    for tensor in &ch.tensors {
        let mut expected = tensor.dims.clone();
        for (d, axis) in expected.iter_mut().zip(&tensor.axes) {
            let Some(id) = axis else { continue };
            *d -= removed[id.0 as usize].len() / ch.axis(*id).fold;
        }
        let mut names = Vec::new();
        if tensor.source.is_none() {
            names.push(a.graph.value(tensor.value).name.clone());
        }
        for &(node, slot) in tensor.readers.iter().filter(|_| tensor.source.is_some()) {
            let name = a.graph.node(node).name();
            let same_op = |n: &&onnx_prune::onnx::proto::NodeProto| n.op_type() == a.graph.node(node).op_type();
            // A name made up of the position means another node after the cut.
            let named = !name.is_empty() && !name.contains('#');
            let found = graph.proto.node.iter().find(|n| n.name() == name && named).filter(same_op);
            names.extend(found.and_then(|n| n.input.get(slot).cloned()));
        }
        for name in names {
            let Some(v) = graph.find(&name) else { continue };
            let Some(got) = &again.analysis.lanes[0].shapes[v.0 as usize] else { continue };
            if *got != expected && !sizes_only(a.graph, tensor) {
                return Err(format!("tensor {name:?} has sizes {got:?} after pruning, planned were {expected:?}"));
            }
        }
    }
    // What the file declares is what comes out.
    for info in &graph.proto.value_info {
        let Some(shape) = graph.find(info.name()).and_then(|v| again.analysis.lanes[0].shapes[v.0 as usize].as_ref())
        else {
            return Err(format!("declared tensor {:?} does not exist or has no known shape", info.name()));
        };
        for (dim, &n) in declared(info).iter().zip(shape) {
            if dim.is_some_and(|d| d != n as i64) {
                return Err(format!("tensor {:?} is declared as {:?} and has {shape:?}", info.name(), declared(info)));
            }
        }
    }
    Ok(())
}

/// Declared sizes, where they are numbers.
fn declared(info: &ValueInfoProto) -> Vec<Option<i64>> {
    let Some(type_proto::Value::TensorType(t)) = info.r#type.as_ref().and_then(|t| t.value.as_ref()) else {
        return vec![];
    };
    let size = |d: &tensor_shape_proto::Dimension| match d.value {
        Some(tensor_shape_proto::dimension::Value::DimValue(n)) => Some(n),
        _ => None,
    };
    t.shape.iter().flat_map(|s| &s.dim).map(size).collect()
}

/// Integer vectors are rewritten by the operators that read them.
fn sizes_only(graph: &Graph, t: &onnx_prune::channels::Tensor) -> bool {
    let constant = t.source.and_then(|s| graph.constant(s));
    constant.is_some_and(|c| !onnx_prune::onnx::tensor::is_float(c.data_type()))
}

/// Where values are rounded to quantised ones, a difference in the last bit may become a step; then other input agrees.
fn compare(twin: &Model, pruned: &Model, seed: u64) -> Result<Option<String>, String> {
    let nodes = twin.proto.graph.iter().flat_map(|g| &g.node);
    let rounds = nodes.into_iter().any(|n| n.op_type().contains("Quantize"));
    let mut found = compare_on(twin, pruned, seed);
    for other in 1..5 {
        if !rounds || found.is_ok() {
            break;
        }
        found = compare_on(twin, pruned, seed.wrapping_add(other));
    }
    found
}

fn compare_on(twin: &Model, pruned: &Model, seed: u64) -> Result<Option<String>, String> {
    let Some(rt) = runtime::embedded() else { return Ok(Some("no embedded runtime".into())) };
    let whole = |m| flat::inline(m).map_err(|e| e.to_string());
    let (twin, pruned) = (&*whole(twin)?, &*whole(pruned)?);
    let inputs = runtime::random_inputs(twin, seed, &|_, _| 2).map_err(|e| e.to_string())?;
    let expected = match rt.load(twin).and_then(|mut s| s.run(&inputs)) {
        Ok(o) => o,
        Err(e) => return Ok(Some(e.to_string())),
    };
    let got = rt.load(pruned).and_then(|mut s| s.run(&inputs)).map_err(|e| format!("only the twin runs: {e}"))?;
    for ((name, want), (_, got)) in expected.iter().zip(&got) {
        match runtime::max_rel_diff(got, want).map_err(|e| format!("{name}: {e}"))? {
            None => return Ok(Some("the twin's output is not finite".into())),
            Some(d) if d <= TOLERANCE => {}
            Some(d) => return Err(format!("output {name:?} differs by {d:.3e}")),
        }
    }
    Ok(None)
}

/// The pruned model's bytes.
pub fn prune_at_random(model: &Model, seed: u64) -> Result<Vec<u8>, String> {
    let flat = flatten(model).map_err(|e| e.to_string())?;
    let graph = Graph::new(&flat).map_err(|e| e.to_string())?;
    let t = prune::analyse(&graph).map_err(|e| e.to_string())?;
    let gone = random_removal(&t.trace.channels, &mut seeded(seed));
    let removed = plan::removed_indices(&t.trace.channels, &gone);
    let pruned = rewrite::rewrite(&t.analysis, &t.trace, &removed).map_err(|e| format!("rewrite: {e}"))?;
    pruned.to_bytes().map_err(|e| e.to_string())
}

/// Writes a failing model and its two descendants where `ONNX_PRUNE_DUMP` says.
pub fn dump(name: &str, model: &Model, seed: u64) -> Option<()> {
    let dir = std::path::PathBuf::from(std::env::var_os("ONNX_PRUNE_DUMP")?);
    std::fs::create_dir_all(&dir).ok()?;
    let put = |part: &str, m: &Model| save(m, &dir.join(format!("{name}.{part}.onnx")), &SaveOptions::default()).ok();
    put("original", model)?;
    let flat = flatten(model).ok()?;
    let graph = Graph::new(&flat).ok()?;
    let t = prune::analyse(&graph).ok()?;
    let gone = random_removal(&t.trace.channels, &mut seeded(seed));
    let removed = plan::removed_indices(&t.trace.channels, &gone);
    put("twin", &rewrite::mask(&t.analysis, &t.trace, &removed).ok()?)?;
    put("pruned", &rewrite::rewrite(&t.analysis, &t.trace, &removed).ok()?)?;
    Some(())
}
