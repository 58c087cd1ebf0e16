//! Patches nodes in topological order and follows every shape through the new graph.

use super::{Cut, edit::Editor, edit::private};
use crate::canon::{self, fold, shuffle::Shuffle, val::Val};
use crate::error::{Error, Result};
use crate::graph::NodeId;
use crate::onnx::proto::{NodeProto, TensorProto, tensor_proto::DataType};
use crate::onnx::tensor;
use crate::ops::cx::{Lane, NodeCx, Override};
use crate::ops::{Loc, OpRule, Patch, build};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The new graph's facts, by the original graph's values.
struct Walk<'a, 'b> {
    cut: &'b Cut<'a>,
    lanes: [Lane; 2],
}

/// Lets every operator patch its obligations and checks the resulting shapes.
pub fn patch_nodes(cut: &Cut, ed: &mut Editor) -> Result<()> {
    let mut w = Walk { cut, lanes: cut.a.lanes.clone() };
    for &id in &cut.a.graph.order {
        let shuffle = cut.a.shuffles.iter().find(|s| s.nodes.contains(&id));
        if let Some(s) = shuffle.filter(|s| cut.shuffles(s)) {
            if s.nodes[2] == id {
                w.shuffle(ed, s)?;
            }
        } else if shuffle.is_some() || !cut.trace.skip[id.0 as usize] {
            // A shuffle that loses nothing stays as it is, with its sizes.
            w.node(ed, id)?;
        }
    }
    Ok(())
}

impl Walk<'_, '_> {
    fn node(&mut self, ed: &mut Editor, id: NodeId) -> Result<()> {
        let cut = self.cut;
        let touched = cut.trace.tensors.of_node(id).any(|t| cut.touches(cut.trace.channels.tensor(t)));
        let mut overrides = self.constants(id, ed)?;
        let rule = cut.a.graph.rule(id).filter(|_| cut.a.refusals[id.0 as usize].is_none());
        let mut wants = BTreeMap::new();
        if touched {
            let Some(rule) = rule else {
                return Err(self.fail(id, "an operator without a rule would lose channels"));
            };
            wants = self.patch(ed, id, rule)?;
        }
        // A size that no channel of this node stands behind keeps its value, wherever it is computed from.
        for &slot in rule.map_or(&[][..], |r| r.size_slots()) {
            wants.entry(slot).or_default();
        }
        for (slot, want) in wants {
            self.require(ed, id, slot, &want, &mut overrides)?;
        }
        self.advance(ed, id, &overrides)?;
        self.select(ed, id)
    }

    /// Takes out, behind a node, what leaves of an output that the node must compute as a whole.
    fn select(&mut self, ed: &mut Editor, id: NodeId) -> Result<()> {
        let cut = self.cut;
        let g = cut.a.graph;
        for s in cut.trace.selections.iter().filter(|s| s.node == id && !cut.on(s.axis).is_empty()) {
            let info = cut.trace.channels.axis(s.axis);
            let gone = cut.on(s.axis);
            let kept: Vec<i64> = (0..info.len).filter(|i| gone.binary_search(i).is_err()).map(|i| i as i64).collect();
            let value = g.output(id, s.slot).ok_or_else(|| self.fail(id, "its output is gone"))?;
            let name = g.name(id);
            let indices =
                ed.add(tensor::from_i64("", &[kept.len()], &kept), &format!("{}.kept", name.trim_start_matches('/')));
            let whole = ed.names.fresh(&format!("{}.whole", g.value(value).name));
            // Of several axes, the first selection reads the node, the next ones read each other.
            let output = ed.rename_output(id, s.slot, &whole).ok_or_else(|| self.fail(id, "its output is gone"))?;
            let wish = ed.names.fresh(&format!("{name}.select"));
            ed.insert_after_first(
                id,
                NodeProto { name: Some(wish), ..build::gather(whole, indices, output, info.axis) },
            );
        }
        Ok(())
    }

