//! Where a vector instruction takes its operands from and puts its result.

use super::VecOp;

/// The register file, or other place, of an operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// An XMM register, all 128 bits.
    Xmm,
    /// An MMX register, 64 bits: zero-extended when read, the low half of the result when written.
    Mm,
    /// A general register, 32 bits: zero-extended when read; a write clears the register's upper half.
    Gpr32,
    /// A general register, 64 bits.
    Gpr64,
    /// The immediate byte, zero-extended. Only ever read.
    Imm,
    /// ZF, PF and CF, in their places in the result; OF, SF and AF become 0. As the first operand, an XMM
    /// register is read.
    Flags,
    /// Memory at DS:rDI, or another segment's: byte i of the first register operand is stored where bit i of
    /// the result is set. The operation itself reads the second alone.
    MaskedBytes,
}

/// How an instruction's operands and result move.
///
/// The first explicit operand is `dst`, the second `src`. Where one of them is memory in a given instruction,
/// it replaces the register: a source is zero-extended from `mem` bytes, a result's low `mem` bytes are
/// stored. A destination in memory is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    /// The first operand if it is a register: read, then written.
    pub dst: Place,
    /// The second operand if it is a register.
    pub src: Place,
    /// Width of the memory operand in bytes; 0 where there can be none.
    pub mem: u8,
    /// The memory operand must be aligned to its width (#GP).
    pub aligned: bool,
    /// The immediate byte is the operation's `imm`.
    pub imm: bool,
    /// The instruction enters MMX state: #MF if an x87 exception is pending, TOP becomes 0, all tags valid.
    pub mmx: bool,
}

impl Form {
    /// Two XMM registers.
    pub const XMM: Self = Self::new(Place::Xmm, Place::Xmm, 0);

    const fn new(dst: Place, src: Place, mem: u8) -> Self {
        let mmx = matches!(dst, Place::Mm) || matches!(src, Place::Mm);
        Self { dst, src, mem, aligned: false, imm: false, mmx }
    }

    pub(super) const fn aligned(self) -> Self {
        Self { aligned: true, ..self }
    }

    pub(super) const fn imm(self) -> Self {
        Self { imm: true, ..self }
    }

    pub(super) const fn to(self, dst: Place) -> Self {
        Self { aligned: self.aligned, imm: self.imm, ..Self::new(dst, self.src, self.mem) }
    }

    pub(super) const fn from(self, src: Place) -> Self {
        Self { aligned: self.aligned, imm: self.imm, ..Self::new(self.dst, src, self.mem) }
    }
}

/// Two XMM registers, never memory.
pub(super) const XX: Form = Form::new(Place::Xmm, Place::Xmm, 0);
/// Two XMM registers, or one and 128 aligned bits of memory.
pub(super) const X: Form = Form::new(Place::Xmm, Place::Xmm, 16).aligned();
/// The same, unaligned.
pub(super) const XU: Form = Form::new(Place::Xmm, Place::Xmm, 16);
/// The same, with 64 bits of memory.
pub(super) const X64: Form = Form::new(Place::Xmm, Place::Xmm, 8);
/// The same, with 32 bits of memory.
pub(super) const X32: Form = Form::new(Place::Xmm, Place::Xmm, 4);
/// The same, with 16 bits of memory.
pub(super) const X16: Form = Form::new(Place::Xmm, Place::Xmm, 2);
/// The same, with 8 bits of memory.
pub(super) const X8: Form = Form::new(Place::Xmm, Place::Xmm, 1);
/// Two MMX registers, or one and 64 bits of memory.
pub(super) const M: Form = Form::new(Place::Mm, Place::Mm, 8);
/// The same, with 32 bits of memory.
pub(super) const M32: Form = Form::new(Place::Mm, Place::Mm, 4);
/// The same, with 16 bits of memory.
pub(super) const M16: Form = Form::new(Place::Mm, Place::Mm, 2);
/// Two MMX registers, never memory.
pub(super) const MM: Form = Form::new(Place::Mm, Place::Mm, 0);

/// A vector instruction: the operation and its operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VecInsn {
    /// What is computed.
    pub op: VecOp,
    /// On what.
    pub form: Form,
}
