//! One element of SSE's floating-point operations, on bit patterns of binary32 (`u32`) and binary64 (`u64`).
//!
//! Each operation first lets the host compute, and takes its result when operands and result are normal
//! numbers or zeros and rounding is to nearest: then the host and x86 cannot differ. What is left is whether
//! the result is exact, and that only while PE is not set yet. Everything else takes the slow path, which is
//! all of the rules:
//!
//! - NaNs: a signalling operand raises IE; the result is the first operand that is a NaN, made quiet (SDM
//!   vol. 1, table 4-7). Without a NaN operand an invalid operation gives the default NaN.
//! - DAZ replaces denormal operands by zeros before anything else looks at them; without it they raise DE,
//!   except where a NaN, an invalid operation or a division by zero takes precedence (vol. 1, 11.5.2 and
//!   4.9.2).
//! - Tiny results: UE when inexact, or whenever it is not masked; FTZ gives zero with UE and PE.

use core::cmp::Ordering;

use super::exact::{Finite, Target, Wide};
use super::mxcsr::Env;
use super::{Rounding, exception};

mod sealed {
    pub trait Sealed {}
    impl Sealed for u32 {}
    impl Sealed for u64 {}
}

/// An IEEE 754 interchange format, as its bit pattern.
pub trait Binary: Copy + Eq + sealed::Sealed {
    /// Significant bits, the implicit one included.
    const PRECISION: u32;
    /// Exponent of the largest number, which is also the bias.
    const MAX_EXP: i32;

    /// The pattern, zero-extended.
    fn to_bits64(self) -> u64;
    /// The pattern in the low bits.
    fn from_bits64(bits: u64) -> Self;
    /// The host's sum, rounded to nearest.
    fn host_add(self, other: Self) -> Self;
    /// The host's product, rounded to nearest.
    fn host_mul(self, other: Self) -> Self;
    /// The host's quotient, rounded to nearest.
    fn host_div(self, other: Self) -> Self;
    /// The host's square root, rounded to nearest.
    fn host_sqrt(self) -> Self;
    /// The host's ordering.
    fn host_cmp(self, other: Self) -> Option<Ordering>;
    /// Whether `sum` is exactly `self` + `other`, none being denormal and `sum` their host sum.
    fn sum_is_exact(self, other: Self, sum: Self) -> bool;

    /// Bits of the fraction.
    const FRACTION_BITS: u32 = Self::PRECISION - 1;
    /// The exponent field, all ones.
    const EXP_FIELD: u64 = (Self::MAX_EXP * 2 + 1) as u64;
    /// The sign bit.
    const SIGN: u64 = (Self::EXP_FIELD + 1) << Self::FRACTION_BITS;
    /// Fraction mask.
    const FRACTION: u64 = (1 << Self::FRACTION_BITS) - 1;
    /// The bit that makes a NaN quiet.
    const QUIET: u64 = 1 << (Self::FRACTION_BITS - 1);
    /// +∞.
    const INFINITY: u64 = Self::EXP_FIELD << Self::FRACTION_BITS;
    /// The default NaN, "QNaN real indefinite".
    const DEFAULT_NAN: u64 = Self::SIGN | Self::INFINITY | Self::QUIET;
    /// The exact core's view of the format.
    const TARGET: Target =
        Target { precision: Self::PRECISION, min_exp: 1 - Self::MAX_EXP, max_exp: Self::MAX_EXP };

    /// The biased exponent.
    #[inline(always)]
    fn exp_field(self) -> u64 {
        (self.to_bits64() >> Self::FRACTION_BITS) & Self::EXP_FIELD
    }

    /// Neither zero, denormal, infinite nor NaN.
    #[inline(always)]
    fn is_normal(self) -> bool {
        self.exp_field().wrapping_sub(1) < Self::EXP_FIELD - 1
    }

    /// Normal, and two binades away from both ends of the range: neither overflow nor underflow was near.
    #[inline(always)]
    fn is_well_within(self) -> bool {
        self.exp_field().wrapping_sub(3) < Self::EXP_FIELD - 5
    }

