//! AES, carry-less multiplication and SHA (Intel SDM vol. 2; FIPS 197 and 180-4).
//!
//! The S-boxes are tables that the guest's data indexes: like all that an interpreter does, these take a time that
//! depends on the data.

use super::integer::shuffle;
use super::lanes::{join, map, split};

/// Twice a number of GF(2^8).
const fn double(x: u8) -> u8 {
    x << 1 ^ if x & 0x80 != 0 { 0x1b } else { 0 }
}

/// The S-box (FIPS 197, 5.1.1): the inverse in GF(2^8) under an affine map.
const SUBSTITUTES: [u8; 256] = {
    let mut table = [0; 256];
    let (mut x, mut inverse) = (1u8, 1u8);
    let mut i = 0;
    // 3 generates all numbers but 0: as `x` is multiplied by it, its inverse is divided.
    while i < 255 {
        x ^= double(x);
        inverse ^= inverse << 1;
        inverse ^= inverse << 2;
        inverse ^= inverse << 4;
        inverse ^= if inverse & 0x80 != 0 { 9 } else { 0 };
        let once = inverse.rotate_left(1);
        let twice = inverse.rotate_left(2);
        table[x as usize] = 0x63 ^ inverse ^ once ^ twice ^ inverse.rotate_left(3) ^ inverse.rotate_left(4);
        i += 1;
    }
    table[0] = 0x63;
    table
};

const INVERSE_SUBSTITUTES: [u8; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        table[SUBSTITUTES[i] as usize] = i as u8;
        i += 1;
    }
    table
};

/// Each byte doubled in GF(2^8).
const fn double_all(s: u128) -> u128 {
    const ONES: u128 = u128::MAX / 255;
    const LOW_BITS: u128 = ONES * 0x7f;
    ((s & LOW_BITS) << 1) ^ ((s >> 7 & ONES) * 0x1b)
}

/// Each column with its bytes moved up by `rows`.
fn rotate_columns(s: u128, rows: u32) -> u128 {
    map(s, |column: u32| column.rotate_right(8 * rows))
}

fn mix_columns(s: u128) -> u128 {
    let doubled = double_all(s);
    doubled ^ rotate_columns(doubled ^ s, 1) ^ rotate_columns(s, 2) ^ rotate_columns(s, 3)
}

/// InvMixColumns of AESIMC.
pub(super) fn unmix_columns(s: u128) -> u128 {
    // Its polynomial is that of `mix_columns` times 4x² + 5.
    mix_columns(s ^ double_all(double_all(s ^ rotate_columns(s, 2))))
}

fn shift_rows_and_substitute(s: u128) -> u128 {
    let shifted = shuffle::<u8>(s, |i| (i + 4 * (i % 4)) % 16);
    map(shifted, |b: u8| SUBSTITUTES[usize::from(b)])
}

fn unshift_rows_and_substitute(s: u128) -> u128 {
    let shifted = shuffle::<u8>(s, |i| (i + 12 * (i % 4)) % 16);
    map(shifted, |b: u8| INVERSE_SUBSTITUTES[usize::from(b)])
}

/// AESENC.
pub(super) fn encrypt(state: u128, key: u128) -> u128 {
    mix_columns(shift_rows_and_substitute(state)) ^ key
}

/// AESENCLAST.
pub(super) fn encrypt_last(state: u128, key: u128) -> u128 {
    shift_rows_and_substitute(state) ^ key
}

/// AESDEC.
pub(super) fn decrypt(state: u128, key: u128) -> u128 {
    unmix_columns(unshift_rows_and_substitute(state)) ^ key
}

/// AESDECLAST.
pub(super) fn decrypt_last(state: u128, key: u128) -> u128 {
    unshift_rows_and_substitute(state) ^ key
}

/// AESKEYGENASSIST, with round constant `imm`.
pub(super) fn expand_key(key: u128, imm: u8) -> u128 {
    let substituted = map(key, |b: u8| SUBSTITUTES[usize::from(b)]);
    let [_, x1, _, x3] = split::<u32>(substituted);
    let rotated = |x: u32| x.rotate_right(8) ^ u32::from(imm);
    join([x1, rotated(x1), x3, rotated(x3)])
}

/// PCLMULQDQ: the carry-less product of the halves that the immediate selects.
pub(super) fn multiply_carryless(a: u128, b: u128, imm: u8) -> u128 {
    let a = split::<u64>(a)[usize::from(imm & 1)];
    let b = split::<u64>(b)[usize::from(imm >> 4 & 1)];
    // Four bits of `b` at a time.
    let mut multiples = [0; 16];
    for i in 1..16 {
        multiples[i] = multiples[i / 2] << 1 ^ if i % 2 != 0 { u128::from(a) } else { 0 };
    }
    (0..16).rev().fold(0, |product, i| product << 4 ^ multiples[(b >> (4 * i) & 15) as usize])
}

const fn choose(x: u32, y: u32, z: u32) -> u32 {
    x & y ^ !x & z
}

const fn parity(x: u32, y: u32, z: u32) -> u32 {
    x ^ y ^ z
}

const fn majority(x: u32, y: u32, z: u32) -> u32 {
    x & y ^ x & z ^ y & z
}

