//! Holds the pruned model against its masked twin: the definition of correct.

mod unrounded;
mod widen;

use crate::error::{Error, Result};
use crate::flat;
use crate::onnx::Model;
use crate::onnx::proto::ValueInfoProto;
use crate::report::VerifyReport;
use crate::runtime::{self, Array};

/// Largest accepted difference, relative to the output's largest magnitude (at least 1).
pub const TOLERANCE: f64 = 2e-4;

/// Sizes that dynamic input dimensions take: a batch of 2, small positions first. Networks with many strides need more.
const SIZES: &[usize] = &[32, 64, 96, 224];

/// The graph's inputs and outputs must not have changed.
///
/// # Errors
/// [`Error::Internal`] that names the first difference.
pub fn check_interface(original: &Model, pruned: &Model) -> Result<()> {
    let io = |m: &Model| -> (Vec<ValueInfoProto>, Vec<ValueInfoProto>) {
        let Some(g) = &m.proto.graph else { return Default::default() };
        let constant = |n: &str| g.initializer.iter().any(|t| t.name() == n);
        (g.input.iter().filter(|v| !constant(v.name())).cloned().collect(), g.output.clone())
    };
    let ((ai, ao), (bi, bo)) = (io(original), io(pruned));
    for (a, b) in [(ai, bi), (ao, bo)] {
        if a != b {
            let name = a.iter().zip(&b).find(|(x, y)| x != y).map_or("", |(x, _)| x.name());
            return Err(Error::Internal(format!("graph input or output {name:?} would change")));
        }
    }
    Ok(())
}

/// Compares the pruned model with its twin on seeded random input.
///
/// With `exact` false (statistics were approximated) a difference is reported and not judged.
///
/// A model that the runtime cannot run is reported, not failed; a difference is an error.
///
/// # Errors
/// [`Error::Verify`] when an output differs, [`Error::Internal`] when only the pruned model cannot run.
pub fn compare(twin: &Model, pruned: &Model, seed: u64, exact: bool) -> Result<VerifyReport> {
    let report = compared(twin, pruned, seed, exact)?;
    tracing::info!(runtime = report.runtime, max_rel_diff = report.max_rel_diff, note = report.note, "verified");
    Ok(report)
}

fn compared(twin: &Model, pruned: &Model, seed: u64, exact: bool) -> Result<VerifyReport> {
    let Some(rt) = runtime::embedded() else {
        return Ok(not_compared("none", "this build has no embedded runtime; only the structure was checked"));
    };
    // Runtimes need not know functions; what a call became is compared all the same.
    let (twin, pruned) = (twin.rules().define(twin), pruned.rules().define(pruned));
    let (twin, pruned) = (&*flat::inline(&twin)?, &*flat::inline(&pruned)?);
    if widen::has_other_floats(twin) {
        let mut report = compare_steps(rt, &widen::widen(twin)?, &widen::widen(pruned)?, seed, exact)?;
        if report.max_rel_diff.is_some() {
            report.note.push_str(", both computed in float32");
        }
        return Ok(report);
    }
    compare_steps(rt, twin, pruned, seed, exact)
}

/// Inputs that are tried where rounding may be all that differs.
const TRIES: u64 = 4;

/// Compares. A model that rounds to quantised values may turn a difference in the last bit, which sums of fewer terms can
/// have, into a whole step; a mistake of ours shows without the rounding too, and on every input.
fn compare_steps(
    rt: &dyn runtime::Runtime,
    twin: &Model,
    pruned: &Model,
    seed: u64,
    exact: bool,
) -> Result<VerifyReport> {
    let found = compare_float32(rt, twin, pruned, seed, exact);
    if !matches!(found, Err(Error::Verify { .. })) || !unrounded::rounds(twin) {
        return found;
    }
    if let (Some(twin), Some(pruned)) = (unrounded::unrounded(twin), unrounded::unrounded(pruned))
        && let Ok(mut report) = compare_float32(rt, &twin, &pruned, seed, exact)
        && report.max_rel_diff.is_some()
    {
        report.note.push_str(", both computed without rounding activations to quantised values");
        return Ok(report);
    }
    for other in 1..=TRIES {
        if let Ok(mut report) = compare_float32(rt, twin, pruned, seed.wrapping_add(other), exact)
            && report.max_rel_diff.is_some()
        {
            report.note.push_str("; on other input a value was rounded to the next quantised one");
            return Ok(report);
        }
    }
    found
}

/// Inputs that are tried for one on which the network does not amplify rounding.
const STABLE_TRIES: u64 = 12;

