//! The verdict: what comes first on the page.

use super::super::{diff_view, text};
use super::{Page, sweep, training};
use crate::evaluate::bench::{self, BenchReport};
use crate::evaluate::gate;
use crate::evaluate::metric::Metric;
use crate::report::PruneReport;

/// What it comes to.
pub(super) struct Verdict {
    /// Class of the colours: `good`, `bad`, `doubt` or `plain`.
    pub tone: &'static str,
    /// A sign that says the same as the colour.
    pub sign: &'static str,
    pub word: &'static str,
    pub sentence: String,
    pub limits: Vec<Limit>,
    /// The figures that matter most.
    pub figures: Vec<Figure>,
}

/// A limit and what became of it.
pub(super) struct Limit {
    pub name: String,
    pub limit: String,
    pub value: String,
    pub kept: bool,
    pub inconclusive: bool,
    pub words: String,
}

/// A number and what it is.
pub(super) struct Figure {
    pub name: String,
    pub value: String,
    pub more: String,
}

impl Limit {
    pub fn tone(&self) -> &'static str {
        match (self.kept, self.inconclusive) {
            (_, true) => "doubt",
            (true, false) => "good",
            (false, false) => "bad",
        }
    }

    pub fn word(&self) -> &'static str {
        match (self.kept, self.inconclusive) {
            (true, false) => "✓ kept",
            (true, true) => "✓ kept, inconclusive",
            (false, true) => "✕ broken, inconclusive",
            (false, false) => "✕ broken",
        }
    }
}

impl Verdict {
    pub fn of(page: &Page) -> Verdict {
        let limits = limits(page);
        let broken = limits.iter().filter(|l| !l.kept).count();
        let doubtful = limits.iter().filter(|l| l.inconclusive).count();
        let missed = page.prune.and_then(|p| p.missed.as_ref());
        let worse = |b: &&BenchReport| {
            b.rows.iter().filter_map(|r| r.comparison.as_ref()).any(|c| c.verdict == bench::Verdict::Slower)
        };
        let slower = page.bench().filter(worse).map(gate::slower).unwrap_or_default();
        let all = text::plural(limits.len(), "limit");
        let (tone, sign, word, mut sentence) = match (broken, doubtful, missed) {
            // Never a success, whatever was asked for.
            (0, ..) if !slower.is_empty() => ("bad", "✕", "Slower", format!("{}.", slower.join("; "))),
            (0, _, Some(why)) => ("doubt", "!", "Missed", format!("The budget was missed: {why}.")),
            (0, 0, None) if limits.is_empty() => match (page.prune, page.training) {
                _ if page.sweep.is_some() => page.sweep.map_or(("plain", "i", "", String::new()), sweep::verdict),
                (Some(p), _) => ("good", "✓", "Budget met", met(p)),
                (None, Some(t)) => training::verdict(t),
                (None, None) => ("plain", "i", "No limits", untested(page)),
            },
            (0, 0, None) => ("good", "✓", "Passed", format!("{all} kept.")),
            (0, d, None) => {
                let many = if d == 1 { "it is" } else { "they are" };
                let words = format!(
                    "{all} kept, but {d} of them inconclusive: {many} so near the limit that another run may judge otherwise."
                );
                ("doubt", "✓", "Passed, inconclusive", words)
            }
            (n, d, _) => {
                let doubt =
                    if d > 0 { format!("; {d} inconclusive: another run may judge otherwise") } else { String::new() };
                ("bad", "✕", "Failed", format!("{n} of {all} broken{doubt}."))
            }
        };
        if let Some(why) = missed.filter(|_| broken > 0) {
            sentence += &format!(" The budget was missed too: {why}.");
        }
        Verdict { tone, sign, word, sentence, limits, figures: figures(page) }
    }
}

fn met(p: &PruneReport) -> String {
    let (gone, all) = (p.channels_removed, p.channels_prunable);
    format!(
        "{} asked, {:.4} reached: {gone} of {all} prunable channels removed. No limit on accuracy was set.",
        p.budget, p.ratio_reached
    )
}

fn untested(page: &Page) -> String {
    let told = page.diff().map(|d| format!(" {}.", super::part::capital(&diff_view::verdict(d))));
    format!("No limit was set, so nothing is judged here.{}", told.unwrap_or_default())
}

fn number(x: f64) -> String {
    if x.is_finite() { format!("{x:.4}") } else { x.to_string() }
}

fn limits(page: &Page) -> Vec<Limit> {
    let mut all = Vec::new();
    let mut add = |name: &str, limit: f64, value: f64, kept: bool, inconclusive: bool, words: &str| {
        let (name, limit, value) = (format!("--{name}"), limit.to_string(), number(value));
        all.push(Limit { name, limit, value, kept, inconclusive, words: words.into() });
    };
    if let Some(c) = page.check {
        c.gates.iter().for_each(|g| add(&g.name, g.limit, g.value, g.passed, g.inconclusive, &g.words));
    } else if let Some(p) = page.prune.filter(|p| !p.gates.is_empty()) {
        p.gates.iter().for_each(|g| add(&g.name, g.limit, g.value, g.passed, g.inconclusive, &g.words));
        return all;
    } else if let Some(d) = page.diff() {
        d.gates.iter().for_each(|g| add(g.name, g.limit, g.value, g.passed, g.inconclusive, &g.words));
    }
    if let Some(a) = page.prune.and_then(|p| p.accuracy.as_ref())
        && let (Some(limit), Some(kept)) = (a.limit, a.passed)
    {
        let words = format!("{} {:.4} → {:.4}, a drop of {:.2} points", a.metric, a.original, a.pruned, a.drop);
        add("max-drop", limit, a.drop, kept, false, &words);
    }
    all
}

/// At most five: accuracy, speed, sizes.
fn figures(page: &Page) -> Vec<Figure> {
    let mut all = page.training.map(training::figures).unwrap_or_default();
    all.extend(page.sweep.map(sweep::figures).unwrap_or_default());
    let mut add = |name: String, value: String, more: String| all.push(Figure { name, value, more });
    if let Some(d) = page.diff()
        && let (Some(m), Some(s)) = (d.primary, d.main())
    {
        let more = match m {
            Metric::Top1 | Metric::Top5 => format!(
                "was {}; {} points, 95 % interval {}",
                diff_view::figure(m, s.original),
                diff_view::signed(m, s.difference),
                diff_view::interval(m, s.interval)
            ),
            _ => format!("on {}", text::plural(d.samples, "sample")),
        };
        add(m.to_string(), diff_view::figure(m, s.pruned), more);
    } else if let Some(a) = page.prune.and_then(|p| p.accuracy.as_ref()) {
        add(
            a.metric.clone(),
            format!("{:.4}", a.pruned),
            format!("was {:.4}; a drop of {:.2} points", a.original, a.drop),
        );
    }
    if let Some(c) = page.bench().and_then(|b| b.rows.iter().find_map(|r| r.comparison.as_ref())) {
        let more = format!("{:.3} of the time, 95 % interval {:.3} to {:.3}", c.ratio, c.low, c.high);
        add("Speed".into(), format!("{:.2} ×", 1.0 / c.ratio), more);
    }
    for s in super::sections::sizes(page) {
        let more = format!("{} → {}", (s.words)(s.before), (s.words)(s.after));
        add(format!("{} left", s.name), text::percent(s.after as f64, s.before as f64), more);
    }
    all
}
