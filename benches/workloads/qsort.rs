//! Quicksort of random numbers.
#![cfg_attr(not(native), no_std, no_main)]
mod support;

use support::{Random, Scratch};

workload!();

const LEN: usize = 200_000;
static NUMBERS: Scratch<[u32; LEN]> = Scratch::new([0; LEN]);

fn sort(v: &mut [u32]) {
    if v.len() <= 1 {
        return;
    }
    let pivot = v[v.len() / 2];
    let (mut low, mut high) = (0, v.len() - 1);
    loop {
        while v[low] < pivot {
            low += 1;
        }
        while v[high] > pivot {
            high -= 1;
        }
        if low >= high {
            break;
        }
        v.swap(low, high);
        low += 1;
        high -= 1;
    }
    let (left, right) = v.split_at_mut(low);
    sort(left);
    sort(right);
}

fn run() -> u64 {
    let numbers = NUMBERS.take();
    let mut random = Random(0x1234_5678_9abc_def1);
    let mut sum = 0;
    for _ in 0..core::hint::black_box(5) {
        for n in numbers.iter_mut() {
            *n = random.next() as u32;
        }
        sort(numbers);
        assert!(numbers.is_sorted());
        sum = sum ^ u64::from(numbers[LEN / 2]) << 8;
    }
    sum
}
