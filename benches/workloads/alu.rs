//! Adds, rotates and exclusive-ors in registers.
#![cfg_attr(not(native), no_std, no_main)]
mod support;

use core::hint::black_box;

workload!();

fn run() -> u64 {
    let (mut a, mut b, mut c) = (black_box(1u64), black_box(2u64), black_box(3u64));
    for i in 0..black_box(20_000_000u64) {
        a = a.wrapping_add(b ^ i);
        b = b.rotate_left(7) ^ a;
        c = c.wrapping_sub(b) | 1;
        a ^= c >> 3;
    }
    a ^ b ^ c
}
