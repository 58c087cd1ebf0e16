//! What a page tells, and in which order.

use super::super::bench_terminal::{machine, runtime, time};
use super::super::data_terminal::number;
use super::super::diff_view::{self, Limits, class};
use super::super::text::{self, percent, plural};
use super::accuracy::{self, VIEW};
use super::part::{Block, Cell, Figure, Gallery, Item, Section, Table, capital, from_view, sentence};
use super::plot::{self, Span};
use super::thumbs::{self, BROKEN, FIXED, WORST};
use super::{Page, Provenance};
use super::{sweep, training};
use crate::channels::Pin;
use crate::error::Result;
use crate::evaluate::bench::{BenchReport, in_words};
use crate::evaluate::diff::{Changed, Diff};
use crate::evaluate::machine::Machine;
use crate::report::{LatencyProbe, LatencyReport, PruneReport};
use std::collections::BTreeMap;

/// Rows of a long table.
const ROWS: usize = 400;

/// A size of both models.
pub(super) struct Size {
    pub name: &'static str,
    pub before: u64,
    pub after: u64,
    pub words: fn(u64) -> String,
}

/// All sections that have something to say.
pub(super) fn all(page: &Page) -> Result<Vec<Section>> {
    let mut out = page.training.map_or(Ok(Vec::new()), training::sections)?;
    out.extend(page.sweep.map_or(Ok(Vec::new()), sweep::sections)?);
    let mut add = |id, heading, blocks: Vec<Block>| {
        if !blocks.is_empty() {
            out.push(Section { id, heading, blocks });
        }
    };
    add("accuracy", "Accuracy", accuracy::accuracy(page)?);
    let mut times: Vec<Block> = page.prune.and_then(|p| p.latency_target.as_ref()).map_or(Vec::new(), aimed_at);
    times.extend(page.bench().map_or(Ok(Vec::new()), latency)?);
    add("latency", "Latency", times);
    add("rounds", "Rounds of pruning and training", page.prune.map_or(Vec::new(), |p| training::rounds(&p.rounds)));
    add("size", "Size", size(page));
    add("channels", "Channels", page.prune.map_or(Ok(Vec::new()), channels)?);
    add("layers", "Error by layer", layers(page)?);
    add("scores", "Scores", page.prune.map_or(Ok(Vec::new()), scores)?);
    add("pins", "Held back", page.prune.map_or(Vec::new(), |p| pins(&p.pins)));
    add("samples", "Samples", page.diff().map_or(Vec::new(), |d| samples(page, d)));
    add("notes", "Notes", notes(page));
    add("reproduce", "How to reproduce it", reproduce(page));
    Ok(out)
}

/// The latency that was asked for.
fn aimed_at(l: &LatencyReport) -> Vec<Block> {
    let share = |x: f64| Cell::text(format!("{x:.3}"));
    let row = |(i, p): (usize, &LatencyProbe)| {
        vec![
            Cell::text((i + 1).to_string()),
            share(p.aim),
            share(p.predicted),
            share(p.ratio),
            Cell::text(text::count(p.macs)),
        ]
    };
    let rows: Vec<Vec<Cell>> = l.trail.iter().enumerate().map(row).collect();
    let header = ["try", "aimed at", "by the layers' times", "measured", "MACs"];
    let caption = "Tries on the way to the target, as shares of the original's time";
    vec![
        Block::Text(format!("Asked for: {} of the original's time. {}.", l.target, capital(&l.words()))),
        Block::Table(Table::new(caption, &header, rows, &[1, 2, 3, 4])),
    ]
}

