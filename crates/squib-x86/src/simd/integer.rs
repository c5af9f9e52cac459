//! Integer vector operations that are more than one operation on each element.

use super::lanes::{Lane, join, map, split, zip};

/// Interleaves the low halves of `a` and `b`, or with `high` their high halves.
#[inline(always)]
pub(super) fn interleave<T: Lane>(a: u128, b: u128, high: bool) -> u128 {
    let (a, b) = (split::<T>(a), split::<T>(b));
    let (a, b) = (a.as_ref(), b.as_ref());
    let first = if high { a.len() / 2 } else { 0 };
    shuffle_with::<T>(|i| if i % 2 == 0 { a[first + i / 2] } else { b[first + i / 2] })
}

/// The elements that `pick` gives for each index.
#[inline(always)]
pub(super) fn shuffle_with<T: Lane>(mut pick: impl FnMut(usize) -> T) -> u128 {
    let mut all = split::<T>(0);
    for (i, element) in all.as_mut().iter_mut().enumerate() {
        *element = pick(i);
    }
    join(all)
}

/// The elements of `a` at the indices that `pick` gives. Indices wrap.
#[inline(always)]
pub(super) fn shuffle<T: Lane>(a: u128, pick: impl Fn(usize) -> usize) -> u128 {
    let a = split::<T>(a);
    let a = a.as_ref();
    shuffle_with::<T>(|i| a[pick(i) % a.len()])
}

/// Elements of `a` in the low half, of `b` in the high half, at the indices that `pick` gives.
#[inline(always)]
pub(super) fn shuffle_pair<T: Lane>(a: u128, b: u128, pick: impl Fn(usize) -> usize) -> u128 {
    let (a, b) = (split::<T>(a), split::<T>(b));
    let (a, b) = (a.as_ref(), b.as_ref());
    shuffle_with::<T>(|i| if i < a.len() / 2 { a[pick(i)] } else { b[pick(i)] })
}

/// The two-bit field `i` of a shuffle's immediate.
#[inline(always)]
pub(super) const fn field(imm: u8, i: usize) -> usize {
    (imm >> (2 * (i & 3)) & 3) as usize
}

/// Every element of `a`, then of `b`, made half as wide by `narrow`.
#[inline(always)]
pub(super) fn pack<W: Lane, N: Lane>(a: u128, b: u128, narrow: impl Fn(W) -> N) -> u128 {
    let (a, b) = (split::<W>(a), split::<W>(b));
    let (a, b) = (a.as_ref(), b.as_ref());
    shuffle_with::<N>(|i| narrow(if i < a.len() { a[i] } else { b[i - a.len()] }))
}

/// Every element of `a` made half as wide by `narrow`, in the low half; zeros above.
#[inline(always)]
pub(super) fn shrink<W: Lane, N: Lane>(a: u128, mut narrow: impl FnMut(W) -> N) -> u128 {
    let a = split::<W>(a);
    let a = a.as_ref();
    shuffle_with::<N>(|i| if i < a.len() { narrow(a[i]) } else { N::zeroed() })
}

/// Every low element of `a` made wider by `widen`.
#[inline(always)]
pub(super) fn extend<N: Lane, W: Lane>(a: u128, mut widen: impl FnMut(N) -> W) -> u128 {
    let a = split::<N>(a);
    let a = a.as_ref();
    shuffle_with::<W>(|i| widen(a[i]))
}

/// `f` of each pair of neighbours, in `a`, then in `b`.
#[inline(always)]
pub(super) fn horizontal<T: Lane>(a: u128, b: u128, mut f: impl FnMut(T, T) -> T) -> u128 {
    let (a, b) = (split::<T>(a), split::<T>(b));
    let (a, b) = (a.as_ref(), b.as_ref());
    let half = a.len() / 2;
    shuffle_with::<T>(|i| {
        let (from, i) = if i < half { (a, i) } else { (b, i - half) };
        f(from[2 * i], from[2 * i + 1])
    })
}

/// A shift count: 64 bits of the operand, where everything too large is alike.
#[inline(always)]
pub(super) const fn count(operand: u128) -> u32 {
    let count = operand as u64;
    if count > 255 { 255 } else { count as u32 }
}

/// PSLLDQ: by bytes.
#[inline(always)]
pub(super) const fn shift_bytes_left(a: u128, bytes: u128) -> u128 {
    let bytes = count(bytes);
    if bytes > 15 { 0 } else { a << (8 * bytes) }
}

/// PSRLDQ: by bytes.
#[inline(always)]
pub(super) const fn shift_bytes_right(a: u128, bytes: u128) -> u128 {
    let bytes = count(bytes);
    if bytes > 15 { 0 } else { a >> (8 * bytes) }
}

/// The sign bits of the elements, element 0 in bit 0.
#[inline(always)]
pub(super) fn signs<T: Lane>(a: u128) -> u128 {
    let bits = 8 * size_of::<T>();
    let lanes = 128 / bits;
    let mut signs = 0;
    for i in 0..lanes {
        signs |= (a >> (bits * (i + 1) - 1) & 1) << i;
    }
    signs
}

