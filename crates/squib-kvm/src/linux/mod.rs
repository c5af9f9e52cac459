//! The backend proper. `backend` makes `vm`s, which make `vcpu`s; a vCPU reads its exits through `run_page`
//! and `exits`, and is stopped by `cancel`. `state` and `cpuid` are what is particular to x86.

mod backend;
mod cancel;
mod cpuid;
#[cfg(feature = "gdb")]
mod debug;
mod dirty;
mod errors;
mod exits;
mod ioeoi;
mod probe;
mod run_page;
mod state;
mod sys;
mod vcpu;
mod vm;

pub use backend::KvmBackend;
pub use probe::probe;