fn latency(r: &BenchReport) -> Result<Vec<Block>> {
    let mut out = Vec::new();
    let name = |i: usize| r.models.get(i).map_or("", |m| m.path.as_str());
    for row in &r.rows {
        if let Some(c) = &row.comparison {
            let text = format!(
                "{} takes {:.3} of the time of {} (95 % interval {:.3} to {:.3}), {:.2} times as fast: {}. Batch {}, {}, {} each.",
                name(row.model),
                c.ratio,
                name(0),
                c.low,
                c.high,
                1.0 / c.ratio,
                c.verdict.words(),
                row.batch,
                in_words(row.threads),
                plural(row.runs, "run")
            );
            out.push(Block::Text(text));
        }
    }
    let several = r.rows.iter().any(|x| r.rows.first().is_some_and(|y| (x.batch, x.threads) != (y.batch, y.threads)));
    let label = |row: &crate::evaluate::bench::BenchRow| {
        let which = if several { format!(", batch {}, {}", row.batch, in_words(row.threads)) } else { String::new() };
        format!("{}{which}", name(row.model).rsplit('/').next().unwrap_or_default())
    };
    // More would be a wall of boxes; the table has all.
    let shown: Vec<Span> = r
        .rows
        .iter()
        .take(16)
        .map(|row| Span {
            name: label(row),
            at: [row.min_ms, row.p25_ms, row.median_ms, row.p75_ms, row.p90_ms],
            label: format!("median {}", time(row.median_ms)),
            plain: row.model == 0,
        })
        .collect();
    if !shown.is_empty() {
        let told: Vec<String> = shown.iter().map(|s| format!("{}: {}", s.name, s.label)).collect();
        let about = format!("{}. The table of times has every figure.", told.join("; "));
        let svg = plot::spans("plot-latency", "Times of a run", &about, "milliseconds", &shown, None)?;
        let caption = "The line goes from the quickest run to the 90 % quantile, the box holds the middle half of the runs, the mark is the median.";
        out.push(Block::Figure(Figure { svg, caption: caption.into() }));
    }
    let row = |row: &crate::evaluate::bench::BenchRow| {
        let ms = [row.median_ms, row.p90_ms, row.p99_ms, row.min_ms, row.mean_ms, row.std_ms];
        let mut cells = vec![Cell::code(label(row))];
        cells.extend(ms.map(|x| Cell::text(time(x))));
        cells.push(Cell::text(text::count(row.samples_per_s.round() as u64)));
        cells.push(Cell::text(
            row.comparison.as_ref().map_or("–".into(), |c| format!("{:.3} [{:.3}, {:.3}]", c.ratio, c.low, c.high)),
        ));
        cells
    };
    let header = ["model", "median", "p90", "p99", "min", "mean", "std", "samples/s", "ratio (95 %)"];
    let rows = r.rows.iter().map(row).collect();
    out.push(Block::Table(Table::new("Times of a run", &header, rows, &[1, 2, 3, 4, 5, 6, 7, 8])));
    out.push(Block::Text(format!("{}; {}; inputs: {}.", runtime(r), machine(r), r.inputs)));
    Ok(out)
}

/// Sizes of both models, where both are known.
pub(super) fn sizes(page: &Page) -> Vec<Size> {
    let size = |name, before, after, words| Size { name, before, after, words };
    let mut all = Vec::new();
    if let Some(p) = page.prune {
        let (a, b) = (&p.original, &p.pruned);
        all.push(size("MACs", a.macs, b.macs, text::count));
        all.push(size("Parameters", a.params, b.params, text::count));
        // A dry run writes nothing.
        all.extend((b.bytes > 0).then(|| size("File size", a.bytes, b.bytes, text::bytes)));
    } else if let Some(m) = page.models() {
        let (a, b) = (&m.original, &m.pruned);
        all.extend(a.macs.zip(b.macs).map(|(a, b)| size("MACs", a, b, text::count)));
        all.push(size("Parameters", a.params, b.params, text::count));
        all.push(size("File size", a.bytes, b.bytes, text::bytes));
    }
    all
}

fn size(page: &Page) -> Vec<Block> {
    let row = |s: &Size| {
        let share = s.after as f64 / s.before as f64;
        let exact = |n: u64| Cell::text((s.words)(n));
        let left = Cell::bar(percent(s.after as f64, s.before as f64), 1.0, share);
        vec![Cell::text(s.name), exact(s.before), exact(s.after), left]
    };
    let rows: Vec<Vec<Cell>> = sizes(page).iter().map(row).collect();
    if rows.is_empty() {
        return Vec::new();
    }
    vec![Block::Table(Table::new("Before and after", &["", "before", "after", "left"], rows, &[1, 2]))]
}

