//! A copy through 16-byte registers.
#![cfg_attr(not(native), no_std, no_main)]
mod support;

use core::arch::x86_64::{__m128i, _mm_add_epi32, _mm_loadu_si128, _mm_set1_epi32, _mm_storeu_si128};
use support::{Scratch, checksum};

workload!();

const LEN: usize = 1 << 18;
static FROM: Scratch<[u8; LEN]> = Scratch::new([0; LEN]);
static TO: Scratch<[u8; LEN]> = Scratch::new([0; LEN]);

fn run() -> u64 {
    let (from, to) = (FROM.take(), TO.take());
    for round in 0..core::hint::black_box(1200) {
        for (f, t) in from.chunks_exact(16).zip(to.chunks_exact_mut(16)) {
            // SAFETY: both are 16 bytes long, alignment is not asked for, and SSE2 is part of x86-64.
            unsafe {
                let v = _mm_loadu_si128(f.as_ptr().cast::<__m128i>());
                _mm_storeu_si128(t.as_mut_ptr().cast::<__m128i>(), _mm_add_epi32(v, _mm_set1_epi32(round)));
            }
        }
        core::mem::swap(&mut from[0], &mut to[LEN - 1]);
    }
    checksum(to.iter().copied().take(4096))
}
