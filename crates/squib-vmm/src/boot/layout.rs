//! Where boot data lies in guest-physical memory.
//!
//! | address            | bytes    | what                                                        |
//! |--------------------|----------|-------------------------------------------------------------|
//! | `0x0000_0000`      | 4 KiB    | interrupt vectors and BIOS data area, left as they are       |
//! | `0x0000_1000`      | 4 KiB    | GDT                                                          |
//! | `0x0000_2000`      | 4 KiB    | `boot_params`, `hvm_start_info` or multiboot information      |
//! | `0x0000_3000`      | 4 KiB    | memory map of PVH and multiboot                              |
//! | `0x0000_4000`      | 4 KiB    | command line                                                 |
//! | `0x0000_5000`      | 24 KiB   | page tables of the first 4 GiB                               |
//! | `0x0000_b000`      | 20 KiB   | stack of flat binaries, growing down from `0x1_0000`         |
//! | `0x0005_0000`      | 240 KiB  | page directories of RAM from 4 GiB to 64 GiB                 |
//! | `0x000a_0000`      | 384 KiB  | the PC's legacy hole: not free RAM                           |
//! | `0x000e_0000`      | 128 KiB  | in it, for firmware tables: the ACPI root pointer and tables |
//! | `0x0010_0000`      |          | the kernel, at the addresses in its file                     |
//! | below 4 GiB        |          | initial RAM disk, as high as RAM and kernel allow            |
//!
//! A part is only there where the protocol uses it, and only then is its place refused to an image.

use std::ops::Range;

/// Global descriptor table.
pub const GDT: u64 = 0x1000;

/// `boot_params`, `hvm_start_info` or the multiboot information structure.
pub const BOOT_INFO: u64 = 0x2000;

/// Memory map of PVH and multiboot; Linux's `boot_params` holds its own.
pub const MEMORY_MAP: u64 = 0x3000;

/// Command line, with a NUL after it.
pub const COMMAND_LINE: u64 = 0x4000;

/// Page map level 4, page directory pointer table, and page directories of the first 4 GiB.
pub const PAGE_TABLES: u64 = 0x5000;

/// Initial stack pointer of flat binaries in protected and long mode.
pub const STACK_TOP: u64 = 0x1_0000;

/// Page directories of RAM above 4 GiB, one page for each GiB.
pub const HIGH_PAGE_DIRECTORIES: u64 = 0x5_0000;

/// Identity mapping ends here at the latest.
pub const IDENTITY_MAP_END: u64 = 64 << 30;

/// What a PC has between conventional and extended memory.
pub const LEGACY_HOLE: Range<u64> = 0xa_0000..0x10_0000;

/// Where firmware tables go, and where operating systems look for the ACPI root pointer (ACPI 6.5, 5.2.5.1).
pub const FIRMWARE: Range<u64> = 0xe_0000..0x10_0000;
