//! Measuring in parts: each part of a comparison, a check or a sensitivity analysis runs by itself, on any machine, and [`merge`]
//! puts the parts together to exactly what one run over everything gives.
//!
//! * [`diff`](super::diff) and [`check`](super::check) are divided by samples: each part takes a stretch of the batches, which have the
//!   same samples as in the whole. Nothing is averaged in a part; what was counted is kept in a form that joins
//!   ([`counts`](super::counts)), and the whole is joined and finished by the code that a run over everything goes through.
//! * [`sensitivity`](super::sensitivity) is divided by groups of channels: every part takes the statistics that all curves rest on
//!   from all samples, and measures some of the curves.
//! * [`statistics`](crate::calibrate::statistics) for criteria are divided by samples, in groups of batches; sums over them are exact.
//!
//! The result is equal to the last bit as long as the runtime computes the same on the machines of all parts.

pub mod check;
pub mod sensitivity;

use super::check::CheckReport;
use super::diff::{Diff, ModelSide, Observed};
use super::sensitivity::SensitivityReport;
use crate::calibrate::activations::Statistics;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::onnx::Model;
use crate::runtime::Runtime;
use check::CheckPart;
use schemars::JsonSchema;
use sensitivity::SensitivityPart;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::str::FromStr;

/// Version of the JSON schema of parts.
pub const PART_SCHEMA_VERSION: u32 = 1;
/// Most parts of a whole.
pub const MOST_PARTS: usize = 1_000_000;
/// Name and version of the tool.
const TOOL: &str = concat!("onnx-prune ", env!("CARGO_PKG_VERSION"));

/// Part number `index`, from 1, of `of`: written `2/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Shard {
    index: usize,
    of: usize,
}

impl Shard {
    /// All there is.
    pub const WHOLE: Shard = Shard { index: 1, of: 1 };

    /// # Errors
    /// [`Error::Usage`] unless `1 ≤ index ≤ of ≤` [`MOST_PARTS`].
    pub fn new(index: usize, of: usize) -> Result<Shard> {
        if index == 0 || index > of || of > MOST_PARTS {
            return Err(Error::Usage(format!(
                "part {index}/{of}: expected I/N with I from 1 to N, and N at most {MOST_PARTS}, such as 2/8"
            )));
        }
        Ok(Shard { index, of })
    }

    /// From 1.
    pub fn index(self) -> usize {
        self.index
    }

    /// The number of parts.
    pub fn of(self) -> usize {
        self.of
    }

    /// This part of `n` things in a row. The parts follow each other, and their lengths differ by one at most; some are empty where
    /// there are fewer things than parts.
    pub fn range(self, n: usize) -> Range<usize> {
        // Without the product of both, which may not fit.
        let (each, more) = (n / self.of, n % self.of);
        let from = |parts: usize| parts * each + parts * more / self.of;
        from(self.index - 1)..from(self.index)
    }

    /// Whether the `i`-th of many things, dealt out in turn, is in this part.
    pub fn deals(self, i: usize) -> bool {
        i % self.of == self.index - 1
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Shard, String> {
        let two = text.split_once('/').and_then(|(i, n)| Some((i.trim().parse().ok()?, n.trim().parse().ok()?)));
        let (index, of) = two.ok_or_else(|| "expected I/N, such as 2/8 for the second of eight parts".to_owned())?;
        Shard::new(index, of).map_err(|e| e.to_string())
    }
}

impl TryFrom<String> for Shard {
    type Error = String;

    fn try_from(text: String) -> Result<Shard, String> {
        text.parse()
    }
}

impl From<Shard> for String {
    fn from(s: Shard) -> String {
        s.to_string()
    }
}

/// What a part holds, by the command that made it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Content {
    /// Of `onnx-prune diff`.
    Diff(Box<Observed>),
    /// Of `onnx-prune check`.
    Check(Box<CheckPart>),
    /// Of `onnx-prune sensitivity`.
    Sensitivity(Box<SensitivityPart>),
    /// Of `onnx-prune calibrate`; the only kind of which part 1/1 is of use: it is what a pruning run takes.
    Statistics(Box<Statistics>),
}

