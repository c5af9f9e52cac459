//! Records, short strings and small procedures, in the proportions of classic system code.
#![cfg_attr(not(native), no_std, no_main)]
mod support;

use core::hint::black_box;

workload!();

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    First,
    Second,
    Third,
}

#[derive(Clone, Copy)]
struct Record {
    next: usize,
    kind: Kind,
    number: i32,
    text: [u8; 30],
}

const TEXT: [u8; 30] = *b"A TEXT OF THIRTY CHARACTERS, 1";

#[inline(never)]
fn follow(records: &mut [Record; 2], at: usize, number: &mut i32) {
    let next = records[at].next;
    records[next] = records[at];
    records[next].number = *number + 5;
    if records[next].kind == Kind::First {
        records[next].number = 6;
        records[next].kind = choose(records[at].kind);
        *number = add(records[next].number, 10);
    } else {
        records[at] = records[next];
    }
}

#[inline(never)]
fn choose(kind: Kind) -> Kind {
    match kind {
        Kind::First => Kind::Second,
        Kind::Second => Kind::Third,
        Kind::Third => Kind::First,
    }
}

#[inline(never)]
fn add(a: i32, b: i32) -> i32 {
    a.wrapping_add(2).wrapping_add(b)
}

#[inline(never)]
fn compare(a: &[u8; 30], b: &[u8; 30]) -> bool {
    let mut at = 0;
    while at < 30 && a[at] == b[at] {
        at += 1;
    }
    at < 30 && a[at] > b[at]
}

#[inline(never)]
fn fill(array: &mut [[i32; 50]; 50], flat: &mut [i32; 50], i: usize, value: i32) {
    let at = (i + 5) % 45;
    flat[at] = value;
    flat[at + 1] = flat[at];
    for j in at..at + 2 {
        array[at][j] = at as i32;
    }
    array[at][at.saturating_sub(1)] += 1;
    array[at + 4][at] = flat[at];
}

fn run() -> u64 {
    let mut records = [Record { next: 1, kind: Kind::First, number: 40, text: TEXT }; 2];
    records[1].next = 0;
    let (mut array, mut flat) = ([[0; 50]; 50], [0; 50]);
    let mut other = TEXT;
    let (mut number, mut sum) = (3, 0u64);
    for i in 0..black_box(2_000_000usize) {
        other[29] = b'0' + (i % 3) as u8;
        if compare(black_box(&records[0].text), &other) {
            number = add(number, 1);
        }
        fill(&mut array, &mut flat, i, number & 0xff);
        follow(&mut records, i & 1, &mut number);
        records[0].kind = choose(records[1].kind);
        (records[0].next, records[1].next) = (1, 0);
        number = number.wrapping_mul(7) / 3 % 1000;
        sum = sum.wrapping_mul(31).wrapping_add(number as u64 ^ records[0].number as u64);
    }
    sum ^ flat[7] as u64 ^ array[9][5] as u64
}
