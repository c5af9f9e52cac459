//! Which bytes of a page are decoded code, and by which blocks.

use std::ops::Range;

use crate::block::Key;

/// Bytes of a page.
const PAGE: usize = 4096;

/// Bytes that one word of the map stands for.
const WORD: usize = 64;

/// What one block holds of the page.
struct Piece {
    bytes: Range<u16>,
    key: Key,
}

/// A page that code was decoded from. Most stores to such a page go to data beside the code, and the map tells so at once,
/// however many blocks there are: a guest can have thousands of them of the same bytes.
pub struct CodePage {
    pieces: Vec<Piece>,
    /// One bit for each byte: whether it is in a piece.
    map: [u64; PAGE / WORD],
}

impl Default for CodePage {
    fn default() -> Self {
        Self { pieces: Vec::new(), map: [0; PAGE / WORD] }
    }
}

/// The words of a map that stand for `bytes`, which are at least one, and the bits of those.
fn words(bytes: &Range<u16>) -> impl Iterator<Item = (usize, u64)> + use<> {
    let (start, last) = (usize::from(bytes.start), usize::from(bytes.end) - 1);
    (start / WORD..=last / WORD).map(move |word| {
        let low = start.saturating_sub(word * WORD);
        let high = (last - word * WORD).min(WORD - 1);
        (word, u64::MAX << low & u64::MAX >> (WORD - 1 - high))
    })
}

fn overlap(a: &Range<u16>, b: &Range<u16>) -> bool {
    a.start < b.end && b.start < a.end
}

impl CodePage {
    /// Adds `bytes` of the block with this key.
    pub fn insert(&mut self, bytes: Range<u16>, key: Key) {
        words(&bytes).for_each(|(word, bits)| self.map[word] |= bits);
        self.pieces.push(Piece { bytes, key });
    }

    /// Takes out the blocks with any of the `written` bytes.
    pub fn take(&mut self, written: &Range<u16>) -> Vec<Key> {
        let mut taken = Vec::new();
        if words(written).all(|(word, bits)| self.map[word] & bits == 0) {
            return taken;
        }
        let mut cleared = written.clone();
        self.pieces.retain(|Piece { bytes, key }| {
            let hit = overlap(bytes, written);
            if hit {
                cleared = cleared.start.min(bytes.start)..cleared.end.max(bytes.end);
                taken.push(*key);
            }
            !hit
        });
        words(&cleared).for_each(|(word, bits)| self.map[word] &= !bits);
        for piece in self.pieces.iter().filter(|piece| overlap(&piece.bytes, &cleared)) {
            words(&piece.bytes).for_each(|(word, bits)| self.map[word] |= bits);
        }
        taken
    }

    /// Whether no block is left.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use squib_x86::CodeMode;

    use super::*;

    fn range() -> impl Strategy<Value = Range<u16>> {
        // Short ranges and long ones, and what the ends of words and of the page are good for.
        (0..PAGE as u16, prop_oneof![1_u16..20, 1_u16..1000, Just(PAGE as u16)])
            .prop_map(|(start, len)| start..(start + len).min(PAGE as u16))
    }

    proptest! {
        #[test]
        fn a_write_takes_the_blocks_with_any_of_its_bytes(
            steps in prop::collection::vec((any::<bool>(), range()), 1..60)
        ) {
            let mut page = CodePage::default();
            let mut model: Vec<(Range<u16>, Key)> = Vec::new();
            for (n, (write, bytes)) in steps.into_iter().enumerate() {
                if write {
                    let hit = |held: &Range<u16>| held.clone().any(|byte| bytes.contains(&byte));
                    let expected: Vec<Key> =
                        model.extract_if(.., |(held, _)| hit(held)).map(|(_, key)| key).collect();
                    prop_assert_eq!(page.take(&bytes), expected);
                } else {
                    let key = Key { phys: 0, rip: n as u64, mode: CodeMode::Bits64, single: false };
                    page.insert(bytes.clone(), key);
                    model.push((bytes, key));
                }
                prop_assert_eq!(page.is_empty(), model.is_empty());
                let mapped = |byte: u16| page.map[usize::from(byte) / WORD] >> (byte % 64) & 1 != 0;
                for byte in 0..PAGE as u16 {
                    prop_assert_eq!(mapped(byte), model.iter().any(|(held, _)| held.contains(&byte)));
                }
            }
        }
    }
}
