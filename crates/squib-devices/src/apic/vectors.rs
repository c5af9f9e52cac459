//! A set of interrupt vectors: the 256-bit registers ISR, TMR and IRR.

/// 256 bits, one for each vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Vectors([u64; 4]);

impl Vectors {
    pub(super) fn insert(&mut self, vector: u8) {
        self.0[usize::from(vector >> 6)] |= 1 << (vector & 63);
    }

    pub(super) fn remove(&mut self, vector: u8) {
        self.0[usize::from(vector >> 6)] &= !(1 << (vector & 63));
    }

    pub(super) fn assign(&mut self, vector: u8, present: bool) {
        if present {
            self.insert(vector);
        } else {
            self.remove(vector);
        }
    }

    pub(super) fn contains(&self, vector: u8) -> bool {
        self.0[usize::from(vector >> 6)] >> (vector & 63) & 1 != 0
    }

    /// The highest vector in the set; 0, which is no legal vector, when it is empty.
    pub(super) fn highest(&self) -> u8 {
        for (i, word) in self.0.iter().enumerate().rev() {
            if *word != 0 {
                return (i as u8) << 6 | (63 - word.leading_zeros() as u8);
            }
        }
        0
    }

    /// Bits `32 * (index % 8)` and up, as the 32-bit registers show them.
    pub(super) fn word(&self, index: usize) -> u32 {
        (self.0[index / 2 % 4] >> (index % 2 * 32)) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_vector_is_found_alone_and_as_the_highest() {
        let mut all = Vectors::default();
        for v in 1..=255u8 {
            let mut one = Vectors::default();
            one.insert(v);
            all.insert(v);
            assert!(one.contains(v));
            assert_eq!((one.highest(), all.highest()), (v, v));
            assert_eq!(one.word(usize::from(v) / 32), 1 << (v % 32));
            one.remove(v);
            assert_eq!(one, Vectors::default());
        }
    }
}
