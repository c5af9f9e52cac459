//! Linux on aarch64 (Linux, Documentation/arch/arm64/booting.rst): an `Image`, as it is or packed with gzip, entered with the
//! address of a device tree in X0.

use std::borrow::Cow;

use squib_core::arm64::{PSTATE_EL1_MASKED, Registers};
use squib_core::{Error, ErrorCode, GuestMemory, Region, Result};

use super::bytes::{u32_at, u64_at};
use super::command_line;
use super::memory_map::MemoryMap;
use super::placement::{Part, Placer};
use super::{BootInfo, BootSource, ImageKind, Protocol, detect, format_error, unpack};
use crate::device_tree::{self, Chosen, Hardware};

/// The header's fields.
const TEXT_OFFSET: usize = 8;
const IMAGE_SIZE: usize = 16;
const FLAGS: usize = 24;
const MAGIC: (usize, u32) = (56, u32::from_le_bytes(*b"ARM\x64"));
const FLAG_BIG_ENDIAN: u64 = 1 << 0;

/// What the kernel's base is a multiple of.
const ALIGNMENT: u64 = 2 << 20;
/// The initial RAM disk lies in the same window as the kernel, which begins at a multiple of 1 GiB.
const WINDOW: u64 = 32 << 30;
const WINDOW_ALIGNMENT: u64 = 1 << 30;

/// The state in which the boot vCPU enters the kernel.
#[derive(Debug, Clone)]
pub struct Arm64BootState {
    /// General-purpose registers, PC and PSTATE. The memory management unit is off, as after reset.
    pub registers: Registers,
    /// What was loaded.
    pub info: BootInfo,
}

/// Whether `image` has the header of a kernel for aarch64.
pub(super) fn is_image(image: &[u8]) -> bool {
    u32_at(image, MAGIC.0) == Some(MAGIC.1)
}

/// Puts `source` and the device tree of `hardware` into `memory`.
///
/// On an error the contents of guest memory are unspecified, and nothing else has happened.
///
/// # Errors
/// [`ErrorCode::ImageFormat`] for an image that is truncated, malformed, or for another architecture,
/// [`ErrorCode::ImageTooLarge`] when the kernel or the initial RAM disk needs more RAM than there is,
/// [`ErrorCode::CommandLine`] for one that is too long or holds a NUL, and [`ErrorCode::InvalidArgument`] for another protocol
/// than [`Protocol::Arm64`], an ACPI root pointer, or `reserved` ranges.
pub fn load(
    memory: &GuestMemory,
    source: &BootSource<'_>,
    hardware: &Hardware<'_>,
) -> Result<Arm64BootState> {
    if !matches!(source.protocol, None | Some(Protocol::Arm64))
        || source.rsdp.is_some()
        || !source.reserved.is_empty()
    {
        return Err(Error::new(
            ErrorCode::InvalidArgument,
            "an aarch64 guest is booted by Linux's protocol alone, without ACPI and reserved memory",
        ));
    }
    let image = open(source.kernel, memory.size())?;
    command_line::check(source.command_line, command_line::LINUX_MAX)?;
    let memory_map = MemoryMap::new(memory, &[])?;
    let mut placer = Placer::new(memory, &memory_map);

    let ram = memory.regions().first().map_or(0, Region::guest_addr);
    let base = ram.next_multiple_of(ALIGNMENT);
    let entry = put_kernel(&mut placer, &image, base)?;
    let window = base / WINDOW_ALIGNMENT * WINDOW_ALIGNMENT;
    let last = window.saturating_add(WINDOW - 1);
    let initrd = match source.initrd {
        Some([]) => return Err(format_error("the initial RAM disk is empty")),
        Some(bytes) => {
            let addr = placer.put_high(Part::Initrd, bytes, last)?;
            Some(addr..addr + bytes.len() as u64)
        }
        None => None,
    };
    let chosen = Chosen { command_line: source.command_line, initrd };
    let tree = device_tree::build(memory, hardware, &chosen)?;
    let tree = placer.put_high(Part::DeviceTree, &tree, last)?;

    let mut registers = Registers { pc: entry, pstate: PSTATE_EL1_MASKED, ..Registers::default() };
    registers.x[0] = tree;
    Ok(Arm64BootState {
        registers,
        info: BootInfo {
            protocol: Protocol::Arm64,
            entry,
            placements: placer.into_placements(),
            memory_map,
            kernel_version: None,
            unpacked_size: image.len() as u64,
        },
    })
}

/// The `Image` in `kernel`, which may unpack to `limit` bytes.
fn open(kernel: &[u8], limit: u64) -> Result<Cow<'_, [u8]>> {
    let image =
        if kernel.starts_with(b"\x1f\x8b") { unpack::unpack(kernel, limit)? } else { Cow::Borrowed(kernel) };
    if is_image(&image) {
        return Ok(image);
    }
    let message = if image.get(4..8) == Some(b"zimg") {
        "the kernel is an EFI program that unpacks itself (zboot); give the Image or the Image.gz it was made from"
    } else if matches!(
        detect(&image),
        Ok(ImageKind::BzImage | ImageKind::Elf32 | ImageKind::Elf64 | ImageKind::Multiboot)
    ) {
        "the kernel is an ELF file or one for x86; an aarch64 guest boots an arm64 Image"
    } else {
        "the kernel is no arm64 Image: its header's magic number is missing"
    };
    Err(format_error(message))
}

/// Puts the kernel where it wants to be and returns its first instruction's address.
fn put_kernel(placer: &mut Placer<'_>, image: &[u8], base: u64) -> Result<u64> {
    let cut_off = || format_error("the arm64 Image is cut off in its header");
    let offset = u64_at(image, TEXT_OFFSET).ok_or_else(cut_off)?;
    let size = u64_at(image, IMAGE_SIZE).ok_or_else(cut_off)?;
    let flags = u64_at(image, FLAGS).ok_or_else(cut_off)?;
    if flags & FLAG_BIG_ENDIAN != 0 {
        return Err(format_error("the kernel is big-endian, which squib does not boot"));
    }
    if size == 0 {
        return Err(format_error("the arm64 Image does not tell its size: it is older than Linux 3.17"));
    }
    let entry = base
        .checked_add(offset)
        .ok_or_else(|| format_error("the arm64 Image wants to lie beyond all addresses"))?;
    let zeros = size.saturating_sub(image.len() as u64);
    placer.put_padded(Part::Kernel, entry, image, zeros)?;
    Ok(entry)
}
