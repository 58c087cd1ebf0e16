//! Properties of whole runs: verification can fail, rounds, the same bytes every time, grouped convolutions.

use crate::kit::{Net, With, find, fixture, only_cut, op, proven, pruned, twin};
use onnx_prune::error::Error;
use onnx_prune::onnx::proto::TensorProto;
use onnx_prune::onnx::{Model, tensor};
use onnx_prune::plan::{AxisRemoval, Budget};
use onnx_prune::prune::{Options, prune};
use onnx_prune::recover::Recover;
use onnx_prune::verify;

/// Changes one tensor of a model.
fn tampered(model: &Model, name: &str, change: impl Fn(&mut Vec<f32>)) -> Model {
    let mut proto = model.proto.clone();
    let t = proto.graph.as_mut().unwrap().initializer.iter_mut().find(|t| t.name() == name).unwrap();
    let mut data = tensor::to_f32(t).unwrap();
    change(&mut data);
    *t = TensorProto { ..tensor::from_f32(name, &tensor::dims(t).unwrap(), &data) };
    Model::from_proto(proto, "tampered.onnx")
}

#[test]
fn verification_can_fail() {
    for (name, layer) in [("residual.bn.onnx", 0), ("residual.folded.onnx", 2)] {
        let model = fixture(name);
        let p = proven(&model, 0.4);
        let (twin, out) = (twin(&model, &p.plan), p.model.unwrap());
        assert!(verify::compare(&twin, &out, 1, true).unwrap().max_rel_diff.unwrap() <= verify::TOLERANCE);
        let conv = out.proto.graph.as_ref().unwrap().node.iter().filter(|n| n.op_type() == "Conv").nth(layer).unwrap();
        let weight = find(&out, &conv.input[1]).unwrap().name().to_owned();
        // One sign, two channels exchanged, and a NaN.
        let flipped = tampered(&out, &weight, |w| {
            let (at, _) = w.iter().enumerate().max_by(|a, b| a.1.abs().total_cmp(&b.1.abs())).unwrap();
            w[at] = -w[at];
        });
        let row = find(&out, &weight).unwrap().dims[1..].iter().product::<i64>() as usize;
        let exchanged = tampered(&out, &weight, |w| (0..row).for_each(|i| w.swap(i, row + i)));
        let spoilt = tampered(&out, &weight, |w| w[0] = f32::NAN);
        for bad in [flipped, exchanged, spoilt] {
            match verify::compare(&twin, &bad, 1, true) {
                Err(Error::Verify { output, difference, tolerance }) => {
                    assert!(output == "logits" && (difference.is_nan() || difference > tolerance), "{difference}");
                }
                other => panic!("{name}: {other:?}"),
            }
        }
        // The original is no pruned model either.
        assert!(matches!(verify::compare(&twin, &model, 1, true), Err(Error::Verify { .. })));
    }
}

/// Outputs of another shape are an error, not a comparison.
#[test]
fn the_interface_is_checked() {
    let model = fixture("residual.bn.onnx");
    let mut proto = model.proto.clone();
    let g = proto.graph.as_mut().unwrap();
    g.output[0] = crate::kit::info("logits", "N 11", 1);
    let error = verify::check_interface(&model, &Model::from_proto(proto, "x.onnx")).unwrap_err();
    assert!(error.to_string().contains("logits"), "{error}");
}

#[test]
fn rounds() {
    for name in ["residual.bn.onnx", "depthwise.folded.onnx", "shuffle.bn.onnx"] {
        let model = fixture(name);
        for budget in [Budget::Ratio(0.5), Budget::TargetMacs(0.5)] {
            let at_once = pruned(&model, &Options { budget, ..only_cut(0.0) });
            let rounds = pruned(&model, &Options { budget, steps: 3, ..only_cut(0.0) });
            assert!(rounds.report.verify.max_rel_diff.is_some_and(|d| d <= verify::TOLERANCE), "{name}");
            let off = (at_once.report.ratio_reached - rounds.report.ratio_reached).abs();
            assert!(off <= 0.02, "{name} {budget}: {off}");
            assert!(rounds.report.missed.is_none(), "{name}: {:?}", rounds.report.missed);
            assert_eq!(at_once.plan.budget, rounds.plan.budget);
        }
    }
}

