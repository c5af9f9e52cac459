//! The arithmetic of 80-bit numbers against Berkeley SoftFloat: where it reaches, which is every operation that IEEE 754 defines,
//! with exceptions masked. It knows no denormal-operand exception, and no encodings that the 387 does not support.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]
#![allow(unsafe_code, reason = "SoftFloat is C")]

#[allow(dead_code, reason = "shared between test programs")]
mod host;

use std::cmp::Ordering;
use std::fmt::Debug;

use host::Random;
use softfloat_sys as sf;
use squib_x86::fp::f80::{self, Class, ControlWord, Env, F80, Quotient};
use squib_x86::fp::{Rounding, exception};

const CASES: u32 = 20_000;

/// All of the control word's rounding and precision.
const CONTROLS: [u16; 12] =
    [0x37f, 0x77f, 0xb7f, 0xf7f, 0x27f, 0x67f, 0xa7f, 0xe7f, 0x07f, 0x47f, 0x87f, 0xc7f];

fn number(random: &mut Random) -> F80 {
    let sign = random.next() as u16 & 0x8000;
    let fraction = match random.below(5) {
        0 => 0,
        1 => random.next() << 40,
        2 => random.pick(&[1, u64::MAX, 1 << 62, 0x400, 0x80_0000_0000, 0x7ff, 0xff_ffff_ffff]),
        _ => random.next(),
    };
    let exponent = match random.below(8) {
        0 => random.next() as u16,
        1 => random
            .pick(&[0, 1, 2, 0x3f80, 0x3f81, 0x3f6a, 0x3c00, 0x3c01, 0x3bcd, 0x407e, 0x43fe, 0x7ffe, 0x7fff]),
        _ => 0x3fff - 70 + random.below(140) as u16,
    } & 0x7fff;
    let integer = if exponent == 0 { 0 } else { 1 << 63 };
    F80::new(sign | exponent, fraction & !(1 << 63) | integer)
}

fn theirs(a: F80) -> sf::extFloat80_t {
    sf::extFloat80_t { signExp: a.sign_exp, signif: a.sig }
}

fn ours(a: sf::extFloat80_t) -> F80 {
    F80::new(a.signExp, a.signif)
}

/// What SoftFloat gives under a control word, and the exceptions that it raises.
fn ask<T>(control: ControlWord, f: impl FnOnce() -> T) -> (T, u32) {
    let precision = match control.precision() {
        24 => 32,
        53 => 64,
        _ => 80,
    };
    // SAFETY: these set and read variables of the calling thread.
    unsafe {
        sf::softfloat_roundingMode_write_helper(mode(control));
        sf::softfloat_detectTininess_write_helper(1);
        sf::extF80_roundingPrecision_write_helper(precision);
        sf::softfloat_exceptionFlags_write_helper(0);
        let result = f();
        let raised = sf::softfloat_exceptionFlags_read_helper();
        let bits = [
            (1, exception::PRECISION),
            (2, exception::UNDERFLOW),
            (4, exception::OVERFLOW),
            (8, exception::DIVIDE),
            (16, exception::INVALID),
        ];
        (result, bits.into_iter().filter(|(bit, _)| raised & bit != 0).map(|(_, flag)| flag).sum())
    }
}

/// SoftFloat's number of a rounding mode.
fn mode(control: ControlWord) -> u8 {
    match control.rounding() {
        Rounding::Nearest => 0,
        Rounding::Zero => 1,
        Rounding::Down => 2,
        Rounding::Up => 3,
    }
}

/// Compares an operation of two numbers in every mode.
fn compare<T: PartialEq + Debug>(
    name: &str,
    mine: impl Fn(F80, F80, &mut Env) -> Option<T>,
    reference: impl Fn(F80, F80, ControlWord) -> T,
) {
    let mut random = Random(0x1234_5678_9abc_def1);
    let mut compared = 0;
    for case in 0..CASES {
        let control = ControlWord::from_bits(CONTROLS[case as usize % CONTROLS.len()]);
        let (a, b) = (number(&mut random), number(&mut random));
        let mut env = Env::new(control);
        let Some(result) = mine(a, b, &mut env) else { continue };
        let raised = env.raised() & !exception::DENORMAL;
        let expected = ask(control, || reference(a, b, control));
        assert_eq!(
            (result, raised),
            expected,
            "{name} of {a:x?} and {b:x?}, control word {:x}",
            control.bits()
        );
        compared += 1;
    }
    assert!(compared > CASES / 4, "{name}: {compared}");
}

type Function = fn(F80, F80, &mut Env) -> F80;
type Reference = unsafe extern "C" fn(sf::extFloat80_t, sf::extFloat80_t) -> sf::extFloat80_t;