impl Content {
    /// The command.
    pub fn command(&self) -> &'static str {
        match self {
            Content::Diff(_) => "diff",
            Content::Check(_) => "check",
            Content::Sensitivity(_) => "sensitivity",
            Content::Statistics(_) => "calibrate",
        }
    }
}

/// One part of a measurement, as a file. It holds what is needed to finish the whole without the models and the data, and is of no
/// use by itself.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Part {
    /// Version of this form, [`PART_SCHEMA_VERSION`].
    #[schemars(extend("const" = PART_SCHEMA_VERSION))]
    pub schema_version: u32,
    /// Name and version of the tool.
    pub tool: String,
    /// Which part of how many, as in `2/8`.
    pub shard: Shard,
    /// What all parts of a whole have in common, by what it is called: hashes of models and data, runtime, options.
    pub identity: BTreeMap<String, String>,
    /// What was measured.
    pub measured: Content,
}

/// What is read of a file of any version.
#[derive(Deserialize)]
struct Head {
    schema_version: u32,
    tool: String,
}

impl Part {
    fn new(shard: Shard, identity: BTreeMap<String, String>, measured: Content) -> Part {
        Part { schema_version: PART_SCHEMA_VERSION, tool: TOOL.into(), shard, identity, measured }
    }

    /// A part of a comparison, of what [`observe`](super::diff::observe) saw with the same models, data and part.
    pub fn diff(shard: Shard, models: (&Model, &Model), data: &Dataset, seen: Observed) -> Part {
        let mut identity = of_models(models);
        of_comparison(&mut identity, data, &seen);
        Part::new(shard, identity, Content::Diff(Box::new(seen)))
    }

    /// A part of a check.
    pub fn check(shard: Shard, models: (&Model, &Model), data: &Dataset, part: CheckPart) -> Part {
        let mut identity = of_models(models);
        of_comparison(&mut identity, data, part.accuracy());
        identity.extend(part.identity());
        Part::new(shard, identity, Content::Check(Box::new(part)))
    }

    /// A part of a sensitivity analysis. `asked`: everything that decides what is measured, by its name.
    pub fn sensitivity(shard: Shard, model: &Model, asked: BTreeMap<String, String>, part: SensitivityPart) -> Part {
        let mut identity = BTreeMap::from([("model".into(), model.content_sha256())]);
        identity.extend(asked);
        identity.extend(part.identity());
        Part::new(shard, identity, Content::Sensitivity(Box::new(part)))
    }

    /// A part of the statistics that some criteria work from.
    pub fn statistics(shard: Shard, model: &Model, data: &Dataset, runtime: &dyn Runtime, part: Statistics) -> Part {
        let identity = BTreeMap::from([
            ("model".into(), model.content_sha256()),
            ("data".into(), data.digest()),
            ("batch".into(), data.batch_size().to_string()),
            ("runtime".into(), format!("{} {}", runtime.name(), runtime.version())),
        ]);
        Part::new(shard, identity, Content::Statistics(Box::new(part)))
    }

    /// Reads the statistics of a model.
    ///
    /// # Errors
    /// [`Error::Usage`] when the file holds none, only a part of them, or those of another model.
    pub fn read_statistics(path: &Path, model: &Model) -> Result<Statistics> {
        let refuse = |why: String| Error::Usage(format!("--statistics {}: {why}", path.display()));
        let part = Part::read(path)?;
        let command = part.measured.command();
        let Content::Statistics(statistics) = part.measured else {
            return Err(refuse(format!("expected what `onnx-prune calibrate` writes, found a part of {command}")));
        };
        if part.shard != Shard::WHOLE {
            return Err(refuse(format!(
                "it is part {} alone; put all parts together with `onnx-prune merge PART... --report FILE.json`",
                part.shard
            )));
        }
        let (theirs, ours) = (part.identity.get("model").cloned().unwrap_or_default(), model.content_sha256());
        if theirs != ours {
            return Err(refuse(format!(
                "it is about another model, with SHA-256 {theirs}, {} has {ours}; calibrate this one",
                model.path.display()
            )));
        }
        Ok(*statistics)
    }

