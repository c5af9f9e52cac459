//! ELF kernels by PVH and by the 64-bit boot protocol.

use squib_core::x86::Segment as CpuSegment;
use squib_core::{ErrorCode, GuestMemory};
use squib_vmm::boot::{self, BootSource, ImageKind, MemoryKind, MemoryMapEntry, Part, Protocol, layout};

use crate::image::{Elf, Segment, code};
use crate::{bytes_at, error, load, place, u32_at, u64_at};

#[test]
fn pvh_enters_protected_mode_with_start_info() {
    let image = Elf::pvh().build();
    assert_eq!(boot::detect(&image).unwrap(), ImageKind::Elf64);
    let acpi = [MemoryMapEntry { addr: 0x300_0000, len: 0x1000, kind: MemoryKind::Acpi }];
    let source = BootSource {
        initrd: Some(&[0x5a; 5001]),
        command_line: "console=ttyS0 é",
        rsdp: Some(0xe_0010),
        reserved: &acpi,
        ..BootSource::new(&image)
    };
    let (memory, state) = load(64, &source).unwrap();
    assert_eq!(state.info.protocol, Protocol::Pvh);
    assert_eq!((state.info.entry, state.registers.rip, state.registers.rflags), (0x10_0020, 0x10_0020, 2));
    assert_eq!((state.system.cr0 & 0x8000_0001, state.system.cr4, state.system.efer), (1, 0, 0));
    assert_eq!(state.system.cs, CpuSegment::flat_code(0x10, false));
    assert_eq!(state.system.ss, CpuSegment::flat_data(0x18));
    assert_eq!((state.system.tr.base, state.system.tr.limit), (0, 0x67));

    let info = state.registers.rbx;
    assert_eq!(
        (u32_at(&memory, info), u32_at(&memory, info + 4), u32_at(&memory, info + 12)),
        (0x336e_c578, 1, 1)
    );
    assert_eq!(u64_at(&memory, info + 32), 0xe_0010);
    let command_line = u64_at(&memory, info + 24);
    assert_eq!(bytes_at(&memory, command_line, 17), "console=ttyS0 é\0".as_bytes());

    let module = u64_at(&memory, info + 16);
    let (initrd, len) = (u64_at(&memory, module), u64_at(&memory, module + 8));
    assert_eq!((initrd, len), (0x3ff_e000, 5001), "at the top of memory, at a page");
    assert_eq!(place(&state, Part::Initrd), initrd..initrd + len);
    assert_eq!(bytes_at(&memory, initrd, 5001), [0x5a; 5001]);

    let (map, entries) = (u64_at(&memory, info + 40), u32_at(&memory, info + 48));
    let told: Vec<_> = (0..u64::from(entries))
        .map(|i| map + 24 * i)
        .map(|at| (u64_at(&memory, at), u64_at(&memory, at + 8), u32_at(&memory, at + 16)))
        .collect();
    assert_eq!(
        told,
        [
            (0, 0xa_0000, 1),
            (0xe_0000, 0x2_0000, 2),
            (0x10_0000, 0x2f0_0000, 1),
            (0x300_0000, 0x1000, 3),
            (0x300_1000, 0xff_f000, 1)
        ]
    );
}

#[test]
fn segments_are_loaded_and_their_rest_is_zero() {
    let memory = GuestMemory::new(64 << 20).unwrap();
    memory.fill(0, 0xee, 64 << 20).unwrap();
    boot::load(&memory, &BootSource::new(&Elf::pvh().build())).unwrap();
    assert_eq!(bytes_at(&memory, 0x10_0000, code().len()), code());
    assert_eq!(bytes_at(&memory, 0x20_0000 + 4998, 4), [4998u32 as u8, 4999u32 as u8, 0, 0]);
    assert_eq!(bytes_at(&memory, 0x20_ffff, 2), [0, 0xee]);
}

#[test]
fn the_64_bit_protocol_enters_long_mode_with_boot_params() {
    let image = Elf::kernel().build();
    let source = BootSource {
        initrd: Some(&[1; 4096]),
        command_line: "quiet",
        rsdp: Some(0xe_0010),
        ..BootSource::new(&image)
    };
    let (memory, state) = load(64, &source).unwrap();
    assert_eq!(state.info.protocol, Protocol::Linux64);
    assert_eq!(state.registers.rip, 0x10_0010);
    assert_eq!(state.system.cs, CpuSegment::flat_code(0x10, true));
    assert_eq!(state.system.efer, 0x500);
    assert_eq!(state.system.cr4, 0x20);
    assert_eq!(state.system.cr0 & 0x8000_0001, 0x8000_0001);

    let params = state.registers.rsi;
    assert_eq!(bytes_at(&memory, params + 0x1fe, 2), [0x55, 0xaa]);
    assert_eq!(bytes_at(&memory, params + 0x202, 4), *b"HdrS");
    assert_eq!(bytes_at(&memory, params + 0x210, 2), [0xff, 1]);
    assert_eq!(bytes_at(&memory, u32_at(&memory, params + 0x228).into(), 6), *b"quiet\0");
    assert_eq!(u32_at(&memory, params + 0x218), 0x3ff_f000);
    assert_eq!(u32_at(&memory, params + 0x21c), 4096);
    assert_eq!(u64_at(&memory, params + 0x70), 0xe_0010);
    assert_eq!(bytes_at(&memory, params + 0x1e8, 1), [3]);
    let last = params + 0x2d0 + 2 * 20;
    assert_eq!(
        (u64_at(&memory, last), u64_at(&memory, last + 8), u32_at(&memory, last + 16)),
        (0x10_0000, 63 << 20, 1)
    );
}

