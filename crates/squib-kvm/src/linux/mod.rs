//! The backend proper. `backend` makes `vm`s, which make `vcpu`s; a vCPU reads its exits through `run_page`
//! and `exits`, and is stopped by `cancel`. What is particular to a processor is in `arch`, once for each.

#[cfg_attr(target_arch = "x86_64", path = "x86_64/mod.rs")]
#[cfg_attr(target_arch = "aarch64", path = "aarch64/mod.rs")]
mod arch;
mod backend;
mod cancel;
mod coalesced;
mod dirty;
mod dirty_ring;
mod doorbells;
mod errors;
mod exits;
mod probe;
mod run_page;
mod sys;
mod triggers;
mod vcpu;
mod vm;

pub use backend::KvmBackend;
pub use probe::probe;
