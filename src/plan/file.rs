//! The plan file: what is removed from every constant, in the original's numbering, as JSON.

use super::removed_indices;
use crate::channels::{AxisId, Channels, Tensor};
use crate::error::{Error, Result};
use crate::ops::Policy;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// The version of the format that this crate writes and reads.
pub const SCHEMA: u32 = 1;

/// A stored plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlanFile {
    /// Version of this form, [`SCHEMA`].
    #[schemars(extend("const" = SCHEMA))]
    pub schema: u32,
    /// What wrote it.
    #[serde(default)]
    pub tool: String,
    /// SHA-256 of the model that it was made for.
    #[serde(default)]
    pub model_sha256: String,
    /// How the accuracy was to be recovered.
    #[serde(default)]
    pub recover: String,
    /// The budget in words.
    #[serde(default)]
    pub budget: String,
    /// Tensor key → axis → removed indices; only what loses something is listed.
    pub tensors: BTreeMap<String, BTreeMap<String, AxisRemoval>>,
    /// How the channels were traced, where that is not the default.
    #[serde(default, skip_serializing_if = "Policy::is_default")]
    pub policy: Policy,
    /// The groups, for the reader's information.
    #[serde(default)]
    pub groups: Vec<PlanGroup>,
}

/// The indices removed from one axis, ascending.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum AxisRemoval {
    /// Indices along the axis.
    Flat(Vec<usize>),
    /// Axis 1 of a grouped convolution's weight: one list for each original convolution group, of equal lengths but for the
    /// empty list of a group that is removed whole.
    Grouped(Vec<Vec<usize>>),
}

/// A group in a plan file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlanGroup {
    /// The group's name.
    pub name: String,
    /// Channels of the original.
    pub channels_before: usize,
    /// Channels that stay.
    pub channels_after: usize,
    /// The removed channels.
    pub removed: Vec<usize>,
}

/// The plan file for `removed[group]`.
pub fn to_file(ch: &Channels, removed: &[Vec<usize>], model_sha256: &str, recover: &str, budget: &str) -> PlanFile {
    let marks = Marks::of(ch, removed);
    let mut merged: BTreeMap<(&str, usize), (usize, Vec<bool>)> = BTreeMap::new();
    for (tensor, id) in constant_axes(ch) {
        let (axis, mark) = (ch.axis(id), marks.listed(ch, tensor, id));
        let (_, all) = merged.entry((&tensor.key, axis.axis)).or_insert_with(|| (axis.fold, vec![false; axis.len]));
        all.iter_mut().zip(mark).for_each(|(to, from)| *to |= from);
    }
    let mut tensors: BTreeMap<String, BTreeMap<String, AxisRemoval>> = BTreeMap::new();
    for ((key, axis), (fold, mark)) in merged {
        if mark.iter().any(|&m| m) {
            let removal = if fold > 1 {
                AxisRemoval::Grouped(mark.chunks((mark.len() / fold).max(1)).map(positions).collect())
            } else {
                AxisRemoval::Flat(positions(&mark))
            };
            tensors.entry(key.to_owned()).or_default().insert(axis.to_string(), removal);
        }
    }
    let groups = ch.groups.iter().zip(removed).map(|(group, list)| PlanGroup {
        name: group.name.clone(),
        channels_before: group.channels.len(),
        channels_after: group.channels.len().saturating_sub(list.len()),
        removed: list.clone(),
    });
    PlanFile {
        schema: SCHEMA,
        tool: concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")).to_owned(),
        model_sha256: model_sha256.to_owned(),
        recover: recover.to_owned(),
        budget: budget.to_owned(),
        tensors,
        policy: Policy::default(),
        groups: groups.collect(),
    }
}

