//! The tables of `onnx-prune inspect`: one model, or several side by side.

use super::terminal::{more, pins};
use super::text::{self, MAX_ROWS, field, shorten};
use crate::inspect::{Chain, Inspection, Interface, ModelInspection};
use std::collections::BTreeMap;

const FULL: &str = "--format json";
/// Marks a row in which the models differ.
const DIFFERS: &str = "≠";

/// All tables.
pub fn inspect(i: &Inspection, width: u16) -> String {
    let models: Vec<&ModelInspection> = i.models.iter().collect();
    let mut out = overview(&models, width);
    out.push('\n');
    out += &counts("operator", &models, |m| &m.ops, width);
    out.push('\n');
    out += &counts("layers and what follows", &models, |m| &m.chain_kinds, width);
    if let [m] = models.as_slice() {
        out += &chains(&m.chains, width);
        out += &groups(m, width);
        out += &pins(&m.pins, width, FULL);
        return out;
    }
    out.push('\n');
    out += &side_by_side(&models, width);
    for (k, m) in models.iter().enumerate().filter(|(_, m)| !m.pins.is_empty()) {
        out += &format!("\n[{}] {}\n", k + 1, m.path);
        out += pins(&m.pins, width, FULL).trim_start();
    }
    out
}

/// Column titles: the models' paths are often long and alike, so several models are numbered.
fn columns(models: &[&ModelInspection]) -> Vec<String> {
    match models {
        [_] => vec!["".into()],
        many => (1..=many.len()).map(|k| format!("[{k}]")).collect(),
    }
}

fn marked(mut row: Vec<String>) -> Vec<String> {
    let differs = row.iter().skip(2).any(|x| Some(x) != row.get(1));
    row.push(if differs { DIFFERS.into() } else { String::new() });
    row
}

fn side_table(first: &str, models: &[&ModelInspection], rows: Vec<Vec<String>>, width: u16) -> String {
    let columns = columns(models);
    let header: Vec<&str> = [first].into_iter().chain(columns.iter().map(String::as_str)).chain([""]).collect();
    let right: Vec<usize> = (1..=models.len()).collect();
    text::table(&header, rows.into_iter().map(marked).collect(), &right, width)
}

fn overview(models: &[&ModelInspection], width: u16) -> String {
    let mut out = String::new();
    for (k, m) in models.iter().enumerate() {
        let mark = if models.len() > 1 { format!("[{}] ", k + 1) } else { String::new() };
        out += &format!("{mark}{}\n", m.path);
        out += &field("  inputs", &interfaces(&m.inputs), width);
        out += &field("  outputs", &interfaces(&m.outputs), width);
        if !m.producer.is_empty() {
            out += &field("  made by", &shorten(&m.producer, usize::from(width)), width);
        }
    }
    out.push('\n');
    let row = |name: &str, get: &dyn Fn(&ModelInspection) -> String| {
        [name.to_owned()].into_iter().chain(models.iter().map(|m| get(m))).collect::<Vec<_>>()
    };
    let mut rows = vec![
        row("MACs", &|m| text::count(m.macs)),
        row("prunable MACs", &|m| text::percent(m.prunable_macs, 1.0)),
        row("parameters", &|m| text::count(m.params)),
        row("file size", &|m| text::bytes(m.bytes)),
        row("prunable channels", &|m| m.prunable_channels.to_string()),
        row("channel groups", &|m| m.groups.len().to_string()),
        row("pinned axes", &|m| m.pins.len().to_string()),
        row("nodes", &|m| m.ops.values().sum::<usize>().to_string()),
        row("opset", &|m| m.opset.to_string()),
        row("IR version", &|m| m.ir_version.to_string()),
    ];
    if models.iter().any(|m| !m.domains.is_empty()) {
        rows.push(row("other domains", &|m| {
            m.domains.iter().map(|(d, v)| format!("{d} {v}")).collect::<Vec<_>>().join(", ")
        }));
    }
    out + &side_table("totals", models, rows, width)
}

