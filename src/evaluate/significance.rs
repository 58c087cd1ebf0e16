//! Whether a difference between two models on the same samples is more than chance.
//!
//! * One share: Wilson's score interval ([`wilson`]; E. B. Wilson, J. Am. Stat. Assoc. 22, 1927, 209–212).
//! * The difference of two shares that were counted on the same samples: Newcombe's method 10 ([`Pairs::interval`];
//!   R. G. Newcombe, Statistics in Medicine 17, 1998, 2635–2650), which joins the two Wilson intervals by the correlation of the
//!   pairs, stays within −1 to 1, and has a width even when no sample changed.
//! * Whether they differ at all: McNemar's test ([`Pairs::mcnemar`]; Q. McNemar, Psychometrika 12, 1947, 153–157), exact for
//!   few pairs that differ, else with A. L. Edwards's correction for continuity.
//! * A mean over samples: the normal interval ([`normal`]).

use schemars::JsonSchema;
use serde::Serialize;

/// What an interval covers in so many of all cases.
pub const CONFIDENCE: f64 = 0.95;
/// The standard normal quantile of ([`CONFIDENCE`] + 1) / 2.
const Z: f64 = 1.959_963_984_540_054;
/// Pairs that differ, from which on the χ² approximation is used in place of the binomial distribution.
const MANY: u64 = 25;

/// The lower and the upper end.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Interval(pub f64, pub f64);

impl Interval {
    /// Whether a value lies strictly between the ends.
    pub fn has(&self, x: f64) -> bool {
        self.0 < x && x < self.1
    }

    /// Both ends moved.
    pub fn shifted(self, by: f64) -> Interval {
        Interval(self.0 + by, self.1 + by)
    }

    /// Both ends multiplied; a negative factor swaps them.
    pub fn scaled(self, by: f64) -> Interval {
        let (a, b) = (self.0 * by, self.1 * by);
        Interval(a.min(b), a.max(b))
    }
}

/// Wilson's score interval for a share of `k` in `n`; 0 to 1 for nothing.
pub fn wilson(k: u64, n: u64) -> Interval {
    if n == 0 {
        return Interval(0.0, 1.0);
    }
    let (n, p) = (n as f64, k as f64 / n as f64);
    let scale = 1.0 + Z * Z / n;
    let centre = (p + Z * Z / (2.0 * n)) / scale;
    let half = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt() / scale;
    // At the edges the formula's end is exact but for rounding.
    let low = if k == 0 { 0.0 } else { centre - half };
    let high = if p == 1.0 { 1.0 } else { centre + half };
    Interval(low, high)
}

/// Mean ± 1.96 standard errors; `None` for fewer than two values, and for values that are not finite.
pub fn normal(values: &[f64]) -> Option<Interval> {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|x| (x - mean) * (x - mean)).sum();
    let half = Z * (squares / (n - 1.0) / n).sqrt();
    (values.len() > 1 && half.is_finite()).then_some(Interval(mean - half, mean + half))
}

/// Samples by whether the original and the pruned model are right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Pairs {
    /// Both are right.
    pub both: u64,
    /// Only the original is right: broken.
    pub broken: u64,
    /// Only the pruned model is right: fixed.
    pub fixed: u64,
    /// Neither is right.
    pub neither: u64,
}

/// The result of McNemar's test.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct McNemar {
    /// How the p-value was computed.
    pub method: Method,
    /// χ² with one degree of freedom, corrected for continuity; not there for the exact test.
    pub statistic: Option<f64>,
    /// Probability of at least so uneven a split of the changed samples if both models are equally good (two-sided).
    pub p_value: f64,
}

/// How McNemar's p-value is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// From the binomial distribution.
    ExactBinomial,
    /// From χ² with the correction for continuity.
    ChiSquare,
}

