//! The text of `onnx-prune diff`.

use super::diff_view::{Block, Limits, view};
use super::text::{field, table};
use crate::evaluate::diff::Diff;

/// Figures, verdict, classes, outputs, samples and layers, the most telling of each.
pub fn diff(d: &Diff, width: u16) -> String {
    let mut out = format!("{} → {}\n\n", d.models.original.path, d.models.pruned.path);
    let limits = Limits { rows: 8, classes: 20, name: usize::from(width) / 2 };
    let mut after_fact = false;
    for (i, block) in view(d, &limits).iter().enumerate() {
        let fact = matches!(block, Block::Fact(..));
        // Facts stand together.
        if i > 0 && !(fact && after_fact) {
            out.push('\n');
        }
        after_fact = fact;
        match block {
            Block::Fact(name, text) => out += &field(name, text, width),
            Block::Table(title, header, rows, right) => {
                if !title.is_empty() {
                    out += &format!("{title}\n");
                }
                let header: Vec<&str> = header.iter().map(String::as_str).collect();
                out += &table(&header, rows.clone(), right, width);
            }
        }
    }
    if d.main().is_some() {
        out += "\n* the primary metric, which --max-drop is about. --report FILE.json has every detail.\n";
    }
    out
}
