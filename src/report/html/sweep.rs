//! The sections of a sweep.

use super::super::sweep_text::{cells, drop_text, summary};
use super::super::text;
use super::part::{Block, Cell, Figure, Section, Table, sentence};
use super::plot::{AFTER, Area, BEFORE, Drawn, LINE, axes, picture, style};
use super::verdict;
use crate::error::Result;
use crate::sweep::collect::{Record, Table as Found};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};
use std::collections::BTreeMap;

/// What a cost is, of a row.
type Cost = fn(&Record) -> Option<f64>;
/// What it is called, here and on an axis; and whether a row is on the front by it.
type Front = (&'static str, &'static str, Cost, fn(&Record) -> bool);

/// All of it.
pub(super) fn sections(t: &Found) -> Result<Vec<Section>> {
    let mut models: BTreeMap<&str, Vec<&Record>> = BTreeMap::new();
    for row in &t.rows {
        models.entry(&row.model).or_default().push(row);
    }
    let mut fronts = Vec::new();
    for (i, (name, rows)) in models.iter().enumerate() {
        let costs: [Front; 2] = [
            ("multiply-accumulates", "MACs that stay, in %", macs, |r| r.best_by_macs),
            ("time", "time, in % of the original's", time, |r| r.best_by_time),
        ];
        for (k, (what, axis, cost, best)) in costs.into_iter().enumerate() {
            let points: Vec<Point> =
                rows.iter().filter_map(|r| Some(Point(cost(r)?, r.drop_points?, best(r)))).collect();
            if points.is_empty() {
                continue;
            }
            fronts.push(Block::Sub(format!("{name}: accuracy against {what}")));
            let svg = draw(&format!("front-{i}-{k}"), name, axis, points)?;
            let caption = "Each dot is a row, further left cheaper, lower better. The line joins the rows that no other \
                           beats in both.";
            fronts.push(Block::Figure(Figure { svg, caption: caption.into() }));
        }
    }
    let best: Vec<Record> = t.rows.iter().filter(|r| r.best_by_macs || r.best_by_time).cloned().collect();
    let mut all = vec![Section { id: "fronts", heading: "What nothing beats", blocks: fronts }];
    if let (Some(section), false) = (all.first_mut(), best.is_empty()) {
        section.blocks.push(rows("The rows on the fronts", &best));
    }
    let mut every = vec![Block::Text(sentence(&summary(t))), rows("Every row", &t.rows)];
    let failed = t.rows.iter().filter_map(|r| Some((r, r.error.as_ref()?)));
    let failed: Vec<Vec<Cell>> =
        failed.map(|(r, error)| vec![Cell::text(name(r)), Cell::code(error.clone())]).collect();
    if !failed.is_empty() {
        every.push(Block::Table(Table::new("What failed", &["row", "why"], failed, &[])));
    }
    all.push(Section { id: "rows", heading: "Rows", blocks: every });
    let notes: Vec<Block> = t.notes.iter().map(|n| Block::Text(sentence(n))).collect();
    all.push(Section { id: "notes", heading: "Notes", blocks: notes });
    all.retain(|s| !s.blocks.is_empty());
    Ok(all)
}

fn macs(r: &Record) -> Option<f64> {
    let (before, after) = (r.macs_before?, r.macs_after?);
    (before > 0).then(|| 100.0 * after as f64 / before as f64)
}

fn time(r: &Record) -> Option<f64> {
    r.time_ratio.map(|x| 100.0 * x)
}

fn name(r: &Record) -> String {
    let mut words = format!("{}, {}", r.model, r.budget);
    for (what, value) in [("criterion", &r.criterion), ("repair", &r.recover)] {
        if value != "default" {
            words += &format!(", {what} {value}");
        }
    }
    for (what, n) in [("epochs", r.epochs), ("seed", r.seed)] {
        if n > 0 {
            words += &format!(", {what} {n}");
        }
    }
    words
}

