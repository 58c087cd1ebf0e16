//! Chance in what a model is trained on: images flipped, shifted and recoloured, samples mixed.
//!
//! All of it works on prepared values, as the model gets them. What is drawn depends on a seed and on names alone, and is
//! computed with libm, so that every platform draws the same.

use crate::runtime::{Data, Noise};
use half::f16;
use std::fmt;
use std::str::FromStr;

/// What chance does to the samples of a batch. Nothing by default.
///
/// Text such as `flip,crop=4,jitter=0.2,mixup=0.2`, or `none`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Augment {
    /// Every second image is mirrored, left to right.
    pub flip: bool,
    /// Images are shifted by up to so many pixels both ways; 0 is off.
    ///
    /// What comes in from outside is the image's own mirror image. Zeros would be the mean only where values are normalised
    /// around it: on a dark or white background, or with pixels from 0 to 1, they draw a bar that no sample has.
    pub crop: usize,
    /// Strength of changes in brightness, contrast and saturation, from 0 (off) to 1.
    ///
    /// With `b`, `c` and `s` uniform in `[-jitter, jitter)`, `μ` and `σ` the mean and standard deviation of the whole image, and
    /// `g` the mean of a pixel's three channels, a value `x` becomes `μ + (1 + c)·(g + (1 + s)·(x − g) − μ) + b·σ`. All are in
    /// the prepared values' own scale, so no normalisation need be known. Without three channels, `s` is 0.
    pub jitter: f64,
    /// Samples are mixed in pairs, by a share drawn for each batch from the beta distribution with both parameters at this; 0
    /// is off. The inputs are `share · x + (1 − share) · x'`, and labels have to be mixed alike. Zhang and others, "mixup: Beyond
    /// Empirical Risk Minimization", 2018.
    pub mixup: f64,
}

impl Augment {
    /// Whether there is something that only images can be put through.
    pub fn of_images(&self) -> bool {
        self.flip || self.crop > 0 || self.jitter > 0.0
    }
}

impl fmt::Display for Augment {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let mut parts: Vec<String> = Vec::new();
        parts.extend(self.flip.then(|| "flip".to_owned()));
        parts.extend((self.crop > 0).then(|| format!("crop={}", self.crop)));
        parts.extend((self.jitter > 0.0).then(|| format!("jitter={}", self.jitter)));
        parts.extend((self.mixup > 0.0).then(|| format!("mixup={}", self.mixup)));
        f.write_str(&if parts.is_empty() { "none".to_owned() } else { parts.join(",") })
    }
}

impl FromStr for Augment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const KNOWN: &str = "flip, crop=PIXELS, jitter=STRENGTH and mixup=ALPHA, as in flip,crop=4, or none";
        let mut augment = Self::default();
        if text.trim() == "none" {
            return Ok(augment);
        }
        let mut seen: Vec<&str> = Vec::new();
        for part in text.split(',').map(str::trim) {
            let (name, value) = part.split_once('=').map_or((part, None), |(name, value)| (name, Some(value)));
            if seen.contains(&name) {
                return Err(format!("{name} is there twice"));
            }
            seen.push(name);
            let wanted = |what: &str| {
                let found = value.map_or("nothing".to_owned(), |v| format!("{v:?}"));
                format!("{name}: expected {what}, not {found}")
            };
            let number = |ok: fn(f64) -> bool| value.and_then(|v| v.parse::<f64>().ok()).filter(|&x| ok(x));
            match name {
                "flip" if value.is_none() => augment.flip = true,
                "flip" => return Err(wanted("no value")),
                "crop" => {
                    let pixels = value.and_then(|v| v.parse().ok()).filter(|&n| n > 0);
                    augment.crop = pixels.ok_or_else(|| wanted("a whole number of pixels above 0, as in crop=4"))?;
                }
                "jitter" => {
                    let strength = number(|x| x > 0.0 && x <= 1.0);
                    augment.jitter = strength.ok_or_else(|| wanted("a number above 0, at most 1, as in jitter=0.2"))?;
                }
                "mixup" => {
                    let alpha = number(|x| x > 0.0 && x.is_finite());
                    augment.mixup = alpha.ok_or_else(|| wanted("a number above 0, as in mixup=0.2"))?;
                }
                "none" => return Err("none stands alone".to_owned()),
                _ => return Err(format!("{part:?} is not known; expected a list of {KNOWN}")),
            }
        }
        Ok(augment)
    }
}

