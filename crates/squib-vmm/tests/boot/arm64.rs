//! Linux' protocol on aarch64.

use std::sync::Arc;

use squib_core::arm64::PSTATE_EL1_MASKED;
use squib_core::arm64::gic::GicVersion;
use squib_core::{ErrorCode, GuestMemory};
use squib_vmm::boot::arm64::{self, Arm64BootState};
use squib_vmm::boot::{self, BootSource, MemoryKind, MemoryMapEntry, Part, Protocol};
use squib_vmm::device_tree::Hardware;
use squib_vmm::virt;

use crate::bytes_at;

const TWO: Hardware<'_> = Hardware { processors: &[0x8000_0000, 0x8000_0101], gic: GicVersion::V3 };

/// An image of this text offset and size in memory, with its own number in each byte behind the header.
fn image(text_offset: u64, size: u64) -> Vec<u8> {
    let mut image: Vec<u8> = (0..=255).cycle().take(0x1000).collect();
    image[..64].fill(0);
    for (at, field) in [(8, text_offset), (16, size), (24, 0b1010)] {
        image[at..at + 8].copy_from_slice(&field.to_le_bytes());
    }
    image[56..60].copy_from_slice(b"ARM\x64");
    image
}

fn load(mib: u64, source: &BootSource<'_>) -> Result<(Arc<GuestMemory>, Arm64BootState), ErrorCode> {
    let memory = GuestMemory::with_regions(&[(virt::RAM, mib << 20)]).unwrap();
    let state = arm64::load(&memory, source, &TWO).map_err(|e| e.code())?;
    Ok((memory, state))
}

fn place(state: &Arm64BootState, part: Part) -> std::ops::Range<u64> {
    state.info.placements.iter().find(|p| p.part == part).expect("it is loaded").range.clone()
}

#[test]
fn kernel_disk_and_tree_lie_in_ram_and_registers_say_where() {
    let kernel = image(0x8_0000, 0x30_0000);
    let source = BootSource { initrd: Some(&[7; 5000]), command_line: "quiet", ..BootSource::new(&kernel) };
    let (memory, state) = load(64, &source).unwrap();
    let entry = virt::RAM + 0x8_0000;
    assert_eq!((state.registers.pc, state.registers.pstate), (entry, PSTATE_EL1_MASKED));
    assert_eq!((state.info.entry, state.info.protocol), (entry, Protocol::Arm64));
    assert_eq!(place(&state, Part::Kernel), entry..entry + 0x30_0000);
    assert_eq!(bytes_at(&memory, entry, kernel.len()), kernel);
    assert_eq!(bytes_at(&memory, entry + 0x1000, 16), [0; 16]);
    let initrd = place(&state, Part::Initrd);
    assert_eq!(bytes_at(&memory, initrd.start, 5000), [7; 5000]);
    let tree = place(&state, Part::DeviceTree);
    assert_eq!((state.registers.x[0], tree.start % 8), (tree.start, 0));
    assert!(state.registers.x[1..].iter().all(|x| *x == 0));
    assert_eq!(bytes_at(&memory, tree.start, 4), [0xd0, 0x0d, 0xfe, 0xed]);
}

#[test]
fn images_packed_with_gzip_are_unpacked() {
    // Stored, not compressed: one block of deflate.
    let kernel = image(0, 0x1000);
    let len = kernel.len() as u16;
    let mut packed = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 1];
    packed.extend([len.to_le_bytes(), (!len).to_le_bytes()].concat());
    packed.extend(&kernel);
    packed.extend([0; 4]);
    packed.extend(u32::from(len).to_le_bytes());
    let (memory, state) = load(16, &BootSource::new(&packed)).unwrap();
    assert_eq!(bytes_at(&memory, virt::RAM, kernel.len()), kernel);
    assert_eq!(state.info.unpacked_size, kernel.len() as u64);
    packed.truncate(100);
    assert!(load(16, &BootSource::new(&packed)).is_err());
}

