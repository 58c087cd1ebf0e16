//! Losses and their gradients, written as nodes.
//!
//! Every loss is a mean over the samples of a batch. `s` is what the student makes, `t` what the teacher makes, `z` logits
//! with the classes on axis 1, `q` wanted probabilities, `N` the samples times the positions behind axis 1.
//!
//! | name | loss | gradient with respect to `s` or `z` |
//! |---|---|---|
//! | `ce` | `−1/N Σ q · log softmax(z)` | `(softmax(z) − q) / N` |
//! | `kl` | `T²/N Σ p_t · (log p_t − log p_s)`, `p = softmax(z/T)` (Hinton et al., arXiv 1503.02531) | `T · (p_s − p_t) / N` |
//! | `mse` | mean of `(s − t)²` over all elements | `2 (s − t) / numel` |
//! | `l1` | mean of `|s − t|` over all elements | `sign(s − t) / numel` |
//! | `cosine` | `S/n Σ (1 − cos(s_i, t_i))` over the `n` samples, each as one long vector | `−S/n · (t̂ − cos · ŝ) / ‖s‖` |
//!
//! The scale `S` of the cosine loss does four things. It multiplies its gradient, so with plain SGD it is a learning rate for
//! this term alone (AdamW divides it out again, except against other terms). It is the term's balance against the others.
//! It sets what deviation is tolerated: training stops where the pull of `S · (1 − cos)` equals that of the rest. And since
//! `1 − cos` is small near the end and its gradient falls with `1/‖s‖`, a scale of 10 to 1000 keeps both in the range of
//! half-precision numbers.

use super::tape::{Tape, Var};
use crate::ops::Answer;
use crate::refuse;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// One kind of loss, see the [module](self).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Kind {
    Ce,
    Kl,
    Mse,
    L1,
    Cosine,
}

/// All kinds.
pub const KINDS: [Kind; 5] = [Kind::Ce, Kind::Kl, Kind::Mse, Kind::L1, Kind::Cosine];

impl Kind {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Ce => "ce",
            Kind::Kl => "kl",
            Kind::Mse => "mse",
            Kind::L1 => "l1",
            Kind::Cosine => "cosine",
        }
    }

    /// Whether it compares with a teacher; `ce` compares with labels.
    pub fn needs_teacher(self) -> bool {
        self != Kind::Ce
    }

    /// Whether it is about classes, and so about outputs.
    pub fn of_classes(self) -> bool {
        matches!(self, Kind::Ce | Kind::Kl)
    }
}

/// A weighted sum of losses: `kl=1,cosine=0.5`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Losses(pub Vec<(Kind, f64)>);

impl FromStr for Losses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || KINDS.map(Kind::name).join(", ");
        let mut parts: Vec<(Kind, f64)> = Vec::new();
        for part in text.split(',').map(str::trim) {
            let (name, weight) = part.split_once('=').unwrap_or((part, "1"));
            let kind = KINDS.into_iter().find(|k| k.name() == name);
            let kind = kind.ok_or_else(|| format!("there is no loss {name:?}; there are {}", names()))?;
            let weight: f64 = weight.parse().map_err(|_| format!("{part}: {weight:?} is no number"))?;
            if !(weight.is_finite() && weight > 0.0) {
                return Err(format!("{part}: a weight is above 0"));
            }
            if parts.iter().any(|p| p.0 == kind) {
                return Err(format!("{name} is given twice"));
            }
            parts.push((kind, weight));
        }
        Ok(Losses(parts))
    }
}

impl fmt::Display for Losses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.0.iter().map(|(k, w)| format!("{}={w}", k.name())).collect();
        f.write_str(&parts.join(","))
    }
}

/// A loss and its gradient.
#[derive(Clone, Copy, Debug)]
pub struct Term {
    /// Without axes.
    pub value: Var,
    /// With respect to what the student makes, of its shape.
    pub gradient: Var,
}

/// `softmax(z)` and `log softmax(z)` over axis 1.
fn softmax(t: &mut Tape, z: Var) -> Answer<(Var, Var)> {
    let top = t.reduce("ReduceMax", z, &[1], true)?;
    let z = t.sub(z, top)?;
    let e = t.unary("Exp", z);
    let sum = t.sum(e, &[1], true)?;
    let p = t.div(e, sum)?;
    let log = t.unary("Log", sum);
    Ok((p, t.sub(z, log)?))
}

