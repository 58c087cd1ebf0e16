//! A rule for an operator of your own and a criterion of your own, without a change to the crate.
//!
//! ```text
//! cargo run --release --example extend
//! ```
//!
//! The operator is `com.example:Shift(x, gain)`: every channel times its gain, moved one place along the last axis. Its
//! attribute `channels` says how many there are. Without a rule it would hold back all that it touches.
#![allow(clippy::print_stdout)]

use onnx_prune::channels::{Group, Role};
use onnx_prune::error::{Error, Result};
use onnx_prune::onnx::proto::attribute_proto::AttributeType;
use onnx_prune::onnx::proto::tensor_shape_proto::{Dimension, dimension};
use onnx_prune::onnx::proto::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorShapeProto, TypeProto,
    ValueInfoProto, type_proto,
};
use onnx_prune::onnx::{Model, tensor};
use onnx_prune::ops::relate::{In, Out};
use onnx_prune::ops::{Answer, NodeCx, OpRule, Patch, Relate, Rules, Shapes};
use onnx_prune::plan::{Budget, RoundTo};
use onnx_prune::prune::{self, Pruned};
use onnx_prune::score::{Aggregate, Criteria, Criterion, CriterionSpec, ScoreContext};

/// The operator's domain.
const DOMAIN: &str = "com.example";

/// What `com.example:Shift` does to channels.
pub struct Shift;

impl OpRule for Shift {
    // The output is as large as the first input.
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        if cx.rank(0)? < 3 {
            return Err("expected an input with channels and a place to move along".into());
        }
        Ok(vec![Some(cx.shape(0)?.to_vec())])
    }

    // Channel i of the input, the output and the gain live or die together. What is not mentioned is held back.
    fn relate(&self, r: &mut Relate) -> Answer<()> {
        r.tie(In(0, 1), Out(0, 1))?;
        r.tie(In(1, 0), Out(0, 1))?;
        r.site(Role::PerChannel, 1, 0);
        Ok(())
    }

    // The rewriter cuts the gain; the attribute that counts it is ours to change.
    fn patch(&self, p: &mut Patch) -> Answer<()> {
        let channels = p.cx.shape(0)?.get(1).copied().unwrap_or_default();
        p.set_int("channels", p.kept(In(0, 1), channels).len() as i64);
        Ok(())
    }
}

/// A channel is as important as the largest weight that makes it.
pub struct Largest;

impl Criterion for Largest {
    fn name(&self) -> &str {
        "largest"
    }

    fn about(&self) -> &str {
        "magnitude of the largest weight that makes the channel"
    }

    fn score(&self, cx: &ScoreContext<'_>, group: &Group, aggregate: Aggregate) -> Result<Option<Vec<f64>>> {
        let mut sites = Vec::new();
        for site in group.sites.iter().filter(|s| s.role == Role::Producer) {
            let axis = cx.channels.axis(site.axis);
            let (dims, values) = (cx.params.dims(axis.tensor), cx.params.values(axis.tensor)?);
            // Row-major: an index of the axis owns every `inner` values of `len · inner`.
            let inner: usize = dims.iter().skip(axis.axis + 1).product();
            let mut largest = vec![0.0f64; axis.len];
            for (i, value) in values.iter().enumerate() {
                if let Some(best) = largest.get_mut(i / inner.max(1) % axis.len.max(1)) {
                    *best = best.max(f64::from(value.abs()));
                }
            }
            let of = |channel: &onnx_prune::channels::Channel| {
                channel.on(site.axis).filter_map(|i| largest.get(i)).copied().fold(0.0, f64::max)
            };
            sites.push(group.channels.iter().map(of).collect());
        }
        Ok(aggregate.combine(&sites))
    }
}

fn node(op: &str, name: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        op_type: Some(op.into()),
        name: Some(name.into()),
        input: inputs.iter().map(|s| (*s).to_owned()).collect(),
        output: vec![output.to_owned()],
        ..NodeProto::default()
    }
}

fn ints(name: &str, values: &[i64]) -> NodeProto {
    let list = AttributeProto {
        name: Some("value_ints".into()),
        r#type: Some(AttributeType::Ints.into()),
        ints: values.to_vec(),
        ..AttributeProto::default()
    };
    NodeProto { attribute: vec![list], ..node("Constant", name, &[], name) }
}