/// Walks 2 MiB page tables as the processor would.
fn translate(memory: &GuestMemory, cr3: u64, addr: u64) -> Option<u64> {
    let entry = |table: u64, shift: u32| {
        let entry = u64_at(memory, table + (addr >> shift & 511) * 8);
        (entry & 3 == 3).then_some(entry)
    };
    let pointers = entry(cr3, 39)? & !0xfff;
    let directory = entry(pointers, 30)? & !0xfff;
    let page = entry(directory, 21)?;
    assert_eq!(page & 0x80, 0x80, "2 MiB pages");
    Some((page & !0x1f_ffff) + (addr & 0x1f_ffff))
}

#[test]
fn page_tables_map_memory_to_itself() {
    let memory = GuestMemory::with_regions(&[(0, 64 << 20), (1 << 32, 3 << 20), (6 << 30, 1 << 20)]).unwrap();
    let image = Elf::kernel().build();
    let state = boot::load(&memory, &BootSource::new(&image)).unwrap();
    for addr in [0, 0x10_0010, 0x3ff_ffff, 0xfee0_0020, 0xffff_ffff, 1 << 32, (6 << 30) + 0xf_ffff] {
        assert_eq!(translate(&memory, state.system.cr3, addr), Some(addr), "{addr:#x}");
    }
    for addr in [7 << 30, 64 << 30, 1 << 39] {
        assert_eq!(translate(&memory, state.system.cr3, addr), None, "{addr:#x}");
    }
}

#[test]
fn the_gdt_holds_what_the_segment_registers_hold() {
    let image = Elf::kernel().build();
    let (memory, state) = load(64, &BootSource::new(&image)).unwrap();
    let gdt = state.system.gdt;
    assert_eq!(gdt.limit, 0x2f);
    assert_eq!(u64_at(&memory, gdt.base), 0);
    assert_eq!(u64_at(&memory, gdt.base + u64::from(state.system.cs.selector)), 0x00af_9b00_0000_ffff);
    assert_eq!(u64_at(&memory, gdt.base + u64::from(state.system.ds.selector)), 0x00cf_9300_0000_ffff);
}

#[test]
fn an_entry_may_be_virtual() {
    let image = Elf { entry: 0xffff_ffff_8010_0010, ..Elf::kernel() }.build();
    assert_eq!(load(64, &BootSource::new(&image)).unwrap().1.registers.rip, 0x10_0010);
}

#[test]
fn a_32_bit_kernel_goes_by_pvh_only() {
    let image = Elf { pvh_note: Some(0x10_0020u64.to_le_bytes().to_vec()), ..Elf::kernel_32() }.build();
    assert_eq!(boot::detect(&image).unwrap(), ImageKind::Elf32);
    assert_eq!(load(64, &BootSource::new(&image)).unwrap().1.info.protocol, Protocol::Pvh);
    let linux = BootSource { protocol: Some(Protocol::Linux64), ..BootSource::new(&image) };
    assert_eq!(error(&linux), ErrorCode::ImageFormat);
    assert_eq!(error(&BootSource::new(&Elf::kernel_32().build())), ErrorCode::ImageFormat);
}

#[test]
fn the_protocol_can_be_chosen() {
    let image = Elf::pvh().build();
    let source = BootSource { protocol: Some(Protocol::Linux64), ..BootSource::new(&image) };
    assert_eq!(load(64, &source).unwrap().1.info.protocol, Protocol::Linux64);
    let plain = Elf::kernel().build();
    for protocol in [Protocol::Pvh, Protocol::Multiboot] {
        let source = BootSource { protocol: Some(protocol), ..BootSource::new(&plain) };
        assert_eq!(error(&source), ErrorCode::ImageFormat);
    }
}

#[test]
fn an_image_at_an_odd_address_loads() {
    let mut bytes = vec![0];
    bytes.extend(Elf::pvh().build());
    load(64, &BootSource::new(&bytes[1..])).unwrap();
}

