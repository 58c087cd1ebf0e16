//! What of a diff is worth telling, as tables and sentences that a format then writes down.

use super::data_terminal::number;
use super::text::{bytes, count, percent, plural};
use crate::evaluate::diff::{Diff, Gate, Layers, OutputDiff, Score, Verdict};
use crate::evaluate::metric::Metric;
use crate::evaluate::significance::{Interval, Method};

/// The order in which metrics are told.
const ORDER: [Metric; 7] =
    [Metric::Top1, Metric::Top5, Metric::Agreement, Metric::Iou, Metric::Cosine, Metric::Mse, Metric::Psnr];

/// Growth below this share of the largest is not told.
const NOTABLE: f64 = 1e-2;

/// A part of the report.
pub(super) enum Block {
    /// A table: what it shows, header, rows, columns of numbers.
    Table(String, Vec<String>, Vec<Vec<String>>, Vec<usize>),
    /// Sentences with a name.
    Fact(&'static str, String),
}

/// How much is told.
pub(super) struct Limits {
    /// Rows of a table that is sorted by what matters.
    pub rows: usize,
    /// Classes that are all shown; of more, those that changed most.
    pub classes: usize,
    /// Characters of a name.
    pub name: usize,
}

/// The report in order.
pub(super) fn view(d: &Diff, limits: &Limits) -> Vec<Block> {
    let mut out = vec![Block::Fact("Data", data(d)), sizes(d)];
    out.extend((!d.accuracy.is_empty()).then(|| metrics(d)));
    out.push(Block::Fact("Verdict", verdict(d)));
    out.extend(d.gates.iter().map(gate));
    out.extend(classes(d, limits));
    out.extend(confusions(d, limits));
    out.extend(iou(d, limits));
    out.extend(outputs(d, limits));
    out.extend(worst(d, limits));
    if let Some(l) = &d.layers {
        out.extend(layers(l, limits));
    }
    out.extend(d.notes.iter().map(|n| Block::Fact("Note", n.clone())));
    out
}

fn table(title: &str, header: &[&str], rows: Vec<Vec<String>>, right: std::ops::Range<usize>) -> Block {
    let header = header.iter().map(|h| (*h).to_owned()).collect();
    Block::Table(title.to_owned(), header, rows, right.collect())
}

pub(super) fn data(d: &Diff) -> String {
    let labels = if d.labels { "with labels" } else { "without labels" };
    let samples = plural(d.samples, "sample");
    format!("{samples} {labels} from {}; both models ran on {} {}", d.data, d.runtime.name, d.runtime.version)
}

fn sizes(d: &Diff) -> Block {
    let (a, b) = (&d.models.original, &d.models.pruned);
    let row = |name: &str, a: u64, b: u64, words: fn(u64) -> String| {
        vec![name.to_owned(), words(a), words(b), percent(b as f64, a as f64)]
    };
    let mut rows = vec![row("Parameters", a.params, b.params, count), row("File size", a.bytes, b.bytes, bytes)];
    if let (Some(x), Some(y)) = (a.macs, b.macs) {
        rows.insert(0, row("MACs", x, y, count));
    }
    table("", &["", "original", "pruned", "stays"], rows, 1..4)
}

fn is_share(metric: Metric) -> bool {
    matches!(metric, Metric::Top1 | Metric::Top5 | Metric::Agreement | Metric::Iou)
}

pub(super) fn figure(metric: Metric, x: f64) -> String {
    match metric {
        _ if !x.is_finite() => x.to_string(),
        m if is_share(m) => format!("{:.2} %", 100.0 * x),
        Metric::Psnr => format!("{x:.2} dB"),
        _ => number(x),
    }
}

pub(super) fn signed(metric: Metric, x: f64) -> String {
    match metric {
        // Rounded to nothing, it has no sign.
        m if is_share(m) && (100.0 * x).abs() < 0.005 => "0.00".into(),
        m if is_share(m) => format!("{:+.2}", 100.0 * x),
        Metric::Psnr => format!("{x:+.2} dB"),
        _ if x > 0.0 => format!("+{}", number(x)),
        _ => number(x),
    }
}

pub(super) fn interval(metric: Metric, i: Option<Interval>) -> String {
    i.map_or_else(|| "–".into(), |i| format!("{} to {}", signed(metric, i.0), signed(metric, i.1)))
}

pub(super) fn metrics(d: &Diff) -> Block {
    let row = |m: Metric| {
        let s = d.accuracy.get(m.name())?;
        let name = if Some(m) == d.primary { format!("{m} *") } else { m.to_string() };
        let unit = if is_share(m) { " points" } else { "" };
        Some(vec![
            name,
            figure(m, s.original),
            figure(m, s.pruned),
            format!("{}{unit}", signed(m, s.difference)),
            interval(m, s.interval),
        ])
    };
    let rows = ORDER.into_iter().filter_map(row).collect();
    table("", &["metric", "original", "pruned", "difference", "95 % interval"], rows, 1..5)
}

fn p_value(p: f64) -> String {
    if p < 1e-4 { format!("{p:.1e}") } else { format!("{p:.4}") }
}

pub(super) fn verdict(d: &Diff) -> String {
    if d.identical {
        return "the outputs of both models are exactly the same on all samples".into();
    }
    let mut tests = d.primary.into_iter().chain([Metric::Top1]).filter_map(|m| Some((m, d.accuracy.get(m.name())?)));
    match tests.find(|(_, s)| s.verdict.is_some()) {
        Some((m, s)) => tested(m, s),
        None => match d.primary.zip(d.main()) {
            Some((primary, s)) => {
                let differ = if d.changed.is_empty() {
                    String::new()
                } else {
                    format!("; {} of {} are given to another class", d.changed.len(), plural(d.samples, "sample"))
                };
                format!("{primary} with the original: {}{differ}", figure(primary, s.pruned))
            }
            None => "the outputs differ; no metric fits them".into(),
        },
    }
}

/// What McNemar's test says, in words.
fn tested(m: Metric, s: &Score) -> String {
    let (Some(pairs), Some(test), Some(verdict)) = (s.pairs, s.mcnemar, s.verdict) else { return String::new() };
    let points = 100.0 * s.difference.abs();
    let change = match s.difference {
        x if x < 0.0 => format!("{m} is {points:.2} points lower"),
        x if x > 0.0 => format!("{m} is {points:.2} points higher"),
        _ => format!("{m} is the same"),
    };
    let how = match test.method {
        Method::ExactBinomial => "exact",
        Method::ChiSquare => "χ² with continuity correction",
    };
    let split = format!(
        "{} broken, {} fixed (McNemar's test, {how}: p = {})",
        plural(pairs.broken as usize, "sample"),
        pairs.fixed,
        p_value(test.p_value)
    );
    match verdict {
        Verdict::NoChange => format!("{change}, and every sample is as right or wrong as before"),
        Verdict::WithinNoise => format!("{change}, which is within noise: {split}"),
        Verdict::Worse => format!("{change}, which is more than noise: {split}"),
        Verdict::Better => format!("{change}, which is more than noise: {split}"),
    }
}

fn gate(g: &Gate) -> Block {
    Block::Fact("Limit", format!("{}: {}", if g.passed { "kept" } else { "NOT KEPT" }, g.words))
}

pub(super) fn classes(d: &Diff, limits: &Limits) -> Option<Block> {
    let mut all: Vec<_> = d.per_class.iter().collect();
    if all.is_empty() {
        return None;
    }
    let mut title = "top1 by class".to_owned();
    if all.len() > limits.classes {
        let total = all.len();
        all.retain(|c| c.fixed + c.broken > 0);
        let changed = all.len();
        all.sort_by(|a, b| b.difference.abs().total_cmp(&a.difference.abs()));
        all.truncate(limits.rows);
        title = format!("top1 by class: the largest of {changed} changes in {total} classes");
        if changed == 0 {
            return None;
        }
    }
    let row = |c: &&crate::evaluate::diff::ClassScore| {
        let m = Metric::Top1;
        vec![
            c.class.to_string(),
            c.samples.to_string(),
            figure(m, c.original),
            figure(m, c.pruned),
            signed(m, c.difference),
            c.fixed.to_string(),
            c.broken.to_string(),
        ]
    };
    let header = ["class", "samples", "original", "pruned", "points", "fixed", "broken"];
    Some(table(&title, &header, all.iter().map(row).collect(), 0..7))
}

pub(super) fn confusions(d: &Diff, limits: &Limits) -> Option<Block> {
    let row = |c: &crate::evaluate::diff::Confusion| {
        let all = [c.label.to_string(), c.taken_for.to_string(), c.original.to_string(), c.pruned.to_string()];
        all.into_iter().chain([format!("{:+}", c.change)]).collect()
    };
    let rows: Vec<Vec<String>> = d.confusions.iter().take(limits.rows).map(row).collect();
    let title = "mistakes that became more or less frequent";
    (!rows.is_empty()).then(|| table(title, &["class", "taken for", "original", "pruned", "change"], rows, 0..5))
}

pub(super) fn iou(d: &Diff, limits: &Limits) -> Option<Block> {
    let mut all: Vec<(usize, f64)> =
        d.iou_per_class.iter().enumerate().filter_map(|(c, x)| x.map(|x| (c, x))).collect();
    let total = all.len();
    if total > limits.classes {
        all.sort_by(|a, b| a.1.total_cmp(&b.1));
        all.truncate(limits.rows);
    }
    let title = if all.len() < total { format!("iou by class: the lowest of {total}") } else { "iou by class".into() };
    let row = |&(c, x): &(usize, f64)| vec![c.to_string(), figure(Metric::Iou, x)];
    (total > 0).then(|| table(&title, &["class", "iou"], all.iter().map(row).collect(), 0..2))
}

pub(super) fn outputs(d: &Diff, limits: &Limits) -> Vec<Block> {
    let name = |o: &OutputDiff| super::text::shorten(&o.name, limits.name / 2);
    let row = |o: &OutputDiff| {
        let kl = o.kl.map_or("–".into(), |k| number(k.mean));
        let relative = o.relative_mse.map_or("–".into(), number);
        vec![
            name(o),
            number(o.cosine),
            kl,
            number(o.mse),
            relative,
            figure(Metric::Psnr, o.psnr),
            number(o.max_delta),
            figure(Metric::Agreement, o.equal),
        ]
    };
    let header = ["output", "cosine", "KL", "mse", "of variance", "psnr", "max |Δ|", "equal"];
    let compared: Vec<&OutputDiff> = d.outputs.iter().filter(|o| o.batches > 0).collect();
    let mut out =
        vec![table("outputs against the original's", &header, compared.iter().map(|o| row(o)).collect(), 1..8)];
    let row = |o: &&OutputDiff| {
        let q = &o.error;
        let values = [q.min, q.q25, q.median, q.q75, q.q90, q.q99, q.max];
        std::iter::once(name(o)).chain(values.map(number)).collect()
    };
    let header = ["output", "min", "25 %", "median", "75 %", "90 %", "99 %", "max"];
    let title = "error of a sample (root mean squared difference)";
    out.push(table(title, &header, compared.iter().map(row).collect(), 1..8));
    if let Some(kl) = d.outputs.iter().find_map(|o| o.kl) {
        let what = if kl.softmax { "of the softmax of the scores" } else { "of the outputs, which are probabilities" };
        out.push(Block::Fact("KL", format!("Kullback–Leibler divergence {what}, original to pruned, in nats")));
    }
    out
}

pub(super) fn class(c: Option<usize>) -> String {
    c.map_or("–".into(), |c| c.to_string())
}

fn worst(d: &Diff, limits: &Limits) -> Option<Block> {
    let row = |w: &crate::evaluate::diff::Worst| {
        let label = w.label.map_or("–".into(), |l| l.to_string());
        let name = super::text::shorten(&w.name, limits.name);
        vec![name, number(w.error), label, class(w.original), class(w.pruned)]
    };
    let rows: Vec<Vec<String>> = d.worst.iter().take(limits.rows).map(row).collect();
    let title = "samples with the largest error (in standard deviations of the original's output)";
    (!rows.is_empty()).then(|| table(title, &["sample", "error", "label", "original", "pruned"], rows, 1..5))
}

pub(super) fn layers(l: &Layers, limits: &Limits) -> Vec<Block> {
    let mut all: Vec<(usize, f64, f64)> =
        l.tensors.iter().enumerate().filter_map(|(i, t)| Some((i, t.growth?, t.error?))).collect();
    // What is next to nothing beside the rest is rounding.
    let most = all.iter().map(|x| x.1).fold(0.0, f64::max);
    all.retain(|(_, growth, _)| *growth > most * NOTABLE);
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    all.truncate(limits.rows);
    // Chosen by size, told in the network's order.
    all.sort_by_key(|x| x.0);
    let names = all.iter().filter_map(|(i, ..)| l.tensors.get(*i)).map(|t| t.tensor.as_str());
    let names = super::text::shorten_all(names, limits.name);
    let row = |(name, (i, growth, error)): (String, &(usize, f64, f64))| {
        let op = l.tensors.get(*i).map_or("", |t| t.op.as_str());
        vec![name, op.to_owned(), number(*error), format!("+{}", number(*growth))]
    };
    let rows: Vec<Vec<String>> = names.into_iter().zip(&all).map(row).collect();
    let mut text = format!(
        "{} of the same name and shape compared on {}",
        plural(l.compared, "tensor"),
        plural(l.samples, "sample")
    );
    if l.other_shape > 0 {
        text += &format!("; {} more have another shape (channels are gone) and cannot be compared", l.other_shape);
    }
    if l.only_original + l.only_pruned > 0 {
        text += &format!("; {} are only in the original, {} only in the pruned model", l.only_original, l.only_pruned);
    }
    let mut out = Vec::new();
    if !rows.is_empty() {
        let title = "where the error grows most (mean squared difference over the original's variance)";
        out.push(table(title, &["tensor", "operator", "error", "growth"], rows, 2..4));
    }
    out.push(Block::Fact("Layers", text));
    out
}
