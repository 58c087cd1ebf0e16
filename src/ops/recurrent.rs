//! Recurrent layers: `LSTM`, `GRU`, `RNN`.
//!
//! With `D` directions, `G` gates and `H` hidden units: `X[S,N,I]`, `W[D,G·H,I]`, `R[D,G·H,H]`, `B[D,2·G·H]`,
//! `P[D,3·H]`, states `[D,N,H]`, `Y[S,D,N,H]`; under `layout = 1` the batch comes first. Hidden unit `j` is row `g·H + j`
//! of every gate, in both directions alike, and column `j` of `R`.

use super::cx::{Answer, NodeCx};
use super::patch::Patch;
use super::relate::{In, Loc, Out, Relate};
use super::{OpRule, Shapes};
use crate::channels::model::Role;
use crate::refuse;

pub(super) const RECURRENT: &[&str] = &["LSTM", "GRU", "RNN"];

/// `LSTM`, `GRU`, `RNN`.
pub struct Recurrent;

const W: usize = 1;
const R: usize = 2;
const B: usize = 3;
const LENGTHS: usize = 4;
const STATE_H: usize = 5;
const STATE_C: usize = 6;
const PEEPHOLES: usize = 7;

/// Sizes and the order of axes.
struct Plan {
    directions: usize,
    hidden: usize,
    /// Axis of the steps and of the batch in `X`.
    steps: usize,
    batch: usize,
}

impl Plan {
    fn read(cx: &NodeCx) -> Answer<Self> {
        let gates = match cx.node.op_type() {
            "LSTM" => 4,
            "GRU" => 3,
            _ => 1,
        };
        let directions = match cx.string("direction").unwrap_or("forward") {
            "forward" | "reverse" => 1,
            "bidirectional" => 2,
            other => refuse!("direction {other:?}"),
        };
        let (x, w, r) = (cx.shape(0)?, cx.shape(W)?, cx.shape(R)?);
        let ([_, _, input], &[_, rows, hidden]) = (x, r) else {
            refuse!("input {x:?} and recurrence weight {r:?} are not of rank 3");
        };
        let attribute = cx.int("hidden_size", 0);
        if attribute != 0 && usize::try_from(attribute) != Ok(hidden) {
            refuse!("hidden_size is {attribute}, the recurrence weight has shape {r:?}");
        }
        if hidden.checked_mul(gates) != Some(rows) || r[0] != directions || w != [directions, rows, *input] {
            refuse!("weights {w:?} and {r:?} do not fit an input of {input} in {directions} direction(s)");
        }
        let (steps, batch) = match cx.int("layout", 0) {
            0 => (0, 1),
            1 => (1, 0),
            other => refuse!("layout {other}"),
        };
        let plan = Plan { directions, hidden, steps, batch };
        let n = x[batch];
        let state = plan.state(n);
        let wanted: [(usize, Vec<usize>); 5] = [
            (B, vec![directions, rows.checked_mul(2).ok_or("too many rows")?]),
            (LENGTHS, vec![n]),
            (STATE_H, state.clone()),
            (STATE_C, state),
            (PEEPHOLES, vec![directions, hidden.checked_mul(3).ok_or("too many rows")?]),
        ];
        for (slot, want) in wanted {
            if cx.has(slot) && cx.shape(slot)? != want {
                refuse!("input {slot} of shape {:?}, expected {want:?}", cx.shape(slot)?);
            }
        }
        Ok(plan)
    }

    /// Shape of a state for a batch of `n`.
    fn state(&self, n: usize) -> Vec<usize> {
        if self.batch == 0 { vec![n, self.directions, self.hidden] } else { vec![self.directions, n, self.hidden] }
    }

    /// Axis of the batch in `Y`.
    fn batch_of_output(&self) -> usize {
        if self.batch == 0 { 0 } else { 2 }
    }

    /// Axis of the steps in `Y`.
    fn steps_of_output(&self) -> usize {
        self.steps
    }
}

