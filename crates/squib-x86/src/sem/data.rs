//! Moves, exchanges, stack and flag transfers (Intel SDM vol. 1, 7.3.1).

use iced_x86::Mnemonic;
use squib_core::x86::bits::*;

use crate::emit::{Bin, Cmp, Emit, Un};
use crate::flags::{Cond, FlagOp};
use crate::insn::Operand;
use crate::size::Size;

const RAX: u8 = 0;
const RDX: u8 = 2;
const RSP: u8 = 4;
const RBP: u8 = 5;
const AH: u8 = 0;

/// MOV.
#[inline(always)]
pub fn mov<E: Emit + ?Sized>(
    e: &mut E,
    size: Size,
    dst: Operand<E::Mem>,
    src: Operand<E::Mem>,
) -> Result<(), E::Stop> {
    let v = e.read(size, src)?;
    e.write(size, dst, v)
}

/// MOVZX.
#[inline(always)]
pub fn movzx<E: Emit + ?Sized>(
    e: &mut E,
    size: Size,
    from: Size,
    dst: Operand<E::Mem>,
    src: Operand<E::Mem>,
) -> Result<(), E::Stop> {
    let v = e.read(from, src)?;
    e.write(size, dst, v)
}

/// MOVSX and MOVSXD.
#[inline(always)]
pub fn movsx<E: Emit + ?Sized>(
    e: &mut E,
    size: Size,
    from: Size,
    dst: Operand<E::Mem>,
    src: Operand<E::Mem>,
) -> Result<(), E::Stop> {
    let from = from.min(size);
    let v = e.read(from, src)?;
    let v = e.sext(from, size, v);
    e.write(size, dst, v)
}

/// LEA.
#[inline(always)]
pub fn lea<E: Emit + ?Sized>(
    e: &mut E,
    size: Size,
    dst: Operand<E::Mem>,
    src: Operand<E::Mem>,
) -> Result<(), E::Stop> {
    if let Operand::Mem(m) = src {
        let v = e.address(m);
        let mask = e.imm(size.mask());
        let v = e.bin(Bin::And, Size::B8, v, mask);
        e.write(size, dst, v)?;
    }
    Ok(())
}

/// XCHG.
#[inline(always)]
pub fn xchg<E: Emit + ?Sized>(
    e: &mut E,
    size: Size,
    dst: Operand<E::Mem>,
    src: Operand<E::Mem>,
) -> Result<(), E::Stop> {
    let (dst, src) = if matches!(src, Operand::Mem(_)) { (src, dst) } else { (dst, src) };
    let new = e.read(size, src)?;
    let old = e.modify(size, dst, |_, _| new)?;
    e.write(size, src, old)
}

/// CMPXCHG. A destination in memory is written in either case, as on hardware; registers are only written where they
/// get a new value, so that otherwise the upper halves of 32-bit ones stay.
#[inline(always)]
pub fn cmpxchg<E: Emit + ?Sized>(
    e: &mut E,
    size: Size,
    dst: Operand<E::Mem>,
    src: Operand<E::Mem>,
) -> Result<(), E::Stop> {
    let new = e.read(size, src)?;
    let acc = e.get(size, RAX);
    let old = if let Operand::Mem(_) = dst {
        e.modify(size, dst, |e, a| {
            let c = e.cmp(Cmp::Eq, acc, a);
            e.sel(c, new, a)
        })?
    } else {
        e.read(size, dst)?
    };
    let equal = e.cmp(Cmp::Eq, acc, old);
    set_unless(e, equal, size, RAX, old);
    match dst {
        Operand::Reg(r) => {
            let differ = e.cmp(Cmp::Ne, acc, old);
            set_unless(e, differ, size, r, new);
        }
        Operand::High(r) => {
            let v = e.sel(equal, new, old);
            e.set_high(r, v);
        }
        _ => {}
    }
    let res = e.bin(Bin::Sub, size, acc, old);
    e.flags(FlagOp::Sub, size, res, old);
    Ok(())
}

/// Sets a register, unless `c`.
#[inline(always)]
fn set_unless<E: Emit + ?Sized>(e: &mut E, c: E::C, size: Size, reg: u8, v: E::V) {
    let whole = if size == Size::B4 { Size::B8 } else { size };
    let kept = e.get(whole, reg);
    let v = e.sel(c, kept, v);
    e.set(whole, reg, v);
}

/// XADD.
#[inline(always)]
pub fn xadd<E: Emit + ?Sized>(
    e: &mut E,
    size: Size,
    dst: Operand<E::Mem>,
    src: Operand<E::Mem>,
) -> Result<(), E::Stop> {
    let b = e.read(size, src)?;
    if let (Operand::Reg(_) | Operand::High(_), Operand::Reg(_) | Operand::High(_)) = (dst, src) {
        // The sum wins where both operands are one register.
        let a = e.read(size, dst)?;
        let res = e.bin(Bin::Add, size, a, b);
        e.write(size, src, a)?;
        e.write(size, dst, res)?;
        e.flags(FlagOp::Add, size, res, b);
        return Ok(());
    }
    let mut res = b;
    let old = e.modify(size, dst, |e, a| {
        res = e.bin(Bin::Add, size, a, b);
        res
    })?;
    e.write(size, src, old)?;
    e.flags(FlagOp::Add, size, res, b);
    Ok(())
}

