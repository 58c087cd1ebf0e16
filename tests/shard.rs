//! Measuring in parts: what is merged is what one run gives, byte for byte.
#![cfg(feature = "tract")]

mod build;

use build::run::{files, fixture, ok, refused, run, with_net};
use build::{in_memory, info, model, node};
use onnx_prune::data::{DataOptions, Dataset};
use onnx_prune::evaluate::diff::{Limits, Options, compare, observe};
use onnx_prune::evaluate::metric::{Metric, Where};
use onnx_prune::evaluate::shard::{Merged, Part, Shard, merge};
use onnx_prune::onnx::proto::{tensor_shape_proto::dimension::Value, type_proto};
use onnx_prune::onnx::{Model, SaveOptions, load, save};
use onnx_prune::report::json;
use onnx_prune::runtime::embedded;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::fs;
use tempfile::TempDir;

const DATA: &str = "--data d.npz --mean 0.2860 --std 0.3530 --runtime tract";

/// `net.onnx`, `small.onnx` pruned from it, `d.npz` with labels.
fn place() -> TempDir {
    let dir = with_net();
    fs::copy(fixture("fashion_test.npz"), dir.path().join("d.npz")).unwrap();
    ok(&dir, "net.onnx --target-macs 0.7 -o small.onnx");
    dir
}

fn text(dir: &TempDir, name: &str) -> String {
    String::from_utf8(files(dir)[name].clone()).unwrap()
}

/// The whole at once, and merged from `of` parts in a random order, each of which went through its file's text.
fn both(models: (&Model, &Model), data: &Dataset, options: &Options, of: usize, rng: &mut ChaCha8Rng) -> [String; 2] {
    let rt = embedded().unwrap();
    let whole = compare(models.0, models.1, data, rt, options, &|_| ());
    let mut parts = Vec::new();
    let mut samples = 0;
    for i in 1..=of {
        let shard = Shard::new(i, of).unwrap();
        let seen = observe(models, data, rt, options, shard, &|_| ()).unwrap();
        samples += seen.samples().0;
        let text = Part::diff(shard, models, data, seen).to_json().unwrap();
        parts.push((format!("part {i}"), serde_json::from_str::<Part>(&text).unwrap()));
    }
    assert_eq!(samples, data.len());
    parts.shuffle(rng);
    let merged = merge(parts);
    match (whole, merged) {
        (Ok(whole), Ok(Merged::Diff(merged))) => [json::to_string(&whole).unwrap(), json::to_string(&*merged).unwrap()],
        // Such as a limit on a figure that says nothing.
        (Err(a), Err(b)) => [a.to_string(), b.to_string()],
        (a, b) => panic!("{a:?}\n{b:?}"),
    }
}

#[test]
fn merged_is_whole_whatever_the_division() {
    let dir = place();
    let at = |name: &str| dir.path().join(name);
    let (original, pruned) = (load(&at("net.onnx")).unwrap(), load(&at("small.onnx")).unwrap());
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    for case in 0..14 {
        let samples = if case < 3 { case + 1 } else { rng.random_range(4..=70) };
        let options = DataOptions {
            samples: Some(samples),
            batch: Some(rng.random_range(1..=9)),
            seed: case as u64,
            ..Default::default()
        };
        let data = Dataset::open(&at("d.npz"), &original, &options).unwrap();
        let all =
            [Metric::Top1, Metric::Top5, Metric::Agreement, Metric::Cosine, Metric::Mse, Metric::Psnr, Metric::Iou];
        let metrics = (0..rng.random_range(0..=2)).map(|_| all[rng.random_range(0..all.len())]).collect();
        let limits = Limits { max_drop: Some(5.0).filter(|_| case % 2 == 0), min_agreement: None };
        let layer_samples = if case % 3 == 0 { rng.random_range(1..=40) } else { 0 };
        let options = Options { metrics, place: Where::default(), layer_samples, limits };
        let of = rng.random_range(1..=12);
        let [whole, merged] = both((&original, &pruned), &data, &options, of, &mut rng);
        assert_eq!(whole, merged, "case {case}: {samples} samples by {} in {of} parts", data.batch_size());
    }
}

/// The model with its batch fixed.
fn fixed(dir: &TempDir, from: &str, to: &str, batch: i64) {
    let model = load(&dir.path().join(from)).unwrap();
    let mut proto = model.proto.clone();
    let graph = proto.graph.as_mut().unwrap();
    for v in graph.input.iter_mut().chain(&mut graph.output) {
        let Some(type_proto::Value::TensorType(t)) = v.r#type.as_mut().unwrap().value.as_mut() else { panic!() };
        t.shape.as_mut().unwrap().dim[0].value = Some(Value::DimValue(batch));
    }
    graph.value_info.clear();
    save(&model.derive(proto), &dir.path().join(to), &SaveOptions::default()).unwrap();
}

