//! The table of `onnx-prune bench`.

use super::text::{self, field, plural};
use crate::evaluate::bench::{BenchReport, BenchRow, in_words};
use std::collections::BTreeMap;

/// Operators of a profile that are shown.
const MAX_OPERATORS: usize = 20;

/// All measurements.
pub fn bench(r: &BenchReport, width: u16) -> String {
    let mut out = String::new();
    for (i, model) in r.models.iter().enumerate() {
        out += &format!("{}  {} ({})\n", letter(i), model.path, text::bytes(model.bytes));
    }
    let mut rest: &[BenchRow] = &r.rows;
    while let Some(first) = rest.first() {
        let same = rest.iter().take_while(|row| (row.batch, row.threads) == (first.batch, first.threads)).count();
        let (block, after) = rest.split_at(same);
        out += &format!(
            "\nbatch {}, {}: {} each after {} of warm-up\n",
            first.batch,
            in_words(first.threads),
            plural(first.runs, "run"),
            text::milliseconds(first.warmup_s * 1e3)
        );
        out += &measured(r, block, width);
        rest = after;
    }
    out.push('\n');
    out += &field("Runtime", &runtime(r), width);
    out += &field("Inputs", &r.inputs, width);
    out += &field("Machine", &machine(r), width);
    if !r.profile.is_empty() {
        out += "\nmilliseconds a run by operator\n";
        out += &profile(r, width);
    }
    for gate in &r.gates {
        out.push('\n');
        out += &field("Limit", &gate.text, width);
    }
    for (name, all) in [("Note", &r.notes), ("Advice", &r.advice)] {
        for note in all {
            out.push('\n');
            out += &field(name, note, width);
        }
    }
    out
}

/// A, B, …, Z, 27, 28, …
pub(super) fn letter(i: usize) -> String {
    u8::try_from(i).ok().filter(|i| *i < 26).map_or_else(|| (i + 1).to_string(), |i| char::from(b'A' + i).to_string())
}

fn measured(r: &BenchReport, block: &[BenchRow], width: u16) -> String {
    let shares = block.iter().any(|row| row.device_share < 1.0) || r.device != "cpu";
    let mut header = vec!["", "median", "p90", "p99", "min", "mean", "std", "samples/s", "load", "memory"];
    if shares {
        header.push("device");
    }
    let row = |row: &BenchRow| {
        let mut cells = vec![
            letter(row.model),
            time(row.median_ms),
            time(row.p90_ms),
            time(row.p99_ms),
            time(row.min_ms),
            time(row.mean_ms),
            time(row.std_ms),
            text::count(row.samples_per_s.round() as u64),
            time(row.load_ms),
            row.memory_bytes.map_or_else(|| "–".to_owned(), text::bytes),
        ];
        if shares {
            // One node on the processor is not all of them on the device.
            let all = row.device_share >= 1.0;
            cells.push(if all { "100 %".to_owned() } else { format!("{:.1} %", (row.device_share * 100.0).min(99.9)) });
        }
        // A number and its unit stay together.
        cells.into_iter().map(|cell| cell.replace(' ', "\u{a0}")).collect()
    };
    let right: Vec<usize> = (1..header.len()).collect();
    let table = text::table(&header, block.iter().map(row).collect(), &right, width).replace('\u{a0}', " ");
    let compared = block.iter().filter_map(|row| {
        let c = row.comparison.as_ref()?;
        let figures = format!("{:.3} of A's time, 95 % within {:.3} to {:.3}", c.ratio, c.low, c.high);
        Some(format!(
            "{} against A: {} ({figures}; {:.2} times as fast)\n",
            letter(row.model),
            c.verdict.words(),
            1.0 / c.ratio
        ))
    });
    let copied = block.iter().filter_map(|row| Some(format!("{}\n", copies(row)?)));
    table + &compared.collect::<String>() + &copied.collect::<String>()
}

/// `A copies in … and out …, which its times leave out`
pub(super) fn copies(row: &BenchRow) -> Option<String> {
    let c = row.copies?;
    Some(format!(
        "{} copies {} in within {} and {} out within {}, which its times leave out",
        letter(row.model),
        text::bytes(c.input_bytes),
        time(c.upload_ms),
        text::bytes(c.output_bytes),
        time(c.download_ms)
    ))
}

