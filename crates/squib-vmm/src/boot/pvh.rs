//! Xen's PVH entry (Xen, docs/misc/pvh.pandoc and public/arch-x86/hvm/start_info.h).

use squib_core::Result;
use squib_core::x86::{Registers, SystemRegisters};

use super::bytes::Structure;
use super::elf::Executable;
use super::memory_map::{MAX_MEMORY_MAP_ENTRIES, MemoryMap, MemoryMapEntry};
use super::placement::{Part, Placer};
use super::{BootSource, Kernel, command_line, cpu, initrd, layout};

/// `XEN_HVM_START_MAGIC_VALUE`.
const MAGIC: u32 = 0x336e_c578;
/// The version that has the memory map.
const VERSION: u32 = 1;

/// Size of `hvm_start_info` version 1.
const START_INFO_SIZE: usize = 56;
/// Size of `hvm_modlist_entry`, which follows it here.
const MODULE_SIZE: usize = 32;
/// Size of `hvm_memmap_table_entry`.
const MAP_ENTRY_SIZE: usize = 24;
const _: () = assert!(MAP_ENTRY_SIZE * MAX_MEMORY_MAP_ENTRIES <= 4096);

pub(super) fn load(
    placer: &mut Placer<'_>,
    map: &MemoryMap,
    source: &BootSource<'_>,
    kernel: &Kernel<'_>,
    executable: &Executable<'_>,
) -> Result<(Registers, SystemRegisters)> {
    let entry = executable.pvh_entry()?;
    let system = cpu::protected32(placer)?;
    let command_line = command_line::put(placer, source.command_line, kernel.command_line_max())?;
    placer.put(Part::MemoryMap, layout::MEMORY_MAP, &memory_map(map))?;

    let mut info = Structure::<{ START_INFO_SIZE + MODULE_SIZE }>::new();
    info.put(0, MAGIC.to_le_bytes());
    info.put(4, VERSION.to_le_bytes());
    info.put(24, command_line.to_le_bytes());
    info.put(32, source.rsdp.unwrap_or(0).to_le_bytes());
    info.put(40, layout::MEMORY_MAP.to_le_bytes());
    info.put(48, (map.entries().len() as u32).to_le_bytes());
    if let Some(initrd) = initrd::put(placer, source.initrd, kernel.initrd_addr_max())? {
        info.put(12, 1u32.to_le_bytes());
        info.put(16, (layout::BOOT_INFO + START_INFO_SIZE as u64).to_le_bytes());
        info.put(START_INFO_SIZE, initrd.start.to_le_bytes());
        info.put(START_INFO_SIZE + 8, (initrd.end - initrd.start).to_le_bytes());
    }
    placer.put(Part::BootInfo, layout::BOOT_INFO, &info.0)?;
    Ok((Registers { rbx: layout::BOOT_INFO, ..cpu::registers(entry) }, system))
}

/// The map as `hvm_memmap_table_entry` structures.
fn memory_map(map: &MemoryMap) -> Vec<u8> {
    let entry = |e: &MemoryMapEntry| {
        let mut entry = Structure::<MAP_ENTRY_SIZE>::new();
        entry.put(0, e.addr.to_le_bytes());
        entry.put(8, e.len.to_le_bytes());
        entry.put(16, (e.kind as u32).to_le_bytes());
        entry.0
    };
    map.entries().iter().flat_map(entry).collect()
}
