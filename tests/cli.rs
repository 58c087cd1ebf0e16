//! The binary as a user meets it: files, exit codes and words.

mod build;

use build::run::{files, fixture, names, ok, refused, run, with_net};
use onnx_prune::onnx::proto::ModelProto;
use prost::Message;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

const FIXTURES: [&str; 5] = ["concat", "depthwise", "residual", "shuffle", "squeeze_excite"];

fn json(dir: &TempDir, name: &str) -> serde_json::Value {
    let text = fs::read_to_string(dir.path().join(name)).unwrap();
    assert!(text.ends_with("}\n"));
    serde_json::from_str(&text).unwrap()
}

#[test]
fn prunes_every_fixture() {
    for kind in FIXTURES.iter().flat_map(|f| [format!("{f}.bn"), format!("{f}.folded")]) {
        let dir = TempDir::new().unwrap();
        let name = format!("{kind}.onnx");
        fs::copy(fixture(&name), dir.path().join(&name)).unwrap();
        let out = ok(&dir, &format!("{name} --ratio 0.4 --report r.json"));
        let mut expected = [name.clone(), format!("{kind}.pruned.onnx"), "r.json".into()];
        expected.sort();
        assert_eq!(names(&dir), expected);
        assert!(out.contains(&format!("{name} → {kind}.pruned.onnx")), "{out}");
        assert!(out.lines().all(|l| l.chars().count() <= 100), "{kind}:\n{out}");
        let report = json(&dir, "r.json");
        assert_eq!(report["schema_version"], 1);
        assert_eq!(report["ratio_requested"], 0.4);
        assert!((report["ratio_reached"].as_f64().unwrap() - 0.4).abs() < 0.05, "{kind}: {report:#}");
        let figures = |of: &str, key: &str| report[of][key].as_u64().unwrap();
        for key in ["params", "macs", "bytes"] {
            assert!(figures("pruned", key) < figures("original", key), "{kind}: {key}");
        }
        for of in ["original", "pruned"] {
            let file = dir.path().join(report[of]["path"].as_str().unwrap());
            assert_eq!(figures(of, "bytes"), fs::metadata(file).unwrap().len());
        }
        assert!(report["timings_ms"]["total"].is_number());
        if cfg!(feature = "tract") {
            assert!(report["verify"]["runtime"].as_str().unwrap().starts_with("tract"), "{kind}: {report:#}");
            assert!(report["verify"]["max_rel_diff"].is_number(), "{kind}: {report:#}");
        }
    }
}

#[test]
fn output_is_named() {
    let dir = with_net();
    ok(&dir, "net.onnx --ratio 0.3 --no-verify -o other.onnx");
    assert_eq!(names(&dir), ["net.onnx", "other.onnx"]);
    assert!(ok(&dir, "inspect net.onnx other.onnx").contains('≠'));
}

#[test]
fn dynamic_dimensions_stay() {
    let dir = with_net();
    ok(&dir, "net.onnx --ratio 0.3 --no-verify");
    let graph = |name: &str| {
        let bytes = fs::read(dir.path().join(name)).unwrap();
        ModelProto::decode(bytes.as_slice()).unwrap().graph.unwrap()
    };
    let (a, b) = (graph("net.onnx"), graph("net.pruned.onnx"));
    assert_eq!((a.input, a.output), (b.input, b.output));
}

#[test]
fn input_is_not_overwritten() {
    let dir = with_net();
    let overwrite = "would overwrite the input";
    refused(&dir, "net.onnx --ratio 0.3 -o net.onnx", &["net.onnx", overwrite, "--in-place"]);
    refused(&dir, "net.onnx --ratio 0.3 -o ./net.onnx", &[overwrite]);
    refused(&dir, "net.onnx --ratio 0.3 --report net.onnx", &["net.onnx", "FILE.json"]);
    refused(&dir, "net.onnx --ratio 0.3 --save-plan net.onnx --dry-run", &[overwrite]);
    refused(&dir, "net.onnx --ratio 0.3 --report x.json --save-plan x.json", &["x.json", "would overwrite"]);
    refused(&dir, "net.onnx --ratio 0.3 --report x.json -o x.json", &["x.json", "would overwrite"]);
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("net.onnx", dir.path().join("soft.onnx")).unwrap();
        fs::hard_link(dir.path().join("net.onnx"), dir.path().join("hard.onnx")).unwrap();
        std::os::unix::fs::symlink("net.onnx", dir.path().join("soft.json")).unwrap();
        refused(&dir, "net.onnx --ratio 0.3 --report soft.json", &["soft.json", overwrite]);
        for link in ["soft.onnx", "hard.onnx"] {
            refused(&dir, &format!("net.onnx --ratio 0.3 -o {link}"), &[link, overwrite]);
            refused(&dir, &format!("{link} --ratio 0.3 -o net.onnx"), &[overwrite]);
        }
    }
}

