use super::*;
use crate::runtime::Data;

fn feed(dims: &[usize], values: &[f32]) -> Feed {
    vec![("y".into(), Array { dims: dims.to_vec(), data: Data::F32(values.to_vec()) })]
}

fn tally(metric: Metric, a: &Feed, b: &Feed, labels: Option<&[i64]>) -> Tally {
    let mut t = Tally::new(metric, Where::default());
    t.add(a, b, labels).unwrap();
    t
}

#[test]
fn classes_against_labels() {
    let a = feed(&[2, 6], &[0.1, 0.5, 0.2, 0.0, 0.3, 0.4, 9.0, 8.0, 7.0, 6.0, 5.0, 4.0]);
    assert_eq!(tally(Metric::Top1, &a, &a, Some(&[1, 1])).samples(), [1.0, 0.0]);
    assert_eq!(tally(Metric::Top5, &a, &a, Some(&[3, 4])).samples(), [0.0, 1.0]);
    let mut t = Tally::new(Metric::Top1, Where::default());
    assert!(t.add(&a, &a, None).unwrap_err().to_string().contains("needs labels"));
    assert!(t.add(&a, &a, Some(&[0, 6])).unwrap_err().to_string().contains("6 classes"));
    assert!(t.add(&a, &a, Some(&[0])).is_err());
    // The original does not matter.
    let b = feed(&[2, 6], &[1.0; 12]);
    assert_eq!(tally(Metric::Top1, &a, &b, Some(&[0, 1])).score(), 0.5);
}

#[test]
fn agreement_over_positions() {
    // [1, 2 classes, 3 positions] with the classes in the middle of four axes.
    let a = feed(&[1, 2, 3, 1], &[1.0, 0.0, 1.0, 0.0, 1.0, 0.0]);
    let b = feed(&[1, 2, 3, 1], &[1.0, 1.0, 1.0, 0.0, 0.0, 0.0]);
    assert!((tally(Metric::Agreement, &a, &b, None).score() - 2.0 / 3.0).abs() < 1e-12);
    // Class 0: 2 of 3 positions, class 1: 0 of 1.
    let iou = tally(Metric::Iou, &a, &b, None);
    assert_eq!(iou.per_class(), [Some(2.0 / 3.0), Some(0.0)]);
    assert!((iou.score() - 1.0 / 3.0).abs() < 1e-12);
    assert!((iou.drop(1.0) - 200.0 / 3.0).abs() < 1e-9);
    // Sequences have their classes last.
    let a = feed(&[1, 2, 3], &[1.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
    let b = feed(&[1, 2, 3], &[0.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
    assert_eq!(tally(Metric::Agreement, &a, &b, None).score(), 0.5);
}

#[test]
fn a_single_score_is_a_yes_or_a_no() {
    let a = feed(&[1, 1, 2, 2], &[0.9, 0.1, 0.8, 0.2]);
    let b = feed(&[1, 1, 2, 2], &[0.7, 0.2, 0.4, 0.6]);
    assert_eq!(tally(Metric::Agreement, &a, &b, None).score(), 0.5);
    let iou = tally(Metric::Iou, &a, &b, None);
    assert_eq!(iou.per_class(), [None, Some(1.0 / 3.0)]);
    assert!(iou.says_nothing().is_none());
    let none = feed(&[1, 1, 1, 1], &[0.0]);
    assert!(tally(Metric::Agreement, &none, &none, None).says_nothing().is_some());
    assert!(tally(Metric::Mse, &none, &none, None).says_nothing().is_none());
    assert_eq!(tally(Metric::Iou, &none, &none, None).score(), 1.0);
}

#[test]
fn values_against_values() {
    let a = feed(&[2, 2], &[1.0, 0.0, 0.0, 2.0]);
    let b = feed(&[2, 2], &[1.0, 1.0, 0.0, 1.0]);
    let cosine = tally(Metric::Cosine, &a, &b, None);
    assert!((cosine.score() - (0.5_f64.sqrt() + 1.0) / 2.0).abs() < 1e-12);
    let mse = tally(Metric::Mse, &a, &b, None);
    assert_eq!(mse.samples(), [0.5, 0.5]);
    // Variance of 1, 0, 0, 2 is 11/16.
    assert!((mse.drop(0.0) - 50.0 * 16.0 / 11.0).abs() < 1e-9);
    let psnr = tally(Metric::Psnr, &a, &b, None);
    assert!((psnr.score() - 10.0 * 8.0_f64.log10()).abs() < 1e-12);
    assert_eq!(tally(Metric::Psnr, &a, &a, None).score(), MOST_PSNR);
    assert_eq!(tally(Metric::Psnr, &a, &a, None).drop(0.0), 0.0);
}

#[test]
fn what_is_no_number_never_agrees() {
    let a = feed(&[1, 2], &[1.0, 0.0]);
    let b = feed(&[1, 2], &[f32::NAN, f32::NAN]);
    assert_eq!(tally(Metric::Agreement, &a, &b, None).score(), 0.0);
    assert_eq!(tally(Metric::Agreement, &b, &b, None).score(), 0.0);
    assert_eq!(tally(Metric::Top1, &a, &b, Some(&[0])).score(), 0.0);
    assert!(tally(Metric::Mse, &a, &b, None).drop(0.0).is_nan());
}

#[test]
fn what_cannot_be_measured_is_said() {
    let mut t = Tally::new(Metric::Agreement, Where::default());
    let flat = feed(&[3], &[1.0, 2.0, 3.0]);
    assert!(t.add(&flat, &flat, None).unwrap_err().to_string().contains("\"y\" [3]"));
    let a = feed(&[1, 2], &[1.0, 0.0]);
    let longer = feed(&[2, 2], &[1.0, 0.0, 1.0, 0.0]);
    assert!(t.add(&a, &longer, None).unwrap_err().to_string().contains("--eval-command"));
    let mut t = Tally::new(Metric::Mse, Where { output: Some("z".into()), class_axis: None });
    assert!(t.add(&a, &a, None).unwrap_err().to_string().contains("no output \"z\""));
}
