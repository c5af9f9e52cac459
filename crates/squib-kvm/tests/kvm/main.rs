//! The backend on this machine's `/dev/kvm`. Where it does not open, each test says that it is skipped.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod cancel;
mod exits;
mod harness;
mod interrupts;
mod mmio;
mod pause;
mod ports;
mod probe;
mod state;
mod vm;
