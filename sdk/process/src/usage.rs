//! What this process takes of the machine, as Prometheus names it.

use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

/// Memory, processor time, files.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// Resident memory, in bytes.
    pub resident_bytes: u64,
    /// Processor time since the start, in seconds.
    pub cpu_seconds: f64,
    /// Open file descriptors.
    pub open_files: u64,
    /// How many may be open; 0 if that is not known.
    pub max_files: u64,
    /// When this was first asked, in seconds since 1970: processes do so at their start,
    /// because a sandbox may hide since when the machine runs.
    pub started: f64,
}

impl Usage {
    /// As the system says now. What it does not say is 0.
    #[must_use]
    pub fn now() -> Self {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let files = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let mut usage = Self {
            resident_bytes: resident().unwrap_or(0),
            open_files: u64::try_from(files).unwrap_or(u64::MAX),
            max_files: limit.unwrap_or(0),
            started: *STARTED.get_or_init(|| {
                let now = SystemTime::now().duration_since(UNIX_EPOCH);
                now.map_or(0.0, |now| now.as_secs_f64())
            }),
            ..Self::default()
        };
        // The name stands in brackets and may hold anything; fields are counted after it.
        let Some((_, fields)) = stat.rsplit_once(") ") else {
            return usage;
        };
        let field = |n: usize| fields.split(' ').nth(n).and_then(|s| s.parse::<u64>().ok());
        let cpu = field(11)
            .unwrap_or(0)
            .saturating_add(field(12).unwrap_or(0));
        usage.cpu_seconds = seconds(cpu);
        usage
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "ticks of a process stay far below 2^52"
)]
fn seconds(ticks: u64) -> f64 {
    ticks as f64 / TICKS
}

/// Memory that is there and not swapped out.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

static STARTED: OnceLock<f64> = OnceLock::new();

/// Linux tells every program of hundredths of a second [man 5 proc].
const TICKS: f64 = 100.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_memory_files_and_a_start() {
        let usage = Usage::now();
        assert!(usage.resident_bytes > 1 << 20, "{usage:?}");
        assert!(usage.open_files > 2, "{usage:?}");
        assert!(usage.started > 1.6e9, "{usage:?}");
    }
}
