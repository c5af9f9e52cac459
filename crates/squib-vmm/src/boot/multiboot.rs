//! Multiboot 1 (Multiboot Specification 0.6.96).

use squib_core::Result;
use squib_core::x86::{Registers, SystemRegisters};

use super::bytes::{Structure, u32_at};
use super::elf::{self, Executable, Segment};
use super::memory_map::{MAX_MEMORY_MAP_ENTRIES, MemoryMap, MemoryMapEntry};
use super::placement::{Part, Placer};
use super::{BootSource, command_line, cpu, format_error, initrd, layout};

/// The header lies in so many bytes from the start of the file (3.1).
const SEARCH: usize = 8192;
const HEADER_MAGIC: u32 = 0x1bad_b002;
/// What EAX holds at entry (3.2).
const LOADER_MAGIC: u32 = 0x2bad_b002;

// Header flags (3.1.2). Modules always start at a page and memory is always told, so bits 0 and 1 ask for nothing.
const REQUIRED: u32 = 0xffff;
const PAGE_ALIGN_MODULES: u32 = 1 << 0;
const MEMORY_INFO: u32 = 1 << 1;
const ADDRESSES: u32 = 1 << 16;

// Flags of the information structure (3.3).
const HAS_MEMORY: u32 = 1 << 0;
const HAS_COMMAND_LINE: u32 = 1 << 2;
const HAS_MODULES: u32 = 1 << 3;
const HAS_MEMORY_MAP: u32 = 1 << 6;
const HAS_LOADER_NAME: u32 = 1 << 9;

/// Size of the information structure up to the boot loader's name.
const INFO_SIZE: usize = 68;
/// Size of a module entry, which follows it here; then comes the loader's name, which ends in NUL.
const MODULE_SIZE: usize = 16;
const LOADER_NAME: [u8; 6] = *b"squib\0";
/// Size of an entry of the memory map.
const MAP_ENTRY_SIZE: usize = 24;
const _: () = assert!(MAP_ENTRY_SIZE * MAX_MEMORY_MAP_ENTRIES <= 4096);

/// The header of an image.
#[derive(Clone, Copy)]
pub(super) struct Header {
    flags: u32,
    /// Offset in the file.
    offset: usize,
}

impl Header {
    /// Finds the header.
    pub(super) fn find(image: &[u8]) -> Option<Self> {
        let end = image.len().min(SEARCH);
        (0..end).step_by(4).find_map(|offset| {
            if u32_at(&image[..end], offset)? != HEADER_MAGIC {
                return None;
            }
            let flags = u32_at(&image[..end], offset + 4)?;
            let checksum = u32_at(&image[..end], offset + 8)?;
            let sum = HEADER_MAGIC.wrapping_add(flags).wrapping_add(checksum);
            (sum == 0).then_some(Self { flags, offset })
        })
    }

    /// Whether the header itself says where the image goes.
    pub(super) fn has_addresses(self) -> bool {
        self.flags & ADDRESSES != 0
    }

    /// What to load from `image`, in which this header was found.
    pub(super) fn executable(self, image: &[u8]) -> Result<Executable<'_>> {
        let unknown = self.flags & REQUIRED & !(PAGE_ALIGN_MODULES | MEMORY_INFO);
        if unknown != 0 {
            return Err(format_error(format!(
                "the multiboot header requires features {unknown:#x}; squib aligns modules and tells memory, and has \
                 no video modes"
            )));
        }
        if self.has_addresses() {
            return self.by_addresses(image);
        }
        let executable = elf::parse(image)?;
        if executable.is_64 {
            return Err(format_error(
                "multiboot takes 32-bit ELF files: convert it with objcopy -O elf32-i386",
            ));
        }
        Ok(executable)
    }

    /// Reads the address fields (3.1.3).
    fn by_addresses(self, image: &[u8]) -> Result<Executable<'_>> {
        let field = |index: usize| {
            u32_at(image, self.offset + 12 + 4 * index)
                .ok_or_else(|| format_error("the image ends in the address fields of its multiboot header"))
        };
        let (header_addr, load_addr, load_end, bss_end) = (field(0)?, field(1)?, field(2)?, field(3)?);
        let wrong = || {
            format_error(format!(
                "the addresses in the multiboot header do not fit the file: header {header_addr:#x}, load \
                 {load_addr:#x} to {load_end:#x}, zeros to {bss_end:#x}"
            ))
        };
        let before = header_addr.checked_sub(load_addr).ok_or_else(wrong)?;
        let start = self.offset.checked_sub(before as usize).ok_or_else(wrong)?;
        let rest = &image[start..];
        let bytes = match load_end {
            0 => rest,
            end => rest.get(..end.checked_sub(load_addr).ok_or_else(wrong)? as usize).ok_or_else(wrong)?,
        };
        let load_end = u64::from(load_addr) + bytes.len() as u64;
        let zeros = match bss_end {
            0 => 0,
            end => u64::from(end).checked_sub(load_end).ok_or_else(wrong)?,
        };
        let addr = load_addr.into();
        let segments = vec![Segment { addr, virtual_addr: addr, bytes, zeros }];
        Ok(Executable { is_64: false, entry: field(4)?.into(), pvh_entry: None, segments })
    }
}

