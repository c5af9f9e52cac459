//! Firmware: a ROM at the top of the first 4 GiB, entered at the reset vector (Intel SDM vol. 3, 10.1.4).

use std::ops::Range;

use squib_core::memory::HIGH_RAM_START;
use squib_core::x86::{Registers, Segment as SegmentRegister, SystemRegisters, bits};
use squib_core::{Error, ErrorCode, Result};

use super::elf::{Executable, Segment};
use super::memory_map::{MemoryKind, MemoryMapEntry};
use super::{BootSource, Protocol, cpu, format_error, layout};

/// Where the processor begins.
const RESET_VECTOR: u64 = 0xffff_fff0;

/// Firmware comes in multiples of so many bytes.
const UNIT: usize = 64 << 10;
/// Most bytes of firmware: below it, the local APICs' window ends.
const MAX: usize = 16 << 20;
/// Of the end of a ROM, as much as this is found below 1 MiB too, where real mode reaches it.
const SHADOW_MAX: usize = 256 << 10;

/// Where firmware of `len` bytes lies.
///
/// # Errors
/// [`ErrorCode::ImageFormat`] unless `len` is a multiple of 64 KiB from 64 KiB to 16 MiB.
pub fn range(len: usize) -> Result<Range<u64>> {
    if len == 0 || !len.is_multiple_of(UNIT) || len > MAX {
        return Err(format_error(format!(
            "firmware of {len} bytes: a ROM has a multiple of 64 KiB, at most 16 MiB"
        )));
    }
    Ok(HIGH_RAM_START - len as u64..HIGH_RAM_START)
}

/// The ROM at its [`range`], where there has to be memory, and the shadow of its end below 1 MiB.
pub(super) fn executable<'a>(image: &'a [u8], source: &BootSource<'_>) -> Result<Executable<'a>> {
    if source.initrd.is_some() || !source.command_line.is_empty() {
        let message = "firmware takes no initial RAM disk and no command line";
        return Err(Error::new(ErrorCode::InvalidArgument, message));
    }
    let rom = range(image.len())?;
    let shadowed = &image[image.len() - image.len().min(SHADOW_MAX)..];
    let shadow = layout::LEGACY_HOLE.end - shadowed.len() as u64;
    let segment = |addr, bytes| Segment { addr, virtual_addr: addr, bytes, zeros: 0 };
    let segments = vec![segment(rom.start, image), segment(shadow, shadowed)];
    Ok(Executable { is_64: false, entry: RESET_VECTOR, pvh_entry: None, segments })
}

/// What the memory map says of the ROM of `source`.
pub(super) fn reserved(source: &BootSource<'_>) -> Result<Option<MemoryMapEntry>> {
    if source.protocol != Some(Protocol::Firmware) {
        return Ok(None);
    }
    let rom = range(source.kernel.len())?;
    Ok(Some(MemoryMapEntry { addr: rom.start, len: rom.end - rom.start, kind: MemoryKind::Reserved }))
}

/// The state after reset (Intel SDM vol. 3, table 10-1).
pub(super) fn reset() -> (Registers, SystemRegisters) {
    let system = cpu::real16(0xf000);
    let cs = SegmentRegister { base: RESET_VECTOR & !0xffff, ..system.cs };
    let cr0 = bits::CR0_CD | bits::CR0_NW | bits::CR0_ET;
    (cpu::registers(RESET_VECTOR & 0xffff), SystemRegisters { cs, cr0, ..system })
}

#[cfg(test)]
mod tests {
    use super::*;
    use squib_core::GuestMemory;

    fn source(rom: &[u8]) -> BootSource<'_> {
        BootSource { protocol: Some(Protocol::Firmware), ..BootSource::new(rom) }
    }

    #[test]
    fn a_rom_ends_at_4_gib_and_at_1_mib() {
        let rom: Vec<u8> = (0..512 << 10).map(|i| (i >> 16) as u8).collect();
        let at = range(rom.len()).unwrap();
        assert_eq!(at, 0xfff8_0000..1 << 32);
        let memory = GuestMemory::with_regions(&[(0, 2 << 20), (at.start, at.end - at.start)]).unwrap();
        let state = super::super::load(&memory, &source(&rom)).unwrap();
        assert_eq!(state.info.entry, 0xffff_fff0);
        assert_eq!((state.system.cs.selector, state.registers.rip), (0xf000, 0xfff0));
        for (addr, byte) in [(at.start, 0), (0xffff_ffff, 7), (0xc_0000, 4), (0xf_ffff, 7), (0xb_ffff, 0)] {
            let mut got = [0];
            memory.read(addr, &mut got).unwrap();
            assert_eq!(got[0], byte, "{addr:#x}");
        }
        assert!(!state.info.memory_map.is_ram(&(at.start..at.start + 1)));
    }

    #[test]
    fn what_is_no_rom_is_refused() {
        for len in [0, 1, UNIT - 1, UNIT + 1, MAX + UNIT] {
            assert_eq!(range(len).unwrap_err().code(), ErrorCode::ImageFormat, "{len}");
        }
        let memory = GuestMemory::new(2 << 20).unwrap();
        let rom = vec![0; UNIT];
        let code = |source| super::super::load(&memory, &source).unwrap_err().code();
        assert_eq!(code(source(&rom)), ErrorCode::MemoryRange, "no memory at the top");
        assert_eq!(code(BootSource { command_line: "x", ..source(&rom) }), ErrorCode::InvalidArgument);
    }
}
