//! The vocabulary in which meaning is written.
//!
//! A semantics function is generic over an [`Emit`]ter and says what an instruction does in these words. What
//! the words do is the emitter's: the interpreter computes at once with `V = u64`, [`listing`](crate::listing)
//! writes lines with `V` a temporary's number, a compiler makes code with `V` a value of its own.
//!
//! Values are 64 bits wide and hold operands zero-extended: an operation of size `s` takes and gives values below
//! `2^bits(s)`. Everything that can fault comes before the first change of guest state.

use crate::flags::{Cond, FlagOp};
use crate::insn::{Insn, Operand};
use crate::simd::VecOp;
use crate::size::Size;

/// An arithmetic operation on two values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Bin {
    Add,
    Sub,
    And,
    Or,
    Xor,
    /// Low half of the product.
    Mul,
    /// Shift left; the count is below 64, and bits of the operand size and above are dropped.
    Shl,
    /// Shift right, zeros in; the count is below 64.
    Shr,
    /// Shift right, sign in; the count is below 64.
    Sar,
    /// Rotate left; the count is below the operand's bits.
    Rol,
    /// Rotate right; the count is below the operand's bits.
    Ror,
}

/// An operation on one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Un {
    Not,
    Neg,
    /// Number of the lowest set bit; undefined for 0.
    Ctz,
    /// Number of the highest set bit; undefined for 0.
    BitLength,
    Popcnt,
    /// Bytes reversed.
    Bswap,
}

/// An operation on two values that many processors have no instruction for: a pure function, which a compiler may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pure {
    /// CRC-32C (polynomial 0x11EDC6F41, bits reversed): `a` is the sum so far, 32 bits as is the result; `b` the data.
    Crc32,
    /// The low bits of `a` to where `b` has ones.
    Deposit,
    /// The bits of `a` where `b` has ones, to the low end.
    Extract,
}

impl Pure {
    /// What it gives; `size` is that of the data.
    pub fn eval(self, size: Size, a: u64, b: u64) -> u64 {
        match self {
            Self::Crc32 => {
                (0..size.bytes()).fold(a as u32, |sum, i| crc32c(sum, (b >> (8 * i)) as u8)).into()
            }
            Self::Deposit => {
                ones(b).zip(0..).fold(0, |all, (bit, i)| if a >> i & 1 != 0 { all | bit } else { all })
            }
            Self::Extract => ones(b).zip(0..).fold(0, |all, (bit, i)| all | u64::from(a & bit != 0) << i),
        }
    }
}

/// The bits of `mask` that are set, each alone, the lowest first.
fn ones(mask: u64) -> impl Iterator<Item = u64> {
    let lowest = |m: u64| (m != 0).then_some(m);
    std::iter::successors(lowest(mask), move |m| lowest(m & (m - 1))).map(|m| m & m.wrapping_neg())
}

/// The sum with one more byte.
fn crc32c(sum: u32, byte: u8) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut i = 0;
        while i < 256 {
            let (mut sum, mut bit) = (i as u32, 0);
            while bit < 8 {
                sum = sum >> 1 ^ if sum & 1 != 0 { 0x82f6_3b78 } else { 0 };
                bit += 1;
            }
            table[i] = sum;
            i += 1;
        }
        table
    };
    sum >> 8 ^ TABLE[usize::from(sum as u8 ^ byte)]
}

/// A comparison of two values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Cmp {
    Eq,
    Ne,
    LtU,
}

/// A maker of meaning. See the module.
pub trait Emit {
    /// An integer value.
    type V: Copy;
    /// A truth value.
    type C: Copy;
    /// A 128-bit value.
    type X: Copy;
    /// A memory operand.
    type Mem: Copy;
    /// A memory operand that has been checked for writing.
    type Place: Copy;
    /// Why an instruction stops half-way.
    type Stop;

