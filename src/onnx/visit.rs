//! Every tensor of a model, wherever it hides: initializers, sparse parts, attributes, subgraphs, functions, training.

use super::error::OnnxError;
use super::proto::{GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto};

/// The walk once for shared and once for exclusive references. Recursion is bounded by prost's own limit of 100 levels.
macro_rules! walk {
    ($doc:literal, $model:ident, $graph:ident, $nodes:ident, $sparse:ident, $($m:tt)?) => {
        #[doc = $doc]
        pub fn $model(
            model: &$($m)? ModelProto,
            f: &mut dyn FnMut(&$($m)? TensorProto) -> Result<(), OnnxError>,
        ) -> Result<(), OnnxError> {
            if let Some(graph) = &$($m)? model.graph {
                $graph(graph, f)?;
            }
            for training in &$($m)? model.training_info {
                if let Some(graph) = &$($m)? training.initialization {
                    $graph(graph, f)?;
                }
                if let Some(graph) = &$($m)? training.algorithm {
                    $graph(graph, f)?;
                }
            }
            for function in &$($m)? model.functions {
                for attribute in &$($m)? function.attribute_proto {
                    $nodes::attribute(attribute, f)?;
                }
                $nodes::nodes(&$($m)? function.node, f)?;
            }
            Ok(())
        }

        fn $graph(
            graph: &$($m)? GraphProto,
            f: &mut dyn FnMut(&$($m)? TensorProto) -> Result<(), OnnxError>,
        ) -> Result<(), OnnxError> {
            for tensor in &$($m)? graph.initializer {
                f(tensor)?;
            }
            for sparse in &$($m)? graph.sparse_initializer {
                $sparse(sparse, f)?;
            }
            $nodes::nodes(&$($m)? graph.node, f)
        }

        fn $sparse(
            sparse: &$($m)? SparseTensorProto,
            f: &mut dyn FnMut(&$($m)? TensorProto) -> Result<(), OnnxError>,
        ) -> Result<(), OnnxError> {
            if let Some(tensor) = &$($m)? sparse.values {
                f(tensor)?;
            }
            if let Some(tensor) = &$($m)? sparse.indices {
                f(tensor)?;
            }
            Ok(())
        }

        mod $nodes {
            use super::{$graph, $sparse, NodeProto, OnnxError, TensorProto};
            use crate::onnx::proto::AttributeProto;

            pub(super) fn nodes(
                nodes: &$($m)? [NodeProto],
                f: &mut dyn FnMut(&$($m)? TensorProto) -> Result<(), OnnxError>,
            ) -> Result<(), OnnxError> {
                for node in nodes {
                    for a in &$($m)? node.attribute {
                        attribute(a, f)?;
                    }
                }
                Ok(())
            }

            pub(super) fn attribute(
                attribute: &$($m)? AttributeProto,
                f: &mut dyn FnMut(&$($m)? TensorProto) -> Result<(), OnnxError>,
            ) -> Result<(), OnnxError> {
                if let Some(tensor) = &$($m)? attribute.t {
                    f(tensor)?;
                }
                for tensor in &$($m)? attribute.tensors {
                    f(tensor)?;
                }
                if let Some(sparse) = &$($m)? attribute.sparse_tensor {
                    $sparse(sparse, f)?;
                }
                for sparse in &$($m)? attribute.sparse_tensors {
                    $sparse(sparse, f)?;
                }
                if let Some(graph) = &$($m)? attribute.g {
                    $graph(graph, f)?;
                }
                for graph in &$($m)? attribute.graphs {
                    $graph(graph, f)?;
                }
                Ok(())
            }
        }
    };
}

walk!(
    "Calls `f` on every tensor, in file order; the first error ends the walk.",
    tensors,
    graph_ref,
    nodes_ref,
    sparse_ref,
);
walk!("[`tensors`], to change them.", tensors_mut, graph_mut, nodes_mut, sparse_mut, mut);
