//! Boot: puts a kernel or a bare program into guest memory and says how the first vCPU enters it.
//!
//! Everything here is a function of its input: images come as bytes, memory as [`GuestMemory`], and the result
//! is a [`BootState`] that the machine gives to its boot vCPU. All of the input is taken to be hostile. See
//! `docs/design/boot.md`.

pub mod arm64;
mod bytes;
mod bzimage;
mod command_line;
mod cpu;
mod elf;
mod flat;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod initrd;
pub mod layout;
mod linux64;
mod memory_map;
mod multiboot;
mod placement;
mod pvh;
pub mod rom;
mod unpack;

use std::borrow::Cow;

use squib_core::x86::{Registers, SystemRegisters, X86State};
use squib_core::{Error, ErrorCode, GuestMemory, Result};

use bzimage::SetupHeader;
use elf::Executable;
use placement::Placer;

pub use flat::{Flat, FlatMode};
pub use memory_map::{MAX_MEMORY_MAP_ENTRIES, MemoryKind, MemoryMap, MemoryMapEntry};
pub use placement::{Part, Placement};

/// What an image looks like from its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ImageKind {
    /// A compressed Linux kernel with its setup header (Linux, Documentation/arch/x86/boot.rst).
    BzImage,
    /// A 64-bit ELF file.
    Elf64,
    /// A 32-bit ELF file.
    Elf32,
    /// A Linux kernel for aarch64 (Linux, Documentation/arch/arm64/booting.rst).
    Arm64Image,
    /// No ELF file, but a multiboot 1 header that says where the image goes (Multiboot Specification 0.6.96,
    /// 3.1.3).
    Multiboot,
}

/// How the guest is entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Protocol {
    /// Xen's PVH entry: 32-bit protected mode, `hvm_start_info` in EBX (Xen, docs/misc/pvh.pandoc).
    Pvh,
    /// Linux's 64-bit boot protocol: long mode, `boot_params` in RSI (Documentation/arch/x86/boot.rst).
    Linux64,
    /// Multiboot 1: 32-bit protected mode, the information structure in EBX.
    Multiboot,
    /// Linux's boot protocol on aarch64, the only one there: EL1, a device tree in X0 (Documentation/arch/arm64/booting.rst).
    Arm64,
    /// None: the image is a ROM, which the processor enters as after reset. Never chosen unasked, and for memory that
    /// has its [`rom::range`].
    Firmware,
    /// No protocol at all: the image is copied to an address and entered there. Never chosen unasked.
    Flat(Flat),
}

/// What to boot.
#[derive(Debug, Clone, Copy)]
pub struct BootSource<'a> {
    /// The kernel or program image.
    pub kernel: &'a [u8],
    /// Initial RAM disk, which is the first and only module for multiboot. Not for [`Protocol::Flat`] and
    /// [`Protocol::Firmware`].
    pub initrd: Option<&'a [u8]>,
    /// Kernel command line, passed on byte for byte. Not for [`Protocol::Flat`] and [`Protocol::Firmware`].
    pub command_line: &'a str,
    /// The protocol; `None` takes PVH where the image has its note, else multiboot where it has that header,
    /// else the 64-bit boot protocol.
    pub protocol: Option<Protocol>,
    /// Guest-physical address of the ACPI root pointer, for the protocols that pass it on. The caller writes
    /// the tables; [`layout::FIRMWARE`] is kept free for them.
    pub rsdp: Option<u64>,
    /// Further ranges that the guest must not take for free memory, of any kind but RAM.
    pub reserved: &'a [MemoryMapEntry],
}

impl<'a> BootSource<'a> {
    /// `kernel` alone.
    pub const fn new(kernel: &'a [u8]) -> Self {
        Self { kernel, initrd: None, command_line: "", protocol: None, rsdp: None, reserved: &[] }
    }
}

/// The state in which the boot vCPU enters the guest.
#[derive(Debug, Clone)]
pub struct BootState {
    /// General-purpose registers, instruction pointer, flags.
    pub registers: Registers,
    /// Segments and control registers. The local APIC is where reset puts it.
    pub system: SystemRegisters,
    /// What was loaded.
    pub info: BootInfo,
}

