//! A chain of pointers, each to another page: a translation miss at nearly every step.
#![cfg_attr(not(native), no_std, no_main)]
mod support;

use support::{Random, Scratch};

workload!();

const PAGES: usize = 8192;
const WORDS: usize = 512;
static MEMORY: Scratch<[[u64; WORDS]; PAGES]> = Scratch::new([[0; WORDS]; PAGES]);

fn run() -> u64 {
    let memory = MEMORY.take();
    // One cycle through all pages (Sattolo), each entry at another place in its page.
    let word = |page: usize| page * 97 % WORDS;
    for page in 0..PAGES {
        memory[page][word(page)] = page as u64;
    }
    let mut random = Random(0xdead_beef);
    for page in (1..PAGES).rev() {
        let other = (random.next() % page as u64) as usize;
        let next = memory[page][word(page)];
        memory[page][word(page)] = memory[other][word(other)];
        memory[other][word(other)] = next;
    }
    let (mut at, mut sum) = (0, 0u64);
    for _ in 0..core::hint::black_box(6_000_000) {
        at = memory[at][word(at)] as usize;
        sum = sum.wrapping_mul(5).wrapping_add(at as u64);
    }
    sum
}