/// How the values of one image lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub channels: usize,
    pub height: usize,
    pub width: usize,
    /// Channels last; else first.
    pub last: bool,
}

impl Frame {
    /// Of an input of these extents, the samples' axis among them; `None` unless there are four.
    pub fn of(dims: &[usize], last: bool) -> Option<Self> {
        match (dims, last) {
            (&[_, channels, height, width], false) | (&[_, height, width, channels], true) => {
                Some(Self { channels, height, width, last })
            }
            _ => None,
        }
    }

    fn pixels(self) -> usize {
        self.height * self.width
    }

    /// Where a pixel's channel is.
    fn at(self, pixel: usize, channel: usize) -> usize {
        if self.last { pixel * self.channels + channel } else { channel * self.pixels() + pixel }
    }
}

/// What chance does to one image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Draw {
    pub flip: bool,
    /// Rows and columns by which the place that is read is shifted.
    pub shift: (isize, isize),
    pub brightness: f64,
    pub contrast: f64,
    pub saturation: f64,
}

impl Draw {
    /// Always draws as many numbers, so that one option does not change what another does.
    pub fn new(augment: &Augment, noise: &mut Noise) -> Self {
        let coin = noise.uniform() < 0.5;
        let mut pixels = || {
            let k = isize::try_from(augment.crop).unwrap_or(0);
            ((noise.uniform() * (2 * k + 1) as f64) as isize).min(2 * k) - k
        };
        let shift = (pixels(), pixels());
        let mut strength = || (2.0 * noise.uniform() - 1.0) * augment.jitter;
        let (brightness, contrast, saturation) = (strength(), strength(), strength());
        Self { flip: augment.flip && coin, shift, brightness, contrast, saturation }
    }

    /// Writes the image as it becomes; both have as many values as the frame says.
    pub fn apply(&self, frame: Frame, image: &[f32], out: &mut [f32]) {
        let from = self.sources(frame);
        if frame.last {
            let c = frame.channels.max(1);
            for (to, &pixel) in out.chunks_exact_mut(c).zip(&from) {
                if let Some(values) = image.get(pixel * c..(pixel + 1) * c) {
                    to.copy_from_slice(values);
                }
            }
        } else {
            let size = frame.pixels().max(1);
            for (to, plane) in out.chunks_exact_mut(size).zip(image.chunks_exact(size)) {
                for (to, &pixel) in to.iter_mut().zip(&from) {
                    *to = plane.get(pixel).copied().unwrap_or(0.0);
                }
            }
        }
        if (self.brightness, self.contrast, self.saturation) != (0.0, 0.0, 0.0) {
            self.recolour(frame, out);
        }
    }

    /// For each pixel, the one that it is read from.
    fn sources(&self, frame: Frame) -> Vec<usize> {
        let columns: Vec<usize> = (0..frame.width)
            .map(|x| {
                let x = mirrored(x, self.shift.1, frame.width);
                if self.flip { frame.width - 1 - x } else { x }
            })
            .collect();
        let rows = (0..frame.height).map(|y| mirrored(y, self.shift.0, frame.height));
        rows.flat_map(|y| columns.iter().map(move |x| y * frame.width + x)).collect()
    }

