//! Writes seed inputs for every target under `fuzz/corpus`.

use onnx_prune_fuzz::common::seeded;
use onnx_prune_fuzz::{HEADER, plans, script::RECORD, seed_model};
use prost::Message;
use rand::Rng;
use std::path::Path;

/// Models larger than this are left out.
const MOST: usize = 6000;

fn main() -> std::io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let put = |target: &str, name: String, bytes: Vec<u8>| {
        let dir = corpus.join(target);
        std::fs::create_dir_all(&dir)?;
        std::fs::write(dir.join(name), bytes)
    };
    for kind in 0..=255u8 {
        for variant in 0..2u16 {
            let bytes = seed_model(kind, variant).proto.encode_to_vec();
            if bytes.len() <= MOST {
                put("model", format!("seed-{kind}-{variant}"), bytes)?;
            }
        }
    }
    for (k, f) in plans::fixed().iter().enumerate() {
        let text = serde_json::to_vec(&plans::valid(f, 1)).unwrap_or_default();
        if text.len() <= MOST {
            put("plan", format!("text-{k}"), [&[(k as u8) << 1], text.as_slice()].concat())?;
        }
        put("plan", format!("script-{k}"), vec![(k as u8) << 1 | 1, k as u8])?;
    }
    let mut rng = seeded(1);
    for k in 0..600u16 {
        let records = usize::from(k % 4);
        let mut bytes: Vec<u8> = (0..HEADER + records * RECORD).map(|_| rng.random()).collect();
        bytes[0] = k as u8;
        put("pipeline", format!("seed-{k}"), bytes)?;
    }
    Ok(())
}
