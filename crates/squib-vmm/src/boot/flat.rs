//! Flat binaries: bytes that are copied to an address and entered.

use squib_core::x86::Registers;
use squib_core::{Error, ErrorCode, GuestMemory, Result};

use super::memory_map::MemoryMap;
use super::placement::{Part, Placer};
use super::{BootInfo, BootSource, BootState, Protocol, cpu, format_error, layout};

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

pub(super) fn load(
    memory: &GuestMemory,
    map: MemoryMap,
    source: &BootSource<'_>,
    flat: Flat,
) -> Result<BootState> {
    if source.initrd.is_some() || !source.command_line.is_empty() {
        let message = "a flat binary takes no initial RAM disk and no command line";
        return Err(Error::new(ErrorCode::InvalidArgument, message));
    }
    let len = source.kernel.len() as u64;
    if flat.entry.wrapping_sub(flat.addr) >= len {
        let end = flat.addr.saturating_add(len);
        return Err(format_error(format!(
            "the entry {:#x} is not in the image at {:#x}..{end:#x}",
            flat.entry, flat.addr
        )));
    }
    let highest = match flat.mode {
        FlatMode::Real16 => 0xf_ffff,
        FlatMode::Protected32 => u64::from(u32::MAX),
        FlatMode::Long64 => layout::IDENTITY_MAP_END - 1,
    };
    if flat.entry > highest {
        let message = format!(
            "the entry {:#x} cannot be reached in this mode: the highest is {highest:#x}",
            flat.entry
        );
        return Err(Error::new(ErrorCode::MemoryRange, message));
    }
    let mut placer = Placer::for_flat(memory, &map, source.reserved);
    placer.put(Part::Kernel, flat.addr, source.kernel)?;
    let (registers, system) = match flat.mode {
        FlatMode::Real16 => {
            let code = (flat.entry >> 4) as u16 & 0xf000;
            (cpu::registers(flat.entry & 0xffff), cpu::real16(code))
        }
        FlatMode::Protected32 => (with_stack(&mut placer, flat.entry)?, cpu::protected32(&mut placer)?),
        FlatMode::Long64 => (with_stack(&mut placer, flat.entry)?, cpu::long64(&mut placer, &map)?),
    };
    Ok(BootState {
        registers,
        system,
        info: BootInfo {
            protocol: Protocol::Flat(flat),
            entry: flat.entry,
            placements: placer.into_placements(),
            memory_map: map,
            kernel_version: None,
            unpacked_size: len,
        },
    })
}

fn with_stack(placer: &mut Placer<'_>, entry: u64) -> Result<Registers> {
    placer.claim(Part::Stack, layout::STACK_TOP - STACK_SIZE, STACK_SIZE)?;
    Ok(Registers { rsp: layout::STACK_TOP, ..cpu::registers(entry) })
}
