//! Floating-point arithmetic as x86 defines it: exact, and independent of the host's floating-point state.
//!
//! Every result is a function of the operands and of a control register given as an argument. The host's own
//! `f32` and `f64` operations are used only where they are known to give that result (round to nearest,
//! normal operands, normal result); everything else goes through the integer arithmetic in [`exact`].
//!
//! Source throughout: Intel SDM vol. 1, chapters 4.8, 8 and 11; IEEE 754-2019.

pub mod approx;
pub mod convert;
pub mod exact;
pub mod f80;
pub mod mxcsr;
pub mod sse;
mod wide;

/// Exception flags, in the bit positions that MXCSR and the x87 status word share (SDM vol. 1, 8.1.3.3 and
/// 11.5.2).
pub mod exception {
    /// IE: invalid operation.
    pub const INVALID: u32 = 1 << 0;
    /// DE: denormal operand.
    pub const DENORMAL: u32 = 1 << 1;
    /// ZE: division of a finite number by zero.
    pub const DIVIDE: u32 = 1 << 2;
    /// OE: the rounded result is too large.
    pub const OVERFLOW: u32 = 1 << 3;
    /// UE: the rounded result is tiny and, where the exception is masked, inexact.
    pub const UNDERFLOW: u32 = 1 << 4;
    /// PE: the result is not exact.
    pub const PRECISION: u32 = 1 << 5;
    /// All six.
    pub const ALL: u32 = 0x3f;
    /// Those that are found in the operands, before there is a result.
    pub const OPERAND: u32 = INVALID | DENORMAL | DIVIDE;
}

/// Rounding control, with the encoding of MXCSR.RC and of the x87 control word's RC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// To nearest, ties to even.
    Nearest = 0,
    /// Toward minus infinity.
    Down = 1,
    /// Toward plus infinity.
    Up = 2,
    /// Toward zero.
    Zero = 3,
}

impl Rounding {
    /// The mode that the low two bits of `bits` encode.
    #[inline(always)]
    pub const fn from_bits(bits: u32) -> Self {
        match bits & 3 {
            0 => Self::Nearest,
            1 => Self::Down,
            2 => Self::Up,
            _ => Self::Zero,
        }
    }

    /// Whether a value strictly between two neighbours goes to the one with the larger magnitude. `odd` tells
    /// whether the smaller one is odd, `half` how the value compares with the middle.
    #[inline(always)]
    pub(crate) const fn away(self, negative: bool, odd: bool, half: core::cmp::Ordering) -> bool {
        use core::cmp::Ordering::{Equal, Greater};
        match self {
            Self::Nearest => matches!(half, Greater) || (matches!(half, Equal) && odd),
            Self::Down => negative,
            Self::Up => !negative,
            Self::Zero => false,
        }
    }
}