    /// A constant.
    fn imm(&mut self, v: u64) -> Self::V;
    /// Reads a general-purpose register.
    fn get(&mut self, size: Size, reg: u8) -> Self::V;
    /// Writes one: 4 bytes clear the upper half, 1 and 2 bytes leave the rest.
    fn set(&mut self, size: Size, reg: u8, v: Self::V);
    /// Reads AH, CH, DH or BH.
    fn get_high(&mut self, reg: u8) -> Self::V;
    /// Writes one.
    fn set_high(&mut self, reg: u8, v: Self::V);
    /// The effective address of a memory operand, without its segment.
    fn address(&mut self, m: Self::Mem) -> Self::V;
    /// Loads from memory.
    fn load(&mut self, size: Size, m: Self::Mem) -> Result<Self::V, Self::Stop>;
    /// Stores to memory.
    fn store(&mut self, size: Size, m: Self::Mem, v: Self::V) -> Result<(), Self::Stop>;
    /// Checks a memory operand for reading and writing.
    fn place(&mut self, size: Size, m: Self::Mem) -> Result<Self::Place, Self::Stop>;
    /// Loads from a checked place.
    fn place_load(&mut self, size: Size, p: Self::Place) -> Result<Self::V, Self::Stop>;
    /// Stores to a checked place. Only device memory can stop it.
    fn place_store(&mut self, size: Size, p: Self::Place, v: Self::V) -> Result<(), Self::Stop>;
    /// Pushes on the stack.
    fn push(&mut self, size: Size, v: Self::V) -> Result<(), Self::Stop>;
    /// Checks that the stack can be pushed on.
    fn check_push(&mut self, size: Size) -> Result<(), Self::Stop>;
    /// What the stack holds at register `base` (RSP or RBP).
    fn peek(&mut self, size: Size, base: u8) -> Result<Self::V, Self::Stop>;
    /// Moves the stack pointer up by `bytes`.
    fn drop_stack(&mut self, bytes: u64);

    /// `a op b`, cut to `size`.
    fn bin(&mut self, op: Bin, size: Size, a: Self::V, b: Self::V) -> Self::V;
    /// `op a`, cut to `size`.
    fn un(&mut self, op: Un, size: Size, a: Self::V) -> Self::V;
    /// [`Pure::eval`] of two values.
    fn pure(&mut self, op: Pure, size: Size, a: Self::V, b: Self::V) -> Self::V;
    /// Sign-extends from one size to another.
    fn sext(&mut self, from: Size, to: Size, v: Self::V) -> Self::V;
    /// Low and high half of a product.
    fn mul_wide(&mut self, signed: bool, size: Size, a: Self::V, b: Self::V) -> (Self::V, Self::V);
    /// Quotient and remainder of `hi:lo / d`; #DE for zero and for a quotient that does not fit.
    fn div_wide(
        &mut self,
        signed: bool,
        size: Size,
        hi: Self::V,
        lo: Self::V,
        d: Self::V,
    ) -> Result<(Self::V, Self::V), Self::Stop>;
    /// Compares.
    fn cmp(&mut self, op: Cmp, a: Self::V, b: Self::V) -> Self::C;
    /// `if c { a } else { b }`.
    fn sel(&mut self, c: Self::C, a: Self::V, b: Self::V) -> Self::V;

    /// Whether anything reads the status flags that this instruction leaves. Where not, they need not be computed.
    fn flags_live(&self) -> bool {
        true
    }
    /// Sets the status flags lazily; see [`FlagOp`].
    fn flags(&mut self, op: FlagOp, size: Size, res: Self::V, b: Self::V);
    /// The same where `c`; else they stay.
    fn flags_if(&mut self, c: Self::C, op: FlagOp, size: Size, res: Self::V, b: Self::V);
    /// The status flags in their RFLAGS places.
    fn status(&mut self) -> Self::V;
    /// The carry flag as 0 or 1.
    fn carry(&mut self) -> Self::V;
    /// Whether a condition holds.
    fn cond(&mut self, cc: Cond) -> Self::C;

    /// Whether the targets of relative branches have to be checked. Where code is known to be 64-bit they need not be: that such an
    /// address is canonical is seen when it is decoded.
    fn checks_relative(&self) -> bool {
        true
    }
    /// Checks that a branch may go there: #GP(0) beyond CS's limit, or in 64-bit mode where the address is not canonical.
    fn check_target(&mut self, target: Self::V) -> Result<(), Self::Stop>;
    /// The same where `c`.
    fn check_target_if(&mut self, c: Self::C, target: Self::V) -> Result<(), Self::Stop>;
    /// Continues at `target`.
    fn jump(&mut self, target: Self::V) -> Result<(), Self::Stop>;
    /// Continues at `target` where `c`, else with the next instruction.
    fn jump_if(&mut self, c: Self::C, target: Self::V) -> Result<(), Self::Stop>;
    /// Calls a helper: an instruction that all tiers leave to the same function; see
    /// [`helper`](crate::helper).
    fn helper(&mut self, i: &Insn) -> Result<(), Self::Stop>;

