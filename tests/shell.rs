//! The shell manners: completions, manual pages, colours, logs, suggestions.

mod build;

use build::run::{fixture, names, ok, run, with_net};
use std::fs;
use std::process::Command;
use std::process::{Command as Process, Stdio};
use tempfile::TempDir;

const COMMANDS: [&str; 13] = [
    "inspect",
    "data",
    "sensitivity",
    "diff",
    "check",
    "train",
    "bench",
    "calibrate",
    "merge",
    "sweep",
    "runtimes",
    "completions",
    "man",
];

const ESCAPE: char = '\u{1b}';

/// Standard output and error of a run with these variables and no others that matter here.
fn with(dir: &TempDir, variables: &[(&str, &str)], args: &str) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_onnx-prune"));
    for name in ["COLUMNS", "NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "ONNX_PRUNE_LOG"] {
        command.env_remove(name);
    }
    command.current_dir(dir).args(args.split_whitespace()).envs(variables.iter().copied());
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// Whether a program is installed.
fn installed(program: &str) -> bool {
    let found = Process::new("sh").args(["-c", &format!("command -v {program}")]).stdout(Stdio::null()).status();
    let found = found.is_ok_and(|s| s.success());
    if !found {
        println!("SKIPPED: {program} is not installed");
    }
    found
}

#[test]
fn completions_know_every_command() {
    let dir = TempDir::new().unwrap();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = ok(&dir, &format!("completions {shell}"));
        for command in COMMANDS {
            assert!(script.contains(command), "{shell}: {command}");
        }
        for flag in ["target-macs", "min-speedup", "color"] {
            assert!(script.contains(flag), "{shell}: {flag}");
        }
        let path = dir.path().join(shell);
        fs::write(&path, &script).unwrap();
        let reads = match shell {
            "bash" | "zsh" | "fish" if installed(shell) => Process::new(shell).arg("-n").arg(&path).output(),
            _ => continue,
        };
        let reads = reads.unwrap();
        assert!(reads.status.success(), "{shell}: {}", String::from_utf8_lossy(&reads.stderr));
    }
    let (code, _, err) = with(&dir, &[], "completions bsh");
    assert_eq!(code, 2);
    assert!(err.contains("'bash'"), "{err}");
}

