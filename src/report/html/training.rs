//! The sections and the verdict of a training run.

use super::super::data_terminal::number;
use super::super::rounds_text;
use super::super::text::{count, plural};
use super::super::train_text::{self, duration, figure, metric, removable, share};
use super::part::{Block, Cell, Figure, Section, Table, sentence};
use super::training_plot::panels;
use super::verdict;
use crate::error::Result;
use crate::train::history::{Epoch, History, SparsityState, StopReason};
use crate::train::rounds::Round;

/// More epochs than these are folded away.
const OPEN: usize = 25;

/// What a run has to say, in order.
pub(super) fn sections(h: &History) -> Result<Vec<Section>> {
    let (mut progress, mut sparsity) = (Vec::new(), Vec::new());
    for panel in panels(h)? {
        let of_channels = panel.title.contains("hannels");
        let figure = [Block::Sub(panel.title.into()), Block::Figure(Figure { svg: panel.svg, caption: panel.caption })];
        if of_channels { &mut sparsity } else { &mut progress }.extend(figure);
    }
    sparsity.extend(removable(h).map(|words| Block::Text(sentence(&words))));
    sparsity.extend(scores(h).map(Block::Table));
    let all = [
        ("progress", "Progress", progress),
        ("sparsity", "Channels that can go", sparsity),
        ("epochs", "Epochs", epochs(h)),
        ("trained", "What was trained", trained(h)),
    ];
    let told = all.into_iter().filter(|(.., blocks)| !blocks.is_empty());
    Ok(told.map(|(id, heading, blocks)| Section { id, heading, blocks }).collect())
}

/// Channels by score, in the first and the kept epoch.
fn scores(h: &History) -> Option<Table> {
    let of = |e: &Epoch| e.sparsity.clone().map(|s| (e.epoch, s));
    let (n, first) = h.epochs.iter().find_map(of)?;
    let (m, last) = h.kept().and_then(of)?;
    let row = |(i, ends): (usize, &[f64])| {
        let ends: Vec<String> = ends.iter().map(|e| format!("{e:.2}").replace('-', "−")).collect();
        let number = |s: &SparsityState| Cell::text(s.histogram.get(i).map_or("–".into(), u64::to_string));
        vec![Cell::text(ends.join(" to ")), number(&first), number(&last)]
    };
    let rows: Vec<Vec<Cell>> = first.edges.windows(2).enumerate().map(row).collect();
    let header = ["score, log10 of its share of the largest".to_owned(), format!("epoch {n}"), format!("epoch {m}")];
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    (!rows.is_empty()).then(|| Table::new("Channels by score", &header, rows, &[1, 2]).folded())
}

fn epochs(h: &History) -> Vec<Block> {
    let table = train_text::epochs(h, usize::MAX, true);
    if table.rows.is_empty() {
        return Vec::new();
    }
    let header: Vec<&str> = table.header.iter().map(String::as_str).collect();
    let right: Vec<usize> = (0..header.len().saturating_sub(1)).collect();
    let rows: Vec<Vec<Cell>> = table.rows.into_iter().map(|r| r.into_iter().map(Cell::text).collect()).collect();
    let folded = rows.len() > OPEN;
    let table = Table::new("All epochs", &header, rows, &right);
    vec![Block::Table(if folded { table.folded() } else { table })]
}

fn trained(h: &History) -> Vec<Block> {
    let mut out = Vec::new();
    if let Some(teacher) = &h.teacher {
        out.push(Block::Fact("Teacher".into(), format!("The outputs of {teacher} were learnt from.")));
    }
    let told = train_text::facts(h).into_iter().filter(|(name, _)| *name == "Data");
    out.extend(told.map(|(name, words)| Block::Fact(name.into(), sentence(&words))));
    if !h.trained.is_empty() {
        let row = |t: &crate::train::history::Trained| {
            vec![Cell::text(t.kind.clone()), Cell::text(t.tensors.to_string()), Cell::text(count(t.elements))]
        };
        let mut rows: Vec<Vec<Cell>> = h.trained.iter().map(row).collect();
        let (elements, tensors) = h.parameters();
        rows.push(vec![Cell::text("all"), Cell::text(tensors.to_string()), Cell::text(count(elements))]);
        out.push(Block::Table(Table::new("Parameters", &["kind", "tensors", "elements"], rows, &[1, 2])));
    }
    if !h.options.is_empty() {
        let rows = h.options.iter().map(|(name, value)| vec![Cell::text(name.clone()), Cell::code(value.clone())]);
        out.push(Block::Table(Table::new("Options", &["option", "value"], rows.collect(), &[])));
    }
    let time = format!("{} on {}", duration(h.seconds), h.runtime);
    out.push(Block::Fact("Time".into(), sentence(&time)));
    out
}

