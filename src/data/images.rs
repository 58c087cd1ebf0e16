//! Folders of images: which files, which labels, and from a file to pixels.

use super::element::Kind;
use super::preprocess::{Layout, Preprocess, Preset, Size};
use super::{LabelsFrom, bad};
use crate::error::Result;
use crate::runtime::InputSpec;
use image::imageops::{self, FilterType};
use image::{DynamicImage, GrayImage, ImageReader, RgbImage};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The file of labels beside the images.
const LABELS: &str = "labels.csv";

/// What a folder holds.
#[derive(Debug, Default)]
pub(super) struct Folder {
    /// In order of their names.
    pub files: Vec<PathBuf>,
    pub labels: Option<Vec<i64>>,
    pub notes: Vec<String>,
}

fn is_image(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    matches!(extension.as_str(), "jpg" | "jpeg" | "png" | "webp" | "bmp")
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"."))
}

/// Visible entries in order of their names: images, folders, and how many others there are.
fn list(dir: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>, usize)> {
    let unreadable = |e| bad(dir, format!("the folder cannot be read: {e}"));
    let entries = fs::read_dir(dir).map_err(unreadable)?;
    let mut paths: Vec<PathBuf> = entries.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>().map_err(unreadable)?;
    paths.retain(|p| !is_hidden(p));
    paths.sort();
    let (dirs, files): (Vec<_>, Vec<_>) = paths.into_iter().partition(|p| p.is_dir());
    let (images, others): (Vec<_>, Vec<_>) = files.into_iter().partition(|p| is_image(p));
    let others = others.iter().filter(|p| p.file_name().is_some_and(|n| n != LABELS)).count();
    Ok((images, dirs, others))
}