/// The removed channels of each group, read back from a plan; only its `schema` and `tensors` count.
///
/// The plan must fit the model: every tensor and axis exists, every channel goes from all its constants or from none, no
/// pinned index goes, coupled groups lose equal counts and no group loses its last channel. Whether the plan was made for
/// this very file ([`PlanFile::model_sha256`]) is for the caller to compare.
pub fn from_file(ch: &Channels, file: &PlanFile) -> Result<Vec<Vec<usize>>> {
    check_schema(u64::from(file.schema))?;
    let marks = Marks::read(ch, file)?;
    let mut claimed = Marks(vec![Vec::new(); ch.axes.len()]);
    let mut removed = Vec::with_capacity(ch.groups.len());
    for group in &ch.groups {
        let mut list = Vec::new();
        for (c, channel) in group.channels.iter().enumerate() {
            let on_constants = || channel.members.iter().filter(|&&(a, _)| ch.tensor_of(a).source.is_some());
            let Some(&(axis, index)) = on_constants().find(|&&(a, i)| marks.has(a, i as usize)) else { continue };
            if let Some(&(kept, at)) = on_constants().find(|&&(a, i)| !marks.has(a, i as usize)) {
                return Err(Error::Plan(format!(
                    "channel {c} of group {:?} is only partly removed: {} is removed, {} is kept",
                    group.name,
                    place(ch, axis, index as usize),
                    place(ch, kept, at as usize)
                )));
            }
            on_constants().for_each(|&(a, i)| claimed.set(ch, a, i as usize));
            list.push(c);
        }
        if list.len() == group.channels.len() && !list.is_empty() {
            return Err(Error::Plan(format!("group {:?} loses all of its {} channels", group.name, list.len())));
        }
        removed.push(list);
    }
    for (_, id) in constant_axes(ch) {
        if let Some(index) = (0..ch.axis(id).len).find(|&i| marks.has(id, i) && !claimed.has(id, i)) {
            return Err(Error::Plan(format!("{} cannot be removed: {}", place(ch, id, index), pinned(ch, id))));
        }
    }
    check_cells(ch, &removed)?;
    Ok(removed)
}

/// Reads a plan file.
pub fn load(path: impl AsRef<Path>) -> Result<PlanFile> {
    let path = path.as_ref();
    let text = std::fs::read_to_string(path)
        .map_err(|e| Error::Usage(format!("cannot read the plan {}: {e}", path.display())))?;
    parse(&text, path)
}

/// Reads a plan from the text of its file. `path` is only for messages.
pub fn parse(text: &str, path: impl AsRef<Path>) -> Result<PlanFile> {
    let no_plan = |e| Error::Usage(format!("{} is not a plan file: {e}", path.as_ref().display()));
    let json: serde_json::Value = serde_json::from_str(text).map_err(no_plan)?;
    if let Some(schema) = json.get("schema").and_then(serde_json::Value::as_u64) {
        check_schema(schema)?;
    }
    serde_json::from_value(json).map_err(no_plan)
}

/// Writes a plan file.
pub fn save(path: impl AsRef<Path>, file: &PlanFile) -> Result<()> {
    let path = path.as_ref();
    let mut text =
        serde_json::to_string_pretty(file).map_err(|e| Error::Internal(format!("the plan cannot be written: {e}")))?;
    text.push('\n');
    std::fs::write(path, text).map_err(|e| Error::Usage(format!("cannot write the plan {}: {e}", path.display())))
}

fn check_schema(schema: u64) -> Result<()> {
    if schema == u64::from(SCHEMA) {
        return Ok(());
    }
    Err(Error::Plan(format!(
        "it has schema {schema}, this version of onnx-prune reads schema {SCHEMA}; make the plan anew"
    )))
}

