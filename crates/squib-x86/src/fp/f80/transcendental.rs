//! FSIN, FCOS, FSINCOS, FPTAN, FPATAN, F2XM1, FYL2X and FYL2XP1.
//!
//! All are computed with 128-bit significands and rounded once, so that they are within one unit of the last
//! place of the processors' results (SDM vol. 1, 8.3.10, which promises no more of these). As there,
//! arguments of the circular functions are reduced by a π of 66 bits: for those functions π simply is that
//! number.

use core::cmp::Ordering;

use super::{Class, Env, F80, invalid, note_denormal, special, special_one};
use crate::fp::exact::{Finite, Wide};
use crate::fp::exception;
use crate::fp::wide::mul_high;

/// π/4 · 2^128.
const QUARTER_PI: u128 = 0xc90f_daa2_2168_c234_c4c6_628b_80dc_1cd1;
const PI: Wide = Wide::constant(1, QUARTER_PI);
const HALF_PI: Wide = Wide::constant(0, QUARTER_PI);
const LN_2: Wide = Wide::constant(-1, 0xb172_17f7_d1cf_79ab_c9e3_b398_03f2_f6af);
/// 2 ÷ ln 2.
const TWO_LOG2_E: Wide = Wide::constant(1, 0xb8aa_3b29_5c17_f0bb_be87_fed0_691d_3e89);

/// Half of the 66-bit π, in units of 2^−65.
const HALF_PI_66: u128 = 0x3_243f_6a88_85a3_08d3;

/// 2^128 ÷ n!
const fn inverse_factorial(n: u128) -> u128 {
    let mut product = 1;
    let mut factor = 2;
    while factor <= n {
        product *= factor;
        factor += 1;
    }
    u128::MAX / product
}

/// Terms of sine, cosine and exponential: 34! is the last factorial within 128 bits.
const TERMS: usize = 16;
const SINE: [u128; TERMS] = odd_factorials(1);
const COSINE: [u128; TERMS] = odd_factorials(0);

/// 2^128 ÷ (2k + 2 + `odd`)! for each k.
const fn odd_factorials(odd: u128) -> [u128; TERMS] {
    let mut table = [0; TERMS];
    let mut k = 0;
    while k < TERMS {
        table[k] = inverse_factorial(2 * k as u128 + 2 + odd);
        k += 1;
    }
    table
}

/// z·(t₀ − z·(t₁ − z·(…))), all in units of 2^−128.
fn alternating(table: &[u128], z: u128) -> u128 {
    table.iter().rev().fold(0, |sum, term| mul_high(z, term.wrapping_sub(sum)))
}

/// z·(t₀ + z·(t₁ + z·(…))), all in units of 2^−128.
fn ascending(table: &[u128], z: u128) -> u128 {
    table.iter().rev().fold(0, |sum, term| mul_high(z, term.wrapping_add(sum)))
}

/// Sine and cosine of an angle of at most π/4.
fn sin_cos_reduced(angle: Wide) -> (Wide, Wide) {
    let square = angle.times(angle).fraction();
    let factor = 0u128.wrapping_sub(alternating(&SINE, square));
    let sine = if factor == 0 { angle } else { angle.times(Wide::from_fraction(false, factor)) };
    // What is lost makes the sine less than the angle, and the cosine less than one.
    let sine = if sine.sig == angle.sig { below(angle) } else { sine };
    let cosine = 0u128.wrapping_sub(alternating(&COSINE, square).max(1));
    (sine.inexact(), Wide::from_fraction(false, cosine).inexact())
}

/// The next number toward zero.
fn below(a: Wide) -> Wide {
    Wide::normalize(a.negative, a.exp, a.sig - 1).unwrap_or(a)
}

/// Sine and cosine of a finite non-zero angle below 2^63.
fn sin_cos_wide(angle: Finite) -> (Wide, Wide) {
    // From 2^−2 on the angle is an integer in units of 2^−65.
    let (reduced, quadrant) = if angle.exp < -2 {
        (Wide { negative: false, ..angle.widen() }, 0)
    } else {
        let mut quadrant = 0;
        let mut rest = u128::from(angle.sig);
        let mut shift = (angle.exp + 2) as u32;
        loop {
            quadrant += rest / HALF_PI_66;
            rest %= HALF_PI_66;
            if shift == 0 {
                break;
            }
            let step = shift.min(61);
            rest <<= step;
            quadrant = (quadrant & 3) << step;
            shift -= step;
        }
        let nearer = HALF_PI_66 - rest;
        if nearer < rest { (fixed65(true, nearer), quadrant + 1) } else { (fixed65(false, rest), quadrant) }
    };
    let (sine, cosine) = sin_cos_reduced(reduced);
    let (sine, cosine) = match quadrant & 3 {
        0 => (sine, cosine),
        1 => (cosine, sine.negated()),
        2 => (sine.negated(), cosine.negated()),
        _ => (cosine.negated(), sine),
    };
    (if angle.negative { sine.negated() } else { sine }, cosine)
}

