//! `--target-latency`: where and on what time is measured, and where layer times are remembered.

use clap::{Args, ValueHint};
use onnx_prune::error::Result;
use onnx_prune::evaluate::bench::Effort;
use onnx_prune::evaluate::layer_times::{LayerTimer, Place};
use onnx_prune::prune::latency::Stopwatch;
use onnx_prune::runtime::walk::Feed;
use onnx_prune::runtime::{Device, RuntimeOptions, choose_with};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// Names the folder of remembered times.
const CACHE: &str = "ONNX_PRUNE_CACHE";

/// How a latency is aimed at.
#[derive(Debug, Args)]
pub struct LatencyArgs {
    /// Folder where times of layers are remembered, by runtime, device and machine; `off` forgets them
    /// [default: $ONNX_PRUNE_CACHE, or onnx-prune in the user's cache folder]
    #[arg(long, value_name = "DIR|off", value_hint = ValueHint::DirPath, help_heading = "Speed")]
    latency_cache: Option<PathBuf>,
}

/// What times are measured on.
pub struct Conditions {
    /// The runtime, its device and threads.
    pub runtime: RuntimeOptions,
    /// Inputs of the whole model.
    pub feeds: Vec<Feed>,
    /// Samples in each of them.
    pub batch: usize,
    /// How long whole models are measured.
    pub effort: Effort,
    /// Seed of the intervals.
    pub seed: u64,
}

impl LatencyArgs {
    /// Whether anything is said.
    pub fn given(&self) -> bool {
        self.latency_cache.is_some()
    }

    fn folder(&self) -> Option<PathBuf> {
        match &self.latency_cache {
            Some(dir) if dir.as_os_str() == "off" => None,
            Some(dir) => Some(dir.clone()),
            None => cache(),
        }
    }

    /// Looks for the runtime, and for what is known of this place.
    pub fn stopwatch(&self, c: Conditions) -> Result<Arc<Stopwatch>> {
        let threads = c.runtime.threads;
        let runtime = choose_with(&c.runtime)?;
        let mut device = c.runtime.device.to_string();
        if c.runtime.allow_fallback && c.runtime.device != Device::Cpu {
            // Nobody knows where a layer ran; its time is not that of the device, and its memory is not bound to.
            device += " or cpu";
        }
        let place = Place::here(&*runtime, &device, threads);
        let timer = LayerTimer::new(runtime.clone(), place, self.folder().as_deref());
        Ok(Arc::new(Stopwatch {
            runtime,
            timer: Mutex::new(timer),
            feeds: c.feeds,
            batch: c.batch,
            effort: c.effort,
            seed: c.seed,
            original_ms: Mutex::new(None),
        }))
    }
}

/// The folder that the system has for such things.
fn cache() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(own) = folder(CACHE) {
        return Some(own);
    }
    let user = match () {
        () if cfg!(windows) => folder("LOCALAPPDATA"),
        () if cfg!(target_os = "macos") => folder("HOME").map(|h| h.join("Library").join("Caches")),
        () => folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|h| h.join(".cache"))),
    };
    user.map(|u| u.join("onnx-prune"))
}
