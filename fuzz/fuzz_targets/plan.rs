//! Any bytes as a plan file, applied to a fixed model. The first byte picks the model and whether the rest is the text of
//! the plan itself or changes to a valid one.

#![no_main]

use libfuzzer_sys::fuzz_target;
use onnx_prune::plan::{self, PlanFile};
use onnx_prune::{rewrite, verify};
use onnx_prune_fuzz::{guard::Guard, invariants, plans, script::Bytes, script::RECORD};
use serde_json::Value;

#[global_allocator]
static GUARD: Guard = Guard;

fuzz_target!(|data: &[u8]| {
    let Some((&first, rest)) = data.split_first() else { return };
    let all = plans::fixed();
    let f = &all[usize::from(first >> 1) % all.len()];
    let file = if first & 1 == 0 {
        let Ok(text) = std::str::from_utf8(rest) else { return };
        plan::parse(text, "p.json")
    } else {
        let (seed, rest) = rest.split_first().unwrap_or((&0, &[]));
        let mut json = serde_json::to_value(plans::valid(f, u64::from(*seed))).unwrap();
        rest.chunks(RECORD).take(32).for_each(|r| change(&mut json, &mut Bytes(r)));
        plan::parse(&json.to_string(), "p.json")
    };
    let file = match file {
        Ok(file) => file,
        Err(e) => return assert!(!invariants::is_finding(&e), "{e}"),
    };
    apply(f, &file);
});

fn apply(f: &plans::Fixed, file: &PlanFile) {
    let (t, ch) = (&f.traced, &f.traced.trace.channels);
    let gone = match plan::from_file(ch, file) {
        Ok(gone) => gone,
        Err(e) => return assert!(!invariants::is_finding(&e), "{e}"),
    };
    let removed = plan::removed_indices(ch, &gone);
    let pruned = rewrite::rewrite(&t.analysis, &t.trace, &removed).unwrap_or_else(|e| panic!("rewrite: {e}"));
    rewrite::mask(&t.analysis, &t.trace, &removed).unwrap_or_else(|e| panic!("mask: {e}"));
    verify::check_interface(f.model, &pruned).unwrap_or_else(|e| panic!("interface: {e}"));
    invariants::structure(t, &removed, &pruned, true);
    let written = plan::to_file(ch, &gone, "", "none", "fuzz");
    let back = plan::from_file(ch, &written).unwrap_or_else(|e| panic!("written back: {e}"));
    assert_eq!(back, gone, "the plan reads back otherwise than it was written");
}

/// Changes one place of the plan's tensors.
fn change(json: &mut Value, b: &mut Bytes) {
    let how = b.u8() % 12;
    match how {
        0 => json["schema"] = number(b),
        1 => json["groups"] = number(b),
        _ => {}
    }
    let Some(tensors) = json.get_mut("tensors").and_then(Value::as_object_mut) else { return };
    let keys: Vec<String> = tensors.keys().cloned().collect();
    let Some(key) = keys.get(b.of_many(keys.len())) else { return };
    let other = keys[b.of(keys.len())].clone();
    match how {
        2 => drop(tensors.remove(key)),
        3 => {
            let Some(moved) = tensors.get(key).cloned() else { return };
            tensors.insert(other, moved);
        }
        4 => drop(tensors.insert(format!("{key}x"), Value::Null)),
        _ => {
            let Some(axes) = tensors.get_mut(key).and_then(Value::as_object_mut) else { return };
            let names: Vec<String> = axes.keys().cloned().collect();
            let Some(axis) = names.get(b.of(names.len())) else { return };
            match how {
                5 => drop(axes.remove(axis)),
                6 => {
                    let Some(moved) = axes.remove(axis) else { return };
                    let to = match number(b) {
                        Value::Number(n) => n.to_string(),
                        _ => "00".into(),
                    };
                    axes.insert(to, moved);
                }
                _ => list(&mut axes[axis], how, b),
            }
        }
    }
}

fn list(value: &mut Value, how: u8, b: &mut Bytes) {
    if let Value::Array(all) = value {
        let at = b.of(all.len());
        match (how, all.get_mut(at)) {
            (11, Some(inner @ Value::Array(_))) => list(inner, 7 + b.u8() % 4, b),
            (7, _) => all.push(number(b)),
            (8, Some(_)) => drop(all.remove(at)),
            (9, Some(v)) => *v = number(b),
            (10, Some(v)) => {
                let v = v.clone();
                all.push(v);
            }
            _ => *value = Value::Array(vec![value.clone()]),
        }
    }
}

fn number(b: &mut Bytes) -> Value {
    match b.u8() % 8 {
        0 => Value::from(b.number()),
        1 => Value::from(u64::MAX),
        2 => Value::from(0.5),
        3 => Value::from("3"),
        _ => Value::from(b.u8() % 32),
    }
}
