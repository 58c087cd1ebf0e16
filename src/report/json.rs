//! Any result as JSON: indented, keys in the structs' order, with a newline at the end.

use crate::error::{Error, Result};
use serde::Serialize;

/// The text.
///
/// # Errors
/// [`Error::Internal`] when a value has no JSON form.
pub fn to_string<T: Serialize>(value: &T) -> Result<String> {
    let text = serde_json::to_string_pretty(value);
    text.map(|t| t + "\n").map_err(|e| Error::Internal(format!("a result cannot be written as JSON: {e}")))
}
