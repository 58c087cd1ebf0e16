//! A training run for the terminal and as Markdown.

use super::data_terminal::number;
use super::diff_markdown::escape;
use super::diff_view;
use super::text::{self, MAX_ROWS, count, field, plural};
use crate::evaluate::metric::Metric;
use crate::train::history::{Epoch, Held, History, Trained};
use clap::ValueEnum;

/// Columns of the table of epochs, and which of the epochs are its rows.
pub(super) struct Table {
    /// Names of the columns.
    pub header: Vec<String>,
    /// Cells of each epoch that is shown.
    pub rows: Vec<Vec<String>>,
    /// Every so many epochs is shown, and the kept one and the last.
    pub every: usize,
}

/// The model, what came of each epoch, and what it rests on.
pub fn terminal(h: &History, width: u16) -> String {
    let mut out = format!("{}\n", title(h));
    let table = epochs(h, MAX_ROWS, false);
    if !table.rows.is_empty() {
        let header: Vec<&str> = table.header.iter().map(String::as_str).collect();
        let right: Vec<usize> = (0..header.len().saturating_sub(1)).collect();
        out += &format!("\n{}", text::table(&header, table.rows, &right, width));
    }
    if table.every > 1 {
        out += &format!("… one epoch in {} (--report FILE.json lists all)\n", table.every);
    }
    out.push('\n');
    for (name, words) in facts(h) {
        out += &field(name, &words, width);
    }
    for note in &h.notes {
        out += &format!("\n{}", field("Note", note, width));
    }
    out
}

/// The same for a wiki or a pull request, with every epoch.
pub fn markdown(h: &History) -> String {
    let mut out = format!("# {}\n\n", escape(&title(h)));
    for (name, words) in facts(h) {
        out += &format!("**{name}**: {}\n\n", escape(&words));
    }
    let table = epochs(h, usize::MAX, true);
    if !table.rows.is_empty() {
        let row =
            |cells: &[String]| format!("| {} |\n", cells.iter().map(|c| escape(c)).collect::<Vec<_>>().join(" | "));
        out += &row(&table.header);
        out += &format!("|{}---|\n", "---:|".repeat(table.header.len().saturating_sub(1)));
        table.rows.iter().for_each(|cells| out += &row(cells));
        out.push('\n');
    }
    for note in &h.notes {
        out += &format!("**Note**: {}\n\n", escape(note));
    }
    out + &format!("{}\n", h.tool)
}

fn title(h: &History) -> String {
    format!("{} → {}", h.model, h.written.as_deref().unwrap_or("(nothing written)"))
}

/// What is to be said beside the table, by name.
pub(super) fn facts(h: &History) -> Vec<(&'static str, String)> {
    let mut out: Vec<(&str, String)> = Vec::new();
    out.extend(h.teacher.iter().map(|t| ("Teacher", t.clone())));
    if !h.trained.is_empty() {
        out.push(("Trained", trained(&h.trained)));
    }
    let held = match h.held_back {
        0 => "none held back".to_owned(),
        n => format!("{} held back and only measured", plural(n, "more sample")),
    };
    let steps = format!("{} of {} an epoch", plural(h.steps_per_epoch, "step"), plural(h.batch, "sample"));
    out.push(("Data", format!("{}, {steps}; {held}", plural(h.samples, "sample"))));
    out.extend(result(h).map(|words| ("Result", words)));
    out.extend(removable(h).map(|words| ("Removable", words)));
    out.extend(h.stopped.iter().map(|s| ("Stopped", s.words.clone())));
    if !h.options.is_empty() {
        let all: Vec<String> = h.options.iter().map(|(name, value)| format!("{name}\u{a0}{value}")).collect();
        out.push(("Options", all.join(", ")));
    }
    let each = match h.epochs.len() {
        0 => String::new(),
        n => format!(", {} an epoch", duration(h.epochs.iter().map(|e| e.seconds).sum::<f64>() / n as f64)),
    };
    out.push(("Time", format!("{}{each}; {}", duration(h.seconds), h.runtime)));
    out
}

fn trained(all: &[Trained]) -> String {
    let (elements, tensors): (u64, usize) = (all.iter().map(|t| t.elements).sum(), all.iter().map(|t| t.tensors).sum());
    let kinds: Vec<String> = all.iter().map(|t| format!("{} {} ({})", t.tensors, t.kind, count(t.elements))).collect();
    format!("{} elements in {}: {}", count(elements), plural(tensors, "tensor"), kinds.join(", "))
}