/// What the operator computes, in standard ones: verification runs this in its place.
pub fn definition() -> FunctionProto {
    FunctionProto {
        name: Some("Shift".into()),
        domain: Some(DOMAIN.into()),
        input: vec!["x".into(), "gain".into()],
        output: vec!["y".into()],
        attribute: vec!["channels".into()],
        node: vec![
            ints("places", &[1, 2]),
            node("Unsqueeze", "column", &["gain", "places"], "gains"),
            node("Mul", "scaled", &["x", "gains"], "scaled"),
            ints("from", &[1]),
            ints("to", &[i64::MAX]),
            ints("along", &[3]),
            node("Slice", "rest", &["scaled", "from", "to", "along"], "rest"),
            ints("room", &[0, 0, 0, 0, 0, 0, 0, 1]),
            node("Pad", "moved", &["rest", "room"], "y"),
        ],
        ..FunctionProto::default()
    }
}

fn info(name: &str, dims: &[i64]) -> ValueInfoProto {
    let dim = dims.iter().map(|&d| Dimension { value: Some(dimension::Value::DimValue(d)), ..Dimension::default() });
    let tensor = type_proto::Tensor { elem_type: Some(1), shape: Some(TensorShapeProto { dim: dim.collect() }) };
    let kind = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: Some(name.into()), r#type: Some(kind), ..ValueInfoProto::default() }
}

/// `x[1,3,8,8] → Conv (16 channels) → Shift → Relu → Conv (4 channels) → y`.
pub fn model() -> Model {
    let values = |n: usize| (0..n).map(|i| ((i * 37) % 101) as f32 / 101.0 - 0.45).collect::<Vec<_>>();
    let weight = |name: &str, dims: &[usize]| tensor::from_f32(name, dims, &values(dims.iter().product()));
    let channels = AttributeProto {
        name: Some("channels".into()),
        r#type: Some(AttributeType::Int.into()),
        i: Some(16),
        ..AttributeProto::default()
    };
    let shift = NodeProto {
        domain: Some(DOMAIN.into()),
        attribute: vec![channels],
        ..node("Shift", "shift", &["a", "gain"], "moved")
    };
    let graph = GraphProto {
        name: Some("extended".into()),
        node: vec![
            node("Conv", "first", &["x", "first.weight"], "a"),
            shift,
            node("Relu", "relu", &["moved"], "b"),
            node("Conv", "second", &["b", "second.weight"], "y"),
        ],
        initializer: vec![
            weight("first.weight", &[16, 3, 3, 3]),
            weight("gain", &[16]),
            weight("second.weight", &[4, 16, 1, 1]),
        ],
        input: vec![info("x", &[1, 3, 8, 8])],
        output: vec![info("y", &[1, 4, 6, 6])],
        ..GraphProto::default()
    };
    let set = |domain: &str, version| OperatorSetIdProto { domain: Some(domain.into()), version: Some(version) };
    let proto = ModelProto {
        ir_version: Some(8),
        opset_import: vec![set("", 18), set(DOMAIN, 1)],
        graph: Some(graph),
        ..ModelProto::default()
    };
    Model::from_proto(proto, "extended.onnx")
}

/// Half of the channels go, ranked by our criterion, through our operator.
///
/// # Errors
/// What the library refuses.
pub fn run() -> Result<Pruned> {
    let rules = Rules::default().with("com.example:Shift", Shift)?.defined(definition())?;
    let criteria = Criteria::default().with(Largest)?;
    let options = prune::Options {
        budget: Budget::Ratio(0.5),
        criterion: Some(CriterionSpec::parse("largest", &criteria)?),
        criteria,
        round_to: RoundTo::Multiple(1),
        ..prune::Options::default()
    };
    prune::prune(&model().with_rules(rules), &options, &|_stage| ())
}

#[allow(dead_code)] // A test calls `run`.
fn main() -> Result<(), Error> {
    let pruned = run()?;
    for group in &pruned.report.groups {
        println!("{}: {} → {} by {}", group.id, group.channels_before, group.channels_after, group.criterion);
    }
    println!("{}", pruned.report.verify.note);
    Ok(())
}
