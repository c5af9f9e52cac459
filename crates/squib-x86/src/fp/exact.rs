//! Arithmetic on finite non-zero numbers whose results keep all that rounding needs.
//!
//! A sum, product, quotient or root of two 64-bit significands is returned as a [`Wide`]: a 128-bit
//! significand whose lowest bit is sticky. [`Wide::round`] then takes it to any format. All of x87, and the
//! slow paths of SSE, are made of these.

use super::{Rounding, exception};

/// ±`sig` · 2^(`exp` − 63), with bit 63 of `sig` set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finite {
    /// Negative.
    pub negative: bool,
    /// Unbiased exponent of the leading bit.
    pub exp: i32,
    /// Significand, leading bit explicit in bit 63.
    pub sig: u64,
}

/// ±`sig` · 2^(`exp` − 127), with bit 127 of `sig` set. Bit 0 is sticky: where it is set, the number may lie
/// anywhere strictly between the two neighbours with bit 0 clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wide {
    /// Negative.
    pub negative: bool,
    /// Unbiased exponent of the leading bit.
    pub exp: i32,
    /// Significand, leading bit explicit in bit 127.
    pub sig: u128,
}

/// A number rounded to an integer.
#[derive(Debug, Clone, Copy)]
pub struct Int {
    /// The magnitude.
    pub magnitude: u64,
    /// Something was lost.
    pub inexact: bool,
    /// The magnitude was rounded up.
    pub up: bool,
}

/// The format to round to.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Significant bits, at most 64.
    pub precision: u32,
    /// Unbiased exponent of the smallest normal number.
    pub min_exp: i32,
    /// Unbiased exponent of the largest number.
    pub max_exp: i32,
}

/// A number rounded to a [`Target`].
#[derive(Debug, Clone, Copy)]
pub struct Rounded {
    /// Unbiased exponent that bit 63 of `sig` stands for.
    pub exp: i32,
    /// Significand, leading bit in bit 63 unless the number is denormal or zero.
    pub sig: u64,
    /// `exception` flags: precision, underflow, overflow.
    pub flags: u32,
    /// The magnitude was rounded up.
    pub up: bool,
}

/// `value` · 2^−`shift` with every lost bit ORed into bit 0.
#[inline]
pub const fn shift_right_sticky(value: u128, shift: u32) -> u128 {
    if shift == 0 {
        value
    } else if shift < 128 {
        (value >> shift) | (value << (128 - shift) != 0) as u128
    } else {
        (value != 0) as u128
    }
}

/// Rounds `sig` to its upper `precision` bits, 1 to 64. Returns the significand in a `u64`, whether that
/// carried out (significand then 2^63), whether anything was lost, and whether the magnitude grew.
#[inline]
fn round_significand(
    negative: bool,
    sig: u128,
    precision: u32,
    rounding: Rounding,
) -> (u64, bool, bool, bool) {
    let unit = 1u128 << (128 - precision);
    let lost = sig & (unit - 1);
    let kept = sig - lost;
    if lost == 0 {
        return ((kept >> 64) as u64, false, false, false);
    }
    let up = rounding.away(negative, kept & unit != 0, lost.cmp(&(unit >> 1)));
    let (sum, carry) = if up { kept.overflowing_add(unit) } else { (kept, false) };
    let sig = if carry { 1 << 63 } else { (sum >> 64) as u64 };
    (sig, carry, true, up)
}

impl Finite {
    /// The number `value`, unless it is zero.
    pub const fn from_int(negative: bool, value: u64) -> Option<Self> {
        if value == 0 {
            return None;
        }
        let zeros = value.leading_zeros();
        Some(Self { negative, exp: 63 - zeros as i32, sig: value << zeros })
    }

    /// The same number with room for rounding.
    #[inline]
    pub const fn widen(self) -> Wide {
        Wide { negative: self.negative, exp: self.exp, sig: (self.sig as u128) << 64 }
    }

    /// `self` + `other`; `None` is an exact zero.
    pub fn sum(self, other: Self) -> Option<Wide> {
        let (big, small) =
            if (self.exp, self.sig) >= (other.exp, other.sig) { (self, other) } else { (other, self) };
        // The top bit is left free for the carry.
        let x = u128::from(big.sig) << 63;
        let y = shift_right_sticky(u128::from(small.sig) << 63, big.exp.wrapping_sub(small.exp) as u32);
        let sum = if big.negative == small.negative { x + y } else { x - y };
        Wide::normalize(big.negative, big.exp + 1, sum)
    }

