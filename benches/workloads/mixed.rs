//! A hash table, decimal printing and parsing, divisions: ordinary integer code.
#![cfg_attr(not(native), no_std, no_main)]
mod support;

use support::{Random, Scratch};

workload!();

const SLOTS: usize = 1 << 16;
static TABLE: Scratch<[(u64, u64); SLOTS]> = Scratch::new([(0, 0); SLOTS]);

fn slot(table: &[(u64, u64)], key: u64) -> usize {
    let mut at = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as usize;
    while table[at].0 != 0 && table[at].0 != key {
        at = (at + 1) % SLOTS;
    }
    at
}

fn print(mut n: u64, text: &mut [u8; 20]) -> usize {
    let mut at = text.len();
    loop {
        at -= 1;
        text[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            return at;
        }
    }
}

fn parse(text: &[u8]) -> u64 {
    text.iter().fold(0, |n: u64, b| n.wrapping_mul(10).wrapping_add(u64::from(b - b'0')))
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

fn run() -> u64 {
    let table = TABLE.take();
    let mut random = Random(88_172_645_463_325_252);
    let (mut sum, mut text) = (0u64, [0; 20]);
    for i in 0..core::hint::black_box(400_000u64) {
        let key = random.next() % 40_000 + 1;
        let at = slot(table, key);
        table[at].0 = key;
        table[at].1 = table[at].1.wrapping_add(i);
        let start = print(table[at].1, &mut text);
        sum = sum.wrapping_add(parse(&text[start..]) ^ gcd(key, i | 1));
    }
    sum
}
