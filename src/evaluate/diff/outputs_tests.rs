use super::*;
use crate::runtime::Data;

fn feed(dims: &[usize], values: &[f32]) -> Feed {
    vec![("y".into(), Array { dims: dims.to_vec(), data: Data::F32(values.to_vec()) })]
}

fn diff(a: &Feed, b: &Feed, samples: usize) -> OutputDiff {
    let mut t = OutputTally::all(a, &Where::default());
    t[0].add(a, b, samples);
    t[0].finish()
}

#[test]
fn figures_by_hand() {
    let (a, b) = (feed(&[2, 2], &[1.0, 0.0, 0.0, 2.0]), feed(&[2, 2], &[1.0, 1.0, 0.0, 2.0]));
    let d = diff(&a, &b, 2);
    assert_eq!((d.mse, d.max_delta, d.equal), (0.25, 1.0, 0.75));
    assert!((d.psnr - 10.0 * 16.0_f64.log10()).abs() < 1e-12);
    assert!((d.relative_mse.unwrap() - 0.25 / (11.0 / 16.0)).abs() < 1e-12);
    assert_eq!((d.error.min, d.error.max, d.error.median), (0.0, 0.5_f64.sqrt(), 0.5_f64.sqrt() / 2.0));
    let p = 1.0 / (1.0 + (-1.0_f64).exp());
    let kl = (p * (p / 0.5).ln() + (1.0 - p) * ((1.0 - p) / 0.5).ln()) / 2.0;
    assert!((d.kl.unwrap().mean - kl).abs() < 1e-12 && d.kl.unwrap().softmax);
    let same = diff(&a, &a, 2);
    assert_eq!((same.mse, same.psnr, same.cosine, same.kl.unwrap().mean), (0.0, MOST_PSNR, 1.0, 0.0));
}

#[test]
fn probabilities_are_taken_as_they_are() {
    let d = diff(&feed(&[1, 2], &[0.5, 0.5]), &feed(&[1, 2], &[0.25, 0.75]), 1);
    assert!(!d.kl.unwrap().softmax);
    assert!((d.kl.unwrap().mean - (0.5 * 2.0_f64.ln() + 0.5 * (2.0_f64 / 3.0).ln())).abs() < 1e-7);
    // Never infinite.
    assert!(diff(&feed(&[1, 2], &[0.5, 0.5]), &feed(&[1, 2], &[0.0, 1.0]), 1).kl.unwrap().mean.is_finite());
}

#[test]
fn other_sizes_and_odd_numbers_are_said() {
    let mut t = OutputTally::all(&feed(&[1, 2], &[0.0, 1.0]), &Where::default());
    t[0].add(&feed(&[1, 2], &[0.0, 1.0]), &feed(&[1, 3], &[0.0; 3]), 1);
    assert!(t[0].note().unwrap().contains("[1, 3]") && !t[0].is_identical());
    let mut t = OutputTally::all(&feed(&[1, 2], &[0.0, 1.0]), &Where::default());
    t[0].add(&feed(&[1, 2], &[0.0, 1.0]), &feed(&[1, 2], &[f32::NAN, 1.0]), 1);
    assert!(t[0].note().unwrap().contains("not finite") && t[0].finish().max_delta.is_nan());
    assert!(t[0].finish().mse.is_nan() && t[0].finish().psnr.is_nan());
}