    fn fail(&self, id: NodeId, message: &str) -> Error {
        Error::Internal(format!("{}: {message}", self.cut.a.graph.label(id)))
    }

    /// Constants that this node reads in a new form, per lane.
    fn constants(&self, id: NodeId, ed: &Editor) -> Result<[Vec<Override>; 2]> {
        let cut = self.cut;
        let mut out = [Vec::new(), Vec::new()];
        for (slot, t) in cut.trace.tensors.inputs[id.0 as usize].iter().enumerate() {
            let Some(t) = t.map(|t| cut.trace.channels.tensor(t)) else { continue };
            if t.source.is_none() || !cut.touches(t) {
                continue;
            }
            let shape = cut.shrink(t, &t.dims)?;
            // Small integer constants (gather indices) have been cut, not yet renumbered.
            let val = ed.replaced.get(&t.source.unwrap_or(t.value)).and_then(fold::of_tensor).map(Arc::new);
            for lane in &mut out {
                lane.push(Override { slot, shape: Some(shape.clone()), val: val.clone() });
            }
        }
        Ok(out)
    }

    /// Lets the operator patch its attributes; returns what its integer inputs must hold.
    fn patch(&self, ed: &mut Editor, id: NodeId, rule: &dyn OpRule) -> Result<BTreeMap<usize, Vec<Option<i64>>>> {
        let cut = self.cut;
        let removed = |loc: Loc| cut.at(id, loc);
        let mut p = Patch { cx: cut.a.cx(id, 0, &[]), removed: &removed, edits: Default::default() };
        rule.patch(&mut p).map_err(|r| self.fail(id, &r.0))?;
        let edits = p.edits;
        for (name, edit) in &edits.attrs {
            ed.set_attr(id, name, edit);
        }
        Ok(edits.ints)
    }

    /// What a slot holds in the new graph, per lane.
    fn actual(&self, id: NodeId, slot: usize, overrides: &[Vec<Override>; 2]) -> [Option<Arc<Val>>; 2] {
        [0, 1].map(|l| match overrides[l].iter().find(|o| o.slot == slot) {
            Some(o) => o.val.clone(),
            None => self.cut.a.graph.input(id, slot).and_then(|v| self.lanes[l].vals[v.0 as usize].clone()),
        })
    }

    /// Makes an integer input hold what the operator needs: the given elements, and the original value of the others.
    fn require(
        &mut self,
        ed: &mut Editor,
        id: NodeId,
        slot: usize,
        want: &[Option<i64>],
        overrides: &mut [Vec<Override>; 2],
    ) -> Result<()> {
        let g = self.cut.a.graph;
        let old: [Option<Arc<Val>>; 2] =
            [0, 1].map(|l| g.input(id, slot).and_then(|v| self.cut.a.lanes[l].vals[v.0 as usize].clone()));
        let actual = self.actual(id, slot, overrides);
        // Nothing asked for, and nothing known about it: then it stands on nothing that changes.
        let Some(wants) = wanted(want, &old) else {
            return if want.is_empty() { Ok(()) } else { Err(self.fail(id, "a size could not be followed")) };
        };
        let fits = |l: usize| actual[l].as_ref().is_some_and(|v| v.ints() == wants[l]);
        if fits(0) && fits(1) {
            return Ok(());
        }
        let int32 = actual.iter().chain(&old).flatten().any(|v| v.int32);
        // As many elements as before keep their shape: a scalar index, or a table of them.
        let n = wants[0].len();
        let dims = old.iter().flatten().map(|v| &v.dims).find(|d| d.iter().product::<usize>() == n);
        let dims = dims.cloned().unwrap_or_else(|| vec![n]);
        if wants[0] == wants[1] {
            self.replace(ed, id, slot, integers(&dims, &wants[0], int32));
        } else {
            // Some elements are dynamic: correct the others by a constant difference.
            let delta = |l: usize| -> Option<Vec<i64>> {
                let now = actual[l].as_ref().map(|v| v.ints()).filter(|n| n.len() == wants[l].len())?;
                Some(wants[l].iter().zip(&now).map(|(w, n)| w.wrapping_sub(*n)).collect())
            };
            let d = delta(0).filter(|d| delta(1).as_ref() == Some(d));
            let d = d.ok_or_else(|| self.fail(id, "a size that must change depends on a dynamic dimension"))?;
            let name = g.input(id, slot).map(|v| g.value(v).name.clone()).unwrap_or_default();
            let constant = ed.add(integers(&dims, &d, int32), &format!("{name}.delta"));
            let sum = ed.names.fresh(&format!("{name}.pruned"));
            let input = ed.node(id).and_then(|n| n.input.get(slot).cloned()).unwrap_or(name);
            ed.insert_before(id, build::add(input, constant, sum.clone()));
            ed.set_input(id, slot, &sum);
        }
        for (o, v) in overrides.iter_mut().zip(&wants) {
            let v = Val { int32, dims: dims.clone(), ..Val::from_ints(v) };
            o.retain(|o| o.slot != slot);
            o.push(Override { slot, shape: Some(v.dims.clone()), val: Some(Arc::new(v)) });
        }
        Ok(())
    }

