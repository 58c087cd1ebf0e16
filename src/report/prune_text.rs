//! The result of a pruning run as Markdown and as JUnit XML.

use super::check_text::{cases, markdown_parts, markdown_table, verdict};
use super::diff_markdown::escape;
use super::text::{bytes, count, percent};
use super::{AccuracyReport, PruneReport};
use crate::error::Result;

/// Sizes, limits, groups, and what limits rest on.
pub fn markdown(r: &PruneReport) -> String {
    let to = if r.pruned.path.is_empty() { "(nothing written)".into() } else { escape(&r.pruned.path) };
    let mut out = format!("# {} → {to}", escape(&r.original.path));
    if !r.gates.is_empty() {
        out += &format!(": {}", verdict(&r.gates));
    }
    out += "\n\n";
    out += &markdown_table(&r.gates);
    if !r.gates.is_empty() {
        out.push('\n');
    }
    out += &totals(r);
    out += &format!("\n**Budget**: {}; reached {:.4}\n", escape(&r.budget), r.ratio_reached);
    if let Some(missed) = &r.missed {
        out += &format!("\n**Budget missed**: {}\n", escape(missed));
    }
    out += &format!("\n**Verified**: {} ({})\n", escape(&r.verify.note), escape(&r.verify.runtime));
    out += &r.accuracy.as_ref().map(accuracy).unwrap_or_default();
    for note in &r.notes {
        out += &format!("\n**Note**: {}\n", escape(note));
    }
    out += &super::rounds_text::markdown(&r.rounds);
    out += &groups(r);
    out += &markdown_parts(r.comparison.as_ref(), r.latency.as_ref());
    out + &format!("\n{}\n", r.tool)
}

fn totals(r: &PruneReport) -> String {
    let (a, b) = (&r.original, &r.pruned);
    let left = r.channels_prunable.saturating_sub(r.channels_removed);
    let row = |name: &str, a: u64, b: u64, words: fn(u64) -> String| {
        format!("| {name} | {} | {} | {} |\n", words(a), words(b), percent(b as f64, a as f64))
    };
    let mut out = "| | before | after | stays |\n|---|---:|---:|---:|\n".to_owned();
    out += &row("MACs", a.macs, b.macs, count);
    out += &row("Parameters", a.params, b.params, count);
    // Of a model that is not written, the size that it would have.
    let size = if b.bytes > 0 { b.bytes } else { r.models.as_ref().map_or(0, |m| m.pruned.bytes) };
    if size > 0 {
        out += &row("File size", a.bytes, size, bytes);
    }
    out + &row("Prunable channels", r.channels_prunable as u64, left as u64, |n| n.to_string())
}

fn accuracy(a: &AccuracyReport) -> String {
    let on = a.samples.map_or(String::new(), |n| format!(" on {n} samples"));
    format!(
        "\n**Accuracy**: {} {:.4} → {:.4}{on}, a drop of {:.2} points\n",
        escape(&a.metric),
        a.original,
        a.pruned,
        a.drop
    )
}

fn groups(r: &PruneReport) -> String {
    if r.groups.is_empty() {
        return String::new();
    }
    let mut out = "\n## Groups\n\n| group | layers | channels | why |\n|---|---:|---:|---|\n".to_owned();
    for g in &r.groups {
        out += &format!(
            "| {} | {} | {} → {} | {} |\n",
            escape(&g.id),
            g.layers.len(),
            g.channels_before,
            g.channels_after,
            escape(&g.reason)
        );
    }
    out
}

/// One test case a limit.
///
/// # Errors
/// When it cannot be written.
pub fn junit(r: &PruneReport) -> Result<String> {
    let to = r.models.as_ref().map_or(r.pruned.path.as_str(), |m| m.pruned.path.as_str());
    cases("onnx-prune", &format!("{} → {to}", r.original.path), &r.gates)
}
