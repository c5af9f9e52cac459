//! Mutated images: whatever comes of them, it is a state or a typed error.

use std::sync::{Arc, LazyLock};

use proptest::prelude::*;
use squib_core::{ErrorCode, GuestMemory};
use squib_vmm::boot::{self, BootSource, BootState, Flat, FlatMode, Protocol};

use crate::bzimage::payloads;
use crate::image::{Elf, bzimage, multiboot_flat};

/// Memory of two regions that all cases use: what lies in it before does not matter.
static MEMORY: LazyLock<Arc<GuestMemory>> =
    LazyLock::new(|| GuestMemory::with_regions(&[(0, 8 << 20), (1 << 32, 1 << 20)]).unwrap());

static IMAGES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let mut images = vec![
        Elf::kernel().build(),
        Elf::pvh().build(),
        Elf { pvh_note: Elf::pvh().pvh_note, ..Elf::kernel_32() }.build(),
        multiboot_flat(1 << 16, [0x20_0010, 0x20_0000, 0, 0x20_2000, 0x20_0030], 4096),
    ];
    images.extend(payloads().iter().map(|(_, payload)| bzimage(payload)));
    images
});

/// One change of an image.
#[derive(Debug, Clone)]
enum Mutation {
    Byte(prop::sample::Index, u8),
    Word(prop::sample::Index, u64),
    Cut(prop::sample::Index),
    Repeat(prop::sample::Index),
}

/// An offset in the headers, where most changes matter, or anywhere.
fn at(image: &[u8], index: &prop::sample::Index) -> usize {
    let n = index.index(image.len() * 4);
    if n < image.len() { n } else { n % image.len().min(0x400) }
}

fn mutate(image: &mut Vec<u8>, mutations: &[Mutation]) {
    for mutation in mutations {
        if image.is_empty() {
            return;
        }
        match mutation {
            Mutation::Byte(index, value) => {
                let at = at(image, index);
                image[at] = *value;
            }
            Mutation::Word(index, value) => {
                let at = at(image, index) & !3;
                image.iter_mut().skip(at).zip(value.to_le_bytes()).for_each(|(byte, v)| *byte = v);
            }
            Mutation::Cut(index) => image.truncate(index.index(image.len())),
            Mutation::Repeat(index) => image.extend_from_within(index.index(image.len())..),
        }
    }
}

fn mutations() -> impl Strategy<Value = Vec<Mutation>> {
    let index = any::<prop::sample::Index>;
    let word = prop_oneof![
        any::<u64>(),
        (0u32..64).prop_map(|shift| 1 << shift),
        (0u32..64).prop_map(|shift| u64::MAX << shift),
        0u64..0x100_0000,
    ];
    let one = prop_oneof![
        4 => (index(), any::<u8>()).prop_map(|(i, v)| Mutation::Byte(i, v)),
        4 => (index(), word).prop_map(|(i, v)| Mutation::Word(i, v)),
        1 => index().prop_map(Mutation::Cut),
        1 => index().prop_map(Mutation::Repeat),
    ];
    prop::collection::vec(one, 0..5)
}

fn protocol() -> impl Strategy<Value = Option<Protocol>> {
    let mode = prop_oneof![Just(FlatMode::Real16), Just(FlatMode::Protected32), Just(FlatMode::Long64)];
    let addr = prop_oneof![any::<u64>(), 0u64..0x1_0000_0000, 0u64..0x10_0000];
    prop_oneof![
        Just(None),
        Just(Some(Protocol::Pvh)),
        Just(Some(Protocol::Linux64)),
        Just(Some(Protocol::Multiboot)),
        (addr, 0u64..64, mode).prop_map(|(addr, entry, mode)| {
            Some(Protocol::Flat(Flat { addr, entry: addr.wrapping_add(entry), mode }))
        }),
    ]
}

/// What holds of every state that is returned.
fn check(state: &BootState) -> Result<(), TestCaseError> {
    let placements = &state.info.placements;
    prop_assert!(placements.iter().any(|p| p.range.contains(&state.info.entry)));
    for (i, p) in placements.iter().enumerate() {
        prop_assert!(MEMORY.contains(p.range.start, p.range.end - p.range.start), "{p:?}");
        for q in &placements[..i] {
            prop_assert!(p.range.end <= q.range.start || q.range.end <= p.range.start, "{p:?} {q:?}");
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_images_give_a_state_or_a_typed_error(
        which in any::<prop::sample::Index>(),
        mutations in mutations(),
        protocol in protocol(),
        initrd in prop::option::of(0usize..0x3000),
        command_line in "[ -~]{0,20}",
    ) {
        let mut image = which.get(&IMAGES).clone();
        mutate(&mut image, &mutations);
        let initrd = initrd.map(|len| vec![1; len]);
        let flat = matches!(protocol, Some(Protocol::Flat(_)));
        let source = BootSource {
            initrd: initrd.as_deref().filter(|_| !flat),
            command_line: if flat { "" } else { &command_line },
            protocol,
            ..BootSource::new(&image)
        };
        match boot::load(&MEMORY, &source) {
            Ok(state) => check(&state)?,
            Err(error) => prop_assert!(
                matches!(
                    error.code(),
                    ErrorCode::ImageFormat | ErrorCode::ImageTooLarge | ErrorCode::MemoryRange | ErrorCode::CommandLine
                ),
                "{error:?}"
            ),
        }
    }

    #[test]
    fn noise_is_nothing(image in prop::collection::vec(any::<u8>(), 0..2000)) {
        let _ = boot::detect(&image);
        prop_assert!(boot::load(&MEMORY, &BootSource::new(&image)).is_err());
    }
}
