//! Shared by the property tests: a builder for ONNX models, seeded randomness, and the oracle.

#![allow(dead_code)]

pub mod build;
pub mod check;

pub use build::{A, Build};
#[allow(unused_imports)]
pub use check::{check, check_with, dump};

use rand::Rng as _;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// The generator of all randomness here.
pub type Rng = ChaCha8Rng;

/// A generator for a seed.
pub fn seeded(seed: u64) -> Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

/// Uniform in `low..=high`.
pub fn between(rng: &mut Rng, low: usize, high: usize) -> usize {
    rng.random_range(low..=high)
}

/// `n` different numbers below `total`, ascending.
pub fn sample(rng: &mut Rng, total: usize, n: usize) -> Vec<usize> {
    let mut all: Vec<usize> = (0..total).collect();
    for i in 0..n {
        let j = between(rng, i, total - 1);
        all.swap(i, j);
    }
    all.truncate(n);
    all.sort_unstable();
    all
}

/// A number from the environment.
pub fn env(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|v| v.parse().ok())
}