/// Milliseconds with three digits.
pub(super) fn time(ms: f64) -> String {
    match ms {
        x if !x.is_finite() => "–".to_owned(),
        x if x < 0.0995 => format!("{:.1} µs", x * 1e3),
        x if x < 0.9995 => format!("{:.0} µs", x * 1e3),
        x if x < 9.995 => format!("{x:.2} ms"),
        x if x < 99.95 => format!("{x:.1} ms"),
        x if x < 999.5 => format!("{x:.0} ms"),
        x => format!("{:.2} s", x / 1e3),
    }
}

/// The runtime and device.
pub(super) fn runtime(r: &BenchReport) -> String {
    let precision = if r.precision == "fp32" { String::new() } else { format!(", {}", r.precision) };
    format!("{} {} on {}{precision}", r.runtime, r.runtime_version, r.device)
}

/// The machine in a line.
pub(super) fn machine(r: &BenchReport) -> String {
    let m = &r.machine;
    let mut parts: Vec<String> = m.processor.iter().cloned().collect();
    parts.push(plural(m.cores, "core"));
    parts.push(m.system.clone());
    parts.extend(m.load.map(|load| format!("load {load:.2} before")));
    parts.extend(m.governor.iter().map(|g| format!("governor {g}")));
    parts.join(", ")
}

/// One row an operator, one column a model; the longest in any model first.
pub(super) fn operators(r: &BenchReport) -> Vec<(String, Vec<Option<f64>>)> {
    let mut all: BTreeMap<&str, Vec<Option<f64>>> = BTreeMap::new();
    for (column, profile) in r.profile.iter().enumerate() {
        for op in &profile.operators {
            let times = all.entry(&op.op).or_insert_with(|| vec![None; r.profile.len()]);
            if let Some(slot) = times.get_mut(column) {
                *slot = Some(op.ms);
            }
        }
    }
    let longest = |times: &[Option<f64>]| times.iter().flatten().copied().fold(0.0, f64::max);
    let mut rows: Vec<_> = all.into_iter().map(|(op, times)| (op.to_owned(), times)).collect();
    rows.sort_by(|a, b| longest(&b.1).total_cmp(&longest(&a.1)).then_with(|| a.0.cmp(&b.0)));
    rows
}

fn profile(r: &BenchReport, width: u16) -> String {
    let letters: Vec<String> = r.profile.iter().map(|p| letter(p.model)).collect();
    let header: Vec<&str> = ["operator"].into_iter().chain(letters.iter().map(String::as_str)).collect();
    let all = operators(r);
    let cell = |t: &Option<f64>| t.map_or_else(|| "–".to_owned(), |ms| format!("{ms:.3}"));
    let mut rows: Vec<Vec<String>> = Vec::new();
    for (op, times) in all.iter().take(MAX_OPERATORS) {
        rows.push([op.clone()].into_iter().chain(times.iter().map(cell)).collect());
    }
    let sum = |column: usize| all.iter().filter_map(|(_, t)| t.get(column).copied().flatten()).sum::<f64>();
    let sums = (0..r.profile.len()).map(|column| format!("{:.3}", sum(column)));
    rows.push(["all".to_owned()].into_iter().chain(sums).collect());
    let right: Vec<usize> = (1..header.len()).collect();
    let table = text::table(&header, rows, &right, width);
    match all.len().saturating_sub(MAX_OPERATORS) {
        0 => table,
        n => format!("{table}… and {n} more operators (--report FILE.json lists all)\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_digits() {
        let texts = [0.0123, 0.123, 0.9999, 1.234, 12.34, 123.4, 1234.0, f64::NAN].map(time);
        assert_eq!(texts, ["12.3 µs", "123 µs", "1.00 ms", "1.23 ms", "12.3 ms", "123 ms", "1.23 s", "–"]);
    }

    #[test]
    fn models_have_letters() {
        assert_eq!([0, 25, 26].map(letter), ["A", "Z", "27"]);
    }
}
