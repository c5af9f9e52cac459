//! The x87 floating-point unit: its registers, its instructions, and the MMX registers that alias them.
//!
//! Nothing here knows of memory. A memory operand is given as bits and a result returned as bits, see
//! [`X87::execute`]; images of the whole unit are byte arrays, see [`image`] and [`fx`].
//!
//! Source: Intel SDM vol. 1, chapters 8 and 9.

mod execute;
pub mod fx;
pub mod image;
mod insn;

pub use execute::Output;
pub use insn::{Constant, Place, X87Insn, X87Op, form};

use crate::fp::exception;
use crate::fp::f80::{ControlWord, F80};

/// An x87 exception is pending and not masked: #MF (vector 16) before the instruction, or with CR0.NE clear
/// the external interrupt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MathFault;

/// Status word bits (SDM vol. 1, 8.1.3); the exception flags are those of [`exception`].
mod status {
    pub(super) const STACK_FAULT: u16 = 1 << 6;
    pub(super) const ERROR_SUMMARY: u16 = 1 << 7;
    pub(super) const C0: u16 = 1 << 8;
    pub(super) const C1: u16 = 1 << 9;
    pub(super) const C2: u16 = 1 << 10;
    pub(super) const TOP_SHIFT: u32 = 11;
    pub(super) const C3: u16 = 1 << 14;
    pub(super) const BUSY: u16 = 1 << 15;
    pub(super) const CONDITION: u16 = C0 | C1 | C2 | C3;
}

/// Where the last recorded instruction was. FIP follows every instruction, FOP and FDP only those that raise an unmasked
/// exception; there are no selectors (Intel SDM vol. 1, 8.1.8 and 8.1.9, and CPUID leaf 7 EBX bits 6 and 13).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pointers {
    /// FOP: the low three bits of the first opcode byte, then the second byte; 11 bits.
    pub opcode: u16,
    /// FIP.
    pub ip: u64,
    /// FDP.
    pub dp: u64,
}

/// The unit's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct X87 {
    /// R0 to R7. The low 64 bits of Ri are MMi.
    registers: [F80; 8],
    /// The status word's TOP.
    top: u8,
    /// Bit i: Ri is not empty.
    valid: u8,
    control: ControlWord,
    /// The status word without TOP, ES and B.
    status: u16,
    /// The last recorded instruction; kept by the CPU.
    pub pointers: Pointers,
}

impl Default for X87 {
    fn default() -> Self {
        Self::RESET
    }
}

impl X87 {
    /// The state after power-up (SDM vol. 3, table 10-1): everything +0 and valid, no exception masked.
    pub const RESET: Self = Self {
        registers: [F80::ZERO; 8],
        top: 0,
        valid: 0xff,
        control: ControlWord::from_bits(0x40),
        status: 0,
        pointers: Pointers { opcode: 0, ip: 0, dp: 0 },
    };

    /// FNINIT. The numbers in the registers stay.
    pub const fn initialize(&mut self) {
        *self = Self { registers: self.registers, valid: 0, control: ControlWord::INIT, ..Self::RESET };
    }

    /// The control word.
    pub const fn control(&self) -> u16 {
        self.control.bits()
    }

    /// Loads the control word.
    pub const fn set_control(&mut self, bits: u16) {
        self.control = ControlWord::from_bits(bits);
    }

    /// The status word.
    pub const fn status(&self) -> u16 {
        let summary = if self.is_pending() { status::ERROR_SUMMARY | status::BUSY } else { 0 };
        self.status | (self.top as u16) << status::TOP_SHIFT | summary
    }

    /// Loads the status word. ES and B follow from the exceptions and their masks.
    pub const fn set_status(&mut self, bits: u16) {
        self.status = bits & (exception::ALL as u16 | status::STACK_FAULT | status::CONDITION);
        self.top = (bits >> status::TOP_SHIFT) as u8 & 7;
    }

    /// Whether an exception is pending and not masked, which FWAIT, and most other instructions of the unit
    /// and of MMX, raise before they begin.
    #[inline(always)]
    pub const fn is_pending(&self) -> bool {
        self.status as u32 & self.control.unmasked() != 0
    }

    /// FWAIT: the exception that is pending.
    #[inline(always)]
    pub const fn check_pending(&self) -> Result<(), MathFault> {
        if self.is_pending() { Err(MathFault) } else { Ok(()) }
    }

    /// The abridged tag word: bit i is set where Ri is not empty.
    pub const fn valid(&self) -> u8 {
        self.valid
    }

    /// Loads the abridged tag word.
    pub const fn set_valid(&mut self, bits: u8) {
        self.valid = bits;
    }

    /// The physical register that ST(`i`) is.
    const fn physical(&self, i: u8) -> usize {
        (self.top.wrapping_add(i) & 7) as usize
    }

    /// ST(`i`), empty or not.
    pub const fn raw(&self, i: u8) -> F80 {
        self.registers[self.physical(i)]
    }

    /// Writes ST(`i`) without changing its tag.
    pub const fn set_raw(&mut self, i: u8, value: F80) {
        self.registers[self.physical(i)] = value;
    }

    /// Whether ST(`i`) is empty.
    const fn is_empty(&self, i: u8) -> bool {
        self.valid >> self.physical(i) & 1 == 0
    }

    /// Writes ST(`i`).
    const fn set(&mut self, i: u8, value: F80) {
        self.set_raw(i, value);
        self.valid |= 1 << self.physical(i);
    }

    /// Makes ST(`i`) empty.
    const fn free(&mut self, i: u8) {
        self.valid &= !(1 << self.physical(i));
    }

    /// Makes room for a new ST(0).
    const fn decrement_top(&mut self) {
        self.top = self.top.wrapping_sub(1) & 7;
    }

    /// Lets ST(1) be ST(0).
    const fn increment_top(&mut self) {
        self.top = self.top.wrapping_add(1) & 7;
    }

    /// Puts a number on the stack.
    const fn push(&mut self, value: F80) {
        self.decrement_top();
        self.set(0, value);
    }

    /// Takes the number off the stack.
    const fn pop(&mut self) {
        self.free(0);
        self.increment_top();
    }

    /// MM`i`.
    #[inline(always)]
    pub const fn mm(&self, i: usize) -> u64 {
        self.registers[i & 7].sig
    }

    /// Writes MM`i`: sign and exponent become all ones. After [`enter_mmx`](Self::enter_mmx).
    #[inline(always)]
    pub const fn set_mm(&mut self, i: usize, value: u64) {
        self.registers[i & 7] = F80::new(0xffff, value);
    }

    /// What every MMX instruction but EMMS does first (SDM vol. 1, 9.5): TOP is 0, no register is empty.
    #[inline(always)]
    pub const fn enter_mmx(&mut self) {
        self.top = 0;
        self.valid = 0xff;
    }

    /// EMMS: every register is empty.
    pub const fn leave_mmx(&mut self) {
        self.top = 0;
        self.valid = 0;
    }
}
