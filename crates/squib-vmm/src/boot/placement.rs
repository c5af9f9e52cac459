//! Who lies where: every byte that boot puts into guest memory is claimed here first.

use std::fmt;
use std::ops::Range;

use squib_core::memory::{LOW_RAM_END, PAGE_SIZE};
use squib_core::{Error, ErrorCode, GuestMemory, Result};

use super::layout::LEGACY_HOLE;
use super::memory_map::{MemoryKind, MemoryMap, MemoryMapEntry};

/// What a placement holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Part {
    /// A segment of the kernel, the whole of a flat binary, firmware or its shadow.
    Kernel,
    /// The initial RAM disk.
    Initrd,
    /// The command line.
    CommandLine,
    /// `boot_params`, `hvm_start_info` or the multiboot information structure.
    BootInfo,
    /// The memory map of PVH and multiboot.
    MemoryMap,
    /// The device tree.
    DeviceTree,
    /// The global descriptor table.
    Gdt,
    /// Identity-mapping page tables.
    PageTables,
    /// The stack of a flat binary.
    Stack,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernel => "the kernel",
            Self::Initrd => "the initial RAM disk",
            Self::CommandLine => "the command line",
            Self::BootInfo => "boot information",
            Self::MemoryMap => "the memory map",
            Self::DeviceTree => "the device tree",
            Self::Gdt => "the GDT",
            Self::PageTables => "page tables",
            Self::Stack => "the stack",
        })
    }
}

/// A part and its guest-physical addresses.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Placement {
    /// What it is.
    pub part: Part,
    /// Where it is.
    pub range: Range<u64>,
}

/// Puts parts into RAM, each in a place of its own.
pub(super) struct Placer<'a> {
    memory: &'a GuestMemory,
    map: &'a MemoryMap,
    /// Ranges that no part may touch.
    reserved: Vec<Range<u64>>,
    placements: Vec<Placement>,
}

impl<'a> Placer<'a> {
    /// A placer that keeps clear of everything the guest is not told to be RAM.
    pub(super) fn new(memory: &'a GuestMemory, map: &'a MemoryMap) -> Self {
        let reserved = map.entries().iter().filter(|e| e.kind != MemoryKind::Ram).map(MemoryMapEntry::range);
        let reserved = reserved.chain([LEGACY_HOLE]).collect();
        Self { memory, map, reserved, placements: Vec::new() }
    }

    /// A placer that keeps clear of `reserved` only: a flat binary may be the firmware.
    pub(super) fn for_flat(memory: &'a GuestMemory, map: &'a MemoryMap, reserved: &[MemoryMapEntry]) -> Self {
        let reserved = reserved.iter().map(MemoryMapEntry::range).collect();
        Self { memory, map, reserved, placements: Vec::new() }
    }

    /// Claims `len` bytes at `addr` without writing them.
    pub(super) fn claim(&mut self, part: Part, addr: u64, len: u64) -> Result<()> {
        if !self.memory.contains(addr, len) {
            return Err(self.not_ram(part, addr, len));
        }
        let range = addr..addr + len;
        if let Some(other) = self.placements.iter().find(|p| overlap(&p.range, &range)) {
            let where_ = &other.range;
            let message = format!("{part} at {range:#x?} overlaps {} at {where_:#x?}", other.part);
            return Err(Error::new(ErrorCode::MemoryRange, message));
        }
        if let Some(other) = self.reserved.iter().find(|r| overlap(r, &range)) {
            let message = format!("{part} at {range:#x?} overlaps {other:#x?}, which is reserved");
            return Err(Error::new(ErrorCode::MemoryRange, message));
        }
        self.placements.push(Placement { part, range });
        Ok(())
    }

    /// Claims a place at `addr` and writes `bytes` there.
    pub(super) fn put(&mut self, part: Part, addr: u64, bytes: &[u8]) -> Result<()> {
        self.claim(part, addr, bytes.len() as u64)?;
        self.memory.write(addr, bytes)
    }

    /// The same, and `zeros` zero bytes after them.
    pub(super) fn put_padded(&mut self, part: Part, addr: u64, bytes: &[u8], zeros: u64) -> Result<()> {
        let len = bytes.len() as u64;
        self.claim(part, addr, len.checked_add(zeros).ok_or_else(|| self.not_ram(part, addr, u64::MAX))?)?;
        self.memory.write(addr, bytes)?;
        if zeros > 0 { self.memory.fill(addr + len, 0, zeros) } else { Ok(()) }
    }

    /// Writes `bytes` at the start of a page, as high as it goes with no byte above `max`, and returns where.
    /// Memory below 1 MiB is left alone.
    pub(super) fn put_high(&mut self, part: Part, bytes: &[u8], max: u64) -> Result<u64> {
        let len = bytes.len() as u64;
        let addr = self.highest_place(len, max.saturating_add(1)).ok_or_else(|| {
            Error::new(
                ErrorCode::ImageTooLarge,
                format!(
                    "{part} of {len} bytes does not fit below {max:#x} into {} MiB of guest memory beside what is \
                     there already: give the guest more memory",
                    self.memory.size() >> 20
                ),
            )
        })?;
        self.put(part, addr, bytes)?;
        Ok(addr)
    }

