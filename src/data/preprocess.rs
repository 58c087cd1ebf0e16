//! What happens to a value on its way from a file into the model: `(value · scale − mean) / std`, and for images what comes
//! before it: resize, crop, order of the channels.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A named set of options, each of which can be overridden by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// x/255, less the ImageNet mean, over its standard deviation; images: shorter side to 256, centre 224 (in proportion
    /// where the model's input has another size)
    Imagenet,
    /// (x − 127.5)/127.5: -1 to 1, as many TensorFlow models want it
    ImagenetTf,
    /// x/255: 0 to 1
    Unit,
    /// The values as they are, pixels 0 to 255
    None,
}

/// Where an image's channels are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// On axis 1: N×C×H×W
    Nchw,
    /// On the last axis: N×H×W×C
    Nhwc,
}

impl Layout {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Nchw => "NCHW",
            Self::Nhwc => "NHWC",
        }
    }

    /// The extents of a sample in the other layout, for one that is in this.
    pub(super) fn to_other(self, sample: &[usize]) -> Option<Vec<usize>> {
        match (self, sample) {
            (Self::Nchw, &[c, h, w]) => Some(vec![h, w, c]),
            (Self::Nhwc, &[h, w, c]) => Some(vec![c, h, w]),
            _ => None,
        }
    }

    pub(super) fn other(self) -> Self {
        match self {
            Self::Nchw => Self::Nhwc,
            Self::Nhwc => Self::Nchw,
        }
    }

    /// What the extents of an input (with the batch) tell: channels are 1 or 3, and at axis 1 unless only the last axis has so
    /// many.
    pub(super) fn of_input(dims: &[Option<usize>]) -> Self {
        let few = |dim: &Option<usize>| matches!(dim, Some(1 | 3));
        match dims {
            [_, c, _, last] if !few(c) && few(last) => Self::Nhwc,
            _ => Self::Nchw,
        }
    }
}

/// The order of a colour image's channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChannelOrder {
    /// Red first, as files have it
    Rgb,
    /// Blue first, as OpenCV has it
    Bgr,
}

/// The size of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "SizeText", into = "String")]
pub enum Size {
    /// One number: for resizing the length of the shorter side, for cropping that of both.
    Side(u32),
    /// Width and height.
    Exact(u32, u32),
}

/// The largest side that an image may be asked to have.
const LARGEST_SIDE: u32 = 1 << 15;

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let side = |t: &str| t.trim().parse().ok().filter(|n| (1..=LARGEST_SIDE).contains(n));
        let size = match text.split_once(['x', 'X', '×']) {
            Some((w, h)) => side(w).zip(side(h)).map(|(w, h)| Self::Exact(w, h)),
            None => side(text).map(Self::Side),
        };
        size.ok_or_else(|| format!("expected a size such as 224 or 192x48 (width x height), not {text:?}"))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Side(n) => write!(f, "{n}"),
            Self::Exact(w, h) => write!(f, "{w}x{h}"),
        }
    }
}

impl From<Size> for String {
    fn from(size: Size) -> Self {
        size.to_string()
    }
}

/// A size in a file: a number or text.
#[derive(Deserialize)]
#[serde(untagged)]
enum SizeText {
    Number(i64),
    Text(String),
}

impl TryFrom<SizeText> for Size {
    type Error = String;

    fn try_from(text: SizeText) -> Result<Self, String> {
        match text {
            SizeText::Number(n) => n.to_string().parse(),
            SizeText::Text(text) => text.parse(),
        }
    }
}

