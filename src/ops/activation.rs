//! Element-wise activations as functions of one number, and their moments under a normal distribution.
//!
//! Right after a BatchNormalization a channel's values are close to `z ~ N(β, γ²)`, so the mean and the power that a
//! channel has after the following activation need no data, only these integrals.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

/// An element-wise function that follows a BatchNormalization.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// `x`: nothing follows.
    Identity,
    /// Something that is not in this list, or several different readers.
    Unknown,
    /// `max(x, 0)`.
    Relu,
    /// `x` above zero, `slope · x` below.
    LeakyRelu(f64),
    /// `min(max(x, low), high)`; the bounds may be infinite. Like ONNX, `high` wins when the bounds cross.
    Clip(f64, f64),
    /// `1 / (1 + e^-x)`.
    Sigmoid,
    /// `x · sigmoid(x)`.
    Silu,
    /// `min(max(alpha · x + beta, 0), 1)`.
    HardSigmoid {
        /// Slope.
        alpha: f64,
        /// Offset.
        beta: f64,
    },
    /// `x · min(max(x / 6 + 1/2, 0), 1)`.
    HardSwish,
    /// Hyperbolic tangent.
    Tanh,
    /// `x · Φ(x)`, the exact form.
    Gelu,
    /// `x` above zero, `alpha · (e^x − 1)` below.
    Elu(f64),
    /// `ln(1 + e^x)`.
    Softplus,
    /// `x · tanh(softplus(x))`.
    Mish,
}

impl Activation {
    /// The function's value, `None` for [`Activation::Unknown`].
    pub fn apply(&self, x: f64) -> Option<f64> {
        Some(match *self {
            Self::Unknown => return None,
            Self::Identity => x,
            Self::Relu => x.max(0.0),
            Self::LeakyRelu(slope) => x * if x < 0.0 { slope } else { 1.0 },
            Self::Clip(low, high) => x.max(low).min(high),
            Self::Sigmoid => sigmoid(x),
            Self::Silu => x * sigmoid(x),
            Self::HardSigmoid { alpha, beta } => (alpha * x + beta).clamp(0.0, 1.0),
            Self::HardSwish => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
            Self::Tanh => x.tanh(),
            Self::Gelu => x * lower_tail(x),
            Self::Elu(alpha) => {
                if x < 0.0 {
                    alpha * x.exp_m1()
                } else {
                    x
                }
            }
            Self::Softplus => softplus(x),
            Self::Mish => x * softplus(x).tanh(),
        })
    }

