//! The x87's double extended precision: 1 sign, 15 exponent and 64 significand bits, the leading one
//! explicit.
//!
//! Source: Intel SDM vol. 1, 4.2, 4.8, 8.2 and 8.5.

mod arith;
mod convert;
mod env;
mod transcendental;

pub use arith::{
    Quotient, Remainder, add, compare, div, extract, mul, remainder, round_to_int, scale, sqrt, sub,
};
pub use convert::{BCD_INDEFINITE, from_bcd, from_float, from_int, quiet, to_bcd, to_float, to_int};
pub use env::{ControlWord, Env};
pub use transcendental::{atan2, exp2_minus_1, log2_times, log2p1_times, sin_cos, tan};

use super::exact::{Finite, Target, Wide};
use super::exception;

/// A double extended precision number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct F80 {
    /// Sign in bit 15, biased exponent below.
    pub sign_exp: u16,
    /// Significand, integer bit in bit 63.
    pub sig: u64,
}

/// What a bit pattern stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// ±0.
    Zero,
    /// Exponent field 0 and not zero, with or without integer bit.
    Denormal,
    /// A number in the full precision.
    Normal,
    /// ±∞.
    Infinite,
    /// A NaN that signals.
    Signaling,
    /// A quiet NaN.
    Quiet,
    /// A pattern that the 387 and later do not support: exponent field not 0, integer bit 0.
    Unsupported,
}

const INTEGER_BIT: u64 = 1 << 63;
const QUIET_BIT: u64 = 1 << 62;
const SIGN: u16 = 1 << 15;
const EXP_FIELD: u16 = 0x7fff;
const BIAS: i32 = 16383;
const MIN_EXP: i32 = -16382;
const MAX_EXP: i32 = 16383;
/// What an unmasked overflow or underflow moves the exponent by, to bring it into range (SDM vol. 1, 8.5.4).
const WRAP: i32 = 24576;

impl F80 {
    /// +0.
    pub const ZERO: Self = Self::new(0, 0);
    /// 1.
    pub const ONE: Self = Self::new(0x3fff, INTEGER_BIT);
    /// The default NaN, "QNaN real indefinite".
    pub const INDEFINITE: Self = Self::new(0xffff, INTEGER_BIT | QUIET_BIT);

    /// The number with these fields.
    pub const fn new(sign_exp: u16, sig: u64) -> Self {
        Self { sign_exp, sig }
    }

    /// From ten bytes, the significand first.
    pub const fn from_bits(bits: u128) -> Self {
        Self { sign_exp: (bits >> 64) as u16, sig: bits as u64 }
    }

    /// To ten bytes.
    pub const fn to_bits(self) -> u128 {
        (self.sign_exp as u128) << 64 | self.sig as u128
    }

    /// ±0.
    pub const fn zero(negative: bool) -> Self {
        Self::new((negative as u16) << 15, 0)
    }

    /// ±∞.
    pub const fn infinity(negative: bool) -> Self {
        Self::new((negative as u16) << 15 | EXP_FIELD, INTEGER_BIT)
    }

    /// What the pattern stands for.
    pub const fn class(self) -> Class {
        let integer_bit = self.sig & INTEGER_BIT != 0;
        match self.sign_exp & EXP_FIELD {
            0 if self.sig == 0 => Class::Zero,
            0 => Class::Denormal,
            _ if !integer_bit => Class::Unsupported,
            EXP_FIELD if self.sig == INTEGER_BIT => Class::Infinite,
            EXP_FIELD if self.sig & QUIET_BIT == 0 => Class::Signaling,
            EXP_FIELD => Class::Quiet,
            _ => Class::Normal,
        }
    }

    /// The sign bit.
    pub const fn is_negative(self) -> bool {
        self.sign_exp & SIGN != 0
    }

    /// The other sign.
    pub const fn negated(self) -> Self {
        Self { sign_exp: self.sign_exp ^ SIGN, ..self }
    }

    /// Sign cleared.
    pub const fn abs(self) -> Self {
        Self { sign_exp: self.sign_exp & EXP_FIELD, ..self }
    }

    /// A NaN of either kind.
    pub const fn is_nan(self) -> bool {
        matches!(self.class(), Class::Signaling | Class::Quiet)
    }

    const fn quieted(self) -> Self {
        Self { sig: self.sig | QUIET_BIT, ..self }
    }

