//! Linux's 64-bit boot protocol (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol", and
//! Documentation/arch/x86/zero-page.rst).

use squib_core::x86::{Registers, SystemRegisters};
use squib_core::{Result, memory::PAGE_SIZE};

use super::bytes::Structure;
use super::bzimage;
use super::elf::Executable;
use super::memory_map::{MAX_MEMORY_MAP_ENTRIES, MemoryMap};
use super::placement::{Part, Placer};
use super::{BootSource, Kernel, command_line, cpu, format_error, initrd, layout};

// Fields of `boot_params`.
const ACPI_RSDP_ADDR: usize = 0x070;
const E820_ENTRIES: usize = 0x1e8;
const E820_TABLE: usize = 0x2d0;

/// Size of `boot_e820_entry`.
const E820_ENTRY_SIZE: usize = 20;
const _: () = assert!(E820_TABLE + E820_ENTRY_SIZE * MAX_MEMORY_MAP_ENTRIES <= PAGE_SIZE as usize);

/// `type_of_loader` of a boot loader without a number of its own.
const LOADER_UNDEFINED: u8 = 0xff;

pub(super) fn load(
    placer: &mut Placer<'_>,
    map: &MemoryMap,
    source: &BootSource<'_>,
    kernel: &Kernel<'_>,
    executable: &Executable<'_>,
) -> Result<(Registers, SystemRegisters)> {
    if !executable.is_64 {
        return Err(format_error("a 32-bit kernel cannot be entered by the 64-bit boot protocol"));
    }
    let entry = executable.physical_entry()?;
    let system = cpu::long64(placer, map)?;
    let command_line = command_line::put(placer, source.command_line, kernel.command_line_max())?;

    let mut params = Structure::<{ PAGE_SIZE as usize }>::new();
    match &kernel.setup {
        Some(setup) => setup.copy_to(&mut params.0),
        None => {
            params.put(bzimage::BOOT_FLAG, bzimage::BOOT_FLAG_VALUE.to_le_bytes());
            params.put(bzimage::HEADER, bzimage::HEADER_VALUE);
            params.put(bzimage::VERSION, bzimage::NEWEST_VERSION.to_le_bytes());
            params.put(bzimage::LOADFLAGS, [bzimage::LOADED_HIGH]);
            params.put(bzimage::CMDLINE_SIZE, (kernel.command_line_max() as u32).to_le_bytes());
        }
    }
    params.put(bzimage::TYPE_OF_LOADER, [LOADER_UNDEFINED]);
    params.put(bzimage::CMD_LINE_PTR, (command_line as u32).to_le_bytes());
    if let Some(initrd) = initrd::put(placer, source.initrd, kernel.initrd_addr_max())? {
        params.put(bzimage::RAMDISK_IMAGE, (initrd.start as u32).to_le_bytes());
        params.put(bzimage::RAMDISK_SIZE, ((initrd.end - initrd.start) as u32).to_le_bytes());
    }
    params.put(ACPI_RSDP_ADDR, source.rsdp.unwrap_or(0).to_le_bytes());
    params.put(E820_ENTRIES, [map.entries().len() as u8]);
    for (i, e) in map.entries().iter().enumerate() {
        let at = E820_TABLE + i * E820_ENTRY_SIZE;
        params.put(at, e.addr.to_le_bytes());
        params.put(at + 8, e.len.to_le_bytes());
        params.put(at + 16, (e.kind as u32).to_le_bytes());
    }
    placer.put(Part::BootInfo, layout::BOOT_INFO, &params.0)?;
    Ok((Registers { rsi: layout::BOOT_INFO, ..cpu::registers(entry) }, system))
}
