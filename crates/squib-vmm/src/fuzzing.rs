//! The body of the bus's fuzz target: bytes become changes and look-ups, checked against a model that keeps
//! every range in a plain list.
//!
//! The target in `fuzz/` calls it with libFuzzer's bytes, the test below with proptest's.

use crate::bus::{Bus, Target};

/// A range as first address, one past the last, number; wide enough not to overflow.
type Range = (u128, u128, u32);

/// Takes numbers from the input; zeros after its end.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// Most often near one of the ends of the address space, so that ranges meet.
    fn number(&mut self) -> u64 {
        match self.byte() {
            n @ 0..0x80 => n.into(),
            n @ 0x80..0xf0 => u64::MAX - u64::from(n - 0x80),
            _ => u64::from_le_bytes(std::array::from_fn(|_| self.byte())),
        }
    }
}

/// Any changes of a bus and any look-ups on it.
pub fn bus(data: &[u8]) {
    let mut input = Input(data);
    let bus = Bus::memory();
    let mut lookup = bus.lookup();
    let mut model: Vec<Range> = vec![];
    for id in 0.. {
        if input.0.is_empty() {
            return;
        }
        match input.byte() % 4 {
            0 => {
                let (base, len) = (input.number(), input.number());
                let (start, end) = (u128::from(base), u128::from(base) + u128::from(len));
                let fits = len != 0 && end <= 1 << 64 && model.iter().all(|m| end <= m.0 || start >= m.1);
                assert_eq!(bus.map("device", base, len, Target::External(id)).is_ok(), fits);
                if fits {
                    model.push((start, end, id));
                }
            }
            1 => {
                let base = input.number();
                let at = model.iter().position(|m| m.0 == base.into());
                assert_eq!(bus.unmap(base).is_ok(), at.is_some());
                at.map(|at| model.swap_remove(at));
            }
            _ => {
                let (addr, width) = (input.number(), input.byte());
                let (start, end) = (u128::from(addr), u128::from(addr) + u128::from(width));
                let owner = model.iter().find(|m| width != 0 && start >= m.0 && end <= m.1);
                let found = lookup.find(addr, width).map(|(mapping, offset)| match mapping.target() {
                    Target::External(id) => (*id, u128::from(offset)),
                    Target::Device(_) | Target::Reserved => unreachable!("no such range was mapped"),
                });
                assert_eq!(found, owner.map(|m| (m.2, start - m.0)));
            }
        }
        let mappings = bus.mappings();
        assert!(mappings.windows(2).all(|w| w[0].last() < w[1].base()), "ascending, without overlap");
        assert_eq!(mappings.len(), model.len());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_bus_agrees_with_a_plain_list(data in prop::collection::vec(any::<u8>(), 0..400)) {
            super::bus(&data);
        }
    }
}
