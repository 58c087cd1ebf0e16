//! Fixed models, traced once, that plans are applied to.

use crate::common::check::random_removal;
use crate::common::seeded;
use crate::seed_model;
use onnx_prune::graph::Graph;
use onnx_prune::onnx::{self, Model};
use onnx_prune::plan::{self, PlanFile};
use onnx_prune::prune::{Traced, analyse};
use std::path::Path;
use std::sync::OnceLock;

/// The files that are models.
const FIXTURES: &[&str] = &["depthwise.bn", "squeeze_excite.folded", "shuffle.folded"];

/// Models of this many generated networks are there besides.
const NETWORKS: usize = 29;

/// A model and what analysis found.
pub struct Fixed {
    /// The model.
    pub model: &'static Model,
    /// Its channels.
    pub traced: Traced<'static>,
}

/// All of them. They live as long as the process.
pub fn fixed() -> &'static [Fixed] {
    static ALL: OnceLock<Vec<Fixed>> = OnceLock::new();
    ALL.get_or_init(|| {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures");
        let load = |name: &&str| onnx::load(&dir.join(format!("{name}.onnx"))).unwrap_or_else(|e| panic!("{e}"));
        let files = FIXTURES.iter().map(load);
        files
            .chain((0..NETWORKS).map(|k| seed_model(k as u8, 7)))
            .map(|model| {
                let model: &'static Model = Box::leak(Box::new(model));
                let graph: &'static Graph = Box::leak(Box::new(Graph::new(model).unwrap_or_else(|e| panic!("{e}"))));
                Fixed { model, traced: analyse(graph).unwrap_or_else(|e| panic!("{e}")) }
            })
            .collect()
    })
}

/// A valid plan for one of them, drawn at random.
pub fn valid(f: &Fixed, seed: u64) -> PlanFile {
    let ch = &f.traced.trace.channels;
    let gone = random_removal(ch, &mut seeded(seed));
    plan::to_file(ch, &gone, &f.model.sha256(), "none", "random")
}
