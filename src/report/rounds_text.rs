//! The rounds of pruning and training, as rows for every form of a report.

use super::data_terminal::number;
use super::text::{self, count};
use super::train_text::{duration, figure};
use crate::train::rounds::Round;

/// Names of the columns.
pub(super) fn header(rounds: &[Round]) -> Vec<String> {
    let metric = rounds.iter().find_map(|r| r.metric.clone());
    let mut all: Vec<String> =
        ["round", "aim", "MACs", "parameters", "epochs", "loss, held back"].map(str::to_owned).into();
    all.extend(metric);
    all.push("time".into());
    all
}

/// A row for each round: figures before training and after it.
pub(super) fn rows(rounds: &[Round]) -> Vec<Vec<String>> {
    let scored = rounds.iter().any(|r| r.metric.is_some());
    let change = |from: Option<String>, to: Option<String>| match (from, to) {
        (Some(from), Some(to)) => format!("{from} → {to}"),
        _ => "–".to_owned(),
    };
    let row = |r: &Round| {
        let named = |x: Option<f64>| x.map(|x| figure(r.metric.as_deref(), x));
        let mut row =
            vec![r.round.to_string(), format!("{:.4}", r.aim), count(r.macs), count(r.params), r.epochs.to_string()];
        row.push(change(r.loss_before.map(number), r.loss_after.map(number)));
        row.extend(scored.then(|| change(named(r.score_before), named(r.score_after))));
        row.push(duration(r.seconds));
        row
    };
    rounds.iter().map(row).collect()
}

/// For the terminal; empty without rounds.
pub(super) fn table(rounds: &[Round], width: u16) -> String {
    if rounds.is_empty() {
        return String::new();
    }
    let header = header(rounds);
    let right: Vec<usize> = (0..header.len()).collect();
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    format!("\n{}", text::table(&header, rows(rounds), &right, width))
}

/// As Markdown; empty without rounds.
pub(super) fn markdown(rounds: &[Round]) -> String {
    if rounds.is_empty() {
        return String::new();
    }
    let header = header(rounds);
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let mut out = format!("\n## Rounds\n\n{}|{}\n", line(&header), "---:|".repeat(header.len()));
    rows(rounds).iter().for_each(|row| out += &line(row));
    out
}
