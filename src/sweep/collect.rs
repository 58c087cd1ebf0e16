//! The table of what a sweep found.

use super::execute::REPORT;
use super::inputs::bad;
use super::store::Store;
use super::{Row, SWEEP_SCHEMA_VERSION, Stage, Sweep};
use crate::error::Result;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// One combination and what was measured of it. Absent is what was not measured or failed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Record {
    /// The model's name in the sweep.
    pub model: String,
    /// SHA-256 of the model's files, see [`Content`](super::inputs::Content).
    pub model_sha256: String,
    /// The budget.
    pub budget: String,
    /// The criterion.
    pub criterion: String,
    /// The repair.
    pub recover: String,
    /// Epochs of training after the cut.
    pub epochs: u64,
    /// The seed.
    pub seed: u64,
    /// `done`, `failed`, or `missing` for what has not run.
    pub status: String,
    /// Why it failed.
    pub error: Option<String>,
    /// Multiply-accumulates of one sample, before.
    pub macs_before: Option<u64>,
    /// Multiply-accumulates of one sample, after.
    pub macs_after: Option<u64>,
    /// Parameters, before.
    pub params_before: Option<u64>,
    /// Parameters, after.
    pub params_after: Option<u64>,
    /// Bytes of the pruned file.
    pub bytes_after: Option<u64>,
    /// Why the budget was missed.
    pub missed: Option<String>,
    /// The primary metric.
    pub metric: Option<String>,
    /// Its value for the original.
    pub metric_before: Option<f64>,
    /// Its value for the pruned model.
    pub metric_after: Option<f64>,
    /// What was lost, in points.
    pub drop_points: Option<f64>,
    /// The lower end of its interval, in points.
    pub drop_low: Option<f64>,
    /// The upper end of its interval, in points.
    pub drop_high: Option<f64>,
    /// The share of samples with the same answer, of 1.
    pub agreement: Option<f64>,
    /// Median of one run of the original, in milliseconds.
    pub ms_before: Option<f64>,
    /// Median of one run of the pruned model, in milliseconds.
    pub ms_after: Option<f64>,
    /// The pruned model's time as a share of the original's, paired.
    pub time_ratio: Option<f64>,
    /// No other row of the model is at least as good in the drop and in the multiply-accumulates, and better in one.
    pub best_by_macs: bool,
    /// The same with the measured time.
    pub best_by_time: bool,
    /// SHA-256 of the model that came out.
    pub sha256_after: Option<String>,
    /// Where it lies, in the store.
    pub file: Option<String>,
    /// Keys of its tasks, by stage.
    pub tasks: BTreeMap<Stage, String>,
}

/// Every row in the order of the sweep.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Table {
    /// Version of this form.
    #[schemars(extend("const" = SWEEP_SCHEMA_VERSION))]
    pub schema_version: u32,
    /// Name and version of the program.
    pub tool: String,
    /// The rows.
    pub rows: Vec<Record>,
    /// What each task took.
    pub tasks: Vec<Spent>,
    /// Things the user should know.
    pub notes: Vec<String>,
}

/// What a task took. Differs from run to run, other than the rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Spent {
    /// Its key.
    pub key: String,
    /// What it was for.
    pub stage: Stage,
    /// The model.
    pub model: String,
    /// Seconds; absent where it has not run.
    pub seconds: Option<f64>,
    /// The most bytes in memory.
    pub peak_memory: Option<u64>,
    /// Where it ran.
    pub host: Option<String>,
}

/// Reads what is there.
///
/// # Errors
/// When a report cannot be read or lacks what it must have.
pub fn collect(store: &Store, sweep: &Sweep) -> Result<Table> {
    let mut rows: Vec<Record> = sweep.rows.iter().map(|r| record(store, r)).collect::<Result<_>>()?;
    super::pareto::mark(&mut rows);
    let spent = |t: &super::Task| {
        let done = store.finished(&t.key);
        Spent {
            key: t.key.clone(),
            stage: t.stage,
            model: t.model.clone(),
            seconds: done.as_ref().map(|d| d.seconds),
            peak_memory: done.as_ref().and_then(|d| d.peak_memory),
            host: done.map(|d| d.host),
        }
    };
    let tool = sweep.tasks.first().map_or_else(String::new, |t| t.tool.clone());
    let tasks = sweep.tasks.iter().map(spent).collect();
    Ok(Table { schema_version: SWEEP_SCHEMA_VERSION, tool, rows, tasks, notes: sweep.notes.clone() })
}

/// A JSON report, and where it is, for messages.
struct Report(std::path::PathBuf, Value);

impl Report {
    fn read(store: &Store, key: &str) -> Result<Self> {
        let path = store.result(key).join(REPORT);
        let bytes = std::fs::read(&path).map_err(|e| bad(&path, format!("cannot read: {e}")))?;
        let value =
            serde_json::from_slice(&bytes).map_err(|e| bad(&path, format!("expected a report in JSON: {e}")))?;
        Ok(Self(path, value))
    }

    fn get(&self, pointer: &str) -> &Value {
        self.1.pointer(pointer).unwrap_or(&Value::Null)
    }

