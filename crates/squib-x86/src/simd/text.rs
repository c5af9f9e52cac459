//! PCMPESTRI, PCMPESTRM, PCMPISTRI and PCMPISTRM (Intel SDM vol. 2, 4.1).

use squib_core::x86::bits::{RFLAGS_CF, RFLAGS_OF, RFLAGS_SF, RFLAGS_ZF};

/// What an aggregation finds, one bit an element of the second operand, and what there was to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    bits: u32,
    control: u8,
    lengths: [u32; 2],
}

/// Elements of a register: 16 bytes, or 8 words.
const fn elements(control: u8) -> u32 {
    if control & 1 == 0 { 16 } else { 8 }
}

/// An element, sign-extended where the control says signed.
const fn element(register: u128, i: u32, control: u8) -> i32 {
    match control & 3 {
        0 => (register >> (8 * i)) as u8 as i32,
        1 => (register >> (16 * i)) as u16 as i32,
        2 => (register >> (8 * i)) as i8 as i32,
        _ => (register >> (16 * i)) as i16 as i32,
    }
}

/// The number of elements that an explicit length, RAX or RDX sign-extended, makes valid.
pub const fn explicit_length(value: i64, control: u8) -> u32 {
    let (length, most) = (value.unsigned_abs(), elements(control));
    if length < most as u64 { length as u32 } else { most }
}

/// The number of elements before the first that is zero.
pub fn implicit_length(register: u128, control: u8) -> u32 {
    let n = elements(control);
    (0..n).find(|i| element(register, *i, control) == 0).unwrap_or(n)
}

/// Compares the elements of `a` and `b` within their lengths as the immediate byte `control` says.
pub fn compare(a: u128, b: u128, lengths: [u32; 2], control: u8) -> Found {
    let n = elements(control);
    let [in_a, in_b] = lengths;
    let (a, b) = (|i| element(a, i, control), |i| element(b, i, control));
    let holds = |j: u32| match control >> 2 & 3 {
        // Equal any: one of a set.
        0 => j < in_b && (0..in_a).any(|i| a(i) == b(j)),
        // Ranges: within one of the pairs of bounds.
        1 => j < in_b && (0..in_a / 2).any(|i| (a(2 * i)..=a(2 * i + 1)).contains(&b(j))),
        // Equal each: both end there, or are the same.
        2 => (j >= in_a && j >= in_b) || (j < in_a && j < in_b && a(j) == b(j)),
        // Equal ordered: as much of the first as there is room for begins here.
        _ => (0..in_a.min(n - j)).all(|i| i + j < in_b && a(i) == b(i + j)),
    };
    let bits = (0..n).filter(|j| holds(*j)).fold(0, |bits, j| bits | 1 << j);
    let negated = match control >> 4 & 3 {
        1 => (1 << n) - 1,
        3 => (1 << in_b) - 1,
        _ => 0,
    };
    Found { bits: bits ^ negated, control, lengths }
}

impl Found {
    /// ECX: the number of the first element found, or of the last where the control says so; of none, one too many.
    pub const fn index(self) -> u32 {
        if self.bits == 0 {
            elements(self.control)
        } else if self.control & 0x40 == 0 {
            self.bits.trailing_zeros()
        } else {
            31 - self.bits.leading_zeros()
        }
    }

    /// XMM0: the bits, or where the control says so elements of all ones.
    pub fn mask(self) -> u128 {
        if self.control & 0x40 == 0 {
            return self.bits.into();
        }
        let width = 128 / elements(self.control);
        let ones = (1u128 << width) - 1;
        (0..elements(self.control))
            .filter(|i| self.bits >> i & 1 != 0)
            .fold(0, |m, i| m | ones << (width * i))
    }

    /// The status flags: CF where something was found, OF where the first element was, ZF and SF where the second and
    /// the first string end; AF and PF are clear.
    pub const fn flags(self) -> u64 {
        let n = elements(self.control);
        let [in_a, in_b] = self.lengths;
        let cf = if self.bits != 0 { RFLAGS_CF } else { 0 };
        let of = if self.bits & 1 != 0 { RFLAGS_OF } else { 0 };
        let zf = if in_b < n { RFLAGS_ZF } else { 0 };
        let sf = if in_a < n { RFLAGS_SF } else { 0 };
        cf | of | zf | sf
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(s: &str) -> u128 {
        s.bytes().rev().fold(0, |all, b| all << 8 | u128::from(b))
    }

    fn find(a: &str, b: &str, control: u8) -> Found {
        let lengths = [a, b].map(|s| implicit_length(text(s), control));
        compare(text(a), text(b), lengths, control)
    }

    #[test]
    fn the_four_aggregations() {
        assert_eq!(find("aeiou", "string", 0x00).index(), 3);
        assert_eq!(find("azAZ", "1 Word", 0x04).index(), 2);
        assert_eq!(find("strong", "string", 0x18).index(), 3, "the first difference");
        assert_eq!(find("ring", "a string", 0x0c).index(), 4);
        assert_eq!(find("ring", "rung", 0x0c).index(), 16);
    }

    #[test]
    fn masks_and_flags() {
        let found = find("ab", "xaxb", 0x40);
        assert_eq!((found.mask(), found.index()), (0xff00_ff00, 3));
        assert_eq!(found.flags(), RFLAGS_CF | RFLAGS_ZF | RFLAGS_SF);
        assert_eq!(find("", "", 0x08).flags(), RFLAGS_CF | RFLAGS_OF | RFLAGS_ZF | RFLAGS_SF);
        assert_eq!(explicit_length(i64::MIN, 0), 16);
        assert_eq!(explicit_length(-3, 1), 3);
    }
}
