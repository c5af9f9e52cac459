//! The arithmetic flags, kept as the operation that would produce them.
//!
//! Most flags are never read. An instruction therefore stores its result and one source, and a condition is
//! computed from them when something asks (Intel SDM vol. 1, 3.4.3.1 "Status Flags").

use squib_core::x86::bits::*;

use crate::size::Size;

/// The six status flags.
pub const STATUS: u64 = RFLAGS_CF | RFLAGS_PF | RFLAGS_AF | RFLAGS_ZF | RFLAGS_SF | RFLAGS_OF;

/// What [`LazyFlags`] were left by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FlagOp {
    /// An addition without carry-in: `b` is one addend.
    Add,
    /// A subtraction or comparison without borrow-in: `b` is the subtrahend.
    Sub,
    /// A logical operation: CF, OF and AF are clear.
    Logic,
    /// SF, ZF and PF follow the result; CF, OF and AF are those of `b`.
    Mixed,
    /// All flags are those of `b`.
    Fixed,
}

/// The last flag-setting operation.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct LazyFlags {
    /// The result, zero-extended.
    pub res: u64,
    /// The second source or the flags themselves; see [`FlagOp`].
    pub b: u64,
    /// What they were left by.
    pub op: FlagOp,
    /// Operand size.
    pub size: Size,
}

impl Default for LazyFlags {
    fn default() -> Self {
        Self::fixed(0)
    }
}

/// A condition of Jcc, SETcc, CMOVcc, in the order of its encoding (Intel SDM vol. 1, appendix B).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "named as in the manual")]
pub enum Cond {
    O,
    No,
    B,
    Ae,
    E,
    Ne,
    Be,
    A,
    S,
    Ns,
    P,
    Np,
    L,
    Ge,
    Le,
    G,
}

impl Cond {
    /// All, in the order of their encoding.
    pub const ALL: [Self; 16] = [
        Self::O,
        Self::No,
        Self::B,
        Self::Ae,
        Self::E,
        Self::Ne,
        Self::Be,
        Self::A,
        Self::S,
        Self::Ns,
        Self::P,
        Self::Np,
        Self::L,
        Self::Ge,
        Self::Le,
        Self::G,
    ];

    /// The condition with this encoding; higher bits are ignored.
    pub const fn from_index(i: u8) -> Self {
        Self::ALL[(i & 15) as usize]
    }
}

/// PF of a result: set when its low byte has an even number of ones.
#[inline(always)]
pub const fn parity(res: u64) -> bool {
    (res as u8).count_ones() & 1 == 0
}

impl LazyFlags {
    /// Exactly these flags.
    #[inline(always)]
    pub const fn fixed(flags: u64) -> Self {
        Self { res: 0, b: flags, op: FlagOp::Fixed, size: Size::B8 }
    }

    /// The first source, recovered.
    #[inline(always)]
    const fn a(&self) -> u64 {
        match self.op {
            FlagOp::Add => self.res.wrapping_sub(self.b),
            _ => self.res.wrapping_add(self.b),
        }
    }

    /// Carry.
    #[inline(always)]
    pub const fn cf(&self) -> bool {
        match self.op {
            FlagOp::Add => self.res < self.b,
            FlagOp::Sub => self.size.trunc(self.a()) < self.b,
            FlagOp::Logic => false,
            FlagOp::Mixed | FlagOp::Fixed => self.b & RFLAGS_CF != 0,
        }
    }

    /// Overflow.
    #[inline(always)]
    pub const fn of(&self) -> bool {
        match self.op {
            FlagOp::Add => (self.a() ^ self.res) & (self.b ^ self.res) & self.size.sign() != 0,
            FlagOp::Sub => (self.a() ^ self.b) & (self.a() ^ self.res) & self.size.sign() != 0,
            FlagOp::Logic => false,
            FlagOp::Mixed | FlagOp::Fixed => self.b & RFLAGS_OF != 0,
        }
    }

    /// Auxiliary carry, out of bit 3.
    #[inline(always)]
    pub const fn af(&self) -> bool {
        match self.op {
            FlagOp::Add | FlagOp::Sub => (self.a() ^ self.b ^ self.res) & 0x10 != 0,
            FlagOp::Logic => false,
            FlagOp::Mixed | FlagOp::Fixed => self.b & RFLAGS_AF != 0,
        }
    }

    /// Zero.
    #[inline(always)]
    pub const fn zf(&self) -> bool {
        match self.op {
            FlagOp::Fixed => self.b & RFLAGS_ZF != 0,
            _ => self.res == 0,
        }
    }

