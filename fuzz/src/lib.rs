//! What the fuzz targets share: seeds, the mutator, the invariants, and a limit on single allocations.

pub mod guard;
pub mod invariants;
pub mod mutate;
pub mod plans;
pub mod script;

// The property tests' own generators are the seeds: a case for every operator, and whole networks.
#[path = "../../tests/common/mod.rs"]
pub mod common;
#[allow(dead_code)]
#[path = "../../tests/commute/layers.rs"]
mod layers;
#[allow(dead_code)]
#[path = "../../tests/commute/movement.rs"]
mod movement;
#[allow(dead_code)]
#[path = "../../tests/commute/norms.rs"]
mod norms;
#[allow(dead_code)]
#[path = "../../tests/commute/pointwise.rs"]
mod pointwise;
#[allow(dead_code)]
#[path = "../../tests/random/mod.rs"]
mod random;
#[allow(dead_code)]
#[path = "../../tests/commute/selection.rs"]
mod selection;
#[allow(dead_code)]
#[path = "../../tests/commute/sources.rs"]
mod sources;

use common::Build;
use onnx_prune::onnx::Model;
use onnx_prune::ops::Policy;
use onnx_prune::plan::{Budget, RoundTo, Scope};
use onnx_prune::prune::Options;
use onnx_prune::recover::Recover;
use onnx_prune::score::{Aggregate, CRITERIA, Normalize};
use script::Bytes;
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::OnceLock;

/// What the property tests expect of a case; of no interest here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Channels pass through.
    Carries,
    /// They are held back.
    Pins,
}

/// Builds a model around an operator.
pub type Gen = fn(&mut Build, &str) -> Expect;

fn cases() -> &'static [(&'static str, Gen)] {
    static CASES: OnceLock<Vec<(&'static str, Gen)>> = OnceLock::new();
    CASES.get_or_init(|| {
        let families =
            [layers::CASES, norms::CASES, pointwise::CASES, selection::CASES, movement::CASES, sources::CASES];
        families.concat().iter().flat_map(|&(names, case)| names.iter().map(move |&n| (n, case))).collect()
    })
}

/// A small valid model: a whole network when `kind` is below 80, else one around an operator.
pub fn seed_model(kind: u8, variant: u16) -> Model {
    thread_local! {
        // Making a model takes longer than pruning it.
        static MADE: RefCell<HashMap<(u8, u16), Model>> = RefCell::default();
    }
    let variant = variant % 32;
    MADE.with_borrow_mut(|made| made.entry((kind, variant)).or_insert_with(|| make(kind, variant)).clone())
}

fn make(kind: u8, variant: u16) -> Model {
    if kind < 80 {
        return random::network(u64::from(variant) << 8 | u64::from(kind));
    }
    let all = cases();
    let (op, case) = all[(usize::from(kind - 80) + usize::from(variant % 2) * 176) % all.len()];
    let mut b = Build::new(u64::from(variant));
    case(&mut b, op);
    b.model()
}

/// Bytes of the header of a pipeline input; records follow.
pub const HEADER: usize = 16;

/// The changed model and the request of a pipeline input.
pub fn request(data: &[u8]) -> (Model, Options) {
    let (head, records) = data.split_at(data.len().min(HEADER));
    let mut b = Bytes(head);
    let (kind, variant) = (b.u8(), b.u16());
    let mut proto = seed_model(kind, variant).proto;
    mutate::apply(&mut proto, records);
    let share = f64::from(b.u8()) / 256.0;
    let budget = match b.u8() % 5 {
        0 | 1 => Budget::Ratio(share),
        2 => Budget::TargetMacs((1.0 - share).max(0.01)),
        3 => Budget::TargetParams((1.0 - share).max(0.01)),
        _ => Budget::Threshold(share * 2.0),
    };
    let names: Vec<&str> = CRITERIA.iter().map(|c| c.name()).collect();
    let criterion = names.get(b.of(names.len() + 1)).and_then(|n| n.parse().ok());
    let round_to = match b.u8() % 6 {
        0 => RoundTo::default(),
        n @ 1..4 => RoundTo::Multiple(usize::from(n)),
        4 => RoundTo::Multiple(8),
        _ => RoundTo::Multiple(1),
    };
    let options = Options {
        budget,
        criterion,
        aggregate: [Aggregate::Mean, Aggregate::Sum, Aggregate::Max][b.of(3)],
        normalize: [Normalize::Mean, Normalize::None, Normalize::Max, Normalize::Gaussian][b.of(4)],
        scope: if b.coin() { Scope::Global } else { Scope::Local },
        min_channels: b.of(5),
        max_layer_ratio: [0.9, 1.0, 0.5, 0.0][b.of(4)],
        round_to,
        steps: 1 + b.of(4),
        recover: [Recover::None, Recover::Bias, Recover::Constant][b.of(3)],
        verify: false,
        seed: u64::from(b.u8()),
        ..Options::default()
    };
    let policy =
        Policy { products: options.seed % 5 == 1, approximate_norm: options.seed % 7 == 1, ..Policy::default() };
    let options = Options { policy, ..options };
    (Model::from_proto(proto, "fuzz.onnx"), options)
}
