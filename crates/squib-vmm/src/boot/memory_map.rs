//! The memory map that a guest is given: which addresses are RAM it may use.

use std::ops::Range;

use squib_core::{Error, ErrorCode, GuestMemory, Result};

use super::layout::{FIRMWARE, LEGACY_HOLE};

/// Most entries that a map may have: what Linux's `boot_params` holds.
pub const MAX_MEMORY_MAP_ENTRIES: usize = 128;

/// What a range of guest-physical memory is for, with the numbers of ACPI 6.5, table 15.10 (E820).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum MemoryKind {
    /// Free for the operating system.
    Ram = 1,
    /// Never to be touched as memory.
    Reserved = 2,
    /// ACPI tables, free once they have been read.
    Acpi = 3,
    /// ACPI memory that survives sleep states.
    AcpiNvs = 4,
}

/// One range of the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MemoryMapEntry {
    /// Guest-physical address of the first byte.
    pub addr: u64,
    /// Length in bytes.
    pub len: u64,
    /// What it is.
    pub kind: MemoryKind,
}

impl MemoryMapEntry {
    /// The addresses; saturates where the entry leaves the address space.
    pub const fn range(&self) -> Range<u64> {
        self.addr..self.addr.saturating_add(self.len)
    }
}

/// Ranges in ascending order that do not overlap. Addresses in none of them are no memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryMap {
    entries: Vec<MemoryMapEntry>,
}

impl MemoryMap {
    /// The map of `memory`: its RAM without the [legacy hole](LEGACY_HOLE), and `reserved`. Of the hole, the
    /// part for [firmware tables](FIRMWARE) is reserved where RAM backs it.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidArgument`] when an entry of `reserved` is RAM, empty, leaves the address space or
    /// overlaps another, or when the map would have more than [`MAX_MEMORY_MAP_ENTRIES`].
    pub fn new(memory: &GuestMemory, reserved: &[MemoryMapEntry]) -> Result<Self> {
        let mut reserved = reserved.to_vec();
        reserved.sort_unstable_by_key(|e| e.addr);
        let wrong = |e: &MemoryMapEntry| {
            e.kind == MemoryKind::Ram || e.len == 0 || e.addr.checked_add(e.len).is_none()
        };
        if let Some(e) = reserved.iter().find(|e| wrong(e)) {
            return Err(invalid(format!("{e:?} is no range that can be reserved")));
        }
        if let Some(w) = reserved.windows(2).find(|w| w[0].range().end > w[1].addr) {
            return Err(invalid(format!("the reserved ranges {:?} and {:?} overlap", w[0], w[1])));
        }
        let mut holes: Vec<_> = reserved.iter().map(MemoryMapEntry::range).collect();
        let mut entries = reserved;
        if memory.contains(FIRMWARE.start, FIRMWARE.end - FIRMWARE.start) {
            entries.extend(without(FIRMWARE, &holes).map(entry(MemoryKind::Reserved)));
        }
        holes.push(LEGACY_HOLE);
        holes.sort_unstable_by_key(|h| h.start);
        for region in memory.regions() {
            let ram = region.guest_addr()..region.guest_addr() + region.len();
            entries.extend(without(ram, &holes).map(entry(MemoryKind::Ram)));
        }
        entries.sort_unstable_by_key(|e| e.addr);
        if entries.len() > MAX_MEMORY_MAP_ENTRIES {
            return Err(invalid(format!(
                "the memory map would have {} entries, but a guest takes {MAX_MEMORY_MAP_ENTRIES}: reserve fewer ranges",
                entries.len()
            )));
        }
        Ok(Self { entries })
    }

    /// The entries, ascending.
    pub fn entries(&self) -> &[MemoryMapEntry] {
        &self.entries
    }

    /// The ranges of RAM, ascending.
    pub fn ram(&self) -> impl DoubleEndedIterator<Item = Range<u64>> {
        self.entries.iter().filter(|e| e.kind == MemoryKind::Ram).map(MemoryMapEntry::range)
    }

    /// Whether `range` lies in one range of RAM.
    pub fn is_ram(&self, range: &Range<u64>) -> bool {
        self.ram().any(|ram| ram.start <= range.start && range.end <= ram.end)
    }
}

