//! Pictures for the page. plotters draws them in marker colours, which [`finish`] turns into the page's own, so that they
//! follow its light and dark scheme.

use super::super::data_terminal::number;
use super::super::text;
use crate::error::{Error, Result};
use crate::report::{GroupReport, ScoreHistogram};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Colours that stand for variables of the style sheet.
pub(super) const INK: RGBColor = RGBColor(1, 2, 1);
pub(super) const LINE: RGBColor = RGBColor(1, 2, 2);
pub(super) const BEFORE: RGBColor = RGBColor(1, 2, 3);
pub(super) const AFTER: RGBColor = RGBColor(1, 2, 4);
pub(super) const CUT: RGBColor = RGBColor(1, 2, 5);
const NAMES: [(&str, &str); 5] = [
    ("#010201", "var(--ink)"),
    ("#010202", "var(--line)"),
    ("#010203", "var(--before)"),
    ("#010204", "var(--after)"),
    ("#010205", "var(--cut)"),
];

/// Wide enough for the figures, narrow enough that text can be read when it is shrunk to a phone.
pub(super) const WIDTH: u32 = 440;
const FONT: (&str, i32) = ("sans-serif", 12);

pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
pub(super) type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;

/// Draws, and finishes. `id` is unique on the page.
pub(super) fn picture(
    id: &str,
    height: u32,
    title: &str,
    about: &str,
    draw: impl FnOnce(&Area) -> Drawn,
) -> Result<String> {
    let mut out = String::new();
    let area = SVGBackend::with_string(&mut out, (WIDTH, height)).into_drawing_area();
    let drawn = draw(&area).and_then(|()| Ok(area.present()?));
    drop(area);
    drawn.map_err(|e| Error::Internal(format!("{title} cannot be drawn: {e}")))?;
    Ok(finish(&out, id, height, title, about))
}

/// What plotters wrote, for the page: no size or namespace of its own, colours of the style sheet, a title and a description.
fn finish(svg: &str, id: &str, height: u32, title: &str, about: &str) -> String {
    let body = svg.split_once("<svg").and_then(|(_, rest)| rest.split_once('>')).map_or("", |(_, body)| body);
    let body = NAMES.iter().fold(body.to_owned(), |body, (marker, name)| body.replace(marker, name));
    let (title, about) = (escaped(title), escaped(about));
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-labelledby=\"{id}-t {id}-d\"><title id=\"{id}-t\">{title}</title>\
         <desc id=\"{id}-d\">{about}</desc>{}",
        body.trim()
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

pub(super) fn style(anchor: (HPos, VPos)) -> TextStyle<'static> {
    TextStyle::from(FONT).color(&INK).pos(Pos::new(anchor.0, anchor.1))
}

/// Axes in the page's colours; `y` and `x` name them.
macro_rules! axes {
    ($chart:expr, $x:expr, $y:expr, $labels:expr, $fx:expr, $fy:expr) => {
        $chart
            .configure_mesh()
            .disable_x_mesh()
            .bold_line_style(LINE)
            .light_line_style(TRANSPARENT)
            .axis_style(BEFORE)
            .x_labels($labels.0)
            .y_labels($labels.1)
            .x_label_formatter($fx)
            .y_label_formatter($fy)
            .label_style(style((HPos::Center, VPos::Top)))
            .axis_desc_style(style((HPos::Center, VPos::Top)))
            .x_desc($x)
            .y_desc($y)
            .draw()
    };
}

pub(super) use axes;

