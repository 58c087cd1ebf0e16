//! The report as a page: well-formed, complete in itself, and the same figures as in the other forms.
#![cfg(feature = "tract")]

mod build;

use build::run::{files, fixture, ok, refused, run, with_net};
use onnx_prune::onnx::{self, Model};
use onnx_prune::plan::Budget;
use onnx_prune::prune::{self, Options};
use onnx_prune::report::html::{Page, Provenance, page};
use onnx_prune::report::{PruneReport, json, train_plot};
use onnx_prune::train::history::{
    Epoch, Held, History, SparsityState, Stop, StopReason, TRAIN_SCHEMA_VERSION, Trained,
};
use quick_xml::events::Event;
use quick_xml::reader::Reader;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

const DATA: &str = "--data d.npz --mean 0.2860 --std 0.3530 --runtime tract";

fn place() -> TempDir {
    let dir = with_net();
    fs::copy(fixture("fashion_test.npz"), dir.path().join("d.npz")).unwrap();
    ok(&dir, "net.onnx --target-macs 0.5 -o small.onnx");
    dir
}

fn text(dir: &TempDir, name: &str) -> String {
    String::from_utf8(files(dir)[name].clone()).unwrap()
}

fn value(dir: &TempDir, name: &str) -> Value {
    serde_json::from_str(&text(dir, name)).unwrap()
}

/// Leaves the page in `target/tmp`, to be looked at and for `tests/accessibility`.
fn keep(name: &str, html: &str) {
    fs::write(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name), html).unwrap();
}

