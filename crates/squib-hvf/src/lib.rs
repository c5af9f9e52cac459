//! The macOS Hypervisor.framework backend, for aarch64 guests on Apple silicon.
//!
//! Everything that thinks is pure and tested on every platform: [`decode`] makes a [`VmExit`](squib_core::VmExit) of what
//! the framework reports, and [`Pending::answer`] puts the answer into the guest's registers. What calls the framework is
//! thin and exists on macOS only. See `docs/design/hvf.md`, also for what has not been run on a Mac yet.

mod capabilities;
mod decode;
mod exception;
#[cfg(any(test, all(target_os = "macos", target_arch = "aarch64")))]
mod pages;
mod pending;
mod registers;
mod syndrome;

pub use capabilities::{hypervisor_framework, virtualization_framework};
pub use decode::{Decoded, NativeExit, decode};
pub use pending::Pending;
pub use registers::{Register, Registers};

#[cfg(all(target_os = "macos", target_arch = "aarch64"))]
mod macos;
#[cfg(all(target_os = "macos", target_arch = "aarch64"))]
pub use macos::HvfBackend;
