//! Pictures of a training run: what changed from epoch to epoch.

use super::super::data_terminal::number;
use super::super::text;
use super::super::train_text::{figure, rate, share};
use super::plot::{AFTER, Area, BEFORE, CUT, Drawn, INK, LINE, axes, picture, style};
use crate::error::Result;
use crate::train::history::{Epoch, Held, History, SparsityState};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

/// One picture.
pub(in crate::report) struct Panel {
    pub title: &'static str,
    pub height: u32,
    pub svg: String,
    /// What is to be seen.
    pub caption: String,
}

/// Most terms of the loss that are drawn; the table has all.
const TERMS: usize = 4;
/// Most columns of the picture of scores.
const COLUMNS: usize = 60;
/// Room for the names of lines, in pixels.
const ROOM: u32 = 96;

struct Line {
    name: String,
    points: Vec<(f64, f64)>,
    colour: RGBColor,
    /// Pixels drawn and left out; solid without them.
    dash: Option<(i32, i32)>,
}

/// A picture of lines over epochs.
struct Graph<'a> {
    id: &'a str,
    title: &'static str,
    about: String,
    height: u32,
    y: &'a str,
    lines: Vec<Line>,
    /// What an upright line marks.
    kept: Option<usize>,
    format: &'a dyn Fn(f64) -> String,
    /// A logarithmic axis, where the values are far apart.
    logarithmic: bool,
}

/// Everything that can be drawn of a run.
///
/// # Errors
/// When it cannot be drawn.
pub(in crate::report) fn panels(h: &History) -> Result<Vec<Panel>> {
    let mut out = Vec::new();
    if h.epochs.is_empty() {
        return Ok(out);
    }
    out.push(losses(h)?);
    if let Some(name) = h.metric() {
        out.push(quality(h, name)?);
    }
    out.push(rates(h)?);
    out.extend(scores(h)?);
    Ok(out)
}

/// Points of all epochs that have a value, epoch 0 first where there is one.
fn points(h: &History, zero: Option<f64>, value: impl Fn(&Epoch) -> Option<f64>) -> Vec<(f64, f64)> {
    let later = h.epochs.iter().filter_map(|e| Some((e.epoch as f64, value(e)?)));
    zero.map(|y| (0.0, y)).into_iter().chain(later).filter(|p| p.1.is_finite()).collect()
}

/// First and last in words.
fn told(line: &Line, format: &dyn Fn(f64) -> String) -> String {
    match (line.points.first(), line.points.last()) {
        (Some(a), Some(b)) => format!("{}: {} → {}", line.name, format(a.1), format(b.1)),
        _ => format!("{}: no finite value", line.name),
    }
}

fn kept(h: &History) -> Option<usize> {
    h.best_epoch.filter(|&best| h.epochs.last().is_some_and(|e| e.epoch != best))
}

fn marked(h: &History) -> &'static str {
    if kept(h).is_some() { " The dashed upright line is the epoch that was kept." } else { "" }
}

fn losses(h: &History) -> Result<Panel> {
    let solid = |name: &str, points, colour| Line { name: name.into(), points, colour, dash: None };
    let mut lines = vec![solid("loss", points(h, None, |e| Some(e.loss)), AFTER)];
    let held = |x: &Held| x.loss;
    let measured = points(h, h.before.as_ref().map(held), |e| e.held.as_ref().map(held));
    if !measured.is_empty() {
        lines.push(solid("held back", measured, CUT));
    }
    let terms = h.terms();
    if terms.len() > 1 {
        for (i, term) in terms.into_iter().take(TERMS).enumerate() {
            let dash = Some([(7, 3), (2, 3), (12, 4), (4, 6)].get(i).copied().unwrap_or((2, 6)));
            let points = points(h, None, |e| e.terms.get(term).copied());
            lines.push(Line { name: term.into(), points, colour: BEFORE, dash });
        }
    }
    let values = || lines.iter().flat_map(|l| l.points.iter().map(|p| p.1));
    let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
    let logarithmic = low > 0.0 && high > 50.0 * low;
    let parts: Vec<String> = lines.iter().map(|l| told(l, &number)).collect();
    let about =
        format!("From the first to the last epoch: {}. The table of epochs has every figure.", parts.join("; "));
    let terms =
        if lines.iter().any(|l| l.dash.is_some()) { " The broken lines are the terms of the loss." } else { "" };
    let scale = if logarithmic { " The scale is logarithmic." } else { "" };
    let caption = format!("The loss that was minimised, a mean over each epoch.{terms}{}{scale}", marked(h));
    let title = "Loss by epoch";
    let graph = Graph {
        id: "plot-loss",
        title,
        about,
        height: 250,
        y: "loss",
        lines,
        kept: kept(h),
        format: &number,
        logarithmic,
    };
    Ok(Panel { title, height: graph.height, svg: graph.draw(h)?, caption })
}

