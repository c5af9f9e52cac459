//! The software TLB: linear page to where it is, in a form that one comparison checks.
//!
//! Device memory, pages that hold decoded code (for writes) and accesses that cross a page are never in it, so a
//! hit needs no further question.

use squib_x86::system::paging::Page;

/// Entries in each array.
pub const ENTRIES: usize = 1024;

const INVALID: u64 = 1;

/// One translation.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Entry {
    /// The page's linear address, or [`INVALID`], which is no page's.
    tag: u64,
    /// Added to a linear address, gives the target.
    addend: u64,
}

const EMPTY: Entry = Entry { tag: INVALID, addend: 0 };

/// A range of addresses without any.
const NO_LARGE: (u64, u64) = (u64::MAX, 0);

/// The array that an access looks in.
pub type Entries = [Entry; ENTRIES];

/// What to add to `addr` to get the target of `len` (1–16) bytes, all in one page.
#[inline(always)]
pub fn lookup(entries: &Entries, addr: u64, len: u64) -> Option<u64> {
    let e = &entries[slot(addr)];
    // The last byte's page: if the access crossed into the next page, its slot would be another one.
    if e.tag == addr.wrapping_add(len - 1) & !0xfff { Some(e.addend) } else { None }
}

/// The page that an entry is of, or a piece of.
#[derive(Debug, Clone, Copy, Default)]
struct Origin {
    /// log2 of its size.
    shift: u8,
    global: bool,
}

/// The translations for one kind of access with one set of rights.
#[derive(Debug)]
pub struct Tlb {
    entries: Box<Entries>,
    origins: Box<[Origin; ENTRIES]>,
    /// The first and the last linear address of pages larger than 4 KiB that entries may be pieces of.
    large: (u64, u64),
    /// Indices filled since the last whole flush, so that a flush of a few costs a few.
    filled: Vec<u16>,
}

impl Default for Tlb {
    fn default() -> Self {
        Self {
            entries: Box::new([EMPTY; ENTRIES]),
            origins: Box::new([Origin::default(); ENTRIES]),
            large: NO_LARGE,
            filled: Vec::with_capacity(ENTRIES),
        }
    }
}

#[inline(always)]
const fn slot(addr: u64) -> usize {
    (addr >> 12) as usize & (ENTRIES - 1)
}

/// `range` with the page of `1 << shift` bytes at `addr`, if it is larger than 4 KiB.
fn extend(range: (u64, u64), addr: u64, shift: u8) -> (u64, u64) {
    if shift == 12 {
        return range;
    }
    let mask = (1 << shift) - 1;
    (range.0.min(addr & !mask), range.1.max(addr | mask))
}

impl Tlb {
    /// The entries, which stay where they are.
    pub fn entries(&self) -> &Entries {
        &self.entries
    }

    /// Enters the 4 KiB of `page` around `addr`, found at `target` (page-aligned): a host address for data, a
    /// guest-physical one for fetches.
    pub fn insert(&mut self, addr: u64, target: u64, page: &Page) {
        let tag = addr & !0xfff;
        let i = slot(tag);
        if self.entries[i].tag == INVALID {
            self.filled.push(i as u16);
        }
        self.entries[i] = Entry { tag, addend: target.wrapping_sub(tag) };
        self.origins[i] = Origin { shift: page.shift, global: page.global };
        self.large = extend(self.large, tag, page.shift);
    }

    /// Drops everything, or everything that is not global.
    pub fn flush(&mut self, keep_global: bool) {
        let mut large = NO_LARGE;
        let (entries, origins) = (&mut self.entries, &self.origins);
        self.filled.retain(|&i| {
            let i = usize::from(i);
            let keep = keep_global && origins[i].global;
            if keep {
                large = extend(large, entries[i].tag, origins[i].shift);
            } else {
                entries[i] = EMPTY;
            }
            keep
        });
        self.large = large;
    }

