//! What labels ask of a model's classes: probabilities, smoothed and mixed.

use super::batches::Mix;
use super::step::names;
use crate::error::{Error, Result};
use crate::runtime::walk::Feed;
use crate::runtime::{Array, Data};

/// Wanted probabilities for the loss `ce`.
#[derive(Clone, Debug)]
pub struct Targets {
    /// Extents of the logits; `None` without `ce`.
    pub logits: Option<Vec<usize>>,
    /// Label smoothing `ε`: a wanted probability is `(1 − ε) · [k = label] + ε / C` (Szegedy et al., arXiv 1512.00567).
    pub smoothing: f64,
}

impl Targets {
    /// The input that the step graph wants for these samples; nothing without `ce`.
    ///
    /// # Errors
    /// [`Error::Usage`] without labels, for labels that the classes do not have, and for classes at several positions.
    pub fn wanted(&self, labels: Option<&[i64]>, samples: &[usize], mix: Option<&Mix>) -> Result<Feed> {
        let Some(dims) = &self.logits else { return Ok(Feed::new()) };
        let labels = labels.ok_or_else(|| {
            Error::Usage(
                "the loss ce needs labels, and the data has none; give --teacher, or data with labels (see --labels-from)"
                    .into(),
            )
        })?;
        let &[n, c] = dims.as_slice() else {
            return Err(Error::Usage(format!(
                "the loss ce needs an output of classes for each sample; this model's has shape {dims:?}"
            )));
        };
        let low = self.smoothing / c as f64;
        let mut values = vec![low as f32; n * c];
        let high = (1.0 - self.smoothing) as f32;
        let label = |i: usize| -> Result<usize> {
            let of = samples.get(i).and_then(|&s| labels.get(s)).copied();
            of.and_then(|l| usize::try_from(l).ok()).filter(|&l| l < c).ok_or_else(|| {
                Error::Usage(format!("label {of:?} of a sample is none of the model's {c} classes (from 0 on)"))
            })
        };
        for (i, row) in values.chunks_exact_mut(c.max(1)).enumerate() {
            let share = mix.map_or(1.0, |m| m.share);
            let other = mix.and_then(|m| m.partner.get(i).copied()).unwrap_or(i);
            for (at, part) in [(label(i)?, share), (label(other)?, 1.0 - share)] {
                if let Some(v) = row.get_mut(at) {
                    *v += high * part;
                }
            }
        }
        Ok(vec![(names::WANTED.to_owned(), Array { dims: dims.clone(), data: Data::F32(values) })])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_smoothed_and_mixed() {
        let t = Targets { logits: Some(vec![2, 4]), smoothing: 0.2 };
        let mix = Mix { partner: vec![1, 0], share: 0.75 };
        let row = |mix: Option<&Mix>| t.wanted(Some(&[9, 3, 1]), &[1, 2], mix).unwrap()[0].1.to_f64();
        let near = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
        assert!(near(&row(None), &[0.05, 0.05, 0.05, 0.85, 0.05, 0.85, 0.05, 0.05]), "{:?}", row(None));
        let mixed = row(Some(&mix));
        assert!(near(&mixed, &[0.05, 0.25, 0.05, 0.65, 0.05, 0.65, 0.05, 0.25]), "{mixed:?}");
        assert!(t.wanted(Some(&[4, 0]), &[0, 1], None).is_err(), "no such class");
        assert!(t.wanted(None, &[0, 1], None).is_err());
    }
}
