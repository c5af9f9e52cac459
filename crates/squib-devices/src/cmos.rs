//! What firmware finds in the CMOS RAM beside the clock: the size of memory and the number of processors, where PCs,
//! Bochs and QEMU keep them (IBM PC AT Technical Reference, "CMOS RAM"; SeaBIOS, `src/hw/rtc.h`).

use squib_core::memory::LOW_RAM_END;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// The unit of memory from 16 MiB on.
const BLOCK: u64 = 64 * KIB;

/// Registers and values for `memory_size` bytes of RAM and `cpus` processors. What does not fit is cut to the largest
/// value.
pub fn contents(memory_size: u64, cpus: u32) -> impl Iterator<Item = (u8, u8)> {
    let low = memory_size.min(LOW_RAM_END);
    let word = |first: u8, value: u64| {
        let [a, b] = u16::try_from(value).unwrap_or(u16::MAX).to_le_bytes();
        [(first, a), (first + 1, b)]
    };
    let base = word(0x15, low.min(640 * KIB) / KIB);
    let extended = low.saturating_sub(MIB) / KIB;
    let above_16m = word(0x34, low.saturating_sub(16 * MIB) / BLOCK);
    let above_4g = ((memory_size - low) / BLOCK).min(0xff_ffff).to_le_bytes();
    let above_4g = [(0x5b, above_4g[0]), (0x5c, above_4g[1]), (0x5d, above_4g[2])];
    let others = (0x5f, cpus.saturating_sub(1).min(255) as u8);
    base.into_iter()
        .chain(word(0x17, extended))
        .chain(word(0x30, extended))
        .chain(above_16m)
        .chain(above_4g)
        .chain([others])
}

#[cfg(test)]
mod tests {
    use super::contents;
    use std::collections::BTreeMap;

    fn word(size: u64, first: u8) -> u32 {
        let all: BTreeMap<u8, u8> = contents(size, 1).collect();
        u32::from(all[&first]) | u32::from(all[&(first + 1)]) << 8
    }

    #[test]
    fn memory_is_told_in_pieces() {
        assert_eq!([0x15, 0x17, 0x30, 0x34].map(|at| word(128 << 20, at)), [640, 0xffff, 0xffff, 112 * 16]);
        assert_eq!([0x15, 0x17, 0x30, 0x34].map(|at| word(4 << 20, at)), [640, 3072, 3072, 0]);
        assert_eq!([0x15, 0x30, 0x34].map(|at| word(64 << 10, at)), [64, 0, 0]);
        assert_eq!([0x34, 0x5b].map(|at| word(5 << 30, at)), [0xbf00, (2 << 30) / 65536]);
        assert_eq!(
            contents(u64::MAX, 1).filter(|(at, _)| (0x5b..=0x5d).contains(at)).map(|(_, v)| v).max(),
            Some(255)
        );
    }

    #[test]
    fn processors_but_the_first_are_counted() {
        for (cpus, told) in [(1, 0), (4, 3), (1000, 255)] {
            assert!(contents(1 << 20, cpus).any(|entry| entry == (0x5f, told)));
        }
    }
}