/// Parses the whole page as XML, which checks that elements nest and text is escaped, and holds it to its promises. Returns its
/// visible text.
fn sound(html: &str) -> String {
    assert!(html.starts_with("<!DOCTYPE html>\n<html lang=\"en\">"), "{}", &html[..200]);
    let mut reader = Reader::from_str(html);
    reader.config_mut().check_end_names = true;
    let (mut open, mut ids, mut said) = (Vec::new(), BTreeSet::new(), String::new());
    let mut refers: Vec<String> = Vec::new();
    let (mut pictures, mut last) = (0, 0);
    loop {
        let event = reader.read_event().unwrap_or_else(|e| panic!("at byte {}: {e}", reader.buffer_position()));
        match event {
            Event::Start(ref tag) | Event::Empty(ref tag) => {
                let name = String::from_utf8(tag.name().as_ref().to_vec()).unwrap();
                assert_ne!(name, "script");
                let mut seen = BTreeSet::new();
                let mut role = String::new();
                for attribute in tag.attributes() {
                    let attribute = attribute.unwrap();
                    let key = String::from_utf8(attribute.key.as_ref().to_vec()).unwrap();
                    let text = String::from_utf8(attribute.value.to_vec()).unwrap();
                    assert!(!key.starts_with("on"), "{key}");
                    match key.as_str() {
                        "id" => assert!(ids.insert(text.clone()), "{text} is there twice"),
                        "href" => refers.push(text.strip_prefix('#').expect("a link out of the page").to_owned()),
                        "src" => assert!(text.starts_with("data:image/png;base64,"), "{text}"),
                        "aria-labelledby" => refers.extend(text.split(' ').map(str::to_owned)),
                        "role" => role = text.clone(),
                        _ => assert!(!text.contains("http") || key == "aria-label", "{key} {text}"),
                    }
                    seen.insert(key);
                }
                match name.as_str() {
                    "svg" => {
                        pictures += 1;
                        assert!(role == "img" && seen.contains("aria-labelledby"));
                    }
                    "img" => assert!(seen.contains("alt")),
                    "th" => assert!(seen.contains("scope")),
                    "h1" | "h2" | "h3" => {
                        let level = name[1..].parse().unwrap();
                        assert!(level <= last + 1, "{name} after h{last}");
                        last = level;
                    }
                    _ => {}
                }
                if matches!(event, Event::Start(_)) {
                    open.push(name);
                }
            }
            Event::End(_) => drop(open.pop()),
            Event::Text(ref t) if open.last().is_some_and(|n| n != "style") => {
                said += std::str::from_utf8(t).unwrap();
                said.push(' ');
            }
            Event::GeneralRef(ref r) => said += &format!("&{};", std::str::from_utf8(r).unwrap()),
            Event::Eof => break,
            _ => {}
        }
    }
    assert!(open.is_empty(), "{open:?}");
    assert!(refers.iter().all(|r| ids.contains(r)), "{refers:?}");
    assert_eq!((html.matches("<title id=").count(), html.matches("<desc id=").count()), (pictures, pictures));
    assert_eq!(html.matches("<table>").count(), html.matches("<caption>").count());
    assert!(!html.contains("url(") && !html.contains("@import"), "an outside reference");
    said.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The order of what must come first.
fn first(html: &str, words: &[&str]) {
    let at: Vec<usize> = words.iter().map(|w| html.find(w).unwrap_or_else(|| panic!("no {w}"))).collect();
    assert!(at.is_sorted(), "{words:?} {at:?}");
}

#[test]
fn a_check_has_its_verdict_first_and_the_figures_of_the_json() {
    let dir = place();
    let limits = "--max-drop 90 --min-agreement 0.1 --max-macs 0.52 --max-params 0.9 --max-ratio 50 --runs 12";
    ok(&dir, &format!("check net.onnx small.onnx {limits} {DATA} --layer-samples 8 --report r.html --report r.json"));
    let (html, report) = (text(&dir, "r.html"), value(&dir, "r.json"));
    keep("check.html", &html);
    let said = sound(&html);
    first(
        &html,
        &[
            "<h1>net.onnx → small.onnx</h1>",
            "</span> Passed</h2>",
            "5 limits kept.",
            "id=\"accuracy\"",
            "id=\"latency\"",
            "id=\"size\"",
            "id=\"layers\"",
            "id=\"samples\"",
            "id=\"reproduce\"",
        ],
    );
    for g in report["gates"].as_array().unwrap() {
        let found = format!("found {:.4}", g["value"].as_f64().unwrap());
        let limit = format!("--{} {}", g["name"].as_str().unwrap(), g["limit"]).replace(".0 ", " ");
        assert!(said.contains(&found) && said.contains(limit.trim_end_matches(".0")), "{found} {limit}\n{said}");
    }
    let top1 = &report["accuracy"]["accuracy"]["top1"];
    for side in ["original", "pruned"] {
        assert!(said.contains(&format!("{:.2} %", 100.0 * top1[side].as_f64().unwrap())), "{side}");
        assert!(said.contains(report["models"][side]["sha256"].as_str().unwrap()), "{side}");
    }
    for (name, words) in
        [("broken", "broken: only the original is right"), ("fixed", "fixed: only the pruned model is right")]
    {
        assert!(said.contains(&format!("{words} {}", top1["pairs"][name])), "{name}");
    }
    let compared = &report["latency"]["rows"][1]["comparison"];
    assert!(said.contains(&format!("takes {:.3} of the time", compared["ratio"].as_f64().unwrap())), "{said}");
    assert!(said.contains("McNemar") && said.contains("--max-macs 0.52") && said.contains("tract"), "{said}");
    let thumbs = html.matches("<img ").count();
    assert!((1..=24).contains(&thumbs) && html.len() < 1 << 20, "{thumbs} {}", html.len());
}

#[test]
fn a_broken_limit_is_said_in_words() {
    let dir = place();
    let ran = run(&dir, "check net.onnx small.onnx --max-macs 0.1 --max-params 0.9 --report r.html");
    assert_eq!(ran.code, 1);
    let html = text(&dir, "r.html");
    let said = sound(&html);
    first(&html, &["</span> Failed</h2>", "1 of 2 limits broken", "✕ broken", "✓ kept", "id=\"size\""]);
    // Nothing was measured.
    assert!(!html.contains("id=\"accuracy\"") && !html.contains("id=\"latency\"") && !html.contains("id=\"samples\""));
    assert!(said.contains("more than --max-macs 0.1"), "{said}");
}

#[test]
fn doubt_is_said() {
    let dir = place();
    // The interval of an agreement surely has the agreement itself in it.
    ok(&dir, &format!("diff net.onnx small.onnx {DATA} --layer-samples 0 --report r.json"));
    let agreement = value(&dir, "r.json")["accuracy"]["agreement"]["pruned"].as_f64().unwrap();
    ok(&dir, &format!("diff net.onnx small.onnx {DATA} --layer-samples 0 --min-agreement {agreement} --report r.html"));
    let html = text(&dir, "r.html");
    let said = sound(&html);
    first(&html, &["Passed, inconclusive</h2>", "✓ kept, inconclusive"]);
    assert!(said.contains("another run may judge otherwise"), "{said}");
}

#[test]
fn without_labels_and_limits_there_is_still_a_page_and_always_the_same() {
    let dir = place();
    let values: Vec<f32> = (0..8 * 28 * 28).map(|i| ((i * 7919) % 255) as f32 / 255.0).collect();
    let mut npy = b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (8, 1, 28, 28), }".to_vec();
    npy.resize(127, b' ');
    npy.push(b'\n');
    npy.extend(values.iter().flat_map(|x| x.to_le_bytes()));
    fs::write(dir.path().join("plain.npy"), npy).unwrap();
    let args = "diff net.onnx small.onnx --data plain.npy --runtime tract --report r.html";
    ok(&dir, args);
    let html = text(&dir, "r.html");
    let said = sound(&html);
    first(&html, &["No limits</h2>", "No limit was set", "id=\"accuracy\"", "id=\"reproduce\""]);
    assert!(said.contains("without labels") && !said.contains("McNemar") && html.contains("<img "), "{said}");
    ok(&dir, &format!("{args} --threads 1"));
    let again = text(&dir, "r.html").replace(" --threads 1", "");
    assert!(html == again, "two pages of the same run differ");
}