fn channels(p: &PruneReport) -> Result<Vec<Block>> {
    let mut out = vec![Block::Text(format!(
        "{} of {} prunable channels went. Asked for: {}; reached: {:.4}. Ranked by {}.",
        p.channels_removed, p.channels_prunable, p.budget, p.ratio_reached, p.criterion
    ))];
    if p.groups.is_empty() {
        return Ok(out);
    }
    let caption = "The whole bar is the channels before, its lower, filled part those after. One bar for each group of layers that share their channels.";
    out.push(Block::Figure(Figure { svg: plot::channels(&p.groups)?, caption: caption.into() }));
    let most = p.groups.iter().map(|g| g.channels_before).max().unwrap_or(0).max(1) as f64;
    let row = |g: &crate::report::GroupReport| {
        let share = g.channels_after as f64 / g.channels_before.max(1) as f64;
        vec![
            Cell::code(g.id.clone()),
            Cell::bar(format!("{} → {}", g.channels_before, g.channels_after), g.channels_before as f64 / most, share),
            Cell::text(g.layers.len().to_string()),
            Cell::text(g.reason.clone()),
        ]
    };
    let rows: Vec<Vec<Cell>> = p.groups.iter().map(row).collect();
    let folded = rows.len() > 16;
    let table = Table::new("Groups of channels", &["group", "channels", "layers", "why"], rows, &[2]).cut(ROWS);
    out.push(Block::Table(Table { folded, ..table }));
    let repaired = p.recover.layers.iter().map(|l| {
        let share = |x: f64| Cell::text(format!("{:.2} %", 100.0 * x));
        vec![Cell::code(l.layer.clone()), share(l.before), share(l.after)]
    });
    let rows: Vec<Vec<Cell>> = repaired.collect();
    if !rows.is_empty() {
        let caption = "Repair: error of each layer's output on held-back samples, as a share of its variance";
        out.push(Block::Table(Table::new(caption, &["layer", "before", "after"], rows, &[1, 2]).cut(ROWS).folded()));
    }
    Ok(out)
}

fn layers(page: &Page) -> Result<Vec<Block>> {
    let Some(l) = page.diff().and_then(|d| d.layers.as_ref()) else { return Ok(Vec::new()) };
    let known: Vec<_> = l.tensors.iter().filter_map(|t| Some((t, t.error?))).collect();
    let mut out = Vec::new();
    if known.len() > 1 {
        let errors: Vec<f64> = known.iter().map(|x| x.1).collect();
        let caption =
            "Mean squared difference of each tensor, as a share of the original's variance, on a logarithmic scale.";
        out.push(Block::Figure(Figure { svg: plot::layers(&errors)?, caption: caption.into() }));
    }
    out.extend(diff_view::layers(l, &Limits { rows: 10, ..VIEW }).into_iter().map(|b| from_view(b, "")));
    let row = |(i, (t, e)): (usize, &(&crate::evaluate::diff::LayerDiff, f64))| {
        let growth = t.growth.map_or("–".into(), number);
        let mut cells = vec![Cell::text((i + 1).to_string()), Cell::code(t.tensor.clone()), Cell::text(t.op.clone())];
        cells.extend([Cell::text(number(*e)), Cell::text(growth)]);
        cells
    };
    let rows: Vec<Vec<Cell>> = known.iter().enumerate().map(row).collect();
    if !rows.is_empty() {
        let header = ["place", "tensor", "operator", "error", "growth"];
        out.push(Block::Table(Table::new("All compared tensors", &header, rows, &[0, 3, 4]).cut(ROWS).folded()));
    }
    Ok(out)
}

fn scores(p: &PruneReport) -> Result<Vec<Block>> {
    let Some(h) = &p.scores else { return Ok(Vec::new()) };
    let mut text = match h.cut {
        Some(cut) => format!("Ranked by score alone, the cut would be at {}.", number(cut)),
        None => "Nothing was removed, so there is no cut.".into(),
    };
    if h.beyond > 0 {
        let (n, were) = (plural(h.beyond as usize, "channel"), if h.beyond == 1 { "was" } else { "were" });
        text +=
            &format!(" {n} above it {were} removed, and as many below it stay: coupled layers, rounding and limits.");
    }
    let caption = "Channels that stay are above the axis, those removed below it. The last bin has all larger scores.";
    let pairs = h.edges.windows(2).zip(h.kept.iter().zip(&h.removed));
    let rows = pairs.map(|(ends, (k, r))| {
        let ends: Vec<String> = ends.iter().map(|e| number(*e)).collect();
        vec![Cell::text(ends.join(" to ")), Cell::text(k.to_string()), Cell::text(r.to_string())]
    });
    let table = Table::new("Channels by score", &["score", "stay", "removed"], rows.collect(), &[1, 2]).folded();
    let figure = Figure { svg: plot::scores(h)?, caption: caption.into() };
    Ok(vec![Block::Text(text), Block::Figure(figure), Block::Table(table)])
}