/// How values are prepared. Everything is optional; what is given overrides the [`preset`](Self::preset).
///
/// A value becomes `(value · scale − mean) / std`. Without a word, `scale` is 1/255 for images and uint8 arrays that a
/// floating-point input reads, and 1 for everything else; `mean` is 0 and `std` 1, so floats go unchanged.
///
/// With several model inputs this applies to the one that [`DataOptions::input`](super::DataOptions::input) names, or else
/// to those of four axes; all others get their values unchanged.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Preprocess {
    /// Where everything that is not given comes from.
    pub preset: Option<Preset>,
    /// One value, or one a channel in the model's order, subtracted after scaling.
    pub mean: Option<Vec<f64>>,
    /// One value, or one a channel in the model's order, by which the difference is divided.
    pub std: Option<Vec<f64>>,
    /// The factor that comes first.
    pub scale: Option<f64>,
    /// Where the model's input has its channels. Without it: at axis 1, unless only the last axis has 1 or 3. A data array in
    /// the other layout is transposed where its shape leaves no doubt.
    pub layout: Option<Layout>,
    /// Images are resized to this: bilinear with antialiasing (what Pillow and torchvision do). Without resizing and
    /// cropping, images that do not fit a fixed input size are resized directly to it.
    pub resize: Option<Size>,
    /// The centre that is cut out after resizing.
    pub crop: Option<Size>,
    /// The order in which the model wants colours; data is taken to be red, green, blue.
    pub channel_order: Option<ChannelOrder>,
}

impl Preprocess {
    /// Whether the figures are ones that can be computed with.
    ///
    /// # Errors
    /// [`Error::Usage`] when they are not.
    pub fn check(&self) -> Result<()> {
        let list = |what: &str, values: &Option<Vec<f64>>, ok: &dyn Fn(f64) -> bool, wanted: &str| match values {
            Some(v) if v.is_empty() => Err(Error::Usage(format!("{what}: expected at least one number"))),
            Some(v) => match v.iter().find(|x| !ok(**x)) {
                Some(x) => Err(Error::Usage(format!("{what}: expected {wanted}, not {x}"))),
                None => Ok(()),
            },
            None => Ok(()),
        };
        list("mean", &self.mean, &f64::is_finite, "finite numbers")?;
        list("std", &self.std, &|x| x.is_finite() && x > 0.0, "finite numbers above 0")?;
        list("scale", &self.scale.map(|s| vec![s]), &|x| x.is_finite() && x != 0.0, "a finite number other than 0")
    }

    /// Whether anything was said about values (not about geometry).
    fn told(&self) -> bool {
        self.preset.is_some() || self.mean.is_some() || self.std.is_some() || self.scale.is_some()
    }

    /// The arithmetic for an input that the options apply to.
    pub(super) fn values(&self, pixels: bool, float_input: bool) -> Values {
        let (scale, mean, std): (_, &[f64], &[f64]) = match self.preset {
            Some(Preset::Imagenet) => (Some(1.0 / 255.0), &[0.485, 0.456, 0.406], &[0.229, 0.224, 0.225]),
            Some(Preset::ImagenetTf) => (Some(1.0), &[127.5], &[127.5]),
            Some(Preset::Unit) => (Some(1.0 / 255.0), &[0.0], &[1.0]),
            Some(Preset::None) => (Some(1.0), &[0.0], &[1.0]),
            None => (None, &[0.0], &[1.0]),
        };
        let default = if pixels && float_input { 1.0 / 255.0 } else { 1.0 };
        Values {
            scale: self.scale.or(scale).unwrap_or(default),
            mean: self.mean.clone().unwrap_or_else(|| mean.to_vec()),
            std: self.std.clone().unwrap_or_else(|| std.to_vec()),
            told: self.told(),
            reverse: self.channel_order == Some(ChannelOrder::Bgr),
        }
    }

    /// A mean in pixel units beside the default scale is most likely a mistake.
    pub(super) fn suspicion(&self, pixels: bool) -> Option<String> {
        let mean = self.mean.iter().flatten().find(|m| m.abs() > 2.0)?;
        (pixels && self.scale.is_none() && self.preset.is_none()).then(|| {
            format!(
                "pixels are scaled to 0 … 1 before the mean {mean} is subtracted; --scale 1 turns that off, if the mean is \
                 in pixel units"
            )
        })
    }
}

/// The arithmetic for one input.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Values {
    pub scale: f64,
    /// One or as many as channels; so is `std`.
    pub mean: Vec<f64>,
    pub std: Vec<f64>,
    /// The user asked for arithmetic, so integers may be rounded to.
    pub told: bool,
    /// Channels in reverse.
    pub reverse: bool,
}

impl Values {
    /// Nothing but a change of type.
    pub fn unchanged() -> Self {
        Self { scale: 1.0, mean: vec![0.0], std: vec![1.0], told: false, reverse: false }
    }