fn check_cells(ch: &Channels, removed: &[Vec<usize>]) -> Result<()> {
    for unit in &ch.units {
        let gone = |cell: &Vec<(usize, usize)>| {
            cell.iter().filter(|&&(g, c)| removed.get(g).is_some_and(|list| list.binary_search(&c).is_ok())).count()
        };
        let counts: Vec<usize> = unit.cells.iter().map(gone).collect();
        let names = |i: usize| unit.cells[i].first().map_or("", |&(g, _)| ch.groups[g].name.as_str());
        if let Some(i) = (1..counts.len()).find(|&i| counts[i] != counts[0]) {
            return Err(Error::Plan(format!(
                "every group of a grouped convolution must lose the same number of channels, but part 0 (group {:?}) loses {} \
                 and part {i} (group {:?}) loses {}",
                names(0),
                counts[0],
                names(i),
                counts[i]
            )));
        }
        if let Some(i) = (0..counts.len()).find(|&i| counts[i] > 0 && counts[i] == unit.cells[i].len()) {
            return Err(Error::Plan(format!(
                "part {i} of a grouped convolution (group {:?}) loses all its channels",
                names(i)
            )));
        }
    }
    Ok(())
}

/// Why an index that belongs to no channel stays.
fn pinned(ch: &Channels, id: AxisId) -> String {
    let (tensor, axis) = (ch.tensor_of(id), ch.axis(id).axis);
    match ch.pins.iter().find(|p| p.tensor == tensor.key && p.axis == axis) {
        Some(pin) => format!("pinned by {} {:?} ({})", pin.op, pin.node, pin.reason),
        None => "it belongs to no prunable channel".to_owned(),
    }
}

fn place(ch: &Channels, id: AxisId, index: usize) -> String {
    let axis = ch.axis(id);
    let at = match axis.len / axis.fold.max(1) {
        inner if axis.fold > 1 && inner > 0 => {
            format!("index {} of convolution group {}", index % inner, index / inner)
        }
        _ => format!("index {index}"),
    };
    format!("{at} of axis {} of {:?}", axis.axis, ch.tensor_of(id).key)
}

fn positions(mark: &[bool]) -> Vec<usize> {
    (0..mark.len()).filter(|&i| mark[i]).collect()
}

fn constant_axes(ch: &Channels) -> impl Iterator<Item = (&Tensor, AxisId)> {
    ch.tensors.iter().filter(|t| t.source.is_some()).flat_map(|t| t.axes.iter().flatten().map(move |&id| (t, id)))
}

/// `[axis][index]`: removed; an axis that loses nothing may be empty.
struct Marks(Vec<Vec<bool>>);

impl Marks {
    fn of(ch: &Channels, removed: &[Vec<usize>]) -> Self {
        let mut marks = Self(vec![Vec::new(); ch.axes.len()]);
        for (axis, list) in removed_indices(ch, removed).into_iter().enumerate() {
            list.into_iter().for_each(|i| marks.set(ch, AxisId(axis as u32), i));
        }
        marks
    }

    fn has(&self, axis: AxisId, index: usize) -> bool {
        self.0[axis.0 as usize].get(index).copied().unwrap_or(false)
    }

    fn set(&mut self, ch: &Channels, axis: AxisId, index: usize) {
        let list = &mut self.0[axis.0 as usize];
        list.resize(ch.axis(axis).len.max(index + 1), false);
        list[index] = true;
    }

    /// The marks of an axis as a plan lists them: without the convolution groups that go whole, with all their rows.
    fn listed(&self, ch: &Channels, tensor: &Tensor, id: AxisId) -> Vec<bool> {
        let axis = ch.axis(id);
        let mut mark: Vec<bool> = (0..axis.len).map(|i| self.has(id, i)).collect();
        if axis.fold > 1 {
            for (g, block) in mark.chunks_mut((axis.len / axis.fold).max(1)).enumerate() {
                if block.iter().all(|&m| m) && self.rows_gone(ch, tensor, g, axis.fold) {
                    block.fill(false);
                }
            }
        }
        mark
    }

