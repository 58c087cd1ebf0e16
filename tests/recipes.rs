//! The recipes for continuous integration: the very scripts of the files, run as the platforms run them, with the real binary.
#![cfg(unix)]

mod build;

use build::run::{files, fixture, ok, with_net};
use serde_yaml_ng::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// A name that a careless script would split, expand or run.
const STRANGE: &str = "a 'b' \"c\" $(touch pwned) `touch pwned` * ;touch pwned";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn yaml(name: &str) -> Value {
    let text = fs::read_to_string(root().join(name)).unwrap();
    serde_yaml_ng::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn text(value: &Value) -> String {
    match value {
        Value::String(s) => s.clone(),
        Value::Number(n) => n.to_string(),
        Value::Bool(b) => b.to_string(),
        other => panic!("{other:?} is no text"),
    }
}

fn texts(value: &Value) -> Vec<String> {
    value.as_sequence().unwrap_or_else(|| panic!("{value:?} is no list")).iter().map(text).collect()
}

/// `PATH` with the folder of the binary first.
fn path() -> String {
    let folder = Path::new(env!("CARGO_BIN_EXE_onnx-prune")).parent().unwrap();
    format!("{}:{}", folder.display(), std::env::var("PATH").unwrap())
}

/// In the folder `STRANGE` of a new directory: `net.onnx`, `net.pruned.onnx` with half of its multiply-accumulates, and data.
fn place() -> (TempDir, PathBuf) {
    let dir = with_net();
    ok(&dir, "net.onnx --target-macs 0.5 -o net.pruned.onnx");
    let inner = dir.path().join(STRANGE);
    fs::create_dir(&inner).unwrap();
    for name in ["net.onnx", "net.pruned.onnx"] {
        fs::rename(dir.path().join(name), inner.join(name)).unwrap();
    }
    fs::copy(fixture("fashion_test.npz"), inner.join("d.npz")).unwrap();
    (dir, inner)
}

fn inside(name: &str) -> String {
    format!("{STRANGE}/{name}")
}

/// Nothing that came in was run.
fn untouched(dir: &TempDir) {
    assert!(!files(dir).contains_key("pwned"));
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// What a job on GitHub does with `action.yml`: `${{ … }}` filled in outside of scripts, each step run by bash, until one fails.
struct Action {
    code: i32,
    said: String,
    outputs: BTreeMap<String, String>,
    summary: String,
}

fn filled(template: &str, known: &dyn Fn(&str) -> String) -> String {
    let mut out = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("${{") {
        let (name, after) = after.split_once("}}").unwrap();
        out += before;
        out += &known(name.trim());
        rest = after;
    }
    out + rest
}

/// The file that steps write their outputs to: `name<<END`, lines, `END`.
fn outputs(file: &Path) -> BTreeMap<String, String> {
    let written = fs::read_to_string(file).unwrap();
    let mut lines = written.lines();
    let mut all = BTreeMap::new();
    while let Some(line) = lines.next() {
        let (name, end) = line.split_once("<<").unwrap_or_else(|| panic!("{line}"));
        let value: Vec<&str> = lines.by_ref().take_while(|l| *l != end).collect();
        all.insert(name.to_owned(), value.join("\n"));
    }
    all
}

fn action(dir: &TempDir, given: &[(&str, &str)]) -> Action {
    action_on(dir, given, &path())
}

fn action_on(dir: &TempDir, given: &[(&str, &str)], path: &str) -> Action {
    let file = yaml("action.yml");
    let inputs = file["inputs"].as_mapping().unwrap();
    let mut values: BTreeMap<String, String> = BTreeMap::new();
    for (name, input) in inputs {
        let default = &input["default"];
        values.insert(text(name), if default.is_null() { String::new() } else { text(default) });
    }
    for (name, value) in given {
        assert!(values.insert((*name).to_owned(), (*value).to_owned()).is_some(), "no input {name}");
    }
    let temp = TempDir::new().unwrap();
    let (summary, state) = (temp.path().join("summary.md"), temp.path().join("output"));
    let mut steps: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    let mut done = Action { code: 0, said: String::new(), outputs: BTreeMap::new(), summary: String::new() };
    let known = |steps: &BTreeMap<String, BTreeMap<String, String>>, name: &str| -> String {
        let parts: Vec<&str> = name.split('.').collect();
        match parts.as_slice() {
            ["inputs", input] => values.get(*input).unwrap_or_else(|| panic!("{name}")).clone(),
            ["steps", step, "outputs", output] => {
                steps.get(*step).and_then(|s| s.get(*output)).cloned().unwrap_or_default()
            }
            _ => panic!("{name}"),
        }
    };
    for step in file["runs"]["steps"].as_sequence().unwrap() {
        let run = text(&step["run"]);
        assert!(!run.contains("${{"), "text from outside would be part of the script");
        assert_eq!(text(&step["shell"]), "bash");
        let script = temp.path().join("script.sh");
        fs::write(&script, run).unwrap();
        fs::write(&state, "").unwrap();
        let mut command = Command::new("bash");
        command.args(["--noprofile", "--norc", "-eo", "pipefail"]).arg(&script).current_dir(dir);
        command.env("PATH", path).env("GITHUB_OUTPUT", &state).env("GITHUB_STEP_SUMMARY", &summary);
        command.env("GITHUB_ACTION_PATH", root()).env("RUNNER_TEMP", temp.path());
        for (name, value) in step["env"].as_mapping().unwrap() {
            command.env(text(name), filled(&text(value), &|name| known(&steps, name)));
        }
        let output = command.output().unwrap();
        done.code = code(&output);
        done.said += &said(&output);
        steps.insert(text(&step["id"]), outputs(&state));
        if done.code != 0 {
            break;
        }
    }
    for (name, output) in file["outputs"].as_mapping().unwrap() {
        done.outputs.insert(text(name), filled(&text(&output["value"]), &|name| known(&steps, name)));
    }
    done.summary = fs::read_to_string(&summary).unwrap_or_default();
    untouched(dir);
    done
}

#[test]
fn the_action_judges_a_model() {
    let (dir, inner) = place();
    let (model, pruned, reports) = (inside("net.onnx"), inside("net.pruned.onnx"), inside("reports"));
    let paths = [("model", &*model), ("pruned", &*pruned), ("report-dir", &*reports), ("binary", "onnx-prune")];
    let with = |more: &[(&'static str, &'static str)]| action(&dir, &[&paths[..], more].concat());

    let done = with(&[("max-macs", "0.55"), ("max-size", "0.9")]);
    assert_eq!(done.code, 0, "{}", done.said);
    assert_eq!(done.outputs["passed"], "true");
    assert_eq!((&*done.outputs["pruned"], &*done.outputs["prune-report"]), (&*pruned, ""));
    assert!(done.summary.starts_with("# onnx-prune check: passed"), "{}", done.summary);
    let report = fs::read_to_string(dir.path().join(&done.outputs["check-report"])).unwrap();
    assert!(serde_json::from_str::<serde_json::Value>(&report).unwrap()["passed"] == true);
    assert!(inner.join("reports/check.xml").exists() && inner.join("reports/check.md").exists());

    let done = with(&[("max-macs", "0.1")]);
    assert_eq!((done.code, &*done.outputs["passed"]), (1, "false"), "{}", done.said);
    assert!(done.said.contains("--max-macs 0.1"), "{}", done.said);
    let report = fs::read_to_string(dir.path().join(&done.outputs["check-report"])).unwrap();
    assert!(serde_json::from_str::<serde_json::Value>(&report).unwrap()["passed"] == false);

    // Bad input is no verdict, but no pass either. Nothing in it is run.
    for more in [
        ("max-macs", "0.9; touch pwned"),
        ("max-macs", "$(touch pwned)"),
        ("args", "--no-such-flag\n`touch pwned`"),
        ("check-args", "--seed=1 --seed=2"),
        ("max-macs", ""),
    ] {
        let done = with(&[more]);
        assert_eq!((done.code, &*done.outputs["passed"]), (2, "false"), "{more:?}: {}", done.said);
        assert_eq!(done.outputs["check-report"], "", "{more:?}");
    }
    let done = action(&dir, &[("model", &model), ("pruned", &pruned), ("binary", "no such program")]);
    assert!(done.code == 2 && done.said.contains("::error::") && done.outputs["passed"].is_empty(), "{}", done.said);
}

#[test]
#[cfg(feature = "tract")]
fn the_action_prunes() {
    let (dir, inner) = place();
    let (model, output, reports, data) = (inside("net.onnx"), inside("small.onnx"), inside("reports"), inside("d.npz"));
    let paths = [("model", &*model), ("output", &*output), ("report-dir", &*reports), ("binary", "onnx-prune")];
    let with = |more: &[(&'static str, &'static str)]| action(&dir, &[&paths[..], more].concat());

    let done = with(&[("target-macs", "0.6")]);
    assert_eq!((done.code, &*done.outputs["passed"]), (0, "true"), "{}", done.said);
    assert!(dir.path().join(&done.outputs["pruned"]).exists() && done.outputs["check-report"].is_empty());
    assert!(dir.path().join(&done.outputs["prune-report"]).exists());

    let done = with(&[("target-macs", "0.6"), ("max-size", "0.1"), ("prune-args", "--seed=3\r\n--round-to=1\n")]);
    assert_eq!((done.code, &*done.outputs["passed"]), (1, "false"), "{}", done.said);
    assert!(done.said.contains("--max-size 0.1") && dir.path().join(&done.outputs["check-report"]).exists());

    // With data: the limit holds, and does not.
    fs::remove_file(inner.join("small.onnx")).unwrap();
    let on = [("data", &*data), ("args", "--mean=0.2860\n--std=0.3530\n--runtime=tract")];
    let on = |more: &[(&'static str, &'static str)]| action(&dir, &[&paths[..], &on[..], more].concat());
    let few = ("prune-args", "--samples=32\n--eval-samples=100\n--recover=bias");
    let done = on(&[("target-macs", "0.2"), ("max-drop", "0.5"), few]);
    assert_eq!((done.code, &*done.outputs["passed"]), (1, "false"), "{}", done.said);
    assert!(!inner.join("small.onnx").exists() && done.outputs["pruned"].is_empty());
    let done = on(&[("target-macs", "0.8"), ("max-drop", "20"), ("min-agreement", "0.5"), few]);
    assert_eq!((done.code, &*done.outputs["passed"]), (0, "true"), "{}", done.said);
    assert!(done.said.contains("min-agreement") && inner.join("small.onnx").exists(), "{}", done.said);
}

/// Without a binary cargo builds one; here something in cargo's place puts there the one that is built.
#[test]
fn the_action_builds_what_it_is_not_given() {
    let (dir, _) = place();
    let tools = TempDir::new().unwrap();
    let cargo = tools.path().join("cargo");
    let script = format!(
        "#!/bin/sh\n[ \"$*\" = \"install --locked --path {} --root $RUNNER_TEMP/onnx-prune\" ] || exit 7\n\
         mkdir -p \"$RUNNER_TEMP/onnx-prune/bin\" && cp '{}' \"$RUNNER_TEMP/onnx-prune/bin/\"\n",
        root().display(),
        env!("CARGO_BIN_EXE_onnx-prune")
    );
    fs::write(&cargo, script).unwrap();
    fs::set_permissions(&cargo, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", tools.path().display(), std::env::var("PATH").unwrap());
    let (model, pruned) = (inside("net.onnx"), inside("net.pruned.onnx"));
    let done = action_on(&dir, &[("model", &model), ("pruned", &pruned), ("max-params", "0.95")], &path);
    assert_eq!((done.code, &*done.outputs["passed"]), (0, "true"), "{}", done.said);
}

#[test]
fn the_action_passes_on_every_input() {
    let file = fs::read_to_string(root().join("action.yml")).unwrap();
    for name in yaml("action.yml")["inputs"].as_mapping().unwrap().keys().map(text) {
        assert_eq!(file.matches(&format!("${{{{ inputs.{name} }}}}")).count(), 1, "{name}");
    }
}

/// A job on GitLab: all commands are one script.
fn gitlab(dir: &TempDir, shell: &str, variables: &[(&str, &str)]) -> (Output, Vec<PathBuf>) {
    let job = &yaml("ci/gitlab.yml")[".onnx-prune-check"];
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in job["variables"].as_mapping().unwrap() {
        all.insert(text(name), text(value));
    }
    for (name, value) in variables {
        assert!(all.insert((*name).to_owned(), (*value).to_owned()).is_some(), "no variable {name}");
    }
    let script = [texts(&job["before_script"]), texts(&job["script"])].concat().join("\n");
    let mut command = Command::new(shell);
    command.arg("-ec").arg(script).current_dir(dir).env("PATH", path()).env_remove("GITHUB_STEP_SUMMARY").envs(&all);
    let output = command.output().unwrap();
    untouched(dir);
    assert_eq!(text(&job["artifacts"]["when"]), "always");
    let mut named = texts(&job["artifacts"]["paths"]);
    named.push(text(&job["artifacts"]["reports"]["junit"]));
    let reports = &all["ONNX_PRUNE_REPORTS"];
    let named = named.iter().map(|p| dir.path().join(p.replace("$ONNX_PRUNE_REPORTS", reports)));
    (output, named.collect())
}

#[test]
fn gitlab_gets_test_cases() {
    let (dir, _) = place();
    let (model, pruned, reports) = (inside("net.onnx"), inside("net.pruned.onnx"), inside("reports"));
    for shell in ["bash", "sh"] {
        let with = |args: &str| {
            let paths =
                [("ONNX_PRUNE_ORIGINAL", &*model), ("ONNX_PRUNE_PRUNED", &*pruned), ("ONNX_PRUNE_REPORTS", &*reports)];
            gitlab(&dir, shell, &[&paths[..], &[("ONNX_PRUNE_ARGS", args)]].concat())
        };
        let (output, named) = with("--max-macs=0.55\n--max-size=0.9\n");
        assert_eq!(code(&output), 0, "{}", said(&output));
        assert!(named.iter().all(|p| p.exists()), "{named:?}");
        let xml = fs::read_to_string(named.last().unwrap()).unwrap();
        assert!(xml.contains("failures=\"0\"") && xml.matches("<testcase").count() == 2, "{xml}");
        let (output, named) = with("--max-macs=0.1");
        assert_eq!(code(&output), 1, "{}", said(&output));
        assert!(fs::read_to_string(named.last().unwrap()).unwrap().contains("failures=\"1\""));
        let (output, _) = with("$(touch pwned)\n`touch pwned`");
        assert_eq!(code(&output), 2, "{}", said(&output));
    }
}

/// A hook as pre-commit runs it: the entry, its arguments, the files.
fn hook(dir: &TempDir, id: &str, args: Option<&[&str]>, files: &[&str]) -> Output {
    let hooks = yaml(".pre-commit-hooks.yaml");
    let hook =
        hooks.as_sequence().unwrap().iter().find(|h| text(&h["id"]) == id).unwrap_or_else(|| panic!("no hook {id}"));
    let mut words: Vec<String> = text(&hook["entry"]).split(' ').map(str::to_owned).collect();
    if text(&hook["language"]) == "script" {
        words[0] = root().join(&words[0]).display().to_string();
    }
    match args {
        Some(args) => words.extend(args.iter().map(ToString::to_string)),
        None if hook["args"].is_null() => {}
        None => words.extend(texts(&hook["args"])),
    }
    let pattern = regex::Regex::new(&text(&hook["files"])).unwrap();
    words.extend(files.iter().filter(|f| pattern.is_match(f)).map(ToString::to_string));
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).current_dir(dir).env("PATH", path()).env_remove("GITHUB_STEP_SUMMARY");
    let output = command.output().unwrap();
    untouched(dir);
    output
}

#[test]
fn hooks_stop_a_commit() {
    let (dir, inner) = place();
    let (model, pruned) = (inside("net.onnx"), inside("net.pruned.onnx"));
    // With the limits of the hook, and those of the example.
    let example = yaml("ci/pre-commit-config.yaml");
    let hooks = example["repos"][0]["hooks"].as_sequence().unwrap();
    for used in hooks {
        let args = (!used["args"].is_null()).then(|| texts(&used["args"]));
        let args: Option<Vec<&str>> = args.as_ref().map(|a| a.iter().map(String::as_str).collect());
        let output = hook(&dir, &text(&used["id"]), args.as_deref(), &[&model, &pruned, "README.md"]);
        assert_eq!(code(&output), 0, "{}", said(&output));
    }
    assert_eq!(code(&hook(&dir, "onnx-prune-check", None, &[&pruned])), 0);

    let output = hook(&dir, "onnx-prune-check", Some(&["--max-macs", "0.1", "--"]), &[&pruned, &model]);
    assert_eq!(code(&output), 1, "{}", said(&output));
    // A pair is judged once.
    assert_eq!(said(&output).matches("error: ").count(), 1, "{}", said(&output));
    // The original alone may break it, a model without a partner cannot.
    assert_eq!(code(&hook(&dir, "onnx-prune-check", Some(&["--max-macs", "0.1", "--"]), &[&model])), 1);
    fs::rename(inner.join("net.pruned.onnx"), inner.join("other.onnx")).unwrap();
    let alone = [model.clone(), inside("other.onnx")];
    let alone: Vec<&str> = alone.iter().map(String::as_str).collect();
    assert_eq!(code(&hook(&dir, "onnx-prune-check", Some(&["--max-macs", "0.1", "--"]), &alone)), 0);
    let output = hook(&dir, "onnx-prune-check", Some(&["--max-macs", "0.1"]), &[&pruned]);
    assert!(code(&output) == 2 && said(&output).contains("end with --"), "{}", said(&output));

    fs::write(inner.join("net.pruned.onnx"), "no model").unwrap();
    assert_eq!(code(&hook(&dir, "onnx-prune-inspect", None, &[&model])), 0);
    assert_eq!(code(&hook(&dir, "onnx-prune-inspect", None, &[&model, &pruned])), 2);
    assert_eq!(code(&hook(&dir, "onnx-prune-check", None, &[&pruned])), 2);
}
