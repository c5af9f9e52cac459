//! Bit test, scan and count (Intel SDM vol. 1, 7.3.7). BT and its kin with a register offset into memory are
//! helpers, because the offset moves the address.

use iced_x86::Mnemonic;
use squib_core::x86::bits::{RFLAGS_CF, RFLAGS_ZF};

use crate::emit::{Bin, Cmp, Emit, Un};
use crate::flags::FlagOp;
use crate::insn::Operand;
use crate::size::Size;

/// What happens to the tested bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum BitOp {
    /// Nothing (BT).
    Test,
    /// Set (BTS).
    Set,
    /// Clear (BTR).
    Reset,
    /// Flip (BTC).
    Complement,
}

impl BitOp {
    /// The operation that a mnemonic names; BTC for any other.
    pub const fn of(m: Mnemonic) -> Self {
        match m {
            Mnemonic::Bt => Self::Test,
            Mnemonic::Bts => Self::Set,
            Mnemonic::Btr => Self::Reset,
            _ => Self::Complement,
        }
    }

    /// The new value of a word, given the tested bit's mask.
    pub const fn apply(self, word: u64, bit: u64) -> u64 {
        match self {
            Self::Test => word,
            Self::Set => word | bit,
            Self::Reset => word & !bit,
            Self::Complement => word ^ bit,
        }
    }
}

/// BT, BTS, BTR, BTC: CF is the bit; the other flags stay.
#[inline(always)]
pub fn bt<E: Emit + ?Sized>(
    e: &mut E,
    op: BitOp,
    size: Size,
    dst: Operand<E::Mem>,
    offset: Operand<E::Mem>,
) -> Result<(), E::Stop> {
    let within = e.imm(u64::from(size.bits() - 1));
    let offset = match offset {
        Operand::Imm(n) => e.imm(n),
        other => e.read(size, other)?,
    };
    let n = e.bin(Bin::And, Size::B8, offset, within);
    let one = e.imm(1);
    let old = if op == BitOp::Test {
        e.read(size, dst)?
    } else {
        let bit = e.bin(Bin::Shl, size, one, n);
        e.modify(size, dst, |e, a| match op {
            BitOp::Set => e.bin(Bin::Or, size, a, bit),
            BitOp::Reset => {
                let keep = e.un(Un::Not, size, bit);
                e.bin(Bin::And, size, a, keep)
            }
            BitOp::Test | BitOp::Complement => e.bin(Bin::Xor, size, a, bit),
        })?
    };
    if e.flags_live() {
        let bit = e.bin(Bin::Shr, Size::B8, old, n);
        let cf = e.bin(Bin::And, Size::B8, bit, one);
        let (status, keep) = (e.status(), e.imm(!RFLAGS_CF));
        let kept = e.bin(Bin::And, Size::B8, status, keep);
        let bits = e.bin(Bin::Or, Size::B8, kept, cf);
        e.flags(FlagOp::Fixed, size, bits, bits);
    }
    Ok(())
}

/// BSF and BSR: a zero source sets ZF and leaves the destination as it was.
#[inline(always)]
pub fn scan<E: Emit + ?Sized>(
    e: &mut E,
    reverse: bool,
    size: Size,
    dst: Operand<E::Mem>,
    src: Operand<E::Mem>,
) -> Result<(), E::Stop> {
    let v = e.read(size, src)?;
    let zero = e.imm(0);
    let none = e.cmp(Cmp::Eq, v, zero);
    let found = e.un(if reverse { Un::BitLength } else { Un::Ctz }, size, v);
    // A 32-bit destination keeps all 64 bits when nothing is found.
    let write = if size == Size::B4 { Size::B8 } else { size };
    let old = e.read(write, dst)?;
    let res = e.sel(none, old, found);
    e.write(write, dst, res)?;
    e.flags(FlagOp::Logic, size, v, zero);
    Ok(())
}

/// The flag with this mask where `c`.
#[inline(always)]
pub(super) fn flag<E: Emit + ?Sized>(e: &mut E, c: E::C, mask: u64) -> E::V {
    let (set, clear) = (e.imm(mask), e.imm(0));
    e.sel(c, set, clear)
}

/// TZCNT, or with `leading` LZCNT: the zeros at one end. CF says that there is nothing else, ZF that there are none.
#[inline(always)]
pub fn count_zeros<E: Emit + ?Sized>(
    e: &mut E,
    leading: bool,
    size: Size,
    dst: Operand<E::Mem>,
    src: Operand<E::Mem>,
) -> Result<(), E::Stop> {
    let v = e.read(size, src)?;
    let zero = e.imm(0);
    let none = e.cmp(Cmp::Eq, v, zero);
    let found = if leading {
        let (top, highest) = (e.imm(u64::from(size.bits() - 1)), e.un(Un::BitLength, size, v));
        e.bin(Bin::Sub, size, top, highest)
    } else {
        e.un(Un::Ctz, size, v)
    };
    let all = e.imm(size.bits().into());
    let res = e.sel(none, all, found);
    e.write(size, dst, res)?;
    if e.flags_live() {
        let at_once = e.cmp(Cmp::Eq, res, zero);
        let (cf, zf) = (flag(e, none, RFLAGS_CF), flag(e, at_once, RFLAGS_ZF));
        let bits = e.bin(Bin::Or, Size::B8, cf, zf);
        e.flags(FlagOp::Fixed, size, bits, bits);
    }
    Ok(())
}

/// POPCNT: only ZF can be set.
#[inline(always)]
pub fn count_ones<E: Emit + ?Sized>(
    e: &mut E,
    size: Size,
    dst: Operand<E::Mem>,
    src: Operand<E::Mem>,
) -> Result<(), E::Stop> {
    let v = e.read(size, src)?;
    let res = e.un(Un::Popcnt, size, v);
    e.write(size, dst, res)?;
    if e.flags_live() {
        let zero = e.imm(0);
        let none = e.cmp(Cmp::Eq, v, zero);
        let bits = flag(e, none, RFLAGS_ZF);
        e.flags(FlagOp::Fixed, size, bits, bits);
    }
    Ok(())
}