/// The script as bash runs it.
#[test]
fn bash_completes() {
    if !installed("bash") {
        return;
    }
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("script"), ok(&dir, "completions bash")).unwrap();
    let complete = |words: &str| {
        let script = format!(
            ". ./script; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _onnx__prune onnx-prune \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"; \
             printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        let done = Process::new("bash").args(["-c", &script]).current_dir(&dir).output().unwrap();
        String::from_utf8(done.stdout).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(complete("onnx-prune insp"), ["inspect"]);
    assert_eq!(complete("onnx-prune bench --min-sp"), ["--min-speedup"]);
    assert!(complete("onnx-prune --target-").len() >= 3);
}

#[test]
fn manual_pages_are_whole_and_reproducible() {
    let dir = TempDir::new().unwrap();
    let main = ok(&dir, "man");
    assert!(main.contains("Examples") && main.contains("target\\-macs"), "{main}");
    assert_eq!(ok(&dir, "man pages"), "");
    let folder = dir.path().join("pages");
    let mut found: Vec<String> =
        fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    found.sort();
    let mut expected: Vec<String> = COMMANDS.iter().map(|c| format!("onnx-prune-{c}.1")).collect();
    expected.push("onnx-prune.1".into());
    expected.sort();
    assert_eq!(found, expected);
    ok(&dir, "man again");
    for name in &found {
        let page = fs::read(folder.join(name)).unwrap();
        assert!(page == fs::read(dir.path().join("again").join(name)).unwrap(), "{name}");
        if !installed("groff") {
            continue;
        }
        let made = Process::new("groff").args(["-ww", "-man", "-Tutf8", "-K", "utf8"]).arg(folder.join(name)).output();
        let made = made.unwrap();
        assert!(made.status.success() && made.stderr.is_empty(), "{name}: {}", String::from_utf8_lossy(&made.stderr));
        assert!(String::from_utf8_lossy(&made.stdout).contains("onnx-prune"), "{name}");
    }
    fs::write(dir.path().join("file"), "").unwrap();
    let (code, _, err) = with(&dir, &[], "man file");
    assert_eq!(code, 2);
    assert!(err.contains("file"), "{err}");
}

#[test]
fn colours_are_for_those_who_look() {
    let dir = with_net();
    let plain = ok(&dir, "inspect net.onnx");
    assert!(!plain.contains(ESCAPE));
    let (_, forced, _) = with(&dir, &[("CLICOLOR_FORCE", "1")], "inspect net.onnx");
    assert!(forced.contains(ESCAPE), "{forced}");
    assert_eq!(anstream::adapter::strip_str(&forced).to_string(), plain, "colours change no text");
    let (_, asked, _) = with(&dir, &[], "inspect net.onnx --color always");
    assert_eq!(asked, forced);
    for (variables, args) in [
        (&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")][..], "inspect net.onnx"),
        (&[("CLICOLOR_FORCE", "1")][..], "inspect net.onnx --color never"),
        (&[][..], "inspect net.onnx --color auto"),
    ] {
        assert_eq!(with(&dir, variables, args).1, plain, "{variables:?} {args}");
    }
    // What a program reads has none, whatever is asked for.
    let (_, json, _) = with(&dir, &[("CLICOLOR_FORCE", "1")], "inspect net.onnx --format json --color always");
    assert_eq!(json, ok(&dir, "inspect net.onnx --format json"));
    let (code, _, err) = with(&dir, &[], "inspect none.onnx --color always");
    assert_eq!((code, err.contains(ESCAPE)), (2, true), "{err}");
    let (_, _, err) = with(&dir, &[("CLICOLOR_FORCE", "1")], "inspect --nothing --color never");
    assert!(!err.contains(ESCAPE), "{err}");
}

#[test]
fn verdicts_are_coloured() {
    let dir = with_net();
    ok(&dir, "net.onnx --ratio 0.4 -o small.onnx");
    let (code, out, err) = with(&dir, &[], "check net.onnx small.onnx --max-macs 0.1 --max-params 0.9 --color always");
    assert_eq!(code, 1);
    let codes = |style: anstyle::Style, word: &str| format!("{style}{word}{style:#}");
    let (red, green) = (anstyle::AnsiColor::Red.on_default().bold(), anstyle::AnsiColor::Green.on_default());
    assert!(out.contains(&codes(red, "broken")) && out.contains(&codes(green, "kept")), "{out}");
    assert!(err.starts_with(&codes(red, "error:")), "{err}");
}

#[test]
fn logs_go_to_the_standard_error_alone() {
    let dir = with_net();
    let asked = "net.onnx --ratio 0.4 --json -o out.onnx";
    let figures = |text: &str| {
        let mut json: serde_json::Value = serde_json::from_str(text).unwrap();
        json["timings_ms"].take();
        json
    };
    let (_, out, err) = with(&dir, &[], asked);
    assert_eq!(err, "", "nothing unless asked for");
    let model = fs::read(dir.path().join("out.onnx")).unwrap();
    let (code, told, log) = with(&dir, &[], &format!("{asked} -v"));
    assert_eq!((code, figures(&told)), (0, figures(&out)), "only the times differ");
    assert_eq!(fs::read(dir.path().join("out.onnx")).unwrap(), model);
    let mut expected = vec!["model loaded", "net.onnx", "nodes=", "stage{name=\"score\"}", "time.busy=", "model saved"];
    if cfg!(feature = "tract") {
        expected.push("verified runtime=\"tract");
    }
    for words in expected {
        assert!(log.contains(words), "{words}: {log}");
    }
    assert!(!log.contains("DEBUG"), "{log}");
    let (_, _, more) = with(&dir, &[], &format!("-vv {asked}"));
    assert!(more.contains("DEBUG") && more.contains("groups="), "{more}");
    // To the last byte, where there are no times.
    let (_, table, _) = with(&dir, &[], "inspect net.onnx -vv");
    assert_eq!(table, ok(&dir, "inspect net.onnx"));
}

#[test]
fn the_log_can_be_asked_for_by_its_variable() {
    let dir = with_net();
    let (code, _, log) = with(&dir, &[("ONNX_PRUNE_LOG", "onnx_prune::onnx=info")], "inspect net.onnx");
    assert_eq!(code, 0);
    assert!(log.contains("model loaded") && !log.contains("stage"), "{log}");
    let (_, _, log) = with(&dir, &[("ONNX_PRUNE_LOG", "off")], "inspect net.onnx -v");
    assert_eq!(log, "");
    let (code, _, err) = with(&dir, &[("ONNX_PRUNE_LOG", "onnx_prune=loud")], "inspect net.onnx");
    assert_eq!(code, 2);
    assert!(err.contains("ONNX_PRUNE_LOG") && err.contains("debug"), "{err}");
    for args in ["net.onnx --ratio 0.4 -q -v", "inspect net.onnx -v -q", "bench net.onnx -qv"] {
        let (code, out, err) = with(&dir, &[], args);
        assert_eq!((code, out.as_str()), (2, ""), "{args}");
        assert!(err.contains("cannot be used with"), "{args}: {err}");
    }
}

#[test]
fn the_runtime_is_told_with_its_reason() {
    let dir = with_net();
    fs::copy(fixture("fashion_test.npz"), dir.path().join("data.npz")).unwrap();
    if !cfg!(feature = "tract") {
        return;
    }
    let asked = "diff net.onnx net.onnx --data data.npz --samples 8 --layer-samples 0 --runtime tract -v";
    let (code, _, log) = with(&dir, &[], asked);
    assert_eq!(code, 0, "{log}");
    for words in ["runtime chosen", "asked=Tract", "data opened", "samples="] {
        assert!(log.contains(words), "{words}: {log}");
    }
}

#[test]
fn what_is_near_is_suggested() {
    let dir = with_net();
    for (args, words) in [
        ("isnpect net.onnx", "\"isnpect\" is neither a command nor a file; did you mean \"inspect\"?"),
        ("runtmes", "did you mean \"runtimes\"?"),
        ("chek net.onnx net.onnx --max-macs 0.5", "did you mean \"check\"?"),
        ("net.onnx --ratoi 0.4", "'--ratio'"),
        ("bench net.onnx --min-speedpu 2", "'--min-speedup'"),
        ("net.onnx --ratio 0.4 --criterion bn-scal", "did you mean \"bn-scale\"?"),
        ("inspect net.onnx --format jsn", "'json'"),
        ("diff net.onnx net.onnx --metric tpo1", "'top1'"),
        ("runtimes --runtime tarct", "'tract'"),
    ] {
        let (code, out, err) = with(&dir, &[], args);
        assert_eq!((code, out.as_str()), (2, ""), "{args}");
        assert!(err.starts_with("error: ") && err.contains(words), "{args}: {err}");
    }
    // A file of such a name is a model.
    fs::copy(dir.path().join("net.onnx"), dir.path().join("bencj")).unwrap();
    ok(&dir, "bencj --ratio 0.4 --dry-run");
    let ran = run(&dir, "far-from-all.onnx --ratio 0.4");
    assert!(ran.code == 2 && !ran.err.contains("did you mean"), "{}", ran.err);
    assert_eq!(names(&dir), ["bencj", "net.onnx"]);
}
