//! Control flow and model-local functions as one flat graph, and back.
//!
//! Analysis knows one graph. [`flatten`] makes it of a model whose nodes have subgraphs or call functions of the model:
//!
//! * The body of every `If`, `Loop`, `Scan` and `SequenceMap` is lifted into the main graph. The body's inputs become
//!   additional graph inputs and its outputs additional graph outputs, so they stay whole like the real ones. The node
//!   itself stays, with an empty body, and no rule. What a body captures it reads directly: a constant of an outer graph is
//!   an ordinary weight, an activation is pinned ([`Graph`](crate::graph::Graph) marks it).
//! * A call of a function is replaced by the function's nodes.
//!
//! Every name in the flat graph tells where it belongs: `if_1/then_branch/conv`, `block_2/conv`. `Scopes` remembers how
//! it was, and travels with the model; [`rewrite`](crate::rewrite) follows its edits (`Scopes::settle`) and puts all back
//! (`unflatten`): nodes and constants into their bodies under their own names, and every call whose nodes are all as they
//! were into a call. A call that was touched stays inlined. Functions that nobody calls any more go.
//!
//! What cannot be flattened stays as it is, an operator without a rule: recursive or malformed functions, functions with
//! other operator set versions than the model, nesting deeper than [`MAX_DEPTH`], calls beyond [`MAX_NODES`].

mod functions;
mod lift;
mod names;
mod settle;
mod unflatten;

pub(crate) use names::captured_names;
pub(crate) use settle::Came;
pub(crate) use unflatten::unflatten;

use crate::error::Result;
use crate::graph::NodeId;
use crate::onnx::Model;
use crate::onnx::proto::{GraphProto, ModelProto, NodeProto, OperatorSetIdProto};
use functions::Functions;
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Bodies and calls inside each other that are followed.
pub const MAX_DEPTH: usize = 64;
/// Nodes that calls may expand to, in all.
pub const MAX_NODES: usize = 1_000_000;

/// Index into [`Scopes::scopes`]; 0 is the main graph.
pub(crate) type ScopeId = usize;

/// The main graph.
pub(crate) const MAIN: ScopeId = 0;

/// Where everything in a flat graph comes from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scopes {
    /// Per node of the flat graph.
    nodes: Vec<Spot>,
    /// A scope comes after the one that it is in.
    scopes: Vec<Scope>,
    /// Values of bodies and inlined functions, by their names in the flat graph.
    values: HashMap<String, Local>,
    /// Names of the additional graph inputs, and the bodies whose inputs they are.
    inputs: Vec<(String, ScopeId)>,
    /// Names of the additional graph outputs, and the bodies whose outputs they are.
    outputs: Vec<(String, ScopeId)>,
    /// Number of outputs of the main graph.
    main_outputs: usize,
    /// Operator sets that inlined functions import and the model does not.
    imports: Vec<OperatorSetIdProto>,
    /// Functions (by position) that were called, directly or not.
    called: HashSet<usize>,
    /// Every name in the model as it was.
    taken: HashSet<String>,
}

/// A node's place.
#[derive(Clone, Debug)]
struct Spot {
    scope: ScopeId,
    /// Its name in the file, where that is another than in the flat graph.
    name: Option<Option<String>>,
    /// Its attributes in the file, where they are others: subgraphs that were not lifted.
    attribute: Option<Vec<crate::onnx::proto::AttributeProto>>,
}

/// A value that is not of the main graph.
#[derive(Clone, Debug)]
struct Local {
    scope: ScopeId,
    /// Its name in the file; `None` in an inlined function, which has none.
    name: Option<String>,
}

/// A graph inside the graph.
#[derive(Clone, Debug)]
struct Scope {
    parent: ScopeId,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Main,
    /// A subgraph of a node.
    Body {
        /// The node, by position in the flat graph.
        owner: usize,
        /// The attribute that holds it, by position.
        attribute: usize,
        /// Position in an attribute that holds several.
        index: Option<usize>,
        /// What stays as it is: name, inputs, outputs, documentation.
        frame: Box<GraphProto>,
    },
    /// An inlined call.
    Call {
        /// The call, in the words of the flat graph.
        node: Box<NodeProto>,
        /// Its name in the file, where that is another.
        name: Option<Option<String>>,
        /// Position of the function.
        function: usize,
        /// A node of it is no longer what the function says.
        touched: bool,
    },
}

/// A flattened node's subgraph, as the graph view shows it.
pub(crate) struct Body<'a> {
    /// The node.
    pub owner: NodeId,
    /// The body around it, if any.
    pub parent: Option<usize>,
    /// Names of its inputs.
    pub inputs: Vec<&'a str>,
    /// Names of its outputs.
    pub outputs: Vec<&'a str>,
}