/// What came out, and where it began.
pub(super) fn result(h: &History) -> Option<String> {
    let kept = h.kept()?;
    let kept_or_last = if h.best_epoch.is_some() { "kept" } else { "is the last" };
    let which = format!("epoch {} of {} {kept_or_last}", kept.epoch, h.epochs.len());
    let Some(held) = &kept.held else {
        let first = h.epochs.first()?;
        return Some(format!("{which}: loss {} → {} on what was trained on", number(first.loss), number(kept.loss)));
    };
    let from = h.before.as_ref();
    let change = |name: &str, from: Option<String>, to: String| match from {
        Some(from) => format!("{name} {from} → {to}"),
        None => format!("{name} {to}"),
    };
    let mut parts: Vec<String> = Vec::new();
    if let (Some(name), Some(to)) = (&held.metric_name, metric(held)) {
        parts.push(change(name, from.and_then(metric), to));
    }
    parts.push(change("loss", from.map(|f| number(f.loss)), number(held.loss)));
    Some(format!("{which}: {} on the held-back samples", parts.join(", ")))
}

/// The share of channels that can go, first and last.
pub(super) fn removable(h: &History) -> Option<String> {
    let kept = h.kept().and_then(|e| e.sparsity.as_ref())?;
    let first = h.epochs.iter().find_map(|e| Some((e.epoch, e.sparsity.as_ref()?)))?;
    let (n, first) = (first.0, share(first.1.removable_share));
    Some(format!("{} of the prunable channels can go (after epoch {n}: {first})", share(kept.removable_share)))
}

pub(super) fn share(x: f64) -> String {
    if x.is_finite() { format!("{:.1} %", 100.0 * x) } else { "–".to_owned() }
}

/// The figure of quality as its kind wants it: shares in %.
pub(super) fn metric(held: &Held) -> Option<String> {
    Some(figure(held.metric_name.as_deref(), held.metric?))
}

/// A figure of that name.
pub(super) fn figure(name: Option<&str>, x: f64) -> String {
    match name.and_then(|name| Metric::from_str(name, false).ok()) {
        Some(known) => diff_view::figure(known, x),
        None => number(x),
    }
}

/// `830 ms`, `12.40 s`, `3 min 05 s` or `2 h 07 min`.
pub(super) fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        _ if !seconds.is_finite() => "–".to_owned(),
        0..60 => text::milliseconds(seconds * 1e3),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

/// At most about `most` epochs; `full` has norms, times and all terms as well.
pub(super) fn epochs(h: &History, most: usize, full: bool) -> Table {
    let terms = h.terms();
    // One term is the loss itself.
    let terms: Vec<&str> = if terms.len() > 1 && (full || terms.len() <= 3) { terms } else { Vec::new() };
    let measured = h.epochs.iter().any(|e| e.held.is_some());
    let mut header = vec!["epoch".to_owned(), "rate".to_owned(), "loss".to_owned()];
    header.extend(terms.iter().map(|t| (*t).to_owned()));
    if full {
        header.extend(["‖gradient‖", "‖weights‖"].map(str::to_owned));
    }
    if measured {
        header.push("held back".to_owned());
        header.extend(h.metric().map(str::to_owned));
    }
    if h.sparse() {
        header.push("removable".to_owned());
    }
    header.extend(full.then(|| "time".to_owned()));
    header.push(String::new());
    let kept = h.kept().map(|e| e.epoch);
    let cells = |e: &Epoch| {
        let mut row = vec![e.epoch.to_string(), rate(e.lr), number(e.loss)];
        row.extend(terms.iter().map(|t| optional(e.terms.get(*t).map(|x| number(*x)))));
        if full {
            row.extend([number(e.gradient_norm), number(e.weight_norm)]);
        }
        if measured {
            row.push(optional(e.held.as_ref().map(|x| number(x.loss))));
            row.extend(h.metric().map(|_| optional(e.held.as_ref().and_then(metric))));
        }
        if h.sparse() {
            row.push(optional(e.sparsity.as_ref().map(|s| share(s.removable_share))));
        }
        row.extend(full.then(|| duration(e.seconds)));
        row.push(if h.best_epoch == Some(e.epoch) { "kept" } else { "" }.to_owned());
        row
    };
    let every = h.epochs.len().div_ceil(most.max(1)).max(1);
    let last = h.epochs.len().saturating_sub(1);
    let shown = |(i, e): &(usize, &Epoch)| i % every == 0 || *i == last || kept == Some(e.epoch);
    Table { header, rows: h.epochs.iter().enumerate().filter(shown).map(|(_, e)| cells(e)).collect(), every }
}

fn optional(text: Option<String>) -> String {
    text.unwrap_or_else(|| "–".to_owned())
}

/// `0.1` or `1.25e-4`.
pub(super) fn rate(x: f64) -> String {
    if x != 0.0 && x.abs() < 1e-3 {
        format!("{x:.2e}")
    } else {
        format!("{:.4}", x).trim_end_matches('0').trim_end_matches('.').to_owned()
    }
}

#[cfg(test)]
#[path = "train_tests.rs"]
pub(crate) mod tests;
