//! Channels that are constant go without a trace in the outputs; expectations move biases by what the formula says.

use crate::kit::{Net, With, difference, find, fixture, node_named, only_cut, op, pruned};
use onnx_prune::graph::Graph;
use onnx_prune::onnx::proto::TensorProto;
use onnx_prune::onnx::{Model, tensor};
use onnx_prune::plan::{self, AxisRemoval, Budget, PlanFile};
use onnx_prune::prune::{Options, analyse};
use onnx_prune::recover::Recover;
use std::collections::BTreeMap;

/// Overwrites elements of a tensor.
fn set(net: Net, name: &str, values: &[(usize, f32)]) -> Net {
    let mut net = net;
    let t = net.graph().initializer.iter_mut().find(|t| t.name() == name).unwrap();
    let mut data = tensor::to_f32(t).unwrap();
    values.iter().for_each(|&(i, v)| data[i] = v);
    *t = tensor::from_f32(name, &tensor::dims(t).unwrap(), &data);
    net
}

/// The plan that removes these channels from the only group with a layer of this name.
fn plan_for(model: &Model, removed: &[(&str, &[usize])]) -> PlanFile {
    let graph = Graph::new(model).unwrap();
    let t = analyse(&graph).unwrap();
    let ch = &t.trace.channels;
    let mut lists = vec![Vec::new(); ch.groups.len()];
    for (layer, list) in removed {
        let g = ch.groups.iter().position(|g| g.layers.iter().any(|&n| graph.name(n) == *layer)).unwrap();
        lists[g] = list.to_vec();
    }
    plan::to_file(ch, &lists, &model.sha256(), "constant", "by hand")
}

fn with_plan(plan: PlanFile, recover: Recover) -> Options {
    Options { plan: Some(plan), recover, ..only_cut(0.0) }
}

/// The outputs equal the original's, not only the twin's, and without the repair they do not.
fn gone_without_a_trace(model: &Model, options: &Options, constant: usize) -> Model {
    let p = pruned(model, options);
    assert_eq!(p.report.channels_removed, constant);
    assert_eq!((p.report.recover.constant_channels, p.report.recover.skipped_channels), (constant, 0));
    assert!(p.report.verify.max_rel_diff.is_some(), "{:?}", p.report.verify);
    let out = p.model.unwrap();
    let off = difference(&out, model, 3, 8);
    assert!(off < 1e-5, "off by {off}");
    let bare = pruned(model, &Options { recover: Recover::None, ..options.clone() }).model.unwrap();
    assert!(difference(&bare, model, 3, 8) > 1e-2, "the test proves nothing");
    out
}

fn dead_gamma(bias: bool) -> Model {
    let net = Net::new(8, 17).input("x", "N 3 8 8").conv("a", "x", [8, 3, 3], 1).bn("n", "a.y", 8);
    let net = set(net, "n.scale", &[(1, 0.0), (4, 0.0), (6, -0.0)]);
    // Positive and negative through the Relu, and one that is nothing at all.
    let net = set(net, "n.shift", &[(1, 0.75), (4, -0.5), (6, 1.5)]).relu("r", "n.y");
    let net = net.w("b.w", &[5, 8, 1, 1]).w("b.b", &[5]);
    let b = op("Conv", "b", if bias { "r.y b.w b.b" } else { "r.y b.w" }, "b.y");
    let mut net = net.add(b).add(op("Tanh", "last", "b.y", "y")).output("y", "N 5 8 8");
    if !bias {
        net.graph().initializer.pop();
    }
    net.model()
}

#[test]
fn gamma_zero() {
    let criterion = Some("bn-scale".parse().unwrap());
    let options = Options { budget: Budget::Threshold(0.0), criterion, recover: Recover::Constant, ..only_cut(0.0) };
    let out = gone_without_a_trace(&dead_gamma(true), &options, 3);
    assert_eq!(find(&out, "n.scale").unwrap().dims, [5]);
    // A consumer without a bias gets one.
    let out = gone_without_a_trace(&dead_gamma(false), &options, 3);
    let b = node_named(&out, "b");
    assert_eq!((b.input.len(), find(&out, &b.input[2]).unwrap().dims.clone()), (3, vec![5]));
}

#[test]
fn weights_all_zero() {
    let rows: Vec<(usize, f32)> = [2, 5].iter().flat_map(|r| (0..27).map(move |i| (r * 27 + i, 0.0))).collect();
    let net = Net::new(8, 17).input("x", "N 3 8 8").w("a.w", &[8, 3, 3, 3]).w("a.b", &[8]);
    let net = set(set(net, "a.w", &rows), "a.b", &[(2, 0.9), (5, -0.8)]);
    let model = net
        .add(op("Conv", "a", "x a.w a.b", "a.y").ints("pads", &[1; 4]))
        .add(op("LeakyRelu", "r", "a.y", "r.y").float("alpha", 0.25))
        .add(op("GlobalAveragePool", "gap", "r.y", "gap.y"))
        .add(op("Flatten", "flat", "gap.y", "flat.y"))
        .w("fc.w", &[8, 5])
        .w("fc.b", &[5])
        .add(op("Gemm", "fc", "flat.y fc.w fc.b", "y"))
        .output("y", "N 5")
        .model();
    let plan = plan_for(&model, &[("a", &[2, 5])]);
    assert_eq!(plan.tensors["fc.w"], BTreeMap::from([("0".into(), AxisRemoval::Flat(vec![2, 5]))]));
    gone_without_a_trace(&model, &with_plan(plan, Recover::Constant), 2);
}