impl Pairs {
    /// From two lists that hold 1 for a sample that is right.
    pub fn count(original: &[f64], pruned: &[f64]) -> Pairs {
        let mut pairs = Pairs::default();
        for (&a, &b) in original.iter().zip(pruned) {
            *match (a > 0.5, b > 0.5) {
                (true, true) => &mut pairs.both,
                (true, false) => &mut pairs.broken,
                (false, true) => &mut pairs.fixed,
                (false, false) => &mut pairs.neither,
            } += 1;
        }
        pairs
    }

    /// All samples.
    pub fn samples(&self) -> u64 {
        self.both + self.broken + self.fixed + self.neither
    }

    /// Share that the pruned model has right, less the share that the original has right.
    pub fn difference(&self) -> f64 {
        (self.fixed as f64 - self.broken as f64) / self.samples() as f64
    }

    /// Newcombe's method 10 for [`difference`](Self::difference): with the Wilson intervals (l, u) of the two shares p,
    /// δ² = (p₂−l₂)² − 2φ(p₂−l₂)(u₁−p₁) + (u₁−p₁)² below and ε² = (u₂−p₂)² − 2φ(u₂−p₂)(p₁−l₁) + (p₁−l₁)² above, where φ is the
    /// correlation of the pairs with its numerator, where positive, lessened by n/2, at most to 0.
    pub fn interval(&self) -> Interval {
        let n = self.samples();
        if n == 0 {
            return Interval(-1.0, 1.0);
        }
        let (first, second) = (self.both + self.broken, self.both + self.fixed);
        let (one, two) = (wilson(first, n), wilson(second, n));
        let (p1, p2) = (first as f64 / n as f64, second as f64 / n as f64);
        let [a, b, c, d] = [self.both, self.broken, self.fixed, self.neither].map(|x| x as f64);
        let product = (a + b) * (c + d) * (a + c) * (b + d);
        let cross = a * d - b * c;
        let cross = if cross > 0.0 { (cross - n as f64 / 2.0).max(0.0) } else { cross };
        let phi = if product > 0.0 { cross / product.sqrt() } else { 0.0 };
        let root = |x: f64, y: f64| (x * x - 2.0 * phi * x * y + y * y).max(0.0).sqrt();
        let difference = self.difference();
        Interval(difference - root(p2 - two.0, one.1 - p1), difference + root(two.1 - p2, p1 - one.0))
    }

