//! From a segment and an offset to a linear address.

use squib_core::x86::bits::CR0_PE;

use crate::fault::Exception;
use crate::state::{CodeMode, CpuState, Seg, sreg};

/// The linear address of `len` bytes at `offset` in segment register `seg` (Intel SDM vol. 3, 5.3 and 5.5).
///
/// # Errors
/// #GP(0), or #SS(0) for the stack segment, where the segment does not allow the access.
#[inline]
pub fn linear(state: &CpuState, seg: u8, offset: u64, len: u64, write: bool) -> Result<u64, Exception> {
    let index = usize::from(seg).min(sreg::GS);
    let s = &state.seg[index];
    if state.mode == CodeMode::Bits64 {
        let base = if index >= sreg::FS { s.base } else { 0 };
        let addr = base.wrapping_add(offset);
        // Canonical is checked where the address is translated, but a stack segment has its own exception.
        let last = addr.wrapping_add(len.saturating_sub(1));
        let canonical = crate::system::is_canonical;
        if index == sreg::SS && !(canonical(addr) && canonical(last)) {
            return Err(Exception::SS0);
        }
        return Ok(addr);
    }
    let fault = if index == sreg::SS { Exception::SS0 } else { Exception::GP0 };
    if state.cr0 & CR0_PE != 0 && !state.v86() {
        let allowed = if write { s.is_writable() } else { s.is_readable() };
        if s.has(Seg::UNUSABLE) || !s.has(Seg::P) || !allowed {
            return Err(fault);
        }
    }
    let last = offset + (len.max(1) - 1);
    let limit = u64::from(s.limit);
    let inside = if s.expands_down() {
        let top = if s.has(Seg::DB) { u64::from(u32::MAX) } else { 0xffff };
        offset > limit && last <= top
    } else {
        last <= limit || offset <= limit && s.is_flat()
    };
    if !inside {
        return Err(fault);
    }
    Ok(s.base.wrapping_add(offset) & 0xffff_ffff)
}

/// The linear address of 16 bytes that have to be aligned. Alignment comes before the limit of a segment and before the form of
/// the address: #GP(0), for a stack segment too.
///
/// # Errors
/// As [`linear`].
pub fn linear_aligned(state: &CpuState, seg: u8, offset: u64, write: bool) -> Result<u64, Exception> {
    let index = usize::from(seg).min(sreg::GS);
    let has_base = state.mode != CodeMode::Bits64 || index >= sreg::FS;
    let base = if has_base { state.seg[index].base } else { 0 };
    if base.wrapping_add(offset) & 15 != 0 {
        return Err(Exception::GP0);
    }
    linear(state, seg, offset, 16, write)
}
