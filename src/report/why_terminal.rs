//! The text of `onnx-prune inspect --why`.

use super::text::{self, MAX_ROWS, plural, shorten};
use crate::inspect::why::{Why, WhyAxis};

/// Everything about one node.
pub fn why(w: &Why, width: u16) -> String {
    let mut out = format!("{} {}\n", w.op, w.node);
    if w.axes.is_empty() {
        out += "  no axis of this node can be followed: its sizes are 1, dynamic or unknown\n";
    }
    for x in &w.axes {
        out.push('\n');
        out += &axis(x, width);
    }
    out
}

fn axis(x: &WhyAxis, width: u16) -> String {
    let mut out = format!("  {} axis {}: {} of {} free\n", x.tensor, x.axis, x.free, x.len);
    for (name, channels) in &x.groups {
        out += &format!("    group {name}, {}\n", plural(*channels, "channel"));
    }
    if x.free > 0 && x.groups.is_empty() {
        out += "    in no group: no layer makes or reads them, or one alone is left\n";
    }
    let rows = x
        .passes
        .iter()
        .take(MAX_ROWS)
        .map(|s| vec!["   ".into(), s.part.to_owned(), s.op.clone(), shorten(&s.node, usize::from(width) * 3 / 5)]);
    if !x.passes.is_empty() {
        out += &text::table(&["   ", "one channel", "operator", "node"], rows.collect(), &[], width);
        if x.passes.len() > MAX_ROWS {
            out += &format!("    … {} more; --format json lists all\n", x.passes.len() - MAX_ROWS);
        }
    }
    for h in &x.held {
        let by = if h.op == "graph" { String::new() } else { format!("{} {}: ", h.op, h.node) };
        out += &text::field("    held", &format!("{} by {by}{}", h.indices, h.reason), width);
        if h.path.len() > 1 {
            let way: Vec<String> = h.path.iter().map(|(op, node)| format!("{op} {node}")).collect();
            out += &text::field("    along", &way.join(" → "), width);
        }
    }
    out
}
