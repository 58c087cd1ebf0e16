//! `onnx-prune.toml` beside the model: what would otherwise be said on every command line.
//!
//! ```toml
//! [data]
//! path = "calibration.npz"          # relative to this file
//! samples = 512
//! mean = [0.485, 0.456, 0.406]
//! std = [0.229, 0.224, 0.225]
//! ```
//!
//! The keys of `[data]`: `path`, `samples`, `batch`, `input`, `labels-from`, `preprocess`, `mean`, `std`, `scale`, `layout`,
//! `resize`, `crop`, `channel-order`.

use super::preprocess::{ChannelOrder, Layout, Preprocess, Preset, Size};
use super::{DataOptions, LabelsFrom, bad};
use crate::error::Result;
use serde::Deserialize;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The file's name.
pub const FILE: &str = "onnx-prune.toml";

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `[data]`.
    #[serde(default)]
    pub data: DataConfig,
}

/// The table `[data]`. Everything is optional.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DataConfig {
    /// The data; [`beside`] resolves it against the file's folder.
    pub path: Option<PathBuf>,
    /// See [`DataOptions::samples`].
    pub samples: Option<usize>,
    /// See [`DataOptions::batch`].
    pub batch: Option<usize>,
    /// See [`DataOptions::input`].
    pub input: Option<String>,
    /// See [`DataOptions::labels_from`].
    pub labels_from: Option<LabelsFrom>,
    /// See [`Preprocess::preset`].
    pub preprocess: Option<Preset>,
    /// See [`Preprocess::mean`]; one number or several.
    pub mean: Option<Numbers>,
    /// See [`Preprocess::std`]; one number or several.
    pub std: Option<Numbers>,
    /// See [`Preprocess::scale`].
    pub scale: Option<f64>,
    /// See [`Preprocess::layout`].
    pub layout: Option<Layout>,
    /// See [`Preprocess::resize`]; a number or `"WxH"`.
    pub resize: Option<Size>,
    /// See [`Preprocess::crop`]; a number or `"WxH"`.
    pub crop: Option<Size>,
    /// See [`Preprocess::channel_order`].
    pub channel_order: Option<ChannelOrder>,
}

/// One number or several.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged, expecting = "expected a number or a list of numbers")]
pub enum Numbers {
    /// One.
    One(f64),
    /// Several.
    Many(Vec<f64>),
}

impl From<Numbers> for Vec<f64> {
    fn from(numbers: Numbers) -> Self {
        match numbers {
            Numbers::One(x) => vec![x],
            Numbers::Many(list) => list,
        }
    }
}

impl DataConfig {
    /// The options that the table amounts to, with seed 0.
    pub fn options(&self) -> DataOptions {
        DataOptions {
            samples: self.samples,
            batch: self.batch,
            input: self.input.clone(),
            labels_from: self.labels_from,
            preprocess: Preprocess {
                preset: self.preprocess,
                mean: self.mean.clone().map(Into::into),
                std: self.std.clone().map(Into::into),
                scale: self.scale,
                layout: self.layout,
                resize: self.resize,
                crop: self.crop,
                channel_order: self.channel_order,
            },
            seed: 0,
        }
    }
}

/// Reads the file beside a model; `None` where there is none. A relative data path becomes one that begins at the file.
///
/// # Errors
/// [`Error::Data`](crate::error::Error::Data) when it cannot be read, is not TOML, or has a key that is not known.
pub fn beside(model: &Path) -> Result<Option<Config>> {
    let path = model.with_file_name(FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(bad(&path, format!("cannot be read: {e}"))),
    };
    let mut config: Config = toml::from_str(&text).map_err(|e| {
        let line = e.span().and_then(|span| text.get(..span.start)).map(|before| before.matches('\n').count() + 1);
        let place = line.map(|n| format!("line {n}: ")).unwrap_or_default();
        bad(&path, format!("{place}{}", e.message()))
    })?;
    config.data.path = config.data.path.map(|data| path.with_file_name("").join(data));
    Ok(Some(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<Config>> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), text).unwrap();
        beside(&dir.path().join("model.onnx"))
    }

    #[test]
    fn every_key_is_read() {
        let text = "[data]\npath = \"sub/d.npz\"\nsamples = 5\nbatch = 2\ninput = \"x\"\nlabels-from = \"name\"\n\
                    preprocess = \"imagenet-tf\"\nmean = [0.5, 1, 2]\nstd = 3\nscale = 0.25\nlayout = \"nhwc\"\n\
                    resize = \"20x10\"\ncrop = 8\nchannel-order = \"bgr\"\n";
        let data = read(text).unwrap().unwrap().data;
        let path = data.path.clone().unwrap();
        assert!(path.is_absolute() && path.ends_with("sub/d.npz"));
        let options = data.options();
        let preprocess = Preprocess {
            preset: Some(Preset::ImagenetTf),
            mean: Some(vec![0.5, 1.0, 2.0]),
            std: Some(vec![3.0]),
            scale: Some(0.25),
            layout: Some(Layout::Nhwc),
            resize: Some(Size::Exact(20, 10)),
            crop: Some(Size::Side(8)),
            channel_order: Some(ChannelOrder::Bgr),
        };
        let (samples, batch, input) = (Some(5), Some(2), Some("x".to_owned()));
        let labels_from = Some(LabelsFrom::Name);
        assert_eq!(options, DataOptions { samples, batch, input, labels_from, preprocess, seed: 0 });
    }

    #[test]
    fn nothing_is_needed() {
        assert_eq!(beside("/nowhere/at/all/model.onnx".as_ref()).unwrap(), None);
        assert_eq!(read("").unwrap(), Some(Config::default()));
    }

    #[test]
    fn what_is_not_known_is_an_error_that_lists_what_is() {
        let refused = |text: &str| {
            let message = read(text).unwrap_err().to_string();
            assert!(message.contains(FILE), "{message}");
            message
        };
        let message = refused("[data]\nmean = 1\nsampels = 3\n");
        for word in ["line 3", "sampels", "samples", "channel-order", "labels-from"] {
            assert!(message.contains(word), "{word}: {message}");
        }
        let message = refused("[train]\nsteps = 3\n");
        assert!(message.contains("train") && message.contains("data"), "{message}");
        assert!(refused("[data]\nmean = \"0.5\"\n").contains("a number or a list of numbers"));
        assert!(refused("[data]\npreprocess = \"resnet\"\n").contains("imagenet-tf"));
        assert!(refused("[data]\nresize = \"big\"\n").contains("such as 224 or 192x48"));
        assert!(refused("[data]\nsamples = -1\n").contains("line 2"));
        assert!(refused("[data\n").contains("line 1"));
    }
}
