//! JSON Schemas (draft 2020-12) of every JSON document that the tool writes, made from the structs themselves.
//!
//! The files in `schemas/` are these, as text. They leave objects open: a later version of the tool may add keys without a new
//! schema version, which grows when a key changes its meaning or goes away. A number of the kind `f64` that is not finite is
//! `null` in JSON, so each of them may be `null`.

use crate::data::summary::{DATA_SCHEMA_VERSION, DataSummary};
use crate::evaluate::bench::BenchReport;
use crate::evaluate::check::{CHECK_SCHEMA_VERSION, CheckReport};
use crate::evaluate::diff::{DIFF_SCHEMA_VERSION, Diff};
use crate::evaluate::sensitivity::{self, SensitivityReport};
use crate::evaluate::shard::{PART_SCHEMA_VERSION, Part};
use crate::inspect::summary::Summary;
use crate::inspect::why::Why;
use crate::inspect::{INSPECT_SCHEMA_VERSION, Inspection};
use crate::plan::{PlanFile, SCHEMA};
use crate::report::{PruneReport, SCHEMA_VERSION};
use crate::runtime::RuntimeInfo;
use crate::sweep::SWEEP_SCHEMA_VERSION;
use crate::sweep::collect::Table;
use crate::train::history::{History, TRAIN_SCHEMA_VERSION};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, transform};
use serde_json::{Value, json};

/// Said of every number that may be missing for that reason.
const NOT_FINITE: &str = "null where it is not finite";

/// One kind of document.
#[derive(Clone, Debug)]
pub struct Document {
    /// The schema is the file `schemas/<name>.schema.json`.
    pub name: &'static str,
    /// The schema.
    pub schema: Value,
}

/// Every kind of document, by name.
pub fn documents() -> Vec<Document> {
    vec![
        document::<BenchReport>("bench", "onnx-prune bench", Some(SCHEMA_VERSION)),
        document::<CheckReport>("check", "onnx-prune check", Some(CHECK_SCHEMA_VERSION)),
        document::<DataSummary>("data", "onnx-prune data", Some(DATA_SCHEMA_VERSION)),
        document::<Diff>("diff", "onnx-prune diff", Some(DIFF_SCHEMA_VERSION)),
        document::<Inspection>("inspect", "onnx-prune inspect", Some(INSPECT_SCHEMA_VERSION)),
        document::<Summary>("inspect-summary", "onnx-prune inspect --summary", Some(INSPECT_SCHEMA_VERSION)),
        document::<Why>("inspect-why", "onnx-prune inspect --why", Some(INSPECT_SCHEMA_VERSION)),
        document::<Part>("part", "onnx-prune --shard", Some(PART_SCHEMA_VERSION)),
        document::<PlanFile>("plan", "onnx-prune --save-plan", Some(SCHEMA)),
        document::<PruneReport>("prune", "onnx-prune --report", Some(SCHEMA_VERSION)),
        document::<Vec<RuntimeInfo>>("runtimes", "onnx-prune runtimes", None),
        document::<SensitivityReport>("sensitivity", "onnx-prune sensitivity", Some(sensitivity::SCHEMA_VERSION)),
        document::<Table>("sweep", "onnx-prune sweep", Some(SWEEP_SCHEMA_VERSION)),
        document::<History>("train", "onnx-prune train", Some(TRAIN_SCHEMA_VERSION)),
    ]
}

fn document<T: JsonSchema>(name: &'static str, command: &str, version: Option<u32>) -> Document {
    // Of what is written: keys that are left out only sometimes are not required, `Option`s that are always there are.
    let settings = SchemaSettings::draft2020_12().for_serialize().with_transform(tidy);
    let mut schema = settings.into_generator().into_root_schema_for::<T>();
    let version = version.map(|v| format!(", schema version {v}")).unwrap_or_default();
    schema.insert("title".to_owned(), json!(format!("{command}: JSON{version}")));
    Document { name, schema: schema.to_value() }
}

/// Makes one schema, and all within it, honest and readable.
fn tidy(schema: &mut Schema) {
    transform::transform_subschemas(&mut tidy, schema);
    if let Some(Value::String(text)) = schema.get_mut("description") {
        *text = plain(text);
    }
    if let Some(kind) = schema.get_mut("type") {
        let float = kind == "number";
        if float {
            *kind = json!(["number", "null"]);
            let said = schema.get("description").and_then(Value::as_str).map(|d| d.trim_end_matches('.'));
            let said = said.map_or_else(|| NOT_FINITE.to_owned(), |d| format!("{d}; {NOT_FINITE}."));
            schema.insert("description".to_owned(), json!(said));
        }
    }
}

/// A doc comment without links and line breaks: ``[`Name`](target)`` becomes `` `Name` ``.
fn plain(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut out = String::new();
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once("[`") {
        out.push_str(before);
        let Some((name, after)) = after.split_once("`]") else {
            out.push_str("[`");
            rest = after;
            continue;
        };
        out.push_str(&format!("`{name}`"));
        // The target, where there is one.
        rest = after.strip_prefix('(').and_then(|a| a.split_once(')')).map_or(after, |(_, a)| a);
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doc_comments_lose_their_links() {
        assert_eq!(plain("Share of [`macs`](Self::macs)\n in [`Layers`]."), "Share of `macs` in `Layers`.");
        assert_eq!(plain("An interval [0, 1] and [`open"), "An interval [0, 1] and [`open");
    }

    #[test]
    fn numbers_that_may_not_be_finite_may_be_null() {
        #[derive(serde::Serialize, JsonSchema)]
        struct Figures {
            /// Milliseconds.
            ms: f64,
            count: usize,
        }
        let text = crate::report::json::to_string(&Figures { ms: f64::NAN, count: 1 }).unwrap();
        assert!(text.contains("\"ms\": null"));
        let schema = document::<Figures>("figures", "figures", Some(7)).schema;
        assert_eq!(schema["properties"]["ms"]["type"], json!(["number", "null"]));
        assert_eq!(schema["properties"]["ms"]["description"], "Milliseconds; null where it is not finite.");
        assert_eq!(schema["properties"]["count"]["type"], "integer");
        assert_eq!(schema["title"], "figures: JSON, schema version 7");
    }
}