#[test]
fn in_place_replaces_the_input() {
    let dir = with_net();
    ok(&dir, "net.onnx --ratio 0.3 --no-verify");
    ok(&dir, "net.onnx --ratio 0.3 --no-verify --in-place");
    let files = files(&dir);
    assert_eq!(files.len(), 2);
    assert!(files["net.onnx"] == files["net.pruned.onnx"]);
    refused(&dir, "net.onnx --ratio 0.3 --in-place -o x.onnx", &["--in-place", "--output"]);
}

#[test]
#[cfg(unix)]
fn in_place_keeps_a_link() {
    let dir = with_net();
    std::os::unix::fs::symlink("net.onnx", dir.path().join("link.onnx")).unwrap();
    let before = files(&dir)["net.onnx"].len();
    ok(&dir, "link.onnx --ratio 0.3 --no-verify --in-place");
    assert!(dir.path().join("link.onnx").is_symlink());
    assert!(files(&dir)["net.onnx"].len() < before);
}

#[test]
fn dry_run_writes_what_is_asked_for() {
    let dir = with_net();
    let out = ok(&dir, "net.onnx --ratio 0.3 --dry-run");
    assert!(out.contains("dry run"), "{out}");
    assert_eq!(names(&dir), ["net.onnx"]);
    ok(&dir, "net.onnx --ratio 0.3 --dry-run --save-plan p.json");
    assert_eq!(names(&dir), ["net.onnx", "p.json"]);
}

#[test]
fn a_stored_plan_gives_the_same_bytes() {
    for recover in ["none", "bias"] {
        let dir = with_net();
        let asked = format!("net.onnx --ratio 0.4 --no-verify --recover {recover}");
        ok(&dir, &format!("{asked} --save-plan p.json -o a.onnx"));
        ok(&dir, "net.onnx --plan p.json --no-verify -o b.onnx");
        ok(&dir, &format!("{asked} --save-plan q.json --dry-run"));
        let all = files(&dir);
        assert!(all["a.onnx"] == all["b.onnx"], "{recover}");
        assert!(all["p.json"] == all["q.json"], "{recover}");
        assert_eq!(json(&dir, "p.json")["recover"], recover);
        assert_eq!(json(&dir, "p.json")["model_sha256"].as_str().unwrap().len(), 64);
    }
}

#[test]
fn a_plan_for_another_model_is_refused() {
    let dir = with_net();
    fs::copy(fixture("residual.folded.onnx"), dir.path().join("other.onnx")).unwrap();
    ok(&dir, "net.onnx --ratio 0.4 --dry-run --save-plan p.json");
    refused(&dir, "other.onnx --plan p.json", &["plan", "SHA-256", "other.onnx"]);
    fs::write(dir.path().join("bad.json"), "{").unwrap();
    refused(&dir, "net.onnx --plan bad.json", &["bad.json is not a plan file"]);
    refused(&dir, "net.onnx --plan gone.json", &["gone.json"]);
}

#[test]
fn threads_do_not_change_a_byte() {
    let dir = with_net();
    for n in ["1", "2", "5"] {
        let files = format!("-o {n}.onnx --report {n}.json --save-plan p{n}.json");
        ok(&dir, &format!("net.onnx --target-macs 0.5 --steps 2 --no-verify --threads {n} {files}"));
    }
    let all = files(&dir);
    assert!(all["1.onnx"] == all["2.onnx"] && all["1.onnx"] == all["5.onnx"]);
    assert!(all["p1.json"] == all["p2.json"]);
    let report = |name: &str| {
        let mut r = json(&dir, name);
        r["timings_ms"] = serde_json::Value::Null;
        r["pruned"]["path"] = serde_json::Value::Null;
        r.to_string()
    };
    assert_eq!(report("1.json"), report("2.json"));
}

#[test]
fn ratio_zero_changes_nothing() {
    for kind in FIXTURES.iter().flat_map(|f| [format!("{f}.bn"), format!("{f}.folded")]) {
        let dir = TempDir::new().unwrap();
        fs::copy(fixture(&format!("{kind}.onnx")), dir.path().join("net.onnx")).unwrap();
        ok(&dir, "net.onnx --ratio 0 --no-verify");
        let [a, b] = ["net.onnx", "net.pruned.onnx"]
            .map(|n| ModelProto::decode(fs::read(dir.path().join(n)).unwrap().as_slice()).unwrap());
        assert!(a == b, "{kind}");
    }
}

#[test]
fn quiet_is_silent() {
    let dir = with_net();
    let ran = run(&dir, "net.onnx --ratio 0.4 -q --no-verify");
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (0, "", ""));
    let ran = run(&dir, "net.onnx --target-macs 0.125 --max-layer-ratio 0.3 -q --dry-run");
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (0, "", ""));
    assert!(run(&dir, "gone.onnx --ratio 0.4 -q").err.starts_with("error: gone.onnx"));
}

