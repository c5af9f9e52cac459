//! Fibonacci by two calls: call, return and the stack.
#![cfg_attr(not(native), no_std, no_main)]
mod support;

use core::hint::black_box;

workload!();

#[inline(never)]
fn fib(n: u64) -> u64 {
    if n < 2 { n } else { fib(black_box(n - 1)) + fib(black_box(n - 2)) }
}

fn run() -> u64 {
    fib(black_box(34))
}
