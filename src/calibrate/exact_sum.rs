//! Sums of `f64` without rounding: the order of the terms, and how they are divided into parts, does not matter.
//!
//! Every finite `f64` is a whole multiple of 2⁻¹⁰⁷⁴. The sum is kept as such a multiple in digits of 32 bits (a superaccumulator, after
//! U. Kulisch), each in 64 bits, so that carries can wait. Only [`value`](ExactSum::value) rounds, once.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Bits of a digit.
const BITS: u32 = 32;
/// The exponent of the last bit of the smallest number.
const LEAST: i32 = -1074;
/// Additions before carries have to be settled: each adds less than 2³² to a digit of 63 bits and a sign.
const PATIENCE: u32 = 1 << 30;

/// See the [module](self).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ExactSum {
    /// Digits other than 0 by their position, the lowest at 0. All are from 0 up to 2³² − 1, but for −1 as the highest one of a sum
    /// below 0.
    digits: BTreeMap<u8, i64>,
    /// Terms that are positive infinity, negative infinity, and no number.
    odd: [u64; 3],
    /// Additions since carries were settled.
    #[serde(skip)]
    waiting: u32,
}

impl ExactSum {
    /// Adds a term.
    pub fn add(&mut self, x: f64) {
        if !x.is_finite() {
            let [plus, minus, nan] = &mut self.odd;
            *(if x.is_nan() {
                nan
            } else if x > 0.0 {
                plus
            } else {
                minus
            }) += 1;
            return;
        }
        let bits = x.to_bits();
        let exponent = ((bits >> 52) & 0x7ff) as u32;
        let fraction = bits & ((1 << 52) - 1);
        // Numbers that are subnormal have no hidden bit, and the exponent of the smallest that are not.
        let mantissa = if exponent == 0 { fraction } else { fraction | (1 << 52) };
        let place = exponent.max(1) - 1;
        let mut rest = u128::from(mantissa) << (place % BITS);
        let mut at = (place / BITS) as u8;
        let sign = if x.is_sign_negative() { -1 } else { 1 };
        while rest != 0 {
            let digit = (rest & u128::from(u32::MAX)) as i64;
            if digit != 0 {
                *self.digits.entry(at).or_insert(0) += sign * digit;
            }
            rest >>= BITS;
            at = at.saturating_add(1);
        }
        self.waiting += 1;
        if self.waiting >= PATIENCE {
            self.settle();
        }
    }

    /// Adds another sum; both are settled after.
    pub fn join(&mut self, mut other: ExactSum) {
        self.settle();
        other.settle();
        for (at, digit) in other.digits {
            // Both are of 32 bits now.
            *self.digits.entry(at).or_insert(0) += digit;
        }
        self.odd.iter_mut().zip(other.odd).for_each(|(a, b)| *a = a.saturating_add(b));
        self.settle();
    }

    /// Carries, after which equal sums have equal digits.
    pub fn settle(&mut self) {
        let mut carry = 0;
        let mut at = 0u8;
        let highest = self.digits.keys().next_back().copied().unwrap_or(0);
        let mut settled = BTreeMap::new();
        // A carry of −1 goes on for ever, and is the sign.
        while at <= highest || !matches!(carry, -1 | 0) {
            let sum = self.digits.get(&at).copied().unwrap_or(0).saturating_add(carry);
            carry = sum >> BITS;
            let digit = sum & i64::from(u32::MAX);
            if digit != 0 {
                settled.insert(at, digit);
            }
            let Some(next) = at.checked_add(1) else { break };
            at = next;
        }
        if carry == -1 {
            // The shortest form: −1 in place of a digit of ones below it.
            while at > 0 && settled.get(&(at - 1)) == Some(&i64::from(u32::MAX)) {
                at -= 1;
                settled.remove(&at);
            }
            settled.insert(at, -1);
        }
        self.digits = settled;
        self.waiting = 0;
    }

