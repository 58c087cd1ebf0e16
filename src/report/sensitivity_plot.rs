//! Sensitivity curves as a picture: one small panel a group, all on the same axes.

use crate::error::{Error, Result};
use crate::evaluate::sensitivity::{GroupCurve, SensitivityReport};
use plotters::prelude::*;

/// Panels in a row, and their size in pixels.
const COLUMNS: usize = 4;
const PANEL: (u32, u32) = (260, 190);
/// Changes below this are drawn here, in % of the outputs' variance.
const LEAST: f64 = 1e-3;

/// An SVG picture with a text alternative.
///
/// # Errors
/// When it cannot be drawn.
pub fn svg(r: &SensitivityReport) -> Result<String> {
    let curves: Vec<&GroupCurve> = r.groups.iter().filter(|g| !g.points.is_empty()).collect();
    let rows = curves.len().div_ceil(COLUMNS).max(1);
    let size = (PANEL.0 * COLUMNS as u32, PANEL.1 * rows as u32 + 40);
    let mut out = String::new();
    draw(r, &curves, rows, size, &mut out).map_err(|e| Error::Internal(format!("the curves cannot be drawn: {e}")))?;
    Ok(accessible(&out, r, &curves))
}

fn draw(
    r: &SensitivityReport,
    curves: &[&GroupCurve],
    rows: usize,
    size: (u32, u32),
    out: &mut String,
) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::with_string(out, size).into_drawing_area();
    root.fill(&WHITE)?;
    let title = format!("{}: change of the outputs, in % of their variance, over the share removed", r.model);
    let root = root.titled(&title, ("sans-serif", 15))?;
    let values = || curves.iter().flat_map(|g| g.points.iter().map(|p| (100.0 * p.change).max(LEAST)));
    let (low, high) = (values().fold(1.0, f64::min), values().fold(1.0, f64::max));
    for (area, g) in root.split_evenly((rows, COLUMNS)).iter().zip(curves) {
        let name = super::text::shorten(g.groups.first().map_or("", String::as_str), 30);
        let mut chart = ChartBuilder::on(area)
            .caption(format!("{name} ({})", g.channels), ("sans-serif", 12))
            .margin(6)
            .margin_right(18)
            .x_label_area_size(22)
            .y_label_area_size(40)
            .build_cartesian_2d(0.0..1.0, (low * 0.8..high * 1.25).log_scale())?;
        chart
            .configure_mesh()
            .x_labels(5)
            .y_labels(4)
            .light_line_style(TRANSPARENT)
            .x_label_formatter(&|x| format!("{:.0} %", x * 100.0))
            .y_label_formatter(&|y| if *y >= 1.0 { format!("{y:.0}") } else { format!("{y}") })
            .label_style(("sans-serif", 11))
            .draw()?;
        let points = g.points.iter().map(|p| (p.share, (100.0 * p.change).max(LEAST)));
        chart.draw_series(LineSeries::new(points.clone(), BLUE.stroke_width(2)))?;
        chart.draw_series(points.map(|p| Circle::new(p, 3, BLUE.filled())))?;
    }
    root.present()?;
    Ok(())
}

/// With a title and a description for who cannot see it.
fn accessible(svg: &str, r: &SensitivityReport, curves: &[&GroupCurve]) -> String {
    let lines = curves.iter().map(|g| {
        let points: Vec<String> =
            g.points.iter().map(|p| format!("{:.0} %: {:.3} %", p.share * 100.0, p.change * 100.0)).collect();
        format!("{}: {}", g.groups.join(" "), points.join(", "))
    });
    let text = format!(
        "<title>Sensitivity of {}</title>\n<desc>{}</desc>\n",
        escaped(&r.model),
        escaped(&lines.collect::<Vec<_>>().join("; "))
    );
    let at = svg.find("<svg").and_then(|s| svg[s..].find('>').map(|e| s + e + 1)).unwrap_or(0);
    let (head, rest) = svg.split_at(at);
    format!("{}\n{text}{rest}", head.replacen("<svg", "<svg role=\"img\"", 1))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