/// Channels before (the whole bar) and after (its filled part), one bar a group.
pub(super) fn channels(groups: &[GroupReport]) -> Result<String> {
    let most = groups.iter().map(|g| g.channels_before).max().unwrap_or(0).max(1);
    let n = groups.len();
    let (before, after) = (sum(groups, |g| g.channels_before), sum(groups, |g| g.channels_after));
    let about = format!(
        "One bar for each of {}, in the order of the network: the whole height is the channels before, the lower, filled part those after. \
         In all {before} before and {after} after. The table of groups has every figure.",
        text::plural(n, "group")
    );
    picture("plot-channels", 240, "Channels of each group before and after", &about, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .x_label_area_size(38)
            .y_label_area_size(54)
            .build_cartesian_2d(0.5..n as f64 + 0.5, 0.0..most as f64 * 1.05)?;
        let whole = |x: &f64| format!("{x:.0}");
        axes!(chart, "group, in the order of the network", "channels", (8.min(n), 5), &whole, &whole)?;
        for (i, g) in groups.iter().enumerate() {
            // With many groups there is no room for outlines and gaps.
            let (half, before) = if n > 60 { (0.5, BEFORE.filled()) } else { (0.36, BEFORE.stroke_width(1)) };
            let (from, to) = (i as f64 + 1.0 - half, i as f64 + 1.0 + half);
            let bar = |height: usize, s: ShapeStyle| Rectangle::new([(from, 0.0), (to, height as f64)], s);
            let (outer, inner) = (bar(g.channels_before, before), bar(g.channels_after, AFTER.filled()));
            chart.draw_series(if n > 60 { [outer, inner] } else { [inner, outer] })?;
        }
        Ok(())
    })
}

fn sum(groups: &[GroupReport], f: fn(&GroupReport) -> usize) -> usize {
    groups.iter().map(f).sum()
}

/// Channels that stay above the axis, those that went below; the cut is a line across.
pub(super) fn scores(h: &ScoreHistogram) -> Result<String> {
    let n = h.kept.len();
    let (kept, removed): (u64, u64) = (h.kept.iter().sum(), h.removed.iter().sum());
    let range = (h.edges.first().copied().unwrap_or(0.0), h.edges.last().copied().unwrap_or(0.0));
    let cut = h.cut.map_or_else(String::new, |c| format!(" The cut is at {}.", number(c)));
    let about = format!(
        "Scores from {} to {}. Above the axis the {kept} channels that stay, below it the {removed} that went.{cut} The table of \
         scores has every figure.",
        number(range.0),
        number(range.1)
    );
    let tallest = |v: &[u64]| v.iter().copied().max().unwrap_or(0) as f64;
    let (up, down) = (tallest(&h.kept).max(1.0), tallest(&h.removed).max(1.0));
    picture("plot-scores", 260, "Scores of all channels", &about, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .margin_right(24)
            .x_label_area_size(38)
            .y_label_area_size(54)
            .build_cartesian_2d(0.0..n as f64, -down * 1.1..up * 1.3)?;
        // Bins are drawn equally wide; the last one reaches further.
        let edge = |x: &f64| match h.edges.get(x.round() as usize) {
            Some(e) if x.round() as usize == n => format!("≤ {}", number(*e)),
            Some(e) => number(*e),
            None => String::new(),
        };
        axes!(chart, "score", "channels", (6, 6), &edge, &|y: &f64| format!("{:.0}", y.abs()))?;
        for (i, (&k, &r)) in h.kept.iter().zip(&h.removed).enumerate() {
            let (from, to) = (i as f64 + 0.08, i as f64 + 0.92);
            chart.draw_series([Rectangle::new([(from, 0.0), (to, k as f64)], AFTER.filled())])?;
            chart.draw_series([Rectangle::new([(from, -(r as f64)), (to, 0.0)], BEFORE.filled())])?;
        }
        chart.draw_series(LineSeries::new([(0.0, 0.0), (n as f64, 0.0)], BEFORE.stroke_width(1)))?;
        let right = n as f64 * 0.985;
        let word = |text: &'static str, y: f64, v: VPos| Text::new(text, (right, y), style((HPos::Right, v)));
        chart.draw_series([word("stays", up * 1.28, VPos::Top), word("removed", -down * 1.05, VPos::Bottom)])?;
        if let Some(cut) = h.cut {
            let x = place(&h.edges, cut);
            chart.draw_series(DashedLineSeries::new([(x, -down * 1.1), (x, up * 1.3)], 6, 4, CUT.stroke_width(2)))?;
            let s = style((HPos::Left, VPos::Top)).color(&CUT);
            chart.draw_series([Text::new(format!("cut {}", number(cut)), (x + 0.4, up * 1.28), s)])?;
        }
        Ok(())
    })
}