/// `value` · 2^−65. HALF_PI_66 has no divisor among the significands, so that no remainder is zero.
fn fixed65(negative: bool, value: u128) -> Wide {
    let zeros = value.leading_zeros();
    Wide { negative, exp: 127 - 65 - zeros as i32, sig: value << zeros }
}

/// Whether the argument of a circular function is too large: then it stays as it is, and C2 is set.
fn is_out_of_range(a: F80) -> bool {
    a.class() == Class::Normal && a.unpack().exp >= 63
}

/// FSINCOS, of which FSIN and FCOS take one. `None`: out of range.
pub fn sin_cos(a: F80, env: &mut Env) -> Option<(F80, F80)> {
    if let Some(result) = special_one(a, env) {
        return Some((result, result));
    }
    if is_out_of_range(a) {
        return None;
    }
    Some(match a.class() {
        Class::Infinite => (invalid(env), F80::INDEFINITE),
        Class::Zero => (a, F80::ONE),
        _ => {
            note_denormal(a, env);
            let (sine, cosine) = sin_cos_wide(a.unpack());
            let cosine = F80::round(cosine, 64, env);
            (F80::round(sine, 64, env), cosine)
        }
    })
}

/// FPTAN. `None`: out of range.
pub fn tan(a: F80, env: &mut Env) -> Option<F80> {
    if let Some(result) = special_one(a, env) {
        return Some(result);
    }
    if is_out_of_range(a) {
        return None;
    }
    Some(match a.class() {
        Class::Infinite => invalid(env),
        Class::Zero => a,
        _ => {
            note_denormal(a, env);
            let angle = a.unpack();
            // The tangent of a small angle is larger than it, by less than can be seen.
            let tangent = if angle.exp < -60 {
                angle.widen()
            } else {
                let (sine, cosine) = sin_cos_wide(angle);
                sine.over(cosine)
            };
            F80::round(tangent.inexact(), 64, env)
        }
    })
}

/// atan(i/8) · 2^128 for i from 1.
const ARCTANGENTS: [u128; 8] = [
    0x1fd5_ba9a_ac2f_6dc6_5912_f313_e7d1_11df,
    0x3eb6_ebf2_5901_bac5_5b71_e7bd_7de8_85f9,
    0x5bd8_6507_937b_c239_c551_9091_6e7f_2242,
    0x76b1_9c15_86ed_3da2_b7f2_22f6_5e1d_4682,
    0x8f00_5d5e_f7f5_9f9b_5c83_5e16_65c4_3748,
    0xa4bc_7d19_34f7_0924_19a8_7f2a_457d_ac9f,
    0xb805_3e2b_c231_9e73_cb2d_a552_10a4_443d,
    QUARTER_PI,
];

/// 2^128 ÷ (2k + 3) for each k: the terms of atan and, with all signs alike, of atanh, after the first.
const ODD_INVERSES: [u128; 25] = {
    let mut table = [0; 25];
    let mut k = 0;
    while k < table.len() {
        table[k] = u128::MAX / (2 * k as u128 + 3);
        k += 1;
    }
    table
};

/// The arc tangent of a number from 0 to 1, 0 excluded.
fn atan_wide(z: Wide) -> Wide {
    // The nearest eighth, and what is left beyond it: atan z = atan c + atan((z − c) ÷ (1 + z·c)).
    let one = Wide::constant(0, 1 << 127);
    let eighths = if z.exp < -4 { 0 } else { ((z.sig >> 123) as u32 >> (-z.exp).min(31)).div_ceil(2) };
    let Some(index) = eighths.checked_sub(1) else { return atan_small(z) };
    let center = Wide::normalize(false, 127 - 3, eighths.into()).unwrap_or(one);
    let table = Wide::from_fraction(false, ARCTANGENTS[index.min(7) as usize]);
    match (z.minus(center), one.plus(z.times(center))) {
        (Some(rest), Some(divisor)) => table.plus(atan_small(rest.over(divisor))).unwrap_or(table),
        _ => table,
    }
}

