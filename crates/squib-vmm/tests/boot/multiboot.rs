//! Multiboot 1 images.

use squib_core::ErrorCode;
use squib_core::x86::Segment as CpuSegment;
use squib_vmm::boot::{self, BootSource, ImageKind, Protocol};

use crate::image::{Elf, Segment, multiboot_flat, multiboot_header};
use crate::{bytes_at, error, load, u32_at, u64_at};

const ADDRESSES: u32 = 1 << 16;

/// A 32-bit ELF file whose first segment starts with a multiboot header.
fn elf(flags: u32) -> Elf {
    let mut bytes = multiboot_header(flags);
    bytes.resize(64, 0xf4);
    Elf { entry: 0x40_0010, segments: vec![Segment::new(0x40_0000, bytes)], ..Elf::kernel_32() }
}

#[test]
fn an_elf_image_gets_the_information_structure() {
    let image = elf(3).build();
    let source =
        BootSource { initrd: Some(&[7; 4097]), command_line: "unit test", ..BootSource::new(&image) };
    let (memory, state) = load(64, &source).unwrap();
    assert_eq!(state.info.protocol, Protocol::Multiboot);
    assert_eq!((state.registers.rip, state.registers.rax), (0x40_0010, 0x2bad_b002));
    assert_eq!(state.system.cs, CpuSegment::flat_code(0x10, false));
    assert_eq!(state.system.cr0 & 0x8000_0001, 1);

    let info = state.registers.rbx;
    assert_eq!(u32_at(&memory, info), 0b10_0100_1101, "memory, command line, modules, map, loader name");
    assert_eq!((u32_at(&memory, info + 4), u32_at(&memory, info + 8)), (640, 63 << 10));
    assert_eq!(bytes_at(&memory, u32_at(&memory, info + 16).into(), 10), *b"unit test\0");
    assert_eq!(u32_at(&memory, info + 20), 1);
    let module = u64::from(u32_at(&memory, info + 24));
    assert_eq!((u32_at(&memory, module), u32_at(&memory, module + 4)), (0x3ff_e000, 0x3ff_f001));
    assert_eq!(bytes_at(&memory, 0x3ff_f000, 2), [7, 0]);
    assert_eq!(bytes_at(&memory, u32_at(&memory, info + 64).into(), 6), *b"squib\0");
    let (len, map) = (u32_at(&memory, info + 44), u64::from(u32_at(&memory, info + 48)));
    assert_eq!(len, 3 * 24);
    let last = map + 48;
    assert_eq!(
        (u32_at(&memory, last), u64_at(&memory, last + 4), u64_at(&memory, last + 12)),
        (20, 1 << 20, 63 << 20)
    );
    assert_eq!(u32_at(&memory, last + 20), 1);
}

#[test]
fn address_fields_say_where_a_file_goes() {
    // The header is 16 bytes into the file, and the file is loaded from its byte 8 on.
    let image = multiboot_flat(ADDRESSES, [0x20_0008, 0x20_0000, 0x20_0100, 0x20_0200, 0x20_0030], 4096);
    assert_eq!(boot::detect(&image).unwrap(), ImageKind::Multiboot);
    let (memory, state) = load(64, &BootSource::new(&image)).unwrap();
    assert_eq!(state.registers.rip, 0x20_0030);
    assert_eq!(bytes_at(&memory, 0x20_0000, 0x100), image[8..0x108]);
    assert_eq!(u32_at(&memory, 0x20_0100), 0, "load_end_addr ends the file's part");

    let whole = multiboot_flat(ADDRESSES, [0x20_0010, 0x20_0000, 0, 0, 0x20_0030], 4096);
    let (memory, _) = load(64, &BootSource::new(&whole)).unwrap();
    assert_eq!(bytes_at(&memory, 0x20_0000, 4096), whole);
}

#[test]
fn headers_that_make_no_sense_are_refused() {
    let addresses = |fields| error(&BootSource::new(&multiboot_flat(ADDRESSES, fields, 4096)));
    assert_eq!(
        addresses([0x20_0000, 0x20_0010, 0, 0, 0x20_0030]),
        ErrorCode::ImageFormat,
        "header before load"
    );
    assert_eq!(
        addresses([0x20_0011, 0x20_0000, 0, 0, 0x20_0030]),
        ErrorCode::ImageFormat,
        "load before the file"
    );
    assert_eq!(
        addresses([0x20_0010, 0x20_0000, 0x20_1001, 0, 0x20_0030]),
        ErrorCode::ImageFormat,
        "past the file"
    );
    assert_eq!(
        addresses([0x20_0010, 0x20_0000, 0x1f_0000, 0, 0x20_0030]),
        ErrorCode::ImageFormat,
        "end first"
    );
    assert_eq!(
        addresses([0x20_0010, 0x20_0000, 0, 0x20_0100, 0x20_0030]),
        ErrorCode::ImageFormat,
        "zeros end first"
    );
    assert_eq!(addresses([0x20_0010, 0x20_0000, 0, 0, 0x20_1000]), ErrorCode::ImageFormat, "entry outside");
    assert_eq!(addresses([0x20_0010, 0x20_0000, 0, 0xffff_ffff, 0x20_0030]), ErrorCode::MemoryRange);
    assert_eq!(addresses([0xfff_ffff, 0x20_0000, 0, 0, 0]), ErrorCode::ImageFormat);
    assert_eq!(
        error(&BootSource::new(&multiboot_flat(ADDRESSES, [0; 5], 40))),
        ErrorCode::ImageFormat,
        "cut off"
    );
    assert_eq!(error(&BootSource::new(&elf(4).build())), ErrorCode::ImageFormat, "video modes");
    let wide = Elf { is_64: true, machine: 62, ..elf(0) }.build();
    assert_eq!(error(&BootSource::new(&wide)), ErrorCode::ImageFormat, "64-bit");
}

#[test]
fn a_header_must_be_near_the_start_and_sum_to_zero() {
    let mut late = vec![0; 8192];
    late.extend(multiboot_flat(ADDRESSES, [0x20_0010, 0x20_0000, 0, 0, 0x20_0030], 64));
    assert_eq!(boot::detect(&late).unwrap_err().code(), ErrorCode::ImageFormat);
    let mut wrong = multiboot_flat(ADDRESSES, [0x20_0010, 0x20_0000, 0, 0, 0x20_0030], 64);
    wrong[24] ^= 1;
    assert_eq!(boot::detect(&wrong).unwrap_err().code(), ErrorCode::ImageFormat);
}

#[test]
fn long_command_lines_fit_up_to_a_page() {
    let image = elf(0).build();
    let with = |n: usize| {
        load(64, &BootSource { command_line: &"x".repeat(n), ..BootSource::new(&image) }).map(|_| ())
    };
    assert_eq!(with(4095), Ok(()));
    assert_eq!(with(4096), Err(ErrorCode::CommandLine));
}
