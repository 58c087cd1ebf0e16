//! The verdict of a check, for the terminal, as Markdown and as JUnit XML.

use super::{bench_terminal, bench_text, diff_markdown, diff_terminal, text};
use crate::error::{Error, Result};
use crate::evaluate::bench::BenchReport;
use crate::evaluate::check::{CheckReport, Gate};
use crate::evaluate::diff::Diff;
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

/// All limits in a line.
pub(super) fn verdict(gates: &[Gate]) -> String {
    let broken = gates.iter().filter(|g| !g.passed).count();
    let doubtful = gates.iter().filter(|g| g.inconclusive).count();
    let mut out = match broken {
        0 => format!("passed: {} kept", text::plural(gates.len(), "limit")),
        n => format!("FAILED: {n} of {} broken", text::plural(gates.len(), "limit")),
    };
    if doubtful > 0 {
        out += &format!(", {doubtful} inconclusive");
    }
    out
}

fn word(g: &Gate) -> &'static str {
    match (g.passed, g.inconclusive) {
        (true, false) => "kept",
        (true, true) => "kept?",
        (false, true) => "broken?",
        (false, false) => "broken",
    }
}

/// The verdict, the limits, and what they rest on.
pub fn terminal(r: &CheckReport, width: u16) -> String {
    let (a, b) = (&r.models.original, &r.models.pruned);
    let mut out = format!("{} → {}: {}\n\n", a.path, b.path, verdict(&r.gates));
    out += &table(&r.gates, width);
    for note in &r.notes {
        out += &format!("\n{}", text::field("Note", note, width));
    }
    if let Some(d) = &r.accuracy {
        out += &format!("\n{}", diff_terminal::diff(d, width));
    }
    if let Some(l) = &r.latency {
        out += &format!("\n{}", bench_terminal::bench(l, width));
    }
    out
}

/// A row a limit.
pub(super) fn table(gates: &[Gate], width: u16) -> String {
    let rows = gates.iter().map(|g| {
        vec![g.name.clone(), format!("{}", g.limit), format!("{:.4}", g.value), word(g).to_owned(), g.words.clone()]
    });
    text::table(&["limit", "", "value", "", ""], rows.collect(), &[1, 2], width)
}

/// The same for a pull request.
pub fn markdown(r: &CheckReport) -> String {
    let mut out = format!("# onnx-prune check: {}\n\n{}", verdict(&r.gates), markdown_table(&r.gates));
    for note in &r.notes {
        out += &format!("\n**Note**: {}\n", diff_markdown::escape(note));
    }
    out + &markdown_parts(r.accuracy.as_ref(), r.latency.as_ref())
}

/// A row a limit; empty without limits.
pub(super) fn markdown_table(gates: &[Gate]) -> String {
    if gates.is_empty() {
        return String::new();
    }
    let mut out = "| limit | | value | | |\n|---|---:|---:|---|---|\n".to_owned();
    for g in gates {
        let mark = if g.passed { "✅" } else { "❌" };
        let words = g.words.replace('|', "\\|");
        out += &format!("| `{}` | {} | {:.4} | {mark} {} | {words} |\n", g.name, g.limit, g.value, word(g));
    }
    out
}

/// What limits rest on, one level below.
pub(super) fn markdown_parts(accuracy: Option<&Diff>, latency: Option<&BenchReport>) -> String {
    let below = |text: String| text.replace("\n# ", "\n## ");
    let mut out = String::new();
    if let Some(d) = accuracy {
        out += &below(format!("\n{}", diff_markdown::diff(d)));
    }
    if let Some(l) = latency {
        out += &format!("\n## Latency\n\n{}", bench_text::markdown(l));
    }
    out
}

/// One test case a limit.
///
/// # Errors
/// When it cannot be written.
pub fn junit(r: &CheckReport) -> Result<String> {
    cases("onnx-prune check", &format!("{} → {}", r.models.original.path, r.models.pruned.path), &r.gates)
}

/// One test case a limit, for a command.
pub(super) fn cases(command: &str, suite: &str, gates: &[Gate]) -> Result<String> {
    let mut suite = TestSuite::new(suite);
    for g in gates {
        let status = if g.passed {
            TestCaseStatus::success()
        } else {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
            status.set_message(g.words.as_str()).set_type(g.name.as_str());
            status
        };
        let mut case = TestCase::new(format!("{} {}", g.name, g.limit), status);
        case.set_classname(command.replace(' ', ".")).set_system_out(g.words.as_str());
        suite.add_test_case(case);
    }
    let mut report = Report::new(command);
    report.add_test_suite(suite);
    report.to_string().map_err(|e| Error::Internal(format!("the JUnit report cannot be written: {e}")))
}
