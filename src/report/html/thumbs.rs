//! Small pictures of the samples that a page shows, as `data:` addresses.

use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::evaluate::diff::{Changed, Diff};
use crate::runtime::Array;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::codecs::png::PngEncoder;
use image::imageops::{FilterType, resize};
use image::{ExtendedColorType, ImageEncoder, Rgb, RgbImage};
use std::io::Cursor;

/// Samples of each kind that are shown; together they are the most pictures.
pub(super) const BROKEN: usize = 10;
pub(super) const FIXED: usize = 6;
pub(super) const WORST: usize = 8;
/// Pixels of a picture's longer side.
const SIDE: u32 = 96;

/// A picture of a sample's input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thumbnail {
    /// Its position in the data, from 0.
    pub sample: usize,
    /// The PNG as a `data:` address.
    pub uri: String,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
}

/// Whether only the original has it right; without labels: whether the two differ at all.
pub(super) fn broken(c: &Changed) -> bool {
    let right = |class: Option<usize>, label: i64| class.is_some_and(|c| i64::try_from(c) == Ok(label));
    c.label.is_none_or(|l| right(c.original, l))
}

/// Whether only the pruned model has it right.
pub(super) fn fixed(c: &Changed) -> bool {
    c.label.is_some_and(|l| c.pruned.is_some_and(|p| i64::try_from(p) == Ok(l)))
}

/// Positions of the samples that the page shows, each once.
fn shown(d: &Diff) -> Vec<usize> {
    let broken = d.changed.iter().filter(|c| broken(c)).take(BROKEN).map(|c| c.sample);
    let fixed = d.changed.iter().filter(|c| fixed(c)).take(FIXED).map(|c| c.sample);
    let mut all: Vec<usize> = broken.chain(fixed).chain(d.worst.iter().take(WORST).map(|w| w.sample)).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Pictures of the samples of a diff that the page shows, where the first input with four axes has one or three channels; else
/// none. Values are those that the model gets, scaled from each sample's own least and largest to black and white.
///
/// # Errors
/// When a sample cannot be read.
pub fn thumbnails(d: &Diff, data: &Dataset) -> Result<Vec<Thumbnail>> {
    let mut all = Vec::new();
    let mut read: Option<(usize, Vec<(String, Array)>)> = None;
    for sample in shown(d) {
        let k = sample / data.batch_size().max(1);
        if read.as_ref().is_none_or(|r| r.0 != k) {
            read = Some((k, data.batch(k)?));
        }
        let row = sample - data.range(k).start;
        let Some(picture) = read.iter().flat_map(|r| &r.1).find_map(|(_, a)| picture(a, row)) else { return Ok(all) };
        let small = shrunk(&picture);
        all.push(Thumbnail { sample, uri: png(&small)?, width: small.width(), height: small.height() });
    }
    Ok(all)
}

/// Row `row` as a picture, in either order of axes.
fn picture(a: &Array, row: usize) -> Option<RgbImage> {
    let &[rows, x, y, z] = a.dims.as_slice() else { return None };
    let is_colour = |c: usize| c == 1 || c == 3;
    let (channels, height, width, last) = match () {
        () if is_colour(x) && y > 3 && z > 3 => (x, y, z, false),
        () if is_colour(z) && x > 3 && y > 3 => (z, x, y, true),
        () => return None,
    };
    let size = channels.checked_mul(height)?.checked_mul(width)?;
    if row >= rows {
        return None;
    }
    let all = a.to_f64();
    let values = all.get(row * size..(row + 1) * size)?;
    let finite = || values.iter().copied().filter(|v| v.is_finite());
    let (low, high) = (finite().fold(f64::INFINITY, f64::min), finite().fold(f64::NEG_INFINITY, f64::max));
    let range = if high > low { high - low } else { 1.0 };
    let at = |c: usize, y: usize, x: usize| {
        let i = if last { (y * width + x) * channels + c } else { (c * height + y) * width + x };
        let v = values.get(i).copied().filter(|v| v.is_finite()).unwrap_or(low);
        ((v - low) / range * 255.0).round() as u8
    };
    let pixel = |x: u32, y: u32| {
        let (x, y) = (x as usize, y as usize);
        let one = |c: usize| at(c.min(channels - 1), y, x);
        Rgb([one(0), one(1), one(2)])
    };
    Some(RgbImage::from_fn(u32::try_from(width).ok()?, u32::try_from(height).ok()?, pixel))
}

/// At most [`SIDE`] pixels a side; never enlarged.
fn shrunk(picture: &RgbImage) -> RgbImage {
    let (w, h) = picture.dimensions();
    let most = w.max(h);
    if most <= SIDE {
        return picture.clone();
    }
    let side = |x: u32| ((u64::from(x) * u64::from(SIDE) / u64::from(most)) as u32).max(1);
    resize(picture, side(w), side(h), FilterType::Triangle)
}

fn png(picture: &RgbImage) -> Result<String> {
    let mut bytes = Cursor::new(Vec::new());
    let written =
        PngEncoder::new(&mut bytes).write_image(picture, picture.width(), picture.height(), ExtendedColorType::Rgb8);
    written.map_err(|e| Error::Internal(format!("a thumbnail cannot be written: {e}")))?;
    Ok(format!("data:image/png;base64,{}", STANDARD.encode(bytes.into_inner())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Data;

    #[test]
    fn values_become_pixels_in_both_orders() {
        let mut values = vec![0.0_f32; 2 * 3 * 4 * 5];
        // Second sample: red at the first pixel, blue at the last.
        values[60] = 2.0;
        values[60 + 59] = 1.0;
        let a = Array { dims: vec![2, 3, 4, 5], data: Data::F32(values.clone()) };
        let p = picture(&a, 1).unwrap();
        assert_eq!((p.dimensions(), p.get_pixel(0, 0).0, p.get_pixel(4, 3).0), ((5, 4), [255, 0, 0], [0, 0, 128]));
        let last = Array { dims: vec![2, 4, 5, 3], data: Data::F32(values) };
        assert_eq!(picture(&last, 1).unwrap().get_pixel(4, 3).0, [0, 0, 128]);
        assert!(picture(&last, 2).is_none());
        let flat = Array { dims: vec![1, 2, 8, 8], data: Data::F32(vec![0.0; 128]) };
        assert!(picture(&flat, 0).is_none());
        let grey = Array { dims: vec![1, 1, 4, 4], data: Data::F32(vec![f32::NAN; 16]) };
        assert!(png(&picture(&grey, 0).unwrap()).unwrap().starts_with("data:image/png;base64,iVBOR"));
        assert_eq!(shrunk(&RgbImage::new(400, 100)).dimensions(), (96, 24));
    }
}
