//! The pages that were written while a log is kept, by whomever.
//!
//! KVM's log knows only what guests write. Devices, loaders and the embedder write through
//! [`GuestMemory`], whose hook tells of pages that are marked: while a log is kept, that is every page.

use std::sync::atomic::{AtomicU64, Ordering};

use squib_core::memory::PAGE_SIZE;
use squib_core::{CodeWriteObserver, GuestMemory};

/// A bitmap for each region, in the form of KVM's dirty log: bit n of word n / 64 is page n.
pub(super) struct DirtyPages {
    regions: Box<[Region]>,
}

struct Region {
    start: u64,
    pages: u64,
    words: Box<[AtomicU64]>,
    /// Which words are not 0, in the same form: what is not written costs nothing to look at.
    groups: Box<[AtomicU64]>,
}

impl Region {
    fn mark_word(&self, index: usize, pages: u64) {
        if let (Some(word), Some(group)) = (self.words.get(index), self.groups.get(index / 64)) {
            word.fetch_or(pages, Ordering::AcqRel);
            // In any case: whoever made it not 0 may not have come this far.
            group.fetch_or(1 << (index % 64), Ordering::AcqRel);
        }
    }
}

impl DirtyPages {
    pub(super) fn new(memory: &GuestMemory) -> Self {
        let zeros = |len: usize| (0..len).map(|_| AtomicU64::new(0)).collect();
        let region = |start: u64, len: u64| {
            let pages = len / PAGE_SIZE;
            let words = pages.div_ceil(64) as usize;
            Region { start, pages, words: zeros(words), groups: zeros(words.div_ceil(64)) }
        };
        Self { regions: memory.regions().iter().map(|r| region(r.guest_addr(), r.len())).collect() }
    }

    /// Starts, from nothing, or stops to hear of writes by others than vCPUs.
    pub(super) fn watch(&self, memory: &GuestMemory, enabled: bool) {
        self.take();
        for region in memory.regions() {
            for mark in region.code_marks() {
                mark.store(u8::from(enabled), Ordering::Release);
            }
        }
    }

    /// Notes a page of a region; one that there is not is none.
    pub(super) fn mark(&self, region: usize, page: u64) {
        if let Some(region) = self.regions.get(region).filter(|region| page < region.pages) {
            region.mark_word((page / 64) as usize, 1 << (page % 64));
        }
    }

    /// Notes the pages of word `index` of a region's bitmap.
    pub(super) fn mark_word(&self, region: usize, index: usize, pages: u64) {
        if pages != 0
            && let Some(region) = self.regions.get(region)
        {
            region.mark_word(index, pages);
        }
    }

    /// Notes every page.
    pub(super) fn mark_all(&self) {
        for region in &self.regions {
            (0..region.words.len()).for_each(|index| region.mark_word(index, u64::MAX));
        }
    }

    /// Takes the addresses of all pages, ascending.
    pub(super) fn take(&self) -> Vec<u64> {
        let mut pages = Vec::new();
        for region in &self.regions {
            for (group, words) in region.groups.iter().zip(region.words.chunks(64)).enumerate() {
                let (group, (marked, words)) = (group as u64 * 64, words);
                for index in bits(marked.swap(0, Ordering::AcqRel)) {
                    let word = words.get(index as usize).map_or(0, |word| word.swap(0, Ordering::AcqRel));
                    let numbers = bits(word).map(|bit| (group + index) * 64 + bit);
                    pages.extend(
                        numbers
                            .filter(|page| *page < region.pages)
                            .map(|page| region.start + page * PAGE_SIZE),
                    );
                }
            }
        }
        pages
    }
}

/// The numbers of the bits that are set, ascending.
fn bits(mut word: u64) -> impl Iterator<Item = u64> {
    std::iter::from_fn(move || {
        let bit = (word != 0).then(|| u64::from(word.trailing_zeros()));
        word &= word.wrapping_sub(1);
        bit
    })
}

impl CodeWriteObserver for DirtyPages {
    fn code_written(&self, page: u64) {
        // Regions ascend and do not overlap: the last that starts at or before the page holds it.
        let holding = self.regions.partition_point(|region| region.start <= page);
        if let Some(last) = holding.checked_sub(1)
            && let Some(region) = self.regions.get(last)
        {
            self.mark(last, (page - region.start) / PAGE_SIZE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages_of_two_regions() -> DirtyPages {
        let memory = [(0x1000, 4200 * PAGE_SIZE), (0x200_0000, PAGE_SIZE)];
        DirtyPages::new(&GuestMemory::with_regions(&memory).unwrap())
    }

    #[test]
    fn pages_are_found_in_their_region_and_taken_once() {
        let pages = pages_of_two_regions();
        let written =
            [0x1000, 0x1000 + 63 * PAGE_SIZE, 0x1000 + 64 * PAGE_SIZE, 0x1000 + 4199 * PAGE_SIZE, 0x200_0000];
        for page in written {
            pages.code_written(page);
        }
        for elsewhere in [0, 0x1000 + 4200 * PAGE_SIZE, 0x200_0000 + PAGE_SIZE, u64::MAX - 4095] {
            pages.code_written(elsewhere);
        }
        assert_eq!(pages.take(), written);
        assert_eq!(pages.take(), []);
    }

    #[test]
    fn what_lies_outside_is_no_page() {
        let pages = pages_of_two_regions();
        for (region, page) in [(0, 4200), (1, 1), (1, u64::MAX), (2, 0), (usize::MAX, 0)] {
            pages.mark(region, page);
        }
        pages.mark_word(0, 66, 1);
        pages.mark_word(2, 0, 1);
        assert_eq!(pages.take(), []);
        pages.mark_word(1, 0, 3);
        assert_eq!(pages.take(), [0x200_0000]);
        pages.mark_all();
        assert_eq!(pages.take().len(), 4201);
    }
}