    /// The text of the file: one line of JSON.
    ///
    /// # Errors
    /// [`Error::Internal`] when it has no JSON form.
    pub fn to_json(&self) -> Result<String> {
        let text = serde_json::to_string(self);
        text.map(|t| t + "\n").map_err(|e| Error::Internal(format!("a part cannot be written as JSON: {e}")))
    }

    /// Reads a part.
    ///
    /// # Errors
    /// [`Error::Usage`] when the file cannot be read, is no part, or is one of another version.
    pub fn read(path: &Path) -> Result<Part> {
        let refuse = |why: String| Error::Usage(format!("{}: {why}", path.display()));
        let text = std::fs::read(path).map_err(|e| refuse(format!("cannot be read: {e}")))?;
        let no_part = |e: serde_json::Error| {
            let anew = "make it again with `onnx-prune diff`, `check`, `sensitivity` or `calibrate`, --shard I/N and --report \
                        FILE.json";
            refuse(format!("expected a part of a measurement, found something else ({e}); {anew}"))
        };
        let head: Head = serde_json::from_slice(&text).map_err(no_part)?;
        if (head.schema_version, head.tool.as_str()) != (PART_SCHEMA_VERSION, TOOL) {
            return Err(refuse(format!(
                "expected a part made by {TOOL} (schema version {PART_SCHEMA_VERSION}), found one by {} ({}); merge it with that \
                 version, or make it again with this one",
                head.tool, head.schema_version
            )));
        }
        serde_json::from_slice(&text).map_err(no_part)
    }
}

fn of_models((original, pruned): (&Model, &Model)) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("original model".into(), original.content_sha256()),
        ("pruned model".into(), pruned.content_sha256()),
    ])
}

fn of_comparison(identity: &mut BTreeMap<String, String>, data: &Dataset, seen: &Observed) {
    let (o, r) = (seen.options(), seen.runtime());
    let metrics: Vec<&str> = o.metrics.iter().map(|m| m.name()).collect();
    let axis = o.place.class_axis.map_or("none".into(), |a| a.to_string());
    let limit = |x: Option<f64>| x.map_or("none".into(), |x| x.to_string());
    identity.extend([
        ("data".into(), data.digest()),
        ("batch".into(), data.batch_size().to_string()),
        ("runtime".into(), format!("{} {}", r.name, r.version)),
        ("--metric".into(), metrics.join(", ")),
        ("--metric-output".into(), o.place.output.clone().unwrap_or_else(|| "none".into())),
        ("--class-axis".into(), axis),
        ("--layer-samples".into(), o.layer_samples.to_string()),
        ("--max-drop".into(), limit(o.limits.max_drop)),
        ("--min-agreement".into(), limit(o.limits.min_agreement)),
    ]);
}

/// What the parts come to.
#[derive(Clone, Debug)]
pub enum Merged {
    /// Of `onnx-prune diff`.
    Diff(Box<Diff>),
    /// Of `onnx-prune check`.
    Check(Box<CheckReport>),
    /// Of `onnx-prune sensitivity`.
    Sensitivity(SensitivityReport),
    /// Of `onnx-prune calibrate`: part 1/1.
    Statistics(Box<Part>),
}

