//! Flat binaries.

use squib_core::x86::Segment as CpuSegment;
use squib_core::{ErrorCode, GuestMemory};
use squib_vmm::boot::{self, BootSource, Flat, FlatMode, MemoryKind, MemoryMapEntry, Protocol, layout};

use crate::{bytes_at, error, load};

fn source(image: &[u8], flat: Flat) -> BootSource<'_> {
    BootSource { protocol: Some(Protocol::Flat(flat)), ..BootSource::new(image) }
}

#[test]
fn real_mode_is_entered_in_the_64_kib_block_of_the_entry() {
    let (memory, state) = load(1, &source(&[0xf4; 512], Flat::at(0x7c00, FlatMode::Real16))).unwrap();
    assert_eq!((state.system.cs.selector, state.registers.rip), (0, 0x7c00));
    assert_eq!(state.system.cr0 & 1, 0);
    assert_eq!(state.system.idt.limit, 0x3ff);
    assert_eq!(bytes_at(&memory, 0x7dff, 2), [0xf4, 0]);

    let firmware = Flat { addr: 0xf_0000, entry: 0xf_fff0, mode: FlatMode::Real16 };
    let (_, state) = load(1, &source(&[0xf4; 0x1_0000], firmware)).unwrap();
    assert_eq!(state.system.cs, CpuSegment { kind: 0xb, ..CpuSegment::real_mode(0xf000) });
    assert_eq!((state.system.cs.base, state.registers.rip), (0xf_0000, 0xfff0), "the reset vector");
}

#[test]
fn protected_and_long_mode_have_flat_segments_and_a_stack() {
    let (_, state) = load(1, &source(&[0xf4], Flat::at(0x2_0000, FlatMode::Protected32))).unwrap();
    assert_eq!(state.system.cs, CpuSegment::flat_code(0x10, false));
    assert_eq!((state.registers.rip, state.registers.rsp), (0x2_0000, 0x1_0000));
    assert_eq!(state.system.cr0 & 0x8000_0001, 1);

    let (_, state) = load(1, &source(&[0xf4], Flat::at(0x2_0000, FlatMode::Long64))).unwrap();
    assert_eq!(state.system.cs, CpuSegment::flat_code(0x10, true));
    assert_eq!((state.system.efer, state.system.cr3), (0x500, layout::PAGE_TABLES));
}

#[test]
fn little_memory_is_enough() {
    let memory = GuestMemory::new(0x1_1000).unwrap();
    for mode in [FlatMode::Real16, FlatMode::Protected32, FlatMode::Long64] {
        boot::load(&memory, &source(&[0xf4; 4096], Flat::at(0x1_0000, mode))).unwrap();
    }
    let tiny = GuestMemory::new(4096).unwrap();
    boot::load(&tiny, &source(&[0xf4], Flat::at(0, FlatMode::Real16))).unwrap();
}

#[test]
fn flat_binaries_that_do_not_fit_are_refused() {
    let at = |addr, entry, mode| error(&source(&[0xf4; 16], Flat { addr, entry, mode }));
    assert_eq!(at(0x2_0000, 0x2_0010, FlatMode::Long64), ErrorCode::ImageFormat, "entry behind the image");
    assert_eq!(at(0x2_0000, 0x1_ffff, FlatMode::Long64), ErrorCode::ImageFormat, "entry before the image");
    assert_eq!(at(0x10_0000, 0x10_0000, FlatMode::Real16), ErrorCode::MemoryRange);
    assert_eq!(at(1 << 32, 1 << 32, FlatMode::Protected32), ErrorCode::MemoryRange);
    assert_eq!(at(64 << 30, 64 << 30, FlatMode::Long64), ErrorCode::MemoryRange);
    assert_eq!(at(u64::MAX - 7, u64::MAX - 7, FlatMode::Long64), ErrorCode::MemoryRange);
    assert_eq!(at(0x400_0000 - 8, 0x400_0000 - 8, FlatMode::Long64), ErrorCode::ImageTooLarge);
    assert_eq!(at(0x7000, 0x7000, FlatMode::Long64), ErrorCode::MemoryRange, "page tables");
    assert_eq!(error(&source(&[], Flat::at(0, FlatMode::Real16))), ErrorCode::ImageFormat);
    let reserved = [MemoryMapEntry { addr: 0xf_0000, len: 0x1_0000, kind: MemoryKind::Reserved }];
    let flat = Flat::at(0xf_0000, FlatMode::Real16);
    assert_eq!(error(&BootSource { reserved: &reserved, ..source(&[0xf4], flat) }), ErrorCode::MemoryRange);
}

#[test]
fn flat_binaries_take_no_options_of_kernels() {
    let flat = source(&[0xf4], Flat::at(0, FlatMode::Real16));
    assert_eq!(error(&BootSource { command_line: "x", ..flat }), ErrorCode::InvalidArgument);
    assert_eq!(error(&BootSource { initrd: Some(&[1]), ..flat }), ErrorCode::InvalidArgument);
}

#[test]
fn a_flat_binary_is_never_guessed() {
    assert_eq!(error(&BootSource::new(&[0xf4; 4096])), ErrorCode::ImageFormat);
}