#[test]
fn sums_products_quotients_and_roots() {
    let functions: [(&str, Function, Reference); 4] = [
        ("add", f80::add, sf::extF80_add),
        ("sub", f80::sub, sf::extF80_sub),
        ("mul", f80::mul, sf::extF80_mul),
        ("div", f80::div, sf::extF80_div),
    ];
    for (name, mine, reference) in functions {
        // SAFETY: a function of two numbers.
        compare(
            name,
            |a, b, env| Some(mine(a, b, env)),
            |a, b, _| ours(unsafe { reference(theirs(a), theirs(b)) }),
        );
    }
    // SAFETY: a function of a number.
    compare(
        "sqrt",
        |a, _, env| Some(f80::sqrt(a, env)),
        |a, _, _| ours(unsafe { sf::extF80_sqrt(theirs(a)) }),
    );
}

#[test]
fn remainders_as_ieee_754_has_them() {
    let mine = |a, b, env: &mut Env| {
        let remainder = f80::remainder(a, b, true, env);
        (remainder.quotient != Quotient::Partial).then_some(remainder.value)
    };
    // SAFETY: a function of two numbers.
    compare("rem", mine, |a, b, _| ours(unsafe { sf::extF80_rem(theirs(a), theirs(b)) }));
}

#[test]
fn integers() {
    let round = |a, _, env: &mut Env| Some(f80::round_to_int(a, env));
    // SAFETY: these are functions of numbers.
    unsafe {
        compare("rint", round, |a, _, c| ours(sf::extF80_roundToInt(theirs(a), mode(c), true)));
        compare(
            "fist 32",
            |a, _, env| Some(f80::to_int(a, 32, false, env) as i32),
            |a, _, c| sf::extF80_to_i32(theirs(a), mode(c), true) as i32,
        );
        compare(
            "fist 64",
            |a, _, env| Some(f80::to_int(a, 64, false, env) as i64),
            |a, _, c| sf::extF80_to_i64(theirs(a), mode(c), true) as i64,
        );
        compare(
            "fisttp 64",
            |a, _, env| Some(f80::to_int(a, 64, true, env) as i64),
            |a, _, _| sf::extF80_to_i64_r_minMag(theirs(a), true) as i64,
        );
        compare(
            "fild",
            |a, _, _| Some(f80::from_int(a.sig as i64)),
            |a, _, _| ours(sf::i64_to_extF80(a.sig as i64)),
        );
    }
}

#[test]
fn formats() {
    // SAFETY: these are functions of numbers.
    unsafe {
        compare("fst 32", |a, _, env| f80::to_float::<u32>(a, env), |a, _, _| sf::extF80_to_f32(theirs(a)).v);
        compare("fst 64", |a, _, env| f80::to_float::<u64>(a, env), |a, _, _| sf::extF80_to_f64(theirs(a)).v);
        compare(
            "fld 32",
            |a, _, env| Some(f80::quiet(f80::from_float(a.sig as u32), env)),
            |a, _, _| ours(sf::f32_to_extF80(sf::float32_t { v: a.sig as u32 })),
        );
        compare(
            "fld 64",
            |a, _, env| Some(f80::quiet(f80::from_float(a.sig), env)),
            |a, _, _| ours(sf::f64_to_extF80(sf::float64_t { v: a.sig })),
        );
    }
}

#[test]
fn order() {
    let near = |a: F80, b: F80| if b.sig & 1 == 0 { F80::new(a.sign_exp, a.sig ^ (b.sig >> 62)) } else { b };
    // SAFETY: these are functions of numbers.
    let of = |a: F80, b: F80| unsafe {
        let (a, b) = (theirs(a), theirs(b));
        match (sf::extF80_lt_quiet(a, b), sf::extF80_eq(a, b), sf::extF80_lt_quiet(b, a)) {
            (true, ..) => Some(Ordering::Less),
            (_, true, _) => Some(Ordering::Equal),
            (.., true) => Some(Ordering::Greater),
            _ => None,
        }
    };
    let supported = |x: F80| x.class() != Class::Unsupported;
    compare(
        "fucom",
        |a, b, env| supported(near(a, b)).then(|| f80::compare(a, near(a, b), true, env)),
        |a, b, _| of(a, near(a, b)),
    );
    compare(
        "fcom",
        |a, b, env| supported(near(a, b)).then(|| f80::compare(a, near(a, b), false, env)),
        // SAFETY: a function of two numbers.
        |a, b, _| unsafe {
            sf::extF80_lt(theirs(a), theirs(near(a, b)));
            of(a, near(a, b))
        },
    );
}
