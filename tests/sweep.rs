//! Sweeps by the command line: every combination once, whatever is stopped, repeated or divided.
#![cfg(feature = "tract")]

mod build;

use build::run::{Ran, fixture, ok, refused, run};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// Two models, two budgets, two criteria, two repairs: 16 rows.
const SPEC: &str = r#"
[[model]]
path = "residual.onnx"
data = "images.npz"
prepare = { samples = 48 }

[[model]]
path = "concat.onnx"
data = "images.npz"
prepare = { samples = 48 }

[grid]
target-macs = [0.7, 0.5]
criterion = ["default", "l1"]
recover = ["none", "bias"]

[plan]
steps = 1
runtime = "tract"
[prune]
runtime = "tract"
[measure]
diff = { layer-samples = 0, runtime = "tract" }
"#;
/// A plan for each budget and criterion, two cuts and two measurements of each.
const TASKS: usize = 2 * 2 * 2 * (1 + 2 + 2);

fn place(spec: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (from, to) in
        [("residual.bn.onnx", "residual.onnx"), ("concat.bn.onnx", "concat.onnx"), ("fashion_test.npz", "images.npz")]
    {
        fs::copy(fixture(from), dir.path().join(to)).unwrap();
    }
    fs::write(dir.path().join("s.toml"), spec).unwrap();
    dir
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn csv(dir: &TempDir, store: &str) -> String {
    fs::read_to_string(dir.path().join(store).join("results.csv")).unwrap()
}

/// How many tasks ran, by what was said.
fn made(said: &Ran) -> usize {
    said.err.lines().filter(|l| l.ends_with(" s")).count()
}

fn results(dir: &TempDir, store: &str) -> BTreeMap<String, std::time::SystemTime> {
    let all = fs::read_dir(dir.path().join(store).join("results")).unwrap();
    all.map(|e| e.unwrap())
        .map(|e| (e.file_name().into_string().unwrap(), e.metadata().unwrap().modified().unwrap()))
        .collect()
}

fn spawn(dir: &TempDir, args: &str) -> std::process::Child {
    Command::new(env!("CARGO_BIN_EXE_onnx-prune"))
        .current_dir(dir)
        .args(args.split_whitespace())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn every_combination_is_a_row_and_nothing_is_done_twice() {
    let dir = place(SPEC);
    let planned = json(&ok(&dir, "sweep s.toml --dry-run --json"));
    assert_eq!(planned.as_array().unwrap().len(), TASKS);
    let first = run(&dir, "sweep s.toml");
    assert_eq!((first.code, made(&first)), (0, TASKS), "{}", first.err);
    let (table, there) = (csv(&dir, "s.sweep"), results(&dir, "s.sweep"));
    assert_eq!((table.lines().count(), there.len()), (1 + 16, TASKS));
    // Again: nothing runs, and the table is the same.
    let again = run(&dir, "sweep s.toml");
    assert_eq!((again.code, made(&again)), (0, 0), "{}", again.err);
    assert_eq!((csv(&dir, "s.sweep"), results(&dir, "s.sweep")), (table.clone(), there));

    // A row is what the single commands give.
    let report = json(&fs::read_to_string(dir.path().join("s.sweep/results.json")).unwrap());
    let rows = report["rows"].as_array().unwrap();
    let row =
        rows.iter().find(|r| r["budget"] == "target-macs 0.5" && r["criterion"] == "l1" && r["recover"] == "bias");
    let row = row.unwrap();
    ok(&dir, "residual.onnx --target-macs 0.5 --criterion l1 --recover bias --steps 1 --runtime tract -o alone.onnx");
    let alone = fs::read(dir.path().join("alone.onnx")).unwrap();
    assert!(alone == fs::read(dir.path().join("s.sweep").join(row["file"].as_str().unwrap())).unwrap());
    let diff = "diff residual.onnx alone.onnx --data images.npz --samples 48 --layer-samples 0 --runtime tract --json";
    assert_eq!(row["drop_points"], json(&ok(&dir, diff))["accuracy"]["top1"]["drop"]);

    // Members that share a store: each does its part, what both need is done once.
    let both = [spawn(&dir, "sweep s.toml --store t --worker 1/2"), spawn(&dir, "sweep s.toml --store t --worker 2/2")];
    let both = both.map(|c| c.wait_with_output().unwrap());
    let lines =
        |o: &std::process::Output| String::from_utf8_lossy(&o.stderr).lines().filter(|l| l.ends_with(" s")).count();
    assert!(both.iter().all(|o| o.status.success() && lines(o) > 0));
    assert_eq!(both.iter().map(lines).sum::<usize>(), TASKS);
    let joined = run(&dir, "sweep s.toml --store t");
    assert_eq!((made(&joined), csv(&dir, "t")), (0, table));
}

#[test]
fn what_was_stopped_goes_on() {
    let dir = place(SPEC);
    let mut child = spawn(&dir, "sweep s.toml --jobs 2");
    let part = dir.path().join("s.sweep/results");
    while fs::read_dir(&part).map_or(0, Iterator::count) < 5 {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it could be killed");
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let before = results(&dir, "s.sweep");
    assert!((5..TASKS).contains(&before.len()));
    let rest = run(&dir, "sweep s.toml");
    assert_eq!(rest.code, 0, "{}", rest.err);
    let after = results(&dir, "s.sweep");
    assert!(before.iter().all(|(key, when)| after.get(key) == Some(when)));
    assert_eq!(after.len(), TASKS);
    ok(&dir, "sweep s.toml --store whole -q");
    assert_eq!(csv(&dir, "s.sweep"), csv(&dir, "whole"));
}

#[test]
#[cfg(unix)]
fn a_signal_ends_the_tasks_too() {
    let dir = place(&SPEC.replace("48", "500"));
    let mut child = spawn(&dir, "sweep s.toml --jobs 1");
    let parts = dir.path().join("s.sweep/partial");
    while fs::read_dir(&parts).map_or(0, Iterator::count) == 0 {
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    // No failure is noted of what was ended from outside, and the locks are free.
    assert_eq!(fs::read_dir(dir.path().join("s.sweep/failures")).unwrap().count(), 0);
    for lock in fs::read_dir(dir.path().join("s.sweep/locks")).unwrap() {
        fs::File::options().write(true).open(lock.unwrap().path()).unwrap().try_lock().unwrap();
    }
}

#[test]
fn one_failure_spoils_one_row() {
    // No data: what needs it fails when it runs.
    let spec = "[[model]]\npath = 'residual.onnx'\n[grid]\nratio = [0.3]\ncriterion = ['l1', 'obs']\n";
    let dir = place(spec);
    let ran = run(&dir, "sweep s.toml");
    assert_eq!(ran.code, 1, "{}", ran.err);
    assert!(ran.err.contains("error: task ") && ran.err.contains("not run"), "{}", ran.err);
    let table = csv(&dir, "s.sweep");
    let states: Vec<&str> = table.lines().skip(1).map(|l| l.split(',').nth(6).unwrap()).collect();
    assert_eq!(states, ["done", "failed"]);
    assert!(ran.out.contains("has no data") && ran.out.contains("plan: error"), "{}", ran.out);
    // The row is tried again, with data now.
    fs::write(
        dir.path().join("s.toml"),
        spec.replace("onnx'\n", "onnx'\ndata = 'images.npz'\nprepare = {samples = 32}\n"),
    )
    .unwrap();
    let ran = run(&dir, "sweep s.toml");
    assert_eq!(ran.code, 0, "{}", ran.err);
}

#[test]
fn a_changed_input_is_another_task() {
    let spec = "[[model]]\npath = 'residual.onnx'\n[grid]\nratio = [0.3]\ncriterion = ['l1']\n";
    let dir = place(spec);
    assert_eq!(made(&run(&dir, "sweep s.toml")), 2);
    fs::copy(fixture("concat.bn.onnx"), dir.path().join("residual.onnx")).unwrap();
    assert_eq!(made(&run(&dir, "sweep s.toml")), 2);
    fs::copy(fixture("residual.bn.onnx"), dir.path().join("residual.onnx")).unwrap();
    assert_eq!(made(&run(&dir, "sweep s.toml")), 0);
    // A single task, by its key.
    let tasks = json(&ok(&dir, "sweep s.toml --store u --dry-run --json"));
    let key = |i: usize| tasks[i]["key"].as_str().unwrap().to_owned();
    refused(&dir, &format!("sweep --store u --task {}", key(0)), &["cannot read", &key(0)]);
    ok(&dir, "sweep s.toml --store s.sweep");
    fs::remove_dir_all(dir.path().join("s.sweep/results").join(key(1))).unwrap();
    ok(&dir, &format!("sweep --store s.sweep --task {}", key(1)));
    fs::remove_dir_all(dir.path().join("s.sweep/results")).unwrap();
    fs::create_dir(dir.path().join("s.sweep/results")).unwrap();
    refused(&dir, &format!("sweep --store s.sweep --task {}", key(1)), &[&key(0), "has no result yet"]);
}

#[test]
fn mistakes_are_found_before_anything_runs() {
    let dir = place(SPEC);
    let with = |spec: &str, words: &[&str]| {
        fs::write(dir.path().join("s.toml"), spec).unwrap();
        refused(&dir, "sweep s.toml", words);
        assert!(!Path::new(&dir.path().join("s.sweep/results.csv")).exists());
    };
    with(&SPEC.replace("steps = 1", "stepps = 1"), &["s.toml", "[plan]", "--stepps"]);
    with(&SPEC.replace("steps = 1", "seed = 1"), &["--seed", "given by the sweep itself"]);
    with(&SPEC.replace("'l1'", "'l11'").replace("\"l1\"", "\"l11\""), &["l11"]);
    with(&SPEC.replace("[grid]", "[gird]"), &["s.toml", "gird"]);
    with(&SPEC.replace("residual.onnx", "no.onnx"), &["no.onnx", "no such file"]);
    with(&SPEC.replace("images.npz", "no.npz"), &["no.npz", "no such file"]);
    // Training would prepare its data in another way than the rest.
    fs::write(dir.path().join("onnx-prune.toml"), "[data]\nmean = 0.5\n").unwrap();
    with(&SPEC.replace("[plan]", "epochs = [0, 1]\n[plan]"), &["onnx-prune.toml", "prepare"]);
    fs::remove_file(dir.path().join("onnx-prune.toml")).unwrap();
    fs::write(dir.path().join("s.toml"), SPEC).unwrap();
    refused(&dir, "sweep s.toml --worker 3/2", &["expected I/N"]);
    refused(&dir, "sweep s.toml --submit", &["--submit is for --engine slurm or k8s"]);
    refused(&dir, "sweep s.toml --engine k8s", &["--image", "--claim", "--mount"]);
    refused(&dir, "sweep s.toml --engine k8s --image i --claim c --mount /nowhere", &["does not lie below /nowhere"]);
}

#[test]
fn jobs_for_queues_are_printed() {
    let dir = place(SPEC);
    let script = ok(&dir, "sweep s.toml --engine slurm --workers 5 --memory 2 --sbatch=--partition=long");
    assert!(script.contains("#SBATCH --array=1-5\n") && script.contains("#SBATCH --mem=2048M\n"), "{script}");
    fs::write(dir.path().join("job.sh"), &script).unwrap();
    let checked = Command::new("bash").arg("-n").arg(dir.path().join("job.sh")).status();
    assert!(checked.is_ok_and(|s| s.success()));
    // As Slurm runs a member.
    let member = Command::new("bash").arg(dir.path().join("job.sh")).env("SLURM_ARRAY_TASK_ID", "5").output().unwrap();
    assert!(member.status.success(), "{}", String::from_utf8_lossy(&member.stderr));
    let mount = dir.path().display();
    let job = json(&ok(&dir, &format!("sweep s.toml --engine k8s --image onnx-prune:1 --claim work --mount {mount}")));
    assert_eq!(job["spec"]["completions"], 16);
}

#[test]
fn parts_make_the_same_table() {
    let spec = "[[model]]\npath = 'residual.onnx'\ntest = 'images.npz'\nprepare = {samples = 50}\n[grid]\nratio = [0.3]\n\
                criterion = ['l1', 'l2']\nrecover = ['none']\n[measure]\ndiff = {layer-samples = 0, batch = 8}\n";
    let dir = place(spec);
    assert_eq!(made(&run(&dir, "sweep s.toml --store whole")), 2 * 3);
    fs::write(dir.path().join("s.toml"), format!("{spec}shard-samples = 20\n")).unwrap();
    assert_eq!(made(&run(&dir, "sweep s.toml --store parts")), 2 * (2 + 3 + 1));
    assert_eq!(csv(&dir, "parts"), csv(&dir, "whole"));
}
