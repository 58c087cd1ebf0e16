//! Sensitivity curves as a table and as CSV.

use super::text::{self, MAX_ROWS, field, plural};
use crate::evaluate::sensitivity::{Point, Removal, SensitivityReport};

/// One row a group, one column a share.
pub fn table(r: &SensitivityReport, width: u16) -> String {
    let mut shares: Vec<f64> = r.groups.iter().flat_map(|g| g.points.iter().map(|p| p.share)).collect();
    shares.sort_by(f64::total_cmp);
    shares.dedup();
    let name = usize::from(width) * 3 / 10;
    let names =
        text::shorten_all(r.groups.iter().take(MAX_ROWS).map(|g| g.groups.first().map_or("", String::as_str)), name);
    let mut header = vec!["group".to_owned(), "channels".to_owned()];
    header.extend(shares.iter().map(|s| format!("−{} %", (s * 1000.0).round() / 10.0)));
    header.push("saves".into());
    let rows = r.groups.iter().zip(names).map(|(g, name)| {
        let mut row = vec![name, g.channels.to_string()];
        let cell = |s: &f64| g.points.iter().find(|p| p.share == *s).map_or(String::new(), cell);
        row.extend(shares.iter().map(cell));
        row.push(g.points.last().map_or(String::new(), |p| format!("{:.1} %", 100.0 * p.macs_saved)));
        row
    });
    let right: Vec<usize> = (1..header.len()).collect();
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let mut out = format!("{}\n\n", r.model);
    out += &text::table(&header, rows.collect(), &right, width);
    out += &super::terminal::more(r.groups.len(), "--report FILE.json");
    out.push('\n');
    let how = match r.removal {
        Removal::Obs => "the cheapest channels of one group gone, the layers that read them adjusted",
        Removal::Plain => "the lowest-ranked channels of one group gone, nothing adjusted",
    };
    let drop = if r.metric.is_some() { "; in parentheses points lost" } else { "" };
    out += &field(
        "Figures",
        &format!(
            "change of the outputs in % of their variance{drop}; {how}. saves: of the whole model's MACs, at the last share"
        ),
        width,
    );
    if let (Some(metric), Some(original)) = (&r.metric, r.original) {
        let on = r.samples.map_or(String::new(), |n| format!(" on {}", plural(n, "sample")));
        out += &field("Accuracy", &format!("{metric} {original:.4} of the original{on}"), width);
    }
    let blind = r.groups.iter().filter(|g| g.points.is_empty()).count();
    if blind > 0 {
        let text = format!(
            "{} read by no layer with weights of its own; --removal plain measures them too",
            plural(blind, "group")
        );
        out += &field("Note", &text, width);
    }
    out
}

/// Two or three digits.
fn cell(p: &Point) -> String {
    let short = |x: f64| match x.abs() {
        a if a < 0.995 => format!("{x:.2}"),
        a if a < 9.95 => format!("{x:.1}"),
        _ => format!("{x:.0}"),
    };
    let change = short(100.0 * p.change);
    p.drop.map_or(change.clone(), |d| {
        if d.abs() < 9.95 { format!("{change} ({d:.1})") } else { format!("{change} ({d:.0})") }
    })
}

/// One line a point, with a header.
pub fn csv(r: &SensitivityReport) -> String {
    let mut out = "group,layers,channels,share,removed,macs_saved,params_saved,change,metric,score,drop\n".to_owned();
    for g in &r.groups {
        for p in &g.points {
            let number = |x: Option<f64>| x.map_or(String::new(), |x| x.to_string());
            let fields = [
                text::csv_field(&g.groups.join(" ")),
                text::csv_field(&g.layers.join(" ")),
                g.channels.to_string(),
                p.share.to_string(),
                p.removed.to_string(),
                p.macs_saved.to_string(),
                p.params_saved.to_string(),
                p.change.to_string(),
                text::csv_field(r.metric.as_deref().unwrap_or_default()),
                number(p.score),
                number(p.drop),
            ];
            out += &fields.join(",");
            out.push('\n');
        }
    }
    out
}