    /// Whether all indices of axis 0 that belong to convolution group `g` go.
    fn rows_gone(&self, ch: &Channels, tensor: &Tensor, g: usize, fold: usize) -> bool {
        let Some(rows) = tensor.axes.first().copied().flatten() else { return false };
        let per = ch.axis(rows).len / fold;
        per > 0 && (g * per..(g + 1) * per).all(|i| self.has(rows, i))
    }

    fn read(ch: &Channels, file: &PlanFile) -> Result<Self> {
        let mut by_key: BTreeMap<&str, Vec<&Tensor>> = BTreeMap::new();
        for tensor in ch.tensors.iter().filter(|t| t.source.is_some()) {
            by_key.entry(&tensor.key).or_default().push(tensor);
        }
        let mut marks = Self(vec![Vec::new(); ch.axes.len()]);
        for (key, axes) in &file.tensors {
            let known = by_key.get(key.as_str());
            let known = known.ok_or_else(|| Error::Plan(format!("the model has no constant tensor {key:?}")))?;
            for (axis, removal) in axes {
                for tensor in known {
                    let number: Option<usize> = axis.parse().ok().filter(|&a| a < tensor.dims.len());
                    let number = number.ok_or_else(|| {
                        Error::Plan(format!("{key:?} has no axis {axis:?}: it has {} dimensions", tensor.dims.len()))
                    })?;
                    match tensor.axes.get(number).copied().flatten() {
                        Some(id) => marks.read_axis(ch, id, removal)?,
                        None if removal.is_empty() => {}
                        None => return Err(Error::Plan(format!("nothing can be removed from axis {axis} of {key:?}"))),
                    }
                }
            }
        }
        // A convolution group without a list of its own goes whole exactly when its rows do.
        for (tensor, id) in constant_axes(ch).filter(|&(_, id)| ch.axis(id).fold > 1) {
            let axis = ch.axis(id);
            let per = axis.len / axis.fold;
            for g in 0..axis.fold {
                let block = g * per..(g + 1) * per;
                if !block.clone().any(|i| marks.has(id, i)) && marks.rows_gone(ch, tensor, g, axis.fold) {
                    block.for_each(|i| marks.set(ch, id, i));
                }
            }
        }
        Ok(marks)
    }

    fn read_axis(&mut self, ch: &Channels, id: AxisId, removal: &AxisRemoval) -> Result<()> {
        let axis = ch.axis(id);
        let (key, number, fold) = (&ch.tensor_of(id).key, axis.axis, axis.fold.max(1));
        let per = axis.len / fold;
        let mut mark = |g: usize, list: &[usize]| -> Result<()> {
            if let Some(&index) = list.iter().find(|&&i| i >= per) {
                return Err(Error::Plan(format!(
                    "index {index} is out of range for axis {number} of {key:?}, which has {per}"
                )));
            }
            list.iter().for_each(|&i| self.set(ch, id, g * per + i));
            Ok(())
        };
        match removal {
            AxisRemoval::Flat(list) => (0..fold).try_for_each(|g| mark(g, list)),
            AxisRemoval::Grouped(lists) if fold > 1 && lists.len() == fold => {
                let mut sizes = lists.iter().map(Vec::len).filter(|&n| n > 0);
                let least = sizes.next().unwrap_or(0);
                if let Some(other) = sizes.find(|&n| n != least) {
                    return Err(Error::Plan(format!(
                        "the convolution groups of {key:?} lose {least} and {other} indices of axis {number}; they must lose equally many"
                    )));
                }
                lists.iter().enumerate().try_for_each(|(g, list)| mark(g, list))
            }
            AxisRemoval::Grouped(lists) => Err(Error::Plan(format!(
                "axis {number} of {key:?} lists {} convolution groups, the model has {fold}",
                lists.len()
            ))),
        }
    }
}

impl AxisRemoval {
    /// Nothing is removed.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Flat(list) => list.is_empty(),
            Self::Grouped(lists) => lists.iter().all(Vec::is_empty),
        }
    }
}