    /// Normal or zero.
    #[inline(always)]
    fn is_plain(self) -> bool {
        self.is_normal() || self.is_zero()
    }

    /// Denormal.
    #[inline(always)]
    fn is_denormal(self) -> bool {
        self.exp_field() == 0 && self.to_bits64() & Self::FRACTION != 0
    }

    /// A NaN of either kind.
    #[inline(always)]
    fn is_nan(self) -> bool {
        self.to_bits64() & !Self::SIGN > Self::INFINITY
    }

    /// A signalling NaN.
    #[inline(always)]
    fn is_signaling(self) -> bool {
        self.is_nan() && self.to_bits64() & Self::QUIET == 0
    }

    /// Either zero.
    #[inline(always)]
    fn is_zero(self) -> bool {
        self.to_bits64() & !Self::SIGN == 0
    }

    /// Either infinity.
    #[inline(always)]
    fn is_infinite(self) -> bool {
        self.to_bits64() & !Self::SIGN == Self::INFINITY
    }

    /// The sign bit.
    #[inline(always)]
    fn is_negative(self) -> bool {
        self.to_bits64() & Self::SIGN != 0
    }

    /// The NaN with its quiet bit set.
    #[inline(always)]
    fn quieted(self) -> Self {
        Self::from_bits64(self.to_bits64() | Self::QUIET)
    }

    /// `self` with the sign inverted.
    #[inline(always)]
    fn negated(self) -> Self {
        Self::from_bits64(self.to_bits64() ^ Self::SIGN)
    }

    /// Zero with a sign.
    #[inline(always)]
    fn zero(negative: bool) -> Self {
        Self::from_bits64(if negative { Self::SIGN } else { 0 })
    }

    /// Infinity with a sign.
    #[inline(always)]
    fn infinity(negative: bool) -> Self {
        Self::from_bits64(Self::zero(negative).to_bits64() | Self::INFINITY)
    }

    /// The integer significand, without trailing zeros; of zero, 1. Not of denormals.
    #[inline(always)]
    fn odd_significand(self) -> u64 {
        let sig = self.to_bits64() & Self::FRACTION | 1 << Self::FRACTION_BITS;
        sig >> sig.trailing_zeros()
    }

    /// A finite non-zero number taken apart.
    fn unpack(self) -> Finite {
        let fraction = self.to_bits64() & Self::FRACTION;
        let field = self.exp_field() as i32;
        let (exp, sig) = if field == 0 {
            (Self::TARGET.min_exp, fraction)
        } else {
            (field - Self::MAX_EXP, fraction | 1 << Self::FRACTION_BITS)
        };
        let zeros = sig.leading_zeros();
        let exp = exp + (63 - Self::FRACTION_BITS) as i32 - zeros as i32;
        Finite { negative: self.is_negative(), exp, sig: sig << zeros }
    }

    /// A number within range put together: bit 63 of `sig` stands for 2^`exp`, and is clear in a denormal
    /// alone.
    fn assemble(negative: bool, exp: i32, sig: u64) -> Self {
        // The explicit leading bit adds one to the exponent field; a denormal has neither.
        let field = (exp + Self::MAX_EXP - 1) as u64;
        let magnitude = (field << Self::FRACTION_BITS) + (sig >> (64 - Self::PRECISION));
        Self::from_bits64(Self::zero(negative).to_bits64() | magnitude)
    }
}

