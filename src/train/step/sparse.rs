//! What sparse training adds to a step.

use super::making::Making;
use super::names;
use crate::graph::ValueId;
use crate::ops::Answer;
use crate::runtime::walk::Feed;
use crate::train::optimizer::Rates;
use crate::train::sparsity::{self, Gated, Kind, Slices};
use crate::train::tape::Var;
use std::collections::{BTreeMap, HashMap};

impl Making<'_> {
    /// The gates of channels, if this kind of sparse training has some.
    pub(super) fn gates(&mut self, slices: Option<&Slices>) -> Answer<Option<Gated>> {
        let (Some(sparse), Some(slices)) = (self.spec.sparse, slices) else { return Ok(None) };
        if !sparse.what.kind.has_gates() {
            return Ok(None);
        }
        let gates = self.input(names::GATES, &[slices.channels]);
        let learns = sparse.what.kind == Kind::L0;
        let noise = learns.then(|| self.input(names::GATE_NOISE, &[slices.channels]));
        Gated::new(&mut self.t, gates, noise).map(Some)
    }

    /// Takes the gates out of the gradients, and has them learn. Gives the state that they begin with.
    pub(super) fn learn_gates(
        &mut self,
        slices: &Slices,
        gated: &Gated,
        gradients: &mut BTreeMap<ValueId, Var>,
    ) -> Answer<Feed> {
        let (Some(sparse), layout) = (self.spec.sparse, &self.spec.layout) else { return Ok(Feed::new()) };
        let t = &mut self.t;
        let Some(g) = sparsity::gradient_of_gates(t, sparse.what.value, slices, layout, gated, gradients)? else {
            let squares = sparsity::weights(t, slices, gated.whole())?;
            self.output(squares, names::SLICES);
            return Ok(Feed::new());
        };
        let n = [slices.channels];
        let gates = self.t.existing(names::GATES, &n);
        let update = sparsity::update();
        let rates = Rates {
            lr: self.input(names::GATE_LR, &[]),
            corrections: names::GATE_CORRECTIONS.map(|name| self.input(name, &[])),
        };
        let states: Vec<Var> = (0..update.states()).map(|k| self.input(&names::gate_state(k), &n)).collect();
        let stepped = update.write(&mut self.t, gates, g, &states, rates, false)?;
        self.output(stepped.w, &names::next(names::GATES));
        for (k, s) in stepped.states.into_iter().enumerate() {
            self.output(s, &names::next(&names::gate_state(k)));
        }
        Ok(sparsity::begin(slices))
    }

    /// Hands out the penalty; the loss with it.
    pub(super) fn penalty(
        &mut self,
        slices: &Slices,
        gated: Option<&Gated>,
        live: &HashMap<ValueId, Var>,
        loss: Var,
    ) -> Answer<Var> {
        let Some(sparse) = self.spec.sparse else { return Ok(loss) };
        let all = self.spec.layout.parameters.iter().enumerate();
        let tensors = all.filter_map(|(i, p)| Some((i, *live.get(&p.value)?))).collect();
        let Some(value) = sparsity::penalised(&mut self.t, sparse.what, slices, &tensors, gated)? else {
            return Ok(loss);
        };
        self.output(value, names::PENALTY);
        self.t.add(loss, value)
    }
}
