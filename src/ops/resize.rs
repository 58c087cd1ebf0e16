//! Resampling of positions; channels pass.

use super::cx::{Answer, NodeCx, norm_axes};
use super::patch::Patch;
use super::relate::{In, Out, Relate};
use super::{OpRule, Shapes};
use crate::refuse;

pub(super) const RESIZE: &[&str] = &["Resize"];
pub(super) const UPSAMPLE: &[&str] = &["Upsample"];

/// `Resize` by scales or to sizes.
pub struct Resize;
/// Its predecessor.
pub struct Upsample;

fn scaled(x: &[usize], scales: &[f64], axes: &[usize]) -> Answer<Vec<usize>> {
    if scales.len() != axes.len() {
        refuse!("{} scales for {} axes", scales.len(), axes.len());
    }
    let mut out = x.to_vec();
    for (&a, &s) in axes.iter().zip(scales) {
        let n = (x[a] as f64 * s).floor();
        if !(0.0..1e9).contains(&n) {
            refuse!("a scale of {s}");
        }
        out[a] = n as usize;
    }
    Ok(out)
}

/// Axes with a scale of exactly 1 pass; the others are resampled and pinned (a scale of 1.1 may leave a small size as it
/// is and still move its indices).
fn relate_resampled(r: &mut Relate, scales: &[f64]) -> Answer<()> {
    let (x, y) = (r.cx.shape(0)?, r.cx.out_shape(0)?);
    for a in 0..x.len() {
        if x[a] == y[a] && a < 2 && scales.get(a) == Some(&1.0) {
            r.tie(In(0, a), Out(0, a))?;
        } else {
            r.pin(In(0, a), "it is resampled");
            r.pin(Out(0, a), "it is resampled");
        }
    }
    Ok(())
}

impl Resize {
    /// Slots of (scales, sizes): opset 10 has no roi and no sizes.
    fn slots(cx: &NodeCx) -> (usize, Option<usize>) {
        if cx.opset < 11 { (1, None) } else { (2, Some(3)) }
    }

    fn axes(cx: &NodeCx) -> Answer<Vec<usize>> {
        let rank = cx.rank(0)?;
        match cx.list("axes") {
            Some(a) => norm_axes(&a, rank),
            None => Ok((0..rank).collect()),
        }
    }
}

impl OpRule for Resize {
    fn size_slots(&self) -> &'static [usize] {
        &[3]
    }

    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let x = cx.shape(0)?;
        let axes = Self::axes(cx)?;
        let (scales, sizes) = Self::slots(cx);
        if let Some(sizes) = sizes.filter(|&s| cx.has(s)) {
            if cx.string("keep_aspect_ratio_policy").is_some_and(|p| p != "stretch") {
                refuse!("keep_aspect_ratio_policy");
            }
            let s = cx.need_ints(sizes, "sizes")?;
            if s.len() != axes.len() {
                refuse!("{} sizes for {} axes", s.len(), axes.len());
            }
            let mut out = x.to_vec();
            for (&a, &n) in axes.iter().zip(&s) {
                out[a] = usize::try_from(n).map_err(|_| format!("a size of {n}"))?;
            }
            return Ok(vec![Some(out)]);
        }
        let v = cx.val(scales).ok_or("its scales are computed at run time")?;
        Ok(vec![Some(scaled(x, &v.data, &axes)?)])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        if r.cx.string("coordinate_transformation_mode") == Some("tf_crop_and_resize") {
            refuse!("it crops before it resamples");
        }
        let (slot, sizes) = Self::slots(&r.cx);
        let mut scales = vec![1.0; r.cx.rank(0)?];
        // Sizes that equal the input's are a scale of 1.
        if sizes.is_none_or(|s| !r.cx.has(s)) {
            let given = r.cx.val(slot).ok_or("its scales are computed at run time")?;
            for (a, s) in Self::axes(&r.cx)?.into_iter().zip(&given.data) {
                scales[a] = *s;
            }
        }
        relate_resampled(r, &scales)
    }

    fn patch(&self, p: &mut Patch) -> Answer<()> {
        let (_, sizes) = Self::slots(&p.cx);
        let Some(slot) = sizes.filter(|&s| p.cx.has(s)) else { return Ok(()) };
        let out = p.cx.out_shape(0)?;
        let mut new = Vec::new();
        for a in Self::axes(&p.cx)? {
            let gone = p.removed(Out(0, a)).len();
            new.push((gone > 0).then(|| (out[a] - gone) as i64));
        }
        if new.iter().any(Option::is_some) {
            p.require(slot, new);
        }
        Ok(())
    }
}

impl Upsample {
    fn scales(cx: &NodeCx) -> Answer<Vec<f64>> {
        Ok(match crate::graph::attribute(cx.node, "scales") {
            Some(a) => a.floats.iter().map(|&f| f64::from(f)).collect(),
            None => cx.val(1).ok_or("its scales are computed at run time")?.data.clone(),
        })
    }
}

impl OpRule for Upsample {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let x = cx.shape(0)?;
        Ok(vec![Some(scaled(x, &Self::scales(cx)?, &(0..x.len()).collect::<Vec<_>>())?)])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        let scales = Self::scales(&r.cx)?;
        relate_resampled(r, &scales)
    }
}