fn entry(kind: MemoryKind) -> impl Fn(Range<u64>) -> MemoryMapEntry {
    move |range| MemoryMapEntry { addr: range.start, len: range.end - range.start, kind }
}

/// The pieces of `range` that are in none of `holes`, which ascend and may overlap.
fn without(range: Range<u64>, holes: &[Range<u64>]) -> impl Iterator<Item = Range<u64>> {
    let mut start = range.start;
    let end = range.end;
    let after_last = end..end;
    holes.iter().cloned().chain([after_last]).filter_map(move |hole| {
        let piece = start..hole.start.min(end);
        start = start.max(hole.end);
        (!piece.is_empty()).then_some(piece)
    })
}

fn invalid(message: String) -> Error {
    Error::new(ErrorCode::InvalidArgument, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use MemoryKind::{Acpi, Ram, Reserved};

    fn map(
        regions: &[(u64, u64)],
        reserved: &[(u64, u64, MemoryKind)],
    ) -> Result<Vec<(u64, u64, MemoryKind)>> {
        let memory = GuestMemory::with_regions(regions)?;
        let reserved: Vec<_> = reserved
            .iter()
            .map(|&(addr, end, kind)| MemoryMapEntry { addr, len: end - addr, kind })
            .collect();
        let map = MemoryMap::new(&memory, &reserved)?;
        Ok(map.entries().iter().map(|e| (e.addr, e.addr + e.len, e.kind)).collect())
    }

    #[test]
    fn ram_is_split_around_the_legacy_hole() {
        let entries = map(&[(0, 4 << 20), (4 << 30, 1 << 20)], &[]).unwrap();
        assert_eq!(
            entries,
            [
                (0, 0xa_0000, Ram),
                (0xe_0000, 0x10_0000, Reserved),
                (0x10_0000, 4 << 20, Ram),
                (4 << 30, (4 << 30) + (1 << 20), Ram)
            ]
        );
        assert_eq!(map(&[(0, 0x1_0000)], &[]).unwrap(), [(0, 0x1_0000, Ram)]);
        assert_eq!(map(&[(0, 0xb_0000)], &[]).unwrap(), [(0, 0xa_0000, Ram)]);
    }

    #[test]
    fn reserved_ranges_are_cut_out_of_ram_and_of_the_firmware_area() {
        let reserved = [
            (0x20_0000, 0x20_1000, Acpi),
            (0x9_f000, 0xe_1000, Reserved),
            (0xfec0_0000, 0xfec0_1000, Reserved),
        ];
        assert_eq!(
            map(&[(0, 4 << 20)], &reserved).unwrap(),
            [
                (0, 0x9_f000, Ram),
                (0x9_f000, 0xe_1000, Reserved),
                (0xe_1000, 0x10_0000, Reserved),
                (0x10_0000, 0x20_0000, Ram),
                (0x20_0000, 0x20_1000, Acpi),
                (0x20_1000, 4 << 20, Ram),
                (0xfec0_0000, 0xfec0_1000, Reserved)
            ]
        );
    }

    #[test]
    fn absurd_reservations_are_refused() {
        let ram = [(0, 4 << 20)];
        let code = |reserved: &[MemoryMapEntry]| {
            let memory = GuestMemory::with_regions(&ram).unwrap();
            MemoryMap::new(&memory, reserved).unwrap_err().code()
        };
        let entry = |addr, len, kind| MemoryMapEntry { addr, len, kind };
        assert_eq!(code(&[entry(0, 0, Reserved)]), ErrorCode::InvalidArgument);
        assert_eq!(code(&[entry(0, 4096, Ram)]), ErrorCode::InvalidArgument);
        assert_eq!(code(&[entry(u64::MAX, 2, Reserved)]), ErrorCode::InvalidArgument);
        assert_eq!(code(&[entry(0, 4096, Acpi), entry(4095, 1, Reserved)]), ErrorCode::InvalidArgument);
        let many: Vec<_> = (0..MAX_MEMORY_MAP_ENTRIES as u64).map(|i| entry(i << 33, 1, Reserved)).collect();
        assert_eq!(code(&many), ErrorCode::InvalidArgument);
    }
}
