//! The board for aarch64: what lies at which address, said once. The wiring, the device tree and the documentation go by it.
//!
//! | memory        | line | what                                                                        |
//! |---------------|------|-----------------------------------------------------------------------------|
//! | `0x0800_0000` |      | GIC, inside the backend; see [`squib_core::arm64::gic`]                     |
//! | `0x0900_0000` | 1    | PL011, the console                                                          |
//! | `0x0901_0000` | 2    | PL031, the clock                                                            |
//! | [`DEVICE_WINDOW`] | 3 and on | free for devices of the embedder's                                  |
//! | `0x4000_0000` |      | RAM, all of it                                                              |
//!
//! Power-off, reset and further processors go by PSCI, which is the backend's. There are no ports, no PCI and no ACPI: a guest is
//! told all this by its device tree.

use std::ops::Range;

use squib_core::arm64::gic;

/// The console's UART.
pub const UART: u64 = 0x0900_0000;
/// Its interrupt line.
pub const UART_LINE: u32 = 1;
/// The clock.
pub const CLOCK: u64 = 0x0901_0000;
/// Its interrupt line.
pub const CLOCK_LINE: u32 = 2;
/// Interrupt lines that an embedder's device cannot have. Line 0 is left out, since drivers take it for none.
pub const BOARD_LINES: [u32; 3] = [0, UART_LINE, CLOCK_LINE];

/// Where an embedder's memory-mapped devices go.
pub const DEVICE_WINDOW: Range<u64> = 0x0a00_0000..RAM;
/// The first byte of RAM.
pub const RAM: u64 = 0x4000_0000;

const _: () = assert!(gic::END <= UART);