#[test]
fn names_cannot_break_out() {
    let evil = "<script>alert(1)</script>";
    let dir = place();
    let mut model = onnx::load(&fixture("residual.bn.onnx")).unwrap();
    for n in &mut model.proto.graph.as_mut().unwrap().node {
        n.name = Some(format!("{evil}&\"'{}", n.name()));
    }
    model.path = dir.path().join("evil.onnx");
    let report = pruned(&model, Budget::Ratio(0.4)).0;
    assert!(report.groups.iter().any(|g| g.id.contains(evil)) && !report.pins.is_empty());
    let reproduce = Provenance { command: vec!["onnx-prune".into(), evil.into()], ..Provenance::default() };
    let html = page(&Page { title: Some(evil), prune: Some(&report), reproduce, ..Page::default() }).unwrap();
    let said = sound(&html);
    assert!(!html.contains("<script") && said.contains("script"), "{said}");
}

fn pruned(model: &Model, budget: Budget) -> (PruneReport, Value) {
    pruned_with(model, Options { budget, ..Options::default() })
}

fn pruned_with(model: &Model, options: Options) -> (PruneReport, Value) {
    let report = prune::prune(model, &options, &|_| ()).unwrap().report;
    let value = serde_json::from_str(&json::to_string(&report).unwrap()).unwrap();
    (report, value)
}

