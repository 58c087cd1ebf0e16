//! Limits on how models compare.

use super::bench::{BenchReport, Comparison, SAME, in_words};
use schemars::JsonSchema;
use serde::Serialize;

/// A limit that every model after the first has to keep.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    /// The largest ratio of the median to the first model's.
    MaxRatio(f64),
    /// The least by which the first model's median is larger: the ratio turned over.
    MinSpeedup(f64),
}

/// What came of a limit for one model, batch and number of threads.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct GateOutcome {
    /// Index in [`BenchReport::models`].
    pub model: usize,
    /// Whether the limit is kept: by the median alone.
    pub kept: bool,
    /// The 95 % interval has values on both sides of the limit.
    pub inconclusive: bool,
    /// The model, figures and limit in words.
    pub text: String,
}

impl Limit {
    /// Whether it is kept, whether that is not certain, and the figures.
    fn hold(self, c: &Comparison) -> (bool, bool, String) {
        match self {
            Self::MaxRatio(most) => {
                let straddled = c.low <= most && most < c.high;
                let text = format!("ratio {:.3} [{:.3}, {:.3}], --max-ratio {most}", c.ratio, c.low, c.high);
                (c.ratio <= most, straddled, text)
            }
            Self::MinSpeedup(least) => {
                let (x, low, high) = (1.0 / c.ratio, 1.0 / c.high, 1.0 / c.low);
                let straddled = low < least && least <= high;
                (x >= least, straddled, format!("speed-up {x:.3} [{low:.3}, {high:.3}], --min-speedup {least}"))
            }
        }
    }
}

/// Holds every comparison against every limit.
pub fn check(report: &BenchReport, limits: &[Limit]) -> Vec<GateOutcome> {
    let compared = report.rows.iter().filter_map(|row| Some((row, row.comparison.as_ref()?)));
    let outcome = |(row, c): (&super::bench::BenchRow, &Comparison), limit: &Limit| {
        let (kept, inconclusive, figures) = limit.hold(c);
        let word = match (kept, inconclusive) {
            (true, false) => "kept",
            (true, true) => "kept, but inconclusive",
            (false, true) => "missed, but inconclusive",
            (false, false) => "missed",
        };
        let name = report.models.get(row.model).map_or("", |m| &m.path);
        let text = format!("{name}, batch {}, {}: {figures}: {word}", row.batch, in_words(row.threads));
        GateOutcome { model: row.model, kept, inconclusive, text }
    };
    compared.flat_map(|pair| limits.iter().map(move |limit| outcome(pair, limit))).collect()
}

/// A sentence for each model that is slower than the first one, by the whole interval.
pub fn slower(report: &BenchReport) -> Vec<String> {
    let compared = report.rows.iter().filter_map(|row| Some((row, row.comparison.as_ref()?)));
    let slower = compared.filter(|(_, c)| c.low > 1.0).map(|(row, c)| {
        let name = |i: usize| report.models.get(i).map_or("", |m| m.path.as_str());
        let little =
            if c.ratio > 1.0 + SAME { "" } else { ", though by no more than two loads of one file may differ" };
        format!(
            "{} is SLOWER than {} here: {:.3} of its time, 95 % within {:.3} to {:.3}{little} (batch {}, {}, {} on {})",
            name(row.model),
            name(0),
            c.ratio,
            c.low,
            c.high,
            row.batch,
            in_words(row.threads),
            report.runtime,
            report.device
        )
    });
    slower.collect()
}

#[cfg(test)]
mod tests {
    use super::super::bench::{BenchRow, Verdict};
    use super::*;

    #[test]
    fn the_median_decides_and_the_interval_doubts() {
        let c = Comparison { ratio: 0.8, low: 0.75, high: 0.9, verdict: Verdict::Faster };
        let of = |limit: Limit| {
            let (kept, inconclusive, _) = limit.hold(&c);
            (kept, inconclusive)
        };
        assert_eq!(of(Limit::MaxRatio(0.95)), (true, false));
        assert_eq!(of(Limit::MaxRatio(0.85)), (true, true));
        assert_eq!(of(Limit::MaxRatio(0.78)), (false, true));
        assert_eq!(of(Limit::MaxRatio(0.7)), (false, false));
        assert_eq!(of(Limit::MinSpeedup(1.1)), (true, false));
        assert_eq!(of(Limit::MinSpeedup(1.2)), (true, true));
        assert_eq!(of(Limit::MinSpeedup(1.3)), (false, true));
        assert_eq!(of(Limit::MinSpeedup(1.4)), (false, false));
        assert!(Limit::MinSpeedup(1.4).hold(&c).2.contains("1.250 [1.111, 1.333]"));
    }

    #[test]
    fn only_a_whole_interval_above_one_is_slower() {
        let report = |ratio: f64, low: f64, high: f64| {
            let comparison = Some(Comparison { ratio, low, high, verdict: Verdict::NoDifference });
            let model = |path: &str| super::super::bench::BenchModel { path: path.into(), bytes: 1 };
            BenchReport {
                models: vec![model("a.onnx"), model("b.onnx")],
                rows: vec![
                    BenchRow { model: 0, ..BenchRow::default() },
                    BenchRow { model: 1, comparison, ..BenchRow::default() },
                ],
                ..BenchReport::default()
            }
        };
        assert!(slower(&report(0.9, 0.8, 0.99)).is_empty() && slower(&report(1.2, 1.0, 1.4)).is_empty());
        let words = slower(&report(1.2, 1.01, 1.4));
        assert!(words.len() == 1 && words[0].starts_with("b.onnx is SLOWER than a.onnx here: 1.200"), "{words:?}");
        assert!(!words[0].contains("though"), "{words:?}");
        assert!(slower(&report(1.01, 1.001, 1.03))[0].contains("though"));
    }
}
