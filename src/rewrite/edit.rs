//! The graph under the knife: the original protobuf plus changes, put together at the end.

use super::Names;
use crate::canon::Analysis;
use crate::flat::Came;
use crate::graph::{NodeId, Origin, ValueId, attribute};
use crate::onnx::proto::tensor_shape_proto::{Dimension, dimension::Value as DimValue};
use crate::onnx::proto::{
    AttributeProto, ModelProto, NodeProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto,
    attribute_proto::AttributeType, type_proto,
};
use crate::ops::patch::AttrEdit;
use std::collections::{BTreeMap, HashSet};

/// Collected changes.
pub(crate) struct Editor {
    proto: ModelProto,
    pub names: Names,
    /// Replacement data of constants that keep their place and name.
    pub replaced: BTreeMap<ValueId, TensorProto>,
    /// Additional initializers.
    added: Vec<TensorProto>,
    /// Nodes to insert before a node.
    before: BTreeMap<NodeId, Vec<NodeProto>>,
    /// Nodes to insert after a node.
    after: BTreeMap<NodeId, Vec<NodeProto>>,
    dropped: HashSet<NodeId>,
}

impl Editor {
    pub fn new(a: &Analysis) -> Self {
        Editor {
            // Tensor data is reference-counted: this copies names and numbers.
            proto: a.graph.model.proto.clone(),
            names: Names::new(a),
            replaced: BTreeMap::new(),
            added: Vec::new(),
            before: BTreeMap::new(),
            after: BTreeMap::new(),
            dropped: HashSet::new(),
        }
    }

    pub fn node(&self, id: NodeId) -> Option<&NodeProto> {
        self.proto.graph.as_ref().and_then(|g| g.node.get(id.0 as usize))
    }

    pub fn node_mut(&mut self, id: NodeId) -> Option<&mut NodeProto> {
        self.proto.graph.as_mut().and_then(|g| g.node.get_mut(id.0 as usize))
    }

    pub fn drop_node(&mut self, id: NodeId) {
        self.dropped.insert(id);
    }

    pub fn insert_before(&mut self, id: NodeId, node: NodeProto) {
        self.before.entry(id).or_default().push(node);
    }

    /// Inserts a node right after another, before what has been inserted there already.
    pub fn insert_after_first(&mut self, id: NodeId, node: NodeProto) {
        self.after.entry(id).or_default().insert(0, node);
    }

    /// Gives an output slot a new name and returns the old one.
    pub fn rename_output(&mut self, id: NodeId, slot: usize, name: &str) -> Option<String> {
        let output = self.node_mut(id)?.output.get_mut(slot)?;
        Some(std::mem::replace(output, name.to_owned()))
    }

    /// Adds an initializer under a fresh name near `wish` and returns the name.
    pub fn add(&mut self, mut t: TensorProto, wish: &str) -> String {
        let name = self.names.fresh(wish);
        t.name = Some(name.clone());
        self.added.push(t);
        name
    }

    /// Points an input slot at another tensor.
    pub fn set_input(&mut self, id: NodeId, slot: usize, name: &str) {
        if let Some(n) = self.node_mut(id) {
            if n.input.len() <= slot {
                n.input.resize(slot + 1, String::new());
            }
            n.input[slot] = name.to_owned();
        }
    }

    pub fn set_attr(&mut self, id: NodeId, name: &str, edit: &AttrEdit) {
        let Some(n) = self.node_mut(id) else { return };
        if *edit == AttrEdit::Remove {
            n.attribute.retain(|a| a.name() != name);
            return;
        }
        let index = n.attribute.iter().position(|a| a.name() == name).unwrap_or_else(|| {
            n.attribute.push(AttributeProto { name: Some(name.to_owned()), ..AttributeProto::default() });
            n.attribute.len() - 1
        });
        let attr = &mut n.attribute[index];
        match edit {
            AttrEdit::Int(v) => {
                attr.i = Some(*v);
                attr.r#type = Some(AttributeType::Int as i32);
            }
            AttrEdit::Ints(v) => {
                attr.ints.clone_from(v);
                attr.r#type = Some(AttributeType::Ints as i32);
            }
            AttrEdit::Remove => {}
        }
    }

