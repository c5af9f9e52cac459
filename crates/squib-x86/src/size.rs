//! Operand sizes.

/// The size of an integer operand: 1, 2, 4 or 8 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Size {
    /// 8 bits.
    B1,
    /// 16 bits.
    B2,
    /// 32 bits.
    B4,
    /// 64 bits.
    B8,
}

impl Size {
    /// The size of `bytes` bytes.
    pub const fn from_bytes(bytes: usize) -> Option<Self> {
        match bytes {
            1 => Some(Self::B1),
            2 => Some(Self::B2),
            4 => Some(Self::B4),
            8 => Some(Self::B8),
            _ => None,
        }
    }

    /// The size with number `n`, 0 to 3 (higher bits ignored).
    pub const fn from_index(n: u8) -> Self {
        match n & 3 {
            0 => Self::B1,
            1 => Self::B2,
            2 => Self::B4,
            _ => Self::B8,
        }
    }

    /// Bytes.
    #[inline(always)]
    pub const fn bytes(self) -> u64 {
        1 << self as u8
    }

    /// Bits.
    #[inline(always)]
    pub const fn bits(self) -> u32 {
        8 << self as u8
    }

    /// All bits of an operand set.
    #[inline(always)]
    pub const fn mask(self) -> u64 {
        u64::MAX >> (64 - self.bits())
    }

    /// The operand's sign bit.
    #[inline(always)]
    pub const fn sign(self) -> u64 {
        1 << (self.bits() - 1)
    }

    /// `v` cut to this size, zero-extended.
    #[inline(always)]
    pub const fn trunc(self, v: u64) -> u64 {
        v & self.mask()
    }

    /// `v` cut to this size, sign-extended to 64 bits.
    #[inline(always)]
    pub const fn sext(self, v: u64) -> u64 {
        let shift = 64 - self.bits();
        (((v << shift) as i64) >> shift) as u64
    }
}