/// Compares, and judges a difference only where it means something: a network that turns a change in the last bits of its
/// input into a visible one of its output does the same with sums of fewer terms. On an input on which the masked
/// original is stable, a difference is an error.
fn compare_float32(
    rt: &dyn runtime::Runtime,
    twin: &Model,
    pruned: &Model,
    seed: u64,
    exact: bool,
) -> Result<VerifyReport> {
    let found = compare_once(rt, twin, pruned, seed, exact);
    if !matches!(found, Err(Error::Verify { .. })) {
        return found;
    }
    let mut least = f64::INFINITY;
    for k in 0..STABLE_TRIES {
        let seed = seed.wrapping_add(k.wrapping_mul(0x9e37_79b9));
        // What cannot be told counts as stable: then the difference stands.
        let nudged = sensitivity(rt, twin, seed).unwrap_or(0.0);
        if nudged > TOLERANCE / 20.0 {
            least = least.min(nudged);
            continue;
        }
        if k == 0 {
            return found;
        }
        let mut report = compare_once(rt, twin, pruned, seed, exact)?;
        report.note.push_str("; on other input the network itself amplifies rounding");
        return Ok(report);
    }
    let why = format!(
        "the network amplifies rounding on all {STABLE_TRIES} random inputs (changing the last bits of the input changes the \
         masked original's output by {least:.1e} or more), so that a difference would say nothing; only the structure was checked"
    );
    Ok(not_compared(rt.name(), &why))
}

/// How much the model's outputs change when its float inputs change in their last bits; `None` when that is not known.
fn sensitivity(rt: &dyn runtime::Runtime, model: &Model, seed: u64) -> Option<f64> {
    let mut session = rt.load(model).ok()?;
    for &size in SIZES {
        let plain = runtime::random_inputs(model, seed, &|_, axis| if axis == 0 { 2 } else { size }).ok()?;
        let Ok(before) = session.run(&plain) else { continue };
        let mut nudged = plain;
        for (_, array) in &mut nudged {
            if let runtime::Data::F32(values) = &mut array.data {
                let sign = |i: usize| if i.is_multiple_of(2) { 1.0 } else { -1.0 };
                values.iter_mut().enumerate().for_each(|(i, v)| *v *= 1.0 + 2.0 * f32::EPSILON * sign(i));
            }
        }
        let after = session.run(&nudged).ok()?;
        let changes =
            before.iter().zip(&after).filter_map(|((_, a), (_, b))| runtime::max_rel_diff(b, a).ok().flatten());
        return Some(changes.fold(0.0, f64::max));
    }
    None
}

fn compare_once(
    rt: &dyn runtime::Runtime,
    twin: &Model,
    pruned: &Model,
    seed: u64,
    exact: bool,
) -> Result<VerifyReport> {
    let name = format!("{} {}", rt.name(), rt.version());
    let mut session = match rt.load(twin) {
        Ok(s) => s,
        Err(e) => return Ok(not_compared(rt.name(), &format!("{e}; only the structure was checked"))),
    };
    let mut reason = String::new();
    for &size in SIZES {
        let inputs = match runtime::random_inputs(twin, seed, &|_, axis| if axis == 0 { 2 } else { size }) {
            Ok(i) => i,
            Err(e) => return Ok(not_compared(rt.name(), &format!("{e}; only the structure was checked"))),
        };
        let expected = match session.run(&inputs) {
            Ok(o) => o,
            Err(e) => {
                reason = e.to_string();
                let dynamic = runtime::input_specs(twin).iter().any(|s| s.dims.iter().skip(1).any(Option::is_none));
                if dynamic { continue } else { break }
            }
        };
        let got = rt
            .load(pruned)
            .and_then(|mut s| s.run(&inputs))
            .map_err(|e| Error::Internal(format!("the masked original runs and the pruned model does not: {e}")))?;
        return measure(&name, &expected, &got, exact);
    }
    Ok(not_compared(rt.name(), &format!("{reason}; only the structure was checked")))
}

/// The largest difference over all outputs that are finite in the twin.
fn measure(runtime: &str, expected: &[(String, Array)], got: &[(String, Array)], exact: bool) -> Result<VerifyReport> {
    let shape = |o: &[(String, Array)]| o.iter().map(|(n, a)| (n.clone(), a.dims.clone())).collect::<Vec<_>>();
    if shape(expected) != shape(got) {
        let (want, got) = (shape(expected), shape(got));
        return Err(Error::Internal(format!("the pruned model's outputs are {got:?}, expected {want:?}")));
    }
    let mut worst: Option<f64> = None;
    let mut infinite = Vec::new();
    for ((output, want), (_, got)) in expected.iter().zip(got) {
        match runtime::max_rel_diff(got, want)? {
            None => infinite.push(format!("{output:?}")),
            Some(difference) if difference.is_nan() || (exact && difference > TOLERANCE) => {
                return Err(Error::Verify { output: output.clone(), difference, tolerance: TOLERANCE });
            }
            Some(difference) => worst = Some(worst.unwrap_or(0.0).max(difference)),
        }
    }
    let infinite = infinite.join(", ");
    if worst.is_none() {
        return Ok(not_compared(runtime, &format!("output {infinite} is not finite on random input")));
    }
    let mut note = if exact {
        "outputs equal the masked original's on seeded random input".to_owned()
    } else {
        "NOT EXACT, as --norm approximate allows: the difference from the masked original is on seeded random input"
            .into()
    };
    if !infinite.is_empty() {
        note.push_str(&format!(", but for {infinite}, not finite there"));
    }
    Ok(VerifyReport { runtime: runtime.into(), max_rel_diff: worst, note })
}

fn not_compared(runtime: &str, note: &str) -> VerifyReport {
    VerifyReport { runtime: runtime.into(), max_rel_diff: None, note: format!("numbers were not compared: {note}") }
}