/// Ties every row `g·H + j` of an axis with hidden unit `j`.
fn tie_gates(r: &mut Relate, rows: Loc, unit: Loc, hidden: usize) -> Answer<()> {
    let n = r.size(rows)?;
    r.tie_map(rows, unit, (0..n).map(|k| (k, k % hidden.max(1))))
}

impl OpRule for Recurrent {
    fn weight_slots(&self) -> &'static [usize] {
        &[W, R]
    }

    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let p = Plan::read(cx)?;
        let x = cx.shape(0)?;
        let (s, n, d, h) = (x[p.steps], x[p.batch], p.directions, p.hidden);
        let y = if p.batch == 0 { vec![n, s, d, h] } else { vec![s, d, n, h] };
        let mut out = vec![Some(y)];
        out.resize(cx.n_outputs().max(1), Some(p.state(n)));
        Ok(out)
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        const ALONG: &str = "a recurrent layer runs along this axis";
        const DIRECTION: &str = "the directions of a recurrent layer";
        let p = Plan::read(&r.cx)?;
        // Column `j` of R stands for hidden unit `j`: it is always there.
        let unit = In(R, 2);
        r.tie(In(0, 2), In(W, 2))?;
        tie_gates(r, In(W, 1), unit, p.hidden)?;
        tie_gates(r, In(R, 1), unit, p.hidden)?;
        for slot in [W, R] {
            r.pin(In(slot, 0), DIRECTION);
            r.site(Role::Producer, slot, 1);
            if r.is_weight(slot) {
                r.contract(slot, 2);
            } else {
                r.pin(In(slot, 2), "a weight of the recurrent layer is computed from the input");
            }
        }
        for (slot, role) in [(B, Role::Bias), (PEEPHOLES, Role::PerChannel)] {
            if r.cx.has(slot) {
                r.pin(In(slot, 0), DIRECTION);
                tie_gates(r, In(slot, 1), unit, p.hidden)?;
                r.site(role, slot, 1);
            }
        }
        let batch = In(0, p.batch);
        r.free(batch);
        r.pin(In(0, p.steps), ALONG);
        if r.cx.has(LENGTHS) {
            r.tie(In(LENGTHS, 0), batch)?;
        }
        let mut states: Vec<fn(usize) -> Loc> = Vec::new();
        if r.cx.has(STATE_H) {
            states.push(|a| In(STATE_H, a));
        }
        if r.cx.has(STATE_C) {
            states.push(|a| In(STATE_C, a));
        }
        if r.cx.graph.output(r.cx.id, 1).is_some() {
            states.push(|a| Out(1, a));
        }
        if r.cx.graph.output(r.cx.id, 2).is_some() {
            states.push(|a| Out(2, a));
        }
        for at in states {
            r.pin(at(1 - p.batch), DIRECTION);
            r.tie(at(p.batch), batch)?;
            r.tie(at(2), unit)?;
        }
        if r.cx.graph.output(r.cx.id, 0).is_some() {
            r.pin(Out(0, p.steps_of_output()), ALONG);
            r.pin(Out(0, if p.batch == 0 { 2 } else { 1 }), DIRECTION);
            r.tie(Out(0, p.batch_of_output()), batch)?;
            r.tie(Out(0, 3), unit)?;
        }
        // Per step and sample; a dynamic batch counts as one sample.
        let mut constant = p.directions as f64 * r.size(In(0, p.steps))? as f64;
        if r.fixed(batch) {
            constant *= r.size(batch)? as f64;
        }
        r.macs(constant, &[In(W, 1), In(W, 2)])?;
        r.macs(constant, &[In(R, 1), In(R, 2)])
    }

    fn patch(&self, p: &mut Patch) -> Answer<()> {
        let gone = p.removed(In(R, 2)).len();
        if gone > 0 {
            let hidden = p.cx.shape(R)?.get(2).copied().unwrap_or(0);
            p.set_int("hidden_size", (hidden - gone) as i64);
        }
        Ok(())
    }
}