impl BootState {
    /// Puts the state into a vCPU, and where a kernel is entered without firmware, what that would leave in
    /// model-specific registers. What else the state does not speak of stays as reset has it.
    ///
    /// # Errors
    /// What the backend reports.
    pub fn apply(&self, cpu: &mut dyn X86State) -> Result<()> {
        let apic_base = cpu.system_registers()?.apic_base;
        cpu.set_system_registers(&SystemRegisters { apic_base, ..self.system })?;
        if !matches!(self.info.protocol, Protocol::Flat(_) | Protocol::Firmware) {
            cpu::set_memory_types(cpu)?;
        }
        cpu.set_registers(&self.registers)
    }
}

/// What was loaded, for people and for inspection.
#[derive(Debug, Clone)]
pub struct BootInfo {
    /// How the guest is entered.
    pub protocol: Protocol,
    /// Guest-physical address of the first instruction.
    pub entry: u64,
    /// What lies where, in the order of loading.
    pub placements: Vec<Placement>,
    /// The memory map that the guest was given.
    pub memory_map: MemoryMap,
    /// Version text of a bzImage, such as `6.12.1 (builder@host) #1 SMP`.
    pub kernel_version: Option<String>,
    /// Size in bytes of the kernel after unpacking; the image's own size where nothing was packed.
    pub unpacked_size: u64,
}

/// Says what `image` looks like; [`load`] decides whether it is well-formed.
///
/// # Errors
/// [`ErrorCode::ImageFormat`] when it is nothing that can be recognised. A flat binary cannot be.
pub fn detect(image: &[u8]) -> Result<ImageKind> {
    if image.starts_with(b"\x7fELF") {
        return match image.get(4) {
            Some(1) => Ok(ImageKind::Elf32),
            Some(2) => Ok(ImageKind::Elf64),
            _ => Err(format_error(
                "the ELF file is neither 32-bit nor 64-bit, or cut off after its first bytes",
            )),
        };
    }
    if SetupHeader::is_present(image) {
        return Ok(ImageKind::BzImage);
    }
    if arm64::is_image(image) {
        return Ok(ImageKind::Arm64Image);
    }
    if multiboot::Header::find(image).is_some_and(multiboot::Header::has_addresses) {
        return Ok(ImageKind::Multiboot);
    }
    Err(format_error(format!(
        "an image of {} bytes that is no bzImage, ELF or multiboot kernel; for a flat binary say where it goes",
        image.len()
    )))
}

/// Puts `source` into `memory`.
///
/// On an error the contents of guest memory are unspecified, and nothing else has happened.
///
/// # Errors
/// [`ErrorCode::ImageFormat`] for an image that is truncated, malformed, or not for the protocol,
/// [`ErrorCode::ImageTooLarge`] when the kernel or the initial RAM disk needs more RAM than there is,
/// [`ErrorCode::MemoryRange`] when an image wants to be where there never is RAM or where boot data lies,
/// [`ErrorCode::CommandLine`] for one that is too long or holds a NUL, and [`ErrorCode::InvalidArgument`] for
/// options that do not go together or `reserved` ranges that overlap.
pub fn load(memory: &GuestMemory, source: &BootSource<'_>) -> Result<BootState> {
    let reserved: Vec<_> = source.reserved.iter().copied().chain(rom::reserved(source)?).collect();
    let memory_map = MemoryMap::new(memory, &reserved)?;
    let kernel = Kernel::open(source, memory.size())?;
    let (protocol, executable) = choose(&kernel, source)?;
    let mut placer = match protocol {
        Protocol::Flat(_) | Protocol::Firmware => Placer::for_flat(memory, &memory_map, source.reserved),
        _ => Placer::new(memory, &memory_map),
    };
    executable.load(&mut placer)?;
    let (registers, system) = match protocol {
        Protocol::Pvh => pvh::load(&mut placer, &memory_map, source, &kernel, &executable)?,
        Protocol::Linux64 => linux64::load(&mut placer, &memory_map, source, &kernel, &executable)?,
        Protocol::Multiboot => multiboot::load(&mut placer, &memory_map, source, &executable)?,
        Protocol::Firmware => rom::reset(),
        Protocol::Flat(flat) => flat::load(&mut placer, &memory_map, flat)?,
        Protocol::Arm64 => {
            let message = "an x86 guest is not booted by aarch64's protocol";
            return Err(Error::new(ErrorCode::InvalidArgument, message));
        }
    };
    Ok(BootState {
        registers,
        system,
        info: BootInfo {
            protocol,
            entry: system.cs.base + registers.rip,
            placements: placer.into_placements(),
            memory_map,
            kernel_version: kernel.setup.as_ref().and_then(|s| s.kernel_version(source.kernel)),
            unpacked_size: kernel.image.len() as u64,
        },
    })
}

