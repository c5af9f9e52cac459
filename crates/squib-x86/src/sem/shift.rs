//! Shifts and rotates (Intel SDM vol. 1, 7.3.6). RCL and RCR are helpers.

use squib_core::x86::bits::{RFLAGS_CF, RFLAGS_OF};

use crate::emit::{Bin, Cmp, Emit};
use crate::flags::FlagOp;
use crate::insn::Operand;
use crate::size::Size;

/// A shift or rotate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "named as in the manual")]
pub enum Shift {
    Shl,
    Shr,
    Sar,
    Rol,
    Ror,
}

impl Shift {
    /// The shift with number `n`; anything above 4 is [`Shift::Ror`].
    pub const fn from_index(n: u8) -> Self {
        match n {
            0 => Self::Shl,
            1 => Self::Shr,
            2 => Self::Sar,
            3 => Self::Rol,
            _ => Self::Ror,
        }
    }
}

const fn count_mask(size: Size) -> u64 {
    if matches!(size, Size::B8) { 63 } else { 31 }
}

/// The bit at the top of an operand, as 0 or 1.
#[inline(always)]
fn top_bit<E: Emit + ?Sized>(e: &mut E, size: Size, v: E::V) -> E::V {
    let (shift, one) = (e.imm(u64::from(size.bits() - 1)), e.imm(1));
    let v = e.bin(Bin::Shr, Size::B8, v, shift);
    e.bin(Bin::And, Size::B8, v, one)
}

/// CF and OF in their places from two words of 0 or 1.
#[inline(always)]
fn cf_of<E: Emit + ?Sized>(e: &mut E, cf: E::V, of: E::V) -> E::V {
    let eleven = e.imm(11);
    let of = e.bin(Bin::Shl, Size::B8, of, eleven);
    e.bin(Bin::Or, Size::B8, cf, of)
}

/// SHL, SHR, SAR, ROL, ROR by an immediate or by CL. A count of zero leaves the flags as they are.
#[inline(always)]
pub fn shift<E: Emit + ?Sized>(
    e: &mut E,
    op: Shift,
    size: Size,
    dst: Operand<E::Mem>,
    count: Operand<E::Mem>,
) -> Result<(), E::Stop> {
    let mask = e.imm(count_mask(size));
    let known = match count {
        Operand::Imm(n) => Some(n & count_mask(size)),
        _ => None,
    };
    let count = e.read(Size::B1, count)?;
    let count = e.bin(Bin::And, Size::B1, count, mask);
    let rotate = matches!(op, Shift::Rol | Shift::Ror);
    let within = e.imm(u64::from(size.bits() - 1));
    let mut res = count;
    let old = e.modify(size, dst, |e, a| {
        res = match op {
            Shift::Shl => e.bin(Bin::Shl, size, a, count),
            Shift::Shr => e.bin(Bin::Shr, size, a, count),
            Shift::Sar => e.bin(Bin::Sar, size, a, count),
            Shift::Rol | Shift::Ror => {
                let turns = e.bin(Bin::And, Size::B1, count, within);
                e.bin(if op == Shift::Rol { Bin::Rol } else { Bin::Ror }, size, a, turns)
            }
        };
        res
    })?;
    if known == Some(0) || !e.flags_live() {
        return Ok(());
    }
    let one = e.imm(1);
    let top = top_bit(e, size, res);
    let (cf, of) = match op {
        Shift::Shl => {
            // The last bit out: bring it to the top of the operand, then down.
            let before = e.bin(Bin::Sub, Size::B8, count, one);
            let out = e.bin(Bin::Shl, size, old, before);
            let cf = top_bit(e, size, out);
            (cf, e.bin(Bin::Xor, Size::B8, cf, top))
        }
        Shift::Shr | Shift::Sar => {
            let before = e.bin(Bin::Sub, Size::B8, count, one);
            let out = e.bin(if op == Shift::Shr { Bin::Shr } else { Bin::Sar }, size, old, before);
            let cf = e.bin(Bin::And, Size::B8, out, one);
            let of = if op == Shift::Shr { top_bit(e, size, old) } else { e.imm(0) };
            (cf, of)
        }
        Shift::Rol => {
            let cf = e.bin(Bin::And, Size::B8, res, one);
            (cf, e.bin(Bin::Xor, Size::B8, cf, top))
        }
        Shift::Ror => {
            let doubled = e.bin(Bin::Shl, size, res, one);
            let second = top_bit(e, size, doubled);
            (top, e.bin(Bin::Xor, Size::B8, top, second))
        }
    };
    let mut bits = cf_of(e, cf, of);
    let flag = if rotate {
        let keep = e.imm(!(RFLAGS_CF | RFLAGS_OF));
        let status = e.status();
        let kept = e.bin(Bin::And, Size::B8, status, keep);
        bits = e.bin(Bin::Or, Size::B8, bits, kept);
        FlagOp::Fixed
    } else {
        FlagOp::Mixed
    };
    if known.is_some() {
        e.flags(flag, size, res, bits);
    } else {
        let zero = e.imm(0);
        let moved = e.cmp(Cmp::Ne, count, zero);
        e.flags_if(moved, flag, size, res, bits);
    }
    Ok(())
}