#[test]
fn a_fixed_batch_is_cut_between_batches() {
    let dir = place();
    fixed(&dir, "net.onnx", "net4.onnx", 4);
    fixed(&dir, "small.onnx", "small4.onnx", 4);
    // 30 samples: seven batches, the last two samples are left out, and there are more parts than batches.
    let on = format!("diff net4.onnx small4.onnx --samples 30 --layer-samples 12 {DATA}");
    ok(&dir, &format!("{on} --report whole.json"));
    assert!(text(&dir, "whole.json").contains("last 2 of 30 samples are left out"));
    let names: Vec<String> = (1..=9).map(|i| format!("{i}.json")).collect();
    for (i, name) in names.iter().enumerate() {
        let said = ok(&dir, &format!("{on} --shard {}/9 --report {name}", i + 1));
        assert!(said.contains("of 28 samples") && !said.contains(" 2 of 28"), "{said}");
    }
    ok(&dir, &format!("merge {} --report merged.json", names.join(" ")));
    assert_eq!(text(&dir, "whole.json"), text(&dir, "merged.json"));
}

#[test]
fn what_is_no_number_joins_too() {
    let dir = TempDir::new().unwrap();
    let net = |ops: &[(&str, &str, &str)]| {
        let nodes = ops.iter().map(|(op, a, b)| node(op, &format!("make {b}"), &[a], &[b])).collect();
        in_memory(model(nodes, vec![], vec![info("x", &[-1, 3])], vec![info("y", &[-1, 3])]))
    };
    // Roots of negative numbers are none, exponentials of large ones infinite.
    let a = net(&[("Sqrt", "x", "r"), ("Exp", "r", "y")]);
    let b = net(&[("Abs", "x", "p"), ("Sqrt", "p", "r"), ("Exp", "r", "y")]);
    let values: Vec<u8> = (0..36).map(|i| ((i * 7 % 11) as f32 - 3.0) * 100.0).flat_map(f32::to_le_bytes).collect();
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (12, 3), }\n";
    let npy = [b"\x93NUMPY\x01\0", (header.len() as u16).to_le_bytes().as_slice(), header.as_bytes(), &values].concat();
    let path = dir.path().join("x.npy");
    fs::write(&path, npy).unwrap();
    let data = Dataset::open(&path, &a, &DataOptions { batch: Some(2), ..Default::default() }).unwrap();
    let options = Options { layer_samples: 12, ..Default::default() };
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for of in [1, 2, 3, 6, 8] {
        for (first, second) in [(&a, &b), (&b, &a)] {
            let [whole, merged] = both((first, second), &data, &options, of, &mut rng);
            assert!(whole.contains("null") && whole.contains("finite"), "{whole}");
            assert_eq!(whole, merged, "{of} parts");
        }
    }
}

#[test]
fn a_check_is_judged_when_it_is_merged() {
    let dir = place();
    let limits = "--max-drop 1 --min-agreement 0.2 --max-macs 0.6 --metric top1 --samples 100";
    let on = format!("check net.onnx small.onnx {limits} {DATA}");
    let whole = run(&dir, &format!("{on} --report whole.json --report whole.md --report whole.xml"));
    assert_eq!(whole.code, 1, "{}", whole.err);
    for i in 1..=3 {
        // A part breaks no limit, whatever it sees.
        ok(&dir, &format!("{on} --shard {i}/3 --report p{i}.json"));
    }
    let merged =
        run(&dir, "merge p3.json p1.json p2.json --report m.json --report m.md --report m.xml --report m.html");
    assert_eq!((merged.code, &merged.out, &merged.err), (1, &whole.out, &whole.err));
    assert_eq!(merged.err.lines().filter(|l| l.starts_with("error: ")).count(), 2, "{}", merged.err);
    for end in ["json", "md"] {
        assert_eq!(text(&dir, &format!("whole.{end}")), text(&dir, &format!("m.{end}")));
    }
    // Test suites of JUnit may name the moment that they were written.
    assert_eq!(text(&dir, "m.xml").matches("<failure").count(), 2);
    assert!(text(&dir, "m.html").contains("max-macs"));

    // A baseline goes with the parts.
    ok(&dir, &format!("check net.onnx small.onnx --max-drop 60 --samples 100 {DATA} --report base.json"));
    let on = format!("check net.onnx small.onnx --baseline base.json --samples 100 {DATA}");
    ok(&dir, &format!("{on} --report whole.json"));
    (1..=2).for_each(|i| _ = ok(&dir, &format!("{on} --shard {i}/2 --report p{i}.json")));
    fs::remove_file(dir.path().join("base.json")).unwrap();
    fs::remove_file(dir.path().join("net.onnx")).unwrap();
    ok(&dir, "merge p2.json p1.json --report m.json");
    assert_eq!(text(&dir, "whole.json"), text(&dir, "m.json"));
    assert!(text(&dir, "m.json").contains("baseline-accuracy"));
}

