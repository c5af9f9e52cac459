//! Conversions between [`F80`] and the formats in memory.

use super::{Class, Env, F80, INTEGER_BIT, special_one};
use crate::fp::exact::Finite;
use crate::fp::sse::Binary;
use crate::fp::{Rounding, exception};

/// The same value. A NaN stays signalling, a denormal becomes normal: what that raises depends on the
/// instruction.
pub fn from_float<F: Binary>(a: F) -> F80 {
    let negative = a.is_negative();
    if a.is_nan() {
        let payload = (a.to_bits64() & F::FRACTION) << (63 - F::FRACTION_BITS);
        return F80::new(F80::infinity(negative).sign_exp, INTEGER_BIT | payload);
    }
    if a.is_infinite() {
        return F80::infinity(negative);
    }
    if a.is_zero() {
        return F80::zero(negative);
    }
    let Finite { negative, exp, sig } = a.unpack();
    F80::pack(negative, exp, sig)
}

/// The value that FLD m32fp and FLD m64fp load: a signalling NaN raises IE and becomes quiet.
pub fn quiet(a: F80, env: &mut Env) -> F80 {
    special_one(a, env).unwrap_or(a)
}

/// FST m32fp, FST m64fp. `None`: an unmasked overflow or underflow, which stores nothing.
pub fn to_float<F: Binary>(a: F80, env: &mut Env) -> Option<F> {
    let negative = a.is_negative();
    let sign = F::zero(negative).to_bits64();
    match a.class() {
        Class::Zero => return Some(F::zero(negative)),
        Class::Infinite => return Some(F::infinity(negative)),
        Class::Unsupported => {
            env.raise(exception::INVALID);
            return Some(F::from_bits64(F::DEFAULT_NAN));
        }
        class @ (Class::Quiet | Class::Signaling) => {
            if class == Class::Signaling {
                env.raise(exception::INVALID);
            }
            let payload = (a.sig & !INTEGER_BIT) >> (63 - F::FRACTION_BITS);
            return Some(F::from_bits64(sign | F::INFINITY | F::QUIET | payload));
        }
        Class::Normal | Class::Denormal => {}
    }
    let rounding = env.control().rounding();
    let rounded = a.unpack().widen().round(F::TARGET, rounding, env.traps(exception::UNDERFLOW));
    let out_of_range = rounded.flags & (exception::OVERFLOW | exception::UNDERFLOW);
    if env.traps(out_of_range) {
        env.raise(out_of_range);
        return None;
    }
    env.raise(rounded.flags);
    env.rounded_up(rounded.up);
    if rounded.flags & exception::OVERFLOW != 0 {
        env.raise(exception::PRECISION);
        let to_infinity = rounding.away(negative, false, core::cmp::Ordering::Greater);
        env.rounded_up(to_infinity);
        let infinity = F::infinity(negative);
        return Some(if to_infinity { infinity } else { F::from_bits64(infinity.to_bits64() - 1) });
    }
    Some(F::assemble(negative, rounded.exp, rounded.sig))
}

/// FILD: exact.
pub fn from_int(value: i64) -> F80 {
    match Finite::from_int(value < 0, value.unsigned_abs()) {
        None => F80::ZERO,
        Some(Finite { negative, exp, sig }) => F80::pack(negative, exp, sig),
    }
}

/// The integer with the magnitude that `a` rounds to, if below `limit`.
fn magnitude(a: F80, truncate: bool, limit: u64, env: &mut Env) -> Option<u64> {
    let rounding = if truncate { Rounding::Zero } else { env.control().rounding() };
    let int = match a.class() {
        Class::Zero => return Some(0),
        Class::Normal | Class::Denormal => a.unpack().to_int(rounding),
        _ => None,
    };
    match int {
        Some(int) if int.magnitude < limit => {
            if int.inexact {
                env.raise(exception::PRECISION);
                env.rounded_up(int.up);
            }
            Some(int.magnitude)
        }
        _ => {
            env.raise(exception::INVALID);
            None
        }
    }
}

/// FIST and, with `truncate`, FISTTP: to a signed integer of `bits`, 16, 32 or 64, zero-extended. A number
/// that does not fit raises IE and gives the sign bit alone.
pub fn to_int(a: F80, bits: u32, truncate: bool, env: &mut Env) -> u64 {
    let sign = 1u64 << (bits - 1);
    let limit = if a.is_negative() { sign + 1 } else { sign };
    match magnitude(a, truncate, limit, env) {
        None => sign,
        Some(magnitude) => {
            let value = if a.is_negative() { magnitude.wrapping_neg() } else { magnitude };
            value & (sign | (sign - 1))
        }
    }
}

/// Digits of a packed decimal.
const DIGITS: u32 = 18;

/// FBLD: from 18 decimal digits and a sign in bit 79. Digits above 9 count as they are, as on the processors.
pub fn from_bcd(bits: u128) -> F80 {
    let mut value = 0u64;
    for digit in (0..DIGITS).rev() {
        value = value.wrapping_mul(10).wrapping_add((bits >> (4 * digit)) as u64 & 15);
    }
    let negative = bits >> 79 & 1 != 0;
    match Finite::from_int(negative, value) {
        None => F80::zero(negative),
        Some(Finite { negative, exp, sig }) => F80::pack(negative, exp, sig),
    }
}

/// What FBSTP stores for a number that does not fit.
pub const BCD_INDEFINITE: u128 = 0xffff_c000_0000_0000_0000;

/// FBSTP: to 18 decimal digits and a sign. A number that does not fit raises IE and gives [`BCD_INDEFINITE`].
pub fn to_bcd(a: F80, env: &mut Env) -> u128 {
    let Some(mut value) = magnitude(a, false, 10u64.pow(DIGITS), env) else {
        return BCD_INDEFINITE;
    };
    let mut bits = u128::from(a.is_negative()) << 79;
    for digit in 0..DIGITS {
        bits |= u128::from(value % 10) << (4 * digit);
        value /= 10;
    }
    bits
}