impl Folder {
    /// Finds the images of a flat folder or of one with a folder for each class.
    pub fn open(dir: &Path, from: Option<LabelsFrom>) -> Result<Self> {
        let (files, dirs, others) = list(dir)?;
        let mut folder = Self { files, ..Self::default() };
        let mut left_out = others;
        if folder.files.is_empty() {
            let mut labels = Vec::new();
            for (class, sub) in (0i64..).zip(&dirs) {
                let (images, _, others) = list(sub)?;
                left_out += others;
                if images.is_empty() {
                    folder.notes.push(format!("class folder {} has no images", name_of(sub)));
                }
                labels.resize(labels.len() + images.len(), class);
                folder.files.extend(images);
            }
            folder.labels = Some(labels);
        } else if !dirs.is_empty() {
            folder.notes.push(format!("there are images beside {} folders; the folders are left out", dirs.len()));
        }
        if folder.files.is_empty() {
            let wanted = "expected .jpg, .png, .webp or .bmp files, a folder of them for each class, or ONNX test data \
                          (input_0.pb, or test_data_set_*/input_0.pb)";
            return Err(bad(dir, format!("no images here: {wanted}")));
        }
        if left_out > 0 {
            folder.notes.push(format!("files that are not images were left out: {left_out}"));
        }
        let csv = dir.join(LABELS);
        match from {
            Some(LabelsFrom::Name) => folder.labels = Some(numbers(&folder.files)?),
            None if csv.exists() => folder.labels = Some(table(&csv, dir, &folder.files)?),
            None => {}
        }
        Ok(folder)
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The number in front of each name, as in `0007_cat.jpg`.
fn numbers(files: &[PathBuf]) -> Result<Vec<i64>> {
    let number = |path: &PathBuf| {
        let name = name_of(path);
        let digits = name.split_once('_').map(|(n, _)| n).filter(|n| n.bytes().all(|b| b.is_ascii_digit()));
        let number = digits.and_then(|n| n.parse().ok());
        number.ok_or_else(|| bad(path, "its name has no class number in front, as in 0007_cat.jpg"))
    };
    files.iter().map(number).collect()
}

/// Labels from a file of `file,label` rows.
fn table(csv: &Path, dir: &Path, files: &[PathBuf]) -> Result<Vec<i64>> {
    let text = fs::read_to_string(csv).map_err(|e| bad(csv, format!("cannot be read: {e}")))?;
    let relative = |path: &Path| path.strip_prefix(dir).unwrap_or(path).to_string_lossy().replace('\\', "/");
    let index: HashMap<String, usize> = files.iter().enumerate().map(|(i, path)| (relative(path), i)).collect();
    let mut labels: Vec<Option<i64>> = vec![None; files.len()];
    let rows = text.trim_start_matches('\u{feff}').lines().enumerate().filter(|(_, row)| !row.trim().is_empty());
    for (nth, (line, row)) in rows.enumerate() {
        let line = line + 1;
        let unquoted = |s: &str| s.trim().trim_matches('"').to_owned();
        let (file, label) = row
            .rsplit_once(',')
            .map(|(file, label)| (unquoted(file), unquoted(label)))
            .ok_or_else(|| bad(csv, format!("line {line}: expected file,label, not {row:?}")))?;
        let place = index.get(file.trim_start_matches("./"));
        let Ok(label) = label.parse::<i64>() else {
            if nth == 0 && place.is_none() {
                continue; // The header.
            }
            return Err(bad(csv, format!("line {line}: the label {label:?} of {file} is not an integer")));
        };
        let place = place.and_then(|&i| labels.get_mut(i));
        let place = place.ok_or_else(|| bad(csv, format!("line {line}: there is no image {file}")))?;
        if let Some(other) = place.replace(label).filter(|&other| other != label) {
            return Err(bad(csv, format!("line {line}: {file} has two labels, {other} and {label}")));
        }
    }
    let missing = labels.iter().filter(|l| l.is_none()).count();
    let first = labels.iter().zip(files).find_map(|(label, file)| label.is_none().then(|| relative(file)));
    match (labels.into_iter().collect::<Option<Vec<i64>>>(), first) {
        (Some(labels), _) => Ok(labels),
        (None, first) => {
            let first = first.unwrap_or_default();
            Err(bad(csv, format!("{missing} of {} images have no label, the first is {first}", files.len())))
        }
    }
}

/// What every image becomes: pixels, channels last.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Shape {
    /// 1 or 3.
    pub channels: usize,
    /// Width and height that the model fixes.
    width: Option<u32>,
    height: Option<u32>,
    resize: Option<Size>,
    crop: Option<(u32, u32)>,
}

/// A decoded image.
pub(super) struct Pixels {
    pub width: usize,
    pub height: usize,
    pub bytes: Vec<u8>,
}

impl Pixels {
    pub const KIND: Kind = Kind::U8;
}

impl Shape {
    /// From what the model wants and what was asked for. The error is why that cannot be.
    pub fn new(spec: &InputSpec, layout: Layout, options: &Preprocess) -> Result<Self, String> {
        let shown = super::shown(&spec.dims);
        let (channels, height, width) = match (spec.dims.as_slice(), layout) {
            ([], _) => (None, None, None),
            (&[_, c, h, w], Layout::Nchw) | (&[_, h, w, c], Layout::Nhwc) => (c, h, w),
            _ => return Err(format!("the model's input {:?} has shape {shown}, and images need 4 axes", spec.name)),
        };
        let channels = channels.unwrap_or(3);
        if !matches!(channels, 1 | 3) {
            return Err(format!(
                "the model's input {:?} of shape {shown} has {channels} channels in layout {}, and images have 1 or 3; \
                 --layout says where the channels are",
                spec.name,
                layout.name()
            ));
        }
        let side = |n: Option<usize>| n.map(u32::try_from).transpose().map_err(|_| format!("{shown} is too large"));
        let (width, height) = (side(width)?, side(height)?);
        let (mut resize, mut crop) = (options.resize, options.crop);
        if options.preset == Some(Preset::Imagenet) {
            // In the proportion of the usual 256 and 224, whatever the model's size.
            let (w, h) = (width.or(height).unwrap_or(224), height.or(width).unwrap_or(224));
            let side = (u64::from(w.max(h)) * 256 + 112) / 224;
            resize = resize.or(u32::try_from(side).ok().map(Size::Side));
            crop = crop.or(Some(Size::Exact(w, h)));
        }
        let both = |size| match size {
            Size::Side(n) => (n, n),
            Size::Exact(w, h) => (w, h),
        };
        let shape = Self { channels, width, height, resize, crop: crop.map(both) };
        // What can be known without looking at an image.
        let known = shape.crop.or(match shape.resize {
            Some(Size::Exact(w, h)) => Some((w, h)),
            _ => None,
        });
        match known.filter(|&(w, h)| !shape.fits(w, h)) {
            Some((w, h)) => Err(format!(
                "resize and crop give images of {w}x{h}, but the model's input {:?} of shape {shown} wants {}",
                spec.name,
                shape.wanted()
            )),
            None => Ok(shape),
        }
    }

    fn fits(&self, width: u32, height: u32) -> bool {
        self.width.is_none_or(|w| w == width) && self.height.is_none_or(|h| h == height)
    }

    /// `WxH` that the model wants.
    fn wanted(&self) -> String {
        let side = |n: Option<u32>| n.map_or_else(|| "?".to_owned(), |n| n.to_string());
        format!("{}x{}", side(self.width), side(self.height))
    }