/// Where a value lies among bins that are drawn equally wide.
fn place(edges: &[f64], x: f64) -> f64 {
    let at = edges.partition_point(|e| *e <= x).saturating_sub(1).min(edges.len().saturating_sub(2));
    match (edges.get(at), edges.get(at + 1)) {
        (Some(a), Some(b)) if b > a => at as f64 + ((x - a) / (b - a)).clamp(0.0, 1.0),
        _ => at as f64,
    }
}

/// Errors of the compared tensors in order, on a logarithmic scale.
pub(super) fn layers(errors: &[f64]) -> Result<String> {
    let n = errors.len().max(2);
    let positive = || errors.iter().copied().filter(|e| *e > 0.0);
    let high = positive().fold(0.0, f64::max).max(1e-12);
    // Rounding would stretch the scale over many decades.
    let low = positive().fold(high, f64::min).max(high * 1e-6);
    let (from, to) = (10f64.powf(low.log10().floor()), 10f64.powf(high.log10().ceil()).max(low * 10.0));
    let worst = errors.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |w| w.0 + 1);
    let about = format!(
        "Error of {} in the order of the network, as a share of the original's variance: {} at the first, {} at the last; the \
         largest is {} at place {worst}. The table of tensors has every figure.",
        text::plural(errors.len(), "tensor"),
        errors.first().map_or("–".into(), |e| number(*e)),
        errors.last().map_or("–".into(), |e| number(*e)),
        number(errors.iter().copied().fold(0.0, f64::max))
    );
    picture("plot-layers", 240, "Error by layer", &about, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .margin_right(24)
            .x_label_area_size(38)
            .y_label_area_size(62)
            .build_cartesian_2d(1.0..n as f64, (from..to).log_scale())?;
        let power = |y: &f64| if *y >= 1e-3 { format!("{y}") } else { format!("{y:.0e}") };
        axes!(
            chart,
            "tensor, in the order of the network",
            "share of variance",
            (8.min(n), 5),
            &|x: &f64| format!("{x:.0}"),
            &power
        )?;
        let points: Vec<(f64, f64)> =
            errors.iter().enumerate().map(|(i, e)| (i as f64 + 1.0, e.clamp(from, to))).collect();
        chart.draw_series(LineSeries::new(points.iter().copied(), AFTER.stroke_width(2)))?;
        if points.len() <= 80 {
            chart.draw_series(points.iter().map(|p| Circle::new(*p, 3, AFTER.filled())))?;
        }
        Ok(())
    })
}

/// A row of [`spans`]: a name, five ascending values and what is told of them.
pub(super) struct Span {
    pub name: String,
    /// Thin line from the first to the last, box from the second to the fourth, the third as a mark.
    pub at: [f64; 5],
    pub label: String,
    /// The one that is compared with.
    pub plain: bool,
}

/// Boxes with whiskers, one below the other. `zero`: a line at this value.
pub(super) fn spans(
    id: &str,
    title: &str,
    about: &str,
    axis: &str,
    rows: &[Span],
    zero: Option<f64>,
) -> Result<String> {
    let finite = || rows.iter().flat_map(|r| r.at).chain(zero).filter(|x| x.is_finite());
    let (low, high) = (finite().fold(f64::INFINITY, f64::min), finite().fold(f64::NEG_INFINITY, f64::max));
    let room = if high > low { (high - low) * 0.06 } else { 1.0 };
    let (low, high) = if low.is_finite() { (low - room, high + room) } else { (0.0, 1.0) };
    let n = rows.len();
    let height = 64 + 54 * n as u32;
    picture(id, height, title, about, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .margin_right(24)
            .margin_left(16)
            .x_label_area_size(38)
            .build_cartesian_2d(low..high, 0.0..n as f64)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .disable_y_axis()
            .bold_line_style(LINE)
            .light_line_style(TRANSPARENT)
            .axis_style(BEFORE)
            .x_labels(6)
            .x_label_formatter(&|x| if x.abs() < 1e-12 { "0".into() } else { trimmed(*x) })
            .label_style(style((HPos::Center, VPos::Top)))
            .axis_desc_style(style((HPos::Center, VPos::Top)))
            .x_desc(axis)
            .draw()?;
        if let Some(zero) = zero {
            let line = [(zero, 0.0), (zero, n as f64)];
            chart.draw_series(DashedLineSeries::new(line, 5, 4, CUT.stroke_width(1)))?;
        }
        for (i, r) in rows.iter().enumerate() {
            let y = (n - i) as f64 - 0.68;
            let [a, b, c, d, e] = r.at;
            let colour = if r.plain { BEFORE } else { AFTER };
            chart.draw_series(LineSeries::new([(a, y), (e, y)], colour.stroke_width(2)))?;
            if d > b {
                chart.draw_series([Rectangle::new([(b, y - 0.14), (d, y + 0.14)], colour.filled())])?;
            }
            chart.draw_series(LineSeries::new([(c, y - 0.22), (c, y + 0.22)], INK.stroke_width(3)))?;
            let words = format!("{}  {}", text::shorten(&r.name, 34), r.label);
            chart.draw_series([Text::new(words, (low + room * 0.3, y + 0.62), style((HPos::Left, VPos::Top)))])?;
        }
        Ok(())
    })
}

