//! Whether the model that is written computes what was judged.

use super::step::{Graphs, names};
use crate::error::{Error, Result};
use crate::onnx::Model;
use crate::runtime::walk::Feed;
use crate::runtime::{Runtime, max_rel_diff};

/// Largest accepted difference, relative to the outputs' largest value (at least 1). A weight in the wrong place moves outputs by
/// as much as they are large; other kernels for constant weights, and TF32 on a graphics card, by less than this.
const TOLERANCE: f64 = 1e-2;

/// Runs the model and the evaluation graph with the same state on the same samples.
///
/// # Errors
/// [`Error::Internal`] when their outputs differ.
pub fn prove(graphs: &Graphs, folded: &Feed, model: &Model, samples: &Feed, runtime: &dyn Runtime) -> Result<()> {
    let mut session = runtime.load(&graphs.evaluate)?;
    let mut inputs: Feed = folded.iter().filter(|(n, _)| names::is_model(n)).cloned().collect();
    inputs.extend(samples.iter().cloned());
    let judged = session.run(&inputs)?;
    let data: Feed = samples.iter().filter(|(n, _)| n != names::WANTED).cloned().collect();
    let written = runtime.load(model)?.run(&data)?;
    for (name, found) in &written {
        let wanted = names::output(name);
        let Some((_, expected)) = judged.iter().find(|(n, _)| *n == wanted) else { continue };
        // The index of one of two equal values may be another.
        if found.data.is_integer() {
            continue;
        }
        // Nothing can be said of values that are not finite.
        let Some(difference) = max_rel_diff(found, expected)? else { continue };
        if difference > TOLERANCE {
            return Err(Error::Internal(format!(
                "output {name:?} of the trained model differs from what was judged in training by {difference:.3e} (relative; at \
                 most {TOLERANCE:.0e} is accepted)"
            )));
        }
    }
    Ok(())
}