/// Puts all parts of one whole together, in whatever order they come. Each has the name that messages call it by, such as its file's.
///
/// Paths in the result are those of the first part. A limit that is not kept is no error here; see [`Diff::verdict`] and
/// [`CheckReport::verdict`].
///
/// # Errors
/// [`Error::Usage`] when parts are missing, given twice, or belong to different models, data, options, runtimes or commands; and
/// where the whole run would fail.
pub fn merge(parts: Vec<(String, Part)>) -> Result<Merged> {
    let parts = in_order(parts)?;
    let mut rest = parts.into_iter();
    let Some((_, first)) = rest.next() else { return Err(Error::Usage("there are no parts to merge".into())) };
    let named = |name: &str, e: Error| match e {
        Error::Usage(why) => Error::Usage(format!("{name}: {why}")),
        e => e,
    };
    let mixed = || Error::Internal("parts of several commands".into());
    match first.measured {
        Content::Diff(mut whole) => {
            for (name, part) in rest {
                let Content::Diff(part) = part.measured else { return Err(mixed()) };
                whole.join(*part).map_err(|e| named(&name, e))?;
            }
            Ok(Merged::Diff(Box::new(whole.finish()?)))
        }
        Content::Check(mut whole) => {
            for (name, part) in rest {
                let Content::Check(part) = part.measured else { return Err(mixed()) };
                whole.join(*part).map_err(|e| named(&name, e))?;
            }
            Ok(Merged::Check(Box::new(whole.finish()?)))
        }
        Content::Sensitivity(mut whole) => {
            for (name, part) in rest {
                let Content::Sensitivity(part) = part.measured else { return Err(mixed()) };
                whole.join(*part).map_err(|e| named(&name, e))?;
            }
            Ok(Merged::Sensitivity(whole.finish()?))
        }
        Content::Statistics(mut whole) => {
            for (name, part) in rest {
                let Content::Statistics(part) = part.measured else { return Err(mixed()) };
                whole.join(*part).map_err(|e| named(&name, e))?;
            }
            Ok(Merged::Statistics(Box::new(Part::new(Shard::WHOLE, first.identity, Content::Statistics(whole)))))
        }
    }
}

/// All parts of one whole, each once, the first first.
fn in_order(mut parts: Vec<(String, Part)>) -> Result<Vec<(String, Part)>> {
    // By name among equals, so that messages do not depend on the order either.
    parts.sort_by(|a, b| (a.1.shard, &a.0).cmp(&(b.1.shard, &b.0)));
    let Some((first_name, first)) = parts.first() else { return Ok(parts) };
    for (name, part) in &parts {
        let differ = |what: &str, found: &str, wanted: &str, way: &str| {
            Err(Error::Usage(format!("{name}: {what} {found}, but in {first_name} {wanted}; {way}")))
        };
        let way =
            "all parts have to be made by the same command with the same files and flags, --shard and --report aside";
        let (a, b) = (first.measured.command(), part.measured.command());
        if a != b {
            return differ("made by", b, &format!("by {a}"), way);
        }
        let (a, b) = (first.shard.of, part.shard.of);
        if a != b {
            return differ("one of", &format!("{b} parts"), &format!("of {a}"), "merge the parts of one division");
        }
        let names = first.identity.keys().chain(part.identity.keys());
        for key in names {
            let get = |p: &Part| p.identity.get(key).cloned().unwrap_or_else(|| "not there".into());
            let (a, b) = (get(first), get(part));
            if a != b {
                return differ(&format!("{key} is"), &b, &format!("it is {a}"), way);
            }
        }
    }
    for pair in parts.windows(2) {
        if let [(a, x), (b, y)] = pair
            && x.shard == y.shard
        {
            return Err(Error::Usage(format!("part {} is given twice, as {a} and {b}; give each part once", x.shard)));
        }
    }
    let of = first.shard.of;
    let missing: Vec<String> = (1..=of)
        .filter(|i| parts.binary_search_by_key(i, |(_, p)| p.shard.index).is_err())
        .map(|i| format!("{i}/{of}"))
        .collect();
    if !missing.is_empty() {
        const SHOWN: usize = 20;
        let more = missing.len().saturating_sub(SHOWN);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let shown = missing.get(..SHOWN).unwrap_or(&missing).join(", ");
        return Err(Error::Usage(format!(
            "{} of {of} parts missing: {shown}{more}; make them with the same command and --shard, and give all parts",
            missing.len()
        )));
    }
    Ok(parts)
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether two models are the same file, wherever it lies.
fn same_file(a: &ModelSide, b: &ModelSide) -> bool {
    (&a.sha256, a.bytes, a.params, a.macs) == (&b.sha256, b.bytes, b.params, b.macs)
}

#[cfg(test)]
#[path = "shard_tests.rs"]
mod tests;
