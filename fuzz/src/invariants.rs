//! What must hold for any model and any request.

use onnx_prune::error::Error;
use onnx_prune::flat::flatten;
use onnx_prune::graph::Graph;
use onnx_prune::onnx::{self, Model};
use onnx_prune::prune::{Options, Traced, analyse, analyse_with, prune};
use onnx_prune::recover::Recover;
use onnx_prune::report::{dot, inspect_terminal, json, terminal};
use onnx_prune::{inspect, plan, rewrite};

/// An error that says that the tool, not its input, is wrong.
pub fn is_finding(e: &Error) -> bool {
    matches!(e, Error::Internal(_) | Error::Verify { .. } | Error::Runtime { .. })
}

/// Inspects, and draws what was found.
pub fn look(model: &Model) {
    match inspect::inspect([model]) {
        Ok(i) => {
            let text = inspect_terminal::inspect(&i, 100);
            assert!(!text.is_empty());
            json::to_string(&i).unwrap_or_else(|e| panic!("the inspection as JSON: {e}"));
            i.models.iter().for_each(|m| drop(dot::digraph(m)));
        }
        Err(e) => assert!(!is_finding(&e), "inspect: {e}"),
    }
}

/// Prunes and checks the result against the plan that was made.
pub fn run(model: &Model, options: &Options) {
    let Ok(flat) = flatten(model) else { return };
    let Ok(graph) = Graph::new(&flat) else { return };
    let t = match analyse(&graph) {
        Ok(t) => t,
        Err(e) => return assert!(!is_finding(&e), "analysis: {e}"),
    };
    let same = rewrite::rewrite(&t.analysis, &t.trace, &[]).unwrap_or_else(|e| panic!("nothing removed: {e}"));
    assert!(same_proto(&same, model), "removing nothing changed the model");

    let done = match prune(model, options, &|_| ()) {
        Ok(done) => done,
        Err(e) => return assert!(!is_finding(&e) && !matches!(e, Error::Graph { .. }), "{e}"),
    };
    drop((terminal::prune(&done.report, 80), json::to_string(&done.report)));
    // The plan says how the channels were traced: whole groups, say.
    let t = analyse_with(&graph, &done.plan.policy).unwrap_or_else(|e| panic!("only the first analysis passes: {e}"));
    let ch = &t.trace.channels;
    let read = plan::from_file(ch, &done.plan).unwrap_or_else(|e| panic!("the plan does not fit its own model: {e}"));
    assert_eq!(read.iter().map(Vec::len).sum::<usize>(), done.report.channels_removed, "the plan read back");
    let removed = plan::removed_indices(ch, &read);
    rewrite::mask(&t.analysis, &t.trace, &removed).unwrap_or_else(|e| panic!("mask: {e}"));
    let Some(pruned) = &done.model else { return };
    structure(&t, &removed, pruned, options.recover == Recover::None);

    let bytes = pruned.to_bytes().unwrap_or_else(|e| panic!("to bytes: {e}"));
    if options.seed % 4 != 0 {
        return;
    }
    let again = prune(model, options, &|_| ()).unwrap_or_else(|e| panic!("only the first run passes: {e}"));
    let second = again.model.and_then(|m| m.to_bytes().ok());
    assert!(second.as_ref() == Some(&bytes), "the second run gives other bytes");
    let back = onnx::from_bytes(bytes, "back.onnx");
    // What was made in memory may lack what a file must have.
    if let Ok(back) = back {
        assert!(same_proto(&back, pruned), "the pruned model reads back otherwise");
    }
}

fn same_proto(a: &Model, b: &Model) -> bool {
    // Through bytes, as NaN differs from itself.
    a.proto == b.proto || a.to_bytes().ok() == b.to_bytes().ok()
}

/// Every tensor whose shape is known again has lost what the plan said.
pub fn structure(t: &Traced, removed: &[Vec<usize>], pruned: &Model, plain: bool) {
    let flat = flatten(pruned).unwrap_or_else(|e| panic!("the pruned model: {e}"));
    let graph = Graph::new(&flat).unwrap_or_else(|e| panic!("the pruned model: {e}"));
    let again = analyse(&graph).unwrap_or_else(|e| panic!("the pruned model: {e}"));
    if t.analysis.contradiction().is_none() && plain {
        assert_eq!(again.analysis.contradiction(), None, "only the pruned model contradicts itself");
    }
    let (a, ch) = (&t.analysis, &t.trace.channels);
    for tensor in &ch.tensors {
        // A constant keeps its name for some of its readers only.
        let name = &a.graph.value(tensor.value).name;
        if tensor.source.is_some() && tensor.key != *name || a.dims(tensor.value).is_none() {
            continue;
        }
        let mut expected = tensor.dims.clone();
        for (d, axis) in expected.iter_mut().zip(&tensor.axes) {
            let Some(id) = axis else { continue };
            let fold = ch.axis(*id).fold.max(1);
            *d =
                d.checked_sub(removed[id.0 as usize].len() / fold).unwrap_or_else(|| panic!("{name:?} loses too much"));
        }
        let constant = tensor.source.and_then(|s| a.graph.constant(s));
        if constant.is_some_and(|c| !onnx_prune::onnx::tensor::is_float(c.data_type())) {
            continue;
        }
        // The flat name of what is inside an unnamed node counts nodes, of which there may be fewer now.
        let Some(v) = graph.find(name).filter(|_| !name.contains('#')) else { continue };
        let known = &again.analysis.lanes[0].shapes[v.0 as usize];
        if let Some(got) = known {
            assert_eq!(*got, expected, "sizes of {name:?} after pruning");
        } else if plain {
            panic!("the shape of {name:?} is known before pruning only");
        }
    }
}
