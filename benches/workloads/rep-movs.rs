//! REP MOVSB and REP STOSQ over a quarter of a megabyte.
#![cfg_attr(not(native), no_std, no_main)]
mod support;

use core::arch::asm;
use support::{Scratch, checksum};

workload!();

const LEN: usize = 1 << 18;
static FROM: Scratch<[u8; LEN]> = Scratch::new([0; LEN]);
static TO: Scratch<[u8; LEN]> = Scratch::new([0; LEN]);

fn run() -> u64 {
    let (from, to) = (FROM.take(), TO.take());
    for round in 0..core::hint::black_box(400u64) {
        // SAFETY: both buffers are LEN bytes long, and the direction flag is clear.
        unsafe {
            asm!("rep stosq", inout("rdi") from.as_mut_ptr() => _, inout("rcx") LEN / 8 => _, in("rax") round * 0x0101,
                options(nostack));
            asm!("rep movsb", inout("rsi") from.as_ptr() => _, inout("rdi") to.as_mut_ptr() => _,
                inout("rcx") LEN => _, options(nostack));
        }
    }
    checksum(to.iter().copied().take(4096))
}
