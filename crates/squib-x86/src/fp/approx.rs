//! RCPPS and RSQRTPS: approximations with a relative error below 1.5 · 2^−12, equal to those of Intel's
//! processors.
//!
//! Both take the middle of the interval that the fraction's upper bits select, and round its exact reciprocal
//! (root) to 13 bits. They raise no exception, and take denormals for zeros whatever DAZ says (SDM vol. 2,
//! RCPPS and RSQRTPS).

use super::sse::Binary;

/// 1 ÷ `a`, approximately.
pub fn reciprocal(a: u32) -> u32 {
    let sign = a & u32::SIGN as u32;
    if a.is_nan() {
        return a.quieted();
    }
    let field = a.exp_field() as u32;
    if field == 0 {
        return u32::infinity(sign != 0);
    }
    // 1 ÷ 2^e(1 + f) is in (2^(−e−1), 2^−e]; what would be denormal is zero.
    if field >= 253 {
        return sign;
    }
    let interval = (a & u32::FRACTION as u32) >> 12;
    let middle = 4097 + 2 * interval;
    let quotient = ((1 << 25) + middle / 2) / middle;
    sign | (253 - field) << 23 | (quotient & 0xfff) << 11
}

/// 1 ÷ √`a`, approximately.
pub fn reciprocal_root(a: u32) -> u32 {
    let sign = a & u32::SIGN as u32;
    if a.is_nan() {
        return a.quieted();
    }
    let field = a.exp_field() as u32;
    if field == 0 {
        return u32::infinity(sign != 0);
    }
    if sign != 0 {
        return u32::DEFAULT_NAN as u32;
    }
    if a.is_infinite() {
        return 0;
    }
    // The exponent is made even, which moves a factor of two into the significand.
    let odd = field & 1 ^ 1;
    let interval = (a & u32::FRACTION as u32) >> 13;
    let middle = u64::from((2049 + 2 * interval) << odd);
    let root = ((1u64 << 39) / middle).isqrt().div_ceil(2) as u32;
    (126 + 63 - (field - odd - 1) / 2) << 23 | (root & 0xfff) << 11
}
