//! Body of the fuzz target `loaders`; the target calls it with libFuzzer's bytes, the test below with proptest's.

use std::sync::{Arc, LazyLock};

use squib_core::GuestMemory;

use super::{BootSource, Flat, FlatMode, Protocol, load};

/// What lies in it from the case before does not matter.
static MEMORY: LazyLock<Arc<GuestMemory>> = LazyLock::new(|| {
    GuestMemory::with_regions(&[(0, 8 << 20), (1 << 32, 1 << 20)]).expect("the host has 9 MiB")
});

/// Any bytes as an image: what is loaded lies apart, in RAM, and holds the entry. The first byte chooses the
/// protocol, the next eight are the address of a flat binary and of the ACPI root pointer.
pub fn loaders(data: &[u8]) {
    let Some((&[choice, ref addr @ ..], image)) = data.split_first_chunk::<9>() else { return };
    let addr = u64::from_le_bytes(*addr);
    let flat = |mode| Some(Protocol::Flat(Flat::at(addr, mode)));
    let protocol = match choice & 7 {
        0 => Some(Protocol::Pvh),
        1 => Some(Protocol::Linux64),
        2 => Some(Protocol::Multiboot),
        3 => flat(FlatMode::Real16),
        4 => flat(FlatMode::Protected32),
        5 => flat(FlatMode::Long64),
        _ => None,
    };
    let options = choice & 8 != 0;
    let source = BootSource {
        initrd: options.then_some(&[0x5a; 5000]),
        command_line: if options { "console=ttyS0" } else { "" },
        protocol,
        rsdp: Some(addr),
        ..BootSource::new(image)
    };
    let Ok(state) = load(&MEMORY, &source) else { return };
    let placements = &state.info.placements;
    assert!(placements.iter().any(|p| p.range.contains(&state.info.entry)), "the entry is loaded");
    for (i, p) in placements.iter().enumerate() {
        assert!(MEMORY.contains(p.range.start, p.range.end - p.range.start), "{p:?} is in RAM");
        for q in &placements[..i] {
            assert!(p.range.end <= q.range.start || q.range.end <= p.range.start, "{p:?} and {q:?} overlap");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    /// Marks that make noise look like an image, at their offsets.
    const MARKS: [&[(usize, &[u8])]; 4] = [
        &[],
        &[
            (0, b"\x7fELF\x02\x01\x01"),
            (16, &[2, 0, 62, 0]),
            (32, &[64, 0, 0, 0, 0, 0, 0, 0]),
            (54, &[56, 0, 2, 0]),
        ],
        &[(0x1fe, &[0x55, 0xaa]), (0x202, b"HdrS\x0f\x02"), (0x211, &[1]), (0x248, &[0; 8])],
        &[(16, &[0x02, 0xb0, 0xad, 0x1b, 0, 0, 1, 0, 0xfe, 0x4f, 0x51, 0xe4])],
    ];

    proptest! {
        #[test]
        fn any_bytes(mut bytes in prop::collection::vec(any::<u8>(), 700..2000), marks in prop::sample::select(&MARKS)) {
            for (offset, mark) in marks {
                bytes[9 + offset..][..mark.len()].copy_from_slice(mark);
            }
            super::loaders(&bytes);
        }
    }
}