    fn number(&self, pointer: &str) -> Option<f64> {
        self.get(pointer).as_f64()
    }

    fn text(&self, pointer: &str) -> Option<String> {
        self.get(pointer).as_str().map(str::to_owned)
    }

    fn count(&self, pointer: &str) -> Result<u64> {
        self.get(pointer).as_u64().ok_or_else(|| {
            bad(&self.0, format!("expected a whole number at {pointer}; run the sweep anew in another store"))
        })
    }
}

fn record(store: &Store, row: &Row) -> Result<Record> {
    let mut r = Record {
        model: row.model.clone(),
        model_sha256: row.model_sha256.clone(),
        budget: row.budget.clone(),
        criterion: row.criterion.clone(),
        recover: row.recover.clone(),
        epochs: row.epochs,
        seed: row.seed,
        status: "done".into(),
        tasks: row.tasks.clone(),
        ..Record::default()
    };
    for (stage, key) in &row.tasks {
        let Some(done) = store.finished(key) else {
            if let (Some(failure), None) = (store.failure(key), &r.error) {
                let at = failure.message.lines().rfind(|l| !l.trim().is_empty()).unwrap_or_default();
                r.error = Some(format!("{}: {at}", stage.name()));
            }
            if r.status == "done" {
                r.status = "missing".into();
            }
            continue;
        };
        let report = Report::read(store, key)?;
        match stage {
            Stage::Prune => {
                r.macs_before = Some(report.count("/original/macs")?);
                r.macs_after = Some(report.count("/pruned/macs")?);
                r.params_before = Some(report.count("/original/params")?);
                r.params_after = Some(report.count("/pruned/params")?);
                r.bytes_after = Some(report.count("/pruned/bytes")?);
                r.missed = report.text("/missed");
            }
            Stage::Diff => {
                if let Some(metric) = report.text("/primary") {
                    let of = |field: &str| report.number(&format!("/accuracy/{metric}/{field}"));
                    r.metric_before = of("original");
                    r.metric_after = of("pruned");
                    r.drop_points = of("drop");
                    r.drop_low = of("drop_interval/0");
                    r.drop_high = of("drop_interval/1");
                    r.metric = Some(metric);
                }
                r.agreement = report.number("/accuracy/agreement/pruned");
            }
            Stage::Bench => {
                r.ms_before = report.number("/rows/0/median_ms");
                r.ms_after = report.number("/rows/1/median_ms");
                r.time_ratio = report.number("/rows/1/comparison/ratio");
            }
            Stage::Plan | Stage::Train | Stage::Part => {}
        }
        let made = ["trained.onnx", "pruned.onnx"].into_iter().find_map(|name| Some((name, done.outputs.get(name)?)));
        // The last of the stages in order is what comes out.
        if let Some((name, produced)) = made {
            r.sha256_after = Some(produced.sha256.clone());
            r.file = Some(format!("results/{key}/{name}"));
            r.bytes_after = Some(produced.bytes);
        }
    }
    if r.error.is_some() {
        r.status = "failed".into();
    }
    Ok(r)
}

/// A value of a table.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// Absent.
    None,
    /// A text.
    Text(String),
    /// A whole number.
    Count(u64),
    /// A number.
    Number(f64),
    /// Yes or no.
    Flag(bool),
}

impl From<&Option<u64>> for Cell {
    fn from(v: &Option<u64>) -> Self {
        v.map_or(Cell::None, Cell::Count)
    }
}

impl From<&Option<f64>> for Cell {
    fn from(v: &Option<f64>) -> Self {
        v.map_or(Cell::None, Cell::Number)
    }
}

impl From<&Option<String>> for Cell {
    fn from(v: &Option<String>) -> Self {
        v.clone().map_or(Cell::None, Cell::Text)
    }
}

impl From<&String> for Cell {
    fn from(v: &String) -> Self {
        Cell::Text(v.clone())
    }
}

impl From<&u64> for Cell {
    fn from(v: &u64) -> Self {
        Cell::Count(*v)
    }
}

impl From<&bool> for Cell {
    fn from(v: &bool) -> Self {
        Cell::Flag(*v)
    }
}

macro_rules! columns {
    ($($field:ident),*) => {
        /// Names of the columns, as in the CSV file and the database.
        pub const COLUMNS: &[&str] = &[$(stringify!($field)),*];

        impl Record {
            /// A value for each of [`COLUMNS`].
            pub fn cells(&self) -> Vec<Cell> {
                vec![$(Cell::from(&self.$field)),*]
            }
        }
    };
}

columns!(
    model,
    budget,
    criterion,
    recover,
    epochs,
    seed,
    status,
    macs_before,
    macs_after,
    params_before,
    params_after,
    bytes_after,
    missed,
    metric,
    metric_before,
    metric_after,
    drop_points,
    drop_low,
    drop_high,
    agreement,
    ms_before,
    ms_after,
    time_ratio,
    best_by_macs,
    best_by_time,
    model_sha256,
    sha256_after,
    file,
    error
);