#[test]
fn a_pruning_run_shows_its_channels_scores_and_pins() {
    let model = onnx::load(&fixture("residual.bn.onnx")).unwrap();
    let (report, value) = pruned(&model, Budget::Ratio(0.4));
    let html = page(&Page { prune: Some(&report), ..Page::default() }).unwrap();
    keep("prune.html", &html);
    let said = sound(&html);
    first(
        &html,
        &[
            "</span> Budget met</h2>",
            "ratio 0.4 asked",
            "id=\"size\"",
            "id=\"channels\"",
            "id=\"scores\"",
            "id=\"pins\"",
            "id=\"notes\"",
        ],
    );
    for g in value["groups"].as_array().unwrap() {
        let change = format!("{} → {}", g["channels_before"], g["channels_after"]);
        assert!(said.contains(&change) && said.contains(g["reason"].as_str().unwrap()), "{g}");
    }
    let scores = &value["scores"];
    let sum = |name: &str| scores[name].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).sum::<u64>();
    assert_eq!(sum("removed"), value["channels_removed"].as_u64().unwrap());
    assert_eq!(sum("kept") + sum("removed"), value["channels_prunable"].as_u64().unwrap());
    assert!(said.contains(&format!("the {} that went", sum("removed"))) && scores["cut"].is_f64(), "{scores}");
    for pin in value["pins"].as_array().unwrap() {
        assert!(said.contains(pin["tensor"].as_str().unwrap()), "{pin}");
    }
    // A budget that cannot be reached.
    let options = Options { budget: Budget::TargetMacs(0.2), max_layer_ratio: 0.1, ..Options::default() };
    let (missed, _) = pruned_with(&model, options);
    assert!(missed.missed.is_some());
    let html = page(&Page { prune: Some(&missed), ..Page::default() }).unwrap();
    sound(&html);
    first(&html, &["</span> Missed</h2>", "The budget was missed"]);
}

#[test]
fn three_hundred_layers_fit_on_a_page() {
    let model = onnx::load(&fixture("residual.bn.onnx")).unwrap();
    let (mut report, _) = pruned(&model, Budget::Ratio(0.4));
    let (groups, pins) = (report.groups.clone(), report.pins.clone());
    let named = |i: usize, name: &str| format!("/backbone/stage{i}/a/rather/long/path/{name}");
    for i in 0..300 {
        let mut g = groups[i % groups.len()].clone();
        g.id = named(i, &g.id);
        report.groups.push(g);
        let mut p = pins[i % pins.len()].clone();
        p.layer = named(i, &p.layer);
        report.pins.push(p);
    }
    let html = page(&Page { prune: Some(&report), ..Page::default() }).unwrap();
    keep("large.html", &html);
    sound(&html);
    assert!(html.len() < 400_000, "{}", html.len());
    assert!(sound(&page(&Page::default()).unwrap()).contains("No limits"));
}

/// A run as it might be, of so many epochs.
fn history(epochs: usize, sparse: bool) -> History {
    let held = |loss: f64, top1: f64| Held { loss, metric: Some(top1), metric_name: Some("top1".into()) };
    let epoch = |i: usize| {
        let t = i as f64 / epochs as f64;
        let wave = (i as f64 * 1.7).sin() * 0.02;
        let (label, taught) = (0.35 + 1.6 * (-4.0 * t).exp() + wave, 0.12 + 0.9 * (-3.0 * t).exp());
        let penalty = if sparse { 0.25 * (1.0 - 0.7 * t) } else { 0.0 };
        let mut terms = vec![("label".to_owned(), label), ("teacher".to_owned(), taught)];
        terms.extend(sparse.then(|| ("penalty".to_owned(), penalty)));
        let hill = |x: f64, at: f64, width: f64| (-((x - at) / width).powi(2)).exp();
        let edges: Vec<f64> = (0..=24).map(|k| -6.0 + 0.25 * f64::from(k)).collect();
        let bin = |e: &f64| {
            let low = 60.0 * t * hill(e + 0.125, -0.8 - 4.0 * t, 0.5);
            (low + (90.0 - 50.0 * t) * hill(e + 0.125, -0.4, 0.35)).round() as u64
        };
        let histogram = edges.iter().take(24).map(bin).collect();
        let state = SparsityState { removable_share: 0.45 * t * t, histogram, edges, penalty };
        Epoch {
            epoch: i,
            step: 56 * i,
            lr: 0.025 * (1.0 + (std::f64::consts::PI * t).cos()),
            loss: label + taught + penalty,
            terms: terms.into_iter().collect(),
            gradient_norm: 2.0 * (-t).exp(),
            weight_norm: 21.3 - t,
            held: Some(held(0.5 + 1.2 * (-4.0 * t).exp() + 2.0 * wave, 0.905 - 0.3 * (-4.0 * t).exp() + wave / 2.0)),
            sparsity: sparse.then_some(state),
            seconds: 4.7,
        }
    };
    let kind = |kind: &str, tensors, elements| Trained { kind: kind.into(), tensors, elements };
    let options = [("lr", "0.05"), ("schedule", "cosine"), ("optimiser", "sgd"), ("augment", "flip,crop=2")];
    History {
        schema_version: TRAIN_SCHEMA_VERSION,
        tool: "onnx-prune".into(),
        model: "net.pruned.onnx".into(),
        teacher: Some("net.onnx".into()),
        written: Some("net.trained.onnx".into()),
        runtime: "ONNX Runtime 1.32.0 on cpu".into(),
        options: options.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        trained: vec![kind("weights of Conv", 9, 11_232), kind("scales and biases", 18, 448)],
        samples: 1800,
        held_back: 200,
        batch: 32,
        steps_per_epoch: 56,
        before: Some(held(1.9, 0.585)),
        epochs: (1..=epochs).map(epoch).collect(),
        best_epoch: Some(epochs - 1),
        stopped: None,
        notes: vec!["the last 8 samples of an epoch do not fill a batch".into()],
        seconds: 4.9 * epochs as f64,
    }
}

