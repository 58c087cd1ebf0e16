//! The table that a person reads after a pruning run.

use super::pins::summarise;
use super::text::{self, MAX_ROWS, field, plural, shorten};
use super::{AccuracyReport, GroupReport, PruneReport};
use super::{bench_terminal, check_text};
use crate::channels::Pin;
use std::collections::BTreeMap;

/// Where nothing else is known.
const WIDTH: u16 = 100;
/// The stages in the order of the pipeline.
const STAGES: [&str; 11] =
    ["load", "graph", "trace", "score", "survey", "plan", "trials", "recover", "rewrite", "verify", "save"];

/// `COLUMNS` where it is set, else 100.
pub fn width() -> u16 {
    let columns = std::env::var("COLUMNS").ok().and_then(|c| c.parse().ok());
    columns.map_or(WIDTH, |c: u16| c.clamp(60, 200))
}

/// Totals, groups, pins, checks.
pub fn prune(r: &PruneReport, width: u16) -> String {
    let mut out = title(r);
    out += &totals(r, width);
    out.push('\n');
    out += &facts(r, width);
    out += &super::rounds_text::table(&r.rounds, width);
    if !r.groups.is_empty() {
        out.push('\n');
        out += &groups(&r.groups, width);
    }
    out += &pins(&r.pins, width, "--report FILE.json");
    if !r.approximated.is_empty() {
        let names = text::short_list(r.approximated.iter().map(String::as_str), usize::from(width));
        let text = format!(
            "{} over channels lost some of them and was rescaled, as --norm approximate allows: {names}",
            plural(r.approximated.len(), "statistic")
        );
        out.push('\n');
        out += &field("Not exact", &text, width);
    }
    for note in &r.notes {
        out.push('\n');
        out += &field("Note", note, width);
    }
    out.push('\n');
    out += &checks(r, width);
    if let Some(l) = &r.latency {
        out += &format!("\n{}", bench_terminal::bench(l, width));
    }
    if !r.gates.is_empty() {
        out += &format!("\n{}\n", check_text::table(&r.gates, width));
        out += &field("Gate", &check_text::verdict(&r.gates), width);
    }
    out
}

fn title(r: &PruneReport) -> String {
    let to = if r.pruned.path.is_empty() { "(nothing written)" } else { &r.pruned.path };
    format!("{} → {to}\n\n", r.original.path)
}

fn totals(r: &PruneReport, width: u16) -> String {
    let row = |name: &str, a: u64, b: u64, words: fn(u64) -> String| {
        vec![name.to_owned(), words(a), words(b), text::percent(b as f64, a as f64)]
    };
    let (a, b) = (&r.original, &r.pruned);
    let left = r.channels_prunable.saturating_sub(r.channels_removed);
    let mut rows = vec![
        row("MACs", a.macs, b.macs, text::count),
        row("Parameters", a.params, b.params, text::count),
        row("Prunable channels", r.channels_prunable as u64, left as u64, |n| n.to_string()),
    ];
    if b.bytes > 0 {
        rows.insert(2, row("File size", a.bytes, b.bytes, text::bytes));
    }
    text::table(&["", "before", "after", "stays"], rows, &[1, 2, 3], width)
}

fn facts(r: &PruneReport, width: u16) -> String {
    let channels = format!("{} of {} prunable channels removed", r.channels_removed, r.channels_prunable);
    let mut budget = format!("{}; reached {:.4} ({channels})", r.budget, r.ratio_reached);
    if let Some(missed) = &r.missed {
        budget += &format!(". MISSED: {missed}");
    }
    let mut used: BTreeMap<&str, usize> = BTreeMap::new();
    for g in r.groups.iter().filter(|g| !g.criterion.is_empty()) {
        *used.entry(&g.criterion).or_default() += 1;
    }
    let used: Vec<String> = used.iter().map(|(name, n)| format!("{name} in {}", plural(*n, "group"))).collect();
    let criterion = match (used.is_empty(), r.groups.is_empty()) {
        (false, _) => format!("{}; used: {}", r.criterion, used.join(", ")),
        (true, false) => "none: the channels come from a plan".to_owned(),
        (true, true) => "none: there is nothing to rank".to_owned(),
    };
    field("Budget", &budget, width) + &field("Criterion", &criterion, width) + &latency_target(r, width)
}

/// The latency that was asked for and how it was come near to.
fn latency_target(r: &PruneReport, width: u16) -> String {
    let Some(l) = &r.latency_target else { return String::new() };
    field("Latency", &l.words(), width)
}

