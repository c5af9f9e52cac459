//! MXCSR and what SSE instructions report through it (SDM vol. 1, 10.2.3 and 11.5).

use super::{Rounding, exception};

/// The SSE control and status register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mxcsr(u32);

/// An unmasked SIMD floating-point exception: the instruction raises #XM (vector 19) and writes no register.
/// MXCSR already holds the flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SimdFault;

impl Default for Mxcsr {
    fn default() -> Self {
        Self::RESET
    }
}

impl Mxcsr {
    /// The value after reset: every exception masked, round to nearest.
    pub const RESET: Self = Self(0x1f80);
    /// The bits that exist, as FXSAVE reports them in MXCSR_MASK.
    pub const MASK: u32 = 0xffff;

    const DAZ: u32 = 1 << 6;
    const PRECISION_MASKED: u32 = exception::PRECISION << 7;
    const FLUSH_TO_ZERO: u32 = 1 << 15;

    /// The register with this value, or `None` where a reserved bit is set (#GP).
    pub const fn from_bits(bits: u32) -> Option<Self> {
        if bits & !Self::MASK == 0 { Some(Self(bits)) } else { None }
    }

    /// The register's value.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// RC.
    #[inline(always)]
    pub const fn rounding(self) -> Rounding {
        Rounding::from_bits(self.0 >> 13)
    }

    /// DAZ: denormal operands count as zeros.
    #[inline(always)]
    pub const fn denormals_are_zeros(self) -> bool {
        self.0 & Self::DAZ != 0
    }

    /// FTZ: a tiny result becomes zero, provided that underflow is masked.
    #[inline(always)]
    pub const fn flushes_to_zero(self) -> bool {
        self.0 & (Self::FLUSH_TO_ZERO | exception::UNDERFLOW << 7)
            == Self::FLUSH_TO_ZERO | exception::UNDERFLOW << 7
    }

    /// The exceptions, in `exception` bits, that are not masked.
    #[inline(always)]
    pub const fn unmasked(self) -> u32 {
        !(self.0 >> 7) & exception::ALL
    }

    /// Sets sticky flags.
    #[inline(always)]
    pub const fn raise(&mut self, flags: u32) {
        self.0 |= flags & exception::ALL;
    }

    /// Whether an inexact result changes nothing: PE is set already, and masked.
    #[inline(always)]
    const fn ignores_precision(self) -> bool {
        self.0 & (exception::PRECISION | Self::PRECISION_MASKED)
            == exception::PRECISION | Self::PRECISION_MASKED
    }

    /// Whether rounding is to nearest.
    #[inline(always)]
    const fn is_nearest(self) -> bool {
        self.0 & (3 << 13) == 0
    }
}

/// What one instruction computes in: MXCSR as it was, and the flags its elements raised so far.
#[derive(Debug, Clone, Copy)]
pub struct Env {
    control: Mxcsr,
    raised: u32,
    earlier: u32,
}

impl Env {
    /// The environment of an instruction that begins under `control`.
    #[inline(always)]
    pub const fn new(control: Mxcsr) -> Self {
        Self { control, raised: 0, earlier: 0 }
    }

    /// MXCSR before the instruction.
    #[inline(always)]
    pub const fn control(&self) -> Mxcsr {
        self.control
    }

    /// Notes exceptions of one element.
    #[inline(always)]
    pub const fn raise(&mut self, flags: u32) {
        self.raised |= flags;
    }

    /// Whether the host's arithmetic rounds as this environment asks.
    #[inline(always)]
    pub(super) const fn host_rounds(&self) -> bool {
        self.control.is_nearest()
    }

    /// Whether it matters if a result is exact.
    #[inline(always)]
    pub(super) const fn wants_precision(&self) -> bool {
        !self.control.ignores_precision()
    }

    /// Ends one step of an instruction that computes in several (DPPS). After an unmasked exception, which is
    /// the error, there is no next step.
    pub const fn next_step(&mut self) -> Result<(), SimdFault> {
        if self.raised & self.control.unmasked() != 0 {
            return Err(SimdFault);
        }
        self.earlier |= self.raised;
        self.raised = 0;
        Ok(())
    }

    /// Ends the instruction: the flags become sticky, and an unmasked one is a fault. An unmasked exception
    /// found in the operands of any element keeps those of results from being reported (SDM vol. 1, 11.5.3).
    #[inline(always)]
    pub const fn commit(self, mxcsr: &mut Mxcsr) -> Result<(), SimdFault> {
        mxcsr.raise(self.earlier);
        let unmasked = self.raised & self.control.unmasked();
        if unmasked & exception::OPERAND != 0 {
            mxcsr.raise(self.raised & exception::OPERAND);
        } else {
            mxcsr.raise(self.raised);
        }
        if unmasked == 0 { Ok(()) } else { Err(SimdFault) }
    }
}
