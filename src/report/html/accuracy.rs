//! The section on accuracy.

use super::super::diff_view::{self, Limits};
use super::super::text::{self, percent, plural};
use super::Page;
use super::part::{Block, Cell, Figure, Table, from_view, sentence};
use super::plot::{self, Span};
use crate::error::Result;
use crate::evaluate::diff::Diff;
use crate::evaluate::metric::Metric;
use crate::evaluate::significance::Interval;
use crate::report::AccuracyReport;

/// Classes in a table; of more, those that changed most.
const CLASSES: usize = 100;
/// Classes that are drawn; with more there are mostly too few samples in each for a bar to say much.
const DRAWN: usize = 40;
/// How much the views of a diff tell here.
pub(super) const VIEW: Limits = Limits { rows: 40, classes: CLASSES, name: 200 };

/// What was measured on data.
pub(super) fn accuracy(page: &Page) -> Result<Vec<Block>> {
    let Some(d) = page.diff() else {
        return Ok(page.prune.and_then(|p| p.accuracy.as_ref()).map_or_else(Vec::new, measured));
    };
    let mut out = vec![Block::Text(sentence(&diff_view::verdict(d)))];
    out.extend(intervals(d)?);
    if !d.accuracy.is_empty() {
        let star = if d.primary.is_some() { " (* is the primary metric)" } else { "" };
        out.push(from_view(diff_view::metrics(d), &format!("Metrics{star}")));
    }
    out.push(Block::Text(sentence(&diff_view::data(d))));
    if let Some(pairs) = d.accuracy.get(Metric::Top1.name()).and_then(|s| s.pairs) {
        let words = [
            "right in both",
            "broken: only the original is right",
            "fixed: only the pruned model is right",
            "right in neither",
        ];
        let counts = [pairs.both, pairs.broken, pairs.fixed, pairs.neither];
        let share = |n: u64| percent(n as f64, pairs.samples() as f64);
        let row = |(w, n): (&str, u64)| vec![Cell::text(w), Cell::text(n.to_string()), Cell::text(share(n))];
        let rows = words.into_iter().zip(counts).map(row).collect();
        out.push(Block::Table(Table::new("What was fixed and broken", &["", "samples", "share"], rows, &[1, 2])));
    }
    if (2..=DRAWN).contains(&d.per_class.len()) {
        let points: Vec<(String, f64)> =
            d.per_class.iter().map(|c| (c.class.to_string(), 100.0 * c.difference)).collect();
        let caption = "Change of top1 by class, in points. Bars below the line lost, bars above gained.";
        out.push(Block::Figure(Figure { svg: plot::classes(&points)?, caption: caption.into() }));
    }
    let many = d.per_class.len() > 12;
    let tables = [diff_view::classes(d, &VIEW), diff_view::confusions(d, &VIEW), diff_view::iou(d, &VIEW)];
    for (i, block) in tables.into_iter().flatten().enumerate() {
        out.push(fold(from_view(block, ""), many || i > 0));
    }
    // What the tables mean, then the tables.
    let outputs = diff_view::outputs(d, &VIEW).into_iter().map(|b| fold(from_view(b, ""), true));
    let (tables, facts): (Vec<Block>, Vec<Block>) = outputs.partition(|b| matches!(b, Block::Table(_)));
    out.extend(tables.into_iter().chain(facts));
    Ok(out)
}

fn fold(block: Block, folded: bool) -> Block {
    match block {
        Block::Table(t) => Block::Table(Table { folded, ..t }),
        other => other,
    }
}

/// Differences of shares with their intervals.
fn intervals(d: &Diff) -> Result<Option<Block>> {
    let shares = [Metric::Top1, Metric::Top5, Metric::Agreement];
    let of = |m: Metric| {
        let s = d.accuracy.get(m.name())?;
        let i = s.interval?;
        Some((m, s.difference, i))
    };
    let rows: Vec<(Metric, f64, Interval)> = shares.into_iter().filter_map(of).collect();
    if rows.is_empty() || d.identical {
        return Ok(None);
    }
    let span = |&(m, x, i): &(Metric, f64, Interval)| Span {
        name: m.to_string(),
        at: [i.0, i.0, x, i.1, i.1].map(|x| 100.0 * x),
        label: format!("{} points ({})", diff_view::signed(m, x), diff_view::interval(m, Some(i))),
        plain: false,
    };
    let spans: Vec<Span> = rows.iter().map(span).collect();
    let told: Vec<String> = spans.iter().map(|s| format!("{}: {}", s.name, s.label)).collect();
    let svg = plot::spans(
        "plot-metrics",
        "Differences with their intervals",
        &format!("{}. The dashed line is no difference.", told.join("; ")),
        "points, pruned minus original",
        &spans,
        Some(0.0),
    )?;
    let caption = "The mark is what was measured, the box its 95 % interval, the dashed line no difference.";
    Ok(Some(Block::Figure(Figure { svg, caption: caption.into() })))
}

/// What a pruning run measured by itself.
fn measured(a: &AccuracyReport) -> Vec<Block> {
    let on = a.samples.map_or(String::new(), |n| format!(" on {}", plural(n, "sample")));
    let text = format!("{} {:.4} → {:.4}{on}, a drop of {:.2} points.", a.metric, a.original, a.pruned, a.drop);
    let mut out = vec![Block::Text(text)];
    if !a.trail.is_empty() {
        let row = |p: &crate::report::Probe| {
            vec![
                Cell::text(format!("{:.1} %", p.share * 100.0)),
                Cell::text(text::count(p.macs)),
                Cell::text(text::count(p.params)),
                Cell::text(format!("{:.4}", p.score)),
                Cell::text(format!("{:.2}", p.drop)),
                Cell::text(if p.passed { "within" } else { "too much" }),
            ]
        };
        let header = ["tried", "MACs", "parameters", "score", "drop", "judged"];
        let rows = a.trail.iter().map(row).collect();
        out.push(Block::Table(Table::new("The search, in order", &header, rows, &[0, 1, 2, 3, 4])));
    }
    out
}