    /// McNemar's test: the binomial distribution where fewer than 25 samples changed, else
    /// χ² = (|broken − fixed| − 1)² / (broken + fixed).
    pub fn mcnemar(&self) -> McNemar {
        let changed = self.broken + self.fixed;
        let less = self.broken.min(self.fixed);
        if changed < MANY {
            // Binomials of at most 24 are exact.
            let mut term = 1.0;
            let mut tail = 0.0;
            for k in 0..=less {
                tail += term;
                term = term * (changed - k) as f64 / (k + 1) as f64;
            }
            let p_value = (2.0 * tail / 2.0_f64.powi(changed as i32)).min(1.0);
            return McNemar { method: Method::ExactBinomial, statistic: None, p_value };
        }
        let distance = (self.broken.abs_diff(self.fixed) as f64 - 1.0).max(0.0);
        let statistic = distance * distance / changed as f64;
        // The upper tail of χ² with one degree of freedom.
        let p_value = libm::erfc((statistic / 2.0).sqrt());
        McNemar { method: Method::ChiSquare, statistic: Some(statistic), p_value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: f64, b: f64, within: f64) {
        assert!((a - b).abs() <= within, "{a} is not {b}");
    }

    fn is(i: Interval, low: f64, high: f64, within: f64) {
        near(i.0, low, within);
        near(i.1, high, within);
    }

    fn pairs(both: u64, broken: u64, fixed: u64, neither: u64) -> Pairs {
        Pairs { both, broken, fixed, neither }
    }

    /// Newcombe, Statistics in Medicine 17, 1998, 857–872, table I, method 3.
    #[test]
    fn wilson_as_published() {
        is(wilson(81, 263), 0.2553, 0.3662, 5e-5);
        is(wilson(15, 148), 0.0624, 0.1605, 5e-5);
        is(wilson(0, 20), 0.0, 0.1611, 5e-5);
        is(wilson(1, 29), 0.0061, 0.1718, 5e-5);
        assert_eq!(wilson(5, 5).1, 1.0);
        assert_eq!(wilson(0, 0), Interval(0.0, 1.0));
    }

    /// Newcombe's own table; Altman et al., Statistics with Confidence, 2000, table 6.2; Fagerland et al., Statistics in Medicine
    /// 33, 2014, 2850–2875, on data of Bentur et al. All give original − pruned where this is pruned − original.
    #[test]
    fn paired_differences_as_published() {
        is(pairs(36, 12, 2, 0).interval(), -0.3404, -0.0569, 5e-5);
        is(pairs(14, 5, 0, 22).interval(), -0.226, -0.011, 5e-4);
        is(pairs(1, 1, 7, 12).interval(), 0.026, 0.507, 5e-4);
        near(pairs(1, 1, 7, 12).difference(), 6.0 / 21.0, 1e-12);
    }

    #[test]
    fn edges_have_a_width_and_stay_inside() {
        for p in [pairs(500, 0, 0, 0), pairs(450, 0, 0, 50), pairs(0, 0, 0, 9), pairs(0, 9, 0, 0), pairs(1, 0, 0, 0)] {
            let i = p.interval();
            assert!(
                i.0 < i.1 && i.0 >= -1.0 && i.1 <= 1.0 && i.0 <= p.difference() && p.difference() <= i.1,
                "{p:?} {i:?}"
            );
        }
        assert_eq!(Pairs::default().interval(), Interval(-1.0, 1.0));
        let (there, back) = (pairs(50, 9, 4, 7).interval(), pairs(50, 4, 9, 7).interval());
        is(there, -back.1, -back.0, 1e-12);
    }

    /// The examples of Wikipedia's article on the test (exact 0.053, corrected χ² 3.68) and of McNemar's tables there (121, 59).
    #[test]
    fn mcnemar_as_published() {
        let few = pairs(59, 6, 16, 80).mcnemar();
        assert_eq!((few.method, few.statistic), (Method::ExactBinomial, None));
        near(few.p_value, 0.0525, 5e-5);
        let many = pairs(101, 121, 59, 33).mcnemar();
        assert_eq!(many.method, Method::ChiSquare);
        near(many.statistic.unwrap(), 20.67, 5e-3);
        near(many.p_value, 5.45e-6, 5e-9);
        // Agresti, Categorical Data Analysis, 2002, table 10.1 (approval of a prime minister), with the correction.
        near(pairs(794, 150, 86, 570).mcnemar().statistic.unwrap(), 16.82, 5e-3);
        assert_eq!(pairs(9, 0, 0, 1).mcnemar().p_value, 1.0);
        assert_eq!(pairs(9, 5, 5, 1).mcnemar().p_value, 1.0);
        near(pairs(9, 5, 0, 1).mcnemar().p_value, 0.0625, 1e-15);
        // Where one method hands over to the other they agree.
        let (exact, approximate) = (pairs(0, 17, 7, 0).mcnemar(), pairs(0, 17, 8, 0).mcnemar());
        assert!(exact.method != approximate.method && exact.p_value < approximate.p_value);
    }

    #[test]
    fn means() {
        is(normal(&[1.0, 2.0, 3.0]).unwrap(), 2.0 - Z / 3.0_f64.sqrt(), 2.0 + Z / 3.0_f64.sqrt(), 1e-12);
        assert_eq!(normal(&[1.0]), None);
        assert_eq!(normal(&[1.0, f64::NAN]), None);
        assert_eq!(Interval(-0.5, 1.0).scaled(-2.0), Interval(-2.0, 1.0));
    }
}
