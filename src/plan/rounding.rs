//! Channel counts that hardware likes: which numbers of removed bundles a unit may take.

use std::{fmt, str::FromStr};

/// What channel counts are to suit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hardware {
    /// Processors: ONNX Runtime convolves fast where the channels that a convolution reads are a multiple of 16 (AVX-512; 8
    /// with AVX2, of which 16 is one), and leaves that path elsewhere.
    #[default]
    Cpu,
    /// Graphics processors: their matrix units take multiples of 8 (half precision), and 64 best of all where layers are wide.
    Gpu,
}

/// What kept channel counts are rounded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoundTo {
    /// A multiple that follows the original size `n` of each group and what the model is for, never more than about a quarter
    /// of `n`, so that small layers are not rounded to nothing. On a processor 16 for n ≥ 64, 8 for n ≥ 32, 4 for n ≥ 16, none
    /// below; on a graphics processor 64 for n ≥ 512, 32 for n ≥ 256, 16 for n ≥ 128, 8 for n ≥ 32, 4 for n ≥ 16.
    Auto(Hardware),
    /// The same multiple everywhere; 1 turns rounding off.
    Multiple(usize),
}

impl Default for RoundTo {
    fn default() -> Self {
        Self::Auto(Hardware::default())
    }
}

impl RoundTo {
    /// `auto` for this hardware; a given multiple as it is.
    pub fn on(self, hardware: Hardware) -> Self {
        if matches!(self, Self::Auto(_)) { Self::Auto(hardware) } else { self }
    }

    /// The multiple for a group of `n` channels.
    pub fn multiple(self, n: usize) -> usize {
        match self {
            Self::Multiple(m) => m.max(1),
            Self::Auto(Hardware::Cpu) => match n {
                64.. => 16,
                32.. => 8,
                16.. => 4,
                _ => 1,
            },
            Self::Auto(Hardware::Gpu) => match n {
                512.. => 64,
                256.. => 32,
                128.. => 16,
                32.. => 8,
                16.. => 4,
                _ => 1,
            },
        }
    }
}

impl FromStr for RoundTo {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s.trim() {
            word if word.eq_ignore_ascii_case("auto") => Ok(Self::default()),
            word => match word.parse() {
                Ok(m) if m >= 1 => Ok(Self::Multiple(m)),
                _ => Err(format!("{word:?} is neither `auto` nor a whole number of at least 1 (1 turns rounding off)")),
            },
        }
    }
}

impl fmt::Display for RoundTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto(_) => f.write_str("auto"),
            Self::Multiple(m) => write!(f, "{m}"),
        }
    }
}

/// One group's side of a unit.
pub(super) struct Share {
    /// The group.
    pub(super) group: usize,
    /// Its channels in the original.
    pub(super) size: usize,
    /// The size that rounding goes by: that of the layer before earlier rounds.
    pub(super) whole: usize,
    /// `taken[k]`: how many of them go with the first `k` bundles.
    pub(super) taken: Vec<u32>,
}

impl Share {
    /// Channels that stay when `k` bundles go.
    pub(super) fn kept(&self, k: usize) -> usize {
        self.size - self.taken[k] as usize
    }
}

/// The values of `k` (bundles removed), ascending, that rounding allows: 0, and for every combination of multiples that the
/// kept counts can be nearest to, the `k` that comes nearest. What exceeds `kmax` is dropped, which rounds the other way.
pub(super) fn levels(shares: &[Share], round: RoundTo, hard_max: usize, kmax: usize) -> Vec<usize> {
    if shares.iter().all(|s| round.multiple(s.whole) == 1) {
        return (0..=kmax).collect();
    }
    let mut levels = vec![0];
    let mut run: Option<(Vec<usize>, usize, usize)> = None; // (nearest multiples, best distance, its k)
    for k in 0..=hard_max {
        let aims: Vec<usize> = shares.iter().map(|s| nearest_multiple(s.kept(k), round.multiple(s.whole))).collect();
        let distance = shares.iter().zip(&aims).map(|(s, &aim)| s.kept(k).abs_diff(aim)).sum();
        match &mut run {
            Some((of, best, at)) if *of == aims => {
                if distance < *best {
                    (*best, *at) = (distance, k);
                }
            }
            _ => {
                levels.extend(run.map(|(.., at)| at));
                run = Some((aims, distance, k));
            }
        }
    }
    levels.extend(run.map(|(.., at)| at));
    levels.retain(|&k| k <= kmax);
    levels.dedup();
    levels
}