    /// Replaces an integer input by a constant: in place when nobody else reads it.
    fn replace(&mut self, ed: &mut Editor, id: NodeId, slot: usize, mut tensor: TensorProto) {
        let g = self.cut.a.graph;
        let value = g.input(id, slot);
        if let Some(old) = value.and_then(|v| g.constant(v)) {
            tensor.name = old.name.clone();
        }
        match value {
            Some(v) if private(self.cut.a, v) => {
                ed.replaced.insert(v, tensor);
            }
            _ => {
                let wish = match value {
                    Some(v) => format!("{}.{}", g.value(v).name, g.name(id).trim_start_matches('/')),
                    None => format!("{}.split", g.name(id)),
                };
                let name = ed.add(tensor, &wish);
                ed.set_input(id, slot, &name);
            }
        }
    }

    /// Computes the node's new output shapes and holds them against the plan.
    fn advance(&mut self, ed: &Editor, id: NodeId, overrides: &[Vec<Override>; 2]) -> Result<()> {
        let cut = self.cut;
        let g = cut.a.graph;
        let outputs = &g.nodes[id.0 as usize].outputs;
        let known = cut.a.refusals[id.0 as usize].is_none();
        let node = ed.node(id).ok_or_else(|| self.fail(id, "it is gone"))?;
        for (l, overrides) in overrides.iter().enumerate() {
            let cx = NodeCx { graph: g, id, node, opset: cut.a.opset, lane: &self.lanes[l], overrides };
            let shapes = if known {
                Some(canon::infer(&cx).map_err(|r| self.fail(id, &format!("after pruning, {}", r.0)))?)
            } else {
                None
            };
            for (slot, out) in outputs.iter().enumerate() {
                let Some(v) = *out else { continue };
                let Some(old) = &cut.a.lanes[l].shapes[v.0 as usize] else { continue };
                let expected = match cut.trace.tensors.by_value.get(&v) {
                    Some(t) => cut.shrink(cut.trace.channels.tensor(*t), old)?,
                    None => old.clone(),
                };
                if let Some(Some(got)) = shapes.as_ref().map(|s| s.get(slot).cloned().flatten())
                    && got != self.whole(id, slot, &expected)
                {
                    return Err(self.fail(
                        id,
                        &format!("output {:?} would have shape {got:?}, planned was {expected:?}", g.value(v).name),
                    ));
                }
                self.lanes[l].shapes[v.0 as usize] = Some(expected);
            }
            let cx = NodeCx { graph: g, id, node, opset: cut.a.opset, lane: &self.lanes[l], overrides };
            let mut vals = fold::eval(&cx);
            vals.resize(outputs.len(), None);
            for (val, out) in vals.into_iter().zip(outputs) {
                if let Some(v) = out {
                    self.lanes[l].vals[v.0 as usize] = val.map(Arc::new);
                }
            }
        }
        Ok(())
    }

