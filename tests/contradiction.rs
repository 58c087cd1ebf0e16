//! A model that contradicts itself is cut where that is sound, and no runtime is asked to compute it.

use onnx_prune::onnx::{self, Model};
use onnx_prune::prune::{Options, prune};
use std::path::Path;

#[test]
fn a_contradictory_model_is_not_run() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/residual.bn.onnx");
    let mut proto = onnx::load(&path).unwrap().proto;
    let g = proto.graph.as_mut().unwrap();
    let norms: Vec<usize> = (0..g.node.len()).filter(|&i| g.node[i].op_type() == "BatchNormalization").collect();
    // The first one takes the scale of the last, which has another number of channels.
    let scale = g.node[*norms.last().unwrap()].input[1].clone();
    g.node[norms[0]].input[1] = scale;
    let model = Model::from_proto(proto, path);
    let report = prune(&model, &Options::default(), &|_| ()).unwrap().report;
    assert_eq!(report.verify.max_rel_diff, None);
    assert!(report.verify.note.contains("the shapes of BatchNormalization node"), "{}", report.verify.note);
    assert!(report.pins.iter().any(|p| p.reason.contains("channel(s)")));
}
