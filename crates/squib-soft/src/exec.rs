//! The dispatcher: finds blocks and runs them.
#![allow(unsafe_code, reason = "blocks are run by pointer while the cache owns them; see `Handler`")]

use std::sync::atomic::{Ordering, fence};

use iced_x86::Mnemonic as M;
use squib_core::x86::bits::RFLAGS_TF;
use squib_x86::insn::{Insn, Rep};
use squib_x86::system::debug::{self, Watched};
use squib_x86::{Exception, Stop};

use crate::block::{Block, Key};
use crate::cpu::Cpu;
use crate::interp::handlers;
use crate::op::Flow;

/// Why guest code stopped running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// The quantum is used up.
    Quantum,
    /// The instruction at RIP stopped.
    Stop(Stop),
    /// The instruction before RIP asked for attention; [`Cpu::leave`] says why.
    Leave,
}

impl Cpu {
    /// Runs blocks until the quantum is used up or something happens.
    pub(crate) fn run_blocks(&mut self) -> Pause {
        while self.left > 0 {
            let rip = self.state.rip;
            let block = match self.cache.recent(rip, self.code_generation, self.state.cpl == 3) {
                Some(block) => block,
                None => match self.find_block(rip, false) {
                    Ok(block) => block,
                    Err(e) => return Pause::Stop(Stop::Fault(e)),
                },
            };
            if let Some(pause) = self.run_block(block) {
                return pause;
            }
        }
        Pause::Quantum
    }

    /// Runs exactly one instruction (of a repeated string instruction, one chunk).
    pub(crate) fn step(&mut self) -> Option<Pause> {
        match self.find_block(self.state.rip, true) {
            Ok(block) => self.run_block(block),
            Err(e) => Some(Pause::Stop(Stop::Fault(e))),
        }
    }

    /// The instruction that has just been stepped, where it runs by its full description.
    fn stepped(&self) -> Option<&Insn> {
        // SAFETY: the cache frees blocks only between runs.
        unsafe { self.block.as_ref() }.and_then(|b| b.insns.first())
    }

    /// Whether the instruction that has just been stepped was INT, INT1, INT3 or INTO. They clear TF, and no single-step
    /// trap follows them (Intel SDM vol. 3, 18.3.1.4).
    pub(crate) fn raised_interrupt(&self) -> bool {
        self.stepped().is_some_and(|i| matches!(i.mnemonic, M::Int | M::Int1 | M::Int3 | M::Into))
            && self.state.sys_flags & RFLAGS_TF == 0
    }

    /// Whether the instruction that has just been stepped was SYSCALL or SYSRET, which tell of a trap themselves.
    pub(crate) fn was_system_call(&self) -> bool {
        self.stepped().is_some_and(|i| matches!(i.mnemonic, M::Syscall | M::Sysret | M::Sysretq))
    }

    /// Whether the instruction that has just been stepped was INT1, which is a debug exception itself.
    pub(crate) fn raised_debug(&self) -> bool {
        self.stepped().is_some_and(|i| i.mnemonic == M::Int1)
    }

    /// Whether the instruction that has just been stepped is repeated and has further elements to do.
    pub(crate) fn is_unfinished(&self) -> bool {
        self.stepped().is_some_and(|i| i.rep != Rep::None && i.rip == self.state.rip)
    }

    /// The conditions that code breakpoints meet at the next instruction: bits of DR6.
    pub(crate) fn code_breakpoints(&self) -> u64 {
        if !debug::armed(&self.state) {
            return 0;
        }
        // Past the segment's limit there is no instruction, but a fault.
        let at = self.decoded.linear(self.state.rip);
        at.map_or(0, |at| debug::conditions(&self.state, Watched::Execute, at, 1))
    }

    #[inline(always)]
    fn run_block(&mut self, block: *const Block) -> Option<Pause> {
        self.block = block;
        // SAFETY: the block is in the cache, which frees blocks only between runs.
        let (count, ops) = unsafe { ((*block).count, (*block).ops.as_ptr()) };
        self.left -= i64::from(count);
        self.state.r[usize::from(squib_x86::state::REG_PAGE)] = self.state.rip & !0xfff;
        // SAFETY: the operations are those of a live block.
        match unsafe { ((*ops).run)(self, ops) } {
            Flow::Next => None,
            Flow::Stop => Some(self.stopped()),
            Flow::Leave => Some(self.left_early()),
        }
    }

    #[cold]
    #[inline(never)]
    fn stopped(&mut self) -> Pause {
        // SAFETY: as in `run_block`.
        let block = unsafe { &*self.block };
        let (done, rip) = block.locate(self.stopped_at);
        self.left += i64::from(block.count - done);
        self.state.rip = rip;
        Pause::Stop(self.stop.take().unwrap_or(Stop::Exit))
    }

    #[cold]
    #[inline(never)]
    fn left_early(&mut self) -> Pause {
        // SAFETY: as in `run_block`.
        let block = unsafe { &*self.block };
        let (before, _) = block.locate(self.stopped_at);
        self.left += i64::from(block.count - before - 1);
        Pause::Leave
    }

    /// The block at `rip`, decoded if need be.
    #[inline(never)]
    fn find_block(&mut self, rip: u64, single: bool) -> Result<*const Block, Exception> {
        let phys = self.fetch_address(self.decoded.linear(rip)?)?;
        let key = Key { phys, rip, mode: self.decoded.mode, single };
        let known = self.cache.get(&key);
        let block = match known {
            Some(block) if self.is_current(block)? => block,
            _ => {
                let block = self.decode_block(rip, phys, single)?;
                if known.is_some() {
                    // The block it replaces may still be remembered for the other privilege, and will be freed.
                    self.code_generation += 1;
                }
                self.cache.insert(block)
            }
        };
        // SAFETY: the block is in the cache.
        if !self.decoded.holds(rip, unsafe { (*block).len }) {
            // The segment ends within the block: its instructions are fetched one by one.
            return if single { Err(Exception::GP0) } else { self.find_block(rip, true) };
        }
        if !single {
            self.cache.remember(rip, self.code_generation, self.state.cpl == 3, block);
        }
        Ok(block)
    }

    /// Whether the second page of a block, if it has one, is still where it was.
    fn is_current(&mut self, block: *const Block) -> Result<bool, Exception> {
        // SAFETY: the block is in the cache.
        let block = unsafe { &*block };
        match block.second_page {
            None => Ok(true),
            Some(page) => Ok(self.fetch_address(self.decoded.linear(block.second_rip())?)? == page),
        }
    }

    /// Marks a page as code, before its bytes are read: a write from outside is then in what is read, or is told. Takes it
    /// out of the write translations, for the vCPU's own writes.
    pub(crate) fn watch_code(&mut self, page: u64) {
        if let Some((region, offset)) = self.memory.find(page) {
            region.code_marks()[(offset / 4096) as usize].store(1, Ordering::Relaxed);
            // Its counterpart is in `GuestMemory`, between a write and the look at the mark.
            fence(Ordering::SeqCst);
            let host = (region.host_ptr() as usize as u64).wrapping_add(offset);
            for set in self.tlbs.iter_mut() {
                set.write.flush_target(host);
            }
        }
    }

    /// Code at `len` bytes from guest-physical `phys`, all in one page, has been written.
    pub(crate) fn code_written(&mut self, phys: u64, len: u64) {
        if self.cache.invalidate(phys, len, &self.memory, handlers::stale) {
            self.code_generation += 1;
        }
    }
}
