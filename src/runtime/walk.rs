//! Walking through a model from its inputs, tensor by tensor, for all batches of a data set at once.
//!
//! Statistics and repairs go layer by layer, and what a layer sees depends on the weights before it. [`Walker`] runs just the
//! nodes between what it has and what it is asked for, and keeps of each batch only what later nodes still read.

use super::{Array, Runtime, Session};
use crate::error::{Error, Result};
use crate::flat::captured_names;
use crate::onnx::Model;
use crate::onnx::proto::{GraphProto, NodeProto, TensorProto, TypeProto, ValueInfoProto, type_proto};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

/// Inputs of one run, by name.
pub type Feed = Vec<(String, Array)>;

/// Most elements of an integer tensor that becomes a constant of the part that reads it: runtimes want to know sizes.
const SMALL: usize = 1 << 12;

/// See the [module](self).
pub struct Walker<'r> {
    runtime: &'r dyn Runtime,
    model: Model,
    /// The node that makes each value.
    maker: HashMap<String, usize>,
    /// Per node: all values that it reads.
    reads: Vec<Vec<String>>,
    constants: HashMap<String, usize>,
    /// Values computed from constants alone. Runtimes want to see what they are, so they are never kept.
    derived: BTreeSet<String>,
    inputs: Vec<Arc<Feed>>,
    /// Per batch: what is known.
    kept: Vec<BTreeMap<String, Array>>,
    /// Per node: it has run.
    done: Vec<bool>,
    memory: usize,
    /// Everything is computed from the inputs each time: memory did not suffice.
    thrifty: bool,
    /// Nodes run so far, all batches counted once.
    pub nodes_run: usize,
}

/// A loaded part, and the constants that it was made with.
type Ready = (Feed, Box<dyn Session>);

/// What one step runs.
struct Part {
    nodes: Vec<usize>,
    /// Known values that it reads.
    from: Vec<String>,
}

