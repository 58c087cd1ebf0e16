//! An inspected model as a Graphviz drawing: one colour a channel group, grey where channels are held back.

use crate::inspect::{Drawn, DrawnNode, ModelInspection};
use std::fmt::Write;

/// A `digraph` statement.
pub fn digraph(m: &ModelInspection) -> String {
    let mut out = format!("digraph {} {{\n", quoted(&m.path));
    out += "  rankdir=TB;\n  node [shape=box, style=\"rounded,filled\", fillcolor=white, fontname=\"Helvetica\"];\n";
    out += "  edge [fontname=\"Helvetica\", fontsize=9];\n";
    for (i, node) in m.graph.nodes.iter().enumerate() {
        let mut label = format!("{}\n{}", node.op, node.name);
        for group in node.groups.iter().filter_map(|&g| Some((g, m.groups.get(g)?))) {
            label += &format!("\ngroup {}: {} ({})", group.0, group.1.id, group.1.channels);
        }
        if node.pinned {
            label += "\npinned";
        }
        // Writing to a String cannot fail.
        let _ = writeln!(out, "  n{i} [label={}{}];", quoted(&label), looks(node));
    }
    for e in &m.graph.edges {
        let label = if e.shape.is_empty() { String::new() } else { format!(" [label={}]", quoted(&e.shape)) };
        let _ = writeln!(out, "  n{} -> n{}{label};", e.from, e.to);
    }
    out + "}\n"
}

fn looks(node: &DrawnNode) -> String {
    let shape = if node.drawn == Drawn::Interface { ", shape=ellipse" } else { "" };
    let fill = match (node.groups.first(), node.pinned) {
        // Hues a golden angle apart never meet.
        (Some(&g), _) => format!(", fillcolor=\"{:.3} 0.350 0.970\"", (g as f64 * 0.618_033_988_75).fract()),
        (None, true) => ", fillcolor=gray80".to_owned(),
        (None, false) => String::new(),
    };
    format!("{shape}{fill}")
}

/// A double-quoted string; `\n` is a line break of a label.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out += "\\\"",
            '\\' => out += "\\\\",
            '\n' => out += "\\n",
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn strings_cannot_break_out() {
        assert_eq!(super::quoted("a\"];\\b\r\n{x}"), "\"a\\\"];\\\\b\u{fffd}\\n{x}\"");
    }
}
