//! Numbers that matter: ends of ranges, special encodings, and what lies around them.

use crate::random::Random;

/// An integer.
pub fn integer(r: &mut Random) -> u64 {
    const EDGES: [u64; 14] = [
        0,
        1,
        2,
        u64::MAX,
        0x7f,
        0x80,
        0x7fff,
        0x8000,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_ffff,
        i64::MAX as u64,
        1 << 63,
        0x0f,
    ];
    match r.below(6) {
        0 => r.pick(&EDGES),
        1 => r.pick(&EDGES).wrapping_add(r.below(5)).wrapping_sub(2),
        2 => r.below(80),
        3 => r.next() >> r.below(64),
        4 => !(r.next() >> r.below(64)),
        _ => r.next(),
    }
}

/// A binary32 number.
fn single(r: &mut Random) -> u32 {
    const EDGES: [u32; 12] = [
        0,
        0x8000_0000,
        1,
        0x007f_ffff,
        0x0080_0000,
        0x3f80_0000,
        0x4f00_0000,
        0xcf00_0000,
        0x7f7f_ffff,
        0x7f80_0000,
        0x7fc0_1234,
        0xff80_0001,
    ];
    match r.below(4) {
        0 => r.pick(&EDGES),
        1 => r.next() as u32,
        2 => r.next() as u32 & 0x8ff0_0000 | 0x3800_0000,
        _ => (r.next() as u32 & 0x81ff_ffff) + 0x3f00_0000,
    }
}

/// A binary64 number.
fn double(r: &mut Random) -> u64 {
    const EDGES: [u64; 14] = [
        0,
        1 << 63,
        1,
        0x000f_ffff_ffff_ffff,
        0x0010_0000_0000_0000,
        0x3ff0_0000_0000_0000,
        0x380f_ffff_f000_0000,
        0x47ef_ffff_f000_0000,
        0x41df_ffff_ffff_ffff,
        0x43e0_0000_0000_0000,
        0x7fef_ffff_ffff_ffff,
        0x7ff0_0000_0000_0000,
        0x7ff8_0000_0000_1234,
        0xfff0_0000_0000_0001,
    ];
    match r.below(4) {
        0 => r.pick(&EDGES),
        1 => r.next(),
        2 => r.next() & 0x807f_e000_0000_0000 | 0x3fc0_0000_0000_0000,
        _ => (r.next() & 0x807f_ffff_ffff_ffff) + 0x3fb0_0000_0000_0000,
    }
}

/// A vector of integers or floating-point numbers.
pub fn vector(r: &mut Random) -> u128 {
    let mut half = |kind: u64| match kind {
        0 => u64::from(single(r)) | u64::from(single(r)) << 32,
        1 => double(r),
        _ => integer(r),
    };
    let kind = half(2) % 3;
    u128::from(half(kind)) | u128::from(half(kind)) << 64
}

/// An x87 register: sign and exponent above the significand.
pub fn extended(r: &mut Random) -> u128 {
    let significand = match r.below(4) {
        0 => 1 << 63,
        1 => r.next() & 0xffff_0000_0000_0000 | 1 << 63,
        2 => r.next() | 1 << 63,
        // Denormals, pseudo-denormals and unnormals too.
        _ => r.next() >> r.below(64),
    };
    let exponent = match r.below(5) {
        0 => r.pick(&[0, 1, 0x3c01, 0x3f81, 0x3ffe, 0x403e, 0x43fe, 0x7ffe, 0x7fff]),
        1 => r.below(0x8000),
        _ => 0x3ff0 + r.below(60),
    };
    u128::from(r.below(2) << 15 | exponent) << 64 | u128::from(significand)
}

/// Bytes that an operand in memory of `len` bytes could hold.
pub fn bytes(r: &mut Random, len: usize) -> Vec<u8> {
    let first = if len == 10 { extended(r) } else { vector(r) };
    let mut out = first.to_le_bytes().to_vec();
    while out.len() < len {
        out.extend(vector(r).to_le_bytes());
    }
    out.truncate(len);
    out
}
