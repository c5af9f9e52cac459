//! The sieve of Eratosthenes over bytes.
#![cfg_attr(not(native), no_std, no_main)]
mod support;

use support::Scratch;

workload!();

const LIMIT: usize = 2_000_000;
static COMPOSITE: Scratch<[bool; LIMIT]> = Scratch::new([false; LIMIT]);

fn run() -> u64 {
    let composite = COMPOSITE.take();
    let mut primes = 0;
    for _ in 0..core::hint::black_box(6) {
        for c in composite.iter_mut() {
            *c = false;
        }
        for i in 2..LIMIT {
            if composite[i] {
                continue;
            }
            primes += 1;
            let mut multiple = i * i;
            while multiple < LIMIT {
                composite[multiple] = true;
                multiple += i;
            }
        }
    }
    primes
}
