//! BMI1 and BMI2, which are VEX-encoded, ADX, MOVBE and CRC32 (Intel SDM vol. 1, 5.1.16 and 5.1.17; vol. 2).

use squib_core::x86::bits::{RFLAGS_CF, RFLAGS_OF};

use super::bits::flag;
use crate::emit::{Bin, Cmp, Emit, Pure, Un};
use crate::flags::{Cond, FlagOp};
use crate::insn::Operand;
use crate::size::Size;

const RDX: u8 = 2;

/// Which bits about the lowest one that is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lowest {
    /// It alone (BLSI).
    Isolate,
    /// It and those below (BLSMSK).
    Mask,
    /// All others (BLSR).
    Reset,
}

/// ANDN: the second source where the first is clear.
pub fn andn<E: Emit + ?Sized>(
    e: &mut E,
    size: Size,
    dst: Operand<E::Mem>,
    a: Operand<E::Mem>,
    b: Operand<E::Mem>,
) -> Result<(), E::Stop> {
    e.check_vex()?;
    let b = e.read(size, b)?;
    let a = e.read(size, a)?;
    let (a, zero) = (e.un(Un::Not, size, a), e.imm(0));
    let res = e.bin(Bin::And, size, a, b);
    e.write(size, dst, res)?;
    e.flags(FlagOp::Logic, size, res, zero);
    Ok(())
}

/// BLSI, BLSMSK, BLSR. CF says whether the source is zero, of BLSI that it is not.
pub fn lowest<E: Emit + ?Sized>(
    e: &mut E,
    which: Lowest,
    size: Size,
    dst: Operand<E::Mem>,
    src: Operand<E::Mem>,
) -> Result<(), E::Stop> {
    e.check_vex()?;
    let v = e.read(size, src)?;
    let (zero, one) = (e.imm(0), e.imm(1));
    let below = e.bin(Bin::Sub, size, v, one);
    let res = match which {
        Lowest::Isolate => {
            let negated = e.un(Un::Neg, size, v);
            e.bin(Bin::And, size, v, negated)
        }
        Lowest::Mask => e.bin(Bin::Xor, size, v, below),
        Lowest::Reset => e.bin(Bin::And, size, v, below),
    };
    e.write(size, dst, res)?;
    let carry = e.cmp(if which == Lowest::Isolate { Cmp::Ne } else { Cmp::Eq }, v, zero);
    let bits = flag(e, carry, RFLAGS_CF);
    e.flags(FlagOp::Mixed, size, res, bits);
    Ok(())
}

/// Ones in the lowest `count` bits, all where there are fewer; and whether there are not.
fn low_ones<E: Emit + ?Sized>(e: &mut E, size: Size, count: E::V) -> (E::V, E::C) {
    let (bits, one, within) = (e.imm(size.bits().into()), e.imm(1), e.imm(63));
    let fits = e.cmp(Cmp::LtU, count, bits);
    let shift = e.bin(Bin::And, Size::B8, count, within);
    let edge = e.bin(Bin::Shl, Size::B8, one, shift);
    let (mask, all) = (e.bin(Bin::Sub, Size::B8, edge, one), e.imm(size.mask()));
    (e.sel(fits, mask, all), fits)
}

/// The byte of a value at bit `shift`.
fn byte<E: Emit + ?Sized>(e: &mut E, v: E::V, shift: u64) -> E::V {
    let (shift, mask) = (e.imm(shift), e.imm(0xff));
    let v = e.bin(Bin::Shr, Size::B8, v, shift);
    e.bin(Bin::And, Size::B8, v, mask)
}

/// BEXTR: a field of the source; the control's lowest byte says where it starts, the next how long it is.
pub fn bextr<E: Emit + ?Sized>(
    e: &mut E,
    size: Size,
    dst: Operand<E::Mem>,
    src: Operand<E::Mem>,
    control: Operand<E::Mem>,
) -> Result<(), E::Stop> {
    e.check_vex()?;
    let v = e.read(size, src)?;
    let control = e.read(size, control)?;
    let (start, length) = (byte(e, control, 0), byte(e, control, 8));
    let (bits, within, zero) = (e.imm(size.bits().into()), e.imm(63), e.imm(0));
    let inside = e.cmp(Cmp::LtU, start, bits);
    let shift = e.bin(Bin::And, Size::B8, start, within);
    let shifted = e.bin(Bin::Shr, Size::B8, v, shift);
    let field = e.sel(inside, shifted, zero);
    let (mask, _) = low_ones(e, size, length);
    let res = e.bin(Bin::And, size, field, mask);
    e.write(size, dst, res)?;
    e.flags(FlagOp::Logic, size, res, zero);
    Ok(())
}

