//! Flat binaries: bytes that are copied to an address and entered.

use squib_core::x86::{Registers, SystemRegisters};
use squib_core::{Error, ErrorCode, Result};

use super::elf::{Executable, Segment};
use super::memory_map::MemoryMap;
use super::placement::{Part, Placer};
use super::{BootSource, cpu, format_error, layout};

/// Bytes of stack below [`layout::STACK_TOP`].
const STACK_SIZE: u64 = 0x5000;

/// The processor mode in which a flat binary is entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FlatMode {
    /// Real mode. CS is the 64 KiB block that holds the entry, the other segments are 0: an entry at 0x7C00
    /// is 0000:7C00, one at 0xFFFF0 is F000:FFF0, as after reset.
    Real16,
    /// Protected mode without paging, all segments flat.
    Protected32,
    /// Long mode. The first 4 GiB, and RAM above up to [`layout::IDENTITY_MAP_END`], are mapped to themselves,
    /// writable, for ring 0.
    Long64,
}

/// Where a flat binary goes and how it is entered. In protected and long mode it has a GDT and 20 KiB of
/// stack; interrupts are off and there is no IDT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flat {
    /// Guest-physical address of its first byte.
    pub addr: u64,
    /// Guest-physical address of its first instruction, in the image. Below 1 MiB in real mode, below 4 GiB
    /// in protected mode.
    pub entry: u64,
    /// The mode.
    pub mode: FlatMode,
}

impl Flat {
    /// A binary that is entered at its first byte.
    pub const fn at(addr: u64, mode: FlatMode) -> Self {
        Self { addr, entry: addr, mode }
    }
}

/// The image as one segment.
pub(super) fn executable<'a>(image: &'a [u8], source: &BootSource<'_>, flat: Flat) -> Result<Executable<'a>> {
    if source.initrd.is_some() || !source.command_line.is_empty() {
        let message = "a flat binary takes no initial RAM disk and no command line";
        return Err(Error::new(ErrorCode::InvalidArgument, message));
    }
    let Flat { addr, entry, mode } = flat;
    if entry.wrapping_sub(addr) >= image.len() as u64 {
        let len = image.len();
        return Err(format_error(format!(
            "the entry {entry:#x} is not in the {len} bytes of the image at {addr:#x}"
        )));
    }
    let highest = match mode {
        FlatMode::Real16 => 0xf_ffff,
        FlatMode::Protected32 => u64::from(u32::MAX),
        FlatMode::Long64 => layout::IDENTITY_MAP_END - 1,
    };
    if entry > highest {
        let message =
            format!("the entry {entry:#x} cannot be reached in this mode: the highest is {highest:#x}");
        return Err(Error::new(ErrorCode::MemoryRange, message));
    }
    let segments = vec![Segment { addr, virtual_addr: addr, bytes: image, zeros: 0 }];
    Ok(Executable { is_64: mode == FlatMode::Long64, entry, pvh_entry: None, segments })
}

pub(super) fn load(
    placer: &mut Placer<'_>,
    map: &MemoryMap,
    flat: Flat,
) -> Result<(Registers, SystemRegisters)> {
    Ok(match flat.mode {
        FlatMode::Real16 => {
            let code = (flat.entry >> 4) as u16 & 0xf000;
            (cpu::registers(flat.entry & 0xffff), cpu::real16(code))
        }
        FlatMode::Protected32 => (with_stack(placer, flat.entry)?, cpu::protected32(placer)?),
        FlatMode::Long64 => (with_stack(placer, flat.entry)?, cpu::long64(placer, map)?),
    })
}

fn with_stack(placer: &mut Placer<'_>, entry: u64) -> Result<Registers> {
    placer.claim(Part::Stack, layout::STACK_TOP - STACK_SIZE, STACK_SIZE)?;
    Ok(Registers { rsp: layout::STACK_TOP, ..cpu::registers(entry) })
}