/// Two readers, one behind a MaxPool and one without: both take up the constant.
#[test]
fn every_reader_takes_it_up() {
    let net = Net::new(8, 17).input("x", "N 3 8 8").conv("a", "x", [8, 3, 3], 1).bn("n", "a.y", 8);
    let net = set(set(net, "n.scale", &[(3, 0.0)]), "n.shift", &[(3, 1.25)]);
    let model = net
        .add(op("Sigmoid", "sig", "n.y", "sig.y"))
        .add(op("Mul", "silu", "n.y sig.y", "silu.y"))
        .conv("b", "silu.y", [5, 8, 1], 0)
        .add(op("MaxPool", "pool", "silu.y", "pool.y").ints("kernel_shape", &[3, 3]).ints("pads", &[1; 4]))
        .conv("c", "pool.y", [5, 8, 1], 0)
        .add(op("Add", "last", "b.y c.y", "y"))
        .output("y", "N 5 8 8")
        .model();
    gone_without_a_trace(&model, &with_plan(plan_for(&model, &[("a", &[3])]), Recover::Constant), 1);
}

/// `E[relu(z)]` for `z ~ N(β, γ²)`.
fn relu_mean(beta: f64, gamma: f64) -> f64 {
    let (g, t) = (gamma.abs(), beta / gamma.abs());
    let pdf = (-0.5 * t * t).exp() / (2.0 * std::f64::consts::PI).sqrt();
    g * pdf + beta * 0.5 * (1.0 + libm::erf(t / std::f64::consts::SQRT_2))
}

/// A consumer without a bias that feeds a batch normalization: its running mean moves, by `−Σ m_j Σ_xy W[k,j]`.
#[test]
fn the_running_mean_moves() {
    let model = Net::new(8, 17)
        .input("x", "N 3 8 8")
        .conv("a", "x", [8, 3, 3], 1)
        .bn("n", "a.y", 8)
        .relu("r", "n.y")
        .conv("b", "r.y", [6, 8, 3], 1)
        .bn("m", "b.y", 6)
        .relu("rb", "m.y")
        .conv("c", "rb.y", [5, 6, 1], 0)
        .add(op("Relu", "last", "c.y", "y"))
        .output("y", "N 5 8 8")
        .model();
    let gone = [0usize, 3, 7];
    let p = pruned(&model, &with_plan(plan_for(&model, &[("a", &gone)]), Recover::Bias));
    assert!(p.report.verify.max_rel_diff.is_some());
    assert_eq!(p.report.recover.expected_channels, 3);
    let out = p.model.unwrap();
    assert_eq!(node_named(&out, "b"), node_named(&model, "b"), "no bias is added");
    let f = |m: &Model, name: &str| tensor::to_f64(find(m, name).unwrap()).unwrap();
    let (w, scale, shift) = (f(&model, "b.w"), f(&model, "n.scale"), f(&model, "n.shift"));
    let (before, after) = (f(&model, "m.mean"), f(&out, "m.mean"));
    for k in 0..6 {
        let taps = |j: usize| w[(k * 8 + j) * 9..][..9].iter().sum::<f64>();
        let moved: f64 = gone.iter().map(|&j| relu_mean(shift[j], scale[j]) * taps(j)).sum();
        assert!((before[k] - moved - after[k]).abs() < 1e-6, "{k}: {} {} {moved}", before[k], after[k]);
        assert!(moved.abs() > 1e-3);
    }
    for same in ["m.scale", "m.shift", "m.var"] {
        assert_eq!(find(&out, same), find(&model, same));
    }
}

/// Verification holds the pruned model against the repaired original.
#[test]
fn the_repair_is_verified_on_every_fixture() {
    for f in ["residual", "concat", "depthwise", "squeeze_excite", "shuffle"] {
        for kind in ["bn", "folded"] {
            let model = fixture(&format!("{f}.{kind}.onnx"));
            for recover in [Recover::Constant, Recover::Bias] {
                let p = pruned(&model, &Options { recover, ..only_cut(0.4) });
                assert!(p.report.verify.max_rel_diff.is_some(), "{f}.{kind}: {:?}", p.report.verify);
            }
        }
    }
}

#[test]
fn a_new_bias_has_the_type_of_the_weights() {
    let model = dead_gamma(false);
    let mut proto = model.proto.clone();
    let g = proto.graph.as_mut().unwrap();
    for t in &mut g.initializer {
        let like = TensorProto { data_type: Some(11), ..t.clone() };
        *t = tensor::from_f64_like(&like, &tensor::dims(t).unwrap(), &tensor::to_f64(t).unwrap()).unwrap();
    }
    g.input = vec![crate::kit::info("x", "N 3 8 8", 11)];
    g.output = vec![crate::kit::info("y", "N 5 8 8", 11)];
    let model = Model::from_proto(proto, "f64.onnx");
    let plan = plan_for(&model, &[("a", &[1, 4, 6])]);
    let out = pruned(&model, &with_plan(plan, Recover::Constant)).model.unwrap();
    let bias = find(&out, &node_named(&out, "b").input[2]).unwrap();
    assert_eq!((bias.data_type(), bias.dims.clone()), (11, vec![5]));
    let w = tensor::to_f64(find(&model, "b.w").unwrap()).unwrap();
    let want: Vec<f64> = (0..5).map(|k| 0.75 * w[k * 8 + 1] + 1.5 * w[k * 8 + 6]).collect();
    let got = tensor::to_f64(bias).unwrap();
    assert!(got.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-6), "{got:?} {want:?}");
}