impl Scopes {
    /// The main graph or body that a scope is in, or is.
    fn frame(&self, mut scope: ScopeId) -> ScopeId {
        while let Kind::Call { .. } = self.scopes[scope].kind {
            scope = self.scopes[scope].parent;
        }
        scope
    }

    /// Whether a scope is inside a call, or is one.
    fn in_call(&self, mut scope: ScopeId) -> bool {
        while scope != MAIN {
            if let Kind::Call { .. } = self.scopes[scope].kind {
                return true;
            }
            scope = self.scopes[scope].parent;
        }
        false
    }

    /// All bodies; one that is inside another comes after it.
    pub fn bodies(&self) -> Vec<Body<'_>> {
        let mut place = HashMap::new();
        let mut out: Vec<Body> = Vec::new();
        for (id, scope) in self.scopes.iter().enumerate() {
            if let Kind::Body { owner, .. } = scope.kind {
                place.insert(id, out.len());
                out.push(Body {
                    owner: NodeId(owner as u32),
                    parent: place.get(&self.frame(scope.parent)).copied(),
                    inputs: Vec::new(),
                    outputs: Vec::new(),
                });
            }
        }
        for (name, scope) in &self.inputs {
            out[place[scope]].inputs.push(name);
        }
        for (name, scope) in &self.outputs {
            out[place[scope]].outputs.push(name);
        }
        out
    }

    /// Per node of the flat graph: the body that it is in, by position in [`Scopes::bodies`].
    pub fn body_of(&self) -> Vec<Option<usize>> {
        let bodies = self.scopes.iter().enumerate().filter(|(_, s)| matches!(s.kind, Kind::Body { .. }));
        let place: HashMap<ScopeId, usize> = bodies.enumerate().map(|(k, (id, _))| (id, k)).collect();
        self.nodes.iter().map(|s| place.get(&self.frame(s.scope)).copied()).collect()
    }

    /// Names that the flat graph does not show and the file has.
    pub fn taken(&self) -> impl Iterator<Item = &String> {
        self.taken.iter()
    }
}

/// The model with all subgraphs and calls in its main graph; the model itself when it has none.
///
/// The flat model is for analysis and for [`rewrite`](crate::rewrite): it does not compute what the model computes, and
/// cannot be written.
///
/// # Errors
/// [`Error::Graph`](crate::error::Error::Graph) when a node reads a name that nothing defines where it stands.
pub fn flatten(model: &Model) -> Result<Cow<'_, Model>> {
    let Some(graph) = model.proto.graph.as_ref().filter(|_| model.scopes.is_none()) else {
        return Ok(Cow::Borrowed(model));
    };
    let mut functions = Functions::new(&model.proto);
    let bodied = |n: &NodeProto| n.attribute.iter().any(|a| a.g.is_some() || !a.graphs.is_empty());
    if !graph.node.iter().any(|n| bodied(n) || functions.find(n).is_some()) {
        return Ok(Cow::Borrowed(model));
    }
    let (graph, scopes) = lift::lift(model, graph, &mut functions)?;
    let mut opset_import = model.proto.opset_import.clone();
    opset_import.extend(scopes.imports.iter().cloned());
    let proto = ModelProto { graph: Some(graph), opset_import, ..shell(&model.proto) };
    Ok(Cow::Owned(model.derive(proto).scoped(Some(Arc::new(scopes)))))
}

/// A model without functions, where they can be inlined: for runtimes that do not know them.
///
/// # Errors
/// As [`flatten`].
pub fn inline(model: &Model) -> Result<Cow<'_, Model>> {
    if model.proto.functions.is_empty() {
        return Ok(Cow::Borrowed(model));
    }
    let flat = flatten(model)?;
    let Some(scopes) = &flat.scopes else { return Ok(Cow::Borrowed(model)) };
    let mut scopes = Scopes::clone(scopes);
    for scope in &mut scopes.scopes {
        if let Kind::Call { touched, .. } = &mut scope.kind {
            *touched = true;
        }
    }
    Ok(Cow::Owned(model.derive(unflatten(flat.proto.clone(), &scopes)?)))
}

/// Everything but the main graph and the operator sets.
fn shell(m: &ModelProto) -> ModelProto {
    ModelProto {
        ir_version: m.ir_version,
        opset_import: Vec::new(),
        producer_name: m.producer_name.clone(),
        producer_version: m.producer_version.clone(),
        domain: m.domain.clone(),
        model_version: m.model_version,
        doc_string: m.doc_string.clone(),
        graph: None,
        metadata_props: m.metadata_props.clone(),
        training_info: m.training_info.clone(),
        functions: m.functions.clone(),
        configuration: m.configuration.clone(),
    }
}
