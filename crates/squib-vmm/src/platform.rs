//! The board: what lies at which address, said once. The wiring, the ACPI tables and the documentation go
//! by it.
//!
//! | ports           | interrupt | what                                                             |
//! |-----------------|-----------|------------------------------------------------------------------|
//! | `0x60`, `0x64`, `0x92` |    | 8042 keyboard controller, for its reset line                     |
//! | `0x70`–`0x71`   | 8         | CMOS clock                                                       |
//! | `0x80`          |           | power-on self-test code                                          |
//! | `0xe9`, `0x402` |           | debug console: what is written appears on the console; firmware's `0x402` is free for an embedder's device |
//! | `0xf4`–`0xf7`   |           | debug exit                                                       |
//! | `0x3f8`–`0x3ff` | 4         | COM1, the console                                                |
//! | `0x505`         |           | pvpanic: the guest's kernel says that it panicked                |
//! | `0x600`–`0x602` |           | ACPI sleep control, sleep status, reset                          |
//! | `0x20`, `0x21`, `0xa0`, `0xa1`, `0x4d0`, `0x4d1` | | two 8259, inside the backend         |
//! | `0x40`–`0x43`, `0x61` | 0   | 8254 timer and its gate, inside the backend                      |
//!
//! | memory        | what                                                                            |
//! |---------------|---------------------------------------------------------------------------------|
//! | `0`–RAM       | RAM, up to `0xc000_0000`; the rest from 4 GiB on                                 |
//! | [`DEVICE_WINDOW`] | free for devices of the embedder's                                          |
//! | `0xfec0_0000` | I/O APIC, inside the backend or on the board                                    |
//! | `0xfee0_0000` | local APICs, inside the backend                                                 |
//!
//! There is no PCI: its configuration ports `0xcf8`–`0xcff` are empty and read as all ones, by which a guest sees
//! that.

use std::ops::Range;

use squib_core::memory::LOW_RAM_END;
use squib_core::x86::irqchip;
pub use squib_devices::debug_exit::PORT as DEBUG_EXIT;
use squib_devices::debug_port::{PORT_BOCHS, PORT_FIRMWARE};
pub use squib_devices::pvpanic::PORT as PVPANIC;

/// First port of the console's UART.
pub const COM1: u16 = 0x3f8;
/// COM1's interrupt line.
pub const COM1_IRQ: u32 = 4;
/// The CMOS clock's interrupt line.
pub const RTC_IRQ: u32 = 8;
/// Interrupt lines that an embedder's device cannot have: the timer's, the cascade's, COM1's, the clock's.
pub const BOARD_IRQS: [u32; 4] = [0, 2, COM1_IRQ, RTC_IRQ];
/// CMOS index port; the data port follows.
pub const RTC: u16 = 0x70;
/// Power-on self-test code.
pub const POST_CODE: u16 = 0x80;
/// Debug consoles.
pub const DEBUG_CONSOLES: [u16; 2] = [PORT_BOCHS, PORT_FIRMWARE];
/// ACPI sleep control, sleep status and reset register.
pub const ACPI_PM: u16 = 0x600;

/// Where an embedder's memory-mapped devices go.
pub const DEVICE_WINDOW: Range<u64> = LOW_RAM_END..IO_APIC;
/// I/O APIC.
pub const IO_APIC: u64 = irqchip::IO_APIC.start;
/// Local APIC, the same address for every vCPU.
pub const LOCAL_APIC: u64 = irqchip::LOCAL_APIC.start;
/// Bytes from [`LOCAL_APIC`] on that are the local APIC or messages to one.
pub const LOCAL_APIC_SIZE: u64 = 0x10_0000;

/// Ports of devices inside a backend with [`IrqchipKind::Full`](squib_core::IrqchipKind::Full): name, first, count.
pub const BACKEND_PORTS: [(&str, u64, u64); 5] = [
    ("8259 (primary)", 0x20, 2),
    ("8254", 0x40, 4),
    ("8254 gate", 0x61, 1),
    ("8259 (secondary)", 0xa0, 2),
    ("8259 trigger modes", 0x4d0, 2),
];