impl<'r> Walker<'r> {
    /// At the inputs of a flat model. `memory`: bytes that may be kept between steps, beside the inputs themselves.
    ///
    /// # Errors
    /// When the model has no graph, or is flattened and could not be put together again.
    pub fn new(runtime: &'r dyn Runtime, model: &Model, batches: Vec<Arc<Feed>>, memory: usize) -> Result<Walker<'r>> {
        let graph = graph(model)?;
        let mut maker = HashMap::new();
        let mut reads: Vec<Vec<String>> = Vec::new();
        for (i, n) in graph.node.iter().enumerate() {
            maker.extend(n.output.iter().filter(|o| !o.is_empty()).map(|o| (o.clone(), i)));
            let inputs = n.input.iter().map(String::as_str).chain(captured_names(n));
            reads.push(inputs.filter(|v| !v.is_empty()).map(str::to_owned).collect());
        }
        let constants: HashMap<String, usize> =
            graph.initializer.iter().enumerate().map(|(i, t)| (t.name().to_owned(), i)).collect();
        let mut derived: BTreeSet<String> = BTreeSet::new();
        loop {
            let before = derived.len();
            for (n, reads) in graph.node.iter().zip(&reads) {
                // A node without inputs may draw random numbers.
                let fixed = |r: &String| constants.contains_key(r) || derived.contains(r);
                if (!reads.is_empty() || n.attribute.iter().any(|a| a.name().starts_with("value")))
                    && reads.iter().all(fixed)
                {
                    derived.extend(n.output.iter().cloned());
                }
            }
            if derived.len() == before {
                break;
            }
        }
        Ok(Walker {
            runtime,
            derived,
            maker,
            reads,
            constants,
            done: vec![false; graph.node.len()],
            kept: vec![BTreeMap::new(); batches.len()],
            inputs: batches,
            memory,
            thrifty: false,
            nodes_run: 0,
            model: model.clone(),
        })
    }

    /// Gives initializers new values. What has been computed stays as it is.
    ///
    /// # Errors
    /// When there is no such initializer.
    pub fn set(&mut self, tensors: impl IntoIterator<Item = TensorProto>) -> Result<()> {
        for t in tensors {
            let at = self.constants.get(t.name()).copied();
            let slot = self.model.proto.graph.as_mut().zip(at).and_then(|(g, at)| g.initializer.get_mut(at));
            let Some(slot) = slot else { return Err(Error::Internal(format!("{:?} is no initializer", t.name()))) };
            *slot = t;
        }
        Ok(())
    }

    /// Whether a value is computed from constants alone.
    pub fn is_fixed(&self, name: &str) -> bool {
        self.derived.contains(name)
    }

    /// Bytes kept between steps.
    pub fn bytes_kept(&self) -> usize {
        self.kept.iter().flat_map(|k| k.values()).map(Array::bytes).sum()
    }

    /// Computes `names` for every batch, in order, and hands them over in the order of `names`.
    ///
    /// # Errors
    /// When a name is not known, the runtime fails, or `each` does.
    pub fn advance(&mut self, names: &[String], each: &mut dyn FnMut(usize, Vec<Array>) -> Result<()>) -> Result<()> {
        let part = self.part(names)?;
        let running: BTreeSet<usize> = part.nodes.iter().copied().collect();
        let later = |name: &str, s: &Self| {
            (0..s.reads.len()).any(|n| !s.done[n] && !running.contains(&n) && s.reads[n].iter().any(|r| r == name))
        };
        // What comes out: what is asked for, and what others will read.
        let made = part.nodes.iter().flat_map(|&n| self.node(n).into_iter().flat_map(|n| &n.output));
        let mut outputs: Vec<String> = made
            .filter(|o| !o.is_empty())
            .filter(|o| names.contains(o) || (!self.thrifty && !self.derived.contains(*o) && later(o, self)))
            .cloned()
            .collect();
        outputs.sort();
        outputs.dedup();
        let keep: BTreeSet<String> =
            outputs.iter().filter(|o| !self.derived.contains(*o) && later(o, self)).cloned().collect();
        let step = rayon::current_num_threads().max(1);
        for from in (0..self.kept.len()).step_by(step) {
            let to = (from + step).min(self.kept.len());
            let results = self.run(&part, &outputs, from..to)?;
            for (batch, result) in (from..to).zip(results) {
                let find = |name: &String| {
                    let new = result.iter().find(|(n, _)| n == name).map(|(_, a)| a);
                    let known = new.or_else(|| self.known(batch, name)).cloned();
                    known.or_else(|| self.constant(name))
                };
                let asked: Option<Vec<Array>> = names.iter().map(find).collect();
                let asked = asked.ok_or_else(|| Error::Internal(format!("{names:?} did not come out")))?;
                each(batch, asked)?;
                if !self.thrifty
                    && let Some(kept) = self.kept.get_mut(batch)
                {
                    kept.extend(result.into_iter().filter(|(n, _)| keep.contains(n)));
                }
            }
        }
        for &n in &part.nodes {
            if !std::mem::replace(&mut self.done[n], true) {
                self.nodes_run += 1;
            }
        }
        if !self.thrifty {
            let unread: Vec<String> = self
                .kept
                .first()
                .into_iter()
                .flat_map(|k| k.keys())
                .filter(|k| !(0..self.reads.len()).any(|n| !self.done[n] && self.reads[n].contains(k)))
                .cloned()
                .collect();
            self.kept.iter_mut().for_each(|k| k.retain(|name, _| !unread.contains(name)));
            if self.bytes_kept() > self.memory {
                self.thrifty = true;
                self.kept.iter_mut().for_each(BTreeMap::clear);
            }
        }
        Ok(())
    }

    fn known(&self, batch: usize, name: &str) -> Option<&Array> {
        let input = || self.inputs.get(batch)?.iter().find(|(n, _)| n == name).map(|(_, a)| a);
        self.kept.get(batch)?.get(name).or_else(input)
    }

    fn node(&self, n: usize) -> Option<&NodeProto> {
        self.model.proto.graph.as_ref().and_then(|g| g.node.get(n))
    }

    /// An initializer as an array, when someone asks for it.
    fn constant(&self, name: &str) -> Option<Array> {
        let t = self.model.proto.graph.as_ref()?.initializer.get(*self.constants.get(name)?)?;
        Array::from_tensor(t).ok().flatten()
    }

    /// The nodes between what is known and `names`.
    fn part(&self, names: &[String]) -> Result<Part> {
        let known = |v: &str| self.known(0, v).is_some() || self.constants.contains_key(v);
        let mut nodes = BTreeSet::new();
        let mut from = BTreeSet::new();
        let mut open: Vec<&str> = names.iter().map(String::as_str).filter(|v| !known(v)).collect();
        while let Some(v) = open.pop() {
            let Some(&n) = self.maker.get(v) else {
                return Err(Error::Internal(format!("no node makes {v:?}, and no input is named so")));
            };
            if !nodes.insert(n) {
                continue;
            }
            for r in &self.reads[n] {
                if self.constants.contains_key(r.as_str()) {
                    continue;
                }
                if known(r) {
                    from.insert(r.clone());
                } else {
                    open.push(r);
                }
            }
        }
        Ok(Part { nodes: nodes.into_iter().collect(), from: from.into_iter().collect() })
    }

    /// Runs a part for some batches.
    fn run(&self, part: &Part, outputs: &[String], batches: std::ops::Range<usize>) -> Result<Vec<Feed>> {
        if part.nodes.is_empty() {
            return Ok(batches.map(|_| Vec::new()).collect());
        }
        // Loaded once for batches that agree in their constants.
        let sessions: Mutex<Vec<Ready>> = Mutex::new(Vec::new());
        let one = |batch: usize| -> Result<Feed> {
            let known = part.from.iter().filter_map(|name| Some((name.clone(), self.known(batch, name)?.clone())));
            let (fixed, feed): (Feed, Feed) = known.partition(|(_, a)| a.data.is_integer() && a.data.len() <= SMALL);
            let ready = {
                let mut pool = sessions.lock().unwrap_or_else(PoisonError::into_inner);
                pool.iter().position(|(f, _)| *f == fixed).map(|at| pool.swap_remove(at))
            };
            let (fixed, mut session) = match ready {
                Some(ready) => ready,
                None => {
                    let session = self.runtime.load(&self.segment(part, outputs, &fixed, &feed)?)?;
                    (fixed, session)
                }
            };
            let result = session.run(&feed);
            sessions.lock().unwrap_or_else(PoisonError::into_inner).push((fixed, session));
            result
        };
        let results: Vec<Result<Feed>> = batches.into_par_iter().map(one).collect();
        results.into_iter().collect()
    }

    /// A model of the part alone.
    fn segment(&self, part: &Part, outputs: &[String], fixed: &Feed, feed: &Feed) -> Result<Model> {
        let whole = graph(&self.model)?;
        let read: BTreeSet<&str> = part.nodes.iter().flat_map(|&n| &self.reads[n]).map(String::as_str).collect();
        let mut g = GraphProto { name: Some("part".into()), ..GraphProto::default() };
        g.node = part.nodes.iter().filter_map(|&n| whole.node.get(n).cloned()).collect();
        g.initializer = whole.initializer.iter().filter(|t| read.contains(t.name())).cloned().collect();
        for (name, array) in fixed {
            g.initializer.push(array.to_tensor(name));
        }
        g.sparse_initializer.clone_from(&whole.sparse_initializer);
        g.input = feed.iter().map(|(name, array)| declaration(name, array)).collect();
        if self.model.proto.ir_version() < 4 {
            // Every initializer is an input there, with a shape.
            g.input.extend(
                whole
                    .input
                    .iter()
                    .filter(|i| read.contains(i.name()) && self.constants.contains_key(i.name()))
                    .cloned(),
            );
        }
        let output = |name: &String| ValueInfoProto { name: Some(name.clone()), ..ValueInfoProto::default() };
        g.output = outputs.iter().map(output).collect();
        let mut proto = self.model.proto.clone();
        proto.graph = Some(g);
        Ok(self.model.derive(proto))
    }
}

fn graph(model: &Model) -> Result<&GraphProto> {
    model.proto.graph.as_ref().ok_or_else(|| Error::Internal("the model has no graph".into()))
}

/// A graph input without a shape.
fn declaration(name: &str, a: &Array) -> ValueInfoProto {
    let tensor = type_proto::Tensor { elem_type: Some(a.data.elem_type()), shape: None };
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() }),
        ..ValueInfoProto::default()
    }
}