    /// The shape that the node itself computes, where an output is selected from behind it.
    fn whole(&self, id: NodeId, slot: usize, expected: &[usize]) -> Vec<usize> {
        let mut out = expected.to_vec();
        for s in self.cut.trace.selections.iter().filter(|s| s.node == id && s.slot == slot) {
            let info = self.cut.trace.channels.axis(s.axis);
            if let Some(d) = out.get_mut(info.axis) {
                *d += self.cut.on(s.axis).len();
            }
        }
        out
    }

    /// A shuffle that loses channels becomes a Gather.
    fn shuffle(&mut self, ed: &mut Editor, s: &Shuffle) -> Result<()> {
        let cut = self.cut;
        let (from, to) = (cut.of_value(s.input, s.axis), cut.of_value(s.output, s.axis));
        let g = cut.a.graph;
        let last = s.nodes[2];
        let mut indices = Vec::new();
        for (k, &i) in s.perm.iter().enumerate() {
            match (to.binary_search(&k).is_ok(), from.binary_search(&i).is_ok()) {
                (true, true) => {}
                (false, false) => indices.push((i - from.partition_point(|&r| r < i)) as i64),
                _ => return Err(self.fail(last, "a shuffled channel would leave on one side only")),
            }
        }
        let name = g.name(last);
        let constant = ed.add(
            tensor::from_i64("", &[indices.len()], &indices),
            &format!("{}.indices", name.trim_start_matches('/')),
        );
        let (input, output) = (g.value(s.input).name.clone(), g.value(s.output).name.clone());
        let gather = NodeProto { name: g.node(last).name.clone(), ..build::gather(input, constant, output, s.axis) };
        if let Some(n) = ed.node_mut(last) {
            *n = gather;
        }
        ed.drop_node(s.nodes[0]);
        ed.drop_node(s.nodes[1]);
        for l in 0..2 {
            if let (Some(t), Some(old)) =
                (cut.trace.tensors.by_value.get(&s.output), &cut.a.lanes[l].shapes[s.output.0 as usize])
            {
                self.lanes[l].shapes[s.output.0 as usize] = Some(cut.shrink(cut.trace.channels.tensor(*t), old)?);
            }
        }
        Ok(())
    }
}

/// Integers of either width.
fn integers(dims: &[usize], v: &[i64], int32: bool) -> TensorProto {
    if !int32 {
        return tensor::from_i64("", dims, v);
    }
    let raw: Vec<u8> = v.iter().flat_map(|&v| (v as i32).to_le_bytes()).collect();
    TensorProto {
        data_type: Some(DataType::Int32 as i32),
        dims: dims.iter().map(|&d| d as i64).collect(),
        raw_data: Some(raw.into()),
        ..TensorProto::default()
    }
}

/// What a slot must hold per lane: the elements asked for, the original ones elsewhere. `None` when that is not known.
fn wanted(want: &[Option<i64>], old: &[Option<Arc<Val>>; 2]) -> Option<[Vec<i64>; 2]> {
    if !want.is_empty() && want.iter().all(Option::is_some) {
        let all: Vec<i64> = want.iter().copied().flatten().collect();
        return Some([all.clone(), all]);
    }
    let [a, b] = old;
    let fill = |v: &Val| -> Option<Vec<i64>> {
        let old = v.ints();
        if want.is_empty() {
            return Some(old);
        }
        (old.len() == want.len()).then(|| want.iter().zip(old).map(|(w, o)| w.unwrap_or(o)).collect())
    };
    Some([fill(a.as_ref()?)?, fill(b.as_ref()?)?])
}
