use super::*;
use crate::runtime::embedded;
use std::sync::atomic::{AtomicUsize, Ordering};

fn conv() -> LayerShape {
    let ints = |name: &str, v: &[i64]| AttributeProto {
        name: Some(name.into()),
        r#type: Some(7),
        ints: v.to_vec(),
        ..AttributeProto::default()
    };
    LayerShape {
        op: "Conv".into(),
        attributes: vec![ints("pads", &[1, 1, 1, 1]), ints("kernel_shape", &[3, 3])],
        opset: 17,
        input: vec![1, 8, 10, 10],
        weight: vec![16, 8, 3, 3],
        bias: 16,
    }
}

#[test]
fn the_key_says_all_that_time_depends_on() {
    let a = conv();
    assert_eq!(a.key(), "Conv 16x8x3x3 on 1x8x10x10 +bias kernel_shape=3,3 pads=1,1,1,1");
    let mut turned = a.clone();
    turned.attributes.reverse();
    assert_eq!(turned.key(), a.key());
    assert_ne!(LayerShape { bias: 0, ..a.clone() }.key(), a.key());
    assert_ne!(LayerShape { input: vec![2, 8, 10, 10], ..a.clone() }.key(), a.key());
}

/// Counts how often it is asked.
struct Counting(AtomicUsize);

impl Runtime for Counting {
    fn name(&self) -> &'static str {
        "counting"
    }
    fn version(&self) -> String {
        "1".into()
    }
    fn load(&self, model: &Model) -> Result<Box<dyn crate::runtime::Session>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        embedded().unwrap().load(model)
    }
}

#[test]
fn what_was_measured_is_known_to_the_next_run_on_the_same_place_only() {
    if embedded().is_none() {
        eprintln!("SKIPPED: no embedded runtime in this build");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let runtime = Arc::new(Counting(AtomicUsize::new(0)));
    let place = Place::here(&*runtime, "cpu", 1);
    let timer = |place: &Place| LayerTimer::new(runtime.clone(), place.clone(), Some(folder.path()));
    let mut first = timer(&place);
    let ms = first.ms(&conv()).unwrap();
    assert!(ms > 0.0 && ms.is_finite());
    assert_eq!(first.ms(&conv()).unwrap(), ms);
    first.save().unwrap();
    assert_eq!((first.measured, runtime.0.load(Ordering::Relaxed)), (1, 1));

    let mut second = timer(&place);
    assert_eq!(second.ms(&conv()).unwrap(), ms);
    assert_eq!((second.measured, runtime.0.load(Ordering::Relaxed)), (0, 1));
    let mut elsewhere = timer(&Place { threads: 2, ..place.clone() });
    elsewhere.ms(&conv()).unwrap();
    assert_eq!(runtime.0.load(Ordering::Relaxed), 2);

    for entry in std::fs::read_dir(folder.path()).unwrap() {
        std::fs::write(entry.unwrap().path(), "{\"format\": 1").unwrap();
    }
    let mut broken = timer(&place);
    broken.ms(&conv()).unwrap();
    broken.save().unwrap();
    assert_eq!(timer(&place).known.len(), 1);
}

#[test]
fn a_layer_that_does_not_run_is_named() {
    if embedded().is_none() {
        eprintln!("SKIPPED: no embedded runtime in this build");
        return;
    }
    let runtime = Arc::new(Counting(AtomicUsize::new(0)));
    let place = Place::here(&*runtime, "cpu", 1);
    let wrong = LayerShape { weight: vec![16, 7, 3, 3], ..conv() };
    let text = LayerTimer::new(runtime, place, None).ms(&wrong).unwrap_err().to_string();
    assert!(text.contains("Conv 16x7x3x3 on 1x8x10x10"), "{text}");
}
