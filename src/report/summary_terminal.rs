//! The table of `onnx-prune inspect --summary`.

use super::text::{self, plural, shorten};
use crate::inspect::summary::{ModelSummary, Summary};

/// The table, and below it what needs words: failures, missed targets, numbers that were not compared.
pub fn summary(s: &Summary, width: u16) -> String {
    // Seven columns need room, and a table of many models is mostly read from a file.
    let width = width.max(120);
    let name = usize::from(width) * 2 / 5;
    let mut names: Vec<&str> = s.models.iter().map(|m| m.path.as_str()).collect();
    // A folder that all share says nothing.
    if let Some(shared) = names.first().and_then(|n| n.rfind('/').map(|at| &n[..=at]))
        && names.len() > 1
        && names.iter().all(|n| n.strip_prefix(shared).is_some_and(|rest| !rest.contains('/')))
    {
        names = names.into_iter().map(|n| n.strip_prefix(shared).unwrap_or(n)).collect();
    }
    let rows = s.models.iter().zip(&names).map(|(m, n)| row(m, &shorten(n, name)));
    let reached = format!("at {}", s.target_macs);
    let header = ["model", "nodes", "prunable MACs", &reached, "twin", "analysis", "total"];
    let mut out = text::table(&header, rows.collect(), &[1, 2, 3, 4, 5, 6], width);
    for (m, n) in s.models.iter().zip(&names) {
        words(m, n, width, &mut out);
    }
    out.push('\n');
    out += &totals(s);
    out
}

fn row(m: &ModelSummary, name: &str) -> Vec<String> {
    let failed = if m.bad_input { "not read" } else { "FAILED" };
    let (reached, twin) = match (&m.error, m.reached) {
        (Some(_), _) => (failed.into(), String::new()),
        (None, None) => ("no MACs".into(), String::new()),
        (None, Some(r)) => {
            let missed = if m.missed.is_some() { " (missed)" } else { "" };
            (format!("{r:.3}{missed}"), m.twin_difference.map_or("not compared".into(), difference))
        }
    };
    vec![
        name.to_owned(),
        m.nodes.to_string(),
        text::percent(m.prunable_macs, 1.0),
        reached,
        twin,
        text::milliseconds(m.analysis_ms),
        text::milliseconds(m.total_ms),
    ]
}

fn words(m: &ModelSummary, name: &str, width: u16, out: &mut String) {
    let mut say = |text: &str| {
        out.push('\n');
        *out += &format!("{name}\n");
        *out += &text::field("", text, width);
    };
    if let Some(e) = &m.error {
        return say(e);
    }
    if let Some(missed) = &m.missed {
        let reasons = m.pinned_by.iter().map(|p| {
            format!(
                "\n• {} {} holds {}, e.g. {}: {}",
                p.op,
                p.node,
                plural(p.layers.len(), "layer"),
                p.example,
                p.reason
            )
        });
        let reasons: Vec<String> = reasons.collect();
        say(missed);
        for r in reasons {
            *out += &text::field("", &r, width);
        }
    }
    if m.twin_difference.is_none() && m.reached.is_some() {
        out.push('\n');
        *out += &format!("{name}\n");
        *out += &text::field("", &m.note, width);
    }
}

fn totals(s: &Summary) -> String {
    let count = |f: &dyn Fn(&ModelSummary) -> bool| s.models.iter().filter(|m| f(m)).count();
    let failed = count(&|m| m.error.is_some() && !m.bad_input);
    let unread = count(&|m| m.error.is_some() && m.bad_input);
    let missed = count(&|m| m.missed.is_some());
    let equal = count(&|m| m.twin_difference.is_some());
    let not = count(&|m| m.error.is_none() && m.twin_difference.is_none());
    format!(
        "{}: {equal} equal to the masked original, {not} not compared, {failed} failed, {unread} not read; {missed} missed the \
         target.\n",
        plural(s.models.len(), "model")
    )
}

fn difference(d: f64) -> String {
    if d == 0.0 { "0".into() } else { format!("{d:.1e}") }
}