    /// Whether values stay what they are.
    pub fn is_identity(&self) -> bool {
        self.scale == 1.0 && self.mean.iter().all(|&m| m == 0.0) && self.std.iter().all(|&s| s == 1.0)
    }

    /// Whether there is a mean and a standard deviation for each channel, and a channel order where one is asked for.
    pub fn check(&self, channels: usize) -> Result<(), String> {
        for (what, list) in [("mean", &self.mean), ("std", &self.std)] {
            if list.len() != 1 && list.len() != channels {
                return Err(format!("{what} has {} values, but there are {channels} channels", list.len()));
            }
        }
        if self.reverse && channels != 3 {
            return Err(format!("bgr is an order of 3 channels, but there are {channels}"));
        }
        Ok(())
    }

    /// Mean and standard deviation of a channel (in the model's order).
    pub fn of_channel(&self, c: usize) -> (f64, f64) {
        let at = |list: &[f64], c: usize| list.get(c).or(list.first()).copied();
        (at(&self.mean, c).unwrap_or(0.0), at(&self.std, c).unwrap_or(1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written() {
        assert_eq!("224".parse(), Ok(Size::Side(224)));
        assert_eq!("192x48".parse(), Ok(Size::Exact(192, 48)));
        assert_eq!(Size::Exact(192, 48).to_string(), "192x48");
        for bad in ["", "0", "x", "3x", "-4", "1x2x3", "99999999", "4.5"] {
            assert!(bad.parse::<Size>().unwrap_err().contains("such as 224 or 192x48"), "{bad}");
        }
    }

    #[test]
    fn layouts_are_deduced() {
        let of = |dims: [usize; 4]| Layout::of_input(&dims.map(|d| (d > 0).then_some(d)));
        assert_eq!(of([0, 3, 32, 32]), Layout::Nchw);
        assert_eq!(of([1, 128, 128, 3]), Layout::Nhwc);
        assert_eq!(of([0, 0, 0, 3]), Layout::Nhwc);
        assert_eq!(of([0, 3, 0, 3]), Layout::Nchw);
        assert_eq!(of([0, 0, 0, 0]), Layout::Nchw);
        assert_eq!(Layout::of_input(&[None, Some(7)]), Layout::Nchw);
    }

    #[test]
    fn flags_override_the_preset() {
        let options = Preprocess { preset: Some(Preset::Imagenet), std: Some(vec![0.5]), ..Default::default() };
        let values = options.values(true, true);
        assert_eq!(values.mean, [0.485, 0.456, 0.406]);
        assert_eq!((values.scale, values.std), (1.0 / 255.0, vec![0.5]));
        let values = Preprocess { preset: Some(Preset::None), scale: Some(2.0), ..Default::default() };
        assert_eq!(values.values(true, true).scale, 2.0);
    }

    #[test]
    fn the_default_scale_follows_the_data() {
        let options = Preprocess::default();
        assert_eq!(options.values(true, true).scale, 1.0 / 255.0);
        assert!(options.values(false, true).is_identity() && options.values(true, false).is_identity());
        let pixels = Preprocess { mean: Some(vec![127.0]), ..Default::default() };
        assert!(pixels.suspicion(true).is_some() && pixels.suspicion(false).is_none());
    }

    #[test]
    fn bad_figures_are_refused() {
        let refused = |p: Preprocess| p.check().unwrap_err().to_string();
        assert!(refused(Preprocess { std: Some(vec![1.0, 0.0]), ..Default::default() }).contains("above 0, not 0"));
        assert!(refused(Preprocess { mean: Some(vec![f64::NAN]), ..Default::default() }).contains("NaN"));
        assert!(refused(Preprocess { mean: Some(vec![]), ..Default::default() }).contains("at least one"));
        assert!(refused(Preprocess { scale: Some(0.0), ..Default::default() }).contains("other than 0"));
        let values = Preprocess { mean: Some(vec![1.0, 2.0]), ..Default::default() }.values(true, true);
        assert!(values.check(3).unwrap_err().contains("mean has 2 values, but there are 3 channels"));
    }
}
