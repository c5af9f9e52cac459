//! Conversions between binary32, binary64 and integers as SSE makes them.
//!
//! A number that the integer cannot hold raises IE and gives the "integer indefinite", the sign bit alone
//! (SDM vol. 1, 11.5.2.1). Conversions to integers raise IE or PE and never DE.

use super::exact::Finite;
use super::mxcsr::Env;
use super::sse::{Binary, note_denormal, operand, round};
use super::{Rounding, exception};

/// CVTSS2SD: binary32 to binary64, always exact.
#[inline(always)]
pub fn widen(a: u32, env: &mut Env) -> u64 {
    if a.is_normal() {
        return f64::from(f32::from_bits(a)).to_bits();
    }
    widen_slow(a, env)
}

#[cold]
#[inline(never)]
fn widen_slow(a: u32, env: &mut Env) -> u64 {
    let sign = u64::from(a >> 31) << 63;
    if a.is_nan() {
        if a.is_signaling() {
            env.raise(exception::INVALID);
        }
        return sign | u64::INFINITY | u64::QUIET | (u64::from(a) & u32::FRACTION) << 29;
    }
    let a = operand(a, env);
    if a.is_zero() || a.is_infinite() {
        return if a.is_zero() { sign } else { sign | u64::INFINITY };
    }
    note_denormal(a, env);
    round(a.unpack().widen(), env)
}

/// CVTSD2SS: binary64 to binary32.
#[inline(always)]
pub fn narrow(a: u64, env: &mut Env) -> u32 {
    let value = f64::from_bits(a);
    let result = value as f32;
    if env.host_rounds() && a.is_normal() && result.to_bits().is_well_within() {
        if env.wants_precision() && f64::from(result) != value {
            env.raise(exception::PRECISION);
        }
        return result.to_bits();
    }
    narrow_slow(a, env)
}

#[cold]
#[inline(never)]
fn narrow_slow(a: u64, env: &mut Env) -> u32 {
    let sign = ((a >> 63) as u32) << 31;
    if a.is_nan() {
        if a.is_signaling() {
            env.raise(exception::INVALID);
        }
        return sign | (u32::INFINITY | u32::QUIET) as u32 | ((a & u64::FRACTION) >> 29) as u32;
    }
    let a = operand(a, env);
    if a.is_zero() || a.is_infinite() {
        return if a.is_zero() { sign } else { sign | u32::INFINITY as u32 };
    }
    note_denormal(a, env);
    round(a.unpack().widen(), env)
}

/// CVTSI2SD and its kin.
#[inline(always)]
pub fn from_int<F: Binary>(value: i64, env: &mut Env) -> F {
    match Finite::from_int(value < 0, value.unsigned_abs()) {
        None => F::zero(false),
        Some(number) => round(number.widen(), env),
    }
}

/// CVTSI2SD: an exact result, which is the common case, is the host's.
#[inline(always)]
pub fn from_int64(value: i64, env: &mut Env) -> u64 {
    if value.unsigned_abs() >> u64::PRECISION == 0 {
        return (value as f64).to_bits();
    }
    from_int(value, env)
}

/// CVTSI2SS.
#[inline(always)]
pub fn from_int32(value: i64, env: &mut Env) -> u32 {
    if value.unsigned_abs() >> u32::PRECISION == 0 {
        return (value as f32).to_bits();
    }
    from_int(value, env)
}

/// CVTSD2SI and its kin: to a signed integer of `bits`, 32 or 64. The result is zero-extended.
#[inline(always)]
pub fn to_int<F: Binary>(a: F, bits: u32, env: &mut Env) -> u64 {
    to_int_by(a, bits, env.control().rounding(), env)
}

/// CVTTSD2SI and its kin: the same toward zero.
#[inline(always)]
pub fn truncate<F: Binary>(a: F, bits: u32, env: &mut Env) -> u64 {
    to_int_by(a, bits, Rounding::Zero, env)
}

#[inline(always)]
fn to_int_by<F: Binary>(a: F, bits: u32, rounding: Rounding, env: &mut Env) -> u64 {
    let indefinite = 1u64 << (bits - 1);
    let converted = finite_to_int(a, rounding, env);
    match converted {
        Some((magnitude, inexact))
            if magnitude < indefinite || (magnitude == indefinite && a.is_negative()) =>
        {
            if inexact {
                env.raise(exception::PRECISION);
            }
            let value = if a.is_negative() { magnitude.wrapping_neg() } else { magnitude };
            value & (indefinite | (indefinite - 1))
        }
        _ => {
            env.raise(exception::INVALID);
            indefinite
        }
    }
}

/// ROUNDSD and its kin: to an integer in the same format. A NaN is made quiet.
pub fn round_to_int<F: Binary>(a: F, rounding: Rounding, quiet: bool, env: &mut Env) -> F {
    if a.is_nan() {
        if a.is_signaling() {
            env.raise(exception::INVALID);
        }
        return a.quieted();
    }
    if a.is_infinite() {
        return a;
    }
    match finite_to_int(a, rounding, env) {
        None => a,
        Some((magnitude, inexact)) => {
            if inexact && !quiet {
                env.raise(exception::PRECISION);
            }
            let sign = F::zero(a.is_negative()).to_bits64();
            match Finite::from_int(a.is_negative(), magnitude) {
                None => F::from_bits64(sign),
                // From 2^53 (2^24) on, numbers are integers already, so that nothing is lost here.
                Some(int) => round(int.widen(), env),
            }
        }
    }
}

/// The magnitude of `a` rounded to an integer, and whether something was lost; `None` if it needs more than
/// 64 bits.
#[inline(always)]
fn finite_to_int<F: Binary>(a: F, rounding: Rounding, env: &Env) -> Option<(u64, bool)> {
    if a.is_nan() || a.is_infinite() {
        return None;
    }
    let a = operand(a, env);
    if a.is_zero() {
        return Some((0, false));
    }
    a.unpack().to_int(rounding).map(|int| (int.magnitude, int.inexact))
}
