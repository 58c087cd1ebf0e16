//! What the machine tells of itself, where it does. Linux tells most of it; elsewhere much is absent.

use schemars::JsonSchema;
use serde::Serialize;
use std::fs;

/// The machine and its state before a measurement.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct Machine {
    /// The processor's name.
    pub processor: Option<String>,
    /// Cores that this process may use.
    pub cores: usize,
    /// `performance`, `powersave` and the like: how the first core's clock is chosen.
    pub governor: Option<String>,
    /// The mean number of processes that wanted to run, over the minute before.
    pub load: Option<f64>,
    /// The operating system and architecture that this was compiled for.
    pub system: String,
}

impl Machine {
    /// This machine, now.
    pub fn here() -> Self {
        let load = fs::read_to_string("/proc/loadavg").ok();
        let load = load.and_then(|text| text.split_whitespace().next()?.parse().ok());
        let governor = fs::read_to_string("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").ok();
        let processor = fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("model name"))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        });
        Self {
            processor,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            governor: governor.map(|g| g.trim().to_owned()),
            load,
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        }
    }
}

/// Bytes of this process that are in memory; `None` where the system does not tell (outside Linux).
pub fn resident() -> Option<u64> {
    status("VmRSS:")
}

/// The most bytes that were in memory since the last [`forget_peak`].
pub fn peak_resident() -> Option<u64> {
    status("VmHWM:")
}

/// The most bytes that another process of this user had in memory so far.
pub fn peak_of(process: u32) -> Option<u64> {
    kilobytes(&fs::read_to_string(format!("/proc/{process}/status")).ok()?, "VmHWM:")
}

/// Bytes of memory that are free or can be freed.
pub fn available_memory() -> Option<u64> {
    kilobytes(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")
}

/// The peak starts anew from what is in memory now. Whether the system permits that.
pub fn forget_peak() -> bool {
    fs::write("/proc/self/clear_refs", "5").is_ok()
}

fn status(key: &str) -> Option<u64> {
    kilobytes(&fs::read_to_string("/proc/self/status").ok()?, key)
}

fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_with_their_unit() {
        let text = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!((kilobytes(text, "VmHWM:"), kilobytes(text, "VmRSS:")), (Some(2 << 20), Some(1 << 20)));
        assert_eq!((kilobytes(text, "VmPeak:"), kilobytes("VmRSS: many", "VmRSS:")), (None, None));
        assert!(Machine::here().cores > 0);
        assert_eq!(resident().is_some(), cfg!(target_os = "linux"));
    }
}