/// The arc tangent of a number of at most 1/8, by its series.
fn atan_small(t: Wide) -> Wide {
    let square = t.times(t).fraction();
    let factor = 0u128.wrapping_sub(alternating(&ODD_INVERSES, square));
    if factor == 0 { below(t) } else { t.times(Wide::from_fraction(false, factor)) }
}

/// FPATAN: the angle of the point (`x`, `y`) (SDM vol. 2, FPATAN, table 3-30).
pub fn atan2(y: F80, x: F80, env: &mut Env) -> F80 {
    if let Some(result) = special(y, x, env) {
        return result;
    }
    note_denormal(y, env);
    note_denormal(x, env);
    let negative = y.is_negative();
    let angle = match (y.class(), x.class()) {
        (Class::Zero, _) if !x.is_negative() => return y,
        (Class::Zero, _) => PI,
        (Class::Infinite, Class::Infinite) => {
            let quarter = Wide::constant(-1, QUARTER_PI);
            if x.is_negative() { PI.minus(quarter).unwrap_or(PI) } else { quarter }
        }
        (Class::Infinite, _) | (_, Class::Zero) => HALF_PI,
        (_, Class::Infinite) if x.is_negative() => PI,
        (_, Class::Infinite) => return F80::zero(negative),
        _ => finite_angle(y.unpack(), x.unpack()),
    };
    F80::round(Wide { negative, ..angle.inexact() }, 64, env)
}

/// The angle's magnitude.
fn finite_angle(y: Finite, x: Finite) -> Wide {
    let magnitude = |a: Finite| Wide { negative: false, ..a.widen() };
    let (size_y, size_x) = (magnitude(y), magnitude(x));
    let from_axis = match y.cmp_magnitude(x) {
        Ordering::Greater => HALF_PI.minus(atan_wide(size_x.over(size_y))).unwrap_or(HALF_PI),
        _ => atan_wide(size_y.over(size_x)),
    };
    if x.negative { PI.minus(from_axis).unwrap_or(PI) } else { from_axis }
}

/// Terms of e^t − 1 after the first: 2^128 ÷ (k + 2)! for each k.
const EXPONENTIAL: [u128; 2 * TERMS] = {
    let mut table = [0; 2 * TERMS];
    let mut k = 0;
    while k < table.len() {
        table[k] = inverse_factorial(k as u128 + 2);
        k += 1;
    }
    table
};

/// F2XM1: 2^`a` − 1 for `a` from −1 to 1. Beyond, where the result is undefined, it is the operand.
pub fn exp2_minus_1(a: F80, env: &mut Env) -> F80 {
    if let Some(result) = special_one(a, env) {
        return result;
    }
    match a.class() {
        Class::Zero => return a,
        Class::Infinite => return if a.is_negative() { F80::ONE.negated() } else { a },
        _ => note_denormal(a, env),
    }
    let number = a.unpack();
    if number.exp >= 0 {
        return if a == F80::ONE.negated() { F80::new(0xbffe, F80::ONE.sig) } else { a };
    }
    let t = number.widen().times(LN_2);
    let fraction = t.fraction();
    let result = if number.negative {
        let factor = 0u128.wrapping_sub(alternating(&EXPONENTIAL, fraction));
        if factor == 0 { t } else { t.times(Wide::from_fraction(false, factor)) }
    } else {
        match ascending(&EXPONENTIAL, fraction) {
            0 => t,
            excess => t.plus(t.times(Wide::from_fraction(false, excess))).unwrap_or(t),
        }
    };
    F80::round(result.inexact(), 64, env)
}

/// log₂((1 + `s`) ÷ (1 − `s`)) for a small `s`: 2/ln 2 · atanh `s`.
fn log2_of_ratio(s: Wide) -> Wide {
    let square = s.times(s).fraction();
    let first = s.times(TWO_LOG2_E);
    match ascending(&ODD_INVERSES, square) {
        0 => first,
        excess => first.plus(first.times(Wide::from_fraction(false, excess))).unwrap_or(first),
    }
}

/// √2 · 2^63.
const ROOT_2: u64 = 0xb504_f333_f9de_6484;

