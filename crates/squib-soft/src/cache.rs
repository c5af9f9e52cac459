//! Decoded blocks, found by address and dropped when their bytes change.
#![allow(unsafe_code, reason = "blocks are run through raw pointers while the cache owns them")]

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::Ordering;

use squib_core::GuestMemory;

use crate::block::{Block, Key};
use crate::code_page::CodePage;
use crate::op::{Handler, Op};

/// Entries of the cache of recent blocks.
const RECENT: usize = 4096;

/// Bytes of decoded code and what it is found by at which everything is dropped, so that a VM stays within 8 MiB beyond
/// its RAM. Dropping costs little: a boot of Linux, which is flat code, takes as long with a tenth of what it could use.
const LIMIT: usize = 5 << 20;

/// What a block costs in the maps that find it and in the allocator, in bytes, about.
const BOOKKEEPING: usize = 192;

/// Mixes the words of a key; they are addresses, so nothing better is needed.
#[derive(Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }

    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.write_u64(u64::from(*b));
        }
    }

    fn write_u64(&mut self, v: u64) {
        self.0 = (self.0.rotate_left(5) ^ v).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_isize(&mut self, v: isize) {
        self.write_u64(v as u64);
    }
}

type Hash = BuildHasherDefault<KeyHasher>;

#[derive(Clone, Copy)]
struct Recent {
    rip: u64,
    generation: u64,
    block: *const Block,
}

/// A block on the heap. It is freed by the cache, and only when no instruction of it runs.
struct Owned(*mut Block);

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: made by `Box::into_raw` in `insert`, and owned by this value alone.
        drop(unsafe { Box::from_raw(self.0) });
    }
}

/// The blocks of one vCPU.
pub struct BlockCache {
    /// By linear address, for user and supervisor code apart: a hit skips the fetch's check of rights.
    recent: [Box<[Recent; RECENT]>; 2],
    blocks: HashMap<Key, Owned, Hash>,
    /// The guest-physical pages with code.
    pages: HashMap<u64, Box<CodePage>, Hash>,
    /// Dropped, but perhaps still running.
    dropped: Vec<Owned>,
    bytes: usize,
}

impl Default for BlockCache {
    fn default() -> Self {
        let none = Recent { rip: 0, generation: 0, block: std::ptr::null() };
        Self {
            recent: [Box::new([none; RECENT]), Box::new([none; RECENT])],
            blocks: HashMap::default(),
            pages: HashMap::default(),
            dropped: Vec::new(),
            bytes: 0,
        }
    }
}

#[inline(always)]
const fn slot(rip: u64) -> usize {
    (rip ^ rip >> 12) as usize & (RECENT - 1)
}

impl BlockCache {
    /// The block at linear address `rip`, if it ran lately and code has not changed its meaning since.
    #[inline(always)]
    pub fn recent(&self, rip: u64, generation: u64, user: bool) -> Option<*const Block> {
        let e = &self.recent[usize::from(user)][slot(rip)];
        if e.rip == rip && e.generation == generation { Some(e.block) } else { None }
    }

    /// Remembers a block as recent.
    pub fn remember(&mut self, rip: u64, generation: u64, user: bool, block: *const Block) {
        self.recent[usize::from(user)][slot(rip)] = Recent { rip, generation, block };
    }

    /// The block with this key.
    pub fn get(&self, key: &Key) -> Option<*const Block> {
        self.blocks.get(key).map(|b| b.0.cast_const())
    }

    /// Adds a block, whose pages are marked as code already.
    pub fn insert(&mut self, block: Block) -> *const Block {
        let key = block.key;
        self.bytes +=
            size_of::<Block>() + size_of_val(&*block.ops) + size_of_val(&*block.insns) + BOOKKEEPING;
        for (page, bytes) in block.pieces() {
            let code = self.pages.entry(page).or_insert_with(|| {
                self.bytes += size_of::<CodePage>();
                Box::default()
            });
            code.insert(bytes, key);
        }
        let ptr = Box::into_raw(Box::new(block));
        if let Some(old) = self.blocks.insert(key, Owned(ptr)) {
            self.dropped.push(old);
        }
        ptr
    }

    /// Drops the blocks with bytes in `len` bytes at `phys`, which lie in one page. One that runs ends after its
    /// present instruction, by way of `stale`. Whether there were any.
    pub fn invalidate(&mut self, phys: u64, len: u64, memory: &GuestMemory, stale: Handler) -> bool {
        let page = phys & !0xfff;
        let Some(code) = self.pages.get_mut(&page) else {
            // What was read of it was no code.
            unmark(memory, page);
            return false;
        };
        let start = (phys & 0xfff) as u16;
        let keys = code.take(&(start..start + len as u16));
        if code.is_empty() {
            self.pages.remove(&page);
            unmark(memory, page);
        }
        for key in &keys {
            // A block may be gone already, with bytes that it had elsewhere.
            if let Some(block) = self.blocks.remove(key) {
                retire(&block, stale);
                self.dropped.push(block);
            }
        }
        !keys.is_empty()
    }

    /// Frees what was dropped, and everything when there is too much. Nothing may be running, and `generation` is the
    /// one in force. Whether recent blocks have gone.
    pub fn collect(&mut self, memory: &GuestMemory, generation: u64) -> bool {
        debug_assert!(
            !self.remembers_dropped(generation),
            "a block that is about to be freed can still be found"
        );
        if self.bytes <= LIMIT {
            self.dropped.clear();
            return false;
        }
        self.clear(memory);
        true
    }

    fn remembers_dropped(&self, generation: u64) -> bool {
        let mut recent = self.recent.iter().flat_map(|r| r.iter()).filter(|e| e.generation == generation);
        recent.any(|e| self.dropped.iter().any(|d| std::ptr::eq(d.0, e.block)))
    }

    /// Drops every block. Nothing may be running.
    pub fn clear(&mut self, memory: &GuestMemory) {
        for page in self.pages.keys() {
            unmark(memory, *page);
        }
        self.pages.clear();
        self.blocks.clear();
        self.dropped.clear();
        self.bytes = 0;
    }

    /// Whether there is something to free.
    #[inline(always)]
    pub fn wants_collection(&self) -> bool {
        !self.dropped.is_empty() || self.bytes > LIMIT
    }
}

/// Makes every operation of a block end it.
fn retire(block: &Owned, stale: Handler) {
    // SAFETY: the block is live. Handlers hold only raw pointers to its operations, and read them after this.
    let ops: *mut [Op] = unsafe { &raw mut *(*block.0).ops };
    for i in 0..ops.len() {
        // SAFETY: the index is inside of the slice.
        unsafe { (*ops.cast::<Op>().add(i)).run = stale };
    }
}

fn unmark(memory: &GuestMemory, page: u64) {
    if let Some((region, offset)) = memory.find(page) {
        region.code_marks()[(offset / 4096) as usize].store(0, Ordering::Release);
    }
}
