//! Planets in doubles: multiplication, division and square roots.
#![cfg_attr(not(native), no_std, no_main)]
mod support;

use core::arch::x86_64::{_mm_cvtsd_f64, _mm_set_sd, _mm_sqrt_pd};
use core::hint::black_box;

workload!();

struct Body {
    position: [f64; 3],
    velocity: [f64; 3],
    mass: f64,
}

fn square_root(x: f64) -> f64 {
    // SAFETY: SSE2 is part of x86-64.
    unsafe { _mm_cvtsd_f64(_mm_sqrt_pd(_mm_set_sd(x))) }
}

fn step(bodies: &mut [Body; 5], dt: f64) {
    for i in 0..bodies.len() {
        let (left, right) = bodies.split_at_mut(i + 1);
        let a = &mut left[i];
        for b in right {
            let d: [f64; 3] = core::array::from_fn(|k| a.position[k] - b.position[k]);
            let square = d[0] * d[0] + d[1] * d[1] + d[2] * d[2];
            let pull = dt / (square * square_root(square));
            for k in 0..3 {
                a.velocity[k] -= d[k] * b.mass * pull;
                b.velocity[k] += d[k] * a.mass * pull;
            }
        }
    }
    for body in bodies {
        for k in 0..3 {
            body.position[k] += dt * body.velocity[k];
        }
    }
}

fn run() -> u64 {
    // A made-up system: a heavy sun and four planets on nearly round orbits.
    let mut bodies = core::array::from_fn(|i| {
        let distance = i as f64 * 2.5;
        let speed = if i == 0 { 0.0 } else { square_root(40.0 / distance) };
        Body {
            position: [distance, 0.1 * i as f64, -0.2 * i as f64],
            velocity: [0.0, speed, 0.01 * i as f64],
            mass: if i == 0 { 40.0 } else { 0.01 * i as f64 },
        }
    });
    for _ in 0..black_box(400_000) {
        step(&mut bodies, 0.001);
    }
    bodies.iter().flat_map(|b| b.position).fold(0, |sum, x| sum.rotate_left(5) ^ x.to_bits())
}