/// BZHI: the source without the bits from the index on. CF says that there are none.
pub fn bzhi<E: Emit + ?Sized>(
    e: &mut E,
    size: Size,
    dst: Operand<E::Mem>,
    src: Operand<E::Mem>,
    index: Operand<E::Mem>,
) -> Result<(), E::Stop> {
    e.check_vex()?;
    let v = e.read(size, src)?;
    let index = e.read(size, index)?;
    let index = byte(e, index, 0);
    let (mask, fits) = low_ones(e, size, index);
    let res = e.bin(Bin::And, size, v, mask);
    e.write(size, dst, res)?;
    let (cf, zero) = (e.imm(RFLAGS_CF), e.imm(0));
    let bits = e.sel(fits, zero, cf);
    e.flags(FlagOp::Mixed, size, res, bits);
    Ok(())
}

/// MULX: the product with RDX. Where both halves go to one register, it gets the high one.
pub fn mulx<E: Emit + ?Sized>(
    e: &mut E,
    size: Size,
    high: Operand<E::Mem>,
    low: Operand<E::Mem>,
    src: Operand<E::Mem>,
) -> Result<(), E::Stop> {
    e.check_vex()?;
    let b = e.read(size, src)?;
    let a = e.get(size, RDX);
    let (lo, hi) = e.mul_wide(false, size, a, b);
    e.write(size, low, lo)?;
    e.write(size, high, hi)
}

/// PDEP and PEXT.
pub fn move_bits<E: Emit + ?Sized>(
    e: &mut E,
    op: Pure,
    size: Size,
    dst: Operand<E::Mem>,
    src: Operand<E::Mem>,
    mask: Operand<E::Mem>,
) -> Result<(), E::Stop> {
    e.check_vex()?;
    let mask = e.read(size, mask)?;
    let v = e.read(size, src)?;
    let res = e.pure(op, size, v, mask);
    e.write(size, dst, res)
}

/// RORX, SARX, SHLX and SHRX, which leave the flags alone.
pub fn shift<E: Emit + ?Sized>(
    e: &mut E,
    op: Bin,
    size: Size,
    dst: Operand<E::Mem>,
    src: Operand<E::Mem>,
    count: Operand<E::Mem>,
) -> Result<(), E::Stop> {
    e.check_vex()?;
    let v = e.read(size, src)?;
    let (count, within) = (e.read(size, count)?, e.imm(u64::from(size.bits() - 1)));
    let count = e.bin(Bin::And, size, count, within);
    let res = e.bin(op, size, v, count);
    e.write(size, dst, res)
}

/// ADCX, or with `overflow` ADOX: the carry comes from one flag and goes to it; the others stay.
pub fn add_with_flag<E: Emit + ?Sized>(
    e: &mut E,
    overflow: bool,
    size: Size,
    dst: Operand<E::Mem>,
    src: Operand<E::Mem>,
) -> Result<(), E::Stop> {
    let b = e.read(size, src)?;
    let a = e.read(size, dst)?;
    let carry = e.cond(if overflow { Cond::O } else { Cond::B });
    let carry = flag(e, carry, 1);
    let mid = e.bin(Bin::Add, size, a, b);
    let res = e.bin(Bin::Add, size, mid, carry);
    e.write(size, dst, res)?;
    if e.flags_live() {
        // A carry leaves at most one of the two steps.
        let mask = if overflow { RFLAGS_OF } else { RFLAGS_CF };
        let first = e.cmp(Cmp::LtU, mid, b);
        let second = e.cmp(Cmp::LtU, res, carry);
        let (first, second) = (flag(e, first, mask), flag(e, second, mask));
        let (status, keep) = (e.status(), e.imm(!mask));
        let kept = e.bin(Bin::And, Size::B8, status, keep);
        let new = e.bin(Bin::Or, Size::B8, first, second);
        let bits = e.bin(Bin::Or, Size::B8, kept, new);
        e.flags(FlagOp::Fixed, size, bits, bits);
    }
    Ok(())
}

/// MOVBE.
pub fn move_swapped<E: Emit + ?Sized>(
    e: &mut E,
    size: Size,
    dst: Operand<E::Mem>,
    src: Operand<E::Mem>,
) -> Result<(), E::Stop> {
    let v = e.read(size, src)?;
    let v = e.un(Un::Bswap, size, v);
    e.write(size, dst, v)
}

/// CRC32 of `from` more bytes.
pub fn crc32<E: Emit + ?Sized>(
    e: &mut E,
    size: Size,
    from: Size,
    dst: Operand<E::Mem>,
    src: Operand<E::Mem>,
) -> Result<(), E::Stop> {
    let data = e.read(from, src)?;
    let sum = e.read(Size::B4, dst)?;
    let sum = e.pure(Pure::Crc32, from, sum, data);
    e.write(size, dst, sum)
}
