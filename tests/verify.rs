//! When a difference counts: always, unless the network itself makes one out of the last bits of its input.
#![cfg(feature = "tract")]

mod common;

use common::{A, Build};
use onnx_prune::error::Error;
use onnx_prune::onnx::Model;
use onnx_prune::verify::compare;

/// `sin(a·(w·x))`: with a large `a` every rounding error of the product shows.
fn network(amplify: f32, weight: f32) -> Model {
    let mut b = Build::new(1);
    (b.opset, b.dynamic) = (17, false);
    let x = b.input(&[2, 4]);
    let w = b.f(&[4, 1], &[weight, 0.7, -0.3, 0.9]);
    let y = b.op("MatMul", &[&x, &w], &[]);
    let a = b.f(&[1], &[amplify]);
    let y = b.op("Mul", &[&y, &a], &[]);
    let y = b.op("Sin", &[&y], &[]);
    let y = b.op("ReduceSum", &[&y], &[("keepdims", A::I(1))]);
    b.output(&y);
    b.model()
}

#[test]
fn a_difference_of_a_stable_network_is_an_error() {
    let found = compare(&network(1.0, 0.5), &network(1.0, 0.51), 0, true);
    assert!(matches!(found, Err(Error::Verify { .. })), "{found:?}");
    // Asked for, it is told and not judged.
    let told = compare(&network(1.0, 0.5), &network(1.0, 0.51), 0, false).unwrap();
    assert!(told.max_rel_diff.unwrap() > 1e-4 && told.note.contains("NOT EXACT"), "{told:?}");
}

#[test]
fn a_difference_of_a_network_that_amplifies_rounding_says_nothing() {
    let last_bit = f32::from_bits(0.5f32.to_bits() + 1);
    let report = compare(&network(1e6, 0.5), &network(1e6, last_bit), 0, true).unwrap();
    assert_eq!(report.max_rel_diff, None);
    assert!(report.note.contains("amplifies rounding"), "{report:?}");
}
