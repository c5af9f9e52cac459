//! String moves and fills a page at a time.
#![allow(unsafe_code, reason = "bulk moves go straight to guest RAM")]

use squib_x86::Size;

use crate::cpu::Cpu;

const PAGE: u64 = 4096;

/// Elements of `size` from `addr` to the end of its page.
const fn in_page(addr: u64, size: Size) -> u64 {
    (PAGE - (addr & (PAGE - 1))) / size.bytes()
}

/// Writes the same element `count` times. The size is a constant, so that compilers write several at once.
///
/// # Safety
/// `host` has `count` elements of guest RAM.
unsafe fn fill<const SIZE: usize>(host: *mut u8, element: [u8; SIZE], count: u64) {
    for i in 0..count as usize {
        // SAFETY: the caller's.
        unsafe { host.cast::<[u8; SIZE]>().add(i).write(element) };
    }
}

impl Cpu {
    /// Fills elements upwards from `addr`, within its page.
    pub(crate) fn fill_page(&mut self, addr: u64, size: Size, value: u64, count: u64) -> u64 {
        let count = count.min(in_page(addr, size));
        if count == 0 {
            return 0;
        }
        let Some(host) = self.host_for_write(addr, 1) else { return 0 };
        // SAFETY: `host` begins `count` elements of the same page of RAM.
        unsafe {
            match size {
                Size::B1 => host.write_bytes(value as u8, count as usize),
                _ if value == 0 => host.write_bytes(0, (count * size.bytes()) as usize),
                Size::B2 => fill(host, (value as u16).to_le_bytes(), count),
                Size::B4 => fill(host, (value as u32).to_le_bytes(), count),
                Size::B8 => fill(host, value.to_le_bytes(), count),
            }
        }
        count
    }

    /// Copies elements upwards in order, within the page at both ends.
    pub(crate) fn copy_page(&mut self, to: u64, from: u64, size: Size, count: u64) -> u64 {
        let count = count.min(in_page(to, size)).min(in_page(from, size));
        if count == 0 {
            return 0;
        }
        let (Some(dst), Some(src)) = (self.host_for_write(to, 1), self.host_for_read(from, 1)) else {
            return 0;
        };
        let bytes = (count * size.bytes()) as usize;
        let ahead = (dst as usize).wrapping_sub(src as usize);
        // SAFETY: both begin `bytes` bytes of one page of RAM each.
        unsafe {
            if ahead >= bytes {
                std::ptr::copy(src, dst, bytes);
            } else {
                // The destination overlaps bytes still to be read: element by element, as the guest asked.
                for i in 0..count as usize {
                    let at = i * size.bytes() as usize;
                    crate::ram::write(dst.add(at), size, crate::ram::read(src.add(at), size));
                }
            }
        }
        count
    }
}
