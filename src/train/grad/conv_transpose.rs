//! Transposed convolutions: the gradient of one is a convolution.

use super::conv::{Shape, of_weight, spatial};
use super::{Back, Gradient, Kind};
use crate::ops::conv::{Window, group};
use crate::ops::{Answer, NodeCx};

/// `ConvTranspose`.
pub struct ConvTranspose;

/// Zeros that the operator cuts off in front of each axis.
///
/// Of a total that only the output's extents tell, the larger half is in front, but with `SAME_UPPER` behind, as the format
/// says.
fn before(cx: &NodeCx, w: &Window, input: &[usize], output: &[usize]) -> Vec<usize> {
    let list = |name: &str| cx.list(name).filter(|l| !l.is_empty());
    if let (Some(pads), None) = (&w.pads, list("output_shape")) {
        return pads.iter().map(|p| p.0).collect();
    }
    let extra = list("output_padding");
    let upper = cx.string("auto_pad") == Some("SAME_UPPER");
    let one = |(i, (&size, &out)): (usize, (&usize, &usize))| {
        let more = extra.as_ref().and_then(|e| e.get(i)).map_or(0, |&e| usize::try_from(e).unwrap_or(0));
        let span = (size.max(1) - 1) * w.strides[i] + (w.kernel[i] - 1) * w.dilations[i] + 1 + more;
        let total = span.saturating_sub(out);
        if upper { total / 2 } else { total - total / 2 }
    };
    input.iter().zip(output).enumerate().map(one).collect()
}

impl Gradient for ConvTranspose {
    fn parameters(&self, _cx: &NodeCx) -> Vec<(usize, Kind)> {
        vec![(1, Kind::Weight), (2, Kind::Bias)]
    }

    fn backward(&self, b: &mut Back) -> Answer<()> {
        let (mut dy, x, w) = (b.dy()?, b.x(0)?, b.x(1)?);
        let (xd, wd, yd) = (b.t.dims(x).to_vec(), b.t.dims(w).to_vec(), b.t.dims(dy).to_vec());
        if b.wants(2) {
            let axes: Vec<usize> = (0..yd.len()).filter(|&a| a != 1).collect();
            let db = b.t.sum(dy, &axes, false)?;
            b.give(2, db)?;
        }
        let window = Window::read(&b.cx, spatial(&wd))?;
        let begin = before(&b.cx, &window, spatial(&xd), spatial(&yd));
        let Window { kernel, strides, dilations, .. } = window;
        let mut s = Shape { kernel, strides, dilations, pads: Vec::new(), group: group(&b.cx)? };
        // The convolution that leads from the output's extents back to the input's.
        let mut cut = Vec::new();
        for (i, &front) in begin.iter().enumerate() {
            let reach = (xd[i + 2] - 1) * s.strides[i] + s.extent(i);
            let have = yd[i + 2] + front;
            s.pads.push((front, reach.saturating_sub(have)));
            cut.push((i + 2, 0, yd[i + 2] - have.saturating_sub(reach).min(yd[i + 2]), 1));
        }
        dy = b.t.slice(dy, &cut)?;
        if b.wants(1) {
            let dw = of_weight(b.t, &s, dy, x, &wd)?;
            b.give(1, dw)?;
        }
        if b.wants(0) {
            let dx = s.convolve(b.t, dy, w, &xd);
            b.give(0, dx)?;
        }
        Ok(())
    }
}
