//! What a student is compared with: its outputs, or tensors in between, beside the teacher's.

use super::loss::Losses;
use crate::canon::Analysis;
use crate::error::{Error, Result};
use crate::graph::{Origin, ValueId, is_default_domain};
use regex::Regex;

pub use crate::prune::kept::Kept;

/// Two tensors that are compared.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The student's.
    pub student: ValueId,
    /// The teacher's.
    pub teacher: ValueId,
    /// What the student still has of the teacher's, where channels were cut.
    pub keep: Option<(usize, Vec<usize>)>,
    /// Logits, for losses on classes.
    pub of_classes: bool,
}

/// The logits behind an output: what goes into a final `Softmax` or `LogSoftmax` over axis 1, else the output itself.
pub fn logits(a: &Analysis, output: ValueId) -> ValueId {
    let mut v = output;
    loop {
        let Origin::Node(id, 0) = a.graph.value(v).origin else { return v };
        let node = a.graph.node(id);
        let Some(x) = a.graph.input(id, 0).filter(|_| is_default_domain(node.domain())) else { return v };
        let rank = a.lanes[0].shapes[v.0 as usize].as_ref().map_or(0, Vec::len) as i64;
        let cx = a.cx(id, 0, &[]);
        let axis = cx.int("axis", if a.opset < 13 { 1 } else { -1 });
        let over_classes = if axis < 0 { axis + rank } else { axis } == 1 && (rank == 2 || a.opset >= 13);
        match node.op_type() {
            "Softmax" | "LogSoftmax" if over_classes => return x,
            "Identity" => v = x,
            _ => return v,
        }
    }
}

/// The first output with at least two classes on axis 1, as logits; outputs of rank 2 come first.
pub fn classes(a: &Analysis) -> Option<ValueId> {
    let outputs = a.graph.proto.output.iter().filter_map(|o| a.graph.find(o.name()));
    let logits: Vec<ValueId> = outputs.map(|v| logits(a, v)).filter(|&v| has_classes(a, v)).collect();
    let rank = |v: &&ValueId| a.lanes[0].shapes[v.0 as usize].as_ref().map_or(0, Vec::len);
    logits.iter().min_by_key(rank).copied()
}

fn has_classes(a: &Analysis, v: ValueId) -> bool {
    a.lanes[0].shapes[v.0 as usize].as_ref().is_some_and(|d| d.len() >= 2 && d.get(1).is_some_and(|&c| c >= 2))
}

fn dims<'a>(a: &'a Analysis, v: ValueId) -> &'a [usize] {
    a.lanes[0].shapes[v.0 as usize].as_deref().unwrap_or_default()
}

/// All pairs that the losses need.
///
/// # Errors
/// [`Error::Usage`] when a loss has nothing to compare, or shapes differ and nothing tells what was kept.
pub fn pairs(
    student: &Analysis,
    teacher: &Analysis,
    losses: &Losses,
    matched: Option<&Regex>,
    kept: &Kept,
) -> Result<Vec<Pair>> {
    let path = student.graph.model.path.display();
    if student.opset != teacher.opset {
        return Err(Error::Usage(format!(
            "{path} has operator set {}, its teacher {} has {}; a teacher of the same operator set is needed",
            student.opset,
            teacher.graph.model.path.display(),
            teacher.opset
        )));
    }
    let wants = |of_classes: bool| losses.0.iter().any(|(k, _)| k.needs_teacher() && k.of_classes() == of_classes);
    let mut all = Vec::new();
    let outputs =
        |a: &Analysis| -> Vec<ValueId> { a.graph.proto.output.iter().filter_map(|o| a.graph.find(o.name())).collect() };
    let others = outputs(teacher);
    for (i, s) in outputs(student).into_iter().enumerate() {
        let name = &student.graph.value(s).name;
        let same = others.iter().copied().find(|&t| teacher.graph.value(t).name == *name);
        let Some(t) = same.or_else(|| others.get(i).copied()) else { continue };
        if wants(true) {
            let (s, t) = (logits(student, s), logits(teacher, t));
            if has_classes(student, s) && dims(student, s) == dims(teacher, t) {
                all.push(Pair { student: s, teacher: t, keep: None, of_classes: true });
            }
        }
        if wants(false) && matched.is_none() {
            if dims(student, s) != dims(teacher, t) || dims(student, s).is_empty() {
                return Err(Error::Usage(format!(
                    "{path}: output {name:?} has shape {:?}, its teacher's has {:?}",
                    dims(student, s),
                    dims(teacher, t)
                )));
            }
            all.push(Pair { student: s, teacher: t, keep: None, of_classes: false });
        }
    }
    if let Some(regex) = matched.filter(|_| wants(false)) {
        for (i, v) in student.graph.values.iter().enumerate() {
            let made = matches!(v.origin, Origin::Node(..)) && regex.is_match(&v.name);
            let Some(t) = teacher.graph.find(&v.name).filter(|_| made) else { continue };
            let s = ValueId(i as u32);
            if dims(student, s).is_empty() || dims(teacher, t).is_empty() {
                continue;
            }
            let keep = cut(student, teacher, s, t, kept)?;
            all.push(Pair { student: s, teacher: t, keep, of_classes: false });
        }
    }
    for of_classes in [true, false] {
        if wants(of_classes) && all.iter().all(|p| p.of_classes != of_classes) {
            let what = match (of_classes, matched) {
                (true, _) => {
                    "the loss kl compares classes on the second axis, and no output has such; use mse".to_owned()
                }
                (false, Some(r)) => format!("--match {r}: no tensor of that name is in both models"),
                (false, None) => "there is no output to compare".to_owned(),
            };
            return Err(Error::Usage(format!("{path}: {what}")));
        }
    }
    Ok(all)
}

/// What the student's tensor has of the teacher's.
fn cut(
    student: &Analysis,
    teacher: &Analysis,
    s: ValueId,
    t: ValueId,
    kept: &Kept,
) -> Result<Option<(usize, Vec<usize>)>> {
    let (ds, dt) = (dims(student, s), dims(teacher, t));
    if ds == dt {
        return Ok(None);
    }
    let name = &student.graph.value(s).name;
    let fits = |(axis, keep): &&(usize, Vec<usize>)| {
        ds.len() == dt.len()
            && ds.iter().zip(dt).enumerate().all(|(a, (x, y))| if a == *axis { *x == keep.len() } else { x == y })
            && keep.iter().all(|&k| dt.get(*axis).is_some_and(|&n| k < n))
    };
    match kept.get(name).filter(fits) {
        Some(keep) => Ok(Some(keep.clone())),
        None => Err(Error::Usage(format!(
            "tensor {name:?} has shape {ds:?} in {} and {dt:?} in its teacher; give the plan that cut it with --plan, or a \
             --match that leaves it out",
            student.graph.model.path.display()
        ))),
    }
}
