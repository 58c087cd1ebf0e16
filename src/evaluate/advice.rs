//! What makes measured times doubtful, and what to do about it.

use super::machine::Machine;
use super::{bench, stats};

/// Fewer runs make wide intervals.
const FEW: usize = 30;
/// Outliers above this share are worth a word.
const OUTLIERS: f64 = 0.01;
/// The first and the last quarter of the runs should not differ by more.
const DRIFT: f64 = 0.05;
/// Other processes may take this share of the cores.
const BUSY: f64 = 0.25;

/// The times of one model.
pub struct Series {
    /// The model, batch and threads in words.
    pub name: String,
    /// Milliseconds, in order.
    pub ms: Vec<f64>,
    /// Threads, 0 for one a core.
    pub threads: usize,
}

/// One sentence for each doubt.
pub fn advise(machine: &Machine, all: &[Series]) -> Vec<String> {
    let mut advice = Vec::new();
    if let Some(few) = all.iter().map(|s| s.ms.len()).min().filter(|&n| n < FEW) {
        advice.push(format!("only {few} runs: intervals are wide; more come with --runs N or a longer --min-time S"));
    }
    let noisy = all.iter().filter(|s| stats::outliers(&s.ms) as f64 > OUTLIERS * s.ms.len() as f64);
    if let Some((list, n)) = names(noisy) {
        let of = if n == 1 { "has" } else { "have" };
        advice.push(format!(
            "{list} {of} runs far from the median: something else disturbed the machine; close other programs and measure again"
        ));
    }
    let drift = |s: &&Series| drift(&s.ms);
    if let Some((list, _)) = names(all.iter().filter(|s| drift(s) > DRIFT)) {
        advice.push(format!("{list}: the first runs were slower than the last; try a longer --warmup S"));
    }
    if let Some((list, _)) = names(all.iter().filter(|s| drift(s) < -DRIFT)) {
        advice.push(format!("{list}: runs became slower; the machine may be getting hot, or busy with something else"));
    }
    if let Some(governor) = machine.governor.as_deref().filter(|&g| g != "performance") {
        advice.push(format!(
            "the processor's clock changes with its load (governor {governor:?}); \"performance\" gives steadier times"
        ));
    }
    if let Some(load) = machine.load.filter(|load| *load > BUSY * machine.cores as f64) {
        advice.push(format!("the machine was busy before: load {load:.2} on {} cores", machine.cores));
    }
    if let Some(most) = all.iter().map(|s| s.threads).max().filter(|&n| n > machine.cores) {
        advice.push(format!("{} are more than the {} cores", bench::in_words(most), machine.cores));
    }
    advice
}

/// By how much the first quarter took longer than the last; 0 for a few runs.
fn drift(ms: &[f64]) -> f64 {
    let quarter = ms.len() / 4;
    if quarter < 5 {
        return 0.0;
    }
    let first = ms.get(..quarter).map_or(f64::NAN, stats::median);
    let last = ms.get(ms.len() - quarter..).map_or(f64::NAN, stats::median);
    if last > 0.0 { first / last - 1.0 } else { 0.0 }
}

/// The first of them, and how many there are in all.
fn names<'a>(series: impl Iterator<Item = &'a Series>) -> Option<(String, usize)> {
    let all: Vec<&str> = series.map(|s| s.name.as_str()).collect();
    let first = all.first()?;
    let more = all.len() - 1;
    Some((if more > 0 { format!("{first} and {more} more") } else { (*first).to_owned() }, all.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(ms: Vec<f64>) -> Series {
        Series { name: "a.onnx".into(), ms, threads: 1 }
    }

    /// Slightly uneven times.
    fn steady(n: usize) -> Vec<f64> {
        (0..n).map(|i| 1.0 + 0.01 * (i % 3) as f64).collect()
    }

    #[test]
    fn a_quiet_machine_needs_no_advice() {
        let machine = Machine { cores: 4, load: Some(0.1), governor: Some("performance".into()), ..Machine::default() };
        assert!(advise(&machine, &[series(steady(100))]).is_empty());
    }

    #[test]
    fn each_doubt_has_its_sentence() {
        let machine = Machine { cores: 2, load: Some(1.5), governor: Some("powersave".into()), ..Machine::default() };
        let mut outliers = steady(100);
        outliers.splice(50..53, [9.0; 3]);
        let falling = steady(100).iter().enumerate().map(|(i, x)| if i < 30 { x * 1.2 } else { *x }).collect();
        let rising = steady(100).iter().enumerate().map(|(i, x)| if i > 70 { x * 1.2 } else { *x }).collect();
        let mut all: Vec<Series> = [steady(9), outliers, falling, rising].map(series).into();
        all[0].threads = 3;
        let advice = advise(&machine, &all);
        let parts =
            ["only 9 runs", "far from the median", "--warmup", "became slower", "powersave", "load 1.50", "3 threads"];
        assert_eq!(advice.len(), parts.len(), "{advice:?}");
        for (sentence, part) in advice.iter().zip(parts) {
            assert!(sentence.contains(part), "{sentence}");
        }
    }
}
