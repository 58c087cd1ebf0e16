//! Pooling keeps channels apart.

use super::conv::Window;
use super::cx::{Answer, NodeCx};
use super::relate::{In, Out, Relate};
use super::{OpRule, Shapes};
use crate::refuse;

pub(super) const POOL: &[&str] = &["MaxPool", "AveragePool", "LpPool"];
pub(super) const GLOBAL_POOL: &[&str] = &["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"];

/// Pooling over a window.
pub struct Pool;
/// Pooling over all positions.
pub struct GlobalPool;

fn relate_pool(r: &mut Relate) -> Answer<()> {
    for a in 0..r.cx.rank(0)? {
        if a < 2 {
            r.tie(In(0, a), Out(0, a))?;
        } else {
            r.pin(In(0, a), "pooling runs over this axis");
            r.pin(Out(0, a), "pooling runs over this axis");
        }
    }
    Ok(())
}

impl OpRule for Pool {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let x = cx.shape(0)?;
        if x.len() < 3 {
            refuse!("input of rank {}", x.len());
        }
        let win = Window::read(cx, &vec![1; x.len() - 2])?;
        let ceil = cx.int("ceil_mode", 0) != 0;
        let mut out = x[..2].to_vec();
        for i in 0..x.len() - 2 {
            out.push(win.output(i, x[i + 2], ceil)?);
        }
        Ok(vec![Some(out); cx.n_outputs().max(1)])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        if r.cx.graph.output(r.cx.id, 1).is_some() {
            refuse!("its Indices output counts positions over all channels");
        }
        relate_pool(r)
    }
}

impl OpRule for GlobalPool {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let mut out = cx.shape(0)?.to_vec();
        out.iter_mut().skip(2).for_each(|d| *d = 1);
        Ok(vec![Some(out)])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        relate_pool(r)
    }
}
