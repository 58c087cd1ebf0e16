//! What data is, in one hash.

use super::{Dataset, Source};
use sha2::{Digest, Sha256};

/// See [`Dataset::digest`].
pub(super) fn digest(data: &Dataset) -> String {
    let mut hash = Sha256::new();
    let inner = &data.inner;
    // Lengths and quotes keep one field from running into the next.
    let mut field = |text: String| hash.update(format!("{}:{text}", text.len()));
    field(format!("{} samples by {}", data.len(), data.batch));
    field(format!("{:?}", data.labels.as_deref()));
    data.chosen.iter().for_each(|&i| field(inner.name(i)));
    for feed in &inner.feeds {
        hash.update(format!("{:?} {:?} {:?}", feed.spec, feed.values, feed.like.elem_type()));
        match &feed.source {
            Source::Rows { stored, order, dims } => {
                hash.update(format!("rows {:?} {order:?} {dims:?}", stored.kind));
                data.chosen.iter().for_each(|&i| hash.update(stored.sample(i)));
            }
            Source::Constant(array) => {
                hash.update(format!("constant {:?}", array.dims));
                array.to_f64().iter().for_each(|v| hash.update(v.to_le_bytes()));
            }
            Source::Images { files, shape, layout } => {
                hash.update(format!("images {shape:?} {layout:?}"));
                for file in data.chosen.iter().filter_map(|&i| files.get(i)) {
                    // One that has gone says so when it is read.
                    let size = std::fs::metadata(file).map_or(0, |m| m.len());
                    hash.update(size.to_le_bytes());
                }
            }
        }
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
