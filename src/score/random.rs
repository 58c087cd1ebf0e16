//! The baseline that every other criterion has to beat.

use super::{Aggregate, Criterion, ScoreContext};
use crate::channels::Group;
use crate::error::Result;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// `random`: uniform in [0, 1).
///
/// Each group has its own ChaCha8 stream, keyed by the seed and the group's name: neither threads nor other groups
/// matter.
pub struct Random;

impl Criterion for Random {
    fn name(&self) -> &'static str {
        "random"
    }

    fn about(&self) -> &'static str {
        "random order, the baseline that a criterion has to beat (see the seed)"
    }

    fn score(&self, cx: &ScoreContext<'_>, group: &Group, _: Aggregate) -> Result<Option<Vec<f64>>> {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&cx.seed.to_le_bytes());
        key[8..16].copy_from_slice(&fnv1a(group.name.as_bytes()).to_le_bytes());
        let mut rng = ChaCha8Rng::from_seed(key);
        // 53 bits, as many as f64 holds below one.
        Ok(Some(group.channels.iter().map(|_| (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64).collect()))
    }

    fn needs_batch_norm(&self) -> bool {
        false
    }
}

/// The 64-bit FNV-1a hash, the same on every platform and in every release.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
