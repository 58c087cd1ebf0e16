//! Encoding a model piece by piece, so that no second copy of its weights is ever in memory.
//!
//! The fields are written in ascending order of their numbers, as protobuf's own encoder would, so that the result is
//! byte for byte what `encode_to_vec` gives.

use std::borrow::Cow;
use std::io::{self, Write};

use prost::Message;
use prost::encoding::{self, WireType};

use super::proto::{GraphProto, ModelProto, NodeProto, TensorProto};

/// A message about to be written, with initializers in place of its own.
pub(super) struct Plan<'a> {
    head: ModelProto,
    graph: Option<GraphPlan<'a>>,
    tail: ModelProto,
}

struct GraphPlan<'a> {
    nodes: &'a [NodeProto],
    head: GraphProto,
    initializers: &'a [Cow<'a, TensorProto>],
    tail: GraphProto,
}

impl<'a> Plan<'a> {
    pub(super) fn new(proto: &'a ModelProto, initializers: &'a [Cow<'a, TensorProto>]) -> Self {
        let (head, tail) = split_model(proto);
        let graph = proto.graph.as_ref().map(|graph| {
            let (head, tail) = split_graph(graph);
            GraphPlan { nodes: &graph.node, head, initializers, tail }
        });
        Self { head, graph, tail }
    }

    /// The bytes that [`Self::write`] writes.
    pub(super) fn len(&self) -> usize {
        let graph = self.graph.as_ref().map_or(0, |graph| field_len(GRAPH, graph.len()));
        self.head.encoded_len() + graph + self.tail.encoded_len()
    }

    pub(super) fn write(&self, writer: &mut impl Write) -> io::Result<()> {
        writer.write_all(&self.head.encode_to_vec())?;
        if let Some(graph) = &self.graph {
            writer.write_all(&header(GRAPH, graph.len()))?;
            graph.write(writer)?;
        }
        writer.write_all(&self.tail.encode_to_vec())
    }
}

impl GraphPlan<'_> {
    fn len(&self) -> usize {
        let tensors = self.initializers.iter().map(|t| field_len(INITIALIZER, t.encoded_len()));
        encoding::message::encoded_len_repeated(NODE, self.nodes)
            + self.head.encoded_len()
            + tensors.sum::<usize>()
            + self.tail.encoded_len()
    }

    fn write(&self, writer: &mut impl Write) -> io::Result<()> {
        let mut buffer = Vec::new();
        for node in self.nodes {
            buffer.clear();
            encoding::message::encode(NODE, node, &mut buffer);
            writer.write_all(&buffer)?;
        }
        writer.write_all(&self.head.encode_to_vec())?;
        for tensor in self.initializers {
            writer.write_all(&header(INITIALIZER, tensor.encoded_len()))?;
            write_tensor(tensor, writer)?;
        }
        writer.write_all(&self.tail.encode_to_vec())
    }
}

/// ModelProto.graph.
const GRAPH: u32 = 7;
/// GraphProto.node.
const NODE: u32 = 1;
/// GraphProto.initializer.
const INITIALIZER: u32 = 5;
/// TensorProto.raw_data.
const RAW_DATA: u32 = 9;

fn header(tag: u32, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(12);
    encoding::encode_key(tag, WireType::LengthDelimited, &mut bytes);
    encoding::encode_varint(len as u64, &mut bytes);
    bytes
}

fn field_len(tag: u32, len: usize) -> usize {
    header(tag, len).len() + len
}

// The patterns below name every field, so that one that is added to the schema cannot be forgotten here.

/// The fields before and after `graph`.
fn split_model(proto: &ModelProto) -> (ModelProto, ModelProto) {
    let ModelProto {
        ir_version,
        producer_name,
        producer_version,
        domain,
        model_version,
        doc_string,
        graph: _,
        opset_import,
        metadata_props,
        training_info,
        functions,
        configuration,
    } = proto;
    let head = ModelProto {
        ir_version: *ir_version,
        producer_name: producer_name.clone(),
        producer_version: producer_version.clone(),
        domain: domain.clone(),
        model_version: *model_version,
        doc_string: doc_string.clone(),
        ..Default::default()
    };
    let tail = ModelProto {
        opset_import: opset_import.clone(),
        metadata_props: metadata_props.clone(),
        training_info: training_info.clone(),
        functions: functions.clone(),
        configuration: configuration.clone(),
        ..Default::default()
    };
    (head, tail)
}

/// The fields between `node` and `initializer`, and those after.
fn split_graph(graph: &GraphProto) -> (GraphProto, GraphProto) {
    let GraphProto {
        node: _,
        name,
        initializer: _,
        sparse_initializer,
        doc_string,
        input,
        output,
        value_info,
        quantization_annotation,
        metadata_props,
    } = graph;
    let head = GraphProto { name: name.clone(), ..Default::default() };
    let tail = GraphProto {
        sparse_initializer: sparse_initializer.clone(),
        doc_string: doc_string.clone(),
        input: input.clone(),
        output: output.clone(),
        value_info: value_info.clone(),
        quantization_annotation: quantization_annotation.clone(),
        metadata_props: metadata_props.clone(),
        ..Default::default()
    };
    (head, tail)
}

fn write_tensor(t: &TensorProto, writer: &mut impl Write) -> io::Result<()> {
    let Some(raw) = &t.raw_data else {
        return writer.write_all(&t.encode_to_vec());
    };
    let TensorProto {
        dims,
        data_type,
        segment,
        float_data,
        int32_data,
        string_data,
        int64_data,
        name,
        doc_string,
        raw_data: _,
        external_data,
        data_location,
        double_data,
        uint64_data,
        metadata_props,
    } = t;
    let head = TensorProto {
        dims: dims.clone(),
        data_type: *data_type,
        segment: *segment,
        float_data: float_data.clone(),
        int32_data: int32_data.clone(),
        string_data: string_data.clone(),
        int64_data: int64_data.clone(),
        name: name.clone(),
        ..Default::default()
    };
    let tail = TensorProto {
        doc_string: doc_string.clone(),
        external_data: external_data.clone(),
        data_location: *data_location,
        double_data: double_data.clone(),
        uint64_data: uint64_data.clone(),
        metadata_props: metadata_props.clone(),
        ..Default::default()
    };
    writer.write_all(&head.encode_to_vec())?;
    writer.write_all(&header(RAW_DATA, raw.len()))?;
    writer.write_all(raw)?;
    writer.write_all(&tail.encode_to_vec())
}
