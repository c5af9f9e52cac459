//! Approximate arithmetic on 128-bit significands, for the transcendental functions.
//!
//! Each operation errs by at most two units of the last of 128 bits. A result that is rounded to 64 bits
//! afterwards is the correctly rounded one unless the exact value lies within about 2^−55 units of a rounding
//! boundary.

use super::exact::Wide;

/// The upper half of the product.
pub(super) const fn mul_high(a: u128, b: u128) -> u128 {
    const LOW: u128 = u64::MAX as u128;
    let (a1, a0) = (a >> 64, a & LOW);
    let (b1, b0) = (b >> 64, b & LOW);
    let low = (a0 * b0) >> 64;
    let (cross, carry) = (a1 * b0).overflowing_add(a0 * b1);
    let (cross, carry2) = cross.overflowing_add(low);
    a1 * b1 + (cross >> 64) + (((carry as u128) + (carry2 as u128)) << 64)
}

/// One 64-bit digit of a quotient: `rest` · 2^64 ÷ `divisor`, and what remains. `rest` is less than
/// `divisor`, whose bit 127 is set (Knuth, The Art of Computer Programming vol. 2, 4.3.1, algorithm D).
const fn digit(rest: u128, divisor: u128) -> (u128, u128) {
    let (d1, d0) = (divisor >> 64, divisor & u64::MAX as u128);
    let mut digit = rest / d1;
    let mut left = rest % d1;
    while left >> 64 == 0 && (digit >> 64 != 0 || digit * d0 > left << 64) {
        digit -= 1;
        left += d1;
    }
    (digit, (rest << 64).wrapping_sub(digit.wrapping_mul(divisor)))
}

impl Wide {
    /// The number ±`value` · 2^(`exp` − 127), rounded to nothing: for constants with bit 127 set.
    pub(super) const fn constant(exp: i32, sig: u128) -> Self {
        Self { negative: false, exp, sig }
    }

    /// A fraction of 2^128, that is not zero.
    pub(super) const fn from_fraction(negative: bool, fraction: u128) -> Self {
        let zeros = fraction.leading_zeros();
        Self { negative, exp: -1 - zeros as i32, sig: fraction << zeros }
    }

    /// The magnitude of a number below 1, in units of 2^−128.
    pub(super) const fn fraction(self) -> u128 {
        let shift = -1 - self.exp;
        if shift < 128 { self.sig >> shift } else { 0 }
    }

    /// The product.
    pub(super) const fn times(self, other: Self) -> Self {
        let product = mul_high(self.sig, other.sig);
        let zeros = product.leading_zeros();
        Self {
            negative: self.negative != other.negative,
            exp: self.exp + other.exp + 1 - zeros as i32,
            sig: product << zeros,
        }
    }

    /// The quotient.
    pub(super) const fn over(self, other: Self) -> Self {
        let (dividend, carry) = if self.sig < other.sig { (self.sig, 0) } else { (self.sig >> 1, 1) };
        let (high, rest) = digit(dividend, other.sig);
        let (low, _) = digit(rest, other.sig);
        let quotient = high << 64 | low;
        let zeros = quotient.leading_zeros();
        Self {
            negative: self.negative != other.negative,
            exp: self.exp - other.exp - 1 + carry - zeros as i32,
            sig: quotient << zeros,
        }
    }

    /// The sum; `None` if it is zero, or cancels to it.
    pub(super) fn plus(self, other: Self) -> Option<Self> {
        let (big, small) =
            if (self.exp, self.sig) >= (other.exp, other.sig) { (self, other) } else { (other, self) };
        let distance = (big.exp - small.exp) as u32;
        let x = big.sig >> 1;
        let y = (small.sig >> 1).checked_shr(distance).unwrap_or(0);
        let sum = if big.negative == small.negative { x + y } else { x - y };
        Self::normalize(big.negative, big.exp + 1, sum)
    }

    /// The difference; `None` if it is zero, or cancels to it.
    pub(super) fn minus(self, other: Self) -> Option<Self> {
        self.plus(other.negated())
    }

    /// The other sign.
    pub(super) const fn negated(self) -> Self {
        Self { negative: !self.negative, ..self }
    }

    /// The number with the lowest bit set, which says that it is not exact.
    pub(super) const fn inexact(self) -> Self {
        Self { sig: self.sig | 1, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_and_quotients_undo_each_other() {
        let mut seed = 1u128;
        for _ in 0..1000 {
            seed = seed
                .wrapping_mul(0xda94_2042_e4dd_58b5_0000_0000_0000_0001)
                .wrapping_add(0x1234_5678_9abc_def1);
            let a = Wide::constant(3, seed | 1 << 127);
            let b = Wide::constant(-5, seed.rotate_left(57) | 1 << 127);
            let back = a.over(b).times(b);
            let error = back.minus(a).map_or(-1000, |error| error.exp);
            assert!(error <= 3 - 124, "{a:x?} {b:x?} {back:x?}");
        }
    }

    #[test]
    fn high_half_of_a_product() {
        assert_eq!(mul_high(u128::MAX, u128::MAX), u128::MAX - 1);
        assert_eq!(mul_high(1 << 127, 6), 3);
        assert_eq!(mul_high(u64::MAX.into(), u64::MAX.into()), 0);
    }
}
