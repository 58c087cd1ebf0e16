//! A training graph in the making: what enters, the teacher, the losses.

use super::{Spec, internal, names};
use crate::error::{Error, Result};
use crate::graph::ValueId;
use crate::onnx::Model;
use crate::onnx::proto::{GraphProto, ModelProto, TensorProto, ValueInfoProto, tensor_proto::DataType};
use crate::ops::Answer;
use crate::rewrite::Names;
use crate::train::differentiate::{Forward, prefixed};
use crate::train::fixed::value_info;
use crate::train::loss::{self, Term};
use crate::train::pairs::Pair;
use crate::train::sparsity::{Gated, Slices};
use crate::train::tape::{Tape, Var};
use std::collections::{HashMap, HashSet};

/// The teacher's names.
const TEACHER: &str = "teacher/";

/// The two vectors, and the trained tensors by value.
pub(super) type Live = ([Option<Var>; 2], HashMap<ValueId, Var>);

/// A graph in the making.
pub(super) struct Making<'a> {
    pub(super) t: Tape,
    inputs: Vec<ValueInfoProto>,
    outputs: Vec<ValueInfoProto>,
    pub(super) spec: &'a Spec<'a>,
}

impl<'a> Making<'a> {
    pub(super) fn new(spec: &'a Spec<'a>) -> Self {
        let t = Tape::new(Names::new(spec.student), spec.student.opset, DataType::Float);
        Making { t, inputs: Vec::new(), outputs: Vec::new(), spec }
    }

    pub(super) fn input(&mut self, name: &str, dims: &[usize]) -> Var {
        self.inputs.push(value_info(name, DataType::Float as i32, Some(dims)));
        self.t.existing(name, dims)
    }

    pub(super) fn output(&mut self, v: Var, name: &str) {
        self.t.named(v, name);
        self.outputs.push(ValueInfoProto { name: Some(name.into()), ..ValueInfoProto::default() });
    }

    /// Cuts tensors out of a vector: name, start, shape.
    pub(super) fn cut(&mut self, vector: Var, parts: &[(String, usize, Vec<usize>)]) -> Answer<Vec<Var>> {
        let mut all = Vec::with_capacity(parts.len());
        for (name, at, dims) in parts {
            let n = dims.iter().product();
            let part = self.t.slice(vector, &[(0, *at, n, 1)])?;
            let part = self.t.reshape(part, dims)?;
            all.push(self.t.named(part, name));
        }
        Ok(all)
    }

    /// The trained tensors, from the vectors.
    pub(super) fn live(&mut self, mut gates: Option<(&mut Gated, &Slices)>) -> Answer<Live> {
        let spec = self.spec;
        let mut live = HashMap::new();
        let mut vectors = [None; 2];
        for (v, slot) in vectors.iter_mut().enumerate() {
            let n = spec.layout.sizes[v];
            if n == 0 {
                continue;
            }
            let vector = self.input(&names::weights(v), &[n]);
            *slot = Some(vector);
            for (i, (p, place)) in spec.layout.parameters.iter().zip(&spec.layout.places).enumerate() {
                if place.0 != v {
                    continue;
                }
                let part = self.t.slice(vector, &[(0, place.1, p.numel(), 1)])?;
                let mut part = self.t.reshape(part, &p.dims)?;
                if let Some((gated, slices)) = &mut gates {
                    part = gated.apply(&mut self.t, slices, i, part)?;
                }
                live.insert(p.value, self.t.named(part, &p.name));
            }
        }
        Ok((vectors, live))
    }

    /// The teacher's nodes; values by id.
    pub(super) fn teacher(&mut self, shared: &HashMap<String, String>) -> HashMap<ValueId, Var> {
        let Some(a) = self.spec.teacher else { return HashMap::new() };
        let mut vars = HashMap::new();
        for (i, v) in a.graph.values.iter().enumerate() {
            let Some(dims) = &a.lanes[0].shapes[i] else { continue };
            let name = shared.get(&v.name).cloned().unwrap_or_else(|| format!("{TEACHER}{}", v.name));
            vars.insert(ValueId(i as u32), self.t.existing(&name, dims));
        }
        for &id in &a.graph.order {
            self.t.push(prefixed(a.graph.node(id), TEACHER, shared));
        }
        vars
    }

