//! A 128-bit register as an array of elements, lowest first.

use bytemuck::{Pod, cast};

const _: () = assert!(cfg!(target_endian = "little"), "element 0 must be the low bits");

/// An element type.
pub(super) trait Lane: Pod {
    /// All elements of a register.
    type All: Pod + AsRef<[Self]> + AsMut<[Self]>;

    /// Every bit set.
    const ONES: Self;

    /// The elements with `f` applied to each pair.
    fn zip(a: Self::All, b: Self::All, f: impl FnMut(Self, Self) -> Self) -> Self::All;
}

macro_rules! lane {
    ($($lane:ty: $count:literal),*) => {$(
        impl Lane for $lane {
            type All = [$lane; $count];
            const ONES: Self = !0;

            #[inline(always)]
            fn zip(a: Self::All, b: Self::All, mut f: impl FnMut(Self, Self) -> Self) -> Self::All {
                core::array::from_fn(|i| f(a[i], b[i]))
            }
        }
    )*};
}

lane!(u8: 16, i8: 16, u16: 8, i16: 8, u32: 4, i32: 4, u64: 2, i64: 2);

/// The elements of a register.
#[inline(always)]
pub(super) fn split<T: Lane>(value: u128) -> T::All {
    cast(value)
}

/// The register with these elements.
#[inline(always)]
pub(super) fn join<T: Pod>(elements: T) -> u128 {
    cast(elements)
}

/// `f` of each pair of elements.
#[inline(always)]
pub(super) fn zip<T: Lane>(a: u128, b: u128, f: impl FnMut(T, T) -> T) -> u128 {
    cast(T::zip(cast(a), cast(b), f))
}

/// `f` of each element.
#[inline(always)]
pub(super) fn map<T: Lane>(a: u128, mut f: impl FnMut(T) -> T) -> u128 {
    zip(a, a, |x, _| f(x))
}

/// `f` of the lowest pair of elements, under the other elements of `a`.
#[inline(always)]
pub(super) fn low<T: Lane>(a: u128, b: u128, mut f: impl FnMut(T, T) -> T) -> u128 {
    let mut all: T::All = cast(a);
    let first = f(all.as_ref()[0], split::<T>(b).as_ref()[0]);
    all.as_mut()[0] = first;
    cast(all)
}

/// All ones where `holds`.
#[inline(always)]
pub(super) fn mask<T: Lane>(holds: bool) -> T {
    if holds { T::ONES } else { T::zeroed() }
}