/// By reason, the one with most axes first.
fn pins(pins: &[Pin]) -> Vec<Block> {
    let mut by: BTreeMap<&str, Vec<&Pin>> = BTreeMap::new();
    for pin in pins {
        by.entry(&pin.reason).or_default().push(pin);
    }
    let mut all: Vec<(&str, Vec<&Pin>)> = by.into_iter().collect();
    all.sort_by_key(|(_, pins)| std::cmp::Reverse(pins.len()));
    let table = |(reason, pins): (&str, Vec<&Pin>)| {
        let row = |p: &&Pin| {
            let by = if p.op == p.node { Cell::text(p.op.clone()) } else { Cell::code(format!("{} {}", p.op, p.node)) };
            let axis = Cell::text(format!("axis {}: {} of {}", p.axis, p.pinned, p.len));
            vec![Cell::code(p.tensor.clone()), axis, Cell::code(p.layer.clone()), by]
        };
        let rows: Vec<Vec<Cell>> = pins.iter().map(row).collect();
        let folded = rows.len() > 5;
        let table = Table::new(&capital(reason), &["tensor", "held", "layer", "held by"], rows, &[]).cut(ROWS);
        Block::Table(Table { folded, ..table })
    };
    let mut out: Vec<Block> = all.into_iter().map(table).collect();
    if !out.is_empty() {
        let axes = if pins.len() == 1 { "axis" } else { "axes" };
        let text =
            format!("{} {axes} of parameters could not lose channels, or not all, for the reasons below.", pins.len());
        out.insert(0, Block::Text(text));
    }
    out
}

fn samples(page: &Page, d: &Diff) -> Vec<Block> {
    let picture = |sample: usize| {
        let found = page.thumbnails.iter().find(|t| t.sample == sample);
        found.map(|t| (t.uri.clone(), t.width, t.height))
    };
    let label = |l: Option<i64>| l.map(|l| format!("label {l}"));
    let item = |c: &Changed| {
        let taken = format!("{} → {}", class(c.original), class(c.pruned));
        Item {
            name: c.name.clone(),
            lines: label(c.label).into_iter().chain([taken]).collect(),
            picture: picture(c.sample),
        }
    };
    let mut out = Vec::new();
    let mut gallery = |heading: String, items: Vec<Item>| {
        if !items.is_empty() {
            out.extend([Block::Sub(heading), Block::Gallery(Gallery { items })]);
        }
    };
    let of = |n: usize, all: usize| if n < all { format!("the first {n} of {all}") } else { all.to_string() };
    let broken: Vec<&Changed> = d.changed.iter().filter(|c| thumbs::broken(c)).collect();
    let fixed: Vec<&Changed> = d.changed.iter().filter(|c| thumbs::fixed(c)).collect();
    let what = if d.labels { "Broken: only the original is right" } else { "Given to another class" };
    let heading = format!("{what} ({})", of(BROKEN.min(broken.len()), broken.len()));
    gallery(heading, broken.iter().take(BROKEN).map(|c| item(c)).collect());
    let heading = format!("Fixed: only the pruned model is right ({})", of(FIXED.min(fixed.len()), fixed.len()));
    gallery(heading, fixed.iter().take(FIXED).map(|c| item(c)).collect());
    let worst = d.worst.iter().take(WORST).map(|w| {
        let mut lines = vec![format!("error {}", number(w.error))];
        lines.extend(label(w.label));
        lines.extend(
            (w.original.is_some() || w.pruned.is_some())
                .then(|| format!("{} → {}", class(w.original), class(w.pruned))),
        );
        Item { name: w.name.clone(), lines, picture: picture(w.sample) }
    });
    gallery("Largest difference of the outputs".into(), worst.collect());
    if !out.is_empty() {
        let pictures = if page.thumbnails.is_empty() {
            String::new()
        } else {
            " Pictures show what the model gets, each scaled from its own least to its own largest value.".into()
        };
        let arrow =
            if d.changed.is_empty() { "" } else { "An arrow leads from the original's class to the pruned model's." };
        out.insert(0, Block::Text(format!("{arrow}{pictures}").trim().to_owned()));
    }
    let row = |c: &Changed| {
        let label = c.label.map_or("–".into(), |l| l.to_string());
        let mut cells = vec![Cell::code(c.name.clone())];
        cells.extend([label, class(c.original), class(c.pruned)].map(Cell::text));
        cells
    };
    let rows: Vec<Vec<Cell>> = d.changed.iter().map(row).collect();
    if !rows.is_empty() {
        let header = ["sample", "label", "original", "pruned"];
        out.push(Block::Table(
            Table::new("All samples given to another class", &header, rows, &[1, 2, 3]).cut(ROWS).folded(),
        ));
    }
    out.retain(|b| !matches!(b, Block::Text(t) if t.is_empty()));
    out
}

