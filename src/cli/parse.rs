//! Values of flags that clap has no parser for.

use onnx_prune::prune::{DEFAULT_CRITERION, FALLBACK_CRITERION};
use onnx_prune::score::CRITERIA;
use regex::Regex;

/// A regular expression, its error on one line.
pub fn regex(text: &str) -> Result<Regex, String> {
    Regex::new(text).map_err(|e| {
        let text = e.to_string();
        let last = text.lines().last().unwrap_or_default();
        format!("not a regular expression: {}", last.trim_start_matches("error: "))
    })
}

/// A count.
pub fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&n| n > 0).ok_or_else(|| "expected a whole number of at least 1".into())
}

/// A factor.
pub fn positive(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|x: &f64| *x > 0.0 && x.is_finite()).ok_or_else(|| "expected a number above 0".into())
}

/// `REGEX=R`; the last `=` separates.
pub fn layer_ratio(text: &str) -> Result<(Regex, f64), String> {
    let (pattern, ratio) = text.rsplit_once('=').ok_or("expected REGEX=R, for example 'layer4=0.5'")?;
    let ratio = ratio.trim().parse().ok().filter(|r| (0.0..1.0).contains(r));
    let ratio = ratio.ok_or("R is the share of the channels to remove, at least 0 and below 1")?;
    Ok((regex(pattern)?, ratio))
}

/// Short help of `--criterion`.
pub const CRITERION: &str = "How channels are ranked, as in l2 or bn-scale=0.7,l1=0.3 (--help lists the criteria)";

/// Names and one-line descriptions of all criteria.
pub fn criteria_help() -> String {
    let mut text = format!(
        "How channels are ranked: one criterion, or several with weights as in bn-scale=0.7,l1=0.3 \
         [default: {DEFAULT_CRITERION} where there is a BatchNormalization, else {FALLBACK_CRITERION}]\n"
    );
    for c in CRITERIA {
        text += &format!("\n  {:<14} {}", c.name(), c.about());
    }
    text
}

/// A number that may be 0.
pub fn not_negative(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|x: &f64| *x >= 0.0 && x.is_finite()).ok_or_else(|| "expected a number, at least 0".into())
}

/// A share that is not the whole.
pub fn below_one(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|x: &f64| (0.0..1.0).contains(x));
    number.ok_or_else(|| "expected a number of at least 0 and below 1".into())
}