fn quality(h: &History, name: &str) -> Result<Panel> {
    let value = |x: &Held| x.metric.filter(|_| x.metric_name.as_deref() == Some(name));
    let before = h.before.as_ref().and_then(value);
    let points = points(h, before, |e| e.held.as_ref().and_then(value));
    let line = Line { name: name.to_owned(), points, colour: AFTER, dash: None };
    let format = |x: f64| figure(Some(name), x);
    let about = format!("{}. The table of epochs has every figure.", told(&line, &format));
    let from = if before.is_some() { " Epoch 0 is the model before." } else { "" };
    let caption = format!("{name} on the held-back samples.{from}{}", marked(h));
    let title = "Quality by epoch";
    let (lines, kept) = (vec![line], kept(h));
    let graph = Graph {
        id: "plot-quality",
        title,
        about,
        height: 210,
        y: name,
        lines,
        kept,
        format: &format,
        logarithmic: false,
    };
    Ok(Panel { title, height: graph.height, svg: graph.draw(h)?, caption })
}

fn rates(h: &History) -> Result<Panel> {
    let line = Line { name: "rate".into(), points: points(h, None, |e| Some(e.lr)), colour: AFTER, dash: None };
    let format = |x: f64| rate(x);
    let about = format!("Learning rate, {}. The table of epochs has every figure.", told(&line, &format));
    let title = "Learning rate by epoch";
    let caption = "Learning rate of the last step of each epoch.".to_owned();
    let (lines, y) = (vec![line], "rate");
    let graph =
        Graph { id: "plot-rate", title, about, height: 150, y, lines, kept: None, format: &format, logarithmic: false };
    Ok(Panel { title, height: graph.height, svg: graph.draw(h)?, caption })
}

impl Graph<'_> {
    fn draw(&self, h: &History) -> Result<String> {
        let of = |y: f64| if self.logarithmic { y.log10() } else { y };
        let back = |y: f64| if self.logarithmic { 10f64.powf(y) } else { y };
        let values = || self.lines.iter().flat_map(|l| l.points.iter().map(|p| of(p.1)));
        let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
        let room = if high > low { (high - low) * 0.07 } else { (high.abs() * 0.1).max(1e-3) };
        let (low, high) = match low.is_finite() {
            // Nothing is where it seems to be without the axis's end.
            true if !self.logarithmic && low >= 0.0 && low < 0.4 * high => (0.0, high + room),
            true => (low - room, high + room),
            false => (0.0, 1.0),
        };
        let first = self.lines.iter().flat_map(|l| l.points.first()).map(|p| p.0).fold(1.0, f64::min);
        let last = h.epochs.last().map_or(1.0, |e| e.epoch as f64);
        // One epoch alone has no width.
        let (from, to) = if last > first { (first, last) } else { (first - 1.0, first + 1.0) };
        picture(self.id, self.height, self.title, &self.about, |area| {
            let mut chart = ChartBuilder::on(area)
                .margin(8)
                .margin_right(ROOM)
                .x_label_area_size(38)
                .y_label_area_size(62)
                .build_cartesian_2d(from..to, low..high)?;
            let labels = ((to - from) as usize + 1).min(9);
            let rows = (self.height / 50) as usize;
            axes!(chart, "epoch", self.y, (labels, rows), &epoch, &|y: &f64| tick(&(self.format)(back(*y))))?;
            if let Some(kept) = self.kept {
                let x = kept as f64;
                chart.draw_series(DashedLineSeries::new([(x, low), (x, high)], 4, 4, BEFORE.stroke_width(1)))?;
            }
            let mut ends = Vec::new();
            for line in self.lines.iter().rev() {
                let points: Vec<(f64, f64)> = line.points.iter().map(|p| (p.0, of(p.1))).collect();
                let stroke = line.colour.stroke_width(2);
                match line.dash {
                    Some((on, off)) => {
                        chart.draw_series(DashedLineSeries::new(points.iter().copied(), on, off, stroke))?;
                    }
                    None => {
                        chart.draw_series(LineSeries::new(points.iter().copied(), stroke))?;
                        if points.len() <= 30 {
                            chart.draw_series(points.iter().map(|p| Circle::new(*p, 3, line.colour.filled())))?;
                        }
                    }
                }
                // A line that is alone is named by the axis already.
                let alone = self.lines.len() == 1;
                let last = line.points.last().map(|p| (self.format)(p.1)).filter(|_| alone);
                let name = last.unwrap_or_else(|| text::shorten(&line.name, 12));
                ends.extend(points.last().map(|p| (chart.backend_coord(p), line.colour, name)));
            }
            names(area, ends, self.height as i32 - 46)
        })
    }
}