    /// `self` · `other`.
    pub fn product(self, other: Self) -> Wide {
        let product = u128::from(self.sig) * u128::from(other.sig);
        let zeros = product.leading_zeros();
        Wide {
            negative: self.negative != other.negative,
            exp: self.exp + other.exp + 1 - zeros as i32,
            sig: product << zeros,
        }
    }

    /// `self` ÷ `other`.
    pub fn quotient(self, other: Self) -> Wide {
        let divisor = u128::from(other.sig);
        let dividend = u128::from(self.sig) << 63;
        let rest = dividend % divisor;
        let low = rest << 64;
        let sticky = u128::from(low % divisor != 0);
        let quotient = ((dividend / divisor) << 64) | (low / divisor) | sticky;
        let zeros = quotient.leading_zeros();
        Wide {
            negative: self.negative != other.negative,
            exp: self.exp - other.exp - zeros as i32,
            sig: quotient << zeros,
        }
    }

    /// The square root of the magnitude.
    pub fn root(self) -> Wide {
        let radicand = u128::from(self.sig) << (63 + (self.exp & 1));
        let root = radicand.isqrt();
        let rest = radicand - root * root;
        // (root + ½)² is no integer, so the rest says on which side of the middle the root lies.
        let low = u128::from(rest > root) << 63 | u128::from(rest != 0);
        Wide { negative: false, exp: self.exp >> 1, sig: root << 64 | low }
    }

    /// Compares magnitudes.
    pub fn cmp_magnitude(self, other: Self) -> core::cmp::Ordering {
        (self.exp, self.sig).cmp(&(other.exp, other.sig))
    }

    /// Rounds to an integer; `None` if that needs more than 64 bits.
    #[inline]
    pub fn to_int(self, rounding: Rounding) -> Option<Int> {
        let (whole, lost) = match self.exp {
            64.. => return None,
            63 => (self.sig, 0),
            0..63 => (self.sig >> (63 - self.exp), self.sig << (self.exp + 1)),
            -1 => (0, self.sig),
            // Below one half, however far.
            _ => (0, 1),
        };
        let up = lost != 0 && rounding.away(self.negative, whole & 1 != 0, lost.cmp(&(1 << 63)));
        Some(Int { magnitude: whole + u64::from(up), inexact: lost != 0, up })
    }
}

impl Wide {
    /// ±`sig` · 2^(`exp` − 127) for any `sig`; `None` is zero.
    pub const fn normalize(negative: bool, exp: i32, sig: u128) -> Option<Self> {
        if sig == 0 {
            return None;
        }
        let zeros = sig.leading_zeros();
        Some(Self { negative, exp: exp - zeros as i32, sig: sig << zeros })
    }

    /// Rounds to `target`. Tininess is detected after rounding (SDM vol. 1, 4.9.1.5).
    ///
    /// An overflow leaves the exponent too large. A tiny number becomes denormal, and an underflow if that is
    /// inexact; with `trap_tiny` it keeps its precision instead, has an exponent too small, and is an
    /// underflow in any case.
    pub fn round(self, target: Target, rounding: Rounding, trap_tiny: bool) -> Rounded {
        let (sig, carry, inexact, up) =
            round_significand(self.negative, self.sig, target.precision, rounding);
        let exp = self.exp + i32::from(carry);
        let precision = if inexact { exception::PRECISION } else { 0 };
        let range = if exp > target.max_exp {
            exception::OVERFLOW
        } else if exp >= target.min_exp {
            0
        } else if trap_tiny {
            exception::UNDERFLOW
        } else {
            return self.round_tiny(target, rounding);
        };
        Rounded { exp, sig, flags: precision | range, up }
    }

    fn round_tiny(self, target: Target, rounding: Rounding) -> Rounded {
        let fixed = shift_right_sticky(self.sig, (target.min_exp - self.exp) as u32);
        let (sig, _, inexact, up) = round_significand(self.negative, fixed, target.precision, rounding);
        let flags = if inexact { exception::PRECISION | exception::UNDERFLOW } else { 0 };
        Rounded { exp: target.min_exp, sig, flags, up }
    }

    /// Rounds the significand alone, whatever the exponent.
    pub fn round_unbounded(self, precision: u32, rounding: Rounding) -> Rounded {
        self.round(Target { precision, min_exp: i32::MIN / 2, max_exp: i32::MAX / 2 }, rounding, false)
    }
}