/// Samples times positions behind the classes.
fn count(t: &Tape, z: Var) -> Answer<f64> {
    match t.dims(z) {
        [_, c, ..] if *c > 0 => Ok(t.numel(z) as f64 / *c as f64),
        d => refuse!("classes are wanted on axis 1 of a tensor of shape {d:?}"),
    }
}

/// Cross-entropy with wanted probabilities of the logits' shape.
///
/// # Errors
/// When the shapes do not fit.
pub fn cross_entropy(t: &mut Tape, z: Var, q: Var) -> Answer<Term> {
    let n = count(t, z)?;
    let (p, log) = softmax(t, z)?;
    let each = t.mul(q, log)?;
    let sum = t.total(each)?;
    let value = t.scale(sum, -1.0 / n)?;
    let off = t.sub(p, q)?;
    Ok(Term { value, gradient: t.scale(off, 1.0 / n)? })
}

/// Divergence from the teacher's softened classes to the student's.
///
/// # Errors
/// When the shapes do not fit.
pub fn kl(t: &mut Tape, student: Var, teacher: Var, temperature: f64) -> Answer<Term> {
    let n = count(t, student)?;
    let (s, w) = (t.scale(student, 1.0 / temperature)?, t.scale(teacher, 1.0 / temperature)?);
    let ((ps, log_s), (pt, log_t)) = (softmax(t, s)?, softmax(t, w)?);
    let off = t.sub(log_t, log_s)?;
    let each = t.mul(pt, off)?;
    let sum = t.total(each)?;
    let value = t.scale(sum, temperature * temperature / n)?;
    let off = t.sub(ps, pt)?;
    Ok(Term { value, gradient: t.scale(off, temperature / n)? })
}

/// Mean squared difference.
///
/// # Errors
/// When the shapes do not fit.
pub fn mse(t: &mut Tape, student: Var, teacher: Var) -> Answer<Term> {
    let n = t.numel(student).max(1) as f64;
    let off = t.sub(student, teacher)?;
    let squares = t.square(off)?;
    let sum = t.total(squares)?;
    Ok(Term { value: t.scale(sum, 1.0 / n)?, gradient: t.scale(off, 2.0 / n)? })
}

/// Mean absolute difference.
///
/// # Errors
/// When the shapes do not fit.
pub fn l1(t: &mut Tape, student: Var, teacher: Var) -> Answer<Term> {
    let n = t.numel(student).max(1) as f64;
    let off = t.sub(student, teacher)?;
    let size = t.unary("Abs", off);
    let sum = t.total(size)?;
    let (up, down) = (t.above(off, 0.0)?, t.below(off, 0.0)?);
    let sign = t.sub(up, down)?;
    Ok(Term { value: t.scale(sum, 1.0 / n)?, gradient: t.scale(sign, 1.0 / n)? })
}

/// `scale · (1 − cos)`, each sample as one vector.
///
/// # Errors
/// When the shapes do not fit.
pub fn cosine(t: &mut Tape, student: Var, teacher: Var, scale: f64) -> Answer<Term> {
    let dims = t.dims(student).to_vec();
    let n = dims.first().copied().unwrap_or(1).max(1);
    let flat = [n, t.numel(student) / n];
    let (s, w) = (t.reshape(student, &flat)?, t.reshape(teacher, &flat)?);
    let norm = |t: &mut Tape, x: Var| -> Answer<Var> {
        let squares = t.square(x)?;
        let sum = t.sum(squares, &[1], true)?;
        // A sample of zeros has no direction, and no gradient.
        let sum = t.add_scalar(sum, 1e-12)?;
        Ok(t.unary("Sqrt", sum))
    };
    let (ns, nt) = (norm(t, s)?, norm(t, w)?);
    let (s, w) = (t.div(s, ns)?, t.div(w, nt)?);
    let each = t.mul(s, w)?;
    let cos = t.sum(each, &[1], true)?;
    let mean = t.total(cos)?;
    let mean = t.scale(mean, -scale / n as f64)?;
    let value = t.add_scalar(mean, scale)?;
    let along = t.mul(s, cos)?;
    let off = t.sub(along, w)?;
    let pull = t.div(off, ns)?;
    let pull = t.scale(pull, scale / n as f64)?;
    Ok(Term { value, gradient: t.reshape(pull, &dims)? })
}

#[cfg(all(test, feature = "tract"))]
#[path = "loss_tests.rs"]
mod tests;