/// What a run without limits comes to: tone, sign, word and sentence.
pub(super) fn verdict(h: &History) -> (&'static str, &'static str, &'static str, String) {
    let result = train_text::result(h).map_or("No epoch was finished.".to_owned(), |words| sentence(&words));
    let stopped = h.stopped.as_ref().map(|s| sentence(&s.words));
    let with = |more: Option<String>| std::iter::once(result.clone()).chain(more).chain(stopped.clone());
    let words = |more| with(more).collect::<Vec<_>>().join(" ");
    if h.stopped.as_ref().is_some_and(|s| s.reason == StopReason::Diverged) {
        let first = stopped.clone().unwrap_or_default();
        return ("bad", "✕", "Diverged", format!("{first} {result}"));
    }
    // What it aims at is another thing than a lower loss.
    if h.sparse() {
        return ("plain", "i", "Trained", words(removable(h).map(|words| sentence(&words))));
    }
    match (h.before.as_ref(), h.kept().and_then(|e| e.held.as_ref())) {
        (Some(before), Some(after)) if after.better_than(before) => ("good", "✓", "Improved", words(None)),
        (Some(_), Some(_)) => ("doubt", "!", "No improvement", words(None)),
        (Some(_), None) if h.best_epoch == Some(0) => ("doubt", "!", "No improvement", words(None)),
        _ => ("plain", "i", "Trained", words(Some("Nothing was held back to measure it on.".into()))),
    }
}

/// The figures that matter most.
pub(super) fn figures(h: &History) -> Vec<verdict::Figure> {
    let mut all = Vec::new();
    let mut add = |name: &str, value, more| all.push(verdict::Figure { name: name.into(), value, more });
    let Some(kept) = h.kept() else { return all };
    if let Some(held) = &kept.held {
        let before = h.before.as_ref();
        if let (Some(name), Some(value)) = (&held.metric_name, metric(held)) {
            let was = before.and_then(|b| b.metric).map(|x| format!("was {}", figure(Some(name), x)));
            add(name, value, was.unwrap_or_else(|| "on the held-back samples".into()));
        }
        let was = before.map(|b| format!("was {}", number(b.loss)));
        add("Loss, held back", number(held.loss), was.unwrap_or_else(|| plural(h.held_back, "sample")));
    }
    if let Some(first) = h.epochs.first().filter(|first| first.epoch != kept.epoch) {
        add("Loss", number(kept.loss), format!("{} in the first epoch", number(first.loss)));
    }
    if let Some(s) = &kept.sparsity {
        add("Removable", share(s.removable_share), "of the prunable channels".into());
    }
    add("Time", brief(h.seconds), plural(h.epochs.len(), "epoch"));
    all
}

/// A duration that fits where figures stand.
fn brief(seconds: f64) -> String {
    match seconds {
        s if s < 60.0 => duration(s),
        s if s < 3600.0 => format!("{:.1} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

/// The rounds of a pruning run with training.
pub(super) fn rounds(rounds: &[Round]) -> Vec<Block> {
    if rounds.is_empty() {
        return Vec::new();
    }
    let rows = rounds_text::rows(rounds).into_iter().map(|row| row.into_iter().map(Cell::text).collect()).collect();
    let header = rounds_text::header(rounds);
    let right: Vec<usize> = (0..header.len()).collect();
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    vec![Block::Table(Table::new("After the cut and the repair → after training", &header, rows, &right))]
}