/// The nearest positive multiple (of two equally near ones the larger).
fn nearest_multiple(count: usize, multiple: usize) -> usize {
    (((count + multiple / 2) / multiple) * multiple).max(multiple)
}

/// Position of the level nearest to `k` (of two equally near ones the one that keeps more).
pub(super) fn nearest(levels: &[usize], k: f64) -> usize {
    let (below, above) = bracket(levels, k);
    if levels[above] as f64 - k < k - levels[below] as f64 { above } else { below }
}

/// Positions of the levels on both sides of `k`, equal where `k` is a level or lies beyond the last.
pub(super) fn bracket(levels: &[usize], k: f64) -> (usize, usize) {
    let above = levels.partition_point(|&l| (l as f64) < k).min(levels.len() - 1);
    let below = if levels[above] as f64 <= k { above } else { above.saturating_sub(1) };
    (below, above)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn single(n: usize) -> Vec<Share> {
        vec![Share { group: 0, size: n, whole: n, taken: (0..=n as u32).collect() }]
    }

    fn kept(n: usize, round: RoundTo, kmax: usize) -> Vec<usize> {
        levels(&single(n), round, n - 1, kmax).into_iter().map(|k| n - k).collect()
    }

    #[test]
    fn multiples_between_the_floors() {
        assert_eq!(kept(32, RoundTo::Multiple(8), 31), [32, 24, 16, 8]);
        assert_eq!(kept(20, RoundTo::Multiple(8), 19), [20, 16, 8]);
        assert_eq!(kept(20, RoundTo::Multiple(8), 11), [20, 16]);
        assert_eq!(kept(10, RoundTo::Multiple(8), 1), [10]);
        assert_eq!(kept(6, RoundTo::Multiple(8), 5), [6]);
        assert_eq!(kept(4, RoundTo::Multiple(1), 3), [4, 3, 2, 1]);
        assert_eq!(kept(15, RoundTo::default(), 3), [15, 14, 13, 12]);
        assert_eq!(kept(16, RoundTo::default(), 15), [16, 12, 8, 4]);
        assert_eq!(kept(1, RoundTo::default(), 0), [1]);
        assert_eq!(kept(64, RoundTo::default(), 63), [64, 48, 32, 16]);
        assert_eq!(kept(320, RoundTo::Auto(Hardware::Gpu), 260), [320, 288, 256, 224, 192, 160, 128, 96, 64]);
        assert_eq!(RoundTo::default().on(Hardware::Gpu), RoundTo::Auto(Hardware::Gpu));
        assert_eq!(RoundTo::Multiple(4).on(Hardware::Gpu), RoundTo::Multiple(4));
    }

    #[test]
    fn cells_take_the_nearest_reachable_count() {
        // 20 cells of 3 channels: one step moves the group by 20, so 40 is met and 24 or 16 is met by 20.
        let shares = [Share { group: 0, size: 60, whole: 60, taken: vec![0, 20, 40, 60] }];
        assert_eq!(levels(&shares, RoundTo::Multiple(8), 2, 2), [0, 1, 2]);
        // 3 cells of 20: of 57 and 54 only 57 is the nearest to 56, of 51, 48 and 45 only 48 to 48.
        let shares = [Share { group: 0, size: 60, whole: 60, taken: (0..=20).map(|k| 3 * k).collect() }];
        assert_eq!(levels(&shares, RoundTo::Multiple(8), 19, 8), [0, 1, 4, 7]);
    }

    #[test]
    fn nearest_keeps_more_on_a_tie() {
        let levels = [0, 8, 16];
        assert_eq!([0.0, 3.9, 4.0, 4.1, 12.0, 12.1, 99.0].map(|k| nearest(&levels, k)), [0, 0, 0, 1, 1, 2, 2]);
        assert_eq!([0.0, 3.0, 8.0, 9.0, 20.0].map(|k| bracket(&levels, k)), [(0, 0), (0, 1), (1, 1), (1, 2), (2, 2)]);
    }

    #[test]
    fn parses() {
        assert_eq!("auto".parse(), Ok(RoundTo::default()));
        assert_eq!("8".parse(), Ok(RoundTo::Multiple(8)));
        assert!("0".parse::<RoundTo>().unwrap_err().contains("at least 1"));
        assert!("x".parse::<RoundTo>().is_err());
        assert_eq!(RoundTo::Multiple(4).to_string().parse(), Ok(RoundTo::Multiple(4)));
    }
}
