//! Figures of a series of measurements. All take any order and any unit.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use rayon::prelude::*;

/// Resamples of a bootstrap: enough for two digits of a 95 % interval.
const RESAMPLES: u64 = 1000;
/// Beyond this many robust standard deviations (hyperfine's limit) a measurement is an outlier.
const OUTLIER: f64 = 14.826;

/// The value below which a share `q` (from 0 to 1) of the values lies, interpolated between neighbours; NaN without values.
pub fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = q.clamp(0.0, 1.0) * sorted.len().saturating_sub(1) as f64;
    let get = |i: f64| sorted.get(i as usize).copied().unwrap_or(f64::NAN);
    let (below, above) = (get(at.floor()), get(at.ceil()));
    below + (above - below) * at.fract()
}

/// The middle value, or the mean of the two in the middle; NaN without values.
pub fn median(values: &[f64]) -> f64 {
    median_of(&mut values.to_vec())
}

/// The same in linear time; leaves the values in disorder.
fn median_of(values: &mut [f64]) -> f64 {
    let half = values.len() / 2;
    if half >= values.len() {
        return f64::NAN;
    }
    let odd = values.len() % 2 == 1;
    let (below, middle, _) = values.select_nth_unstable_by(half, f64::total_cmp);
    let middle = *middle;
    if odd { middle } else { (below.iter().copied().fold(f64::NEG_INFINITY, f64::max) + middle) / 2.0 }
}

/// NaN without values.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The sample's standard deviation (divisor n − 1); 0 for fewer than two values.
pub fn standard_deviation(values: &[f64]) -> f64 {
    if values.len() < 2 {
        return 0.0;
    }
    let mean = mean(values);
    let squares: f64 = values.iter().map(|x| (x - mean).powi(2)).sum();
    (squares / (values.len() - 1) as f64).sqrt()
}

/// How many values are farther from the median than 14.8 robust standard deviations (1.4826 × the median absolute deviation).
pub fn outliers(values: &[f64]) -> usize {
    let middle = median(values);
    let distances: Vec<f64> = values.iter().map(|x| (x - middle).abs()).collect();
    let spread = 1.4826 * median(&distances);
    distances.iter().filter(|&&d| spread > 0.0 && d > OUTLIER * spread).count()
}

/// The ratio of two medians and what it could as well be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// The ratio that was measured.
    pub ratio: f64,
    /// Lower end of the 95 % interval.
    pub low: f64,
    /// Upper end of the 95 % interval.
    pub high: f64,
}

/// `median(values) / median(reference)` with a 95 % percentile-bootstrap interval. Both were measured in the same rounds, and
/// rounds are drawn in pairs: what disturbs a round disturbs both. They are drawn in blocks of neighbours (about the cube root
/// of their number), since a disturbance lasts longer than a round. `None` without rounds, or when a median is not positive.
pub fn ratio(values: &[f64], reference: &[f64], seed: u64) -> Option<Interval> {
    let rounds: Vec<(f64, f64)> = values.iter().copied().zip(reference.iter().copied()).collect();
    let n = rounds.len();
    let ratio = median(values) / median(reference);
    if n == 0 || values.len() != reference.len() || !ratio.is_finite() || ratio <= 0.0 {
        return None;
    }
    let block = (n as f64).cbrt().round().max(1.0) as usize;
    let resample = |k: u64| {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        // A stream for each resample: the result does not depend on the threads.
        rng.set_stream(k);
        let (mut a, mut b) = (Vec::with_capacity(n + block), Vec::with_capacity(n + block));
        while a.len() < n {
            let from = ((u128::from(rng.next_u64()) * n as u128) >> 64) as usize;
            for &(x, y) in rounds.iter().cycle().skip(from).take(block) {
                a.push(x);
                b.push(y);
            }
        }
        a.truncate(n);
        b.truncate(n);
        median_of(&mut a) / median_of(&mut b)
    };
    let ratios: Vec<f64> = (0..RESAMPLES).into_par_iter().map(resample).collect();
    Some(Interval { ratio, low: quantile(&ratios, 0.025), high: quantile(&ratios, 0.975) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Uniform in [0, 1).
    fn noise(n: usize, seed: u64) -> Vec<f64> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..n).map(|_| (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64).collect()
    }

    #[test]
    fn figures_of_known_values() {
        let values = [4.0, 1.0, 3.0, 2.0];
        // As numpy's percentile, mean and std(ddof=1).
        assert_eq!([0.0, 0.5, 0.9, 1.0].map(|q| quantile(&values, q)), [1.0, 2.5, 3.7, 4.0]);
        assert_eq!((median(&values), median(&[5.0, 1.0, 2.0]), mean(&values)), (2.5, 2.0, 2.5));
        assert!((standard_deviation(&values) - 1.2909944487358056).abs() < 1e-15);
        assert_eq!((standard_deviation(&[3.0]), median(&[7.0]), quantile(&[7.0], 0.99)), (0.0, 7.0, 7.0));
        assert!(median(&[]).is_nan() && quantile(&[], 0.5).is_nan() && mean(&[]).is_nan());
    }

    #[test]
    fn quick_medians_are_medians() {
        for n in 1..60 {
            let values = noise(n, n as u64);
            assert_eq!(median(&values), quantile(&values, 0.5), "{n}");
        }
    }

    #[test]
    fn outliers_stand_out() {
        let mut values = noise(100, 1);
        assert_eq!(outliers(&values), 0);
        values.extend([50.0, -50.0]);
        assert_eq!(outliers(&values), 2);
        assert_eq!(outliers(&[1.0, 1.0, 1.0, 9.0]), 0);
    }

    #[test]
    fn intervals_cover_the_ratio_and_are_seeded() {
        let reference: Vec<f64> = noise(200, 1).iter().map(|x| 1.0 + 0.1 * x).collect();
        let faster: Vec<f64> = noise(200, 2).iter().map(|x| 0.8 + 0.08 * x).collect();
        let found = ratio(&faster, &reference, 7).unwrap();
        assert!((found.ratio - 0.8).abs() < 0.02 && found.low < found.ratio && found.ratio < found.high);
        assert!(found.low > 0.77 && found.high < 0.83, "{found:?}");
        assert_eq!(ratio(&faster, &reference, 7), Some(found));
        assert_ne!(ratio(&faster, &reference, 8), Some(found));
    }

    #[test]
    fn shared_disturbances_cancel_in_pairs() {
        let reference: Vec<f64> = noise(100, 1).iter().map(|x| 1.0 + 5.0 * x).collect();
        let half: Vec<f64> = reference.iter().map(|x| x / 2.0).collect();
        let found = ratio(&half, &reference, 0).unwrap();
        assert_eq!((found.ratio, found.low, found.high), (0.5, 0.5, 0.5));
    }

    #[test]
    fn intervals_cover_one_about_as_often_as_they_say() {
        let covers = (0..200).filter(|&k| {
            let of = |seed| noise(60, seed).iter().map(|x| 1.0 + x).collect::<Vec<_>>();
            let found = ratio(&of(1000 + k), &of(5000 + k), k).unwrap();
            found.low <= 1.0 && 1.0 <= found.high
        });
        let covers = covers.count();
        assert!((176..=200).contains(&covers), "{covers} of 200");
    }

    #[test]
    fn nothing_to_compare() {
        assert_eq!(ratio(&[], &[], 0), None);
        assert_eq!(ratio(&[1.0], &[0.0], 0), None);
        assert_eq!(ratio(&[1.0], &[1.0, 2.0], 0), None);
    }
}
