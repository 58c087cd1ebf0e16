//! Numbers, names and tables for people.

use comfy_table::{CellAlignment, ContentArrangement, Table, TableComponent};
use std::collections::BTreeMap;

/// Longer lists are cut.
pub const MAX_ROWS: usize = 40;

/// `12.3 M`: three significant digits with a decimal prefix.
pub fn count(n: u64) -> String {
    scaled(n, "")
}

/// `4.10 MB`.
pub fn bytes(n: u64) -> String {
    scaled(n, "B")
}

fn scaled(n: u64, unit: &str) -> String {
    const PREFIXES: [&str; 6] = ["k", "M", "G", "T", "P", "E"];
    let mut x = n as f64;
    let mut prefix = "";
    for p in PREFIXES {
        // 999,500 is 1.00 M, not 1000 k.
        if x < 999.5 {
            break;
        }
        x /= 1000.0;
        prefix = p;
    }
    let number = match x {
        _ if prefix.is_empty() => format!("{x}"),
        x if x < 9.995 => format!("{x:.2}"),
        x if x < 99.95 => format!("{x:.1}"),
        x => format!("{x:.0}"),
    };
    let unit = format!("{prefix}{unit}");
    if unit.is_empty() { number } else { format!("{number} {unit}") }
}

/// `57.7 %` of `whole`.
pub fn percent(part: f64, whole: f64) -> String {
    if whole > 0.0 { format!("{:.1} %", 100.0 * part / whole) } else { "–".into() }
}

/// `1.24 s` or `830 ms`.
pub fn milliseconds(ms: f64) -> String {
    match ms {
        x if x < 9.95 => format!("{x:.1} ms"),
        x if x < 999.5 => format!("{x:.0} ms"),
        x => format!("{:.2} s", x / 1e3),
    }
}

/// A field of a CSV file, as RFC 4180 has it.
pub fn csv_field(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

/// `1 layer`, `2 layers`.
pub fn plural(n: usize, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

/// At most `max` characters, the middle left out: both ends of a name tell layers apart.
pub fn shorten(name: &str, max: usize) -> String {
    let name: Vec<char> = name.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if name.len() <= max {
        return name.into_iter().collect();
    }
    let head = max.saturating_sub(1) / 2;
    let tail = max.saturating_sub(1) - head;
    let (begin, end) = (name.iter().take(head), name.iter().skip(name.len() - tail));
    begin.chain(['…'].iter()).chain(end).collect()
}

/// A column of names. Where one is too long, all lose the path that they share; what would still look alike stays long.
pub fn shorten_all<'a>(names: impl Iterator<Item = &'a str> + Clone, max: usize) -> Vec<String> {
    let mut shared = names.clone().next().unwrap_or_default();
    for name in names.clone() {
        let same = shared.chars().zip(name.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
        shared = shared.get(..same).unwrap_or_default();
    }
    let several = names.clone().nth(1).is_some();
    let cut = shared.rfind('/').map_or(0, |at| at + 1);
    let cut = if several && cut > 1 && names.clone().any(|n| n.chars().count() > max) { cut } else { 0 };
    let short = |n: &str| match n.get(cut..) {
        Some(rest) if cut > 0 => shorten(&format!("…{rest}"), max),
        _ => shorten(n, max),
    };
    let mut seen: BTreeMap<String, &str> = BTreeMap::new();
    let clash = names.clone().any(|n| *seen.entry(short(n)).or_insert(n) != n);
    if clash { names.map(|n| shorten(n, usize::MAX)).collect() } else { names.map(short).collect() }
}

/// `name, name, …` in at most about `max` characters, each name without its path.
pub fn short_list<'a>(names: impl IntoIterator<Item = &'a str>, max: usize) -> String {
    let mut text = String::new();
    for name in names {
        let tail = short_name(name);
        let comma = if text.is_empty() { "" } else { ", " };
        if !text.is_empty() && text.chars().count() + tail.chars().count() + 5 > max {
            return text + ", …";
        }
        text += &format!("{comma}{}", shorten(tail, max));
    }
    text
}

/// The last parts of a path-like name: `/layer1/layer1.0/conv1/Conv` is `layer1.0/conv1/Conv`.
fn short_name(name: &str) -> &str {
    match name.rmatch_indices('/').nth(1) {
        Some((at, _)) if at + 1 < name.len() => name.get(at + 1..).unwrap_or(name),
        _ => name,
    }
}

/// A table of at most `width` columns; columns in `right` are aligned to the right.
pub fn table(header: &[&str], rows: Vec<Vec<String>>, right: &[usize], width: u16) -> String {
    let mut table = Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.set_style(TableComponent::HeaderLines, '─');
    table.set_style(TableComponent::MiddleHeaderIntersections, '─');
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_width(width);
    table.set_header(header.iter().copied());
    table.add_rows(rows);
    let last = header.len().saturating_sub(1);
    for (i, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, if i == last { 0 } else { 2 }));
        if right.contains(&i) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    lines(&table.to_string())
}

