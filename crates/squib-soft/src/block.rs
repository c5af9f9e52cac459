//! Decoded blocks: straight runs of code within a page.

use std::ops::Range;

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

    /// Where its bytes are: guest-physical addresses of pages, and offsets in them.
    pub fn pieces(&self) -> impl Iterator<Item = (u64, Range<u16>)> + use<> {
        let start = self.key.phys & 0xfff;
        let end = start + u64::from(self.len);
        let first = (self.key.phys & !0xfff, start as u16..end.min(4096) as u16);
        let second = self.second_page.map(|page| (page, 0..(end - 4096) as u16));
        [Some(first), second].into_iter().flatten()
    }
}