/// PMADDWD: products of 16-bit elements, neighbours added.
#[inline(always)]
pub(super) fn multiply_add_words(a: u128, b: u128) -> u128 {
    let (a, b) = (split::<i16>(a), split::<i16>(b));
    let product = |i: usize| i32::from(a[i]) * i32::from(b[i]);
    join::<[i32; 4]>(core::array::from_fn(|i| product(2 * i).wrapping_add(product(2 * i + 1))))
}

/// PMADDUBSW: products of unsigned bytes of `a` and signed bytes of `b`, neighbours added with saturation.
#[inline(always)]
pub(super) fn multiply_add_bytes(a: u128, b: u128) -> u128 {
    let (a, b) = (split::<u8>(a), split::<i8>(b));
    let product = |i: usize| i16::from(a[i]) * i16::from(b[i]);
    join::<[i16; 8]>(core::array::from_fn(|i| product(2 * i).saturating_add(product(2 * i + 1))))
}

/// PSADBW: sums of absolute differences of eight bytes each.
#[inline(always)]
pub(super) fn sum_of_differences(a: u128, b: u128) -> u128 {
    let difference = split::<u8>(zip(a, b, u8::abs_diff));
    let sum = |half: usize| difference[half * 8..half * 8 + 8].iter().map(|&d| u64::from(d)).sum::<u64>();
    join([sum(0), sum(1)])
}

/// MPSADBW: sums of absolute differences of four bytes of `b` with each of eight windows of `a`.
#[inline(always)]
pub(super) fn windowed_differences(a: u128, b: u128, imm: u8) -> u128 {
    let (a, b) = (split::<u8>(a), split::<u8>(b));
    let window = usize::from(imm >> 2 & 1) * 4;
    let block = usize::from(imm & 3) * 4;
    join::<[u16; 8]>(core::array::from_fn(|i| {
        (0..4).map(|j| u16::from(a[window + i + j].abs_diff(b[block + j]))).sum()
    }))
}

/// PMULHRSW of one element: the product's upper part, rounded.
#[inline(always)]
pub(super) const fn multiply_rounded(a: i16, b: i16) -> i16 {
    ((((a as i32 * b as i32) >> 14) + 1) >> 1) as i16
}

/// PSIGN of one element, given as its value and its selector's sign.
macro_rules! with_sign {
    ($a:expr, $b:expr) => {
        match $b.signum() {
            0 => 0,
            1 => $a,
            _ => $a.wrapping_neg(),
        }
    };
}
pub(super) use with_sign;

/// PSHUFB: bytes of `a` at the indices in `b`, below `bytes`; zero where bit 7 is set.
#[inline(always)]
pub(super) fn shuffle_bytes(a: u128, b: u128, bytes: u8) -> u128 {
    let table = split::<u8>(a);
    map(b, |i: u8| if i & 0x80 != 0 { 0 } else { table[usize::from(i & (bytes - 1) & 15)] })
}

/// PALIGNR: the bytes of `high`:`low`, of `bytes` each, from byte `imm` on.
#[inline(always)]
pub(super) fn align(high: u128, low: u128, imm: u8, bytes: u32) -> u128 {
    let imm = u32::from(imm);
    if imm < bytes {
        let part = if imm == 0 { 0 } else { high << (8 * (bytes - imm)) };
        low >> (8 * imm) | part
    } else if imm < 2 * bytes {
        high >> (8 * (imm - bytes))
    } else {
        0
    }
}

/// PHMINPOSUW: the least 16-bit element and, above it, its index.
#[inline(always)]
pub(super) fn min_position(a: u128) -> u128 {
    let mut least = (u16::MAX, 0);
    for (i, &word) in split::<u16>(a).iter().enumerate().rev() {
        if word <= least.0 {
            least = (word, i);
        }
    }
    u128::from(least.0) | (least.1 as u128) << 16
}

/// `a` with the element of type `T` at `index` replaced by the low bits of `value`. Indices wrap.
#[inline(always)]
pub(super) fn insert<T: Lane>(a: u128, value: u128, index: u8) -> u128 {
    let bits = 8 * size_of::<T>();
    let shift = usize::from(index) * bits % 128;
    let ones = u128::MAX >> (128 - bits);
    a & !(ones << shift) | (value & ones) << shift
}

/// The element of type `T` at `index`, zero-extended. Indices wrap.
#[inline(always)]
pub(super) fn extract<T: Lane>(a: u128, index: u8) -> u128 {
    let bits = 8 * size_of::<T>();
    a >> (usize::from(index) * bits % 128) & (u128::MAX >> (128 - bits))
}

/// `b`'s elements where `choose` says so, else `a`'s.
#[inline(always)]
pub(super) fn blend<T: Lane>(a: u128, b: u128, choose: impl Fn(usize) -> bool) -> u128 {
    let (a, b) = (split::<T>(a), split::<T>(b));
    shuffle_with::<T>(|i| if choose(i) { b.as_ref()[i] } else { a.as_ref()[i] })
}