/// Without spaces at line ends, with a newline at the end.
pub fn lines(text: &str) -> String {
    text.lines().map(|l| l.trim_end().to_owned() + "\n").collect()
}

/// `Name      text`, wrapped at `width` with a hanging indent; a no-break space becomes an ordinary one.
pub fn field(name: &str, text: &str, width: u16) -> String {
    const INDENT: usize = 13;
    let room = usize::from(width).saturating_sub(INDENT).max(20);
    let mut out = String::new();
    let mut line = format!("{name:<INDENT$}");
    let mut used = 0;
    for word in text.split([' ', '\n']).filter(|w| !w.is_empty()) {
        let length = word.chars().count();
        if used > 0 && used + 1 + length > room {
            out += line.trim_end();
            out.push('\n');
            line = " ".repeat(INDENT);
            used = 0;
        }
        if used > 0 {
            line.push(' ');
            used += 1;
        }
        line += word;
        used += length;
    }
    out += line.trim_end();
    out.replace('\u{a0}', " ") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        let numbers = [0, 7, 999, 1000, 1234, 12_345, 999_499, 999_500, 1_000_000, 25_557_032, 4_089_184_256];
        let words = numbers.map(count);
        assert_eq!(
            words,
            ["0", "7", "999", "1.00 k", "1.23 k", "12.3 k", "999 k", "1.00 M", "1.00 M", "25.6 M", "4.09 G"]
        );
        assert_eq!([bytes(12), bytes(4_100_000)], ["12 B", "4.10 MB"]);
        assert_eq!([milliseconds(0.04), milliseconds(83.2), milliseconds(1234.0)], ["0.0 ms", "83 ms", "1.23 s"]);
        assert_eq!([percent(1.0, 3.0), percent(0.0, 0.0)], ["33.3 %", "–"]);
    }

    #[test]
    fn names_keep_their_end() {
        assert_eq!(shorten("/layer1/conv1/Conv", 11), "/laye…/Conv");
        assert_eq!(shorten("日本語の名前", 4), "日…名前");
        let long = ["/net/body/a/conv", "/net/body/b/conv"];
        assert_eq!(shorten_all(long.into_iter(), 16), long);
        assert_eq!(shorten_all(long.into_iter(), 12), ["…a/conv", "…b/conv"]);
        assert_eq!(shorten_all(long.into_iter().take(1), 12), ["/net/…a/conv"]);
        assert_eq!(shorten("a\nb", 9), "a\u{fffd}b");
        assert_eq!(short_list(["/a/b/conv1/Conv", "bn1", "x", "y"], 20), "conv1/Conv, bn1, …");
        assert_eq!(short_name("/"), "/");
    }

    #[test]
    fn fields_hang() {
        let text = field("Budget", "one two three four five\u{a0}six seven", 36);
        assert_eq!(text, "Budget       one two three four\n             five six seven\n");
    }
}
