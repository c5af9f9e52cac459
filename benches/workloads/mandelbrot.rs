//! The Mandelbrot set in doubles.
#![cfg_attr(not(native), no_std, no_main)]
mod support;

use core::hint::black_box;

workload!();

fn run() -> u64 {
    let size = black_box(380u32);
    let mut sum = 0u64;
    for row in 0..size {
        let ci = f64::from(row) / f64::from(size) * 2.4 - 1.2;
        for column in 0..size {
            let cr = f64::from(column) / f64::from(size) * 2.8 - 2.1;
            let (mut r, mut i, mut count) = (0.0f64, 0.0f64, 0u64);
            while r * r + i * i <= 4.0 && count < 300 {
                (r, i) = (r * r - i * i + cr, 2.0 * r * i + ci);
                count += 1;
            }
            sum = sum.wrapping_mul(3).wrapping_add(count);
        }
    }
    sum
}