fn notes(page: &Page) -> Vec<Block> {
    let mut out = Vec::new();
    if let Some(p) = page.prune {
        let proof = match p.verify.max_rel_diff {
            Some(0.0) => format!("{} (no difference, {})", p.verify.note, p.verify.runtime),
            Some(d) => format!("{} (largest relative difference {d:.1e}, {})", p.verify.note, p.verify.runtime),
            None => p.verify.note.clone(),
        };
        out.push(Block::Fact("Verified".into(), sentence(&proof)));
        out.extend(p.notes.iter().map(|n| Block::Text(sentence(n))));
    }
    out.extend(page.training.iter().flat_map(|t| &t.notes).map(|n| Block::Text(sentence(n))));
    out.extend(page.check.iter().flat_map(|c| &c.notes).map(|n| Block::Text(sentence(n))));
    out.extend(page.diff().iter().flat_map(|d| &d.notes).map(|n| Block::Text(sentence(n))));
    let bench = page.bench();
    out.extend(bench.iter().flat_map(|b| b.notes.iter().chain(&b.advice)).map(|n| Block::Text(sentence(n))));
    out
}

fn reproduce(page: &Page) -> Vec<Block> {
    let mut out = Vec::new();
    let Provenance { command, machine, files } = &page.reproduce;
    if !command.is_empty() {
        out.push(Block::Command(command.iter().map(|a| quoted(a)).collect::<Vec<_>>().join(" ")));
    }
    let mut rows = vec![vec![Cell::text("Tool"), Cell::text(concat!("onnx-prune ", env!("CARGO_PKG_VERSION")))]];
    if let Some(d) = page.diff() {
        rows.push(vec![Cell::text("Runtime"), Cell::text(format!("{} {}", d.runtime.name, d.runtime.version))]);
        rows.push(vec![Cell::text("Data"), Cell::code(d.data.clone())]);
    } else if let Some(b) = page.bench() {
        rows.push(vec![Cell::text("Runtime"), Cell::text(runtime(b))]);
    } else if let Some(t) = page.training {
        rows.push(vec![Cell::text("Runtime"), Cell::text(t.runtime.clone())]);
    }
    if machine.cores > 0 {
        rows.push(vec![Cell::text("Machine"), Cell::text(described(machine))]);
    }
    out.push(Block::Table(Table::new("What it was made with", &["part", "which"], rows, &[])));
    let known = page.models().map(|m| [("original", &m.original), ("pruned", &m.pruned)]);
    let known = known.into_iter().flatten().map(|(role, m)| (role, m.path.as_str(), m.sha256.as_str()));
    let given = files.iter().map(|f| (f.role.as_str(), f.path.as_str(), f.sha256.as_str()));
    let all: Vec<(&str, &str, &str)> = if files.is_empty() { known.collect() } else { given.collect() };
    let row = |(role, path, sha): (&str, &str, &str)| vec![Cell::text(role), Cell::code(path), Cell::code(sha)];
    if !all.is_empty() {
        let rows = all.into_iter().map(row).collect();
        out.push(Block::Table(Table::new("Model files", &["model", "file", "SHA-256"], rows, &[])));
    }
    out
}

fn described(m: &Machine) -> String {
    let cores = plural(m.cores, "core");
    let parts = m.processor.iter().cloned().chain([cores, m.system.clone()]);
    parts.chain(m.governor.iter().map(|g| format!("governor {g}"))).collect::<Vec<_>>().join(", ")
}

/// As a POSIX shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./=,:+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(["a.onnx", "^head", "it's", ""].map(quoted), ["a.onnx", "'^head'", "'it'\\''s'", "''"]);
    }
}
