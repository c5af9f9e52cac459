//! CRC-32 by table, a byte at a time.
#![cfg_attr(not(native), no_std, no_main)]
mod support;

use support::{Random, Scratch};

workload!();

const LEN: usize = 1 << 18;
static DATA: Scratch<[u8; LEN]> = Scratch::new([0; LEN]);
static TABLE: Scratch<[u32; 256]> = Scratch::new([0; 256]);

fn run() -> u64 {
    let (data, table) = (DATA.take(), TABLE.take());
    for (i, entry) in table.iter_mut().enumerate() {
        *entry = (0..8).fold(i as u32, |c, _| if c & 1 != 0 { 0xedb8_8320 ^ c >> 1 } else { c >> 1 });
    }
    let mut random = Random(7);
    for byte in data.iter_mut() {
        *byte = random.next() as u8;
    }
    let mut crc = !0;
    for _ in 0..core::hint::black_box(80) {
        for &byte in data.iter() {
            crc = table[(crc as u8 ^ byte) as usize] ^ crc >> 8;
        }
    }
    u64::from(!crc)
}