fn interfaces(list: &[Interface]) -> String {
    list.iter().map(|i| format!("{}: {}", shorten(&i.name, 40), i.r#type)).collect::<Vec<_>>().join("; ")
}

fn counts(
    what: &str,
    models: &[&ModelInspection],
    get: fn(&ModelInspection) -> &BTreeMap<String, usize>,
    width: u16,
) -> String {
    let mut all: BTreeMap<&str, usize> = BTreeMap::new();
    for (name, n) in models.iter().flat_map(|m| get(m)) {
        let most = all.entry(name).or_default();
        *most = (*most).max(*n);
    }
    let mut names: Vec<(&str, usize)> = all.into_iter().collect();
    names.sort_by_key(|&(_, n)| std::cmp::Reverse(n));
    let cell = |m: &ModelInspection, name: &str| get(m).get(name).map_or_else(|| "–".to_owned(), usize::to_string);
    let rows = names
        .iter()
        .take(MAX_ROWS)
        .map(|(name, _)| {
            [shorten(name, usize::from(width) / 2)].into_iter().chain(models.iter().map(|m| cell(m, name))).collect()
        })
        .collect();
    side_table(what, models, rows, width) + &more(names.len(), FULL)
}

/// The layers that anything follows.
fn chains(chains: &[Chain], width: u16) -> String {
    let chains: Vec<&Chain> = chains.iter().filter(|c| c.batch_norm.is_some() || !c.activation.is_empty()).collect();
    if chains.is_empty() {
        return String::new();
    }
    let name = usize::from(width) * 29 / 100;
    let rows = chains.iter().take(MAX_ROWS).map(|c| {
        let activation = text::short_list(c.activation.iter().map(String::as_str), usize::from(width) / 5);
        vec![
            shorten(&c.layer, name),
            c.batch_norm.as_deref().map(|n| shorten(n, name)).unwrap_or_default(),
            activation,
            c.kind.clone(),
        ]
    });
    let table = text::table(&["layer", "normalization", "activation", "chain"], rows.collect(), &[], width);
    format!("\n{table}{}", more(chains.len(), FULL))
}

fn groups(m: &ModelInspection, width: u16) -> String {
    if m.groups.is_empty() {
        return "\nno channel group: nothing is prunable\n".into();
    }
    let name = usize::from(width) * 3 / 10;
    let names = text::shorten_all(m.groups.iter().take(MAX_ROWS).map(|g| g.id.as_str()), name);
    let rows = m.groups.iter().zip(names).map(|(g, id)| {
        let layers = text::short_list(g.layers.iter().map(String::as_str), name + 4);
        let cells = if g.cells > 1 { format!(", equal counts in {} cells", g.cells) } else { String::new() };
        vec![id, g.channels.to_string(), format!("{}: {layers}", g.layers.len()), format!("{}{cells}", g.sites.len())]
    });
    let table = text::table(&["group", "channels", "layers", "parameter axes"], rows.collect(), &[1], width);
    format!("\n{table}{}", more(m.groups.len(), FULL))
}

/// Channels by group, matched by name.
fn side_by_side(models: &[&ModelInspection], width: u16) -> String {
    let mut names: Vec<&str> = Vec::new();
    let mut sizes: BTreeMap<&str, Vec<Option<usize>>> = BTreeMap::new();
    for (k, m) in models.iter().enumerate() {
        for g in &m.groups {
            let row = sizes.entry(&g.id).or_insert_with(|| {
                names.push(&g.id);
                vec![None; models.len()]
            });
            if let Some(cell) = row.get_mut(k) {
                *cell = Some(g.channels);
            }
        }
    }
    let rows = names
        .iter()
        .take(MAX_ROWS)
        .map(|name| {
            let cells = sizes.get(name).into_iter().flatten();
            let cells = cells.map(|c| c.map_or_else(|| "–".to_owned(), |n| n.to_string()));
            [shorten(name, usize::from(width) / 2)].into_iter().chain(cells).collect()
        })
        .collect();
    side_table("channels of group", models, rows, width) + &more(names.len(), FULL)
}