    /// The losses: each weighted term with what its gradient is of.
    pub(super) fn losses(
        &mut self,
        f: &Forward,
        teacher: &HashMap<ValueId, Var>,
    ) -> Result<Vec<(String, f64, ValueId, Term)>> {
        let spec = self.spec;
        let missing = || Error::Internal("a loss on a tensor of unknown shape".into());
        let mut all = Vec::new();
        for &(kind, weight) in &spec.losses.0 {
            let name = kind.name().to_owned();
            if kind == loss::Kind::Ce {
                let z = spec.classes.ok_or_else(|| {
                    Error::Usage(
                        "the loss ce needs an output with classes on its second axis; the model has none".into(),
                    )
                })?;
                let logits = *f.vars.get(&z).ok_or_else(missing)?;
                let dims = self.t.dims(logits).to_vec();
                let q = self.input(names::WANTED, &dims);
                all.push((name, weight, z, loss::cross_entropy(&mut self.t, logits, q).map_err(internal)?));
                continue;
            }
            let pairs: Vec<&Pair> = spec.pairs.iter().filter(|p| p.of_classes == kind.of_classes()).collect();
            for pair in &pairs {
                let s = *f.vars.get(&pair.student).ok_or_else(missing)?;
                let mut w = *teacher.get(&pair.teacher).ok_or_else(missing)?;
                if let Some((axis, keep)) = &pair.keep {
                    w = self.t.gather(w, keep, *axis).map_err(internal)?;
                }
                let t = &mut self.t;
                let term = match kind {
                    loss::Kind::Kl => loss::kl(t, s, w, spec.temperature),
                    loss::Kind::Mse => loss::mse(t, s, w),
                    loss::Kind::L1 => loss::l1(t, s, w),
                    loss::Kind::Cosine | loss::Kind::Ce => loss::cosine(t, s, w, spec.loss_scale),
                };
                // Several tensors share the term's weight.
                all.push((name.clone(), weight / pairs.len() as f64, pair.student, term.map_err(internal)?));
            }
        }
        Ok(all)
    }

    /// Hands out the terms and their weighted sum.
    pub(super) fn total(&mut self, terms: &[(String, f64, ValueId, Term)]) -> Answer<Var> {
        let mut by_name: Vec<(String, Vec<Var>, f64)> = Vec::new();
        for (name, weight, _, term) in terms {
            match by_name.iter_mut().find(|n| n.0 == *name) {
                Some(entry) => entry.1.push(term.value),
                None => by_name.push((name.clone(), vec![term.value], *weight)),
            }
        }
        let mut parts = Vec::new();
        for (name, values, weight) in by_name {
            let n = values.len() as f64;
            let sum = self.t.sum_of(&values)?;
            parts.push(self.t.scale(sum, weight)?);
            let mean = self.t.scale(sum, 1.0 / n)?;
            self.output(mean, &names::term(&name));
        }
        self.t.sum_of(&parts)
    }

    /// The finished model. `fed`: names that inputs or nodes provide in place of initializers.
    pub(super) fn finish(self, fed: &HashSet<String>) -> Model {
        let spec = self.spec;
        let g = spec.student.graph;
        let (node, constants) = self.t.finish();
        let own = g.proto.initializer.iter().filter(|t| !fed.contains(t.name())).cloned();
        let teacher = spec.teacher.map(|a| a.graph.proto.initializer.as_slice()).unwrap_or_default();
        let teacher = teacher.iter().map(|t| TensorProto { name: Some(format!("{TEACHER}{}", t.name())), ..t.clone() });
        let initializer = own.chain(teacher).chain(constants).collect();
        let initialized: HashSet<&str> = g.proto.initializer.iter().map(|t| t.name()).collect();
        let data = g.proto.input.iter().filter(|i| !initialized.contains(i.name())).cloned();
        let input = data.chain(self.inputs).collect();
        let name = g.proto.name.clone();
        let made = GraphProto { node, initializer, input, output: self.outputs, name, ..GraphProto::default() };
        let mut imports = g.model.proto.opset_import.clone();
        for set in spec.teacher.iter().flat_map(|a| &a.graph.model.proto.opset_import) {
            if imports.iter().all(|i| i.domain() != set.domain()) {
                imports.push(set.clone());
            }
        }
        let proto = ModelProto { graph: Some(made), opset_import: imports, ..g.model.proto.clone() };
        Model::from_proto(proto, g.model.path.clone())
    }
}