    /// Sign.
    #[inline(always)]
    pub const fn sf(&self) -> bool {
        match self.op {
            FlagOp::Fixed => self.b & RFLAGS_SF != 0,
            _ => self.res & self.size.sign() != 0,
        }
    }

    /// Parity.
    #[inline(always)]
    pub const fn pf(&self) -> bool {
        match self.op {
            FlagOp::Fixed => self.b & RFLAGS_PF != 0,
            _ => parity(self.res),
        }
    }

    /// The six flags in their places.
    pub const fn bits(&self) -> u64 {
        (self.cf() as u64)
            | (self.pf() as u64) << 2
            | (self.af() as u64) << 4
            | (self.zf() as u64) << 6
            | (self.sf() as u64) << 7
            | (self.of() as u64) << 11
    }

    /// Whether a condition holds. With `op` and `cond` known at compile time, this is one or two comparisons.
    #[inline(always)]
    pub const fn test(&self, cond: Cond) -> bool {
        if matches!(self.op, FlagOp::Sub) {
            let (a, b) = (self.size.trunc(self.a()), self.b);
            let (sa, sb) = (self.size.sext(a) as i64, self.size.sext(b) as i64);
            match cond {
                Cond::B => return a < b,
                Cond::Ae => return a >= b,
                Cond::Be => return a <= b,
                Cond::A => return a > b,
                Cond::L => return sa < sb,
                Cond::Ge => return sa >= sb,
                Cond::Le => return sa <= sb,
                Cond::G => return sa > sb,
                _ => {}
            }
        }
        match cond {
            Cond::O => self.of(),
            Cond::No => !self.of(),
            Cond::B => self.cf(),
            Cond::Ae => !self.cf(),
            Cond::E => self.zf(),
            Cond::Ne => !self.zf(),
            Cond::Be => self.cf() || self.zf(),
            Cond::A => !(self.cf() || self.zf()),
            Cond::S => self.sf(),
            Cond::Ns => !self.sf(),
            Cond::P => self.pf(),
            Cond::Np => !self.pf(),
            Cond::L => self.sf() != self.of(),
            Cond::Ge => self.sf() == self.of(),
            Cond::Le => self.zf() || self.sf() != self.of(),
            Cond::G => !self.zf() && self.sf() == self.of(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The flags of an addition or subtraction from their definitions, on wide integers.
    fn reference(sub: bool, size: Size, a: u64, b: u64) -> u64 {
        let sign = |v: u64| size.sext(v) as i64 as i128;
        let (wide, signed, low) = if sub {
            (i128::from(a) - i128::from(b), sign(a) - sign(b), (a & 15) < (b & 15))
        } else {
            (i128::from(a) + i128::from(b), sign(a) + sign(b), (a & 15) + (b & 15) > 15)
        };
        let res = size.trunc(wide as u64);
        let cf = wide < 0 || wide > i128::from(size.mask());
        let of = signed != sign(res);
        [(cf, RFLAGS_CF), (parity(res), RFLAGS_PF), (low, RFLAGS_AF), (res == 0, RFLAGS_ZF)]
            .into_iter()
            .chain([(res & size.sign() != 0, RFLAGS_SF), (of, RFLAGS_OF)])
            .map(|(set, bit)| if set { bit } else { 0 })
            .sum()
    }

    #[test]
    fn lazy_flags_agree_with_their_definition() {
        let edges = [
            0u64,
            1,
            2,
            0xf,
            0x10,
            0x7f,
            0x80,
            0xff,
            0x7fff,
            0x8000,
            0x7fff_ffff,
            0x8000_0000,
            1 << 63,
            u64::MAX,
        ];
        for size in [Size::B1, Size::B2, Size::B4, Size::B8] {
            for a in edges {
                for b in edges {
                    let (a, b) = (size.trunc(a), size.trunc(b));
                    let add = LazyFlags { res: size.trunc(a.wrapping_add(b)), b, op: FlagOp::Add, size };
                    assert_eq!(add.bits(), reference(false, size, a, b), "{a:#x}+{b:#x} {size:?}");
                    let sub = LazyFlags { res: size.trunc(a.wrapping_sub(b)), b, op: FlagOp::Sub, size };
                    assert_eq!(sub.bits(), reference(true, size, a, b), "{a:#x}-{b:#x} {size:?}");
                    for flags in [add, sub] {
                        let fixed = LazyFlags::fixed(flags.bits());
                        for cond in Cond::ALL {
                            assert_eq!(flags.test(cond), fixed.test(cond), "{cond:?}");
                        }
                    }
                }
            }
        }
    }
}
