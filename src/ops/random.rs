//! Random numbers: they follow the layout of the whole tensor, so nothing of it may leave.

use super::cx::{Answer, NodeCx};
use super::relate::Relate;
use super::{OpRule, Shapes};
use crate::refuse;

pub(super) const RANDOM: &[&str] = &["RandomNormal", "RandomUniform"];
pub(super) const RANDOM_LIKE: &[&str] = &["RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"];

const REASON: &str = "its random numbers follow the layout of the whole tensor";

/// Random numbers of a given shape.
pub struct Random;
/// Random numbers for a tensor.
pub struct RandomLike;

impl OpRule for Random {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let shape = cx.list("shape").ok_or("its shape is missing")?;
        let dims: Result<Vec<usize>, _> = shape.into_iter().map(usize::try_from).collect();
        Ok(vec![Some(dims.map_err(|_| "a negative size")?)])
    }

    fn relate(&self, _: &mut Relate) -> Answer<()> {
        refuse!("{REASON}")
    }
}

impl OpRule for RandomLike {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let mut out = cx.shape(0)?.to_vec();
        if cx.node.op_type() == "Multinomial" {
            let [_, classes] = out.as_mut_slice() else { refuse!("input of shape {out:?}") };
            *classes = usize::try_from(cx.int("sample_size", 1)).map_err(|_| "a negative sample_size")?;
        }
        Ok(vec![Some(out)])
    }

    fn relate(&self, _: &mut Relate) -> Answer<()> {
        refuse!("{REASON}")
    }
}
