//! The results of `onnx-prune bench` as CSV and Markdown.

use super::bench_terminal::{copies, letter, machine, operators, runtime, time};
use super::text;
use crate::evaluate::bench::{BenchReport, BenchRow, in_words};

/// The columns of the CSV form; units are in the names.
const COLUMNS: [&str; 24] = [
    "model",
    "batch",
    "threads",
    "runs",
    "median_ms",
    "p90_ms",
    "p99_ms",
    "min_ms",
    "mean_ms",
    "std_ms",
    "samples_per_s",
    "load_ms",
    "first_ms",
    "memory_bytes",
    "device_share",
    "outliers",
    "ratio",
    "ratio_low",
    "ratio_high",
    "verdict",
    "device",
    "upload_ms",
    "download_ms",
    "precision",
];

/// One line a model, batch and number of threads. What is absent is empty.
pub fn csv(r: &BenchReport) -> String {
    let mut out = COLUMNS.join(",") + "\n";
    for row in &r.rows {
        let c = row.comparison.as_ref();
        let number = |x: Option<f64>| x.filter(|x| x.is_finite()).map_or_else(String::new, |x| x.to_string());
        let some = |x: f64| number(Some(x));
        let cells: [String; 24] = [
            text::csv_field(r.models.get(row.model).map_or("", |m| &m.path)),
            row.batch.to_string(),
            row.threads.to_string(),
            row.runs.to_string(),
            some(row.median_ms),
            some(row.p90_ms),
            some(row.p99_ms),
            some(row.min_ms),
            some(row.mean_ms),
            some(row.std_ms),
            some(row.samples_per_s),
            some(row.load_ms),
            some(row.first_ms),
            row.memory_bytes.map_or_else(String::new, |b| b.to_string()),
            some(row.device_share),
            row.outliers.to_string(),
            number(c.map(|c| c.ratio)),
            number(c.map(|c| c.low)),
            number(c.map(|c| c.high)),
            c.map_or_else(String::new, |c| c.verdict.words().to_owned()),
            text::csv_field(&r.device),
            number(row.copies.map(|c| c.upload_ms)),
            number(row.copies.map(|c| c.download_ms)),
            r.precision.clone(),
        ];
        out += &(cells.join(",") + "\n");
    }
    out
}

/// Tables for a README or an issue.
pub fn markdown(r: &BenchReport) -> String {
    let mut out = String::new();
    for (i, model) in r.models.iter().enumerate() {
        out += &format!("* {}: `{}` ({})\n", letter(i), model.path, text::bytes(model.bytes));
    }
    out += "\n| | batch | threads | median | p90 | p99 | min | samples/s | load | memory | ratio (95 %) | |\n";
    out += "|---|---:|---|---:|---:|---:|---:|---:|---:|---:|---|---|\n";
    for row in &r.rows {
        out += &line(row);
    }
    out += &format!("\n{}; {}; inputs: {}.\n", runtime(r), machine(r), r.inputs);
    if !r.profile.is_empty() {
        let letters: Vec<String> = r.profile.iter().map(|p| letter(p.model)).collect();
        out += &format!("\n| operator, ms a run | {} |\n", letters.join(" | "));
        out += &format!("|---{}|\n", "|---:".repeat(letters.len()));
        for (op, times) in operators(r) {
            let cell = |t: &Option<f64>| t.map_or_else(|| "–".to_owned(), |ms| format!("{ms:.3}"));
            out += &format!("| {op} | {} |\n", times.iter().map(cell).collect::<Vec<_>>().join(" | "));
        }
    }
    let gates = r.gates.iter().map(|g| g.text.clone());
    let said = gates.chain(r.rows.iter().filter_map(copies)).chain(r.notes.iter().chain(&r.advice).cloned());
    let lines: Vec<String> = said.map(|line| format!("* {line}\n")).collect();
    if lines.is_empty() { out } else { format!("{out}\n{}", lines.concat()) }
}

fn line(row: &BenchRow) -> String {
    let comparison = row.comparison.as_ref();
    let ratio = comparison.map_or_else(String::new, |c| format!("{:.3} [{:.3}, {:.3}]", c.ratio, c.low, c.high));
    let cells = [
        letter(row.model),
        row.batch.to_string(),
        in_words(row.threads),
        time(row.median_ms),
        time(row.p90_ms),
        time(row.p99_ms),
        time(row.min_ms),
        text::count(row.samples_per_s.round() as u64),
        time(row.load_ms),
        row.memory_bytes.map_or_else(|| "–".to_owned(), text::bytes),
        ratio,
        comparison.map_or_else(String::new, |c| c.verdict.words().to_owned()),
    ];
    format!("| {} |\n", cells.join(" | "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_with_commas_are_quoted() {
        assert_eq!([text::csv_field("a.onnx"), text::csv_field("a,\"b\".onnx")], ["a.onnx", "\"a,\"\"b\"\".onnx\""]);
    }
}