#[test]
fn the_disk_is_in_the_kernels_window() {
    let kernel = image(0, 0x1000);
    let source = BootSource { initrd: Some(&[1]), ..BootSource::new(&kernel) };
    // There is memory above the window too.
    let regions = [(virt::RAM, 16 << 20), (virt::RAM + (32 << 30) - (1 << 20), 2 << 20)];
    let memory = GuestMemory::with_regions(&regions).unwrap();
    let state = arm64::load(&memory, &source, &TWO).unwrap();
    let end = virt::RAM + (32 << 30);
    assert_eq!(place(&state, Part::Initrd), end - 4096..end - 4095);
    assert_eq!(place(&state, Part::DeviceTree).start & !0xfff, end - 8192);
}

#[test]
fn what_is_no_image_for_this_is_refused() {
    let kernel = image(0, 0x1000);
    let with = |at: usize, bytes: &[u8]| {
        let mut kernel = kernel.clone();
        kernel[at..at + bytes.len()].copy_from_slice(bytes);
        load(16, &BootSource::new(&kernel)).map(|_| ()).unwrap_err()
    };
    assert_eq!(with(56, b"ARMx"), ErrorCode::ImageFormat, "no magic number");
    assert_eq!(with(24, &[1]), ErrorCode::ImageFormat, "big-endian");
    assert_eq!(with(16, &[0; 8]), ErrorCode::ImageFormat, "no size");
    assert_eq!(with(16, &[0xff; 8]), ErrorCode::MemoryRange, "as large as all memory");
    assert_eq!(with(8, &[0xff; 8]), ErrorCode::ImageFormat, "beyond all addresses");
    assert_eq!(with(8, &(16_u64 << 20).to_le_bytes()), ErrorCode::ImageTooLarge, "more memory would help");
    for len in [0, 4, 59, 60, 63] {
        let code = load(16, &BootSource::new(&kernel[..len])).map(|_| ());
        assert!(len >= 60 || code == Err(ErrorCode::ImageFormat), "{len}: {code:?}");
    }
    for other in [&b"\x7fELF\x02\x01\x01"[..], b"MZ\0\0zimg", b"no kernel"] {
        assert_eq!(load(16, &BootSource::new(other)).map(|_| ()), Err(ErrorCode::ImageFormat));
    }
}

#[test]
fn what_does_not_go_together_is_refused() {
    let kernel = image(0, 0x1000);
    let code = |source: BootSource<'_>| load(16, &source).map(|_| ()).unwrap_err();
    let source = BootSource::new(&kernel);
    assert_eq!(code(BootSource { initrd: Some(&[]), ..source }), ErrorCode::ImageFormat);
    assert_eq!(code(BootSource { initrd: Some(&vec![1; 17 << 20]), ..source }), ErrorCode::ImageTooLarge);
    assert_eq!(code(BootSource { command_line: "a\0b", ..source }), ErrorCode::CommandLine);
    assert_eq!(code(BootSource { command_line: &"x".repeat(2048), ..source }), ErrorCode::CommandLine);
    assert_eq!(code(BootSource { rsdp: Some(0), ..source }), ErrorCode::InvalidArgument);
    assert_eq!(code(BootSource { protocol: Some(Protocol::Pvh), ..source }), ErrorCode::InvalidArgument);
    let reserved = [MemoryMapEntry { addr: virt::RAM, len: 4096, kind: MemoryKind::Reserved }];
    assert_eq!(code(BootSource { reserved: &reserved, ..source }), ErrorCode::InvalidArgument);
}

#[test]
fn x86_takes_neither_the_image_nor_the_protocol() {
    let kernel = image(0, 0x1000);
    let memory = GuestMemory::new(16 << 20).unwrap();
    let code = |source: &BootSource<'_>| boot::load(&memory, source).unwrap_err().code();
    assert_eq!(boot::detect(&kernel).unwrap(), boot::ImageKind::Arm64Image);
    assert_eq!(code(&BootSource::new(&kernel)), ErrorCode::ImageFormat);
}
