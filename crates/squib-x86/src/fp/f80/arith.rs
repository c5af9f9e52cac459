//! Arithmetic on [`F80`].
//!
//! Each function gives the masked response; [`Env::is_blocked`] tells when it must not be used.

use core::cmp::Ordering;

use super::{Class, Env, F80, invalid, note_denormal, special, special_one};
use crate::fp::exact::{Finite, Wide};
use crate::fp::{Rounding, exception};

/// A zero that is the exact sum of numbers with opposite signs.
fn cancelled(env: &Env) -> F80 {
    F80::zero(env.control().rounding() == Rounding::Down)
}

/// FADD.
pub fn add(a: F80, b: F80, env: &mut Env) -> F80 {
    if let Some(result) = special(a, b, env) {
        return result;
    }
    let (class_a, class_b) = (a.class(), b.class());
    if class_a == Class::Infinite && class_b == Class::Infinite && a != b {
        return invalid(env);
    }
    note_denormal(a, env);
    note_denormal(b, env);
    let sum = match (class_a, class_b) {
        (Class::Infinite, _) => return a,
        (_, Class::Infinite) => return b,
        (Class::Zero, Class::Zero) if a == b => return a,
        (Class::Zero, Class::Zero) => None,
        (Class::Zero, _) => Some(b.unpack().widen()),
        (_, Class::Zero) => Some(a.unpack().widen()),
        _ => a.unpack().sum(b.unpack()),
    };
    match sum {
        None => cancelled(env),
        Some(sum) => F80::round(sum, env.control().precision(), env),
    }
}

/// FSUB: `a` − `b`.
pub fn sub(a: F80, b: F80, env: &mut Env) -> F80 {
    match special(a, b, env) {
        // A NaN keeps its sign.
        Some(result) => result,
        None => add(a, b.negated(), env),
    }
}

/// FMUL.
pub fn mul(a: F80, b: F80, env: &mut Env) -> F80 {
    if let Some(result) = special(a, b, env) {
        return result;
    }
    let negative = a.is_negative() != b.is_negative();
    let classes = [a.class(), b.class()];
    let zero = classes.contains(&Class::Zero);
    let infinite = classes.contains(&Class::Infinite);
    if zero && infinite {
        return invalid(env);
    }
    note_denormal(a, env);
    note_denormal(b, env);
    if infinite {
        F80::infinity(negative)
    } else if zero {
        F80::zero(negative)
    } else {
        F80::round(a.unpack().product(b.unpack()), env.control().precision(), env)
    }
}

/// FDIV: `a` ÷ `b`.
pub fn div(a: F80, b: F80, env: &mut Env) -> F80 {
    if let Some(result) = special(a, b, env) {
        return result;
    }
    let negative = a.is_negative() != b.is_negative();
    match (a.class(), b.class()) {
        (Class::Zero, Class::Zero) | (Class::Infinite, Class::Infinite) => return invalid(env),
        (Class::Infinite, Class::Zero) => return F80::infinity(negative),
        (_, Class::Zero) => {
            env.raise(exception::DIVIDE);
            return F80::infinity(negative);
        }
        _ => {}
    }
    note_denormal(a, env);
    note_denormal(b, env);
    match (a.class(), b.class()) {
        (Class::Infinite, _) => F80::infinity(negative),
        (Class::Zero, _) | (_, Class::Infinite) => F80::zero(negative),
        _ => F80::round(a.unpack().quotient(b.unpack()), env.control().precision(), env),
    }
}

/// FSQRT.
pub fn sqrt(a: F80, env: &mut Env) -> F80 {
    if let Some(result) = special_one(a, env) {
        return result;
    }
    match a.class() {
        Class::Zero => a,
        _ if a.is_negative() => invalid(env),
        Class::Infinite => a,
        _ => {
            note_denormal(a, env);
            F80::round(a.unpack().root(), env.control().precision(), env)
        }
    }
}

/// FCOM: how `a` compares with `b`; `None` if one is a NaN or unsupported. A signalling NaN raises IE, and
/// unless `quiet` (FUCOM) so does a quiet one.
pub fn compare(a: F80, b: F80, quiet: bool, env: &mut Env) -> Option<Ordering> {
    if special(a, b, env).is_some() {
        if !quiet {
            env.raise(exception::INVALID);
        }
        return None;
    }
    note_denormal(a, env);
    note_denormal(b, env);
    let magnitude = |x: F80| match x.class() {
        Class::Zero => (i32::MIN, 0),
        Class::Infinite => (i32::MAX, 0),
        _ => {
            let Finite { exp, sig, .. } = x.unpack();
            (exp, sig)
        }
    };
    let (size_a, size_b) = (magnitude(a), magnitude(b));
    let zero = (i32::MIN, 0);
    Some(match (a.is_negative(), b.is_negative()) {
        _ if size_a == zero && size_b == zero => Ordering::Equal,
        (false, false) => size_a.cmp(&size_b),
        (true, true) => size_b.cmp(&size_a),
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
    })
}