/// The binary logarithm of a positive number; `Err` holds the exact one of a power of two.
fn log2_wide(x: Finite) -> Result<Wide, i64> {
    const ONE: u64 = 1 << 63;
    if x.sig == ONE {
        return Err(x.exp.into());
    }
    // The significand between √½ and √2, in units of 2^−64 below 1 and of 2^−63 above.
    let (over, under, exp) = if x.sig > ROOT_2 {
        (Finite::from_int(true, x.sig.wrapping_neg()), (1u128 << 64) + u128::from(x.sig), x.exp + 1)
    } else {
        (Finite::from_int(false, x.sig - ONE), u128::from(ONE) + u128::from(x.sig), x.exp)
    };
    let fraction = match (over, Wide::normalize(false, 127, under)) {
        (Some(over), Some(under)) => log2_of_ratio(over.widen().over(under)),
        _ => return Err(exp.into()),
    };
    let whole = Finite::from_int(exp < 0, exp.unsigned_abs().into());
    Ok(whole.and_then(|whole| whole.widen().plus(fraction)).unwrap_or(fraction))
}

/// FYL2X: `y` · log₂ `x` (SDM vol. 2, FYL2X, table 3-46).
pub fn log2_times(y: F80, x: F80, env: &mut Env) -> F80 {
    if let Some(result) = special(y, x, env) {
        return result;
    }
    let negative = y.is_negative();
    match (y.class(), x.class()) {
        (Class::Zero, Class::Zero) => return invalid(env),
        (Class::Infinite, Class::Zero) => return F80::infinity(!negative),
        (_, Class::Zero) => {
            env.raise(exception::DIVIDE);
            return F80::infinity(!negative);
        }
        _ if x.is_negative() => return invalid(env),
        (Class::Zero, Class::Infinite) => return invalid(env),
        (Class::Infinite, _) if x == F80::ONE => return invalid(env),
        _ => {}
    }
    note_denormal(y, env);
    note_denormal(x, env);
    if x.class() == Class::Infinite {
        return F80::infinity(negative);
    }
    let below_one = x.unpack().exp < 0;
    match y.class() {
        Class::Infinite => F80::infinity(negative != below_one),
        Class::Zero => F80::zero(negative != below_one),
        _ => match log2_wide(x.unpack()) {
            Ok(log) => F80::round(y.unpack().widen().times(log).inexact(), 64, env),
            Err(0) => F80::zero(negative),
            Err(log) => match Finite::from_int(log < 0, log.unsigned_abs()) {
                None => F80::zero(negative),
                Some(log) => F80::round(y.unpack().product(log), 64, env),
            },
        },
    }
}

/// FYL2XP1: `y` · log₂(`x` + 1) for |`x`| below 1 − √½ (SDM vol. 2, FYL2XP1). Beyond, where the result is
/// undefined, it is the same function as far as that exists.
pub fn log2p1_times(y: F80, x: F80, env: &mut Env) -> F80 {
    if let Some(result) = special(y, x, env) {
        return result;
    }
    let negative = y.is_negative() != x.is_negative();
    match (y.class(), x.class()) {
        (Class::Zero, Class::Infinite) | (Class::Infinite, Class::Zero) => return invalid(env),
        (_, Class::Infinite) if x.is_negative() => return invalid(env),
        _ => {}
    }
    note_denormal(y, env);
    note_denormal(x, env);
    match (y.class(), x.class()) {
        (_, Class::Infinite) | (Class::Infinite, _) => return F80::infinity(negative),
        (Class::Zero, _) | (_, Class::Zero) => return F80::zero(negative),
        _ => {}
    }
    let number = x.unpack().widen();
    let one = Wide::constant(0, 1 << 127);
    let two = Wide::constant(1, 1 << 127);
    let log = if number.exp < -1 {
        two.plus(number).map(|sum| log2_of_ratio(number.over(sum)))
    } else {
        match one.plus(number) {
            Some(sum) if !sum.negative => {
                let Wide { exp, sig, .. } = sum;
                match log2_wide(Finite { negative: false, exp, sig: (sig >> 64) as u64 }) {
                    Ok(log) => Some(log),
                    Err(log) => Finite::from_int(log < 0, log.unsigned_abs()).map(Finite::widen),
                }
            }
            _ => return invalid(env),
        }
    };
    match log {
        None => F80::zero(negative),
        Some(log) => F80::round(y.unpack().widen().times(log).inexact(), 64, env),
    }
}
