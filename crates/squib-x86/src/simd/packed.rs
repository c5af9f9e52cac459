//! Operations on all elements of a register at once, as one number of 128 bits.
//!
//! They are those that string functions and compilers use most. What the compiler makes of sixteen separate
//! elements is several times slower, since it takes a 128-bit operand for two integers.

/// The highest bit of each element of `bits` bits.
const fn high(bits: u32) -> u128 {
    (u128::MAX / ((1 << bits) - 1)) << (bits - 1)
}

/// All ones in each element whose highest bit is set in `flags`, which has no other bits.
#[inline(always)]
const fn spread(flags: u128, bits: u32) -> u128 {
    (flags << 1).wrapping_sub(flags >> (bits - 1))
}

/// Sums of elements of `BITS` bits. No carry leaves an element, since the highest bits are added apart.
#[inline(always)]
pub(super) const fn add<const BITS: u32>(a: u128, b: u128) -> u128 {
    let high = const { high(BITS) };
    ((a & !high) + (b & !high)) ^ ((a ^ b) & high)
}

/// Differences of elements of `BITS` bits.
#[inline(always)]
pub(super) const fn sub<const BITS: u32>(a: u128, b: u128) -> u128 {
    let high = const { high(BITS) };
    ((a | high) - (b & !high)) ^ ((a ^ !b) & high)
}

/// All ones in the elements of `BITS` bits that are equal.
#[inline(always)]
pub(super) const fn equal<const BITS: u32>(a: u128, b: u128) -> u128 {
    let high = const { high(BITS) };
    let different = a ^ b;
    // The sum carries into the highest bit unless the bits below are all clear.
    let nonzero = ((different & !high) + !high) | different;
    spread(!nonzero & high, BITS)
}

/// All ones in the elements of `BITS` bits that are less in `a`, as unsigned numbers.
#[inline(always)]
pub(super) const fn below<const BITS: u32>(a: u128, b: u128) -> u128 {
    let high = const { high(BITS) };
    let borrow = (!a & b) | ((!a | b) & sub::<BITS>(a, b));
    spread(borrow & high, BITS)
}

/// All ones in the elements of `BITS` bits that are less in `a`, as signed numbers.
#[inline(always)]
pub(super) const fn less<const BITS: u32>(a: u128, b: u128) -> u128 {
    let high = const { high(BITS) };
    below::<BITS>(a ^ high, b ^ high)
}

/// `a` where `mask` is set, else `b`.
#[inline(always)]
pub(super) const fn select(mask: u128, a: u128, b: u128) -> u128 {
    b ^ ((a ^ b) & mask)
}

/// The sign bits of the bytes, byte 0 in bit 0.
#[inline(always)]
pub(super) const fn byte_signs(a: u128) -> u128 {
    const HIGH: u64 = high(8) as u64;
    // The product gathers the eight bits, 7 apart, in its highest byte.
    const GATHER: u64 = 0x0002_0408_1020_4081;
    let low = (a as u64 & HIGH).wrapping_mul(GATHER) >> 56;
    let high = ((a >> 64) as u64 & HIGH).wrapping_mul(GATHER) >> 56;
    (low | high << 8) as u128
}