/// A kernel as it is after unpacking, with its setup header if it came in a bzImage.
struct Kernel<'a> {
    setup: Option<SetupHeader>,
    image: Cow<'a, [u8]>,
}

impl<'a> Kernel<'a> {
    /// Unpacks a bzImage to at most `limit` bytes; everything else is taken as it is.
    fn open(source: &BootSource<'a>, limit: u64) -> Result<Self> {
        let raw = matches!(source.protocol, Some(Protocol::Flat(_) | Protocol::Firmware));
        match if raw { None } else { Some(detect(source.kernel)?) } {
            Some(ImageKind::BzImage) => {}
            Some(ImageKind::Arm64Image) => {
                return Err(format_error("the kernel is for aarch64, and this backend's guests are x86"));
            }
            _ => return Ok(Self { setup: None, image: Cow::Borrowed(source.kernel) }),
        }
        let setup = SetupHeader::parse(source.kernel)?;
        let image = unpack::unpack(setup.payload(source.kernel)?, limit)?;
        Ok(Self { setup: Some(setup), image })
    }

    /// Longest command line it takes, in bytes without the final NUL.
    fn command_line_max(&self) -> usize {
        self.setup.as_ref().map_or(command_line::LINUX_MAX, SetupHeader::command_line_max)
    }

    /// Highest address that a byte of the initial RAM disk may have.
    fn initrd_addr_max(&self) -> u64 {
        self.setup.as_ref().map_or(u64::from(u32::MAX), SetupHeader::initrd_addr_max)
    }
}

/// Settles the protocol, and what of `kernel` goes where.
fn choose<'k>(kernel: &'k Kernel<'_>, source: &BootSource<'_>) -> Result<(Protocol, Executable<'k>)> {
    let image = kernel.image.as_ref();
    let multiboot = || {
        let none = || format_error("the image has no multiboot header in its first 8192 bytes");
        multiboot::Header::find(image).ok_or_else(none)?.executable(image)
    };
    match source.protocol {
        Some(Protocol::Flat(flat)) => Ok((Protocol::Flat(flat), flat::executable(image, source, flat)?)),
        Some(Protocol::Firmware) => Ok((Protocol::Firmware, rom::executable(image, source)?)),
        Some(Protocol::Multiboot) => Ok((Protocol::Multiboot, multiboot()?)),
        Some(Protocol::Arm64) => {
            Err(Error::new(ErrorCode::InvalidArgument, "an x86 guest is not booted by aarch64's protocol"))
        }
        Some(protocol) => Ok((protocol, elf::parse(image)?)),
        None if !image.starts_with(b"\x7fELF") => Ok((Protocol::Multiboot, multiboot()?)),
        None => {
            let executable = elf::parse(image)?;
            if executable.pvh_entry.is_some() {
                Ok((Protocol::Pvh, executable))
            } else if multiboot::Header::find(image).is_some() {
                Ok((Protocol::Multiboot, multiboot()?))
            } else {
                Ok((Protocol::Linux64, executable))
            }
        }
    }
}

fn format_error(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::ImageFormat, message)
}
