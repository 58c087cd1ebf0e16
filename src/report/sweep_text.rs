//! What a sweep found, for terminals; the same rows go into the page.

use super::text::{self, MAX_ROWS, csv_field, field, plural};
use crate::sweep::collect::{COLUMNS, Cell, Record, Table};

/// A column: its name, whether it holds numbers, and a row's text.
type Column = (&'static str, bool, fn(&Record) -> String);

/// The columns that tell something about these rows.
fn columns(rows: &[Record]) -> Vec<Column> {
    let varied = |f: fn(&Record) -> String| rows.iter().any(|r| rows.first().is_some_and(|first| f(first) != f(r)));
    let some = |f: fn(&Record) -> bool| rows.iter().any(f);
    let all: [(bool, Column); 11] = [
        (varied(|r| r.model.clone()), ("model", false, |r| r.model.clone())),
        (true, ("budget", false, |r| r.budget.clone())),
        (varied(|r| r.criterion.clone()), ("criterion", false, |r| r.criterion.clone())),
        (varied(|r| r.recover.clone()), ("repair", false, |r| r.recover.clone())),
        (varied(|r| r.epochs.to_string()), ("epochs", true, |r| r.epochs.to_string())),
        (varied(|r| r.seed.to_string()), ("seed", true, |r| r.seed.to_string())),
        (some(|r| r.macs_after.is_some()), ("MACs stay", true, macs)),
        (some(|r| r.metric.is_some()), ("metric", true, metric)),
        (some(|r| r.drop_points.is_some()), ("drop", true, drop_text)),
        (some(|r| r.time_ratio.is_some()), ("time", true, |r| r.time_ratio.map_or("–".into(), |x| format!("{x:.3}")))),
        (true, ("", false, mark)),
    ];
    all.into_iter().filter(|(told, _)| *told).map(|(_, column)| column).collect()
}

fn macs(r: &Record) -> String {
    match (r.macs_before, r.macs_after) {
        (Some(before), Some(after)) => text::percent(after as f64, before as f64),
        _ => "–".into(),
    }
}

fn metric(r: &Record) -> String {
    match (&r.metric, r.metric_before, r.metric_after) {
        (Some(name), Some(before), Some(after)) => format!("{name} {before:.4} → {after:.4}"),
        _ => "–".into(),
    }
}

/// Drop in points with its interval.
pub(super) fn drop_text(r: &Record) -> String {
    let minus = |text: String| text.replace('-', "−");
    match (r.drop_points, r.drop_low, r.drop_high) {
        (Some(drop), Some(low), Some(high)) => minus(format!("{drop:.2} ({low:.2} to {high:.2})")),
        (Some(drop), ..) => minus(format!("{drop:.2}")),
        _ => "–".into(),
    }
}

fn mark(r: &Record) -> String {
    match (r.status.as_str(), r.best_by_macs, r.best_by_time) {
        ("done", true, true) => "best by MACs and time".into(),
        ("done", true, false) => "best by MACs".into(),
        ("done", false, true) => "best by time".into(),
        ("done", ..) => String::new(),
        (status, ..) => status.to_owned(),
    }
}

/// Head, rows, and the columns of numbers.
pub(super) fn cells(rows: &[Record]) -> (Vec<&'static str>, Vec<Vec<String>>, Vec<usize>) {
    let columns = columns(rows);
    let right = columns.iter().enumerate().filter(|(_, c)| c.1).map(|(i, _)| i).collect();
    let texts = rows.iter().map(|r| columns.iter().map(|c| (c.2)(r)).collect()).collect();
    (columns.iter().map(|c| c.0).collect(), texts, right)
}

/// How many rows are done.
pub(super) fn summary(t: &Table) -> String {
    let count = |status: &str| t.rows.iter().filter(|r| r.status == status).count();
    let (done, failed, missing) = (count("done"), count("failed"), count("missing"));
    let mut words = format!("{done} of {} done", plural(t.rows.len(), "row"));
    for (n, what) in [(failed, "failed"), (missing, "not run")] {
        if n > 0 {
            words += &format!(", {n} {what}");
        }
    }
    let seconds: f64 = t.tasks.iter().filter_map(|s| s.seconds).sum();
    let ran = t.tasks.iter().filter(|s| s.seconds.is_some()).count();
    format!("{words}; {} took {} in all", plural(ran, "task"), super::train_text::duration(seconds))
}

/// The table; of more rows than fit, the best and those that failed.
pub fn table(t: &Table, width: u16) -> String {
    let worth = |r: &Record| r.best_by_macs || r.best_by_time || r.status != "done";
    let all = t.rows.len() <= MAX_ROWS;
    let shown: Vec<Record> = t.rows.iter().filter(|r| all || worth(r)).cloned().collect();
    let left = t.rows.len() - shown.len();
    let (head, rows, right) = cells(&shown);
    let mut out = text::table(&head, rows, &right, width);
    if left > 0 {
        out += &format!("({left} more rows, which others beat, are in results.csv)\n");
    }
    out.push('\n');
    out += &field("Rows", &summary(t), width);
    let errors: std::collections::BTreeSet<&String> = t.rows.iter().filter_map(|r| r.error.as_ref()).collect();
    for error in errors {
        out += &field("Failed", error, width);
    }
    for note in &t.notes {
        out += &field("Note", note, width);
    }
    out
}

/// The rows as CSV (RFC 4180, with line feeds), a head line first. Numbers keep all their digits.
pub fn csv(t: &Table) -> String {
    let mut text = COLUMNS.join(",") + "\n";
    for row in &t.rows {
        let cells: Vec<String> = row.cells().into_iter().map(csv_cell).collect();
        text += &(cells.join(",") + "\n");
    }
    text
}

fn csv_cell(cell: Cell) -> String {
    match cell {
        Cell::None => String::new(),
        Cell::Count(n) => n.to_string(),
        Cell::Number(x) => x.to_string(),
        Cell::Flag(f) => f.to_string(),
        Cell::Text(text) => csv_field(&text),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Rows of two criteria, one of which failed once.
    pub fn some() -> Table {
        let row = |budget: &str, criterion: &str, drop, macs| Record {
            model: "resnet".into(),
            budget: budget.into(),
            criterion: criterion.into(),
            recover: "default".into(),
            status: if drop < 90.0 { "done" } else { "failed" }.into(),
            error: (drop >= 90.0).then(|| "prune: budget cannot be met".into()),
            macs_before: Some(1000),
            macs_after: Some(macs),
            metric: Some("top1".into()),
            metric_before: Some(0.9),
            metric_after: Some(0.9 - drop / 100.0),
            drop_points: (drop < 90.0).then_some(drop),
            drop_low: Some(drop - 0.5),
            drop_high: Some(drop + 0.5),
            ..Record::default()
        };
        let mut rows = vec![
            row("target-macs 0.7", "l1", 1.0, 700),
            row("target-macs 0.5", "l1", 3.0, 500),
            row("target-macs 0.7", "obs", -0.25, 700),
            row("target-macs 0.5", "obs", 2.0, 500),
            row("target-macs 0.1", "obs", 90.0, 100),
        ];
        crate::sweep::pareto::mark(&mut rows);
        Table { schema_version: 1, tool: "onnx-prune".into(), rows, tasks: Vec::new(), notes: vec!["a note".into()] }
    }

    #[test]
    fn what_varies_is_shown() {
        let text = table(&some(), 120);
        assert!(!text.contains("resnet") && !text.contains("seed") && text.contains("criterion"), "{text}");
        assert!(text.contains("−0.25 (−0.75 to 0.25)"), "{text}");
        assert_eq!(text.matches("best by MACs").count(), 2, "{text}");
        assert!(text.contains("4 of 5 rows done, 1 failed") && text.contains("budget cannot be met"), "{text}");
    }

    #[test]
    fn csv_quotes_what_needs_it() {
        let row = Record {
            model: "a, \"b\"".into(),
            drop_points: Some(0.1),
            error: Some("two\nlines".into()),
            ..Record::default()
        };
        let csv = csv(&Table { rows: vec![row], ..some() });
        let (head, rest) = csv.split_once('\n').unwrap();
        assert_eq!(head.split(',').count(), COLUMNS.len());
        assert!(rest.starts_with("\"a, \"\"b\"\"\",,"), "{rest}");
        assert!(rest.ends_with("\"two\nlines\"\n") && rest.contains(",0.1,"), "{rest}");
    }
}