    /// Decodes and brings to size.
    pub fn read(&self, path: &Path) -> Result<Pixels> {
        let unreadable = |e: &dyn std::fmt::Display| bad(path, format!("the image cannot be read: {e}"));
        // By content: extensions are often wrong.
        let reader = ImageReader::open(path).and_then(ImageReader::with_guessed_format).map_err(|e| unreadable(&e))?;
        let decoded = reader.decode().map_err(|e| unreadable(&e))?;
        let size = (decoded.width(), decoded.height());
        if size.0 == 0 || size.1 == 0 {
            return Err(unreadable(&"it has no pixels"));
        }
        let (scaled, cut) = self.steps(size).map_err(|why| bad(path, why))?;
        let bytes = match self.channels {
            1 => cropped(resized(luma(&decoded), scaled), cut).into_raw(),
            _ => cropped(resized(decoded.into_rgb8(), scaled), cut).into_raw(),
        };
        let (w, h) = cut.map_or(scaled, |(_, _, w, h)| (w, h));
        Ok(Pixels { width: w as usize, height: h as usize, bytes })
    }

    /// For an image of a size: the size it is resized to, and the left, top, width and height that are cut out.
    #[allow(clippy::type_complexity)]
    fn steps(&self, (w, h): (u32, u32)) -> Result<((u32, u32), Option<(u32, u32, u32, u32)>), String> {
        let scaled = match (self.resize, self.crop) {
            (Some(Size::Exact(w, h)), _) => (w, h),
            // The longer side is rounded down, as torchvision does.
            (Some(Size::Side(s)), _) if w <= h => (s, longer(s, h, w)?),
            (Some(Size::Side(s)), _) => (longer(s, w, h)?, s),
            (None, None) => (self.width.unwrap_or(w), self.height.unwrap_or(h)),
            (None, Some(_)) => (w, h),
        };
        let cut = match self.crop {
            Some((w, h)) if w > scaled.0 || h > scaled.1 => {
                let now = if self.resize.is_some() { "after resizing" } else { "without resizing" };
                return Err(format!("the image is {}x{} {now}, smaller than the crop of {w}x{h}", scaled.0, scaled.1));
            }
            Some((w, h)) => Some((middle(scaled.0 - w), middle(scaled.1 - h), w, h)),
            None => None,
        };
        let (w, h) = cut.map_or(scaled, |(_, _, w, h)| (w, h));
        if !self.fits(w, h) {
            let wanted = self.wanted();
            return Err(format!("the image is {w}x{h} after resizing, but the model wants {wanted}; crop it to that"));
        }
        Ok((scaled, cut))
    }
}

fn longer(side: u32, long: u32, short: u32) -> Result<u32, String> {
    let n = u64::from(side) * u64::from(long) / u64::from(short.max(1));
    u32::try_from(n).ok().filter(|&n| n <= 1 << 16).ok_or_else(|| format!("resizing would make a side of {n} pixels"))
}

/// Half of it, to the nearest even number between two: Python's `round`, so that crops are those of torchvision.
fn middle(spare: u32) -> u32 {
    let half = spare / 2;
    if spare % 2 == 1 && half % 2 == 1 { half + 1 } else { half }
}

fn resized<P>(image: image::ImageBuffer<P, Vec<u8>>, (w, h): (u32, u32)) -> image::ImageBuffer<P, Vec<u8>>
where
    P: image::Pixel<Subpixel = u8> + 'static,
{
    if image.dimensions() == (w, h) { image } else { imageops::resize(&image, w, h, FilterType::Triangle) }
}

fn cropped<P>(
    image: image::ImageBuffer<P, Vec<u8>>,
    cut: Option<(u32, u32, u32, u32)>,
) -> image::ImageBuffer<P, Vec<u8>>
where
    P: image::Pixel<Subpixel = u8> + 'static,
{
    match cut {
        Some((x, y, w, h)) if image.dimensions() != (w, h) => imageops::crop_imm(&image, x, y, w, h).to_image(),
        _ => image,
    }
}

/// Brightness with the weights of ITU-R 601, as Pillow has them (the image crate's are those of 709).
fn luma(image: &DynamicImage) -> GrayImage {
    if !image.color().has_color() {
        return image.to_luma8();
    }
    let rgb: RgbImage = image.to_rgb8();
    let mut gray = GrayImage::new(rgb.width(), rgb.height());
    for (to, from) in gray.pixels_mut().zip(rgb.pixels()) {
        let [r, g, b] = from.0.map(u32::from);
        to.0 = [((r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16) as u8];
    }
    gray
}

#[cfg(test)]
#[path = "images_tests.rs"]
mod tests;
