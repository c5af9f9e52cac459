//! Multiplication and division (Intel SDM vol. 1, 7.3.2.4 and 7.3.2.5).

use squib_core::x86::bits::{RFLAGS_CF, RFLAGS_OF};

use crate::emit::{Bin, Cmp, Emit};
use crate::flags::FlagOp;
use crate::insn::Operand;
use crate::size::Size;

const RAX: u8 = 0;
const RDX: u8 = 2;
const AH: u8 = 0;

/// CF and OF where the product does not fit its low half; SF, ZF and PF follow the low half, as processors do
/// where the manual leaves them undefined.
#[inline(always)]
fn product_flags<E: Emit + ?Sized>(e: &mut E, signed: bool, size: Size, lo: E::V, hi: E::V) {
    if !e.flags_live() {
        return;
    }
    let expected = if signed {
        let top = e.imm(63);
        let wide = e.sext(size, Size::B8, lo);
        e.bin(Bin::Sar, Size::B8, wide, top)
    } else {
        e.imm(0)
    };
    let mask = e.imm(size.mask());
    let expected = e.bin(Bin::And, Size::B8, expected, mask);
    let lost = e.cmp(Cmp::Ne, hi, expected);
    let (set, zero) = (e.imm(RFLAGS_CF | RFLAGS_OF), e.imm(0));
    let bits = e.sel(lost, set, zero);
    e.flags(FlagOp::Mixed, size, lo, bits);
}

/// MUL and one-operand IMUL.
#[inline(always)]
pub fn mul<E: Emit + ?Sized>(
    e: &mut E,
    signed: bool,
    size: Size,
    src: Operand<E::Mem>,
) -> Result<(), E::Stop> {
    let b = e.read(size, src)?;
    let a = e.get(size, RAX);
    let (lo, hi) = e.mul_wide(signed, size, a, b);
    e.set(size, RAX, lo);
    if size == Size::B1 {
        e.set_high(AH, hi);
    } else {
        e.set(size, RDX, hi);
    }
    product_flags(e, signed, size, lo, hi);
    Ok(())
}

/// IMUL with two or three operands.
#[inline(always)]
pub fn imul<E: Emit + ?Sized>(
    e: &mut E,
    size: Size,
    dst: Operand<E::Mem>,
    a: Operand<E::Mem>,
    b: Operand<E::Mem>,
) -> Result<(), E::Stop> {
    let a = e.read(size, a)?;
    let b = e.read(size, b)?;
    if e.flags_live() {
        let (lo, hi) = e.mul_wide(true, size, a, b);
        e.write(size, dst, lo)?;
        product_flags(e, true, size, lo, hi);
    } else {
        let lo = e.bin(Bin::Mul, size, a, b);
        e.write(size, dst, lo)?;
    }
    Ok(())
}

/// DIV and IDIV. The flags, undefined in the manual, stay.
#[inline(always)]
pub fn div<E: Emit + ?Sized>(
    e: &mut E,
    signed: bool,
    size: Size,
    src: Operand<E::Mem>,
) -> Result<(), E::Stop> {
    let d = e.read(size, src)?;
    let lo = e.get(size, RAX);
    let hi = if size == Size::B1 { e.get_high(AH) } else { e.get(size, RDX) };
    let (q, r) = e.div_wide(signed, size, hi, lo, d)?;
    e.set(size, RAX, q);
    if size == Size::B1 {
        e.set_high(AH, r);
    } else {
        e.set(size, RDX, r);
    }
    Ok(())
}
