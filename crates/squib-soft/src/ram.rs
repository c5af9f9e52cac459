//! Reads and writes of guest RAM by host address.
//!
//! RAM is shared with devices and other vCPUs, so it is never borrowed. Up to 8 bytes move in one access, which on
//! every host is at least as whole as x86 promises for aligned accesses (Intel SDM vol. 3, 9.1.1).
#![allow(unsafe_code, reason = "guest RAM is reached through raw pointers")]

use squib_x86::Size;

/// Reads `size` bytes, zero-extended.
///
/// # Safety
/// `host` has `size` bytes of guest RAM.
#[inline(always)]
pub unsafe fn read(host: *const u8, size: Size) -> u64 {
    // SAFETY: the caller's; no alignment is needed.
    unsafe {
        match size {
            Size::B1 => u64::from(host.read()),
            Size::B2 => u64::from(u16::from_le(host.cast::<u16>().read_unaligned())),
            Size::B4 => u64::from(u32::from_le(host.cast::<u32>().read_unaligned())),
            Size::B8 => u64::from_le(host.cast::<u64>().read_unaligned()),
        }
    }
}

/// Writes the low `size` bytes of `v`.
///
/// # Safety
/// `host` has `size` bytes of guest RAM.
#[inline(always)]
pub unsafe fn write(host: *mut u8, size: Size, v: u64) {
    // SAFETY: the caller's; no alignment is needed.
    unsafe {
        match size {
            Size::B1 => host.write(v as u8),
            Size::B2 => host.cast::<u16>().write_unaligned((v as u16).to_le()),
            Size::B4 => host.cast::<u32>().write_unaligned((v as u32).to_le()),
            Size::B8 => host.cast::<u64>().write_unaligned(v.to_le()),
        }
    }
}