#[test]
#[cfg(unix)]
fn a_report_may_go_to_stdout() {
    let dir = with_net();
    let out = ok(&dir, "net.onnx --ratio 0.4 --dry-run -q --report /dev/stdout --save-plan /dev/null");
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["verify"]["note"], "dry run");
    assert!(Path::new("/dev/null").metadata().is_ok_and(|m| !m.is_file()));
}

#[test]
fn a_missed_budget_is_told() {
    let dir = with_net();
    let ran = run(&dir, "net.onnx --target-macs 0.125 --max-layer-ratio 0.3 --dry-run");
    assert_eq!(ran.code, 0);
    assert!(ran.err.starts_with("warning: budget missed: target-macs 0.125: the nearest"), "{}", ran.err);
    assert!(ran.out.contains("MISSED"), "{}", ran.out);
}

#[test]
fn criteria_without_batch_norm_are_told() {
    let dir = TempDir::new().unwrap();
    fs::copy(fixture("residual.folded.onnx"), dir.path().join("net.onnx")).unwrap();
    let out = ok(&dir, "net.onnx --ratio 0.4 --dry-run --criterion bn-scale");
    assert!(out.contains("Note") && out.contains("--criterion l2"), "{out}");
}

#[test]
fn a_model_may_be_called_inspect() {
    let dir = with_net();
    fs::copy(dir.path().join("net.onnx"), dir.path().join("inspect")).unwrap();
    ok(&dir, "./inspect --ratio 0.3 --no-verify");
    assert_eq!(names(&dir), ["inspect", "inspect.pruned.onnx", "net.onnx"]);
}

#[test]
fn external_data_is_kept_and_never_overwritten() {
    let dir = with_net();
    ok(&dir, "net.onnx --ratio 0.2 --no-verify --external-data -o big.onnx");
    assert_eq!(names(&dir), ["big.onnx", "big.onnx.data", "net.onnx"]);
    ok(&dir, "big.onnx --ratio 0.2 --no-verify --report r.json");
    assert_eq!(
        names(&dir),
        ["big.onnx", "big.onnx.data", "big.pruned.onnx", "big.pruned.onnx.data", "net.onnx", "r.json"]
    );
    let sizes = ["big.pruned.onnx", "big.pruned.onnx.data"].map(|n| files(&dir)[n].len() as u64);
    assert_eq!(json(&dir, "r.json")["pruned"]["bytes"], sizes[0] + sizes[1]);
    // A model whose data file has the name that the output's data file would get.
    let sub = dir.path().join("big.onnx");
    fs::rename(&sub, dir.path().join("renamed.onnx")).unwrap();
    refused(&dir, "renamed.onnx --ratio 0.2 -o big.onnx", &["big.onnx.data", "would overwrite the input's data file"]);
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("big.onnx.data", dir.path().join("d.json")).unwrap();
        refused(&dir, "renamed.onnx --ratio 0.2 --report d.json", &["would overwrite the input's data file"]);
    }
}

#[test]
fn inspect_has_three_formats() {
    let dir = with_net();
    let table = ok(&dir, "inspect net.onnx");
    for word in ["BatchNormalization", "prunable MACs", "Conv→BN→Relu", "channel groups", "held back by"] {
        assert!(table.contains(word), "{word}:\n{table}");
    }
    assert!(table.lines().all(|l| l.chars().count() <= 100), "{table}");
    let text = ok(&dir, "inspect net.onnx net.onnx --format json");
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["schema_version"], 1);
    let [a, b] = [&json["models"][0], &json["models"][1]];
    assert_eq!(a, b);
    assert!(a["groups"].as_array().unwrap().iter().any(|g| g["batch_norms"].as_u64() > Some(1)));
    assert!(a["prunable_macs"].as_f64().unwrap() > 0.9);
    let dot = ok(&dir, "inspect net.onnx --format dot");
    assert!(dot.starts_with("digraph \"net.onnx\" {\n") && dot.ends_with("}\n"), "{dot}");
    assert!(dot.contains("fillcolor=\"0.") && dot.contains("label=\"?×16×"), "{dot}");
}

/// A signal in the middle of the work leaves the folder as it was; its exit code is that of shells.
#[cfg(unix)]
#[test]
fn an_interrupted_run_leaves_nothing() {
    let dir = with_net();
    std::fs::copy(fixture("fashion_test.npz"), dir.path().join("data.npz")).unwrap();
    let before = files(&dir);
    let args = "net.onnx --target-macs 0.5 --data data.npz --runtime tract -o out.onnx --report r.json";
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_onnx-prune"));
    let mut child = command.current_dir(&dir).args(args.split_whitespace()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let code = child.wait().unwrap().code();
    // A machine in a hurry may have been done already.
    if code != Some(0) {
        assert_eq!(code, Some(130));
        assert!(before == files(&dir), "{:?}", names(&dir));
    }
}