    /// The formula of [`Augment::jitter`].
    fn recolour(&self, frame: Frame, image: &mut [f32]) {
        let get = |image: &[f32], at: usize| image.get(at).map_or(0.0, |&x| f64::from(x));
        let (pixels, channels) = (frame.pixels(), frame.channels);
        // Pixel by pixel in both layouts, so that both sum in the same order.
        let (mut sum, mut squares) = (0.0, 0.0);
        for at in (0..pixels).flat_map(|p| (0..channels).map(move |c| frame.at(p, c))) {
            let x = get(image, at);
            sum += x;
            squares += x * x;
        }
        let n = (pixels * channels).max(1) as f64;
        let mean = sum / n;
        let deviation = (squares / n - mean * mean).max(0.0).sqrt();
        let saturation = if channels == 3 { self.saturation } else { 0.0 };
        for p in 0..pixels {
            let grey = (0..channels).map(|c| get(image, frame.at(p, c))).sum::<f64>() / channels.max(1) as f64;
            for at in (0..channels).map(|c| frame.at(p, c)) {
                let coloured = grey + (1.0 + saturation) * (get(image, at) - grey);
                let x = mean + (1.0 + self.contrast) * (coloured - mean) + self.brightness * deviation;
                if let Some(to) = image.get_mut(at) {
                    *to = x as f32;
                }
            }
        }
    }
}

/// `i + shift` within `0..n`, mirrored at the ends, which are not repeated. A shift is less than `n`.
fn mirrored(i: usize, shift: isize, n: usize) -> usize {
    let last = n.saturating_sub(1) as isize;
    let at = (i as isize).saturating_add(shift).abs();
    usize::try_from(if at > last { 2 * last - at } else { at }).unwrap_or(0)
}

/// A draw from the beta distribution with both parameters at `alpha`, which is above 0.
///
/// As `a / (a + b)` of two gamma draws, in logarithms, as both may be too small for a number.
pub(super) fn beta(alpha: f64, noise: &mut Noise) -> f64 {
    let (a, b) = (ln_gamma_draw(alpha, noise), ln_gamma_draw(alpha, noise));
    1.0 / (1.0 + libm::exp(b - a))
}

/// The logarithm of a draw from the gamma distribution. Marsaglia and Tsang, "A Simple Method for Generating Gamma Variables",
/// 2000; below 1 a draw at `shape + 1` times `u^(1/shape)`.
fn ln_gamma_draw(shape: f64, noise: &mut Noise) -> f64 {
    if shape < 1.0 {
        let more = ln_gamma_draw(shape + 1.0, noise);
        return more + libm::log(1.0 - noise.uniform()) / shape;
    }
    let d = shape - 1.0 / 3.0;
    let c = 1.0 / libm::sqrt(9.0 * d);
    loop {
        let x = noise.normal();
        let v = 1.0 + c * x;
        if v <= 0.0 {
            continue;
        }
        let ln_v = 3.0 * libm::log(v);
        let v = v * v * v;
        if libm::log(1.0 - noise.uniform()) < 0.5 * x * x + d - d * v + d * ln_v {
            return libm::log(d) + ln_v;
        }
    }
}

/// `share · x + (1 − share) · x'` for floats, where `x'` is the sample at the partner's position; integers stay. `size` is the
/// number of values of a sample.
pub(super) fn mix(data: &mut Data, size: usize, partner: &[usize], share: f32) {
    fn all<T: Copy>(values: &mut [T], size: usize, partner: &[usize], f: impl Fn(T, T) -> T) {
        let before = values.to_vec();
        for (to, &other) in values.chunks_exact_mut(size.max(1)).zip(partner) {
            let from = before.get(other * size..).unwrap_or_default();
            to.iter_mut().zip(from).for_each(|(x, &y)| *x = f(*x, y));
        }
    }
    let rest = 1.0 - share;
    match data {
        Data::F32(v) => all(v, size, partner, |x, y| share * x + rest * y),
        Data::F64(v) => all(v, size, partner, |x, y| f64::from(share) * x + f64::from(rest) * y),
        Data::F16(v) => all(v, size, partner, |x, y| f16::from_f32(share * x.to_f32() + rest * y.to_f32())),
        Data::I64(_) | Data::I32(_) | Data::U8(_) | Data::I8(_) | Data::Bool(_) => {}
    }
}

#[cfg(test)]
#[path = "augment_tests.rs"]
mod tests;
