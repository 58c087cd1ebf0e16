//! The command: stops and goes on, diverges, gives up, refuses; and training between rounds of pruning.

use super::build::run::{names, ok, refused, run};
use super::build::{info, node};
use super::{load, net, place, values};
use onnx_prune::onnx::proto::attribute_proto::AttributeType;
use onnx_prune::onnx::proto::{AttributeProto, GraphProto, TensorProto};
use prost::Message;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

const TRACT: &str = "--runtime tract";

fn json(dir: &TempDir, name: &str) -> Value {
    serde_json::from_slice(&fs::read(dir.path().join(name)).unwrap()).unwrap()
}

/// The step that a checkpoint was written behind.
fn step_of(path: &Path) -> Option<u64> {
    let bytes = fs::read(path).ok()?;
    let n = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?) as usize;
    let header: Value = serde_json::from_slice(bytes.get(8..8 + n)?).ok()?;
    let progress: Value = serde_json::from_str(header["__metadata__"]["progress"].as_str()?).ok()?;
    progress["step"].as_u64()
}

#[test]
fn kill_and_resume_in_the_middle_of_an_epoch_gives_the_same_final_bytes() {
    let dir = place("residual.bn.onnx");
    let per = 10;
    let args = format!(
        "train net.onnx --teacher net.onnx --data images.npz --samples 176 --batch 16 --epochs 3 --loss kl=1,ce=0.5 \
         --optimizer adamw --weight-decay 0.01 --augment flip,crop=2 {TRACT}"
    );
    let whole = json_of(&ok(&dir, &format!("{args} --json -o whole.onnx")));
    assert_eq!((&whole["steps_per_epoch"], &whole["held_back"]), (&Value::from(per), &Value::from(16)));
    let file = dir.path().join("c.safetensors");
    let kept = "--checkpoint c.safetensors --checkpoint-every 0";
    let killed = |wanted: u64| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_onnx-prune"))
            .current_dir(&dir)
            .args(format!("{args} {kept} -o out.onnx").split_whitespace())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while step_of(&file).is_none_or(|s| s < wanted) {
            assert!(child.try_wait().unwrap().is_none(), "it ended before it could be killed");
            std::thread::sleep(Duration::from_millis(2));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        step_of(&file).unwrap()
    };
    let mut at = killed(per + 3);
    // Twice, and never between two epochs.
    at = killed(at + 2);
    while at % per == 0 {
        at = killed(at + 1);
    }
    assert!(at > per && at < 3 * per, "{at}");
    assert!(!names(&dir).contains(&"out.onnx".into()));
    for other in ["--lr 0.002", "--seed 1", "--mean 0.1", "--clip 1"] {
        let words = ["c.safetensors", "another model, other data or other options", "remove it"];
        refused(&dir, &format!("{args} {kept} {other} -o out.onnx"), &words);
    }
    let resumed = json_of(&ok(&dir, &format!("{args} {kept} --json -o out.onnx")));
    let bytes = |name: &str| fs::read(dir.path().join(name)).unwrap();
    assert!(bytes("whole.onnx") == bytes("out.onnx"), "taken up at step {at}");
    assert!(!file.exists(), "removed at the end");
    let told = |v: &Value| -> Vec<Value> {
        let mut epochs = v["epochs"].as_array().unwrap().clone();
        epochs.iter_mut().for_each(|e| e["seconds"] = Value::Null);
        epochs
    };
    assert_eq!(told(&whole), told(&resumed));
    assert_eq!((&whole["before"], &whole["best_epoch"]), (&resumed["before"], &resumed["best_epoch"]));
    fs::write(&file, "no checkpoint").unwrap();
    refused(&dir, &format!("{args} {kept} -o out.onnx"), &["c.safetensors", "no checkpoint"]);
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn divergence_names_the_tensor_and_keeps_the_best() {
    let dir = place("residual.folded.onnx");
    let args = format!("train net.onnx --data images.npz --samples 64 --batch 16 --hold-back 0 --warmup 0 {TRACT}");
    let before = names(&dir);
    let ran = run(&dir, &format!("{args} --epochs 1 --lr 1e25 -o out.onnx"));
    let error = |err: &str| err.lines().filter(|l| l.starts_with("error: ")).map(str::to_owned).collect::<Vec<_>>();
    let lines = error(&ran.err);
    assert!(ran.code == 1 && lines.len() == 1, "{}: {}", ran.code, ran.err);
    for words in
        ["diverged at step 2, in epoch 1", "the first tensor to go wrong is \"", "made by", "no model was written"]
    {
        assert!(lines[0].contains(words), "{words:?} is not in {}", lines[0]);
    }
    assert_eq!(names(&dir), before);
    // The rate leaps in the third epoch.
    let ran = run(&dir, &format!("{args} --epochs 4 --schedule step=2:1e27 -o out.onnx --report r.json"));
    let lines = error(&ran.err);
    assert!(ran.code == 1 && lines.len() == 1, "{}: {}", ran.code, ran.err);
    for words in ["in epoch 3", "the first tensor to go wrong", "the best state, of epoch 2, is in out.onnx"] {
        assert!(lines[0].contains(words), "{words:?} is not in {}", lines[0]);
    }
    ok(&dir, &format!("{args} --epochs 2 --schedule constant -o two.onnx"));
    assert_eq!(load(&dir, "two.onnx"), load(&dir, "out.onnx"));
    let report = json(&dir, "r.json");
    assert_eq!((&report["stopped"]["reason"], &report["best_epoch"]), (&"diverged".into(), &2.into()));
}

#[test]
fn what_makes_nothing_better_ends_early_and_leaves_the_values() {
    let dir = place("residual.bn.onnx");
    // On held-back samples the model agrees with itself in full, and the statistics of batches move it away.
    let args = format!(
        "train net.onnx --teacher net.onnx --loss mse --data images.npz --samples 80 --batch 16 --hold-back 0.2 --patience 2 \
         --epochs 5 {TRACT} -o out.onnx --json"
    );
    let told = json_of(&ok(&dir, &args));
    let epochs = told["epochs"].as_array().unwrap();
    assert_eq!((epochs.len(), &told["best_epoch"], &told["stopped"]["reason"]), (2, &0.into(), &"no-progress".into()));
    let before = told["before"]["loss"].as_f64().unwrap();
    assert!(before < 1e-9 && epochs.iter().all(|e| e["held"]["loss"].as_f64().unwrap() > 1e-9), "{told}");
    let (old, new) = (load(&dir, "net.onnx"), load(&dir, "out.onnx"));
    assert_eq!(values(&old), values(&new));
    assert_eq!(old.node, new.node);
}

#[test]
fn what_cannot_be_trained_is_refused() {
    let dir = place("residual.folded.onnx");
    let put = |name: &str, proto: onnx_prune::onnx::proto::ModelProto| {
        fs::write(dir.path().join(name), proto.encode_to_vec()).unwrap();
    };
    let mut older = net();
    older.opset_import[0].version = Some(17);
    put("older.onnx", older);
    let mut branches = net();
    let body = |w: &str| GraphProto {
        name: Some(w.into()),
        node: vec![node("Relu", "inner", &["b.y"], &["inner.y"])],
        output: vec![info("inner.y", &[-1, 3, 5, 5])],
        ..Default::default()
    };
    let graph = branches.graph.as_mut().unwrap();
    let yes = TensorProto { name: Some("yes".into()), data_type: Some(9), int32_data: vec![1], ..Default::default() };
    graph.initializer.push(yes);
    let mut either = node("If", "either", &["yes"], &["b.i"]);
    either.attribute = ["then_branch", "else_branch"]
        .map(|name| AttributeProto {
            name: Some(name.into()),
            r#type: Some(AttributeType::Graph.into()),
            g: Some(body(name)),
            ..Default::default()
        })
        .into();
    graph.node[4].input[0] = "b.i".into();
    graph.node.insert(4, either);
    put("branches.onnx", branches);
    let base = format!("--data x.npy --batch 8 --epochs 1 {TRACT} -o out.onnx");
    let taught = format!("--teacher teacher.onnx {base}");
    for (args, words) in [
        (format!("small.onnx --loss ce {base}"), &["ce needs labels"][..]),
        (format!("small.onnx --loss kl {base}"), &["compares with a teacher", "--teacher"]),
        (format!("small.onnx {base}"), &["nothing says what is right", "--teacher"]),
        (format!("small.onnx --teacher older.onnx {base}"), &["operator set 18", "older.onnx has 17"]),
        (
            format!("small.onnx {taught} --batch 64").replace("--batch 8 ", ""),
            &["x.npy", "32 samples", "64", "--batch"],
        ),
        (format!("branches.onnx {taught}"), &["branches.onnx", "\"either\"", "subgraphs"]),
        (format!("small.onnx {taught} --freeze ."), &["small.onnx", "nothing is left to train", "--freeze"]),
        (format!("small.onnx {taught} --match nowhere --loss mse"), &["nowhere"]),
        (format!("small.onnx {taught} --augment crop=9"), &["crop"]),
    ] {
        refused(&dir, &format!("train {args}"), words);
    }
}

#[test]
fn pruning_in_rounds_trains_after_each() {
    let dir = place("residual.folded.onnx");
    let base = format!("net.onnx --target-macs 0.5 --data images.npz --samples 96 --batch 16 {TRACT}");
    ok(&dir, &format!("{base} --steps 2 --finetune 1 --report r.json -o out.onnx"));
    let report = json(&dir, "r.json");
    let rounds = report["rounds"].as_array().unwrap();
    assert_eq!(rounds.len(), 2, "{report}");
    let macs = |v: &Value| v["macs"].as_f64().unwrap();
    let whole = macs(&report["original"]);
    assert!((rounds[0]["aim"].as_f64().unwrap() - 0.5f64.sqrt()).abs() < 1e-9 && rounds[1]["aim"] == 0.5);
    for round in rounds {
        let (share, aim) = (macs(round) / whole, round["aim"].as_f64().unwrap());
        assert!((share - aim).abs() < 0.06, "{round}: {share} of the macs");
        assert_eq!(round["epochs"], 1);
        assert!(round["loss_before"].as_f64().is_some() && round["loss_after"].as_f64().is_some(), "{round}");
    }
    assert_eq!(macs(&report["pruned"]), macs(&rounds[1]));
    let params = |name: &str| values(&load(&dir, name)).values().map(Vec::len).sum::<usize>();
    assert!(params("out.onnx") < params("net.onnx"));
    for (flags, word) in [("--save-plan p.json", "--save-plan"), ("--dry-run", "--dry-run")] {
        refused(&dir, &format!("{base} --finetune 1 {flags}"), &["--finetune", word]);
    }
    let threshold = base.replace("--target-macs 0.5", "--threshold 0.1");
    refused(&dir, &format!("{threshold} --finetune 1"), &["--finetune", "threshold"]);
    refused(&dir, &format!("{base} --lr 0.1"), &["--lr", "--finetune"]);
}

#[test]
fn data_files_are_not_written_over() {
    let dir = place("residual.folded.onnx");
    ok(&dir, "net.onnx --ratio 0 --external-data -o big.onnx");
    fs::rename(dir.path().join("big.onnx"), dir.path().join("in.onnx")).unwrap();
    let base = format!("train in.onnx --loss ce --data images.npz --samples 64 --batch 16 --epochs 1 {TRACT}");
    refused(&dir, &format!("{base} -o big.onnx"), &["big.onnx.data", "would overwrite"]);
    ok(&dir, &format!("{base} -o out.onnx"));
    assert!(dir.path().join("out.onnx.data").exists());
    assert_eq!(values(&load(&dir, "out.onnx")).len(), values(&load(&dir, "in.onnx")).len());
    refused(&dir, &format!("{base} --hold-back 0 --patience 2 -o out.onnx"), &["--patience", "--hold-back 0"]);
}
