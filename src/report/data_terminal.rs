//! The text of `onnx-prune data`.

use super::text::{self, MAX_ROWS, field, plural, shorten};
use crate::data::summary::{DataSummary, InputSummary, LabelCount};

/// More classes than this are summed up.
const MAX_CLASSES: usize = 20;

/// Everything about the data.
pub fn data(d: &DataSummary, width: u16) -> String {
    let mut out = format!("{} for {}\n\n", d.path, d.model);
    let samples = d.samples.to_string();
    let in_batches = format!("{samples}, in {} of {}", plural_batches(d.batches), d.batch_size);
    out += &field("Samples", &in_batches, width);
    out += &field("Labels", &labels(d.labels.as_deref()), width);
    out.push('\n');
    let rows: Vec<Vec<String>> = d.inputs.iter().flat_map(|i| rows(i, width)).collect();
    let right: Vec<usize> = (3..8).collect();
    let header = ["input", "type", "first batch", "channel", "mean", "std", "min", "max"];
    out += &text::table(&header, rows, &right, width);
    if let Some(input) = d.inputs.iter().find(|i| i.channels.len() > MAX_ROWS) {
        out += &format!("… {} more; --format json lists all\n", input.channels.len() - MAX_ROWS);
    }
    if d.measured < d.samples {
        out += &format!("Figures of the first {} samples; --first N looks at more.\n", d.measured);
    }
    for note in &d.notes {
        out.push('\n');
        out += &field("Note", note, width);
    }
    out
}

fn plural_batches(n: usize) -> String {
    if n == 1 { "1 batch".into() } else { format!("{n} batches") }
}

fn labels(counts: Option<&[LabelCount]>) -> String {
    let Some(counts) = counts else { return "none".into() };
    let classes = if counts.len() == 1 { "1 class".to_owned() } else { format!("{} classes", counts.len()) };
    if counts.len() <= MAX_CLASSES {
        let each = counts.iter().map(|c| format!("{}:\u{a0}{}", c.label, c.samples)).collect::<Vec<_>>().join(", ");
        return format!("{classes} ({each})");
    }
    let least = counts.iter().map(|c| c.samples).min().unwrap_or(0);
    let most = counts.iter().map(|c| c.samples).max().unwrap_or(0);
    let first = counts.first().map_or(0, |c| c.label);
    let last = counts.last().map_or(0, |c| c.label);
    let each = if least == most { plural(most, "sample") } else { format!("{least} to {most} samples") };
    format!("{classes} from {first} to {last}, {each} each")
}

fn rows(i: &InputSummary, width: u16) -> Vec<Vec<String>> {
    let one = i.channels.len() == 1;
    let row = |(c, m): (usize, &crate::data::summary::ChannelSummary)| {
        let first = |text: String| if c == 0 { text } else { String::new() };
        vec![
            first(shorten(&i.name, usize::from(width) / 4)),
            first(i.r#type.to_owned()),
            first(format!("{:?}", i.shape)),
            if one { "all".to_owned() } else { c.to_string() },
            number(m.mean),
            number(m.std),
            number(m.min),
            number(m.max),
        ]
    };
    i.channels.iter().enumerate().take(MAX_ROWS).map(row).collect()
}

/// Four significant digits or so.
pub(super) fn number(x: f64) -> String {
    match x.abs() {
        0.0 => "0".into(),
        a if !(1e-3..1e6).contains(&a) => format!("{x:.2e}"),
        a if a >= 1000.0 => format!("{x:.0}"),
        a if a >= 100.0 => format!("{x:.1}"),
        a if a >= 10.0 => format!("{x:.2}"),
        a if a >= 1.0 => format!("{x:.3}"),
        _ => format!("{x:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_counted_or_summed_up() {
        let counts = |n: i64| (0..n).map(|label| LabelCount { label, samples: 2 }).collect::<Vec<_>>();
        assert_eq!(labels(None), "none");
        assert_eq!(labels(Some(&counts(2))), "2 classes (0:\u{a0}2, 1:\u{a0}2)");
        assert_eq!(labels(Some(&counts(21))), "21 classes from 0 to 20, 2 samples each");
    }

    #[test]
    fn numbers_are_short() {
        let texts = [0.0, 1.0, -2.1179039, 255.0, 0.25, 123456.0, 1e9, 1e-5].map(number);
        assert_eq!(texts, ["0", "1.000", "-2.118", "255.0", "0.2500", "123456", "1.00e9", "1.00e-5"]);
    }
}