    /// Drops the page of `addr`, however large: all of its pieces.
    pub fn flush_page(&mut self, addr: u64) {
        if (self.large.0..=self.large.1).contains(&addr) {
            let (entries, origins) = (&mut self.entries, &self.origins);
            self.filled.retain(|&i| {
                let i = usize::from(i);
                let keep = (entries[i].tag ^ addr) >> origins[i].shift != 0;
                if !keep {
                    entries[i] = EMPTY;
                }
                keep
            });
        } else if self.entries[slot(addr)].tag == addr & !0xfff {
            self.drop_slot(slot(addr));
        }
    }

    /// Drops every page that translates to the page at `target`.
    pub fn flush_target(&mut self, target: u64) {
        let mut at = 0;
        while at < self.filled.len() {
            let i = usize::from(self.filled[at]);
            let e = self.entries[i];
            if e.addend.wrapping_add(e.tag) == target {
                self.drop_slot(i);
            } else {
                at += 1;
            }
        }
    }

    fn drop_slot(&mut self, i: usize) {
        self.entries[i] = EMPTY;
        if let Some(at) = self.filled.iter().position(|&f| usize::from(f) == i) {
            self.filled.swap_remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Page = Page {
        base: 0,
        shift: 12,
        writable: true,
        user: false,
        executable: true,
        global: false,
        dirty: true,
        key: 0,
    };
    const GLOBAL: Page = Page { global: true, ..SMALL };

    #[test]
    fn hits_are_whole_and_misses_are_misses() {
        let mut t = Tlb::default();
        assert_eq!(lookup(t.entries(), 1, 1), None);
        t.insert(0x5123, 0x10_0000, &SMALL);
        assert_eq!(lookup(t.entries(), 0x5ff8, 8).map(|a| a.wrapping_add(0x5ff8)), Some(0x10_0ff8));
        assert_eq!(lookup(t.entries(), 0x5ff9, 8), None, "crosses the page");
        assert_eq!(lookup(t.entries(), 0x5000 + ((ENTRIES as u64) << 12), 1), None, "same slot, other page");
        assert_eq!(lookup(t.entries(), u64::MAX, 8), None, "wraps");
    }

    #[test]
    fn flushes_drop_what_they_say() {
        let mut t = Tlb::default();
        t.insert(0x1000, 0xa000, &GLOBAL);
        t.insert(0x2000, 0xb000, &SMALL);
        t.insert(0x3000, 0xb000, &SMALL);
        t.flush_page(0x3fff);
        assert_eq!(lookup(t.entries(), 0x3000, 1), None);
        t.flush(true);
        assert!(lookup(t.entries(), 0x1000, 1).is_some() && lookup(t.entries(), 0x2000, 1).is_none());
        t.insert(0x2000, 0xb000, &SMALL);
        t.flush_target(0xb000);
        assert!(lookup(t.entries(), 0x1000, 1).is_some() && lookup(t.entries(), 0x2000, 1).is_none());
        t.flush(false);
        assert_eq!(lookup(t.entries(), 0x1000, 1), None);
    }

    #[test]
    fn a_large_page_is_flushed_whole_and_nothing_else() {
        let mut t = Tlb::default();
        let known = |t: &Tlb, addr| lookup(t.entries(), addr, 1).is_some();
        let large = Page { shift: 21, ..SMALL };
        for addr in [0x20_0000, 0x20_1000, 0x3f_f000] {
            t.insert(addr, addr, &large);
        }
        t.insert(0x40_2000, 0, &SMALL);
        t.insert(0x7fff_ffff_f000, 0, &Page { shift: 30, ..GLOBAL });
        t.flush_page(0x40_0000);
        assert!(known(&t, 0x20_0000) && known(&t, 0x40_2000));
        t.flush_page(0x30_0000);
        for addr in [0x20_0000, 0x20_1000, 0x3f_f000] {
            assert!(!known(&t, addr), "{addr:#x}");
        }
        assert!(known(&t, 0x40_2000) && known(&t, 0x7fff_ffff_f000));
        t.flush(true);
        assert!(!known(&t, 0x40_2000) && known(&t, 0x7fff_ffff_f000));
        t.flush_page(0x7fff_c000_0000);
        assert!(!known(&t, 0x7fff_ffff_f000));
    }
}