/// FRNDINT.
pub fn round_to_int(a: F80, env: &mut Env) -> F80 {
    if let Some(result) = special_one(a, env) {
        return result;
    }
    if matches!(a.class(), Class::Zero | Class::Infinite) {
        return a;
    }
    note_denormal(a, env);
    let Some(int) = a.unpack().to_int(env.control().rounding()) else { return a };
    if int.inexact {
        env.raise(exception::PRECISION);
        env.rounded_up(int.up);
    }
    match Finite::from_int(a.is_negative(), int.magnitude) {
        None => F80::zero(a.is_negative()),
        Some(Finite { negative, exp, sig }) => F80::pack(negative, exp, sig),
    }
}

/// FSCALE: `a` · 2^`b`, `b` truncated.
pub fn scale(a: F80, b: F80, env: &mut Env) -> F80 {
    if let Some(result) = special(a, b, env) {
        return result;
    }
    let negative = a.is_negative();
    match (a.class(), b.class(), b.is_negative()) {
        (Class::Zero, Class::Infinite, false) | (Class::Infinite, Class::Infinite, true) => {
            return invalid(env);
        }
        _ => {}
    }
    note_denormal(a, env);
    note_denormal(b, env);
    match (a.class(), b.class()) {
        (Class::Zero | Class::Infinite, _) => return a,
        (_, Class::Zero) => return a.canonical(),
        (_, Class::Infinite) => {
            return if b.is_negative() { F80::zero(negative) } else { F80::infinity(negative) };
        }
        _ => {}
    }
    // Beyond this all are alike, whatever the exponent of `a`.
    const LIMIT: u64 = 1 << 17;
    let by = b.unpack().to_int(Rounding::Zero).map_or(LIMIT, |int| int.magnitude.min(LIMIT)) as i32;
    let Wide { exp, sig, .. } = a.unpack().widen();
    let exp = if b.is_negative() { exp - by } else { exp + by };
    F80::round(Wide { negative, exp, sig }, 64, env)
}

/// FXTRACT: the exponent and the significand, both as numbers.
pub fn extract(a: F80, env: &mut Env) -> (F80, F80) {
    if let Some(result) = special_one(a, env) {
        return (result, result);
    }
    match a.class() {
        Class::Zero => {
            env.raise(exception::DIVIDE);
            return (F80::infinity(true), a);
        }
        Class::Infinite => return (F80::infinity(false), a),
        _ => note_denormal(a, env),
    }
    let Finite { negative, exp, sig } = a.unpack();
    let exponent = match Finite::from_int(exp < 0, exp.unsigned_abs().into()) {
        None => F80::ZERO,
        Some(Finite { negative, exp, sig }) => F80::pack(negative, exp, sig),
    };
    (exponent, F80::pack(negative, 0, sig))
}

/// The result of FPREM and FPREM1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remainder {
    /// The remainder, or a number congruent to the dividend that is nearer to it.
    pub value: F80,
    /// What is known of the quotient.
    pub quotient: Quotient,
}

/// The quotient that belongs to a [`Remainder`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quotient {
    /// There is none: an operand was a NaN, or the operation invalid.
    None,
    /// The reduction is not complete.
    Partial,
    /// The quotient's low 64 bits.
    Low(u64),
}

/// FPREM, and with `nearest` FPREM1: the remainder of `a` by `b`, reducing the exponent by less than 64 at
/// once.
pub fn remainder(a: F80, b: F80, nearest: bool, env: &mut Env) -> Remainder {
    let without = |value| Remainder { value, quotient: Quotient::None };
    let complete = |value| Remainder { value, quotient: Quotient::Low(0) };
    if let Some(result) = special(a, b, env) {
        return without(result);
    }
    if a.class() == Class::Infinite || b.class() == Class::Zero {
        return without(invalid(env));
    }
    note_denormal(a, env);
    note_denormal(b, env);
    if a.class() == Class::Zero {
        return complete(a);
    }
    let dividend = a.unpack();
    if b.class() == Class::Infinite {
        return complete(a.canonical());
    }
    let divisor = b.unpack();
    let distance = dividend.exp - divisor.exp;
    if distance < -1 || (distance == -1 && !nearest) {
        return complete(F80::round(dividend.widen(), 64, env));
    }
    // The dividend is `steps` binades above the divisor, both as integers of the divisor's scale; 2^`skipped`
    // times that.
    let steps = if distance < 64 { distance } else { 32 + distance % 32 };
    let skipped = distance - steps;
    let (over, under) = if steps < 0 {
        (u128::from(dividend.sig), u128::from(divisor.sig) << 1)
    } else {
        (u128::from(dividend.sig) << steps, u128::from(divisor.sig))
    };
    let (mut quotient, mut rest) = ((over / under) as u64, over % under);
    let mut negative = dividend.negative;
    let twice = (rest << 1).cmp(&under);
    if nearest
        && skipped == 0
        && (twice == Ordering::Greater || (twice == Ordering::Equal && quotient & 1 != 0))
    {
        rest = under - rest;
        quotient = quotient.wrapping_add(1);
        negative = !negative;
    }
    let exp = divisor.exp + skipped + steps.min(0) + 64;
    let value = match Wide::normalize(negative, exp, rest) {
        None => F80::zero(dividend.negative),
        Some(rest) => F80::round(rest, 64, env),
    };
    let quotient = if skipped == 0 { Quotient::Low(quotient) } else { Quotient::Partial };
    Remainder { value, quotient }
}