pub(super) fn load(
    placer: &mut Placer<'_>,
    map: &MemoryMap,
    source: &BootSource<'_>,
    executable: &Executable<'_>,
) -> Result<(Registers, SystemRegisters)> {
    let entry = executable.physical_entry()?;
    let system = cpu::protected32(placer)?;
    let command_line = command_line::put(placer, source.command_line, command_line::PAGE_MAX)?;
    let entries = memory_map(map);
    placer.put(Part::MemoryMap, layout::MEMORY_MAP, &entries)?;

    let modules = layout::BOOT_INFO as u32 + INFO_SIZE as u32;
    let mut flags = HAS_MEMORY | HAS_COMMAND_LINE | HAS_MEMORY_MAP | HAS_LOADER_NAME;
    let mut info = Structure::<{ INFO_SIZE + MODULE_SIZE + LOADER_NAME.len() }>::new();
    let (lower, upper) = memory_kib(map);
    info.put(4, lower.to_le_bytes());
    info.put(8, upper.to_le_bytes());
    info.put(16, (command_line as u32).to_le_bytes());
    if let Some(initrd) = initrd::put(placer, source.initrd, u32::MAX.into())? {
        flags |= HAS_MODULES;
        info.put(20, 1u32.to_le_bytes());
        info.put(24, modules.to_le_bytes());
        info.put(INFO_SIZE, (initrd.start as u32).to_le_bytes());
        info.put(INFO_SIZE + 4, (initrd.end as u32).to_le_bytes());
    }
    info.put(44, (entries.len() as u32).to_le_bytes());
    info.put(48, (layout::MEMORY_MAP as u32).to_le_bytes());
    info.put(64, (modules + MODULE_SIZE as u32).to_le_bytes());
    info.put(INFO_SIZE + MODULE_SIZE, LOADER_NAME);
    info.put(0, flags.to_le_bytes());
    placer.put(Part::BootInfo, layout::BOOT_INFO, &info.0)?;
    let registers = Registers { rax: LOADER_MAGIC.into(), rbx: layout::BOOT_INFO, ..cpu::registers(entry) };
    Ok((registers, system))
}

/// KiB of RAM from 0 on and from 1 MiB on, each up to the first hole.
fn memory_kib(map: &MemoryMap) -> (u32, u32) {
    let from = |start| map.ram().find(|r| r.contains(&start)).map_or(0, |r| r.end - start);
    let kib = |bytes: u64| u32::try_from(bytes >> 10).unwrap_or(u32::MAX);
    (kib(from(0)), kib(from(1 << 20)))
}

/// The map as a multiboot memory map; an entry's size field does not count itself.
fn memory_map(map: &MemoryMap) -> Vec<u8> {
    let entry = |e: &MemoryMapEntry| {
        let mut entry = Structure::<MAP_ENTRY_SIZE>::new();
        entry.put(0, (MAP_ENTRY_SIZE as u32 - 4).to_le_bytes());
        entry.put(4, e.addr.to_le_bytes());
        entry.put(12, e.len.to_le_bytes());
        entry.put(20, (e.kind as u32).to_le_bytes());
        entry.0
    };
    map.entries().iter().flat_map(entry).collect()
}
