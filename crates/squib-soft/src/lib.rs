//! squib's own CPU as a backend: software MMU, block cache, interpreter.
//!
//! - [`vm`] and `vcpu` are the faces that the run loop sees; `state` is the one for registers.
//! - `exec` finds blocks and runs them; `translate` makes them from guest bytes; `cache` keeps them until their
//!   bytes change.
//! - `interp` gives the semantics of `squib-x86` its interpretation.
//! - `mmu` and `tlb` are linear memory; `replay` lets an instruction wait for a device.
//! - `env` and `devices` are the world that system instructions touch.
//!
//! See `docs/design/interpreter.md`.

mod block;
mod bulk;
mod cache;
mod code_page;
mod code_segment;
mod cpu;
mod devices;
mod env;
mod exec;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod interp;
mod mmu;
mod op;
mod pv_clock;
mod pv_ipi;
mod ram;
mod replay;
mod shared;
mod state;
mod tlb;
mod translate;
mod vcpu;
pub mod vm;

pub use squib_x86::model::CpuModel;
pub use vcpu::SoftVcpu;
pub use vm::SoftBackend;
