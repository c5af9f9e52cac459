//! Integer arithmetic and logic with one or two operands (Intel SDM vol. 1, 7.3.2 and 7.3.3).

use squib_core::x86::bits::{RFLAGS_AF, RFLAGS_OF};

use crate::emit::{Bin, Cmp, Emit, Un};
use crate::flags::FlagOp;
use crate::insn::Operand;
use crate::size::Size;

/// A two-operand operation, the first eight in the order of their encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "named as in the manual")]
pub enum Alu {
    Add,
    Or,
    Adc,
    Sbb,
    And,
    Sub,
    Xor,
    Cmp,
    Test,
}

impl Alu {
    /// The operation with number `n`; anything above 8 is [`Alu::Test`].
    pub const fn from_index(n: u8) -> Self {
        match n {
            0 => Self::Add,
            1 => Self::Or,
            2 => Self::Adc,
            3 => Self::Sbb,
            4 => Self::And,
            5 => Self::Sub,
            6 => Self::Xor,
            7 => Self::Cmp,
            _ => Self::Test,
        }
    }
}

/// A one-operand operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "named as in the manual")]
pub enum UnaryAlu {
    Inc,
    Dec,
    Neg,
    Not,
}

impl UnaryAlu {
    /// The operation with number `n`; anything above 3 is [`UnaryAlu::Not`].
    pub const fn from_index(n: u8) -> Self {
        match n {
            0 => Self::Inc,
            1 => Self::Dec,
            2 => Self::Neg,
            _ => Self::Not,
        }
    }
}

/// CF, OF and AF in their places, from a condition and from words that have them in the operand's sign bit and
/// in bit 4.
#[inline(always)]
pub(super) fn carry_flags<E: Emit + ?Sized>(e: &mut E, size: Size, cf: E::V, of: E::V, af: E::V) -> E::V {
    let (to_low, one) = (e.imm(u64::from(size.bits() - 1)), e.imm(1));
    let of = e.bin(Bin::Shr, Size::B8, of, to_low);
    let of = e.bin(Bin::And, Size::B8, of, one);
    let to_of = e.imm(11);
    let of = e.bin(Bin::Shl, Size::B8, of, to_of);
    let af_bit = e.imm(RFLAGS_AF);
    let af = e.bin(Bin::And, Size::B8, af, af_bit);
    let all = e.bin(Bin::Or, Size::B8, cf, of);
    e.bin(Bin::Or, Size::B8, all, af)
}

/// ADD, OR, ADC, SBB, AND, SUB, XOR, CMP, TEST.
#[inline(always)]
pub fn alu<E: Emit + ?Sized>(
    e: &mut E,
    op: Alu,
    size: Size,
    dst: Operand<E::Mem>,
    src: Operand<E::Mem>,
) -> Result<(), E::Stop> {
    let b = e.read(size, src)?;
    let (bin, flag) = match op {
        Alu::Add => (Bin::Add, FlagOp::Add),
        Alu::Sub | Alu::Cmp => (Bin::Sub, FlagOp::Sub),
        Alu::And | Alu::Test => (Bin::And, FlagOp::Logic),
        Alu::Or => (Bin::Or, FlagOp::Logic),
        Alu::Xor => (Bin::Xor, FlagOp::Logic),
        Alu::Adc | Alu::Sbb => return with_carry(e, op == Alu::Sbb, size, dst, b),
    };
    if matches!(op, Alu::Cmp | Alu::Test) {
        let a = e.read(size, dst)?;
        let res = e.bin(bin, size, a, b);
        e.flags(flag, size, res, b);
        return Ok(());
    }
    let mut res = b;
    e.modify(size, dst, |e, a| {
        res = e.bin(bin, size, a, b);
        res
    })?;
    e.flags(flag, size, res, b);
    Ok(())
}

#[inline(always)]
fn with_carry<E: Emit + ?Sized>(
    e: &mut E,
    sub: bool,
    size: Size,
    dst: Operand<E::Mem>,
    b: E::V,
) -> Result<(), E::Stop> {
    let bin = if sub { Bin::Sub } else { Bin::Add };
    let carry = e.carry();
    let (mut mid, mut res) = (b, b);
    let a = e.modify(size, dst, |e, a| {
        mid = e.bin(bin, size, a, b);
        res = e.bin(bin, size, mid, carry);
        res
    })?;
    if e.flags_live() {
        // A carry leaves at most one of the two steps.
        let (first, second) = if sub {
            (e.cmp(Cmp::LtU, a, b), e.cmp(Cmp::LtU, mid, carry))
        } else {
            (e.cmp(Cmp::LtU, mid, b), e.cmp(Cmp::LtU, res, carry))
        };
        let (zero, one) = (e.imm(0), e.imm(1));
        let second = e.sel(second, one, zero);
        let cf = e.sel(first, one, second);
        let a_res = e.bin(Bin::Xor, size, a, res);
        let other = if sub { e.bin(Bin::Xor, size, a, b) } else { e.bin(Bin::Xor, size, b, res) };
        let of = e.bin(Bin::And, size, a_res, other);
        let af = e.bin(Bin::Xor, size, a_res, b);
        let bits = carry_flags(e, size, cf, of, af);
        e.flags(FlagOp::Mixed, size, res, bits);
    }
    Ok(())
}

/// INC, DEC, NEG, NOT.
#[inline(always)]
pub fn unary<E: Emit + ?Sized>(
    e: &mut E,
    op: UnaryAlu,
    size: Size,
    dst: Operand<E::Mem>,
) -> Result<(), E::Stop> {
    let one = e.imm(1);
    let mut res = one;
    let old = e.modify(size, dst, |e, a| {
        res = match op {
            UnaryAlu::Inc => e.bin(Bin::Add, size, a, one),
            UnaryAlu::Dec => e.bin(Bin::Sub, size, a, one),
            UnaryAlu::Neg => e.un(Un::Neg, size, a),
            UnaryAlu::Not => e.un(Un::Not, size, a),
        };
        res
    })?;
    match op {
        UnaryAlu::Not => {}
        UnaryAlu::Neg => e.flags(FlagOp::Sub, size, res, old),
        UnaryAlu::Inc | UnaryAlu::Dec if e.flags_live() => {
            // CF stays. OF: the result is the first value beyond the signed range. AF: bit 4 changed.
            let edge = e.imm(if op == UnaryAlu::Inc { size.sign() } else { size.sign() - 1 });
            let overflow = e.cmp(Cmp::Eq, res, edge);
            let (of, zero) = (e.imm(RFLAGS_OF), e.imm(0));
            let of = e.sel(overflow, of, zero);
            let changed = e.bin(Bin::Xor, size, old, res);
            let af_bit = e.imm(RFLAGS_AF);
            let af = e.bin(Bin::And, Size::B8, changed, af_bit);
            let cf = e.carry();
            let bits = e.bin(Bin::Or, Size::B8, of, af);
            let bits = e.bin(Bin::Or, Size::B8, bits, cf);
            e.flags(FlagOp::Mixed, size, res, bits);
        }
        UnaryAlu::Inc | UnaryAlu::Dec => {}
    }
    Ok(())
}
