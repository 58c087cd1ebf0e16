//! What a plan leaves of each tensor: for whoever compares tensors of the pruned model with those of the original.

use super::{analyse_with, fold_weights};
use crate::error::{Error, Result};
use crate::flat::flatten;
use crate::graph::Graph;
use crate::onnx::Model;
use crate::plan::{self, PlanFile};
use std::collections::BTreeMap;

/// By name of a computed tensor that loses channels on one axis: the axis, and the indices that are left of it.
pub type Kept = BTreeMap<String, (usize, Vec<usize>)>;

/// Applies a plan to the shapes of the model that it was made for.
///
/// # Errors
/// [`Error::Plan`] when the plan does not fit the model.
pub fn kept(model: &Model, file: &PlanFile) -> Result<Kept> {
    if !file.model_sha256.is_empty() && file.model_sha256 != model.sha256() {
        return Err(Error::Plan(format!(
            "it was made for a model with SHA-256 {}, {} has {}",
            file.model_sha256,
            model.path.display(),
            model.sha256()
        )));
    }
    let flat = flatten(model)?;
    let folded = if file.policy.fold_weights {
        let graph = Graph::new(&flat)?;
        fold_weights::fold_weights(&super::analyse(&graph)?)?
    } else {
        None
    };
    let model: &Model = folded.as_ref().unwrap_or(&flat);
    let graph = Graph::new(model)?;
    let t = analyse_with(&graph, &file.policy)?;
    let ch = &t.trace.channels;
    let removed = plan::removed_indices(ch, &plan::from_file(ch, file)?);
    let mut all = Kept::new();
    for tensor in ch.tensors.iter().filter(|t| t.source.is_none()) {
        let cut = tensor.axes.iter().enumerate().filter_map(|(a, id)| {
            let id = (*id)?;
            let gone = removed.get(id.0 as usize).filter(|g| !g.is_empty())?;
            Some((a, (0..ch.axis(id).len).filter(|i| gone.binary_search(i).is_err()).collect::<Vec<_>>()))
        });
        let cut: Vec<(usize, Vec<usize>)> = cut.collect();
        if let [one] = cut.as_slice() {
            all.insert(graph.value(tensor.value).name.clone(), one.clone());
        }
    }
    Ok(all)
}

/// What two cuts one after the other leave, in the numbering before the first.
///
/// # Errors
/// [`Error::Internal`] when the second names what the first does not leave.
pub fn then(first: &Kept, second: &Kept) -> Result<Kept> {
    let mut all = first.clone();
    for (name, (axis, keep)) in second {
        let Some((before, kept)) = first.get(name) else {
            all.insert(name.clone(), (*axis, keep.clone()));
            continue;
        };
        let through: Option<Vec<usize>> = keep.iter().map(|&i| kept.get(i).copied()).collect();
        match through.filter(|_| axis == before) {
            Some(left) => all.insert(name.clone(), (*axis, left)),
            None => return Err(Error::Internal(format!("two cuts of {name:?} do not fit together"))),
        };
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_cuts_are_one() {
        let cut = |name: &str, keep: &[usize]| Kept::from([(name.to_owned(), (1, keep.to_vec()))]);
        let both = then(&cut("y", &[0, 2, 3, 7]), &cut("y", &[1, 3])).unwrap();
        assert_eq!(both, cut("y", &[2, 7]));
        let apart = then(&cut("y", &[0]), &cut("z", &[1])).unwrap();
        assert_eq!(apart.len(), 2);
        assert!(then(&cut("y", &[0]), &cut("y", &[1])).is_err());
    }
}
