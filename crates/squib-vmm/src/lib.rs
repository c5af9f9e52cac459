//! Buses, run loop, machine builder, interrupt routing and boot, for any backend.
//!
//! A vCPU exits; the [run loop](VcpuLoop::run) looks its address up on a [`Bus`] and asks the device there, in
//! Rust or outside; the answer goes back into the vCPU. See `docs/design/exits.md`.

mod acpi;
pub mod boot;
pub mod bus;
mod clock;
mod cmos;
pub mod console;
pub mod device;
pub mod device_tree;
mod firmware;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
#[cfg(not(target_family = "wasm"))]
pub mod host;
mod io_apic;
mod irq;
pub mod linux;
pub mod machine;
pub mod milestones;
pub mod outcome;
mod pl031;
pub mod platform;
mod ports;
pub mod run;
pub mod stats;
mod test_device;
pub mod vcpu;
pub mod virt;

pub use bus::{Bell, Bus, DoorbellMapping, Mapping, Target};
pub use console::{Console, ConsoleListener};
pub use device::{Action, Device, Host, Idle};
pub use machine::{Machine, MachineConfig};
pub use outcome::Outcome;
pub use run::{Stop, Unclaimed, VcpuLoop};
pub use stats::{ExitCounts, Stats};
pub use vcpu::SharedVcpu;