/// BSWAP. A 16-bit operand, undefined in the manual, becomes zero as on processors.
#[inline(always)]
pub fn bswap<E: Emit + ?Sized>(e: &mut E, size: Size, dst: Operand<E::Mem>) -> Result<(), E::Stop> {
    let v = e.read(size, dst)?;
    let v = if size == Size::B2 { e.imm(0) } else { e.un(Un::Bswap, size, v) };
    e.write(size, dst, v)
}

/// CBW, CWDE, CDQE: the lower half of the accumulator, sign-extended to `size`.
#[inline(always)]
pub fn extend_accumulator<E: Emit + ?Sized>(e: &mut E, size: Size) -> Result<(), E::Stop> {
    let from = Size::from_index(size as u8 - 1);
    let v = e.get(from, RAX);
    let v = e.sext(from, size, v);
    e.set(size, RAX, v);
    Ok(())
}

/// CWD, CDQ, CQO: the accumulator's sign in all bits of the data register.
#[inline(always)]
pub fn sign_to_dx<E: Emit + ?Sized>(e: &mut E, size: Size) -> Result<(), E::Stop> {
    let v = e.get(size, RAX);
    let n = e.imm(u64::from(size.bits() - 1));
    let v = e.bin(Bin::Sar, size, v, n);
    e.set(size, RDX, v);
    Ok(())
}

/// SETcc.
#[inline(always)]
pub fn setcc<E: Emit + ?Sized>(e: &mut E, cc: Cond, dst: Operand<E::Mem>) -> Result<(), E::Stop> {
    let c = e.cond(cc);
    let (one, zero) = (e.imm(1), e.imm(0));
    let v = e.sel(c, one, zero);
    e.write(Size::B1, dst, v)
}

/// CMOVcc. The source is read in any case, and a 32-bit destination always loses its upper half.
#[inline(always)]
pub fn cmov<E: Emit + ?Sized>(
    e: &mut E,
    cc: Cond,
    size: Size,
    dst: Operand<E::Mem>,
    src: Operand<E::Mem>,
) -> Result<(), E::Stop> {
    let v = e.read(size, src)?;
    let old = e.read(size, dst)?;
    let c = e.cond(cc);
    let v = e.sel(c, v, old);
    e.write(size, dst, v)
}

/// PUSH of a register, memory operand or immediate.
#[inline(always)]
pub fn push<E: Emit + ?Sized>(e: &mut E, size: Size, src: Operand<E::Mem>) -> Result<(), E::Stop> {
    let v = e.read(size, src)?;
    e.push(size, v)
}

/// POP of a register.
#[inline(always)]
pub fn pop<E: Emit + ?Sized>(e: &mut E, size: Size, dst: Operand<E::Mem>) -> Result<(), E::Stop> {
    let v = e.peek(size, RSP)?;
    e.drop_stack(size.bytes());
    e.write(size, dst, v)
}

/// LEAVE in 64-bit mode, where the stack pointer is 64 bits wide; elsewhere it is a helper.
#[inline(always)]
pub fn leave<E: Emit + ?Sized>(e: &mut E, size: Size) -> Result<(), E::Stop> {
    let v = e.peek(size, RBP)?;
    let frame = e.get(Size::B8, RBP);
    let slot = e.imm(size.bytes());
    let above = e.bin(Bin::Add, Size::B8, frame, slot);
    e.set(Size::B8, RSP, above);
    e.set(size, RBP, v);
    Ok(())
}

const LAHF_FLAGS: u64 = RFLAGS_SF | RFLAGS_ZF | RFLAGS_AF | RFLAGS_PF | RFLAGS_CF;

/// LAHF.
pub fn lahf<E: Emit + ?Sized>(e: &mut E) -> Result<(), E::Stop> {
    let (status, mask, fixed) = (e.status(), e.imm(LAHF_FLAGS), e.imm(RFLAGS_FIXED));
    let v = e.bin(Bin::And, Size::B8, status, mask);
    let v = e.bin(Bin::Or, Size::B8, v, fixed);
    e.set_high(AH, v);
    Ok(())
}

/// SAHF.
pub fn sahf<E: Emit + ?Sized>(e: &mut E) -> Result<(), E::Stop> {
    let (ah, mask, of) = (e.get_high(AH), e.imm(LAHF_FLAGS), e.imm(RFLAGS_OF));
    let v = e.bin(Bin::And, Size::B8, ah, mask);
    let status = e.status();
    let kept = e.bin(Bin::And, Size::B8, status, of);
    let v = e.bin(Bin::Or, Size::B8, v, kept);
    e.flags(FlagOp::Fixed, Size::B8, v, v);
    Ok(())
}

/// CLC, STC, CMC.
pub fn set_carry<E: Emit + ?Sized>(e: &mut E, m: Mnemonic) -> Result<(), E::Stop> {
    let (status, cf, others) = (e.status(), e.imm(RFLAGS_CF), e.imm(!RFLAGS_CF));
    let v = match m {
        Mnemonic::Stc => e.bin(Bin::Or, Size::B8, status, cf),
        Mnemonic::Clc => e.bin(Bin::And, Size::B8, status, others),
        _ => e.bin(Bin::Xor, Size::B8, status, cf),
    };
    e.flags(FlagOp::Fixed, Size::B8, v, v);
    Ok(())
}