    /// `(E[f(z)], E[f(z)²])` for `z ~ N(mean, std²)`, `None` for [`Activation::Unknown`]. The sign of `std` is ignored.
    ///
    /// Piecewise polynomials (`Identity` to `Clip`, `HardSigmoid`, `HardSwish`) and `Elu` are in closed form, through
    /// the moments of the truncated normal distribution; for `Relu` that is `E = σφ(μ/σ) + μΦ(μ/σ)` and `E² =
    /// (μ²+σ²)Φ(μ/σ) + μσφ(μ/σ)`. The smooth rest is quadrature, good to six digits.
    pub fn moments(&self, mean: f64, std: f64) -> Option<(f64, f64)> {
        const FREE: f64 = f64::INFINITY;
        let std = std.abs();
        if std == 0.0 {
            return self.apply(mean).map(|y| (y, y * y));
        }
        let pieces = |pieces: &[Piece]| Some(piecewise(mean, std, pieces));
        match *self {
            Self::Unknown => None,
            Self::Identity => Some((mean, mean * mean + std * std)),
            Self::Relu => pieces(&[(0.0, FREE, [0.0, 1.0, 0.0])]),
            Self::LeakyRelu(slope) => pieces(&[(-FREE, 0.0, [0.0, slope, 0.0]), (0.0, FREE, [0.0, 1.0, 0.0])]),
            Self::Clip(low, high) => {
                let high = if high.is_nan() { FREE } else { high };
                let low = low.max(-FREE).min(high);
                let mut parts = vec![(low, high, [0.0, 1.0, 0.0])];
                // A bound at infinity is never reached; as a constant it would only make 0 · ∞.
                parts.extend(low.is_finite().then_some((-FREE, low, [low, 0.0, 0.0])));
                parts.extend(high.is_finite().then_some((high, FREE, [high, 0.0, 0.0])));
                pieces(&parts)
            }
            Self::HardSigmoid { alpha, beta } => {
                // Where the line meets 0 and 1; falling for a negative slope, flat for none.
                let (zero, one) = (-beta / alpha, (1.0 - beta) / alpha);
                if alpha > 0.0 {
                    pieces(&[(zero, one, [beta, alpha, 0.0]), (one, FREE, [1.0, 0.0, 0.0])])
                } else if alpha < 0.0 {
                    pieces(&[(one, zero, [beta, alpha, 0.0]), (-FREE, one, [1.0, 0.0, 0.0])])
                } else {
                    self.apply(mean).map(|y| (y, y * y))
                }
            }
            Self::HardSwish => pieces(&[(-3.0, 3.0, [0.0, 0.5, 1.0 / 6.0]), (3.0, FREE, [0.0, 1.0, 0.0])]),
            Self::Elu(alpha) => {
                let (above, above_squared) = piecewise(mean, std, &[(0.0, FREE, [0.0, 1.0, 0.0])]);
                let (e0, e1, e2) =
                    (lower_tail(-mean / std), exp_below_zero(mean, std, 1.0), exp_below_zero(mean, std, 2.0));
                let below_squared = (e2 - 2.0 * e1 + e0).max(0.0);
                Some((above + alpha * (e1 - e0), above_squared + alpha * alpha * below_squared))
            }
            Self::Sigmoid | Self::Silu | Self::Tanh | Self::Gelu | Self::Softplus | Self::Mish => {
                trapezoid(mean, std, |x| self.apply(x))
            }
        }
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// φ, the standard normal density.
fn density(x: f64) -> f64 {
    (-0.5 * x * x).exp() / (2.0 * PI).sqrt()
}

/// Φ, the standard normal distribution function.
fn lower_tail(x: f64) -> f64 {
    0.5 * libm::erfc(-x * FRAC_1_SQRT_2)
}

/// `E[e^(kz); z < 0]` for `z ~ N(mean, std²)`, that is `e^(k·mean + k²std²/2) Φ(−u)` with `u = (mean + k·std²)/std`.
fn exp_below_zero(mean: f64, std: f64, k: f64) -> f64 {
    let u = mean / std + k * std;
    if u < 10.0 {
        return (k * mean + 0.5 * (k * std).powi(2)).exp() * lower_tail(-u);
    }
    // Both factors leave the range of f64; their product is φ(mean/std) · Φ(−u)/φ(u), the last by its continued
    // fraction.
    let fraction = (1..=24).rev().fold(u, |tail, n| u + f64::from(n) / tail);
    density(mean / std) / fraction
}

/// `c0 + c1·x + c2·x²` from the first bound to the second.
type Piece = (f64, f64, [f64; 3]);

/// Moments of a function that is a polynomial on each piece and zero elsewhere.
fn piecewise(mean: f64, std: f64, pieces: &[Piece]) -> (f64, f64) {
    let mut sums = (0.0, 0.0);
    for &(low, high, [c0, c1, c2]) in pieces {
        let truncated = truncated_moments((low - mean) / std, (high - mean) / std);
        // The polynomial in t = (x − mean) / std, then its square.
        let p = [c0 + mean * (c1 + mean * c2), std * (c1 + 2.0 * c2 * mean), std * std * c2];
        let square = [p[0] * p[0], 2.0 * p[0] * p[1], p[1] * p[1] + 2.0 * p[0] * p[2], 2.0 * p[1] * p[2], p[2] * p[2]];
        sums.0 += p.iter().zip(truncated).map(|(c, m)| c * m).sum::<f64>();
        sums.1 += square.iter().zip(truncated).map(|(c, m)| c * m).sum::<f64>();
    }
    (sums.0, sums.1.max(0.0))
}

/// `∫ tᵏ φ(t) dt` from `a` to `b` for k = 0 … 4, by `T_k = (k−1) T_{k−2} + a^{k−1}φ(a) − b^{k−1}φ(b)`.
fn truncated_moments(a: f64, b: f64) -> [f64; 5] {
    // Differences of the smaller tails keep their digits.
    let t0 = if a > 0.0 { lower_tail(-a) - lower_tail(-b) } else { lower_tail(b) - lower_tail(a) };
    let edge = |power| {
        let at = |x: f64| if density(x) == 0.0 { 0.0 } else { x.powi(power) * density(x) };
        at(a) - at(b)
    };
    let (t1, t2) = (edge(0), t0 + edge(1));
    [t0, t1, t2, 2.0 * t1 + edge(2), 3.0 * t2 + edge(3)]
}

/// `(E[f(z)], E[f(z)²])` of a smooth function by the trapezoidal rule.
///
/// On a smooth integrand that dies out at both ends that rule converges geometrically (Trefethen & Weideman, "The
/// Exponentially Convergent Trapezoidal Rule", 2014), and its step can follow `std`: Gauss–Hermite, whose nodes are
/// fixed in units of `std`, steps over a sigmoid that is narrow beside it (96 nodes: 6 % off for tanh at std 12).
fn trapezoid(mean: f64, std: f64, f: impl Fn(f64) -> Option<f64>) -> Option<(f64, f64)> {
    /// Standard deviations on each side; 4e-15 of the mass is beyond.
    const REACH: f64 = 8.0;
    // Steps of at most 0.5 in units of std and of the function: tanh has its poles at ±iπ/2. The cap is for a std above
    // 1,000.
    let half = (REACH * 2.0 * std.max(1.0)).ceil().min(10_000.0);
    let step = REACH / half;
    let mut sums = (0.0, 0.0);
    for i in 0..=2 * half as usize {
        let t = (i as f64 - half) * step;
        let (y, weight) = (f(mean + std * t)?, step * density(t));
        sums.0 += weight * y;
        sums.1 += weight * y * y;
    }
    Some(sums)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Activation; 16] = [
        Activation::Identity,
        Activation::Relu,
        Activation::LeakyRelu(0.1),
        Activation::Clip(0.0, 6.0),
        Activation::Clip(-1.0, f64::INFINITY),
        Activation::Clip(f64::NEG_INFINITY, 0.5),
        Activation::Sigmoid,
        Activation::Silu,
        Activation::HardSigmoid { alpha: 0.2, beta: 0.5 },
        Activation::HardSigmoid { alpha: -0.3, beta: 0.4 },
        Activation::HardSwish,
        Activation::Tanh,
        Activation::Gelu,
        Activation::Elu(1.3),
        Activation::Softplus,
        Activation::Mish,
    ];

    /// Midpoint rule over ±10 standard deviations.
    fn integrate(f: Activation, mean: f64, std: f64) -> (f64, f64) {
        let (n, width) = (40_000, 20.0);
        let mut sums = (0.0, 0.0);
        for i in 0..n {
            let t = width * ((f64::from(i) + 0.5) / f64::from(n) - 0.5);
            let y = f.apply(mean + std * t).unwrap();
            let weight = density(t) * width / f64::from(n);
            sums = (sums.0 + weight * y, sums.1 + weight * y * y);
        }
        sums
    }

    #[test]
    fn moments_equal_numeric_integration() {
        let mut worst: (f64, String) = (0.0, String::new());
        for f in ALL {
            for mean in [-7.0, -1.5, -0.2, 0.0, 0.4, 2.0, 9.0] {
                for std in [1e-3, 0.1, 0.7, 1.0, 2.5, 6.0, 12.0] {
                    let (want, got) = (integrate(f, mean, std), f.moments(mean, -std).unwrap());
                    for (want, got) in [(want.0, got.0), (want.1, got.1)] {
                        let error = (got - want).abs() / want.abs().max(1.0);
                        if error > worst.0 {
                            worst = (error, format!("{f:?} N({mean}, {std}): {got} instead of {want}"));
                        }
                    }
                }
            }
        }
        assert!(worst.0 < 1e-6, "{worst:?}");
    }

    #[test]
    fn relu_is_the_textbook_formula() {
        for (beta, gamma) in [(0.3f64, 0.8f64), (-1.2, 0.5), (0.0, 2.0), (-6.0, 1.0)] {
            let (density, below) = (density(beta / gamma), lower_tail(beta / gamma));
            let mean = gamma * density + beta * below;
            let power = (beta * beta + gamma * gamma) * below + beta * gamma * density;
            let got = Activation::Relu.moments(beta, -gamma).unwrap();
            assert!((got.0 - mean).abs() < 1e-14 && (got.1 - power).abs() < 1e-14);
        }
    }

    #[test]
    fn no_spread_is_the_value_itself() {
        for f in ALL {
            for x in [-4.0, -0.5, 0.0, 0.5, 4.0, 8.0] {
                let y = f.apply(x).unwrap();
                assert_eq!(f.moments(x, 0.0), Some((y, y * y)));
                let near = f.moments(x, 1e-9).unwrap();
                assert!((near.0 - y).abs() < 1e-7 && (near.1 - y * y).abs() < 1e-7, "{f:?} at {x}");
            }
        }
    }

    #[test]
    fn odd_parameters_give_numbers() {
        assert_eq!(Activation::Unknown.moments(0.0, 1.0), None);
        assert_eq!(Activation::Unknown.apply(0.0), None);
        let crossed = Activation::Clip(2.0, 1.0);
        assert_eq!(crossed.apply(7.0), Some(1.0));
        assert!((crossed.moments(0.0, 1.0).unwrap().0 - 1.0).abs() < 1e-12);
        assert_eq!(
            Activation::Clip(f64::NAN, f64::NAN).moments(1.0, 1.0),
            Activation::Clip(-1.0 / 0.0, 1.0 / 0.0).moments(1.0, 1.0)
        );
        assert_eq!(Activation::HardSigmoid { alpha: 0.0, beta: 0.25 }.moments(3.0, 1.0), Some((0.25, 0.0625)));
        for f in ALL {
            for (mean, std) in [(1e4, 1e3), (-1e4, 1e3), (0.0, 1e3), (-300.0, 1e-3), (300.0, 30.0)] {
                let (first, second) = f.moments(mean, std).unwrap();
                assert!(first.is_finite() && second >= 0.0 && second.is_finite(), "{f:?} N({mean}, {std})");
            }
        }
    }
}
