//! The dense form of decoded instructions that the interpreter runs.
//!
//! A boot is flat code, so caches decide: an operation is 16 bytes, and its handler, chosen when the block is
//! decoded, already knows the instruction's form and sizes. See `docs/design/interpreter.md`.

use squib_x86::insn::MemRef;
use squib_x86::state::{REG_PAGE, REG_ZERO, sreg};
use squib_x86::{CodeMode, Size};

use crate::cpu::Cpu;

/// What a handler says to the dispatcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Flow {
    /// The block is over; RIP is set.
    Next,
    /// The instruction stopped; [`Cpu::stop`] says why, and RIP is still to be set to its start.
    Stop,
    /// The instruction is done, RIP is set, and [`Cpu::leave`] says what comes next.
    Leave,
}

/// Runs an operation and, unless it ends the block, those after it.
///
/// # Safety
/// The pointer is to an operation of a live block, which ends in an operation that does not go on.
pub type Handler = unsafe fn(&mut Cpu, *const Op) -> Flow;

/// One operation. What the fields hold is the handler's business; by convention
/// - `a` is the register operand, `b` the second register,
/// - of a memory operand, `b` is the base in bits 0–4 and the segment base's pseudo register less 16 in bits 5–6,
///   `c` is the index in bits 0–4 and the scale in bits 5–6, and `imm` is the displacement,
/// - the immediate is `imm`, or the `imm` of a following extension with `len` 0 when there is a displacement too.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Op {
    /// Does it.
    pub run: Handler,
    /// See above.
    pub a: u8,
    /// See above.
    pub b: u8,
    /// See above.
    pub c: u8,
    /// Length of the instruction in bytes; 0 for an extension.
    pub len: u8,
    /// See above.
    pub imm: i32,
}

/// A memory operand packed into an operation's `b`, `c` and `imm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedMem {
    /// Base and segment.
    pub b: u8,
    /// Index and scale.
    pub c: u8,
    /// Displacement.
    pub disp: i32,
    /// Base and displacement are all there is.
    pub simple: bool,
}

impl PackedMem {
    /// Packs an operand of 64-bit code. `page` is the linear address of the code page, from which RIP-relative
    /// operands count.
    pub fn pack(m: &MemRef, mode: CodeMode, page: u64) -> Option<Self> {
        if mode != CodeMode::Bits64 || m.addr != Size::B8 {
            return None;
        }
        let (base, disp) =
            if m.rip_relative { (REG_PAGE, m.disp.wrapping_sub(page)) } else { (m.base, m.disp) };
        let disp = i32::try_from(disp as i64).ok()?;
        let seg = match usize::from(m.seg) {
            sreg::FS => 2,
            sreg::GS => 3,
            _ => 0,
        };
        Some(Self {
            b: base | seg << 5,
            c: m.index | m.scale << 5,
            disp,
            simple: m.index == REG_ZERO && seg == 0,
        })
    }
}

const _: () = assert!(size_of::<Op>() == 16 || size_of::<usize>() != 8);
