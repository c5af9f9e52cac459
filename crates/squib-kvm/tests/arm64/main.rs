//! The backend on this machine's `/dev/kvm`, on aarch64. Where it does not open, each test says that it is skipped.
#![cfg(all(target_os = "linux", target_arch = "aarch64"))]

mod asm;
mod calls;
mod cancel;
#[cfg(feature = "gdb")]
mod debug;
mod events;
mod harness;
mod interrupts;
mod mmio;
mod processors;
mod state;