/// SHA1RNDS4: four rounds on A, B, C, D (A in the highest element), and message words to the first of which E has
/// been added.
pub(super) fn sha1_rounds(state: u128, words: u128, imm: u8) -> u128 {
    let (f, constant): (fn(u32, u32, u32) -> u32, u32) = match imm & 3 {
        0 => (choose, 0x5a82_7999),
        1 => (parity, 0x6ed9_eba1),
        2 => (majority, 0x8f1b_bcdc),
        _ => (parity, 0xca62_c1d6),
    };
    let [mut d, mut c, mut b, mut a] = split::<u32>(state);
    let mut e = 0;
    for word in split::<u32>(words).into_iter().rev() {
        let sum = [f(b, c, d), a.rotate_left(5), word, e, constant].into_iter().fold(0, u32::wrapping_add);
        (a, b, c, d, e) = (sum, a, b.rotate_left(30), c, d);
    }
    join([d, c, b, a])
}

/// SHA1NEXTE: E of the next four rounds, from A of these, added to their first word.
pub(super) fn sha1_next_e(state: u128, words: u128) -> u128 {
    let [.., a] = split::<u32>(state);
    let [w3, w2, w1, w0] = split::<u32>(words);
    join([w3, w2, w1, w0.wrapping_add(a.rotate_left(30))])
}

/// SHA1MSG1.
pub(super) const fn sha1_message1(a: u128, b: u128) -> u128 {
    a ^ (a << 64 | b >> 64)
}

/// SHA1MSG2.
pub(super) fn sha1_message2(a: u128, b: u128) -> u128 {
    let [a3, a2, a1, a0] = split::<u32>(a);
    let [w15, w14, w13, _] = split::<u32>(b);
    let w16 = (a0 ^ w13).rotate_left(1);
    join([(a3 ^ w16).rotate_left(1), (a2 ^ w15).rotate_left(1), (a1 ^ w14).rotate_left(1), w16])
}

/// SHA256RNDS2: two rounds. `cdgh` and `abef` hold the variables that they are named for, the first in the highest
/// element; the result is the new `abef`. The low half of `words` has the words with their constants added.
pub fn sha256_rounds(cdgh: u128, abef: u128, words: u128) -> u128 {
    let [mut f, mut e, mut b, mut a] = split::<u32>(abef);
    let [mut h, mut g, mut d, mut c] = split::<u32>(cdgh);
    let [first, second, ..] = split::<u32>(words);
    for word in [first, second] {
        let sum1 = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
        let sum0 = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
        let t1 = [h, sum1, choose(e, f, g), word].into_iter().fold(0, u32::wrapping_add);
        let t2 = sum0.wrapping_add(majority(a, b, c));
        (a, b, c, d, e, f, g, h) = (t1.wrapping_add(t2), a, b, c, d.wrapping_add(t1), e, f, g);
    }
    join([f, e, b, a])
}

/// SHA256MSG1.
pub(super) fn sha256_message1(a: u128, b: u128) -> u128 {
    let sigma0 = |x: u32| x.rotate_right(7) ^ x.rotate_right(18) ^ x >> 3;
    let ([w0, w1, w2, w3], [w4, ..]) = (split::<u32>(a), split::<u32>(b));
    join([(w0, w1), (w1, w2), (w2, w3), (w3, w4)].map(|(w, next)| w.wrapping_add(sigma0(next))))
}

/// SHA256MSG2.
pub(super) fn sha256_message2(a: u128, b: u128) -> u128 {
    let sigma1 = |x: u32| x.rotate_right(17) ^ x.rotate_right(19) ^ x >> 10;
    let ([a0, a1, a2, a3], [.., w14, w15]) = (split::<u32>(a), split::<u32>(b));
    let (w16, w17) = (a0.wrapping_add(sigma1(w14)), a1.wrapping_add(sigma1(w15)));
    join([w16, w17, a2.wrapping_add(sigma1(w16)), a3.wrapping_add(sigma1(w17))])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 197, appendix B: the second round's start is the first round of the first one's.
    #[test]
    fn a_round_of_the_standards_example() {
        let bytes = |text: &str| u128::from_str_radix(text, 16).unwrap().swap_bytes();
        let start = bytes("193de3bea0f4e22b9ac68d2ae9f84808");
        let key = bytes("a0fafe1788542cb123a339392a6c7605");
        let next = bytes("a49c7ff2689f352b6b5bea43026a5049");
        assert_eq!(encrypt(start, key), next);
        assert_eq!(decrypt_last(encrypt_last(start, 0), 0), start);
        assert_eq!(unmix_columns(mix_columns(start)), start);
        assert_eq!(decrypt(encrypt_last(start, 0), key), unmix_columns(start) ^ key);
    }

    /// FIPS 180-4's initial values and the first two words of the message "abc" give the known variables.
    #[test]
    fn rounds_of_the_standards_example() {
        let abef = 0x6a09_e667_bb67_ae85_510e_527f_9b05_688c;
        let cdgh = 0x3c6e_f372_a54f_f53a_1f83_d9ab_5be0_cd19;
        let words = u128::from(0x6162_6380u32.wrapping_add(0x428a_2f98)) | 0x7137_4491 << 32;
        assert_eq!(sha256_rounds(cdgh, abef, words), 0x5a6a_d9ad_5d6a_ebcd_78ce_7989_fa2a_4622);
    }

    #[test]
    fn products_without_carries() {
        assert_eq!(multiply_carryless(3, 3, 0), 5);
        assert_eq!(multiply_carryless(u64::MAX.into(), 1 << 64 | 2, 0), u128::from(u64::MAX) << 1);
        assert_eq!(multiply_carryless(1 << 127, 1 << 127, 0x11), 1 << 126);
    }
}
