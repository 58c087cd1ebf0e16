//! The diff of two models as Markdown, for a pull request or a wiki.

use super::diff_view::{Block, Limits, view};
use crate::evaluate::diff::Diff;

/// The same as on the terminal, with more rows.
pub fn diff(d: &Diff) -> String {
    let (a, b) = (&d.models.original, &d.models.pruned);
    let mut out = format!("# {} → {}\n\n", escape(&a.path), escape(&b.path));
    let limits = Limits { rows: 20, classes: 100, name: 80 };
    for block in view(d, &limits) {
        match block {
            Block::Fact(name, text) => out += &format!("**{name}**: {}\n\n", escape(&text)),
            Block::Table(title, header, rows, right) => {
                if !title.is_empty() {
                    out += &format!("## {}\n\n", escape(&capital(&title)));
                }
                out += &row(&header);
                let rule = |i: usize| if right.contains(&i) { "--:" } else { "---" };
                out += &row(&(0..header.len()).map(|i| rule(i).to_owned()).collect::<Vec<_>>());
                rows.iter().for_each(|r| out += &row(r));
                out.push('\n');
            }
        }
    }
    for (name, m) in [("original", a), ("pruned", b)] {
        out += &format!("- {name}: `{}`, SHA-256 `{}`\n", m.path, m.sha256);
    }
    out += &format!("\n{}\n", d.tool);
    out
}

fn row(cells: &[String]) -> String {
    format!("| {} |\n", cells.iter().map(|c| escape(c)).collect::<Vec<_>>().join(" | "))
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|c| c.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

/// Names may hold what Markdown takes for its own.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '|' | '*' | '_' | '`' | '<' | '[' | ']' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_break_a_table() {
        assert_eq!(row(&["a|b".into(), "x\ny".into()]), "| a\\|b | x y |\n");
        assert_eq!(capital("über"), "Über");
    }
}
