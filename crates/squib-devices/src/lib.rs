//! Register models of the platform's devices: no threads, no host I/O, no wiring, no locks.
//!
//! A model is a plain value with `&mut self` methods. Time comes in as nanoseconds, interrupts and other
//! outputs are looked up after a call. Whatever a guest does, a call takes bounded time and memory and does
//! not panic.

mod apic_bus;
mod bytes;

pub mod acpi_pm;
pub mod apic;
pub mod cmos;
pub mod cpu_set;
pub mod debug_exit;
pub mod debug_port;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod i8042;
pub mod ioapic;
pub mod irqchip;
pub mod message;
pub mod pic;
pub mod pit;
pub mod pl011;
pub mod pl031;
pub mod primecell;
pub mod pv_clock;
pub mod pvpanic;
pub mod rtc;
pub mod test_device;
pub mod uart;