    /// The sum as the nearest `f64` or one of its neighbours, the same for equal sums.
    pub fn value(&self) -> f64 {
        let [plus, minus, nan] = self.odd;
        match (plus > 0, minus > 0) {
            (true, true) => return f64::NAN,
            _ if nan > 0 => return f64::NAN,
            (true, false) => return f64::INFINITY,
            (false, true) => return f64::NEG_INFINITY,
            (false, false) => {}
        }
        let mut settled = self.clone();
        settled.settle();
        let negative = settled.digits.values().next_back().is_some_and(|&d| d < 0);
        if negative {
            settled.digits.values_mut().for_each(|d| *d = -*d);
            settled.settle();
        }
        let Some(&top) = settled.digits.keys().next_back() else { return 0.0 };
        // 96 bits hold all that 53 can show, the highest digit being as small as 1.
        let digit = |below: u8| {
            let at = top.checked_sub(below);
            at.and_then(|at| settled.digits.get(&at)).copied().unwrap_or(0) as u128
        };
        let high = ((digit(0) << (2 * BITS)) | (digit(1) << BITS) | digit(2)) as f64;
        let exponent = LEAST + BITS as i32 * (i32::from(top) - 2);
        let size = libm::scalbn(high, exponent);
        if negative { -size } else { size }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::seq::SliceRandom;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    fn sum(terms: &[f64]) -> ExactSum {
        let mut s = ExactSum::default();
        terms.iter().for_each(|&x| s.add(x));
        s.settle();
        s
    }

    #[test]
    fn single_terms_come_back() {
        let all =
            [0.0, 1.0, -1.0, 0.1, -0.3, 5e-324, -5e-324, f64::MAX, f64::MIN, f64::MIN_POSITIVE, 1e300, -7.5e-200, 3e9];
        for x in all {
            assert_eq!(sum(&[x]).value(), x, "{x:e}");
            assert_eq!(sum(&[x, -x]), ExactSum::default(), "{x:e}");
        }
    }

    #[test]
    fn nothing_is_lost() {
        assert_eq!(sum(&[1e300, 1.0, -1e300]).value(), 1.0);
        assert_eq!(sum(&[1e16, 1.0, 1.0, -1e16]).value(), 2.0);
        assert_eq!(sum(&[5e-324; 1000]).value(), 1000.0 * 5e-324);
        assert_eq!(sum(&[-1.0; 3]).value(), -3.0);
        assert_eq!(sum(&[f64::MAX, f64::MAX]).value(), f64::INFINITY);
        assert_eq!(sum(&[f64::MAX, f64::MAX, f64::MIN]).value(), f64::MAX);
    }

    #[test]
    fn order_and_division_do_not_matter() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        for _ in 0..200 {
            let n = rng.random_range(1..60);
            let wide = rng.random_range(1..300);
            let term = |rng: &mut ChaCha8Rng| {
                let x: f64 = rng.random_range(-1.0..1.0);
                x * f64::powi(2.0, rng.random_range(-wide..=wide))
            };
            let mut terms: Vec<f64> = (0..n).map(|_| term(&mut rng)).collect();
            let whole = sum(&terms);
            terms.shuffle(&mut rng);
            let mut joined = ExactSum::default();
            for part in terms.chunks(rng.random_range(1..=n)) {
                let text = serde_json::to_string(&sum(part)).unwrap();
                joined.join(serde_json::from_str(&text).unwrap());
            }
            assert_eq!(joined, whole);
            assert_eq!(joined.value().to_bits(), whole.value().to_bits());
            let about: f64 = terms.iter().sum();
            let size: f64 = terms.iter().map(|x| x.abs()).sum();
            assert!((whole.value() - about).abs() <= 1e-14 * size, "{} {about}", whole.value());
        }
    }

    #[test]
    fn what_is_not_finite_is_counted() {
        assert_eq!(sum(&[1.0, f64::INFINITY]).value(), f64::INFINITY);
        assert_eq!(sum(&[f64::NEG_INFINITY, 2.0]).value(), f64::NEG_INFINITY);
        assert!(sum(&[f64::NEG_INFINITY, f64::INFINITY]).value().is_nan() && sum(&[f64::NAN]).value().is_nan());
    }
}