/// Whole numbers only.
fn epoch(x: &f64) -> String {
    if (x - x.round()).abs() < 1e-6 && *x >= 0.0 { format!("{x:.0}") } else { String::new() }
}

/// Without zeros that say nothing: `90.00 %` is `90 %`.
fn tick(text: &str) -> String {
    let (number, unit) = text.split_once(' ').map_or((text, None), |(number, unit)| (number, Some(unit)));
    let short = match number.contains('.') && !number.contains('e') {
        true => number.trim_end_matches('0').trim_end_matches('.'),
        false => number,
    };
    unit.map_or(short.to_owned(), |unit| format!("{short} {unit}"))
}

/// The lines' names beside their ends, moved apart where they would lie upon each other.
fn names(area: &Area, mut ends: Vec<((i32, i32), RGBColor, String)>, lowest: i32) -> Drawn {
    const APART: i32 = 14;
    ends.sort_by_key(|((_, y), ..)| *y);
    let mut places: Vec<i32> = Vec::new();
    for ((_, y), ..) in &ends {
        places.push(places.last().map_or(*y, |above| (*y).max(above + APART)));
    }
    // Those at the bottom push the others up.
    let mut below = lowest + APART;
    for place in places.iter_mut().rev() {
        *place = (*place).min(below - APART);
        below = *place;
    }
    for (((x, y), colour, name), at) in ends.into_iter().zip(places) {
        area.draw(&PathElement::new(vec![(x + 5, y), (x + 13, at)], colour.stroke_width(1)))?;
        area.draw(&Text::new(name, (x + 17, at), style((HPos::Left, VPos::Center)).color(&INK)))?;
    }
    Ok(())
}

/// How the scores of channels part, and how many can go.
fn scores(h: &History) -> Result<Vec<Panel>> {
    let states: Vec<(usize, &SparsityState)> =
        h.epochs.iter().filter_map(|e| Some((e.epoch, e.sparsity.as_ref()?))).collect();
    let (Some(&(n, first)), Some(&(m, last))) = (states.first(), states.last()) else { return Ok(Vec::new()) };
    let mut out = Vec::new();
    let bins = first.edges.len().saturating_sub(1);
    let alike = |s: &SparsityState| s.edges == first.edges && s.histogram.len() == bins;
    if bins > 0 && states.iter().all(|(_, s)| alike(s)) {
        let title = "Scores of channels by epoch";
        let about =
            format!("Epoch {n}: {} Epoch {m}: {} The table of scores has every figure.", spread(first), spread(last));
        let caption =
            "Each column is an epoch, each row a range of scores; the stronger the colour, the more channels. A \
                       score of 0 is the largest, of −3 a thousandth of it. What lies low can go."
                .to_owned();
        let height = 240;
        let svg = picture("plot-sparsity", height, title, &about, |area| heat(area, &states, &first.edges))?;
        // Else lines show between cells when the picture is scaled.
        let svg = svg.replacen("<svg ", "<svg shape-rendering=\"crispEdges\" ", 1);
        out.push(Panel { title, height, svg, caption });
    }
    let share = |x: f64| share(x);
    let removable = points(h, None, |e| e.sparsity.as_ref().map(|s| s.removable_share));
    let line = Line { name: "removable".into(), points: removable, colour: AFTER, dash: None };
    let title = "Removable channels by epoch";
    let about = format!("{}. The table of epochs has every figure.", told(&line, &share));
    let caption = format!("Share of the prunable channels that can go.{}", marked(h));
    let (lines, kept, y) = (vec![line], kept(h), "share");
    let graph =
        Graph { id: "plot-removable", title, about, height: 190, y, lines, kept, format: &share, logarithmic: false };
    out.push(Panel { title, height: graph.height, svg: graph.draw(h)?, caption });
    Ok(out)
}

/// Between which scores the channels lie.
fn spread(s: &SparsityState) -> String {
    let all: u64 = s.histogram.iter().sum();
    let mut seen = 0;
    let median = s.histogram.iter().position(|n| {
        seen += n;
        2 * seen >= all
    });
    let edge = |i: Option<usize>| i.and_then(|i| s.edges.get(i)).map_or("–".to_owned(), |e| format!("{e:.1}"));
    let lowest = s.histogram.iter().position(|n| *n > 0);
    format!("{all} channels, the lowest from {}, half of them below {}.", edge(lowest), edge(median.map(|i| i + 1)))
}