#[test]
fn the_same_bytes_every_time() {
    for (name, options) in [
        ("residual.bn.onnx", Options { recover: Recover::Bias, ..only_cut(0.4) }),
        ("concat.folded.onnx", Options { recover: Recover::Bias, steps: 3, ..only_cut(0.4) }),
        ("shuffle.bn.onnx", Options { criterion: Some("random".parse().unwrap()), ..only_cut(0.4) }),
        ("depthwise.bn.onnx", Options { criterion: Some("fpgm=0.5,bn-scale=0.5".parse().unwrap()), ..only_cut(0.4) }),
    ] {
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                // Loaded anew: nothing may depend on addresses or on what was computed before.
                let p = prune(&fixture(name), &Options { verify: false, ..options.clone() }, &|_| ()).unwrap();
                (p.model.unwrap().to_bytes().unwrap(), serde_json::to_string(&p.plan).unwrap())
            })
        };
        let first = run(1);
        for threads in [1, 1, 2, 2, 4] {
            assert!(run(threads) == first, "{name}: differs with {threads} threads");
        }
    }
}

/// Each group of a grouped convolution loses as many channels as the others, of its own choice.
#[test]
fn grouped_convolution() {
    let model = Net::new(8, 17)
        .input("x", "N 3 8 8")
        .conv("a", "x", [24, 3, 3], 1)
        .relu("ra", "a.y")
        .w("g.w", &[16, 6, 3, 3])
        .w("g.b", &[16])
        .add(op("Conv", "g", "ra.y g.w g.b", "g.y").int("group", 4).ints("pads", &[1; 4]))
        .relu("rg", "g.y")
        .conv("b", "rg.y", [5, 16, 1], 0)
        .add(op("Relu", "last", "b.y", "y"))
        .output("y", "N 5 8 8")
        .model();
    let p = proven(&model, 0.4);
    let cut = &p.plan.tensors["g.w"];
    let AxisRemoval::Grouped(inputs) = &cut["1"] else { panic!("{cut:?}") };
    assert_eq!(inputs.len(), 4);
    assert!(inputs.iter().all(|l| l.len() == inputs[0].len() && !l.is_empty()), "{inputs:?}");
    assert!(inputs.iter().any(|l| *l != inputs[0]), "every group made the same choice: {inputs:?}");
    let AxisRemoval::Flat(outputs) = &cut["0"] else { panic!("{cut:?}") };
    let counts: Vec<usize> = (0..4).map(|g| outputs.iter().filter(|&&o| o / 4 == g).count()).collect();
    assert!(counts.iter().all(|&c| c == counts[0] && c > 0), "{outputs:?}");
    let AxisRemoval::Flat(a) = &p.plan.tensors["a.w"]["0"] else { panic!() };
    let joined: Vec<usize> = inputs.iter().enumerate().flat_map(|(g, l)| l.iter().map(move |i| g * 6 + i)).collect();
    assert_eq!(*a, joined);
    // A plan that takes unequal counts is refused.
    let mut unequal = p.plan.clone();
    for axes in unequal.tensors.values_mut() {
        for list in axes.values_mut() {
            match list {
                AxisRemoval::Flat(l) if l.first() == joined.first() && l.len() == joined.len() => drop(l.remove(0)),
                AxisRemoval::Grouped(l) => drop(l[0].remove(0)),
                AxisRemoval::Flat(_) => {}
            }
        }
    }
    let refused = prune(&model, &Options { plan: Some(unequal), ..only_cut(0.0) }, &|_| ());
    assert!(matches!(refused, Err(Error::Plan(_))), "{:?}", refused.err());
}

/// A stored plan does the same again; on another model it is refused.
#[test]
fn a_plan_again() {
    let model = fixture("depthwise.bn.onnx");
    let p = proven(&model, 0.4);
    let text = serde_json::to_string(&p.plan).unwrap();
    let plan = serde_json::from_str(&text).unwrap();
    let options = Options { plan: Some(plan), ..only_cut(0.0) };
    let again = pruned(&model, &options);
    assert!(again.model.unwrap().to_bytes().unwrap() == p.model.unwrap().to_bytes().unwrap());
    assert!(matches!(prune(&fixture("depthwise.folded.onnx"), &options, &|_| ()), Err(Error::Plan(_))));
}
