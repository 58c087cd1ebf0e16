//! The table of `onnx-prune runtimes`.

use super::text;
use crate::runtime::{ProviderInfo, RuntimeInfo};

/// One row a runtime, and below the table the library with what it can run on, or why it
/// cannot be used.
pub fn runtimes(all: &[RuntimeInfo], width: u16) -> String {
    let row = |r: &RuntimeInfo| {
        let place = r.place.clone().unwrap_or_else(|| "cannot be used".to_owned());
        vec![r.name.to_owned(), r.version.clone().unwrap_or_else(|| "–".to_owned()), place]
    };
    let mut out = text::table(&["runtime", "version", "where"], all.iter().map(row).collect(), &[], width);
    for r in all {
        let library = r.library.as_ref().map(|library| library.display().to_string());
        if let Some(words) = r.problem.clone().or(library) {
            out.push('\n');
            out += &text::field(r.name, &words, width);
        }
        if !r.providers.is_empty() {
            let row = |p: &ProviderInfo| {
                let state =
                    if p.available { "yes".to_owned() } else { format!("no: {}", p.install.unwrap_or_default()) };
                vec![p.device.to_owned(), p.provider.to_owned(), state]
            };
            out.push('\n');
            let rows = r.providers.iter().map(row).collect();
            out += &text::table(&["--device", "execution provider", "in this library"], rows, &[], width);
        }
    }
    out
}