#[test]
fn curves_of_sensitivity_are_dealt_out() {
    let dir = place();
    for removal in ["obs", "plain"] {
        let on =
            format!("sensitivity net.onnx --removal {removal} --shares 0.25,0.5 --samples 32 --eval-samples 40 {DATA}");
        ok(&dir, &format!("{on} --report whole.json --plot whole.svg"));
        ok(&dir, &format!("{on} --report whole.csv"));
        (1..=4).for_each(|i| _ = ok(&dir, &format!("{on} --shard {i}/4 --report p{i}.json")));
        let table = ok(&dir, "merge p4.json p2.json p1.json p3.json --report m.json --report m.csv --plot m.svg");
        for end in ["json", "csv", "svg"] {
            assert_eq!(text(&dir, &format!("whole.{end}")), text(&dir, &format!("m.{end}")), "{removal}");
        }
        assert_eq!(table, ok(&dir, &on));
        assert!(ok(&dir, "merge p4.json p2.json p1.json p3.json --json") == text(&dir, "m.json"));
    }
    refused(&dir, "merge p4.json p2.json p1.json p3.json --format junit", &["junit", "sensitivity"]);
    refused(&dir, "merge p4.json p2.json p1.json p3.json --report m.xml", &["m.xml", ".csv"]);
}

#[test]
fn statistics_of_parts_are_those_of_all_samples() {
    let dir = place();
    fs::copy(fixture("squeeze_excite.bn.onnx"), dir.path().join("se.onnx")).unwrap();
    for net in ["net.onnx", "se.onnx"] {
        // 53 batches, four groups of them.
        let on = format!("calibrate {net} --samples 210 --batch 4 {DATA}");
        let said = ok(&dir, &format!("{on} --report whole.json"));
        assert!(said.contains("on 210 of 210 samples"), "{said}");
        for of in [1, 3, 6] {
            let names: Vec<String> = (1..=of).rev().map(|i| format!("p{i}.json")).collect();
            (1..=of).for_each(|i| _ = ok(&dir, &format!("{on} --shard {i}/{of} --report p{i}.json")));
            ok(&dir, &format!("merge {} --report merged.json", names.join(" ")));
            assert!(text(&dir, "whole.json") == text(&dir, "merged.json"), "{net} in {of} parts");
        }
        for criterion in ["act-mean", "act-rms", "act-variance=0.5,l1=0.5", "apoz"] {
            let prune = format!("{net} --ratio 0.4 --recover bias --criterion {criterion} --samples 210 --batch 4");
            ok(&dir, &format!("{prune} {DATA} -o direct.onnx"));
            let prune = prune.replace("--samples 210 --batch 4", "--statistics merged.json");
            ok(&dir, &format!("{prune} -o stored.onnx"));
            assert!(files(&dir)["direct.onnx"] == files(&dir)["stored.onnx"], "{net} {criterion}");
        }
    }
    let prune = "net.onnx --ratio 0.4 --criterion act-rms -o out.onnx";
    refused(&dir, &format!("{prune} --statistics merged.json"), &["merged.json", "another model", "SHA-256"]);
    refused(&dir, &format!("{prune} --statistics p1.json"), &["part 1/6 alone", "merge"]);
    ok(&dir, &format!("calibrate net.onnx --samples 8 {DATA} --report s.json"));
    for criterion in ["l2", "obs", "obs,act-rms"] {
        let asked = format!("net.onnx --ratio 0.4 --criterion {criterion} --statistics s.json");
        refused(&dir, &asked, &["--statistics serves", "act-rms"]);
    }
    refused(&dir, "net.onnx --ratio 0.4 --statistics s.json", &["--statistics serves", "none is named"]);
    refused(&dir, &format!("calibrate net.onnx {DATA} --report s.md"), &["FILE.json"]);
    refused(&dir, "calibrate net.onnx --report x.json", &["no data"]);
}

