//! Decoded blocks: straight runs of code within a page.

use squib_x86::CodeMode;
use squib_x86::insn::Insn;

use crate::op::Op;

/// Most instructions of a block.
pub const MAX_INSNS: usize = 64;

/// What a block is found by: the same bytes mean another thing at another address or in another mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// Guest-physical address of the first byte.
    pub phys: u64,
    /// Offset of the first byte in its code segment.
    pub rip: u64,
    /// Decoding mode.
    pub mode: CodeMode,
    /// One instruction only.
    pub single: bool,
}

/// A decoded block.
pub struct Block {
    /// Where and how it was decoded.
    pub key: Key,
    /// Guest-physical address of the second page, where its only instruction reaches into one.
    pub second_page: Option<u64>,
    /// Bytes of guest code.
    pub len: u32,
    /// Instructions.
    pub count: u32,
    /// Operations, the last of which ends the block.
    pub ops: Box<[Op]>,
    /// Instructions that run by their full description, referred to by operations.
    pub insns: Box<[Insn]>,
}

impl Block {
    /// Which instruction `op` belongs to: its number in the block, and its address.
    ///
    /// `op` has to point into [`Block::ops`]; anything else counts as the end.
    pub fn locate(&self, op: *const Op) -> (u32, u64) {
        let index = (op as usize).wrapping_sub(self.ops.as_ptr() as usize) / size_of::<Op>();
        let before = self.ops.get(..index).unwrap_or(&self.ops);
        let count = before.iter().filter(|o| o.len != 0).count() as u32;
        let bytes: u64 = before.iter().map(|o| u64::from(o.len)).sum();
        (count, self.key.rip.wrapping_add(bytes))
    }

    /// The offset in the code segment at which the second page begins.
    pub fn second_rip(&self) -> u64 {
        self.key.rip.wrapping_add(4096 - (self.key.phys & 0xfff))
    }

    /// Whether any of its bytes lies in `len` bytes of guest-physical memory at `phys`, which are all in one page.
    pub fn overlaps(&self, phys: u64, len: u64) -> bool {
        let start = self.key.phys;
        let in_first = 4096 - (start & 0xfff);
        let first = start..start + u64::from(self.len).min(in_first);
        let second = self.second_page.map(|p| p..p + u64::from(self.len).saturating_sub(in_first));
        let hit = |r: &std::ops::Range<u64>| phys < r.end && r.start < phys + len;
        hit(&first) || second.as_ref().is_some_and(hit)
    }
}
