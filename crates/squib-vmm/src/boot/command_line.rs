//! The kernel command line.

use squib_core::{Error, ErrorCode, Result};

use super::layout;
use super::placement::{Part, Placer};

/// Longest command line of Linux on x86 and aarch64, without the NUL (`COMMAND_LINE_SIZE` is 2048).
pub(super) const LINUX_MAX: usize = 2047;

/// Longest one that its page has room for.
pub(super) const PAGE_MAX: usize = 4095;

/// Refuses a text of more than `max` bytes, or with a NUL.
pub(super) fn check(text: &str, max: usize) -> Result<()> {
    if text.len() > max {
        let message = format!("the command line has {} bytes, but this kernel takes {max}", text.len());
        return Err(Error::new(ErrorCode::CommandLine, message));
    }
    if let Some(at) = text.bytes().position(|b| b == 0) {
        let message =
            format!("the command line has a NUL at byte {at}, where the kernel would take it to end");
        return Err(Error::new(ErrorCode::CommandLine, message));
    }
    Ok(())
}

/// Writes `text` and a NUL, and returns where.
pub(super) fn put(placer: &mut Placer<'_>, text: &str, max: usize) -> Result<u64> {
    check(text, max.min(PAGE_MAX))?;
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    placer.put(Part::CommandLine, layout::COMMAND_LINE, &bytes)?;
    Ok(layout::COMMAND_LINE)
}