#[test]
fn parts_that_do_not_make_a_whole_are_refused() {
    let dir = place();
    let on = |more: &str| format!("diff net.onnx small.onnx --samples 12 --batch 2 --layer-samples 0 {DATA} {more}");
    (1..=3).for_each(|i| _ = ok(&dir, &on(&format!("--shard {i}/3 --report p{i}.json"))));
    let with_third = |name: &str, more: &str, words: &[&str]| {
        ok(&dir, &format!("{more} --report {name}"));
        refused(&dir, &format!("merge p1.json {name} p2.json"), &[&[name, "p1.json"], words].concat());
    };
    refused(&dir, "merge p1.json p3.json", &["1 of 3 parts missing: 2/3"]);
    refused(&dir, "merge p2.json", &["2 of 3 parts missing: 1/3, 3/3"]);
    refused(&dir, "merge p1.json p2.json p3.json p2.json", &["part 2/3 is given twice", "p2.json and p2.json"]);
    with_third("half.json", &on("--shard 2/2"), &["one of 2 parts", "of 3"]);
    with_third("limit.json", &on("--shard 3/3 --max-drop 3"), &["--max-drop is 3", "it is none"]);
    with_third("metric.json", &on("--shard 3/3 --metric iou"), &["--metric is iou"]);
    with_third("seed.json", &on("--shard 3/3 --seed 1"), &["data is"]);
    with_third("batch.json", &on("--shard 3/3").replace("--batch 2", "--batch 3"), &["batch is 3"]);
    with_third("mean.json", &on("--shard 3/3").replace("0.2860", "0.2861"), &["data is"]);
    with_third("models.json", &on("--shard 3/3").replace("net.onnx", "small.onnx"), &["original model is"]);
    let check = format!("check net.onnx small.onnx --max-drop 9 --samples 12 --batch 2 --layer-samples 0 {DATA}");
    with_third("check.json", &format!("{check} --shard 3/3"), &["made by check", "by diff"]);

    let whole = text(&dir, "p3.json");
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    write("cut.json", &whole[..whole.len() / 2]);
    refused(&dir, "merge p1.json p2.json cut.json", &["cut.json", "expected a part", "make it again"]);
    ok(&dir, &on("--report whole.json"));
    refused(&dir, "merge p1.json p2.json whole.json", &["whole.json", "expected a part"]);
    write("later.json", &whole.replacen("\"schema_version\":1", "\"schema_version\":2", 1));
    refused(&dir, "merge p1.json p2.json later.json", &["later.json", "(2)", "merge it with that version"]);
    write("odd.json", &whole.replacen("\"3/3\"", "\"4/3\"", 1));
    refused(&dir, "merge p1.json p2.json odd.json", &["odd.json", "I from 1 to N"]);
    // The numbers inside do not fit what the part says it is.
    write("moved.json", &text(&dir, "p2.json").replacen("\"2/3\"", "\"3/3\"", 1));
    refused(&dir, "merge p1.json p2.json moved.json", &["moved.json", "do not follow each other"]);
    ok(&dir, &format!("calibrate net.onnx --samples 8 {DATA} --shard 3/3 --report stat.json"));
    refused(&dir, "merge p1.json p2.json stat.json", &["stat.json", "made by calibrate"]);
    refused(&dir, "merge p1.json net.onnx", &["net.onnx", "expected a part", "make it again"]);
    refused(&dir, "merge p1.json none.json", &["none.json", "cannot be read"]);
    refused(&dir, "merge p1.json p2.json p3.json --report p3.json", &["p3.json", "a part"]);
    refused(&dir, "merge p1.json p2.json p3.json --report m.xml", &["m.xml", "FILE.md"]);
    refused(&dir, "merge p1.json p2.json p3.json --plot m.svg", &["--plot", "diff"]);
}

#[test]
fn what_cannot_be_measured_in_parts_says_so() {
    let dir = place();
    let diff = format!("diff net.onnx small.onnx {DATA}");
    for wrong in ["0/3", "4/3", "x", "2"] {
        refused(&dir, &format!("{diff} --shard {wrong} --report p.json"), &["--shard", "2/8"]);
    }
    refused(&dir, &format!("{diff} --shard 1/2"), &["--report FILE.json", "merge"]);
    refused(&dir, &format!("{diff} --shard 1/2 --report p.html"), &["a part is JSON"]);
    refused(&dir, &format!("{diff} --shard 1/2 --format markdown"), &["a part is JSON"]);
    let check = format!("check net.onnx small.onnx {DATA} --shard 1/2 --report p.json");
    refused(&dir, &format!("{check} --max-macs 0.9"), &["limit on accuracy"]);
    refused(&dir, &format!("{check} --max-drop 9 --min-speedup 1"), &["none on times", "without --shard"]);
    refused(&dir, &format!("{check} --max-drop 9 --runs 3"), &["flag"]);
    let sensitivity = format!("sensitivity net.onnx {DATA} --shard 1/2");
    refused(&dir, &sensitivity, &["--report FILE.json"]);
    refused(&dir, &format!("{sensitivity} --report s.csv"), &["a part is JSON"]);
    refused(&dir, &format!("{sensitivity} --report s.json --plot s.svg"), &["plot"]);
}