/// SHLD and SHRD. With 16-bit operands and a count above 16 the result is undefined in the manual; here, as on Intel's
/// processors, the destination follows once more behind the source.
#[inline(always)]
pub fn double_shift<E: Emit + ?Sized>(
    e: &mut E,
    left: bool,
    size: Size,
    dst: Operand<E::Mem>,
    src: Operand<E::Mem>,
    count: Operand<E::Mem>,
) -> Result<(), E::Stop> {
    let mask = e.imm(count_mask(size));
    let count = e.read(Size::B1, count)?;
    let count = e.bin(Bin::And, Size::B1, count, mask);
    let b = e.read(size, src)?;
    let (zero, one, width) = (e.imm(0), e.imm(1), e.imm(u64::from(size.bits())));
    let moved = e.cmp(Cmp::Ne, count, zero);
    let mut res = b;
    let old = e.modify(size, dst, |e, a| {
        let (near, far) = if left { (Bin::Shl, Bin::Shr) } else { (Bin::Shr, Bin::Shl) };
        let rest = e.bin(Bin::Sub, Size::B8, width, count);
        let both = if size == Size::B2 {
            let [high, middle] = [(a, 32), (b, 16)].map(|(v, n)| {
                let n = e.imm(n);
                e.bin(Bin::Shl, Size::B8, v, n)
            });
            let wide = e.bin(Bin::Or, Size::B8, high, middle);
            let wide = e.bin(Bin::Or, Size::B8, wide, a);
            let wide = e.bin(near, Size::B8, wide, count);
            let from = e.imm(if left { 32 } else { 0 });
            e.bin(Bin::Shr, Size::B8, wide, from)
        } else {
            let own = e.bin(near, size, a, count);
            let other = e.bin(far, size, b, rest);
            e.bin(Bin::Or, size, own, other)
        };
        let both = e.bin(Bin::Or, size, both, zero);
        res = e.sel(moved, both, a);
        res
    })?;
    if e.flags_live() {
        let before = e.bin(Bin::Sub, Size::B8, count, one);
        let cf = if left {
            let out = e.bin(Bin::Shl, size, old, before);
            top_bit(e, size, out)
        } else {
            let out = e.bin(Bin::Shr, size, old, before);
            e.bin(Bin::And, Size::B8, out, one)
        };
        let (was, is) = (top_bit(e, size, old), top_bit(e, size, res));
        let of = e.bin(Bin::Xor, Size::B8, was, is);
        let bits = cf_of(e, cf, of);
        e.flags_if(moved, FlagOp::Mixed, size, res, bits);
    }
    Ok(())
}
