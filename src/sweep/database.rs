//! The table as an SQLite database.

use super::collect::{COLUMNS, Cell, Table};
use crate::error::{Error, Result};
use rusqlite::types::Value;
use rusqlite::{Connection, params, params_from_iter};
use std::path::Path;

/// Writes a new database: the table `results` with the columns of the CSV file, `tasks` with what each task took, and
/// `result_tasks`, which says by `results.id` what tasks are behind a row.
///
/// # Errors
/// When it cannot be written.
pub fn write(table: &Table, path: &Path) -> Result<()> {
    let fail =
        |e: rusqlite::Error| Error::Data { path: path.to_owned(), message: format!("cannot write the database: {e}") };
    let mut db = Connection::open(path).map_err(fail)?;
    let transaction = db.transaction().map_err(fail)?;
    let fill = || -> rusqlite::Result<()> {
        let columns: Vec<String> = COLUMNS.iter().map(|name| format!("\"{name}\"")).collect();
        transaction.execute_batch(&format!(
            "create table results (id integer primary key, {});
             create table tasks (key text primary key, stage text, model text, seconds real, peak_memory integer, host text);
             create table result_tasks (result integer references results(id), stage text, task text references tasks(key));",
            columns.join(", ")
        ))?;
        let mut spent = transaction.prepare("insert into tasks values (?, ?, ?, ?, ?, ?)")?;
        for t in &table.tasks {
            let memory = t.peak_memory.and_then(|m| i64::try_from(m).ok());
            spent.execute(params![t.key, t.stage.name(), t.model, t.seconds, memory, t.host])?;
        }
        let marks = vec!["?"; COLUMNS.len()].join(", ");
        let mut insert = transaction.prepare(&format!("insert into results values (null, {marks})"))?;
        let mut link = transaction.prepare("insert into result_tasks values (?, ?, ?)")?;
        for row in &table.rows {
            let id = insert.insert(params_from_iter(row.cells().into_iter().map(value)))?;
            for (stage, key) in &row.tasks {
                link.execute(params![id, stage.name(), key])?;
            }
        }
        Ok(())
    };
    fill().map_err(fail)?;
    transaction.commit().map_err(fail)
}

fn value(cell: Cell) -> Value {
    match cell {
        Cell::None => Value::Null,
        Cell::Text(text) => Value::Text(text),
        // Beyond 2^63 a count is as good as a real number.
        Cell::Count(n) => i64::try_from(n).map_or(Value::Real(n as f64), Value::Integer),
        Cell::Number(x) => Value::Real(x),
        Cell::Flag(f) => Value::Integer(f.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sweep::Stage;
    use crate::sweep::collect::{Record, Spent};

    #[test]
    fn a_database_has_every_row_and_task() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.sqlite");
        let mut row = Record { model: "m".into(), macs_after: Some(7), drop_points: Some(0.1), ..Record::default() };
        row.tasks.insert(Stage::Plan, "k".into());
        let spent = Spent {
            key: "k".into(),
            stage: Stage::Plan,
            model: "m".into(),
            seconds: Some(1.5),
            peak_memory: None,
            host: None,
        };
        let table = Table { schema_version: 1, tool: "t".into(), rows: vec![row], tasks: vec![spent], notes: vec![] };
        write(&table, &path).unwrap();
        let db = Connection::open(&path).unwrap();
        let query = "select r.macs_after, r.drop_points, t.seconds from results r
                     join result_tasks l on l.result = r.id join tasks t on t.key = l.task";
        let got: (i64, f64, f64) = db.query_row(query, [], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?))).unwrap();
        assert_eq!(got, (7, 0.1, 1.5));
        assert!(write(&table, &path).is_err());
    }
}
