//! Floating-point vector operations that are more than one operation on each element.

use super::integer::{blend, extract, insert, shuffle, shuffle_with};
use super::lanes::{Lane, split, zip};
use crate::fp::mxcsr::Env;
use crate::fp::sse::{self, Binary};
use crate::fp::{Rounding, convert};

/// ADDSUBPS: even elements subtracted, odd ones added.
#[inline(always)]
pub(super) fn add_sub<T: Lane + Binary>(a: u128, b: u128, env: &mut Env) -> u128 {
    let (a, b) = (split::<T>(a), split::<T>(b));
    let (a, b) = (a.as_ref(), b.as_ref());
    shuffle_with::<T>(|i| if i % 2 == 0 { sse::sub(a[i], b[i], env) } else { sse::add(a[i], b[i], env) })
}

/// DPPS: the products that the immediate's upper half selects, added up; the sum goes where its lower half
/// says.
#[inline(always)]
pub(super) fn dot_product_single(a: u128, b: u128, imm: u8, env: &mut Env) -> u128 {
    let products = selected_products::<u32>(a, b, imm, env);
    // The order of operands decides which of two NaNs is the result. It is the one found on the processors.
    dot_step(env, products)
        .and_then(|products| {
            let pairs = zip(shuffle::<u32>(products, |i| i ^ 1), products, |a: u32, b| sse::add(a, b, env));
            dot_step(env, pairs)
        })
        .map_or(0, |pairs| {
            let sum = zip(pairs, shuffle::<u32>(pairs, |i| i ^ 2), |a: u32, b| sse::add(a, b, env));
            blend::<u32>(0, sum, |i| imm >> i & 1 != 0)
        })
}

/// DPPD, like [`dot_product_single`].
#[inline(always)]
pub(super) fn dot_product_double(a: u128, b: u128, imm: u8, env: &mut Env) -> u128 {
    let products = selected_products::<u64>(a, b, imm, env);
    dot_step(env, products).map_or(0, |products| {
        let sum = zip(products, shuffle::<u64>(products, |i| i ^ 1), |a: u64, b| sse::add(a, b, env));
        blend::<u64>(0, sum, |i| imm >> i & 1 != 0)
    })
}

fn dot_step(env: &mut Env, result: u128) -> Option<u128> {
    env.next_step().ok().map(|()| result)
}

#[inline(always)]
fn selected_products<T: Lane + Binary>(a: u128, b: u128, imm: u8, env: &mut Env) -> u128 {
    let (a, b) = (split::<T>(a), split::<T>(b));
    let (a, b) = (a.as_ref(), b.as_ref());
    shuffle_with::<T>(|i| if imm >> (4 + i) & 1 != 0 { sse::mul(a[i], b[i], env) } else { T::zero(false) })
}

/// ROUNDPS of one element: the immediate gives the mode (or MXCSR's), and whether PE stays quiet.
#[inline(always)]
pub(super) fn rounded<T: Binary>(a: T, imm: u8, env: &mut Env) -> T {
    let rounding = if imm & 4 != 0 { env.control().rounding() } else { Rounding::from_bits(imm.into()) };
    convert::round_to_int(a, rounding, imm & 8 != 0, env)
}

/// INSERTPS: an element of `b` into `a`, then zeros where the immediate's low bits say.
#[inline(always)]
pub(super) fn insert_single(a: u128, b: u128, imm: u8) -> u128 {
    let inserted = insert::<u32>(a, extract::<u32>(b, imm >> 6), imm >> 4 & 3);
    let inserted = split::<u32>(inserted);
    shuffle_with::<u32>(|i| if imm >> i & 1 != 0 { 0 } else { inserted[i] })
}