    /// A normal or denormal number taken apart.
    const fn unpack(self) -> Finite {
        let field = self.sign_exp & EXP_FIELD;
        let exp = if field == 0 { MIN_EXP } else { field as i32 - BIAS };
        let zeros = self.sig.leading_zeros();
        Finite { negative: self.is_negative(), exp: exp - zeros as i32, sig: self.sig << zeros }
    }

    /// A number within the range of normal ones put together.
    const fn pack(negative: bool, exp: i32, sig: u64) -> Self {
        // A denormal has no integer bit, and the exponent field that one below the smallest has.
        let field = if sig & INTEGER_BIT == 0 { 0 } else { (exp + BIAS) as u16 };
        Self::new((negative as u16) << 15 | field, sig)
    }

    /// The same number, where a denormal with an integer bit has the exponent field that belongs to it.
    const fn canonical(self) -> Self {
        if self.sign_exp & EXP_FIELD == 0 { Self::pack(self.is_negative(), MIN_EXP, self.sig) } else { self }
    }

    /// Rounds to `precision` bits, with the masked or unmasked response to results out of range (SDM vol. 1,
    /// 8.5.4 and 8.5.5).
    fn round(value: Wide, precision: u32, env: &mut Env) -> Self {
        let rounding = env.control().rounding();
        let trap_tiny = env.traps(exception::UNDERFLOW);
        let target = Target { precision, min_exp: MIN_EXP, max_exp: MAX_EXP };
        let rounded = value.round(target, rounding, trap_tiny);
        env.raise(rounded.flags);
        env.rounded_up(rounded.up);
        if rounded.flags & exception::OVERFLOW != 0 {
            if env.traps(exception::OVERFLOW) {
                return Self::wrapped(value.negative, rounded.exp - WRAP, rounded.sig, env);
            }
            env.raise(exception::PRECISION);
            let to_infinity = rounding.away(value.negative, false, core::cmp::Ordering::Greater);
            env.rounded_up(to_infinity);
            return if to_infinity {
                Self::infinity(value.negative)
            } else {
                Self::pack(value.negative, MAX_EXP, u64::MAX << (64 - precision))
            };
        }
        if rounded.flags & exception::UNDERFLOW != 0 && trap_tiny {
            return Self::wrapped(value.negative, rounded.exp + WRAP, rounded.sig, env);
        }
        Self::pack(value.negative, rounded.exp, rounded.sig)
    }

    /// A result of an unmasked overflow or underflow, its exponent moved into range. FSCALE alone can miss
    /// it.
    const fn wrapped(negative: bool, exp: i32, sig: u64, env: &mut Env) -> Self {
        if exp >= MIN_EXP && exp <= MAX_EXP {
            return Self::pack(negative, exp, sig);
        }
        env.raise(exception::PRECISION);
        env.rounded_up(exp > MAX_EXP);
        if exp > MAX_EXP { Self::infinity(negative) } else { Self::zero(negative) }
    }
}

/// The result if an operand is a NaN or unsupported (SDM vol. 1, table 4-7): of two NaNs a quiet one before a
/// signalling one, then the larger significand, then the positive one.
fn special(a: F80, b: F80, env: &mut Env) -> Option<F80> {
    let (class_a, class_b) = (a.class(), b.class());
    if class_a == Class::Unsupported || class_b == Class::Unsupported {
        return Some(invalid(env));
    }
    if class_a == Class::Signaling || class_b == Class::Signaling {
        env.raise(exception::INVALID);
    }
    match (a.is_nan(), b.is_nan()) {
        (false, false) => None,
        (true, false) => Some(a.quieted()),
        (false, true) => Some(b.quieted()),
        (true, true) => {
            let rank = |x: F80, class| (class == Class::Quiet, x.sig, !x.is_negative());
            Some(if rank(a, class_a) >= rank(b, class_b) { a.quieted() } else { b.quieted() })
        }
    }
}

/// The same for one operand.
fn special_one(a: F80, env: &mut Env) -> Option<F80> {
    special(a, F80::ZERO, env)
}

/// A constant rounded as the control word says, which raises nothing.
pub fn constant(value: Wide, env: &Env) -> F80 {
    let mut quiet = *env;
    F80::round(value, 64, &mut quiet)
}

/// The result of an invalid operation.
fn invalid(env: &mut Env) -> F80 {
    env.raise(exception::INVALID);
    F80::INDEFINITE
}

/// Raises DE if the operand is denormal.
fn note_denormal(a: F80, env: &mut Env) {
    if a.class() == Class::Denormal {
        env.raise(exception::DENORMAL);
    }
}
