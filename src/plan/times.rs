//! How long layers take, as a function of how many channels they read and make.

use crate::channels::AxisId;

/// The time of one layer over the lengths of the axes that can shrink: one, or the read and the made channels.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerTime {
    /// The axes.
    pub axes: Vec<AxisId>,
    /// Per axis: the lengths at which the time is known, ascending.
    pub lens: Vec<Vec<usize>>,
    /// Milliseconds at every combination of them, the last axis running fastest.
    pub ms: Vec<f64>,
}

/// What a model takes: its layers, and all else as a constant.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Times {
    /// Layers with channels that can go.
    pub layers: Vec<LayerTime>,
    /// Milliseconds of everything else.
    pub rest_ms: f64,
}

impl LayerTime {
    /// Whether there is a time for every combination.
    pub(super) fn is_whole(&self) -> bool {
        let points = self.lens.iter().map(Vec::len).product::<usize>();
        let rising = self.lens.iter().all(|l| !l.is_empty() && l.is_sorted_by(|a, b| a < b));
        self.axes.len() == self.lens.len() && points == self.ms.len() && rising && self.ms.iter().all(|t| t.is_finite())
    }

    /// Milliseconds at these lengths, linear between the nearest known ones and constant beyond the ends.
    pub(super) fn at(&self, len_of: impl Fn(usize) -> f64) -> f64 {
        // (index into `ms`, weight) of all corners of the cell that the point lies in.
        let mut corners = vec![(0, 1.0)];
        for (axis, known) in self.axes.iter().zip(&self.lens) {
            let len = len_of(axis.0 as usize);
            let above = known.partition_point(|&k| (k as f64) < len).min(known.len() - 1);
            let below = if known[above] as f64 <= len { above } else { above.saturating_sub(1) };
            let (low, high) = (known[below] as f64, known[above] as f64);
            let part = if high > low { ((len - low) / (high - low)).clamp(0.0, 1.0) } else { 0.0 };
            corners = corners
                .into_iter()
                .flat_map(|(at, w)| {
                    let base = at * known.len();
                    [(base + below, w * (1.0 - part)), (base + above, w * part)]
                })
                .filter(|&(_, w)| w > 0.0)
                .collect();
        }
        corners.into_iter().map(|(at, w)| w * self.ms.get(at).copied().unwrap_or(f64::NAN)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linear_between_known_lengths_and_constant_beyond() {
        let t = LayerTime {
            axes: vec![AxisId(0), AxisId(1)],
            lens: vec![vec![8, 16], vec![4, 8, 12]],
            ms: vec![1.0, 2.0, 5.0, 3.0, 6.0, 7.0],
        };
        assert!(t.is_whole());
        let at = |a: f64, b: f64| t.at(|axis| if axis == 0 { a } else { b });
        assert_eq!([at(8.0, 4.0), at(8.0, 12.0), at(16.0, 8.0)], [1.0, 5.0, 6.0]);
        assert_eq!([at(12.0, 4.0), at(8.0, 10.0), at(12.0, 6.0)], [2.0, 3.5, 3.0]);
        assert_eq!([at(1.0, 1.0), at(99.0, 99.0)], [1.0, 7.0]);
        let one = LayerTime { axes: vec![AxisId(3)], lens: vec![vec![5]], ms: vec![2.0] };
        assert_eq!(one.at(|_| 1.0), 2.0);
        assert!(!LayerTime { ms: vec![], ..one }.is_whole());
    }
}
