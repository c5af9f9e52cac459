//! Near control transfers (Intel SDM vol. 1, 7.3.8). Far ones are helpers.

use iced_x86::{Code, Mnemonic};

use crate::emit::{Bin, Cmp, Emit};
use crate::flags::Cond;
use crate::insn::Operand;
use crate::size::Size;

const RCX: u8 = 1;
const RSP: u8 = 4;

/// Whether a JMP or CALL through memory loads CS too.
pub fn is_far(code: Code) -> bool {
    matches!(
        code,
        Code::Jmp_m1616
            | Code::Jmp_m1632
            | Code::Jmp_m1664
            | Code::Call_m1616
            | Code::Call_m1632
            | Code::Call_m1664
    )
}

/// Jcc.
#[inline(always)]
pub fn jcc<E: Emit + ?Sized>(e: &mut E, cc: Cond, target: Operand<E::Mem>) -> Result<(), E::Stop> {
    let c = e.cond(cc);
    let target = e.read(Size::B8, target)?;
    check_relative(e, c, target)?;
    e.jump_if(c, target)
}

/// Checks the target of a conditional branch, which is relative.
#[inline(always)]
fn check_relative<E: Emit + ?Sized>(e: &mut E, c: E::C, target: E::V) -> Result<(), E::Stop> {
    if e.checks_relative() { e.check_target_if(c, target) } else { Ok(()) }
}

/// Whether a jump or call to `target` has to check where it goes.
#[inline(always)]
fn is_checked<E: Emit + ?Sized>(e: &E, target: &Operand<E::Mem>) -> bool {
    !matches!(target, Operand::Imm(_)) || e.checks_relative()
}

/// JMP.
#[inline(always)]
pub fn jmp<E: Emit + ?Sized>(e: &mut E, size: Size, target: Operand<E::Mem>) -> Result<(), E::Stop> {
    let address = e.read(size, target)?;
    if is_checked(e, &target) {
        e.check_target(address)?;
    }
    e.jump(address)
}

/// CALL; `next` is the return address. In 64-bit mode it is written before the target is checked, as on hardware; elsewhere the
/// limit of CS comes first, and after the stack's own checks.
#[inline(always)]
pub fn call<E: Emit + ?Sized>(
    e: &mut E,
    size: Size,
    target: Operand<E::Mem>,
    next: u64,
) -> Result<(), E::Stop> {
    let address = e.read(size, target)?;
    let next = e.imm(size.trunc(next));
    if size == Size::B8 {
        let top = e.get(Size::B8, RSP);
        e.push(size, next)?;
        if is_checked(e, &target)
            && let Err(stop) = e.check_target(address)
        {
            e.set(Size::B8, RSP, top);
            return Err(stop);
        }
    } else {
        if is_checked(e, &target) {
            e.check_push(size)?;
            e.check_target(address)?;
        }
        e.push(size, next)?;
    }
    e.jump(address)
}

/// RET, with or without a number of bytes to drop.
#[inline(always)]
pub fn ret<E: Emit + ?Sized>(e: &mut E, size: Size, extra: Operand<E::Mem>) -> Result<(), E::Stop> {
    let target = e.peek(size, RSP)?;
    e.check_target(target)?;
    let extra = if let Operand::Imm(n) = extra { n & 0xffff } else { 0 };
    e.drop_stack(size.bytes() + extra);
    e.jump(target)
}

/// JCXZ, JECXZ, JRCXZ.
pub fn jcxz<E: Emit + ?Sized>(e: &mut E, addr: Size, target: Operand<E::Mem>) -> Result<(), E::Stop> {
    let count = e.get(addr, RCX);
    let zero = e.imm(0);
    let c = e.cmp(Cmp::Eq, count, zero);
    let target = e.read(Size::B8, target)?;
    check_relative(e, c, target)?;
    e.jump_if(c, target)
}

/// LOOP, LOOPE, LOOPNE.
pub fn loop_<E: Emit + ?Sized>(
    e: &mut E,
    m: Mnemonic,
    addr: Size,
    target: Operand<E::Mem>,
) -> Result<(), E::Stop> {
    let (zero, one) = (e.imm(0), e.imm(1));
    let target = e.read(Size::B8, target)?;
    let count = e.get(addr, RCX);
    let count = e.bin(Bin::Sub, addr, count, one);
    let goes_on = match m {
        Mnemonic::Loop => one,
        _ => {
            let c = e.cond(if m == Mnemonic::Loope { Cond::E } else { Cond::Ne });
            e.sel(c, one, zero)
        }
    };
    let left = e.cmp(Cmp::Ne, count, zero);
    let goes_on = e.sel(left, goes_on, zero);
    let c = e.cmp(Cmp::Ne, goes_on, zero);
    check_relative(e, c, target)?;
    e.set(addr, RCX, count);
    e.jump_if(c, target)
}