fn trimmed(x: f64) -> String {
    let text = format!("{x:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Differences by class in points, bars up and down from nothing.
pub(super) fn classes(points: &[(String, f64)]) -> Result<String> {
    let n = points.len();
    let ends = |f: fn(f64, f64) -> f64| points.iter().map(|p| p.1).fold(0.0, f);
    let (low, high) = (ends(f64::min), ends(f64::max));
    let span = (high - low).max(0.1);
    // Names of classes stand below all bars.
    let (bottom, top) = (low - span * 0.16, high + span * 0.08);
    let down = points.iter().filter(|p| p.1 < 0.0).count();
    let up = points.iter().filter(|p| p.1 > 0.0).count();
    let about = format!(
        "One bar for each of {n} classes, in points of top1: {down} lost, {up} gained, {} stayed the same. The table by class has \
         every figure.",
        n - down - up
    );
    picture("plot-classes", 220, "Change of top1 by class", &about, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .x_label_area_size(26)
            .y_label_area_size(54)
            .build_cartesian_2d(0.0..n as f64, bottom..top)?;
        axes!(chart, "class", "points", (0, 5), &|_: &f64| String::new(), &|y: &f64| trimmed(*y))?;
        chart.draw_series(LineSeries::new([(0.0, 0.0), (n as f64, 0.0)], BEFORE.stroke_width(1)))?;
        for (i, (label, value)) in points.iter().enumerate() {
            let bar = [(i as f64 + 0.15, value.min(0.0)), (i as f64 + 0.85, value.max(0.0))];
            let colour = if *value < 0.0 { CUT } else { AFTER };
            chart.draw_series([Rectangle::new(bar, colour.filled())])?;
            if n <= 24 {
                let at = (i as f64 + 0.5, bottom);
                chart.draw_series([Text::new(label.clone(), at, style((HPos::Center, VPos::Bottom)))])?;
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_take_the_colours_of_the_page_and_have_words() {
        let svg = layers(&[1e-5, 0.02, 0.0]).unwrap();
        assert!(
            svg.starts_with("<svg viewBox") && svg.trim_end().ends_with("</svg>") && !svg.contains("http"),
            "{svg}"
        );
        assert!(svg.contains("<title id=\"plot-layers-t\">") && svg.contains("<desc"), "{svg}");
        let colours: Vec<&str> = svg.split(['"', '=']).filter(|t| t.starts_with('#')).collect();
        assert!(colours.is_empty() && svg.contains("var(--after)"), "{colours:?}");
        let row = Span { name: "<b>&".into(), at: [1.0; 5], label: String::new(), plain: true };
        let svg = spans("x", "a<b", "c>d", "ms", &[row], None).unwrap();
        assert!(svg.contains("a&lt;b") && !svg.contains("<b>"), "{svg}");
    }

    #[test]
    fn a_cut_lies_within_its_bin() {
        assert_eq!(
            [place(&[0.0, 1.0, 9.0], 0.5), place(&[0.0, 1.0, 9.0], 9.0), place(&[2.0, 2.0], 2.0)],
            [0.5, 2.0, 0.0]
        );
    }
}
