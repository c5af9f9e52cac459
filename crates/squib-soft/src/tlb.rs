//! The software TLB: linear page to where it is, in a form that one comparison checks.
//!
//! Device memory, pages that hold decoded code (for writes) and accesses that cross a page are never in it, so a
//! hit needs no further question.

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

/// The array that an access looks in.
pub type Entries = [Entry; ENTRIES];

/// What to add to `addr` to get the target of `len` (1–16) bytes, all in one page.
#[inline(always)]
pub fn lookup(entries: &Entries, addr: u64, len: u64) -> Option<u64> {
    let e = &entries[slot(addr)];
    // The last byte's page: if the access crossed into the next page, its slot would be another one.
    if e.tag == addr.wrapping_add(len - 1) & !0xfff { Some(e.addend) } else { None }
}

/// The translations for one kind of access with one set of rights.
#[derive(Debug)]
pub struct Tlb {
    entries: Box<Entries>,
    global: Box<[bool; ENTRIES]>,
    /// Indices filled since the last whole flush, so that a flush of a few costs a few.
    filled: Vec<u16>,
}

impl Default for Tlb {
    fn default() -> Self {
        Self {
            entries: Box::new([EMPTY; ENTRIES]),
            global: Box::new([false; ENTRIES]),
            filled: Vec::with_capacity(ENTRIES),
        }
    }
}

#[inline(always)]
const fn slot(addr: u64) -> usize {
    (addr >> 12) as usize & (ENTRIES - 1)
}

impl Tlb {
    /// The entries, which stay where they are.
    pub fn entries(&self) -> &Entries {
        &self.entries
    }

    /// Enters the page of `addr`, found at `target` (page-aligned): a host address for data, a guest-physical one
    /// for fetches.
    pub fn insert(&mut self, addr: u64, target: u64, global: bool) {
        let page = addr & !0xfff;
        let i = slot(page);
        if self.entries[i].tag == INVALID {
            self.filled.push(i as u16);
        }
        self.entries[i] = Entry { tag: page, addend: target.wrapping_sub(page) };
        self.global[i] = global;
    }

    /// Drops everything, or everything that is not global.
    pub fn flush(&mut self, keep_global: bool) {
        let (entries, global) = (&mut self.entries, &self.global);
        self.filled.retain(|&i| {
            let i = usize::from(i);
            let keep = keep_global && global[i];
            if !keep {
                entries[i] = EMPTY;
            }
            keep
        });
    }

    /// Drops the page of `addr`.
    pub fn flush_page(&mut self, addr: u64) {
        let i = slot(addr);
        if self.entries[i].tag == addr & !0xfff {
            self.drop_slot(i);
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

    #[test]
    fn hits_are_whole_and_misses_are_misses() {
        let mut t = Tlb::default();
        assert_eq!(lookup(t.entries(), 1, 1), None);
        t.insert(0x5123, 0x10_0000, false);
        assert_eq!(lookup(t.entries(), 0x5ff8, 8).map(|a| a.wrapping_add(0x5ff8)), Some(0x10_0ff8));
        assert_eq!(lookup(t.entries(), 0x5ff9, 8), None, "crosses the page");
        assert_eq!(lookup(t.entries(), 0x5000 + ((ENTRIES as u64) << 12), 1), None, "same slot, other page");
        assert_eq!(lookup(t.entries(), u64::MAX, 8), None, "wraps");
    }

    #[test]
    fn flushes_drop_what_they_say() {
        let mut t = Tlb::default();
        t.insert(0x1000, 0xa000, true);
        t.insert(0x2000, 0xb000, false);
        t.insert(0x3000, 0xb000, false);
        t.flush_page(0x3fff);
        assert_eq!(lookup(t.entries(), 0x3000, 1), None);
        t.flush(true);
        assert!(lookup(t.entries(), 0x1000, 1).is_some() && lookup(t.entries(), 0x2000, 1).is_none());
        t.insert(0x2000, 0xb000, false);
        t.flush_target(0xb000);
        assert!(lookup(t.entries(), 0x1000, 1).is_some() && lookup(t.entries(), 0x2000, 1).is_none());
        t.flush(false);
        assert_eq!(lookup(t.entries(), 0x1000, 1), None);
    }
}