fn groups(groups: &[GroupReport], width: u16) -> String {
    let name = usize::from(width) * 3 / 10;
    let names = text::shorten_all(groups.iter().take(MAX_ROWS).map(|g| g.id.as_str()), name);
    let rows = groups.iter().zip(names).map(|(g, id)| {
        let layers = text::short_list(g.layers.iter().map(String::as_str), name - 4);
        vec![
            id,
            format!("{}: {layers}", g.layers.len()),
            format!("{} → {}", g.channels_before, g.channels_after),
            g.reason.clone(),
        ]
    });
    let table = text::table(&["group", "layers", "channels", "why"], rows.collect(), &[2], width);
    table + &more(groups.len(), "--report FILE.json")
}

/// `… and N more`, when a list is cut.
pub(super) fn more(rows: usize, full: &str) -> String {
    match rows.saturating_sub(MAX_ROWS) {
        0 => String::new(),
        n => format!("… and {n} more ({full} lists all)\n"),
    }
}

/// What holds channels back, by node and reason; empty without pins.
pub(super) fn pins(pins: &[Pin], width: u16, full: &str) -> String {
    if pins.is_empty() {
        return String::new();
    }
    let all = summarise(pins);
    let name = usize::from(width) * 26 / 100;
    let rows = all.iter().take(MAX_ROWS).map(|p| {
        vec![
            // Graph inputs and outputs have no operator.
            if p.op == p.node { p.op.clone() } else { format!("{} {}", p.op, shorten(&p.node, name)) },
            plural(p.layers.len(), "layer"),
            shorten(&p.example, name + 6),
            p.reason.clone(),
        ]
    });
    let table = text::table(&["held back by", "", "for example", "why"], rows.collect(), &[], width);
    format!("\n{table}{}", more(all.len(), full))
}

/// What was measured, and the way to it.
pub fn accuracy(a: &AccuracyReport, width: u16) -> String {
    let on = a.samples.map_or(String::new(), |n| format!(" on {}", plural(n, "sample")));
    let verdict = match (a.limit, a.passed) {
        (Some(limit), Some(true)) => format!("; within the limit of {limit}"),
        (Some(limit), Some(false)) => format!("; MORE than the limit of {limit}"),
        _ => String::new(),
    };
    let text = format!("{} {:.4} → {:.4}{on}, a drop of {:.2} points{verdict}", a.metric, a.original, a.pruned, a.drop);
    let mut out = field("Accuracy", &text, width);
    if !a.trail.is_empty() {
        let rows = a.trail.iter().map(|p| {
            vec![
                format!("{:.1} %", p.share * 100.0),
                text::count(p.macs),
                text::count(p.params),
                format!("{:.4}", p.score),
                format!("{:.2}", p.drop),
                if p.passed { "within" } else { "too much" }.to_owned(),
            ]
        });
        let header = ["tried", "MACs", "parameters", "score", "drop", ""];
        out = format!("{}\n{out}", text::table(&header, rows.collect(), &[0, 1, 2, 3, 4], width));
    }
    out
}

fn checks(r: &PruneReport, width: u16) -> String {
    let mut out = String::new();
    let repair = &r.recover;
    let done = [
        (repair.constant_channels, "constant channel", "folded exactly"),
        (repair.expected_channels, "channel", "folded by expectation"),
        (repair.skipped_channels, "channel", "without a repair"),
    ];
    let done: Vec<_> =
        done.iter().filter(|d| d.0 > 0).map(|(n, noun, how)| format!("{} {how}", plural(*n, noun))).collect();
    let mut done: Vec<String> = done;
    if !repair.layers.is_empty() {
        let better: Vec<_> = repair.layers.iter().filter(|l| l.after < l.before).collect();
        done.push(format!(
            "{} of {} fitted to the original's outputs ({} left alone)",
            better.len(),
            plural(repair.layers.len(), "layer"),
            repair.layers.len() - better.len()
        ));
        if let Some(last) = repair.layers.last() {
            done.push(format!(
                "error of the last, {}, on held-back samples {:.1} % → {:.1} % of its variance",
                last.layer,
                last.before * 100.0,
                last.after * 100.0
            ));
        }
    }
    let done = if done.is_empty() { String::new() } else { format!(": {}", done.join(", ")) };
    out += &field("Repair", &format!("{}{done}", repair.mode), width);
    let verified = match r.verify.max_rel_diff {
        Some(0.0) => format!("{} (no difference, {})", r.verify.note, r.verify.runtime),
        Some(d) => format!("{} (largest relative difference {d:.1e}, {})", r.verify.note, r.verify.runtime),
        None => r.verify.note.clone(),
    };
    out += &field("Verified", &verified, width);
    if let Some(a) = &r.accuracy {
        out += &accuracy(a, width);
    }
    let stages: Vec<String> =
        STAGES.iter().filter_map(|s| Some(format!("{s} {}", text::milliseconds(*r.timings_ms.get(*s)?)))).collect();
    let total = r.timings_ms.get("total").copied().unwrap_or_else(|| r.timings_ms.values().sum());
    out + &field("Time", &format!("{} ({})", text::milliseconds(total), stages.join(", ")), width)
}
