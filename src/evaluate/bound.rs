//! Times of models whose inputs and outputs stay where they compute, and of the copies that are spared so.
//!
//! A time is that of one [`Bound::compute`]: from inputs on the device to outputs on the device, the device being done. ONNX
//! Runtime has no call that copies a tensor between devices; a model of one Identity node does it, so that a copy takes some tens
//! of microseconds even where there is little to copy.

use super::bench::{Clock, Effort, Rounds, of_model, rounds};
use super::stats;
use crate::error::{Error, Result};
use crate::runtime::walk::Feed;
use crate::runtime::{Bound, Session};
use schemars::JsonSchema;
use serde::Serialize;

/// Copies that are timed, after one that is not.
const COPIES: usize = 20;

/// Copies between the processor's memory and the device's, for one run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Copies {
    /// Median milliseconds for all inputs to the device.
    pub upload_ms: f64,
    /// Median milliseconds for all outputs from the device.
    pub download_ms: f64,
    /// Bytes of all inputs.
    pub input_bytes: u64,
    /// Bytes of all outputs.
    pub output_bytes: u64,
}

/// As [`super::bench::measure`], with inputs and outputs on the device; then the copies, in turn as well.
///
/// # Errors
/// When a runtime cannot bind, a run or copy fails, with the model's name, or when there is nothing to feed.
pub fn measure_bound(
    sessions: &mut [(String, Box<dyn Session>)],
    feeds: &[Feed],
    effort: &Effort,
    clock: &mut dyn Clock,
) -> Result<(Rounds, Vec<Copies>)> {
    let first = feeds.first().ok_or_else(|| Error::Usage("there are no inputs to run the models on".into()))?;
    let mut bound: Vec<(String, Box<dyn Bound + '_>)> = Vec::new();
    for (name, session) in sessions.iter_mut() {
        bound.push((name.clone(), session.bind(feeds).map_err(|e| of_model(e, name))?));
    }
    let done = rounds(bound.len(), effort, clock, &mut |i, k| match bound.get_mut(i) {
        Some((name, bound)) => bound.compute(k % feeds.len()).map_err(|e| of_model(e, name)),
        None => Ok(()),
    })?;
    let mut up = vec![Vec::new(); bound.len()];
    let mut down = up.clone();
    for k in 0..=COPIES {
        for (((name, bound), up), down) in bound.iter_mut().zip(&mut up).zip(&mut down) {
            let times = copies(&mut **bound, k % feeds.len(), clock).map_err(|e| of_model(e, name))?;
            if k > 0 {
                up.push(times.0);
                down.push(times.1);
            }
        }
    }
    let input_bytes = bytes(first);
    let mut all = Vec::new();
    for (((name, bound), up), down) in bound.iter().zip(&up).zip(&down) {
        let output_bytes = bytes(&bound.downloaded().map_err(|e| of_model(e, name))?);
        let (upload_ms, download_ms) = (stats::median(up), stats::median(down));
        all.push(Copies { upload_ms, download_ms, input_bytes, output_bytes });
    }
    Ok((done, all))
}

/// Milliseconds in and out.
fn copies(bound: &mut dyn Bound, feed: usize, clock: &mut dyn Clock) -> Result<(f64, f64)> {
    let begin = clock.seconds();
    bound.upload(feed)?;
    let up = clock.seconds() - begin;
    let begin = clock.seconds();
    bound.download()?;
    Ok((up * 1e3, (clock.seconds() - begin) * 1e3))
}

fn bytes(feed: &Feed) -> u64 {
    feed.iter().map(|(_, a)| (a.data.len() * a.data.width()) as u64).sum()
}