    /// Checks that the mode has VEX prefixes: #UD in real and virtual-8086 mode.
    fn check_vex(&mut self) -> Result<(), Self::Stop>;
    /// Checks that SSE, or with `mmx` MMX, may be used: #UD, #NM or #MF.
    fn check_vector(&mut self, mmx: bool) -> Result<(), Self::Stop>;
    /// Enters MMX state: the x87 stack's top becomes 0 and all its registers valid.
    fn enter_mmx(&mut self);
    /// Reads an MMX register, zero-extended.
    fn get_mm(&mut self, reg: u8) -> Self::X;
    /// Writes one with the low 64 bits.
    fn set_mm(&mut self, reg: u8, x: Self::X);
    /// Reads an SSE register.
    fn get_x(&mut self, reg: u8) -> Self::X;
    /// Writes one.
    fn set_x(&mut self, reg: u8, x: Self::X);
    /// Loads 1, 2, 4, 8 or 16 bytes, zero-extended; with `aligned`, 16 bytes off a 16-byte boundary raise #GP(0).
    fn load_x(&mut self, bytes: u8, aligned: bool, m: Self::Mem) -> Result<Self::X, Self::Stop>;
    /// Stores the low 1, 2, 4, 8 or 16 bytes.
    fn store_x(&mut self, bytes: u8, aligned: bool, m: Self::Mem, x: Self::X) -> Result<(), Self::Stop>;
    /// A vector operation; #XM for an unmasked exception.
    fn vec(&mut self, op: VecOp, a: Self::X, b: Self::X, imm: u8) -> Result<Self::X, Self::Stop>;
    /// The low 64 bits.
    fn x_to_v(&mut self, x: Self::X) -> Self::V;
    /// 64 bits, zero-extended.
    fn v_to_x(&mut self, v: Self::V) -> Self::X;

    /// Reads a general operand.
    #[inline(always)]
    fn read(&mut self, size: Size, op: Operand<Self::Mem>) -> Result<Self::V, Self::Stop> {
        Ok(match op {
            Operand::Reg(r) => self.get(size, r),
            Operand::High(r) => self.get_high(r),
            Operand::Mem(m) => self.load(size, m)?,
            Operand::Imm(v) => self.imm(size.trunc(v)),
            _ => self.imm(0),
        })
    }

    /// Writes a general operand.
    #[inline(always)]
    fn write(&mut self, size: Size, op: Operand<Self::Mem>, v: Self::V) -> Result<(), Self::Stop> {
        match op {
            Operand::Reg(r) => self.set(size, r, v),
            Operand::High(r) => self.set_high(r, v),
            Operand::Mem(m) => self.store(size, m, v)?,
            _ => {}
        }
        Ok(())
    }

    /// Replaces a general operand by `f` of it, after all checks.
    #[inline(always)]
    fn modify(
        &mut self,
        size: Size,
        op: Operand<Self::Mem>,
        f: impl FnOnce(&mut Self, Self::V) -> Self::V,
    ) -> Result<Self::V, Self::Stop> {
        if let Operand::Mem(m) = op {
            let place = self.place(size, m)?;
            let old = self.place_load(size, place)?;
            let new = f(self, old);
            self.place_store(size, place, new)?;
            Ok(old)
        } else {
            let old = self.read(size, op)?;
            let new = f(self, old);
            self.write(size, op, new)?;
            Ok(old)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_the_polynomials_author() {
        // RFC 3720, B.4: 32 bytes of zeros, of ones, and counting up.
        let sum = |bytes: [u8; 32]| {
            let words = bytes.as_chunks().0.iter().map(|w| u64::from_le_bytes(*w));
            !words.fold(u64::from(u32::MAX), |sum, w| Pure::Crc32.eval(Size::B8, sum, w)) as u32
        };
        assert_eq!(sum([0; 32]), 0x8a91_36aa);
        assert_eq!(sum([0xff; 32]), 0x62a8_ab43);
        assert_eq!(sum(std::array::from_fn(|i| i as u8)), 0x46dd_794e);
    }

    #[test]
    fn bits_are_put_apart_and_together() {
        assert_eq!(Pure::Deposit.eval(Size::B8, 0b1011, 0x8000_0000_0001_0110), 0x8000_0000_0000_0110);
        assert_eq!(Pure::Extract.eval(Size::B8, 0x8000_0000_0000_0110, 0x8000_0000_0001_0110), 0b1011);
        assert_eq!(Pure::Deposit.eval(Size::B8, u64::MAX, u64::MAX), u64::MAX);
        assert_eq!(Pure::Extract.eval(Size::B4, 5, 0), 0);
    }
}
