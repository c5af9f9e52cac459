//! Medians, means, and what the kernel says about processes.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};

use squib_core::GuestMemory;
use squib_core::memory::PAGE_SIZE;

use crate::Result;

/// The median; with an even count, the upper one. Zero of nothing.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// The geometric mean.
pub(crate) fn geometric_mean(values: &[f64]) -> f64 {
    (values.iter().map(|v| v.ln()).sum::<f64>() / values.len() as f64).exp()
}

/// CPU seconds, user and system, of the children waited for so far, to the kernel's hundredth of a second
/// (proc(5), `/proc/pid/stat` fields 16 and 17).
pub(crate) fn children_cpu_seconds() -> Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: f64 = fields.split_whitespace().skip(13).take(2).flat_map(str::parse::<f64>).sum();
    Ok(ticks / 100.0)
}

/// Resident bytes of this process without those of `ram` (proc(5), `/proc/pid/statm`; Linux,
/// Documentation/admin-guide/mm/pagemap.rst).
pub(crate) fn resident_beyond(ram: Option<&GuestMemory>) -> Result<u64> {
    let statm = fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = statm.split_whitespace().nth(1).ok_or("statm has no second field")?.parse()?;
    let mut guest = 0;
    if let Some(ram) = ram {
        let mut pagemap = File::open("/proc/self/pagemap")?;
        for region in ram.regions() {
            let first = region.host_ptr().addr() as u64 / PAGE_SIZE;
            let mut entries = vec![0; (region.len() / PAGE_SIZE * 8) as usize];
            pagemap.seek(SeekFrom::Start(first * 8))?;
            pagemap.read_exact(&mut entries)?;
            // Bit 63 of an entry says that the page is present.
            guest += entries.chunks_exact(8).filter(|entry| entry[7] & 0x80 != 0).count() as u64;
        }
    }
    Ok(pages.saturating_sub(guest) * PAGE_SIZE)
}
