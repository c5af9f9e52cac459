//! Where RIP points: the code segment as instruction fetch sees it.

use squib_x86::state::sreg;
use squib_x86::system::is_canonical;
use squib_x86::{CodeMode, CpuState, Exception};

/// What CS says about the code at an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CodeSegment {
    /// Decoding mode.
    pub(crate) mode: CodeMode,
    /// Linear address of offset 0; zero in 64-bit mode.
    base: u64,
    /// The last offset; there is none in 64-bit mode, where addresses are canonical or not.
    limit: u64,
}

impl CodeSegment {
    /// The one in force.
    pub(crate) fn of(state: &CpuState) -> Self {
        let cs = &state.seg[sreg::CS];
        match state.mode {
            CodeMode::Bits64 => Self { mode: CodeMode::Bits64, base: 0, limit: u64::MAX },
            mode => Self { mode, base: cs.base, limit: cs.limit.into() },
        }
    }

    /// Whether a branch to offset `rip` does not fault.
    pub(crate) fn admits(&self, rip: u64) -> bool {
        if self.mode == CodeMode::Bits64 { is_canonical(rip) } else { rip <= self.limit }
    }

    /// The linear address of offset `rip`.
    ///
    /// # Errors
    /// #GP(0) past the limit (Intel SDM vol. 3, 5.3).
    pub(crate) fn linear(&self, rip: u64) -> Result<u64, Exception> {
        if rip > self.limit {
            return Err(Exception::GP0);
        }
        let addr = self.base.wrapping_add(rip);
        Ok(if self.mode == CodeMode::Bits64 { addr } else { addr & 0xffff_ffff })
    }

    /// Whether `len` bytes of code at `rip`, of which the first is inside, end inside as well.
    pub(crate) fn holds(&self, rip: u64, len: u32) -> bool {
        u64::from(len) <= (self.limit - rip.min(self.limit)).saturating_add(1)
    }
}
