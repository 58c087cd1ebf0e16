//! The plan file: round trips on random models, and what it refuses.

use super::tests::{Builder, random};
use super::*;
use crate::channels::Pin;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn refused(ch: &Channels, file: &PlanFile) -> String {
    match from_file(ch, file) {
        Err(Error::Plan(text)) => text,
        other => panic!("{other:?}"),
    }
}

/// A plan with this text for `tensors`.
fn plan(tensors: &str) -> PlanFile {
    serde_json::from_str(&format!("{{\"schema\": 1, \"tensors\": {tensors}}}")).unwrap()
}

#[test]
fn round_trips() {
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..200 {
        let (ch, scores) = random(&mut rng);
        let limits = Limits { max_layer_ratio: 1.0, ..Limits::default() };
        let d = decide(&ch, &scores, &Budget::Ratio(rng.random_range(0.0..1.0)), None, &limits).unwrap();
        let file = to_file(&ch, &d.removed, "ab", "none", "ratio");
        let path = folder.path().join("plan.json");
        save(&path, &file).unwrap();
        let read = load(&path).unwrap();
        assert_eq!(read, file);
        assert_eq!(from_file(&ch, &read).unwrap(), d.removed);
        assert!(file.tensors.keys().all(|k| !k.starts_with('y')), "constants only");
        assert!(file.tensors.values().all(|axes| !axes.is_empty() && axes.values().all(|a| !a.is_empty())));
    }
}

#[test]
fn grouped_lists_and_whole_convolution_groups() {
    let mut b = Builder::default();
    b.block(&[6], 2, 1, true); // two cells of three, and a depthwise convolution
    let removed = vec![vec![0, 5]];
    let file = to_file(&b.ch, &removed, "", "none", "");
    let lists = AxisRemoval::Grouped(vec![vec![0], vec![2]]);
    assert_eq!(file.tensors["g4"]["1"], lists);
    assert_eq!(file.tensors["d0"].keys().collect::<Vec<_>>(), ["0"], "the depthwise groups go whole, with their rows");
    assert_eq!(file.tensors["w0"]["0"], AxisRemoval::Flat(vec![0, 5]));
    assert_eq!(from_file(&b.ch, &file).unwrap(), removed);

    let with = |lists| {
        let mut file = file.clone();
        file.tensors.get_mut("g4").unwrap().insert("1".to_owned(), AxisRemoval::Grouped(lists));
        file
    };
    let text = refused(&b.ch, &with(vec![vec![0], vec![1, 2]]));
    assert!(text.contains("lose 1 and 2 indices"), "{text}");
    let text = refused(&b.ch, &with(vec![vec![0]]));
    assert!(text.contains("lists 1 convolution groups, the model has 2"), "{text}");
    let text = refused(&b.ch, &with(vec![vec![0], vec![3]]));
    assert!(text.contains("index 3 is out of range for axis 1 of \"g4\""), "{text}");
    let text = refused(&b.ch, &with(vec![vec![0], vec![1]]));
    assert!(text.contains("partly removed") && text.contains("of convolution group 1"), "{text}");
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut b = Builder::default();
    b.block(&[4], 1, 1, false);
    b.block(&[4, 4], 2, 1, false);
    let pin = Pin {
        layer: "conv0".to_owned(),
        tensor: "w0".to_owned(),
        axis: 1,
        pinned: 3,
        len: 3,
        node: "x".to_owned(),
        op: "input".to_owned(),
        reason: "graph input".to_owned(),
    };
    b.ch.pins.push(pin);
    let all = |lists: &str| {
        let entry = |k: &str| format!("\"{k}\": {{\"1\": {lists}}}");
        format!("{{\"w0\": {{\"0\": {lists}}}, \"b0\": {{\"0\": {lists}}}, {}, {}}}", entry("w1"), entry("w2"))
    };
    let good = plan(&all("[3, 1]"));
    assert_eq!(from_file(&b.ch, &good).unwrap(), [vec![1, 3], vec![], vec![]]);
    for (tensors, needle) in [
        ("{\"no\": {\"0\": [1]}}", "no constant tensor \"no\""),
        ("{\"y0\": {\"0\": [1]}}", "no constant tensor \"y0\""),
        ("{\"w0\": {\"7\": [1]}}", "no axis \"7\""),
        ("{\"w0\": {\"x\": [1]}}", "no axis \"x\""),
        ("{\"w0\": {\"2\": [1]}}", "nothing can be removed from axis 2"),
        ("{\"w0\": {\"0\": [4]}}", "index 4 is out of range for axis 0 of \"w0\", which has 4"),
        ("{\"w0\": {\"0\": [2]}}", "index 2 of axis 0 of \"w0\" is removed, index 2 of axis 0 of \"b0\" is kept"),
        (
            "{\"w0\": {\"1\": [2]}}",
            "index 2 of axis 1 of \"w0\" cannot be removed: pinned by input \"x\" (graph input)",
        ),
        (&all("[0, 1, 2, 3]"), "loses all of its 4 channels"),
    ] {
        let text = refused(&b.ch, &plan(tensors));
        assert!(text.contains(needle), "{text}");
    }
    // The two coupled groups lose different counts.
    let file = to_file(&b.ch, &[vec![], vec![0], vec![]], "", "", "");
    let text = refused(&b.ch, &file);
    assert!(text.contains("loses 1") && text.contains("loses 0"), "{text}");
}

#[test]
fn other_schemas_and_other_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plan.json");
    for (text, needle) in [
        ("{\"schema\": 2, \"new\": 1}", "schema 2"),
        ("{\"tensors\": {}}", "schema"),
        ("{\"schema\": 1, \"tensors\": {\"w\": {\"0\": [-1]}}}", "not a plan file"),
        ("channels", "not a plan file"),
    ] {
        std::fs::write(&path, text).unwrap();
        let error = load(&path).unwrap_err().to_string();
        assert!(error.contains(needle), "{error}");
    }
    assert!(load(folder.path().join("none")).unwrap_err().to_string().contains("cannot read the plan"));
    let future = PlanFile { schema: 9, ..plan("{}") };
    assert!(refused(&Channels::default(), &future).contains("schema 9"));
}
