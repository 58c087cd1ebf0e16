//! Inputs that several models take alike.

use crate::error::{Error, Result};
use crate::onnx::Model;
use crate::onnx::proto::tensor_proto::DataType;
use crate::runtime::walk::Feed;
use crate::runtime::{InputSpec, input_specs, random_inputs};

/// What all the models take: an extent is open only where every model leaves it open.
///
/// # Errors
/// [`Error::Usage`] when two models take different inputs.
pub fn common_inputs(models: &[Model]) -> Result<Vec<InputSpec>> {
    let Some((first, others)) = models.split_first() else { return Ok(Vec::new()) };
    let mut common = input_specs(first);
    for other in others {
        let specs = input_specs(other);
        let differ = |expected: &str, found: &str| {
            Error::Usage(format!(
                "{} and {} do not take the same inputs, so they cannot be compared: {expected} against {found}; give models \
                 with the same inputs, or measure them one by one",
                first.path.display(),
                other.path.display()
            ))
        };
        let list = |specs: &[InputSpec]| specs.iter().map(shown).collect::<Vec<_>>().join(", ");
        if specs.len() != common.len() {
            return Err(differ(&list(&common), &list(&specs)));
        }
        for known in &mut common {
            let found = specs.iter().find(|s| s.name == known.name);
            let Some(found) = found else { return Err(differ(&shown(known), &list(&specs))) };
            let fits = known.dims.len() == found.dims.len()
                && known.elem_type == found.elem_type
                && known.dims.iter().zip(&found.dims).all(|(a, b)| a.is_none() || b.is_none() || a == b);
            if !fits {
                return Err(differ(&shown(known), &shown(found)));
            }
            for (a, b) in known.dims.iter_mut().zip(&found.dims) {
                *a = a.or(*b);
            }
        }
    }
    Ok(common)
}

/// `"x" of type FLOAT [?, 3, 32, 32]`
fn shown(spec: &InputSpec) -> String {
    let dims: Vec<String> = spec.dims.iter().map(|d| d.map_or("?".to_owned(), |d| d.to_string())).collect();
    let kind = DataType::try_from(spec.elem_type).map_or("unknown", |t| t.as_str_name());
    format!("{:?} of type {kind} [{}]", spec.name, dims.join(", "))
}

/// The batch that the inputs fix; `None` where an input leaves its first axis open.
pub fn fixed_batch(specs: &[InputSpec]) -> Option<usize> {
    let first: Vec<Option<usize>> = specs.iter().filter_map(|s| s.dims.first().copied()).collect();
    if first.contains(&None) { None } else { Some(first.first().copied().flatten().unwrap_or(1)) }
}

/// Whether an axis other than the first is open.
pub fn open_extents(specs: &[InputSpec]) -> bool {
    specs.iter().any(|s| s.dims.iter().skip(1).any(Option::is_none))
}

/// Seeded random values for all of them; `extent` for open axes other than the first.
///
/// # Errors
/// As [`random_inputs`].
pub fn random(model: &Model, specs: &[InputSpec], seed: u64, batch: usize, extent: usize) -> Result<Feed> {
    let size = |name: &str, axis: usize| {
        let known = specs.iter().find(|s| s.name == name).and_then(|s| s.dims.get(axis).copied().flatten());
        known.unwrap_or(if axis == 0 { batch } else { extent })
    };
    random_inputs(model, seed, &size)
}
