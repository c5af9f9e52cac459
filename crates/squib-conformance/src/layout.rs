//! The address space that cases run in, the same on the host and in the guest.

use crate::random::mix;

/// Bytes of a page.
pub const PAGE: u64 = 4096;

/// Linear address of the first page. Low, so that 32-bit displacements and 32-bit addresses reach everything.
pub const BASE: u64 = 0x2000_0000;

/// Pages from [`BASE`] on, mapped or not.
pub const PAGES: u64 = 12;

/// What user code may do with a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing is there.
    None,
    /// Read, write and execute.
    Code,
    /// Read and write.
    Data,
    /// Read.
    ReadOnly,
}

/// The pages from [`BASE`] on, and which of the [`BACKING`] pages each shows.
pub const MAP: [(Access, usize); PAGES as usize] = [
    (Access::None, 0),
    (Access::Code, 0),
    (Access::Code, 1),
    (Access::None, 0),
    (Access::Data, 2),
    (Access::Data, 3),
    (Access::ReadOnly, 4),
    (Access::None, 0),
    (Access::Data, 5),
    (Access::Data, 6),
    (Access::None, 0),
    // The first page of code once more.
    (Access::Data, 0),
];

/// Pages of memory there are.
pub const BACKING: usize = 7;

/// Bytes of memory there are.
pub const MEMORY: usize = BACKING * PAGE as usize;

/// Two pages of code.
pub const CODE: u64 = BASE + PAGE;
/// Two pages of data, followed by one that is read-only.
pub const DATA: u64 = BASE + 4 * PAGE;
/// The read-only page.
pub const READ_ONLY: u64 = BASE + 6 * PAGE;
/// Two pages of stack.
pub const STACK: u64 = BASE + 8 * PAGE;
/// The first page of code, writable at another address.
pub const ALIAS: u64 = BASE + 11 * PAGE;
/// Base of the FS segment.
pub const FS_BASE: u64 = DATA + 0x800;
/// Base of the GS segment.
pub const GS_BASE: u64 = DATA + PAGE + 0x400;

/// Offset in memory of linear address `addr`.
pub fn offset(addr: u64) -> Option<usize> {
    let at = addr.wrapping_sub(BASE);
    let (access, backing) = *MAP.get(usize::try_from(at / PAGE).ok()?)?;
    (access != Access::None).then_some(backing * PAGE as usize + (at % PAGE) as usize)
}

/// Linear address of the byte at `offset` of memory, where it is not the alias.
pub fn address(offset: usize) -> u64 {
    let (page, rest) = (offset / PAGE as usize, offset as u64 % PAGE);
    let index = MAP.iter().position(|(a, b)| *a != Access::None && *b == page).unwrap_or(0);
    BASE + index as u64 * PAGE + rest
}

/// Memory as every case finds it: code pages full of INT3, the others of words that depend on their address.
pub fn pristine() -> Box<[u8]> {
    let mut memory = vec![0xcc; MEMORY].into_boxed_slice();
    for at in (2 * PAGE as usize..MEMORY).step_by(8) {
        memory[at..at + 8].copy_from_slice(&mix(address(at)).to_le_bytes());
    }
    memory
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_and_addresses_are_inverse() {
        for at in [0, 1, 4095, 4096, 8192, MEMORY - 1] {
            assert_eq!(offset(address(at)), Some(at));
        }
        assert_eq!(offset(ALIAS + 5), offset(CODE + 5));
        assert_eq!([BASE, DATA - 1, BASE - 1, STACK - 1, u64::MAX].map(offset), [None; 5]);
        assert_eq!(offset(READ_ONLY), Some(4 * PAGE as usize));
    }
}
