//! The backend on macOS: Hypervisor.framework behind squib's traits.

mod ffi;
mod vcpu;
mod vm;

pub use vm::HvfBackend;