fn rows(caption: &str, records: &[Record]) -> Block {
    let (head, texts, right) = cells(records);
    let head: Vec<&str> = head.into_iter().map(|h| if h.is_empty() { "note" } else { h }).collect();
    let texts = texts.into_iter().map(|row| row.into_iter().map(Cell::text).collect()).collect();
    let table = Table::new(caption, &head, texts, &right);
    Block::Table(if table.rows.len() > 60 { table.folded() } else { table })
}

/// What it comes to: tone, sign, word and sentence.
pub(super) fn verdict(t: &Found) -> (&'static str, &'static str, &'static str, String) {
    let words = sentence(&summary(t));
    match t.rows.iter().all(|r| r.status == "done") {
        true => ("plain", "i", "Complete", words),
        false => ("doubt", "!", "Incomplete", words),
    }
}

/// The row with the smallest drop, and the cheapest of those that lose at most a point.
pub(super) fn figures(t: &Found) -> Vec<verdict::Figure> {
    let mut all = Vec::new();
    let by = |key: &dyn Fn(&Record) -> Option<f64>| {
        let rows = t.rows.iter().filter_map(|r| Some((key(r).filter(|x| x.is_finite())?, r)));
        rows.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, r)| r)
    };
    if let Some(r) = by(&|r| r.drop_points) {
        all.push(verdict::Figure { name: "Smallest drop".into(), value: drop_text(r), more: name(r) });
    }
    if let Some(r) = by(&|r| macs(r).filter(|_| r.drop_points.is_some_and(|d| d <= 1.0))) {
        let value = macs(r).map_or_else(String::new, |m| format!("{m:.1} % of MACs"));
        all.push(verdict::Figure { name: "Cheapest within a point".into(), value, more: name(r) });
    }
    all
}

/// Cost, drop, and whether nothing beats it.
struct Point(f64, f64, bool);

fn draw(id: &str, name: &str, axis: &str, mut points: Vec<Point>) -> Result<String> {
    points.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let best: Vec<&Point> = points.iter().filter(|p| p.2).collect();
    let told: Vec<String> = best.iter().map(|p| format!("{:.1} %: {:.2} points", p.0, p.1)).collect();
    let about = format!(
        "{}, {} of them beaten by no other: {}. The table of rows has every figure.",
        text::plural(points.len(), "row"),
        best.len(),
        told.join("; ")
    );
    let range = |values: &dyn Fn(&Point) -> f64| {
        let (low, high) = points.iter().map(values).fold((f64::MAX, f64::MIN), |(a, b), x| (a.min(x), b.max(x)));
        let room = ((high - low) * 0.06).max(0.05);
        (low - room)..(high + room)
    };
    let title = format!("{name}: drop over {axis}");
    picture(id, 280, &title, &about, |area: &Area| -> Drawn {
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .x_label_area_size(38)
            .y_label_area_size(54)
            .build_cartesian_2d(range(&|p| p.0), range(&|p| p.1))?;
        let tick = |x: &f64| format!("{x:.1}").trim_end_matches(".0").replace('-', "−");
        axes!(chart, axis, "drop, in points", (6, 6), &tick, &tick)?;
        let others = points.iter().filter(|p| !p.2);
        chart.draw_series(others.map(|p| Circle::new((p.0, p.1), 3, BEFORE.filled())))?;
        chart.draw_series(LineSeries::new(best.iter().map(|p| (p.0, p.1)), AFTER.stroke_width(2)))?;
        chart.draw_series(best.iter().map(|p| Circle::new((p.0, p.1), 4, AFTER.filled())))?;
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Page, page};
    use crate::report::sweep_text::tests::some;

    #[test]
    fn the_page_shows_fronts_and_failures() {
        let table = some();
        let text = page(&Page { title: Some("a sweep"), sweep: Some(&table), ..Page::default() }).unwrap();
        assert!(text.contains("resnet: accuracy against multiply-accumulates"), "{text}");
        assert!(!text.contains("accuracy against time"));
        assert!(text.contains("Incomplete") && text.contains("budget cannot be met"));
        // Two on the front and two beside it.
        assert_eq!(text.matches("<circle").count(), 4);
    }
}
