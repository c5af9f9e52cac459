//! The initial RAM disk.

use std::ops::Range;

use squib_core::Result;

use super::format_error;
use super::placement::{Part, Placer};

/// Highest address that its last byte may have: its end is told in 32 bits too.
const ADDR_MAX: u64 = u32::MAX as u64 - 1;

/// Writes the RAM disk, if there is one, as high as RAM below 4 GiB and the kernel's limit allow, and returns
/// where.
pub(super) fn put(
    placer: &mut Placer<'_>,
    initrd: Option<&[u8]>,
    addr_max: u64,
) -> Result<Option<Range<u64>>> {
    let Some(bytes) = initrd else { return Ok(None) };
    if bytes.is_empty() {
        return Err(format_error("the initial RAM disk is empty"));
    }
    let addr = placer.put_high(Part::Initrd, bytes, addr_max.min(ADDR_MAX))?;
    Ok(Some(addr..addr + bytes.len() as u64))
}