    fn highest_place(&self, len: u64, limit: u64) -> Option<u64> {
        let taken = || self.placements.iter().map(|p| &p.range).chain(&self.reserved);
        for ram in self.map.ram().rev() {
            let floor = ram.start.max(LEGACY_HOLE.end);
            let mut end = ram.end.min(limit);
            while let Some(start) = end.checked_sub(len).map(|s| s & !(PAGE_SIZE - 1)).filter(|s| *s >= floor)
            {
                match taken().find(|t| overlap(t, &(start..start + len))) {
                    None => return Some(start),
                    Some(other) => end = other.start,
                }
            }
        }
        None
    }

    /// What lies where.
    pub(super) fn into_placements(self) -> Vec<Placement> {
        self.placements
    }

    /// More memory would help where RAM goes on; elsewhere nothing would.
    fn not_ram(&self, part: Part, addr: u64, len: u64) -> Error {
        let size = self.memory.size();
        match addr.checked_add(len) {
            Some(end) if end <= LOW_RAM_END => Error::new(
                ErrorCode::ImageTooLarge,
                format!(
                    "{part} needs memory up to {end:#x}, but the guest has {size:#x} bytes: give it more"
                ),
            ),
            _ => Error::new(
                ErrorCode::MemoryRange,
                format!("{part} wants {len:#x} bytes at guest-physical {addr:#x}, where there is no RAM"),
            ),
        }
    }
}

/// Whether two ranges share a byte.
fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start.max(b.start) < a.end.min(b.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_placer(run: impl FnOnce(&mut Placer<'_>)) {
        let memory = GuestMemory::new(4 << 20).unwrap();
        let reserved = [MemoryMapEntry { addr: 0x3f_0000, len: 0x1000, kind: MemoryKind::Acpi }];
        let map = MemoryMap::new(&memory, &reserved).unwrap();
        run(&mut Placer::new(&memory, &map));
    }

    #[test]
    fn high_places_go_down_around_what_is_there() {
        with_placer(|p| {
            assert_eq!(p.put_high(Part::Initrd, &[1; 5000], u64::MAX).unwrap(), 0x3f_e000);
            assert_eq!(p.put_high(Part::Initrd, &[2; 0xd000], u64::MAX).unwrap(), 0x3f_1000);
            assert_eq!(p.put_high(Part::Initrd, &[3; 0x1001], u64::MAX).unwrap(), 0x3e_e000);
            assert_eq!(p.put_high(Part::Initrd, &[4; 4096], 0x2f_ffff).unwrap(), 0x2f_f000);
            assert_eq!(p.put_high(Part::Initrd, &[4; 4096], 0x2f_fffe).unwrap(), 0x2f_e000);
            let all = p.memory.read_array::<1>(0x3f_e000).unwrap();
            assert_eq!(all, [1]);
        });
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        with_placer(|p| {
            let code = |r: Result<u64>| r.unwrap_err().code();
            assert_eq!(code(p.put_high(Part::Initrd, &[0; 4096], 0x10_0000)), ErrorCode::ImageTooLarge);
            assert_eq!(code(p.put_high(Part::Initrd, &vec![0; 4 << 20], u64::MAX)), ErrorCode::ImageTooLarge);
        });
    }

    #[test]
    fn claims_are_checked_against_ram_reservations_and_each_other() {
        with_placer(|p| {
            let code = |r: Result<()>| r.unwrap_err().code();
            assert_eq!(code(p.claim(Part::Kernel, 4 << 20, 1)), ErrorCode::ImageTooLarge);
            assert_eq!(code(p.claim(Part::Kernel, 0, (4 << 20) + 1)), ErrorCode::ImageTooLarge);
            assert_eq!(code(p.claim(Part::Kernel, LOW_RAM_END, 1)), ErrorCode::MemoryRange);
            assert_eq!(code(p.claim(Part::Kernel, u64::MAX, 2)), ErrorCode::MemoryRange);
            assert_eq!(code(p.put_padded(Part::Kernel, 0, &[1, 2], u64::MAX)), ErrorCode::MemoryRange);
            assert_eq!(code(p.claim(Part::Kernel, 0x9_ffff, 2)), ErrorCode::MemoryRange);
            assert_eq!(code(p.claim(Part::Kernel, 0x3e_ffff, 2)), ErrorCode::MemoryRange);
            p.claim(Part::Kernel, 0x20_0000, 0x1000).unwrap();
            p.claim(Part::Initrd, 0x20_1000, 0x1000).unwrap();
            assert_eq!(code(p.claim(Part::Initrd, 0x1f_ffff, 2)), ErrorCode::MemoryRange);
        });
    }
}
