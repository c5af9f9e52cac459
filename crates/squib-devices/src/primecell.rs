//! What Arm's PrimeCell peripherals have in common: the identification at the end of their page, by which drivers find them.

/// Bytes of a PrimeCell's registers.
pub const SIZE: u64 = 0x1000;

/// Where the eight bytes of identification begin, one in each word.
const IDENTIFICATION: u64 = 0xfe0;
/// The second half of it, the same for all PrimeCells.
const PRIMECELL: [u8; 4] = [0x0d, 0xf0, 0x05, 0xb1];

/// What is read of the identification of peripheral `id` at `offset`, which is a multiple of 4; 0 elsewhere.
pub(crate) fn identification(offset: u64, id: [u8; 4]) -> u32 {
    let Some(byte) = offset.checked_sub(IDENTIFICATION).and_then(|at| usize::try_from(at / 4).ok()) else {
        return 0;
    };
    id.iter().chain(&PRIMECELL).nth(byte).copied().map_or(0, u32::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_eight_words_identify() {
        let words: Vec<_> = (0..=SIZE).step_by(4).map(|at| identification(at, [1, 2, 3, 4])).collect();
        assert_eq!(words[0xfe0 / 4..], [1, 2, 3, 4, 0x0d, 0xf0, 0x05, 0xb1, 0]);
        assert!(words[..0xfe0 / 4].iter().all(|word| *word == 0));
        assert_eq!(identification(u64::MAX - 3, [1; 4]), 0);
    }
}