#[test]
fn a_training_run_shows_what_changed() {
    let mut h = history(15, false);
    let reproduce = Provenance::here(vec!["onnx-prune".into(), "train".into(), "net.pruned.onnx".into()]);
    let of = |h: &History| page(&Page { training: Some(h), reproduce: reproduce.clone(), ..Page::default() }).unwrap();
    let html = of(&h);
    keep("train.html", &html);
    let said = sound(&html);
    let order = ["id=\"progress\"", "id=\"epochs\"", "id=\"trained\"", "id=\"notes\"", "id=\"reproduce\""];
    first(&html, &["<h1>net.pruned.onnx → net.trained.onnx</h1>", "</span> Improved</h2>"]);
    first(&html, &order);
    assert!(
        said.contains("Epoch 14 of 15 kept: top1 58.50 % → 88.81 %, loss 1.900 → 0.4898 on the held-back samples."),
        "{said}"
    );
    for e in &h.epochs {
        assert!(said.contains(&format!("{:.2} %", 100.0 * e.held.as_ref().unwrap().metric.unwrap())), "{}", e.epoch);
    }
    assert!(said.contains("was 58.50 %") && said.contains("11.7 k") && !html.contains("id=\"sparsity\""), "{said}");
    h.epochs[13].held = Some(Held { loss: 2.5, metric: Some(0.585), metric_name: Some("top1".into()) });
    first(&of(&h), &["</span> No improvement</h2>", "1.900 → 2.500"]);
    let words = "the loss is not finite in step 140: gradient of \"<conv>\"".to_owned();
    h.stopped = Some(Stop { reason: StopReason::Diverged, words });
    h.epochs[14].loss = f64::NAN;
    let html = of(&h);
    sound(&html);
    first(&html, &["</span> Diverged</h2>", "The loss is not finite in step 140"]);

    let html = of(&history(60, true));
    keep("train-sparse.html", &html);
    let said = sound(&html);
    first(&html, &["</span> Trained</h2>", "id=\"progress\"", "id=\"sparsity\"", "<details"]);
    assert!(said.contains("43.5 % of the prunable channels can go (after epoch 1: 0.0 %)"), "{said}");
    fs::write(Path::new(env!("CARGO_TARGET_TMPDIR")).join("train.svg"), train_plot::svg(&history(60, true)).unwrap())
        .unwrap();
    // Nothing at all is still a page.
    sound(&of(&History::default()));
}

#[test]
fn only_where_there_are_pages() {
    let dir = place();
    refused(&dir, &format!("diff net.onnx small.onnx {DATA} --report r.xml"), &["FILE.html"]);
    refused(&dir, "check net.onnx small.onnx --max-macs 1 --report nowhere/r.html", &["r.html"]);
}
