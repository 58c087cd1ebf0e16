//! A training run as a picture of its own: the panels of the page, in fixed colours on white.

use super::html::{Panel, panels};
use crate::error::Result;
use crate::train::history::History;

/// The colours of the page's light scheme.
const COLOURS: [(&str, &str); 5] = [
    ("var(--ink)", "#1b1f24"),
    ("var(--line)", "#d8dde3"),
    ("var(--before)", "#8a94a0"),
    ("var(--after)", "#1c62ad"),
    ("var(--cut)", "#a3420b"),
];
/// Width of a panel, room between two, and room for a title, in pixels.
const PANEL: u32 = 440;
const GAP: u32 = 16;
const TITLE: u32 = 24;

/// An SVG picture with text alternatives.
///
/// # Errors
/// When it cannot be drawn.
pub fn svg(h: &History) -> Result<String> {
    let mut bottoms = [GAP + TITLE; 2];
    let mut body = String::new();
    for panel in panels(h)? {
        // Into the shorter column.
        let [left, right] = bottoms;
        let (x, y) = if left <= right { (GAP, left) } else { (2 * GAP + PANEL, right) };
        let end = y + TITLE + panel.height + GAP;
        bottoms = if left <= right { [end, right] } else { [left, end] };
        body += &placed(&panel, x, y);
    }
    let [left, right] = bottoms;
    let (width, height) = (2 * PANEL + 3 * GAP, left.max(right));
    let title = escaped(&format!("Training of {}", h.model));
    Ok(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\">\n<title>{title}</title>\n<rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n\
         <text x=\"{GAP}\" y=\"28\" font-size=\"17\" fill=\"#1b1f24\">{title}</text>\n{body}</svg>\n"
    ))
}

fn placed(panel: &Panel, x: u32, y: u32) -> String {
    let svg = COLOURS.iter().fold(panel.svg.clone(), |svg, (name, colour)| svg.replace(name, colour));
    let place = format!("<svg x=\"{x}\" y=\"{}\" width=\"{PANEL}\" height=\"{}\"", y + TITLE, panel.height);
    let title =
        format!("<text x=\"{}\" y=\"{}\" font-size=\"14\" fill=\"#1b1f24\">{}</text>", x + 8, y + 16, panel.title);
    format!("{title}\n{}\n", svg.replacen("<svg", &place, 1))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::super::train_text::tests::run;
    use super::*;

    #[test]
    fn panels_lie_side_by_side_in_fixed_colours() {
        let mut h = run(9, true);
        h.model = "a<b.onnx".into();
        let svg = svg(&h).unwrap();
        assert!(!svg.contains("var(") && svg.contains("Training of a&lt;b.onnx"), "{svg}");
        assert_eq!(svg.matches("<svg ").count(), 6);
        let places = ["x=\"16\" y=\"64\"", "x=\"472\" y=\"64\"", "x=\"472\" y=\"314\"", "x=\"16\" y=\"354\""];
        assert!(places.iter().all(|at| svg.contains(at)), "{svg}");
        assert!(super::svg(&History::default()).unwrap().contains("</svg>"));
    }
}