    /// Puts the new model together.
    pub fn finish(self, a: &Analysis) -> Edited {
        let Editor { mut proto, replaced, added, mut before, mut after, dropped, .. } = self;
        let Some(g) = &mut proto.graph else { return Edited { proto, came: Vec::new() } };
        let mut came: Vec<Came> = (0..g.node.len()).map(Came::From).collect();
        for (v, tensor) in replaced {
            match a.graph.value(v).origin {
                Origin::Initializer(i) => {
                    if let Some(slot) = g.initializer.get_mut(i) {
                        *slot = tensor;
                    }
                }
                Origin::Node(n, _) => {
                    let attr =
                        g.node.get_mut(n.0 as usize).and_then(|n| n.attribute.iter_mut().find(|a| a.name() == "value"));
                    if let Some(attr) = attr {
                        // Keep whatever name the attribute's tensor had.
                        let name = attr.t.as_ref().and_then(|t| t.name.clone());
                        attr.t = Some(TensorProto { name, ..tensor });
                    }
                }
                _ => {}
            }
        }
        // Before IR version 4 every initializer is listed among the inputs.
        if a.graph.model.proto.ir_version() < 4 {
            g.input.extend(added.iter().map(declaration));
        }
        g.initializer.extend(added);
        if !before.is_empty() || !after.is_empty() || !dropped.is_empty() {
            let old = std::mem::take(&mut g.node);
            came.clear();
            for (i, node) in old.into_iter().enumerate() {
                let id = NodeId(i as u32);
                g.node.extend(before.remove(&id).unwrap_or_default());
                came.resize(g.node.len(), Came::Beside(i));
                if !dropped.contains(&id) {
                    g.node.push(node);
                    came.push(Came::From(i));
                }
                g.node.extend(after.remove(&id).unwrap_or_default());
                came.resize(g.node.len(), Came::Beside(i));
            }
        }
        drop_orphans(a, &mut proto, &mut came);
        Edited { proto, came }
    }
}

/// What an editor made.
pub(crate) struct Edited {
    pub proto: ModelProto,
    /// Where each node comes from.
    pub came: Vec<Came>,
}

/// The input declaration of a constant.
fn declaration(t: &TensorProto) -> ValueInfoProto {
    let dim = |&d: &i64| Dimension { value: Some(DimValue::DimValue(d)), ..Dimension::default() };
    let shape = TensorShapeProto { dim: t.dims.iter().map(dim).collect() };
    let ty = type_proto::Tensor { elem_type: t.data_type, shape: Some(shape) };
    ValueInfoProto {
        name: t.name.clone(),
        r#type: Some(TypeProto { value: Some(type_proto::Value::TensorType(ty)), ..TypeProto::default() }),
        ..ValueInfoProto::default()
    }
}

/// Removes constants, and nodes that pass constants on or compute sizes, that had readers before and have none now.
fn drop_orphans(a: &Analysis, proto: &mut ModelProto, came: &mut Vec<Came>) {
    let Some(g) = &mut proto.graph else { return };
    let had_readers = |name: &str| {
        a.graph.find(name).is_some_and(|v| {
            let v = a.graph.value(v);
            !v.readers.is_empty() && !v.is_output && v.captured_by.is_none()
        })
    };
    let never_read = |name: &str| {
        a.graph.find(name).is_some_and(|v| {
            let v = a.graph.value(v);
            v.readers.is_empty() && !v.is_output && v.captured_by.is_none()
        })
    };
    let mut gone: HashSet<String> = HashSet::new();
    loop {
        let read: HashSet<&str> = g.node.iter().flat_map(|n| n.input.iter().map(String::as_str)).collect();
        let orphan = |name: &str| !read.contains(name) && had_readers(name);
        let doomed: Vec<usize> = (0..g.node.len())
            .filter(|&i| {
                let n = &g.node[i];
                // Side outputs that nothing ever read do not keep it.
                let unread = |o: &String| o.is_empty() || orphan(o) || never_read(o);
                n.output.iter().any(|o| orphan(o))
                    && n.output.iter().all(unread)
                    && n.attribute.iter().all(|a| a.g.is_none() && a.graphs.is_empty())
            })
            .collect();
        let tensors: HashSet<String> =
            g.initializer.iter().map(|t| t.name()).filter(|n| orphan(n)).map(str::to_owned).collect();
        if doomed.is_empty() && tensors.is_empty() {
            break;
        }
        for &i in doomed.iter().rev() {
            let n = g.node.remove(i);
            came.remove(i);
            gone.extend(n.output);
        }
        g.initializer.retain(|t| !tensors.contains(t.name()));
        gone.extend(tensors);
    }
    g.value_info.retain(|v| !gone.contains(v.name()));
    g.input.retain(|v| !gone.contains(v.name()));
}

/// Whether a constant may be changed in place: one reader, not visible from outside.
pub(crate) fn private(a: &Analysis, v: ValueId) -> bool {
    let value = a.graph.value(v);
    let data = match value.origin {
        Origin::Initializer(_) => true,
        Origin::Node(n, _) => attribute(a.graph.node(n), "value").is_some_and(|x| x.t.is_some()),
        _ => false,
    };
    data && value.readers.len() == 1 && !value.is_output && value.captured_by.is_none()
}
