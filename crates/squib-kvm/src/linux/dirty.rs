//! Pages written by others than vCPUs.
//!
//! KVM's log knows only what guests write. Devices, loaders and the embedder write through
//! [`GuestMemory`], whose hook tells of pages that are marked: while a log is kept, that is every page.

use std::sync::atomic::{AtomicU64, Ordering};

use squib_core::memory::PAGE_SIZE;
use squib_core::{CodeWriteObserver, GuestMemory};

/// A bitmap for each region, in the form of KVM's dirty log: bit n of word n / 64 is page n.
pub(super) struct OutsideWrites {
    regions: Box<[(u64, Box<[AtomicU64]>)]>,
}

impl OutsideWrites {
    pub(super) fn new(memory: &GuestMemory) -> Self {
        let bitmap = |len: u64| (0..(len / PAGE_SIZE).div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Self { regions: memory.regions().iter().map(|r| (r.guest_addr(), bitmap(r.len()))).collect() }
    }

    /// Starts, from nothing, or stops.
    pub(super) fn watch(&self, memory: &GuestMemory, enabled: bool) {
        for (region, (_, bitmap)) in memory.regions().iter().zip(&self.regions) {
            for word in bitmap {
                word.store(0, Ordering::Relaxed);
            }
            for mark in region.code_marks() {
                mark.store(u8::from(enabled), Ordering::Release);
            }
        }
    }

    /// Takes word `index` of region number `region`.
    pub(super) fn take(&self, region: usize, index: usize) -> u64 {
        let word = self.regions.get(region).and_then(|(_, bitmap)| bitmap.get(index));
        word.map_or(0, |word| word.swap(0, Ordering::AcqRel))
    }
}

impl CodeWriteObserver for OutsideWrites {
    fn code_written(&self, page: u64) {
        // Regions ascend and do not overlap: the last that starts at or before the page holds it.
        let holding = self.regions.partition_point(|(start, _)| *start <= page);
        let Some((start, bitmap)) = holding.checked_sub(1).and_then(|last| self.regions.get(last)) else {
            return;
        };
        let number = (page - start) / PAGE_SIZE;
        if let Some(word) = bitmap.get((number / 64) as usize) {
            word.fetch_or(1 << (number % 64), Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_found_in_their_region() {
        let memory = GuestMemory::with_regions(&[(0x1000, 70 * PAGE_SIZE), (0x10_0000, PAGE_SIZE)]).unwrap();
        let writes = OutsideWrites::new(&memory);
        for page in [0x1000, 0x1000 + 65 * PAGE_SIZE, 0x10_0000] {
            writes.code_written(page);
        }
        for elsewhere in [0, 0x10_0000 + 64 * PAGE_SIZE, u64::MAX - 4095] {
            writes.code_written(elsewhere);
        }
        let taken = [writes.take(0, 0), writes.take(0, 1), writes.take(1, 0), writes.take(0, 0)];
        assert_eq!(taken, [1, 2, 1, 0]);
        assert_eq!((writes.take(0, 2), writes.take(2, 0)), (0, 0));
    }
}
