//! Guests of squib's own: small bare-metal programs that exercise one thing each.
//!
//! They are assembled here with `iced-x86`, so neither an assembler nor a linker is needed to run the tests.
//! A backend's tests put one into memory and a vCPU with [`Guest::start`]; other languages read the files that
//! `cargo run -p squib-guests -- --out DIR` writes.
//!
//! A guest speaks through [`TEST_PORT`] and [`TEST_MMIO`], which no platform device claims, leaves what it
//! read at [`RESULTS`], and halts, or ends by the debug exit port.

mod asm;
mod catalogue;
mod elf;
mod exits;
mod hello;
mod interrupts;
mod linux;
mod start;

pub use catalogue::all;
pub use exits::{
    Hypercall, hlt, hypercall, mmio, mmio_across_page, mmio_instructions, mmio_sweep, msr, port_io,
    port_strings, self_modifying, spin, triple_fault, uart_flood, uart_hello,
};
pub use hello::hello;
pub use interrupts::{ApicTimer, apic_timer, external_interrupts, pit_timer, user_mode};
pub use linux::{LINUX_BANNER, LINUX_READY, linux_busybox_initrd, linux_initrd};

/// The port that guests use for exits that no device claims.
pub const TEST_PORT: u16 = 0x500;

/// The port of the line device that [`hello`] talks to; the embedder provides it.
///
/// A write hands the device one byte of a line, which a newline (10) ends. A read takes the next byte of what
/// the device has to say, or 0 when it has nothing to say.
pub const LINE_PORT: u16 = 0x510;

/// Guest-physical address that guests use for memory-mapped exits. It lies in the device window, at the start
/// of a page, and the page after it belongs to no one either.
pub const TEST_MMIO: u64 = 0xd000_0000;

/// Guest-physical address at which guests leave their results; each says in which form. Guests use the RAM from
/// 0x2000 to 0x4fff and from 0x1_0000 to 0x7_ffff, which a loader of flat images leaves free.
pub const RESULTS: u64 = 0x4000;

/// Bochs' debug console: a byte written here is output.
pub const DEBUG_CONSOLE_PORT: u16 = 0xe9;

/// The debug exit: writing `v` here ends the run with status `(v << 1) | 1`.
pub const DEBUG_EXIT_PORT: u16 = 0xf4;

/// RAM in bytes that every guest is content with.
pub const MEMORY_SIZE: u64 = 4 << 20;

/// In which state of the processor a guest begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Real mode: flat image, segments 0, interrupts off.
    Real16,
    /// 64-bit mode, ring 0: flat image, the first 4 GiB mapped one to one, interrupts off.
    Long64,
    /// The image is an ELF32 file with a multiboot 1 header, entered in 32-bit protected mode.
    Multiboot,
}

impl Mode {
    /// Its name in file lists.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Real16 => "real16",
            Self::Long64 => "long64",
            Self::Multiboot => "multiboot",
        }
    }
}

/// A guest, ready to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// A short name in kebab case.
    pub name: &'static str,
    /// What it does, in a sentence.
    pub about: &'static str,
    /// How it begins.
    pub mode: Mode,
    /// Guest-physical address of the image's first byte, and of the first instruction unless `mode` is
    /// [`Mode::Multiboot`], where the ELF headers say both.
    pub load_addr: u64,
    /// The bytes to load.
    pub image: Vec<u8>,
}