#[test]
fn kernels_that_do_not_fit_are_refused() {
    let with = |change: fn(&mut Elf)| {
        let mut elf = Elf::pvh();
        change(&mut elf);
        error(&BootSource::new(&elf.build()))
    };
    assert_eq!(with(|e| e.segments[1].memory_size = 4999), ErrorCode::ImageFormat, "smaller in memory");
    assert_eq!(with(|e| e.segments[1].memory_size = 63 << 20), ErrorCode::ImageTooLarge);
    assert_eq!(with(|e| e.segments[1].memory_size = 1 << 40), ErrorCode::MemoryRange);
    assert_eq!(
        with(|e| e.segments[1].memory_size = u64::MAX),
        ErrorCode::ImageFormat,
        "leaves the address space"
    );
    assert_eq!(with(|e| e.segments[1].addr = 0x10_0100), ErrorCode::ImageFormat, "overlaps the other");
    assert_eq!(with(|e| e.segments[1].addr = 0x400_0000), ErrorCode::ImageTooLarge);
    assert_eq!(with(|e| e.segments[1].addr = 0xfee0_0000), ErrorCode::MemoryRange);
    assert_eq!(with(|e| e.segments[1].addr = 0x9_f000), ErrorCode::MemoryRange, "the legacy hole");
    assert_eq!(with(|e| e.segments[1].addr = layout::COMMAND_LINE), ErrorCode::MemoryRange);
    assert_eq!(with(|e| e.segments.clear()), ErrorCode::ImageFormat);
    assert_eq!(with(|e| e.segments = vec![Segment::new(0x10_0000, vec![]); 3]), ErrorCode::ImageFormat);
    assert_eq!(with(|e| e.pvh_note = Some(0x30_0000u32.to_le_bytes().to_vec())), ErrorCode::ImageFormat);
    assert_eq!(with(|e| e.pvh_note = Some(vec![1, 2])), ErrorCode::ImageFormat, "a short note");
    assert_eq!(with(|e| e.machine = 183), ErrorCode::ImageFormat, "aarch64");
    assert_eq!(with(|e| e.kind = 3), ErrorCode::ImageFormat, "position-independent");
    assert_eq!(with(|e| *e = Elf { entry: 0x30_0000, ..Elf::kernel() }), ErrorCode::ImageFormat);
    let many =
        |e: &mut Elf| e.segments = (0..65).map(|i| Segment::new(0x10_0000 + i * 16, vec![0; 16])).collect();
    assert_eq!(with(many), ErrorCode::ImageFormat);
}

#[test]
fn files_that_are_cut_off_are_refused() {
    let image = Elf::pvh().build();
    for len in [0, 1, 4, 5, 63, 64, 100, 0x1000, image.len() - 17] {
        let error = error(&BootSource::new(&image[..len]));
        assert_eq!(error, ErrorCode::ImageFormat, "{len} bytes");
    }
}

#[test]
fn a_segment_may_not_lie_in_a_reserved_range() {
    let image = Elf::pvh().build();
    let reserved = [MemoryMapEntry { addr: 0x10_1000, len: 1, kind: MemoryKind::Reserved }];
    assert_eq!(error(&BootSource { reserved: &reserved, ..BootSource::new(&image) }), ErrorCode::MemoryRange);
}

#[test]
fn command_lines_are_checked() {
    let image = Elf::pvh().build();
    let with =
        |line: &str| load(64, &BootSource { command_line: line, ..BootSource::new(&image) }).map(|_| ());
    assert_eq!(with(&"x".repeat(2047)), Ok(()));
    assert_eq!(with(&"x".repeat(2048)), Err(ErrorCode::CommandLine));
    assert_eq!(with("a\0b"), Err(ErrorCode::CommandLine));
}

#[test]
fn an_initial_ram_disk_ends_where_32_bits_can_say() {
    let memory = GuestMemory::with_regions(&[(0, 8 << 20), (0xffff_0000, 0x2_0000)]).unwrap();
    let image = Elf::pvh().build();
    let state =
        boot::load(&memory, &BootSource { initrd: Some(&[1; 4096]), ..BootSource::new(&image) }).unwrap();
    assert_eq!(place(&state, Part::Initrd), 0xffff_e000..0xffff_f000);
}

#[test]
fn initial_ram_disks_are_checked() {
    let image = Elf::pvh().build();
    let with =
        |bytes: &[u8]| load(64, &BootSource { initrd: Some(bytes), ..BootSource::new(&image) }).map(|_| ());
    assert_eq!(with(&[]), Err(ErrorCode::ImageFormat));
    // The kernel ends at 0x21_0000.
    assert_eq!(with(&vec![1; (64 << 20) - 0x21_0000]), Ok(()));
    assert_eq!(with(&vec![1; (64 << 20) - 0x21_0000 + 1]), Err(ErrorCode::ImageTooLarge));
    assert_eq!(with(&vec![1; 65 << 20]), Err(ErrorCode::ImageTooLarge));
}