macro_rules! binary {
    ($bits:ty, $float:ty, $precision:literal, $max_exp:literal) => {
        impl Binary for $bits {
            const PRECISION: u32 = $precision;
            const MAX_EXP: i32 = $max_exp;

            #[inline(always)]
            fn to_bits64(self) -> u64 {
                u64::from(self)
            }
            #[inline(always)]
            fn from_bits64(bits: u64) -> Self {
                bits as Self
            }
            #[inline(always)]
            fn host_add(self, other: Self) -> Self {
                (<$float>::from_bits(self) + <$float>::from_bits(other)).to_bits()
            }
            #[inline(always)]
            fn host_mul(self, other: Self) -> Self {
                (<$float>::from_bits(self) * <$float>::from_bits(other)).to_bits()
            }
            #[inline(always)]
            fn host_div(self, other: Self) -> Self {
                (<$float>::from_bits(self) / <$float>::from_bits(other)).to_bits()
            }
            #[inline(always)]
            fn host_sqrt(self) -> Self {
                <$float>::from_bits(self).sqrt().to_bits()
            }
            #[inline(always)]
            fn host_cmp(self, other: Self) -> Option<Ordering> {
                <$float>::from_bits(self).partial_cmp(&<$float>::from_bits(other))
            }
            #[inline(always)]
            fn sum_is_exact(self, other: Self, sum: Self) -> bool {
                // Knuth's TwoSum: the rounding error of the sum, exactly.
                let (a, b, sum) =
                    (<$float>::from_bits(self), <$float>::from_bits(other), <$float>::from_bits(sum));
                let b_part = sum - a;
                let a_part = sum - b_part;
                (a - a_part) + (b - b_part) == 0.0
            }
        }
    };
}

binary!(u32, f32, 24, 127);
binary!(u64, f64, 53, 1023);

/// Rounds to the format, with what FTZ and the masks say about results out of range. Where that is an
/// unmasked exception the result does not matter, since none is written.
pub(super) fn round<F: Binary>(value: Wide, env: &mut Env) -> F {
    let control = env.control();
    let rounding = control.rounding();
    let trap_tiny = control.flushes_to_zero() || control.unmasked() & exception::UNDERFLOW != 0;
    let rounded = value.round(F::TARGET, rounding, trap_tiny);
    env.raise(rounded.flags);
    if rounded.flags & exception::OVERFLOW != 0 {
        if control.unmasked() & exception::OVERFLOW == 0 {
            env.raise(exception::PRECISION);
        }
        // A mode that rounds toward zero on this side stops at the largest number.
        let to_infinity = rounding.away(value.negative, false, Ordering::Greater);
        let infinity = F::infinity(value.negative);
        return if to_infinity { infinity } else { F::from_bits64(infinity.to_bits64() - 1) };
    }
    if rounded.flags & exception::UNDERFLOW != 0 && trap_tiny {
        if control.flushes_to_zero() {
            env.raise(exception::PRECISION);
        }
        return F::zero(value.negative);
    }
    F::assemble(value.negative, rounded.exp, rounded.sig)
}

/// A zero that is the exact sum of numbers with opposite signs.
fn cancelled<F: Binary>(env: &Env) -> F {
    F::zero(env.control().rounding() == Rounding::Down)
}

/// The result of an operation with a NaN operand.
fn propagate<F: Binary>(a: F, b: F, env: &mut Env) -> F {
    if a.is_signaling() || b.is_signaling() {
        env.raise(exception::INVALID);
    }
    if a.is_nan() { a.quieted() } else { b.quieted() }
}

/// The result of an invalid operation on numbers.
pub(super) fn invalid<F: Binary>(env: &mut Env) -> F {
    env.raise(exception::INVALID);
    F::from_bits64(F::DEFAULT_NAN)
}

/// The operand as arithmetic sees it: under DAZ a denormal is a zero.
#[inline(always)]
pub(super) fn operand<F: Binary>(a: F, env: &Env) -> F {
    if env.control().denormals_are_zeros() && a.is_denormal() { F::zero(a.is_negative()) } else { a }
}

/// Raises DE if an operand is denormal. To be called after [`operand`], and after what takes precedence.
#[inline(always)]
pub(super) fn note_denormal<F: Binary>(a: F, env: &mut Env) {
    if a.is_denormal() {
        env.raise(exception::DENORMAL);
    }
}

/// `a` + `b`.
#[inline(always)]
pub fn add<F: Binary>(a: F, b: F, env: &mut Env) -> F {
    let sum = a.host_add(b);
    // Only opposite numbers have the sum zero.
    if env.host_rounds() && a.is_plain() && b.is_plain() && (sum.is_well_within() || sum.is_zero()) {
        if env.wants_precision() && !a.sum_is_exact(b, sum) {
            env.raise(exception::PRECISION);
        }
        return sum;
    }
    add_slow(a, b, env)
}