fn heat(area: &Area, states: &[(usize, &SparsityState)], edges: &[f64]) -> Drawn {
    let (low, high) = (edges.first().copied().unwrap_or(-1.0), edges.last().copied().unwrap_or(0.0));
    let every = states.len().div_ceil(COLUMNS).max(1);
    let columns: Vec<&(usize, &SparsityState)> = states.iter().step_by(every).collect();
    let (from, to) = (states.first().map_or(1, |s| s.0) as f64 - 0.5, states.last().map_or(1, |s| s.0) as f64 + 0.5);
    let most = columns.iter().flat_map(|(_, s)| &s.histogram).max().copied().unwrap_or(0).max(1) as f64;
    let mut chart = ChartBuilder::on(area)
        .margin(8)
        .margin_right(ROOM)
        .x_label_area_size(38)
        .y_label_area_size(62)
        .build_cartesian_2d(from..to, low..high)?;
    let labels = ((to - from) as usize).min(9);
    axes!(chart, "epoch", "score, log10", (labels, 6), &epoch, &|y: &f64| format!("{y:.0}").replace('-', "−"))?;
    for (i, (at, s)) in columns.iter().enumerate() {
        let x = *at as f64 - 0.5;
        let next = columns.get(i + 1).map_or(to, |(next, _)| *next as f64 - 0.5);
        for (bin, n) in edges.windows(2).zip(&s.histogram).filter(|(_, n)| **n > 0) {
            let &[bottom, top] = bin else { continue };
            // The root, so that few can be seen beside many.
            let colour = AFTER.mix((*n as f64 / most).sqrt());
            chart.draw_series([Rectangle::new([(x, bottom), (next, top)], colour.filled())])?;
        }
    }
    // What the colours are.
    let (x, _) = chart.backend_coord(&(to, high));
    let words = |text: String, y: i32| Text::new(text, (x + 30, y), style((HPos::Left, VPos::Center)));
    area.draw(&Text::new("channels", (x + 10, 20), style((HPos::Left, VPos::Center))))?;
    for (i, share) in [1.0f64, 0.5, 0.25, 0.0].into_iter().enumerate() {
        let y = 32 + 18 * i as i32;
        let cell = [(x + 10, y), (x + 24, y + 14)];
        area.draw(&Rectangle::new(cell, AFTER.mix(share.sqrt()).filled()))?;
        area.draw(&Rectangle::new(cell, LINE.stroke_width(1)))?;
        area.draw(&words(format!("{:.0}", most * share), y + 7))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::super::train_text::tests::run;
    use super::*;

    #[test]
    fn every_run_can_be_drawn() {
        let titles = |h: &History| panels(h).unwrap().into_iter().map(|p| p.title).collect::<Vec<_>>();
        let dense = ["Loss by epoch", "Quality by epoch", "Learning rate by epoch"];
        assert_eq!(titles(&run(9, false)), dense);
        assert_eq!(titles(&run(9, true))[3..], ["Scores of channels by epoch", "Removable channels by epoch"]);
        assert_eq!(titles(&run(1, true)).len(), 5);
        assert!(titles(&History::default()).is_empty());
        let mut h = run(4, true);
        h.before = None;
        for e in &mut h.epochs {
            (e.loss, e.lr, e.held, e.sparsity) = (f64::NAN, 0.0, None, Some(SparsityState::default()));
            e.terms = [("<a>".to_owned(), 1e30), ("b".to_owned(), 1e-3)].into();
        }
        let all = panels(&h).unwrap();
        assert!(all[0].svg.contains("loss: no finite value") && !all[0].svg.contains("<a>"), "{}", all[0].svg);
        assert!(all[0].caption.contains("logarithmic"));
    }

    #[test]
    fn long_runs_make_no_long_pictures() {
        let all = panels(&run(600, true)).unwrap();
        assert!(all.iter().all(|p| p.svg.len() < 150_000), "{:?}", all.iter().map(|p| p.svg.len()).collect::<Vec<_>>());
    }

    #[test]
    fn ticks_are_short() {
        assert_eq!(
            ["90.00 %", "1.000", "0", "1.00e-5", "12.50 dB"].map(tick),
            ["90 %", "1", "0", "1.00e-5", "12.5 dB"]
        );
    }

    #[test]
    fn scores_are_told_in_words() {
        let (edges, histogram) = (vec![-3.0, -2.0, -1.0, 0.0], vec![0, 6, 4]);
        let s = SparsityState { edges, histogram, ..SparsityState::default() };
        assert_eq!(spread(&s), "10 channels, the lowest from -2.0, half of them below -1.0.");
    }
}
