//! The x87 control word, and what one instruction reports.

use crate::fp::{Rounding, exception};

/// The x87 control word (SDM vol. 1, 8.1.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControlWord(u16);

impl ControlWord {
    /// The value that FNINIT sets: every exception masked, 64-bit precision, round to nearest.
    pub const INIT: Self = Self(0x37f);

    /// The word as the unit holds it: reserved bits are forced.
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits & 0x1f3f | 0x40)
    }

    /// The word's value.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// RC.
    pub const fn rounding(self) -> Rounding {
        Rounding::from_bits(self.0 as u32 >> 10)
    }

    /// PC, as the number of significant bits: 24, 53 or 64.
    pub const fn precision(self) -> u32 {
        match self.0 >> 8 & 3 {
            0 => 24,
            2 => 53,
            _ => 64,
        }
    }

    /// The exceptions, in `exception` bits, that are not masked.
    pub const fn unmasked(self) -> u32 {
        !self.0 as u32 & exception::ALL
    }
}

/// What one instruction computes in: the control word, and the exceptions found so far.
#[derive(Debug, Clone, Copy)]
pub struct Env {
    control: ControlWord,
    raised: u32,
    up: bool,
}

impl Env {
    /// The environment of an instruction that begins under `control`.
    pub const fn new(control: ControlWord) -> Self {
        Self { control, raised: 0, up: false }
    }

    /// The control word.
    pub const fn control(&self) -> ControlWord {
        self.control
    }

    /// Notes exceptions.
    pub const fn raise(&mut self, flags: u32) {
        self.raised |= flags;
    }

    /// Notes whether the result's magnitude was rounded up: C1 after an inexact result.
    pub(super) const fn rounded_up(&mut self, up: bool) {
        self.up = up;
    }

    /// Whether the exceptions `flags` are not masked.
    pub const fn traps(&self, flags: u32) -> bool {
        self.control.unmasked() & flags != 0
    }

    /// The exceptions to report. One in the operands that is not masked keeps the operation from being done,
    /// and so those of its result from happening.
    pub const fn raised(&self) -> u32 {
        if self.is_blocked() { self.raised & exception::OPERAND } else { self.raised }
    }

    /// Whether an unmasked exception in the operands keeps the instruction from having a result.
    pub const fn is_blocked(&self) -> bool {
        self.traps(self.raised & exception::OPERAND)
    }

    /// C1: the last rounding was up.
    pub const fn is_up(&self) -> bool {
        self.up && !self.is_blocked()
    }
}