#[cold]
#[inline(never)]
fn add_slow<F: Binary>(a: F, b: F, env: &mut Env) -> F {
    if a.is_nan() || b.is_nan() {
        return propagate(a, b, env);
    }
    let (a, b) = (operand(a, env), operand(b, env));
    if a.is_infinite() && b.is_infinite() && a != b {
        return invalid(env);
    }
    note_denormal(a, env);
    note_denormal(b, env);
    if a.is_infinite() {
        return a;
    }
    if b.is_infinite() {
        return b;
    }
    match (a.is_zero(), b.is_zero()) {
        (true, true) if a == b => a,
        (true, true) => cancelled(env),
        (true, false) => round(b.unpack().widen(), env),
        (false, true) => round(a.unpack().widen(), env),
        (false, false) => match a.unpack().sum(b.unpack()) {
            Some(sum) => round(sum, env),
            None => cancelled(env),
        },
    }
}

/// `a` − `b`.
#[inline(always)]
pub fn sub<F: Binary>(a: F, b: F, env: &mut Env) -> F {
    // A NaN keeps its sign.
    if b.is_nan() { propagate(a, b, env) } else { add(a, b.negated(), env) }
}

/// `a` · `b`.
#[inline(always)]
pub fn mul<F: Binary>(a: F, b: F, env: &mut Env) -> F {
    let product = a.host_mul(b);
    // A zero product may also be an underflow.
    let in_range = product.is_well_within() || a.is_zero() || b.is_zero();
    if env.host_rounds() && a.is_plain() && b.is_plain() && in_range {
        if env.wants_precision() && !mul_is_exact(a, b) {
            env.raise(exception::PRECISION);
        }
        return product;
    }
    mul_slow(a, b, env)
}

/// Whether the product of two normal numbers, or zeros, fits the precision.
#[inline(always)]
fn mul_is_exact<F: Binary>(a: F, b: F) -> bool {
    let product = u128::from(a.odd_significand()) * u128::from(b.odd_significand());
    product >> F::PRECISION == 0
}

#[cold]
#[inline(never)]
fn mul_slow<F: Binary>(a: F, b: F, env: &mut Env) -> F {
    if a.is_nan() || b.is_nan() {
        return propagate(a, b, env);
    }
    let (a, b) = (operand(a, env), operand(b, env));
    let zero = a.is_zero() || b.is_zero();
    let infinite = a.is_infinite() || b.is_infinite();
    if zero && infinite {
        return invalid(env);
    }
    note_denormal(a, env);
    note_denormal(b, env);
    let negative = a.is_negative() != b.is_negative();
    if infinite {
        F::infinity(negative)
    } else if zero {
        F::zero(negative)
    } else {
        round(a.unpack().product(b.unpack()), env)
    }
}

/// `a` ÷ `b`.
#[inline(always)]
pub fn div<F: Binary>(a: F, b: F, env: &mut Env) -> F {
    let quotient = a.host_div(b);
    if env.host_rounds() && a.is_normal() && b.is_normal() && quotient.is_well_within() {
        if env.wants_precision() && !factors_are(quotient, b, a) {
            env.raise(exception::PRECISION);
        }
        return quotient;
    }
    div_slow(a, b, env)
}

/// Whether `a` · `b` is exactly `product`, given that it is to within half a unit of either's last place.
#[inline(always)]
fn factors_are<F: Binary>(a: F, b: F, product: F) -> bool {
    u128::from(a.odd_significand()) * u128::from(b.odd_significand()) == u128::from(product.odd_significand())
}

#[cold]
#[inline(never)]
fn div_slow<F: Binary>(a: F, b: F, env: &mut Env) -> F {
    if a.is_nan() || b.is_nan() {
        return propagate(a, b, env);
    }
    let (a, b) = (operand(a, env), operand(b, env));
    if a.is_zero() && b.is_zero() || a.is_infinite() && b.is_infinite() {
        return invalid(env);
    }
    let negative = a.is_negative() != b.is_negative();
    if b.is_zero() {
        if !a.is_infinite() {
            env.raise(exception::DIVIDE);
        }
        return F::infinity(negative);
    }
    note_denormal(a, env);
    note_denormal(b, env);
    if a.is_infinite() {
        F::infinity(negative)
    } else if a.is_zero() || b.is_infinite() {
        F::zero(negative)
    } else {
        round(a.unpack().quotient(b.unpack()), env)
    }
}

/// The square root of `a`.
#[inline(always)]
pub fn sqrt<F: Binary>(a: F, env: &mut Env) -> F {
    if env.host_rounds() && a.is_normal() && !a.is_negative() {
        let root = a.host_sqrt();
        if env.wants_precision() && !factors_are(root, root, a) {
            env.raise(exception::PRECISION);
        }
        return root;
    }
    sqrt_slow(a, env)
}

#[cold]
#[inline(never)]
fn sqrt_slow<F: Binary>(a: F, env: &mut Env) -> F {
    if a.is_nan() {
        return propagate(a, a, env);
    }
    let a = operand(a, env);
    if a.is_zero() {
        return a;
    }
    if a.is_negative() {
        return invalid(env);
    }
    note_denormal(a, env);
    if a.is_infinite() { a } else { round(a.unpack().root(), env) }
}

/// How `a` compares with `b`; `None` with a NaN. A signalling NaN raises IE, under `signal_quiet` so does a
/// quiet one.
#[inline(always)]
pub fn compare<F: Binary>(a: F, b: F, signal_quiet: bool, env: &mut Env) -> Option<Ordering> {
    if a.is_plain() && b.is_plain() {
        return a.host_cmp(b);
    }
    compare_slow(a, b, signal_quiet, env)
}

#[inline(never)]
fn compare_slow<F: Binary>(a: F, b: F, signal_quiet: bool, env: &mut Env) -> Option<Ordering> {
    if a.is_nan() || b.is_nan() {
        if signal_quiet || a.is_signaling() || b.is_signaling() {
            env.raise(exception::INVALID);
        }
        return None;
    }
    let (a, b) = (operand(a, env), operand(b, env));
    note_denormal(a, env);
    note_denormal(b, env);
    a.host_cmp(b)
}

/// CMPPS and its kin: whether the relation `predicate` (0 to 7: EQ, LT, LE, UNORD, NEQ, NLT, NLE, ORD) holds.
#[inline(always)]
pub fn relation<F: Binary>(a: F, b: F, predicate: u8, env: &mut Env) -> bool {
    let signal_quiet = matches!(predicate & 3, 1 | 2);
    let order = compare(a, b, signal_quiet, env);
    let holds = match predicate & 3 {
        0 => order == Some(Ordering::Equal),
        1 => order == Some(Ordering::Less),
        2 => matches!(order, Some(Ordering::Less | Ordering::Equal)),
        _ => order.is_none(),
    };
    holds != (predicate & 4 != 0)
}

/// COMISD and its kin: ZF, PF and CF in their places in EFLAGS.
#[inline(always)]
pub fn compare_flags<F: Binary>(a: F, b: F, signal_quiet: bool, env: &mut Env) -> u32 {
    const CF: u32 = 1;
    const PF: u32 = 1 << 2;
    const ZF: u32 = 1 << 6;
    match compare(a, b, signal_quiet, env) {
        Some(Ordering::Greater) => 0,
        Some(Ordering::Less) => CF,
        Some(Ordering::Equal) => ZF,
        None => ZF | PF | CF,
    }
}

/// MINSD and its kin: `b` unless `a` is less. A NaN or two zeros also give `b`.
#[inline(always)]
pub fn min<F: Binary>(a: F, b: F, env: &mut Env) -> F {
    select(a, b, Ordering::Less, env)
}

/// MAXSD and its kin: `b` unless `a` is greater. A NaN or two zeros also give `b`.
#[inline(always)]
pub fn max<F: Binary>(a: F, b: F, env: &mut Env) -> F {
    select(a, b, Ordering::Greater, env)
}

#[inline(always)]
fn select<F: Binary>(a: F, b: F, wanted: Ordering, env: &mut Env) -> F {
    let order = compare(a, b, true, env);
    operand(if order == Some(wanted) { a } else { b }, env)
}
